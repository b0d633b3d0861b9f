"""Whole switchovers with what AWS has beside Route 53: the real store, mover and gates; the fakes.

Workers and health are in memory. What the fakes' journals show is what AWS would have seen.
"""

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.control.cli_forks import CLEAN
from tests.control.in_memory import MemoryWorkers
from tests.control.test_executor import ATOMIC, CI, Bench, configured, opened
from tests.fakes.aws import CREDENTIALS
from tests.fakes.base import Fault
from tests.fakes.cloudwatch import FakeCloudWatch
from tests.fakes.elastic_beanstalk import GREEN, LIVE, asked_for
from tests.fakes.elb import BLUE as BLUE_GROUP
from tests.fakes.elb import GREEN as GREEN_GROUP
from tests.fakes.elb import RULE
from tests.outer.target import Target
from tests.outer.target_alb import AlbTarget
from tests.outer.target_elastic_beanstalk import ElasticBeanstalkTarget
from turnout.config.outer.aws import ElasticBeanstalk
from turnout.config.outer.common import OuterSection
from turnout.control.outer import mover as mover_module
from turnout.control.outer.layers import OuterLayers
from turnout.control.state import State

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """As short as the fakes' answers."""
    for name in ("RETRY_FIRST_S", "RETRY_MAX_S", "POLL_FIRST_S", "POLL_MAX_S"):
        monkeypatch.setattr(mover_module, name, 0.02)
    for section in (OuterSection, ElasticBeanstalk):
        monkeypatch.setattr(section, "paced", (1000.0, 100))
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)


@asynccontextmanager
async def beyond(
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
    target: Target | None = None,
    workers: MemoryWorkers | None = None,
    gates: Mapping[str, Any] | None = None,
) -> AsyncIterator[Bench]:
    """A bench whose service has `target`'s fake, which is served, as its outer system."""
    text = ATOMIC.rstrip()
    if target is not None:
        for name, value in target.environment().items():
            monkeypatch.setenv(name, value)
        outer = {**target.settings(), "retry_for": "10s", "call_timeout": "300ms"}
        text += f"\n    outer: {json.dumps(outer)}"
    if gates:
        text += f"\n    gates: {json.dumps(gates)}"

    def layers(store: Any, journal: Any) -> OuterLayers:
        return OuterLayers(store, journal, lambda what, remedy: None, time.time)

    async with opened(path, workers, None, configured(f"{text}\n"), layers) as bench:
        yield bench


async def switched(bench: Bench, strategy: str = "") -> Any:
    started = await bench.executor.start("shop", "green", CI, strategy=strategy)
    return await asyncio.wait_for(bench.executor.wait(started.id), 20)


# ---------------------------------------------------------------- Elastic Beanstalk


@pytest.mark.parametrize(
    ("fault", "names_last"),
    [
        (None, True),
        (Fault.LOST_AFTER, False),
        (Fault.LOST_AFTER, True),
        (Fault.LOST_BEFORE, False),
        (Fault.UNAVAILABLE, False),
    ],
)
async def test_names_are_swapped_once_whatever_becomes_of_the_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Fault | None, names_last: bool
) -> None:
    """Also while a swap without an answer does not show yet, and its names are as before."""
    target = ElasticBeanstalkTarget()
    async with target.serve(), beyond(tmp_path, monkeypatch, target) as bench:
        # Longer than is waited for a lost call: it is read while the swap is under way.
        target.fake.pending_s, target.fake.names_last = 0.8, names_last
        if fault is not None:
            target.fake.inject(fault)
        ended = await switched(bench)
        assert (ended.state, bench.weights) == (State.COMPLETED, [10_000]), ended.outcome
        assert target.fake.cname(GREEN) == LIVE
        assert target.fake.environments[GREEN]["Status"] == "Ready", "not before it is"
    carried_out = [call for call in target.fake.writing if call.fault in (None, Fault.LOST_AFTER)]
    assert len(carried_out) == 1
    assert len(target.fake.effective) == 1


async def test_steps_between_leave_the_names_and_an_abort_swaps_none_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = ElasticBeanstalkTarget()
    async with target.serve(), beyond(tmp_path, monkeypatch, target) as bench:
        before = target.fake.snapshot()
        started = await bench.executor.start("shop", "green", CI, strategy="careful")
        await bench.until_held(started.id)
        await bench.executor.abort(started.id, CI)
        assert (await bench.ended(started)).state is State.ABORTED
        assert target.fake.snapshot() == before
        assert target.fake.writing == []


async def test_a_rollback_swaps_the_names_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = ElasticBeanstalkTarget()
    async with target.serve(), beyond(tmp_path, monkeypatch, target) as bench:
        before = target.fake.snapshot()
        assert (await switched(bench)).state is State.COMPLETED
        started = await bench.executor.start("shop", "blue", CI)
        assert (await bench.ended(started)).state is State.COMPLETED
        assert target.fake.snapshot() == before
    assert asked_for(target.fake.journal, "SwapEnvironmentCNAMEs") == 2


async def test_a_swap_that_fails_fails_the_switchover_and_moves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = ElasticBeanstalkTarget()
    async with target.serve(), beyond(tmp_path, monkeypatch, target) as bench:
        target.fake.fails_next = True
        ended = await switched(bench)
        assert (ended.state, bench.weights) == (State.FAILED, [])
        assert "each has its name of before" in ended.outcome
    assert asked_for(target.fake.journal, "SwapEnvironmentCNAMEs") == 1


