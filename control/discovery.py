"""Follows the sources of upstreams' servers, and puts what they say in force.

A follower for each upstream with `discover`: one loop reads snapshots and keeps the newest, one
puts them in force, at most so often. As with servers that the API sets: the store first, so that
the last known outlives everything, then a table, and what left is drained. What is to be used is
decided by `discovered`.
"""

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from turnout.config.model import Configuration, Discover, Service
from turnout.control import loops
from turnout.control.discovered import Judged, Trouble, judge, next_pause_s
from turnout.control.events import DiscoveryProblem, DiscoveryRestored, Event, ServersChanged
from turnout.control.journal import Journal
from turnout.control.outer import loading
from turnout.control.outer.loading import Pace, Paces
from turnout.control.outer.seams import Context, Discovery, FoundServers, OuterError
from turnout.control.ports import Tables
from turnout.control.refusals import TableRefused
from turnout.control.store import Audit, Author, Database, Note, Store, StoreUnusable
from turnout.control.tables import servers_of
from turnout.control.words import whole

FIRST_PAUSE_S: Final = 1.0
"""Before a source that was lost is tried again, the first time."""
AGAIN_AFTER_S: Final = 5.0
"""Before servers that could not be put in force are tried again, the first time."""
AGAIN_AFTER_MAX_S: Final = 120.0
"""Each attempt is two entries of the audit."""

Key = tuple[str, str]
"""Service and upstream."""


@dataclass(frozen=True, slots=True)
class World:
    """What all followers use."""

    store: Store
    journal: Journal
    tables: Tables
    tell_event: Callable[[Event], None]
    tell: loops.Tell
    configuration: Callable[[], Configuration]
    """The one in force."""
    paces: Paces


class Followers:
    """All sources that the configuration in force names. To be used in one event loop."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._followers: dict[Key, Follower] = {}
        self._closing: set[asyncio.Task[None]] = set()

    def configure(self) -> None:
        """Follow what the configuration names now, and nothing else; what stays, stays."""
        wanted = {
            (service.name, upstream.name): (service.names, upstream.discover)
            for service in self._world.configuration().services
            for upstream in service.upstreams
            if upstream.discover is not None
        }
        ended = False
        for key, follower in list(self._followers.items()):
            if wanted.get(key) != (follower.names, follower.discover):
                ended = ended or key not in wanted
                self._later(self._followers.pop(key).close())
        for key, (names, discover) in wanted.items():
            if key not in self._followers:
                pace = self._world.paces.of(discover.settings)
                self._followers[key] = Follower(self._world, key, names, discover, pace)
        if ended:
            self._later(self._forget(set(wanted)))

    def view(self, service: str, upstream: str) -> dict[str, Any] | None:
        """How an upstream's source is, for the API; None: it is not discovered."""
        follower = self._followers.get((service, upstream))
        return None if follower is None else follower.view()

    async def start(self) -> None:
        """Forget what is of no use any more, and follow what there is. Raises StoreUnusable."""
        self.configure()
        await self._world.store(Database.forget_discovered, set(self._followers))

    async def close(self) -> None:
        for follower in self._followers.values():
            self._later(follower.close())
        self._followers.clear()
        await asyncio.gather(*self._closing, return_exceptions=True)

    async def _forget(self, but: set[Key]) -> None:
        with contextlib.suppress(StoreUnusable):  # whoever decides something says so
            await self._world.store(Database.forget_discovered, but)

    def _later(self, ending: Any) -> None:
        task = asyncio.get_running_loop().create_task(ending)
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


@dataclass(slots=True)
class _Problems:
    """What is wrong at present, each told once."""

    source: str = ""
    """It was lost; in its words."""
    trouble: Trouble = Trouble.NONE
    detail: str = ""
    """What it says is not just used; see Trouble."""
    use: str = ""
    """What it says could not be put in force."""

    def __str__(self) -> str:
        return "; ".join(text for text in (self.source, self.detail, self.use) if text)


@dataclass(slots=True)
class _Seen:
    found: FoundServers | None = None
    at_s: float = 0.0
    """Monotonic."""
    news: asyncio.Event = field(default_factory=asyncio.Event)


