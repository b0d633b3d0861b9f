"""CONTRACT with control and supervisor: the layout of the memory that they share.

Three files in the runtime directory, all made of 8-byte words in the machine's byte order:

- `routing`: which table is in force, and for each service which upstream gets how much. Its
  layout never changes, so that the programs before and after an upgrade can both map it.
- `health`: one word a server, written by control, read by workers.
- `scoreboard`: a region for each worker, written by that worker alone (by the supervisor
  once it is dead), read by control: rising counters, the newest epoch that the worker has
  seen, and a table of what is in flight. A program of another layout makes a file of its own,
  and reads this one until its workers are gone (`scoreboards`).

Words are only ever written by assignment to a `memoryview` cast to `Q`: that is one aligned
8-byte store, which no reader sees half done. (`struct.pack_into` clears first, and readers
see the zero.) Files are allocated whole when made and never truncated: a page that cannot be
had later would kill the process that touches it (SIGBUS).

The order of stores is relied on as x86-64 keeps it: a reader that sees a later store of one
writer sees the earlier ones too.
"""

import mmap
import os
import struct
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from operator import add
from pathlib import Path
from typing import Final

WORD: Final = 8
COUNTER_MASK: Final = (1 << 64) - 1


class SharedMemoryError(OSError):
    """A shared file that cannot be made or is not what it should be; the text says which."""


class SharedWords:
    """A file of 8-byte words, mapped shared. `words[i]` reads and writes one word at once."""

    __slots__ = ("_map", "octets", "path", "words")

    def __init__(self, path: Path, size: int, *, create: bool) -> None:
        """Map `size` bytes of `path`; with `create`, make the file whole and zeroed first.

        Raises SharedMemoryError when there is no room or the file is shorter than `size`.
        """
        self.path = path
        flags = os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT | os.O_EXCL if create else 0)
        descriptor = os.open(path, flags, 0o600)
        try:
            if create:
                try:
                    _allocate(descriptor, size)
                except OSError as error:
                    os.unlink(path)
                    raise SharedMemoryError(
                        error.errno, f"no room for {size} bytes of shared memory", str(path)
                    ) from error
            if os.fstat(descriptor).st_size < size:
                raise SharedMemoryError(f"{path} is shorter than the {size} bytes it should have")
            self._map = mmap.mmap(descriptor, size)
        finally:
            os.close(descriptor)
        self.octets: memoryview[int] = memoryview(self._map)
        self.words: memoryview[int] = self.octets.cast("Q")

    def close(self) -> None:
        self.words.release()
        self.octets.release()
        self._map.close()


def _allocate(descriptor: int, size: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)
    else:  # macOS, for development: write the zeros
        os.write(descriptor, bytes(size))


# ---------------------------------------------------------------- routing words

ROUTING_FILE: Final = "routing"
ROUTING_WORDS: Final = 65_536
ROUTING_BYTES: Final = ROUTING_WORDS * WORD
SERVICE_SLOTS_MAX: Final = ROUTING_WORDS - 2

TABLE_IN_FORCE: Final = 0
NEWEST_EPOCH: Final = 1

WEIGHT_UNIT: Final = 10_000
"""A weight is hundredths of a percent: 10,000 is all."""
EPOCH_BITS: Final = 49
EPOCH_MASK: Final = (1 << EPOCH_BITS) - 1
WEIGHT_SHIFT: Final = EPOCH_BITS
WEIGHT_MASK: Final = (1 << 14) - 1
HOLD_BIT: Final = 1 << 63


def service_word_index(slot: int) -> int:
    """Index of the routing word of the service in `slot` (slots count from 1)."""
    return slot + 1


@dataclass(frozen=True, slots=True)
class RoutingWord:
    """One service's routing word. `second_weight` in hundredths of a percent, 0 to 10,000."""

    hold: bool
    second_weight: int
    epoch: int

    def pack(self) -> int:
        if not 0 <= self.second_weight <= WEIGHT_UNIT:
            raise ValueError(f"second_weight is {self.second_weight}; it goes from 0 to 10000")
        if not 0 <= self.epoch <= EPOCH_MASK:
            raise ValueError(f"epoch {self.epoch} does not fit {EPOCH_BITS} bits")
        return (HOLD_BIT if self.hold else 0) | (self.second_weight << WEIGHT_SHIFT) | self.epoch

    @classmethod
    def unpack(cls, word: int) -> "RoutingWord":
        return cls(bool(word & HOLD_BIT), (word >> WEIGHT_SHIFT) & WEIGHT_MASK, word & EPOCH_MASK)


