"""What lasts: large bodies with slow peers, event streams, tunnels, clients that leave."""

import asyncio
import os
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Self

import pytest
import pytest_asyncio

from tests.harness import Bench, bench, until
from tests.rawhttp import Client
from tests.upstreams import Exchange

pytestmark = pytest.mark.asyncio(loop_scope="module")

BIG = int(os.environ.get("TURNOUT_TEST_BIG_BYTES", str(256 << 20)))
"""A body that a worker could not hold without its showing. 1 GiB: TURNOUT_TEST_BIG_BYTES=1073741824"""
GROWTH_MAX = 16 << 20
PIECE = bytes(range(256)) * 4096  # 1 MiB


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def at() -> AsyncIterator[Bench]:
    # A client that has closed may read still: it gets some time, here less than usual.
    top = {"timeouts": {"half_closed": "1s"}}
    async with bench(control=False, workers=1, top=top) as found:
        yield found


def resident(at: Bench) -> int:
    """Bytes of memory that the worker holds now."""
    pid = at.product.workers()[0]
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Peak:
    """The most memory that the worker held while this was entered."""

    def __init__(self, at: Bench) -> None:
        self.at = at
        self.before = resident(at)
        self.most = self.before

    async def __aenter__(self) -> Self:
        self.task = asyncio.ensure_future(self._watch())
        return self

    async def __aexit__(self, *_: object) -> None:
        self.task.cancel()

    async def _watch(self) -> None:
        while True:
            self.most = max(self.most, resident(self.at))
            await asyncio.sleep(0.01)

    @property
    def growth(self) -> int:
        return self.most - self.before


# ---------------------------------------------------------------- large bodies


async def test_a_large_download_by_a_slow_client_leaves_memory_flat(at: Bench) -> None:
    written = 0

    async def download(exchange: Exchange) -> None:
        nonlocal written
        await exchange.send(exchange.head(200, (f"Content-Length: {BIG}",)))
        while written < BIG:
            await exchange.send(PIECE)
            written += len(PIECE)

    at.blue.script["/download"] = download
    async with Peak(at) as peak, await at.client(limit_s=60, receive_buffer=65_536) as client:
        await client.ask("/download")
        assert (await client.head()).status == 200
        # A client that takes nothing: everything stands still, and only buffers are full.
        await stands_still(lambda: written)
        assert written < 64 << 20, "the server was read although the client takes nothing"
        got = 0
        while got < BIG:
            piece = await client.reader.read(1 << 20)
            assert piece and piece[0] == got % 256, f"a byte is wrong or lost at {got}"
            got += len(piece)
    assert (got, written) == (BIG, BIG)
    assert peak.growth < GROWTH_MAX, f"the worker grew by {peak.growth >> 20} MiB"


async def test_a_large_upload_to_a_slow_server_leaves_memory_flat(at: Bench) -> None:
    go = asyncio.Event()

    async def upload(exchange: Exchange) -> None:
        await go.wait()
        await exchange.read_body()
        await exchange.answer(b"taken")

    at.blue.script["/upload"] = upload
    sent = 0

    async def send(client: Client) -> None:
        nonlocal sent
        while sent < BIG:
            client.writer.write(PIECE)
            await client.writer.drain()
            sent += len(PIECE)

    async with Peak(at) as peak, await at.client(limit_s=60) as client:
        await client.send(
            f"POST /upload HTTP/1.1\r\nHost: a\r\nContent-Length: {BIG}\r\n\r\n".encode()
        )
        sending = asyncio.ensure_future(send(client))
        await stands_still(lambda: sent)
        assert sent < 64 << 20, "the client was read although the server takes nothing"
        go.set()
        await sending
        (await client.answer("POST")).must_be(200, "blue")
    assert at.blue.find("/upload")[-1].body_bytes == BIG
    assert peak.growth < GROWTH_MAX, f"the worker grew by {peak.growth >> 20} MiB"


async def stands_still(progress: "object") -> None:
    """Wait until a count has begun and no longer rises."""
    count = progress
    assert callable(count)
    last = (0, 0)  # value, times seen
    async with asyncio.timeout(30):
        while last[1] < 20:
            value = count()
            last = (value, last[1] + 1) if value == last[0] and value else (value, 0)
            await asyncio.sleep(0.01)


async def test_many_stalled_clients_do_not_hold_up_others(at: Bench) -> None:
    stalled = [await at.client(receive_buffer=4096) for _ in range(20)]
    try:
        for client in stalled:
            await client.ask("/?size=20000000")
        for _ in range(20):
            (await at.get("/other")).must_be(200, "blue")
    finally:
        for client in stalled:
            client.close()


# ---------------------------------------------------------------- event streams


async def test_each_event_is_passed_on_at_once(at: Bench) -> None:
    sent = asyncio.Event()
    seen = asyncio.Event()

    async def events(exchange: Exchange) -> None:
        fields = ("Content-Type: text/event-stream", "Transfer-Encoding: chunked")
        await exchange.send(exchange.head(200, fields))
        for number in range(3):
            seen.clear()
            await exchange.send(b"9\r\ndata: %d\n\n\r\n" % number)
            sent.set()
            # The next is not written before this one has reached the client.
            async with asyncio.timeout(5):
                await seen.wait()
        await exchange.send(b"0\r\n\r\n")

    at.blue.script["/events"] = events
    async with await at.client() as client:
        await client.ask("/events")
        assert (await client.head()).get("Content-Type") == "text/event-stream"
        for number in range(3):
            await client.until(b"data: %d\n\n\r\n" % number)
            seen.set()
        await client.until(b"0\r\n\r\n")
        (await client.get("/after")).must_be(200, "blue")


