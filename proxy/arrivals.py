"""Requests by the listener that they came in by: how many, and from which networks.

Only listeners that an upstream's address leads to (`TableService.entries`) are counted by, and
only their connections know of it: between their transport and their `Downstream` stands a
`Counted`, which looks whether a request has begun. Any other connection has nothing between, and
no request of it pays for this (decision 35).
"""

import asyncio
import ipaddress
from time import monotonic
from typing import TYPE_CHECKING, Final

from turnout.config.table import TableService
from turnout.proxy.exchange import Exchange, State
from turnout.proxy.scoreboard import S_ENTERED

if TYPE_CHECKING:
    from turnout.proxy.downstream import Downstream
    from turnout.proxy.serving import ServiceState

OTHER: Final = "other"
UNIX: Final = "unix"
"""Of clients on a Unix socket."""
_ENDED: Final = State.ENDED


class Entry:
    """One upstream's address as the way in to one service: of one worker."""

    __slots__ = ("networks", "networks_max", "since", "slot", "upstream", "word")

    def __init__(self, slot: int, upstream: int, word: int, since: float) -> None:
        self.slot = slot
        self.upstream = upstream
        self.word = word
        """Index of its counter in the scoreboard."""
        self.networks: dict[str, int] = {}
        """Network -> requests that control has not been told of."""
        self.networks_max = 0
        """So many are told apart; what comes from others is theirs together (`OTHER`)."""
        self.since = since
        """What control has not been told of came after this time of the monotonic clock."""

    def note(self, network: str) -> None:
        """A request came from there."""
        networks = self.networks
        if network not in networks and len(networks) >= self.networks_max:
            network = OTHER
        networks[network] = networks.get(network, 0) + 1

    def take(self, now: float) -> dict[str, int]:
        """What control is to be told; begins anew."""
        networks, self.networks = self.networks, {}
        self.since = now
        return networks


class Arrivals:
    """All ways in that are counted; they outlive a table, as their counters do."""

    __slots__ = ("_entries", "binds")

    def __init__(self) -> None:
        self._entries: dict[tuple[int, int], Entry] = {}
        self.binds: frozenset[str] = frozenset()
        """Of the listeners whose connections are `Counted`."""

    def of_service(self, service: TableService, base: int) -> dict[str, Entry]:
        """Bind -> what its requests are counted in; `base` is where the service's block begins."""
        found: dict[str, Entry] = {}
        for upstream, binds in enumerate(service.entries):
            for bind in binds:
                key = service.slot, upstream
                entry = self._entries.get(key)
                if entry is None:
                    entry = Entry(service.slot, upstream, base + S_ENTERED + upstream, monotonic())
                    self._entries[key] = entry
                entry.networks_max = service.entry_networks
                found[bind] = entry
        return found

    def untold(self, now: float) -> list[Entry]:
        """Those with something to tell control; of all others it is known that nothing has come
        until now."""
        found = []
        for entry in self._entries.values():
            if entry.networks:
                found.append(entry)
            else:
                entry.since = now
        return found


class Counted:
    """Stands between the transport and the `Downstream` of a connection that is counted by its
    listener: a protocol in all but its base, as `Downstream` is."""

    __slots__ = ("bind", "down", "network")

    def __init__(self, down: "Downstream", bind: str) -> None:
        self.down = down
        self.bind = bind
        self.network = ""

    def count(self, service: "ServiceState") -> None:
        """A request of this service has begun."""
        entry = service.entered.get(self.bind)
        if entry is not None:
            words = self.down.worker.words
            words[entry.word] += 1
            network = self.network
            if not network:
                network = self.network = network_of(self.down.peer())
            entry.note(network)

    def data_received(self, data: bytes) -> None:
        """Pass it on, and count the request that the fast path has begun with it: between two
        requests no exchange has a plain head. All others count themselves."""
        down = self.down
        exchange = down.exchange
        if exchange is None or (
            exchange.state is _ENDED and not isinstance(exchange, CountedExchange)
        ):
            down.exchange = CountedExchange(self)
        was_ready = down.ready
        down.data_received(data)
        if was_ready:
            exchange = down.exchange
            if exchange is not None and exchange.plain is not None:
                service = exchange.service
                if service is not None:
                    self.count(service)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.down.connection_made(transport)

    def connection_lost(self, error: Exception | None) -> None:
        self.down.connection_lost(error)

    def eof_received(self) -> bool:
        return self.down.eof_received()

    def pause_writing(self) -> None:
        self.down.pause_writing()

    def resume_writing(self) -> None:
        self.down.resume_writing()


class CountedExchange(Exchange):
    """An exchange of a counted connection: what does not go by the fast path is counted where
    it is accepted, also when it was pipelined and waited."""

    __slots__ = ("arrival",)

    def __init__(self, arrival: Counted) -> None:
        self.arrival = arrival
        super().__init__(arrival.down)

    def count_accepted(self, path: bytes) -> None:
        super().count_accepted(path)
        service = self.service
        if service is not None:
            self.arrival.count(service)


def network_of(peer: str) -> str:
    """The network of a client's address: /24 of IPv4, mapped into IPv6 or not, /48 of IPv6.

    `peer` is empty for a client on a Unix socket.
    """
    if not peer:
        return UNIX
    if ":" not in peer:
        return f"{peer.rpartition('.')[0]}.0/24"
    address = ipaddress.IPv6Address(peer.partition("%")[0])
    mapped = address.ipv4_mapped
    if mapped is not None:
        return network_of(str(mapped))
    return str(ipaddress.ip_network((int(address) >> 80 << 80, 48)))
