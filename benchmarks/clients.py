"""Clients that wrk and h2load cannot be: `python -m benchmarks.clients KIND PORT COUNT`.

Opens COUNT connections and says `ready` when each has what it needs; at a line `begin` it
starts to count, at `end` it says what it has, as JSON, and goes. So the harness can look at the
proxy's CPU time and memory at exactly those moments.

- `websocket`: echoes of messages, one under way on each connection.
- `events`: event streams, read to no end.
- `idle`: one request, and then nothing.
- `slow`: a file of 1 GiB, read at `SLOW_BYTES_S`.
"""

import asyncio
import json
import random
import sys
import time
from typing import Any, ClassVar, Final, cast

import uvloop

from benchmarks.ratios import quantile
from benchmarks.websocket import client_message, messages
from benchmarks.workloads import MESSAGE_BYTES

OPENING_AT_ONCE: Final = 64
SLOW_BYTES_S: Final = 4 << 20
SLOW_TICK_S: Final = 0.01


class Crowd:
    """All connections of this process, and what they count."""

    def __init__(self, kind: type["Client"], port: int, size: int) -> None:
        self.kind = kind
        self.port = port
        self.size = size
        self.clients: list[Client] = []
        self.ready = 0
        self.lost = 0
        self.counted = 0
        self.bytes_read = 0
        self.durations_s: list[float] = []
        self.ending = False
        self.all_ready = asyncio.Event()

    async def open(self) -> None:
        """Open all, some at a time. Raises TimeoutError when one does not get what it needs."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(60.0):
            while len(self.clients) < self.size:
                while len(self.clients) - self.ready >= OPENING_AT_ONCE and not self.lost:
                    await asyncio.sleep(0.001)
                client = self.kind(self)
                self.clients.append(client)
                await loop.create_connection(lambda it=client: it, "127.0.0.1", self.port)  # type: ignore[misc]
            await self.all_ready.wait()

    def one_ready(self) -> None:
        self.ready += 1
        if self.ready == self.size:
            self.all_ready.set()

    def begin(self) -> None:
        self.counted = self.bytes_read = 0
        self.durations_s.clear()

    def end(self) -> dict[str, Any]:
        self.ending = True
        ordered_s = sorted(self.durations_s) or [0.0]
        return {
            "counted": self.counted,
            "bytes": self.bytes_read,
            "lost": self.lost,
            "p50_ms": quantile(ordered_s, 0.5) * 1e3,
            "p99_ms": quantile(ordered_s, 0.99) * 1e3,
            "p999_ms": quantile(ordered_s, 0.999) * 1e3,
        }


class Client(asyncio.Protocol):
    """One connection: sends its request, is ready at some byte of the answer."""

    request: ClassVar[bytes] = b""

    def __init__(self, crowd: Crowd) -> None:
        self.crowd = crowd
        self.is_ready = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass of it
        self.transport.write(self.request % len(self.crowd.clients))

    def connection_lost(self, error: Exception | None) -> None:
        if not self.crowd.ending:
            self.crowd.lost += 1

    def got_ready(self) -> None:
        if not self.is_ready:
            self.is_ready = True
            self.crowd.one_ready()


class Events(Client):
    request = (
        b"GET /events?id=%d HTTP/1.1\r\nHost: bench.example\r\nAccept: text/event-stream\r\n\r\n"
    )

    def data_received(self, data: bytes) -> None:
        # An event is not cut in two on loopback; a few that were would change no figure.
        events = data.count(b"event: ")
        self.crowd.counted += events
        self.crowd.bytes_read += len(data)
        if events:
            self.got_ready()


class Idle(Client):
    request = b"GET /a/%d HTTP/1.1\r\nHost: bench.example\r\nUser-Agent: idle\r\n\r\n"

    def data_received(self, data: bytes) -> None:
        if data.endswith(b"x" * 100):
            self.got_ready()


class Slow(Client):
    request = b"GET /f/1g.bin?id=%d HTTP/1.1\r\nHost: bench.example\r\n\r\n"

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.allowed_bytes = 0.0
        self.waits = False
        self.last_s = time.monotonic()

    def data_received(self, data: bytes) -> None:
        self.got_ready()
        self.crowd.bytes_read += len(data)
        self.allowed_bytes -= len(data)
        if self.allowed_bytes < 0 and not self.waits:
            self.waits = True
            self.transport.pause_reading()
            asyncio.get_running_loop().call_later(SLOW_TICK_S, self.tick)

    def tick(self) -> None:
        now_s = time.monotonic()
        self.allowed_bytes += (now_s - self.last_s) * SLOW_BYTES_S
        self.last_s = now_s
        if self.allowed_bytes > 0:
            self.waits = False
            if not self.transport.is_closing():
                self.transport.resume_reading()
        else:
            asyncio.get_running_loop().call_later(SLOW_TICK_S, self.tick)


class WebSocket(Client):
    request = (
        b"GET /ws?id=%d HTTP/1.1\r\nHost: bench.example\r\nUpgrade: websocket\r\n"
        b"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.number = 0
        self.rest = b""
        self.sent_s = 0.0
        self.payload = b""

    def data_received(self, data: bytes) -> None:
        data = self.rest + data
        if not self.is_ready:
            head, found, data = data.partition(b"\r\n\r\n")
            if not found:
                self.rest = head
                return
            if not head.startswith(b"HTTP/1.1 101 "):
                self.transport.abort()
                return
            self.got_ready()
            self.send()
        echoes, self.rest = messages(data)
        for echo in echoes:
            if echo != self.payload:
                self.transport.abort()
                return
            self.crowd.counted += 1
            self.crowd.durations_s.append(time.perf_counter() - self.sent_s)
            self.send()

    def send(self) -> None:
        self.number += 1
        self.payload = (b"%d " % self.number).ljust(MESSAGE_BYTES, b"m")
        self.sent_s = time.perf_counter()
        self.transport.write(client_message(self.payload, random.randbytes(4)))


KINDS: Final = {"websocket": WebSocket, "events": Events, "idle": Idle, "slow": Slow}


async def run(kind: str, port: int, size: int) -> None:
    crowd = Crowd(KINDS[kind], port, size)
    await crowd.open()
    print("ready", flush=True)
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while word := (await reader.readline()).strip():
        if word == b"begin":
            crowd.begin()
        else:
            print(json.dumps(crowd.end()), flush=True)
            return


if __name__ == "__main__":
    uvloop.run(run(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
