"""The executor on the real store, with workers and health in memory."""

import asyncio
import re
import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.control.in_memory import MemoryProber, MemoryTables, MemoryWorkers
from turnout.config.loader import load_text
from turnout.config.model import Configuration
from turnout.control import receipt, switchover
from turnout.control.clock import Clock
from turnout.control.compiler import service_names
from turnout.control.events import Event
from turnout.control.executor import Executor
from turnout.control.journal import Journal
from turnout.control.outer.layers import OuterLayers
from turnout.control.ports import Tails
from turnout.control.refusals import (
    BadServers,
    BadWeights,
    IllegalVerb,
    NothingToRollBack,
    Refusal,
    RevisionIsStale,
    SwitchoverUnderWay,
    TableRefused,
    Unhealthy,
    UnknownService,
    UnknownStrategy,
    UnknownSwitchover,
    UnknownUpstream,
)
from turnout.control.store import Author, Database, Note, Store
from turnout.control.switchover import State, Switchover
from turnout.proxy.scoreboard import ExchangeClass, HealthWord, RoutingWord

CI = Author("ci", "127.0.0.1", "v42")
ATOMIC = """
listeners: [{bind: "127.0.0.1:8080"}]
services:
  shop:
    upstreams: {blue: {servers: ["127.0.0.1:9001"]}, green: {servers: ["127.0.0.1:9002"]}}
    health: {path: /, interval: 100ms, timeout: 50ms, rise: 2}
    drain: {timeout: 300ms, tunnels: 600ms}
    hold: {timeout: 200ms}
    switchover:
      strategies:
        careful: {steps: [10, 50, 100], pause: 1h}
        quick: {steps: [10, 50, 100], pause: 0}
"""


def configured(text: str = ATOMIC) -> Configuration:
    return load_text(text, base=Path("/srv"), environ={})


@dataclass
class Bench:
    """An executor with what it works on."""

    executor: Executor
    workers: MemoryWorkers
    prober: MemoryProber
    tables: MemoryTables
    store: Store
    told: list[Event] = field(default_factory=list)

    async def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 5
        while not condition():
            assert time.monotonic() < deadline, "waited 5 s in vain"
            await asyncio.sleep(0.002)

    async def ended(self, value: Switchover) -> Switchover:
        return await asyncio.wait_for(self.executor.wait(value.id), 5)

    async def until_state(self, id: str, state: State) -> Switchover:
        async with asyncio.timeout(5):
            while (value := await self.executor.get(id)).state is not state:
                await asyncio.sleep(0.005)
        return value

    async def until_held(self, id: str) -> Switchover:
        """Until a step is acknowledged and waits for its time."""
        async with asyncio.timeout(5):
            while (value := await self.executor.get(id)).next_step_at is None:
                await asyncio.sleep(0.005)
        return value

    async def receipt(self, id: str) -> dict[str, object]:
        found = await self.store(Database.receipt, id)
        assert found is not None
        assert receipt.verify(found) == []
        return found

    @property
    def names(self) -> list[str]:
        return [event.NAME for event in self.told]

    @property
    def weights(self) -> list[int]:
        return [weight for _, weight, _ in self.workers.history]


@asynccontextmanager
async def opened(
    path: Path,
    workers: MemoryWorkers | None = None,
    prober: MemoryProber | None = None,
    configuration: Configuration | None = None,
    layers: Callable[[Store, Journal], OuterLayers] | None = None,
    tails: Tails | None = None,
) -> AsyncIterator[Bench]:
    configuration = configuration or configured()
    store = Store.open(path / "turnout.db")
    told: list[Event] = []
    workers = workers or MemoryWorkers(time.time)
    prober = prober or MemoryProber()
    tables = MemoryTables()
    rows = await store(
        Database.ensure_services, service_names(configuration), time.time(), live=False
    )
    for row in rows:
        workers.words.setdefault(row.slot, RoutingWord(row.held, row.second_weight, row.epoch))
    journal = Journal(store, told.append, time.time)
    executor = Executor(
        store=store,
        workers=workers,
        prober=prober,
        tables=tables,
        journal=journal,
        outer=layers(store, journal) if layers is not None else None,
        tails=tails,
        configuration=configuration,
        clock=Clock(time.time),
        tick_s=0.005,
    )
    await executor.recover()
    try:
        yield Bench(executor, workers, prober, tables, store, told)
    finally:
        await executor.close()
        store.close()


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with opened(tmp_path) as made:
        yield made


