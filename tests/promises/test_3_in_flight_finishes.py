"""Promise 3: in-flight work finishes where it started, until the drain deadline.

What is cut at the deadline is counted and named. "Completed" is only ever said when no worker
can still send the old upstream anything but a probe, and its idle connections are closed.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from tests.harness import Bench, bench
from tests.load import Load, must_not_fail
from tests.rawhttp import Answer, Client
from tests.upstreams import Exchange

HANDSHAKE = (
    b"GET /tunnel HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
SAYS_SO_TOO_EARLY = """
from turnout.control import workers
workers.Workers.in_flight = lambda *_: {}
"""


@dataclass(slots=True)
class Four:
    """One request of each class, all under way at blue."""

    plain: Client
    upload: Client
    events: Client
    tunnel: Client
    finish: asyncio.Event
    """Set: blue ends what it holds."""


@asynccontextmanager
async def four_under_way(at: Bench) -> AsyncIterator[Four]:
    finish = asyncio.Event()

    async def slow(exchange: Exchange) -> None:
        await exchange.wait(finish)
        await exchange.answer(b"slow")

    async def events(exchange: Exchange) -> None:
        fields = ("Content-Type: text/event-stream", "Transfer-Encoding: chunked")
        await exchange.send(exchange.head(200, fields) + b"5\r\nfirst\r\n")
        await exchange.wait(finish)
        await exchange.send(b"4\r\nlast\r\n0\r\n\r\n")

    at.blue.script.update({"/slow": slow, "/events": events})
    clients = [await at.client(limit_s=20) for _ in range(4)]
    plain, upload, stream, tunnel = clients
    try:
        await plain.ask("/slow")
        await upload.send(b"PUT /upload HTTP/1.1\r\nHost: a\r\nContent-Length: 8\r\n\r\n1234")
        await stream.ask("/events")
        assert (await stream.head()).upstream == "blue"
        await stream.until(b"first\r\n")
        await tunnel.send(HANDSHAKE)
        assert (await tunnel.head()).status == 101
        for path in ("/slow", "/upload", "/events", "/tunnel"):
            await at.blue.received(path)
        yield Four(plain, upload, stream, tunnel, finish)
    finally:
        finish.set()
        for client in clients:
            client.close()


@pytest.mark.parametrize("workers", [1, 2])
async def test_everything_under_way_ends_where_it_began(workers: int) -> None:
    async with bench(workers=workers) as at, four_under_way(at) as four:
        id = (await at.product.api.switch("green", wait=False))["id"]
        await at.product.api.state(id, "draining")
        # Old and new side by side, and nobody says that it is over.
        for _ in range(20):
            (await at.get("/new")).must_be(200, "green")
        assert (await at.product.api.switchover(id))["state"] == "draining"
        in_flight = (await at.product.api.service())["upstreams"]["blue"]["in_flight"]
        assert in_flight == 4
        # A frame both ways through the tunnel, and the upload goes on.
        await four.tunnel.send(b"\x82\x85\0\0\0\0hello")
        assert await four.tunnel.reader.readexactly(7) == b"\x82\x05hello"
        await four.upload.send(b"5678")
        (await four.upload.answer("PUT")).must_be(200, "blue")
        four.finish.set()
        (await four.plain.answer()).must_be(200, "blue")
        assert (await four.events.until(b"0\r\n\r\n")) == b"4\r\nlast\r\n0\r\n\r\n"
        assert (await at.product.api.switchover(id))["state"] == "draining"
        await four.tunnel.send(b"\x88\x80\0\0\0\0")
        assert await four.tunnel.rest() == (b"\x88\x00", "closed")
        four.tunnel.close()
        over = await at.product.api.ended(id)
        assert over["state"] == "completed"
        receipt = over["receipt"]
        assert receipt["in_flight_at_flip"] == {"plain": 1, "upload": 1, "sse": 1, "tunnel": 1}
        assert receipt["cut"] == [] and receipt["requests"]["cut"] == 0
        # The connections that blue has left are those of the prober.
        await at.blue.until(lambda: not proxied(at))


def proxied(at: Bench) -> set[int]:
    """Open connections to blue on which a request of a client has ever come."""
    return {one.connection for one in at.blue.ledger} & set(at.blue.open)


async def test_a_retry_of_what_began_before_stays_with_its_upstream() -> None:
    """Its server closes the kept connection after the switch, without a byte of an answer."""
    async with bench(workers=1) as at:
        close = asyncio.Event()

        async def race(exchange: Exchange) -> None:
            if len(at.blue.find("/race")) == 1:
                await close.wait()
                exchange.keep = False
                exchange.writer.close()
            else:
                await exchange.answer(b"second time")

        at.blue.script["/race"] = race
        await at.get("/warm")
        async with await at.client() as client:
            await client.ask("/race")
            await at.blue.received("/race")
            id = (await at.product.api.switch("green", wait=False))["id"]
            await at.product.api.state(id, "draining")
            (await at.get("/new")).must_be(200, "green")
            close.set()
            answer = (await client.answer()).must_be(200, "blue")
            assert answer.body == b"second time"
        assert (await at.product.api.ended(id))["state"] == "completed"
        assert not at.green.find("/race")


async def test_what_is_cut_at_the_deadline_is_named() -> None:
    async with bench(
        workers=2, drain={"timeout": "700ms", "tunnels": "400ms"}
    ) as at, four_under_way(at) as four:  # fmt: skip
        over = await at.product.api.switch("green")
        receipt = over["receipt"]
        assert over["state"] == "completed"
        assert named(receipt) == {
            ("GET", "/slow", "plain"),
            ("PUT", "/upload", "upload"),
            ("GET", "/events", "sse"),
            ("GET", "/tunnel", "tunnel"),
        }
        assert all(one["reason"] == "drain_deadline" for one in receipt["cut"])
        assert all(0.3 <= one["age_seconds"] < 10 for one in receipt["cut"])
        assert receipt["requests"]["cut"] == 4
        # Who can still be told, is told; who cannot, sees an end that is none.
        for client, method in ((four.plain, "GET"), (four.upload, "PUT")):
            answer: Answer = (await client.answer(method)).must_be(503)
            assert answer.closed and answer.get("Retry-After")
        data, _ = await four.events.rest()
        assert not data.endswith(b"0\r\n\r\n")
        assert (await four.tunnel.rest())[0] == b""
        await at.blue.until(lambda: not proxied(at))


def named(receipt: Mapping[str, Any]) -> set[tuple[str, str, str]]:
    return {(one["method"], one["path"], one["class"]) for one in receipt["cut"]}


async def quiet_after_completed(at: Bench, switches: int) -> list[str]:
    """Switch under load; requests that the old upstream got after it was said to be drained."""
    found = []
    sides = {"blue": at.blue, "green": at.green}
    load = Load(lambda: at.product.address, target=lambda n: f"/load?delay=0.0{n % 4}")
    async with load.running(16, 4):
        await load.more(50)
        for number in range(switches):
            to = "green" if number % 2 == 0 else "blue"
            old = sides["blue" if to == "green" else "green"]
            over = await at.product.api.switch(to)
            assert over["state"] == "completed"
            received, open_now = len(old.ledger), [one for one in old.ledger if not one.answered]
            await load.more(60)
            found += [f"{one.id} was under way at {old.name}" for one in open_now]
            found += [f"{one.id} came to {old.name} afterwards" for one in old.ledger[received:]]
            # Its idle connections too are closed: what is left of them is the prober's.
            used = {one.connection for one in old.ledger}
            if used & set(old.open):
                found.append(f"{old.name} has connections left")
    must_not_fail(load.samples)
    return found


async def test_drained_is_said_only_when_it_is_so() -> None:
    async with bench(workers=3) as at:
        assert await quiet_after_completed(at, 30) == []


async def test_a_drain_that_is_said_too_early_is_found_out() -> None:
    """The promise broken on purpose: control believes that nothing is ever in flight."""
    async with bench(workers=2, faults={"turnout.control.app": SAYS_SO_TOO_EARLY}) as at:
        assert await quiet_after_completed(at, 6)
