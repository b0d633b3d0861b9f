"""One worker with everything it has, and no world around it: a loop that turns when it is told
to, and transports that keep what is written to them.

What is replaced is what lies below the worker: loop, sockets, network. The stand-ins do what
uvloop does, as far as a protocol can tell (`handles/stream.pyx`, `handles/basetransport.pyx` of
it): writing behind `write_eof` or on a closed transport raises, `connection_lost` comes with the
next turn, nothing is read while reading is paused. So each run is the same, byte for byte, and
takes microseconds.
"""

import argparse
import asyncio
import shutil
import socket
import tempfile
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from contextvars import Context
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, cast

from turnout.config.table import (
    RoutingTable,
    TableLimits,
    TablePool,
    TableServer,
    TableService,
    TableUpstream,
    encode,
)
from turnout.proxy.commands import table_file
from turnout.proxy.downstream import RESET, Downstream
from turnout.proxy.pool import ServerPool
from turnout.proxy.scoreboard import (
    C_CONNECTIONS_ACCEPTED,
    C_REFUSED,
    C_UNEXPECTED_ERRORS,
    CODE_LABELS,
    CUT_REASONS,
    HEALTH_BYTES,
    HEALTH_FILE,
    NOT_RETRIED_REASONS,
    PROXY_CODE_LABELS,
    R_CONNECTIONS,
    R_UPSTREAM_CONNECTIONS,
    REFUSED_REASONS,
    RETRY_REASONS,
    ROUTING_BYTES,
    ROUTING_FILE,
    S_ABORTED,
    S_ACCEPTED,
    S_CUT,
    S_NOT_RETRIED,
    S_OUTCOMES_END,
    S_PROXY,
    S_RETRIES,
    TABLE_IN_FORCE,
    U_ABORTED,
    U_ANSWERED,
    U_ATTEMPTS_FAILED,
    U_CUT,
    U_OUTCOMES_END,
    U_PICKED,
    U_PROXY,
    U_UNHEALTHY_PICKS,
    UPSTREAM_WORDS,
    Geometry,
    Scoreboard,
    SharedWords,
)
from turnout.proxy.worker_core import Worker

HIGH_WATER_BYTES: Final = 64 * 1024
LOW_WATER_BYTES: Final = HIGH_WATER_BYTES // 4
READ_BYTES: Final = 256 * 1024
"""What uvloop reads at once."""
TURNS_MAX: Final = 1000
BIND: Final = "127.0.0.1:8080"
DATE: Final = b"Thu, 26 Nov 2026 05:00:00 GMT"

TIGHT: Final = TableLimits(
    header_bytes=300,
    response_header_bytes=350,
    headers=12,
    interim_answers=3,
    trailer_bytes=100,
    body_bytes=600,
    replay_bytes=90,
    pipeline_bytes=200,
    pipes=0,
)
"""So small that what a fuzzer writes reaches them."""
WIDE: Final = TableLimits(pipes=0)
"""As they are by default. Without pipes: those move what is in real sockets."""

LASTING: Final = TablePool(idle_timeout_s=1e6)
"""A connection stays idle for as long as a run takes, however busy the machine."""


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


@dataclass
class Client:
    """A client's connection: the worker's protocol and its wire."""

    down: Downstream
    wire: Wire


