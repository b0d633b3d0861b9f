"""CONTRACT with control and supervisor: all scoreboards that still count, read as one.

A scoreboard's layout is the program's that made it. After an upgrade the new workers may need
another one, while the old workers still write theirs until they have finished. So there may be
several files: the newest is `scoreboard`, and its header names the earlier ones that are still
to be read (`scoreboard.8` begins with region 8). What workers counted that are gone is carried
over into the newest file when that is made, so no counter ever falls.

Every file says in its header what its counters are called and where they are. A file of
another layout is read by these names (`Foreign`); one of our own layout as it is.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any, Final, Protocol

from turnout.proxy import scoreboard as own
from turnout.proxy.scoreboard import (
    BEFORE_MAX,
    FILE_HEADER_BYTES,
    INFLIGHT_WORDS,
    REGION_HEADER_WORDS,
    SCOREBOARD_FILE,
    SERVICE_WORDS,
    UPSTREAM_WORDS,
    WORD,
    WORKER_COUNTER_WORDS,
    FileHeader,
    Geometry,
    InFlight,
    Scoreboard,
    SharedMemoryError,
    SharedWords,
    WorkerState,
    read_file_header,
)

INFLIGHT_FORMAT: Final = 1
"""Of a slot of the in-flight table; raised when a reader of the old one would misread it."""

_REGION: Final[Mapping[str, int]] = {
    "pid": own.R_PID,
    "state": own.R_STATE,
    "worker": own.R_WORKER,
    "started_us": own.R_STARTED_US,
    "heartbeat_us": own.R_HEARTBEAT_US,
    "epoch_seen": own.R_EPOCH_SEEN,
    "table_loaded": own.R_TABLE_LOADED,
    "table_in_force": own.R_TABLE_IN_FORCE,
    "connections": own.R_CONNECTIONS,
    "starts": own.R_STARTS,
    "upstream_connections": own.R_UPSTREAM_CONNECTIONS,
    "accept_paused": own.R_ACCEPT_PAUSED,
    "deaths": own.R_DEATHS,
}
_FIELD_NAMES: Final = {offset: name for name, offset in _REGION.items()}


def _group(group: str, labels: Sequence[object], first: int) -> dict[str, int]:
    return {f"{group}.{label}": first + index for index, label in enumerate(labels)}


_WORKER: Final[Mapping[str, int]] = {
    "connections_accepted": own.C_CONNECTIONS_ACCEPTED - REGION_HEADER_WORDS,
    "log_lines_dropped": own.C_LOG_LINES_DROPPED - REGION_HEADER_WORDS,
    "unexpected_errors": own.C_UNEXPECTED_ERRORS - REGION_HEADER_WORDS,
    "accept_pauses": own.C_ACCEPT_PAUSES - REGION_HEADER_WORDS,
    "connects_without_descriptor": own.C_CONNECTS_WITHOUT_DESCRIPTOR - REGION_HEADER_WORDS,
    **_group("peer", own.PEER_FAULTS, own.C_PEER_FAULTS - REGION_HEADER_WORDS),
    **_group("refused", own.REFUSED_REASONS, own.C_REFUSED - REGION_HEADER_WORDS),
}
_UPSTREAM: Final[Mapping[str, int]] = {
    "picked": own.U_PICKED,
    **_group("answered", own.CODE_LABELS, own.U_ANSWERED),
    **_group("proxy", own.PROXY_CODE_LABELS, own.U_PROXY),
    "aborted": own.U_ABORTED,
    **_group("cut", own.CUT_REASONS, own.U_CUT),
    "unhealthy_picks": own.U_UNHEALTHY_PICKS,
    "attempts_failed": own.U_ATTEMPTS_FAILED,
    "latency_sum_us": own.U_LATENCY_SUM_US,
    **_group("latency", [*own.LATENCY_BOUNDS_MS, "more"], own.U_LATENCY),
}
_SERVICE: Final[Mapping[str, int]] = {
    "accepted": own.S_ACCEPTED,
    **_group("proxy", own.PROXY_CODE_LABELS, own.S_PROXY),
    "aborted": own.S_ABORTED,
    **_group("cut", own.CUT_REASONS, own.S_CUT),
    **_group("retries", own.RETRY_REASONS, own.S_RETRIES),
    **_group("not_retried", own.NOT_RETRIED_REASONS, own.S_NOT_RETRIED),
    **_group("entered", ("first", "second"), own.S_ENTERED),
}


def description(geometry: Geometry) -> bytes:
    """What the header of a file of our layout says of it."""
    document = {
        "region_words": geometry.region_words,
        "region": _REGION,
        "worker_at": REGION_HEADER_WORDS,
        "worker": _WORKER,
        "services_at": geometry.services_offset,
        "service_words": SERVICE_WORDS,
        "upstreams_at": [0, UPSTREAM_WORDS],
        "upstream": _UPSTREAM,
        "service": _SERVICE,
        "inflight_at": geometry.inflight_offset,
        "inflight_words": INFLIGHT_WORDS,
        "inflight_format": INFLIGHT_FORMAT,
    }
    return json.dumps(document, separators=(",", ":")).encode()


class Board(Protocol):
    """One scoreboard, of whatever layout; what is given is in our own."""

    @property
    def first(self) -> int: ...
    @property
    def geometry(self) -> Geometry: ...
    @property
    def numbers(self) -> range: ...
    def field(self, region: int, offset: int) -> int: ...
    def state(self, region: int) -> WorkerState: ...
    def live_regions(self) -> list[int]: ...
    def restarts(self) -> int: ...
    def count_death(self, region: int) -> None: ...
    def upstream_in_flight(self, region: int, slot: int, upstream: int) -> int: ...
    def service_in_flight(self, region: int, slot: int) -> int: ...
    def service_counters(self, slot: int) -> list[int]: ...
    def worker_counters(self) -> list[int]: ...
    def in_flight(self, region: int) -> Iterator[InFlight]: ...
    def settle(self, region: int) -> list[InFlight]: ...
    def close(self) -> None: ...


class Scoreboards:
    """All scoreboards of a runtime directory that still count, the newest first."""

    __slots__ = ("_directory", "boards")

    def __init__(self, directory: Path, *, must_exist: bool = True) -> None:
        """Map what is there. Raises SharedMemoryError; with `must_exist` also when that is
        nothing. An earlier one that cannot be read any more is left out."""
        self._directory = directory
        self.boards: list[Board] = []
        try:
            header = read_file_header(directory / SCOREBOARD_FILE)
        except SharedMemoryError:
            if must_exist:
                raise
            return
        self.boards.append(_open(directory, SCOREBOARD_FILE, header))
        for first in header.before:
            with suppress(SharedMemoryError):
                name = _kept_name(first)
                self.boards.append(_open(directory, name, read_file_header(directory / name)))

    def close(self) -> None:
        for board in self.boards:
            board.close()

    @property
    def is_own(self) -> bool:
        """Whether workers of this program can be started into the newest."""
        return isinstance(self.boards[0], Scoreboard)

    @property
    def newest(self) -> Scoreboard:
        """The one that workers of this program are started into."""
        newest = self.boards[0]
        assert isinstance(newest, Scoreboard), "it was made for this program"
        return newest

    @property
    def geometry(self) -> Geometry:
        return self.boards[0].geometry

    @property
    def identity(self) -> int:
        """Tells whether two samples are of the same counters; the same over all files."""
        return self.newest.identity

    @property
    def run(self) -> int:
        return self.newest.run

    @run.setter
    def run(self, value: int) -> None:
        self.newest.run = value

    # ------------------------------------------------------------ another one

    def make_room(self, wanted: Geometry, workers: int, identity: int) -> bool:
        """Have a newest scoreboard of our layout, with these sizes and free regions for so many
        workers; whether one had to be made. `identity` is for the very first.

        The dead of all others have to be settled. Raises SharedMemoryError when there is no
        room, and then nothing is changed.
        """
        if self.boards and self._fits(wanted, workers):
            return False
        before = self.boards
        kept = [board for board in before if board.live_regions()]
        if len(kept) >= BEFORE_MAX:
            raise SharedMemoryError(
                f"workers of {len(kept)} scoreboards are still finishing, and there can be no more:"
                " wait until some have left, or restart turnout"
            )
        gone = [board for board in before if board not in kept]
        header = read_file_header(self._directory / SCOREBOARD_FILE) if before else None
        first = before[0].numbers.stop + 1 if before else 0
        made = Scoreboard.make(
            self._directory,
            wanted,
            header.identity if header is not None else identity,
            first=first,
            before=[board.first for board in kept],
            description=description(wanted),
        )
        made.run = header.run if header is not None else 0
        for board in gone:
            _carry(board, made)
        if before and before[0] in kept:
            name = self._directory / _kept_name(before[0].first)
            name.unlink(missing_ok=True)
            os.link(self._directory / SCOREBOARD_FILE, name)
        made.put_in_place()
        for board in gone:
            # Whoever still reads it has mapped it; the sums are the same in both.
            (self._directory / _kept_name(board.first)).unlink(missing_ok=True)
            board.close()
        self.boards = [made, *kept]
        return True

    def _fits(self, wanted: Geometry, workers: int) -> bool:
        newest = self.boards[0]
        if not isinstance(newest, Scoreboard):
            return False
        found = newest.geometry
        free = found.regions - len(newest.live_regions())
        return (
            found.regions >= wanted.regions
            and found.services >= wanted.services
            and found.inflight == wanted.inflight
            and free >= workers
        )

    # ------------------------------------------------------------ reading

    def board_of(self, region: int) -> Board:
        """The scoreboard that has this region. Raises IndexError."""
        for board in self.boards:
            if region in board.numbers:
                return board
        raise IndexError(f"no scoreboard has region {region}")

    @property
    def numbers(self) -> list[int]:
        """All regions, whether somebody uses them or not."""
        return [number for board in self.boards for number in board.numbers]

    def live_regions(self) -> list[int]:
        """Regions whose worker may still send something: all that are not free or dead."""
        return [number for board in self.boards for number in board.live_regions()]

    def state(self, region: int) -> WorkerState:
        return self.board_of(region).state(region)

    def field(self, region: int, offset: int) -> int:
        """A word of a region's header, `R_…`."""
        return self.board_of(region).field(region, offset)

    def restarts(self) -> int:
        """Workers that died, and were started anew."""
        return sum(board.restarts() for board in self.boards)

    def count_death(self, region: int) -> None:
        """The worker of a region ended without having been told to."""
        self.board_of(region).count_death(region)

    def upstream_in_flight(self, region: int, slot: int, upstream: int) -> int:
        return self.board_of(region).upstream_in_flight(region, slot, upstream)

    def service_in_flight(self, region: int, slot: int) -> int:
        return self.board_of(region).service_in_flight(region, slot)

    def service_counters(self, slot: int) -> list[int]:
        """The service's block summed over all workers that there ever were."""
        return _sum([board.service_counters(slot) for board in self.boards])

    def worker_counters(self) -> list[int]:
        return _sum([board.worker_counters() for board in self.boards])

    def in_flight(self, region: int) -> Iterator[InFlight]:
        return self.board_of(region).in_flight(region)

    def settle(self, region: int) -> list[InFlight]:
        return self.board_of(region).settle(region)


