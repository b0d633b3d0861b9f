"""Floods of connections: limits by listener, by client and in all, over two workers. Who is
connected keeps his service, refusals are answered, bounded and counted, and keep nobody out."""

import asyncio
import contextlib
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import pytest
import pytest_asyncio

from tests.harness import Bench, Product, bench
from tests.rawhttp import Client
from turnout.proxy.scoreboard import (
    C_REFUSED,
    R_CONNECTIONS,
    R_UPSTREAM_CONNECTIONS,
    REFUSED_REASONS,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

LIMIT: Final = 40
OF_LISTENER: Final = 12
PER_CLIENT: Final = 8
ANSWERED: Final = 10
"""Refusals that each worker answers at a time."""
LOAD_BALANCER: Final = "127.9.0.1"
OTHER: Final = "127.0.0.2:0"

LIMITS = {
    "limits": {
        "connections": LIMIT, "connections_per_client": PER_CLIENT,
        "refused_connections": ANSWERED,
    },
    "timeouts": {"linger": "20s", "linger_total": "30s"},
    "trust_forwarded": [f"{LOAD_BALANCER}/32"],
}  # fmt: skip


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def at() -> AsyncIterator[Bench]:
    top = {
        **LIMITS,
        "listeners": [{"bind": "127.0.0.1:0"}, {"bind": OTHER, "connections": OF_LISTENER}],
    }
    async with bench(workers=2, top=top) as found:
        yield found


class Crowd:
    """Connections that stay open until the end."""

    def __init__(self, at: Bench) -> None:
        self.at = at
        self.clients: list[Client] = []

    async def come(self, count: int, local: str, address: str = "") -> list[Client]:
        """Connect so often from one address."""
        address = address or self.at.product.address
        came = [await Client.open(address, local=local) for _ in range(count)]
        self.clients += came
        return came

    def leave(self, clients: list[Client]) -> None:
        for client in clients:
            client.close()


@contextlib.asynccontextmanager
async def crowd(at: Bench) -> AsyncIterator[Crowd]:
    found = Crowd(at)
    before = sockets(at.product)
    try:
        yield found
    finally:
        found.leave(found.clients)
        # Those that were refused, too.
        await at.product.until(lambda: sockets(at.product) == before, "all to go")
        assert connections(at.product) == 0


def gauge(product: Product, word: int) -> int:
    board = product.scoreboard
    return sum(board.words[board.region(number) + word] for number in board.numbers)


def connections(product: Product) -> int:
    return gauge(product, R_CONNECTIONS)


def refused(product: Product) -> Counter[str]:
    """By reason, since the beginning."""
    board, found = product.scoreboard, Counter[str]()
    for region in board.numbers:
        first = board.region(region) + C_REFUSED
        for index, reason in enumerate(REFUSED_REASONS):
            found[reason] += board.words[first + index]
    return found


def sockets(product: Product) -> int:
    """Open in both workers, but for those to servers: those of clients, and some fixed ones."""
    found = 0
    for pid in product.workers().values():
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                found += str(entry.readlink()).startswith("socket:")
    return found - gauge(product, R_UPSTREAM_CONNECTIONS)


async def must_be_refused(client: Client) -> None:
    """503, well-formed, and the end."""
    answer = (await client.answer()).must_be(503)
    assert answer.get("Proxy-Status") == "turnout; error=connection_limit_reached"
    assert answer.get("Retry-After") and answer.closed
    await client.ended()


async def serves(clients: list[Client]) -> None:
    for client in clients:
        (await client.get("/")).must_be(200, "blue")


async def test_a_client_has_a_limit_and_others_are_served(at: Bench) -> None:
    before = refused(at.product)
    async with crowd(at) as all_of_them:
        inside = await all_of_them.come(PER_CLIENT, "127.1.0.1")
        await serves(inside)
        for one in await all_of_them.come(3, "127.1.0.1"):
            await must_be_refused(one)
        await serves(await all_of_them.come(PER_CLIENT, "127.1.0.2"))
        await serves(inside)
        # Room comes back with the first that goes.
        all_of_them.leave(inside[:1])
        await at.product.until(
            lambda: connections(at.product) == 2 * PER_CLIENT - 1, "one to have gone"
        )
        await serves(await all_of_them.come(1, "127.1.0.1"))
    assert refused(at.product) - before == Counter(client_connection_limit=3)


async def test_who_speaks_for_many_clients_is_not_one(at: Bench) -> None:
    async with crowd(at) as all_of_them:
        await serves(await all_of_them.come(3 * PER_CLIENT, LOAD_BALANCER))


async def test_a_listener_has_a_limit_and_the_other_one_serves_on(at: Bench) -> None:
    before = refused(at.product)
    there = at.product.addresses()[OTHER]
    async with crowd(at) as all_of_them:
        inside = [
            client
            for number in range(OF_LISTENER // 4)
            for client in await all_of_them.come(4, f"127.2.0.{number + 1}", there)
        ]
        await serves(inside)
        for one in await all_of_them.come(4, "127.2.0.99", there):
            await must_be_refused(one)
        await serves(await all_of_them.come(5, "127.2.0.99"))
        await serves(inside)
    assert refused(at.product) - before == Counter(listener_connection_limit=4)


async def test_at_the_limit_who_is_connected_keeps_his_service_amid_a_flood(at: Bench) -> None:
    """And what is refused is bounded: some are answered, the others are closed at once."""
    flood = 120
    before, metrics = refused(at.product), await at.product.api.metrics()
    async with crowd(at) as all_of_them:
        inside = [
            client
            for number in range(LIMIT // PER_CLIENT)
            for client in await all_of_them.come(PER_CLIENT, f"127.3.0.{number + 1}")
        ]
        await serves(inside)
        open_before = sockets(at.product)
        outside = await all_of_them.come(flood, LOAD_BALANCER)
        await serves(inside)
        ended = Counter[str]()
        for one in outside:
            head = await one.reader.read(12)
            ended[head.decode() or "closed"] += 1
        # How the kernel spreads them over the two workers is not ours.
        answered = ended.pop("HTTP/1.1 503")
        assert ANSWERED <= answered <= 2 * ANSWERED
        assert ended == Counter(closed=flood - answered)
        assert sockets(at.product) - open_before <= answered
        await serves(inside)
        # The answered ones do not close, and yet take nobody's place.
        all_of_them.leave(inside[:20])
        await at.product.until(lambda: connections(at.product) == LIMIT - 20, "20 to go")
        await serves(await all_of_them.come(20, LOAD_BALANCER))
    assert refused(at.product) - before == Counter(connection_limit=flood)
    after = await at.product.api.metrics()

    def more(name: str, **labels: str) -> float:
        return after.sum(name, **labels) - metrics.sum(name, **labels)

    assert more("turnout_refused_total", reason="connection_limit") == flood
    unanswered = more("turnout_peer_faults_total", fault="closed_unanswered")
    assert unanswered == flood - answered


async def test_limits_change_with_a_reload(at: Bench) -> None:
    async with crowd(at) as all_of_them:
        inside = await all_of_them.come(PER_CLIENT, "127.4.0.1", at.product.addresses()[OTHER])
        await serves(inside)
        table = (await at.product.api.metrics()).sum("turnout_routing_table")
        listeners = [{"bind": "127.0.0.1:0"}, {"bind": OTHER, "connections": PER_CLIENT}]
        at.product.write_config({"listeners": listeners})
        await at.product.api.call("POST", "/v1/reload")
        assert (await at.product.api.metrics()).sum("turnout_routing_table") > table
        [one] = await all_of_them.come(1, "127.4.0.2", at.product.addresses()[OTHER])
        await must_be_refused(one)
        await serves(inside)


async def test_a_killed_workers_connections_count_no_more() -> None:
    """Of its own product: a worker dies."""
    async with bench(control=False, workers=2, top={"limits": {"connections": 10}}) as at:
        clients = [await at.client() for _ in range(10)]
        await serves(clients)
        async with await at.client() as one:
            (await one.answer()).must_be(503)
        for pid in at.product.workers().values():
            os.kill(pid, signal.SIGKILL)
        await asyncio.gather(*(client.rest() for client in clients))
        await at.product.until(lambda: len(at.product.workers()) == 2, "both", 20.0)
        again = [await at.client() for _ in range(10)]
        await serves(again)
        for client in (*clients, *again):
            client.close()
