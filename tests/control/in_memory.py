"""The executor's seams in memory: workers, health and tables that a test turns by hand.

The workers count as real ones do: an exchange is picked under the word in force, ends in one
outcome, and what a replaced worker held is cut.
"""

import asyncio
import itertools
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from turnout.control.evidence import Snapshot
from turnout.control.health import UpstreamHealth
from turnout.control.ports import CutResult
from turnout.control.refusals import TableRefused
from turnout.proxy import scoreboard as board
from turnout.proxy.scoreboard import CLASS_NAMES, ExchangeClass, HealthWord, RoutingWord


@dataclass(eq=False)
class MemoryExchange:
    slot: int
    upstream: int
    region: int
    kind: ExchangeClass
    epoch: int


@dataclass
class MemoryWorkers:
    """Workers in regions 0 and 1, all of them reading the same words."""

    now: Any
    identity: str = "scoreboard-1"
    run: str = "run-1"
    words: dict[int, RoutingWord] = field(default_factory=dict)
    newest_epoch: int = 0
    seen: dict[int, int] = field(default_factory=lambda: {0: 0, 1: 0})
    deaf: set[int] = field(default_factory=set)
    """Regions whose worker hangs: it sees no epoch and answers nothing."""
    exchanges: list[MemoryExchange] = field(default_factory=list)
    blocks: dict[int, list[int]] = field(default_factory=dict)
    replaced: list[int] = field(default_factory=list)
    idle_closed: list[tuple[int, int]] = field(default_factory=list)
    history: list[tuple[int, int, int]] = field(default_factory=list)
    """(slot, second_weight, epoch) of each word that was set."""
    prepare_error: str = ""
    prepare_gate: asyncio.Event | None = None
    _regions: Any = field(default_factory=lambda: itertools.cycle((0, 1)))

    # ------------------------------------------------------------ what a test does

    def request(
        self, slot: int, kind: ExchangeClass = ExchangeClass.PLAIN, upstream: int | None = None
    ) -> MemoryExchange:
        """A request comes in and goes where the word says; a split goes to the second."""
        word = self.words[slot]
        if upstream is None:
            upstream = int(word.second_weight > 0)
        block = self._block(slot)
        block[board.S_ACCEPTED] += 1
        block[upstream * board.UPSTREAM_WORDS + board.U_PICKED] += 1
        exchange = MemoryExchange(slot, upstream, next(self._regions), kind, word.epoch)
        self.exchanges.append(exchange)
        return exchange

    def answer(self, exchange: MemoryExchange, status: int = 200, latency_ms: float = 4) -> None:
        self.exchanges.remove(exchange)
        base = exchange.upstream * board.UPSTREAM_WORDS
        block = self._block(exchange.slot)
        block[base + board.U_ANSWERED + board.CODE_INDEX[status]] += 1
        block[base + board.U_LATENCY + board.latency_bucket(int(latency_ms * 1000))] += 1

    # ------------------------------------------------------------ what the executor does

    @property
    def prepared(self) -> bool:
        return self.prepare_gate is None and not self.prepare_error

    async def prepare(self, timeout_s: float) -> str:
        if self.prepare_gate is not None:
            await self.prepare_gate.wait()
        return self.prepare_error

    def word(self, slot: int) -> RoutingWord:
        return self.words.get(slot, RoutingWord(False, 0, 0))

    def set_word(self, slot: int, hold: bool, second_weight: int, epoch: int) -> None:
        assert epoch >= self.newest_epoch, "epochs reach the words in order"
        self.words[slot] = RoutingWord(hold, second_weight, epoch)
        self.newest_epoch = epoch
        self.history.append((slot, second_weight, epoch))
        for region in set(self.seen) - self.deaf:
            self.seen[region] = epoch

    async def acknowledged(self, epoch: int, timeout_s: float) -> Sequence[int]:
        deadline = self.now() + timeout_s
        while late := [region for region, seen in self.seen.items() if seen < epoch]:
            if self.now() >= deadline:
                return late
            await asyncio.sleep(0.001)
        return []

    def in_flight(self, slot: int, upstream: int) -> Mapping[int, int]:
        return Counter(
            exchange.region
            for exchange in self.exchanges
            if (exchange.slot, exchange.upstream) == (slot, upstream)
        )

    def in_flight_by_class(self, slot: int, upstream: int) -> Mapping[str, int]:
        return Counter(
            CLASS_NAMES[exchange.kind]
            for exchange in self.exchanges
            if (exchange.slot, exchange.upstream) == (slot, upstream)
        )

    async def cut(
        self,
        slot: int,
        upstream: int,
        classes: Collection[int],
        reason: str,
        epoch: int,
        timeout_s: float,
    ) -> CutResult:
        cut = [
            exchange
            for exchange in self.exchanges
            if (exchange.slot, exchange.upstream) == (slot, upstream)
            and exchange.kind in classes
            and exchange.epoch < epoch
            and exchange.region not in self.deaf
        ]
        self._end_cut(cut, reason)
        entries = tuple(
            {
                "method": "GET",
                "path": "/",
                "age_seconds": 1.0,
                "class": CLASS_NAMES[exchange.kind],
                "reason": reason,
            }
            for exchange in cut
        )
        return CutResult(entries, tuple(sorted(self.deaf)))

    async def close_idle(self, slot: int, upstream: int, timeout_s: float) -> Sequence[int]:
        self.idle_closed.append((slot, upstream))
        return sorted(self.deaf)

    async def replace(self, region: int, reason: str) -> None:
        self.replaced.append(region)
        self.deaf.discard(region)
        self.seen[region] = self.newest_epoch
        held = [exchange for exchange in self.exchanges if exchange.region == region]
        self._end_cut(held, "worker_died")

    def snapshot(self, slot: int) -> Snapshot:
        return Snapshot(self.identity, self.now(), tuple(self._block(slot)))

    def _end_cut(self, cut: Sequence[MemoryExchange], reason: str) -> None:
        for exchange in cut:
            self.exchanges.remove(exchange)
            base = exchange.upstream * board.UPSTREAM_WORDS
            index = board.CUT_REASONS.index(reason)
            self._block(exchange.slot)[base + board.U_CUT + index] += 1

    def _block(self, slot: int) -> list[int]:
        return self.blocks.setdefault(slot, [0] * board.SERVICE_WORDS)


@dataclass
class MemoryProber:
    """Every upstream is healthy until a test says otherwise."""

    states: dict[tuple[str, str], HealthWord] = field(default_factory=dict)

    def set(self, upstream: str, state: HealthWord, service: str = "shop") -> None:
        self.states[service, upstream] = state

    def upstream(self, service: str, upstream: str) -> UpstreamHealth:
        state = self.states.get((service, upstream), HealthWord.HEALTHY)
        healthy = state is HealthWord.HEALTHY
        reason = "" if healthy else f"{upstream} is {state.name.lower()}"
        return UpstreamHealth(upstream, state, reason, int(healthy), 1)


@dataclass
class MemoryTables:
    published: list[str] = field(default_factory=list)
    error: str = ""

    async def publish(self, reason: str, *, drained: bool = True) -> None:
        if self.error:
            raise TableRefused(self.error)
        self.published.append(reason)
