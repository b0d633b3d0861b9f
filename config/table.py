"""The routing table: everything a worker needs to serve, as an immutable numbered value.

Control compiles it from the configuration and the store; a worker reads it from a file in
the runtime directory and serves from it until routing word 0 names another number. It holds
no weights (those are in the routing words) and no health (that is in the health words), so
that neither a flip nor a probe needs a new table.

Plain data on purpose: a worker imports no validation library, and the same file must be
readable by the program before and after an upgrade.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from dataclasses import fields as dataclass_fields
from typing import Any, Final

FORMAT: Final = 1
"""Version of the file's layout. Raised when a reader of the old one would misread it."""


LISTENERS_LIMITED_MAX: Final = 16
"""With a limit of their own: so many have room in the scoreboard."""


class TableError(ValueError):
    """A table file that cannot be used: another format, or not whole."""


@dataclass(frozen=True, slots=True)
class TableTimeouts:
    """All in seconds; 0 is no limit."""

    header_s: float = 10.0
    body_idle_s: float = 30.0
    client_rate_s: float = 60.0
    """Over which `TableLimits.client_rate_bytes` is looked at. Never 0."""
    keep_alive_s: float = 75.0
    connect_s: float = 2.0
    first_byte_s: float = 60.0
    tunnel_idle_s: float = 3600.0
    half_closed_s: float = 10.0
    """For an answer to a client that has closed its half: it may be gone altogether."""
    linger_s: float = 2.0
    """How long a closed connection's unread input is still read, so that no reset destroys
    the last answer before the client has read it."""
    linger_total_s: float = 30.0
    """The same, for a client that goes on sending meanwhile."""
    shutdown_s: float = 30.0
    """How long a worker that is told to leave may finish what it has."""


@dataclass(frozen=True, slots=True)
class TableLimits:
    """Sizes in bytes; 0 is no limit, but none at all for `replay_bytes`."""

    header_bytes: int = 32 * 1024
    """Of a request's head."""
    response_header_bytes: int = 64 * 1024
    headers: int = 100
    """Fields in a head, a request's or a response's."""
    interim_answers: int = 32
    """1xx heads before the final one."""
    trailer_bytes: int = 8 * 1024
    body_bytes: int = 0
    connections: int = 10_000
    """Of all workers together. Never 0."""
    connections_per_client: int = 0
    """Of all workers together."""
    refused_connections: int = 256
    """Beyond a limit, and answered: of one worker at a time; 0 is none."""
    client_rate_bytes: int = 100
    """A second, of a body that a client sends or an answer that it takes."""
    replay_bytes: int = 64 * 1024
    pipeline_bytes: int = 64 * 1024
    """Read ahead of the request under way."""
    pipes: int = 256
    """Of one worker at a time, for long bodies; 0 is none: all are copied."""
    log_bytes: int = 1024 * 1024
    """Of access-log lines that a worker keeps while control is away. Never 0."""


@dataclass(frozen=True, slots=True)
class TablePool:
    """Kept connections to each server, for one worker."""

    connections_max: int = 0
    """Open connections to one server, busy and idle; 0 is no limit."""
    idle_max: int = 256
    idle_timeout_s: float = 30.0
    reuse_safe: bool = False
    """HAProxy's `http-reuse safe`: the first request of a client's connection never goes out
    on a server connection that has been idle, unless it may be retried."""
    queue_timeout_s: float = 5.0
    """How long a request waits for a connection when `connections_max` is reached."""


@dataclass(frozen=True, slots=True)
class TableServer:
    """One place to connect to.

    `address` is as configured (`app:9001`), `endpoint` is what to connect to (`10.0.0.7:9001`,
    `[::1]:9001`, `unix:/run/app.sock`); `health_slot` is its index in the health words.
    """

    address: str
    endpoint: str
    health_slot: int


@dataclass(frozen=True, slots=True)
class TableUpstream:
    name: str
    servers: tuple[TableServer, ...]


