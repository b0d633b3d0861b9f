"""Who still comes in by an upstream's old address: looks at the counters, and keeps the curve.

Workers count requests by the listener that they came in by (`S_ENTERED` of the scoreboard), and
tell now and then from which networks. `TailWatch` looks at the counters of each service that has
`outer.tail`, some times in each span that its limit is of; `tail` says what that means. What it
has seen is in memory: after a restart of control the watch begins anew, which can only make it
later that a tail is said to be over.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from turnout.config.model import Configuration, Service, TailPolicy
from turnout.config.table import RoutingTable
from turnout.config.weights import WHOLE
from turnout.control.events import utc
from turnout.control.ports import TailSummary
from turnout.control.shared import SharedState
from turnout.control.tail import (
    Curve,
    Networks,
    Quiet,
    TailVerdict,
    verdict,
    width_for,
    without_counting,
)
from turnout.proxy.commands import Entered
from turnout.proxy.scoreboard import S_ENTERED

LOOK_MAX_S: Final = 1.0
"""Between two looks at the counters."""
LOOK_MIN_S: Final = 0.05
LOOKS_A_SPAN: Final = 20
LENGTH_MIN_S: Final = 3600.0
"""Of a curve, at least; `tail.timeout` where that is longer."""
LENGTH_WITHOUT_TIMEOUT_S: Final = 24 * 3600.0
KEPT_S: Final = 10.0
"""So long it is kept what each look saw and workers told, for who says later since when it is to
count."""
SHOWN_NETWORKS: Final = 20
SUMMED_NETWORKS: Final = 5


@dataclass(frozen=True, slots=True)
class _Old:
    """The side that lost its weight, and since when clients should know."""

    index: int
    in_sync_at: float
    """By the uptime; of what nobody told of, when it was noticed."""
    ttl_s: float
    told: bool
    """By who moved the outer system; false: by the proxy's own weights alone."""
    base: int | None
    """What its listeners had counted then; None: none is named."""


@dataclass(frozen=True, slots=True)
class _Heard:
    """A worker's message of the networks that requests came from after `since`."""

    since: float
    at: float
    networks: Mapping[str, int]


class _Side:
    """One upstream's address.

    What its networks say is of the same requests as the count, and never of more: a message
    counts whole if all of it came after the counter had been read for the first time, and not at
    all otherwise; and only once the counter has been read after the message.
    """

    __slots__ = (
        "_heard", "_networks_max", "_new", "_since", "began_at", "curve", "first", "networks", "quiet",
        "first_read_at", "looks", "read_at", "total",
    )  # fmt: skip

    def __init__(self, policy: TailPolicy, at: float, count: int, read_at: float) -> None:
        """The counter had `count` when it was read, which was by `read_at`."""
        self.quiet = Quiet(policy.below, at, count)
        self.curve = Curve(width_for(_length_s(policy)))
        self._networks_max = policy.networks
        self.networks = Networks(policy.networks)
        self._since = read_at
        self._heard: deque[_Heard] = deque()
        self._new: list[_Heard] = []
        """What was heard since the last look."""
        self.first = count
        self.total = count
        self.began_at = at
        self.first_read_at = self.read_at = read_at
        self.looks: deque[tuple[float, int]] = deque([(read_at, count)])
        """When the counter was read, and what it had, of the last seconds (`KEPT_S`)."""

    def look(self, at: float, count: int, read_at: float) -> None:
        came = self.quiet.look(at, count)
        self.total = count
        self.read_at = read_at
        self.looks.append((read_at, count))
        while self.looks[0][0] < read_at - KEPT_S:
            self.looks.popleft()
        if came:
            self.curve.add(at, came)
        new, self._new = self._new, []
        for message in new:
            self._heard.append(message)
            self._count(message)
        while self._heard and self._heard[0].at < at - KEPT_S:
            self._heard.popleft()

    def hear(self, message: Entered, at: float) -> None:
        self._new.append(_Heard(message.since, at, message.networks))

    def count_networks_since(self, since: float) -> None:
        """Begin them anew, with what came after this time and is still known."""
        self.networks = Networks(self._networks_max)
        self._since = since
        for message in self._heard:
            self._count(message)

    def _count(self, message: _Heard) -> None:
        if message.since >= self._since:
            self.networks.add(message.networks, message.at)


def _length_s(policy: TailPolicy) -> float:
    return max(policy.timeout_s or LENGTH_WITHOUT_TIMEOUT_S, LENGTH_MIN_S)


class _Watched:
    """One service."""

    __slots__ = ("identity", "names", "old", "policy", "sides", "slot")

    def __init__(
        self, service: Service, policy: TailPolicy, slot: int, identity: int, now: float
    ) -> None:
        self.names = service.names
        self.policy = policy
        self.slot = slot
        self.identity = identity
        self.sides: dict[int, _Side] = {}
        """Of the upstreams that listeners are named for; made at the first look."""
        self.old: _Old | None = None

    @property
    def interval_s(self) -> float:
        span_s = min(self.policy.below.per_s, self.policy.for_s)
        return min(max(span_s / LOOKS_A_SPAN, LOOK_MIN_S), LOOK_MAX_S)


