"""A switchover that is brought into one phase, and kept there by what keeps it there in life.

preparing      a worker that starts slowly has not loaded the table yet
checking       the target's servers say that they are sick, and are waited for
shifting       the first of two steps is being held
draining       the source has a slow request under way
rolling_back   the target has one, and the switch to it is being turned back
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, Final

from loadtests.clients import Clients
from loadtests.faults import serving
from loadtests.stage import SERVICE, Stage
from loadtests.upstream import PIECES, Mode

LONG_S: Final = 2.0
"""Of the request that is drained."""
FINAL: Final = ("completed", "rolled_back", "aborted", "failed")
PATH: Final = f"/v1/services/{SERVICE}"


@dataclass(slots=True)
class Switch:
    """The switchover of a case."""

    stage: Stage
    clients: Clients
    source: str
    target: str
    id: str = ""
    slow: list["asyncio.Task[Any]"] = field(default_factory=list)
    afterwards: list[Callable[[], Awaitable[None]]] = field(default_factory=list)
    """To be done once the fault is over."""

    async def call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        answer = await self.stage.api.request(method, path, json=body)
        assert answer.is_success, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer.json()

    async def begin(self, **body: Any) -> None:
        asked = {"to": self.target, "reason": "fault", **body}
        self.id = (await self.call("POST", f"{PATH}/switchovers", asked))["id"]

    async def now(self) -> dict[str, Any]:
        found: dict[str, Any] = await self.call("GET", f"/v1/switchovers/{self.id}")
        return found

    async def reached(self, *states: str, limit_s: float = 20.0) -> dict[str, Any]:
        """Wait until it is in one of these states, or has ended."""
        async with asyncio.timeout(limit_s):
            while (found := await self.now())["state"] not in (*states, *FINAL):
                await asyncio.sleep(0.02)
        return found

    async def must_be(self, state: str) -> None:
        found = await self.reached(state)
        assert found["state"] == state, f"it went past {state}: {found}"

    def ask_slowly(self) -> None:
        """One request whose answer takes its time."""
        asked = self.clients.ask(None, keep=False, method="GET", gap_s=LONG_S / PIECES)
        self.slow.append(asyncio.ensure_future(asked))

    async def slow_arrived(self, upstream: str) -> None:
        """Wait until the upstream has a slow request."""
        async with asyncio.timeout(10.0):
            while True:
                view = (await self.call("GET", PATH))["upstreams"][upstream]
                if view["in_flight"]:
                    return
                await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def preparing(switch: Switch) -> AsyncIterator[None]:
    stage, there = switch.stage, switch.stage.workers
    mark = stage.directory / "mark-slow-start"
    mark.touch()
    try:
        stage.workers = there + 1
        stage.write_config()
        await switch.call("POST", "/v1/reload", {"reason": "one more worker, which starts slowly"})
        await switch.begin()
        await switch.must_be("preparing")
        yield
    finally:
        mark.unlink()

    async def one_less() -> None:
        await serving(stage, there + 1, exactly=True)
        stage.workers = there
        stage.write_config()
        await switch.call("POST", "/v1/reload", {"reason": "one worker less"})
        await serving(stage, there, exactly=True)

    switch.afterwards.append(one_less)


@contextlib.asynccontextmanager
async def checking(switch: Switch) -> AsyncIterator[None]:
    servers = switch.stage.servers(switch.target)
    for server in servers:
        await switch.stage.turn(server, Mode.SICK)
    async with asyncio.timeout(20.0):
        while (await switch.call("GET", PATH))["upstreams"][switch.target]["healthy"]:
            await asyncio.sleep(0.02)
    await switch.begin(wait_healthy="20s")
    await switch.must_be("checking")
    yield
    for server in servers:
        if switch.stage.modes[server] == Mode.SICK:  # else a fault has it, and its end heals it
            # One that is stopped does so when it goes on.
            switch.slow.append(asyncio.ensure_future(switch.stage.turn(server, Mode.WELL)))


@contextlib.asynccontextmanager
async def shifting(switch: Switch) -> AsyncIterator[None]:
    await switch.begin(strategy="halves")
    await switch.must_be("shifting")
    yield


@contextlib.asynccontextmanager
async def draining(switch: Switch) -> AsyncIterator[None]:
    switch.ask_slowly()
    await switch.slow_arrived(switch.source)
    await switch.begin()
    await switch.must_be("draining")
    yield


@contextlib.asynccontextmanager
async def rolling_back(switch: Switch) -> AsyncIterator[None]:
    await switch.begin(strategy="halves")
    await switch.must_be("shifting")
    for _ in range(8):  # half of them, or so, go to the target
        switch.ask_slowly()
    await switch.slow_arrived(switch.target)
    await switch.call("POST", f"{PATH}/rollback", {"reason": "fault"})
    found = await switch.reached("rolling_back")
    assert found["state"] in ("rolling_back", "rolled_back"), found
    yield


Phase = Callable[[Switch], AbstractAsyncContextManager[None]]
PHASES: Final[dict[str, Phase]] = {
    "preparing": preparing,
    "checking": checking,
    "shifting": shifting,
    "draining": draining,
    "rolling_back": rolling_back,
}
