"""What may happen to a switchover: its events, and one table of all moves.

First in the reading order of `control`, with `state` (its value) and `orders` (what is to be
done). Pure: the executor carries the commands out and feeds
events back; nothing here knows a clock, a socket or the store. What a switchover may do is
`MOVES`, and an absent pair is illegal: it raises and changes nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, Final

from turnout.control.orders import Command, commands
from turnout.control.state import APPROVAL, PERSON
from turnout.control.state import FINAL as FINAL
from turnout.control.state import State as State
from turnout.control.state import Switchover as Switchover

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
