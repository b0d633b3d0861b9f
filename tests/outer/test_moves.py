"""Every router as a switchover moves it: the real executor, mover and store, each system's fake.

What each call must do is in `test_conformance.py`; here it is what becomes of a switchover when
a call is throttled, lost or late, when somebody else comes in between, and when the control
process dies. Workers and health are in memory; `test_under_load.py` has the whole product.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import pytest

from tests.control.in_memory import MemoryWorkers
from tests.control.test_executor import CI, Bench, configured, opened
from tests.fakes.base import Call, Dropped, Fault, Moment
from tests.outer.target import Target
from tests.outer.target_kubernetes import GatewayApiTarget
from tests.outer.targets import EACH_KIND
from turnout.config.model import Configuration, OuterOrder
from turnout.config.weights import WHOLE
from turnout.control.outer import mover
from turnout.control.outer.seams import Capabilities
from turnout.control.state import State, Switchover

ALWAYS: Final = 1000
LIMIT_S: Final = 15.0
PENDING_S: Final = 0.3


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits between tries, and between looks, as short as the fakes' answers."""
    for name in ("RETRY_FIRST_S", "RETRY_MAX_S", "POLL_FIRST_S", "POLL_MAX_S"):
        monkeypatch.setattr(mover, name, 0.01)


@pytest.fixture(params=EACH_KIND, ids=lambda target: target.__name__)
async def target(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Target]:
    made: Target = request.param()
    async with made.serve():
        for name, value in made.environment().items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(type(made.outer().settings), "paced", (1e6, 1000))
        yield made


def can(target: Target) -> Capabilities:
    """What its router can do; making one is slow where it loads a library."""
    kind = type(target)
    if kind not in _CAN:
        _CAN[kind] = target.router().capabilities
    return _CAN[kind]


_CAN: Final[dict[type[Target], Capabilities]] = {}


@dataclass
class World:
    """A switchover's bench with the outer system of the target."""

    target: Target
    bench: Bench

    async def start(self, strategy: str = "atomic", to: str = "green") -> Switchover:
        return await self.bench.executor.start("shop", to, CI, strategy=strategy)

    async def outer(self, id: str) -> dict[str, Any]:
        found: Any = await self.bench.receipt(id)
        section: dict[str, Any] = found["outer"]
        return section

    async def ended(self, value: Switchover) -> Switchover:
        return await asyncio.wait_for(self.bench.executor.wait(value.id), LIMIT_S)

    async def until(self, condition: Any) -> None:
        async with asyncio.timeout(LIMIT_S):
            while not condition():
                await asyncio.sleep(0.002)


def configuration(target: Target, **limits: Any) -> Configuration:
    outer = target.outer()
    # After a lost reply a swap is waited for twice a call's time.
    limits.setdefault("call_timeout_s", 0.3 if can(target).exchange else 5.0)
    limits.setdefault("retry_s", 10.0)
    made = configured()
    service = replace(made.services[0], outer=replace(outer, **limits))
    return replace(made, services=(service,))


@contextlib.asynccontextmanager
async def world(
    target: Target, path: Path, workers: MemoryWorkers | None = None, **limits: Any
) -> AsyncIterator[World]:
    async with opened(path, workers, None, configuration(target, **limits)) as bench:
        yield World(target, bench)


def once(target: Target) -> None:
    """Of all that was called, one call had an effect."""
    effective = [(call.method, call.path, call.note) for call in target.fake.effective]
    assert len(effective) == 1, effective


# ---------------------------------------------------------------- the way it should go