# ---------------------------------------------------------------- the way it should go


async def test_a_switch_with_nothing_to_wait_for_waits_for_the_disk_once(bench: Bench) -> None:
    commits_before_the_flip: list[str] = []

    def trace(statement: str) -> None:
        if statement == "COMMIT" and not bench.workers.history:
            commits_before_the_flip.append(statement)

    bench.store._opened()._connection.set_trace_callback(trace)
    started = await bench.executor.start("shop", "green", CI)
    assert started.state is State.SHIFTING
    await bench.ended(started)
    assert commits_before_the_flip == ["COMMIT"]


async def test_an_atomic_switch_moves_everything_in_one_word(bench: Bench) -> None:
    started = await bench.executor.start("shop", "green", CI)
    assert started.id
    ended = await bench.ended(started)
    assert (ended.state, bench.weights) == (State.COMPLETED, [10_000])
    assert bench.workers.idle_closed == [(1, 0)]
    assert bench.names == [
        "switchover.started",
        "switchover.preparing",
        "switchover.checking",
        "switchover.shifting",
        "service.weights_changed",
        "switchover.draining",
        "switchover.completed",
    ]


async def test_old_requests_finish_where_they_started_and_the_receipt_counts_them(
    bench: Bench,
) -> None:
    old = [bench.workers.request(1), bench.workers.request(1, ExchangeClass.TUNNEL)]
    started = await bench.executor.start("shop", "green", CI)
    await bench.until_state(started.id, State.DRAINING)
    new = bench.workers.request(1)
    assert new.upstream == 1
    bench.workers.answer(new)
    for exchange in old:
        bench.workers.answer(exchange)
    ended = await bench.ended(started)
    found = await bench.receipt(started.id)
    assert ended.state is State.COMPLETED
    assert found["in_flight_at_flip"] == {"plain": 1, "upload": 0, "sse": 0, "tunnel": 1}
    assert found["requests"] == {
        "accepted": 3,
        "answered_by_upstream": 3,
        "answered_by_proxy": 0,
        "client_aborted": 0,
        "cut": 0,
        "in_flight": 0,
    }
    assert found["requested_by"] == "ci"
    assert found["reason"] == "v42"


async def test_what_is_still_there_at_the_deadline_is_cut_and_named(bench: Bench) -> None:
    for kind in (ExchangeClass.PLAIN, ExchangeClass.TUNNEL):
        bench.workers.request(1, kind)
    began = time.monotonic()
    started = await bench.executor.start("shop", "green", CI)
    await bench.until(lambda: len(bench.workers.exchanges) == 1)
    assert time.monotonic() - began >= 0.29
    assert bench.workers.exchanges[0].kind is ExchangeClass.TUNNEL
    await bench.ended(started)
    assert time.monotonic() - began >= 0.59
    found = await bench.receipt(started.id)
    cut = found["cut"]
    assert isinstance(cut, list)
    assert [entry["class"] for entry in cut] == ["plain", "tunnel"]
    assert bench.names.count("exchanges.cut") == 2
    assert bench.workers.replaced == []


async def test_a_worker_that_never_looks_is_replaced_at_the_deadline(bench: Bench) -> None:
    bench.workers.request(1)
    bench.workers.request(1)
    bench.workers.deaf.add(1)
    started = await bench.executor.start("shop", "green", CI)
    ended = await bench.ended(started)
    assert ended.state is State.COMPLETED
    assert bench.workers.replaced == [1]
    found = await bench.receipt(started.id)
    assert isinstance(found["requests"], dict)
    assert found["requests"]["cut"] == 2


