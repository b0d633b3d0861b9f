"""Pure: a seed -> the changes of a run, without end, the same for the same seed.

The first ones are always the same, so that a short run has each kind.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Do(StrEnum):
    ATOMIC = "atomic switch"
    STEPPED = "stepped switch"
    WEIGHTS = "weights by hand"
    ROLLBACK = "rollback"
    """Of the change before it, which has ended."""
    TURN_BACK = "stepped switch, rolled back midway"
    HELD = "atomic switch under hold"
    RELOAD = "reload"


@dataclass(frozen=True, slots=True)
class Step:
    """`first_hundredths`: weight of the first upstream, for WEIGHTS."""

    do: Do
    first_hundredths: int = 0


ALWAYS: Final = (
    Step(Do.ATOMIC), Step(Do.ROLLBACK), Step(Do.STEPPED), Step(Do.RELOAD), Step(Do.ATOMIC),
    Step(Do.WEIGHTS, 3333), Step(Do.TURN_BACK), Step(Do.ATOMIC), Step(Do.HELD),
)  # fmt: skip
_SHARES: Final = {
    Do.ATOMIC: 8, Do.STEPPED: 2, Do.WEIGHTS: 3, Do.ROLLBACK: 3, Do.TURN_BACK: 1, Do.HELD: 1,
    Do.RELOAD: 2,
}  # fmt: skip
_MOVES_ALL: Final = (Do.ATOMIC, Do.STEPPED, Do.HELD)


def plan(seed: int) -> Iterator[Step]:
    """The steps, without end. A rollback comes only behind what can be rolled back."""
    yield from ALWAYS
    dice = random.Random(seed)
    last = ALWAYS[-1].do
    while True:
        do = dice.choices(list(_SHARES), list(_SHARES.values()))[0]
        if do is Do.ROLLBACK and last not in _MOVES_ALL:
            do = Do.ATOMIC
        yield Step(do, dice.randrange(10_001) if do is Do.WEIGHTS else 0)
        last = do
