"""A router in memory that a test turns by hand: a system that holds two weights and a note.

Not a fake of a real system (those are in `tests/fakes`, over HTTP): for the switchover's own
decisions, where every moment counts.
"""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from turnout.config.model import Configuration, Outer, OuterOrder, TailPolicy
from turnout.control.outer.layers import OuterLayers
from turnout.control.outer.mover import Mover
from turnout.control.outer.seams import (
    Capabilities,
    Change,
    Conflict,
    NotExpressible,
    Progress,
    Reading,
    Tail,
    Verdict,
    Wanted,
)
from turnout.control.ports import TailSummary


@dataclass
class MemoryRouter:
    """Blue has all, until somebody says otherwise."""

    weight: int = 0
    note: str = "ours"
    weighted: bool = True
    exchange: bool = False
    problems: list[str] = field(default_factory=list)
    verdict: Verdict = Verdict.IN_SYNC
    detail: str = ""
    errors: list[Exception] = field(default_factory=list)
    """Raised by the next writing calls, instead of carrying them out."""
    lost: list[Exception] = field(default_factory=list)
    """Raised by the next writing calls, after they were carried out."""
    gate: asyncio.Event | None = None
    """What a writing call waits for before it is carried out."""
    journal: list[str] = field(default_factory=list)
    changes: int = 0
    unreadable: Exception | None = None
    late: bool = False
    """What is asked for is so only once it is in sync."""
    coming: int | None = None
    counted: list[float] = field(default_factory=list)
    """Requests a minute that the system itself counts on the old side, at each look."""
    pace_s: float = 0.0
    """So long it takes to ask for that."""

    tail_errors: list[Exception] = field(default_factory=list)
    """Raised when it is asked for its tail."""

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            atomic=True, weighted=self.weighted, exchange=self.exchange, conditional=False
        )

    def expressible(self, second_weight: int) -> int | None:
        if not self.weighted and second_weight not in (0, 10_000):
            return None
        return second_weight

    async def read(self) -> Reading:
        self.journal.append("read")
        if self.unreadable is not None:
            raise self.unreadable
        exact = {"weight": self.weight, "note": self.note}
        weight = None if self.problems else self.weight
        return Reading(
            weight, f"{self.weight}-{self.note}", exact, {"note": self.note}, self.problems
        )

    def preview(self, wanted: Wanted, reading: Reading) -> Mapping[str, Any]:
        return {"set": wanted.second_weight}

    async def set_weights(self, wanted: Wanted, if_read: Reading) -> Change:
        self.journal.append(f"set {wanted.second_weight}")
        # As a call in a thread: who no longer waits for it does not end it.
        return await asyncio.shield(asyncio.ensure_future(self._set(wanted, if_read)))

    async def _set(self, wanted: Wanted, if_read: Reading) -> Change:
        if self.gate is not None:
            await self.gate.wait()
        if self.errors:
            raise self.errors.pop(0)
        if if_read.version != f"{self.weight}-{self.note}":
            raise Conflict("it has changed since it was read")
        if self.expressible(wanted.second_weight) is None:
            raise NotExpressible("only all or nothing")
        if wanted.exact is not None:
            self.note = wanted.exact["note"]
        if self.late:
            self.coming = wanted.second_weight
        else:
            self.weight = wanted.second_weight
        self.changes += 1
        if self.lost:
            raise self.lost.pop(0)
        return Change(f"C{self.changes}")

    async def confirm(self, wanted: Wanted, reading: Reading) -> Change:
        self.journal.append("confirm")
        return Change("")

    async def poll(self, change: Change) -> Progress:
        self.journal.append("poll")
        if self.verdict is Verdict.IN_SYNC and self.coming is not None:
            self.weight, self.coming = self.coming, None
        return Progress(self.verdict, self.detail)

    async def tail(self, old_upstream: int) -> Tail:
        await asyncio.sleep(self.pace_s)
        if self.tail_errors:
            raise self.tail_errors.pop(0)
        return Tail(60.0, self.counted.pop(0) if self.counted else None)

    async def close(self) -> None:
        self.journal.append("close")


@dataclass
class MemoryTails:
    """Says that a tail is over once a test lets it."""

    over: asyncio.Event = field(default_factory=asyncio.Event)
    in_time: bool = True
    asked: list[tuple[str, str, float]] = field(default_factory=list)
    """(service, upstream, TTL)."""
    in_sync_at: list[float] = field(default_factory=list)
    """Since when the change has been in sync, by what was said; seconds since 1970."""

    async def wait_over(
        self, service: str, upstream: str, passed_s: float, ttl_s: float, policy: TailPolicy
    ) -> TailSummary:
        assert passed_s >= 0
        self.asked.append((service, upstream, ttl_s))
        self.in_sync_at.append(time.time() - passed_s)
        await self.over.wait()
        reason = "no request for 5m" if self.in_time else "3 requests in the last minute"
        return TailSummary(upstream, self.in_time, reason, 301.5, 17, (("10.0.0.0/24", 17),))


class MemoryLayers(OuterLayers):
    """One service, `shop`, with this router."""

    def use(
        self,
        router: MemoryRouter,
        order: OuterOrder = OuterOrder.OUTER_FIRST,
        *,
        in_sync_timeout_s: float = 5.0,
        retry_s: float = 5.0,
        tail: TailPolicy | None = None,
    ) -> Outer:
        self.outer = Outer(
            kind="memory",
            order=order,
            in_sync_timeout_s=in_sync_timeout_s,
            retry_s=retry_s,
            call_timeout_s=0.05,
            tail=tail,
            settings=router,
        )
        self._router = router
        return self.outer

    def configure(self, configuration: Configuration) -> None:
        """It is what `use` says."""

    def of(self, service: str) -> Mover | None:
        if service not in self._movers:
            self._movers[service] = Mover(
                service,
                ("blue", "green"),
                self.outer,
                lambda: self._router,
                self._store,
                self._journal,
                self._wall,
                self._locks.setdefault(service, asyncio.Lock()),
            )
        return self._movers[service]