async def test_steps_follow_each_other_and_end_in_a_drain(bench: Bench) -> None:
    started = await bench.executor.start("shop", "green", CI, strategy="quick")
    ended = await bench.ended(started)
    assert (ended.state, bench.weights) == (State.COMPLETED, [1000, 5000, 10_000])
    steps = await bench.store(Database.steps, started.id)
    assert [(step.step, step.outcome) for step in steps] == [
        (0, "acknowledged"),
        (1, "acknowledged"),
        (2, "acknowledged"),
    ]


async def test_a_dry_run_stores_nothing(bench: Bench) -> None:
    planned = await bench.executor.start("shop", "green", CI, strategy="quick", dry_run=True)
    assert (planned.id, planned.steps) == ("", (1000, 5000, 10_000))
    assert await bench.store(Database.switchovers) == []
    assert bench.workers.history == []


async def test_to_where_everything_is_already_nothing_is_done(bench: Bench) -> None:
    answer = await bench.executor.start("shop", "blue", CI)
    assert (answer.id, answer.state) == ("", State.COMPLETED)
    bench.workers.request(1, upstream=1)
    drained = await bench.executor.start("shop", "blue", CI)
    assert drained.id
    assert (await bench.ended(drained)).state is State.COMPLETED
    assert bench.workers.exchanges == []


# ---------------------------------------------------------------- what is refused


async def test_a_second_switchover_is_refused_with_the_id_of_the_first(bench: Bench) -> None:
    first = await bench.executor.start("shop", "green", CI, strategy="careful")
    with pytest.raises(SwitchoverUnderWay) as refused:
        await bench.executor.start("shop", "green", CI)
    assert refused.value.id == first.id
    with pytest.raises(SwitchoverUnderWay):
        await bench.executor.set_weights("shop", {"blue": 50, "green": 50}, CI)


async def test_of_two_calls_at_once_one_wins(bench: Bench) -> None:
    answers = await asyncio.gather(
        *(bench.executor.start("shop", "green", CI, strategy="careful") for _ in range(4)),
        return_exceptions=True,
    )
    won = [answer for answer in answers if isinstance(answer, Switchover)]
    lost = [answer for answer in answers if isinstance(answer, SwitchoverUnderWay)]
    assert (len(won), len(lost)) == (1, 3)
    assert {refused.id for refused in lost} == {won[0].id}


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda e: e.start("shoe", "green", CI), UnknownService),
        (lambda e: e.start("shop", "red", CI), UnknownUpstream),
        (lambda e: e.start("shop", "green", CI, strategy="bold"), UnknownStrategy),
        (lambda e: e.start("shop", "green", CI, revision=999), RevisionIsStale),
        (lambda e: e.set_weights("shop", {"blue": 60, "green": 50}, CI), BadWeights),
        (lambda e: e.rollback("shop", CI), NothingToRollBack),
        (lambda e: e.pause("nothing", CI), UnknownSwitchover),
        (lambda e: e.hold("shop", CI, revision=999), RevisionIsStale),
        (lambda e: e.set_servers("shop", "green", ["nonsense"], CI), BadServers),
        (lambda e: e.set_servers("shop", "red", ["a:1"], CI), UnknownUpstream),
        (lambda e: e.set_servers("shop", "green", ["a:1", "a:1"], CI), BadServers),
    ],
)
async def test_a_wrong_wish_changes_nothing(
    bench: Bench, call: Callable[[Executor], object], error: type[Refusal]
) -> None:
    before = await bench.executor.service("shop")
    with pytest.raises(error):
        await call(bench.executor)  # type: ignore[misc]
    assert await bench.executor.service("shop") == before
    assert bench.workers.history == []


