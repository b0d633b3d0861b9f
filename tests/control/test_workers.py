"""The workers' channel, with the real shared memory and workers that are told what to say."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.harness import until
from turnout.config.table import RoutingTable, decode
from turnout.control.shared import SharedState
from turnout.control.supervision import Supervision
from turnout.control.workers import Listeners, Workers
from turnout.proxy import commands
from turnout.proxy.commands import (
    SUPERVISOR_SOCKET,
    WORKERS_SOCKET,
    Answer,
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
    ReplaceWorker,
    table_file,
)
from turnout.proxy.scoreboard import (
    HEALTH_BYTES,
    HEALTH_FILE,
    R_EPOCH_SEEN,
    R_STATE,
    R_TABLE_IN_FORCE,
    R_TABLE_LOADED,
    R_WORKER,
    ROUTING_BYTES,
    ROUTING_FILE,
    U_ANSWERED,
    U_PICKED,
    Geometry,
    RoutingWord,
    Scoreboard,
    SharedWords,
    WorkerState,
    pack_inflight,
)

SHOP = 1


@dataclass
class Heard:
    """What control was told by its workers."""

    passive: list[Passive] = field(default_factory=list)
    entered: list[Entered] = field(default_factory=list)
    log: list[bytes] = field(default_factory=list)
    odd: list[str] = field(default_factory=list)
    words: int = 0
    collected: int = 0

    def listeners(self) -> Listeners:
        async def collect() -> None:
            self.collected += 1

        def word_set() -> None:
            self.words += 1

        return Listeners(
            passive=self.passive.append,
            entered=self.entered.append,
            access_log=self.log.append,
            collect=collect,
            word_set=word_set,
            told=self.odd.append,
        )


class FakeWorker:
    """Speaks the contract: a region in the scoreboard, and answers as `answer` says."""

    def __init__(self, shared: SharedState, region: int) -> None:
        self.shared = shared
        self.region = region
        self.received: list[Message] = []
        self.answer: Callable[[Message], Message | None] = lambda message: None
        self._base = shared.scoreboard.region(region)
        self.set(R_WORKER, region)
        self.set(R_STATE, WorkerState.SERVING)

    def set(self, name: int, value: int) -> None:
        self.shared.scoreboard.words[self._base + name] = value

    async def connect(self) -> "FakeWorker":
        path = str(self.shared.runtime_dir / WORKERS_SOCKET)
        reader, self.writer = await asyncio.open_unix_connection(path)
        self.send(Hello(self.region, self.region, 1, "g"))
        self.task = asyncio.create_task(self._read(reader))
        return self

    def send(self, message: Message) -> None:
        self.writer.write(commands.frame(commands.encode(message)))

    async def _read(self, reader: asyncio.StreamReader) -> None:
        frames = FrameReader()
        while data := await reader.read(65536):
            for _, payload in frames.feed(data):
                message = commands.decode(payload)
                self.received.append(message)
                answer = self.answer(message)
                if answer is not None:
                    self.send(answer)

    def kinds(self) -> list[type]:
        return [type(message) for message in self.received]


@pytest.fixture
def shared(tmp_path: Path) -> SharedState:
    for name, size in ((ROUTING_FILE, ROUTING_BYTES), (HEALTH_FILE, HEALTH_BYTES)):
        SharedWords(tmp_path / name, size, create=True).close()
    Scoreboard.create(tmp_path, Geometry(regions=4, services=4, inflight=8), 7)
    return SharedState(tmp_path)


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
async def workers(shared: SharedState, heard: Heard) -> AsyncIterator[Workers]:
    supervision = Supervision(shared.runtime_dir)
    workers = Workers(shared, supervision, heard.listeners())
    await workers.start()
    yield workers
    workers.close()
    await supervision.close()


async def two(workers: Workers) -> tuple[FakeWorker, FakeWorker]:
    first = await FakeWorker(workers.shared, 0).connect()
    second = await FakeWorker(workers.shared, 1).connect()
    await until(lambda: workers.connected == [0, 1], "both")
    return first, second


# ---------------------------------------------------------------- words


async def test_a_flip_is_in_shared_memory_before_anybody_is_told(
    workers: Workers, heard: Heard
) -> None:
    first, second = await two(workers)
    workers.set_word(SHOP, False, 10_000, 5)
    assert workers.word(SHOP) == RoutingWord(False, 10_000, 5)
    assert workers.shared.epoch == 5
    await until(lambda: Poke in first.kinds() and Poke in second.kinds(), "the pokes")
    assert heard.words == 1


async def test_the_newest_epoch_never_falls(workers: Workers) -> None:
    workers.set_word(SHOP, False, 10_000, 5)
    workers.set_word(SHOP + 1, False, 0, 4)
    assert workers.shared.epoch == 5


async def test_it_is_acknowledged_once_every_live_worker_has_seen_the_epoch(
    workers: Workers,
) -> None:
    first, second = await two(workers)
    first.set(R_EPOCH_SEEN, 5)
    waiting = asyncio.create_task(workers.acknowledged(5, 5.0))
    await until(lambda: Poke in second.kinds(), "the poke")
    assert not waiting.done()
    second.set(R_EPOCH_SEEN, 6)
    assert await waiting == []


async def test_who_does_not_look_in_time_is_named_and_the_dead_are_not_waited_for(
    workers: Workers,
) -> None:
    _, second = await two(workers)
    FakeWorker(workers.shared, 2).set(R_STATE, WorkerState.DEAD)
    second.set(R_EPOCH_SEEN, 9)
    assert await workers.acknowledged(9, 0.05) == [0]


# ---------------------------------------------------------------- tables


def table(number: int) -> RoutingTable:
    return RoutingTable(number=number, services=())


async def test_a_table_is_prepared_when_every_worker_holds_it(workers: Workers) -> None:
    both = await two(workers)
    for worker in both:

        def load(message: Message, worker: FakeWorker = worker) -> Message | None:
            if isinstance(message, Prepare):
                path = worker.shared.runtime_dir / table_file(message.number)
                worker.set(R_TABLE_LOADED, decode(path.read_bytes()).number)
                return Prepared(message.number)
            return None

        worker.answer = load
    assert await workers.prepare_table(table(3), 5.0) == ""
    assert workers.shared.table_in_force == 0


async def test_a_worker_that_cannot_load_a_table_says_why_at_once(workers: Workers) -> None:
    first, second = await two(workers)
    first.set(R_TABLE_LOADED, 3)
    second.answer = lambda message: (
        Prepared(message.number, "worker 1: not whole") if isinstance(message, Prepare) else None
    )
    assert await workers.prepare_table(table(3), 30.0) == "worker 1: not whole"
    # Asked again it may have been repaired: the refusal is not kept.
    second.answer = lambda message: None
    second.set(R_TABLE_LOADED, 3)
    assert await workers.prepare_table(table(3), 5.0) == ""


async def test_a_worker_that_comes_meanwhile_is_asked_too(workers: Workers) -> None:
    late = FakeWorker(workers.shared, 2)
    late.answer = lambda message: late.set(R_TABLE_LOADED, 3)
    waiting = asyncio.create_task(workers.prepare_table(table(3), 5.0))
    await asyncio.sleep(0)
    await late.connect()
    assert await waiting == ""


async def test_a_silent_worker_is_named_when_the_time_is_over(workers: Workers) -> None:
    FakeWorker(workers.shared, 1)
    error = await workers.prepare_table(table(3), 0.05)
    assert error == "worker 1 did not load table 3 within 0.05 s"


async def test_table_files_are_kept_for_as_long_as_anything_names_them(workers: Workers) -> None:
    worker = FakeWorker(workers.shared, 0)
    for number in (1, 2, 3, 4, 5, 9):
        (workers.shared.runtime_dir / table_file(number)).touch()
    workers.shared.set_table_in_force(5)
    worker.set(R_TABLE_IN_FORCE, 3)
    worker.set(R_TABLE_LOADED, 4)
    workers.delete_old_tables()
    left = sorted(path.name for path in workers.shared.runtime_dir.glob("table-*"))
    assert left == ["table-3.json", "table-4.json", "table-5.json", "table-9.json"]


# ---------------------------------------------------------------- requests


def cut_by(worker: FakeWorker, path: str) -> Callable[[Message], Message | None]:
    return lambda message: (
        Done(message.request, [{"path": path}]) if isinstance(message, Cut) else None
    )


async def test_what_all_workers_cut_is_gathered_and_the_silent_are_named(
    workers: Workers,
) -> None:
    first, _ = await two(workers)
    first.answer = cut_by(first, "/a")
    result = await workers.cut(SHOP, 0, (0, 1), "drain_deadline", 5, 0.1)
    assert [entry["path"] for entry in result.entries] == ["/a"]
    assert result.silent == (1,)
    [sent] = [message for message in first.received if isinstance(message, Cut)]
    assert (sent.slot, sent.upstream, sent.classes, sent.epoch) == (SHOP, 0, [0, 1], 5)


async def test_a_worker_that_dies_while_it_is_asked_is_not_waited_for(workers: Workers) -> None:
    first, second = await two(workers)
    first.answer = cut_by(first, "/a")

    def die(message: Message) -> None:
        second.set(R_STATE, WorkerState.DEAD)
        second.writer.close()

    second.answer = die
    result = await asyncio.wait_for(workers.cut(SHOP, 0, (0,), "drain_deadline", 5, 30.0), 5.0)
    assert result.silent == ()
    assert len(result.entries) == 1


async def test_a_worker_that_comes_back_is_asked_again(workers: Workers) -> None:
    first, second = await two(workers)
    first.answer = cut_by(first, "/a")
    second.answer = lambda message: second.writer.close()
    waiting = asyncio.create_task(workers.cut(SHOP, 0, (0,), "drain_deadline", 5, 5.0))
    await until(lambda: Cut in second.kinds(), "the first request")
    second.answer = cut_by(second, "/b")
    await second.connect()
    assert sorted(entry["path"] for entry in (await waiting).entries) == ["/a", "/b"]


async def test_names_of_the_dead_are_taken_in_before_a_drain_is_said_to_be_over(
    workers: Workers, heard: Heard
) -> None:
    both = await two(workers)
    for worker in both:
        worker.answer = lambda message: (
            Done(message.request) if isinstance(message, CloseIdle) else None
        )
    assert await workers.close_idle(SHOP, 0, 5.0) == ()
    assert heard.collected == 1


# ---------------------------------------------------------------- counters


async def test_in_flight_is_counted_by_region_and_by_class(workers: Workers) -> None:
    FakeWorker(workers.shared, 0)
    FakeWorker(workers.shared, 1)
    dead = FakeWorker(workers.shared, 2)
    board = workers.shared.scoreboard
    for region, picked, answered in ((0, 5, 2), (1, 4, 4), (2, 9, 0)):
        base = board.upstream(region, SHOP, 1)
        board.words[base + U_PICKED] = picked
        board.words[base + U_ANSWERED] = answered
    board.words[board.inflight_slot(0, 3)] = pack_inflight(SHOP, 1, 2, 0)
    dead.set(R_STATE, WorkerState.DEAD)
    assert workers.in_flight(SHOP, 1) == {0: 3}
    assert workers.in_flight(SHOP, 0) == {}
    assert workers.in_flight_by_class(SHOP, 1)["sse"] == 1


# ---------------------------------------------------------------- what workers tell


async def test_what_workers_tell_reaches_who_listens(workers: Workers, heard: Heard) -> None:
    first, _ = await two(workers)
    seen = Passive(health_slot=3, answered=7, errors_5xx=0, connect_errors=1, last_error="refused")
    from_where = Entered(slot=SHOP, upstream=1, networks={"192.0.2.0/24": 3})
    first.send(seen)
    first.send(from_where)
    first.writer.write(commands.frame(b"line\n", Kind.ACCESS_LOG))
    await until(lambda: heard.log, "the lines")
    assert (heard.passive, heard.entered, heard.log) == ([seen], [from_where], [b"line\n"])


async def test_what_cannot_be_understood_costs_the_connection_and_is_told(
    workers: Workers, heard: Heard
) -> None:
    first, _ = await two(workers)
    first.writer.write(commands.frame(b'{"v": 1, "is": "Nonsense"}'))
    await until(lambda: workers.connected == [1], "the end of the connection")
    assert "Nonsense" in heard.odd[0]


# ---------------------------------------------------------------- the supervisor's line


async def test_a_replacement_is_over_when_the_supervisor_has_answered(
    shared: SharedState, heard: Heard
) -> None:
    asked: list[Message] = []

    async def supervisor(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        frames = FrameReader()
        while data := await reader.read(65536):
            for _, payload in frames.feed(data):
                message = commands.decode(payload)
                asked.append(message)
                assert isinstance(message, ReplaceWorker)
                shared.scoreboard.words[shared.scoreboard.region(0) + R_STATE] = WorkerState.DEAD
                writer.write(commands.frame(commands.encode(Answer(message.request))))

    FakeWorker(shared, 0)
    supervision = Supervision(shared.runtime_dir)
    workers = Workers(shared, supervision, heard.listeners())
    # Away at first: nothing is replaced, and it is said.
    await workers.replace(0, "late")
    assert "cannot be reached" in heard.odd[0]
    server = await asyncio.start_unix_server(
        supervisor, str(shared.runtime_dir / SUPERVISOR_SOCKET)
    )
    supervision.start()
    await until(lambda: supervision.connected, "the connection")
    await workers.replace(0, "late")
    assert [getattr(message, "region", None) for message in asked] == [0]
    assert len(heard.odd) == 1
    assert heard.collected == 2
    await supervision.close()
    server.close()