def _kept_name(first: int) -> str:
    return f"{SCOREBOARD_FILE}.{first}"


def _sum(blocks: Sequence[list[int]]) -> list[int]:
    return blocks[0] if len(blocks) == 1 else [sum(words) for words in zip(*blocks, strict=True)]


def _open(directory: Path, name: str, header: FileHeader) -> Board:
    if header.description in (b"", description(header.geometry)) and header.layout == own.LAYOUT:
        return Scoreboard.open(directory, name)
    return Foreign(directory / name, header)


def _carry(board: Board, to: Scoreboard) -> None:
    """Add what a scoreboard without workers counted to the region that no worker has."""
    words, carried = to.words, to.carried
    for slot in range(min(board.geometry.services, to.geometry.services) + 1):
        base = to.service(carried, slot)
        for index, count in enumerate(board.service_counters(slot)):
            words[base + index] += count
    base = to.region(carried) + REGION_HEADER_WORDS
    for index, count in enumerate(board.worker_counters()):
        words[base + index] += count
    words[to.region(carried) + own.R_DEATHS] += board.restarts()


# ---------------------------------------------------------------- of another layout


class Foreign:
    """A scoreboard of another layout, read by the names of its counters.

    What it counts under a name that we do not have is added to the last of that name's group
    (`answered.other`), so that the sums stay whole.
    """

    __slots__ = (
        "_inflight_at", "_memory", "_named", "_region", "_region_words", "_service",
        "_service_words", "_services_at", "_words", "_worker", "first", "geometry",
    )  # fmt: skip

    def __init__(self, path: Path, header: FileHeader) -> None:
        """Raises SharedMemoryError when the file does not say what is in it."""
        try:
            said: dict[str, Any] = json.loads(header.description)
            self._region: dict[str, int] = said["region"]
            self._region_words: int = said["region_words"]
            worker_at: int = said["worker_at"]
            self._services_at: int = said["services_at"]
            self._service_words: int = said["service_words"]
            self._inflight_at: int = said["inflight_at"]
            self._named = (said["inflight_format"], said["inflight_words"]) == (
                INFLIGHT_FORMAT,
                INFLIGHT_WORDS,
            )
            self._worker: list[tuple[int, int]] = [
                (ours, worker_at + theirs) for ours, theirs in _pairs(said["worker"], _WORKER)
            ]
            self._service: list[tuple[int, int]] = [
                *_pairs(said["service"], _SERVICE),
                *(
                    (base + ours, at + theirs)
                    for base, at in zip((0, UPSTREAM_WORDS), said["upstreams_at"], strict=True)
                    for ours, theirs in _pairs(said["upstream"], _UPSTREAM)
                ),
            ]
        except (ValueError, KeyError, TypeError) as error:
            raise SharedMemoryError(f"{path} does not say what is in it: {error!r}") from error
        self.first = header.first
        self.geometry = header.geometry
        size = FILE_HEADER_BYTES + (header.geometry.regions + 1) * self._region_words * WORD
        self._memory = SharedWords(path, size, create=False)
        self._words = self._memory.words

    def close(self) -> None:
        self._memory.close()

    @property
    def numbers(self) -> range:
        return range(self.first, self.first + self.geometry.regions)

    def _base(self, region: int) -> int:
        return FILE_HEADER_BYTES // WORD + (region - self.first) * self._region_words

    def field(self, region: int, offset: int) -> int:
        """A word of a region's header, by our own offset; 0 for one that it does not have."""
        theirs = self._region.get(_FIELD_NAMES[offset])
        return 0 if theirs is None else self._words[self._base(region) + theirs]

    def state(self, region: int) -> WorkerState:
        return WorkerState(self.field(region, own.R_STATE))

    def live_regions(self) -> list[int]:
        gone = (WorkerState.FREE, WorkerState.DEAD)
        return [number for number in self.numbers if self.field(number, own.R_STATE) not in gone]

    def restarts(self) -> int:
        everywhere = chain(self.numbers, (self.numbers.stop,))
        return sum(self.field(number, own.R_DEATHS) for number in everywhere)

    def count_death(self, region: int) -> None:
        """As `Scoreboard.count_death`; nothing where it has no such word."""
        if "deaths" in self._region:
            self._words[self._base(region) + self._region["deaths"]] += 1

    def _block(self, region: int, slot: int) -> list[int]:
        """A service's counters in our layout; outcomes read before what they end."""
        block = [0] * SERVICE_WORDS
        if slot > self.geometry.services:
            return block
        start = self._base(region) + self._services_at + slot * self._service_words
        read = self._words[start : start + self._service_words].tolist()
        late = (own.U_PICKED, UPSTREAM_WORDS + own.U_PICKED, own.S_ACCEPTED)
        for ours, theirs in self._service:
            block[ours] += self._words[start + theirs] if ours in late else read[theirs]
        return block

    def upstream_in_flight(self, region: int, slot: int, upstream: int) -> int:
        return _upstream_in_flight(self._block(region, slot), upstream)

    def service_in_flight(self, region: int, slot: int) -> int:
        return _service_in_flight(self._block(region, slot))

    def service_counters(self, slot: int) -> list[int]:
        everywhere = chain(self.numbers, (self.numbers.stop,))
        return _sum([self._block(number, slot) for number in everywhere])

    def worker_counters(self) -> list[int]:
        totals = [0] * WORKER_COUNTER_WORDS
        for number in chain(self.numbers, (self.numbers.stop,)):
            base = self._base(number)
            for ours, theirs in self._worker:
                totals[ours] += self._words[base + theirs]
        return totals

    def in_flight(self, region: int) -> Iterator[InFlight]:
        """By names, if its table is of our format; else by the counters alone."""
        if self._named:
            first = self._base(region) + self._inflight_at
            yield from own.read_inflight(self._memory, first, self.geometry.inflight)

    def settle(self, region: int) -> list[InFlight]:
        """As `Scoreboard.settle`; by the counters, without the names."""
        died: dict[int, int] = {}
        for ours, theirs in self._service:
            died.setdefault(ours, theirs)
        cut: list[InFlight] = []
        reason = own.CUT_REASONS.index("worker_died")
        named = list(self.in_flight(region))
        heartbeat = self.field(region, own.R_HEARTBEAT_US)
        for slot in range(self.geometry.services + 1):
            start = self._base(region) + self._services_at + slot * self._service_words
            for upstream in (0, 1, own.NO_UPSTREAM):
                block = self._block(region, slot)
                if upstream == own.NO_UPSTREAM:
                    remainder, ours = _service_in_flight(block), own.S_CUT + reason
                else:
                    remainder = _upstream_in_flight(block, upstream)
                    ours = upstream * UPSTREAM_WORDS + own.U_CUT + reason
                if remainder <= 0 or ours not in died:
                    continue
                self._words[start + died[ours]] += remainder
                names = [one for one in named if (one.slot, one.upstream) == (slot, upstream)]
                unnamed = InFlight(slot, upstream, 0, "?", "?", heartbeat)
                cut += (names + [unnamed] * remainder)[:remainder]
        if self._named:
            first = self._base(region) + self._inflight_at
            for index in range(self.geometry.inflight):
                self._words[first + index * INFLIGHT_WORDS] = 0
        # Counts of connections by listener and client are of no use to anybody but its siblings.
        for name in ("connections", "upstream_connections", "accept_paused"):
            if name in self._region:
                self._words[self._base(region) + self._region[name]] = 0
        self._words[self._base(region) + self._region["state"]] = WorkerState.DEAD
        return cut


