"""What stands in for loop and sockets: a loop that turns when it is told to, and transports that
keep what is written to them.

They do what uvloop does, as far as a protocol can tell (`handles/stream.pyx` and
`handles/basetransport.pyx` of it): writing behind `write_eof` or on a closed transport raises,
`connection_lost` comes with the next turn, nothing is read while reading is paused.
"""

import asyncio
import socket
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from contextvars import Context
from typing import Any, Final, cast

from turnout.proxy.downstream import RESET

HIGH_WATER_BYTES: Final = 64 * 1024
TURNS_MAX: Final = 1000


class Loop:
    """Turns when it is told to; its clock stands still. As much of asyncio's as a worker asks for."""

    def __init__(self) -> None:
        self._ready: deque[asyncio.Handle] = deque()
        self.errors: list[str] = []
        """What the exception handler was told."""
        self.connect: Callable[[Callable[[], Any], Any], Any] | None = None
        self.knocking: list[tuple[int, asyncio.Future[None]]] | None = None
        """Ports, and who waits to be let in there; None: they are at once."""

    @property
    def as_loop(self) -> asyncio.AbstractEventLoop:
        return cast(asyncio.AbstractEventLoop, self)

    def get_debug(self) -> bool:
        return False

    def time(self) -> float:
        return 0.0

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False

    def call_soon(
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self.as_loop, context)
        self._ready.append(handle)
        return handle

    def call_at(
        self, when: float, callback: Callable[..., object], *args: Any,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:  # fmt: skip
        return asyncio.TimerHandle(when, callback, args, self.as_loop, context)

    def call_later(
        self, delay: float, callback: Callable[..., object], *args: Any,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:  # fmt: skip
        return self.call_at(delay, callback, *args, context=context)

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        pass

    def create_future(self) -> "asyncio.Future[Any]":
        return asyncio.Future(loop=self.as_loop)

    def create_task(self, coro: Coroutine[Any, Any, Any], **_: Any) -> "asyncio.Task[Any]":
        return asyncio.Task(coro, loop=self.as_loop)

    async def create_connection(
        self, protocol_factory: Callable[[], Any], host: Any = None, port: Any = None, **_: Any
    ) -> Any:
        if self.knocking is None:
            await asyncio.sleep(0)
        else:
            let_in = self.create_future()
            self.knocking.append((port, let_in))
            await let_in
        assert self.connect is not None
        found = self.connect(protocol_factory, port)
        await asyncio.sleep(0)
        return found

    def call_exception_handler(self, context: Any) -> None:
        error = context.get("exception")
        self.errors.append(f"{context.get('message')}: {error!r}")

    @contextmanager
    def running(self) -> Iterator[None]:
        """Be the loop that runs, of this thread."""
        asyncio._set_running_loop(self.as_loop)
        try:
            yield
        finally:
            asyncio._set_running_loop(None)

    def turn(self) -> bool:
        """Run what is ready now; False if nothing was."""
        for count in range(len(self._ready), 0, -1):
            handle = self._ready.popleft()
            if not handle.cancelled():
                handle._run()
            if count == 1:
                return True
        return False

    @property
    def busy(self) -> bool:
        """Something is to be done in the next turn."""
        return bool(self._ready)

    def settle(self) -> None:
        """Turn until nothing is left to do. Raises AssertionError if that never comes."""
        for _ in range(TURNS_MAX):
            if not self.turn():
                return
        raise AssertionError(f"the loop is busy after {TURNS_MAX} turns")


class Wire:
    """A transport: what is written stands in `sent`, or waits while the peer does not read."""

    def __init__(self, loop: Loop, protocol: Any, quiet: socket.socket) -> None:
        self._loop = loop
        self._quiet = quiet
        self.protocol = protocol
        self.sent = bytearray()
        """What the peer has been given."""
        self.waiting: list[bytes] = []
        self.waiting_bytes = 0
        self.takes = True
        """The peer reads."""
        self.eof = False
        """`write_eof` was called."""
        self.closing = False
        self.conn_lost = False
        self.lost = False
        """`connection_lost` has been called: the transport is dead."""
        self.aborted = False
        """Closed without what was still to be written."""
        self.resets = False
        """The peer will see a reset: no clean end."""
        self.reading = True
        self.write_paused = False
        self.high_bytes = HIGH_WATER_BYTES

    # ------------------------------------------------------------ as uvloop has it

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        if name == "socket":
            return self
        if name == "peername":
            return ("127.0.0.1", 50000)
        return ("127.0.0.1", 8080) if name == "sockname" else default

    def fileno(self) -> int:
        """A socket that has no input, ever, and to which nothing can be written."""
        return self._quiet.fileno()

    def setsockopt(self, level: int, option: int, value: Any) -> None:
        if option == socket.SO_LINGER:
            self.resets = value == RESET

    def _ensure_alive(self) -> None:
        if self.lost:
            raise RuntimeError("unable to perform operation on it; the handler is closed")

    def write(self, data: bytes | memoryview) -> None:
        self._ensure_alive()
        if self.eof:
            raise RuntimeError("Cannot call write() after write_eof()")
        if not data or self.conn_lost:
            return
        if self.takes and not self.waiting:
            self.sent += data
            return
        self.waiting.append(bytes(data))
        self.waiting_bytes += len(data)
        self._maybe_pause()

    def _maybe_pause(self) -> None:
        if self.waiting_bytes > self.high_bytes and not self.write_paused:
            self.write_paused = True
            self.protocol.pause_writing()

    def write_eof(self) -> None:
        self._ensure_alive()
        self.eof = True

    def can_write_eof(self) -> bool:
        return True

    def get_write_buffer_size(self) -> int:
        return self.waiting_bytes

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._ensure_alive()
        self.high_bytes = HIGH_WATER_BYTES if high is None else high
        self._maybe_pause()

    def is_closing(self) -> bool:
        return self.closing

    def is_reading(self) -> bool:
        return self.reading

    def pause_reading(self) -> None:
        if not self.closing:
            self.reading = False

    def resume_reading(self) -> None:
        if not self.closing:
            self._ensure_alive()
            self.reading = True

    def set_protocol(self, protocol: Any) -> None:
        self.protocol = protocol

    def close(self) -> None:
        if self.closing:
            return
        self.closing = True
        self.reading = False
        if not self.waiting:
            self._lose(None)

    def abort(self) -> None:
        self.force_close(None)

    def force_close(self, error: Exception | None) -> None:
        if self.conn_lost:
            return
        self.aborted = self.closing = True
        self.reading = False
        self._lose(error)

    def _lose(self, error: Exception | None) -> None:
        self.conn_lost = True
        self._loop.call_soon(self._call_connection_lost, error)

    def _call_connection_lost(self, error: Exception | None) -> None:
        if not self.lost:
            try:
                self.protocol.connection_lost(error)
            finally:
                self.lost = True
                self.waiting, self.waiting_bytes = [], 0

    # ------------------------------------------------------------ as the peer has it

    @property
    def open(self) -> bool:
        """The worker reads from it, now or later."""
        return not self.closing

    def deliver(self, data: bytes) -> None:
        """The worker reads `data`. A mistake of its own closes the connection."""
        assert self.reading and data
        self._called(self.protocol.data_received, data)

    def deliver_eof(self) -> None:
        self.reading = False
        if not self._called(self.protocol.eof_received):
            self.close()

    def _called(self, callback: Callable[..., Any], *args: Any) -> Any:
        try:
            return callback(*args)
        except Exception as error:  # noqa: BLE001 - as uvloop has it: said, and closed
            self._loop.call_exception_handler({"message": "in a callback", "exception": error})
            self.force_close(error)
            return False

    def takes_some(self, size: int) -> None:
        """The peer takes so many bytes of what waits, and not all."""
        data = b"".join(self.waiting)
        assert size < len(data)
        self.sent += data[:size]
        self.waiting, self.waiting_bytes = [data[size:]], len(data) - size

    def drain(self) -> None:
        """The peer takes all that waits."""
        if not self.waiting or self.conn_lost:
            return
        self.sent += b"".join(self.waiting)
        self.waiting, self.waiting_bytes = [], 0
        if self.write_paused:
            self.write_paused = False
            self._called(self.protocol.resume_writing)
        if self.closing and not self.conn_lost and not self.waiting:
            self._lose(None)
