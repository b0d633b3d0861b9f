"""A switchover that moves an outer system too: order, durability, the way back.

On the real store, with workers, health and the outer system in memory: what each real system
does with it is held in `tests/outer`.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests.control.in_memory import MemoryWorkers
from tests.control.outer_in_memory import MemoryLayers, MemoryRouter, MemoryTails
from tests.control.test_executor import CI, Bench, configured, opened
from turnout.config.model import OuterOrder, Rate, TailPolicy
from turnout.control import beyond as beyond_module
from turnout.control import carrier as carrier_module
from turnout.control import events
from turnout.control.outer import mover as mover_module
from turnout.control.outer.mover import Mover
from turnout.control.outer.seams import (
    Change,
    Denied,
    NotDone,
    OuterError,
    Progress,
    Reading,
    Refused,
    ReplyLost,
    Verdict,
    Wanted,
)
from turnout.control.refusals import OuterUnusable
from turnout.control.state import State
from turnout.proxy.scoreboard import HealthWord


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits between tries, and between looks, as short as the memory's answers."""
    for name in ("RETRY_FIRST_S", "RETRY_MAX_S", "POLL_FIRST_S", "POLL_MAX_S"):
        monkeypatch.setattr(mover_module, name, 0.01)


@dataclass
class Beyond:
    bench: Bench
    router: MemoryRouter

    async def receipt(self, id: str) -> dict[str, Any]:
        found: dict[str, Any] = await self.bench.receipt(id)
        outer: dict[str, Any] = found["outer"]
        return outer

    @property
    def writes(self) -> list[str]:
        return [call for call in self.router.journal if call.startswith("set")]


@asynccontextmanager
async def beyond(
    path: Path,
    router: MemoryRouter | None = None,
    order: OuterOrder = OuterOrder.OUTER_FIRST,
    workers: MemoryWorkers | None = None,
    tails: MemoryTails | None = None,
    **limits: Any,
) -> AsyncIterator[Beyond]:
    router = router or MemoryRouter()
    configuration = configured()

    def layers(store: Any, journal: Any) -> MemoryLayers:
        made = MemoryLayers(
            store, journal, lambda what, remedy: None, asyncio.get_event_loop().time
        )
        made.use(router, order, **limits)
        return made

    outer = MemoryLayers(None, None, lambda what, remedy: None, lambda: 0.0)  # type: ignore[arg-type]
    service = replace(configuration.services[0], outer=outer.use(router, order, **limits))
    configuration = replace(configuration, services=(service,))
    async with opened(path, workers, None, configuration, layers, tails) as made:
        yield Beyond(made, router)


# ---------------------------------------------------------------- the way it should go


@pytest.mark.parametrize("order", list(OuterOrder))
async def test_both_move_and_the_receipt_says_when(tmp_path: Path, order: OuterOrder) -> None:
    async with beyond(tmp_path, order=order) as made:
        ended = await made.bench.ended(await made.bench.executor.start("shop", "green", CI))
        assert (ended.state, made.bench.weights) == (State.COMPLETED, [10_000])
        assert (made.router.weight, made.writes) == (10_000, ["set 10000"])
        found = await made.receipt(ended.id)
        assert found["kind"] == "memory"
        assert found["order"] == order.value
        assert found["weights_before"] == {"blue": 100.0, "green": 0.0}
        (move,) = found["moves"]
        assert (move["stage"], move["change"], move["calls"]) == ("in_sync", "C1", 1)
        assert move["asked_at"] <= move["taken_on_at"] <= move["in_sync_at"]


@pytest.mark.parametrize("order", list(OuterOrder))
async def test_the_order_is_as_configured(tmp_path: Path, order: OuterOrder) -> None:
    router = MemoryRouter(gate=asyncio.Event())
    async with beyond(tmp_path, router, order) as made:
        started = await made.bench.executor.start("shop", "green", CI)
        await made.bench.until(lambda: bool(made.writes))
        inner_moved = bool(made.bench.weights)
        assert inner_moved == (order is OuterOrder.INNER_FIRST)
        assert made.router.gate is not None
        made.router.gate.set()
        assert (await made.bench.ended(started)).state is State.COMPLETED