# ---------------------------------------------------------------- health


async def test_no_weight_rises_on_the_unhealthy(bench: Bench) -> None:
    bench.prober.set("green", HealthWord.UNHEALTHY)
    with pytest.raises(Unhealthy, match="green is unhealthy"):
        await bench.executor.start("shop", "green", CI)
    with pytest.raises(Unhealthy):
        await bench.executor.set_weights("shop", {"blue": 99.99, "green": 0.01}, CI)
    assert bench.workers.history == []


async def test_force_moves_it_and_the_record_says_who(bench: Bench) -> None:
    bench.prober.set("green", HealthWord.UNHEALTHY)
    started = await bench.executor.start("shop", "green", CI, force=True)
    ended = await bench.ended(started)
    assert (ended.state, bench.weights) == (State.COMPLETED, [10_000])
    assert (await bench.receipt(started.id))["forced_by"] == "ci"


async def test_waiting_for_health_ends_when_it_comes(bench: Bench) -> None:
    bench.prober.set("green", HealthWord.UNHEALTHY)
    started = await bench.executor.start("shop", "green", CI, wait_healthy_s=5)
    await bench.until_state(started.id, State.CHECKING)
    bench.prober.set("green", HealthWord.HEALTHY)
    assert (await bench.ended(started)).state is State.COMPLETED


async def test_a_target_that_is_never_probed_fails_the_check_and_moves_nothing(
    bench: Bench,
) -> None:
    bench.prober.set("green", HealthWord.UNKNOWN)
    began = time.monotonic()
    started = await bench.executor.start("shop", "green", CI)
    ended = await bench.ended(started)
    assert time.monotonic() - began >= 0.25  # rise 2 x 100 ms + 50 ms
    assert (ended.state, bench.workers.history) == (State.FAILED, [])
    assert (await bench.receipt(started.id))["requests"] == {
        "accepted": 0,
        "answered_by_upstream": 0,
        "answered_by_proxy": 0,
        "client_aborted": 0,
        "cut": 0,
        "in_flight": 0,
    }


async def test_a_target_that_turns_unhealthy_loses_its_weight_again(bench: Bench) -> None:
    started = await bench.executor.start("shop", "green", CI, strategy="careful")
    await bench.until(lambda: bench.weights == [1000])
    bench.prober.set("green", HealthWord.UNHEALTHY)
    ended = await bench.ended(started)
    assert (ended.state, bench.weights) == (State.ROLLED_BACK, [1000, 0])
    assert ended.outcome == "green is unhealthy"
    assert bench.workers.idle_closed == [(1, 1)]


async def test_a_target_with_errors_loses_its_weight_again(bench: Bench) -> None:
    started = await bench.executor.start("shop", "green", CI, strategy="careful")
    await bench.until(lambda: bench.weights == [1000])
    ending = asyncio.ensure_future(bench.ended(started))
    while not ending.done():  # what came before the watch's first sample is not in its window
        for _ in range(60):
            bench.workers.answer(bench.workers.request(1), status=500)
        await asyncio.sleep(0.02)
    ended = await ending
    assert (ended.state, bench.weights) == (State.ROLLED_BACK, [1000, 0])
    assert re.match(r"(\d+) of \1 requests to green failed", ended.outcome), ended.outcome


async def test_a_target_that_fails_while_the_old_one_drains_is_left_too(bench: Bench) -> None:
    held = bench.workers.request(1)
    started = await bench.executor.start("shop", "green", CI)
    await bench.until_state(started.id, State.DRAINING)
    bench.prober.set("green", HealthWord.UNHEALTHY)
    ended = await bench.ended(started)
    assert (ended.state, bench.weights) == (State.ROLLED_BACK, [10_000, 0])
    assert bench.workers.exchanges == [held]  # its upstream is the active one again


