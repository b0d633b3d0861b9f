"""The rest of a long response body, from the server's socket to the client's by splice(2).

Once a head has been passed on and much of a body of known length is still to come, the bytes
need not be seen: the kernel moves them through a pipe (`splice.py`), exactly as many as are
left and never one more, as what stands behind them is not this answer's.

The transports stay in charge of their connections. What comes in first with a turn of the loop
is read as ever, but little of it (`ShortReads`), and put into the pipe; what else is there
follows it by splice, and all of it leaves for the client in one go. If the client does not take
all, the server's transport is paused and the client's socket is watched, by a copy of its
descriptor (uvloop lets nobody else watch a transport's own), until it takes more. End of file
and errors of either are the transports' to find: here nothing is decided but how bytes move.
"""

import asyncio
import errno
import fcntl
import os
import struct
import termios
from typing import TYPE_CHECKING, Final

from turnout.proxy.splice import Pipe

if TYPE_CHECKING:
    from turnout.proxy.exchange import Exchange
    from turnout.proxy.upstream import UpstreamConnection

LONG_BYTES: Final = 128 * 1024
"""So much must be left of a body. For 64 KiB a copy costs less: one read, one write."""
READ_BYTES: Final = 16 * 1024
"""Read at once by a connection to a server whose last answer was long: what is longer need not
be seen, and most heads and short answers fit."""
FIRST_BYTES_MAX: Final = 48 * 1024
"""What has been read is put into the pipe, if it is no longer than this: a head and a read. An
empty pipe has room for it, whatever lies on its pages."""
ROUND_BYTES: Final = 1024 * 1024
"""Moved in one callback; then the other connections have their turn."""

REFUSED: Final = frozenset({errno.EINVAL, errno.ENOSYS, errno.EPERM, errno.EOPNOTSUPP})
"""What a system says that does not splice into this kind of socket."""
FLAGS: Final = os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK


class ShortReads(asyncio.BufferedProtocol):
    """What the transport of a server's connection reads into while long bodies come.

    As an `asyncio.Protocol` it would be given a copy of all that is there, up to 256 KB, at the
    beginning of each turn. This one has it read `READ_BYTES`; the rest waits for splice.
    """

    __slots__ = ("_connection", "_room")

    def __init__(self, room: memoryview, connection: "UpstreamConnection") -> None:
        """`room` may be shared by all: it is empty again when `buffer_updated` returns."""
        self._room = room
        self._connection = connection

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._room

    def buffer_updated(self, nbytes: int) -> None:
        self._connection.data_received(self._room[:nbytes].tobytes())

    def eof_received(self) -> bool:
        return self._connection.eof_received()

    def connection_lost(self, error: Exception | None) -> None:
        self._connection.connection_lost(error)

    def pause_writing(self) -> None:
        self._connection.pause_writing()

    def resume_writing(self) -> None:
        self._connection.resume_writing()