@pytest.mark.parametrize("order", list(OuterOrder))
async def test_a_switchover_moves_it_once_and_says_when(
    target: Target, tmp_path: Path, order: OuterOrder
) -> None:
    if target.can_pend:
        target.fake.pending_s = 0.05
    async with world(target, tmp_path, order=order) as made:
        ended = await made.ended(await made.start())
        assert (ended.state, ended.outcome) == (State.COMPLETED, "")
        assert (target.second_weight(), made.bench.weights) == (WHOLE, [WHOLE])
        once(target)
        outer = await made.outer(ended.id)
        (move,) = outer["moves"]
        assert outer["weights_before"] == {"blue": 100, "green": 0}
        assert (move["stage"], move["calls"], move["weights"]["green"]) == ("in_sync", 1, 100)
        assert move["asked_at"] <= move["taken_on_at"] <= move["in_sync_at"]
        assert move["seconds"] >= target.fake.pending_s
        back = await made.ended(await made.bench.executor.rollback("shop", CI))
        assert back.state is State.COMPLETED
        assert target.second_weight() == 0
        assert len(target.fake.effective) == 2


async def test_a_split_on_the_way_is_made_or_left_out(target: Target, tmp_path: Path) -> None:
    async with world(target, tmp_path) as made:
        ended = await made.ended(await made.start("quick"))
        assert ended.state is State.COMPLETED
        stages = [move["stage"] for move in (await made.outer(ended.id))["moves"]]
        splits = can(target).weighted
        assert stages == (["in_sync"] * 3 if splits else ["left", "left", "in_sync"])
        assert len(target.fake.effective) == (3 if splits else 1)
        assert target.second_weight() == WHOLE


# ---------------------------------------------------------------- what may go wrong


@pytest.mark.parametrize("fault", [Fault.LOST_AFTER, Fault.LOST_BEFORE, Fault.UNAVAILABLE])
async def test_a_lost_reply_doubles_nothing(target: Target, tmp_path: Path, fault: Fault) -> None:
    target.fake.inject(fault)
    async with world(target, tmp_path) as made:
        ended = await made.ended(await made.start())
        assert (ended.state, ended.outcome) == (State.COMPLETED, "")
        assert target.second_weight() == WHOLE
        once(target)


async def test_throttled_for_a_while_it_goes_on(target: Target, tmp_path: Path) -> None:
    target.fake.throttled_s = 1
    target.fake.inject(Fault.THROTTLED, 2)
    async with world(target, tmp_path) as made:
        ended = await made.ended(await made.start())
        assert (ended.state, ended.outcome) == (State.COMPLETED, "")
        once(target)


async def test_throttled_for_ever_it_gives_up_in_bounded_time(
    target: Target, tmp_path: Path
) -> None:
    state = target.state()
    target.fake.inject(Fault.THROTTLED, ALWAYS)
    async with world(target, tmp_path, retry_s=0.2) as made:
        began_s = time.monotonic()
        ended = await made.ended(await made.start())
        assert time.monotonic() - began_s < 5.0
        assert ended.state is State.FAILED
        assert (target.state(), made.bench.weights) == (state, [])
        assert target.kind in ended.outcome


async def test_expired_credentials_are_renewed_or_named(target: Target, tmp_path: Path) -> None:
    if not target.can_be_denied:
        pytest.skip(f"{target.kind} asks nobody who he is")
    target.fake.inject(Fault.DENIED, ALWAYS)
    async with world(target, tmp_path, retry_s=0.2) as made:
        ended = await made.ended(await made.start())
        assert ended.state is State.FAILED
        assert (target.second_weight(), made.bench.weights) == (0, [])
        assert not any(secret in ended.outcome for secret in target.secrets)
        target.fake.heal()
        again = await made.ended(await made.start())
        assert again.state is State.COMPLETED
        once(target)


async def test_stuck_is_unknown_and_nothing_is_taken_back(target: Target, tmp_path: Path) -> None:
    if not target.can_pend:
        pytest.skip(f"{target.kind}: a change is in sync with its answer")
    target.fake.pending_s = float("inf")
    async with world(target, tmp_path, in_sync_timeout_s=0.2) as made:
        ended = await made.ended(await made.start())
        assert ended.state is State.FAILED
        assert "unknown" in ended.outcome
        assert made.bench.weights == []
        once(target)


