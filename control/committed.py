"""The committed copy: table and words beside the store, for when the store cannot be read.

Serving after a reboot must need neither control nor a readable database. Control rewrites
the copy after each commit; the compiler reads it.
"""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from turnout.config import table as tables
from turnout.config.model import Configuration
from turnout.config.table import RoutingTable, TableError
from turnout.control.ledger import COMMITTED_SUFFIX
from turnout.control.rows import InForce
from turnout.proxy.scoreboard import RoutingWord

SUFFIX: Final = COMMITTED_SUFFIX


@dataclass(frozen=True, slots=True)
class Committed:
    table: RoutingTable
    words: tuple[tuple[int, RoutingWord], ...]
    """(service slot, word)."""
    epoch: int

    @property
    def services(self) -> tuple[InForce, ...]:
        """What was in force of each service."""
        words = dict(self.words)
        return in_force(self.table, lambda slot: words.get(slot, RoutingWord(False, 0, 0)))


def in_force(table: RoutingTable, word: Callable[[int], RoutingWord]) -> tuple[InForce, ...]:
    """The services of a table, with their words by slot."""
    return tuple(
        InForce(
            service.slot,
            service.name,
            service.upstreams[0].name,
            service.upstreams[1].name,
            (found := word(service.slot)).second_weight,
            found.hold,
            found.epoch,
        )
        for service in table.services
    )


def committed_path(configuration: Configuration) -> Path:
    """Beside the store, so that it is on a disk and of the same store."""
    return Path(configuration.state.path + SUFFIX)


def read_committed(configuration: Configuration) -> Committed | None:
    """The copy, or None when there is none that can be used."""
    try:
        document = json.loads(committed_path(configuration).read_bytes())
        return Committed(
            table=tables.decode(json.dumps(document["table"]).encode()),
            words=tuple((slot, RoutingWord.unpack(word)) for slot, word in document["words"]),
            epoch=document["epoch"],
        )
    except (OSError, ValueError, KeyError, TypeError, TableError):
        return None


def write_committed(configuration: Configuration, committed: Committed) -> None:
    """Replace the copy as a whole, on the disk. Raises OSError."""
    document = {
        "table": tables.document(committed.table),
        "words": [[slot, word.pack()] for slot, word in committed.words],
        "epoch": committed.epoch,
    }
    path = committed_path(configuration)
    unfinished = path.with_name(f".{path.name}.new")
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with open(descriptor, "wb") as file:
        file.write(json.dumps(document, separators=(",", ":")).encode())
        file.flush()
        os.fsync(file.fileno())
    os.rename(unfinished, path)
