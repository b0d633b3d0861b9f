"""The origin for what nginx does not do: `python -m benchmarks.app PORT PORT`.

Reads a request's body to its end before it answers, answers in chunks (/chunked), sends
events (/events, one a stream every `EVENT_EVERY_S`), and echoes WebSocket messages (/ws).
It trusts the proxies in front to send well-formed requests: it is not what is measured.
"""

import asyncio
import base64
import hashlib
import sys
from typing import Final, cast

import httptools
import uvloop

from benchmarks.websocket import messages, server_message

WEBSOCKET_KEY: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
EVENT_EVERY_S: Final = 0.2
EVENT: Final = b'event: price\ndata: {"id":%08d,"price":"19.99","currency":"EUR"}\n\n'
CHUNK: Final = b"x" * 1024
CHUNKS: Final = 10

PLAIN_ANSWER: Final = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 100\r\n\r\n" + (b"x" * 100)
)
CHUNKED_ANSWER: Final = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n"
    + (b"%x\r\n%b\r\n" % (len(CHUNK), CHUNK)) * CHUNKS
    + b"0\r\n\r\n"
)
EVENTS_HEAD: Final = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n"
)


class Streams:
    """All event streams: one timer sends to a slice of them, so that the load is even."""

    SLICES: Final = 20

    def __init__(self) -> None:
        self.open: list[set[asyncio.Transport]] = [set() for _ in range(self.SLICES)]
        self.count = 0
        self.turn = 0

    def add(self, transport: asyncio.Transport) -> None:
        self.open[self.count % self.SLICES].add(transport)
        self.count += 1

    def remove(self, transport: asyncio.Transport) -> None:
        for some in self.open:
            some.discard(transport)

    def tick(self) -> None:
        asyncio.get_running_loop().call_later(EVENT_EVERY_S / self.SLICES, self.tick)
        self.turn += 1
        event = EVENT % (self.turn % 100_000_000)
        chunk = b"%x\r\n%b\r\n" % (len(event), event)
        for transport in self.open[self.turn % self.SLICES]:
            transport.write(chunk)


class Connection(asyncio.Protocol):
    def __init__(self, streams: Streams) -> None:
        self.streams = streams
        self.parser = httptools.HttpRequestParser(self)
        self.path = b""
        self.key = b""
        self.is_websocket = False
        self.rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass of it

    def connection_lost(self, error: Exception | None) -> None:
        self.streams.remove(self.transport)

    def data_received(self, data: bytes) -> None:
        if self.is_websocket:
            self.echo(data)
            return
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self.echo(data[upgrade.args[0] :])
        except httptools.HttpParserError:
            self.transport.close()

    def on_url(self, url: bytes) -> None:
        self.path = url

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"sec-websocket-key":
            self.key = value

    def on_message_complete(self) -> None:
        if self.path.startswith(b"/chunked"):
            self.transport.write(CHUNKED_ANSWER)
        elif self.path.startswith(b"/events"):
            self.transport.write(EVENTS_HEAD)
            self.streams.add(self.transport)
        elif self.path.startswith(b"/ws"):
            accept = base64.b64encode(hashlib.sha1(self.key + WEBSOCKET_KEY).digest())
            self.is_websocket = True
            self.transport.write(
                b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
                b"Connection: Upgrade\r\nSec-WebSocket-Accept: " + accept + b"\r\n\r\n"
            )
        else:
            self.transport.write(PLAIN_ANSWER)
            if not self.parser.should_keep_alive():
                self.transport.close()

    def echo(self, data: bytes) -> None:
        found, self.rest = messages(self.rest + data)
        if found:
            self.transport.write(b"".join(map(server_message, found)))


async def serve(ports: list[int]) -> None:
    streams = Streams()
    loop = asyncio.get_running_loop()
    for port in ports:
        await loop.create_server(lambda: Connection(streams), "127.0.0.1", port, backlog=4096)
    streams.tick()
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(serve([int(word) for word in sys.argv[1:]]))
