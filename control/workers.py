"""The workers' channel: what control asks of all workers, and what they tell it.

Workers connect to `workers.sock`, and come back after control's death. What a request needs
goes through shared memory; here go only a table to prepare, a cut at a deadline, a poke after
a flip, and, the other way, what real traffic showed of the servers and the access log.

Who has seen an epoch or loaded a table is read from the scoreboard, so that it is true also
after control was killed and started again; a message only hastens it. Whoever is asked and
dies in between has nothing left to do: its region is settled by the supervisor.

`Workers` is what the executor knows as `ports.Workers`.
"""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Final, TypeAlias, cast

from turnout.config.table import RoutingTable
from turnout.config.table import encode as encode_table
from turnout.control.evidence import Snapshot
from turnout.control.ports import CutResult
from turnout.control.shared import SharedState
from turnout.control.supervision import Supervision
from turnout.proxy.commands import (
    WORKERS_SOCKET,
    CloseIdle,
    Cut,
    Done,
    Entered,
    FrameReader,
    Hello,
    Kind,
    Message,
    Passive,
    Poke,
    Prepare,
    Prepared,
    ProtocolError,
    RetireServers,
    decode,
    encode,
    frame,
    table_file,
)
from turnout.proxy.scoreboard import RoutingWord

Entries: TypeAlias = list[dict[str, Any]]
"""Of a receipt's `cut` list."""

POLL_FIRST_S: Final = 0.001
POLL_MAX_S: Final = 0.02
MARGIN_S: Final = 2.0
"""Beyond a deadline that the workers keep themselves, before one is held to be stuck."""


@dataclass(frozen=True, slots=True)
class Listeners:
    """Who is told what workers say. Called in the loop; must not block."""

    passive: Callable[[Passive], None]
    entered: Callable[[Entered], None]
    access_log: Callable[[bytes], None]
    collect: Callable[[], Awaitable[None]]
    """Takes in the names of what dead workers held."""
    word_set: Callable[[], None]
    """A routing word has changed."""
    told: Callable[[str], None]
    """What is odd about a worker's messages, for the event log."""


