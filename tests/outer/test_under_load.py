"""A whole switchover with each kind of outer layer: the real processes, under load.

Three ledgers agree: what the clients got, what the upstreams received, what the proxy counted. The
fake's journal has one effective change for each move, also when control is killed (kill -9) at any
call. `make test` kills at the calls that matter most; TURNOUT_FAULTS=all at each, of every kind.
"""

import asyncio
import contextlib
import itertools
import os
import signal
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final

import pytest

from tests.fakes.base import Call, Dropped, Fault, Moment
from tests.harness import SERVICE, Bench, bench
from tests.load import Load, Switch, backwards, misplaced, must_not_fail
from tests.outer.target import Target
from tests.outer.target_command import CommandTarget
from tests.outer.target_route53 import Route53Target
from tests.outer.target_webhook import WebhookTarget
from tests.outer.targets import EACH_KIND
from turnout.config.weights import WHOLE

ALL: Final = os.environ.get("TURNOUT_FAULTS") == "all"
OUTCOMES: Final = ("answered_by_upstream", "answered_by_proxy", "client_aborted", "cut")
AROUND: Final = 30
"""So many requests before each change and after it."""

# The pauses between looks, and the pace of calls, are for real systems; what is shown here does
# not hang on them.
HASTY: Final = """
from turnout.config.outer.common import OuterSection
from turnout.control.outer import mover

mover.POLL_FIRST_S = mover.RETRY_FIRST_S = 0.02

def hasten(section):
    section.paced = (1e6, 1000)
    for kind in section.__subclasses__():
        hasten(kind)

import turnout.config.outer
hasten(OuterSection)
"""


@contextlib.asynccontextmanager
async def turned(
    target: Target, patch: pytest.MonkeyPatch, *, hasty: bool = True, **service: Any
) -> AsyncIterator[tuple[Bench, Load]]:
    """The product with the target's outer layer, and clients at work."""
    async with target.serve():
        for name, value in target.environment().items():
            patch.setenv(name, value)
        outer = {**target.settings(), "call_timeout": "2s", **service.pop("outer", {})}
        faults = {"turnout.control.app": HASTY} if hasty else None
        async with bench(workers=1, faults=faults, outer=outer, **service) as at:
            load = Load(lambda: at.product.address)
            async with load.running(kept=2, fresh=2):
                await load.more(AROUND)
                yield at, load
                await load.more(AROUND)
            must_not_fail(load.samples)
            assert misplaced(load.samples, [at.blue, at.green]) == []
            await counted(at, len(load.samples))


async def counted(at: Bench, sent: int) -> None:
    """The proxy counted what the clients sent, and no more."""

    async def sums() -> Mapping[str, float]:
        metrics = await at.product.api.metrics()
        return {
            name: metrics.sum("turnout_requests_total", service=SERVICE, outcome=name)
            for name in OUTCOMES
        }

    async with asyncio.timeout(5):
        while sum((found := await sums()).values()) < sent:
            await asyncio.sleep(0.02)
    assert found == {**dict.fromkeys(OUTCOMES, 0.0), "answered_by_upstream": sent}


async def moved(at: Bench, load: Load, to: str, **body: Any) -> tuple[dict[str, Any], Switch]:
    asked = load.clock.tick()
    ended = await at.product.api.switch(to, **body)
    return ended, Switch(to, asked, load.clock.tick())