class Follower:
    """One upstream's source."""

    def __init__(
        self, world: World, key: Key, names: tuple[str, str], discover: Discover, pace: Pace
    ) -> None:
        self.names = names
        self.discover = discover
        self._world = world
        self._service, self._upstream = key
        self._pace = pace
        self._seen = _Seen()
        self._problems = _Problems()
        self._settled: Judged | None = None
        """What was put in force by this follower last."""
        self._well: asyncio.TimerHandle | None = None
        what = f"discovering {self._service}/{self._upstream}"
        loop = asyncio.get_running_loop()
        self._tasks = [
            loop.create_task(loops.keep_running(what, body, world.tell))
            for body in (self._read, self._use)
        ]

    def view(self) -> dict[str, Any]:
        found = self._seen.found
        return {
            "kind": self.discover.kind,
            "found": None if found is None else len(found.servers),
            "ready": None
            if found is None
            else sum(server.ready and not server.draining for server in found.servers),
            "seconds_ago": None if found is None else round(time.monotonic() - self._seen.at_s, 1),
            "revision": "" if found is None else found.revision,
            "problem": str(self._problems),
        }

    async def close(self) -> None:
        if self._well is not None:
            self._well.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # ------------------------------------------------------------ reading

    async def _read(self) -> None:
        """Read snapshots for ever; a source that is lost is made anew, after a pause."""
        pause_s = FIRST_PAUSE_S
        while True:
            began_s = time.monotonic()
            try:
                await self._read_once(pause_s)
                problem = "the source has ended"
            except OuterError as error:
                problem = str(error)
            if self._well is not None:
                self._well.cancel()
            if time.monotonic() - began_s > 2 * pause_s:  # it was well meanwhile
                pause_s = FIRST_PAUSE_S
            self._lost(problem)
            await asyncio.sleep(pause_s * random.uniform(0.8, 1.2))
            pause_s = next_pause_s(pause_s, self.discover.retry_max_s)

    async def _read_once(self, pause_s: float) -> None:
        """Until it ends. Raises OuterError."""
        context = Context(self.names, self.discover.call_timeout_s, self._pace.turn, self._say)
        # In a thread: what it needs may have to be imported, and files to be read.
        source: Discovery = await asyncio.to_thread(
            loading.make_discovery, self.discover.settings, context
        )
        try:
            async with _closed(source.snapshots()) as snapshots:
                first = True
                async for found in snapshots:
                    self._seen.found, self._seen.at_s = found, time.monotonic()
                    self._seen.news.set()
                    if first and self._problems.source:
                        # Not at once: what gives one answer and is lost again is not well.
                        loop = asyncio.get_running_loop()
                        self._well = loop.call_later(pause_s, self._restored)
                    first = False
        finally:
            await source.close()

    def _say(self, what: str, remedy: str) -> None:
        self._world.tell(f"{self._service}/{self._upstream}: {what}", remedy)

    def _lost(self, problem: str) -> None:
        told, self._problems.source = self._problems.source, problem
        if not told:
            self._tell_problem(f"its servers' source is lost: {problem}", "the last known stay")

    def _restored(self) -> None:
        self._problems.source = ""
        self._tell_restored("the source is back")

    # ------------------------------------------------------------ using

    async def _use(self) -> None:
        """Put the newest snapshot in force, at most once in `min_interval`."""
        seen = self._seen
        again_s = AGAIN_AFTER_S
        while True:
            await seen.news.wait()
            seen.news.clear()
            found = seen.found
            if found is None:
                continue
            try:
                changed = await self._follow(found)
            except (StoreUnusable, TableRefused) as error:
                self._not_used(str(error))
                await asyncio.sleep(again_s)
                again_s = next_pause_s(again_s, AGAIN_AFTER_MAX_S)
                seen.news.set()
                continue
            again_s = AGAIN_AFTER_S
            if self._problems.use:
                self._problems.use = ""
                self._tell_restored("what it says is in force again")
            if changed:
                # What comes meanwhile is one change then: a rolling update has dozens.
                await asyncio.sleep(self.discover.min_interval_s)

    async def _follow(self, found: FoundServers) -> bool:
        """Whether the servers have changed. Raises StoreUnusable, TableRefused."""
        world = self._world
        configuration = world.configuration()
        service = configuration.service(self._service)
        row = await world.store(Database.service, self._service)
        if service is None or row is None:
            return False  # it is about to go
        index = service.names.index(self._upstream)
        known = servers_of(service, row, index)
        judged = judge(known, found, configuration.limits.servers)
        self._troubled(judged)
        if not judged.servers or row.discovered.get(self._upstream) == judged.servers:
            return False
        await whole(self._put(service, row.discovered.get(self._upstream), known, judged.servers))
        return True

    async def _put(
        self,
        service: Service,
        before: tuple[str, ...] | None,
        known: tuple[str, ...],
        servers: tuple[str, ...],
    ) -> None:
        world, upstream = self._world, self._upstream
        author = Author(f"discovery {self.discover.kind}")
        detail = _change(known, servers)
        told = ServersChanged(
            service=service.name, upstream=upstream, servers=servers, who=author.who, reason=detail
        )
        audit = Audit(author, "servers.discover", service.name, f"{upstream}: {detail}")
        note = Note(audit, (told,))
        at = time.time()
        await world.store(Database.set_discovered, service.name, upstream, servers, at, note)
        world.journal.told(note)
        try:
            reason = f"discovered servers of {service.name} {upstream}"
            await world.tables.publish(reason, drained=False)
        except TableRefused as error:
            undone = Audit(Author("turnout"), "servers.restore", service.name, upstream, str(error))
            await world.store(
                Database.set_discovered, service.name, upstream, before, time.time(), Note(undone)
            )
            raise

    # ------------------------------------------------------------ telling

    def _troubled(self, judged: Judged) -> None:
        before, self._problems.trouble = self._problems.trouble, judged.trouble
        self._problems.detail = judged.detail
        if judged.trouble is before:
            return
        if judged.trouble:
            self._tell_problem(judged.detail, _REMEDIES[judged.trouble])
        else:
            self._tell_restored("its servers are what the source says")

    def _not_used(self, problem: str) -> None:
        told, self._problems.use = self._problems.use, problem
        if not told:
            # To the log alone: it may be the store that cannot be written.
            self._say(f"what its source says is not in force: {problem}", "it is tried again")

    def _tell_problem(self, problem: str, next: str) -> None:
        event = DiscoveryProblem(
            service=self._service,
            upstream=self._upstream,
            kind=self.discover.kind,
            problem=problem,
            next=next,
        )
        self._world.tell_event(event)

    def _tell_restored(self, reason: str) -> None:
        event = DiscoveryRestored(
            service=self._service, upstream=self._upstream, kind=self.discover.kind, reason=reason
        )
        self._world.tell_event(event)


_REMEDIES: Final[Mapping[Trouble, str]] = {
    Trouble.EMPTY: "look whether its servers are up, and whether discover names the right ones",
    Trouble.INCOMPLETE: "look at control.problem in the log",
    Trouble.TOO_MANY: "raise limits.servers",
    Trouble.NO_ADDRESS: "look at the source",
}


@contextlib.asynccontextmanager
async def _closed(snapshots: AsyncIterator[FoundServers]) -> AsyncIterator[Any]:
    """A generator is ended where it stands; another iterator has nothing to end."""
    try:
        yield snapshots
    finally:
        if isinstance(snapshots, AsyncGenerator):
            await snapshots.aclose()


def _change(known: tuple[str, ...], servers: tuple[str, ...]) -> str:
    """`+10.0.0.9:80 -10.0.0.7:80, 3 in all`."""
    come = [f"+{server}" for server in servers if server not in known]
    gone = [f"-{server}" for server in known if server not in servers]
    shown = [*come, *gone]
    rest = f" and {len(shown) - _SHOWN_MAX} more" if len(shown) > _SHOWN_MAX else ""
    return f"{' '.join(shown[:_SHOWN_MAX]) or 'as before'}{rest}, {len(servers)} in all"


_SHOWN_MAX: Final = 20
