"""Ends that meet: who reads, writes, closes or stops at the very moment when the other does.

Where two things must have happened before a worker's next turn, it is stopped for as long as
they take, so that nothing depends on luck.
"""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.harness import Bench, bench
from tests.proxy.test_http_servers import SLOT, counted, gained
from tests.rawhttp import Client
from tests.upstreams import Exchange
from turnout.proxy.scoreboard import (
    HOLD_BIT,
    R_CONNECTIONS,
    R_UPSTREAM_CONNECTIONS,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

TIGHT: dict[str, Any] = {
    "timeouts": {
        "body_idle": "1s", "half_closed": "2s", "linger": "400ms", "linger_total": "1s",
    },
    "pool": {"idle": 10, "idle_timeout": "1m"},
}  # fmt: skip


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def at() -> AsyncIterator[Bench]:
    hold = {"requests": 10, "timeout": "300ms"}
    async with bench(control=False, workers=1, top=TIGHT, health="off", hold=hold) as found:
        yield found


@contextlib.contextmanager
def stopped(at: Bench) -> Iterator[None]:
    """The worker reads nothing until left, and then everything in one turn of its loop."""
    pid = at.product.workers()[0]
    os.kill(pid, signal.SIGSTOP)
    while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
        time.sleep(0.001)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def word(at: Bench, which: int) -> int:
    return at.product.scoreboard.words[at.product.scoreboard.region(0) + which]


async def becomes(at: Bench, which: int, wanted: int, limit_s: float = 5.0) -> None:
    await at.product.until(
        lambda: word(at, which) == wanted, f"word {which} to be {wanted}", limit_s
    )


async def fresh(at: Bench) -> None:
    """No connection is kept from what was before."""
    for writer in list(at.blue.open.values()):
        writer.close()
    await becomes(at, R_UPSTREAM_CONNECTIONS, 0)
    at.blue.ledger.clear()


# ---------------------------------------------------------------- bodies that are not read


async def test_a_connection_to_which_the_end_of_a_body_was_not_written_is_not_used_again(
    at: Bench,
) -> None:
    """The server answers while the last of the body comes in: it still waits for that."""
    await fresh(at)
    answer, answered = asyncio.Event(), asyncio.Event()

    async def half(exchange: Exchange) -> None:
        await exchange.reader.readexactly(50)
        await answer.wait()
        await exchange.answer(b"early")
        answered.set()
        await exchange.reader.readexactly(50)

    at.blue.script["/half"] = half
    async with await at.client() as client:
        await client.send(b"POST /half HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n")
        await client.send(b"x" * 50)
        await at.blue.received("/half")
        await asyncio.sleep(0.05)
        with stopped(at):
            await client.send(b"x" * 50)
            answer.set()
            await answered.wait()
        (await client.answer("POST")).must_be(200, "blue")
        # What comes next must not be taken for the rest of that body.
        await client.ask("/next", method="POST", body=b"y")
        (await client.answer("POST")).must_be(200, "blue")
    assert [one.path for one in at.blue.ledger] == ["/half", "/next"]


async def test_a_server_that_answers_without_reading_does_not_keep_its_connection(
    at: Bench,
) -> None:
    await fresh(at)
    leave = asyncio.Event()

    async def deaf(exchange: Exchange) -> None:
        exchange.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await asyncio.sleep(0.1)
        exchange.keep = False
        await exchange.answer(b"enough")
        await leave.wait()

    at.blue.script["/deaf"] = deaf
    # Somewhere here the whole body has left the client and is not all in the kernel's buffers.
    for size in range(2_000_000, 9_000_000, 200_000):
        async with await at.client() as client:
            with contextlib.suppress(ConnectionError):
                await client.ask("/deaf", method="POST", body=bytes(size))
            assert (await client.answer("POST")).status == 200
    try:
        await becomes(at, R_UPSTREAM_CONNECTIONS, 0)
    finally:
        leave.set()


# ---------------------------------------------------------------- clients that do not read


async def test_a_client_that_stops_reading_loses_its_connection(at: Bench) -> None:
    async def flood(exchange: Exchange) -> None:
        await exchange.send(exchange.head(200, ("Content-Length: 100000000",)))
        for _ in range(100):
            await exchange.send(bytes(1_000_000))

    at.blue.script["/flood"] = flood
    await becomes(at, R_CONNECTIONS, 0)
    async with await at.client(receive_buffer=65_536) as client:
        await client.ask("/flood")
        await client.head()
        client.reader._transport.pause_reading()  # type: ignore[attr-defined]
        await becomes(at, R_CONNECTIONS, 1)
        await becomes(at, R_CONNECTIONS, 0, 8.0)


# ---------------------------------------------------------------- holds


async def test_a_held_upload_waits_no_longer_than_others(at: Bench) -> None:
    routing = at.product.routing()
    free = routing.words[1 + SLOT]
    routing.words[1 + SLOT] = free | HOLD_BIT
    try:
        async with await at.client() as client:
            began_s = time.monotonic()
            await client.send(b"POST /held HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n")
            sending = asyncio.ensure_future(drip(client))
            (await client.answer("POST")).must_be(503)
            sending.cancel()
            assert time.monotonic() - began_s < 0.95
    finally:
        routing.words[1 + SLOT] = free
        routing.close()


async def drip(client: Client) -> None:
    while True:
        await client.send(b"x")
        await asyncio.sleep(0.1)


# ---------------------------------------------------------------- kept connections


async def test_a_connection_whose_end_was_read_is_not_taken_in_the_same_turn(at: Bench) -> None:
    await fresh(at)
    async with await at.client() as client:
        (await client.get("/warm")).must_be(200, "blue")
        before = counted(at.product)
        with stopped(at):
            for writer in list(at.blue.open.values()):
                writer.close()
            await at.blue.until(lambda: not at.blue.open)
            await asyncio.sleep(0.05)
            await client.ask("/next")
        (await client.answer()).must_be(200, "blue")
    assert gained(before, counted(at.product)) == {}


@pytest.mark.parametrize(
    ("method", "fields", "body"),
    [
        ("GET", {}, b""),
        ("GET", {"X-Forwarded-For": "192.0.2.1"}, b""),
        ("PUT", {}, b"hello"),
        ("PUT", {"X-Forwarded-For": "192.0.2.1"}, b"hello"),
        ("POST", {}, b"hello"),
    ],
)
async def test_what_a_server_says_unasked_is_no_answer_to_a_request_of_the_same_turn(
    at: Bench, method: str, fields: dict[str, str], body: bytes
) -> None:
    """The plain way and the general one. A 408, as some servers say before they close."""
    await fresh(at)
    async with await at.client() as client:
        (await client.get("/warm")).must_be(200, "blue")
        (idle,) = at.blue.open.values()
        with stopped(at):
            await client.ask("/next", method=method, fields=fields, body=body)
            idle.write(b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 4\r\n\r\nevil")
            await idle.drain()
        (await client.answer()).must_be(200, "blue")
    assert len(at.blue.find("/next")) == 1


async def test_what_waits_for_a_connection_does_not_get_one_that_is_closing() -> None:
    """A POST: it could not be sent again."""
    answer, answered = asyncio.Event(), asyncio.Event()

    async def last(exchange: Exchange) -> None:
        await answer.wait()
        await exchange.answer(b"last")
        exchange.keep = False  # without a word
        exchange.writer.close()
        answered.set()

    top = {"limits": {"server_connections": 1}}
    async with bench(control=False, workers=1, top=top, health="off") as at:
        at.blue.script["/last"] = last
        async with await at.client() as first, await at.client() as second:
            await first.ask("/last")
            await at.blue.received("/last")
            await second.ask("/next", method="POST", body=b"x")
            await asyncio.sleep(0.1)
            assert not at.blue.find("/next")
            with stopped(at):
                answer.set()
                await answered.wait()
                await asyncio.sleep(0.05)
            (await first.answer()).must_be(200, "blue")
            (await second.answer("POST")).must_be(200, "blue")
        assert len(at.blue.find("/next")) == 1


@pytest.mark.parametrize(
    ("pieces", "status"), [((b"\r", b"\n"), 200), ((b"\r\n",), 200), ((b"\r", b"x\r\n"), 400)]
)
async def test_an_empty_line_before_a_request_is_one_however_it_comes(
    at: Bench, pieces: tuple[bytes, ...], status: int
) -> None:
    async with await at.client() as client:
        for piece in pieces:
            await client.send(piece)
            await asyncio.sleep(0.05)
        await client.ask("/line")
        assert (await client.answer()).status == status


# ---------------------------------------------------------------- tunnels

UPGRADE = (
    b"GET /tunnel HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


@pytest.mark.parametrize("first", ["client", "server"])
async def test_what_is_in_a_tunnel_when_its_second_half_ends_still_arrives(
    at: Bench, first: str
) -> None:
    await fresh(at)
    size = 8_000_000
    go, ended = asyncio.Event(), asyncio.Event()
    got: list[int] = []

    async def server(exchange: Exchange) -> None:
        exchange.keep = False
        await exchange.send(
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
        )
        if first == "server":
            exchange.writer.write_eof()
        else:
            await ended.wait()
            await asyncio.sleep(0.3)
            exchange.writer.write_eof()
        await go.wait()
        count = 0
        while data := await exchange.reader.read(1 << 16):
            count += len(data)
            await asyncio.sleep(0.002)
        got.append(count)

    at.blue.script["/tunnel"] = server
    async with await at.client() as client:
        await client.send(UPGRADE)
        assert (await client.head()).status == 101
        if first == "server":
            assert await client.reader.read() == b""
        client.writer.write(bytes(size))
        client.half_close()
        ended.set()
        await asyncio.sleep(0.6)
        go.set()
        await at.blue.until(lambda: bool(got))
    assert got == [size]


BLIND = """
from turnout.proxy.upstream import UpstreamConnection
UpstreamConnection.has_input = lambda self: False
"""


async def test_an_answer_that_came_before_a_write_failed_is_passed_on() -> None:
    """A server may answer, close and reset between our look for input and our write; here
    nobody looks, so that it happens often."""
    faults = {"turnout.proxy.worker": BLIND}
    async with bench(control=False, workers=1, faults=faults, health="off") as at:
        for _ in range(40):
            async with await at.client() as client:
                client.writer.write(
                    b"POST /early?early=close&status=413 HTTP/1.1\r\nHost: a\r\n"
                    b"Content-Length: 3000000\r\n\r\n" + bytes(3_000_000)
                )
                (await client.answer("POST")).must_be(413, "blue")
