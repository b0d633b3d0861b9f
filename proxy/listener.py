"""Accept client connections on the sockets that the supervisor handed over.

A worker serves the sockets that are its own or everybody's, and those of a worker that is
dead, hung or gone, for as long as that has no successor: new connections queue there, and
nobody else would answer them.
"""

import asyncio
import socket
from collections.abc import Callable
from typing import Final

SHARED: Final = -1
"""Owner of a socket that all workers accept from."""
BACKLOG: Final = 4096
ACCEPTED_PER_TURN: Final = 4
"""libuv takes one connection from a socket in each turn of the loop; so it is given so many
copies of it. A turn for each connection cost 5 us of it; a copy that finds nothing costs 0.4."""


class Listener:
    """One listening socket, accepted from or not."""

    __slots__ = ("_factory", "_servers", "bind", "owner", "socket")

    def __init__(
        self,
        listening: socket.socket,
        bind: str,
        owner: int,
        factory: Callable[[], asyncio.Protocol],
    ) -> None:
        self.socket = listening
        self.bind = bind
        self.owner = owner
        self._factory = factory
        self._servers: list[asyncio.Server] | None = None

    @property
    def accepting(self) -> bool:
        return self._servers is not None

    async def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Accept from now on; the socket itself stays open whatever happens to the servers.

        Raises OSError when it cannot (no descriptors left): then it is not accepted from, and
        the caller may try again. Some copies fewer are no error.
        """
        if self._servers is not None:
            return
        servers = self._servers = []
        for _ in range(ACCEPTED_PER_TURN):
            try:
                made = await self._server(loop)
            except OSError:
                if servers:
                    return
                if self._servers is servers:
                    self._servers = None
                raise
            if self._servers is not servers:  # stopped meanwhile
                made.close()
                return
            servers.append(made)

    async def _server(self, loop: asyncio.AbstractEventLoop) -> asyncio.Server:
        """Accept from one more copy of the socket. Raises OSError."""
        copy = self.socket.dup()
        if self.socket.family == socket.AF_UNIX:
            return await loop.create_unix_server(self._factory, sock=copy, backlog=BACKLOG)
        return await loop.create_server(self._factory, sock=copy, backlog=BACKLOG)

    def stop(self) -> None:
        """Accept no more. What is queued waits for whoever accepts from the socket next."""
        servers, self._servers = self._servers, None
        for server in servers or ():
            server.close()

    def close(self) -> None:
        self.stop()
        self.socket.close()


def to_serve(owner: int, worker: int, live: frozenset[int]) -> bool:
    """Is worker `worker` to accept from a socket of `owner`, when `live` workers serve?"""
    return owner in (worker, SHARED) or owner not in live
