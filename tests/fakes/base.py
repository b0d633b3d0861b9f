"""What fakes of outer systems have in common: a server, a journal, and faults to inject.

A fake is a real HTTP server in the test's loop. Each call is written into the journal, with
whether it changed anything, so that a test can say that nothing was done twice. A fault is set
for the next so many calls of one sort and happens where it would with the real system:

- THROTTLED, DENIED, UNAVAILABLE: answered in the system's own words, nothing carried out
- LOST_BEFORE: the connection is cut, nothing carried out
- LOST_AFTER: carried out, and then the connection is cut: the reply is lost
- SLOW: carried out and answered, `slow_s` late
"""

import asyncio
import contextlib
import ssl
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Self

from aiohttp import web


class Fault(StrEnum):
    THROTTLED = "throttled"
    DENIED = "denied"
    UNAVAILABLE = "unavailable"
    LOST_BEFORE = "lost_before"
    LOST_AFTER = "lost_after"
    SLOW = "slow"


@dataclass(slots=True)
class Call:
    """One call as it came in."""

    at_s: float
    """Monotonic."""
    method: str
    path: str
    body: bytes
    writes: bool
    status: int = 0
    """0: the connection was cut instead of an answer."""
    effective: bool = False
    """It changed the fake's state."""
    fault: Fault | None = None
    note: Any = None
    """What a fake wants to say of it."""


class Moment(StrEnum):
    """Of a call: where a hook comes in."""

    BEFORE = "before"
    """It has come in whole, and nothing was carried out."""
    AFTER = "after"
    """It was carried out, and not answered."""


Hook = Callable[[Call, Moment], Awaitable[None]]


class Dropped(Exception):
    """Raised by a hook: the connection ends there, and what is not carried out is not."""


@dataclass(slots=True)
class _Planned:
    fault: Fault
    left: int
    writes: bool


@dataclass
class FakeService(ABC):
    """A fake; `async with` serves it. Subclasses have the state and `handle`."""

    journal: list[Call] = field(default_factory=list)
    slow_s: float = 0.5
    pending_s: float = 0.0
    """How long a change is pending before it is in sync; infinity: for ever."""
    fails_next: bool = False
    """The next change is taken on and then not carried out, where the system can do that."""
    throttled_s: int = 1
    """How long to wait it says when it throttles, where the system says so."""
    port: int = 0
    tls: ssl.SSLContext | None = None
    """Served behind TLS; a subclass says so in its `url`."""
    hook: "Hook | None" = None
    """Called with each call, before it is carried out and after that, before its answer: what
    comes in between, such as the death of who called, happens there."""
    _planned: list[_Planned] = field(default_factory=list)
    _runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=16 * 1024 * 1024)
        app.router.add_route("*", "/{path:.*}", self._serve)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, ssl_context=self.tls)
        await site.start()
        self.port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    def inject(self, fault: Fault, times: int = 1, *, writes: bool = True) -> None:
        """Let the next `times` writing calls (or the reading ones) meet this fault."""
        self._planned.append(_Planned(fault, times, writes))

    def heal(self) -> None:
        """No faults any more."""
        self._planned.clear()

    @property
    def effective(self) -> list[Call]:
        """The calls that changed something. While one that reads is answered, what was asked for
        before may come about."""
        return [call for call in self.journal if call.effective and call.writes]

    @property
    def writing(self) -> list[Call]:
        return [call for call in self.journal if call.writes]

    # ------------------------------------------------------------ what a fake says itself

    @abstractmethod
    def writes(self, request: web.Request, body: bytes) -> bool:
        """Whether the call is one that may change something."""

    @abstractmethod
    async def handle(self, request: web.Request, body: bytes) -> web.StreamResponse:
        """Carry the call out and answer it; strictly: what the system would refuse is refused."""

    @abstractmethod
    def snapshot(self) -> Any:
        """All of the state that matters, as a value to compare: what `effective` looks at."""

    def refusal(self, fault: Fault, request: web.Request) -> web.Response:
        """The system's answer for THROTTLED, DENIED and UNAVAILABLE."""
        status = {Fault.THROTTLED: 429, Fault.DENIED: 401, Fault.UNAVAILABLE: 503}[fault]
        return web.json_response({"error": fault.value}, status=status)

    # ------------------------------------------------------------ serving

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        call = Call(
            time.monotonic(), request.method, request.path_qs, body, self.writes(request, body)
        )
        self.journal.append(call)
        call.fault = fault = self._next_fault(call.writes)
        match fault:
            case Fault.THROTTLED | Fault.DENIED | Fault.UNAVAILABLE:
                answer = self.refusal(fault, request)
                call.status = answer.status
                return answer
            case Fault.LOST_BEFORE:
                return await self._cut(request)
        try:
            if self.hook is not None:
                await self.hook(call, Moment.BEFORE)
            before = self.snapshot()
            response = await self.handle(request, body)
            call.effective = self.snapshot() != before
            if self.hook is not None:
                await self.hook(call, Moment.AFTER)
        except Dropped:
            return await self._cut(request)
        if fault is Fault.LOST_AFTER:
            return await self._cut(request)
        if fault is Fault.SLOW:
            await asyncio.sleep(self.slow_s)
        call.status = response.status
        return response

    def _next_fault(self, writes: bool) -> Fault | None:
        for planned in self._planned:
            if planned.writes == writes and planned.left > 0:
                planned.left -= 1
                return planned.fault
        return None

    async def _cut(self, request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.abort()
        # aiohttp would answer on; the connection is gone.
        with contextlib.suppress(ConnectionError):
            await asyncio.sleep(0)
        return web.Response()
