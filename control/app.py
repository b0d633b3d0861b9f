"""The process entry of control: puts the parts together, and takes them apart again.

Control may die and come back at any time without traffic noticing: all that it knows is in the
store, in shared memory and in the plan that the supervisor keeps. So it starts by reading what
is in force, never by deciding it anew.
"""

import argparse
import asyncio
import contextlib
import fcntl
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import uvloop

from turnout.config.loader import SettingsError
from turnout.config.model import Configuration, LogFormat
from turnout.config.table import TableError
from turnout.control.api import ApiContext, make_app
from turnout.control.api_listener import ApiListener, CannotListen
from turnout.control.clock import Clock, boot_id, now_on, scale_of
from turnout.control.committed import in_force
from turnout.control.compiler import older, service_names
from turnout.control.died import Casualties
from turnout.control.discovery import Followers, World
from turnout.control.events import (
    ConfigurationRefused,
    ConfigurationReloaded,
    ControlProblem,
    ControlStarted,
    Event,
)
from turnout.control.executor import Executor
from turnout.control.file_warnings import warnings
from turnout.control.journal import Journal
from turnout.control.logs import EventLog, LogWriter
from turnout.control.loops import keep_running
from turnout.control.outer.loading import missing_extras
from turnout.control.prober import Prober
from turnout.control.publisher import Publisher, Reloaded, read_table
from turnout.control.refused_calls import RefusedCalls
from turnout.control.resolver import Resolver
from turnout.control.shared import SharedState
from turnout.control.source import Source, options, read_source, source_of
from turnout.control.store import (
    Audit,
    Author,
    Database,
    InForce,
    Note,
    ServiceRow,
    Store,
    StoreUnusable,
    UpstreamsSwapped,
)
from turnout.control.supervision import Supervision
from turnout.control.tables import endpoints_of, names_to_resolve, unresolved_in
from turnout.control.tail_watch import TailWatch
from turnout.control.upgrades import Upgrades
from turnout.control.workers import Listeners, Workers
from turnout.proxy.commands import (
    CONTROL_LOCK_FILE,
    EXIT_OTHER_GENERATION,
    PLAN_FILE,
    ProtocolError,
    decode_plan,
    program_generation,
)
from turnout.proxy.scoreboard import SharedMemoryError

LOCK_LIMIT_S: Final = 5.0
"""How long a predecessor that is just ending is waited for."""
LOCK_AGAIN_S: Final = 0.05
COMMITTED_PAUSE_S: Final = 0.2
"""Between two writes of the committed copy, however often weights move."""
COMMITTED_AGAIN_S: Final = 5.0
HOUSEKEEPING_INTERVAL_S: Final = 60.0
CHECKPOINT_INTERVAL_S: Final = 5.0
TELL_AGAIN_S: Final = 60.0
ALIVE_INTERVAL_S: Final = 0.5
"""How often control says that its loop turns; `timeouts.watchdog` is a second at least."""
STORE_INTERVAL_S: Final = 1.0
"""How often a store that cannot be used is tried, and one that is open is looked for."""
EXIT_STORE_CHANGED: Final = 75
"""EX_TEMPFAIL: control begins anew, with a store that is another one now."""


class CannotStart(Exception):
    """Control cannot do its work; the text says why and what to do."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until SIGTERM (0); 1 when control cannot start, 75 to begin anew with another store,
    78 beside another program."""
    argv = list(sys.argv[1:] if arguments is None else arguments)
    given = options(argv)
    found = program_generation()
    if given.generation and found != given.generation:
        print(
            f"turnout: control.other_generation started_for={given.generation} on_disk={found} "
            'next="turnout upgrade"',
            file=sys.stderr,
        )
        return EXIT_OTHER_GENERATION
    try:
        lock = _lock(given.runtime_dir)
        source = _source_in_force(given)
        # uvloop here too: what a switch waits for is mostly the turns of this loop.
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            status = runner.run(Control(given, source).run())
    except (CannotStart, StoreUnusable, SettingsError, SharedMemoryError, TableError) as error:
        print(f"turnout: control cannot start: {error}", file=sys.stderr)
        return 1
    os.close(lock)
    return status


