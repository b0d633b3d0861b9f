"""The table in force, come alive in one worker: services, upstreams, and a pool for each server.

Pools outlive a table: a server that is in the old and the new one keeps its connections and
its in-flight count. One that is gone finishes what it has and keeps nothing idle.
"""

import re
from typing import TYPE_CHECKING, Final

from turnout.config.table import RoutingTable, TableServer, TableService
from turnout.proxy.head import field_pattern
from turnout.proxy.hold import Held
from turnout.proxy.pool import ServerPool
from turnout.proxy.retry import Budget
from turnout.proxy.routing import Router, first_phase
from turnout.proxy.scoreboard import (
    EPOCH_MASK,
    HOLD_BIT,
    S_ACCEPTED,
    UPSTREAM_WORDS,
    WEIGHT_MASK,
    WEIGHT_SHIFT,
    WEIGHT_UNIT,
    ExchangeClass,
    Scoreboard,
    pack_inflight,
    service_word_index,
)

if TYPE_CHECKING:
    from turnout.proxy.arrivals import Entry
    from turnout.proxy.worker_core import Worker

UNMATCHED_SLOT: Final = 0
"""Requests that no service matches are counted here."""

PoolKey = tuple[int, int, str]
"""Service slot, upstream, endpoint: so that one upstream's connections are its own."""


class UpstreamState:
    """One upstream of a service: its servers' pools and where its counters are."""

    __slots__ = ("base", "mark", "name", "only", "position", "servers")

    def __init__(
        self, name: str, position: int, slot: int, base: int, servers: list[ServerPool]
    ) -> None:
        self.name = name
        self.position = position
        self.base = base
        """Index of its block's first word in the scoreboard."""
        self.servers = servers
        self.only = servers[0] if len(servers) == 1 else None
        """Its server, if there is just one: nothing is to be chosen."""
        self.mark = pack_inflight(slot, position, ExchangeClass.PLAIN, 0)
        """Word 0 of an in-flight slot of its plain exchanges, but for the method."""


class ServiceState:
    """One service as this worker serves it; keeps its phase and held requests over tables."""

    __slots__ = (
        "accepted",
        "base",
        "budget",
        "entered",
        "epoch",
        "held",
        "hold",
        "phase",
        "slot",
        "sole",
        "table",
        "try_out",
        "upstreams",
        "word",
        "word_index",
    )

    def __init__(self, table: TableService, slot: int, base: int, worker: int) -> None:
        self.table = table
        self.slot = slot
        self.base = base
        self.accepted = base + S_ACCEPTED
        self.word_index = service_word_index(slot)
        self.phase = first_phase(worker)
        self.held = Held()
        self.budget = _budget(table)
        self.upstreams: list[UpstreamState] = []
        self.try_out: re.Pattern[bytes] | None = None
        self.entered: dict[str, Entry] = {}
        """Listener's bind -> what requests that came in by it are counted in, beside."""
        self.word = _NO_WORD
        self.epoch = 0
        self.hold = False
        self.sole: UpstreamState | None = None

    def follow(self, word: int) -> None:
        """Note what a routing word says that is not the one which the last request saw.

        Hot: words change at a flip, so a request compares two numbers and takes none apart.
        """
        weight = (word >> WEIGHT_SHIFT) & WEIGHT_MASK
        self.word = word
        self.epoch = word & EPOCH_MASK
        self.hold = bool(word & HOLD_BIT)
        self.sole = None
        if not self.hold and (weight == 0 or weight >= WEIGHT_UNIT):
            self.sole = self.upstreams[1 if weight else 0]


_NO_WORD: Final = -1
"""Equal to no routing word: the next request takes its word apart."""


def _budget_settings(table: TableService) -> tuple[float, float, int]:
    return table.retry_budget, table.retry_window_s, table.retry_floor


def _budget(table: TableService) -> Budget:
    return Budget(table.retry_budget, window_s=table.retry_window_s, floor=table.retry_floor)


class Serving:
    """What the worker's requests are served from, until another table is in force."""

    __slots__ = ("_pools", "_worker", "by_slot", "only", "router", "services", "table", "unmatched")

    def __init__(self, worker: "Worker", scoreboard: Scoreboard, region: int) -> None:
        self._worker = worker
        self._pools: dict[PoolKey, ServerPool] = {}
        self.by_slot: dict[int, ServiceState] = {}
        self.services: list[ServiceState] = []
        self.only: ServiceState | None = None
        """The service that gets every request, if there is one that does."""
        self.table = RoutingTable(number=0, services=())
        self.router = Router(())
        self.unmatched = scoreboard.service(region, UNMATCHED_SLOT)

    def adopt(self, table: RoutingTable, scoreboard: Scoreboard, region: int, number: int) -> None:
        """Serve from `table` from now on; `number` is the worker's, for its first phase."""
        pools: dict[PoolKey, ServerPool] = {}
        services: list[ServiceState] = []
        by_slot: dict[int, ServiceState] = {}
        for entry in table.services:
            base = scoreboard.service(region, entry.slot)
            service = self.by_slot.get(entry.slot)
            if service is None:
                service = ServiceState(entry, entry.slot, base, number)
            elif _budget_settings(service.table) != _budget_settings(entry):
                service.budget = _budget(entry)
            service.table = entry
            service.entered = self._worker.arrivals.of_service(entry, base)
            name = entry.try_out_header.encode()
            service.try_out = field_pattern(name) if name else None
            service.upstreams = [
                UpstreamState(
                    upstream.name,
                    position,
                    entry.slot,
                    base + position * UPSTREAM_WORDS,
                    [
                        self._pool(pools, position, entry, table, server)
                        for server in upstream.servers
                    ],
                )
                for position, upstream in enumerate(entry.upstreams)
            ]
            service.word = _NO_WORD
            services.append(service)
            by_slot[entry.slot] = service
        gone = [pool for key, pool in self._pools.items() if key not in pools]
        vanished = [state for slot, state in self.by_slot.items() if slot not in by_slot]
        self._pools = pools | {key: pool for key, pool in self._pools.items() if pool.in_flight}
        self.table, self.services, self.by_slot = table, services, by_slot
        self.router = Router(table.services)
        self.only = services[0] if self.router.alone else None
        for pool in gone:
            pool.retired = True
            pool.close_idle()
        for state in vanished:
            # Their exchanges find out that the service is gone when they choose again.
            state.held.release_all()

    def _pool(
        self,
        pools: dict[PoolKey, ServerPool],
        position: int,
        service: TableService,
        table: RoutingTable,
        server: TableServer,
    ) -> ServerPool:
        key = service.slot, position, server.endpoint
        pool = self._pools.get(key)
        if pool is None:
            pool = ServerPool(self._worker, server, table.pool)
        pool.use(table.pool)
        pool.health_slot = server.health_slot
        pool.address = server.address
        pool.avoid_after = service.avoid_after
        pool.avoid_s = service.avoid_s
        pool.retired = False
        pools[key] = pool
        return pool

    def pools(self) -> list[ServerPool]:
        """Every pool, also of servers that are gone and still have something in flight."""
        return list(self._pools.values())

    def find_pools(self, slot: int, upstream: int) -> list[ServerPool]:
        """The pools of one upstream, gone servers' included."""
        return [pool for key, pool in self._pools.items() if key[:2] == (slot, upstream)]

    def forget_gone(self) -> None:
        """Drop pools of servers that are gone and have finished."""
        for key, pool in list(self._pools.items()):
            if pool.retired and not pool.in_flight:
                pool.close_idle()
                del self._pools[key]
