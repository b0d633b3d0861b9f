"""The worker's line to control: a Unix socket for what is rare.

Control may be away at any time; the worker serves on and comes back to it. Nothing that a
request needs passes through here.
"""

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final, cast

from turnout.proxy.commands import (
    WORKERS_SOCKET,
    FrameReader,
    Hello,
    Kind,
    Message,
    ProtocolError,
    decode,
    encode,
    frame,
)

RETRY_S: Final = 0.05
"""How often control is looked for: a system call that fails at once. A switch that comes soon
after control's start needs the workers connected, or is only acknowledged at their next tick."""
UNSENT_BYTES_MAX: Final = 1024 * 1024
"""Log batches that control has not read yet; beyond it they wait in the worker."""


class Channel(asyncio.Protocol):
    """Keeps the connection, or keeps trying. `receive` is called with each message."""

    def __init__(self, runtime_dir: Path, hello: Hello, receive: Callable[[Message], None]) -> None:
        self._path = str(runtime_dir / WORKERS_SOCKET)
        self._hello = hello
        self._receive = receive
        self._reader = FrameReader()
        self._transport: asyncio.Transport | None = None
        self._lost = asyncio.Event()

    @property
    def connected(self) -> bool:
        return self._transport is not None

    @property
    def takes_logs(self) -> bool:
        """Is control there and keeping up?"""
        transport = self._transport
        return transport is not None and transport.get_write_buffer_size() < UNSENT_BYTES_MAX

    async def run(self) -> None:
        """Connect, and connect again whenever the connection is lost. Never returns."""
        loop = asyncio.get_running_loop()
        while True:
            self._lost.clear()
            try:
                # By its path, never a socket of ours: uvloop attaches that to its transport when
                # the connection is made, which is too late if the first word fails. Then both
                # close the descriptor, and the second time its number is some client's.
                await loop.create_unix_connection(lambda: self, self._path)
            except OSError:
                # Control is away: that is foreseen, and said by the supervisor, not by us.
                await asyncio.sleep(RETRY_S)
                continue
            await self._lost.wait()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._reader = FrameReader()
        self.send(self._hello)

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self._lost.set()

    def data_received(self, data: bytes) -> None:
        try:
            for kind, payload in self._reader.feed(data):
                if kind == Kind.MESSAGE:
                    self._receive(decode(payload))
        except ProtocolError as error:
            print(f"worker.message_refused pid={self._hello.pid} error={error}", file=sys.stderr)
            if self._transport is not None:
                self._transport.abort()

    def send(self, message: Message) -> None:
        """Send, if control is there; otherwise the message is not needed any more."""
        if self._transport is not None:
            self._transport.write(frame(encode(message)))

    def send_log(self, lines: bytes) -> None:
        if self._transport is not None:
            self._transport.write(frame(lines, Kind.ACCESS_LOG))