def receipt_of(ended: Mapping[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The receipt, whose sums agree, and its outer section's moves, with their times."""
    receipt = ended["receipt"]
    requests = receipt["requests"]
    assert requests["accepted"] == sum(requests[name] for name in (*OUTCOMES, "in_flight"))
    assert (requests["cut"], receipt["cut"], requests["answered_by_proxy"]) == (0, [], 0)
    moves = receipt["outer"]["moves"]
    for move in moves:
        if move["stage"] == "in_sync":
            assert receipt["started_at"] <= move["asked_at"] <= move["taken_on_at"]
            assert move["taken_on_at"] <= move["in_sync_at"] <= receipt["finished_at"]
    return receipt, moves


REAL: Final = [kind for kind in EACH_KIND if kind.in_product]


@pytest.mark.parametrize("kind", REAL, ids=lambda target: target.__name__)
async def test_a_switch_and_its_rollback_lose_nothing_and_move_it_once_each(
    kind: type[Target], monkeypatch: pytest.MonkeyPatch
) -> None:
    target = kind()
    async with turned(target, monkeypatch) as (at, load):
        if target.can_pend:
            target.fake.pending_s = 0.1
        ended, there = await moved(at, load, "green")
        assert (ended["state"], target.second_weight()) == ("completed", WHOLE), ended
        receipt, moves = receipt_of(ended)
        assert receipt["outer"]["kind"] == target.kind
        assert [move["stage"] for move in moves] == ["in_sync"]
        assert moves[0]["seconds"] >= target.fake.pending_s
        assert len(target.fake.effective) == 1
        await load.more(AROUND)
        asked = load.clock.tick()
        back = await at.product.api.rollback()
        assert (back["state"], target.second_weight()) == ("completed", 0), back
        assert len(target.fake.effective) == 2
        receipt_of(back)
        switches = [there, Switch("blue", asked, load.clock.tick())]
    assert backwards(load.samples, switches) == []


# ---------------------------------------------------------------- control is killed


async def killed(at: Bench) -> None:
    """Control is killed, and gone."""
    pid = at.product.control_pid
    os.kill(pid, signal.SIGKILL)
    await at.product.until(lambda: at.product.control_pid != pid, "control to be gone")


class Killer:
    """Kills control when the fake gets its n-th call from now on."""

    def __init__(self, at: Bench, target: Target, number: int, moment: Moment) -> None:
        self._at = at
        self._left = number
        self._moment = moment
        self.killed: Call | None = None
        target.fake.hook = self

    async def __call__(self, call: Call, moment: Moment) -> None:
        if moment is not self._moment or self.killed is not None:
            return
        self._left -= 1
        if self._left:
            return
        self.killed = call
        await killed(self._at)
        if moment is Moment.BEFORE:
            raise Dropped


def kills_at(calls: list[Call]) -> list[tuple[int, Moment]]:
    """Which of a switchover's calls, counted from 1, control is killed at: each, or the one that
    changes something, and behind the next, which asks how far that is."""
    if ALL:
        return list(itertools.product(range(1, len(calls) + 1), Moment))
    writing = next(number for number, call in enumerate(calls, 1) if call.writes)
    return [(writing, Moment.BEFORE), (writing, Moment.AFTER), (writing + 1, Moment.AFTER)]


@pytest.mark.parametrize(
    "kind",
    REAL if ALL else [WebhookTarget, CommandTarget, Route53Target],
    ids=lambda target: target.__name__,
)
async def test_control_is_killed_at_any_call_and_nothing_is_done_twice(
    kind: type[Target], monkeypatch: pytest.MonkeyPatch
) -> None:
    target = kind()
    kills = 0
    async with turned(target, monkeypatch) as (at, load):
        target.fake.pending_s = 0.2
        colours = itertools.cycle(("green", "blue"))
        await moved(at, load, next(colours))
        for number, moment in kills_at(list(target.fake.journal)):
            await at.product.control_ready()
            effective = len(target.fake.effective)
            killer = Killer(at, target, number, moment)
            to = next(colours)
            ended = await killed_meanwhile(at, to)
            if killer.killed is None:
                continue  # it took fewer calls this time: one look less at what is pending
            kills += 1
            what = f"killed {moment} {killer.killed.method} {killer.killed.path}: {ended}"
            assert ended["state"] == "completed", what
            assert target.second_weight() == {"blue": 0, "green": WHOLE}[to], what
            assert len(target.fake.effective) == effective + 1, what
            receipt_of(ended)
            target.fake.hook = None
    assert kills >= 2


async def killed_meanwhile(at: Bench, to: str) -> dict[str, Any]:
    """Switch, while control is killed: started by whoever does not wait, seen by who asks again."""
    before = at.product.control_pid
    id = (await at.product.api.switch(to, wait=False))["id"]
    with contextlib.suppress(Exception):
        return await at.product.api.ended(id, limit_s=10.0)
    await at.product.control_replaced(before)
    return await at.product.api.ended(id)


# ---------------------------------------------------------------- Route 53, all at once


async def test_route_53_with_throttling_and_a_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    target = Route53Target()
    async with turned(target, monkeypatch, hasty=False) as (at, load):
        target.fake.pending_s = 0.5
        target.fake.inject(Fault.THROTTLED, 2)

        async def crash(call: Call, moment: Moment) -> None:
            """Behind the change, before anybody knows its id."""
            if call.writes and moment is Moment.AFTER:
                target.fake.hook = None
                await killed(at)

        target.fake.hook = crash
        before = at.product.control_pid
        asked = load.clock.tick()
        id = (await at.product.api.switch("green", wait=False))["id"]
        await at.product.control_replaced(before)
        ended = await at.product.api.ended(id, limit_s=60)
        assert (ended["state"], target.second_weight()) == ("completed", WHOLE), ended
        _, (move,) = receipt_of(ended)
        assert (move["stage"], move["weights"]["green"]) == ("in_sync", 100)
        assert move["change"]
        assert move["seconds"] >= target.fake.pending_s
        assert len(target.fake.effective) == 1
        assert sum(call.fault is Fault.THROTTLED for call in target.fake.journal) == 2
        switches = [Switch("green", asked, load.clock.tick())]
    assert backwards(load.samples, switches) == []
