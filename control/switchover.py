"""A switchover as a value: its states, what may happen to it, and what is then to be done.

First in the reading order of `control`. Pure: the executor carries the commands out and feeds
events back; nothing here knows a clock, a socket or the store. What a switchover may do is
`MOVES`, and an absent pair is illegal: it raises and changes nothing.

A crash may come anywhere. So what is to be done is never remembered as a list half worked
off: `commands` derives it from the stored value alone, and each command may be carried out
again: setting the same weight for the same (switchover, step) is the same decision, a drain
that has drained ends at once, a pause ends at a point in time and not after a time.

Weights are the service's `second_weight`, hundredths of a percent of its second upstream.
Times (`at`, `…_at`) are seconds since 1970.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from enum import Enum, StrEnum
from typing import Any, Final

from turnout.config.model import WHOLE, OnFailure


class State(StrEnum):
    PENDING = "pending"
    PREPARING = "preparing"
    """The table is being loaded by every worker."""
    CHECKING = "checking"
    """Is the target healthy? Until `check_until`."""
    SHIFTING = "shifting"
    """A weight is being set, or held until `next_step_at`."""
    PAUSED = "paused"
    """By a person, or `waiting_for` approval."""
    DRAINING = "draining"
    """The weights are final; what the old upstream has in flight finishes."""
    COMPLETED = "completed"
    ROLLING_BACK = "rolling_back"
    """The weights before it are being restored, to end as `ends_as`."""
    ROLLED_BACK = "rolled_back"
    ABORTED = "aborted"
    FAILED = "failed"
    """The weights are where the receipt says; a person is needed."""


FINAL: Final = frozenset({State.COMPLETED, State.ROLLED_BACK, State.ABORTED, State.FAILED})
"""Nothing moves a switchover out of these."""

PERSON: Final = "resume"
APPROVAL: Final = "approval"


@dataclass(frozen=True, slots=True)
class Switchover:
    """One durable, named move of weights, with a beginning, an end and a receipt."""

    id: str
    service: str
    first: str
    second: str
    """The names of the service's upstreams, as routing words count them."""
    from_upstream: str
    to_upstream: str
    """The upstream that gains weight."""
    strategy: str
    weights_before: int
    steps: tuple[int, ...]
    """The service's second_weight after each step; never empty."""
    pause_s: float | None
    """Between one step and the next; None: until somebody approves."""
    on_failure: OnFailure
    check_s: float
    """How long `checking` may last."""
    requested_by: str
    reason: str
    created_at: float
    forced_by: str = ""
    """Who said that health does not matter, here or at its rollback; empty: nobody."""
    force_reason: str = ""
    state: State = State.PENDING
    phases: tuple[tuple[State, float], ...] = ()
    """(state, when it was entered), in order."""
    step_index: int = 0
    moved: bool = False
    """A weight has been ordered; until then there is nothing to restore."""
    second_weight: int = 0
    """What this switchover wants in its present state; in a final one, what the service has."""
    check_until: float | None = None
    next_step_at: float | None = None
    """The weight of `step_index` is acknowledged and held until then."""
    paused_from: State | None = None
    waiting_for: str = ""
    """While paused: `resume` (a person paused it) or `approval`."""
    ends_as: State | None = None
    outcome: str = ""
    """Why it failed, was rolled back or aborted; empty when it completed."""
    revision: int = 0
    """The store's, of its last write."""

    @property
    def final(self) -> bool:
        return self.state in FINAL

    @property
    def entered_at(self) -> float:
        """When the present state was entered."""
        return self.phases[-1][1] if self.phases else self.created_at

    @property
    def finished_at(self) -> float | None:
        return self.entered_at if self.final else None

    @property
    def last_step(self) -> bool:
        return self.step_index == len(self.steps) - 1

    @property
    def target(self) -> int:
        """Index of the upstream that gains weight: 0 first, 1 second."""
        return int(self.to_upstream == self.second)

    @property
    def step_rises(self) -> bool:
        """The present step takes weight to the target; false only if it has all of it already."""
        before = self.steps[self.step_index - 1] if self.step_index else self.weights_before
        return self.steps[self.step_index] != before

    def name(self, upstream: int) -> str:
        return self.second if upstream else self.first