class TailWatch:
    """Watches all services that have `outer.tail`. A `ports.Tails`."""

    def __init__(
        self,
        shared: SharedState,
        configuration: Callable[[], Configuration],
        table: Callable[[], RoutingTable],
        *,
        uptime: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """`configuration` and `table` are those in force. Nothing is looked at before `run`."""
        self._shared = shared
        self._configuration = configuration
        self._table = table
        self._uptime = uptime
        self._wall = wall
        self._watched: dict[str, _Watched] = {}
        self._looked = asyncio.Event()

    async def run(self) -> None:
        """Look at the counters for ever."""
        while True:
            self.look()
            pauses = [watched.interval_s for watched in self._watched.values()]
            await asyncio.sleep(min(pauses, default=LOOK_MAX_S))

    def look(self) -> None:
        """Look once, and let who waits for it look."""
        now = self._uptime()
        slots = {service.name: service.slot for service in self._table().services}
        watched: dict[str, _Watched] = {}
        for service in self._configuration().services:
            policy = service.outer.tail if service.outer is not None else None
            if policy is not None and service.name in slots:
                watched[service.name] = self._look_at(service, policy, slots[service.name], now)
        self._watched = watched
        looked, self._looked = self._looked, asyncio.Event()
        looked.set()

    def _look_at(self, service: Service, policy: TailPolicy, slot: int, now: float) -> _Watched:
        boards = self._shared.boards
        found = self._watched.get(service.name)
        if found is None or (found.policy, found.slot, found.identity, found.names) != (
            policy, slot, boards.identity, service.names,
        ):  # fmt: skip
            old = found.old if found is not None and found.names == service.names else None
            if old is not None and found is not None and found.identity != boards.identity:
                old = replace(old, base=None)  # these counters began anew
            found = _Watched(service, policy, slot, boards.identity, now)
            found.old = old
        counters = boards.service_counters(slot)
        read_at = self._uptime()
        for index, name in enumerate(service.names):
            if not policy.listeners.get(name):
                continue
            count = counters[S_ENTERED + index]
            side = found.sides.get(index)
            if side is None:
                found.sides[index] = _Side(policy, now, count, read_at)
            else:
                side.look(now, count, read_at)
        old = found.old
        if old is not None and old.base is None and (side := found.sides.get(old.index)):
            found.old = replace(old, base=side.first)
        self._follow_weights(found, now)
        return found

    def _follow_weights(self, watched: _Watched, now: float) -> None:
        """Which side is the old one, by the weights: what was told of it holds while they do."""
        weight = self._shared.word(watched.slot).second_weight
        index = 1 if weight == 0 else 0 if weight == WHOLE else None
        if index is None:
            watched.old = None
        elif watched.old is None or watched.old.index != index:
            side = watched.sides.get(index)
            base = None if side is None else side.total
            watched.old = _Old(index, now, 0.0, told=False, base=base)
            if side is not None:
                side.count_networks_since(side.read_at)

    def heard(self, message: Entered) -> None:
        """A worker has told from where requests came."""
        for watched in self._watched.values():
            side = watched.sides.get(message.upstream)
            if watched.slot == message.slot and side is not None:
                side.hear(message, self._uptime())

    # ------------------------------------------------------------ waiting

    async def wait_over(
        self, service: str, upstream: str, passed_s: float, ttl_s: float, policy: TailPolicy
    ) -> TailSummary:
        """As `ports.Tails` has it."""
        in_sync_at = self._uptime() - passed_s
        if service not in self._watched:
            self.look()
        watched, base = self._watched.get(service), None
        if watched is not None and upstream in watched.names:
            index = watched.names.index(upstream)
            side = watched.sides.get(index)
            old = watched.old
            if (
                old is not None
                and (old.told, old.index) == (True, index)
                and abs(old.in_sync_at - in_sync_at) < LOOK_MAX_S
            ):
                base = old.base  # the same change, asked for again
            if base is None and side is not None:
                base, since = _counted_at(side, in_sync_at)
                side.count_networks_since(since)
            watched.old = _Old(index, in_sync_at, ttl_s, told=True, base=base)
        while True:
            looked = self._looked
            side = self._side(service, upstream)
            passed_s = self._uptime() - in_sync_at
            if side is None:
                found = without_counting(passed_s, ttl_s)
            else:
                found = verdict(side.quiet, side.quiet.looked_at - in_sync_at, ttl_s, policy)
            late = bool(policy.timeout_s) and passed_s >= policy.timeout_s
            if found.over or late:
                return _summary(upstream, side, found, self._base(service, upstream), passed_s)
            if side is None:
                # Nobody may look any more: the service may have left the configuration.
                await asyncio.sleep(min(max(ttl_s - passed_s, LOOK_MIN_S), LOOK_MAX_S))
            else:
                await looked.wait()

    def _base(self, service: str, upstream: str) -> int | None:
        """What the side's counter had when its change was in sync, as far as it is known."""
        watched = self._watched.get(service)
        old = None if watched is None else watched.old
        if watched is None or old is None or watched.names[old.index] != upstream:
            return None
        return old.base

    def _side(self, service: str, upstream: str) -> _Side | None:
        watched = self._watched.get(service)
        if watched is None or upstream not in watched.names:
            return None
        return watched.sides.get(watched.names.index(upstream))

    # ------------------------------------------------------------ showing

    def document(
        self, service: str, under_way: str = "", leaving: str = ""
    ) -> dict[str, Any] | None:
        """A service's tail as the API shows it; None: nobody watches it.

        `under_way` is the id of its switchover, if there is one, and `leaving` the upstream that
        this takes the weight from: until its change is in sync nothing is over, whatever the
        weights still say.
        """
        watched = self._watched.get(service)
        if watched is None:
            return None
        now, policy, old = self._uptime(), watched.policy, watched.old
        ahead_s = self._wall() - now
        found, passed_s = None, 0.0
        old_name = None if old is None else watched.names[old.index]
        reason = _BOTH
        if under_way and (old is None or (old.told, old_name) != (True, leaving)):
            old, old_name = None, leaving
            reason = f"switchover {under_way} is under way, and its change is not in sync yet"
        if old is not None:
            passed_s = now - old.in_sync_at
            side = watched.sides.get(old.index)
            if side is None:
                found = without_counting(passed_s, old.ttl_s)
            else:
                found = verdict(
                    side.quiet, side.quiet.looked_at - old.in_sync_at, old.ttl_s, policy
                )
        over = found is not None and found.over
        late = old is not None and 0 < policy.timeout_s <= passed_s and not over
        return {
            "service": service,
            "old": old_name,
            "in_sync_at": utc(old.in_sync_at + ahead_s) if old is not None and old.told else None,
            "ttl_seconds": old.ttl_s if old is not None and old.told else None,
            "ttl_passed_at": (
                utc(old.in_sync_at + old.ttl_s + ahead_s) if old is not None and old.told else None
            ),
            "over": over,
            "timed_out": late,
            "reason": reason if found is None else found.reason,
            "below": str(policy.below),
            "for_seconds": policy.for_s,
            "timeout_seconds": policy.timeout_s or None,
            "upstreams": {
                name: self._side_document(
                    watched.sides.get(index),
                    policy.listeners.get(name, ()),
                    base=old.base if old is not None and old.index == index else None,
                    length_s=_length_s(policy),
                    now=now,
                    ahead_s=ahead_s,
                )
                for index, name in enumerate(watched.names)
            },
        }

    def _side_document(
        self,
        side: _Side | None,
        listeners: Sequence[str],
        *,
        base: int | None,
        length_s: float,
        now: float,
        ahead_s: float,
    ) -> dict[str, Any]:
        shown: dict[str, Any] = {
            "listeners": list(listeners),
            "requests": None,
            "requests_since_in_sync": None,
            "watched_since": None,
            "last_request_at": None,
            "curve": None,
            "networks": [],
            "other_networks": 0,
        }
        if side is None:
            return shown
        last_at = side.quiet.last_at
        begin = max(side.began_at, now - length_s)
        return {
            **shown,
            "requests": side.total,
            "requests_since_in_sync": None if base is None else side.total - base,
            "watched_since": utc(side.began_at + ahead_s),
            "last_request_at": None if last_at is None else utc(last_at + ahead_s),
            "curve": {
                "seconds": side.curve.width_s,
                "points": [
                    {"at": utc(at + ahead_s), "requests": requests}
                    for at, requests in side.curve.points(begin, now)
                ],
            },
            "networks": [
                {
                    "network": one.network,
                    "requests": one.requests,
                    "last_at": utc(one.last_at + ahead_s),
                }
                for one in side.networks.top(SHOWN_NETWORKS)
            ],
            "other_networks": side.networks.other,
        }

    def counted(self) -> Mapping[str, Sequence[bool]]:
        """Service -> whether its first and its second upstream's way in is counted."""
        return {
            name: [index in watched.sides for index in (0, 1)]
            for name, watched in self._watched.items()
        }


_BOTH: Final = "both upstreams have weight: neither is the old side"


def _summary(
    upstream: str, side: _Side | None, found: TailVerdict, base: int | None, passed_s: float
) -> TailSummary:
    if side is None:
        return TailSummary(upstream, found.over, found.reason, passed_s, None, ())
    top = side.networks.top(SUMMED_NETWORKS)
    return TailSummary(
        upstream=upstream,
        over=found.over,
        reason=found.reason,
        seconds=passed_s,
        requests=side.total - (side.first if base is None else base),
        networks=tuple((one.network, one.requests) for one in top),
    )


def _counted_at(side: _Side, at: float) -> tuple[int, float]:
    """What the counter had at this time, and from when on whatever came is not in that: exact to
    one look for what is not long ago, to a point of the curve for what is; what it had at the
    first look for what was before that."""
    if at <= side.began_at:
        return side.first, side.first_read_at
    if at >= side.looks[0][0]:
        return next(
            ((count, read_at) for read_at, count in side.looks if read_at >= at),
            (side.total, side.read_at),
        )
    count = max(side.total - side.curve.since(at - side.curve.width_s), side.first)
    return count, max(at, side.first_read_at)
