"""Decisions reach the words in the order of their epochs, whoever waits for them."""

import asyncio
from dataclasses import replace

import pytest

from tests.control.in_memory import MemoryWorkers
from turnout.control.rows import ServiceRow
from turnout.control.words import Words

ROW = ServiceRow(1, "shop", "blue", "green", 0, 0, False, None, {}, 1)


class Decisions:
    """A store that gives out epochs at once and returns from them out of order."""

    def __init__(self) -> None:
        self.epoch = 0
        self.doors: dict[int, asyncio.Event] = {}

    async def decide(self) -> ServiceRow:
        self.epoch += 1
        epoch = self.epoch
        door = self.doors.setdefault(epoch, asyncio.Event())
        await door.wait()
        return replace(ROW, epoch=epoch, second_weight=epoch)

    def open(self, epoch: int) -> None:
        self.doors.setdefault(epoch, asyncio.Event()).set()


async def test_a_later_decision_waits_for_the_word_of_an_earlier_one() -> None:
    workers, decisions = MemoryWorkers(lambda: 0.0), Decisions()
    words = Words(workers)
    decisions.open(2)
    both = asyncio.gather(*(words.publish(decisions.decide) for _ in range(2)))
    await asyncio.sleep(0.01)
    assert workers.history == []
    decisions.open(1)
    await both
    assert [epoch for _, _, epoch in workers.history] == [1, 2]


async def test_a_decision_is_published_though_nobody_waits_any_more() -> None:
    workers, decisions = MemoryWorkers(lambda: 0.0), Decisions()
    words = Words(workers)
    publishing = asyncio.ensure_future(words.publish(decisions.decide))
    await asyncio.sleep(0.01)
    publishing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await publishing
    decisions.open(1)
    await words.close()
    assert workers.history == [(1, 1, 1)]


async def test_a_decision_that_could_not_be_made_sets_no_word() -> None:
    workers = MemoryWorkers(lambda: 0.0)
    words = Words(workers)

    async def refused() -> ServiceRow:
        raise RuntimeError("the disk is full")

    with pytest.raises(RuntimeError):
        await words.publish(refused)
    assert workers.history == []
    await words.close()