async def test_it_is_not_done_before_it_is_in_sync(tmp_path: Path) -> None:
    router = MemoryRouter(verdict=Verdict.PENDING)
    async with beyond(tmp_path, router) as made:
        started = await made.bench.executor.start("shop", "green", CI)
        await made.bench.until(lambda: router.journal.count("poll") > 3)
        assert (await made.bench.executor.get(started.id)).state is State.SHIFTING
        assert made.bench.weights == []
        value = await made.bench.executor.get(started.id)
        assert "memory: change C1 is pending" in made.bench.executor.doing(value)
        router.verdict = Verdict.IN_SYNC
        assert (await made.bench.ended(started)).state is State.COMPLETED


async def test_every_step_moves_it(tmp_path: Path) -> None:
    async with beyond(tmp_path) as made:
        started = await made.bench.executor.start("shop", "green", CI, strategy="quick")
        ended = await made.bench.ended(started)
        assert ended.state is State.COMPLETED
        assert made.writes == ["set 1000", "set 5000", "set 10000"]


async def test_what_switches_whole_waits_for_the_step_that_it_can_follow(tmp_path: Path) -> None:
    async with beyond(tmp_path, MemoryRouter(weighted=False)) as made:
        started = await made.bench.executor.start("shop", "green", CI, strategy="quick")
        ended = await made.bench.ended(started)
        assert ended.state is State.COMPLETED
        assert made.writes == ["set 10000"]
        moves = (await made.receipt(ended.id))["moves"]
        assert [move["stage"] for move in moves] == ["left", "left", "in_sync"]


async def test_a_second_switch_to_where_it_is_changes_nothing(tmp_path: Path) -> None:
    async with beyond(tmp_path) as made:
        await made.bench.ended(await made.bench.executor.start("shop", "green", CI))
        again = await made.bench.ended(await made.bench.executor.start("shop", "green", CI))
        assert again.state is State.COMPLETED
        assert made.writes == ["set 10000"]
        assert [move["stage"] for move in (await made.receipt(again.id))["moves"]] == ["nothing"]


async def test_a_dry_run_says_what_would_be_called_and_calls_nothing(tmp_path: Path) -> None:
    async with beyond(tmp_path) as made:
        plan = await made.bench.executor.start("shop", "green", CI, strategy="quick", dry_run=True)
        found = await made.bench.executor.preview(plan)
        assert found is not None
        assert [call["call"] for call in found["calls"]] == [
            {"set": 1000}, {"set": 5000}, {"set": 10000},
        ]  # fmt: skip
        assert made.writes == []


# ---------------------------------------------------------------- what is not as it should be


async def test_what_is_not_as_configured_is_refused_before_anything_moves(tmp_path: Path) -> None:
    router = MemoryRouter(problems=["a third record, shop-red, has weight 5"])
    async with beyond(tmp_path, router) as made:
        ended = await made.bench.ended(await made.bench.executor.start("shop", "green", CI))
        assert ended.state is State.FAILED
        assert "a third record, shop-red, has weight 5" in ended.outcome
        assert (made.bench.weights, made.writes) == ([], [])


async def test_what_cannot_even_be_made_refuses_the_call(tmp_path: Path) -> None:
    async with beyond(tmp_path) as made:
        mover = made.bench.executor.outer.of("shop")
        assert mover is not None

        def make() -> MemoryRouter:
            raise OuterError("boto3 is not installed: pip install 'turnout[aws]'")

        mover._make = make
        with pytest.raises(OuterUnusable, match=r"turnout\[aws\]"):
            await made.bench.executor.start("shop", "green", CI)


async def test_a_change_from_outside_between_steps_stops_it_with_the_difference(
    tmp_path: Path,
) -> None:
    async with beyond(tmp_path) as made:
        started = await made.bench.executor.start("shop", "green", CI, strategy="careful")
        await made.bench.until_held(started.id)
        made.router.note = "theirs"
        await made.bench.executor.abort(started.id, CI)
        ended = await made.bench.ended(started)
        assert ended.state is State.FAILED
        assert "note: ours, now theirs" in ended.outcome
        assert (made.router.weight, made.bench.weights[-1]) == (1000, 0)


async def test_weights_that_somebody_else_moved_are_not_moved_over(tmp_path: Path) -> None:
    router = MemoryRouter()
    async with beyond(tmp_path, router) as made:
        started = await made.bench.executor.start("shop", "green", CI, strategy="careful")
        await made.bench.until_held(started.id)
        router.weight = 7000
        await made.bench.executor.abort(started.id, CI)
        ended = await made.bench.ended(started)
        assert ended.state is State.FAILED
        assert (
            "expected blue=100 green=0 or blue=90 green=10, found blue=30 green=70" in ended.outcome
        )
        assert made.writes == ["set 1000"]