@dataclass
class World:
    """A worker and whoever it is connected with."""

    loop: Loop
    worker: Worker
    quiet: socket.socket
    health_path: bytes = b""
    """A path that is answered by the worker itself. No request takes the fast path then."""
    clients: list[Client] = field(default_factory=list)
    servers: list[Wire] = field(default_factory=list)
    """Connections to servers, in the order in which they were opened."""
    names: dict[int, str] = field(default_factory=dict)
    """Of counters, by their place in a snapshot."""

    def client(self) -> Client:
        """Connect a client."""
        down = Downstream(self.worker, self.worker.admission.door(BIND), self.health_path)
        found = Client(down, Wire(self.loop, down, self.quiet))
        down.connection_made(cast(asyncio.Transport, found.wire))
        self.clients.append(found)
        return found

    def connect(self, factory: Callable[[], Any], port: int) -> tuple[Any, Any]:
        """A server takes a connection."""
        protocol = factory()
        wire = Wire(self.loop, protocol, self.quiet)
        protocol.connection_made(cast(asyncio.Transport, wire))
        self.servers.append(wire)
        return wire, protocol

    @property
    def pools(self) -> list[ServerPool]:
        return self.worker.serving.pools()

    def end(self) -> None:
        """Everybody goes: clients first, then what is idle."""
        for client in self.clients:
            if client.wire.open:
                client.wire.force_close(None)
            elif not client.wire.lost:
                client.wire.drain()
                client.wire.force_close(None)
        self.loop.settle()
        for pool in self.pools:
            pool.close_idle()
        self.loop.settle()

    def begin(self) -> None:
        """Be as new: the same request gets the same id in each run."""
        self.clients.clear()
        self.servers.clear()
        self.loop.errors.clear()
        if self.worker.access_log is not None:
            self.worker.access_log.take()
        self.worker.ids_given = 0
        self.worker.id_prefix = b"id-"

    def snapshot(self) -> list[int]:
        """All counters of the worker as they stand."""
        scoreboard, region = self.worker.scoreboard, self.worker.region
        end = scoreboard.inflight_slot(region, 0)
        return self.worker.words[scoreboard.region(region) : end].tolist()

    def counted(self, before: list[int]) -> dict[str, int]:
        """What has been counted since `before`, by name. No latencies, and no gauges."""
        if not self.names:
            self.names = self._names()
        now = self.snapshot()
        if now == before:
            return {}
        return {
            name: now[index] - before[index]
            for index, name in self.names.items()
            if now[index] != before[index]
        }

    def _names(self) -> dict[int, str]:
        first = self.worker.scoreboard.region(self.worker.region)
        names = {C_CONNECTIONS_ACCEPTED: "connections", C_UNEXPECTED_ERRORS: "unexpected"}
        names |= {C_REFUSED + place: f"refused {why}" for place, why in enumerate(REFUSED_REASONS)}
        serving = self.worker.serving
        for base in (serving.unmatched, *(service.base for service in serving.services)):
            at = base - first
            names[at + S_ACCEPTED] = "accepted"
            for upstream, proxied, aborted, cut in (
                (at, U_PROXY, U_ABORTED, U_CUT),
                (at + UPSTREAM_WORDS, U_PROXY, U_ABORTED, U_CUT),
                (at, S_PROXY, S_ABORTED, S_CUT),
            ):
                names[upstream + aborted] = "aborted"
                for place, code in enumerate(PROXY_CODE_LABELS):
                    names[upstream + proxied + place] = f"proxy {code}"
                for place, why in enumerate(CUT_REASONS):
                    names[upstream + cut + place] = f"cut {why}"
            for upstream in (at, at + UPSTREAM_WORDS):
                names[upstream + U_PICKED] = "picked"
                names[upstream + U_UNHEALTHY_PICKS] = "unhealthy pick"
                names[upstream + U_ATTEMPTS_FAILED] = "attempt failed"
                for place, code in enumerate(CODE_LABELS):
                    names[upstream + U_ANSWERED + place] = f"answered {code}"
            for place, why in enumerate(RETRY_REASONS):
                names[at + S_RETRIES + place] = f"retried {why}"
            for place, why in enumerate(NOT_RETRIED_REASONS):
                names[at + S_NOT_RETRIED + place] = f"not retried {why}"
        return names

    def sums(self) -> tuple[int, int]:
        """Requests accepted, and outcomes, since the worker began."""
        words = self.worker.words
        serving = self.worker.serving
        accepted = outcomes = 0
        for base in (serving.unmatched, *(service.base for service in serving.services)):
            accepted += words[base + S_ACCEPTED]
            outcomes += sum(words[index] for index in range(base + S_PROXY, base + S_OUTCOMES_END))
            for upstream in (base, base + UPSTREAM_WORDS):
                span = range(upstream + U_ANSWERED, upstream + U_OUTCOMES_END)
                outcomes += sum(words[index] for index in span)
        return accepted, outcomes

    def left_over(self) -> list[str]:
        """What is not as it was before anybody connected; nothing, if all is well."""
        worker = self.worker
        words, base = worker.words, worker.region_base
        accepted, outcomes = self.sums()
        free = len(worker.free_inflight)
        wrong = {
            f"accepted {accepted}, outcomes {outcomes}": accepted != outcomes,
            f"{free} free in-flight slots": free != worker.scoreboard.geometry.inflight,
            f"R_CONNECTIONS is {words[base + R_CONNECTIONS]}": words[base + R_CONNECTIONS],
            f"R_UPSTREAM_CONNECTIONS is {words[base + R_UPSTREAM_CONNECTIONS]}": words[
                base + R_UPSTREAM_CONNECTIONS
            ],
            f"{words[base + C_UNEXPECTED_ERRORS]} unexpected errors": words[
                base + C_UNEXPECTED_ERRORS
            ],
            "connections are known": worker.connections,
            "clients are stalled": worker.stalled,
            "something is put aside": worker.asked or worker.answers,
        }
        for pool in self.pools:
            wrong |= {
                f"pool: {pool.in_flight} in flight": pool.in_flight,
                f"pool: {pool.open} open": pool.open,
                "pool: some are idle": pool.idle,
                "pool: some wait": pool.waiting,
                "pool: some are being connected": pool.connecting,
            }
        for wire in (*self.servers, *(client.wire for client in self.clients)):
            wrong["a connection is open"] = not wire.lost
        return [text for text, is_so in wrong.items() if is_so] + self.loop.errors


