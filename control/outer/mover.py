"""Moves one service's outer system, so that a crash or a lost reply doubles nothing.

The I/O shell of `moves`: stores, reads, calls, polls. One call at a time for each service, and a
call that has begun is ended and recorded even when whoever asked for it has gone: what comes
next (the way back, most of all) waits for it and then reads.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, TypeVar

from turnout.config.model import Outer
from turnout.config.weights import Weights
from turnout.control import events
from turnout.control.events import utc
from turnout.control.journal import Journal
from turnout.control.outer import moves
from turnout.control.outer.moves import First, Move, Stage
from turnout.control.outer.seams import (
    Capabilities,
    Conflict,
    NotDone,
    OuterError,
    Progress,
    Reading,
    ReplyLost,
    Router,
    Tail,
    Verdict,
    Wanted,
)
from turnout.control.rows import Note
from turnout.control.state import Switchover
from turnout.control.store import Database, Store
from turnout.control.words import whole

T = TypeVar("T")

RETRY_FIRST_S: Final = 0.5
RETRY_MAX_S: Final = 15.0
POLL_FIRST_S: Final = 0.3
POLL_MAX_S: Final = 10.0
_GROWTH: Final = 1.6

Now = Callable[[], float]
"""Seconds since 1970, on the switchover's own scale."""


class Stopped(Exception):
    """The outer system was not brought to where it should be; the text says why, how it stands
    and what to do."""


class Superseded(Exception):
    """Other settings hold by now: whoever goes on takes the mover that has them."""


