"""Pure: what the three parties write down, as values and as lines of JSON.

Times are seconds of the machine's monotonic clock, which all processes of a run share.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

ID_FIELD: Final = "X-Load-Id"
UPSTREAM_FIELD: Final = "X-Load-Upstream"
UPSTREAMS: Final = ("blue", "green")


# ---------------------------------------------------------------- the clients


@dataclass(frozen=True, slots=True)
class Sent:
    """A request is about to be sent."""

    id: str
    kind: str
    """Which sort of client and request, for people: `GET kept`, `WebSocket`."""
    began_s: float
    body: str = ""
    """Digest of the request's body, or of the messages sent; empty without any."""

    @property
    def idempotent(self) -> bool:
        """It may be carried out twice (RFC 9110, section 9.2.2)."""
        return not self.kind.startswith("POST")


@dataclass(frozen=True, slots=True)
class Got:
    """What became of it."""

    id: str
    ended_s: float
    status: int
    """0: no answer began."""
    upstream: str = ""
    """Who answered, by the answer's own word; empty: the proxy, or nobody."""
    body: str = ""
    """Digest of the answer's body, or of the messages received."""
    error: str = ""
    """Why it is not a whole, right answer."""
    left: bool = False
    """The client went away on purpose, amid an answer without end."""


# ---------------------------------------------------------------- the upstreams


@dataclass(frozen=True, slots=True)
class Arrived:
    """A server has read a request's head."""

    id: str
    upstream: str
    server: str
    at_s: float


@dataclass(frozen=True, slots=True)
class Served:
    """A server is done with a request."""

    id: str
    upstream: str
    server: str
    received: str
    """Digest of the request's body, or of the messages received."""
    body: str
    """Digest of the answer's body, or of the messages sent."""
    whole: bool
    """The answer was given to the kernel to its end; else the peer went away."""


# ---------------------------------------------------------------- the switching


@dataclass(frozen=True, slots=True)
class Change:
    """One entry of the schedule: asked for at `asked_s`, answered by the API at `done_s`."""

    what: str
    asked_s: float
    done_s: float
    settled: str | None
    """The upstream that has all traffic from `done_s` on; None: both have some."""
    flip: bool = False
    """All traffic moved to `settled` in one instant: one store of a weight."""
    error: str = ""
    """What the API answered instead of what was asked for."""


# ---------------------------------------------------------------- the proxy


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a switchover's receipt says. `started_s` to `ended_s` is what it counted."""

    id: str
    state: str
    accepted: int
    outcomes: Mapping[str, int]
    """answered_by_upstream, answered_by_proxy, client_aborted, cut."""
    in_flight: int
    cut: Sequence[str]
    """Those that it names as cut: method, path, reason."""
    upstreams: Mapping[str, int]
    """Upstream -> requests that ended there, but not by the client's leaving."""
    started_s: float
    ended_s: float
    """Not later than the counters were read."""
    known_s: float
    """Not earlier than the counters were read."""


@dataclass(frozen=True, slots=True)
class Counters:
    """/metrics, after the last answer."""

    accepted: int
    """Over all services, and of none."""
    outcomes: Mapping[tuple[str, str, str], int]
    """(Upstream or nothing, outcome, status code or nothing) -> requests."""
    in_flight: int
    durations: Mapping[str, int]
    """Upstream -> observations of the histogram."""
    troubles: Mapping[str, int] = field(default_factory=dict)
    """What must never have happened, by name -> how often it did."""
    retries: int = 0
    restarts: int = 0
    """Workers that died and were started again."""
    died: int = 0
    """Requests that were cut as their worker died."""

    @property
    def mistakes(self) -> Mapping[str, int]:
        """Of the troubles, those that no fault from outside explains."""
        return {name: count for name, count in self.troubles.items() if name.startswith(_MISTAKES)}

    def since(self, before: "Counters") -> "Counters":
        """What was counted after `before` was."""
        return Counters(
            self.accepted - before.accepted,
            _minus(self.outcomes, before.outcomes),
            self.in_flight,
            _minus(self.durations, before.durations),
            _minus(self.troubles, before.troubles),
            self.retries - before.retries,
            self.restarts - before.restarts,
            self.died - before.died,
        )