def without_weight(second_weight: int) -> int | None:
    """Which upstream (0, 1) gets nothing, and so may be drained; None while both get some."""
    if second_weight == 0:
        return 1
    return 0 if second_weight == WHOLE else None


def plan_steps(shares: tuple[int, ...], target: int, second_weight: int) -> tuple[int, ...]:
    """A strategy's shares of the target as second_weights, from the present one on.

    Shares that the target has already passed are left out, as no step may take weight from
    it; the last one always stays.
    """
    steps = tuple(share if target else WHOLE - share for share in shares)
    present = second_weight if target else WHOLE - second_weight
    rising = tuple(
        step for step, share in zip(steps[:-1], shares[:-1], strict=True) if share > present
    )
    return (*rising, steps[-1])


# ---------------------------------------------------------------- what may happen


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a switchover, `at` seconds since 1970."""

    at: float


@dataclass(frozen=True, slots=True)
class Begun(Event):
    """It is the service's switchover now."""


@dataclass(frozen=True, slots=True)
class Prepared(Event):
    """Every worker has the table."""


@dataclass(frozen=True, slots=True)
class PrepareFailed(Event):
    reason: str


@dataclass(frozen=True, slots=True)
class TargetHealthy(Event):
    """The upstream that is to gain weight may have it."""


@dataclass(frozen=True, slots=True)
class TargetNeverHealthy(Event):
    reason: str


@dataclass(frozen=True, slots=True)
class StepTaken(Event):
    """Every worker has acknowledged a weight that is not the last one."""


@dataclass(frozen=True, slots=True)
class StepNeedsApproval(Event):
    """Every worker has acknowledged the weight, and the next one is for a person to allow."""


@dataclass(frozen=True, slots=True)
class PauseOver(Event):
    """The step was held as long as it should."""


@dataclass(frozen=True, slots=True)
class LastStepTaken(Event):
    """Every worker has acknowledged the last weight."""


@dataclass(frozen=True, slots=True)
class Drained(Event):
    """The old upstream has nothing in flight, and no idle connections."""


@dataclass(frozen=True, slots=True)
class TargetFailed(Event):
    """The target must lose its weight again, and the upstream before it may have it."""

    reason: str


@dataclass(frozen=True, slots=True)
class GaveUp(Event):
    """It cannot go on and must not go back: the weights stay, a person is needed."""

    reason: str


@dataclass(frozen=True, slots=True)
class Pause(Event):
    who: str


@dataclass(frozen=True, slots=True)
class Resume(Event):
    who: str


@dataclass(frozen=True, slots=True)
class Approve(Event):
    who: str


@dataclass(frozen=True, slots=True)
class Abort(Event):
    who: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Rollback(Event):
    who: str
    reason: str = ""
    forced: bool = False


@dataclass(frozen=True, slots=True)
class Restored(Event):
    """The weights before a rollback are in force again, and what it left is drained."""


@dataclass(frozen=True, slots=True)
class RestoredByAbort(Event):
    """The weights before an abort are in force again, and what it left is drained."""


EVENTS: Final[tuple[type[Event], ...]] = (
    Begun, Prepared, PrepareFailed, TargetHealthy, TargetNeverHealthy, StepTaken,
    StepNeedsApproval, PauseOver, LastStepTaken, Drained, TargetFailed, GaveUp, Pause, Resume, Approve, Abort,
    Rollback, Restored, RestoredByAbort,
)  # fmt: skip


class Return(Enum):
    """A move's end that only the value knows."""

    PAUSED_FROM = "paused_from"


