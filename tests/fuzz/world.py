"""One worker with everything it has, and no world around it.

What is replaced is what lies below the worker: loop, sockets, network (`wires.py`). So each run is
the same, byte for byte, and takes microseconds.
"""

import argparse
import asyncio
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, cast

from tests.fuzz.wires import Loop, Wire
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
from turnout.proxy.downstream import Downstream
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
