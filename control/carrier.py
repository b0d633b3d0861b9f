"""Carries one switchover out: one task, from the stored value to the next, until it is final.

`_drive` does what `orders.commands` says and feeds back how it went. A person's verbs and
the watch come in through `apply`: it stores the next value, and then ends the activity that
belonged to the last one. An activity that is ended half-way is no loss: its commands are
derived anew from the value, and each may be carried out again.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Final

from turnout.config.model import Service
from turnout.control import decider, describe, events, orders, receipt, switchover
from turnout.control.beyond import Beyond
from turnout.control.clock import Clock, now_on, scale_of
from turnout.control.drain import Drainage, Drainer
from turnout.control.evidence import Snapshot, Window, snapshot_of
from turnout.control.gating import GateKeeper
from turnout.control.health import UpstreamHealth
from turnout.control.journal import Journal
from turnout.control.loops import keep_running
from turnout.control.outer.layers import OuterLayers
from turnout.control.ports import Prober, Tails, Workers
from turnout.control.refusals import stale
from turnout.control.state import State, Switchover, without_weight
from turnout.control.store import (
    Audit,
    Author,
    Database,
    Decision,
    Note,
    ServiceRow,
    StaleRevision,
    Store,
    StoreUnusable,
)
from turnout.control.words import Words, whole

RETRY_S: Final = 1.0
ATTEMPTS_MAX: Final = 30
"""So often a command that raises is tried again, each after RETRY_S, before it is given up."""
WATCH_TICKS: Final = 5
"""The watch adds counters of all workers up: it looks less often than what waits."""
_WATCHED: Final = frozenset({State.SHIFTING, State.PAUSED, State.DRAINING})
_BEFORE_WEIGHT: Final = frozenset({State.PENDING, State.PREPARING, State.CHECKING})
"""Here carrying out is looking, and waiting until it is so."""


@dataclass(frozen=True, slots=True)
class World:
    """What a carrier works with."""

    outer: OuterLayers
    gates: GateKeeper
    tails: Tails | None
    """None: nobody counts who still comes by an old address."""
    store: Store
    workers: Workers
    prober: Prober
    journal: Journal
    words: Words
    clock: Clock
    tick_s: float
    """How often conditions are looked at."""

    def now(self) -> float:
        """Seconds since 1970, by the wall clock: for people, never to wait for."""
        return self.clock.wall()


@dataclass(frozen=True, slots=True)
class Ask:
    """A person's verb: who asks for it, and which revisions it was decided on (None: any)."""

    author: Author
    verb: str
    revision: int | None = None
    """The switchover's."""
    service_revision: int | None = None

    def require(self, value: Switchover) -> None:
        """Raises RevisionIsStale."""
        if self.revision is not None and value.revision != self.revision:
            raise stale(StaleRevision(f"switchover {value.id}", self.revision, value.revision))

    def audit(self, value: Switchover) -> Audit:
        return Audit(self.author, f"switchover.{self.verb}", value.service, value.id)


