"""Whole switchovers with Route 53 as the outer system: the real store and mover, boto3, the fake.

Workers and health are in memory. What the fake's journal shows is what Route 53 would have seen.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.control.in_memory import MemoryWorkers
from tests.control.test_executor import ATOMIC, CI, Bench, configured, opened
from tests.fakes.base import Fault
from tests.fakes.route53 import FakeRoute53
from tests.outer.target_route53 import (
    ADDRESSES,
    NAME,
    Route53AliasTarget,
    Route53Target,
    environment,
    shop,
)
from turnout.config.outer.route53 import Route53
from turnout.control.outer import mover as mover_module
from turnout.control.outer.layers import OuterLayers
from turnout.control.state import State

ALWAYS = 1000


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """As short as the fake's answers."""
    for name in ("RETRY_FIRST_S", "RETRY_MAX_S", "POLL_FIRST_S", "POLL_MAX_S"):
        monkeypatch.setattr(mover_module, name, 0.02)
    monkeypatch.setattr(Route53, "paced", (1000.0, 100))


@dataclass
class Beyond:
    bench: Bench
    fake: FakeRoute53

    async def switched(self, strategy: str = "") -> Any:
        started = await self.bench.executor.start("shop", "green", CI, strategy=strategy)
        return await asyncio.wait_for(self.bench.executor.wait(started.id), 20)

    async def moves(self, id: str) -> list[dict[str, Any]]:
        outer: Any = (await self.bench.receipt(id))["outer"]
        return list(outer["moves"])

    def weights(self, type_: str = "A") -> list[int | None]:
        return [one.weight for one in self.fake.records() if one.type == type_]


@asynccontextmanager
async def beyond(
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
    target: Route53Target | Route53AliasTarget,
    workers: MemoryWorkers | None = None,
    **limits: str,
) -> AsyncIterator[Beyond]:
    """A bench whose service has `target`'s fake, which is served, as its outer system."""
    for name, value in environment(target.fake.url).items():
        monkeypatch.setenv(name, value)
    outer = json.dumps({**target.settings(), "retry_for": "10s", **limits})
    configuration = configured(ATOMIC.rstrip() + f"\n    outer: {outer}\n")

    def layers(store: Any, journal: Any) -> OuterLayers:
        return OuterLayers(store, journal, lambda what, remedy: None, time.time)

    async with opened(path, workers, None, configuration, layers) as bench:
        yield Beyond(bench, target.fake)


@asynccontextmanager
async def whole(
    path: Path, monkeypatch: pytest.MonkeyPatch, alias: bool = False, **limits: str
) -> AsyncIterator[Beyond]:
    target = Route53AliasTarget() if alias else Route53Target()
    async with target.serve(), beyond(path, monkeypatch, target, None, **limits) as made:
        yield made


# ---------------------------------------------------------------- the way it should go


async def test_it_is_completed_when_it_is_in_sync_and_not_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with whole(tmp_path, monkeypatch) as made:
        made.fake.pending_s = 0.3
        started = await made.bench.executor.start("shop", "green", CI)
        await made.bench.until(lambda: bool(made.fake.effective))
        asked_s = made.fake.effective[0].at_s
        assert (await made.bench.executor.get(started.id)).state is not State.COMPLETED
        assert made.bench.weights == []
        ended = await made.bench.ended(started)
        assert time.monotonic() - asked_s >= 0.3
        assert (ended.state, made.bench.weights) == (State.COMPLETED, [10_000])
        assert (made.weights("A"), made.weights("AAAA")) == ([0, 100], [0, 100])
        (move,) = await made.moves(ended.id)
        assert (move["stage"], move["calls"]) == ("in_sync", 1)
        assert move["change"] == made.fake.changes[-1].id
        assert move["seconds"] >= 0.3
    assert len(made.fake.writing) == 1


async def test_each_step_is_one_batch_in_numbers_that_people_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with whole(tmp_path, monkeypatch) as made:
        ended = await made.switched("quick")
        assert ended.state is State.COMPLETED
    steps = [[one["Weight"] for _, one in batch] for batch in made.fake.batches]
    assert steps == [[90, 10, 90, 10], [50, 50, 50, 50], [0, 100, 0, 100]]


