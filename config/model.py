"""The domain's values: what a service, an upstream and a policy are.

Frozen, without a clock or a socket, of the standard library only. They are made by
`settings` from what a person wrote and are checked there; what is also made elsewhere
(`Address`, `Weights`) checks itself, and is to be had from here as well.

Units stand last in a name: `_s` seconds, `_bytes`, `_fraction` 0..1. A weight or a step is
a whole number of hundredths of a percent, 0..10000. In `Timeouts` and `Limits` 0 is "no
limit"; everywhere else it is "none at all".
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from turnout.config.address import Address as Address
from turnout.config.address import AddressKind as AddressKind
from turnout.config.units import Rate as Rate
from turnout.config.weights import WHOLE as WHOLE
from turnout.config.weights import Weights as Weights

ATOMIC: Final = "atomic"
"""The built-in strategy: from 0 to 100 in one instant."""

BY_HAND: Final = "weights"
"""The name in the history of weights that were set by hand; no strategy may be named so."""


@dataclass(frozen=True, slots=True)
class Configuration:
    """Everything that one configuration says, with every default filled in."""

    source: str
    """The file that it was read from, absolute; empty for one made from options alone."""
    workers: int
    runtime_dir: str
    """Absolute."""
    listeners: tuple["Listener", ...]
    control: "ControlPlane"
    state: "State"
    access_log: "AccessLog"
    event_log: "EventLog"
    timeouts: "Timeouts"
    limits: "Limits"
    pool: "Pool"
    trust_forwarded: tuple[str, ...]
    """Networks in CIDR form; `unix` for peers on a Unix socket."""
    via: str
    """The pseudonym in the `Via` field (RFC 9110, section 7.6.3)."""
    prober: "Prober"
    resolver: "Resolver"
    services: tuple["Service", ...]
    """In the file's order."""

    def service(self, name: str) -> "Service | None":
        """The service of that name, if there is one."""
        return next((service for service in self.services if service.name == name), None)


@dataclass(frozen=True, slots=True)
class Service:
    """A thing that clients reach, and the two environments that it may be served by."""

    name: str
    match: "Match"
    initial: str
    """The upstream that has 100 while the store knows nothing yet."""
    upstreams: tuple["Upstream", "Upstream"]
    """In the file's order: index 0 is the first, 1 the second, in words and counters too."""
    health: "HealthPolicy | None"
    """None: both upstreams are always held healthy."""
    try_out: "TryOut | None"
    drain: "DrainPolicy"
    retries: "RetryPolicy"
    hold: "HoldPolicy"
    switchover: "SwitchoverPolicy"
    outer: "Outer | None" = None
    """What a switchover moves beside the proxy's own weights."""
    gates: tuple["Gate", ...] = ()
    """What must hold before a step takes weight to its target."""

    @property
    def names(self) -> tuple[str, str]:
        """The names of the two upstreams, first and second."""
        return self.upstreams[0].name, self.upstreams[1].name

    @property
    def initial_weights(self) -> Weights:
        return Weights.all_on(*self.names, self.initial)

    def upstream(self, name: str) -> "Upstream | None":
        """The upstream of that name, if it is one of the two."""
        return next((upstream for upstream in self.upstreams if upstream.name == name), None)


@dataclass(frozen=True, slots=True)
class Upstream:
    """One of a service's two environments: a named group of servers."""

    name: str
    servers: tuple[str, ...]
    """Addresses in canonical spelling; may be empty: nothing is deployed there yet."""
    min_healthy: int
    """So many servers must be healthy for the upstream to be held healthy."""
    discover: "Discover | None" = None
    """Where its servers are known; what is found there goes before `servers`."""


@dataclass(frozen=True, slots=True)
class Match:
    """Which requests are a service's."""

    hosts: tuple[str, ...]
    """Lower case, without port; `*.example` stands for one label. Empty: every host."""
    path_prefix: str
    """Begins with `/`, ends without one unless it is `/`; matches on `/` boundaries."""


