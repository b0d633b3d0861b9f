"""Weights: which share of a service's new requests each of its two upstreams gets.

A share is a whole number of *hundredths of a percent*, 0..10000. What comes in as a
percentage with two decimals is read as a decimal number, so that no share is ever off by
a rounding error.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Final, TypeAlias

WHOLE: Final = 10_000
"""100 %, in hundredths of a percent."""

Percentage: TypeAlias = int | float | str | Decimal
"""As JSON, the command line or a file gives it."""


def hundredths(percent: Percentage) -> int:
    """Turn a percentage with at most two decimals into hundredths of a percent, exactly.

    Raises ValueError for anything else than 0..100 in steps of 0.01.
    """
    try:
        # Through str(): the shortest text of the float 99.99 is 99.99, its exact value is not.
        value = Decimal(str(percent)) * 100
    except InvalidOperation:
        raise ValueError(f"weight {percent!r} is no number; expected 0 to 100") from None
    if not (value.is_finite() and 0 <= value <= WHOLE):
        raise ValueError(f"weight {percent} is out of range; expected 0 to 100")
    if value != value.to_integral_value():
        raise ValueError(f"weight {percent} is too fine; expected at most two decimals")
    return int(value)


def percent(hundredths: int) -> int | float:
    """The inverse of `hundredths`: 10000 is 100, 9975 is 99.75; whole numbers as int."""
    return hundredths // 100 if hundredths % 100 == 0 else hundredths / 100


@dataclass(frozen=True, slots=True)
class Weights:
    """Which share of new requests each of a service's two upstreams gets; sums to 100 %."""

    first: str
    second: str
    second_weight: int
    """Hundredths of a percent, 0..10000; the first upstream has the rest."""

    def __post_init__(self) -> None:
        if not 0 <= self.second_weight <= WHOLE:
            raise ValueError(f"second_weight is {self.second_weight}; expected 0..{WHOLE}")
        if self.first == self.second:
            raise ValueError(f"both upstreams are named {self.first!r}; expected two names")

    @classmethod
    def all_on(cls, first: str, second: str, active: str) -> "Weights":
        """All of the traffic on `active`. Raises ValueError if it is neither of the two."""
        return cls(first, second, 0).with_share(active, WHOLE)

    @classmethod
    def of_percent(
        cls, first: str, second: str, percentages: Mapping[str, Percentage]
    ) -> "Weights":
        """Weights from percentages by name, as the API and the command line give them.

        Raises ValueError unless both upstreams and no other are named, each value is
        0..100 with at most two decimals, and the sum is exactly 100.
        """
        for name in percentages:
            if name not in (first, second):
                raise ValueError(f"unknown upstream {name!r}; expected {first} and {second}")
        for name in (first, second):
            if name not in percentages:
                raise ValueError(f"the weight of {name} is missing; expected {first} and {second}")
        shares = [hundredths(percentages[name]) for name in (first, second)]
        if sum(shares) != WHOLE:
            raise ValueError(f"weights sum to {percent(sum(shares))}; expected 100")
        return cls(first, second, shares[1])

    def share(self, name: str) -> int:
        """Hundredths of a percent of the upstream `name`; ValueError if it is unknown."""
        if name == self.second:
            return self.second_weight
        if name == self.first:
            return WHOLE - self.second_weight
        raise ValueError(f"unknown upstream {name!r}; expected {self.first} or {self.second}")

    def with_share(self, name: str, share: int) -> "Weights":
        """The same two upstreams with `share` hundredths on `name`, the rest on the other."""
        self.share(name)
        second_weight = share if name == self.second else WHOLE - share
        return Weights(self.first, self.second, second_weight)

    def other(self, name: str) -> str:
        """The upstream that is not `name`; ValueError if `name` is unknown."""
        self.share(name)
        return self.first if name == self.second else self.second

    @property
    def active(self) -> str | None:
        """The upstream that has 100 %; none while weights are split."""
        if self.second_weight == 0:
            return self.first
        return self.second if self.second_weight == WHOLE else None

    def percentages(self) -> dict[str, int | float]:
        """As the API shows them: `{"blue": 90.25, "green": 9.75}`."""
        return {name: percent(self.share(name)) for name in (self.first, self.second)}

    def __str__(self) -> str:
        return " ".join(f"{name}={share}" for name, share in self.percentages().items())
