"""Hand the listening sockets to a new supervisor, when the one that opened them was killed.

Every worker holds all of them. It listens on a Unix socket of its own in the runtime directory;
who connects there and is of the same user gets them (SCM_RIGHTS), and who the worker is. If the
old supervisor is gone the connection then takes the place of the line to it.
"""

import asyncio
import os
import socket
import struct
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from turnout.proxy.commands import Hello, Sockets, encode, frame, worker_socket

DESCRIPTORS_MAX: Final = 200
"""In one message; the kernel's SCM_MAX_FD is 253."""
_CREDENTIALS: Final = struct.Struct("iII")
"""Process, user, group. Source: unix(7), SO_PEERCRED."""
SEND_LIMIT_S: Final = 1.0
"""For what fits a socket's buffer many times: who does not read it at once never will."""


class Adoption:
    """A worker's end. `sockets` are what it listens on, as (what it is, descriptor); `adopted`
    gets the connection of whoever asked for them, and keeps or closes it."""

    __slots__ = ("_adopted", "_hello", "_listener", "_loop", "_path", "_sockets")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        runtime_dir: Path,
        hello: Hello,
        sockets: Callable[[], Sequence[tuple[dict[str, Any], int]]],
        adopted: Callable[[socket.socket], None],
    ) -> None:
        """Listen. A worker that cannot serves all the same: only nobody can adopt it."""
        self._loop = loop
        self._hello = hello
        self._sockets = sockets
        self._adopted = adopted
        self._path = runtime_dir / worker_socket(hello.region)
        self._listener: socket.socket | None = None
        made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._path.unlink(missing_ok=True)
            made.bind(str(self._path))
            made.setblocking(False)
            made.listen()
        except OSError as error:
            made.close()
            self._say("not_adoptable", error)
            return
        self._listener = made
        loop.add_reader(made.fileno(), self._asked)

    def _asked(self) -> None:
        assert self._listener is not None, "it is watched"
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return
        if peer_user(connection) != os.geteuid():
            self._say("not_handed_over", PermissionError("asked by another user"))
            connection.close()
            return
        connection.settimeout(SEND_LIMIT_S)
        try:
            self._hand_over(connection)
        except OSError as error:
            self._say("not_handed_over", error)
            connection.close()
            return
        connection.setblocking(False)
        self._adopted(connection)

    def _hand_over(self, connection: socket.socket) -> None:
        connection.sendall(frame(encode(self._hello)))
        sockets = self._sockets()
        for start in range(0, max(len(sockets), 1), DESCRIPTORS_MAX):
            part = sockets[start : start + DESCRIPTORS_MAX]
            more = start + DESCRIPTORS_MAX < len(sockets)
            data = frame(encode(Sockets([entry for entry, _ in part], more=more)))
            sent = socket.send_fds(connection, [data], [descriptor for _, descriptor in part])
            connection.sendall(data[sent:])

    def _say(self, what: str, error: OSError) -> None:
        number = self._hello.worker
        print(f'worker.{what} worker={number} error="{error}"', file=sys.stderr, flush=True)

    def close(self) -> None:
        """Listen no more: the worker leaves."""
        if self._listener is not None:
            self._loop.remove_reader(self._listener.fileno())
            self._listener.close()
            self._listener = None
            with suppress(OSError):
                self._path.unlink(missing_ok=True)


def peer_user(connection: socket.socket) -> int:
    """User id of the process at the other end of a Unix socket, as the kernel says."""
    found = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return int(_CREDENTIALS.unpack(found)[1])
