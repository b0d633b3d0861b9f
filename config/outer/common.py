"""What every kind of outer layer, source of servers and gate has in its settings.

A kind is one class with a `kind` of its own; `module` names the file in `control/outer` that
carries it out.
"""

from collections.abc import Iterator, Sequence
from typing import Annotated, ClassVar, Final

from turnout.config import model
from turnout.config.address import Address
from turnout.config.document import Place
from turnout.config.knobs import (
    Choice,
    Count,
    Duration,
    Name,
    Rate,
    Section,
    Switchable,
    Zero,
    knob,
)
from turnout.config.places import Bind

KIND: Final = "Which system it is."


class Tail(Section):
    """When the old side may go: clients come by what they remember of DNS long after it has
    changed. `off`: nobody looks, and a switchover ends once the change is in sync."""

    below: Annotated[model.Rate, Rate("1/h", "1000000/s")] = knob(
        "1/min",
        "It is over once fewer requests than this come by the old way in each such span, for as "
        "long as `for`, and the time to live of what clients were told has passed.",
    )
    for_: Annotated[float, Duration("1s", "7d")] = knob(
        "5m", "For so long there must have been fewer than `below`.", alias="for"
    )
    timeout: Annotated[float, Duration("1s", "30d", Zero.NO_LIMIT)] = knob(
        "1h",
        "A tail that is not over by then fails the switchover, with its weights where they are: "
        "the old side must not be removed yet.",
    )
    listeners: dict[Annotated[str, Name()], tuple[Annotated[Address, Bind()], ...]] = knob(
        {},
        "Upstream -> which `listeners` of this Turnout its address leads to, as their `bind` has "
        "it: requests that come in there are the tail. Left out: no request is counted, and the "
        "time to live alone is waited for.",
    )

    networks: Annotated[int, Count("1", "100000")] = knob(
        1000,
        "So many client networks are told apart, those that most requests came from; the rest is "
        "counted as `other`.",
    )

    def to_model(self) -> model.TailPolicy:
        return model.TailPolicy(
            below=self.below,
            for_s=self.for_,
            timeout_s=self.timeout,
            listeners={name: tuple(map(str, binds)) for name, binds in self.listeners.items()},
            networks=self.networks,
        )


class OuterSection(Section):
    """A system in front of Turnout that a switchover moves too."""

    module: ClassVar[str]
    library: ClassVar[str] = ""
    """What `module` imports and Turnout need not have been installed with, as Python names it."""
    paced: ClassVar[tuple[float, int]] = (5.0, 10)
    """Calls a second, and how many at once, of this kind over all services."""

    order: Annotated[model.OuterOrder, Choice(model.OuterOrder)] = knob(
        "outer_first",
        "On the way to an upstream: which moves first at each step, this system or the proxy's "
        "own weights. On the way back the proxy's own are always first, as they need an instant.",
    )
    in_sync_timeout: Annotated[float, Duration("1s", "1d")] = knob(
        "5m",
        "A change that is not in sync by then is unknown: the switchover fails, weights stay "
        "where they are, and nothing is taken back.",
    )
    retry_for: Annotated[float, Duration("1s", "1h")] = knob(
        "2m",
        "How long a call that was throttled, refused for its credentials or not answered is "
        "tried again.",
    )
    call_timeout: Annotated[float, Duration("100ms", "5m")] = knob(
        "10s", "How long one call may take."
    )
    tail: Annotated[Tail | None, Switchable()] = knob("off", "When the old side may go.")

    def conflicts(self, upstreams: Sequence[str]) -> Iterator[tuple[Place, str]]:
        """Say what does not go together in it, or with the service's upstreams: where, from
        this section on, and what to write."""
        yield from ()

    @property
    def target(self) -> tuple[object, ...]:
        """What it moves: its own settings, without how it is moved."""
        common = OuterSection.model_fields
        own = (name for name in type(self).model_fields if name not in common)
        return tuple((name, repr(getattr(self, name))) for name in sorted(own))

    def to_model(self, kind: str) -> model.Outer:
        return model.Outer(
            kind=kind,
            order=self.order,
            in_sync_timeout_s=self.in_sync_timeout,
            retry_s=self.retry_for,
            call_timeout_s=self.call_timeout,
            tail=self.tail.to_model() if self.tail else None,
            settings=self,
        )


class DiscoverSection(Section):
    """Where an upstream's servers are known, instead of `servers`."""

    module: ClassVar[str]
    library: ClassVar[str] = ""
    """What `module` imports and Turnout need not have been installed with, as Python names it."""
    paced: ClassVar[tuple[float, int]] = (5.0, 10)

    call_timeout: Annotated[float, Duration("100ms", "5m")] = knob(
        "10s", "How long one call may take."
    )
    min_interval: Annotated[float, Duration("100ms", "10m")] = knob(
        "1s",
        "At most one change of the servers in so long: what is found in between is put together.",
    )
    retry_max: Annotated[float, Duration("1s", "1h")] = knob(
        "30s",
        "A source that is lost is tried again after a second, then after ever longer, up to this.",
    )

    def to_model(self, kind: str) -> model.Discover:
        return model.Discover(kind, self.call_timeout, self, self.min_interval, self.retry_max)


class GateSection(Section):
    """A condition that must hold before a step of a switchover takes weight to its target."""

    module: ClassVar[str]
    library: ClassVar[str] = ""
    """What `module` imports and Turnout need not have been installed with, as Python names it."""
    paced: ClassVar[tuple[float, int]] = (5.0, 10)

    interval: Annotated[float, Duration("100ms", "1h")] = knob(
        "10s", "How often it is asked while it does not pass."
    )
    failures: Annotated[int, Count("1", "1000")] = knob(
        1, "So many times in a row it must fail for the switchover to fail."
    )
    patience: Annotated[float, Duration("1s", "7d")] = knob(
        "10m",
        "How long it may be inconclusive, or not to be asked, before the switchover fails.",
    )
    call_timeout: Annotated[float, Duration("100ms", "5m")] = knob(
        "10s", "How long one call may take."
    )

    def conflicts(self) -> Iterator[tuple[Place, str]]:
        """Say what does not go together in it: where, from this section on, and what to write."""
        yield from ()

    def to_model(self, name: str, kind: str) -> model.Gate:
        return model.Gate(
            name=name,
            kind=kind,
            interval_s=self.interval,
            failures=self.failures,
            patience_s=self.patience,
            call_timeout_s=self.call_timeout,
            settings=self,
        )