async def test_an_alias_waits_for_the_whole_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with whole(tmp_path, monkeypatch, alias=True) as made:
        ended = await made.switched("quick")
        assert ended.state is State.COMPLETED
        assert [move["stage"] for move in await made.moves(ended.id)] == ["left", "left", "in_sync"]
    assert len(made.fake.writing) == 1


async def test_a_dry_run_shows_the_batch_and_sends_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with whole(tmp_path, monkeypatch) as made:
        plan = await made.bench.executor.start("shop", "green", CI, dry_run=True)
        found = await made.bench.executor.preview(plan)
        assert found is not None
        ((call),) = found["calls"]
        changes = call["call"]["ChangeBatch"]["Changes"]
        assert [change["ResourceRecordSet"]["Weight"] for change in changes] == [0, 100, 0, 100]
    assert made.fake.writing == []


# ---------------------------------------------------------------- what may go wrong


async def test_throttling_and_a_prior_change_are_waited_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with whole(tmp_path, monkeypatch) as made:
        made.fake.inject(Fault.THROTTLED, 2, writes=False)
        made.fake.inject_prior(2)
        made.fake.inject(Fault.THROTTLED, 2)
        ended = await made.switched()
        assert ended.state is State.COMPLETED
        assert [move["calls"] for move in await made.moves(ended.id)] == [5]
    assert (len(made.fake.writing), len(made.fake.effective)) == (5, 1)


async def test_throttling_for_ever_ends_in_time_with_the_old_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with whole(tmp_path, monkeypatch, retry_for="1s") as made:
        made.fake.inject(Fault.THROTTLED, ALWAYS)
        began_s = time.monotonic()
        ended = await made.switched()
        assert time.monotonic() - began_s < 8
        assert ended.state is State.FAILED
        assert "Throttling: Rate exceeded" in ended.outcome
        assert (made.weights(), made.bench.weights) == ([100, 0], [])
    assert made.fake.effective == []


async def test_credentials_that_are_renewed_meanwhile_are_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with whole(tmp_path, monkeypatch) as made:
        made.fake.inject(Fault.DENIED, 2)
        ended = await made.switched()
        assert ended.state is State.COMPLETED
    assert len(made.fake.effective) == 1


@pytest.mark.parametrize("fault", [Fault.LOST_AFTER, Fault.LOST_BEFORE, Fault.UNAVAILABLE])
async def test_a_reply_that_does_not_tell_is_read_back_and_nothing_is_done_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Fault
) -> None:
    async with whole(tmp_path, monkeypatch) as made:
        made.fake.inject(fault)
        ended = await made.switched()
        assert ended.state is State.COMPLETED
        assert made.weights() == [0, 100]
    assert len(made.fake.effective) == 1
    # Between two writing calls there is always a reading one.
    first, second = (made.fake.journal.index(call) for call in made.fake.writing)
    assert any(
        not call.writes and "/rrset" in call.path for call in made.fake.journal[first + 1 : second]
    )


async def test_pending_for_ever_is_unknown_and_the_next_one_follows_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with whole(tmp_path, monkeypatch, in_sync_timeout="1s") as made:
        made.fake.pending_s = float("inf")
        ended = await made.switched()
        assert ended.state is State.FAILED
        assert "whether it will be is unknown" in ended.outcome
        assert (made.weights(), made.bench.weights) == ([0, 100], [])
        assert len(made.fake.effective) == 1
        made.fake.pending_s = 0.0
        again = await made.switched()
        assert again.state is State.COMPLETED
    assert len(made.fake.effective) == 1


async def test_a_change_that_route_53_forgot_is_written_once_more_to_be_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with whole(tmp_path, monkeypatch) as made:
        made.fake.pending_s = float("inf")
        started = await made.bench.executor.start("shop", "green", CI)
        await made.bench.until(lambda: bool(made.fake.effective))
        await made.bench.until(lambda: "/change/" in made.fake.journal[-1].path)
        made.fake.pending_s = 0.0
        made.fake.forget_changes()
        assert (await made.bench.ended(started)).state is State.COMPLETED
    assert (len(made.fake.writing), len(made.fake.effective)) == (2, 1)