@dataclass(frozen=True, slots=True)
class StatusRange:
    """Status codes from `first` to `last`, both included."""

    first: int
    last: int

    def __contains__(self, status: int) -> bool:
        return self.first <= status <= self.last


@dataclass(frozen=True, slots=True)
class PassivePolicy:
    """When the results of real traffic take a server out."""

    connect_failures: int
    """So many connection attempts in a row failed; 0: not a reason."""
    error_answers: int
    """So many answers in a row were 5xx, or never came; 0: not a reason."""
    avoid_s: float
    """How long a worker avoids a server that it met so many failures of; 0: not at all."""


@dataclass(frozen=True, slots=True)
class HealthPolicy:
    """How each server of a service is probed."""

    path: str
    host: str
    """The probe's Host field; empty: the server's own address."""
    interval_s: float
    timeout_s: float
    rise: int
    """So many good results in a row make an unhealthy server healthy."""
    fall: int
    """So many bad results in a row make a healthy server unhealthy."""
    status: tuple[StatusRange, ...]
    body: str
    """Must occur in the answer's body; empty: not looked at."""
    jitter_fraction: float
    """Each wait is longer or shorter by up to this share of the interval."""
    doubt_interval_s: float
    """The interval while the last result contradicts the state, or none is known yet."""
    passive: PassivePolicy | None


@dataclass(frozen=True, slots=True)
class TryOut:
    """The field by which a request reaches an upstream before any weight does."""

    header: str
    token: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class DrainPolicy:
    """How long the old upstream may finish what it has."""

    timeout_s: float
    tunnels_s: float
    """For tunnels (WebSocket) and event streams, which may never end by themselves."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    attempts: int
    """How often a request may be sent anew after the first attempt."""
    budget_fraction: float
    """Retries may be this share of a worker's recent requests of the service."""
    budget_window_s: float
    """What is recent."""
    budget_floor: int
    """Retries in a window that each worker always allows."""


@dataclass(frozen=True, slots=True)
class HoldPolicy:
    """How many requests may wait while a service is held, and for how long."""

    requests: int
    """In all workers together."""
    timeout_s: float


class OnFailure(StrEnum):
    """What a switchover does when its target turns unhealthy or its errors pass the limit."""

    ROLLBACK = "rollback"
    STAY = "stay"


class AfterRestart(StrEnum):
    """What becomes of a switchover that was under way when everything was stopped."""

    RESUME = "resume"
    ROLLBACK = "rollback"


@dataclass(frozen=True, slots=True)
class Strategy:
    """The shares that the target of a switchover gets, one after the other."""

    name: str
    steps: tuple[int, ...]
    """Hundredths of a percent of the target, rising; the last is 10000."""
    pause_s: float
    """Between one step and the next; infinity: until somebody approves."""


@dataclass(frozen=True, slots=True)
class ErrorLimit:
    """When the target's errors end a switchover: 5xx answers, and requests it failed."""

    rate_fraction: float
    requests_min: int
    """With fewer requests in the window there is no verdict."""
    window_s: float


@dataclass(frozen=True, slots=True)
class SwitchoverPolicy:
    default: str
    """The strategy's name when none is asked for."""
    on_failure: OnFailure
    after_restart: AfterRestart
    error_limit: ErrorLimit | None
    prepare_timeout_s: float
    """How long the workers may take to load a new table before the switchover fails."""
    strategies: tuple[Strategy, ...]
    """The built-in `atomic` first, then those of the file."""

    def strategy(self, name: str) -> Strategy | None:
        """The strategy of that name, if there is one."""
        return next((strategy for strategy in self.strategies if strategy.name == name), None)


class OuterOrder(StrEnum):
    """Which moves first at each step on the way to an upstream."""

    OUTER_FIRST = "outer_first"
    INNER_FIRST = "inner_first"


