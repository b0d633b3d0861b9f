"""`supervisor.sock`: where control asks for exactly three things, and is answered."""

import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from turnout.loop import Loop, say
from turnout.proxy.commands import (
    SUPERVISOR_SOCKET,
    Answer,
    FrameReader,
    Message,
    ProtocolError,
    decode,
    encode,
    frame,
)
from turnout.runtime import RuntimeDirectory

ACCEPT_AGAIN_S: Final = 1.0
READ_BYTES: Final = 65536

Reply = Callable[[Answer], None]


class SupervisorSocket:
    """Listens, and gives each message to `asked` together with the way to answer it."""

    __slots__ = ("_asked", "_connected", "_connections", "_directory", "_listener", "_loop")

    def __init__(
        self,
        loop: Loop,
        directory: RuntimeDirectory,
        *,
        asked: Callable[[Message, Reply], None],
        connected: Callable[[], None],
    ) -> None:
        """Listen. `connected` is called when control has come (back). Raises OSError."""
        self._loop = loop
        self._directory = directory
        self._asked = asked
        self._connected = connected
        self._connections: list[_Connection] = []
        directory.remove(SUPERVISOR_SOCKET)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(directory.path / SUPERVISOR_SOCKET))
        self._listener.setblocking(False)
        self._listener.listen()
        loop.watch(self._listener.fileno(), self._accept)

    @property
    def in_use(self) -> bool:
        """Whether control is connected: it connects last, once all else of it is up."""
        return bool(self._connections)

    def _accept(self) -> None:
        try:
            connection = _Connection(self._listener.accept()[0])
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError as error:
            # No descriptor is left: it would be readable again at once, and for ever.
            say("control.not_accepted", error=error.strerror)
            listener = self._listener.fileno()
            self._loop.unwatch(listener)
            self._loop.after(ACCEPT_AGAIN_S, lambda: self._loop.watch(listener, self._accept))
            return
        self._connections.append(connection)
        self._loop.watch(connection.socket.fileno(), lambda: self._readable(connection))
        self._connected()

    def _readable(self, connection: "_Connection") -> None:
        try:
            messages = connection.read()
        except (ProtocolError, OSError) as error:
            say("control.not_understood", error=error)
            messages = None
        if messages is None:
            self._loop.unwatch(connection.socket.fileno())
            self._connections.remove(connection)
            connection.socket.close()
            return
        for message in messages:
            self._asked(message, connection.send)

    def close(self) -> None:
        self._listener.close()
        self._directory.remove(SUPERVISOR_SOCKET)


class _Connection:
    """One connection. Answers are small: a peer that does not read them loses them."""

    __slots__ = ("_reader", "socket")

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self.socket = connection
        self._reader = FrameReader()

    def read(self) -> list[Message] | None:
        """The messages that are whole now; None at the end."""
        try:
            data = self.socket.recv(READ_BYTES)
        except BlockingIOError:
            return []
        return [decode(payload) for _, payload in self._reader.feed(data)] if data else None

    def send(self, answer: Answer) -> None:
        with suppress(OSError):  # who asked is gone, and asks again when it comes back
            self.socket.send(frame(encode(answer)))
