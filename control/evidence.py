"""What the counters say: two samples of the scoreboard -> rates, errors, quantiles.

Pure. A `Snapshot` is a service's block of counters at one time; what is between two of them
is a `Window`. Counters rise for a scoreboard's life, so a difference is a count of facts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from turnout.proxy import scoreboard as board
from turnout.proxy.scoreboards import named, unnamed

_ERROR_CODES: Final = tuple(
    index for index, label in enumerate(board.CODE_LABELS) if label.startswith("5")
)
_FAILED_CODES: Final = tuple(
    index for index, label in enumerate(board.PROXY_CODE_LABELS) if label.startswith("5")
)
_FAILED_CUTS: Final = tuple(
    board.CUT_REASONS.index(reason) for reason in ("upstream_closed", "timeout")
)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A service's counters, summed over all workers; the outcomes read before the accepted."""

    identity: str
    """The scoreboard's: only snapshots of one scoreboard have a difference."""
    at: float
    """Seconds since 1970."""
    block: tuple[int, ...]
    """As `Scoreboard.service_counters` gives it."""
    refused: int = 0
    """Heads that never completed, of all services together: they had no service yet."""

    @property
    def accepted(self) -> int:
        return self.block[board.S_ACCEPTED]

    @property
    def in_flight(self) -> int:
        return self.accepted - sum(outcomes(self.block).values())

    def to_document(self) -> dict[str, Any]:
        """As the store keeps it, for a program of another layout, too; `snapshot_of` is the
        inverse."""
        return {
            "identity": self.identity,
            "at": self.at,
            "counters": named(self.block),
            "refused": self.refused,
        }


def snapshot_of(document: Mapping[str, Any]) -> Snapshot:
    """The snapshot that `to_document` made a document of."""
    return Snapshot(
        document["identity"],
        document["at"],
        unnamed(document["counters"]),
        document["refused"],
    )


def zero(identity: str, at: float) -> Snapshot:
    """The counters of a scoreboard that has just been made."""
    return Snapshot(identity, at, (0,) * board.SERVICE_WORDS)


def outcomes(block: Sequence[int]) -> dict[str, int]:
    """How exchanges ended: each in exactly one way, so that these sum to all that ended."""
    answered = proxy = aborted = cut = 0
    for base in (0, board.UPSTREAM_WORDS):
        answered += sum(block[base + board.U_ANSWERED : base + board.U_PROXY])
        proxy += sum(block[base + board.U_PROXY : base + board.U_ABORTED])
        aborted += block[base + board.U_ABORTED]
        cut += sum(block[base + board.U_CUT : base + board.U_OUTCOMES_END])
    return {
        "answered_by_upstream": answered,
        "answered_by_proxy": proxy + sum(block[board.S_PROXY : board.S_ABORTED]),
        "client_aborted": aborted + block[board.S_ABORTED],
        "cut": cut + sum(block[board.S_CUT : board.S_OUTCOMES_END]),
    }


def difference(before: Snapshot, after: Snapshot) -> tuple[int, ...]:
    """What was counted in between. Raises ValueError for two different scoreboards."""
    if before.identity != after.identity:
        raise ValueError("snapshots of two scoreboards have no difference")
    return tuple(late - early for early, late in zip(before.block, after.block, strict=True))


@dataclass(frozen=True, slots=True)
class Evidence:
    """What one upstream did in a window."""

    requests: int
    """Ended, and not because the client went away."""
    errors: int
    """5xx answers, and requests that it failed: refused, timed out, closed half-way."""
    p50_ms: float | None
    p99_ms: float | None
    """None: nothing was answered."""
    seconds: float

    @property
    def error_fraction(self) -> float:
        return self.errors / self.requests if self.requests else 0.0

    @property
    def requests_per_s(self) -> float:
        return self.requests / self.seconds if self.seconds > 0 else 0.0


def evidence(counted: Sequence[int], upstream: int, seconds: float) -> Evidence:
    """Read one upstream (0, 1) out of a service's block of counted differences."""
    base = upstream * board.UPSTREAM_WORDS
    ended = sum(counted[base + board.U_ANSWERED : base + board.U_OUTCOMES_END])
    errors = (
        sum(counted[base + board.U_ANSWERED + index] for index in _ERROR_CODES)
        + sum(counted[base + board.U_PROXY + index] for index in _FAILED_CODES)
        + sum(counted[base + board.U_CUT + index] for index in _FAILED_CUTS)
    )
    latency = base + board.U_LATENCY
    buckets = counted[latency : latency + board.LATENCY_BUCKETS]
    return Evidence(
        requests=ended - counted[base + board.U_ABORTED],
        errors=errors,
        p50_ms=quantile_ms(buckets, 0.5),
        p99_ms=quantile_ms(buckets, 0.99),
        seconds=seconds,
    )


def quantile_ms(buckets: Sequence[int], fraction: float) -> float | None:
    """A quantile out of latency buckets (not cumulative), linear within its bucket.

    What lies beyond the last bound is given as that bound. None without any count.
    """
    total = sum(buckets)
    if total == 0:
        return None
    rank = fraction * total
    below = 0
    for index, bound_ms in enumerate(board.LATENCY_BOUNDS_MS):
        count = buckets[index]
        if count and below + count >= rank:
            floor_ms = board.LATENCY_BOUNDS_MS[index - 1] if index else 0.0
            return round(floor_ms + (bound_ms - floor_ms) * (rank - below) / count, 3)
        below += count
    return float(board.LATENCY_BOUNDS_MS[-1])


class Window:
    """Snapshots of the last `length_s` seconds, to compare the newest with the oldest."""

    __slots__ = ("_length_s", "_snapshots")

    def __init__(self, length_s: float) -> None:
        self._length_s = length_s
        self._snapshots: list[Snapshot] = []

    def add(self, snapshot: Snapshot) -> None:
        """Take the newest in, and let go what a window no longer needs."""
        if self._snapshots and self._snapshots[-1].identity != snapshot.identity:
            self._snapshots.clear()
        self._snapshots.append(snapshot)
        # One older than the window stays: the window begins at it.
        while len(self._snapshots) > 2 and snapshot.at - self._snapshots[1].at >= self._length_s:
            del self._snapshots[0]

    def evidence(self, upstream: int) -> Evidence:
        """What the upstream (0, 1) did in the window."""
        if len(self._snapshots) < 2:
            return Evidence(0, 0, None, None, 0.0)
        first, last = self._snapshots[0], self._snapshots[-1]
        return evidence(difference(first, last), upstream, last.at - first.at)
