"""Scripted upstreams: real servers that do as they are told and write down what they get.

An `Upstream` runs in the test's own loop. `UpstreamProcess` is the same in a process of its
own, to be killed; its ledger is a file. What a request gets is told by its query:

    /any?delay=0.5          seconds before the answer begins
        &status=503         200 when left out
        &size=100000        bytes of body; else the body says who answered what
        &framing=chunked    length (default), chunked, close
        &pieces=5&gap=0.1   the body in so many pieces, seconds between them
        &trailers=1         with framing=chunked: a trailer `X-Trailer: end`
        &interim=103        an interim answer first
        &early=read         the answer comes before the body is read; `early=close`: and no
                            more is read
        &keep_alive=5       `Keep-Alive: timeout=5`
        &connection=close   announced and done
        &http=1.0           the answer is HTTP/1.0
        &break=before       closed without an answer; `head`: behind the head; `half`: amid the
                            body; with &how=reset by a reset
        &hang=1             no answer, ever
        &sse=3&gap=0.1      three events of an event stream; sse=0: without end

`/healthz` answers 200 or 503 as `healthy` says and is kept out of the ledger. A WebSocket
handshake gets an echo of frames. For whatever else there is `Upstream.script`.
"""

import argparse
import asyncio
import base64
import contextlib
import hashlib
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self, SupportsIndex
from urllib.parse import parse_qsl

ID_FIELD: Final = "X-Test-Id"
_ID: Final = re.compile(rb"\r\nx-test-id: *([^\r\n]*)", re.IGNORECASE)
_LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CHUNKED: Final = re.compile(rb"\r\ntransfer-encoding: *chunked", re.IGNORECASE)
_EXPECT: Final = re.compile(rb"\r\nexpect: *100-continue", re.IGNORECASE)
_WEBSOCKET_KEY: Final = re.compile(rb"\r\nsec-websocket-key: *([^\r\n]*)", re.IGNORECASE)
_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
PIECE_BYTES: Final = 65536
_UNIT: Final = b"".join(b"%08x" % index for index in range(8192))


def find_field(head: bytes, name: str) -> list[str]:
    """Values of a field in a raw head, in their order."""
    pattern = rb"(?im)^" + re.escape(name.encode()) + rb":[ \t]*(.*?)[ \t]*\r?$"
    return [value.decode("latin-1") for value in re.findall(pattern, head)]


@dataclass(slots=True)
class Received:
    """One request as it came in. `head` is its bytes, blank line included."""

    connection: int
    """Which of the server's connections, counted from 1."""
    head: bytes
    method: str
    target: str
    id: str
    """Value of X-Test-Id, or nothing."""
    at_s: float
    body_bytes: int = 0
    digest: str = ""
    """SHA-256 of the body without its framing; empty without a body."""
    trailers: bytes = b""
    whole: bool = False
    """The request's end has come."""
    answered: bool = False
    """The answer's end has been given to the kernel."""
    abandoned: bool = False
    """The peer closed before that."""

    def values(self, name: str) -> list[str]:
        return find_field(self.head, name)

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]


class Gone(Exception):
    """The peer closed amid a request."""


