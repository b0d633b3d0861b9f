"""What is to be done for a switchover, derived from its value alone.

Pure. A crash may come anywhere: so there is no list that is worked off and remembered half
done. The same value gives the same commands, and each may be carried out again: setting the
same weight for the same (switchover, step) is the same decision, a drain that has drained ends
at once, a pause ends at a point in time and not after a time.
"""

from dataclasses import dataclass

from turnout.config.model import OuterOrder
from turnout.control.state import FINAL, State, Switchover, without_weight


@dataclass(frozen=True, slots=True)
class Command:
    """Something to carry out. Doing it again for the same value must change nothing."""


@dataclass(frozen=True, slots=True)
class PrepareTables(Command):
    """Bring every worker to the table in force. Ends in Prepared or PrepareFailed."""


@dataclass(frozen=True, slots=True)
class LookOutside(Command):
    """Read the outer system: what is not as configured is refused before anything has moved, and
    what is there now is kept for the way back."""


@dataclass(frozen=True, slots=True)
class PassGates(Command):
    """Wait until every gate lets the step take weight to its target."""

    step: int


@dataclass(frozen=True, slots=True)
class MoveOutside(Command):
    """Bring the outer system to a step's weight, and wait until it is in sync."""

    step: int
    second_weight: int


@dataclass(frozen=True, slots=True)
class RestoreOutside(Command):
    """Bring the outer system back to exactly what was there at first."""

    step: int


@dataclass(frozen=True, slots=True)
class AwaitTail(Command):
    """Wait until so few come to the old upstream's (0, 1) address that it may go."""

    upstream: int


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
        case State.PREPARING if switchover.outer is not None and not switchover.outer.back:
            return (PrepareTables(), LookOutside())
        case State.PREPARING:
            return (PrepareTables(),)
        case State.CHECKING if switchover.step_rises:
            check = CheckHealth(switchover.target, switchover.check_until)
            return (check, *_gates(switchover))
        case State.SHIFTING:
            return _shifting(switchover)
        case State.DRAINING:
            return (*_drain(switchover), *_tail(switchover))
        case State.ROLLING_BACK if switchover.moved:
            step = len(switchover.steps)
            # The proxy first, whatever the order was: it needs an instant, and serves both ways.
            return (
                CheckReturn(),
                SetWeight(step, switchover.weights_before),
                AwaitAcknowledgement(step),
                *(() if switchover.outer is None else (RestoreOutside(step),)),
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
    weight = switchover.steps[step]
    check: tuple[Command, ...] = ()
    if switchover.step_rises:
        # The first step's gates were passed in `checking`, where failing touches nothing.
        gates = _gates(switchover) if step else ()
        check = (CheckHealth(switchover.target, None), *gates)
    inner = (SetWeight(step, weight), AwaitAcknowledgement(step))
    if switchover.outer is None:
        return (*check, *inner)
    outside: Command = MoveOutside(step, weight)
    if switchover.outer.restores:
        outside = RestoreOutside(step)
    if switchover.outer.order is OuterOrder.OUTER_FIRST:
        return (*check, outside, *inner)
    return (*check, *inner, outside)


def _gates(switchover: Switchover) -> tuple[Command, ...]:
    return (PassGates(switchover.step_index),) if switchover.gates else ()


def _tail(switchover: Switchover) -> tuple[Command, ...]:
    old = without_weight(switchover.steps[-1])
    if switchover.outer is None or not switchover.outer.tail or old is None:
        return ()
    return (AwaitTail(old),)


def _drain(switchover: Switchover) -> tuple[Command, ...]:
    back = switchover.state is State.ROLLING_BACK
    old = without_weight(switchover.weights_before if back else switchover.steps[-1])
    step = len(switchover.steps) if back else switchover.step_index
    return () if old is None else (Drain(old, step), CloseIdle(old))
