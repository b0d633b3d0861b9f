"""One case: a fault, in one phase of a switchover, under load; and the three ledgers at the end."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, Final

from loadtests import ledgers, monotonic
from loadtests.clients import Clients
from loadtests.explained import Disturbance, Verdict, judge
from loadtests.faults import Done, Fault, named_as_cut, options
from loadtests.ledgers import Arrived, Change, Counters, Ledgers, Line, Served
from loadtests.stage import Stage, staged, tail
from loadtests.view import Tail
from tests.faults.phases import PATH, PHASES, Switch

KEPT: Final = 8
FRESH: Final = 6
BROKEN_S: Final = 1.2
"""Longer than it takes a probe to find a server that does not answer, twice."""
ANSWERED_S: Final = 1.0
"""Within this a new connection is answered, whatever becomes of a worker."""
FLIPS: Final = ("preparing", "checking", "draining")
"""Phases of an atomic switch; the others are had in steps."""
SHOWS_S: Final = {"worker hangs": 0.7}
"""So long a worker's fault takes to come about, where that is not at once: it looks now and then
whether it is to hang."""
AFTERWARDS: Final = 40
"""Requests that must go well once it is over."""


@dataclass(slots=True)
class Case:
    """One case, and what became of it."""

    source: str
    target: str
    clients: Clients
    before: Counters
    done: Done
    changes: list[Change]
    state: str = ""
    """Of the switchover, at its end."""
    weights: dict[str, float] = field(default_factory=dict)
    verdict: Verdict = field(default_factory=Verdict)
    died: int = 0
    """Requests that the product counts as cut as a worker died."""
    slow_news: list[str] = field(default_factory=list)
    """Requests over new connections that took too long while a worker was at fault."""
    backwards: list[str] = field(default_factory=list)
    """Counters that went down."""

    def wrong(self) -> list[str]:
        """All that was found, in words."""
        return [*map(str, self.verdict.findings), *self.slow_news, *self.backwards]

    def __str__(self) -> str:
        ways = ", ".join(f"{count} {way}" for way, count in self.verdict.explained.items())
        return (
            f"{self.verdict.requests} requests, {self.state}, explained: {ways or 'nothing'}, "
            f"{self.verdict.doubled} sent again"
        )


class Harness:
    """A stage for one case after the other."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self._tails = [Tail(path) for path in stage.upstream_ledgers]
        self._cases = 0

    async def run(self, fault: Fault, phase: str, *, target: bool, whole: bool, seed: int) -> Case:
        """Have the fault in that phase: at the target or the source, of all its servers or one."""
        stage = self.stage
        case = await self._begin(seed)
        upstream = "" if fault.of_worker else (case.target if target else case.source)
        servers = stage.servers(upstream)[: None if whole else 1] if upstream else []
        switch = Switch(stage, case.clients, case.source, case.target)
        async with monotonic.watched(stage) as watch, case.clients.running(KEPT, FRESH):
            await case.clients.more(2 * (KEPT + FRESH))
            asked_s = time.monotonic()
            async with contextlib.AsyncExitStack() as broken:
                async with PHASES[phase](switch):
                    fault_here = case.done.broken(fault, stage, upstream, servers)
                    await broken.enter_async_context(fault_here)
                    # So that the phase ends with the fault still there.
                    await asyncio.sleep(BROKEN_S / 2)
                await asyncio.sleep(BROKEN_S / 2)
            ended = await switch.reached(limit_s=40.0)
            done_s = time.monotonic()
            await asyncio.gather(*switch.slow)
            for act in switch.afterwards:
                await act()
            await self._healthy()
            await case.clients.more(AFTERWARDS)
        case.state, case.weights = ended["state"], await self._weights()
        settled = next((name for name, part in case.weights.items() if part == 100.0), None)
        flip = phase in FLIPS and settled == case.target
        case.changes.append(
            Change(f"{phase} to {case.target}", asked_s, done_s, settled, flip=flip)
        )
        return await self._judged(case, watch)

    async def repeat(self, fault: Fault, times: int, *, seed: int) -> Case:
        """Have a worker's fault so many times in a row, without a switchover."""
        case = await self._begin(seed)
        async with monotonic.watched(self.stage) as watch, case.clients.running(KEPT, FRESH):
            for _ in range(times):
                async with case.done.broken(fault, self.stage):
                    await case.clients.more(KEPT + FRESH)
            await case.clients.more(AFTERWARDS)
        case.weights = await self._weights()
        return await self._judged(case, watch)

    async def _begin(self, seed: int) -> Case:
        """A new case on a stage that is at rest."""
        await self._quiet()
        self._cases += 1
        source = await self._heavy()
        target = next(name for name in ledgers.UPSTREAMS if name != source)
        address = self.stage.url.removeprefix("http://")
        clients = Clients(lambda: address, seed, f"k{self._cases}-")
        self._lines()
        now_s = time.monotonic()
        start = Change("start", now_s, now_s, source)
        return Case(source, target, clients, await self._counters(), Done(), [start])

    async def _judged(self, case: Case, watch: monotonic.Watch) -> Case:
        """Hold the ledgers against each other."""
        clients, disturbances = case.clients, case.done.disturbances
        counters = (await self._counters(settled=True)).since(case.before)
        named = await self._named(f"k{self._cases}-", counters.died)
        lines = self._lines()
        found = Ledgers(
            sent=clients.sent,
            got=clients.got,
            arrived=ledgers.only(Arrived, lines),
            served=ledgers.only(Served, lines),
            changes=case.changes,
            receipts=[],
            counters=counters,
        )
        case.verdict = judge(found, disturbances, named=named)
        case.died = counters.died
        case.slow_news = _slow_news(clients, disturbances)
        case.backwards = watch.backwards
        return case

    async def _named(self, prefix: str, count: int) -> list[str]:
        """The ids of what dead workers held in this case, once all are named, or 5 s later."""
        limit_s = time.monotonic() + 5.0
        while True:
            named = [id for id in named_as_cut(self.stage) if id.startswith(prefix)]
            if len(named) >= count or time.monotonic() > limit_s:
                return named
            await asyncio.sleep(0.05)

    def _lines(self) -> list[Line]:
        return [line for tail in self._tails for line in tail.more()]

    # ------------------------------------------------------------ the product

    async def _get(self, path: str) -> Any:
        answer = await self.stage.api.get(path)
        assert answer.is_success, f"GET {path}: {answer.status_code} {answer.text}"
        return answer.json()

    async def _weights(self) -> dict[str, float]:
        return {name: float(part) for name, part in (await self._get(PATH))["weights"].items()}

    async def _heavy(self) -> str:
        """The upstream that has all, after some help if need be."""
        weights = await self._weights()
        heavy = max(weights, key=lambda name: weights[name])
        if weights[heavy] < 100:
            body = {"weights": {name: 100.0 * (name == heavy) for name in weights}}
            answer = await self.stage.api.put(f"{PATH}/weights?wait=true", json=body)
            assert answer.is_success, answer.text
        return heavy

    async def _healthy(self) -> None:
        async with asyncio.timeout(30.0):
            while True:
                upstreams = (await self._get(PATH))["upstreams"].values()
                if all(one["healthy"] for upstream in upstreams for one in upstream["servers"]):
                    return
                await asyncio.sleep(0.05)

    async def _quiet(self) -> None:
        async with asyncio.timeout(30.0):
            while (await self._get(PATH))["switchover"] is not None:
                await asyncio.sleep(0.05)
        await self._healthy()

    async def _counters(self, *, settled: bool = False) -> Counters:
        """As they are; with `settled`, once nothing is in flight (or that does not come)."""
        limit_s = time.monotonic() + 10.0
        while True:
            counters = ledgers.counters(
                monotonic.samples((await self.stage.api.get("/metrics")).text)
            )
            if not settled or not counters.in_flight or time.monotonic() > limit_s:
                return counters
            await asyncio.sleep(0.05)


