"""Pure: what somebody wants of a service's weights -> the switchover that would do it."""

from dataclasses import dataclass

from turnout.config.model import Service, Strategy
from turnout.config.weights import WHOLE, Weights
from turnout.control.health import first_verdict_s
from turnout.control.rows import Author, ServiceRow
from turnout.control.state import State, Switchover, plan_steps


@dataclass(frozen=True, slots=True)
class Wish:
    """Who wants it, when, and how much."""

    author: Author
    at: float
    force: bool = False
    """Whatever its health."""
    wait_healthy_s: float = 0.0


def to_upstream(
    service: Service, row: ServiceRow, strategy: Strategy, to: str, wish: Wish
) -> Switchover:
    """All to one upstream, by the steps of a strategy."""
    target = service.names.index(to)
    steps = plan_steps(strategy.steps, target, row.second_weight)
    # A pause without end is one that a person ends.
    pause_s = None if strategy.pause_s == float("inf") else strategy.pause_s
    return _new(service, row, target, strategy.name, steps, pause_s, wish)


def to_weight(
    service: Service, row: ServiceRow, name: str, second_weight: int, wish: Wish
) -> Switchover:
    """Any split, in one step, under a name for the history."""
    target = _gains(row.second_weight, second_weight)
    return _new(service, row, target, name, (second_weight,), 0.0, wish)


def weights_before(last: Switchover, row: ServiceRow) -> int | None:
    """The second_weight before `last`, as the service counts its upstreams now.

    None when its upstreams are others by now.
    """
    if {last.first, last.second} != {row.first, row.second}:
        return None
    before = last.weights_before
    return before if last.second == row.second else WHOLE - before


def unfinished_way_back(last: Switchover) -> bool:
    """Whether it was to undo another one, and did not bring back what is beyond the proxy."""
    return last.state is State.FAILED and last.outer is not None and bool(last.outer.restores)


def moves(new: Switchover) -> str:
    """`blue=100 green=0 -> blue=0 green=100`, for the audit."""
    before = Weights(new.first, new.second, new.weights_before)
    after = Weights(new.first, new.second, new.steps[-1])
    return f"{before} -> {after}"


def _gains(before: int, after: int) -> int:
    """Which upstream (0, 1) has more after than before; where neither has, the one with all."""
    return int(after > before) if after != before else int(after == WHOLE)


def _new(
    service: Service,
    row: ServiceRow,
    target: int,
    strategy: str,
    steps: tuple[int, ...],
    pause_s: float | None,
    wish: Wish,
) -> Switchover:
    author = wish.author
    return Switchover(
        id="",
        service=service.name,
        first=row.first,
        second=row.second,
        from_upstream=service.names[1 - target],
        to_upstream=service.names[target],
        strategy=strategy,
        weights_before=row.second_weight,
        second_weight=row.second_weight,
        steps=steps,
        pause_s=pause_s,
        on_failure=service.switchover.on_failure,
        check_s=max(wish.wait_healthy_s, first_verdict_s(service.health)),
        requested_by=author.who,
        reason=author.reason,
        created_at=wish.at,
        forced_by=author.who if wish.force else "",
        force_reason=author.reason if wish.force else "",
    )
