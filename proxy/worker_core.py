"""One worker: its loop, its listeners, the table in force, its end. I/O shell.

What all of its connections share. `worker.py` is the process that it runs in, apart from this
because a compiled module cannot be started by name.
"""

import argparse
import asyncio
import ipaddress
import json
import math
import os
import random
import secrets
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from email.utils import formatdate
from functools import partial
from pathlib import Path
from time import monotonic, time
from typing import Any, Final, cast

from turnout.config.table import RoutingTable, TableError, decode
from turnout.proxy import deadlines, descriptors, drain, fast_path, slow
from turnout.proxy.accesslog import BATCH_BYTES, AccessLog
from turnout.proxy.admission import Admission
from turnout.proxy.adoption import Adoption
from turnout.proxy.arrivals import Arrivals, Counted
from turnout.proxy.channel import Channel
from turnout.proxy.commands import (
    CloseIdle,
    Cut,
    Done,
    Entered,
    FrameReader,
    Hello,
    Message,
    Poke,
    Prepare,
    Prepared,
    RetireServers,
    Sockets,
    table_file,
)
from turnout.proxy.commands import decode as decode_message
from turnout.proxy.downstream import Downstream
from turnout.proxy.exchange import Exchange
from turnout.proxy.head import Hop
from turnout.proxy.listener import Listener, to_serve
from turnout.proxy.long_body import READ_BYTES, ShortReads
from turnout.proxy.pool import ServerPool
from turnout.proxy.scoreboard import (
    C_ACCEPT_PAUSES,
    C_LOG_LINES_DROPPED,
    C_PEER_FAULTS,
    C_UNEXPECTED_ERRORS,
    HEALTH_BYTES,
    HEALTH_FILE,
    HOLD_BIT,
    NEWEST_EPOCH,
    PEER_FAULTS,
    R_ACCEPT_PAUSED,
    R_EPOCH_SEEN,
    R_HEARTBEAT_US,
    R_PID,
    R_STARTED_US,
    R_STARTS,
    R_STATE,
    R_TABLE_IN_FORCE,
    R_TABLE_LOADED,
    R_UPSTREAM_CONNECTIONS,
    R_WORKER,
    ROUTING_BYTES,
    ROUTING_FILE,
    TABLE_IN_FORCE,
    Scoreboard,
    SharedMemoryError,
    SharedWords,
    WorkerState,
)
from turnout.proxy.serving import Serving
from turnout.proxy.slow import Progress
from turnout.proxy.splice import Pipes
from turnout.proxy.upstream import UpstreamConnection

TICK_S: Final = 0.05
SWEEP_TICKS: Final = round(deadlines.SWEEP_S / TICK_S)
SECOND_TICKS: Final = round(1.0 / TICK_S)
HUNG_US: Final = 500_000
"""A sibling whose loop has not turned for this long gets help with its new connections."""
HOPS_REMEMBERED: Final = 1024
"""Clients by address; bounded, and only what is made again if it is forgotten."""
SAID_AGAIN_S: Final = 60.0
CUT_NAMED_MAX: Final = 50
"""In one line, as in an event of control."""
DESCRIPTORS_MAX: Final = 253
"""That one message may carry (SCM_MAX_FD)."""