@pytest.mark.parametrize("moment", ["before", "after", "pending"])
async def test_a_crash_around_the_swap_makes_no_second_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    target = ElasticBeanstalkTarget()
    async with target.serve():
        fake = target.fake
        async with beyond(tmp_path, monkeypatch, target) as bench:
            match moment:
                case "before":  # it is stored that it will be asked for, and the call is lost
                    fake.inject(Fault.LOST_BEFORE, 1000)
                case "after":  # carried out; the answer never comes
                    fake.slow_s = 60.0
                    fake.inject(Fault.SLOW)
                case "pending":  # it is being polled
                    fake.pending_s = 0.3
            started = await bench.executor.start("shop", "green", CI)
            await bench.until(lambda: bool(fake.writing))
            if moment != "before":
                await bench.until(lambda: fake.cname(GREEN) == LIVE)
            workers = bench.workers
            await kill()
        fake.heal()
        async with beyond(tmp_path, monkeypatch, target, workers) as bench:
            ended = await asyncio.wait_for(bench.executor.wait(started.id), 20)
            assert ended.state is State.COMPLETED, ended.outcome
            assert fake.cname(GREEN) == LIVE
        assert len(fake.effective) == 1
        arrived = [call for call in fake.writing if call.fault is not Fault.LOST_BEFORE]
        assert len(arrived) == 1


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


# ---------------------------------------------------------------- a load balancer


async def test_each_step_of_a_load_balancer_is_one_change_through_faults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = AlbTarget()
    async with target.serve(), beyond(tmp_path, monkeypatch, target) as bench:
        target.fake.inject(Fault.THROTTLED, 2)
        target.fake.inject(Fault.LOST_AFTER)
        target.fake.inject(Fault.DENIED)
        ended = await switched(bench, "quick")
        assert (ended.state, bench.weights[-1]) == (State.COMPLETED, 10_000), ended.outcome
        assert target.fake.weights(RULE) == {BLUE_GROUP: 0, GREEN_GROUP: 100}
    assert len(target.fake.effective) == 3
    steps = [b"Weight=10&" in call.body for call in target.fake.effective]
    assert steps == [True, False, False]


# ---------------------------------------------------------------- gates


class Lag(FakeCloudWatch):
    """ReplicaLag of one instance in periods of a second: what it is now, it has long been."""

    now: float = 0.0

    def _points(self, query: dict[str, Any], start: float, end: float) -> list[tuple[int, float]]:
        return [(at, self.now) for at in range(int(end) - 1, int(start) - 1, -1)]


async def test_a_step_waits_until_the_replica_has_caught_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = {
        "kind": "rds_replica_lag", "instance": "shop-2", "at_most": "5s", "failures": 1000,
        "interval": "100ms", "period": "1s", "points": 2, "delay": 0,
    }  # fmt: skip
    async with Lag() as fake:
        monkeypatch.setenv("AWS_ENDPOINT_URL_CLOUDWATCH", fake.url)
        fake.now = 60.0
        async with beyond(tmp_path, monkeypatch, gates={"database": gate}) as bench:
            started = await bench.executor.start("shop", "green", CI)
            await bench.until(lambda: len(fake.journal) >= 2)
            assert bench.weights == []
            fake.now = 1.0
            ended = await bench.ended(started)
            assert (ended.state, bench.weights) == (State.COMPLETED, [10_000])


async def test_a_replica_that_does_not_replicate_fails_the_switchover(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = {
        "kind": "rds_replica_lag", "instance": "shop-2", "at_most": "5s",
        "period": "1s", "points": 2, "delay": 0,
    }  # fmt: skip
    async with Lag() as fake:
        monkeypatch.setenv("AWS_ENDPOINT_URL_CLOUDWATCH", fake.url)
        fake.now = -1.0
        async with beyond(tmp_path, monkeypatch, gates={"database": gate}) as bench:
            ended = await switched(bench)
            assert (ended.state is State.COMPLETED, bench.weights) == (False, [])
            assert "nothing is replicated" in ended.outcome


# ---------------------------------------------------------------- looking


async def test_check_outer_shows_each_and_warns_of_a_metric_that_nobody_writes(
    tmp_path: Path,
) -> None:
    target = AlbTarget()
    async with target.serve(), FakeCloudWatch() as watch:
        watch.put("AWS/RDS", "ReplicaLag", {"DBInstanceIdentifier": "shop-2"}, "Maximum", {})
        gates = {
            "database": {"kind": "rds_replica_lag", "instance": "shop-3", "at_most": "5s"},
            "alarm": {"kind": "cloudwatch_alarm", "names": ["green-5xx"]},
        }
        text = ATOMIC.rstrip() + f"\n    outer: {json.dumps(target.settings())}"
        (tmp_path / "turnout.yaml").write_text(f"{text}\n    gates: {json.dumps(gates)}\n")
        environment = {
            **CLEAN, **target.environment(), "AWS_ENDPOINT_URL_CLOUDWATCH": watch.url,
        }  # fmt: skip
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "turnout", "check", "--outer", "--json"),
            env={**environment, "PYTHONPATH": str(ROOT)}, cwd=tmp_path,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, err = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == 1, err.decode()  # there is no such alarm to be asked
    [shop] = json.loads(out)["outer"]
    balancer = shop["outer"]
    lag, alarm = sorted(shop["gates"], key=lambda gate: str(gate["kind"]), reverse=True)
    assert (balancer["weights"], balancer["problems"]) == ({"blue": 100.0, "green": 0.0}, [])
    assert lag["verdict"] == "inconclusive"
    assert "there are: {DBInstanceIdentifier=shop-2}" in lag["warnings"][0]
    assert (alarm["verdict"], "there is no alarm green-5xx" in alarm["reason"]) == ("error", True)
    assert target.fake.writing == []