async def test_with_no_healthy_way_back_it_stays_and_fails(bench: Bench) -> None:
    started = await bench.executor.start("shop", "green", CI, strategy="careful")
    await bench.until(lambda: bench.weights == [1000])
    bench.prober.set("blue", HealthWord.UNHEALTHY)
    bench.prober.set("green", HealthWord.UNHEALTHY)
    ended = await bench.ended(started)
    assert (ended.state, bench.weights) == (State.FAILED, [1000])
    assert "no way back" in ended.outcome


# ---------------------------------------------------------------- steering


async def test_pause_keeps_the_weight_and_resume_goes_on(bench: Bench) -> None:
    bench.workers.prepare_gate = asyncio.Event()
    started = await bench.executor.start("shop", "green", CI)
    await bench.until_state(started.id, State.PREPARING)
    paused = await bench.executor.pause(started.id, CI)
    assert paused.state is State.PAUSED
    bench.workers.prepare_gate.set()
    with pytest.raises(IllegalVerb):
        await bench.executor.approve(started.id, CI)
    await bench.executor.resume(started.id, CI)
    assert (await bench.ended(started)).state is State.COMPLETED


async def test_a_verb_that_was_decided_on_an_older_value_changes_nothing(bench: Bench) -> None:
    started = await bench.executor.start("shop", "green", CI, strategy="careful")
    held = await bench.until_held(started.id)
    verbs = (bench.executor.pause, bench.executor.resume, bench.executor.approve)
    for verb in (*verbs, bench.executor.abort):
        with pytest.raises(RevisionIsStale):
            await verb(started.id, CI, revision=held.revision - 1)
    assert await bench.executor.get(started.id) == held
    # Of two that were decided on the same value, one is done.
    both = [bench.executor.pause(started.id, CI, revision=held.revision) for _ in range(2)]
    first, second = await asyncio.gather(*both, return_exceptions=True)
    assert isinstance(first, Switchover) and first.state is State.PAUSED
    assert isinstance(second, RevisionIsStale)
    row = (await bench.executor.service("shop")).row
    with pytest.raises(RevisionIsStale):
        await bench.executor.rollback("shop", CI, revision=row.revision - 1)
    assert (await bench.executor.get(started.id)) == first
    await bench.executor.rollback("shop", CI, revision=row.revision)
    ended = await bench.ended(started)
    assert ended.state is State.ROLLED_BACK
    with pytest.raises(RevisionIsStale):
        await bench.executor.abort(started.id, CI, revision=held.revision)


async def test_abort_restores_the_weights_before(bench: Bench) -> None:
    started = await bench.executor.start("shop", "green", CI, strategy="careful")
    await bench.until(lambda: bench.weights == [1000])
    await bench.executor.abort(started.id, CI)
    ended = await bench.ended(started)
    assert (ended.state, bench.weights) == (State.ABORTED, [1000, 0])
    with pytest.raises(IllegalVerb):
        await bench.executor.abort(started.id, CI)


async def test_abort_gives_no_weight_to_the_unhealthy(bench: Bench) -> None:
    started = await bench.executor.start("shop", "green", CI, strategy="careful")
    await bench.until(lambda: bench.weights == [1000])
    bench.prober.set("blue", HealthWord.UNHEALTHY)
    with pytest.raises(Unhealthy):
        await bench.executor.abort(started.id, CI)
    assert bench.weights == [1000]


async def test_rollback_while_one_is_under_way_keeps_its_id(bench: Bench) -> None:
    started = await bench.executor.start("shop", "green", CI, strategy="careful")
    await bench.until(lambda: bench.weights == [1000])
    answer = await bench.executor.rollback("shop", CI)
    assert (answer.id, answer.state) == (started.id, State.ROLLING_BACK)
    assert (await bench.ended(started)).state is State.ROLLED_BACK