@dataclass(slots=True)
class Exchange:
    """What a scripted handler works with: the request and the bare connection."""

    upstream: "Upstream"
    received: Received
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    query: dict[str, str]
    keep: bool = True

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    def reset(self) -> None:
        """Close with a reset."""
        link = self.writer.get_extra_info("socket")
        link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def read_body(self) -> None:
        """Read the request's body to its end, into the ledger. Raises Gone."""
        received, head = self.received, self.received.head
        digest = hashlib.sha256()
        try:
            if _CHUNKED.search(head):
                while True:
                    size = int((await self.reader.readuntil(b"\r\n")).partition(b";")[0], 16)
                    if not size:
                        break
                    await self._digest(digest, size)
                    await self.reader.readexactly(2)
                while (line := await self.reader.readuntil(b"\r\n")) != b"\r\n":
                    received.trailers += line
            elif length := _LENGTH.search(head):
                await self._digest(digest, int(length[1]))
        except asyncio.IncompleteReadError as error:
            raise Gone from error
        received.whole = True
        if received.body_bytes:
            received.digest = digest.hexdigest()

    async def _digest(self, digest: "hashlib._Hash", size: int) -> None:
        while size:
            data = await self.reader.read(min(size, PIECE_BYTES))
            if not data:
                raise Gone
            digest.update(data)
            self.received.body_bytes += len(data)
            size -= len(data)

    async def wait(self, event: asyncio.Event) -> None:
        """Wait for an event. Raises Gone when the peer closes first."""
        waiting = asyncio.ensure_future(event.wait())
        gone = asyncio.ensure_future(self.reader.read(1))
        try:
            await asyncio.wait((waiting, gone), return_when=asyncio.FIRST_COMPLETED)
            if not waiting.done():
                raise Gone
        finally:
            waiting.cancel()
            gone.cancel()
            await asyncio.gather(waiting, gone, return_exceptions=True)

    async def answer(self, body: bytes, *, status: int = 200, fields: tuple[str, ...] = ()) -> None:
        """A whole answer with a Content-Length."""
        await self.send(self.head(status, (f"Content-Length: {len(body)}", *fields)) + body)

    def head(self, status: int, fields: tuple[str, ...]) -> bytes:
        upstream = self.upstream
        lines = [
            f"HTTP/{self.query.get('http', '1.1')} {status} Scripted",
            f"X-Upstream: {upstream.name}",
            f"X-Version: {upstream.version}",
            f"X-Connection: {self.received.connection}",
            *fields,
        ]
        if self.received.id:
            lines.append(f"{ID_FIELD}: {self.received.id}")
        if "keep_alive" in self.query:
            lines.append(f"Keep-Alive: timeout={self.query['keep_alive']}")
        if not self.keep:
            lines.append("Connection: close")
        return "\r\n".join(lines).encode() + b"\r\n\r\n"


Script = Callable[[Exchange], Awaitable[None]]


class Recorded(asyncio.StreamReader):
    """A reader that keeps every byte that came in, too."""

    def __init__(self) -> None:
        super().__init__()
        self.raw = bytearray()

    def feed_data(self, data: Iterable[SupportsIndex]) -> None:
        self.raw.extend(data)
        super().feed_data(data)