MOVES: Final[Mapping[tuple[State, type[Event]], State | Return]] = {
    (State.PENDING, Begun): State.PREPARING,
    (State.PENDING, Abort): State.ABORTED,
    (State.PENDING, Rollback): State.ROLLING_BACK,
    (State.PENDING, GaveUp): State.FAILED,
    (State.PREPARING, Prepared): State.CHECKING,
    (State.PREPARING, PrepareFailed): State.FAILED,
    (State.PREPARING, Pause): State.PAUSED,
    (State.PREPARING, Abort): State.ABORTED,
    (State.PREPARING, Rollback): State.ROLLING_BACK,
    (State.PREPARING, GaveUp): State.FAILED,
    (State.CHECKING, TargetHealthy): State.SHIFTING,
    (State.CHECKING, TargetNeverHealthy): State.FAILED,
    (State.CHECKING, Pause): State.PAUSED,
    (State.CHECKING, Abort): State.ABORTED,
    (State.CHECKING, Rollback): State.ROLLING_BACK,
    (State.CHECKING, GaveUp): State.FAILED,
    (State.SHIFTING, StepTaken): State.SHIFTING,
    (State.SHIFTING, StepNeedsApproval): State.PAUSED,
    (State.SHIFTING, PauseOver): State.SHIFTING,
    (State.SHIFTING, LastStepTaken): State.DRAINING,
    (State.SHIFTING, TargetFailed): State.ROLLING_BACK,
    (State.SHIFTING, Pause): State.PAUSED,
    (State.SHIFTING, Abort): State.ROLLING_BACK,
    (State.SHIFTING, Rollback): State.ROLLING_BACK,
    (State.SHIFTING, GaveUp): State.FAILED,
    (State.PAUSED, Resume): Return.PAUSED_FROM,
    (State.PAUSED, Approve): State.SHIFTING,
    (State.PAUSED, TargetFailed): State.ROLLING_BACK,
    (State.PAUSED, Abort): State.ROLLING_BACK,
    (State.PAUSED, Rollback): State.ROLLING_BACK,
    (State.PAUSED, GaveUp): State.FAILED,
    (State.DRAINING, Drained): State.COMPLETED,
    (State.DRAINING, TargetFailed): State.ROLLING_BACK,
    (State.DRAINING, Abort): State.ROLLING_BACK,
    (State.DRAINING, Rollback): State.ROLLING_BACK,
    (State.DRAINING, GaveUp): State.FAILED,
    (State.ROLLING_BACK, Restored): State.ROLLED_BACK,
    (State.ROLLING_BACK, RestoredByAbort): State.ABORTED,
    (State.ROLLING_BACK, GaveUp): State.FAILED,
}
"""All of it: what may happen in which state, and the state that follows."""


class IllegalMove(Exception):
    """An event that the present state does not allow. Nothing has changed."""

    def __init__(self, switchover: Switchover, event: Event, why: str = "") -> None:
        self.switchover = switchover
        self.event = event
        verb = type(event).__name__
        super().__init__(
            f"switchover {switchover.id} is {switchover.state}: {verb} is not possible"
            + (f" ({why})" if why else "")
        )


# ---------------------------------------------------------------- what is to be done


@dataclass(frozen=True, slots=True)
class Command:
    """Something to carry out. Doing it again for the same value must change nothing."""


@dataclass(frozen=True, slots=True)
class PrepareTables(Command):
    """Bring every worker to the table in force. Ends in Prepared or PrepareFailed."""


@dataclass(frozen=True, slots=True)
class CheckHealth(Command):
    """Wait until the upstream (0, 1) is healthy, until `until` at the latest.

    `until` None: there is no waiting; it was healthy, and if it is not now it has failed.
    """

    upstream: int
    until: float | None


@dataclass(frozen=True, slots=True)
class CheckReturn(Command):
    """Make sure that the upstream which gets its weight back is healthy, still or again.

    It was when going back was decided; but a crash may have come in between.
    """


@dataclass(frozen=True, slots=True)
class SetWeight(Command):
    """Decide, store and publish a weight; with the first one go the counters before it."""

    step: int
    second_weight: int


@dataclass(frozen=True, slots=True)
class AwaitAcknowledgement(Command):
    """Wait until no worker can still act on the word before `step`'s (the grace period)."""

    step: int


