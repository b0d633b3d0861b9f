"""Draining an upstream: wait until nothing is in flight; at the deadlines, cut and name it.

First a grace period: a worker may still be inside a callback that read the word of before, so
nothing is counted until every live worker has seen the flip's epoch. A worker that does not
by the deadline is replaced, and what it held is counted as cut. Only then does "nothing in
flight" mean that nothing can come any more.

Everything here may be done again after a crash: the deadlines count from the stored decision.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from turnout.config.model import DrainPolicy
from turnout.control.ports import Workers
from turnout.proxy.scoreboard import EPOCH_MASK, ExchangeClass

REASON: Final = "drain_deadline"
ANSWER_TIMEOUT_S: Final = 5.0
"""How long a worker may take to cut what it was told to, before it is replaced."""

_ENDING: Final = (ExchangeClass.PLAIN, ExchangeClass.UPLOAD)
_ENDLESS: Final = (ExchangeClass.SSE, ExchangeClass.TUNNEL)
"""What may never end by itself has a deadline of its own."""

OnCut = Callable[[Sequence[Mapping[str, Any]]], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Drainage:
    """What is to be drained: an upstream (0, 1) of a service, since a decision."""

    slot: int
    upstream: int
    epoch: int
    """Of the decision: what was picked before it is old."""
    since: float
    """When it was decided, seconds since 1970."""


class Drainer:
    """Carries drains out on the workers."""

    __slots__ = ("_now", "_tick_s", "_workers")

    def __init__(self, workers: Workers, now: Callable[[], float], tick_s: float) -> None:
        self._workers = workers
        self._now = now
        self._tick_s = tick_s

    async def grace(self, epoch: int, until: float) -> int:
        """Wait until no worker can act on an older word; replace those that never look.

        Returns how many were replaced.
        """
        timeout_s = max(0.0, until - self._now())
        late = await self._workers.acknowledged(epoch, timeout_s)
        await self._replace(late, f"did not see epoch {epoch} in time")
        return len(late)

    async def drain(self, what: Drainage, policy: DrainPolicy, on_cut: OnCut) -> None:
        """Return once the upstream has nothing in flight; `on_cut` gets what had to be cut."""
        await self.grace(what.epoch, what.since + policy.timeout_s)
        deadlines = (
            _Deadline(_ENDING, what.since + policy.timeout_s),
            _Deadline(_ENDLESS, what.since + policy.tunnels_s),
        )
        while True:
            holders = self._workers.in_flight(what.slot, what.upstream)
            if not holders:
                return
            now = self._now()
            for deadline in deadlines:
                if now >= deadline.next_at:
                    await self._cut(what, deadline, on_cut)
            if all(deadline.stubborn for deadline in deadlines):
                await self._replace(holders, "kept exchanges after they were to be cut")
            await asyncio.sleep(self._tick_s)

    async def _cut(self, what: Drainage, deadline: "_Deadline", on_cut: OnCut) -> None:
        # The second time also what came after the flip (a request may name its upstream):
        # a drain has an end.
        epoch = what.epoch if deadline.rounds == 0 else EPOCH_MASK
        result = await self._workers.cut(
            what.slot, what.upstream, deadline.classes, REASON, epoch, ANSWER_TIMEOUT_S
        )
        deadline.rounds += 1
        deadline.next_at = self._now() + ANSWER_TIMEOUT_S
        if result.entries:
            await on_cut(result.entries)
        await self._replace(result.silent, "did not answer when it was told to cut")

    async def close_idle(self, slot: int, upstream: int) -> None:
        """Close every worker's idle connections to the upstream."""
        silent = await self._workers.close_idle(slot, upstream, ANSWER_TIMEOUT_S)
        await self._replace(silent, "did not answer when it was told to close idle connections")

    async def _replace(self, regions: Sequence[int] | Mapping[int, int], why: str) -> None:
        for region in regions:
            await self._workers.replace(region, why)


class _Deadline:
    """When some classes are cut, and how often they were."""

    __slots__ = ("classes", "next_at", "rounds")

    def __init__(self, classes: Sequence[ExchangeClass], at: float) -> None:
        self.classes = classes
        self.next_at = at
        self.rounds = 0

    @property
    def stubborn(self) -> bool:
        """Cut twice, and again it would be time: a worker does not do what it says."""
        return self.rounds > 2
