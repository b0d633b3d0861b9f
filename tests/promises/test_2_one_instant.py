"""Promise 2: a switch takes effect in every worker at one instant.

By causal order: clients and the switching script share one loop and one sequence of events. No
request that began after an answer of the new upstream had ended may be answered by the old.
"""

import asyncio
from collections.abc import Callable

import pytest

from tests.harness import bench
from tests.load import Load, Sample, Switch, backwards, failures, proven

KEPT, FRESH = 12, 4
SEEN_EARLY, BEGUN_EARLY = 50, 200
"""So much has to be looked at for a clean result to mean something: see `proven`."""
SWITCHES_MAX = 1000
"""By then it has been: a switch is quicker, or this test slower, than the promise needs."""

# Control writes one word, and each worker looks at it for each request. A worker that looks
# now and then only is as most proxies are: told by message, at its own time.
LOOKS_NOW_AND_THEN = """
import time
from turnout.proxy import exchange

class NowAndThen:
    def __init__(self, words):
        self.words, self.copy, self.at_s = words, {}, 0.0

    def __getitem__(self, index):
        now_s = time.monotonic()
        if now_s - self.at_s > 0.1:
            self.copy, self.at_s = {}, now_s
        return self.copy.setdefault(index, self.words[index])

pick = exchange.Exchange.pick

def pick_late(self):
    worker = self.worker
    if not isinstance(worker.routing, NowAndThen):
        worker.routing = NowAndThen(worker.routing)
    pick(self)

exchange.Exchange.pick = pick_late
"""


async def run(
    workers: int, enough: Callable[[list[Sample], list[Switch]], bool], fault: str = ""
) -> tuple[list[Sample], list[Switch]]:
    """Switch to and fro under load until it is `enough`, asked after every 20."""
    faults = {"turnout.proxy.worker": fault} if fault else None
    async with bench(workers=workers, faults=faults) as at:
        load = Load(lambda: at.product.address, pause_s=0.0)
        done: list[Switch] = []
        async with load.running(KEPT, FRESH):
            await load.more(50)
            for number in range(SWITCHES_MAX):
                if number % 20 == 0 and enough(load.samples, done):
                    break
                to = "green" if number % 2 == 0 else "blue"
                asked = load.clock.tick()
                answer = await at.product.api.switch(to)
                assert answer["state"] == "completed", answer
                done.append(Switch(to, asked, load.clock.tick()))
                await asyncio.sleep(0)
        return load.samples, done


@pytest.mark.parametrize("workers", [1, 3])
async def test_no_request_is_routed_as_before_once_anybody_saw_the_switch(workers: int) -> None:
    def enough(samples: list[Sample], switches: list[Switch]) -> bool:
        counts = proven(samples, switches)
        return counts["seen_early"] >= SEEN_EARLY and counts["begun_early"] >= BEGUN_EARLY

    samples, switches = await run(workers, enough)
    assert not failures(samples), failures(samples)[:5]
    assert backwards(samples, switches) == []
    assert enough(samples, switches), (len(switches), proven(samples, switches))


async def test_workers_that_learn_of_a_switch_by_and_by_are_found_out() -> None:
    """The promise broken on purpose: each worker looks at its routing word every 100 ms."""

    def found(samples: list[Sample], switches: list[Switch]) -> bool:
        return bool(backwards(samples, switches))

    samples, switches = await run(3, found, LOOKS_NOW_AND_THEN)
    assert found(samples, switches), f"not in {len(switches)} switches"


# ---------------------------------------------------------------- the checker


def sample(id: str, began: int, ended: int, upstream: str) -> Sample:
    return Sample(id, began, ended, upstream, 200)


SWITCHED = [Switch("green", 10, 30), Switch("blue", 50, 70)]


def test_the_checker_finds_a_request_of_before_after_one_of_the_new() -> None:
    trace = [sample("new", 11, 14, "green"), sample("late", 15, 18, "blue")]
    (found,) = backwards(trace, SWITCHED)
    assert found.startswith("late began at 15")


def test_the_checker_lets_requests_that_overlap_be() -> None:
    trace = [
        sample("before", 1, 9, "blue"),
        sample("new", 11, 14, "green"),
        sample("overlaps", 13, 20, "blue"),
        sample("after", 15, 20, "green"),
        sample("next", 51, 60, "blue"),
    ]
    assert backwards(trace, SWITCHED) == []


def test_the_checker_takes_no_answer_of_an_earlier_switch_for_a_new_one() -> None:
    # Begun before the last switch to blue was over: green may have been right.
    trace = [sample("old", 45, 75, "green"), sample("blue", 76, 80, "blue")]
    assert backwards(trace, [*SWITCHED, Switch("green", 90, 95)]) == []
