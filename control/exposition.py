"""`/metrics`: the scoreboard's counters as Prometheus reads them.

Nothing is counted here. What was served is read from the workers' regions when it is asked
for, so that the numbers are the ones that the receipts are made of, and survive a worker's
death. One reading of a service's counters gives both its outcomes and what is in flight:
`accepted = sum(outcomes) + in flight` holds in every scrape.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector, CollectorRegistry

from turnout.config.weights import percent
from turnout.control.rows import ServiceRow
from turnout.control.shared import SharedState
from turnout.control.switchover import FINAL
from turnout.proxy import scoreboard as board
from turnout.proxy.scoreboards import Scoreboards

UNMATCHED: Final = ""
"""The label `service` of requests that no service matched."""
NOT_PICKED: Final = ""
"""The label `upstream` of requests that never got one, or wait for one."""
_LABELS: Final = ("service", "upstream")


@dataclass(frozen=True, slots=True)
class Facts:
    """What is not in shared memory."""

    version: str
    services: Sequence[ServiceRow]
    """All that the store knows: also one that the configuration lost keeps its counters."""
    healthy: Mapping[tuple[str, str], bool]
    """(Service, upstream), of those in the configuration."""
    ended: Mapping[tuple[str, str], int] | None
    """(Service, final state) -> how many switchovers ended so; None: the store has not said."""
    event_streams: int = 0
    slow_readers: int = 0
    refused: Mapping[str, int] = field(default_factory=dict)
    """Name of the problem -> how many calls of the API got it."""
    discovered: Mapping[tuple[str, str], tuple[bool, float | None]] = field(default_factory=dict)
    """(Service, upstream) whose servers are found -> whether something is wrong with that, and
    how many seconds ago its source said something."""
    entries: Mapping[str, Sequence[bool]] = field(default_factory=dict)
    """Service -> whether requests are counted by the address of its first, its second upstream."""


def render(shared: SharedState, facts: Facts, accept: str = "") -> tuple[bytes, str]:
    """The text of one scrape and its content type, as the Accept field asks for it."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Scrape(shared, facts))
    encode: Callable[[CollectorRegistry], bytes]
    encode, kind = choose_encoder(accept)
    return encode(registry), kind


@dataclass(frozen=True, slots=True)
class _Block:
    """One service's counters, read once."""

    service: str
    upstreams: tuple[str, str]
    counters: Sequence[int]
    classes: Mapping[int, Sequence[int]]
    """Upstream index -> exchanges in flight of each class, by the in-flight tables."""


