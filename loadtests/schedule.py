"""Pure: a seed -> the changes of a run, without end, the same for the same seed.

The first ones are always the same, so that a short run has each kind. A `campaign` has so many
of each sort that was asked for, and an end.
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
    CHANGED = "reload of a change"
    """Each time another part of the configuration."""
    KILLED = "atomic switch, control killed amid it"


@dataclass(frozen=True, slots=True)
class Step:
    """`first_hundredths`: weight of the first upstream, for WEIGHTS."""

    do: Do
    first_hundredths: int = 0
    after_s: float = 0.0
    """From the call to the kill, for KILLED."""


@dataclass(frozen=True, slots=True)
class Counts:
    """How often each is done in a campaign; all 0: it is not one."""

    switches: int = 0
    reloads: int = 0
    control_kills: int = 0

    def __bool__(self) -> bool:
        return bool(self.switches or self.reloads or self.control_kills)


EVERYTHING: Final = Counts()
"""Not a campaign."""

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


KILL_WITHIN_S: Final = 0.03
"""A switch takes some milliseconds: most are killed amid it, some before and some behind."""


def campaign(seed: int, counts: Counts) -> list[Step]:
    """So many switches of all kinds, reloads and kills, in any order; two switches first, so
    that there is something to prove."""
    dice = random.Random(seed)
    sorts = [
        *["switch"] * counts.switches,
        *["reload"] * counts.reloads,
        *["kill"] * counts.control_kills,
    ]
    dice.shuffle(sorts)
    kinds = {do: share for do, share in _SHARES.items() if do is not Do.RELOAD}
    steps = [Step(Do.ATOMIC), Step(Do.ROLLBACK)]
    for sort in sorts:
        if sort == "reload":
            steps.append(Step(Do.CHANGED))
        elif sort == "kill":
            steps.append(Step(Do.KILLED, after_s=dice.uniform(0, KILL_WITHIN_S)))
        else:
            do = dice.choices(list(kinds), list(kinds.values()))[0]
            if do is Do.ROLLBACK and steps[-1].do not in _MOVES_ALL:
                do = Do.ATOMIC
            steps.append(Step(do, dice.randrange(10_001) if do is Do.WEIGHTS else 0))
    return steps
