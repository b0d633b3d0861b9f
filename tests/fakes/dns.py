"""A small DNS server on loopback that answers from weighted records, as Route 53's do.

What it answers from is asked for at each query: a fake zone's records that are in sync, or a
`Zone` of the test's own. Of the sets of a name and a type one is chosen by its weight; when all
weigh 0, each is as likely as the other. An alias is followed within the zone.
"""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Final, Protocol, Self

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset

ALIAS_TTL_S: Final = 60
_ALIASES_MAX: Final = 8


class ZoneRecord(Protocol):
    """One set of records of a name and a type."""

    @property
    def name(self) -> str: ...
    @property
    def type(self) -> str: ...
    @property
    def set_identifier(self) -> str | None: ...
    @property
    def weight(self) -> int | None: ...
    @property
    def ttl(self) -> int | None: ...
    @property
    def values(self) -> tuple[str, ...]: ...
    @property
    def alias(self) -> str | None: ...


@dataclass(frozen=True, slots=True)
class Entry:
    """A record of a zone of one's own."""

    name: str
    type: str
    values: tuple[str, ...] = ()
    ttl: int | None = 60
    weight: int | None = None
    set_identifier: str | None = None
    alias: str | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """A query, and which set it was answered by."""

    at_s: float
    """Monotonic."""
    name: str
    type: str
    set_identifier: str | None
    answered: bool


@dataclass
class DnsServer(asyncio.DatagramProtocol):
    """`async with` serves it over UDP."""

    records: Callable[[], Sequence[ZoneRecord]]
    random: Random = field(default_factory=lambda: Random(53))
    journal: list[Asked] = field(default_factory=list)
    port: int = 0
    _transport: asyncio.DatagramTransport | None = None

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.create_datagram_endpoint(
            lambda: self, local_addr=("127.0.0.1", self.port)
        )
        self.port = self._transport.get_extra_info("sockname")[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._transport is not None
        self._transport.close()

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        assert self._transport is not None
        self._transport.sendto(self.answer(dns.message.from_wire(data)).to_wire(), addr)

    def answer(self, query: dns.message.Message) -> dns.message.Message:
        """What a query gets: one set, no data, or no such name."""
        [question] = query.question
        kind = dns.rdatatype.to_text(question.rdtype)
        reply = dns.message.make_response(query)
        reply.flags |= dns.flags.AA
        records = self.records()
        chosen = self._choose(records, question.name, kind)
        identifier = chosen.set_identifier if chosen is not None else None
        if chosen is not None:
            ttl, values = self._resolved(records, chosen, kind)
            if values:
                reply.answer.append(dns.rrset.from_text(question.name, ttl, "IN", kind, *values))
        elif not any(_same(record.name, question.name) for record in records):
            reply.set_rcode(dns.rcode.NXDOMAIN)
        name = question.name.to_text()
        self.journal.append(Asked(time.monotonic(), name, kind, identifier, bool(reply.answer)))
        return reply

    def _choose(
        self, records: Sequence[ZoneRecord], name: dns.name.Name, kind: str
    ) -> ZoneRecord | None:
        found = [one for one in records if _same(one.name, name) and one.type == kind]
        if not found:
            return None
        weights = [1 if one.weight is None else one.weight for one in found]
        if not any(weights):
            weights = [1] * len(found)
        return self.random.choices(found, weights)[0]

    def _resolved(
        self, records: Sequence[ZoneRecord], chosen: ZoneRecord, kind: str
    ) -> tuple[int, tuple[str, ...]]:
        """TTL and values of a set, its alias followed."""
        for _ in range(_ALIASES_MAX):
            if chosen.alias is None:
                assert chosen.ttl is not None, "what is no alias has a TTL"
                return chosen.ttl, chosen.values
            behind = self._choose(records, dns.name.from_text(chosen.alias), kind)
            if behind is None:
                break
            if behind.alias is None:
                return ALIAS_TTL_S, behind.values
            chosen = behind
        return ALIAS_TTL_S, ()

    def asked(self, name: str) -> Iterator[Asked]:
        wanted = dns.name.from_text(name)
        return (one for one in self.journal if _same(one.name, wanted))


def _same(one: str, other: dns.name.Name) -> bool:
    return bool(dns.name.from_text(one) == other)  # names compare without regard to case