async def test_stuck_is_unknown_reported_and_not_taken_back(tmp_path: Path) -> None:
    router = MemoryRouter(verdict=Verdict.PENDING, detail="PENDING")
    async with beyond(tmp_path, router, in_sync_timeout_s=0.1) as made:
        ended = await made.bench.ended(await made.bench.executor.start("shop", "green", CI))
        assert ended.state is State.FAILED
        assert "unknown" in ended.outcome
        assert (router.weight, made.writes) == (10_000, ["set 10000"])
        assert made.bench.weights == []
        assert "outer.given_up" in made.bench.names
        # The next one follows what was left, and does not ask for it again.
        router.verdict = Verdict.IN_SYNC
        again = await made.bench.ended(await made.bench.executor.start("shop", "green", CI))
        assert again.state is State.COMPLETED
        assert made.writes == ["set 10000"]
        assert "confirm" in router.journal


async def test_a_swap_left_unknown_is_given_time_before_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A swap that comes late would undo the next one: it is waited for, and then read."""
    router = MemoryRouter(exchange=True, weighted=False, errors=[ReplyLost("no answer")] * 100)
    async with beyond(tmp_path, router, retry_s=0.05) as made:
        ended = await made.bench.ended(await made.bench.executor.start("shop", "green", CI))
        assert ended.state is State.FAILED
        router.errors.clear()
        waited: list[float] = []
        quiet = Mover._quiet

        async def late(self: Mover, now: Any) -> None:
            waited.append(now())
            await quiet(self, now)
            router.weight = 10_000  # the first one has arrived

        monkeypatch.setattr(Mover, "_quiet", late)
        again = await made.bench.ended(await made.bench.executor.start("shop", "green", CI))
        assert again.state is State.COMPLETED
        assert len(waited) == 1
        assert (router.weight, router.changes) == (10_000, 0)


async def test_a_change_that_fails_leaves_everything_where_it_is(tmp_path: Path) -> None:
    router = MemoryRouter(verdict=Verdict.FAILED, detail="quota")
    async with beyond(tmp_path, router) as made:
        ended = await made.bench.ended(await made.bench.executor.start("shop", "green", CI))
        assert (ended.state, made.bench.weights) == (State.FAILED, [])
        assert "change C1 failed: quota" in ended.outcome


async def test_what_was_refused_is_not_asked_again(tmp_path: Path) -> None:
    router = MemoryRouter(errors=[Refused("no such record")])
    async with beyond(tmp_path, router) as made:
        ended = await made.bench.ended(await made.bench.executor.start("shop", "green", CI))
        assert ended.state is State.FAILED
        assert "no such record" in ended.outcome
        assert made.writes == ["set 10000"]


async def test_what_was_throttled_is_asked_again(tmp_path: Path) -> None:
    router = MemoryRouter(errors=[NotDone("slow down"), NotDone("slow down")])
    async with beyond(tmp_path, router) as made:
        ended = await made.bench.ended(await made.bench.executor.start("shop", "green", CI))
        assert ended.state is State.COMPLETED
        assert router.changes == 1
        assert [move["calls"] for move in (await made.receipt(ended.id))["moves"]] == [3]


async def test_it_gives_up_in_bounded_time(tmp_path: Path) -> None:
    router = MemoryRouter(errors=[NotDone("slow down")] * 10_000)
    async with beyond(tmp_path, router, retry_s=0.2) as made:
        ended = await made.bench.ended(await made.bench.executor.start("shop", "green", CI))
        assert ended.state is State.FAILED
        assert "slow down" in ended.outcome
        assert (router.weight, made.bench.weights) == (0, [])


@pytest.mark.parametrize("exchange", [False, True])
@pytest.mark.parametrize("carried_out", [False, True])
async def test_a_lost_reply_is_read_back_and_nothing_is_done_twice(
    tmp_path: Path, carried_out: bool, exchange: bool
) -> None:
    router = MemoryRouter(exchange=exchange, weighted=not exchange)
    (router.lost if carried_out else router.errors).append(ReplyLost("no answer"))
    async with beyond(tmp_path, router) as made:
        ended = await made.bench.ended(await made.bench.executor.start("shop", "green", CI))
        assert (ended.state, router.weight, router.changes) == (State.COMPLETED, 10_000, 1)
        assert ("confirm" in router.journal) == carried_out
        calls = [call for call in router.journal if call != "poll"]
        assert all(call == "read" for call in calls[calls.index("set 10000") + 1 :][:1])


# ---------------------------------------------------------------- the way back


async def test_an_abort_restores_exactly_what_was_read(tmp_path: Path) -> None:
    router = MemoryRouter(weight=1234)
    async with beyond(tmp_path, router) as made:
        started = await made.bench.executor.start("shop", "green", CI, strategy="careful")
        await made.bench.until_held(started.id)
        await made.bench.executor.abort(started.id, CI)
        ended = await made.bench.ended(started)
        assert (ended.state, router.weight) == (State.ABORTED, 1234)
        moves = (await made.receipt(ended.id))["moves"]
        assert [(move["restores"], move["stage"]) for move in moves] == [
            (False, "in_sync"), (True, "in_sync"),
        ]  # fmt: skip


async def test_an_unhealthy_target_takes_both_back_the_proxy_first(tmp_path: Path) -> None:
    router = MemoryRouter()
    async with beyond(tmp_path, router) as made:
        started = await made.bench.executor.start("shop", "green", CI, strategy="careful")
        await made.bench.until_held(started.id)
        router.gate = asyncio.Event()
        made.bench.prober.set("green", HealthWord.UNHEALTHY)
        await made.bench.until(lambda: made.writes == ["set 1000", "set 0"])
        assert made.bench.weights == [1000, 0]
        router.gate.set()
        assert (await made.bench.ended(started)).state is State.ROLLED_BACK
        assert router.weight == 0


async def test_a_rollback_of_what_has_ended_moves_the_proxy_first(tmp_path: Path) -> None:
    router = MemoryRouter()
    async with beyond(tmp_path, router, OuterOrder.OUTER_FIRST) as made:
        await made.bench.ended(await made.bench.executor.start("shop", "green", CI))
        router.gate = asyncio.Event()
        back = await made.bench.executor.rollback("shop", CI)
        await made.bench.until(lambda: made.writes == ["set 10000", "set 0"])
        assert made.bench.weights == [10_000, 0]
        router.gate.set()
        ended = await made.bench.ended(back)
        assert (ended.state, router.weight) == (State.COMPLETED, 0)


async def test_the_proxy_goes_back_though_nothing_beyond_it_answers(tmp_path: Path) -> None:
    """Credentials have expired, DNS is away: that keeps nobody on a side that is broken."""
    router = MemoryRouter()
    async with beyond(tmp_path, router, retry_s=0.3) as made:
        await made.bench.ended(await made.bench.executor.start("shop", "green", CI))
        router.unreadable = Denied("expired")
        back = await made.bench.executor.rollback("shop", CI)
        await made.bench.until(lambda: made.bench.weights == [10_000, 0])
        ended = await made.bench.ended(back)
        assert ended.state is State.FAILED
        assert "it cannot be read after" in ended.outcome
        # Once it answers again, the same command brings it back, too.
        router.unreadable = None
        again = await made.bench.ended(await made.bench.executor.rollback("shop", CI))
        assert (again.state, router.weight, made.bench.weights[-1]) == (State.COMPLETED, 0, 0)


async def test_what_is_forced_waits_for_nothing_beyond_the_proxy(tmp_path: Path) -> None:
    router = MemoryRouter(problems=["a third record"])
    async with beyond(tmp_path, router) as made:
        forced = await made.bench.executor.set_weights(
            "shop", {"blue": 0, "green": 100}, CI, force=True
        )
        await made.bench.until(lambda: made.bench.weights == [10_000])
        ended = await made.bench.ended(forced)
        assert (ended.state, ended.forced_by) == (State.FAILED, "ci")
        assert "a third record" in ended.outcome


async def test_a_reading_that_is_refused_ends_a_switch_in_bounded_time(tmp_path: Path) -> None:
    router = MemoryRouter(unreadable=Denied("expired"))
    async with beyond(tmp_path, router, retry_s=0.2) as made:
        ended = await made.bench.ended(await made.bench.executor.start("shop", "green", CI))
        assert (ended.state, made.bench.weights) == (State.FAILED, [])
        assert "expired" in ended.outcome
        assert "tries in" in ended.outcome


@pytest.mark.parametrize("verdict", [Verdict.PENDING, Verdict.FAILED])
async def test_a_rollback_takes_back_what_failed_beyond_the_proxy(
    tmp_path: Path, verdict: Verdict
) -> None:
    """Not what was moved, and taken back, before that."""
    router = MemoryRouter()
    async with beyond(tmp_path, router, in_sync_timeout_s=0.1) as made:
        await made.bench.ended(await made.bench.executor.start("shop", "green", CI))
        await made.bench.ended(await made.bench.executor.rollback("shop", CI))
        router.verdict = verdict
        failed = await made.bench.ended(await made.bench.executor.start("shop", "green", CI))
        assert (failed.state, router.weight) == (State.FAILED, 10_000)
        router.verdict = Verdict.IN_SYNC
        back = await made.bench.ended(await made.bench.executor.rollback("shop", CI))
        assert (back.state, router.weight) == (State.COMPLETED, 0)
        assert made.bench.weights[-1] == 0


async def test_a_rollback_of_what_has_ended_brings_the_very_numbers_back(tmp_path: Path) -> None:
    router = MemoryRouter(weight=700)
    async with beyond(tmp_path, router) as made:
        await made.bench.ended(await made.bench.executor.start("shop", "green", CI))
        back = await made.bench.ended(await made.bench.executor.rollback("shop", CI))
        assert (back.state, router.weight) == (State.COMPLETED, 700)
        (move,) = (await made.receipt(back.id))["moves"]
        assert (move["restores"], move["stage"]) == (True, "in_sync")


async def test_a_rollback_leaves_what_was_changed_beside_the_weights_since(tmp_path: Path) -> None:
    router = MemoryRouter(weight=700)
    async with beyond(tmp_path, router) as made:
        await made.bench.ended(await made.bench.executor.start("shop", "green", CI))
        router.note = "a longer TTL"
        back = await made.bench.ended(await made.bench.executor.rollback("shop", CI))
        assert (back.state, router.weight, router.note) == (State.COMPLETED, 700, "a longer TTL")


async def test_what_failed_is_asked_for_again_whatever_is_read(tmp_path: Path) -> None:
    router = MemoryRouter(verdict=Verdict.FAILED, detail="quota")
    async with beyond(tmp_path, router) as made:
        await made.bench.ended(await made.bench.executor.start("shop", "green", CI))
        assert router.weight == 10_000
        router.verdict = Verdict.IN_SYNC
        again = await made.bench.ended(await made.bench.executor.start("shop", "green", CI))
        assert again.state is State.COMPLETED
        assert made.writes == ["set 10000", "set 10000"]


async def test_the_way_back_waits_for_the_call_that_is_under_way(tmp_path: Path) -> None:
    router = MemoryRouter(gate=asyncio.Event())
    async with beyond(tmp_path, router) as made:
        started = await made.bench.executor.start("shop", "green", CI)
        await made.bench.until(lambda: made.writes == ["set 10000"])
        await made.bench.executor.abort(started.id, CI)
        await made.bench.until(lambda: made.bench.weights == [0])
        mover = made.bench.executor.outer.of("shop")
        assert mover is not None
        await made.bench.until(mover._lock.locked)
        await asyncio.sleep(0.05)  # long enough for a call that did not wait
        assert made.writes == ["set 10000"]
        assert router.gate is not None
        router.gate.set()
        ended = await made.bench.ended(started)
        assert (ended.state, router.weight) == (State.ABORTED, 0)
        assert made.writes == ["set 10000", "set 0"]


async def test_a_swap_under_way_is_waited_for_before_it_is_taken_back(tmp_path: Path) -> None:
    """Its names are as before until it has ended: that is no sign that there is nothing to do."""
    router = MemoryRouter(exchange=True, weighted=False, late=True, verdict=Verdict.PENDING)
    async with beyond(tmp_path, router) as made:
        started = await made.bench.executor.start("shop", "green", CI)
        await made.bench.until(lambda: "poll" in router.journal)
        await made.bench.executor.abort(started.id, CI)
        await made.bench.until(lambda: made.bench.weights == [0])
        polls = router.journal.count("poll")
        await made.bench.until(lambda: router.journal.count("poll") > polls + 1)
        assert made.writes == ["set 10000"]
        router.verdict = Verdict.IN_SYNC
        ended = await made.bench.ended(started)
        assert (ended.state, router.weight, router.changes) == (State.ABORTED, 0, 2)


@dataclass
class SlowSwap(MemoryRouter):
    """A swap that is taken on, and shows when it lands; `held` keeps the first call, or the look
    before it, under way."""

    weighted: bool = False
    exchange: bool = True
    held: str = ""
    reached: asyncio.Event = field(default_factory=asyncio.Event)
    goes_on: asyncio.Event = field(default_factory=asyncio.Event)
    land: asyncio.Event = field(default_factory=asyncio.Event)
    swaps: list[asyncio.Task[None]] = field(default_factory=list)

    async def _hold(self, where: str) -> None:
        if where == self.held and not self.reached.is_set():
            self.reached.set()
            await self.goes_on.wait()

    async def read(self) -> Reading:
        if "read" in self.journal:  # not when it is looked at in the beginning
            await self._hold("reading")
        return await super().read()

    async def _set(self, wanted: Wanted, if_read: Reading) -> Change:
        await self._hold("calling")
        self.changes += 1
        self.swaps.append(asyncio.create_task(self._swap()))
        return Change(f"C{self.changes}", {"goal": wanted.second_weight})

    async def _swap(self) -> None:
        await self.land.wait()
        self.weight = 10_000 - self.weight

    async def confirm(self, wanted: Wanted, reading: Reading) -> Change:
        return Change("", {"goal": wanted.second_weight})

    async def poll(self, change: Change) -> Progress:
        if self.weight == change.document["goal"]:
            return Progress(Verdict.IN_SYNC)
        return Progress(Verdict.PENDING if change.id else Verdict.UNKNOWN)


@pytest.mark.parametrize("held", ["reading", "calling"])
async def test_a_swap_whose_call_is_under_way_is_waited_for_too(tmp_path: Path, held: str) -> None:
    router = SlowSwap(held=held)
    async with beyond(tmp_path, router) as made:
        started = await made.bench.executor.start("shop", "green", CI)
        await asyncio.wait_for(router.reached.wait(), 5)
        await made.bench.executor.abort(started.id, CI)
        await asyncio.sleep(0.05)  # the way back has begun
        router.goes_on.set()
        await asyncio.sleep(0.3)  # long enough to read that all is as before
        router.land.set()
        ended = await made.bench.ended(started)
        assert (ended.state, router.weight, router.changes) == (State.ABORTED, 0, 2)


async def test_a_swap_that_never_ends_leaves_the_way_back_to_a_person(tmp_path: Path) -> None:
    router = MemoryRouter(exchange=True, weighted=False, late=True, verdict=Verdict.PENDING)
    async with beyond(tmp_path, router, in_sync_timeout_s=0.3) as made:
        started = await made.bench.executor.start("shop", "green", CI)
        await made.bench.until(lambda: "poll" in router.journal)
        await made.bench.executor.abort(started.id, CI)
        ended = await made.bench.ended(started)
        assert (ended.state, made.writes) == (State.FAILED, ["set 10000"])
        assert "the swap before" in ended.outcome


@dataclass
class Forgetful(MemoryRouter):
    """Like Route 53 it confirms by writing once more what was read; it forgot the first change."""

    land: asyncio.Event = field(default_factory=asyncio.Event)

    async def poll(self, change: Change) -> Progress:
        return Progress(Verdict.UNKNOWN if change.id == "C1" else Verdict.IN_SYNC)

    async def confirm(self, wanted: Wanted, reading: Reading) -> Change:
        self.journal.append("confirm")
        if self.journal.count("confirm") == 1:
            raise NotDone("slow down")
        await asyncio.shield(asyncio.ensure_future(self._written(reading.exact["weight"])))
        return Change("again")

    async def _written(self, weight: int) -> None:
        await self.land.wait()
        self.weight = weight


async def test_the_way_back_waits_for_what_is_written_again_to_be_followed(tmp_path: Path) -> None:
    router = Forgetful()
    async with beyond(tmp_path, router) as made:
        started = await made.bench.executor.start("shop", "green", CI)
        await made.bench.until(lambda: router.journal.count("confirm") == 2)
        await made.bench.executor.abort(started.id, CI)
        await asyncio.sleep(0.05)  # long enough for a way back that did not wait
        router.land.set()
        ended = await made.bench.ended(started)
        assert (ended.state, router.weight) == (State.ABORTED, 0)


async def test_a_call_that_was_given_up_is_in_the_receipt(tmp_path: Path) -> None:
    router = MemoryRouter(lost=[ReplyLost("no answer")])
    async with beyond(tmp_path, router, retry_s=0.0) as made:
        ended = await made.bench.ended(await made.bench.executor.start("shop", "green", CI))
        assert ended.state is State.FAILED
        (move,) = (await made.receipt(ended.id))["moves"]
        assert (move["stage"], move["calls"], made.writes) == ("failed", 1, ["set 10000"])


async def test_other_settings_amid_a_move_are_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(carrier_module, "RETRY_S", 0.01)
    old, new = MemoryRouter(unreadable=NotDone("an old address")), MemoryRouter()
    async with beyond(tmp_path, old) as made:
        started = await made.bench.executor.start("shop", "green", CI)
        await made.bench.until(lambda: "read" in old.journal)
        layers = made.bench.executor.outer
        assert isinstance(layers, MemoryLayers)
        layers.use(new)
        await layers._movers.pop("shop").close()
        assert (await made.bench.ended(started)).state is State.COMPLETED
        assert (old.weight, new.weight) == (0, 10_000)


async def test_a_way_back_that_cannot_be_gone_is_for_a_person(tmp_path: Path) -> None:
    router = MemoryRouter()
    async with beyond(tmp_path, router) as made:
        started = await made.bench.executor.start("shop", "green", CI, strategy="careful")
        await made.bench.until_held(started.id)
        router.errors = [Refused("the zone is locked")]
        await made.bench.executor.abort(started.id, CI)
        ended = await made.bench.ended(started)
        assert ended.state is State.FAILED
        assert "the zone is locked" in ended.outcome
        # The proxy's own weights are back: whichever way clients come, they reach blue.
        assert made.bench.weights[-1] == 0


# ---------------------------------------------------------------- who still comes

TAIL = TailPolicy(below=Rate(1, 60.0), for_s=300.0, timeout_s=3600.0, listeners={})


async def test_it_is_completed_when_its_tail_is_over_and_the_receipt_says_so(
    tmp_path: Path,
) -> None:
    tails = MemoryTails()
    async with beyond(tmp_path, tails=tails, tail=TAIL) as made:
        started = await made.bench.executor.start("shop", "green", CI)
        await made.bench.until(lambda: bool(tails.asked))
        value = await made.bench.executor.get(started.id)
        assert value.state is State.DRAINING
        assert "turnout tail shop" in made.bench.executor.doing(value)
        assert tails.asked == [("shop", "blue", 60.0)]
        tails.over.set()
        ended = await made.bench.ended(started)
        assert ended.state is State.COMPLETED
        tail = (await made.receipt(ended.id))["tail"]
        assert (tail["over"], tail["requests"], tail["networks"]) == (
            True,
            17,
            [["10.0.0.0/24", 17]],
        )
        names = made.bench.names
        order = ["outer.in_sync", "tail.waiting", "tail.over", "switchover.completed"]
        assert sorted(order, key=names.index) == order
        waiting, over = (event for event in made.bench.told if event.NAME.startswith("tail."))
        assert waiting == events.TailWaiting(
            service="shop",
            switchover=ended.id,
            upstream="blue",
            ttl_seconds=60.0,
            below="1/min",
            for_seconds=300.0,
        )
        assert over == events.TailOver(
            service="shop",
            switchover=ended.id,
            upstream="blue",
            seconds=301.5,
            requests=17,
            reason="no request for 5m",
        )


async def test_a_tail_counts_from_when_the_change_was_in_sync_however_long_asking_takes(
    tmp_path: Path,
) -> None:
    tails, router = MemoryTails(), MemoryRouter(pace_s=0.3)
    tails.over.set()
    async with beyond(tmp_path, router, tails=tails, tail=TAIL) as made:
        ended = await made.bench.ended(await made.bench.executor.start("shop", "green", CI))
        (move,) = (await made.receipt(ended.id))["moves"]
        in_sync_at = datetime.fromisoformat(move["in_sync_at"]).timestamp()
        assert tails.in_sync_at == [pytest.approx(in_sync_at, abs=0.1)]


async def test_a_tail_that_is_not_over_in_time_fails_it_with_the_weights_where_they_are(
    tmp_path: Path,
) -> None:
    tails = MemoryTails(in_time=False)
    tails.over.set()
    async with beyond(tmp_path, tails=tails, tail=TAIL) as made:
        ended = await made.bench.ended(await made.bench.executor.start("shop", "green", CI))
        assert ended.state is State.FAILED
        assert "blue must not be removed yet" in ended.outcome
        assert "after 3600 s (tail.timeout): 3 requests in the last minute;" in ended.outcome
        told = made.bench.told[made.bench.names.index("tail.not_over")]
        assert told == events.TailNotOver(
            service="shop",
            switchover=ended.id,
            upstream="blue",
            seconds=301.5,
            requests=17,
            reason="3 requests in the last minute",
            next="turnout tail shop --wait says when blue may go",
        )
        assert (made.router.weight, made.bench.weights) == (10_000, [10_000])


async def test_what_the_system_itself_counts_has_to_be_few_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(beyond_module, "LOOK_AGAIN_S", 0.01)
    tails, router = MemoryTails(), MemoryRouter(counted=[0.0, 40.0, 40.0, 0.5])
    tails.over.set()
    async with beyond(tmp_path, router, tails=tails, tail=TAIL) as made:
        ended = await made.bench.ended(await made.bench.executor.start("shop", "green", CI))
        assert (ended.state, router.counted) == (State.COMPLETED, [])


@pytest.mark.parametrize(("timeout_s", "state"), [(0.0, State.COMPLETED), (0.2, State.FAILED)])
async def test_a_system_that_cannot_be_asked_for_its_tail_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, timeout_s: float, state: State
) -> None:
    monkeypatch.setattr(beyond_module, "LOOK_AGAIN_S", 0.01)
    tails, router = MemoryTails(), MemoryRouter(tail_errors=[NotDone("slow down")] * 100)
    tails.over.set()
    tail = replace(TAIL, timeout_s=timeout_s)
    async with beyond(tmp_path, router, tails=tails, tail=tail) as made:
        ended = await made.bench.ended(await made.bench.executor.start("shop", "green", CI))
        assert ended.state is state
        assert made.bench.weights == [10_000]
        assert state is State.COMPLETED or "slow down" in ended.outcome


async def test_a_tail_that_leaves_the_configuration_is_not_taken_for_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tails = MemoryTails()
    async with beyond(tmp_path, tails=tails, tail=TAIL) as made:
        started = await made.bench.executor.start("shop", "green", CI)
        await made.bench.until(lambda: bool(tails.asked))
        services = made.bench.executor._services
        services["shop"] = replace(services["shop"], outer=None)
        await made.bench.executor.close()
        carrier = made.bench.executor._carriers["shop"]
        carrier.begin()  # as after a restart of control
        ended = await made.bench.ended(started)
        assert ended.state is State.FAILED
        assert "no outer.tail any more" in ended.outcome


async def test_during_its_tail_it_can_be_taken_back(tmp_path: Path) -> None:
    tails = MemoryTails()
    async with beyond(tmp_path, tails=tails, tail=TAIL) as made:
        started = await made.bench.executor.start("shop", "green", CI)
        await made.bench.until(lambda: bool(tails.asked))
        await made.bench.executor.rollback("shop", CI)
        ended = await made.bench.ended(started)
        assert (ended.state, made.router.weight) == (State.ROLLED_BACK, 0)


# ---------------------------------------------------------------- a crash at any call


@pytest.mark.parametrize("moment", ["before", "after", "pending"])
@pytest.mark.parametrize("order", list(OuterOrder))
async def test_a_crash_around_the_call_resumes_without_a_second_change(
    tmp_path: Path, order: OuterOrder, moment: str
) -> None:
    """The control process dies; all that is left are the store, the words and the system."""
    router = MemoryRouter()
    if moment == "pending":
        router.verdict = Verdict.PENDING
    else:
        router.gate = asyncio.Event()
    async with beyond(tmp_path, router, order) as made:
        started = await made.bench.executor.start("shop", "green", CI)
        await made.bench.until(lambda: bool(made.writes))
        workers = made.bench.workers
        if moment == "pending":
            await made.bench.until(lambda: "poll" in router.journal)
        if moment == "after":  # carried out, and nobody is there to hear of it
            router.weight, router.changes = 10_000, 1
        mover = made.bench.executor.outer.of("shop")
        assert mover is not None
        await kill(made.bench)
    router.gate, router.verdict = None, Verdict.IN_SYNC
    async with beyond(tmp_path, router, order, workers) as made:
        ended = await asyncio.wait_for(made.bench.executor.wait(started.id), 5)
        assert ended.state is State.COMPLETED
        assert (router.weight, router.changes) == (10_000, 1)


async def kill(bench: Bench) -> None:
    """End every task where it stands, also what is shielded: as `kill -9` does."""
    me = asyncio.current_task()
    others = [task for task in asyncio.all_tasks() if task is not me]
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
