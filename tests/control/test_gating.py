"""Gates: only a pass goes on; what fails, does not tell or cannot be asked never does."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.control import test_outer_switchover
from tests.control.outer_in_memory import MemoryLayers, MemoryRouter
from tests.control.test_executor import CI, Bench, configured, opened
from tests.control.test_outer_switchover import beyond
from turnout.config.model import Configuration, Gate, OuterOrder
from turnout.control.gating import Answers, Failed, Passed, Wait, judge
from turnout.control.outer.layers import OuterLayers
from turnout.control.outer.seams import (
    GateQuestion,
    GateResult,
    GateVerdict,
    OuterError,
)
from turnout.control.state import State

GATE = Gate(
    name="lag", kind="memory", interval_s=0.005, failures=1, patience_s=0.2, call_timeout_s=0.05,
    settings=None,
)  # fmt: skip
PASS = GateResult(GateVerdict.PASS, "replica lag 1 s, at most 5 s", 1.0)
FAIL = GateResult(GateVerdict.FAIL, "replica lag 60 s, at most 5 s", 60.0)
UNSURE = GateResult(GateVerdict.INCONCLUSIVE, "no value in the last 3 minutes")
BROKEN = GateResult(GateVerdict.ERROR, "connection refused")


# ---------------------------------------------------------------- by value


@pytest.mark.parametrize("verdict", list(GateVerdict))
def test_only_a_pass_goes_on(verdict: GateVerdict) -> None:
    follows = judge(GATE, Answers(), GateResult(verdict, "why"), 1000.0)
    assert isinstance(follows, Passed) == (verdict is GateVerdict.PASS)


def test_one_that_may_fail_twice_fails_at_the_third_time_in_a_row() -> None:
    gate = replace(GATE, failures=3)
    answers = Answers()
    for _ in range(2):
        follows = judge(gate, answers, FAIL, 1000.0)
        assert isinstance(follows, Wait)
        answers = follows.answers
    assert judge(gate, answers, FAIL, 1000.0) == Failed(
        "gate lag fails 3 times in a row: replica lag 60 s, at most 5 s"
    )


@pytest.mark.parametrize("result", [UNSURE, BROKEN])
def test_what_does_not_tell_is_waited_for_and_not_for_ever(result: GateResult) -> None:
    first = judge(GATE, Answers(), result, 1000.0)
    assert isinstance(first, Wait)
    assert isinstance(judge(GATE, first.answers, result, 1000.1), Wait)
    last = judge(GATE, first.answers, result, 1000.2)
    assert isinstance(last, Failed)
    assert result.reason in last.reason


@given(st.lists(st.sampled_from([FAIL, UNSURE, BROKEN]), max_size=30), st.integers(1, 5))
def test_without_a_pass_it_never_passes(results: list[GateResult], failures: int) -> None:
    gate, answers, at = replace(GATE, failures=failures), Answers(), 1000.0
    for result in results:
        match judge(gate, answers, result, at):
            case Passed():
                pytest.fail("it passed")
            case Failed():
                return
            case Wait(answers):
                at += 0.01


# ---------------------------------------------------------------- in a switchover


@dataclass
class MemoryGate:
    results: list[GateResult] = field(default_factory=lambda: [PASS])
    """The last one stays."""
    raises: OuterError | None = None
    asked: list[GateQuestion] = field(default_factory=list)
    hangs: bool = False

    async def check(self, question: GateQuestion) -> GateResult:
        self.asked.append(question)
        if self.hangs:
            await asyncio.Event().wait()
        if self.raises is not None:
            raise self.raises
        return self.results.pop(0) if len(self.results) > 1 else self.results[0]

    async def close(self) -> None:
        """Nothing is open."""


@asynccontextmanager
async def gated(path: Path, *gates: MemoryGate) -> AsyncIterator[Bench]:
    policies = tuple(replace(GATE, name=f"gate{n}", settings=gate) for n, gate in enumerate(gates))

    class Layers(OuterLayers):
        async def gate(self, service: str, gate: Gate) -> MemoryGate:
            assert isinstance(gate.settings, MemoryGate)
            return gate.settings

    configuration = configured()
    service = replace(configuration.services[0], gates=policies)
    async with opened(
        path,
        configuration=replace(configuration, services=(service,)),
        layers=lambda store, journal: Layers(store, journal, lambda *_: None, lambda: 0.0),
    ) as made:
        yield made


async def test_all_that_pass_let_it_go_and_stand_in_the_receipt(tmp_path: Path) -> None:
    gates = MemoryGate(), MemoryGate([UNSURE, BROKEN, PASS])
    async with gated(tmp_path, *gates) as bench:
        ended = await bench.ended(await bench.executor.start("shop", "green", CI))
        assert ended.state is State.COMPLETED
        found = await bench.receipt(ended.id)
        assert [(entry["gate"], entry["verdict"]) for entry in found["gates"]] == [  # type: ignore[attr-defined]
            ("gate0", "pass"), ("gate1", "pass"),
        ]  # fmt: skip
        assert bench.names.count("gate.checked") == 4


async def test_one_that_fails_before_the_first_step_touches_nothing(tmp_path: Path) -> None:
    async with gated(tmp_path, MemoryGate(), MemoryGate([FAIL])) as bench:
        ended = await bench.ended(await bench.executor.start("shop", "green", CI))
        assert (ended.state, bench.weights) == (State.FAILED, [])
        assert "gate gate1 fails: replica lag 60 s, at most 5 s" in ended.outcome


async def test_one_that_fails_on_the_way_takes_it_back(tmp_path: Path) -> None:
    async with gated(tmp_path, MemoryGate([PASS, PASS, FAIL])) as bench:
        started = await bench.executor.start("shop", "green", CI, strategy="quick")
        ended = await bench.ended(started)
        assert (ended.state, bench.weights) == (State.ROLLED_BACK, [1000, 5000, 0])
        assert "replica lag 60 s" in ended.outcome


async def test_each_step_is_asked_for_with_when_weights_moved_last(tmp_path: Path) -> None:
    gate = MemoryGate()
    async with gated(tmp_path, gate) as bench:
        await bench.ended(await bench.executor.start("shop", "green", CI, strategy="quick"))
        assert [question.step for question in gate.asked] == [0, 1, 2]
        assert [question.upstream for question in gate.asked] == ["green"] * 3
        assert gate.asked[0].since < gate.asked[1].since < gate.asked[2].since


async def test_a_gate_is_asked_by_the_clock_of_the_world(tmp_path: Path) -> None:
    """A clock that was an hour behind when the switchover began, and is set meanwhile."""
    gate = MemoryGate([UNSURE])
    async with gated(tmp_path, gate) as bench:
        await bench.executor.start("shop", "green", CI)
        await bench.until(lambda: len(gate.asked) > 1)
        bench.executor._world.gates._wall = lambda: time.time() + 3600
        asked = len(gate.asked)
        await bench.until(lambda: len(gate.asked) > asked + 1)
        before, after = gate.asked[asked - 1], gate.asked[-1]
        assert 3600 <= after.at - before.at < 3610
        assert 0 <= after.at - after.since < 10


@pytest.mark.parametrize(
    "gate",
    [MemoryGate([UNSURE]), MemoryGate(raises=OuterError("no such host")), MemoryGate(hangs=True)],
)
async def test_one_that_never_tells_ends_it_in_bounded_time(
    tmp_path: Path, gate: MemoryGate
) -> None:
    async with gated(tmp_path, gate) as bench:
        ended = await bench.ended(await bench.executor.start("shop", "green", CI))
        assert (ended.state, bench.weights) == (State.FAILED, [])
        assert "patience" in ended.outcome


async def test_it_can_be_aborted_while_a_gate_is_waited_for(tmp_path: Path) -> None:
    gate = MemoryGate([UNSURE])
    async with gated(tmp_path, gate) as bench:
        started = await bench.executor.start("shop", "green", CI)
        await bench.until(lambda: len(gate.asked) > 1)
        doing = bench.executor.doing(await bench.executor.get(started.id))
        assert doing == "gate gate0 is inconclusive: no value in the last 3 minutes"
        await bench.executor.abort(started.id, CI)
        assert (await bench.ended(started)).state is State.ABORTED
        asked = len(gate.asked)
        await asyncio.sleep(0.02)
        assert len(gate.asked) == asked


async def test_force_goes_past_gates_and_the_record_says_who(tmp_path: Path) -> None:
    gate = MemoryGate([FAIL])
    async with gated(tmp_path, gate) as bench:
        started = await bench.executor.start("shop", "green", CI, force=True)
        ended = await bench.ended(started)
        assert (ended.state, ended.forced_by) == (State.COMPLETED, "ci")
        assert gate.asked == []


async def test_the_way_back_asks_no_gate(tmp_path: Path) -> None:
    """Who must go back, goes: gates are for going forward."""
    gate = MemoryGate()
    async with gated(tmp_path, gate) as bench:
        await bench.ended(await bench.executor.start("shop", "green", CI))
        gate.results = [FAIL]
        ended = await bench.ended(await bench.executor.rollback("shop", CI))
        assert (ended.state, len(gate.asked)) == (State.COMPLETED, 1)


async def test_what_moved_last_may_be_beyond_the_proxy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, router = MemoryGate(), MemoryRouter(gate=asyncio.Event())

    async def made_gate(self: MemoryLayers, service: str, gate: Gate) -> object:
        return gate.settings

    def with_gate() -> Configuration:
        made = configured()
        policy = replace(GATE, settings=gate)
        return replace(made, services=(replace(made.services[0], gates=(policy,)),))

    monkeypatch.setattr(MemoryLayers, "gate", made_gate)
    monkeypatch.setattr(MemoryLayers, "gates", lambda self, service: with_gate().services[0].gates)
    monkeypatch.setattr(test_outer_switchover, "configured", with_gate)
    async with beyond(tmp_path, router, OuterOrder.INNER_FIRST) as made:
        started = await made.bench.executor.start("shop", "green", CI, strategy="quick")
        await made.bench.until(lambda: made.writes == ["set 1000"])
        await asyncio.sleep(0.1)
        moved = time.time()
        assert router.gate is not None
        router.gate.set()
        await made.bench.ended(started)
        assert gate.asked[1].since >= moved - 0.001