@dataclass(frozen=True, slots=True)
class TailPolicy:
    """When the side that lost its weight beyond the proxy may go."""

    below: Rate
    for_s: float
    timeout_s: float
    """0: it is waited for as long as it takes."""
    listeners: Mapping[str, tuple[str, ...]]
    """Upstream -> binds of the listeners that its address leads to."""
    networks: int = 1000
    """So many client networks are told apart."""


@dataclass(frozen=True, slots=True)
class Outer:
    """A system in front of Turnout that a switchover moves too."""

    kind: str
    order: OuterOrder
    in_sync_timeout_s: float
    """From when it took a change on; what is not in sync by then is unknown."""
    retry_s: float
    """How long a call that was not carried out, or not answered, is tried again."""
    call_timeout_s: float
    tail: TailPolicy | None
    """None: nobody looks who still comes by the old way."""
    settings: object = field(repr=False)
    """The kind's own, as `config.outer` reads them."""


@dataclass(frozen=True, slots=True)
class Discover:
    """A source of an upstream's servers."""

    kind: str
    call_timeout_s: float
    settings: object = field(repr=False)
    min_interval_s: float = 1.0
    """At most one change of the servers in so long."""
    retry_max_s: float = 30.0
    """The longest pause before a source that is lost is tried again."""


@dataclass(frozen=True, slots=True)
class Gate:
    """A condition that must hold before a step takes weight to its target."""

    name: str
    kind: str
    interval_s: float
    """How often it is asked while it does not pass."""
    failures: int
    """So many times in a row it must fail for the switchover to fail."""
    patience_s: float
    """How long it may be inconclusive, or not to be asked, before the switchover fails."""
    call_timeout_s: float
    settings: object = field(repr=False)


@dataclass(frozen=True, slots=True)
class Listener:
    """Where clients come in."""

    bind: Address
    health_path: str | None
    """A path that a worker answers itself; None: all are forwarded."""
    connections: int
    """0 is no limit of its own."""


class Scope(StrEnum):
    """What a token allows; `write` includes `read`."""

    READ = "read"
    WRITE = "write"


@dataclass(frozen=True, slots=True)
class Token:
    name: str
    """Who it is, for the audit."""
    scope: Scope
    token: str = field(repr=False)
    file: str = ""
    """From which it was read; empty: the configuration."""
    file_problem: str = ""
    """Why the file could not be read when control was started again; `token` then fits nobody."""


@dataclass(frozen=True, slots=True)
class ApiTls:
    """Absolute paths of PEM files."""

    cert: str
    key: str
    client_ca: str | None
    """Of those whose certificates clients must have; None: they need none."""


@dataclass(frozen=True, slots=True)
class ControlPlane:
    """Where the control API is, and who may use it."""

    bind: Address
    tokens: tuple[Token, ...]
    """None: whoever reaches `bind` may do everything."""
    hosts: tuple[str, ...]
    """By which it may be called beside its own address; `*` is any, `*.x` one label."""
    tls: ApiTls | None
    """None: plain HTTP."""
    socket_mode: int | None
    """Of a Unix socket's file; None: as there are tokens."""
    connections: int
    """At once."""
    header_bytes: int
    """Of the request line, and of each field."""
    headers: int
    timeout_s: float
    """For a body to come, and for an answer to be taken."""
    keep_alive_s: float
    """For the next call's head."""
    body_bytes: int
    """The largest body of a call."""
    event_streams: int
    """So many readers of /v1/events at once."""
    idempotency_s: float
    """How long the answer to an Idempotency-Key is kept."""


@dataclass(frozen=True, slots=True)
class State:
    """Where decisions are kept, and how many of the old ones."""

    path: str
    """Of the SQLite database, absolute."""
    switchovers_kept: int
    """Of each service."""
    audit_kept: int
    """Entries of the audit that say what was done."""
    refusals_kept: int
    """Entries of the audit that say what was refused."""
    events_kept: int