def _slow_news(clients: Clients, disturbances: list[Disturbance]) -> list[str]:
    """Of the requests over new connections, those that a worker's fault has made wait too long, or
    that were not answered at all: what comes after it, the worker at fault cannot hold."""
    found = []
    began = {one.id: one for one in clients.sent}
    allowed_s = ANSWERED_S + clients.lateness.allowed_s
    for one in clients.got:
        connected_s = clients.connected.get(one.id)
        faults = [
            fault
            for fault in disturbances
            if connected_s is not None
            and not fault.upstream
            and fault.began_s + SHOWS_S.get(fault.name, 0.05) <= connected_s <= fault.ended_s
        ]
        if not faults or connected_s is None:
            continue
        if any(
            fault.workers and connected_s - 0.05 < fault.began_s <= one.ended_s
            for fault in disturbances
        ):
            continue  # one that was killed after that may have held it
        took_s = one.ended_s - connected_s - clients.delays[one.id]
        if one.error or took_s > allowed_s:
            end = one.error or "it was answered"
            found.append(f"{one.id} ({began[one.id].kind}) took {took_s:.2f} s: {end}")
    return found


@contextlib.asynccontextmanager
async def harness(*, workers: int = 2, **more: Any) -> AsyncIterator[Harness]:
    """A stage on which every fault can be had, started; what it did wrong fails at the end."""
    async with staged(workers=workers, servers=2, **options(), **more) as stage:
        yield Harness(stage)
        await stage.stop()
        assert not stage.faults, f"{stage.faults}\n{tail(stage.product_log)}"