# ---------------------------------------------------------------- health words

HEALTH_FILE: Final = "health"
HEALTH_WORDS: Final = 65_536
HEALTH_BYTES: Final = HEALTH_WORDS * WORD


class HealthWord(IntEnum):
    UNKNOWN = 0
    """Never probed: usable, as there is nothing against it."""
    HEALTHY = 1
    UNHEALTHY = 2


# ---------------------------------------------------------------- scoreboard

SCOREBOARD_FILE: Final = "scoreboard"
MAGIC: Final = int.from_bytes(b"turnout1", "little")
LAYOUT: Final = 3
FILE_HEADER_BYTES: Final = 8192

# File header, in words. It never changes: what is behind it may, and is described in it.
_F_MAGIC, _F_LAYOUT, _F_IDENTITY, _F_REGIONS, _F_SERVICES, _F_INFLIGHT, _F_RUN = range(7)
_F_FIRST, _F_BEFORE_COUNT, _F_DESCRIPTION_BYTES = 7, 8, 9
_F_BEFORE: Final = 16
BEFORE_MAX: Final = 32
"""Earlier scoreboards that one may name: those whose workers still had something to finish."""
_DESCRIPTION_AT: Final = 512
"""In bytes. What the counters are called and where they are, for other programs: JSON."""

# Region header, in words.
REGION_HEADER_WORDS: Final = 32
R_PID: Final = 0
R_STATE: Final = 1
R_WORKER: Final = 2
"""The worker's number, 0 to workers - 1; it differs from the region's."""
R_STARTED_US: Final = 3
R_HEARTBEAT_US: Final = 4
"""Monotonic microseconds of the worker's last tick."""
R_EPOCH_SEEN: Final = 5
R_TABLE_LOADED: Final = 6
R_TABLE_IN_FORCE: Final = 7
R_CONNECTIONS: Final = 8
"""Open client connections: a gauge, not a counter."""
R_STARTS: Final = 9
R_UPSTREAM_CONNECTIONS: Final = 10
R_ACCEPT_PAUSED: Final = 11
"""1 while the worker accepts nothing for want of descriptors."""
R_DEATHS: Final = 12
"""Workers of this region that ended without having been told to; counted by the supervisor."""
R_LISTENERS: Final = 16
"""Open client connections of each listener that has a limit of its own, in the table's order.
`R_CONNECTIONS` has all; those that were refused and are still being closed are in neither."""
LISTENER_WORDS: Final = 16
assert R_LISTENERS + LISTENER_WORDS <= REGION_HEADER_WORDS


class WorkerState(IntEnum):
    FREE = 0
    STARTING = 1
    SERVING = 2
    DRAINING = 3
    """Accepts nothing more; finishes what it has."""
    DEAD = 4
    """Died; its remainder has been settled."""


REFUSED_REASONS: Final = (
    "malformed_request",
    "header_timeout",
    "header_too_large",
    "too_many_headers",
    "target_too_long",
    "unsupported_version",
    "unsupported_method",
    "unsupported_transfer_encoding",
    "connect_method",
    "connection_limit",
    "listener_connection_limit",
    "client_connection_limit",
    "client_closed_early",
    "shutting_down",
    "expectation_failed",
    "no_table",
    "other",
)
"""Heads that never completed or could not be read: outside the sum of accepted requests."""

RETRY_REASONS: Final = ("connect_failed", "connect_timeout", "reused_connection_closed")
NOT_RETRIED_REASONS: Final = (
    "method_not_idempotent",
    "body_not_replayable",
    "attempts_exhausted",
    "budget_exhausted",
    "no_other_server",
    "response_started",
    "client_gone",
    "timed_out",
    "retries_off",
)
CUT_REASONS: Final = ("drain_deadline", "upstream_closed", "timeout", "worker_died", "shutdown")

PEER_FAULTS: Final = (
    "body_timeout",
    "body_too_slow",
    "reader_timeout",
    "reader_too_slow",
    "pipeline_full",
    "closed_unanswered",
    "client_reset",
    "server_reset",
    "never_asked",
)
"""What slow, greedy and vanished peers met, whatever became of their requests."""

