"""Draining, on workers in memory and a clock that is turned by hand."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import pytest

from tests.control.in_memory import MemoryWorkers
from turnout.config.model import DrainPolicy
from turnout.control.drain import ANSWER_TIMEOUT_S, Drainage, Drainer
from turnout.control.ports import CutResult
from turnout.proxy.scoreboard import ExchangeClass, RoutingWord

POLICY = DrainPolicy(timeout_s=30.0, tunnels_s=90.0)
BLUE = Drainage(slot=1, upstream=0, epoch=5, since=100.0)


class Clock:
    """Goes on by `pace_s` each time it is looked at."""

    def __init__(self, pace_s: float) -> None:
        self.at = 100.0
        self.pace_s = pace_s

    def __call__(self) -> float:
        self.at += self.pace_s
        return self.at


@pytest.fixture
def workers() -> MemoryWorkers:
    made = MemoryWorkers(Clock(0.5))
    made.words[1] = RoutingWord(False, 0, 4)
    made.seen = {0: 5, 1: 5}
    return made


def drainer(workers: MemoryWorkers) -> Drainer:
    return Drainer(workers, workers.now, tick_s=0.0)


def keep(cut: list[Mapping[str, Any]]) -> Callable[[Sequence[Mapping[str, Any]]], Awaitable[None]]:
    async def on_cut(entries: Sequence[Mapping[str, Any]]) -> None:
        cut.extend(entries)

    return on_cut


async def test_each_class_has_its_deadline(workers: MemoryWorkers) -> None:
    for kind in ExchangeClass:
        workers.request(1, kind)
    cut: list[Mapping[str, Any]] = []
    await drainer(workers).drain(BLUE, POLICY, keep(cut))
    assert [entry["class"] for entry in cut] == ["plain", "upload", "sse", "tunnel"]
    assert workers.now.at >= 190.0
    assert workers.replaced == []


async def test_what_ends_in_time_is_not_cut(workers: MemoryWorkers) -> None:
    await drainer(workers).drain(BLUE, POLICY, keep([]))
    assert workers.now.at < 130.0


async def test_deadlines_that_are_over_after_a_crash_cut_at_once(workers: MemoryWorkers) -> None:
    workers.request(1)
    workers.now.at = 1000.0
    cut: list[Mapping[str, Any]] = []
    await drainer(workers).drain(BLUE, POLICY, keep(cut))
    assert len(cut) == 1
    assert workers.now.at < 1010.0


async def test_what_asked_for_the_old_upstream_after_the_flip_ends_too(
    workers: MemoryWorkers,
) -> None:
    workers.words[1] = RoutingWord(False, 10_000, 5)
    workers.request(1, upstream=0)
    cut: list[Mapping[str, Any]] = []
    await drainer(workers).drain(BLUE, POLICY, keep(cut))
    assert len(cut) == 1
    assert workers.now.at >= 130.0 + ANSWER_TIMEOUT_S
    assert workers.replaced == []


async def test_a_worker_that_does_not_answer_is_replaced(workers: MemoryWorkers) -> None:
    for _ in range(2):
        workers.request(1)
    workers.deaf.add(1)
    cut: list[Mapping[str, Any]] = []
    await drainer(workers).drain(BLUE, POLICY, keep(cut))
    assert (len(cut), workers.replaced) == (1, [1])


class StubbornWorkers(MemoryWorkers):
    """They say that they cut, and do not."""

    async def cut(self, *_: Any, **__: Any) -> Any:
        return CutResult()


async def test_workers_that_keep_what_they_were_to_cut_are_replaced() -> None:
    workers = StubbornWorkers(Clock(0.5))
    workers.words[1] = RoutingWord(False, 0, 4)
    workers.seen = {0: 5, 1: 5}
    workers.request(1)
    await drainer(workers).drain(BLUE, POLICY, keep([]))
    assert workers.replaced == [0]


async def test_the_grace_period_replaces_who_never_looked(workers: MemoryWorkers) -> None:
    workers.seen[1], workers.newest_epoch = 4, 5
    assert await drainer(workers).grace(5, until=110.0) == 1
    assert workers.replaced == [1]
    assert await drainer(workers).grace(5, until=110.0) == 0


async def test_closing_idle_connections_replaces_who_does_not_answer(
    workers: MemoryWorkers,
) -> None:
    workers.deaf.add(0)
    await drainer(workers).close_idle(1, 0)
    assert (workers.idle_closed, workers.replaced) == ([(1, 0)], [0])