@contextmanager
def world(
    limits: TableLimits = TIGHT,
    *,
    general: bool = False,
    trusted: bool = False,
    pool: TablePool = LASTING,
    health_path: bytes = b"",
    access_log: str = "json",
) -> Iterator[World]:
    """A worker on shared memory of its own.

    `general`: no request takes the fast path. `trusted`: a client's forwarding fields count.
    """
    directory = Path(tempfile.mkdtemp(prefix="turnout-fuzz-"))
    ours, theirs = socket.socketpair()
    quiet, other = socket.socketpair()
    quiet.setblocking(False)
    quiet.shutdown(socket.SHUT_WR)  # a direct write fails, so that all goes by the transport
    loop = Loop()
    try:
        for name, size in ((ROUTING_FILE, ROUTING_BYTES), (HEALTH_FILE, HEALTH_BYTES)):
            SharedWords(directory / name, size, create=True).close()
        Scoreboard.create(directory, Geometry(1, 4, 64), 1).memory.close()
        blue, green = (
            TableUpstream(name, (TableServer(f"127.0.0.1:{port}", f"127.0.0.1:{port}", slot),))
            for name, port, slot in (("blue", 9001, 1), ("green", 9002, 2))
        )
        try_out = "X-Fuzz-Try-Out" if general else ""
        services = (
            TableService(
                "shop", 1, (), "/", (blue, green), try_out_header=try_out, try_out_token="none"
            ),
        )
        table = RoutingTable(
            1, services, limits=limits, pool=pool, access_log=access_log,
            trust_forwarded=("127.0.0.1/32",) if trusted else (),
        )  # fmt: skip
        (directory / table_file(1)).write_bytes(encode(table))
        routing = SharedWords(directory / ROUTING_FILE, ROUTING_BYTES, create=False)
        routing.words[TABLE_IN_FORCE] = 1
        routing.close()
        arguments = argparse.Namespace(
            runtime_dir=str(directory), worker=0, region=0, link=ours.detach(), generation="-"
        )
        with loop.running():
            worker = Worker(arguments, loop.as_loop)
            worker.adopt_table()
        worker.connections_looked_at = 1 << 30  # descriptors: nobody here has any
        worker.date, worker.date_line = DATE, b"Date: " + DATE + b"\r\n"
        found = World(loop, worker, quiet, health_path)
        loop.connect = found.connect
        yield found
    finally:
        theirs.close()
        quiet.close()
        other.close()
        shutil.rmtree(directory, ignore_errors=True)