async def test_rollback_goes_back_and_a_second_one_forward_again(bench: Bench) -> None:
    first = await bench.ended(await bench.executor.start("shop", "green", CI))
    back = await bench.ended(await bench.executor.rollback("shop", CI))
    forward = await bench.ended(await bench.executor.rollback("shop", CI))
    assert bench.weights == [10_000, 0, 10_000]
    assert len({first.id, back.id, forward.id}) == 3
    assert (back.from_upstream, back.to_upstream) == ("green", "blue")


async def test_rollback_skips_what_went_back_by_itself(bench: Bench) -> None:
    await bench.ended(await bench.executor.set_weights("shop", {"blue": 70, "green": 30}, CI))
    aborted = await bench.executor.start("shop", "green", CI, strategy="careful")
    await bench.until(lambda: bench.weights == [3000, 5000])
    await bench.executor.abort(aborted.id, CI)
    await bench.ended(aborted)
    await bench.ended(await bench.executor.rollback("shop", CI))
    assert bench.weights == [3000, 5000, 3000, 0]


async def test_weights_by_hand_to_two_decimals_drain_nothing_while_both_have_some(
    bench: Bench,
) -> None:
    held = bench.workers.request(1)
    started = await bench.executor.set_weights("shop", {"blue": 99.99, "green": "0.01"}, CI)
    ended = await bench.ended(started)
    assert (ended.state, ended.strategy, bench.weights) == (State.COMPLETED, "weights", [1])
    assert bench.workers.exchanges == [held]
    assert bench.workers.idle_closed == []


# ---------------------------------------------------------------- holding, servers


async def test_a_hold_ends_by_itself(bench: Bench) -> None:
    row = await bench.executor.hold("shop", CI)
    assert row.held
    assert bench.workers.words[1].hold
    await bench.until(lambda: not bench.workers.words[1].hold)
    assert not (await bench.executor.service("shop")).row.held
    assert bench.names == ["service.held", "service.released"]


async def test_release_lets_go_at_once_and_only_once(bench: Bench) -> None:
    await bench.executor.hold("shop", CI)
    row = await bench.executor.release("shop", CI)
    assert (row.held, bench.workers.words[1].hold) == (False, False)
    again = await bench.executor.release("shop", CI)
    assert again == row


async def test_a_switch_of_a_held_service_keeps_it_held(bench: Bench) -> None:
    await bench.executor.hold("shop", CI)
    await bench.executor.wait_acknowledged((await bench.executor.start("shop", "green", CI)).id)
    word = bench.workers.words[1]
    assert (word.hold, word.second_weight) == (True, 10_000)


async def test_new_servers_are_published_or_taken_back(bench: Bench) -> None:
    row = await bench.executor.set_servers("shop", "green", ["127.0.0.1:9004"], CI)
    assert row.servers == {"green": ("127.0.0.1:9004",)}
    assert bench.tables.published == ["servers of shop green"]
    bench.tables.error = "worker 1 could not load it"
    with pytest.raises(TableRefused):
        await bench.executor.set_servers("shop", "green", ["127.0.0.1:9005"], CI)
    assert (await bench.executor.service("shop")).row.servers == row.servers


# ---------------------------------------------------------------- starting again


async def test_a_switchover_goes_on_where_control_left_it(tmp_path: Path) -> None:
    async with opened(tmp_path) as first:
        workers, prober = first.workers, first.prober
        started = await first.executor.start("shop", "green", CI, strategy="careful")
        await first.until_state(started.id, State.SHIFTING)
        await first.until(lambda: first.weights == [1000])
    async with opened(tmp_path, workers, prober) as second:
        view = await second.executor.service("shop")
        assert view.switchover is not None
        assert view.switchover.id == started.id
        assert view.row.second_weight == 1000
        await second.executor.abort(started.id, CI)
        assert (await second.ended(started)).state is State.ABORTED
        # What may have been set twice was the same decision, with the same epoch.
        assert sorted(set(second.workers.history)) == [(1, 0, 2), (1, 1000, 1)]