class Mover:
    """One service's outer system."""

    def __init__(
        self,
        service: str,
        names: tuple[str, str],
        outer: Outer,
        make: Callable[[], Router],
        store: Store,
        journal: Journal,
        wall: Now,
        lock: asyncio.Lock,
    ) -> None:
        """`make` makes the router, when it is needed first; `lock` is the service's, and outlives
        a change of its settings."""
        self._service = service
        self.names = names
        self.outer = outer
        self._make = make
        self._store = store
        self._journal = journal
        self._wall = wall
        self._lock = lock
        self._router: Router | None = None
        self._making = asyncio.Lock()
        self._closed = False
        self.doing = ""
        """What is being waited for, for people; empty: nothing."""

    # ------------------------------------------------------------ looking

    async def router(self) -> Router:
        """Raises OuterError when it cannot be made."""
        if self._closed:
            raise Superseded(f"{self.outer.kind}: its settings have changed")
        if self._router is None:
            async with self._making:
                if self._router is None:
                    # In a thread: importing a library may take longer than the loop should stand.
                    self._router = await asyncio.to_thread(self._make)
        return self._router

    async def capabilities(self) -> Capabilities:
        return (await self.router()).capabilities

    async def read(self) -> Reading:
        """What the system has now. Raises OuterError."""
        return await (await self.router()).read()

    async def preview(self, second_weight: int, reading: Reading) -> Mapping[str, Any] | None:
        """The call that would bring it there; None: it would be left where it is. Raises
        OuterError."""
        router = await self.router()
        becomes = router.expressible(second_weight)
        if becomes is None or becomes == reading.second_weight:
            return None
        return router.preview(Wanted(becomes), reading)

    async def look(self, value: Switchover, now: Now) -> None:
        """Read it before anything is moved, and keep what is there. Raises Stopped."""
        if await self._store(Database.outer_first, value.id) is not None:
            return
        trying = self._trying(now)
        try:
            reading = await self._tried(trying, "reading it", self.read)
        except OuterError as error:
            raise Stopped(self._text(f"it cannot be read{trying.so_far}: {error}")) from error
        finally:
            self.doing = ""
        if reading.problems:
            raise Stopped(self._text(f"it is not as configured: {'; '.join(reading.problems)}"))
        assert reading.second_weight is not None, "without a problem there is a weight"
        first = First(reading.second_weight, reading.exact, reading.settings)
        await self._store(Database.keep_outer_first, value.id, first)

    async def tail(self, old_upstream: int) -> Tail:
        """Raises OuterError."""
        return await (await self.router()).tail(old_upstream)

    async def close(self) -> None:
        self._closed = True
        async with self._lock:
            if self._router is not None:
                await self._router.close()
                self._router = None

    # ------------------------------------------------------------ moving

    async def move(self, value: Switchover, step: int, second_weight: int, now: Now) -> None:
        """Bring it to a step's weight, and return once it is in sync. Raises Stopped."""
        await self._bring(value, step, second_weight, now, restores=False)

    async def restore(self, value: Switchover, step: int, now: Now) -> None:
        """Bring it back to exactly what it had at first, by this switchover or by the one that it
        undoes. Raises Stopped."""
        undone = value.outer.restores if value.outer is not None else ""
        if undone:
            await self.look(value, now)
            goal = await self._goal(value)
            own = await self._first(value)
            # What somebody has changed beside the weights since then is not taken back with them.
            exactly = goal.settings == own.settings
            await self._bring(value, step, goal.second_weight, now, restores=exactly)
            return
        first = await self._store(Database.outer_first, value.id)
        if first is None:
            return  # it was never looked at, so nothing was asked of it
        await self._bring(value, step, first.second_weight, now, restores=True)

    async def _bring(
        self, value: Switchover, step: int, second_weight: int, now: Now, *, restores: bool
    ) -> None:
        await self.look(value, now)
        try:
            move = await self._intended(value, step, second_weight, now, restores)
            while not move.settled:
                if move.stage is not Stage.TAKEN_ON:
                    move = await self._asked(value, move, now)
                if move.stage is Stage.TAKEN_ON:
                    move = await self._followed(value, move, now)
                if move.stage in (Stage.FAILED, Stage.UNKNOWN):
                    raise Stopped(self._text(move.detail))
        except OuterError as error:
            raise Stopped(self._text(str(error))) from error
        finally:
            self.doing = ""

    async def _intended(
        self, value: Switchover, step: int, second_weight: int, now: Now, restores: bool
    ) -> Move:
        """The step's move as it was stored; a new one if there is none."""
        found = await self._store(Database.outer_moves, value.id)
        known = next((move for move in found if move.step == step), None)
        if known is not None:
            if known.stage in (Stage.FAILED, Stage.UNKNOWN):
                # Somebody goes on with what was given up: it is looked at anew.
                known = replace(known, stage=Stage.INTENDED, detail="")
            return known
        first = await self._first(value)
        was = moves.last_known(first, found)
        becomes = second_weight if restores else (await self.router()).expressible(second_weight)
        stage = Stage.INTENDED if becomes is not None else Stage.LEFT
        move = Move(
            step=step,
            wanted=second_weight,
            becomes=was if becomes is None else becomes,
            was=was,
            restores=restores,
            stage=stage,
            asked_at=now(),
        )
        return await self._kept(value, move) if stage is Stage.LEFT else move

    async def _asked(self, value: Switchover, move: Move, now: Now) -> Move:
        """From `intended` to taken on, or to what ends it. Each round reads first."""
        trying = self._trying(now)
        exchange = (await self.capabilities()).exchange
        uncertain = move.calls > 0 or await self._left_unsettled(value) is not None
        if exchange and await self._ended_before(value, move, now):
            uncertain = True
        while True:
            if uncertain and exchange:
                # The call before may still be on its way: made twice it would undo itself.
                await self._quiet(now)
            try:
                return await whole(self._round(value, move, now))
            except (NotDone, ReplyLost, Conflict) as error:
                # Whatever it was: what is there is read next, and says what is to be done.
                move = await self._as_stored(value, move)
                if not await trying.again(error):
                    reason = f"given up{trying.so_far}: {error}"
                    return await self._given_up(value, move, Stage.FAILED, reason, now)
                uncertain = not isinstance(error, NotDone)
            except OuterError as error:
                move = await self._as_stored(value, move)
                return await self._given_up(value, move, Stage.FAILED, str(error), now)

    async def _ended_before(self, value: Switchover, move: Move, now: Now) -> bool:
        """Follow swaps that the switchover asked for before to their end: while one is under way
        it is not to be told what is there. Returns whether one may still arrive. Raises OuterError
        when nobody knows how one ended."""
        async with self._lock:  # a call that has begun is recorded first
            found = await self._store(Database.outer_moves, value.id)
        before = [other for other in found if other.step != move.step and not other.settled]
        for other in before:
            if other.stage is Stage.TAKEN_ON:
                other = await self._followed(value, other, now)
            if other.stage is Stage.UNKNOWN:
                raise OuterError(f"the swap before: {other.detail}")
        return any(other.stage is Stage.INTENDED and other.calls for other in before)

    async def _round(self, value: Switchover, move: Move, now: Now) -> Move:
        """Read, decide, call and record: whole, whoever still waits for it. Raises OuterError."""
        async with self._lock:
            router = await self.router()
            first, goal = await self._first(value), await self._goal(value)
            left = await self._left_unsettled(value)
            found = await self._store(Database.outer_moves, value.id)
            others = [other for other in found if other.step != move.step]
            self.doing = "reads what is there"
            reading = await router.read()
            exchange = router.capabilities.exchange
            wanted = moves.wanted(move, goal)
            after = moves.decide(
                move,
                reading,
                first,
                goal,
                others,
                self.names,
                exchange=exchange,
                left=left,
            )
            match after:
                case moves.Stop(reason):
                    return await self._given_up(value, move, Stage.FAILED, reason, now)
                case moves.Done() if left is None:
                    done = replace(move, stage=Stage.NOTHING, in_sync_at=now())
                    return await self._kept(value, done)
                case moves.Done() | moves.Confirm():
                    change = await router.confirm(wanted, reading)
                case moves.Call():
                    move = await self._kept(value, replace(move, calls=move.calls + 1))
                    self.doing = f"asks for {self._weights(move.becomes)}"
                    change = await router.set_weights(wanted, reading)
            taken = replace(move, stage=Stage.TAKEN_ON, change=change, taken_on_at=now())
            told = events.OuterMoving(
                service=self._service,
                switchover=value.id,
                kind=self.outer.kind,
                weights=self._shares(move.becomes),
                change=change.id,
            )
            return await self._kept(value, taken, told)

    async def _followed(self, value: Switchover, move: Move, now: Now) -> Move:
        """From taken on to in sync, failed or unknown."""
        assert move.change is not None and move.taken_on_at is not None
        router = await self.router()
        deadline = move.taken_on_at + self.outer.in_sync_timeout_s
        named = f"change {move.change.id}" if move.change.id else "its change"
        wait_s = POLL_FIRST_S
        last = ""
        while True:
            try:
                progress = await router.poll(move.change)
                last = progress.detail
            except (NotDone, ReplyLost) as error:
                progress, last = Progress(Verdict.PENDING), str(error)
            except OuterError as error:
                reason = f"{named} cannot be followed: {error}; what is there is unknown"
                return await self._given_up(value, move, Stage.UNKNOWN, reason, now)
            match progress.verdict:
                case Verdict.IN_SYNC:
                    return await self._in_sync(value, move, now)
                case Verdict.FAILED:
                    detail = f"{named} failed: {progress.detail}"
                    return await self._given_up(value, move, Stage.FAILED, detail, now)
                case Verdict.UNKNOWN:
                    try:
                        # Whole: what it may write must not land behind the way back.
                        return await whole(
                            self._lost_sight(value, move, named, progress.detail, now)
                        )
                    except (NotDone, ReplyLost) as error:
                        last = str(error)
            left_s = deadline - now()
            if left_s <= 0:
                detail = (
                    f"{named} is not in sync after {self.outer.in_sync_timeout_s:g} s"
                    f" (in_sync_timeout){f', last: {last}' if last else ''}; whether it will be is"
                    " unknown, and nothing is taken back"
                )
                return await self._given_up(value, move, Stage.UNKNOWN, detail, now)
            self.doing = f"{named} is pending {now() - move.taken_on_at:.0f} s"
            await asyncio.sleep(min(_jittered(wait_s), max(left_s, 0.01)))
            wait_s = min(wait_s * _GROWTH, POLL_MAX_S)

    async def _lost_sight(
        self, value: Switchover, move: Move, named: str, detail: str, now: Now
    ) -> Move:
        """The system does not know the change any more. If what was wanted is there, another
        one is had to poll; once."""
        async with self._lock:
            router = await self.router()
            goal = await self._goal(value)
            reading = await router.read()
            there = (
                reading.exact == goal.exact
                if move.restores
                else reading.second_weight == move.becomes
            )
            if not there and not move.calls and not move.detail:
                # It was so already, and a swap before has come in between: it is decided anew.
                gone = f"it was so already, and is not any more: {detail}"
                anew = replace(move, stage=Stage.INTENDED, change=None, detail=gone)
                return await self._kept(value, anew)
            if not there or move.detail:
                reason = f"{named} cannot be followed: {detail}; what is there is unknown"
                return await self._given_up(value, move, Stage.UNKNOWN, reason, now)
            change = await router.confirm(moves.wanted(move, goal), reading)
            again = replace(move, change=change, detail=f"{named} could not be followed: {detail}")
            return await self._kept(value, again)

    # ------------------------------------------------------------ parts

    async def _in_sync(self, value: Switchover, move: Move, now: Now) -> Move:
        assert move.change is not None
        done = replace(move, stage=Stage.IN_SYNC, in_sync_at=now())
        told = events.OuterInSync(
            service=self._service,
            switchover=value.id,
            kind=self.outer.kind,
            weights=self._shares(move.becomes),
            change=move.change.id,
            seconds=round(max(0.0, now() - move.asked_at), 3),
        )
        return await self._kept(value, done, told)

    async def _given_up(
        self, value: Switchover, move: Move, stage: Stage, reason: str, now: Now
    ) -> Move:
        told = events.OuterGivenUp(
            service=self._service,
            switchover=value.id,
            kind=self.outer.kind,
            stage=stage.value,
            reason=reason,
            next="turnout check --outer; then turnout switch goes on, turnout rollback goes back",
        )
        return await self._kept(value, moves.failed(move, stage, reason, now()), told)

    async def _kept(self, value: Switchover, move: Move, *told: events.Event) -> Move:
        note = Note(events=told)
        await self._store(Database.keep_outer_move, value.id, move, self._wall(), note)
        self._journal.told(note)
        return move

    async def _first(self, value: Switchover) -> First:
        first = await self._store(Database.outer_first, value.id)
        if first is None:
            raise OuterError("it was never looked at, as this switchover began without it")
        return first

    async def _goal(self, value: Switchover) -> First:
        """What a move that restores brings back."""
        undone = value.outer.restores if value.outer is not None else ""
        found = await self._store(Database.outer_first, undone) if undone else None
        return found if found is not None else await self._first(value)

    def _trying(self, now: Now) -> "_Trying":
        def tell(error: OuterError) -> None:
            self._journal.problem(
                f"{self.outer.kind}: {error}",
                f"nothing yet: it is tried again for up to {self.outer.retry_s:g} s (retry_for)",
                self._service,
            )

        return _Trying(self.outer.retry_s, now, tell)

    async def _left_unsettled(self, value: Switchover) -> Move | None:
        """The last move of the switchover before, if that left it not knowing it in sync."""
        last = await self._store(Database.outer_last, self._service, value.id)
        return None if last is None or last.settled else last

    async def _as_stored(self, value: Switchover, move: Move) -> Move:
        """With the calls of a round that did not end well."""
        found = await self._store(Database.outer_moves, value.id)
        return next((known for known in found if known.step == move.step), move)

    async def _quiet(self, now: Now) -> None:
        """Let a call of which nobody knows arrive, or be given up, before it is looked for."""
        until = now() + 2 * self.outer.call_timeout_s
        self.doing = "waits whether a call without an answer was carried out"
        while (left_s := until - now()) > 0:
            await asyncio.sleep(left_s)

    async def _tried(self, trying: "_Trying", what: str, call: Callable[[], Awaitable[T]]) -> T:
        while True:
            self.doing = what
            try:
                return await call()
            except (NotDone, ReplyLost) as error:
                if not await trying.again(error):
                    raise

    def _shares(self, second_weight: int) -> Mapping[str, float]:
        return Weights(*self.names, second_weight).percentages()

    def _weights(self, second_weight: int) -> str:
        return str(Weights(*self.names, second_weight))

    def _text(self, reason: str) -> str:
        return f"{self.outer.kind}: {reason}"


