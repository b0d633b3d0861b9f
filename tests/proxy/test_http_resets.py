"""Resets at every point of a conversation, by either side: nothing leaks, and the sums agree.

For each k, a peer goes away with a reset after k bytes of what it has to say. What a client gets
of an answer that was cut short never looks whole. A worker that kept anything of such an
exchange (a place among its connections to the server, a descriptor, a count) is found out at the
end: it has four connections to its server, and hundreds of conversations break.
"""

import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest
import pytest_asyncio

from tests.harness import Product, settings
from tests.rawhttp import Client, Malformed, parse_head
from turnout.proxy.scoreboard import (
    C_PEER_FAULTS,
    PEER_FAULTS,
    R_CONNECTIONS,
    R_UPSTREAM_CONNECTIONS,
    S_ACCEPTED,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

SERVER_CONNECTIONS: Final = 4
SLOT: Final = 1
LONG: Final = 1_500_000
PIPES_BEFORE: Final = 2
"""Of the event loop."""
PIECE: Final = bytes(range(256)) * 256


def reset(writer: asyncio.StreamWriter) -> None:
    link = writer.get_extra_info("socket")
    link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


Play = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Stage:
    """The product before one server that plays what the test says, connection by connection."""

    product: Product
    play: Play
    playing: "set[asyncio.Task[None]]" = field(default_factory=set)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.playing.add(task)
        try:
            await self.play(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the proxy has gone
        finally:
            self.playing.discard(task)
            writer.close()

    async def client(self) -> Client:
        return await Client.open(self.product.address)

    # ------------------------------------------------------------ what must be after it

    def word(self, index: int) -> int:
        board = self.product.scoreboard
        return board.words[board.region(0) + index]

    def fault(self, name: str) -> int:
        return self.word(C_PEER_FAULTS + PEER_FAULTS.index(name))

    def descriptors(self) -> int:
        """Of the worker, but for connections to its server and for one pipe: it keeps that of a
        long answer for the next."""
        pid = self.product.workers()[0]
        found = []
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                found.append(os.readlink(entry))
        kept = min(sum(link.startswith("pipe:") for link in set(found)), PIPES_BEFORE + 1)
        return len(found) - self.word(R_UPSTREAM_CONNECTIONS) - 2 * kept

    def in_flight(self) -> int:
        return self.product.scoreboard.service_in_flight(0, SLOT)

    async def settles(self, descriptors: int) -> None:
        """Nothing is open, in flight or named, and every place at the server is free again."""
        product, board = self.product, self.product.scoreboard
        await product.until(lambda: self.word(R_CONNECTIONS) == 0, "clients to go")
        await product.until(lambda: self.in_flight() == 0, "exchanges to end")
        assert not list(board.in_flight(0))
        for upstream in (0, 1):
            assert board.upstream_in_flight(0, SLOT, upstream) == 0
        # The worker may have found control meanwhile; a hundred conversations leak more than that.
        await product.until(
            lambda: self.descriptors() <= descriptors + 1, "descriptors to be closed"
        )
        assert self.word(R_UPSTREAM_CONNECTIONS) <= SERVER_CONNECTIONS
        await self.hang_up()
        self.play = answer_slowly
        answers = await asyncio.gather(*(self.ask() for _ in range(3 * SERVER_CONNECTIONS)))
        assert answers == [200] * (3 * SERVER_CONNECTIONS)
        await self.hang_up()

    async def hang_up(self) -> None:
        """Close every connection at the server: it plays on what it began with. There may be
        some: one that was opened for a client that had gone by then is kept for the next."""
        for task in list(self.playing):
            task.cancel()
        await self.product.until(lambda: self.word(R_UPSTREAM_CONNECTIONS) == 0, "them to go")

    async def ask(self) -> int:
        async with await self.client() as client:
            return (await client.get("/after")).status


async def answer_slowly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        await reader.readuntil(b"\r\n\r\n")
        await asyncio.sleep(0.02)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def product() -> AsyncIterator[Stage]:
    stage: Stage
    server = await asyncio.start_server(lambda r, w: stage.serve(r, w), "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()[:2]
    configuration = settings([f"{host}:{port}"], [], workers=1, health="off")
    # What a server does to every attempt, the client is to hear of at once.
    configuration["services"]["shop"]["retries"] = {"attempts": 0}
    configuration["limits"]["server_connections"] = SERVER_CONNECTIONS
    product = Product(configuration)
    try:
        stage = Stage(await product.start(control=False), answer_slowly)
        yield stage
    finally:
        server.close()
        for task in list(stage.playing):
            task.cancel()
        await product.close()


@pytest_asyncio.fixture(loop_scope="module")
async def at(product: Stage) -> AsyncIterator[Stage]:
    """Held to what must be after it, whatever a test does."""
    before, accepted = product.descriptors(), product.product.scoreboard
    begun = accepted.service_counters(SLOT)[S_ACCEPTED]
    yield product
    await product.settles(before)
    assert accepted.service_counters(SLOT)[S_ACCEPTED] > begun


# ---------------------------------------------------------------- requests

GET: Final = b"GET /path?q=1 HTTP/1.1\r\nHost: a.example\r\n\r\n"
POST: Final = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 12\r\n\r\nhello, world"
CHUNKED: Final = (
    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"5\r\nhello\r\n7;x=y\r\n, world\r\n0\r\nX-T: 1\r\n\r\n"
)
UPGRADE: Final = (
    b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


@pytest.mark.parametrize("request_", [GET, POST, CHUNKED], ids=["get", "post", "chunked"])
async def test_a_client_resets_at_every_point_of_its_request(at: Stage, request_: bytes) -> None:
    async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(4096):
            pass

    at.play = swallow
    resets = at.fault("client_reset")
    for size in range(len(request_) + 1):
        client = await at.client()
        client.writer.write(request_[:size])
        if size % 2:  # with what it sent read already, and with the two at once
            await asyncio.sleep(0)
        client.reset()
    await at.product.until(lambda: at.word(R_CONNECTIONS) == 0, "them to go")
    assert at.fault("client_reset") > resets


@pytest.mark.parametrize("request_", [GET, POST, CHUNKED], ids=["get", "post", "chunked"])
async def test_a_server_resets_at_every_point_of_a_request(at: Stage, request_: bytes) -> None:
    sizes: list[int] = []

    async def read_some(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if sizes[-1]:
            await reader.readexactly(sizes[-1])
        reset(writer)

    at.play = read_some
    for size in range(0, len(request_) + 40, 3):  # what the proxy adds to a head is read too
        sizes.append(size)
        async with await at.client() as client:
            client.writer.write(request_)
            (await client.answer("POST")).must_be(502)


# ---------------------------------------------------------------- answers

SHORT: Final = b"HTTP/1.1 200 OK\r\nContent-Length: 11\r\nX-A: b\r\n\r\nhello world"
INTERIM: Final = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + SHORT
IN_CHUNKS: Final = (
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"5\r\nhello\r\n6\r\n world\r\n0\r\nX-T: 1\r\n\r\n"
)
ANSWERS: Final = pytest.mark.parametrize(
    "answer", [SHORT, INTERIM, IN_CHUNKS], ids=["short", "interim", "chunked"]
)


async def read(client: Client) -> bool:
    """Read one answer; whether it was whole. What is not whole must not look so."""
    try:
        found = await client.answer()
    except (Malformed, ConnectionError):
        return False
    assert found.body == b"hello world" or found.status == 502, found
    return found.status == 200


@ANSWERS
async def test_a_server_resets_at_every_point_of_its_answer(at: Stage, answer: bytes) -> None:
    said = b""

    async def say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(said)
        await writer.drain()
        reset(writer)

    at.play = say
    resets = at.fault("server_reset")
    for size in range(len(answer)):
        said = answer[:size]
        async with await at.client() as client:
            client.writer.write(GET)
            assert not await read(client), f"whole after {size} of {len(answer)} bytes"
    assert at.fault("server_reset") > resets


@ANSWERS
async def test_a_client_resets_at_every_point_of_an_answer(at: Stage, answer: bytes) -> None:
    """The server says the rest to nobody."""
    said, gone = b"", asyncio.Event()
    saying = asyncio.Event()

    async def say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(said)
        await writer.drain()
        saying.set()
        async with asyncio.timeout(10):
            await gone.wait()
        writer.write(answer[len(said) :])
        await writer.drain()

    at.play = say
    for size in range(len(answer)):
        said = answer[:size]
        gone.clear()
        saying.clear()
        client = await at.client()
        client.writer.write(GET)
        async with asyncio.timeout(10):
            await saying.wait()
        client.reset()
        gone.set()
        await at.product.until(lambda: at.word(R_CONNECTIONS) == 0, "it to go")
        await at.product.until(lambda: at.word(R_UPSTREAM_CONNECTIONS) == 0, "its server to go")


LONG_HEAD: Final = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % LONG


@pytest.mark.parametrize("who", ["server", "client"])
async def test_long_answers_break_where_either_side_resets(at: Stage, who: str) -> None:
    """They go by pipe."""
    size = 0

    async def say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(LONG_HEAD)
        left = size if who == "server" else LONG
        while left:
            writer.write(PIECE[:left])
            left -= min(left, len(PIECE))
            await writer.drain()
        if who == "server":
            reset(writer)

    at.play = say
    for size in (0, 1, 20_000, 65_536, 200_000, 700_000, 1_400_000, LONG - 1):
        async with await at.client() as client:
            client.writer.write(GET)
            assert parse_head(await client.until(b"\r\n\r\n")).get("Content-Length") == str(LONG)
            if who == "server":
                body, _ = await client.rest()
                assert len(body) <= size and body == (PIECE * 23)[: len(body)]
            else:
                if size:
                    await client.reader.readexactly(size)
                client.reset()
        await at.product.until(lambda: at.word(R_CONNECTIONS) == 0, "it to go")


@pytest.mark.parametrize("who", ["server", "client"])
async def test_tunnels_break_where_either_side_resets(at: Stage, who: str) -> None:
    rounds = 0

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"
        )
        for _ in range(rounds):
            writer.write(await reader.readexactly(4))
        if who == "server":
            reset(writer)
        while await reader.read(4096):
            pass

    at.play = echo
    for rounds in range(4):
        async with await at.client() as client:
            client.writer.write(UPGRADE)
            assert (await client.head()).status == 101
            for _ in range(rounds):
                client.writer.write(b"ping")
                assert await client.reader.readexactly(4) == b"ping"
            if who == "client":
                client.reset()
            else:
                with contextlib.suppress(ConnectionError):
                    assert await client.reader.read(1) == b""
        await at.product.until(lambda: at.word(R_CONNECTIONS) == 0, "it to go")
