"""Tables and plans from compiled to in force: the one place that puts a table in force.

Prepare, then commit: every worker has loaded the new table before the word names it, so that
none of them ever waits for a file while a request waits for it. A reload asks the supervisor
for its sockets and workers between the two; what cannot be had leaves everything as it was.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import time
from typing import Any, Final

from turnout.config.loader import needs_restart
from turnout.config.model import Configuration
from turnout.config.table import RoutingTable, TableError, decode
from turnout.control.access import unprotected
from turnout.control.committed import Committed, write_committed
from turnout.control.compiler import make_plan, service_names
from turnout.control.events import ControlProblem, Event, TablePublished, TableRefused
from turnout.control.refusals import Refusal
from turnout.control.refusals import TableRefused as Refused
from turnout.control.source import Pinned, Source
from turnout.control.store import (
    Audit,
    Author,
    Database,
    Note,
    ServiceRow,
    Store,
    StoreUnusable,
    UpstreamsSwapped,
)
from turnout.control.supervision import Supervision
from turnout.control.tables import (
    Compiled,
    TooManyServers,
    Unresolved,
    compile_table,
    servers_of,
    without_servers,
)
from turnout.control.workers import Workers
from turnout.proxy.commands import Plan, table_file
from turnout.proxy.scoreboard import RoutingWord

AGAIN_AFTER_S: Final = 5.0

Configure = Callable[[Configuration], None]
"""Called with a new configuration before it is in force; raises a Refusal if it cannot be."""
Resolve = Callable[[Configuration, Sequence[ServiceRow]], Awaitable[Mapping[str, Sequence[str]]]]
"""Gives where the servers' names are; one that is new is looked up first."""
Watch = Callable[[Configuration, RoutingTable, Sequence[Unresolved]], None]
"""Called before a table is given to the workers, so that its servers have health words."""
OnCut = Callable[[str, str, Sequence[Mapping[str, Any]]], Awaitable[None]]
"""Called with service, upstream and the names of what was cut as its server went."""


@dataclass(frozen=True, slots=True)
class Reloaded:
    """What came of a reload. With an `error` nothing has changed."""

    error: str = ""
    changed: bool = False
    table: int = 0
    """Number of the table in force."""
    workers: int = 0
    needs_restart: tuple[str, ...] = ()
    """Keys that differ and keep the value that Turnout was started with."""
    unresolved: tuple[Unresolved, ...] = ()


