"""A short-lived process: the program that is installed now shows that it can take over.

The running supervisor starts it before it becomes this program. Everything that an upgrade
needs is tried on copies, and nothing is changed: what fails here costs nothing. Exit 1 or 2,
and stderr says why; else a `Proof` on the standard output.
"""

import argparse
import contextlib
import importlib
import sqlite3
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from turnout.config.loader import SettingsError
from turnout.config.model import Configuration
from turnout.config.table import TableError, decode
from turnout.control.compiler import compile_plan
from turnout.control.rows import StoreUnusable, UpstreamsSwapped
from turnout.control.source import Source, options, origin_options, read_source
from turnout.control.tables import TooManyServers
from turnout.control.versions import version
from turnout.proxy.commands import (
    EXIT_WRONG_CONFIGURATION,
    PLAN_FILE,
    VERSION,
    Plan,
    ProtocolError,
    decode_plan,
    program_generation,
    table_file,
)
from turnout.proxy.scoreboard import (
    ROUTING_BYTES,
    ROUTING_FILE,
    TABLE_IN_FORCE,
    Geometry,
    Scoreboard,
    SharedMemoryError,
    SharedWords,
)
from turnout.proxy.scoreboards import Scoreboards
from turnout.proxy.upgrading import HANDOVER_VERSION, PROOF_PREFIX, Proof, encode

PROCESSES: Final = ("turnout.supervisor", "turnout.proxy.worker", "turnout.control.app")
"""By name: control knows neither the data plane nor the supervisor."""
REGIONS_MIN: Final = 8


class NoProof(Exception):
    """The program cannot take over; the text says why and what to do."""


def main(arguments: Sequence[str] | None = None) -> int:
    given = options(list(sys.argv[1:] if arguments is None else arguments))
    try:
        proof = prove(given)
    except (NoProof, SharedMemoryError) as error:
        print(error, file=sys.stderr)
        return 1
    except UpstreamsSwapped as error:
        print(f"{given.config}: {error}", file=sys.stderr)
        return EXIT_WRONG_CONFIGURATION
    except (SettingsError, StoreUnusable, TooManyServers) as error:
        print(error, file=sys.stderr)
        return EXIT_WRONG_CONFIGURATION
    sys.stdout.buffer.write(encode(proof))
    sys.stdout.flush()
    return 0


def prove(given: argparse.Namespace) -> Proof:
    """Try everything. Raises NoProof, and what reading configuration and store raises."""
    _speaks_with(given.messages, given.handover)
    _imports()
    source = read_source(given)
    configuration = source.read()
    plan = _compiled(configuration, source, given)
    _runtime_directory(given.runtime_dir, configuration, plan)
    return Proof(
        version=version(),
        generation=program_generation(),
        workers=plan.workers,
        binds=plan.binds,
        service_capacity=plan.service_capacity,
        inflight_slots=plan.inflight_slots,
    )


def _speaks_with(messages: int, handover: int) -> None:
    """Whether what the running program leaves and says is understood."""
    if messages != VERSION or handover != HANDOVER_VERSION:
        raise NoProof(
            f"the running program has messages of version {messages} and hands over by version"
            f" {handover}, this one knows {VERSION} and {HANDOVER_VERSION}: restart turnout instead"
        )


def _imports() -> None:
    for name in PROCESSES:
        try:
            importlib.import_module(name)
        except Exception as error:
            raise NoProof(f"{name} cannot be loaded: {type(error).__name__}: {error}") from error


def _compiled(configuration: Configuration, source: Source, given: argparse.Namespace) -> Plan:
    """The plan, by a copy of the store: the running control goes on with the original, and a
    newer program may change what it opens."""
    store = Path(configuration.state.path)
    with tempfile.TemporaryDirectory(prefix=PROOF_PREFIX, dir=given.runtime_dir) as directory:
        copy = Path(directory) / "store.db"
        try:
            with (
                contextlib.closing(sqlite3.connect(f"file:{store}?mode=ro", uri=True)) as original,
                contextlib.closing(sqlite3.connect(copy)) as into,
            ):
                original.backup(into)
        except sqlite3.Error as error:
            raise NoProof(f"the store {store} cannot be read: {error}") from error
        state = replace(configuration.state, path=str(copy))
        return compile_plan(
            replace(configuration, state=state), source, origin_options(given), live=True
        )


def _runtime_directory(runtime_dir: Path, configuration: Configuration, plan: Plan) -> None:
    """Whether what the running workers use is understood, and there is room for ours."""
    if Path(configuration.runtime_dir) != runtime_dir:
        raise NoProof(
            f"runtime_dir is {configuration.runtime_dir}, and turnout runs in {runtime_dir}: that"
            " changes with a restart only"
        )
    try:
        decode_plan((runtime_dir / PLAN_FILE).read_bytes())
        routing = SharedWords(runtime_dir / ROUTING_FILE, ROUTING_BYTES, create=False)
        number = routing.words[TABLE_IN_FORCE]
        routing.close()
        decode((runtime_dir / table_file(number)).read_bytes())
    except (OSError, TableError, ProtocolError) as error:
        raise NoProof(
            f"what is in force in {runtime_dir} is not understood ({error}): restart turnout"
            " instead"
        ) from error
    Scoreboards(runtime_dir).close()
    geometry = Geometry(
        max(REGIONS_MIN, 3 * plan.workers), plan.service_capacity, plan.inflight_slots
    )
    with tempfile.TemporaryDirectory(prefix=PROOF_PREFIX, dir=runtime_dir) as directory:
        Scoreboard.create(Path(directory), geometry, 0).close()


if __name__ == "__main__":
    sys.exit(main())
