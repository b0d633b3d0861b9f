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
from turnout.proxy.scoreboard import UPSTREAM_WORDS, Scoreboard, service_word_index

if TYPE_CHECKING:
    from turnout.proxy.worker import Worker

UNMATCHED_SLOT: Final = 0
"""Requests that no service matches are counted here."""

PoolKey = tuple[int, int, str]
"""Service slot, upstream, endpoint: so that one upstream's connections are its own."""


class UpstreamState:
    """One upstream of a service: its servers' pools and where its counters are."""

    __slots__ = ("base", "name", "position", "servers")

    def __init__(self, name: str, position: int, base: int, servers: list[ServerPool]) -> None:
        self.name = name
        self.position = position
        self.base = base
        """Index of its block's first word in the scoreboard."""
        self.servers = servers


class ServiceState:
    """One service as this worker serves it; keeps its phase and held requests over tables."""

    __slots__ = (
        "base",
        "budget",
        "held",
        "phase",
        "slot",
        "table",
        "try_out",
        "upstreams",
        "word_index",
    )

    def __init__(self, table: TableService, slot: int, base: int, worker: int) -> None:
        self.table = table
        self.slot = slot
        self.base = base
        self.word_index = service_word_index(slot)
        self.phase = first_phase(worker)
        self.held = Held()
        self.budget = _budget(table)
        self.upstreams: list[UpstreamState] = []
        self.try_out: re.Pattern[bytes] | None = None


def _budget_settings(table: TableService) -> tuple[float, float, int]:
    return table.retry_budget, table.retry_window_s, table.retry_floor


def _budget(table: TableService) -> Budget:
    return Budget(table.retry_budget, window_s=table.retry_window_s, floor=table.retry_floor)


class Serving:
    """What the worker's requests are served from, until another table is in force."""

    __slots__ = ("_pools", "_worker", "by_slot", "router", "services", "table", "unmatched")

    def __init__(self, worker: "Worker", scoreboard: Scoreboard, region: int) -> None:
        self._worker = worker
        self._pools: dict[PoolKey, ServerPool] = {}
        self.by_slot: dict[int, ServiceState] = {}
        self.services: list[ServiceState] = []
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
            name = entry.try_out_header.encode()
            service.try_out = field_pattern(name) if name else None
            service.upstreams = [
                UpstreamState(
                    upstream.name,
                    position,
                    base + position * UPSTREAM_WORDS,
                    [
                        self._pool(pools, position, entry, table, server)
                        for server in upstream.servers
                    ],
                )
                for position, upstream in enumerate(entry.upstreams)
            ]
            services.append(service)
            by_slot[entry.slot] = service
        gone = [pool for key, pool in self._pools.items() if key not in pools]
        vanished = [state for slot, state in self.by_slot.items() if slot not in by_slot]
        self._pools = pools | {key: pool for key, pool in self._pools.items() if pool.in_flight}
        self.table, self.services, self.by_slot = table, services, by_slot
        self.router = Router(table.services)
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
        pool.policy = table.pool
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