class _Scrape(Collector):
    """Reads shared memory once, when the registry asks for the metrics."""

    def __init__(self, shared: SharedState, facts: Facts) -> None:
        self._shared = shared
        self._facts = facts

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterator[Metric]:
        blocks = self._blocks()
        yield from _requests(blocks)
        yield _durations(blocks)
        yield self._entered(blocks)
        yield from _retries(blocks)
        yield from self._services()
        yield from self._workers()
        yield from self._discovered()
        yield from self._control()

    def _blocks(self) -> list[_Block]:
        boards = self._shared.boards
        # Before the counters: what has ended since is not in flight by them, and is left out.
        classes = _classes(boards)
        named = [(0, UNMATCHED, ("", ""))]
        named += [(row.slot, row.name, (row.first, row.second)) for row in self._facts.services]
        return [
            _Block(
                name,
                upstreams,
                boards.service_counters(slot),
                {index: classes.get((slot, index), _NONE) for index in (0, 1, board.NO_UPSTREAM)},
            )
            for slot, name, upstreams in named
            if slot <= boards.geometry.services
        ]

    def _entered(self, blocks: Sequence[_Block]) -> Metric:
        family = CounterMetricFamily(
            "turnout_entry_requests",
            "Requests that came in by the listeners of an upstream's address (outer.tail), "
            "whichever upstream they were sent to.",
            labels=_LABELS,
        )
        for block in blocks:
            for index, counted in enumerate(self._facts.entries.get(block.service, ())):
                if counted:
                    count = block.counters[board.S_ENTERED + index]
                    family.add_metric([block.service, block.upstreams[index]], count)
        return family

    def _services(self) -> Iterator[Metric]:
        weight = GaugeMetricFamily(
            "turnout_weight", "Share of new requests that an upstream gets, in percent.",
            labels=_LABELS,
        )  # fmt: skip
        held = GaugeMetricFamily(
            "turnout_held",
            "1 while new requests of a service are kept waiting.",
            labels=["service"],
        )
        healthy = GaugeMetricFamily(
            "turnout_upstream_healthy", "1 while an upstream is held healthy.", labels=_LABELS
        )
        known = {service for service, _ in self._facts.healthy}
        for row in self._facts.services:
            if row.name not in known:
                continue
            word = self._shared.word(row.slot)
            weight.add_metric(
                [row.name, row.first], percent(board.WEIGHT_UNIT - word.second_weight)
            )
            weight.add_metric([row.name, row.second], percent(word.second_weight))
            held.add_metric([row.name], int(word.hold))
        for (service, upstream), value in self._facts.healthy.items():
            healthy.add_metric([service, upstream], int(value))
        yield from (weight, held, healthy)
        if self._facts.ended is None:
            return  # left out, not 0: a counter that comes back from 0 looks like so many new ones
        ended = CounterMetricFamily(
            "turnout_switchovers", "Switchovers that have ended, by their final state.",
            labels=["service", "state"],
        )  # fmt: skip
        # With zeros: who watches for the first failure must have seen none before.
        none = {(service, state.value): 0 for service in known for state in FINAL}
        for (service, state), count in sorted({**none, **self._facts.ended}.items()):
            ended.add_metric([service, state], count)
        yield ended

    def _workers(self) -> Iterator[Metric]:
        boards = self._shared.boards
        live = boards.live_regions()
        workers = GaugeMetricFamily("turnout_workers", "Workers by state.", labels=["state"])
        states = [boards.state(region) for region in boards.numbers]
        for state in board.WorkerState:
            if state is not board.WorkerState.FREE:
                workers.add_metric([state.name.lower()], states.count(state))
        yield workers
        yield CounterMetricFamily(
            "turnout_worker_restarts",
            "Workers that died, each started anew.",
            value=boards.restarts(),
        )
        yield GaugeMetricFamily(
            "turnout_connections", "Open connections of clients.",
            value=sum(boards.field(region, board.R_CONNECTIONS) for region in live),
        )  # fmt: skip
        yield GaugeMetricFamily(
            "turnout_accept_paused", "Workers that accept nothing for want of descriptors.",
            value=sum(boards.field(region, board.R_ACCEPT_PAUSED) for region in live),
        )  # fmt: skip
        yield GaugeMetricFamily(
            "turnout_upstream_connections", "Open connections to servers, busy and idle.",
            value=sum(boards.field(region, board.R_UPSTREAM_CONNECTIONS) for region in live),
        )  # fmt: skip
        yield from _of_workers(boards.worker_counters())

    def _discovered(self) -> Iterator[Metric]:
        if not self._facts.discovered:
            return
        problem = GaugeMetricFamily(
            "turnout_discovery_problem",
            "1 while an upstream's servers are not just what their source says.",
            labels=_LABELS,
        )
        age = GaugeMetricFamily(
            "turnout_discovery_age_seconds",
            "Since an upstream's source of servers said something.",
            labels=_LABELS,
        )
        for upstream, (is_wrong, seconds) in sorted(self._facts.discovered.items()):
            problem.add_metric(upstream, int(is_wrong))
            if seconds is not None:
                age.add_metric(upstream, seconds)
        yield problem
        yield age

    def _control(self) -> Iterator[Metric]:
        facts, shared = self._facts, self._shared
        info = GaugeMetricFamily("turnout_build_info", "1; its labels say what runs.", labels=["version"])  # fmt: skip
        info.add_metric([facts.version], 1)
        yield info
        yield GaugeMetricFamily(
            "turnout_routing_table", "Number of the table in force.", value=shared.table_in_force
        )
        yield GaugeMetricFamily(
            "turnout_epoch", "Newest epoch of the routing words.", value=shared.epoch
        )
        yield GaugeMetricFamily(
            "turnout_event_streams", "Readers of /v1/events.", value=facts.event_streams
        )
        yield CounterMetricFamily(
            "turnout_event_streams_too_slow",
            "Readers of /v1/events that were disconnected, as they took nothing.",
            value=facts.slow_readers,
        )
        refused = CounterMetricFamily(
            "turnout_api_calls_refused", "Calls of the control API that were refused.",
            labels=["problem"],
        )  # fmt: skip
        for problem, count in sorted(facts.refused.items()):
            refused.add_metric([problem], count)
        yield refused