async def test_a_word_behind_its_decision_is_set_at_the_start(tmp_path: Path) -> None:
    async with opened(tmp_path) as first:
        await first.ended(await first.executor.start("shop", "green", CI))
        decided = first.workers.words[1]
    workers = MemoryWorkers(time.time)
    workers.words[1] = RoutingWord(False, 0, 0)
    async with opened(tmp_path, workers) as second:
        assert second.workers.words[1] == decided


async def test_after_a_restart_of_everything_it_goes_back_if_so_configured(
    tmp_path: Path,
) -> None:
    configuration = configured(
        ATOMIC.replace("switchover:\n", "switchover:\n      after_restart: rollback\n")
    )
    async with opened(tmp_path, configuration=configuration) as first:
        started = await first.executor.start("shop", "green", CI, strategy="careful")
        await first.until(lambda: first.weights == [1000])
    workers = MemoryWorkers(time.time, identity="scoreboard-2", run="run-2")
    prober = MemoryProber()
    prober.set("blue", HealthWord.UNKNOWN)
    async with opened(tmp_path, workers, prober, configuration) as second:
        assert (await second.executor.get(started.id)).state is not State.ROLLED_BACK
        prober.set("blue", HealthWord.HEALTHY)
        ended = await second.ended(started)
        assert ended.state is State.ROLLED_BACK
        assert second.workers.words[1].second_weight == 0
        found = await second.receipt(started.id)
        window = found["window"]
        assert isinstance(window, dict)
        assert window["counters_restarted"] is True


async def test_a_switchover_of_a_service_that_is_gone_fails(tmp_path: Path) -> None:
    async with opened(tmp_path) as first:
        started = await first.executor.start("shop", "green", CI, strategy="careful")
        await first.until(lambda: first.weights == [1000])
    other = configured(ATOMIC.replace("shop:", "other:"))
    async with opened(tmp_path, configuration=other) as second:
        ended = await second.executor.get(started.id)
        assert ended.state is State.FAILED
        assert "no longer configured" in ended.outcome


async def test_a_way_back_that_turned_unhealthy_over_a_crash_is_not_taken(tmp_path: Path) -> None:
    async with opened(tmp_path) as first:
        workers, prober = first.workers, first.prober
        started = await first.executor.start("shop", "green", CI, strategy="careful")
        await first.until(lambda: first.weights == [1000])
        await first.executor.pause(started.id, CI)
    store = Store.open(tmp_path / "turnout.db")
    value = await store(Database.switchover, started.id)
    assert value is not None
    # Control decided to go back, stored it, and died before the word.
    going, _ = switchover.step(value, switchover.TargetFailed(time.time(), "green is slow"))
    await store(Database.save_switchover, going, time.time(), Note())
    store.close()
    prober.set("blue", HealthWord.UNHEALTHY)
    async with opened(tmp_path, workers, prober) as second:
        ended = await second.ended(started)
        assert (ended.state, ended.second_weight) == (State.FAILED, 1000)
        assert ended.outcome == "green is slow; no way back: blue is unhealthy"
        assert workers.words[1].second_weight == 1000
        found = await second.receipt(started.id)
        assert found["weights_after"] == {"blue": 90, "green": 10}


async def test_what_cannot_be_stored_is_told_and_tried_again(bench: Bench) -> None:
    bench.workers.prepare_gate = asyncio.Event()
    started = await bench.executor.start("shop", "green", CI)
    await bench.until_state(started.id, State.PREPARING)
    with sqlite3.connect(bench.store.path, timeout=0) as other:
        other.execute("PRAGMA busy_timeout = 0")
        other.execute("BEGIN IMMEDIATE")
        bench.workers.prepare_gate.set()
        async with asyncio.timeout(15):
            while "control.problem" not in bench.names:
                await asyncio.sleep(0.05)
        other.rollback()
    assert (await asyncio.wait_for(bench.executor.wait(started.id), 15)).state is State.COMPLETED
