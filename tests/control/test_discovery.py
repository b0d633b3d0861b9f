"""Who follows a source of servers: what it does when the source, the table or the store fail."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.control.in_memory import MemoryTables
from tests.harness import until
from turnout.config.loader import load_text
from turnout.control import discovery
from turnout.control.compiler import service_names
from turnout.control.discovered import judge
from turnout.control.discovery import Followers, World
from turnout.control.events import DiscoveryProblem, DiscoveryRestored, Event, ServersChanged
from turnout.control.journal import Journal
from turnout.control.outer import loading
from turnout.control.outer.seams import FoundServer, FoundServers, NotDone
from turnout.control.store import Database, Store

CONFIGURATION = load_text(
    """
listeners: [{bind: "127.0.0.1:8080"}]
services:
  shop:
    upstreams:
      blue:
        servers: ["10.0.0.9:80"]
        discover:
          {kind: kubernetes, service: blue, namespace: shop, endpoint: "http://127.0.0.1:1",
           min_interval: 100ms, retry_max: 1s}
      green: {servers: []}
""",
    environ={},
)
A, B = "10.0.0.1:80", "10.0.0.2:80"


def said(*addresses: str) -> FoundServers:
    return FoundServers(tuple(FoundServer(one, ready=True) for one in addresses), "1")


@dataclass
class Script:
    """A source that says what it is told to; None is a loss. Each of its lives begins with the
    last thing said."""

    queue: "asyncio.Queue[FoundServers | None]" = field(default_factory=asyncio.Queue)
    last: FoundServers | None = None
    lives: int = 0
    closed: int = 0
    dies_at_once: bool = False

    def say(self, *addresses: str) -> None:
        self.queue.put_nowait(said(*addresses))

    def lose(self) -> None:
        self.queue.put_nowait(None)

    async def snapshots(self) -> AsyncIterator[FoundServers]:
        self.lives += 1
        if self.last is not None:
            yield self.last
        if self.dies_at_once:
            raise NotDone("it may not be watched")
        while (found := await self.queue.get()) is not None:
            self.last = found
            yield found
        raise NotDone("it went away")

    async def close(self) -> None:
        self.closed += 1


@dataclass
class Bench:
    script: Script
    tables: MemoryTables
    store: Store
    followers: Followers
    told: list[Event]
    problems: list[str]

    async def kept(self) -> tuple[str, ...] | None:
        row = await self.store(Database.service, "shop")
        assert row is not None
        return row.discovered.get("blue")

    def count(self, kind: type[Event]) -> int:
        return sum(isinstance(event, kind) for event in self.told)

    @property
    def problem(self) -> str:
        shown = self.followers.view("shop", "blue")
        assert shown is not None
        return str(shown["problem"])


@asynccontextmanager
async def following(path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    monkeypatch.setattr(discovery, "AGAIN_AFTER_S", 0.02)
    monkeypatch.setattr(discovery, "FIRST_PAUSE_S", 0.02)
    script = Script()
    monkeypatch.setattr(loading, "make_discovery", lambda settings, context: script)
    store = Store.open(path / "turnout.db")
    await store(Database.ensure_services, service_names(CONFIGURATION), time.time(), live=False)
    told: list[Event] = []
    problems: list[str] = []
    tables = MemoryTables()
    followers = Followers(
        World(
            store=store,
            journal=Journal(store, told.append, time.time),
            tables=tables,
            tell_event=told.append,
            tell=lambda what, remedy: problems.append(what),
            configuration=lambda: CONFIGURATION,
            paces=loading.Paces(),
        )
    )
    await followers.start()
    try:
        yield Bench(script, tables, store, followers, told, problems)
    finally:
        await followers.close()
        store.close()
        assert script.closed == script.lives


async def test_a_table_that_is_refused_is_taken_back_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with following(tmp_path, monkeypatch) as bench:
        bench.script.say(A)
        await until(lambda: bench.tables.published, "the first table")
        bench.tables.error = "no room"
        bench.script.say(B)
        await until(lambda: bench.problem, "that it was refused")
        assert "no room" in bench.problem
        assert await bench.kept() == (A,)
        bench.tables.error = ""
        await until(lambda: not bench.problem, "that it is well")
        assert await bench.kept() == (B,)
        assert len([one for one in bench.problems if "no room" in one]) == 1
        assert bench.count(DiscoveryRestored) == 1


async def test_a_store_that_cannot_be_used_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with following(tmp_path, monkeypatch) as bench:
        bench.script.say(A)
        await until(lambda: bench.tables.published, "the first table")
        (tmp_path / "turnout.db").rename(tmp_path / "elsewhere")
        bench.script.say(B)
        await until(lambda: bench.problem, "that it cannot be kept")
        assert len(bench.tables.published) == 1, "what is not kept is not in force"
        (tmp_path / "elsewhere").rename(tmp_path / "turnout.db")
        await until(lambda: len(bench.tables.published) == 2, "the second table")
        assert await bench.kept() == (B,)


async def test_a_source_that_is_lost_is_told_once_and_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with following(tmp_path, monkeypatch) as bench:
        bench.script.say(A)
        await until(lambda: bench.tables.published, "the first table")
        bench.script.lose()
        await until(lambda: bench.script.lives == 2, "another life")
        await until(lambda: bench.count(DiscoveryRestored), "that it is back")
        assert bench.problem == ""
        bench.script.say(B)
        await until(lambda: bench.count(ServersChanged) == 2, "what it says then")
        assert bench.count(DiscoveryProblem) == 1


async def test_a_source_that_answers_once_and_is_lost_again_is_not_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be listed and not watched: that is one problem, and not a new one each second."""
    async with following(tmp_path, monkeypatch) as bench:
        bench.script.last = said(A)
        bench.script.dies_at_once = True
        bench.script.lose()
        await until(lambda: bench.script.lives == 5, "some lives")
        assert "may not be watched" in bench.problem or "went away" in bench.problem
        assert (bench.count(DiscoveryProblem), bench.count(DiscoveryRestored)) == (1, 0)
        # What it said is used all the same.
        assert await bench.kept() == (A,)


async def test_what_is_in_force_already_is_kept_as_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file's, until something is found; the same servers are kept as found, once."""
    async with following(tmp_path, monkeypatch) as bench:
        assert await bench.kept() is None
        bench.script.say("10.0.0.9:80")
        await until(lambda: bench.count(ServersChanged), "that they are kept")
        assert await bench.kept() == ("10.0.0.9:80",)
        before = bench.script.queue
        for _ in range(3):
            bench.script.say("10.0.0.9:80")
        await until(before.empty, "that it was heard")
        assert bench.count(ServersChanged) == 1


async def test_a_mistake_of_ours_ends_no_follower(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with following(tmp_path, monkeypatch) as bench:
        right = judge
        wrong: Callable[..., object] = lambda *args: 1 / 0
        monkeypatch.setattr(discovery, "judge", wrong)
        bench.script.say(A)
        await until(lambda: bench.problems, "that it is told")
        assert "ZeroDivisionError" in bench.problems[0]
        monkeypatch.setattr(discovery, "judge", right)
        bench.script.say(B)
        await until(lambda: bench.tables.published, "that it goes on")
        assert await bench.kept() == (B,)
