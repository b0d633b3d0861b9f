"""Pure: configuration + store + resolved names -> the routing table and the words beside it.

What a person wrote and what was decided since meet here, and only here: the start, a reload,
new servers and new addresses of a name all compile through `compile_table`, so that they
cannot disagree.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias, TypedDict

from turnout.config.address import Address, AddressKind
from turnout.config.model import Configuration, Reuse, Service
from turnout.config.table import (
    RoutingTable,
    TableLimits,
    TablePool,
    TableServer,
    TableService,
    TableTimeouts,
    TableUpstream,
)
from turnout.control.rows import ServiceRow
from turnout.proxy.scoreboard import HEALTH_WORDS, RoutingWord

HealthKey: TypeAlias = tuple[int, int, str, str]
"""Service slot, upstream index, address, endpoint: what has a health word of its own."""

CAPACITY_MIN: Final = 64


class TooManyServers(ValueError):
    """More servers than there are health words."""


@dataclass(frozen=True, slots=True)
class Unresolved:
    """A server that gets no traffic, as nobody knows where it is."""

    service: str
    upstream: str
    address: str


@dataclass(frozen=True, slots=True)
class Compiled:
    table: RoutingTable
    words: tuple[tuple[int, RoutingWord], ...]
    """(service slot, word) of each service."""
    unresolved: tuple[Unresolved, ...]

    @property
    def capacity(self) -> int:
        """Service slots that the scoreboard should have: with room for services to come, and
        the same for a while, as a scoreboard of another size begins to count anew."""
        highest = max((service.slot for service in self.table.services), default=0)
        return int(max(CAPACITY_MIN, 1 << (2 * highest - 1).bit_length()))


def compile_table(
    configuration: Configuration,
    rows: Iterable[ServiceRow],
    endpoints: Mapping[str, Sequence[str]],
    *,
    number: int,
    previous: RoutingTable | None = None,
) -> Compiled:
    """Compile what the workers serve from.

    `rows` has every service of the configuration; servers in it win over the file's.
    `endpoints` gives where each *named* server is now. A name without an entry keeps what it
    had in the `previous` table. Health words of servers in `previous` stay theirs, as workers
    may still use that table. Raises TooManyServers.
    """
    known = {row.name: row for row in rows}
    slots = _HealthSlots(previous)
    last = endpoints_of(previous)
    services: list[TableService] = []
    words: list[tuple[int, RoutingWord]] = []
    unresolved: list[Unresolved] = []
    for service in configuration.services:
        row = known[service.name]
        first, second = (
            _upstream(service, row, index, {**last, **_some(endpoints)}, slots, unresolved)
            for index in (0, 1)
        )
        services.append(_service(service, row.slot, (first, second)))
        words.append((row.slot, RoutingWord(row.held, row.second_weight, row.epoch)))
    return Compiled(
        table=_table(configuration, number, tuple(services)),
        words=tuple(words),
        unresolved=tuple(unresolved),
    )


def names_to_resolve(configuration: Configuration, rows: Iterable[ServiceRow]) -> set[str]:
    """Addresses of servers, the store's included, that are host names."""
    known = {row.name: row for row in rows}
    return {
        address
        for service in configuration.services
        for index in (0, 1)
        for address in servers_of(service, known.get(service.name), index)
        if Address.parse(address).kind is AddressKind.NAME
    }


def unresolved_in(
    configuration: Configuration, rows: Iterable[ServiceRow], table: RoutingTable
) -> tuple[Unresolved, ...]:
    """Servers that a table lacks: their names did not resolve when it was compiled."""
    known = {row.name: row for row in rows}
    there = {
        (service.name, upstream.name, server.address)
        for service in table.services
        for upstream in service.upstreams
        for server in upstream.servers
    }
    return tuple(
        Unresolved(service.name, upstream.name, address)
        for service in configuration.services
        for index, upstream in enumerate(service.upstreams)
        for address in servers_of(service, known.get(service.name), index)
        if (service.name, upstream.name, address) not in there
    )


def without_servers(configuration: Configuration, rows: Iterable[ServiceRow]) -> str:
    """Which upstream has weight and is given no server at all, in words; empty: none has."""
    known = {row.name: row for row in rows}
    for service in configuration.services:
        row = known[service.name]
        for index, weight in enumerate(row.weights.percentages().values()):
            upstream = service.upstreams[index]
            if weight and upstream.discover is None and not servers_of(service, row, index):
                name = upstream.name
                return (
                    f"services.{service.name}.upstreams.{name}.servers is empty, and {name} has"
                    f" {weight:g} % of the traffic. Write an address, or move the traffic first"
                )
    return ""


def servers_of(service: Service, row: ServiceRow | None, index: int) -> tuple[str, ...]:
    """The servers of an upstream: those that its source has found, if it has one; else those
    that the API set, else the file's."""
    upstream = service.upstreams[index]
    if row is None:
        return upstream.servers
    if upstream.discover is not None and upstream.name in row.discovered:
        return row.discovered[upstream.name]
    return row.servers.get(upstream.name, upstream.servers)


def _some(endpoints: Mapping[str, Sequence[str]]) -> dict[str, Sequence[str]]:
    return {address: found for address, found in endpoints.items() if found}


def _servers(previous: RoutingTable | None) -> Iterator[tuple[int, int, TableServer]]:
    for service in previous.services if previous is not None else ():
        for index, upstream in enumerate(service.upstreams):
            for server in upstream.servers:
                yield service.slot, index, server