class LongBody:
    """One response body under way through a pipe; made for it, and gone with it."""

    __slots__ = (
        "_client", "_exchange", "_head_bytes", "_held_bytes", "_limited", "_moved_bytes",
        "_pipe", "_taken_bytes", "_up", "_watched",
    )  # fmt: skip

    def __init__(self, exchange: "Exchange", up: "UpstreamConnection") -> None:
        self._exchange = exchange
        self._up = up
        self._client: int = exchange.down.transport.get_extra_info("socket").fileno()
        self._limited = False
        self._pipe: Pipe | None = None
        """Held while there is something in it, and in a callback."""
        self._held_bytes = 0
        self._head_bytes = 0
        """Of those in the pipe: of the answer's head, which is no part of `bytes_out`."""
        self._moved_bytes = 0
        """Into the client's socket."""
        self._taken_bytes = 0
        """Of these out of it again, at the last look."""
        self._watched = -1
        """A copy of the client's descriptor, from the first time that it had no room."""
        up.read_short(True)

    # ------------------------------------------------------------ moving

    def pass_on(self, data: bytes | memoryview, head: bytes = b"") -> bool:
        """Send the answer's `head`, `data`, the next of its body, and what more of that the
        server's socket holds; when that is all of it the exchange ends.

        False: not now; the caller writes both to the client's transport.
        """
        exchange, worker = self._exchange, self._exchange.worker
        transport = exchange.down.transport
        if self._up.remaining <= 0 or transport.is_closing():
            return False  # the caller knows this end itself, and what stands behind it
        if len(head) + len(data) > FIRST_BYTES_MAX or transport.get_write_buffer_size():
            if not self._limited:
                # What is written now is to have left before the next read: then that may go
                # through the pipe, which it cannot with a copy before it.
                self._limited = True
                transport.set_write_buffer_limits(high=0)
            return False
        pipe = worker.pipes.take(worker.table.limits.pipes)
        if pipe is None:
            self._give_up()
            return False
        self._pipe = pipe
        self._head_bytes = len(head)
        self._held_bytes = os.writev(pipe.write_end, (head, data))
        assert self._held_bytes == len(head) + len(data), "an empty pipe has room for it"
        self._move(pipe)
        return True

    def _room(self) -> None:
        """The client's socket has room again."""
        pipe = self._pipe
        if pipe is None:
            worker = self._exchange.worker
            pipe = self._pipe = worker.pipes.take(worker.table.limits.pipes)
            if pipe is None:
                self._give_up()
                return
        self._move(pipe)

    def _move(self, pipe: Pipe) -> None:
        """Move bytes until one side has no more, or no more room, or others have their turn."""
        up = self._up
        left_bytes = ROUND_BYTES
        while True:
            if up.remaining:
                self._fill(pipe)
            if not self._held_bytes:
                self._watch_server()
                break
            moved = self._empty(pipe)
            if moved < 0:
                return
            if self._held_bytes:
                self._watch_client()
                return
            if not up.remaining:
                self._end()
                return
            left_bytes -= moved
            if left_bytes <= 0:
                break
        self._pipe = None
        self._exchange.worker.pipes.give_back(pipe)

    def _fill(self, pipe: Pipe) -> None:
        """Take what the server's socket has. Its end and its errors are left to its transport,
        which meets them as soon as it reads."""
        up = self._up
        size = min(up.remaining, pipe.capacity_bytes - self._held_bytes)
        try:
            taken = os.splice(up.descriptor, pipe.write_end, size, flags=FLAGS)
        except OSError:
            return
        up.remaining -= taken
        self._held_bytes += taken

    def _empty(self, pipe: Pipe) -> int:
        """Give what is in the pipe to the client's socket; return how much went, or -1 when
        the body does not go on this way."""
        try:
            moved = os.splice(pipe.read_end, self._client, self._held_bytes, flags=FLAGS)
        except BlockingIOError:
            return 0
        except OSError as error:
            if error.errno in REFUSED:
                self._copy(pipe)
            else:
                # It has gone. Its transport says so in the next turn, and the exchange ends.
                self._up.pause()
                self._unwatch()
                self._exchange.down.transport.abort()
            return -1
        self._held_bytes -= moved
        self._moved_bytes += moved
        of_head = min(moved, self._head_bytes)
        self._head_bytes -= of_head
        self._exchange.response_moved(moved - of_head)
        return moved

    # ------------------------------------------------------------ waiting

    def _watch_client(self) -> None:
        """Go on when the client has taken more; until then the server's socket holds the rest."""
        self._up.pause()
        if self._watched >= 0:
            return
        try:
            self._watched = os.dup(self._client)
        except OSError:  # no descriptors left
            assert self._pipe is not None
            self._copy(self._pipe)
            return
        self._taken_bytes = self._taken()
        self._exchange.worker.loop.add_writer(self._watched, self._room)

    def _watch_server(self) -> None:
        """Go on when the server has sent more."""
        self._unwatch()
        self._up.resume()

    def _unwatch(self) -> None:
        if self._watched >= 0:
            self._exchange.worker.loop.remove_writer(self._watched)
            os.close(self._watched)
            self._watched = -1

    @property
    def waits(self) -> bool:
        """For the client to take more?"""
        return self._watched >= 0

    def client_reads(self) -> bool:
        """Has a client that is waited for taken anything since the last look? Asked when its
        time is over, as room in its socket shows only once a third of it is free."""
        if self._watched < 0:
            return False
        before, self._taken_bytes = self._taken_bytes, self._taken()
        return self._taken_bytes > before

    def _taken(self) -> int:
        """So many bytes has the client's system acknowledged, by count of this body."""
        queued: int = struct.unpack("i", fcntl.ioctl(self._client, termios.TIOCOUTQ, bytes(4)))[0]
        return self._moved_bytes - queued

    # ------------------------------------------------------------ the end

    def _give_up(self) -> None:
        """The rest is copied."""
        self._exchange.long_body = None
        self.stop()
        self._up.read_short(False)
        self._up.resume()

    def _copy(self, pipe: Pipe) -> None:
        """Go on without a pipe: what is in it is written by the client's transport."""
        exchange, up = self._exchange, self._up
        data = os.read(pipe.read_end, self._held_bytes)
        self._held_bytes -= len(data)
        self._give_up()
        exchange.response_moved(len(data) - self._head_bytes)
        exchange.down.write(data)
        if not up.remaining:
            self._answered()

    def _end(self) -> None:
        """All of it has gone to the client's socket."""
        self._exchange.long_body = None
        self.stop()
        self._answered()

    def _answered(self) -> None:
        up = self._up
        if up.has_input():
            # Bytes behind the end, or its end: whoever asked next would get them.
            up.keep = False
        self._exchange.response_end()

    def stop(self) -> None:
        """The exchange is over or goes on without: what is in the pipe goes with it."""
        self._unwatch()
        if self._limited:
            self._limited = False
            transport = self._exchange.down.transport
            if not transport.is_closing():
                transport.set_write_buffer_limits()
        pipe, self._pipe = self._pipe, None
        if pipe is None:
            return
        if self._held_bytes:
            self._exchange.worker.pipes.discard(pipe)
        else:
            self._exchange.worker.pipes.give_back(pipe)