class Workers:
    """All workers that are connected, and what is asked of them."""

    __slots__ = (
        "_connected", "_listeners", "_preparing", "_refused", "_requests", "_server",
        "_supervision", "_waiting", "shared",
    )  # fmt: skip

    def __init__(self, shared: SharedState, supervision: Supervision, listeners: Listeners) -> None:
        self.shared = shared
        self._supervision = supervision
        self._listeners = listeners
        self._connected: dict[int, _Connection] = {}
        """By region."""
        self._requests = count(1)
        self._waiting: dict[tuple[int, int], asyncio.Future[Entries]] = {}
        """(region, request) -> what it cut."""
        self._preparing: set[int] = set()
        self._refused: dict[tuple[int, int], str] = {}
        """(region, table number) -> why it could not be loaded."""
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen. A socket file of a control process that was killed is replaced."""
        path = self.shared.runtime_dir / WORKERS_SOCKET
        path.unlink(missing_ok=True)
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(lambda: _Connection(self), path=str(path))

    def close(self) -> None:
        """Listen no more and let go of all workers; they serve on."""
        if self._server is not None:
            self._server.close()
        for connection in list(self._connected.values()):
            connection.close()
        (self.shared.runtime_dir / WORKERS_SOCKET).unlink(missing_ok=True)

    @property
    def connected(self) -> list[int]:
        """Regions of the workers that are connected."""
        return sorted(self._connected)

    # ------------------------------------------------------------ tables

    @property
    def prepared(self) -> bool:
        """Whether every worker has loaded the table in force, by what they say of themselves."""
        return not self.shared.without_table(self.shared.table_in_force)

    async def prepare(self, timeout_s: float) -> str:
        """Have every worker load the table in force; empty, or why one could not."""
        return await self._prepare(self.shared.table_in_force, timeout_s)

    async def prepare_table(self, table: RoutingTable, timeout_s: float) -> str:
        """Have every worker load a new table; empty, or why one does not hold it.

        Nothing is in force yet: that is `set_table_in_force`. A worker that starts later
        finds the file. Raises OSError when it cannot be written.
        """
        write_table(self.shared.runtime_dir, table)
        return await self._prepare(table.number, timeout_s)

    async def _prepare(self, number: int, timeout_s: float) -> str:
        def missing() -> list[int]:
            return self.shared.without_table(number)

        self._preparing.add(number)
        try:
            self._send_to_all(Prepare(number))
            await self._until(
                lambda: all((region, number) in self._refused for region in missing()), timeout_s
            )
            return "; ".join(
                self._refused.get((region, number))
                or f"worker {self.shared.worker_of(region)} did not load table {number} "
                f"within {timeout_s:g} s"
                for region in missing()
            )
        finally:
            self._preparing.discard(number)
            for key in [key for key in self._refused if key[1] == number]:
                del self._refused[key]

    async def set_table_in_force(self, number: int, timeout_s: float = MARGIN_S) -> bool:
        """Serve from this table from now on; whether every worker does when it returns."""
        self.shared.set_table_in_force(number)
        self.poke()
        return await self._until(lambda: not self.shared.serving_older(number), timeout_s)

    def delete_old_tables(self) -> None:
        """Remove the files of tables that no word, no worker and no preparation names."""
        used = self.shared.tables_in_use() | self._preparing
        newest = max(used)
        for path in self.shared.runtime_dir.glob("table-*.json"):
            number = path.stem.removeprefix("table-")
            # One that is newer is somebody's who has just written it.
            if number.isdigit() and int(number) < newest and int(number) not in used:
                path.unlink(missing_ok=True)

    # ------------------------------------------------------------ words

    def word(self, slot: int) -> RoutingWord:
        """The routing word that is in force for the service in `slot`."""
        return self.shared.word(slot)

    def set_word(self, slot: int, hold: bool, second_weight: int, epoch: int) -> None:
        """The flip: at this store every worker begins to choose by the new word."""
        self.shared.set_word(slot, RoutingWord(hold, second_weight, epoch))
        self.poke()
        self._listeners.word_set()

    def poke(self) -> None:
        """Let all workers look at the words now; they would by themselves within a tick."""
        self._send_to_all(Poke())

    async def acknowledged(self, epoch: int, timeout_s: float) -> Sequence[int]:
        """Wait until no worker can act on a word older than `epoch` any more.

        Returns the regions of those that are still behind after `timeout_s`.
        """
        self.poke()
        await self._until(lambda: not self.shared.behind(epoch), timeout_s)
        return self.shared.behind(epoch)

    # ------------------------------------------------------------ counters

    @property
    def run(self) -> str:
        """Another one when everything was stopped in between."""
        return f"{self.shared.boards.run:016x}"

    @property
    def identity(self) -> str:
        """The scoreboard's; another one when counters began anew."""
        return f"{self.shared.boards.identity:016x}"

    def in_flight(self, slot: int, upstream: int) -> Mapping[int, int]:
        """Region -> exchanges of the upstream under way; live regions with some only."""
        return self.shared.in_flight(slot, upstream)

    def in_flight_by_class(self, slot: int, upstream: int) -> Mapping[str, int]:
        """Exchanges of the upstream under way, by class name."""
        return self.shared.in_flight_by_class(slot, upstream)

    def snapshot(self, slot: int) -> Snapshot:
        """The service's counters now."""
        block = tuple(self.shared.boards.service_counters(slot))
        return Snapshot(self.identity, time.time(), block, self.shared.refused())

    # ------------------------------------------------------------ drain

    async def cut(
        self,
        slot: int,
        upstream: int,
        classes: Collection[int],
        reason: str,
        epoch: int,
        timeout_s: float,
    ) -> CutResult:
        """End what an upstream has in flight of these classes, picked before `epoch`.

        What a worker that does not answer holds is not among the entries: it is to be
        replaced, and the supervisor names it.
        """
        wanted = list(classes)
        return await self._ask_all(
            lambda request: Cut(request, slot, upstream, wanted, reason, epoch), timeout_s
        )

    async def close_idle(self, slot: int, upstream: int, timeout_s: float) -> Sequence[int]:
        """Close idle connections to the upstream; the regions that did not answer in time."""
        answers = await self._ask_all(lambda request: CloseIdle(request, slot, upstream), timeout_s)
        # After this nothing of the upstream is left, and a receipt may be written.
        await self._listeners.collect()
        return answers.silent

    async def retire_servers(
        self, slot: int, upstream: int, endpoints: Sequence[str], deadline_s: float
    ) -> CutResult:
        """Let servers that are gone from the table finish; cut what is left at the deadline."""
        return await self._ask_all(
            lambda request: RetireServers(request, slot, upstream, list(endpoints), deadline_s),
            deadline_s + MARGIN_S,
        )

    async def replace(self, region: int, reason: str) -> None:
        """Have the supervisor kill this worker and start another; it is settled on return."""
        error = await self._supervision.replace(region, reason)
        if error and region in self.shared.live_regions():
            self._listeners.told(f"the worker of region {region} was not replaced: {error}")
        await self._listeners.collect()

    async def _ask_all(self, message: Callable[[int], Message], timeout_s: float) -> CutResult:
        regions = self.shared.live_regions()
        answers = await asyncio.gather(
            *(self._ask(region, message, timeout_s) for region in regions)
        )
        return CutResult(
            entries=tuple(entry for answer in answers for entry in answer or ()),
            silent=tuple(
                region
                for region, answer in zip(regions, answers, strict=True)
                if answer is None and region in self.shared.live_regions()
            ),
        )

    async def _ask(
        self, region: int, message: Callable[[int], Message], timeout_s: float
    ) -> Entries | None:
        """Ask one worker until it has answered once: each request is idempotent.

        None: it did not answer, or is no more.
        """
        deadline_s = _now_s() + timeout_s
        while (left_s := deadline_s - _now_s()) > 0 and region in self.shared.live_regions():
            connection = self._connected.get(region)
            if connection is None:
                await asyncio.sleep(min(POLL_MAX_S, left_s))
                continue
            request = next(self._requests)
            waiting: asyncio.Future[Entries] = asyncio.get_running_loop().create_future()
            self._waiting[region, request] = waiting
            connection.send(message(request))
            try:
                return await asyncio.wait_for(waiting, left_s)
            except TimeoutError:
                return None
            except ConnectionResetError:
                continue  # it died, or comes back at once
            finally:
                self._waiting.pop((region, request), None)
        return None

    async def _until(self, done: Callable[[], bool], timeout_s: float) -> bool:
        """Look at shared memory until `done`, at first often: most are done within a tick."""
        deadline_s = _now_s() + timeout_s
        pause_s = POLL_FIRST_S
        while not done():
            if _now_s() >= deadline_s:
                return False
            await asyncio.sleep(pause_s)
            pause_s = min(1.5 * pause_s, POLL_MAX_S)
        return True

    # ------------------------------------------------------------ connections

    def _send_to_all(self, message: Message) -> None:
        for connection in self._connected.values():
            connection.send(message)

    def hello(self, connection: "_Connection", hello: Hello) -> None:
        """A worker has come, or come back: tell it what it may have missed."""
        before = self._connected.get(hello.region)
        if before is not None and before is not connection:
            before.close()
            self.gone(hello.region, before)
        self._connected[hello.region] = connection
        for number in sorted(self._preparing):
            connection.send(Prepare(number))

    def gone(self, region: int, connection: "_Connection") -> None:
        """A worker's connection has ended: nobody will answer on it any more."""
        if self._connected.get(region) is connection:
            del self._connected[region]
            for (waiting_region, _), waiting in self._waiting.items():
                if waiting_region == region and not waiting.done():
                    waiting.set_exception(ConnectionResetError())

    def received(self, region: int, message: Message) -> None:
        if isinstance(message, Passive):
            self._listeners.passive(message)
        elif isinstance(message, Entered):
            self._listeners.entered(message)
        elif isinstance(message, Done):
            waiting = self._waiting.get((region, message.request))
            if waiting is not None and not waiting.done():
                waiting.set_result(message.cut)
        elif isinstance(message, Prepared) and message.error:
            self._refused[region, message.number] = message.error

    def log_lines(self, lines: bytes) -> None:
        self._listeners.access_log(lines)

    def told(self, what: str) -> None:
        self._listeners.told(what)