def _pairs(theirs: Mapping[str, int], ours: Mapping[str, int]) -> list[tuple[int, int]]:
    """(Our offset, theirs) of each of their counters; first those of the same name."""
    same = [(ours[name], offset) for name, offset in theirs.items() if name in ours]
    others = [
        (place, offset)
        for name, offset in theirs.items()
        if name not in ours and (place := _place(name, ours)) is not None
    ]
    return same + others


def _place(name: str, ours: Mapping[str, int]) -> int | None:
    """Where a counter of this name is with us: by its name, else the last of its group."""
    if name in ours:
        return ours[name]
    group, dot, _ = name.partition(".")
    last = [offset for known, offset in ours.items() if known.startswith(group + dot)]
    return last[-1] if dot and last else None


def named(block: Sequence[int]) -> dict[str, int]:
    """A service's counters by their names, for who reads them with another layout: without
    those that are 0."""
    found = {name: block[offset] for name, offset in _SERVICE.items()}
    for upstream in (0, 1):
        base = upstream * UPSTREAM_WORDS
        found |= {f"{upstream}/{name}": block[base + offset] for name, offset in _UPSTREAM.items()}
    return {name: count for name, count in found.items() if count}


def unnamed(counters: Mapping[str, int]) -> tuple[int, ...]:
    """The inverse of `named`, in our layout."""
    block = [0] * SERVICE_WORDS
    for full_name, count in counters.items():
        upstream, slash, name = full_name.rpartition("/")
        place = _place(name, _UPSTREAM if slash else _SERVICE)
        if place is not None:
            block[(int(upstream) * UPSTREAM_WORDS if slash else 0) + place] += count
    return tuple(block)


def _upstream_in_flight(block: Sequence[int], upstream: int) -> int:
    base = upstream * UPSTREAM_WORDS
    return block[base + own.U_PICKED] - sum(
        block[base + own.U_ANSWERED : base + own.U_OUTCOMES_END]
    )


def _service_in_flight(block: Sequence[int]) -> int:
    ended = sum(block[own.S_PROXY : own.S_OUTCOMES_END])
    for base in (0, UPSTREAM_WORDS):
        ended += sum(block[base + own.U_ANSWERED : base + own.U_OUTCOMES_END])
    return block[own.S_ACCEPTED] - ended