@dataclass(slots=True)
class Upstream:
    """One server. `address` is `host:port`, `[v6]:port` or `unix:/path`; port 0 is chosen."""

    name: str
    address: str = "127.0.0.1:0"
    version: str = "1"
    idle_timeout_s: float = 0.0
    """Closes connections that are idle for so long, without a word; 0: never."""
    close_after: int = 0
    """Closes each connection behind so many answers, without a word; 0: never."""
    ledger_file: int = -1
    """A descriptor: each request and each answer is written to it at once."""
    record: bool = False
    """Keeps what each connection received, in `raw`."""
    healthy: bool = True
    ledger: list[Received] = field(default_factory=list)
    probes: int = 0
    script: dict[str, Script] = field(default_factory=dict)
    """Path -> what answers there instead of the query."""
    connections: int = 0
    """Ever accepted."""
    open: "dict[int, asyncio.StreamWriter]" = field(default_factory=dict)
    raw: dict[int, bytearray] = field(default_factory=dict)
    """Connection -> every byte it received, as they came; with `record`."""
    greeting: bytes = b""
    """Said on each new connection, before anything is read."""
    _server: asyncio.Server | None = None
    _tasks: "set[asyncio.Task[None]]" = field(default_factory=set)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    # ------------------------------------------------------------ life

    async def start(self) -> Self:
        if self.address.startswith("unix:"):
            self._server = await asyncio.start_unix_server(self._serve, self.address[5:])
            return self
        host, _, port = self.address.rpartition(":")

        def made() -> asyncio.StreamReaderProtocol:
            reader = Recorded() if self.record else asyncio.StreamReader()
            return asyncio.StreamReaderProtocol(reader, self._serve)

        self._server = await asyncio.get_running_loop().create_server(
            made, host.strip("[]"), int(port), backlog=1024
        )
        self.address = f"{host}:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def stop(self) -> None:
        """Listen no more and drop every connection. It may be started again."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for writer in list(self.open.values()):
            writer.transport.abort()
        self.open.clear()

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    # ------------------------------------------------------------ for tests

    def find(self, id_or_path: str) -> list[Received]:
        """Requests by X-Test-Id or by path, in their order."""
        return [one for one in self.ledger if id_or_path in (one.id, one.path)]

    async def received(self, id_or_path: str, count: int = 1, limit_s: float = 5.0) -> Received:
        """Wait for the `count`-th request of this id or path to have come."""
        await self.until(lambda: len(self.find(id_or_path)) >= count, limit_s)
        return self.find(id_or_path)[count - 1]

    async def until(self, condition: Callable[[], bool], limit_s: float = 5.0) -> None:
        """Wait for something of this upstream's. Raises AssertionError when it does not come."""
        deadline_s = time.monotonic() + limit_s
        while not condition():
            left_s = deadline_s - time.monotonic()
            assert left_s > 0, f"{self.name}: waited {limit_s} s; ledger: {self.ledger[-5:]}"
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(left_s, 0.1)):
                    await self._changed.wait()

    # ------------------------------------------------------------ connections

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        number = self.connections
        self.open[number] = writer
        if isinstance(reader, Recorded):
            self.raw[number] = reader.raw
        self._changed.set()
        if self.greeting:
            writer.write(self.greeting)
        try:
            answers = 0
            while await self._one(number, reader, writer):
                answers += 1
                if answers == self.close_after:
                    break
        except (Gone, ConnectionError, asyncio.IncompleteReadError, TimeoutError):
            pass  # the proxy closed, or was idle for too long
        finally:
            self._tasks.discard(task)
            self.open.pop(number, None)
            self._changed.set()
            writer.close()

    async def _one(
        self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        """Read one request and answer it; whether the connection goes on."""
        async with asyncio.timeout(self.idle_timeout_s or None):
            head = await reader.readuntil(b"\r\n\r\n")
        method, target, _ = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ", 2)
        path, _, query = target.partition("?")
        if path == "/healthz":
            self.probes += 1
            status = b"200 OK" if self.healthy else b"503 Sick"
            writer.write(b"HTTP/1.1 %b\r\nContent-Length: 2\r\n\r\nok" % status)
            return True
        found = _ID.search(head)
        received = Received(
            number, head, method, target, found[1].decode() if found else "", time.monotonic()
        )
        self._enter(received, "began")
        exchange = Exchange(
            self, received, reader, writer, dict(parse_qsl(query, keep_blank_values=True))
        )
        try:
            script = self.script.get(path)
            if script is not None:
                await script(exchange)
            elif _WEBSOCKET_KEY.search(head):
                await echo_frames(exchange)
            else:
                await answer_by_query(exchange)
            received.answered = not writer.is_closing()
        except (Gone, ConnectionError, asyncio.IncompleteReadError):
            received.abandoned = True
            self._enter(received, "abandoned")
            raise
        self._enter(received, "answered" if received.answered else "broken")
        return exchange.keep and not writer.is_closing()

    def _enter(self, received: Received, what: str) -> None:
        if what == "began":
            self.ledger.append(received)
        self._changed.set()
        if self.ledger_file >= 0:
            line = {
                "what": what,
                "upstream": self.name,
                "id": received.id,
                "method": received.method,
                "target": received.target,
                "body_bytes": received.body_bytes,
                "digest": received.digest,
                "whole": received.whole,
            }
            os.write(self.ledger_file, json.dumps(line).encode() + b"\n")


# ---------------------------------------------------------------- what a query asks for


async def answer_by_query(exchange: Exchange) -> None:
    query, received = exchange.query, exchange.received
    exchange.keep = not (
        query.get("connection") == "close"
        or query.get("framing") == "close"
        or query.get("http") == "1.0"
    )
    early = query.get("early", "")
    if not early:
        if _EXPECT.search(received.head):
            await exchange.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        await exchange.read_body()
    if "hang" in query:
        await until_gone(exchange)
    if "delay" in query:
        await asyncio.sleep(float(query["delay"]))
    if query.get("break") == "before":
        _break(exchange)
        return
    if "interim" in query:
        code = int(query["interim"])
        await exchange.send(f"HTTP/1.1 {code} Interim\r\nX-Interim: {code}\r\n\r\n".encode())
    if "sse" in query:
        await _event_stream(exchange)
    else:
        await _body_by_query(exchange)
    if early == "read":
        await exchange.read_body()
    elif early:
        exchange.keep = False


async def _body_by_query(exchange: Exchange) -> None:
    query, received = exchange.query, exchange.received
    status = int(query.get("status", "200"))
    framing = query.get("framing", "length")
    body = body_of(exchange)
    fields: tuple[str, ...] = ()
    if status in (204, 304):
        body = b""
    elif framing == "chunked":
        fields = ("Transfer-Encoding: chunked",)
        if "trailers" in query:
            fields += ("Trailer: X-Trailer",)
    elif framing == "length":
        fields = (f"Content-Length: {len(body)}",)
    head = exchange.head(status, fields)
    if query.get("break") == "head":
        await exchange.send(head)
        _break(exchange)
        return
    if received.method == "HEAD":
        body = b""
    if query.get("break") == "half":
        body = body[: len(body) // 2]
    pieces = int(query.get("pieces", "1"))
    chunked = framing == "chunked" and status not in (204, 304) and received.method != "HEAD"
    if pieces == 1 and not chunked and len(body) <= PIECE_BYTES:
        await exchange.send(head + body)
    else:
        await exchange.send(head)
        step = min(-(-len(body) // pieces), 1 << 20) or 1
        for start in range(0, len(body), step):
            piece = body[start : start + step]
            await exchange.send(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
            if "gap" in query:
                await asyncio.sleep(float(query["gap"]))
    if query.get("break") == "half":
        _break(exchange)
    elif chunked:
        trailers = b"X-Trailer: end\r\n" if "trailers" in query else b""
        await exchange.send(b"0\r\n" + trailers + b"\r\n")


def body_of(exchange: Exchange) -> bytes:
    """The body that an answer carries: `size` bytes of a pattern, or who answered what."""
    if "size" in exchange.query:
        return pattern(int(exchange.query["size"]))
    received = exchange.received
    upstream = exchange.upstream
    text = f"{upstream.name} {upstream.version} {received.method} {received.target}"
    return f"{text} {received.body_bytes} {received.digest}\n".encode()


def pattern(size: int) -> bytes:
    """`size` bytes in which a lost, doubled or swapped piece shows."""
    whole, rest = divmod(size, len(_UNIT))
    return _UNIT * whole + _UNIT[:rest]


async def _event_stream(exchange: Exchange) -> None:
    count = int(exchange.query["sse"])
    gap_s = float(exchange.query.get("gap", "0.05"))
    fields = ("Content-Type: text/event-stream", "Transfer-Encoding: chunked")
    await exchange.send(exchange.head(200, fields))
    gone = asyncio.ensure_future(exchange.reader.read(1))
    number = 0
    try:
        while not count or number < count:
            number += 1
            event = f"id: {number}\ndata: {exchange.upstream.name} {number}\n\n".encode()
            await exchange.send(b"%x\r\n%b\r\n" % (len(event), event))
            done, _ = await asyncio.wait((gone,), timeout=gap_s)
            if done:
                raise Gone
    finally:
        gone.cancel()
    await exchange.send(b"0\r\n\r\n")


async def until_gone(exchange: Exchange) -> None:
    """Answer nothing until the peer closes."""
    while await exchange.reader.read(PIECE_BYTES):
        pass
    raise Gone


def _break(exchange: Exchange) -> None:
    exchange.keep = False
    if exchange.query.get("how") == "reset":
        exchange.reset()
    else:
        exchange.writer.close()


async def echo_frames(exchange: Exchange) -> None:
    """A WebSocket that sends every text or binary frame back. Source: RFC 6455, section 5.2."""
    key = _WEBSOCKET_KEY.search(exchange.received.head)
    assert key is not None
    accept = base64.b64encode(hashlib.sha1(key[1] + _GUID).digest()).decode()
    exchange.keep = False
    exchange.received.whole = True
    fields = ("Upgrade: websocket", "Connection: Upgrade", f"Sec-WebSocket-Accept: {accept}")
    exchange.keep = True
    await exchange.send(exchange.head(101, fields))
    exchange.keep = False
    reader = exchange.reader
    while True:
        first, second = await reader.readexactly(2)
        size = second & 127
        if size == 126:
            (size,) = struct.unpack("!H", await reader.readexactly(2))
        elif size == 127:
            (size,) = struct.unpack("!Q", await reader.readexactly(8))
        mask = await reader.readexactly(4)
        data = await reader.readexactly(size)
        key_stream = mask * (size // 4 + 1)
        data = bytes(a ^ b for a, b in zip(data, key_stream, strict=False))
        opcode = first & 15
        if opcode == 9:
            await exchange.send(_frame(10, data))
        elif opcode == 8:
            await exchange.send(_frame(8, data))
            return
        else:
            await exchange.send(_frame(opcode, data))


def _frame(opcode: int, data: bytes) -> bytes:
    size = len(data)
    if size < 126:
        return bytes((0x80 | opcode, size)) + data
    if size < 65536:
        return struct.pack("!BBH", 0x80 | opcode, 126, size) + data
    return struct.pack("!BBQ", 0x80 | opcode, 127, size) + data


# ---------------------------------------------------------------- in a process of its own


class UpstreamProcess:
    """An upstream that can be killed, and whose work does not share the test's loop."""

    def __init__(self, name: str, ledger: Path, *, address: str = "127.0.0.1:0") -> None:
        self.name = name
        self.ledger_path = ledger
        self.address = address
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> "UpstreamProcess":
        """Start it, or start it again at the same address; returns when it listens."""
        command = [sys.executable, "-m", "tests.upstreams", "--name", self.name]
        command += ["--address", self.address, "--ledger", str(self.ledger_path)]
        self._process = subprocess.Popen(
            command,
            cwd=Path(__file__).parent.parent,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        said = self._process.stdout.readline().split()
        assert said[:1] == ["listening"], f"upstream {self.name} did not start"
        self.address = said[1]
        return self

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """kill -9, and wait for the end."""
        if self._process is not None:
            self._process.kill()
            self._ended()

    def stop(self) -> None:
        """Let it end by itself: its standard input is closed."""
        if self._process is not None:
            assert self._process.stdin is not None
            self._process.stdin.close()
            self._ended()

    def _ended(self) -> None:
        assert self._process is not None and self._process.stdout is not None
        self._process.wait(timeout=10)
        self._process.stdout.close()
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process = None

    def ledger(self) -> list[dict[str, object]]:
        """Every line: {what: began, answered, abandoned or broken, id, method, target, …}."""
        try:
            lines = self.ledger_path.read_bytes().split(b"\n")
        except FileNotFoundError:
            return []
        return [json.loads(line) for line in lines if line]


async def _main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.upstreams")
    parser.add_argument("--name", required=True)
    parser.add_argument("--address", default="127.0.0.1:0")
    parser.add_argument("--ledger", type=Path, required=True)
    given = parser.parse_args()
    descriptor = os.open(given.ledger, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    async with Upstream(given.name, given.address, ledger_file=descriptor) as upstream:
        print("listening", upstream.address, flush=True)
        # Ends with whoever started it, however that ended.
        ended = asyncio.Event()
        asyncio.get_running_loop().add_reader(0, lambda: None if os.read(0, 4096) else ended.set())
        await ended.wait()


if __name__ == "__main__":
    import uvloop

    uvloop.run(_main())
