"""Pure: when the old side may go, by what was counted at its address.

DNS says where to go, and clients go on by what it said before: for its time to live, and some
for far longer. So the end of a change is not its being in sync: the old address may go once the
time to live has passed *and* fewer than `below.count` requests have come in by it in each span
of `below.per_s` seconds for `for_s` seconds, and for at least one such span.

`Quiet` is told how many requests there were at which time, and knows since when there have been
few. It never says so too early: what came between two looks is held to have come as closely
together as it can. It is late by two looks at most (`tests/control/test_tail.py`).

All times here are seconds of one clock that never jumps.
"""

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from turnout.config.model import TailPolicy
from turnout.config.units import Rate

OTHER: Final = "other"
"""As workers call what is beyond the networks that they tell apart."""


@dataclass(frozen=True, slots=True)
class _Came:
    """So many requests came after `after`, and by `until`."""

    after: float
    until: float
    count: int


class Quiet:
    """Since when no span of `below.per_s` seconds has had as many as `below.count` requests."""

    __slots__ = ("_came", "_count", "below", "last_at", "looked_at", "since", "watched_since")

    def __init__(self, below: Rate, at: float, count: int) -> None:
        """`count` requests had come when it began to be watched; when they did is not known."""
        self.below = below
        self._count = count
        self._came: deque[_Came] = deque()
        self.watched_since = self.looked_at = self.since = at
        """`since`: from when on there have been few."""
        self.last_at: float | None = None
        """When the last request had come; None: none has since it is watched."""

    def look(self, at: float, count: int) -> int:
        """`count` have come by now, a number that only rises; how many since the last look."""
        came, self._count = count - self._count, count
        after, self.looked_at = self.looked_at, at
        if came > 0:
            self.last_at = at
            self._came.append(_Came(after, at, came))
            while self._came[0].until <= after - self.below.per_s:
                self._came.popleft()
            self._look_for_many(after)
        return came

    def _look_for_many(self, last_after: float) -> None:
        """Could the newest and the last `below.count - 1` before it lie in one span?"""
        found = 0
        for came in reversed(self._came):
            found += came.count
            if found >= self.below.count:
                if last_after - came.until < self.below.per_s:
                    self.since = max(self.since, came.until)
                return

    def in_last_span(self) -> int:
        """Requests of the last `below.per_s` seconds: as many as it can have been."""
        begin = self.looked_at - self.below.per_s
        return sum(came.count for came in self._came if came.until > begin)


@dataclass(frozen=True, slots=True)
class TailVerdict:
    over: bool
    reason: str
    """In words and numbers."""
    wait_s: float
    """It can be over in so many seconds at the earliest; 0: it is over."""


def verdict(quiet: Quiet, passed_s: float, ttl_s: float, policy: TailPolicy) -> TailVerdict:
    """Is it over at the time of the last look, when the change has been in sync for `passed_s`
    seconds?"""
    below = quiet.below
    wanted_s = max(policy.for_s, below.per_s)
    ttl_left_s = ttl_s - passed_s
    few_s = quiet.looked_at - quiet.since
    few_left_s = wanted_s - few_s
    if ttl_left_s <= 0 and few_left_s <= 0:
        since = "no request since it is watched"
        if quiet.last_at is not None:
            since = f"the last request came {words(quiet.looked_at - quiet.last_at)} ago"
        return TailVerdict(
            True,
            f"the TTL passed {words(-ttl_left_s)} ago, and there were fewer than {below} for "
            f"{words(wanted_s)}: {since}",
            0.0,
        )
    parts = []
    if ttl_left_s > 0:
        parts.append(f"the TTL passes in {words(ttl_left_s, up=True)}")
    if few_left_s > 0:
        parts.append(_not_few(quiet, few_s, wanted_s))
    return TailVerdict(False, "; ".join(parts), max(ttl_left_s, few_left_s))


def without_counting(passed_s: float, ttl_s: float) -> TailVerdict:
    """The same where nothing is counted: the time to live alone is waited for."""
    left_s = ttl_s - passed_s
    note = "no listener is named (tail.listeners), so no request is counted"
    if left_s <= 0:
        return TailVerdict(True, f"the TTL passed {words(-left_s)} ago; {note}", 0.0)
    return TailVerdict(False, f"the TTL passes in {words(left_s, up=True)}; {note}", left_s)


