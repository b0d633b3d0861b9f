"""A server that writes down what it gets and what it answers: `python -m loadtests.upstream`.

Each request's id is written when its head has been read (`Arrived`), and again with the digests
of both bodies when it is done with (`Served`). The path says what is answered:

    /page?size=N&delay=S    N bytes that are this request's and this server's alone;
        &gap=S              in pieces, with a pause before each
    /events?count=N&gap=S   an event stream; 0 events are without end
    /echo                   a WebSocket that answers each message with its own
    /healthz                200, and nothing is written down

What stands behind the first part of a path is for people (`/page/r17`). It may be told to misbehave:
a line on its standard input is the name of a `Mode`, and is answered by a line when it is done.
"""

import argparse
import asyncio
import contextlib
import os
import socket
import struct
import sys
import time
from enum import StrEnum
from pathlib import Path
from typing import Final
from urllib.parse import parse_qsl

import uvloop
from websockets.frames import Frame, Opcode
from websockets.http11 import Request
from websockets.server import ServerProtocol

from loadtests.bodies import Digest, event, page, reply
from loadtests.ledgers import ID_FIELD, UPSTREAM_FIELD, Arrived, Line, Served, encode

HEAD_BYTES_MAX: Final = 65536
SIZE_MAX: Final = 8 << 20


PIECES: Final = 6
SLOW_GAP_S: Final = 0.05
FLAP_S: Final = 0.6
FILLERS: Final = 8


class Mode(StrEnum):
    """How a server behaves."""

    WELL = "well"
    SICK = "sick"
    """It says so when it is probed; it serves all the same."""
    FLAPPING = "flapping"
    """Sick and well in turns."""
    REFUSING = "refusing"
    """Nobody listens, and what was connected is closed."""
    RESETTING = "resetting"
    """Each answer is broken off by a reset, amid its body. Probes find nothing wrong."""
    HANGING = "hanging"
    """Requests and probes are read and not answered."""
    SLOW = "slow"
    """Answers come in pieces, with pauses. Probes find nothing wrong."""
    FULL = "full"
    """Its backlog is full: connections are not taken, and what was connected is closed."""


class Gone(Exception):
    """The peer closed amid a request."""


class Server:
    """One server of an upstream."""

    def __init__(self, upstream: str, name: str, ledger: int) -> None:
        self.upstream = upstream
        self.name = name
        self.mode = Mode.WELL
        self.turned = asyncio.Event()
        """Set, and made anew, when the mode changes."""
        self.address = ("127.0.0.1", 0)
        self._ledger = ledger
        self._open: set[asyncio.StreamWriter] = set()
        self._listener: asyncio.Server | None = None
        self._deaf: list[socket.socket] = []

    # ------------------------------------------------------------ listening

    async def listen(self) -> None:
        """Listen, at the same address as before if there was one."""
        self._listener = await asyncio.start_server(
            self.serve, *self.address, backlog=1024, limit=HEAD_BYTES_MAX
        )
        self.address = self._listener.sockets[0].getsockname()

    async def turn(self, mode: Mode) -> None:
        """Behave so from now on."""
        before, self.mode = self.mode, mode
        turned, self.turned = self.turned, asyncio.Event()
        turned.set()
        if mode in (Mode.REFUSING, Mode.FULL):
            self.close()
            if mode is Mode.FULL:
                self._fill()
        elif before in (Mode.REFUSING, Mode.FULL):
            for deaf in self._deaf:
                deaf.close()
            self._deaf = []
            await self.listen()

    def close(self) -> None:
        """Listen no more, and drop every connection."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        for writer in list(self._open):
            writer.transport.abort()

    def _fill(self) -> None:
        """Listen without accepting, and fill what may wait: further connections find no room."""
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(self.address)
        listener.listen(0)
        self._deaf = [listener]
        for _ in range(FILLERS):
            filler = socket.socket()
            filler.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                filler.connect(self.address)
            self._deaf.append(filler)

    @property
    def well(self) -> bool:
        """What a probe is told."""
        if self.mode is Mode.FLAPPING:
            return int(time.monotonic() / FLAP_S) % 2 == 0
        return self.mode is not Mode.SICK

    # ------------------------------------------------------------ connections

    def write(self, line: Line) -> None:
        os.write(self._ledger, encode(line))

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection to its end."""
        link = writer.get_extra_info("socket")
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._open.add(writer)
        try:
            while await Exchange(self, reader, writer).run():
                pass
        except (Gone, ConnectionError, asyncio.IncompleteReadError):
            pass  # between two requests; amid one it has been written down
        finally:
            self._open.discard(writer)
            writer.close()