async def test_a_change_that_fails_ends_it(target: Target, tmp_path: Path) -> None:
    if not target.can_fail:
        pytest.skip(f"{target.kind}: what was taken on does not fail")
    target.fake.fails_next = True
    async with world(target, tmp_path) as made:
        ended = await made.ended(await made.start())
        assert ended.state is State.FAILED
        assert (target.second_weight(), made.bench.weights) == (0, [])


@pytest.mark.parametrize(("to", "second_weight"), [("green", WHOLE), ("blue", 0)])
async def test_after_a_change_that_failed_either_side_can_be_switched_to(
    target: Target, tmp_path: Path, to: str, second_weight: int
) -> None:
    if not target.can_fail:
        pytest.skip(f"{target.kind}: what was taken on does not fail")
    target.fake.fails_next = True
    async with world(target, tmp_path, call_timeout_s=0.3) as made:
        assert (await made.ended(await made.start())).state is State.FAILED
        again = await made.ended(await made.start(to=to))
        assert (again.state, again.outcome) == (State.COMPLETED, "")
        assert (target.second_weight(), made.bench.weights[-1:]) == (second_weight, [second_weight])
        router = target.router()
        reading = await router.read()
        await router.close()
        assert (reading.second_weight, list(reading.warnings)) == (second_weight, [])


@pytest.mark.parametrize(("to", "second_weight"), [("green", WHOLE), ("blue", 0)])
async def test_after_a_route_was_refused_either_side_can_be_switched_to(
    tmp_path: Path, to: str, second_weight: int
) -> None:
    """It has the weights all the same: what is read is what was asked for."""
    target = GatewayApiTarget()
    async with target.serve():
        target.fake.fails_next = True
        async with world(target, tmp_path) as made:
            failed = await made.ended(await made.start())
            assert (failed.state, target.second_weight()) == (State.FAILED, WHOLE)
            # The same again is nothing new to the gateway; its controller finds the backend.
            target.fake.gateway("shop")
            calls = len(target.fake.writing)
            again = await made.ended(await made.start(to=to))
            assert (again.state, again.outcome) == (State.COMPLETED, "")
            assert len(target.fake.writing) == calls + 1
            assert target.second_weight() == second_weight


@pytest.mark.parametrize(("to", "second_weight"), [("green", WHOLE), ("blue", 0)])
async def test_after_a_change_that_comes_late_what_was_asked_for_last_is_there(
    target: Target, tmp_path: Path, to: str, second_weight: int
) -> None:
    """Given up as unknown, it may not be read yet, and still arrive."""
    if not target.can_pend:
        pytest.skip(f"{target.kind}: a change is in sync with its answer")
    target.fake.pending_s = PENDING_S
    async with world(target, tmp_path, call_timeout_s=0.3, in_sync_timeout_s=0.1) as made:
        assert (await made.ended(await made.start())).state is State.FAILED
    async with world(target, tmp_path, call_timeout_s=0.3) as made:
        again = await made.ended(await made.start(to=to))
        if can(target).exchange and again.state is State.FAILED:
            # The swap arrived between two looks: it is not taken for what was asked for now.
            assert "found blue=0 green=100" in again.outcome
            again = await made.ended(await made.start(to=to))
        assert (again.state, again.outcome) == (State.COMPLETED, "")
        assert (target.second_weight(), made.bench.weights[-1:]) == (second_weight, [second_weight])


# ---------------------------------------------------------------- somebody else


@pytest.mark.parametrize("what", ["weights", "settings"])
async def test_what_was_changed_from_outside_is_not_moved_over(
    target: Target, tmp_path: Path, what: str
) -> None:
    async with world(target, tmp_path, retry_s=0.2) as made:
        started = await made.start("careful")
        await made.bench.until_held(started.id)
        if what == "weights":
            target.change_weight_outside()
        else:
            target.change_settings_outside()
        state = target.state()
        await made.bench.executor.abort(started.id, CI)
        ended = await made.ended(started)
        assert target.state() == state
        # What was not moved yet need not be restored.
        if can(target).weighted:
            assert (ended.state, "somebody else" in ended.outcome) == (State.FAILED, True)