# Counters of the whole worker, in words behind the region's header.
WORKER_COUNTER_WORDS: Final = 64
C_CONNECTIONS_ACCEPTED: Final = REGION_HEADER_WORDS
C_LOG_LINES_DROPPED: Final = REGION_HEADER_WORDS + 1
C_UNEXPECTED_ERRORS: Final = REGION_HEADER_WORDS + 2
C_ACCEPT_PAUSES: Final = REGION_HEADER_WORDS + 3
C_REFUSED: Final = REGION_HEADER_WORDS + 4
C_CONNECTS_WITHOUT_DESCRIPTOR: Final = REGION_HEADER_WORDS + 36
C_PEER_FAULTS: Final = REGION_HEADER_WORDS + 37
assert 4 + len(REFUSED_REASONS) <= 36
assert 37 + len(PEER_FAULTS) <= WORKER_COUNTER_WORDS

# Codes counted by themselves; others are counted as their class (`2xx`).
CODES: Final = (
    101, 200, 201, 202, 204, 206, 301, 302, 303, 304, 307, 308,
    400, 401, 403, 404, 405, 409, 410, 413, 422, 429, 500, 502, 503, 504,
)  # fmt: skip
CODE_LABELS: Final = (*map(str, CODES), "1xx", "2xx", "3xx", "4xx", "5xx", "other")
PROXY_CODES: Final = (404, 408, 413, 500, 502, 503, 504)
PROXY_CODE_LABELS: Final = (*map(str, PROXY_CODES), "other")


def _code_table() -> bytes:
    table = bytearray(1000)
    for status in range(1000):
        label = str(status) if status in CODES else f"{status // 100}xx"
        table[status] = CODE_LABELS.index(label if label in CODE_LABELS else "other")
    return bytes(table)


CODE_INDEX: Final = _code_table()
"""`CODE_INDEX[status]` is the status's index in `CODE_LABELS`; statuses up to 999."""


def proxy_code_index(status: int) -> int:
    """Index of `status` in `PROXY_CODE_LABELS`."""
    return PROXY_CODES.index(status) if status in PROXY_CODES else len(PROXY_CODES)


LATENCY_BOUNDS_MS: Final = (
    0.5, 1, 2, 3, 5, 7.5, 10, 15, 20, 30, 50, 75, 100, 150, 200, 300, 500, 750,
    1000, 1500, 2000, 3000, 5000, 7500, 10_000, 30_000, 60_000,
)  # fmt: skip
LATENCY_BOUNDS_US: Final = tuple(int(bound * 1000) for bound in LATENCY_BOUNDS_MS)
LATENCY_BUCKETS: Final = len(LATENCY_BOUNDS_MS) + 1


def latency_bucket(duration_us: int) -> int:
    """Index of the bucket of a duration; bounds are inclusive, as Prometheus has them."""
    return bisect_left(LATENCY_BOUNDS_US, duration_us)


# One upstream's block, in words from its beginning.
U_PICKED: Final = 0
U_ANSWERED: Final = 1
U_PROXY: Final = U_ANSWERED + len(CODE_LABELS)
U_ABORTED: Final = U_PROXY + len(PROXY_CODE_LABELS)
U_CUT: Final = U_ABORTED + 1
U_OUTCOMES_END: Final = U_CUT + len(CUT_REASONS)
"""Everything from U_ANSWERED up to here is an outcome: picked - sum(outcomes) is in flight."""
U_UNHEALTHY_PICKS: Final = U_OUTCOMES_END
U_ATTEMPTS_FAILED: Final = U_OUTCOMES_END + 1
"""Attempts that ended without an answer: refused, timed out, closed. Retried ones too."""
U_LATENCY_SUM_US: Final = U_OUTCOMES_END + 2
U_LATENCY: Final = U_OUTCOMES_END + 3
UPSTREAM_WORDS: Final = 80
assert U_LATENCY + LATENCY_BUCKETS <= UPSTREAM_WORDS

