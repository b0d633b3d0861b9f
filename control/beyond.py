"""What one switchover does beyond the proxy: its outer system, the tail of that, its gates.

A part of `carrier`, which carries the other commands out. Each returns an event only when it cut
the switchover's way short; what an outer system does not do is for a person, and the weights stay.
"""

import asyncio
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, Final

from turnout.config.model import Service, TailPolicy
from turnout.control import events, orders, switchover
from turnout.control.gating import GateKeeper
from turnout.control.outer.layers import OuterLayers
from turnout.control.outer.mover import Mover, Stopped, shown
from turnout.control.outer.seams import NotDone, ReplyLost, Tail
from turnout.control.ports import Tails
from turnout.control.state import Switchover
from turnout.control.store import Database, Store

LOOK_AGAIN_S: Final = 10.0
"""Between two looks at what a system itself counts on the side that is left."""


class Beyond:
    """Of one switchover."""

    __slots__ = ("_gates", "_layers", "_now", "_service", "_store", "_tails")

    def __init__(
        self,
        layers: OuterLayers,
        gates: GateKeeper,
        tails: Tails | None,
        store: Store,
        service: Callable[[], Service],
        now: Callable[[], float],
    ) -> None:
        """`now` is of the switchover's own scale."""
        self._layers = layers
        self._gates = gates
        self._tails = tails
        self._store = store
        self._service = service
        self._now = now

    def _mover(self, value: Switchover) -> Mover:
        """Raises Stopped when the configuration names none any more."""
        mover = self._layers.of(value.service)
        if mover is None:
            kind = value.outer.kind if value.outer is not None else ""
            raise Stopped(f"the service has no outer layer any more; it was {kind}: put it back")
        return mover

    async def look(self, value: Switchover) -> switchover.Event | None:
        """Read it, before anything is moved."""
        try:
            await self._mover(value).look(value, self._now)
        except Stopped as error:
            return switchover.PrepareFailed(self._now(), str(error))
        return None

    async def move(
        self, value: Switchover, command: orders.MoveOutside | orders.RestoreOutside
    ) -> switchover.Event | None:
        """Bring it to a step's weight, or back to what was there at first."""
        try:
            mover = self._mover(value)
            match command:
                case orders.MoveOutside(step, second_weight):
                    await mover.move(value, step, second_weight, self._now)
                case orders.RestoreOutside(step):
                    await mover.restore(value, step, self._now)
        except Stopped as error:
            reason = f"{value.outcome}; {error}" if value.outcome else str(error)
            return switchover.GaveUp(self._now(), reason)
        return None

    async def tail(self, value: Switchover, upstream: int) -> switchover.Event | None:
        """Wait until the old side may go. One that does not end in time is for a person."""
        outer = self._service().outer
        policy = None if outer is None else outer.tail
        moves = await self._store(Database.outer_moves, value.id)
        in_sync = [move.in_sync_at for move in moves if move.in_sync_at is not None]
        if self._tails is None or not in_sync:
            return None
        if policy is None:
            return switchover.GaveUp(
                self._now(),
                f"{value.name(upstream)} must not be removed yet: who still comes by it was to be"
                " waited for, and the configuration has no outer.tail any more; weights are as"
                " they should be",
            )
        old, mover = value.name(upstream), self._mover(value)
        waits = f"waits for who still comes by {old}: turnout tail {value.service}"
        mover.doing = waits
        told_of = False

        def late() -> bool:
            return 0 < policy.timeout_s < self._now() - max(in_sync)

        async def asked() -> Tail:
            """What the system says of it; while it cannot be asked, that is waited for."""
            while True:
                try:
                    found = await mover.tail(upstream)
                except (NotDone, ReplyLost) as error:
                    if late():
                        raise
                    mover.doing = f"waits to ask who still comes by {old}: {error}"
                    await asyncio.sleep(LOOK_AGAIN_S)
                else:
                    mover.doing = waits
                    return found

        try:
            while True:
                told = await asked()
                if not told_of:
                    told_of = True
                    await self._layers.tell(_waiting(value, old, told, policy))
                # Only now: asking the system may have waited for its pace.
                passed_s = self._now() - max(in_sync)
                summary = await self._tails.wait_over(
                    value.service, old, passed_s, told.ttl_s, policy
                )
                counted = (await asked()).requests_per_min
                few = counted is None or counted < 60 * policy.below.per_second
                if not summary.over or few or late():
                    break
                mover.doing = f"waits, as the system itself counts {counted:g} a minute by {old}"
                await asyncio.sleep(LOOK_AGAIN_S)
        except (NotDone, ReplyLost) as error:
            reason = f"whether clients still come by it cannot be asked: {error}"
            passed_s = self._now() - max(in_sync)
            await self._layers.tell(_not_over(value, old, passed_s, None, reason))
            return switchover.GaveUp(
                self._now(),
                f"{old} must not be removed yet: {reason}; weights are as they should be; "
                f"turnout tail --wait says when it may go",
            )
        finally:
            mover.doing = ""
        over = summary.over and few
        reason = summary.reason if few else f"the system itself counts {counted:g} a minute"
        document = {**asdict(summary), "over": over, "reason": reason, "ttl_seconds": told.ttl_s}
        await self._store(Database.keep_outer_tail, value.id, document)
        if over:
            await self._layers.tell(
                events.TailOver(
                    service=value.service,
                    switchover=value.id,
                    upstream=old,
                    seconds=round(summary.seconds, 3),
                    requests=summary.requests,
                    reason=reason,
                )
            )
            return None
        await self._layers.tell(_not_over(value, old, summary.seconds, summary.requests, reason))
        return switchover.GaveUp(
            self._now(),
            f"{old} must not be removed yet: after {policy.timeout_s:g} s (tail.timeout): {reason};"
            f" weights are as they should be; turnout tail --wait says when it may go",
        )

    async def gate_fails(self, value: Switchover, step: int) -> str:
        """Wait until every gate lets the step take weight to its target, or return why one does
        not."""
        if value.forced_by:
            return ""
        decided = [row.decided_at for row in await self._store(Database.steps, value.id)]
        if value.outer is not None:
            # It may have moved after the proxy's own weights.
            moves = await self._store(Database.outer_moves, value.id)
            decided += [move.in_sync_at for move in moves if move.in_sync_at is not None]
        since = max(decided, default=value.created_at)
        return await self._gates.passed(value, step, since, self._now)

    async def shown(self, value: Switchover) -> dict[str, Any] | None:
        """How far it is, as receipts have it; None: the switchover has none."""
        if value.outer is None:
            return None
        first = await self._store(Database.outer_first, value.id)
        moves = await self._store(Database.outer_moves, value.id)
        tail = await self._store(Database.outer_tail, value.id)
        found = shown(value, first, moves)
        return None if found is None else {**found, "tail": tail}


def _waiting(value: Switchover, old: str, told: Tail, policy: TailPolicy) -> events.TailWaiting:
    return events.TailWaiting(
        service=value.service,
        switchover=value.id,
        upstream=old,
        ttl_seconds=told.ttl_s,
        below=str(policy.below),
        for_seconds=policy.for_s,
    )


def _not_over(
    value: Switchover, old: str, seconds: float, requests: int | None, reason: str
) -> events.TailNotOver:
    return events.TailNotOver(
        service=value.service,
        switchover=value.id,
        upstream=old,
        seconds=round(seconds, 3),
        requests=requests,
        reason=reason,
        next=f"turnout tail {value.service} --wait says when {old} may go",
    )
