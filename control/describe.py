"""Pure: what a change of a switchover or a service is called when it is told."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from turnout.control import events
from turnout.control.rows import ServiceRow
from turnout.control.state import State, Switchover, without_weight

_ENDS: Final[Mapping[State, type[events.Ended]]] = {
    State.COMPLETED: events.Completed,
    State.ROLLED_BACK: events.RolledBack,
    State.ABORTED: events.Aborted,
    State.FAILED: events.Failed,
}


def started(new: Switchover) -> events.Event:
    """A switchover that has just got its id."""
    return events.Started(
        service=new.service,
        switchover=new.id,
        from_upstream=new.from_upstream,
        to_upstream=new.to_upstream,
        strategy=new.strategy,
        requested_by=new.requested_by,
        forced_by=new.forced_by,
        reason=new.reason,
    )


def changed(before: Switchover, after: Switchover, cut: int) -> tuple[events.Event, ...]:
    """What is told when one value follows the other; nothing when neither state nor step did.

    `cut` is how many exchanges its window cut, for its end.
    """
    step = (after.state, after.step_index, after.next_step_at)
    if step == (before.state, before.step_index, before.next_step_at):
        return ()
    return (_entered(after, cut),)


def weights(row: ServiceRow, switchover: str) -> events.Event:
    """A weight that was decided, with the epoch from which it holds."""
    return events.WeightsChanged(
        service=row.name,
        weights=row.weights.percentages(),
        epoch=row.epoch,
        switchover=switchover,
    )


def _entered(now: Switchover, cut: int) -> events.Event:
    service, id = now.service, now.id
    match now.state:
        case State.PENDING | State.PREPARING:
            return events.Preparing(service=service, switchover=id)
        case State.CHECKING:
            return events.Checking(
                service=service, switchover=id, upstream=now.to_upstream, until=now.check_until
            )
        case State.SHIFTING:
            return events.Shifting(
                service=service,
                switchover=id,
                step=now.step_index + 1,
                steps=len(now.steps),
                second_weight=now.second_weight,
                next_step_at=now.next_step_at,
            )
        case State.PAUSED:
            return events.Paused(service=service, switchover=id, waiting_for=now.waiting_for)
        case State.DRAINING:
            old = without_weight(now.second_weight)
            name = "" if old is None else now.name(old)
            return events.Draining(service=service, switchover=id, upstream=name)
        case State.ROLLING_BACK:
            return events.RollingBack(
                service=service, switchover=id, step=now.step_index + 1, reason=now.outcome
            )
        case state:
            return _ENDS[state](
                service=service,
                switchover=id,
                second_weight=now.second_weight,
                cut=cut,
                reason=now.outcome,
                next=f"turnout receipt {id}",
            )


NAMES_MAX: Final = 50
"""In one event: more are told by further ones, so that no line of the log has no end."""


def cut(
    service: str,
    upstream: str,
    entries: Sequence[Mapping[str, Any]],
    reason: str,
    switchover: str,
) -> tuple[events.ExchangesCut, ...]:
    """Exchanges that were ended, as receipts have them; each is named."""
    parts = [entries[start : start + NAMES_MAX] for start in range(0, len(entries), NAMES_MAX)]
    return tuple(
        events.ExchangesCut(
            service=service,
            upstream=upstream,
            count=len(part),
            reason=reason,
            switchover=switchover,
            names=tuple(f"{entry['method']} {entry['path']}" for entry in part),
        )
        for part in parts
    )