class LogFormat(StrEnum):
    JSON = "json"
    TEXT = "text"
    OFF = "off"


@dataclass(frozen=True, slots=True)
class AccessLog:
    """One line an exchange. `path` is `stdout`, `stderr` or an absolute path."""

    format: LogFormat
    path: str
    buffer_bytes: int
    """What control keeps while the log cannot be written."""
    worker_buffer_bytes: int
    """What each worker keeps while control is away."""


@dataclass(frozen=True, slots=True)
class EventLog:
    """What Turnout did and why. `path` is `stdout`, `stderr` or an absolute path."""

    format: LogFormat
    path: str


@dataclass(frozen=True, slots=True)
class Timeouts:
    """All in seconds; 0 is no limit."""

    header_s: float
    body_idle_s: float
    client_rate_s: float
    """Over which a client's rate is looked at. Never 0."""
    keep_alive_s: float
    connect_s: float
    first_byte_s: float
    tunnel_idle_s: float
    half_closed_s: float
    """For an answer to a client that has closed its half: it may be gone altogether."""
    linger_s: float
    """How long a closed connection's unread input is still read, so that no reset destroys
    the last answer before the client has read it."""
    linger_total_s: float
    """The same, for a client that goes on sending meanwhile."""
    shutdown_s: float
    """How long a stopping or replaced worker may finish what it has."""
    watchdog_s: float
    """How long a worker may not turn its loop before it is killed and replaced."""


@dataclass(frozen=True, slots=True)
class Limits:
    """0 is no limit, but for `connections`, `services` and `servers`, which are never 0, and
    for `replay_bytes`, `pipes` and `refused_connections`, where it is none."""

    header_bytes: int
    """Of a request's head."""
    response_header_bytes: int
    headers: int
    """Fields in a head, a request's or a response's."""
    interim_answers: int
    """1xx heads before the final one."""
    trailer_bytes: int
    body_bytes: int
    connections: int
    """From clients, of all workers together."""
    connections_per_client: int
    """The same, from one address or, of IPv6, one /64."""
    refused_connections: int
    """Beyond a limit, and answered: of one worker at a time; 0 is none."""
    client_rate_bytes: int
    """A second, of a body that a client sends or an answer that it takes."""
    replay_bytes: int
    """Of a request's body kept for a retry."""
    pipeline_bytes: int
    """Read ahead of the request under way."""
    pipes: int
    """Of one worker at a time, for long bodies."""
    services: int
    servers: int
    """Of one upstream."""
    in_flight_named: int
    """Exchanges of one worker that the in-flight table has room for."""


class Reuse(StrEnum):
    """Which requests may go out on a kept server connection (HAProxy's `http-reuse`)."""

    AGGRESSIVE = "aggressive"
    """Any."""
    SAFE = "safe"
    """A client connection's first request only if it may be retried."""


@dataclass(frozen=True, slots=True)
class Pool:
    """Connections from one worker to one server."""

    connections_max: int
    """Busy and idle; 0 is no limit."""
    idle_max: int
    """Kept for further requests; 0: none."""
    idle_timeout_s: float
    queue_timeout_s: float
    """How long a request waits for a connection when `connections_max` is reached."""
    reuse: Reuse


@dataclass(frozen=True, slots=True)
class Prober:
    """Bounds on the probes of all services together."""

    concurrency: int
    body_bytes: int
    """So much of an answer's body is read to look for `HealthPolicy.body`."""


@dataclass(frozen=True, slots=True)
class Resolver:
    """How server names become addresses."""

    ttl_min_s: float
    ttl_max_s: float
    hosts_interval_s: float
    """How often a name that /etc/hosts answers is looked up again."""
    timeout_s: float
    failed_max_s: float
    """How long a name without an answer is left alone at most."""
    concurrency: int
    """Names that are looked up at one time."""