async def test_a_reader_of_events_that_leaves_is_noticed(at: Bench) -> None:
    async with await at.client() as client:
        await client.ask("/stream?sse=0&gap=0.02")
        await client.until(b"data: blue 3")
    received = await at.blue.received("/stream")
    await at.blue.until(lambda: received.abandoned)


# ---------------------------------------------------------------- tunnels


HANDSHAKE = (
    b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


def masked(data: bytes, opcode: int = 2) -> bytes:
    """A client's frame of up to 125 bytes."""
    mask = b"\x01\x02\x03\x04"
    hidden = bytes(octet ^ mask[index % 4] for index, octet in enumerate(data))
    return struct.pack("!BB", 0x80 | opcode, 0x80 | len(data)) + mask + hidden


async def test_a_websocket_is_tunnelled(at: Bench) -> None:
    async with await at.client() as client:
        await client.send(HANDSHAKE)
        answer = (await client.answer()).must_be(101, "blue")
        assert answer.get("Upgrade") == "websocket"
        assert answer.get("Sec-WebSocket-Accept") == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
        for number in range(100):
            text = b"message %d" % number
            await client.send(masked(text))
            assert await client.reader.readexactly(2 + len(text)) == bytes((0x82, len(text))) + text
        await client.send(masked(b"", opcode=8))
        assert await client.rest() == (b"\x88\x00", "closed")


async def test_what_follows_a_handshake_in_its_packet_is_the_tunnels(at: Bench) -> None:
    async with await at.client() as client:
        await client.send(HANDSHAKE + masked(b"early"))
        (await client.answer()).must_be(101, "blue")
        assert await client.reader.readexactly(7) == b"\x82\x05early"


async def test_a_tunnel_has_two_halves(at: Bench) -> None:
    async def half(exchange: Exchange) -> None:
        exchange.keep = True
        fields = ("Upgrade: websocket", "Connection: Upgrade")
        await exchange.send(exchange.head(101, fields))
        said = await exchange.reader.read(-1)
        await exchange.send(b"heard " + said)
        exchange.keep = False

    at.blue.script["/half"] = half
    async with await at.client() as client:
        await client.send(HANDSHAKE.replace(b"/ws", b"/half"))
        (await client.answer()).must_be(101, "blue")
        await client.send(b"all of it")
        client.half_close()
        assert await client.rest() == (b"heard all of it", "closed")


async def test_a_declined_upgrade_leaves_an_ordinary_connection(at: Bench) -> None:
    async def decline(exchange: Exchange) -> None:
        await exchange.answer(b"no", status=426)

    at.blue.script["/decline"] = decline
    async with await at.client() as client:
        await client.send(HANDSHAKE.replace(b"/ws", b"/decline"))
        answer = await client.answer()
        assert (answer.status, answer.body) == (426, b"no")
        (await client.get("/after")).must_be(200, "blue")


async def test_an_upgrade_to_something_unknown_is_an_ordinary_request(at: Bench) -> None:
    async with await at.client() as client:
        await client.send(
            b"GET /h2c HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\n"
            b"Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n\r\n"
        )
        (await client.answer()).must_be(200, "blue")
    received = at.blue.find("/h2c")[-1]
    assert not received.values("Upgrade") and not received.values("HTTP2-Settings")


async def test_an_end_of_the_client_closes_the_tunnel_at_the_server(at: Bench) -> None:
    ended = asyncio.Event()

    async def watch(exchange: Exchange) -> None:
        fields = ("Upgrade: websocket", "Connection: Upgrade")
        exchange.keep = True
        await exchange.send(exchange.head(101, fields))
        exchange.keep = False
        while await exchange.reader.read(1000):
            pass
        ended.set()

    at.blue.script["/watch"] = watch
    client = await at.client()
    await client.send(HANDSHAKE.replace(b"/ws", b"/watch"))
    (await client.answer()).must_be(101, "blue")
    client.close()
    async with asyncio.timeout(5):
        await ended.wait()


# ---------------------------------------------------------------- clients that leave


@pytest.mark.parametrize("how", ["closes", "resets"])
async def test_a_request_whose_client_has_gone_is_abandoned_at_the_server(
    at: Bench, how: str
) -> None:
    client = await at.client()
    await client.ask(f"/left/{how}?hang=1")
    received = await at.blue.received(f"/left/{how}")
    if how == "resets":
        client.reset()
    else:
        client.close()
    # A close may be a half close, of a client that still reads: it gets some time.
    await at.blue.until(lambda: received.abandoned, limit_s=15)


async def test_nothing_is_left_of_all_these(at: Bench) -> None:
    """In-flight counts come back to none: whoever left has been forgotten."""
    scoreboard = at.product.scoreboard
    region = at.product.region_of(at.product.workers()[0])
    await until(lambda: not list(scoreboard.in_flight(region)), "nothing to be in flight")
    assert scoreboard.service_in_flight(region, 1) == 0