def endpoints_of(previous: RoutingTable | None) -> dict[str, Sequence[str]]:
    """Address -> where a table has it."""
    last: dict[str, list[str]] = {}
    for _, _, server in _servers(previous):
        found = last.setdefault(server.address, [])
        if server.endpoint not in found:
            found.append(server.endpoint)
    return dict(last)


class _HealthSlots:
    """Gives each server its health word, the one it had where it had one."""

    __slots__ = ("_next", "_taken", "_theirs")

    def __init__(self, previous: RoutingTable | None) -> None:
        self._theirs: dict[HealthKey, int] = {
            (slot, index, server.address, server.endpoint): server.health_slot
            for slot, index, server in _servers(previous)
        }
        self._taken = set(self._theirs.values())
        self._next = 0

    def of(self, key: HealthKey) -> int:
        if key not in self._theirs:
            while self._next in self._taken:
                self._next += 1
            if self._next >= HEALTH_WORDS:
                raise TooManyServers(
                    f"there are health words for {HEALTH_WORDS} servers, and that is too few"
                )
            self._theirs[key] = self._next
            self._taken.add(self._next)
        return self._theirs[key]


def _upstream(
    service: Service,
    row: ServiceRow,
    index: int,
    endpoints: Mapping[str, Sequence[str]],
    slots: _HealthSlots,
    unresolved: list[Unresolved],
) -> TableUpstream:
    name = service.upstreams[index].name
    servers: list[TableServer] = []
    for address in servers_of(service, row, index):
        named = Address.parse(address).kind is AddressKind.NAME
        found = endpoints.get(address, ()) if named else (address,)
        if not found:
            unresolved.append(Unresolved(service.name, name, address))
        servers += [
            TableServer(address, endpoint, slots.of((row.slot, index, address, endpoint)))
            for endpoint in found
        ]
    return TableUpstream(name, tuple(servers))


def _service(
    service: Service, slot: int, upstreams: tuple[TableUpstream, TableUpstream]
) -> TableService:
    passive = service.health.passive if service.health else None
    return TableService(
        name=service.name,
        slot=slot,
        hosts=service.match.hosts,
        path_prefix=service.match.path_prefix,
        upstreams=upstreams,
        retry_attempts=service.retries.attempts,
        retry_budget=service.retries.budget_fraction,
        retry_window_s=service.retries.budget_window_s,
        retry_floor=service.retries.budget_floor,
        avoid_after=passive.connect_failures if passive else 0,
        avoid_s=passive.avoid_s if passive else 0.0,
        hold_requests=service.hold.requests,
        hold_timeout_s=service.hold.timeout_s,
        try_out_header=service.try_out.header if service.try_out else "",
        try_out_token=service.try_out.token if service.try_out else "",
        **_entries(service),
    )


class _Entries(TypedDict, total=False):
    entries: tuple[tuple[str, ...], tuple[str, ...]]
    entry_networks: int


def _entries(service: Service) -> _Entries:
    """The listeners that each upstream's address leads to, where their requests are counted."""
    tail = service.outer.tail if service.outer is not None else None
    if tail is None:
        return {}
    first, second = (tail.listeners.get(name, ()) for name in service.names)
    return {"entries": (first, second), "entry_networks": tail.networks}


def _table(
    configuration: Configuration, number: int, services: tuple[TableService, ...]
) -> RoutingTable:
    timeouts, limits, pool = configuration.timeouts, configuration.limits, configuration.pool
    return RoutingTable(
        number=number,
        services=services,
        timeouts=TableTimeouts(
            header_s=timeouts.header_s,
            body_idle_s=timeouts.body_idle_s,
            client_rate_s=timeouts.client_rate_s,
            keep_alive_s=timeouts.keep_alive_s,
            connect_s=timeouts.connect_s,
            first_byte_s=timeouts.first_byte_s,
            tunnel_idle_s=timeouts.tunnel_idle_s,
            half_closed_s=timeouts.half_closed_s,
            linger_s=timeouts.linger_s,
            linger_total_s=timeouts.linger_total_s,
            shutdown_s=timeouts.shutdown_s,
        ),
        limits=TableLimits(
            header_bytes=limits.header_bytes,
            response_header_bytes=limits.response_header_bytes,
            headers=limits.headers,
            interim_answers=limits.interim_answers,
            trailer_bytes=limits.trailer_bytes,
            body_bytes=limits.body_bytes,
            connections=limits.connections,
            connections_per_client=limits.connections_per_client,
            refused_connections=limits.refused_connections,
            client_rate_bytes=limits.client_rate_bytes,
            replay_bytes=limits.replay_bytes,
            pipeline_bytes=limits.pipeline_bytes,
            pipes=limits.pipes,
            log_bytes=configuration.access_log.worker_buffer_bytes,
        ),
        pool=TablePool(
            connections_max=pool.connections_max,
            idle_max=pool.idle_max,
            idle_timeout_s=pool.idle_timeout_s,
            reuse_safe=pool.reuse is Reuse.SAFE,
            queue_timeout_s=pool.queue_timeout_s,
        ),
        trust_forwarded=configuration.trust_forwarded,
        via=configuration.via,
        access_log=configuration.access_log.format.value,
        health_paths={
            str(listener.bind): listener.health_path
            for listener in configuration.listeners
            if listener.health_path
        },
        listener_connections={
            str(listener.bind): listener.connections
            for listener in configuration.listeners
            if listener.connections
        },
    )