@dataclass(frozen=True, slots=True)
class HoldStep(Command):
    """Leave the weight as it is until then."""

    until: float


@dataclass(frozen=True, slots=True)
class Drain(Command):
    """Wait until the upstream (0, 1), which `step` took its weight from, has nothing in
    flight; at the deadlines, which count from that decision, cut the rest."""

    upstream: int
    step: int


@dataclass(frozen=True, slots=True)
class CloseIdle(Command):
    """Close the workers' idle connections to the upstream (0, 1)."""

    upstream: int


@dataclass(frozen=True, slots=True)
class Finish(Command):
    """It is over: store the receipt with this state."""

    state: State


def commands(switchover: Switchover) -> tuple[Command, ...]:
    """What is to be done in the present state, in order; see `carried_out` for its event.

    Also what recovery starts from: the same value gives the same commands, however often.
    """
    match switchover.state:
        case State.PREPARING:
            return (PrepareTables(),)
        case State.CHECKING if switchover.step_rises:
            return (CheckHealth(switchover.target, switchover.check_until),)
        case State.SHIFTING:
            return _shifting(switchover)
        case State.DRAINING:
            return _drain(switchover)
        case State.ROLLING_BACK if switchover.moved:
            step = len(switchover.steps)
            return (
                CheckReturn(),
                SetWeight(step, switchover.weights_before),
                AwaitAcknowledgement(step),
                *_drain(switchover),
            )
        case state if state in FINAL:
            return (Finish(state),)
        case _:
            return ()


def _shifting(switchover: Switchover) -> tuple[Command, ...]:
    if switchover.next_step_at is not None:
        return (HoldStep(switchover.next_step_at),)
    step = switchover.step_index
    check = (CheckHealth(switchover.target, None),) if switchover.step_rises else ()
    return (*check, SetWeight(step, switchover.steps[step]), AwaitAcknowledgement(step))


def _drain(switchover: Switchover) -> tuple[Command, ...]:
    back = switchover.state is State.ROLLING_BACK
    old = without_weight(switchover.weights_before if back else switchover.steps[-1])
    step = len(switchover.steps) if back else switchover.step_index
    return () if old is None else (Drain(old, step), CloseIdle(old))


def carried_out(switchover: Switchover, at: float) -> Event | None:
    """The event of having carried out all of `commands`; None while only a person can go on."""
    match switchover.state:
        case State.PENDING:
            return Begun(at)
        case State.PREPARING:
            return Prepared(at)
        case State.CHECKING:
            return TargetHealthy(at)
        case State.SHIFTING if switchover.next_step_at is not None:
            return PauseOver(at)
        case State.SHIFTING if switchover.last_step:
            return LastStepTaken(at)
        case State.SHIFTING if switchover.pause_s is None:
            return StepNeedsApproval(at)
        case State.SHIFTING:
            return StepTaken(at)
        case State.DRAINING:
            return Drained(at)
        case State.ROLLING_BACK if switchover.ends_as is State.ABORTED:
            return RestoredByAbort(at)
        case State.ROLLING_BACK:
            return Restored(at)
        case _:
            return None


# ---------------------------------------------------------------- the step


def step(switchover: Switchover, event: Event) -> tuple[Switchover, tuple[Command, ...]]:
    """Return the next value and the commands that carry it out.

    Raises IllegalMove for an event that the state does not allow; nothing changes then.
    """
    move = MOVES.get((switchover.state, type(event)))
    if move is None:
        raise IllegalMove(switchover, event)
    _refuse(switchover, event)
    state = switchover.paused_from if isinstance(move, Return) else move
    assert state is not None, "paused, and from nowhere"
    changed = replace(switchover, **_changes(switchover, event, state))
    if state is not switchover.state:
        changed = replace(changed, state=state, phases=(*changed.phases, (state, event.at)))
    return changed, commands(changed)