def _not_few(quiet: Quiet, few_s: float, wanted_s: float) -> str:
    below = quiet.below
    needed = f"fewer than {below} for {words(wanted_s)} is needed"
    if quiet.since == quiet.watched_since:
        return f"watched for {words(few_s)} only; {needed}"
    found = quiet.in_last_span()
    plural = "" if found == 1 else "s"
    so_far = "" if found >= below.count else f", and there have been so few for {words(few_s)}"
    return f"{found} request{plural} in the last {_SPANS[below.per_s]}; {needed}{so_far}"


_SPANS: Final[Mapping[float, str]] = {1.0: "second", 60.0: "minute", 3600.0: "hour"}


def words(seconds: float, *, up: bool = False) -> str:
    """A duration as people say it: `850ms`, `43s`, `1m20s`, `2h5m`, `3d4h`; with `up` what is
    left of it, rounded up."""
    seconds = max(seconds, 0.0)
    if seconds < 1:
        return f"{round(seconds * 1000)}ms"
    whole = math.ceil(seconds) if up else math.floor(seconds)
    parts = (("d", 86400), ("h", 3600), ("m", 60), ("s", 1))
    for index, (unit, size) in enumerate(parts):
        if whole >= size:
            first, rest = divmod(whole, size)
            if index + 1 < len(parts) and (second := rest // parts[index + 1][1]):
                return f"{first}{unit}{second}{parts[index + 1][0]}"
            return f"{first}{unit}"
    return "0s"


# ---------------------------------------------------------------- what is shown


CURVE_POINTS: Final = 360
WIDTHS_S: Final = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200)


def width_for(length_s: float) -> int:
    """How many seconds one point of a curve of this length is to be."""
    return next((width for width in WIDTHS_S if width * CURVE_POINTS >= length_s), WIDTHS_S[-1])


class Curve:
    """How many requests came when, in points of `width_s` seconds; the oldest are forgotten."""

    __slots__ = ("_counts", "_points", "width_s")

    def __init__(self, width_s: int, points: int = CURVE_POINTS) -> None:
        self.width_s = width_s
        self._points = points
        self._counts: dict[int, int] = {}
        """Number of the point -> requests; without those that had none."""

    def add(self, at: float, count: int) -> None:
        """So many came, by `at`."""
        number = int(at // self.width_s)
        self._counts[number] = self._counts.get(number, 0) + count
        if len(self._counts) > self._points:
            for old in [one for one in self._counts if one <= number - self._points]:
                del self._counts[old]

    def points(self, begin: float, end: float) -> list[tuple[float, int]]:
        """(Beginning, requests) of each point from `begin` to `end`, as far as it is known."""
        last = int(end // self.width_s)
        first = max(int(begin // self.width_s), last - self._points + 1)
        counts = self._counts
        return [
            (float(number * self.width_s), counts.get(number, 0))
            for number in range(first, last + 1)
        ]

    def since(self, at: float) -> int:
        """Requests of the points that begin at or after `at`."""
        return sum(count for number, count in self._counts.items() if number * self.width_s >= at)


@dataclass(frozen=True, slots=True)
class NetworkCount:
    network: str
    requests: int
    last_at: float


class Networks:
    """From where they came: the networks that most did, the rest as one."""

    __slots__ = ("_counts", "_max", "other")

    def __init__(self, networks_max: int) -> None:
        self._max = networks_max
        self._counts: dict[str, tuple[int, float]] = {}
        self.other = 0
        """Requests from networks that are not told apart."""

    def add(self, networks: Mapping[str, int], at: float) -> None:
        counts = self._counts
        for network, count in networks.items():
            if network == OTHER:
                self.other += count
                continue
            before, _ = counts.get(network, (0, 0.0))
            counts[network] = before + count, at
        if len(counts) > 2 * self._max:
            # Seldom: twice as many are kept, so that one that comes now and then is not begun
            # anew each time.
            kept = sorted(counts.items(), key=lambda entry: entry[1], reverse=True)
            self._counts = dict(kept[: self._max])
            self.other += sum(count for _, (count, _) in kept[self._max :])

    def top(self, number: int) -> Sequence[NetworkCount]:
        """Those that most came from, the first the most."""
        kept = sorted(self._counts.items(), key=lambda entry: entry[1], reverse=True)
        return [NetworkCount(network, count, at) for network, (count, at) in kept[:number]]
