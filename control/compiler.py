"""A short-lived process: configuration and store -> the plan that the supervisor reads.

The supervisor parses neither YAML nor SQL; it starts this as its child and reads the plan from
its standard output. Exit 2: the configuration is wrong, and stderr says where. When the store
cannot be read, the committed copy beside it is used, and the plan says that it is `degraded`.
"""

import argparse
import os
import queue
import socket
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from turnout.config import table as tables
from turnout.config.address import Address
from turnout.config.loader import SettingsError, load, load_text
from turnout.config.model import Configuration
from turnout.control.committed import Committed, read_committed
from turnout.control.database import Database
from turnout.control.rows import ServiceNames, StoreUnusable
from turnout.control.tables import Compiled, TooManyServers, compile_table, names_to_resolve
from turnout.proxy.commands import EXIT_WRONG_CONFIGURATION, Plan, encode_plan
from turnout.proxy.scoreboard import (
    NEWEST_EPOCH,
    ROUTING_BYTES,
    ROUTING_FILE,
    SharedMemoryError,
    SharedWords,
)

PROGRAM: Final = "turnout"


@dataclass(frozen=True, slots=True)
class Source:
    """A configuration's text, and what is needed to read it again as it was."""

    text: str
    file: str
    base: str
    source: str

    def read(self) -> Configuration:
        """Raises SettingsError."""
        return load_text(self.text, file=self.file, base=Path(self.base), source=self.source)

    def document(self) -> dict[str, Any]:
        """As `Plan.configuration` keeps it."""
        return {"text": self.text, "file": self.file, "base": self.base, "source": self.source}


def options(arguments: Sequence[str]) -> argparse.Namespace:
    """`--config FILE` or `--inline TEXT`, and what the supervisor adds for control."""
    parser = argparse.ArgumentParser(prog=PROGRAM, allow_abbrev=False)
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--config", type=Path)
    where.add_argument("--inline")
    parser.add_argument("--runtime-dir", type=Path)
    parser.add_argument("--generation", default="")
    return parser.parse_args(arguments)


def read_source(given: argparse.Namespace) -> Source:
    """The text that the options name. Raises SettingsError when the file cannot be read."""
    if given.inline is not None:
        return Source(text=given.inline, file="options", base=os.getcwd(), source="")
    path = Path(given.config)
    load(path)  # says what is wrong with a file that cannot be read as text
    absolute = Path(os.path.abspath(path))
    return Source(
        text=path.read_text("utf-8-sig"),
        file=str(path),
        base=str(absolute.parent),
        source=str(absolute),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    given_arguments = list(sys.argv[1:] if arguments is None else arguments)
    given = options(given_arguments)
    try:
        source = read_source(given)
        configuration = source.read()
        plan = compile_plan(configuration, source, given_arguments)
    except (SettingsError, StoreUnusable, TooManyServers) as error:
        print(error, file=sys.stderr)
        return EXIT_WRONG_CONFIGURATION
    sys.stdout.buffer.write(encode_plan(plan))
    sys.stdout.flush()
    return 0


def compile_plan(configuration: Configuration, source: Source, control_argv: Sequence[str]) -> Plan:
    """Raises StoreUnusable when neither the store nor a committed copy can be read."""
    committed = read_committed(configuration)
    try:
        database = Database(Path(configuration.state.path))
    except StoreUnusable as error:
        if committed is None:
            raise
        return degraded_plan(configuration, source, control_argv, committed, str(error))
    rows = database.ensure_services(service_names(configuration), time.time(), live=False)
    runtime_dir = Path(configuration.runtime_dir)
    # A directory that outlives its store must not see a number or an epoch a second time.
    database.raise_epoch(_newest_epoch(runtime_dir))
    number = database.next_table_number()
    while number <= _highest_table(runtime_dir):
        number = database.next_table_number()
    found = resolve_now(names_to_resolve(configuration, rows), configuration.resolver.timeout_s)
    compiled = compile_table(
        configuration,
        rows,
        found,
        number=number,
        previous=committed.table if committed is not None else None,
    )
    for lost in compiled.unresolved:
        print(
            f"{PROGRAM}: server.unresolved service={lost.service} upstream={lost.upstream} "
            f'address={lost.address} next="it gets no traffic until its name resolves"',
            file=sys.stderr,
        )
    plan = make_plan(
        configuration,
        source,
        compiled,
        number=database.next_plan_number(),
        epoch=database.epoch(),
        control_argv=control_argv,
    )
    database.close()
    return plan


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
        control_argv=list(control_argv),
        control_bind=str(configuration.control.bind),
        configuration=source.document(),
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


def resolve_now(names: Iterable[str], timeout_s: float) -> dict[str, list[str]]:
    """Look the names up, all at once; those that take longer than `timeout_s` are left out.

    For the start only: later the resolver keeps to each name's TTL.
    """
    answers: queue.Queue[tuple[str, list[str]]] = queue.Queue()
    waiting = set(names)
    for name in waiting:
        # A daemon thread: getaddrinfo cannot be told to stop, and must not keep us.
        threading.Thread(target=_look_up, args=(name, answers), daemon=True).start()
    deadline_s = time.monotonic() + timeout_s
    found: dict[str, list[str]] = {}
    while waiting:
        try:
            name, endpoints = answers.get(timeout=max(0.0, deadline_s - time.monotonic()))
        except queue.Empty:
            break
        waiting.discard(name)
        found[name] = endpoints
    return found


def _look_up(name: str, answers: "queue.Queue[tuple[str, list[str]]]") -> None:
    address = Address.parse(name)
    try:
        infos = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    except OSError:
        answers.put((name, []))
        return
    hosts = dict.fromkeys(str(info[4][0]) for info in infos)
    answers.put(
        (
            name,
            [
                f"[{host}]:{address.port}" if ":" in host else f"{host}:{address.port}"
                for host in hosts
            ],
        )
    )


if __name__ == "__main__":
    sys.exit(main())
