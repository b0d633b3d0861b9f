"""Clients in the caller's own loop, for runs that are too short for locust to start.

They write the same ledger as locust's, into lists: some keep their connection, some open one for
each request. Nothing is ever sent twice.
"""

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Callable
from typing import Final

from loadtests.bodies import digest, page
from loadtests.ledgers import ID_FIELD, UPSTREAM_FIELD, Got, Sent
from loadtests.upstream import PIECES
from tests.rawhttp import Client, Malformed, at_work

ANSWER_LIMIT_S: Final = 15.0
"""Longer than any of the product's own timeouts: then it has forgotten a request."""
PAUSE_S: Final = 0.02
LATE_EVERY_S: Final = 0.01


class Lateness:
    """By how much this loop was late at worst: no client in it is quicker, whatever it waits for."""

    def __init__(self) -> None:
        self.worst_s = 0.0

    @contextlib.asynccontextmanager
    async def noted(self) -> AsyncIterator["Lateness"]:
        """Look at it until left."""

        async def look() -> None:
            while True:
                before_s = time.monotonic()
                await asyncio.sleep(LATE_EVERY_S)
                self.worst_s = max(self.worst_s, time.monotonic() - before_s - LATE_EVERY_S)

        looking = asyncio.ensure_future(look())
        try:
            yield self
        finally:
            looking.cancel()
            await asyncio.gather(looking, return_exceptions=True)

    @property
    def allowed_s(self) -> float:
        """What a machine that is so busy is forgiven: who is asked is late, too."""
        return 2 * self.worst_s


class Clients:
    """Clients at work on one product. `began` and `ended` are what they wrote down."""

    def __init__(self, address: Callable[[], str], seed: int, name: str = "c") -> None:
        self.sent: list[Sent] = []
        self.got: list[Got] = []
        self.connected: dict[str, float] = {}
        """Of the requests over a connection of their own: when that was asked for."""
        self.delays: dict[str, float] = {}
        """How long the server was told to wait with its answer."""
        self.lateness = Lateness()
        self._address = address
        self._dice = random.Random(seed)
        self._name = name
        self._stopping = False

    @contextlib.asynccontextmanager
    async def running(self, kept: int, fresh: int) -> AsyncIterator["Clients"]:
        """At work until left; then each finishes the request that it has under way."""
        clients = [self._client(keep=place < kept) for place in range(kept + fresh)]
        async with self.lateness.noted(), at_work(clients):
            yield self
            self._stopping = True

    async def more(self, count: int, limit_s: float = 30.0) -> None:
        """Wait until so many more requests have ended."""
        wanted = len(self.got) + count
        async with asyncio.timeout(limit_s):
            while len(self.got) < wanted:
                await asyncio.sleep(0.005)

    async def _client(self, *, keep: bool) -> None:
        client: Client | None = None
        while not self._stopping:
            client = await self.ask(client, keep=keep)
            if not keep and client is not None:
                client.close()
                client = None
            await asyncio.sleep(self._dice.uniform(0.5, 1.5) * PAUSE_S)
        if client is not None:
            client.close()

    async def ask(
        self,
        client: Client | None,
        *,
        keep: bool,
        method: str = "",
        delay_s: float | None = None,
        gap_s: float = 0.0,
    ) -> Client | None:
        """One request and its answer, which comes at once, after a delay, or in pieces with gaps;
        the connection, if it can be used again."""
        dice = self._dice
        method = method or dice.choices(("GET", "POST", "PUT"), (6, 3, 1))[0]
        if delay_s is None:
            delay_s = dice.uniform(0.02, 0.3) if dice.random() < 0.15 else 0.0
        size = dice.randrange(20_000, 200_000) if dice.random() < 0.05 else 300
        id = f"{self._name}{len(self.sent) + 1}"
        body = b"" if method == "GET" else page("client", id, dice.randrange(1, 2000))
        kind = f"{method} {'kept' if keep else 'fresh'}"
        if client is None:
            self.connected[id] = time.monotonic()
        self.delays[id] = delay_s + PIECES * gap_s
        self.sent.append(Sent(id, kind, time.monotonic(), digest(body)))
        status, upstream, content, error, closed = 0, "", b"", "", False
        try:
            if client is None:
                client = await Client.open(self._address(), limit_s=ANSWER_LIMIT_S)
            await client.ask(
                f"/page/{id}?size={size}&delay={delay_s:.3f}"
                + (f"&gap={gap_s:.3f}" if gap_s else ""),
                method=method,
                fields={ID_FIELD: id},
                body=body,
            )
            answer = await client.answer(method)
            status, upstream = answer.status, answer.get(UPSTREAM_FIELD) or ""
            content, closed = answer.body, answer.closed
            if upstream and answer.get(ID_FIELD) != id:
                error = f"the answer to {answer.get(ID_FIELD)}"
        except (OSError, Malformed) as fault:  # TimeoutError is an OSError
            error = f"{type(fault).__name__}: {fault}"
            # What had begun is not nothing: rawhttp says where it ended.
            status = 200 if "amid a body" in error else 0
            closed = True
        finally:
            self.got.append(Got(id, time.monotonic(), status, upstream, digest(content), error))
        if closed and client is not None:
            client.close()
            return None
        return client
