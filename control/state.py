"""A switchover's value: what is known of it at one moment, and what is stored.

Pure. `switchover` says what may happen to it, `orders` what is then to be done.

Weights are the service's `second_weight`, hundredths of a percent of its second upstream.
Times (`at`, `…_at`, `…_until`) are seconds since 1970.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from typing import Any, Final

from turnout.config.model import WHOLE, OnFailure, OuterOrder


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
class Scale:
    """Seconds since 1970 that nobody sets: the uptime of one boot, and what is added to it."""

    boot: str
    ahead_s: float


@dataclass(frozen=True, slots=True)
class OuterPart:
    """What of a switchover is beyond the proxy."""

    kind: str
    order: OuterOrder
    tail: bool
    """Who still comes by the old way is waited for."""
    back: bool = False
    """It goes back, or is forced: the proxy's own weights wait for nothing beyond it."""
    restores: str = ""
    """The switchover that is undone: what that found at first is what is brought back."""


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
    outer: OuterPart | None = None
    gates: tuple[str, ...] = ()
    """Names of the conditions that must hold before weight goes to the target."""
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
    clock: Scale | None = None
    """Of its times; None before it is stored."""
    overtaken: str = ""
    """Why nobody knows how it went on; it can only fail."""
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


# ---------------------------------------------------------------- as the store keeps it


def to_document(switchover: Switchover) -> dict[str, Any]:
    """The switchover as JSON takes it; `from_document` is the inverse."""
    # Not asdict: its values are flat but one, and a copy of each took a third of a save.
    document = {field.name: getattr(switchover, field.name) for field in fields(Switchover)}
    scale = switchover.clock
    outer = switchover.outer
    return {
        **document,
        "clock": None if scale is None else (scale.boot, scale.ahead_s),
        "outer": None if outer is None else asdict(outer),
    }


def from_document(document: Mapping[str, Any]) -> Switchover:
    """Raises KeyError, TypeError or ValueError for what `to_document` did not write."""
    known = {field.name for field in fields(Switchover)}
    values = {key: value for key, value in document.items() if key in known}
    values["steps"] = tuple(values["steps"])
    values["phases"] = tuple((State(name), float(at)) for name, at in values["phases"])
    values["on_failure"] = OnFailure(values["on_failure"])
    clock = values.get("clock")
    values["clock"] = None if clock is None else Scale(str(clock[0]), float(clock[1]))
    values["gates"] = tuple(values.get("gates", ()))
    outer = values.get("outer")
    if outer is not None:
        values["outer"] = OuterPart(**{**outer, "order": OuterOrder(outer["order"])})
    for name in ("state", "paused_from", "ends_as"):
        values[name] = None if values[name] is None else State(values[name])
    return Switchover(**values)