# ---------------------------------------------------------------- somebody else


async def test_a_third_record_with_weight_refuses_it_before_anything_moves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with whole(tmp_path, monkeypatch) as made:
        made.fake.weighted(NAME, "A", {"shop-old": 10}, ADDRESSES["A"])
        ended = await made.switched()
        assert ended.state is State.FAILED
        assert "third record, shop-old, with weight 10" in ended.outcome
        assert made.bench.weights == []
    assert made.fake.writing == []


async def test_what_was_changed_between_steps_stops_it_with_the_difference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with whole(tmp_path, monkeypatch) as made:
        started = await made.bench.executor.start("shop", "green", CI, strategy="careful")
        await made.bench.until_held(started.id)
        for identifier in ("shop-blue", "shop-green"):
            made.fake.change(NAME, "AAAA", identifier, TTL=300)
        await made.bench.executor.abort(started.id, CI)
        ended = await made.bench.ended(started)
        assert ended.state is State.FAILED
        assert "AAAA shop-blue.TTL: 60, now 300" in ended.outcome
        assert made.weights() == [90, 10]
    assert len(made.fake.writing) == 1


async def test_an_abort_restores_the_records_to_the_letter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Odd(Route53Target):
        def make_fake(self) -> FakeRoute53:
            fake = shop("A", "AAAA", blue=201, green=3, ttl=77)
            fake.change(NAME, "A", "shop-blue", HealthCheckId="check-blue")
            return fake

    target = Odd()
    async with target.serve(), beyond(tmp_path, monkeypatch, target) as made:
        before = made.fake.snapshot()
        started = await made.bench.executor.start("shop", "green", CI, strategy="careful")
        await made.bench.until_held(started.id)
        assert made.weights() == [90, 10]
        await made.bench.executor.abort(started.id, CI)
        assert (await made.bench.ended(started)).state is State.ABORTED
        assert made.fake.snapshot() == before


# ---------------------------------------------------------------- a crash at any call


@pytest.mark.parametrize("moment", ["before", "after", "pending"])
async def test_a_crash_around_the_call_resumes_without_a_second_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    target = Route53Target()
    async with target.serve():
        fake = target.fake
        async with beyond(tmp_path, monkeypatch, target) as made:
            match moment:
                case "before":  # it is stored that it will be asked for, and the call is lost
                    fake.inject(Fault.LOST_BEFORE, ALWAYS)
                case "after":  # carried out; the answer, with the change's id, never comes
                    fake.slow_s = 60.0
                    fake.inject(Fault.SLOW)
                case "pending":  # its id is stored, and it is being polled
                    fake.pending_s = float("inf")
            started = await made.bench.executor.start("shop", "green", CI)
            await made.bench.until(lambda: bool(fake.writing))
            if moment == "after":
                await made.bench.until(lambda: made.weights() == [0, 100])
            elif moment == "pending":
                await made.bench.until(lambda: "/change/" in fake.journal[-1].path)
            workers = made.bench.workers
            await kill()
        fake.heal()
        if moment == "pending":
            fake.changes[-1].in_sync_at = time.monotonic() + 0.1
        async with beyond(tmp_path, monkeypatch, target, workers) as made:
            ended = await asyncio.wait_for(made.bench.executor.wait(started.id), 20)
            assert ended.state is State.COMPLETED
            assert made.weights() == [0, 100]
        assert len(fake.effective) == 1
        # What never arrived is asked for again; so is, to have an id to follow, what was carried
        # out without an answer. What is only pending is polled on.
        asked = [call for call in fake.writing if call.fault is not Fault.LOST_BEFORE]
        assert len(asked) == (2 if moment == "after" else 1)


async def kill() -> None:
    """End every task of Turnout's where it stands, as `kill -9` does; the fake lives on."""
    me = asyncio.current_task()
    others = [
        task
        for task in asyncio.all_tasks()
        if task is not me and "RequestHandler" not in getattr(task.get_coro(), "__qualname__", "")
    ]
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