class _Connection(asyncio.Protocol):
    """One worker's connection."""

    def __init__(self, workers: Workers) -> None:
        self._workers = workers
        self._reader = FrameReader()
        self._transport: asyncio.Transport | None = None
        self._region: int | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        try:
            for kind, payload in self._reader.feed(data):
                if kind == Kind.ACCESS_LOG:
                    self._workers.log_lines(payload)
                elif kind == Kind.MESSAGE:
                    self._received(decode(payload))
        except ProtocolError as error:
            self._workers.told(f"a worker's message was refused: {error}")
            self.close()

    def _received(self, message: Message) -> None:
        if isinstance(message, Hello):
            self._region = message.region
            self._workers.hello(self, message)
        elif self._region is not None:
            self._workers.received(self._region, message)

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        if self._region is not None:
            self._workers.gone(self._region, self)

    def send(self, message: Message) -> None:
        if self._transport is not None:
            self._transport.write(frame(encode(message)))

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


def write_table(runtime_dir: Path, table: RoutingTable) -> None:
    """Put a table's file in place, as a whole. Raises OSError."""
    path = runtime_dir / table_file(table.number)
    unfinished = path.with_name(f".{path.name}.new")
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with open(descriptor, "wb") as file:
        file.write(encode_table(table))
    os.rename(unfinished, path)


def _now_s() -> float:
    return asyncio.get_running_loop().time()