async def test_what_is_not_as_configured_is_refused_before_anything_moves(
    target: Target, tmp_path: Path
) -> None:
    target.spoil()
    state = target.state()
    async with world(target, tmp_path, retry_s=0.2) as made:
        ended = await made.ended(await made.start())
        assert ended.state is State.FAILED
        assert "not as configured" in ended.outcome
        assert (target.state(), made.bench.weights, target.fake.writing) == (state, [], [])


async def test_an_abort_restores_exactly_what_was_read(target: Target, tmp_path: Path) -> None:
    if not can(target).weighted:
        pytest.skip(f"{target.kind} moves at the last step alone")
    target.change_weight_outside()
    state = target.state()
    async with world(target, tmp_path) as made:
        started = await made.start("careful")
        await made.bench.until_held(started.id)
        assert target.state() != state
        await made.bench.executor.abort(started.id, CI)
        ended = await made.ended(started)
        assert (ended.state, target.state()) == (State.ABORTED, state)
        assert len(target.fake.effective) == 2


async def test_an_abort_while_it_pends_restores_exactly_what_was_read(
    target: Target, tmp_path: Path
) -> None:
    if not target.can_pend:
        pytest.skip(f"{target.kind}: a change is in sync with its answer")
    state = target.state()
    target.fake.pending_s = PENDING_S
    async with world(target, tmp_path) as made:
        started = await made.start()
        await made.until(lambda: any(call.status for call in target.fake.effective))
        await made.bench.executor.abort(started.id, CI)
        ended = await made.ended(started)
        assert (ended.state, target.state()) == (State.ABORTED, state)
        assert len(target.fake.effective) == 2
        assert made.bench.weights[-1:] in ([], [0])


# ---------------------------------------------------------------- the control process dies


async def kill() -> None:
    """End every task where it stands, also what is shielded, as `kill -9` of control does; but the
    fake lives on."""
    me = asyncio.current_task()
    ours = [task for task in asyncio.all_tasks() if task is not me and not of_a_fake(task)]
    for task in ours:
        task.cancel()
    await asyncio.gather(*ours, return_exceptions=True)


def of_a_fake(task: "asyncio.Task[Any]") -> bool:
    code = getattr(task.get_coro(), "cr_code", None)
    file = "" if code is None else code.co_filename
    return "aiohttp" in file or "/tests/fakes/" in file


@pytest.mark.parametrize("moment", [*Moment, "pending"])
async def test_a_crash_around_the_call_doubles_nothing(
    target: Target, tmp_path: Path, moment: str
) -> None:
    if moment == "pending" and not target.can_pend:
        pytest.skip(f"{target.kind}: a change is in sync with its answer")
    reached, gone = asyncio.Event(), asyncio.Event()

    async def hook(call: Call, at: Moment) -> None:
        if call.writes and at == moment and not reached.is_set():
            reached.set()
            await gone.wait()
            if at is Moment.BEFORE:
                raise Dropped

    target.fake.hook = hook
    if moment == "pending":
        target.fake.pending_s = PENDING_S
    async with world(target, tmp_path) as made:
        started = await made.start()
        workers = made.bench.workers
        if moment == "pending":
            followed = made.bench.executor.outer.of("shop")
            assert followed is not None
            await made.until(lambda: "is pending" in followed.doing or made.bench.weights)
        else:
            await asyncio.wait_for(reached.wait(), LIMIT_S)
        await kill()
    gone.set()
    async with world(target, tmp_path, workers) as made:
        ended = await made.ended(started)
        assert (ended.state, ended.outcome) == (State.COMPLETED, "")
        assert target.second_weight() == WHOLE
        once(target)
        (move,) = (await made.outer(ended.id))["moves"]
        assert (move["stage"], move["calls"]) == ("in_sync", 1 if moment != "before" else 2)
