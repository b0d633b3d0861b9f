"""Who may come in: connections of clients counted against three limits, all workers together.

Every worker writes how many it has into its region of the scoreboard and adds up what all of
them have written when one more comes: so the limits are exact to a few connections that come
in at the same moment in different workers, wherever the kernel puts them. A client that is
refused is answered and counted apart, so that a flood of refusals never keeps others out
(decision 23).
"""

import ipaddress
from collections.abc import Callable, Mapping
from hashlib import blake2b
from typing import Final

from turnout.proxy.scoreboard import (
    CLIENT_ROW_WORDS,
    COUNTER_MASK,
    LISTENER_WORDS,
    R_CONNECTIONS,
    R_LISTENERS,
    Scoreboard,
)

NOBODY: Final = -1
"""In the place of a client's two words: it is not counted by its address."""
_ROW_BITS: Final = CLIENT_ROW_WORDS.bit_length() - 1
_ROW_MASK: Final = CLIENT_ROW_WORDS - 1
CLIENTS_REMEMBERED: Final = 1024
"""Addresses whose words are known; bounded, and only what is made again if it is forgotten."""


class Door:
    """One listener, as its connections know it."""

    __slots__ = ("bind", "limit", "offset", "open")

    def __init__(self, bind: str) -> None:
        self.bind = bind
        self.limit = 0
        """Connections in all workers together; 0: none but that of all listeners."""
        self.offset = 0
        """Of its word in a region's header, while it has a limit."""
        self.open = 0
        """Connections in this worker."""


class Admission:
    """The limits, and what of them is used. Of one worker."""

    __slots__ = (
        "_bases", "_client_bases", "_clients", "_connections_max", "_doors", "_key", "_own",
        "_own_clients", "_per_client_max", "_trusts", "_words",
    )  # fmt: skip

    def __init__(self, board: Scoreboard, region: int, trusts: Callable[[str], bool]) -> None:
        """`trusts` says whether a peer speaks for many clients."""
        self._words = board.words
        self._own = board.region(region)
        self._own_clients = board.clients(region)
        self._bases = [board.region(number) for number in board.numbers]
        self._client_bases = [board.clients(number) for number in board.numbers]
        self._key = board.identity.to_bytes(8, "little")
        self._trusts = trusts
        self._connections_max = 1
        self._per_client_max = 0
        self._doors: dict[str, Door] = {}
        self._clients: dict[str, int] = {}

    def use(self, connections: int, per_client: int, of_listeners: Mapping[str, int]) -> None:
        """Hold to these limits from now on; connections beyond a lower one stay."""
        self._connections_max = connections
        self._per_client_max = per_client
        self._clients.clear()
        words = self._words
        for offset in range(R_LISTENERS, R_LISTENERS + LISTENER_WORDS):
            words[self._own + offset] = 0
        for door in self._doors.values():
            door.limit = 0
        for index, (bind, limit) in enumerate(of_listeners.items()):
            door = self.door(bind)
            door.limit, door.offset = limit, R_LISTENERS + index
            words[self._own + door.offset] = door.open

    def door(self, bind: str) -> Door:
        """Return the listener's counts; the same for as long as the worker lives."""
        door = self._doors.get(bind)
        if door is None:
            door = self._doors[bind] = Door(bind)
        return door

    # ------------------------------------------------------------ one connection

    def refusal(self, door: Door, client: int) -> str:
        """Why one more connection may not come in; empty when it may, and then it is counted
        until `leave`."""
        words = self._words
        total = 0
        for base in self._bases:
            total += words[base + R_CONNECTIONS]
        if total >= self._connections_max:
            return "connection_limit"
        limit = door.limit
        if limit:
            total = 0
            for base in self._bases:
                total += words[base + door.offset]
            if total >= limit:
                return "listener_connection_limit"
        if client != NOBODY:
            if self._of_client(client) >= self._per_client_max:
                return "client_connection_limit"
            self._count_client(client, 1)
        door.open += 1
        if limit:
            words[self._own + door.offset] = door.open
        words[self._own + R_CONNECTIONS] += 1
        return ""

    def leave(self, door: Door, client: int) -> None:
        """A connection that was let in has gone."""
        words = self._words
        words[self._own + R_CONNECTIONS] -= 1
        door.open -= 1
        if door.limit:
            words[self._own + door.offset] = door.open
        if client != NOBODY:
            self._count_client(client, -1)

    @property
    def by_client(self) -> bool:
        """Is there a limit on each client's connections?"""
        return self._per_client_max > 0

    def client(self, peer: str) -> int:
        """Return the two words that a peer's connections are counted in, as one number, or
        NOBODY. `peer` is its address, empty for one on a Unix socket."""
        found = self._clients.get(peer)
        if found is None:
            found = NOBODY if not peer or self._trusts(peer) else client_words(peer, self._key)
            if len(self._clients) >= CLIENTS_REMEMBERED:
                self._clients.clear()
            self._clients[peer] = found
        return found

    def _of_client(self, client: int) -> int:
        words = self._words
        first, second = client & _ROW_MASK, CLIENT_ROW_WORDS + (client >> _ROW_BITS)
        of_first = of_second = 0
        for base in self._client_bases:
            of_first += words[base + first]
            of_second += words[base + second]
        return min(of_first, of_second)

    def _count_client(self, client: int, step: int) -> None:
        words, base = self._words, self._own_clients
        for index in (client & _ROW_MASK, CLIENT_ROW_WORDS + (client >> _ROW_BITS)):
            words[base + index] = (words[base + index] + step) & COUNTER_MASK


def client_words(peer: str, key: bytes) -> int:
    """A client's word in the first row, and behind that its word in the second.

    The client is an IPv4 address, mapped into IPv6 or not, or the /64 of an IPv6 one: who has
    one address of it has all. By a keyed hash, so that nobody can choose whose words he shares.
    """
    address = ipaddress.ip_address(peer.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    packed = address.packed if address.version == 4 else address.packed[:8]
    digest = int.from_bytes(blake2b(packed, digest_size=8, key=key).digest(), "little")
    return digest & ((1 << 2 * _ROW_BITS) - 1)