# One service's block: two upstreams, then what is of the service alone.
S_ACCEPTED: Final = 2 * UPSTREAM_WORDS
S_PROXY: Final = S_ACCEPTED + 1
"""Answered by the proxy before an upstream was picked (held too long, no service)."""
S_ABORTED: Final = S_PROXY + len(PROXY_CODE_LABELS)
S_CUT: Final = S_ABORTED + 1
S_OUTCOMES_END: Final = S_CUT + len(CUT_REASONS)
S_RETRIES: Final = S_OUTCOMES_END
S_NOT_RETRIED: Final = S_RETRIES + len(RETRY_REASONS)
S_ENTERED: Final = S_NOT_RETRIED + len(NOT_RETRIED_REASONS)
"""Two words: accepted by the listeners of the first upstream's address, and of the second's
(`TableService.entries`), whichever upstream they were sent to."""
SERVICE_WORDS: Final = 192
assert S_ENTERED + 2 <= SERVICE_WORDS

NO_UPSTREAM: Final = 2
"""In the in-flight table: accepted, and no upstream picked yet (held)."""


class ExchangeClass(IntEnum):
    PLAIN = 0
    UPLOAD = 1
    """Its request's body was still on its way when it was last looked at."""
    SSE = 2
    TUNNEL = 3


CLASS_NAMES: Final = ("plain", "upload", "sse", "tunnel")

# An in-flight slot: 8 words. Word 0 is 0 when the slot is free.
INFLIGHT_WORDS: Final = 8
PATH_BYTES: Final = 48
_USED: Final = 1 << 63
METHODS: Final = (
    b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"PATCH", b"TRACE", b"PROPFIND",
    b"PROPPATCH", b"MKCOL", b"COPY", b"MOVE", b"LOCK", b"UNLOCK", b"REPORT", b"PURGE", b"SEARCH",
)  # fmt: skip
METHOD_INDEX: Final = {method: index for index, method in enumerate(METHODS)}
OTHER_METHOD: Final = 63


def pack_inflight(slot: int, upstream: int, kind: int, method_index: int) -> int:
    """Word 0 of an in-flight slot."""
    return _USED | slot | (upstream << 16) | (kind << 18) | (method_index << 21)


@dataclass(frozen=True, slots=True)
class InFlight:
    """One exchange under way. `started_us` is monotonic microseconds of this machine."""

    slot: int
    upstream: int
    kind: int
    method: str
    path: str
    started_us: int

    def as_cut(self, now_us: int, reason: str) -> dict[str, object]:
        """The entry of a receipt's `cut` list."""
        return {
            "method": self.method,
            "path": self.path,
            "age_seconds": round(max(0, now_us - self.started_us) / 1e6, 3),
            "class": CLASS_NAMES[self.kind],
            "reason": reason,
        }


# Connections by client: what is open of a client's address is counted in one word of each row,
# which it may share with others. The smaller of its sums over all regions is at least what it
# has, and more only if it meets others in both rows.
CLIENT_ROWS: Final = 2
CLIENT_ROW_WORDS: Final = 2048
CLIENT_WORDS: Final = CLIENT_ROWS * CLIENT_ROW_WORDS