K = TypeVar("K")


def _minus(after: Mapping[K, int], before: Mapping[K, int]) -> dict[K, int]:
    left = {key: after.get(key, 0) - before.get(key, 0) for key in {*after, *before}}
    return {key: count for key, count in left.items() if count}


@dataclass(frozen=True, slots=True)
class Ledgers:
    """Everything that is held against each other."""

    sent: Sequence[Sent]
    got: Sequence[Got]
    arrived: Sequence[Arrived]
    served: Sequence[Served]
    changes: Sequence[Change]
    receipts: Sequence[Receipt]
    counters: Counters


# ---------------------------------------------------------------- lines

Line = Sent | Got | Arrived | Served
_KINDS: Final[Mapping[str, type[Line]]] = {
    kind.__name__: kind for kind in (Sent, Got, Arrived, Served)
}
L = TypeVar("L", Sent, Got, Arrived, Served)


def encode(line: Line) -> bytes:
    """One line of a ledger, newline included."""
    fields = {name: getattr(line, name) for name in type(line).__slots__}
    return json.dumps({"is": type(line).__name__, **fields}).encode() + b"\n"


def decode(text: bytes) -> Line:
    """Raises ValueError, KeyError or TypeError for what `encode` did not write."""
    fields: dict[str, Any] = json.loads(text)
    return _KINDS[fields.pop("is")](**fields)


def only(kind: type[L], lines: Iterable[Line]) -> list[L]:
    """The lines of one kind, in their order."""
    return [line for line in lines if isinstance(line, kind)]


def receipt(
    document: Mapping[str, Any], *, started_s: float, ended_s: float, known_s: float
) -> Receipt:
    """A receipt as the control API gives it. Raises KeyError when something is not in it."""
    requests = document["requests"]
    return Receipt(
        id=document["switchover"],
        state=document["state"],
        accepted=requests["accepted"],
        outcomes={
            name: count for name, count in requests.items() if name not in ("accepted", "in_flight")
        },
        in_flight=requests["in_flight"],
        cut=[
            f"{one.get('method')} {one.get('path')} ({one.get('reason')})"
            for one in document["cut"]
        ],
        upstreams={name: found["requests"] for name, found in document["upstreams"].items()},
        started_s=started_s,
        ended_s=ended_s,
        known_s=known_s,
    )


Sample = tuple[str, Mapping[str, str], float]
"""A metric's name, its labels, its value."""

_MISTAKES: Final = ("turnout_unexpected_errors_total", "turnout_refused_total")
_MUST_BE_ZERO: Final = (
    "turnout_requests_cut_total",
    "turnout_refused_total",
    "turnout_not_retried_total",
    "turnout_unexpected_errors_total",
    "turnout_unhealthy_picks_total",
    "turnout_worker_restarts_total",
)


def counters(samples: Iterable[Sample]) -> Counters:
    """What /metrics says, of all services together."""
    accepted = in_flight = retries = restarts = died = 0.0
    outcomes: dict[tuple[str, str, str], int] = {}
    durations: dict[str, int] = {}
    troubles: dict[str, int] = {}
    for name, labels, value in samples:
        upstream = labels.get("upstream", "")
        if name == "turnout_requests_accepted_total":
            accepted += value
        elif name == "turnout_requests_in_flight":
            in_flight += value
        elif name == "turnout_requests_total":
            key = (upstream, labels["outcome"], labels["code"])
            outcomes[key] = outcomes.get(key, 0) + round(value)
        elif name == "turnout_request_duration_seconds_count":
            durations[upstream] = durations.get(upstream, 0) + round(value)
        elif name == "turnout_retries_total":
            retries += value
        elif name == "turnout_worker_restarts_total":
            restarts += value
        elif name == "turnout_requests_cut_total" and labels["reason"] == "worker_died":
            died += value
        if name in _MUST_BE_ZERO and value:
            named = (
                f"{name}{{{', '.join(f'{key}={text}' for key, text in labels.items() if text)}}}"
            )
            troubles[named] = round(value)
    return Counters(
        round(accepted),
        outcomes,
        round(in_flight),
        durations,
        troubles,
        round(retries),
        round(restarts),
        round(died),
    )