class Publisher:
    """The configuration and the table in force, and how they change."""

    def __init__(
        self,
        source: Source,
        *,
        table: RoutingTable,
        store: Store,
        workers: Workers,
        supervision: Supervision,
        resolve: Resolve,
        tell: Callable[[Event], None],
        configure: Configure,
        watch: Watch,
        on_cut: OnCut,
        control_argv: Sequence[str],
    ) -> None:
        """Begin with what is in force. Raises SettingsError."""
        self._configure = configure
        self._watch = watch
        self.source = source
        # In force already: a token's file that has gone since must not keep control from starting.
        self.configuration = source.read(lenient=True)
        self._store = store
        self._workers = workers
        self._supervision = supervision
        self._resolve = resolve
        self._tell = tell
        self._on_cut = on_cut
        self._control_argv = list(control_argv)
        self._lock = asyncio.Lock()
        self._retiring: set[asyncio.Task[None]] = set()
        self.table = table
        self.unresolved: tuple[Unresolved, ...] = ()
        self.followers: list[Callable[[], None]] = []
        """Called after each change of the configuration or the table."""

    # ------------------------------------------------------------ tables

    async def publish(self, reason: str, *, drained: bool = True) -> None:
        """Compile a new table, have every worker load it, put it in force, drain the servers
        that went; `drained` false: that is not waited for. Raises refusals.TableRefused when it
        cannot be; the old one stays then."""
        async with self._lock:
            before = self.table
            compiled = await self._compile(self.configuration)
            if same(compiled.table, before):
                self.unresolved = compiled.unresolved
                self._watch(self.configuration, before, self.unresolved)
                return
            await self._prepare(self.configuration, compiled, reason)
            await self._commit(compiled, reason)
            configuration = self.configuration
        self._changed()
        if drained:
            await self._retire(before, compiled.table, configuration)
        else:
            self._retire_later(before, compiled.table, configuration)

    async def _compile(self, configuration: Configuration) -> Compiled:
        """Raises refusals.TableRefused."""
        rows = await self._store(Database.services)
        endpoints = await self._resolve(configuration, rows)
        number = await self._store(Database.next_table_number)
        try:
            compiled = compile_table(
                configuration, rows, endpoints, number=number, previous=self.table
            )
        except TooManyServers as error:
            raise Refused(str(error)) from error
        there = self._workers.shared.scoreboard.geometry.services
        highest = max((slot for slot, _ in compiled.words), default=0)
        if highest > there:
            raise Refused(
                f"there are counters for {there} services, and one has slot {highest}. "
                f"`turnout upgrade`, or a restart, makes room for more"
            )
        return compiled

    async def _prepare(self, configuration: Configuration, compiled: Compiled, reason: str) -> None:
        """Raises refusals.TableRefused."""
        shared, table = self._workers.shared, compiled.table
        self._watch(configuration, table, compiled.unresolved)
        try:
            error = await self._workers.prepare_table(table, _prepare_timeout_s(configuration))
        except OSError as fault:
            error = f"{shared.runtime_dir}: {fault.strerror}"
        if error:
            self._watch(self.configuration, self.table, self.unresolved)
            self._tell(TableRefused(number=table.number, reason=error))
            raise Refused(f"table {table.number} ({reason}) was not put in force: {error}")

    async def _commit(self, compiled: Compiled, reason: str) -> None:
        shared = self._workers.shared
        for slot, word in compiled.words:
            # New services alone: the words of the others are the executor's.
            if shared.word(slot) == RoutingWord(False, 0, 0):
                shared.set_word(slot, word)
        self.table = compiled.table
        self.unresolved = compiled.unresolved
        await self._workers.set_table_in_force(compiled.table.number)
        self._workers.delete_old_tables()
        self._tell(TablePublished(number=compiled.table.number, reason=reason))

    async def _retire(
        self, before: RoutingTable, after: RoutingTable, configuration: Configuration
    ) -> None:
        """Let what is under way to servers that went finish, up to the drain's deadline.

        `configuration` is the one of `before`: a service may have gone with its servers.
        """
        drains_s = {service.name: service.drain.timeout_s for service in configuration.services}
        services = {service.slot: service for service in before.services}
        for (slot, upstream), endpoints in gone(before, after).items():
            service = services[slot]
            # A table that was read from the committed copy may have services that the file lacks.
            drain_s = drains_s.get(service.name, max(drains_s.values()))
            result = await self._workers.retire_servers(slot, upstream, sorted(endpoints), drain_s)
            if result.entries:
                name = service.upstreams[upstream].name
                await self._on_cut(service.name, name, result.entries)

    def _retire_later(
        self, before: RoutingTable, after: RoutingTable, configuration: Configuration
    ) -> None:
        retiring = self._retire(before, after, configuration)
        task = asyncio.get_running_loop().create_task(retiring)
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)

    def publish_soon(self, reason: str) -> None:
        """As `publish`, for who cannot wait; a refusal has been told as an event. While the store
        cannot be used it is tried again."""

        async def run() -> None:
            while True:
                try:
                    return await self.publish(reason)
                except Refused:
                    return  # told by whoever refused
                except StoreUnusable as error:
                    self._tell(
                        ControlProblem(problem=f"{reason}: {error}", next="it is tried again")
                    )
                await asyncio.sleep(AGAIN_AFTER_S)

        task = asyncio.get_running_loop().create_task(run())
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)

    # ------------------------------------------------------------ reload

    async def reload(self, source: Source) -> Reloaded:
        """Put another configuration in force. Raises SettingsError when it is wrong."""
        pinned = replace(source, pinned=Pinned.of(self.configuration))
        restart = needs_restart(self.configuration, source.read())
        configuration = pinned.read()
        if error := unprotected(self.configuration.control, configuration.control):
            return Reloaded(error=error)
        async with self._lock:
            before = self.table
            try:
                rows = await self._store(
                    Database.ensure_services, service_names(configuration), time(), live=True
                )
                if error := without_servers(configuration, rows):
                    raise Refused(f"{pinned.file}: {error}")
                await self._keep_known(configuration, rows)
                compiled = await self._compile(configuration)
                if not same(compiled.table, before):
                    await self._prepare(configuration, compiled, "reload")
                self._configure(configuration)
            except (Refusal, UpstreamsSwapped) as error:
                self._watch(self.configuration, before, self.unresolved)
                return Reloaded(error=str(error))
            plan = await self._plan(configuration, pinned, compiled)
            refusal = await self._supervision.apply_plan(plan)
            if refusal:
                self._configure(self.configuration)
                self._watch(self.configuration, before, self.unresolved)
                return Reloaded(error=refusal)
            was = self.configuration
            changed = configuration != was
            self.source, self.configuration = pinned, configuration
            if not same(compiled.table, before):
                await self._commit(compiled, "reload")
            self.unresolved = compiled.unresolved
            self._watch(configuration, self.table, self.unresolved)
        self._changed()
        self._retire_later(before, self.table, was)
        return Reloaded(
            changed=changed,
            table=self.table.number,
            workers=configuration.workers,
            needs_restart=restart,
            unresolved=compiled.unresolved,
        )

    async def _keep_known(self, configuration: Configuration, rows: Sequence[ServiceRow]) -> None:
        """Keep the servers in force of upstreams that are discovered from now on, until their
        source has said something: it needs a moment, and requests come all the time."""
        known = {row.name: row for row in rows}
        for service in configuration.services:
            before, row = self.configuration.service(service.name), known[service.name]
            for index, upstream in enumerate(service.upstreams):
                if upstream.discover is None or servers_of(service, row, index):
                    continue
                if before is None or upstream.name not in before.names:
                    continue
                servers = servers_of(before, row, before.names.index(upstream.name))
                if servers:
                    detail = f"{upstream.name}={','.join(servers)}"
                    audit = Audit(Author("turnout"), "servers.keep", service.name, detail)
                    await self._store(
                        Database.set_discovered,
                        *(service.name, upstream.name, servers, time(), Note(audit)),
                    )

    async def _plan(self, configuration: Configuration, source: Source, compiled: Compiled) -> Plan:
        return make_plan(
            configuration,
            source,
            compiled,
            number=await self._store(Database.next_plan_number),
            epoch=self._workers.shared.epoch,
            control_argv=self._control_argv,
        )

    # ------------------------------------------------------------ the committed copy

    def committed(self) -> Committed:
        """What is in force now, for the copy beside the store."""
        shared = self._workers.shared
        words = tuple((service.slot, shared.word(service.slot)) for service in self.table.services)
        return Committed(self.table, words, shared.epoch)

    def write_committed(self, committed: Committed) -> None:
        """Blocks for the disk. Raises OSError."""
        write_committed(self.configuration, committed)

    def _changed(self) -> None:
        for follow in self.followers:
            follow()

    async def close(self) -> None:
        for task in self._retiring:
            task.cancel()
        await asyncio.gather(*self._retiring, return_exceptions=True)


def _prepare_timeout_s(configuration: Configuration) -> float:
    """Of a table that is for all services: the longest that one of them allows."""
    return max(service.switchover.prepare_timeout_s for service in configuration.services)


def read_table(runtime_dir: Path, number: int) -> RoutingTable:
    """The table of that number in the runtime directory. Raises TableError."""
    try:
        data = (runtime_dir / table_file(number)).read_bytes()
    except OSError as error:
        raise TableError(f"table {number} cannot be read: {error}") from error
    return decode(data)


def same(first: RoutingTable, second: RoutingTable) -> bool:
    """Whether two tables differ in nothing but their number."""
    return replace(first, number=0) == replace(second, number=0)


def gone(before: RoutingTable, after: RoutingTable) -> dict[tuple[int, int], set[str]]:
    """(Service slot, upstream) -> endpoints that the later table does not have any more."""
    kept = _endpoints(after)
    return {
        key: left
        for key, endpoints in _endpoints(before).items()
        if (left := endpoints - kept.get(key, set()))
    }


def _endpoints(table: RoutingTable) -> dict[tuple[int, int], set[str]]:
    return {
        (service.slot, index): {server.endpoint for server in upstream.servers}
        for service in table.services
        for index, upstream in enumerate(service.upstreams)
    }