@dataclass(frozen=True, slots=True)
class Geometry:
    """The sizes that a scoreboard was made with."""

    regions: int
    services: int
    """Highest service slot that has counters; slot 0 is for requests that match none."""
    inflight: int
    """In-flight slots of one worker."""

    @property
    def services_offset(self) -> int:
        """In words from the region's beginning."""
        return REGION_HEADER_WORDS + WORKER_COUNTER_WORDS

    @property
    def inflight_offset(self) -> int:
        return self.services_offset + (self.services + 1) * SERVICE_WORDS

    @property
    def clients_offset(self) -> int:
        return self.inflight_offset + self.inflight * INFLIGHT_WORDS

    @property
    def region_words(self) -> int:
        words = self.clients_offset + CLIENT_WORDS
        return -(-words // 512) * 512  # whole pages: no two workers write to one

    @property
    def file_bytes(self) -> int:
        # One region more than there are workers: what earlier scoreboards had counted.
        return FILE_HEADER_BYTES + (self.regions + 1) * self.region_words * WORD


@dataclass(frozen=True, slots=True)
class FileHeader:
    """What any program can read of a scoreboard's file, whatever the layout of the rest."""

    layout: int
    identity: int
    geometry: Geometry
    run: int
    first: int
    before: tuple[int, ...]
    """First regions of the earlier scoreboards that are still to be read."""
    description: bytes


def read_file_header(path: Path) -> FileHeader:
    """Raises SharedMemoryError when there is none, or it is none."""
    try:
        header = SharedWords(path, FILE_HEADER_BYTES, create=False)
    except FileNotFoundError as error:
        raise SharedMemoryError(f"{path} does not exist; is turnout running?") from error
    words = header.words
    if words[_F_MAGIC] != MAGIC or not words[_F_LAYOUT]:
        header.close()
        raise SharedMemoryError(f"{path} is not a scoreboard")
    end = _DESCRIPTION_AT + min(words[_F_DESCRIPTION_BYTES], FILE_HEADER_BYTES - _DESCRIPTION_AT)
    before = words[_F_BEFORE : _F_BEFORE + min(words[_F_BEFORE_COUNT], BEFORE_MAX)]
    found = FileHeader(
        layout=words[_F_LAYOUT],
        identity=words[_F_IDENTITY],
        geometry=Geometry(words[_F_REGIONS], words[_F_SERVICES], words[_F_INFLIGHT]),
        run=words[_F_RUN],
        first=words[_F_FIRST],
        before=tuple(before.tolist()),
        description=bytes(header.octets[_DESCRIPTION_AT:end]),
    )
    before.release()
    header.close()
    return found


class Scoreboard:
    """The mapped scoreboard. Counters of a region go on rising when its worker is replaced.

    Regions are numbered over all scoreboards that ever were in the directory: a later one
    begins where the one before it ended.
    """

    __slots__ = ("first", "geometry", "identity", "memory", "words")

    def __init__(
        self, memory: SharedWords, geometry: Geometry, identity: int, first: int = 0
    ) -> None:
        self.memory = memory
        self.words = memory.words
        self.geometry = geometry
        self.identity = identity
        """Random, made with the first file: tells whether two samples are of the same counters."""
        self.first = first
        """Number of its first region."""

    @classmethod
    def create(
        cls,
        directory: Path,
        geometry: Geometry,
        identity: int,
        *,
        first: int = 0,
        before: Sequence[int] = (),
        description: bytes = b"",
    ) -> "Scoreboard":
        """Make the file and put it in place. Raises SharedMemoryError when there is no room."""
        made = cls.make(
            directory, geometry, identity, first=first, before=before, description=description
        )
        made.put_in_place()
        return made

    @classmethod
    def make(
        cls,
        directory: Path,
        geometry: Geometry,
        identity: int,
        *,
        first: int = 0,
        before: Sequence[int] = (),
        description: bytes = b"",
    ) -> "Scoreboard":
        """The same, but nobody finds it yet: `put_in_place` follows."""
        unfinished = directory / f".{SCOREBOARD_FILE}.new"
        unfinished.unlink(missing_ok=True)
        memory = SharedWords(unfinished, geometry.file_bytes, create=True)
        words = memory.words
        words[_F_LAYOUT] = LAYOUT
        words[_F_IDENTITY] = identity
        words[_F_REGIONS] = geometry.regions
        words[_F_SERVICES] = geometry.services
        words[_F_INFLIGHT] = geometry.inflight
        words[_F_FIRST] = first
        words[_F_BEFORE_COUNT] = min(len(before), BEFORE_MAX)
        for index, number in enumerate(before[:BEFORE_MAX]):
            words[_F_BEFORE + index] = number
        words[_F_DESCRIPTION_BYTES] = len(description)
        memory.octets[_DESCRIPTION_AT : _DESCRIPTION_AT + len(description)] = description
        words[_F_MAGIC] = MAGIC
        return cls(memory, geometry, identity, first)

    def put_in_place(self) -> None:
        """From now on this is the directory's scoreboard."""
        os.rename(self.memory.path, self.memory.path.with_name(SCOREBOARD_FILE))

    @classmethod
    def open(cls, directory: Path, name: str = SCOREBOARD_FILE) -> "Scoreboard":
        """Map the existing file. Raises SharedMemoryError when it is missing or another layout."""
        path = directory / name
        header = read_file_header(path)
        if header.layout != LAYOUT:
            raise SharedMemoryError(f"{path} is not a scoreboard of layout {LAYOUT}")
        memory = SharedWords(path, header.geometry.file_bytes, create=False)
        return cls(memory, header.geometry, header.identity, header.first)

    def close(self) -> None:
        self.memory.close()

    @property
    def numbers(self) -> range:
        """The numbers of its regions."""
        return range(self.first, self.first + self.geometry.regions)

    @property
    def carried(self) -> int:
        """The region that no worker has: what earlier scoreboards had counted."""
        return self.first + self.geometry.regions

    @property
    def run(self) -> int:
        """Random; another one after everything was stopped, while the counters may go on."""
        return self.words[_F_RUN]

    @run.setter
    def run(self, value: int) -> None:
        self.words[_F_RUN] = value

    def region(self, number: int) -> int:
        """Offset in words of region `number`."""
        return FILE_HEADER_BYTES // WORD + (number - self.first) * self.geometry.region_words

    def field(self, region: int, offset: int) -> int:
        """A word of a region's header."""
        return self.words[self.region(region) + offset]

    def service(self, region: int, slot: int) -> int:
        """Offset in words of a service's block in region `region`."""
        if not 0 <= slot <= self.geometry.services:
            raise IndexError(
                f"service slot {slot}; the scoreboard has 0 to {self.geometry.services}"
            )
        return self.region(region) + self.geometry.services_offset + slot * SERVICE_WORDS

    def upstream(self, region: int, slot: int, upstream: int) -> int:
        return self.service(region, slot) + upstream * UPSTREAM_WORDS

    def inflight_slot(self, region: int, index: int) -> int:
        """Offset in words of one in-flight slot."""
        return self.region(region) + self.geometry.inflight_offset + index * INFLIGHT_WORDS

    def clients(self, region: int) -> int:
        """Offset in words of a region's counts of connections by client."""
        return self.region(region) + self.geometry.clients_offset

    def forget_connections(self, region: int) -> None:
        """No connection of the region's worker is open: it begins, or it is dead."""
        base, clients = self.region(region), self.clients(region)
        for word in (R_CONNECTIONS, R_UPSTREAM_CONNECTIONS, R_ACCEPT_PAUSED):
            self.words[base + word] = 0
        for word in range(base + R_LISTENERS, base + R_LISTENERS + LISTENER_WORDS):
            self.words[word] = 0
        for word in range(clients, clients + CLIENT_WORDS):
            self.words[word] = 0

    # ------------------------------------------------------------ reading

    def state(self, region: int) -> WorkerState:
        return WorkerState(self.words[self.region(region) + R_STATE])

    def live_regions(self) -> list[int]:
        """Regions whose worker may still send something: all that are not free or dead."""
        return [
            number
            for number in self.numbers
            if self.words[self.region(number) + R_STATE] not in (WorkerState.FREE, WorkerState.DEAD)
        ]

    def restarts(self) -> int:
        """Workers that died, and were started anew."""
        return sum(self.field(number, R_DEATHS) for number in (*self.numbers, self.carried))

    def count_death(self, region: int) -> None:
        """The worker of a region ended without having been told to."""
        self.words[self.region(region) + R_DEATHS] += 1

    def upstream_in_flight(self, region: int, slot: int, upstream: int) -> int:
        """Exchanges of an upstream under way in one worker.

        Outcomes are read before the picks, so that 0 means: at one moment in between there
        was none, and none was picked since.
        """
        base = self.upstream(region, slot, upstream)
        ended = sum(self.words[base + U_ANSWERED : base + U_OUTCOMES_END])
        return self.words[base + U_PICKED] - ended

    def service_in_flight(self, region: int, slot: int) -> int:
        """Exchanges of a service under way in one worker, held ones included."""
        ended = 0
        base = self.service(region, slot)
        for upstream in (0, 1):
            start = base + upstream * UPSTREAM_WORDS
            ended += sum(self.words[start + U_ANSWERED : start + U_OUTCOMES_END])
        ended += sum(self.words[base + S_PROXY : base + S_OUTCOMES_END])
        return self.words[base + S_ACCEPTED] - ended

    def service_counters(self, slot: int) -> list[int]:
        """The service's block summed over all regions; outcomes read before what they end."""
        words = self.words
        bases = [self.service(number, slot) for number in (*self.numbers, self.carried)]
        late = (U_PICKED, UPSTREAM_WORDS + U_PICKED, S_ACCEPTED)
        totals = [0] * SERVICE_WORDS
        for base in bases:
            totals = list(map(add, totals, words[base : base + SERVICE_WORDS].tolist()))
        for offset in late:
            totals[offset] = sum(words[base + offset] for base in bases)
        return totals

    def worker_counters(self) -> list[int]:
        """The counters of whole workers (`C_…` minus the header's size), over all regions."""
        totals = [0] * WORKER_COUNTER_WORDS
        for number in (*self.numbers, self.carried):
            base = self.region(number) + REGION_HEADER_WORDS
            for offset, value in enumerate(self.words[base : base + WORKER_COUNTER_WORDS]):
                totals[offset] += value
        return totals

    def in_flight(self, region: int) -> Iterator[InFlight]:
        """What one worker has under way, by its in-flight table."""
        return read_inflight(self.memory, self.inflight_slot(region, 0), self.geometry.inflight)

    # ------------------------------------------------------------ a dead worker

    def settle(self, region: int) -> list[InFlight]:
        """Count what a dead worker had under way as cut (`worker_died`), and return its names.

        To be called once by the supervisor, after the worker has died and before its region
        is used again; a second call finds nothing. The counters are the truth: a worker that
        died between a counter and its slot leaves one name too few or too many, so a missing
        name is given as `?` and a surplus one is left out.
        """
        named: dict[tuple[int, int], list[InFlight]] = {}
        for entry in self.in_flight(region):
            named.setdefault((entry.slot, entry.upstream), []).append(entry)
        died = CUT_REASONS.index("worker_died")
        cut: list[InFlight] = []
        words = self.words
        started = words[self.region(region) + R_HEARTBEAT_US]
        for slot in range(self.geometry.services + 1):
            base = self.service(region, slot)
            if not words[base + S_ACCEPTED]:
                continue
            for upstream in (0, 1, NO_UPSTREAM):
                if upstream == NO_UPSTREAM:
                    remainder, counter = self.service_in_flight(region, slot), base + S_CUT + died
                else:
                    remainder = self.upstream_in_flight(region, slot, upstream)
                    counter = base + upstream * UPSTREAM_WORDS + U_CUT + died
                remainder = max(remainder, 0)
                words[counter] += remainder
                names = named.get((slot, upstream), [])[:remainder]
                unnamed = InFlight(slot, upstream, 0, "?", "?", started)
                cut += names + [unnamed] * (remainder - len(names))
        first = self.inflight_slot(region, 0)
        for index in range(self.geometry.inflight):
            words[first + index * INFLIGHT_WORDS] = 0
        self.forget_connections(region)
        words[self.region(region) + R_STATE] = WorkerState.DEAD
        return cut


_INFLIGHT: Final = struct.Struct(f"QQ{PATH_BYTES}s")
assert _INFLIGHT.size == INFLIGHT_WORDS * WORD


def read_inflight(memory: SharedWords, first: int, count: int) -> Iterator[InFlight]:
    """What is in `count` in-flight slots, the first of which begins at word `first`."""
    end = first + count * INFLIGHT_WORDS
    # Most slots are free: their first words are looked at all together.
    for index, looked_at in enumerate(memory.words[first:end:INFLIGHT_WORDS].tolist()):
        if not looked_at & _USED:
            continue
        start = (first + index * INFLIGHT_WORDS) * WORD
        slot = bytes(memory.octets[start : start + _INFLIGHT.size])
        word, started_us, path = _INFLIGHT.unpack(slot)
        if word & _USED:  # it may have ended in between
            method_index = (word >> 21) & 63
            method = METHODS[method_index] if method_index < len(METHODS) else b"OTHER"
            yield InFlight(
                slot=word & 0xFFFF,
                upstream=(word >> 16) & 3,
                kind=min((word >> 18) & 7, len(CLASS_NAMES) - 1),
                method=method.decode("ascii"),
                path=path.rstrip(b"\0").decode("utf-8", "replace"),
                started_us=started_us,
            )


write_inflight: Final = _INFLIGHT.pack_into
"""(octets, offset in octets, word 0, started_us, path): write an in-flight slot whole; the path
is cut or padded. Hot: one call for three stores (0.15 us less). It is the one exception to the
rule above: a reader may see the slot half written, as a free one or without its path. Who
counts on it is `settle`, after the worker's death, and that goes by the counters."""