# ---------------------------------------------------------------- requests

_NONE: Final[Sequence[int]] = (0,) * len(board.CLASS_NAMES)


def _classes(boards: Scoreboards) -> dict[tuple[int, int], list[int]]:
    """(Slot, upstream) -> exchanges of each class, by the workers' in-flight tables."""
    found: dict[tuple[int, int], list[int]] = {}
    for region in boards.live_regions():
        for entry in boards.in_flight(region):
            found.setdefault((entry.slot, entry.upstream), list(_NONE))[entry.kind] += 1
    return found


def _requests(blocks: Sequence[_Block]) -> Iterator[Metric]:
    accepted = CounterMetricFamily(
        "turnout_requests_accepted", "Requests whose head was received.", labels=["service"]
    )
    ended = CounterMetricFamily(
        "turnout_requests", "Requests that have ended, each in exactly one way.",
        labels=[*_LABELS, "outcome", "code"],
    )  # fmt: skip
    cut = CounterMetricFamily(
        "turnout_requests_cut", "Requests ended before their answer was complete; begun or not.",
        labels=[*_LABELS, "reason"],
    )  # fmt: skip
    in_flight = GaugeMetricFamily(
        "turnout_requests_in_flight", "Requests that have not ended.", labels=[*_LABELS, "class"]
    )
    picks = CounterMetricFamily(
        "turnout_unhealthy_picks", "Requests sent to an upstream without a healthy server.",
        labels=_LABELS,
    )  # fmt: skip
    failed = CounterMetricFamily(
        "turnout_attempts_failed", "Attempts that got no answer, those that were retried too.",
        labels=_LABELS,
    )  # fmt: skip
    for block in blocks:
        accepted.add_metric([block.service], block.counters[board.S_ACCEPTED])
        rest = block.counters[board.S_ACCEPTED]
        for name, base, index in _places(block):
            labels = [block.service, name]
            outcomes = list(_outcomes(block.counters, base))
            for outcome, code, count in outcomes:
                ended.add_metric([*labels, outcome, code], count)
            for reason, count in _cuts(block.counters, base):
                cut.add_metric([*labels, reason], count)
            if index == board.NO_UPSTREAM:
                flying = rest - sum(count for _, _, count in outcomes)
            else:
                flying = block.counters[base + board.U_PICKED]
                rest -= flying
                flying -= sum(count for _, _, count in outcomes)
                picks.add_metric(labels, block.counters[base + board.U_UNHEALTHY_PICKS])
                failed.add_metric(labels, block.counters[base + board.U_ATTEMPTS_FAILED])
            classes = zip(board.CLASS_NAMES, split(flying, block.classes[index]), strict=True)
            for kind, count in classes:
                in_flight.add_metric([*labels, kind], count)
    yield from (accepted, ended, cut, in_flight, picks, failed)


def _places(block: _Block) -> Iterator[tuple[str, int, int]]:
    """(Upstream's name, offset of its counters, index): both upstreams, then none of them."""
    if block.service:
        for index, name in enumerate(block.upstreams):
            yield name, index * board.UPSTREAM_WORDS, index
    yield NOT_PICKED, -1, board.NO_UPSTREAM


def _outcomes(counters: Sequence[int], base: int) -> Iterator[tuple[str, str, int]]:
    """(Outcome, code, count) of those that ever happened; `base` -1: without an upstream."""
    if base < 0:
        proxy, aborted, cut, end = board.S_PROXY, board.S_ABORTED, board.S_CUT, board.S_OUTCOMES_END
    else:
        proxy, aborted = base + board.U_PROXY, base + board.U_ABORTED
        cut, end = base + board.U_CUT, base + board.U_OUTCOMES_END
        answered = base + board.U_ANSWERED
        for code, count in zip(board.CODE_LABELS, counters[answered:proxy], strict=True):
            if count:
                yield "answered_by_upstream", code, count
    for code, count in zip(board.PROXY_CODE_LABELS, counters[proxy:aborted], strict=True):
        if count:
            yield "answered_by_proxy", code, count
    if counters[aborted]:
        yield "client_aborted", "", counters[aborted]
    if sum(counters[cut:end]):
        yield "cut", "", sum(counters[cut:end])