class Exchange:
    """One request and its answer."""

    def __init__(
        self, server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._server = server
        self._reader = reader
        self._writer = writer
        self._received = Digest()
        self._sent = Digest()
        self.id = ""

    async def run(self) -> bool:
        """Read and answer; whether the connection goes on."""
        head = await self._reader.readuntil(b"\r\n\r\n")
        line, *lines = head[:-4].decode("latin-1").split("\r\n")
        method, target, _ = line.split(" ")
        fields = {
            name.lower(): value.strip() for name, _, value in (one.partition(":") for one in lines)
        }
        path, _, query = target.partition("?")
        server = self._server
        if path == "/healthz":
            if server.mode is Mode.HANGING:
                await self._hang()
            status = b"200 OK" if server.well else b"503 Sick"
            await self._send(b"HTTP/1.1 %b\r\nContent-Length: 2\r\n\r\nok" % status)
            return True
        what = path.split("/")[1]
        self.id = fields.get(ID_FIELD.lower(), "")
        server.write(Arrived(self.id, server.upstream, server.name, time.monotonic()))
        whole = False
        try:
            await self._read_body(fields)
            asked = dict(parse_qsl(query))
            if server.mode is Mode.HANGING:
                await self._hang()
            if "upgrade" in fields:
                await self._echo(head)
            elif what == "events":
                await self._events(int(asked["count"]), float(asked["gap"]))
            else:
                gap_s = float(asked.get("gap", SLOW_GAP_S if server.mode is Mode.SLOW else 0))
                await self._page(method, int(asked["size"]), float(asked["delay"]), gap_s)
            whole = True
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            raise Gone from error
        finally:
            received, sent = self._received.hexdigest(), self._sent.hexdigest()
            server.write(Served(self.id, server.upstream, server.name, received, sent, whole))
        return "upgrade" not in fields

    async def _send(self, data: bytes) -> None:
        """Raises Gone, or ConnectionError, when it cannot reach the peer any more."""
        if self._writer.is_closing():
            raise Gone
        self._writer.write(data)
        await self._writer.drain()

    async def _hang(self) -> None:
        """Do nothing until the mode changes. Raises Gone when the peer closes first."""
        turned = asyncio.ensure_future(self._server.turned.wait())
        gone = asyncio.ensure_future(self._reader.read(1))
        try:
            await asyncio.wait((turned, gone), return_when=asyncio.FIRST_COMPLETED)
            if not turned.done():
                raise Gone
        finally:
            turned.cancel()
            gone.cancel()
            await asyncio.wait((turned, gone))

    def _reset(self) -> None:
        """Close with a reset. Raises Gone."""
        link = self._writer.get_extra_info("socket")
        link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()
        raise Gone

    async def _read_body(self, fields: dict[str, str]) -> None:
        if fields.get("transfer-encoding") == "chunked":
            while size := int(await self._reader.readuntil(b"\r\n"), 16):
                self._received.update(await self._reader.readexactly(size))
                await self._reader.readexactly(2)
            await self._reader.readexactly(2)
        elif length := int(fields.get("content-length", "0")):
            if length > SIZE_MAX:
                raise Gone
            self._received.update(await self._reader.readexactly(length))

    def _head(self, status: str, *fields: str) -> bytes:
        mine = (f"{ID_FIELD}: {self.id}", f"{UPSTREAM_FIELD}: {self._server.upstream}")
        return "\r\n".join((f"HTTP/1.1 {status}", *mine, *fields, "", "")).encode()

    async def _page(self, method: str, size: int, delay_s: float, gap_s: float) -> None:
        if delay_s:
            await asyncio.sleep(delay_s)
        body = page(self._server.name, self.id, min(size, SIZE_MAX))
        head = self._head("200 OK", f"Content-Length: {len(body)}")
        if method == "HEAD":
            body = b""
        self._sent.update(body)
        if self._server.mode is Mode.RESETTING and body:
            await self._send(head + body[: len(body) // 2])
            self._reset()
        elif gap_s and body:
            await self._send(head)
            step = -(-len(body) // PIECES)
            for start in range(0, len(body), step):
                await asyncio.sleep(gap_s)
                await self._send(body[start : start + step])
        else:
            await self._send(head + body)

    async def _events(self, count: int, gap_s: float) -> None:
        await self._send(
            self._head("200 OK", "Content-Type: text/event-stream", "Transfer-Encoding: chunked")
        )
        gone = asyncio.ensure_future(self._reader.read(1))
        try:
            number = 0
            while not count or number < count:
                data = event(self._server.upstream, self.id, number)
                self._sent.update(data)
                await self._send(b"%x\r\n%b\r\n" % (len(data), data))
                number += 1
                if (await asyncio.wait((gone,), timeout=gap_s))[0]:
                    raise Gone
        finally:
            gone.cancel()
            # Only then may the connection's next request be read.
            await asyncio.wait((gone,))
        await self._send(b"0\r\n\r\n")

    async def _echo(self, head: bytes) -> None:
        """Answer messages until the client says goodbye."""
        protocol = ServerProtocol(max_size=SIZE_MAX)
        protocol.receive_data(head)
        (request,) = protocol.events_received()
        assert isinstance(request, Request)
        answer = protocol.accept(request)
        answer.headers[ID_FIELD] = self.id
        answer.headers[UPSTREAM_FIELD] = self._server.upstream
        protocol.send_response(answer)
        number = 0
        while True:
            for data in protocol.data_to_send():
                if data:
                    await self._send(data)
            if protocol.close_expected():
                break
            received = await self._reader.read(65536)
            if not received:
                raise Gone
            protocol.receive_data(received)
            for frame in protocol.events_received():
                assert isinstance(frame, Frame)
                if frame.opcode in (Opcode.TEXT, Opcode.BINARY):
                    self._received.update(frame.data)
                    answer_data = reply(self._server.upstream, self.id, number, bytes(frame.data))
                    self._sent.update(answer_data)
                    protocol.send_binary(answer_data)
                    number += 1


async def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m loadtests.upstream")
    parser.add_argument("--upstream", required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--ledger", type=Path, required=True)
    parser.add_argument("--port", type=int, default=0)
    given = parser.parse_args()
    ledger = os.open(given.ledger, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    server = Server(given.upstream, given.name, ledger)
    server.address = ("127.0.0.1", given.port)
    await server.listen()
    print("{}:{}".format(*server.address), flush=True)
    told = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(told), sys.stdin
    )
    # Ends with whoever started it, however that ended.
    while word := await told.readline():
        await server.turn(Mode(word.decode().strip()))
        print(server.mode, flush=True)
    server.close()


if __name__ == "__main__":
    uvloop.run(main())