class _Trying:
    """How long and how often something is tried again."""

    def __init__(self, limit_s: float, now: Now, tell: Callable[[OuterError], None]) -> None:
        """`tell` is told of the first time that it has to be."""
        self._now = now
        self._began = now()
        self._until = self._began + limit_s
        self._wait_s = RETRY_FIRST_S
        self._tell = tell
        self._times = 0

    @property
    def so_far(self) -> str:
        """` after 5 tries in 14 s`; nothing while it was tried once."""
        if not self._times:
            return ""
        return f" after {self._times + 1} tries in {self._now() - self._began:.0f} s"

    async def again(self, error: OuterError) -> bool:
        """Wait and return true while there is time left; false when there is none."""
        asked_s = error.retry_after_s if isinstance(error, NotDone) else 0.0
        wait_s = max(_jittered(self._wait_s), asked_s)
        if self._now() + wait_s > self._until:
            return False
        if not self._times:
            self._tell(error)
        self._times += 1
        self._wait_s = min(self._wait_s * 2, RETRY_MAX_S)
        await asyncio.sleep(wait_s)
        return True


def _jittered(seconds: float) -> float:
    """Up to a quarter less: what was refused together is not to come again together."""
    return seconds * random.uniform(0.75, 1.0)


async def preview(mover: Mover, steps: Sequence[int]) -> dict[str, Any]:
    """What is there now, and what bringing it through these weights would call, one after the
    other. Changes nothing. Raises OuterError."""
    reading = await mover.read()
    calls: list[dict[str, Any]] = []
    there = reading.second_weight
    for step in [] if reading.problems else steps:
        document = await mover.preview(step, replace(reading, second_weight=there))
        router = await mover.router()
        becomes = router.expressible(step)
        if becomes is not None:
            there = becomes
        calls.append(
            {
                "weights": Weights(*mover.names, step).percentages(),
                "becomes": None if there is None else Weights(*mover.names, there).percentages(),
                "call": document,
            }
        )
    return {
        "kind": mover.outer.kind,
        "order": mover.outer.order.value,
        "weights": None
        if reading.second_weight is None
        else Weights(*mover.names, reading.second_weight).percentages(),
        "problems": list(reading.problems),
        "warnings": list(reading.warnings),
        "ttl_seconds": reading.ttl_s,
        "there": reading.exact,
        "calls": calls,
    }


def shown(value: Switchover, first: First | None, found: Sequence[Move]) -> dict[str, Any] | None:
    """The outer part of a receipt; None: the switchover has none."""
    if value.outer is None:
        return None
    names = (value.first, value.second)
    return moves.shown(value.outer.kind, value.outer.order.value, first, found, names, utc)