class Carrier:
    """One switchover under way."""

    __slots__ = (
        "_activity", "_beyond", "_changed", "_decided", "_drainer", "_lock", "_scale", "_service", "_set_at",
        "_slot", "_tasks",
        "_unkept", "_world", "value",
    )  # fmt: skip

    def __init__(
        self, world: World, value: Switchover, slot: int, service: Callable[[], Service]
    ) -> None:
        self._scale = scale_of(world.clock, value.clock)
        self.value = replace(value, clock=self._scale)
        """As it was last stored."""
        self._world = world
        self._beyond = Beyond(world.outer, world.gates, world.tails, world.store, service, self.now)
        self._drainer = Drainer(world.workers, self.now, world.tick_s)
        self._slot = slot
        self._service = service
        self._lock = asyncio.Lock()
        self._changed = asyncio.Event()
        self._activity: asyncio.Task[switchover.Event | None] | None = None
        self._tasks: tuple[asyncio.Task[None], ...] = ()
        self._set_at: int | None = None
        """The revision of the value whose weight is in force already: `start` set it."""
        self._decided: dict[int, tuple[int, float]] = {}
        """Step -> its epoch, and when it was decided: as the store has it."""
        self._unkept: Mapping[str, int] | None = None
        """What was in flight at the flip, when the store could not be written just then."""

    def now(self) -> float:
        """Seconds since 1970 on this switchover's scale: the wall clock may be set meanwhile."""
        return now_on(self._scale, self._world.clock)

    async def start(self, audit: Audit, revision: int | None, known: Callable[[], None]) -> None:
        """Store a new switchover, as far as it comes without waiting for anybody.

        Where nothing is to be waited for that is to its first weight, in one transaction: a
        switch waits for the disk once. `known` is called as soon as it is stored, before its
        weight is in force. Raises UnderWay; StaleRevision when the service has not `revision`.
        """
        world = self._world
        values = (self.value, *self._ahead(self.value))
        new = values[-1]

        def note(stored: Switchover) -> Note:
            named = [replace(value, id=stored.id) for value in values]
            return Note(audit, (describe.started(named[0]), *_changes(named)))

        def stored(value: Switchover) -> None:
            self.value = value
            known()
            world.journal.told(note(value))

        if not self._sets_weight_next(new):
            stored(await world.store(Database.start_switchover, new, world.now(), note, revision))
            return

        def weight_note(row: ServiceRow, id: str) -> Note:
            return Note(events=(describe.weights(row, id),))

        async def decide() -> ServiceRow:
            before, at = self._snapshot().to_document(), self.now()
            value, decision = await world.store(
                Database.start_with_weight, new, before, at, note, weight_note, revision
            )
            stored(value)
            self._set_at = value.revision
            self._decided[value.step_index] = decision.service.epoch, at
            return decision.service

        async def record(row: ServiceRow) -> None:
            in_flight = world.workers.in_flight_by_class(self._slot, lost)
            world.journal.told(weight_note(row, self.value.id))
            await self._keep_in_flight(in_flight)

        lost = self._loses(new.second_weight)
        await world.words.publish(decide, record)

    def _sets_weight_next(self, value: Switchover) -> bool:
        """Whether, beside what is so already, the proxy's own weight is the next thing to do."""
        if value.state is not State.SHIFTING:
            return False
        first = next(
            command
            for command in orders.commands(value)
            if not isinstance(command, orders.CheckHealth)
        )
        return isinstance(first, orders.SetWeight)

    def begin(self, turn_back: str = "") -> None:
        """Start carrying it out; with `turn_back`, a reason, back to the weights before it."""
        self._tasks = (
            asyncio.create_task(self._kept("carrying out", lambda: self._drive(turn_back))),
            asyncio.create_task(self._kept("watching", self._watch)),
        )

    async def stop(self) -> None:
        """End the tasks, not the switchover: it is taken up again from the store."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._activity is not None:
            await asyncio.wait({self._activity})
        async with self._lock:  # what is just being stored is stored whole
            pass

    async def until(self, reached: Callable[[Switchover], bool]) -> Switchover:
        """Wait until the value is as wanted, or final, and return it."""
        while not (self.value.final or reached(self.value)):
            await self._changed.wait()
        return self.value

    async def apply(
        self, event: switchover.Event, *, only_at: int | None = None, ask: Ask | None = None
    ) -> Switchover:
        """Store and tell what follows from the event; then go on with that.

        With `only_at`, nothing happens when the value has moved on since that revision.
        Raises IllegalMove; RevisionIsStale when it, or the service, has moved on since what
        `ask` was decided on.
        """
        return await whole(self._apply(event, only_at, ask))

    def back(self) -> list[UpstreamHealth]:
        """Health of the upstreams that would get weight back if it went back now."""
        in_force = self._world.workers.word(self._slot).second_weight
        gained = self.value.weights_before - in_force
        if gained == 0:
            return []
        return [self._health(int(gained > 0))]

    # ------------------------------------------------------------ one change

    async def _apply(
        self, event: switchover.Event, only_at: int | None, ask: Ask | None
    ) -> Switchover:
        world = self._world
        async with self._lock:
            before = self.value
            if only_at is not None and before.revision != only_at:
                return before
            if ask is not None:
                ask.require(before)
            after, _ = switchover.step(before, event)
            values = (before, after, *self._ahead(after))
            after = values[-1]
            proof = await self._proof() if after.final else None
            cut = 0 if proof is None else proof(after)["requests"]["cut"]
            audit = None if ask is None else ask.audit(before)
            note = Note(audit, _changes(values, cut))
            try:
                self.value = await world.store(
                    Database.save_switchover,
                    after,
                    world.now(),
                    note,
                    proof,
                    None if ask is None else ask.service_revision,
                )
            except StaleRevision as error:
                raise stale(error) from None
            changed, self._changed = self._changed, asyncio.Event()
            changed.set()
            if self._activity is not None:
                self._activity.cancel()
            world.journal.told(note)
            for wrong in [] if proof is None else receipt.verify(proof(self.value)):
                self._tell(f"the receipt of {before.id} does not agree: {wrong}", "report it")
        return self.value

    def _ahead(self, value: Switchover) -> list[Switchover]:
        """The values that follow from this one now, without waiting: what it asks for is so.

        Only before any weight has moved. Nothing is done on the way, so nothing has to be
        stored between them.
        """
        values: list[Switchover] = []
        while value.state in _BEFORE_WEIGHT and self._is_so(value):
            event = switchover.carried_out(value, self.now())
            assert event is not None, "only a person's pause is not carried out"
            value, _ = switchover.step(value, event)
            values.append(value)
        return values

    def _is_so(self, value: Switchover) -> bool:
        """Whether all that the value asks for is true already."""
        world = self._world
        for command in orders.commands(value):
            match command:
                case orders.PrepareTables():
                    if not world.workers.prepared:
                        return False
                case orders.CheckHealth(upstream, until):
                    health = self._health(upstream)
                    advice = decider.may_rise(health, self.now(), until, bool(value.forced_by))
                    if not isinstance(advice, decider.GoOn):
                        return False
                case _:
                    return False
        return True

    async def _proof(self) -> Callable[[Switchover], dict[str, Any]]:
        """Take the counters at the end; the receipt is then made of the value as it is stored."""
        world, id = self._world, self.value.id
        kept, in_flight, cut = await world.store(Database.evidence, id)
        beyond = await self.beyond()
        gates = await world.store(Database.gate_results, id) if self.value.gates else []
        in_flight = dict(self._unkept) if self._unkept is not None else in_flight
        before = None if kept is None else snapshot_of(kept)
        after = self._snapshot()
        return lambda ended: receipt.build(
            ended, before, after, in_flight, cut, outer=beyond, gates=gates
        )

    async def beyond(self) -> dict[str, Any] | None:
        """How far the outer system is, as receipts have it; None: there is none."""
        return await self._beyond.shown(self.value)

    # ------------------------------------------------------------ the task

    async def _kept(self, what: str, body: Callable[[], Awaitable[None]]) -> None:
        """A fault of ours in one task must not leave the switchover standing."""
        await keep_running(f"{what} {self.value.id}", body, self._tell, RETRY_S)

    async def _drive(self, turn_back: str) -> None:
        if turn_back:
            await self._turn_back(turn_back)
        failures = 0
        while not self.value.final:
            value = self.value
            self._activity = asyncio.create_task(self._carry_out(value))
            try:
                await asyncio.wait({self._activity})
            except asyncio.CancelledError:
                self._activity.cancel()
                raise
            if self._activity.cancelled():
                continue
            error = self._activity.exception()
            if error is None:
                event = self._activity.result()
            else:
                failures += 1
                event = await self._failed(value, error, failures)
            if event is not None and await self._stored(event, value):
                failures = 0

    async def _failed(
        self, value: Switchover, error: BaseException, failures: int
    ) -> switchover.Event | None:
        """What raised is told and tried again, as it may pass; but not for ever."""
        if failures == 1:
            self._tell(f"{value.state} of {value.id}: {type(error).__name__}: {error}")
        if failures >= ATTEMPTS_MAX and not isinstance(error, StoreUnusable):
            return switchover.GaveUp(self.now(), f"{type(error).__name__}: {error}")
        await asyncio.sleep(RETRY_S)
        return None

    async def _stored(self, event: switchover.Event, value: Switchover) -> bool:
        """Apply what came of `value`. While the store cannot be written nothing goes on."""
        try:
            await self.apply(event, only_at=value.revision)
        except StoreUnusable as error:
            self._tell(str(error))
            await asyncio.sleep(RETRY_S)
            return False
        return True

    def _tell(self, problem: str, remedy: str = "it is tried again") -> None:
        self._world.journal.problem(problem, remedy, self.value.service)

    async def _turn_back(self, reason: str) -> None:
        """After a restart, once it is known whether the upstreams of before are healthy."""
        while not self.value.final and self.value.state is not State.ROLLING_BACK:
            at, value = self.now(), self.value
            match decider.may_return(self.back(), bool(self.value.forced_by)):
                case decider.GoOn():
                    event: switchover.Event = switchover.Rollback(at, "turnout", reason)
                    await self._stored(event, value)
                case decider.Refuse(sick):
                    event = switchover.GaveUp(at, f"{reason}; no way back: {sick}")
                    await self._stored(event, value)
                case decider.Wait():
                    await asyncio.sleep(self._world.tick_s)

    # ------------------------------------------------------------ commands

    async def _carry_out(self, value: Switchover) -> switchover.Event | None:
        """Carry out all that the value asks for, and return what that means for it."""
        for command in orders.commands(value):
            event = await self._do(value, command)
            if event is not None:
                return event
        event = switchover.carried_out(value, self.now())
        if event is None:
            await asyncio.get_running_loop().create_future()  # until a person's verb ends it
        return event

    async def _do(self, value: Switchover, command: orders.Command) -> switchover.Event | None:
        """Carry one command out. Returns an event only if it cut the others short."""
        world = self._world
        match command:
            case orders.PrepareTables():
                timeout_s = self._service().switchover.prepare_timeout_s
                error = await world.workers.prepare(timeout_s)
                if error:
                    return switchover.PrepareFailed(self.now(), error)
            case orders.LookOutside():
                return await self._beyond.look(value)
            case orders.MoveOutside() | orders.RestoreOutside():
                return await self._beyond.move(value, command)
            case orders.AwaitTail(upstream):
                return await self._beyond.tail(value, upstream)
            case orders.PassGates(step):
                return await self._gates(value, step)
            case orders.CheckHealth(upstream, until):
                return await self._check(value, upstream, until)
            case orders.CheckReturn():
                return await self._check_return(value)
            case orders.SetWeight(step, second_weight):
                await whole(self._set_weight(value, step, second_weight))
            case orders.AwaitAcknowledgement(step):
                await self._acknowledged(value, step)
            case orders.HoldStep(until):
                await self._sleep_until(until)
            case orders.Drain(upstream, step):
                what = await self._drainage(value, upstream, step)
                await self._drainer.drain(
                    what, self._service().drain, self._on_cut(value, upstream)
                )
            case orders.CloseIdle(upstream):
                await self._drainer.close_idle(self._slot, upstream)
        return None

    async def _gates(self, value: Switchover, step: int) -> switchover.Event | None:
        reason = await self._beyond.gate_fails(value, step)
        if not reason:
            return None
        if not value.moved:
            return switchover.TargetNeverHealthy(self.now(), reason)
        while True:
            # As for a target that turned unhealthy: back, if the way back is healthy.
            event = self._event(decider.failed(reason, self.back(), value.on_failure))
            if event is not None:
                return event
            await asyncio.sleep(self._world.tick_s)

    async def _check(
        self, value: Switchover, upstream: int, until: float | None
    ) -> switchover.Event | None:
        world = self._world
        while True:
            at = self.now()
            match decider.may_rise(self._health(upstream), at, until, bool(value.forced_by)):
                case decider.GoOn():
                    return None
                case decider.Refuse(reason) if until is not None:
                    return switchover.TargetNeverHealthy(at, reason)
                case decider.Refuse(reason):
                    event = self._event(decider.failed(reason, self.back(), value.on_failure))
                    if event is not None:
                        return event
                case decider.Wait():
                    pass
            await asyncio.sleep(world.tick_s)

    async def _check_return(self, value: Switchover) -> switchover.Event | None:
        while True:
            match decider.may_return(self.back(), bool(value.forced_by)):
                case decider.GoOn():
                    return None
                case decider.Refuse(sick):
                    reason = f"{value.outcome}; no way back: {sick}"
                    return switchover.GaveUp(self.now(), reason)
                case decider.Wait():
                    await asyncio.sleep(self._world.tick_s)

    async def _set_weight(self, value: Switchover, step: int, second_weight: int) -> None:
        if value.revision == self._set_at:
            return
        world = self._world
        before = self._snapshot()
        await world.store(Database.keep_baseline, value.id, before.to_document())
        decisions: list[Decision] = []

        def note(row: ServiceRow) -> Note:
            return Note(events=(describe.weights(row, value.id),))

        async def decide() -> ServiceRow:
            at = self.now()
            decision = await world.store(
                Database.decide_weight, value, step, second_weight, at, note, world.now()
            )
            decisions.append(decision)
            if decision.again:
                self._decided.pop(step, None)
            else:
                self._decided[step] = decision.service.epoch, at
            return decision.service

        async def record(row: ServiceRow) -> None:
            in_flight = world.workers.in_flight_by_class(self._slot, lost)
            if not decisions[0].again:
                world.journal.told(note(row))
                await self._keep_in_flight(in_flight)
            elif without_weight(second_weight) is not None:
                # Control died just behind the flip: counted a moment late, not left out.
                await self._keep_in_flight(in_flight, unless_known=True)

        lost = self._loses(second_weight)
        try:
            await world.words.publish(decide, record)
        except StaleRevision:
            return  # the value has moved on, and this activity is being ended

    async def _keep_in_flight(
        self, in_flight: Mapping[str, int], *, unless_known: bool = False
    ) -> None:
        """For the receipt. The weight is in force: that this cannot be stored undoes nothing."""
        self._unkept = None
        try:
            await self._world.store(
                Database.keep_in_flight, self.value.id, in_flight, unless_known=unless_known
            )
        except StoreUnusable as error:
            self._unkept = in_flight
            self._tell(str(error), "nothing: the receipt is made of what is in memory")

    def _loses(self, second_weight: int) -> int:
        """Which upstream (0, 1) has its weight taken by this one."""
        old = without_weight(second_weight)
        if old is not None:
            return old
        return int(second_weight < self._world.workers.word(self._slot).second_weight)

    async def _acknowledged(self, value: Switchover, step: int) -> None:
        world = self._world
        what = await self._drainage(value, 0, step)
        deadline = what.since + self._service().drain.timeout_s
        replaced = await self._drainer.grace(what.epoch, deadline)
        outcome = f"acknowledged; {replaced} workers replaced" if replaced else "acknowledged"
        await world.store(Database.step_done, value.id, step, self.now(), outcome)

    async def _drainage(self, value: Switchover, upstream: int, step: int) -> Drainage:
        known = self._decided.get(step)
        if known is None:
            rows = await self._world.store(Database.steps, value.id)
            row = next(row for row in rows if row.step == step)
            known = self._decided[step] = row.epoch, row.decided_at
        return Drainage(self._slot, upstream, *known)

    def _on_cut(
        self, value: Switchover, upstream: int
    ) -> Callable[[Sequence[Mapping[str, Any]]], Awaitable[None]]:
        async def on_cut(entries: Sequence[Mapping[str, Any]]) -> None:
            reason = str(entries[0]["reason"])
            told = describe.cut(value.service, value.name(upstream), entries, reason, value.id)
            note = Note(events=told)
            now = self._world.now()
            await self._world.store(Database.keep_casualties, value.service, entries, now, note)
            self._world.journal.told(note)

        return on_cut

    async def _sleep_until(self, until: float) -> None:
        while (left_s := until - self.now()) > 0:
            await asyncio.sleep(left_s)

    # ------------------------------------------------------------ the watch

    async def _watch(self) -> None:
        """Look at the target for as long as it carries weight that could be taken back."""
        window: Window | None = None
        while not self.value.final:
            # Not wait_for: in Python 3.11 it may swallow the cancellation that ends this task.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(WATCH_TICKS * self._world.tick_s):
                    await self._changed.wait()
            value = self.value
            if not (value.moved and value.state in _WATCHED):
                window = None
                continue
            limit = self._service().switchover.error_limit
            if window is None:
                window = Window(limit.window_s if limit else 0.0)
            window.add(self._snapshot())
            situation = decider.Situation(
                self._health(value.target), window.evidence(value.target), limit
            )
            forced = bool(value.forced_by)
            verdict = decider.watch(situation, self.back(), value.on_failure, forced)
            event = self._event(verdict)
            if event is not None:
                await self._stored(event, value)

    def _event(self, verdict: decider.WatchVerdict) -> switchover.Event | None:
        match verdict:
            case decider.RollBack(reason):
                return switchover.TargetFailed(self.now(), reason)
            case decider.GiveUp(reason):
                return switchover.GaveUp(self.now(), reason)
            case _:
                return None

    def _snapshot(self) -> Snapshot:
        """The service's counters now, at this switchover's time."""
        return replace(self._world.workers.snapshot(self._slot), at=self.now())

    def _health(self, upstream: int) -> UpstreamHealth:
        return self._world.prober.upstream(self.value.service, self.value.name(upstream))


def _changes(values: Sequence[Switchover], cut: int = 0) -> tuple[events.Event, ...]:
    """What is told of values that follow each other; `cut` as `describe.changed` has it."""
    return tuple(
        event
        for before, after in pairwise(values)
        for event in describe.changed(before, after, cut)
    )