def _refuse(switchover: Switchover, event: Event) -> None:
    """What the state alone does not tell: which step, what is waited for, what ends it."""
    why = ""
    match event:
        case Resume() if switchover.waiting_for == APPROVAL:
            why = "it waits for approval"
        case Approve() if switchover.waiting_for != APPROVAL:
            why = "it does not wait for approval"
        case TargetFailed() if not switchover.moved:
            why = "no weight has been moved"
        case StepTaken() | StepNeedsApproval() if switchover.last_step:
            why = f"step {switchover.step_index} is the last one"
        case StepTaken() | StepNeedsApproval() if switchover.next_step_at is not None:
            why = f"step {switchover.step_index} was taken"
        case StepTaken() if switchover.pause_s is None:
            why = "its steps need approval"
        case LastStepTaken() if not switchover.last_step:
            why = f"step {switchover.step_index} is not the last one"
        case PauseOver() if switchover.next_step_at is None:
            why = "no step is being held"
        case Restored() if switchover.ends_as is not State.ROLLED_BACK:
            why = "it is to end otherwise"
        case RestoredByAbort() if switchover.ends_as is not State.ABORTED:
            why = "it is to end otherwise"
    if why:
        raise IllegalMove(switchover, event, why)


def _changes(switchover: Switchover, event: Event, state: State) -> dict[str, Any]:
    """The fields that the event changes, besides state and phases."""
    match event:
        case Prepared():
            return {"check_until": event.at + switchover.check_s}
        case TargetHealthy():
            return {"moved": True, "second_weight": switchover.steps[0]}
        case StepTaken():
            return {"next_step_at": event.at + (switchover.pause_s or 0.0)}
        case StepNeedsApproval():
            return {"paused_from": switchover.state, "waiting_for": APPROVAL}
        case PauseOver() | Approve():
            index = switchover.step_index + 1
            return {
                **_UNPAUSED,
                "step_index": index,
                "next_step_at": None,
                "second_weight": switchover.steps[index],
            }
        case Pause():
            return {"paused_from": switchover.state, "waiting_for": PERSON}
        case Resume():
            # A check that was paused begins anew: its time ran while nobody looked.
            checking = state is State.CHECKING
            until = event.at + switchover.check_s if checking else switchover.check_until
            return {**_UNPAUSED, "check_until": until}
        case TargetFailed():
            return _going_back(switchover, State.ROLLED_BACK, event.reason)
        case Rollback():
            changes = _going_back(switchover, State.ROLLED_BACK, event.reason or _by(event.who))
            if event.forced:
                changes |= {"forced_by": event.who, "force_reason": event.reason}
            return changes
        case Abort():
            return _going_back(switchover, State.ABORTED, event.reason or _by(event.who))
        case PrepareFailed() | TargetNeverHealthy() | GaveUp():
            return {**_UNPAUSED, "next_step_at": None, "outcome": event.reason}
        case _:
            return {}


_UNPAUSED: Final[Mapping[str, Any]] = {"paused_from": None, "waiting_for": ""}


def _by(who: str) -> str:
    return f"asked for by {who}"


def _going_back(switchover: Switchover, ends_as: State, reason: str) -> dict[str, Any]:
    return {
        **_UNPAUSED,
        "ends_as": ends_as,
        "outcome": reason,
        "next_step_at": None,
        "second_weight": switchover.weights_before,
    }


# ---------------------------------------------------------------- as the store keeps it


def to_document(switchover: Switchover) -> dict[str, Any]:
    """The switchover as JSON takes it; `from_document` is the inverse."""
    return asdict(switchover)


def from_document(document: Mapping[str, Any]) -> Switchover:
    """Raises KeyError, TypeError or ValueError for what `to_document` did not write."""
    known = {field.name for field in fields(Switchover)}
    values = {key: value for key, value in document.items() if key in known}
    values["steps"] = tuple(values["steps"])
    values["phases"] = tuple((State(name), float(at)) for name, at in values["phases"])
    values["on_failure"] = OnFailure(values["on_failure"])
    for name in ("state", "paused_from", "ends_as"):
        values[name] = None if values[name] is None else State(values[name])
    return Switchover(**values)