@dataclass(frozen=True, slots=True)
class TableService:
    """One service: what it matches, its two upstreams (0 first, 1 second) and its limits."""

    name: str
    slot: int
    hosts: tuple[str, ...]
    """Lower case, without port; `*.example` stands for one label. Empty: every host."""
    path_prefix: str
    upstreams: tuple[TableUpstream, TableUpstream]
    retry_attempts: int = 2
    """How often a request may be sent anew after the first attempt."""
    retry_budget: float = 0.2
    retry_window_s: float = 10.0
    retry_floor: int = 100
    """Retries in a window that one worker always allows."""
    avoid_after: int = 3
    """Failed attempts in a row after which a worker avoids a server by itself; 0 is never."""
    avoid_s: float = 2.0
    hold_requests: int = 1000
    hold_timeout_s: float = 30.0
    try_out_header: str = ""
    try_out_token: str = ""
    entries: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
    """Binds of the listeners that the address of each upstream leads to: what comes in there
    is counted, and from which networks."""
    entry_networks: int = 1000
    """So many of these are told apart between two messages to control."""


@dataclass(frozen=True, slots=True)
class RoutingTable:
    number: int
    services: tuple[TableService, ...]
    timeouts: TableTimeouts = TableTimeouts()
    limits: TableLimits = TableLimits()
    pool: TablePool = TablePool()
    trust_forwarded: tuple[str, ...] = ()
    """Networks (CIDR) whose forwarding fields are kept; `unix` for peers on a Unix socket."""
    via: str = "turnout"
    access_log: str = "off"
    """`json`, `text` or `off`."""
    health_paths: Mapping[str, str] | None = None
    """Listener's bind -> path that a worker answers itself."""
    listener_connections: Mapping[str, int] | None = None
    """Listener's bind -> connections of clients, in all workers together; at most
    LISTENERS_LIMITED_MAX have such a limit."""


def document(table: RoutingTable) -> dict[str, Any]:
    """Return the table as plain data, as its file and a plan hold it."""
    return {**asdict(table), "format": FORMAT}


def encode(table: RoutingTable) -> bytes:
    """Return the table as the bytes of its file."""
    return json.dumps(document(table), separators=(",", ":"), sort_keys=True).encode()


def decode(data: bytes) -> RoutingTable:
    """Return the table that `encode` wrote. Raises TableError for anything else."""
    try:
        fields: dict[str, Any] = json.loads(data)
        found = fields.pop("format")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise TableError(f"not a routing table: {error}") from error
    if found != FORMAT:
        raise TableError(f"routing table of format {found}; this program reads format {FORMAT}")
    try:
        return RoutingTable(
            number=fields["number"],
            services=tuple(_service(entry) for entry in fields["services"]),
            timeouts=TableTimeouts(**_known(TableTimeouts, fields["timeouts"])),
            limits=TableLimits(**_known(TableLimits, fields["limits"])),
            pool=TablePool(**_known(TablePool, fields["pool"])),
            trust_forwarded=tuple(fields["trust_forwarded"]),
            via=fields["via"],
            access_log=fields["access_log"],
            health_paths=fields["health_paths"],
            listener_connections=fields["listener_connections"],
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise TableError(f"routing table {fields.get('number')} is not whole: {error}") from error


def _known(kind: type[Any], entry: Mapping[str, Any]) -> dict[str, Any]:
    """What this program knows of an entry: another one's workers may have to read it, too.
    A setting that is missing has its default, one that is not known has no effect."""
    names = {field.name for field in dataclass_fields(kind)}
    return {name: value for name, value in entry.items() if name in names}


def _service(entry: dict[str, Any]) -> TableService:
    first, second = (
        TableUpstream(
            name=upstream["name"],
            servers=tuple(
                TableServer(**_known(TableServer, server)) for server in upstream["servers"]
            ),
        )
        for upstream in entry["upstreams"]
    )
    known = _known(TableService, entry)
    fields = {**known, "hosts": tuple(entry["hosts"]), "upstreams": (first, second)}
    if "entries" in known:
        fields["entries"] = tuple(tuple(binds) for binds in known["entries"])
    return TableService(**fields)