def _lock(runtime_dir: Path) -> int:
    """Be the only control process of the directory: two would write the words in turns.

    Raises CannotStart when another is still there.
    """
    path = runtime_dir / CONTROL_LOCK_FILE
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline_s = time.monotonic() + LOCK_LIMIT_S
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError as error:
            if time.monotonic() > deadline_s:
                holder = os.pread(lock, 32, 0).decode(errors="replace").strip()
                raise CannotStart(f"process {holder} is control of {runtime_dir}") from error
            time.sleep(LOCK_AGAIN_S)
    os.ftruncate(lock, 0)
    os.pwrite(lock, str(os.getpid()).encode(), 0)
    return lock


def _source_in_force(given: argparse.Namespace) -> Source:
    """The configuration that the supervisor's plan was made from, whatever the file says now."""
    path = given.runtime_dir / PLAN_FILE
    try:
        return source_of(decode_plan(path.read_bytes()).configuration)
    except (OSError, ProtocolError, KeyError, TypeError) as error:
        raise CannotStart(f"{path} cannot be read ({error}); is turnout running?") from error


class Control:
    """The parts, and what concerns more than one of them."""

    def __init__(self, given: argparse.Namespace, source: Source) -> None:
        """Open what is there already. Raises what `main` names; nothing runs yet."""
        self._given = given
        self._clock = Clock(time.time, boot=boot_id())
        self._scale = scale_of(self._clock)
        configuration = source.read(lenient=True)
        access, event_log = configuration.access_log, configuration.event_log
        self._access_writer = LogWriter(
            "access log",
            access.path,
            tell=self.problem,
            queue_bytes_max=access.buffer_bytes,
        )
        self._event_writer = LogWriter("event log", event_log.path, tell=self.problem)
        self._event_log = EventLog(self._event_writer, event_log.format)
        self.shared = SharedState(given.runtime_dir)
        self.store = Store.open(Path(configuration.state.path))
        self.journal = Journal(self.store, self._event_log.write, time.time)
        self.refused = RefusedCalls(self.store, time.time)
        self.casualties = Casualties(given.runtime_dir, self.store, self.journal, self.problem)
        self.supervision = Supervision(given.runtime_dir)
        self.prober = Prober(
            self.shared,
            emit=self.tell,
            tell=self.problem,
            lookup_error=lambda address: self.resolver.errors().get(address, ""),
        )
        self.tails = TailWatch(
            self.shared, lambda: self.configuration, lambda: self.publisher.table
        )
        self.workers = Workers(
            self.shared,
            self.supervision,
            Listeners(
                passive=self.prober.observe,
                entered=self.tails.heard,
                access_log=self._write_access,
                word_set=self._committed_soon,
                collect=self.casualties.collect,
                told=lambda what: self.problem(what, "turnout status"),
            ),
        )
        self.resolver = Resolver(
            configuration.resolver, changed=self._addresses_changed, tell=self.problem
        )
        self.publisher = Publisher(
            source,
            table=read_table(given.runtime_dir, self.shared.table_in_force),
            store=self.store,
            workers=self.workers,
            supervision=self.supervision,
            resolve=self._resolve,
            tell=self.tell,
            configure=lambda new: self.executor.configure(new),
            watch=self.prober.watch,
            on_cut=self._servers_cut,
            control_argv=[],
        )
        self.executor = Executor(
            store=self.store,
            workers=self.workers,
            prober=self.prober,
            tables=self.publisher,
            journal=self.journal,
            configuration=configuration,
            clock=self._clock,
            tails=self.tails,
        )
        self.followers = Followers(
            World(
                store=self.store,
                journal=self.journal,
                tables=self.publisher,
                tell_event=self.tell,
                tell=self.problem,
                configuration=lambda: self.configuration,
                paces=self.executor.outer.paces,
            )
        )
        self._stop = asyncio.Event()
        self._unusable_told = ("", 0.0)
        self._unfit: tuple[int, int] | None = None
        """The store's file that cannot be that of the configuration in force."""
        self._exit = 0
        self._listener: ApiListener | None = None
        self._committed_stale = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._telling: set[asyncio.Task[None]] = set()

    @property
    def configuration(self) -> Configuration:
        """The one in force."""
        return self.publisher.configuration

    # ------------------------------------------------------------ life

    async def run(self) -> int:
        """Work until SIGTERM, or until the store is another one; the exit status."""
        stop = self._stop
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, stop.set)
        loop.add_signal_handler(signal.SIGINT, lambda: None)
        loop.add_signal_handler(signal.SIGHUP, self._reload_by_signal)
        async with contextlib.AsyncExitStack() as stack:
            await self._start(stack)
            await stop.wait()
        return self._exit

    async def _start(self, stack: contextlib.AsyncExitStack) -> None:
        """Start the parts; each is taken apart in the reverse order, also after a failure."""
        configuration, table = self.configuration, self.publisher.table
        stack.callback(self._close_logs)
        stack.callback(self.store.close)
        stack.push_async_callback(self._close_tasks)
        self._keep("saying that control lives", self._say_alive)
        self._keep("watching tails", self.tails.run)
        stack.push_async_callback(self.resolver.close)
        rows = await self._rows()
        self.resolver.watch(names_to_resolve(configuration, rows), endpoints_of(table))
        stack.push_async_callback(self.prober.close)
        self.publisher.unresolved = unresolved_in(configuration, rows, table)
        self.prober.watch(configuration, table, self.publisher.unresolved)
        stack.callback(self.workers.close)
        await self.workers.start()
        stack.push_async_callback(self.supervision.close)
        stack.push_async_callback(self.publisher.close)
        stack.push_async_callback(self.executor.close)
        if not self.store.problem:
            await self._take_up()
        stack.push_async_callback(self._note_refused)
        stack.push_async_callback(self.followers.close)
        stack.push_async_callback(await self._serve_api())
        if self.store.problem:
            self._keep("waiting for the store", self._wait_for_store)
        else:
            await self._follow_sources()
            self._keep("taking in names of the dead", self.casualties.run)
            self._keep("writing the committed copy", self._write_committed)
            self._keep("housekeeping", self._housekeeping)
            self._keep("noting refused calls", self.refused.run)
            self._keep("checkpointing", self._checkpointing)
            self._keep("watching the store", self._watch_store)
        self.publisher.followers.append(self._configured)
        self._committed_soon()
        self._warn()
        self.tell(ControlStarted(pid=os.getpid(), services=len(configuration.services)))
        # Last: the supervisor says that control is up once it is connected.
        self.supervision.start()

    async def _rows(self) -> Sequence[ServiceRow]:
        """Of all services; none when the store cannot be used."""
        try:
            return await self.store(Database.services)
        except StoreUnusable:
            return ()

    def _in_force(self) -> Sequence[ServiceRow]:
        """The services as the workers act on them, whatever the store says or does not."""
        return [
            ServiceRow(
                one.slot, one.name, one.first, one.second, one.second_weight, one.epoch, one.held,
                hold_until=None, servers={}, revision=0,
            )
            for one in in_force(self.publisher.table, self.shared.word)
        ]  # fmt: skip

    async def _take_up(self) -> None:
        """Go on where the last control process ended. If the store turns out not to be usable
        it is given up: the rest of control does its work without it."""
        try:
            await self._reconcile()
            await self.casualties.collect()
            await self.executor.recover()
        except StoreUnusable as error:
            await self._give_up(str(error))
        except UpstreamsSwapped as error:
            self._unfit = _signature(self.store.path)
            await self._give_up(f"{self.store.path} is not of this configuration: {error}")

    async def _follow_sources(self) -> None:
        """Begin to follow the sources of servers, and go on with whatever a reload names."""
        try:
            await self.followers.start()
        except StoreUnusable as error:
            self._unusable(str(error))
        self.publisher.followers.append(self.followers.configure)

    async def _give_up(self, problem: str) -> None:
        await self.executor.close()
        await self.store.give_up(problem)

    async def _reconcile(self) -> None:
        """Make the store agree with what is in force, where it is another than it was.

        Raises StoreUnusable or UpstreamsSwapped when it cannot be that of these workers.
        """
        there = in_force(self.publisher.table, self.shared.word)
        if misfit := await self.store(Database.misfit, there):
            raise StoreUnusable(misfit)
        for row in await self.store(
            Database.adopt, there, self.publisher.table.number, time.time()
        ):
            self.problem(older(str(self.store.path), row), "turnout status; turnout switch")
        names = service_names(self.configuration)
        rows = {row.name: (row.first, row.second) for row in await self.store(Database.services)}
        if any(rows.get(one.name) != (one.first, one.second) for one in names):
            await self.store(Database.ensure_services, names, time.time(), live=True)
            if any(one.name not in rows for one in names):
                self.publisher.publish_soon("the store can be used again")

    async def _serve_api(self) -> Callable[[], Awaitable[None]]:
        """Serve the control API; returns what ends it. Raises CannotStart."""
        context = ApiContext(
            executor=self.executor,
            store=self.store,
            prober=self.prober,
            journal=self.journal,
            shared=self.shared,
            configuration=lambda: self.configuration,
            reload=self.reload,
            in_force=self._in_force,
            upgrades=Upgrades(self.shared, self.supervision, self.journal),
            refused=self.refused,
            tails=self.tails,
            unready=self.unready,
            now=lambda: now_on(self._scale, self._clock),
            tell=self.problem,
            discovered=self.followers.view,
        )
        listener = ApiListener(
            make_app(context),
            control=lambda: self.configuration.control,
            tell=self.problem,
            count=self.refused.count,
        )
        try:
            await listener.start()
        except CannotListen as error:
            raise CannotStart(str(error)) from error
        self._listener = listener
        return listener.close

    async def _note_refused(self) -> None:
        """The last ones, as control ends."""
        with contextlib.suppress(StoreUnusable):  # whoever wrote before has said so
            await self.refused.flush()

    def unready(self) -> Iterator[str]:
        """What keeps control from doing its work; no addresses, as anybody may ask."""
        if not self.supervision.connected:
            yield "the supervisor cannot be reached: nobody replaces a worker that dies"
        if stopped := self.prober.not_running():
            yield f"{len(stopped)} probe loops do not run: look for control.problem in the log"
        for task in self._tasks:
            if task.done():
                yield f"{task.get_name()} has ended: look for control.problem in the log"

    def _keep(self, what: str, body: Any) -> None:
        self._tasks.append(asyncio.create_task(keep_running(what, body, self.problem), name=what))

    async def _close_tasks(self) -> None:
        tasks = [*self._tasks, *self._telling]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _close_logs(self) -> None:
        self._access_writer.close()
        self._event_writer.close()
        self.shared.close()

    # ------------------------------------------------------------ telling

    def tell(self, event: Event) -> None:
        """An event of no transaction: to the log at once, to the stream soon."""
        task = asyncio.create_task(self._note(event))
        self._telling.add(task)
        task.add_done_callback(self._telling.discard)

    async def _note(self, event: Event) -> None:
        try:
            await self.journal.note(Note(events=(event,)))
        except StoreUnusable as error:
            # What cannot be stored is told to the log all the same.
            self._event_log.write(event)
            self._unusable(str(error))

    def problem(self, what: str, remedy: str) -> None:
        """Something is not as it should be. May be called from any thread: the log alone."""
        self._event_log.write(ControlProblem(problem=what, next=remedy))

    def _write_access(self, lines: bytes) -> None:
        if self.configuration.access_log.format is not LogFormat.OFF:
            self._access_writer.write(lines)

    # ------------------------------------------------------------ what changes

    def _addresses_changed(self, endpoints: Mapping[str, Sequence[str]]) -> None:
        self.publisher.publish_soon("addresses of a server's name have changed")

    def _configured(self) -> None:
        """After each change of configuration or table."""
        configuration = self.configuration
        self._access_writer.reopen(configuration.access_log.path)
        self._event_log.use(configuration.event_log.format, configuration.event_log.path)
        self._committed_soon()

    async def _servers_cut(
        self, service: str, upstream: str, entries: Sequence[Mapping[str, Any]]
    ) -> None:
        await self.casualties.keep(service, upstream, entries, "drain_deadline")

    async def _resolve(
        self, configuration: Configuration, rows: Sequence[ServiceRow]
    ) -> Mapping[str, Sequence[str]]:
        """Watch the names that configuration and store have now; wait for those that are new."""
        policy = configuration.resolver
        names = names_to_resolve(configuration, rows)
        self.resolver.watch(names, endpoints_of(self.publisher.table), policy)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.resolver.looked_up(), policy.timeout_s)
        return self.resolver.endpoints()

    def _reload_by_signal(self) -> None:
        task = asyncio.create_task(self._reload_and_say())
        self._telling.add(task)
        task.add_done_callback(self._telling.discard)

    async def _reload_and_say(self) -> None:
        try:
            await self.reload(Author("SIGHUP"))
        except StoreUnusable as error:
            self._unusable(f"the configuration was not read: {error}")

    async def reload(self, author: Author) -> Reloaded:
        """Read the configuration anew and put it in force; an error is told and changes nothing."""
        source = self.publisher.source
        try:
            source = read_source(self._given)
            result = await self.publisher.reload(source)
        except SettingsError as error:
            result = Reloaded(error=str(error))
        event: Event
        if result.error:
            event = ConfigurationRefused(who=author.who, source=source.file, reason=result.error)
        else:
            event = ConfigurationReloaded(who=author.who, source=source.file)
        outcome = f"refused: {result.error}" if result.error else "done"
        # Without its key: done again it changes nothing.
        audit = Audit(replace(author, key=None), "reload", "", detail=source.file, outcome=outcome)
        await self.journal.note(Note(audit, (event,)))
        if self._listener is not None and not result.error:
            await self._listener.reconfigure()
        self._warn()
        for key in result.needs_restart:
            self.problem(f"{key} has changed", "restart turnout to have it applied")
        return result

    def _warn(self) -> None:
        """Say what of the API's files should be another way, and what is not installed."""
        for warning in warnings(self.configuration.control, time.time()):
            self.problem(warning, "turnout check")
        for what, remedy in missing_extras(self.configuration):
            self.problem(what, remedy)

    # ------------------------------------------------------------ in the background

    def _committed_soon(self) -> None:
        self._committed_stale.set()

    async def _write_committed(self) -> None:
        """Keep the copy beside the store as it is in force, for when the store cannot be read."""
        while True:
            await self._committed_stale.wait()
            self._committed_stale.clear()
            committed = self.publisher.committed()
            try:
                await asyncio.to_thread(self.publisher.write_committed, committed)
            except OSError as error:
                self.problem(
                    f"the committed copy beside the store cannot be written: {error}",
                    "make room, or make the directory writable; it is tried again",
                )
                self._committed_stale.set()
                await asyncio.sleep(COMMITTED_AGAIN_S)
            await asyncio.sleep(COMMITTED_PAUSE_S)

    async def _say_alive(self) -> None:
        """From the loop, so that it says that the loop turns: the supervisor looks at it."""
        path = self._given.runtime_dir / CONTROL_LOCK_FILE
        while True:
            os.utime(path)
            await asyncio.sleep(ALIVE_INTERVAL_S)

    async def _checkpointing(self) -> None:
        while True:
            await asyncio.sleep(CHECKPOINT_INTERVAL_S)
            with contextlib.suppress(StoreUnusable):  # told when a decision cannot be written
                await self.store.checkpoint()

    async def _housekeeping(self) -> None:
        while True:
            await asyncio.sleep(HOUSEKEEPING_INTERVAL_S)
            self.workers.delete_old_tables()
            try:
                await self.executor.trim()
            except StoreUnusable as error:
                self._unusable(str(error))

    async def _watch_store(self) -> None:
        """Begin anew once the store's files are others: what is open has no name any more."""
        while not self.store.replaced:
            await asyncio.sleep(STORE_INTERVAL_S)
        self._begin_anew(f"{self.store.path} was moved, removed or replaced while it was open")

    async def _wait_for_store(self) -> None:
        """Begin anew once the store can be used; until then say what is wrong, not too often."""
        self._unusable(self.store.problem)
        there = in_force(self.publisher.table, self.shared.word)
        while True:
            await asyncio.sleep(STORE_INTERVAL_S)
            if self._unfit and _signature(self.store.path) == self._unfit:
                continue  # it can be used, and is none of these workers'
            if problem := await asyncio.to_thread(_try_store, self.store.path, there):
                self.store.problem = problem
                self._unusable(problem)
                continue
            self._begin_anew(f"{self.store.path} can be used again")
            return

    def _begin_anew(self, why: str) -> None:
        """End; the supervisor starts another control process at once. Traffic flows on."""
        self.problem(why, "nothing: control begins anew with what is there")
        self._exit = EXIT_STORE_CHANGED
        self._stop.set()

    def _unusable(self, problem: str) -> None:
        """Say what is wrong with the store when it is another thing than last, or now and then."""
        now_s = time.monotonic()
        if problem != self._unusable_told[0] or now_s > self._unusable_told[1] + TELL_AGAIN_S:
            self._unusable_told = problem, now_s
            self.problem(problem, "as it says; traffic flows on, and nothing can be decided")


def _signature(path: Path) -> tuple[int, int] | None:
    """Another one when the store is another file, or was changed; None: it is not there."""
    try:
        file = path.stat()
    except OSError:
        return None
    return file.st_ino, file.st_mtime_ns


def _try_store(path: Path, there: Sequence[InForce]) -> str:
    """Why the store cannot be used yet, or nothing. Blocks."""
    try:
        with contextlib.closing(Database(path)) as database:
            database.check_writing()
            return database.misfit(there)
    except StoreUnusable as error:
        return str(error)


if __name__ == "__main__":
    sys.exit(main())
