"""Faults of upstreams and workers in each phase of a switchover, under load, three ledgers held
against each other: whatever ends badly is explained by the fault, and counted as what it is.

`make test` has each fault once and each phase at least once, by a seed; `make faults` has all
combinations. TURNOUT_FAULTS is `all`, or another seed.
"""

import itertools
import os
import random
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import pytest
import pytest_asyncio

from loadtests.faults import OF_UPSTREAM, OF_WORKER, OTHER_PROGRAM, Fault
from tests.faults.phases import PHASES
from tests.faults.under_load import Harness, harness

CHOSEN: Final = os.environ.get("TURNOUT_FAULTS", "1")

ENDS: Final = {
    # Whose fault -> phase -> how the switchover may end.
    "source": {
        "preparing": {"completed"},
        "checking": {"completed"},
        "shifting": {"completed"},
        "draining": {"completed"},
        # There may be no way back: then it says so, and the weights stay.
        "rolling_back": {"rolled_back", "failed"},
    },
    "target": {
        # It may be found before it has any weight, after, or not at all: a probe takes its time.
        "preparing": {"completed", "failed", "rolled_back"},
        "checking": {"completed", "failed", "rolled_back"},
        "shifting": {"completed", "rolled_back"},
        "draining": {"completed", "rolled_back"},
        "rolling_back": {"rolled_back"},
    },
}
ENDS["worker"] = ENDS["source"] | {"rolling_back": {"rolled_back"}}
SHOWS: Final = ("killed", "stopped", "refusing", "resetting", "hanging", "full")
"""Of a whole source that has all traffic, clients notice these."""


@dataclass(frozen=True, slots=True)
class Combination:
    """One case to run."""

    fault: Fault
    phase: str
    target: bool
    whole: bool

    def __str__(self) -> str:
        words = [self.fault.name.replace(" ", "_"), self.phase]
        if not self.fault.of_worker:
            words += ["target" if self.target else "source", "all" if self.whole else "one"]
        return "-".join(words)

    @property
    def whose(self) -> str:
        return "worker" if self.fault.of_worker else "target" if self.target else "source"


def everything() -> Iterator[Combination]:
    sides = ((True, True), (False, True), (True, False), (False, False))
    for fault, phase, (target, whole) in itertools.product(OF_UPSTREAM, PHASES, sides):
        yield Combination(fault, phase, target, whole)
    for fault, phase in itertools.product((*OF_WORKER, OTHER_PROGRAM), PHASES):
        # A worker that starts slowly is what `preparing` waits for; no reload can end before.
        if fault.name != "more and fewer workers" or phase != "preparing":
            yield Combination(fault, phase, False, False)


def sample(seed: int) -> Iterator[Combination]:
    """Each fault once and each phase at least once; the rest by chance."""
    dice = random.Random(seed)
    known = list(everything())
    for faults in (OF_UPSTREAM, OF_WORKER):
        phases = [phase for _ in faults for phase in dice.sample(list(PHASES), len(PHASES))]
        for fault, wanted in zip(faults, phases, strict=False):
            fitting = [one for one in known if one.fault is fault and one.phase == wanted]
            yield dice.choice(fitting or [one for one in known if one.fault is fault])


def combinations() -> list[Combination]:
    return list(everything() if CHOSEN == "all" else sample(int(CHOSEN)))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage() -> AsyncIterator[Harness]:
    async with harness() as running:
        yield running


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("combination", combinations(), ids=str)
async def test_a_fault_in_a_phase_of_a_switchover(stage: Harness, combination: Combination) -> None:
    one = combination
    case = await stage.run(one.fault, one.phase, target=one.target, whole=one.whole, seed=1)
    print(case)
    assert case.wrong() == []
    assert case.state in ENDS[one.whose][one.phase], case
    weights = {"completed": (0.0, 100.0), "rolled_back": (100.0, 0.0)}.get(case.state)
    if weights is not None:
        assert (case.weights[case.source], case.weights[case.target]) == weights
    assert case.verdict.requests > 100
    early = one.phase in ("preparing", "checking")
    if one.whose == "source" and one.whole and early and one.fault.name in SHOWS:
        assert case.verdict.explained, "nobody noticed the fault: nothing is proved"


async def test_workers_are_killed_again_and_again() -> None:
    """Nothing is lost but what the killed ones held, each of it named."""
    kills = 100 if CHOSEN == "all" else 5
    # Else it would be started ever more slowly, as it dies so often.
    async with harness(workers=3, restarts_at_once=True) as stage:
        case = await stage.repeat(OF_WORKER[0], kills, seed=2)
        print(case, case.died)
        assert case.wrong() == []
        assert sum(fault.workers for fault in case.done.disturbances) == kills
        assert case.died >= kills // 2, "they held hardly anything: little is proved"


def test_the_sample_has_each_fault_and_each_phase() -> None:
    for seed in range(20):
        found = list(sample(seed))
        assert {one.fault for one in found} == {*OF_UPSTREAM, *OF_WORKER}
        assert {one.phase for one in found} == set(PHASES)
        assert set(found) <= set(everything())


def test_everything_is_every_fault_in_every_phase() -> None:
    known: Sequence[Combination] = list(everything())
    assert len(known) == len(set(known)) == 9 * 5 * 4 + 8 * 5 - 1
