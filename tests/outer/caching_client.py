"""HTTP clients that find their way by DNS, and go on by what it said for as long as such do.

- one that keeps to the time to live, and follows when the address is another one;
- one that has pinned the first address for ever, as an old JVM does;
- one that keeps its connection for as long as that is open, whatever DNS says meanwhile, as
  pools and browsers do.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from enum import Enum

import dns.asyncquery
import dns.message
import dns.rdatatype

from tests.rawhttp import Answer, Client, at_work


class Manner(Enum):
    TTL = "ttl"
    PINNED = "pinned"
    KEEPS_CONNECTION = "keeps_connection"


@dataclass(frozen=True, slots=True)
class Went:
    """One request: when it was sent, by which address, who answered."""

    at_s: float
    """Monotonic."""
    address: str
    status: int
    upstream: str | None


@dataclass(slots=True)
class CachingClient:
    """One client, one connection at a time. The port is not DNS's to say."""

    resolver: tuple[str, int]
    name: str
    port: int
    manner: Manner = Manner.TTL
    went: list[Went] = field(default_factory=list)
    _address: str = ""
    _fresh_until_s: float = 0.0
    _connection: Client | None = None
    _connected_to: str = ""
    _stopping: bool = False

    async def get(self, target: str = "/") -> Answer:
        """One request by the address that it holds to be right."""
        if self._connection is None or self.manner is not Manner.KEEPS_CONNECTION:
            await self._resolve()
            if self._connection is None or self._connected_to != self._address:
                self.close()
                self._connection = await Client.open(f"{self._address}:{self.port}")
                self._connected_to = self._address
        sent_s = time.monotonic()
        answer = await self._connection.get(target)
        self.went.append(Went(sent_s, self._connected_to, answer.status, answer.upstream))
        if answer.closed:
            self.close()
        return answer

    async def _resolve(self) -> None:
        if self._address and (
            self.manner is Manner.PINNED or time.monotonic() < self._fresh_until_s
        ):
            return
        host, port = self.resolver
        query = dns.message.make_query(self.name, dns.rdatatype.A)
        reply = await dns.asyncquery.udp(query, host, timeout=5, port=port)
        [found] = reply.answer
        self._address = found[0].to_text()
        self._fresh_until_s = time.monotonic() + found.ttl

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    @contextlib.asynccontextmanager
    async def asking(self, every_s: float) -> AsyncIterator["CachingClient"]:
        """It asks again and again, until left."""
        async with at_work([self._ask(every_s)]):
            yield self
            self._stopping = True
        self.close()

    async def _ask(self, every_s: float) -> None:
        self._stopping = False
        while not self._stopping:
            await self.get()
            await asyncio.sleep(every_s)

    def by(self, address: str) -> list[Went]:
        """The requests that went by this address."""
        return [one for one in self.went if one.address == address]