def _cuts(counters: Sequence[int], base: int) -> Iterator[tuple[str, int]]:
    first = board.S_CUT if base < 0 else base + board.U_CUT
    reasons = enumerate(board.CUT_REASONS)
    return ((name, counters[first + i]) for i, name in reasons if counters[first + i])


def split(total: int, classes: Sequence[int]) -> list[int]:
    """Exchanges in flight by class: as the tables say, and in sum `total`, which is counted.

    The tables are read a moment apart from the counters. What they have too many is taken
    from the plain ones first, what they lack is plain.
    """
    total = max(total, 0)
    found = list(classes)
    for index, _ in enumerate(found):
        surplus = sum(found) - total
        found[index] -= min(max(surplus, 0), found[index])
    found[board.ExchangeClass.PLAIN] += total - sum(found)
    return found


def _durations(blocks: Sequence[_Block]) -> Metric:
    family = HistogramMetricFamily(
        "turnout_request_duration_seconds",
        "From a request's head to the end of its answer, of those answered by an upstream.",
        labels=_LABELS,
    )
    bounds = [*(str(float(bound) / 1000) for bound in board.LATENCY_BOUNDS_MS), "+Inf"]
    for block in blocks:
        for name, base, index in _places(block):
            if index == board.NO_UPSTREAM:
                continue
            first, total = base + board.U_LATENCY, 0
            buckets: list[tuple[str, float]] = []
            for offset, bound in enumerate(bounds):
                total += block.counters[first + offset]
                buckets.append((bound, total))
            seconds = block.counters[base + board.U_LATENCY_SUM_US] / 1e6
            family.add_metric([block.service, name], buckets, seconds)
    return family


def _retries(blocks: Sequence[_Block]) -> Iterator[Metric]:
    yield _by_reason(
        "turnout_retries", "Requests sent anew.", board.RETRY_REASONS,
        lambda index: sum(block.counters[board.S_RETRIES + index] for block in blocks),
    )  # fmt: skip
    yield _by_reason(
        "turnout_not_retried", "Requests that failed and were not sent anew.",
        board.NOT_RETRIED_REASONS,
        lambda index: sum(block.counters[board.S_NOT_RETRIED + index] for block in blocks),
    )  # fmt: skip


def _of_workers(counters: Sequence[int]) -> Iterator[Metric]:
    def at(place: int) -> int:
        return counters[place - board.REGION_HEADER_WORDS]

    yield _by_reason(
        "turnout_refused", "Heads that never completed or could not be read.",
        board.REFUSED_REASONS, lambda index: at(board.C_REFUSED + index),
    )  # fmt: skip
    yield _by_reason(
        "turnout_peer_faults", "What slow, greedy and vanished peers met.",
        board.PEER_FAULTS, lambda index: at(board.C_PEER_FAULTS + index), label="fault",
    )  # fmt: skip
    yield CounterMetricFamily(
        "turnout_accept_pauses", "Times that a worker stopped accepting for want of descriptors.",
        value=at(board.C_ACCEPT_PAUSES),
    )  # fmt: skip
    yield CounterMetricFamily(
        "turnout_connects_without_descriptor",
        "Connections to servers that the system had no descriptor, memory or port for.",
        value=at(board.C_CONNECTS_WITHOUT_DESCRIPTOR),
    )
    yield CounterMetricFamily(
        "turnout_connections_accepted", "Connections of clients that were accepted.",
        value=at(board.C_CONNECTIONS_ACCEPTED),
    )  # fmt: skip
    yield CounterMetricFamily(
        "turnout_access_log_lines_dropped", "Lines that found no room in the access log's buffer.",
        value=at(board.C_LOG_LINES_DROPPED),
    )  # fmt: skip
    yield CounterMetricFamily(
        "turnout_unexpected_errors", "Mistakes of Turnout's own in a worker. To be reported.",
        value=at(board.C_UNEXPECTED_ERRORS),
    )  # fmt: skip


def _by_reason(
    name: str,
    what: str,
    reasons: Sequence[str],
    count: Callable[[int], int],
    label: str = "reason",
) -> CounterMetricFamily:
    family = CounterMetricFamily(name, what, labels=[label])
    for index, reason in enumerate(reasons):
        family.add_metric([reason], count(index))
    return family