class Worker:
    """What all connections of one worker share."""

    def __init__(self, arguments: argparse.Namespace, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.runtime_dir = Path(arguments.runtime_dir)
        self.number: int = arguments.worker
        self.region: int = arguments.region
        self.scoreboard = Scoreboard.open(self.runtime_dir)
        self.words = self.scoreboard.words
        self.octets = self.scoreboard.memory.octets
        self.routing_memory = SharedWords(
            self.runtime_dir / ROUTING_FILE, ROUTING_BYTES, create=False
        )
        self.routing = self.routing_memory.words
        self.health_memory = SharedWords(self.runtime_dir / HEALTH_FILE, HEALTH_BYTES, create=False)
        self.health = self.health_memory.words
        if self.region not in self.scoreboard.numbers:
            raise SharedMemoryError(f"the scoreboard has no region {self.region} any more")
        self.region_base = self.scoreboard.region(self.region)
        self.free_inflight = [
            self.scoreboard.inflight_slot(self.region, index)
            for index in range(self.scoreboard.geometry.inflight - 1, -1, -1)
        ]
        """First words of the in-flight slots that nobody uses."""
        self.admission = Admission(self.scoreboard, self.region, self.trusts)
        self.arrivals = Arrivals()
        self.turned_away = 0
        """Connections that were refused and have not gone yet."""
        self.accept_paused = False
        self.connections_looked_at = 0
        """With so many, there may be too few descriptors for one more."""
        self._descriptors = descriptors.ROOM_MIN
        """For clients and servers."""
        self._other_descriptors = 0
        self._said_paused_s = -SAID_AGAIN_S
        self._servers_word = self.region_base + R_UPSTREAM_CONNECTIONS
        self.connections: set[Downstream] = set()
        self._progress: dict[Downstream, Progress] = {}
        """Of clients that were waited for at the last look."""
        self._rates_at_s = 0.0
        self.stalled: set[Downstream] = set()
        """Clients that do not take what is written to them."""
        self.pipes = Pipes()
        self.short_reads = partial(ShortReads, memoryview(bytearray(READ_BYTES)))
        self.listeners: list[Listener] = []
        self.now_s = monotonic()
        self.draining = False
        self.leave_at_s = 0.0
        self.finished = asyncio.Event()
        self.random = partial(random.getrandbits, 32)
        self.id_prefix = secrets.token_hex(8).encode() + b"-"
        self.ids_given = 0
        self.asked: list[UpstreamConnection] = []
        self.answers: list[Exchange] = []
        """Put aside by the fast path, until `flush`."""
        self._ticks = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._prepared: dict[int, RoutingTable] = {}
        self._missing = -1
        self._trusted: tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...] = ()
        self._trusts_unix = False
        self.hops: dict[str, Hop] = {}
        self.date = self.date_line = b""
        self.via = b"turnout"
        self.access_log: AccessLog | None = None
        self._use(RoutingTable(number=0, services=()))
        self.serving = Serving(self, self.scoreboard, self.region)
        self._hello = Hello(self.number, self.region, os.getpid(), arguments.generation)
        self.channel = Channel(self.runtime_dir, self._hello, self.receive)
        self._adoption: Adoption | None = None
        self._link: socket.socket | None = socket.socket(fileno=arguments.link)
        """To the supervisor; None once that is gone."""
        self._link.setblocking(False)
        self._link_reader = FrameReader()
        self._link_descriptors: list[int] = []
        self._arriving: list[tuple[dict[str, Any], int]] = []
        self._records: list[dict[str, Any]] = []
        """What the supervisor said of each listener."""

    # ------------------------------------------------------------ life

    def start(self) -> None:
        """Take the region over, load the table and begin to turn."""
        words, base = self.words, self.region_base
        words[base + R_PID] = os.getpid()
        words[base + R_WORKER] = self.number
        self.scoreboard.forget_connections(self.region)
        words[base + R_EPOCH_SEEN] = self.routing[NEWEST_EPOCH]
        words[base + R_STARTED_US] = words[base + R_HEARTBEAT_US] = int(self.now_s * 1e6)
        words[base + R_STARTS] += 1
        words[base + R_STATE] = WorkerState.STARTING
        self.adopt_table()
        if not self.table.number:
            raise TableError(f"no table {self.routing[TABLE_IN_FORCE]} in {self.runtime_dir}")
        self._new_second()
        self.loop.add_signal_handler(signal.SIGTERM, self.drain)
        self.loop.add_signal_handler(signal.SIGINT, lambda: None)
        self.loop.add_signal_handler(signal.SIGHUP, lambda: None)
        self._follow(self._link)
        self._adoption = Adoption(
            self.loop, self.runtime_dir, self._hello, self._listening, self._adopted
        )
        self._keep(self.channel.run())
        self._tick()

    def _keep(self, coroutine: Any) -> None:
        task = self.loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._task_done)

    def _task_done(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.unexpected(error)

    def unexpected(self, error: BaseException) -> None:
        """A mistake of ours: counted and said; the worker serves on."""
        self.words[self.region_base + C_UNEXPECTED_ERRORS] += 1
        text = "".join(traceback.format_exception(error))
        print(f"worker.unexpected_error worker={self.number}\n{text}", file=sys.stderr, flush=True)

    # ------------------------------------------------------------ sockets

    def _follow(self, link: socket.socket | None) -> None:
        """Take listening sockets from this supervisor from now on."""
        assert link is not None, "it was given at the start"
        self._link = link
        self._link_reader = FrameReader()
        for descriptor in self._link_descriptors:
            os.close(descriptor)
        self._link_descriptors = []
        self._arriving = []
        self.loop.add_reader(link.fileno(), self._link_ready)

    def _listening(self) -> list[tuple[dict[str, Any], int]]:
        """The listening sockets, as they are handed to a new supervisor."""
        return [
            (record, listener.socket.fileno())
            for record, listener in zip(self._records, self.listeners, strict=True)
        ]

    def _adopted(self, connection: socket.socket) -> None:
        """A supervisor has taken the sockets: it is ours, if the one before is gone."""
        if self._link is not None:
            self._link_ready()
        if self._link is None and not self.draining:
            self._follow(connection)
        else:
            connection.close()

    def _link_ready(self) -> None:
        """Listening sockets from the supervisor, or its end: then we serve on without it."""
        link = self._link
        if link is None:
            return
        try:
            data, descriptors, _, _ = socket.recv_fds(link, 65536, DESCRIPTORS_MAX)
        except BlockingIOError:
            return
        except OSError:
            data, descriptors = b"", []
        if not data:
            self.loop.remove_reader(link.fileno())
            link.close()
            self._link = None
            return
        self._link_descriptors += descriptors
        for _, payload in self._link_reader.feed(data):
            message = decode_message(payload)
            if isinstance(message, Sockets):
                count = len(message.sockets)
                self._arriving += zip(message.sockets, self._link_descriptors[:count], strict=True)
                del self._link_descriptors[:count]
                if not message.more:
                    arrived, self._arriving = self._arriving, []
                    self._keep(self._take_sockets(arrived))

    async def _take_sockets(self, arrived: list[tuple[dict[str, Any], int]]) -> None:
        """Serve this set of sockets from now on: new ones first, then without the old."""
        old = {os.fstat(one.socket.fileno()).st_ino: one for one in self.listeners}
        kept: list[Listener] = []
        for entry, descriptor in arrived:
            known = old.get(os.fstat(descriptor).st_ino)
            # One whose bind is spelled otherwise now is another listener on the same socket.
            if known is not None and known.bind == entry["bind"]:
                del old[os.fstat(descriptor).st_ino]
                os.close(descriptor)
                known.owner = entry["owner"]
                kept.append(known)
                continue
            listening = socket.socket(fileno=descriptor)
            listening.setblocking(False)
            bind: str = entry["bind"]
            factory = cast(Callable[[], asyncio.Protocol], partial(self._new_connection, bind))
            kept.append(Listener(listening, bind, entry["owner"], factory))
        self.listeners = kept
        self._records = [entry for entry, _ in arrived]
        for gone in old.values():
            gone.close()
        self._measure_descriptors()
        await self._serve_sockets()
        if not self.draining:
            self.words[self.region_base + R_STATE] = WorkerState.SERVING

    def _new_connection(self, bind: str) -> Downstream | Counted:
        paths = self.table.health_paths
        path = paths.get(bind, "").encode() if paths else b""
        down = Downstream(self, self.admission.door(bind), path)
        return Counted(down, bind) if bind in self.arrivals.binds else down

    async def _serve_sockets(self) -> None:
        """Accept from what is ours, everybody's, or nobody's."""
        live = self._live_siblings()
        for listener in self.listeners:
            wanted = self._accepts and to_serve(listener.owner, self.number, live)
            if wanted and not listener.accepting:
                await listener.start(self.loop)
            elif not wanted and listener.accepting:
                listener.stop()

    def _live_siblings(self) -> frozenset[int]:
        """Numbers of the workers that accept from their own sockets now."""
        words = self.words
        now_us = int(self.now_s * 1e6)
        live = set()
        for region in self.scoreboard.numbers:
            base = self.scoreboard.region(region)
            if (
                words[base + R_STATE] == WorkerState.SERVING
                and not words[base + R_ACCEPT_PAUSED]
                and now_us - words[base + R_HEARTBEAT_US] < HUNG_US
            ):
                live.add(words[base + R_WORKER])
        return frozenset(live)

    def live_workers(self) -> int:
        return max(1, len(self._live_siblings()))

    # ------------------------------------------------------------ descriptors

    @property
    def _accepts(self) -> bool:
        return not self.draining and not self.accept_paused

    def _measure_descriptors(self) -> None:
        """How many are there for clients and servers? The limit may have changed, and so may
        what else is open."""
        connected = len(self.connections) + self.words[self._servers_word]
        if (found := descriptors.open_now(connected)) is not None:
            self._other_descriptors = max(found - connected, 0)
        self._descriptors = descriptors.room(self._other_descriptors)
        self._look_when()

    def _look_when(self) -> None:
        servers = self.words[self._servers_word]
        room = self._descriptors
        self.connections_looked_at = min(room // 2, max(room - servers, 0)) - 2

    def look_at_descriptors(self) -> None:
        """Accept nothing for a while if there are too few descriptors for one more client."""
        if self.accept_paused or not self._is_full(self._descriptors):
            return
        self._pause_accepting()

    def _pause_accepting(self) -> None:
        self.accept_paused = True
        words, base = self.words, self.region_base
        words[base + R_ACCEPT_PAUSED] = 1
        words[base + C_ACCEPT_PAUSES] += 1
        if self.now_s >= self._said_paused_s + SAID_AGAIN_S:
            self._said_paused_s = self.now_s
            print(
                f"worker.accept_paused worker={self.number} clients={len(self.connections)} "
                f"servers={words[self._servers_word]} descriptors={self._descriptors} "
                'next="raise LimitNOFILE, or lower limits.connections"',
                file=sys.stderr,
                flush=True,
            )
        # Not amid the accepting of one.
        self.loop.call_soon(self._stop_accepting)

    def _is_full(self, room: int) -> bool:
        return descriptors.full(len(self.connections), self.words[self._servers_word], room)

    def _stop_accepting(self) -> None:
        for listener in self.listeners:
            listener.stop()
        if self.words[self._servers_word] > len(self.connections):
            for pool in self.serving.pools():
                pool.close_idle()

    def _look_whether_room(self) -> None:
        """Accept again once some descriptors more than the fewest are free."""
        room = self._descriptors - self._descriptors // 16
        if not self._is_full(room) and descriptors.any_left():
            self.accept_paused = False
            self.words[self.region_base + R_ACCEPT_PAUSED] = 0

    def count_fault(self, name: str) -> None:
        """Count what a slow, greedy or vanished peer met."""
        self.words[self.region_base + C_PEER_FAULTS + PEER_FAULTS.index(name)] += 1

    # ------------------------------------------------------------ the table

    def _load(self, number: int) -> RoutingTable:
        """Read a table's file. Raises OSError or TableError."""
        table = decode((self.runtime_dir / table_file(number)).read_bytes())
        # After an upgrade that made a larger scoreboard, we still count in ours.
        highest = max((service.slot for service in table.services), default=0)
        if highest > self.scoreboard.geometry.services:
            raise TableError(f"table {number} has service {highest}; there is no room to count it")
        return table

    def adopt_table(self) -> None:
        """Serve from the table in force. If it cannot be read the old one serves on, loudly."""
        number = self.routing[TABLE_IN_FORCE]
        if number == self.table.number or number == self._missing:
            return
        table = self._prepared.pop(number, None)
        if table is None:
            try:
                table = self._load(number)
            except (OSError, TableError) as error:
                self._missing = number
                self.unexpected(error)
                return
        self._missing = -1
        self._prepared = {key: value for key, value in self._prepared.items() if key > number}
        self._use(table)
        self.via = table.via.encode()
        self.via_line = b"Via: 1.1 %b\r\nX-Request-Id: " % self.via
        self.via_close_line = b"Connection: close\r\n" + self.via_line
        self._trusts_unix = "unix" in table.trust_forwarded
        self._trusted = tuple(
            ipaddress.ip_network(network) for network in table.trust_forwarded if network != "unix"
        )
        self.hops.clear()
        limits = table.limits
        self.admission.use(
            limits.connections, limits.connections_per_client, table.listener_connections or {}
        )
        self._use_log(table)
        self.serving.adopt(table, self.scoreboard, self.region, self.number)
        self._count_by_listener(table)
        words, base = self.words, self.region_base
        words[base + R_TABLE_LOADED] = max(words[base + R_TABLE_LOADED], number)
        words[base + R_TABLE_IN_FORCE] = number

    def _count_by_listener(self, table: RoutingTable) -> None:
        """Count what comes in by the listeners that the table names, over the connections that
        are open already, too."""
        binds = frozenset(
            bind for service in table.services for entry in service.entries for bind in entry
        )
        before, self.arrivals.binds = self.arrivals.binds, binds
        if binds == before:
            return
        for connection in self.connections:
            door = connection.door
            if door is None or (door.bind in binds) == (door.bind in before):
                continue
            counted = Counted(connection, door.bind) if door.bind in binds else connection
            connection.transport.set_protocol(cast(asyncio.BaseProtocol, counted))

    def _use(self, table: RoutingTable) -> None:
        """Take out of the table what each request asks for. No limit is infinity here."""
        self.table = table
        self.table_number = table.number
        self.header_bytes = table.limits.header_bytes or math.inf
        self.response_header_bytes = table.limits.response_header_bytes or math.inf
        self.fields_max = table.limits.headers
        self.body_bytes_max = table.limits.body_bytes or math.inf
        self.replay_bytes = table.limits.replay_bytes
        self.first_byte_s = table.timeouts.first_byte_s or math.inf
        self.keep_alive_s = table.timeouts.keep_alive_s or math.inf

    def remember_hop(self, host: str, hop: Hop) -> None:
        """Keep what is said of a peer for its next connection, until there is another table."""
        if len(self.hops) >= HOPS_REMEMBERED:
            self.hops.clear()
        self.hops[host] = hop

    def trusts(self, host: str) -> bool:
        """May a peer at this address say where a request came from?"""
        if not host:
            return self._trusts_unix
        if not self._trusted:
            return False
        address = ipaddress.ip_address(host.partition("%")[0])
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        return any(address in network for network in self._trusted)

    def request_id(self) -> bytes:
        """Return an id that no other request has: random for the process, counted within."""
        self.ids_given += 1
        return b"%b%x" % (self.id_prefix, self.ids_given)

    # ------------------------------------------------------------ messages

    def receive(self, message: Message) -> None:
        """Carry out what control asks. Each is idempotent."""
        self.flush()
        if isinstance(message, Poke):
            self._look()
        elif isinstance(message, Prepare):
            self._prepare(message.number)
        elif isinstance(message, Cut):
            found = drain.to_cut(
                self.connections, message.slot, message.upstream, message.classes, message.epoch
            )
            self._cut(message.request, found, message.reason)
        elif isinstance(message, CloseIdle):
            for pool in self.serving.find_pools(message.slot, message.upstream):
                pool.close_idle()
            self.channel.send(Done(message.request))
        elif isinstance(message, RetireServers):
            self._keep(self._retire(message))

    def _prepare(self, number: int) -> None:
        error = ""
        if number != self.table.number and number not in self._prepared:
            try:
                self._prepared[number] = self._load(number)
            except (OSError, TableError) as fault:
                error = f"worker {self.number}: {fault}"
        if not error:
            base = self.region_base
            self.words[base + R_TABLE_LOADED] = max(self.words[base + R_TABLE_LOADED], number)
        self.channel.send(Prepared(number, error))

    def _cut(self, request: int, exchanges: list[Exchange], reason: str) -> None:
        """Cut and say what was cut; one that fails must not spare the others."""
        entries: list[dict[str, object]] = []
        for exchange in exchanges:
            try:
                entries.append(exchange.cut(reason))
            except Exception as error:  # noqa: BLE001 - counted and said
                self.unexpected(error)
        self.channel.send(Done(request, entries))

    async def _retire(self, message: RetireServers) -> None:
        """Answer once nothing is in flight to servers that have gone."""
        self.adopt_table()  # which have gone is what it says
        gone = set(message.endpoints)
        deadline_s = monotonic() + message.deadline_s

        def left(pool: ServerPool) -> bool:
            # One that has come back meanwhile has traffic of its own again.
            return pool.endpoint in gone and pool.retired

        def busy() -> bool:
            pools = self.serving.find_pools(message.slot, message.upstream)
            return any(left(pool) and pool.in_flight for pool in pools)

        while busy() and monotonic() < deadline_s:
            await asyncio.sleep(TICK_S)
        self.flush()  # what has been answered is not to be cut
        found = [
            exchange
            for exchange in drain.under_way(self.connections)
            if exchange.pool is not None
            and left(exchange.pool)
            and exchange.service is not None
            and exchange.service.slot == message.slot
            and exchange.upstream is not None
            and exchange.upstream.position == message.upstream
        ]
        for pool in self.serving.find_pools(message.slot, message.upstream):
            if left(pool):
                pool.close_idle()
        self._cut(message.request, found, "drain_deadline")

    # ------------------------------------------------------------ turning

    def flush(self) -> None:
        """Write what the fast path has put aside, before anything else happens to it."""
        while self.asked or self.answers:
            try:
                fast_path.flush(self)
            except Exception as error:  # noqa: BLE001 - counted and said; what is left is written
                self.unexpected(error)

    def _look(self) -> None:
        """Acknowledge the newest epoch, in a callback of its own: whatever read an older word
        has been counted by now. Let held requests go whose service is no longer held."""
        words, base = self.words, self.region_base
        words[base + R_EPOCH_SEEN] = self.routing[NEWEST_EPOCH]
        if self.routing[TABLE_IN_FORCE] != self.table.number:
            self.adopt_table()
        routing = self.routing
        for service in self.serving.services:
            if service.held and not routing[service.word_index] & HOLD_BIT:
                service.held.release_all()

    def _tick(self) -> None:
        self.loop.call_later(TICK_S, self._tick)
        self.now_s = monotonic()
        self.words[self.region_base + R_HEARTBEAT_US] = int(self.now_s * 1e6)
        self._ticks += 1
        ticks = self._ticks
        try:
            self.flush()
            self._look()
            self._look_when()
            if self.accept_paused:
                self._look_whether_room()
            elif not descriptors.any_left():
                self._pause_accepting()  # the system has none, or somebody lowered the limit
            if self.listeners:
                self._look_at_siblings()
            if self.now_s >= self._rates_at_s:
                self._look_at_rates()
            if ticks % SWEEP_TICKS == 0:
                self._sweep()
            if self.access_log is not None and (
                self.access_log.size >= BATCH_BYTES or ticks % 2 == 0
            ):
                self._send_log()
            if ticks % SECOND_TICKS == 0:
                self._new_second()
            if self.draining:
                self._leave()
        except Exception as error:  # noqa: BLE001 - counted and said; the loop must turn on
            self.unexpected(error)

    def _look_at_siblings(self) -> None:
        live = self._live_siblings()
        for listener in self.listeners:
            wanted = self._accepts and to_serve(listener.owner, self.number, live)
            if wanted != listener.accepting:
                self._keep(self._serve_sockets())
                return

    def _sweep(self) -> None:
        for connection in list(self.stalled):
            # uvloop may empty the buffer at once and then never call resume_writing.
            if not connection.gone and not connection.transport.get_write_buffer_size():
                connection.resume_writing()
        for late in deadlines.late(self.connections, self.now_s):
            late.deadline_passed()
        if self._ticks % SECOND_TICKS == 0:
            for resting in deadlines.at_rest(self.connections, self.now_s):
                resting.rest()

    def _look_at_rates(self) -> None:
        """End the clients that have moved too little since the last look."""
        timeouts, limits = self.table.timeouts, self.table.limits
        self._rates_at_s = self.now_s + timeouts.client_rate_s
        bytes_min = int(limits.client_rate_bytes * timeouts.client_rate_s)
        self._progress, slow_ones = slow.look(self.connections, self._progress, bytes_min)
        for connection, fault in slow_ones:
            connection.too_slow(fault)

    def _new_second(self) -> None:
        self.date = formatdate(time(), usegmt=True).encode()
        self.date_line = b"Date: " + self.date + b"\r\n"
        self._measure_descriptors()
        for pool in self.serving.pools():
            pool.reap(self.now_s)
            if self.channel.connected:
                passive = pool.report()
                if passive is not None:
                    self.channel.send(passive)
        self.serving.forget_gone()
        if self.channel.takes_logs:
            now = monotonic()
            for entry in self.arrivals.untold(now):
                since = entry.since
                self.channel.send(Entered(entry.slot, entry.upstream, entry.take(now), since))

    def _use_log(self, table: RoutingTable) -> None:
        if table.access_log != "off":
            if self.access_log is None:
                self.access_log = AccessLog()
            self.access_log.use(table.access_log, table.limits.log_bytes)
        elif self.access_log is not None:
            self.access_log.kept_bytes = 0  # what cannot be sent now never will be
            self._send_log()
            self.access_log = None

    def _send_log(self) -> None:
        log = self.access_log
        if log is None or not log.size:
            return
        if self.channel.takes_logs:
            lines, _ = log.take()
            self.channel.send_log(lines)
        else:
            dropped = log.drop_surplus()
            if dropped:
                self.words[self.region_base + C_LOG_LINES_DROPPED] += dropped

    # ------------------------------------------------------------ leaving

    def drain(self) -> None:
        """Accept nothing more, finish what is under way, and go."""
        if self.draining:
            return
        self.draining = True
        self.words[self.region_base + R_STATE] = WorkerState.DRAINING
        limit_s = self.table.timeouts.shutdown_s
        self.leave_at_s = monotonic() + limit_s if limit_s else math.inf
        for listener in self.listeners:
            listener.stop()
        if self._adoption is not None:
            self._adoption.close()
        self._leave()

    def _leave(self) -> None:
        """One look of a leaving worker: close quiet connections, cut at the deadline, go."""
        self.flush()
        if self.now_s >= self.leave_at_s:
            cut = [exchange.cut("shutdown") for exchange in list(drain.under_way(self.connections))]
            if cut:
                self._say_cut(cut)
            for connection in list(self.connections):
                connection.leave_now()
            self._go()
            return
        for connection in drain.to_close(self.connections, self.now_s):
            connection.close_idle()
        if not self.connections:
            self._go()

    def _say_cut(self, cut: list[dict[str, object]]) -> None:
        """Name what did not finish in time, as control does of a switchover's: control may be gone
        before this, or be another program's."""
        names = ", ".join(f"{entry['method']} {entry['path']}" for entry in cut[:CUT_NAMED_MAX])
        print(
            f"exchanges.cut worker={self.number} count={len(cut)} reason=shutdown "
            f"names={json.dumps(names)}",
            file=sys.stderr,
            flush=True,
        )

    def _go(self) -> None:
        self._send_log()
        self.finished.set()
