"""Control's end of the shared memory: it writes the words, and reads the scoreboard.

The one place that stores a routing word, in the order that readers rely on.
"""

import ctypes
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from turnout.proxy.scoreboard import (
    C_REFUSED,
    CLASS_NAMES,
    HEALTH_BYTES,
    HEALTH_FILE,
    NEWEST_EPOCH,
    R_EPOCH_SEEN,
    R_TABLE_IN_FORCE,
    R_TABLE_LOADED,
    R_WORKER,
    REFUSED_REASONS,
    REGION_HEADER_WORDS,
    ROUTING_BYTES,
    ROUTING_FILE,
    TABLE_IN_FORCE,
    HealthWord,
    RoutingWord,
    Scoreboard,
    SharedWords,
    service_word_index,
)
from turnout.proxy.scoreboards import Scoreboards

_STORES_KEEP_THEIR_ORDER: Final = platform.machine() in ("x86_64", "AMD64", "i686")
_MEMBARRIER: Final[Mapping[str, int]] = {"aarch64": 283, "riscv64": 283, "ppc64le": 365}
_MEMBARRIER_GLOBAL: Final = 1


class SharedState:
    """Routing words, health words and scoreboard of one runtime directory, mapped."""

    __slots__ = ("_health", "_routing", "boards", "runtime_dir")

    def __init__(self, runtime_dir: Path) -> None:
        """Map what the supervisor has made. Raises SharedMemoryError or OSError."""
        self.runtime_dir = runtime_dir
        self._routing = SharedWords(runtime_dir / ROUTING_FILE, ROUTING_BYTES, create=False)
        self._health = SharedWords(runtime_dir / HEALTH_FILE, HEALTH_BYTES, create=False)
        self.boards = Scoreboards(runtime_dir)
        """All scoreboards that still count: read as one."""

    def close(self) -> None:
        self._routing.close()
        self._health.close()
        self.boards.close()

    @property
    def scoreboard(self) -> Scoreboard:
        """The one of this program's workers."""
        return self.boards.newest

    # ------------------------------------------------------------ words

    def word(self, slot: int) -> RoutingWord:
        return RoutingWord.unpack(self._routing.words[service_word_index(slot)])

    def set_word(self, slot: int, word: RoutingWord) -> None:
        """The flip: from here on every worker chooses by this word.

        The newest epoch is stored after it: a worker that has seen that epoch will see the
        word, and only then may an old upstream be said to be drained.
        """
        words = self._routing.words
        words[service_word_index(slot)] = word.pack()
        _keep_order()
        words[NEWEST_EPOCH] = max(words[NEWEST_EPOCH], word.epoch)

    @property
    def epoch(self) -> int:
        """The newest epoch of all services."""
        return self._routing.words[NEWEST_EPOCH]

    @property
    def table_in_force(self) -> int:
        return self._routing.words[TABLE_IN_FORCE]

    def set_table_in_force(self, number: int) -> None:
        """From here on every worker serves from this table; they have to hold it already."""
        self._routing.words[TABLE_IN_FORCE] = number
        _keep_order()

    def health(self, health_slot: int) -> HealthWord:
        return HealthWord(self._health.words[health_slot])

    def set_health(self, health_slot: int, word: HealthWord) -> None:
        self._health.words[health_slot] = word

    # ------------------------------------------------------------ workers

    def live_regions(self) -> list[int]:
        """Regions whose worker may still send something."""
        return self.boards.live_regions()

    def worker_of(self, region: int) -> int:
        return self._of_region(region, R_WORKER)

    def behind(self, epoch: int) -> list[int]:
        """Live regions whose worker may still act on a word older than `epoch`."""
        return [
            region
            for region in self.live_regions()
            if self._of_region(region, R_EPOCH_SEEN) < epoch
        ]

    def without_table(self, number: int) -> list[int]:
        """Live regions whose worker has not loaded this table, nor a later one."""
        return [
            region
            for region in self.live_regions()
            if self._of_region(region, R_TABLE_LOADED) < number
        ]

    def serving_older(self, number: int) -> list[int]:
        """Live regions whose worker serves from an older table than this."""
        return [
            region
            for region in self.live_regions()
            if self._of_region(region, R_TABLE_IN_FORCE) < number
        ]

    def tables_in_use(self) -> set[int]:
        """Numbers of the tables that a word or a live worker names."""
        used = {self.table_in_force}
        for region in self.live_regions():
            used.add(self._of_region(region, R_TABLE_IN_FORCE))
            used.add(self._of_region(region, R_TABLE_LOADED))
        return used

    def _of_region(self, region: int, field: int) -> int:
        return self.boards.field(region, field)

    # ------------------------------------------------------------ in flight

    def in_flight(self, slot: int, upstream: int) -> dict[int, int]:
        """Region -> exchanges of an upstream under way, for live workers that have some.

        By the counters, which are the truth; a worker's death makes the remainder of its
        region `cut`, so that a region without a worker has none.
        """
        found = {
            region: self.boards.upstream_in_flight(region, slot, upstream)
            for region in self.live_regions()
        }
        return {region: number for region, number in found.items() if number}

    def refused(self) -> int:
        """Heads that never completed or could not be read, of all workers together."""
        first = C_REFUSED - REGION_HEADER_WORDS
        return sum(self.boards.worker_counters()[first : first + len(REFUSED_REASONS)])

    def service_in_flight(self, slot: int) -> int:
        """Exchanges of a service under way in all live workers, held ones included."""
        return sum(self.boards.service_in_flight(region, slot) for region in self.live_regions())

    def in_flight_by_class(self, slot: int, upstream: int) -> dict[str, int]:
        """By the in-flight tables: what the class of each is; busy workers may differ from
        `in_flight` by what changed in between."""
        found = dict.fromkeys(CLASS_NAMES, 0)
        for region in self.live_regions():
            for entry in self.boards.in_flight(region):
                if entry.slot == slot and entry.upstream == upstream:
                    found[CLASS_NAMES[entry.kind]] += 1
        return found


def _keep_order() -> None:
    """Let no other process see the next store before the last one.

    x86-64 keeps the order of stores by itself. Elsewhere membarrier(2) is asked for; where
    there is none the order is not kept, and Turnout is not supported.
    """
    if not _STORES_KEEP_THEIR_ORDER and platform.machine() in _MEMBARRIER:
        ctypes.CDLL(None).syscall(_MEMBARRIER[platform.machine()], _MEMBARRIER_GLOBAL, 0)
