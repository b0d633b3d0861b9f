"""A short-lived process: configuration and store -> the plan that the supervisor reads.

The supervisor parses neither YAML nor SQL; it starts this as its child and reads the plan from
its standard output. Exit 2: the configuration is wrong, and stderr says where. When the store
cannot be read, the committed copy beside it is used, and the plan says that it is `degraded`.
"""

import contextlib
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from turnout.config import table as tables
from turnout.config.loader import SettingsError
from turnout.config.model import Configuration
from turnout.control.committed import Committed, read_committed
from turnout.control.database import Database
from turnout.control.rows import ServiceNames, ServiceRow, StoreUnusable, UpstreamsSwapped
from turnout.control.source import (
    PROGRAM,
    Pinned,
    Source,
    options,
    origin_options,
    read_source,
)
from turnout.control.tables import (
    Compiled,
    TooManyServers,
    compile_table,
    endpoints_of,
    names_to_resolve,
    without_servers,
)
from turnout.proxy.commands import EXIT_WRONG_CONFIGURATION, Plan, encode_plan
from turnout.proxy.scoreboard import (
    NEWEST_EPOCH,
    ROUTING_BYTES,
    ROUTING_FILE,
    SharedMemoryError,
    SharedWords,
)


def main(arguments: Sequence[str] | None = None) -> int:
    given = options(list(sys.argv[1:] if arguments is None else arguments))
    try:
        source = read_source(given)
        configuration = source.read()
        argv = origin_options(given)
        plan = compile_plan(configuration, source, argv, live=given.live)
    except UpstreamsSwapped as error:
        print(f"{source.file}: {error}", file=sys.stderr)
        return EXIT_WRONG_CONFIGURATION
    except (SettingsError, StoreUnusable, TooManyServers) as error:
        print(error, file=sys.stderr)
        return EXIT_WRONG_CONFIGURATION
    sys.stdout.buffer.write(encode_plan(plan))
    sys.stdout.flush()
    return 0


def compile_plan(
    configuration: Configuration, source: Source, control_argv: Sequence[str], *, live: bool = False
) -> Plan:
    """With `live`, workers serve and count already.

    Raises StoreUnusable when neither the store nor a committed copy can be used.
    """
    committed = read_committed(configuration)
    try:
        with contextlib.closing(Database(Path(configuration.state.path))) as database:
            compiled = _compile(configuration, database, committed, live)
            return make_plan(
                configuration,
                source,
                compiled,
                number=database.next_plan_number(),
                epoch=database.epoch(),
                control_argv=control_argv,
            )
    except StoreUnusable as error:
        if committed is None:
            raise
        return degraded_plan(configuration, source, control_argv, committed, str(error))


def _compile(
    configuration: Configuration, database: Database, committed: Committed | None, live: bool
) -> Compiled:
    if committed is not None:
        adopted = database.adopt(committed.services, committed.table.number, time.time())
        for row in adopted:
            print(f"{PROGRAM}: {older(configuration.state.path, row)}", file=sys.stderr)
    rows = database.ensure_services(service_names(configuration), time.time(), live=live)
    runtime_dir = Path(configuration.runtime_dir)
    # A directory that outlives its store must not see a number or an epoch a second time.
    database.raise_epoch(_newest_epoch(runtime_dir))
    number = database.next_table_number()
    while number <= _highest_table(runtime_dir):
        number = database.next_table_number()
    previous = committed.table if committed is not None else None
    found = resolve_now(configuration, rows, endpoints_of(previous))
    compiled = compile_table(configuration, rows, found, number=number, previous=previous)
    if problem := without_servers(configuration, rows):
        print(f"{PROGRAM}: {problem}; until then it gets 503", file=sys.stderr)
    for lost in compiled.unresolved:
        print(
            f"{PROGRAM}: {lost.address} of {lost.service}/{lost.upstream} cannot be resolved; it "
            f"gets no traffic until it can. Try `getent ahosts {lost.address.rpartition(':')[0]}`",
            file=sys.stderr,
        )
    return compiled


def older(path: str, row: ServiceRow) -> str:
    """What is told when a store is behind the routing that is, or was, in force."""
    return (
        f"{path} is older than the routing that was committed last (a restored copy?): {row.name}"
        f" goes on with {row.weights}, and what was decided in between is not in its history"
    )


def make_plan(
    configuration: Configuration,
    source: Source,
    compiled: Compiled,
    *,
    number: int,
    epoch: int,
    control_argv: Sequence[str],
    degraded: str = "",
) -> Plan:
    """What the supervisor has to know of a configuration."""
    return Plan(
        number=number,
        workers=configuration.workers,
        binds=[str(listener.bind) for listener in configuration.listeners],
        runtime_dir=configuration.runtime_dir,
        table=tables.document(compiled.table),
        words=[[slot, word.pack()] for slot, word in compiled.words],
        epoch=epoch,
        health=[],
        service_capacity=compiled.capacity,
        inflight_slots=configuration.limits.in_flight_named,
        shutdown_s=configuration.timeouts.shutdown_s,
        watchdog_s=configuration.timeouts.watchdog_s,
        control_argv=list(control_argv),
        control_bind=str(configuration.control.bind),
        configuration=replace(source, pinned=Pinned.of(configuration)).document(),
        degraded=degraded,
    )


def degraded_plan(
    configuration: Configuration,
    source: Source,
    control_argv: Sequence[str],
    committed: Committed,
    reason: str,
) -> Plan:
    """Serve what was committed last: the listeners of the file, the table and weights of then."""
    compiled = Compiled(committed.table, committed.words, ())
    return make_plan(
        configuration,
        source,
        compiled,
        number=0,
        epoch=committed.epoch,
        control_argv=control_argv,
        degraded=f"{reason}; serving the routing that was committed last",
    )


def service_names(configuration: Configuration) -> list[ServiceNames]:
    """The services as the store wants to know them."""
    return [
        ServiceNames(
            name=service.name,
            first=service.names[0],
            second=service.names[1],
            initial_second_weight=service.initial_weights.second_weight,
        )
        for service in configuration.services
    ]


def _newest_epoch(runtime_dir: Path) -> int:
    try:
        routing = SharedWords(runtime_dir / ROUTING_FILE, ROUTING_BYTES, create=False)
    except (OSError, SharedMemoryError):
        return 0
    newest = routing.words[NEWEST_EPOCH]
    routing.close()
    return newest


def _highest_table(runtime_dir: Path) -> int:
    numbers = [path.stem.removeprefix("table-") for path in runtime_dir.glob("table-*.json")]
    return max((int(number) for number in numbers if number.isdigit()), default=0)


def resolve_now(
    configuration: Configuration, rows: Sequence[ServiceRow], known: Mapping[str, Sequence[str]]
) -> Mapping[str, Sequence[str]]:
    """Look the servers' names up once, all at the same time; what is not found in time keeps
    what is known. For the start only: later the resolver keeps to each name's TTL."""
    names = names_to_resolve(configuration, rows)
    if not names:
        return {}
    # Here, as these take a quarter of a second to import, and most have addresses only.
    import asyncio

    from turnout.control.resolver import Resolver

    async def look_up() -> Mapping[str, Sequence[str]]:
        policy = configuration.resolver
        resolver = Resolver(policy, changed=lambda found: None, tell=lambda what, remedy: None)
        resolver.watch(names, known)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(resolver.looked_up(), policy.timeout_s)
        found = resolver.endpoints()
        await resolver.close()
        return found

    return asyncio.run(look_up())


if __name__ == "__main__":
    sys.exit(main())
