"""Every knob of the configuration file: what it is for, its default, its range.

Each section of the YAML is a class, here or (for a service's) in `service_settings`, and each
key a field whose annotation says how it is read (`knobs`, `places`). The JSON Schema, the
reference page and the texts of the errors are made from these classes.
`Settings.to_configuration()` turns what was read into the domain's values (`model`). What
must hold between settings is in `conflicts`.

A knob is *live* when a reload applies it, else it needs a restart of Turnout.
"""

from typing import Annotated, Any, Final, Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from turnout.config import conflicts, model
from turnout.config.address import Address
from turnout.config.knobs import (
    Choice,
    Count,
    Duration,
    Name,
    OrOff,
    Section,
    Size,
    Switchable,
    Token,
    Zero,
    knob,
    needed,
)
from turnout.config.places import ApiHost, Bind, FileMode, FilePath, Network, UrlPath
from turnout.config.secret_files import ApiSecret, FileSecret, SecretFile
from turnout.config.service_settings import Service
from turnout.config.tls_files import Tls

CONFLICTS: Final = conflicts.CONFLICTS


class Listener(Section):
    """Where clients connect. HTTP/1.1; TLS ends in front."""

    bind: Annotated[Address, Bind()] = needed("The address.")
    health_path: Annotated[str | None, OrOff(UrlPath(prefix=True))] = knob(
        "off",
        "A path that a worker answers itself with 200 while it has a table and is not "
        "stopping, for the load balancer in front.",
    )
    connections: Annotated[int, Count("1", "1000000", Zero.NO_LIMIT)] = knob(
        0,
        "From clients to this listener, in all workers together; within `limits.connections`. "
        "Then 503.",
    )


class ApiToken(Section):
    """Someone who may use the control API."""

    name: Annotated[str, Name()] = needed("Who it is, for the audit.")
    scope: Annotated[model.Scope, Choice(model.Scope)] = knob(
        "read", "What it allows; `write` includes `read`."
    )
    token: Annotated[str | None, ApiSecret()] = knob(
        None,
        "Sent as `Authorization: Bearer …`. Best from the environment: `${X}`.",
        secret=True,
    )
    token_file: Annotated[str | None, SecretFile()] = knob(
        None,
        "A file that holds the token instead, such as `/run/secrets/turnout-ci`: its only line. "
        "It is read at the start and by each reload.",
        secret=True,
    )


def _token(token: ApiToken) -> model.Token:
    of_file = token.token_file
    if isinstance(of_file, FileSecret):
        return model.Token(token.name, token.scope, of_file, of_file.path, of_file.problem)
    return model.Token(token.name, token.scope, token.token or "")


class ApiTls(Section):
    """TLS of the control API, version 1.2 or newer. Left out: plain HTTP."""

    cert: Annotated[str, FilePath()] = needed(
        "Its certificate, in PEM, and behind it those of the authorities between."
    )
    key: Annotated[str, FilePath()] = needed("Its private key, in PEM, without a passphrase.")
    client_ca: Annotated[str | None, FilePath()] = knob(
        None,
        "Authorities in PEM: every client needs a certificate of one of them. It needs its "
        "token all the same.",
    )

    def to_model(self) -> model.ApiTls:
        return model.ApiTls(self.cert, self.key, self.client_ca)


class Control(Section):
    """The control API, which the command line uses too, and /metrics."""

    bind: Annotated[Address, Bind()] = knob(
        "127.0.0.1:9180",
        "Its address. One that other machines can reach needs `tokens`.",
        live=False,
    )
    tokens: tuple[ApiToken, ...] = knob(
        [], "Who may use it. Left out: whoever reaches `bind` may do everything."
    )
    hosts: tuple[Annotated[str, ApiHost()], ...] = knob(
        [],
        "Names that it is called by, beside `localhost`, loopback addresses and its own: any other "
        "`Host` is refused, so that no web site can have its own name lead here. `*`: any name.",
    )
    tls: Annotated[ApiTls | None, Switchable(), Tls()] = knob(
        None, "TLS of the control API. Left out: plain HTTP."
    )
    socket_mode: Annotated[int | None, FileMode()] = knob(
        None,
        "Who may connect when `bind` is a Unix socket, as the file's mode. Left out: `0600`, and "
        "with `tokens` `0666`.",
        live=False,
    )
    connections: Annotated[int, Count("4", "100000")] = knob(
        1000, "Connections to it at once; one more gets 503 and is closed."
    )
    header_bytes: Annotated[int, Size("1KiB", "64KiB")] = knob(
        "8KiB", "The request line, and each field, of a call. Then 431."
    )
    headers: Annotated[int, Count("10", "1000")] = knob(100, "Fields of a call. Then 431.")
    timeout: Annotated[float, Duration("100ms", "1h")] = knob(
        "30s",
        "For the handshake of TLS, for a call's body to come (then 408), and for its answer to be "
        "taken.",
    )
    keep_alive: Annotated[float, Duration("100ms", "1d")] = knob(
        "75s", "For the whole head of the next call on a connection."
    )
    body: Annotated[int, Size("1KiB", "64MiB")] = knob("1MiB", "The largest body of a call.")
    event_streams: Annotated[int, Count("1", "10000")] = knob(
        100, "So many readers of `/v1/events` at once; one more gets 503."
    )
    idempotency: Annotated[float, Duration("1m", "30d")] = knob(
        "24h", "How long the answer to an `Idempotency-Key` is kept."
    )


class Keep(Section):
    """How much of the past is kept; the oldest goes first."""

    switchovers: Annotated[int, Count("10", "1000000")] = knob(1000, "Of each service.")
    audit: Annotated[int, Count("100", "10000000")] = knob(
        10000, "Entries of the audit that say what was done."
    )
    refusals: Annotated[int, Count("10", "1000000")] = knob(
        1000, "Entries of the audit that say what was refused."
    )
    events: Annotated[int, Count("100", "10000000")] = knob(
        10000, "Events: how far back a reader of `/v1/events` may begin."
    )


class State(Section):
    """Where decisions are kept."""

    kind: Literal["sqlite"] = knob("sqlite", "A SQLite database.", live=False)
    path: Annotated[str, FilePath()] = knob(
        "turnout.db", "The database. It must outlive restarts, and lie on a local disk.", live=False
    )
    keep: Keep = knob({}, "How much of the past is kept.")


class AccessLog(Section):
    """One line for each exchange."""

    format: Annotated[model.LogFormat, Choice(model.LogFormat)] = knob(
        "json", "How a line is written; `off` costs nothing."
    )
    path: Annotated[str, FilePath(("stdout", "stderr"))] = knob(
        "stdout", "Where to. A file is opened again on reload, for rotation."
    )
    buffer: Annotated[int, Size("4KiB", "1GiB")] = knob(
        "8MiB",
        "What is kept while the log cannot be written. Further lines are dropped and "
        "counted; a request never waits for the log.",
        live=False,
    )
    worker_buffer: Annotated[int, Size("4KiB", "1GiB")] = knob(
        "1MiB",
        "What each worker keeps while control, which writes the log, is away or behind. "
        "Further lines are dropped and counted.",
    )


class EventLog(Section):
    """What Turnout did, and why."""

    format: Annotated[model.LogFormat, Choice(model.LogFormat)] = knob(
        "text", "How a line is written."
    )
    path: Annotated[str, FilePath(("stdout", "stderr"))] = knob("stderr", "Where to.")


class Log(Section):
    """The two logs."""

    access: AccessLog = knob({}, "One line for each exchange.")
    events: EventLog = knob({}, "What Turnout did, and why.")

    @model_validator(mode="before")
    @classmethod
    def _off_alone(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {
            name: {"format": "off"} if log is False or log == "off" else log
            for name, log in value.items()
        }


class Timeouts(Section):
    """What Turnout waits for, and how long. Each ends in a well-formed answer or a close."""

    header: Annotated[float, Duration("10ms", "1h", Zero.NO_LIMIT)] = knob(
        "10s",
        "For a request's whole head, from its first byte. Then 408. A new connection that sends "
        "nothing is closed after it, without an answer.",
    )
    body_idle: Annotated[float, Duration("10ms", "1d", Zero.NO_LIMIT)] = knob(
        "30s", "For the next bytes of a body, in either direction."
    )
    client_rate: Annotated[float, Duration("100ms", "1d")] = knob(
        "1m", "For so long a client may be slower than `limits.client_rate`, up to twice as long."
    )
    keep_alive: Annotated[float, Duration("10ms", "1d", Zero.NO_LIMIT)] = knob(
        "75s", "For the next request on a client's connection."
    )
    connect: Annotated[float, Duration("10ms", "5m", Zero.NO_LIMIT)] = knob(
        "2s", "For a connection to a server. Then another one, or 504."
    )
    first_byte: Annotated[float, Duration("10ms", "1d", Zero.NO_LIMIT)] = knob(
        "60s", "For a server's answer to begin, once the request is sent. Then 504."
    )
    tunnel_idle: Annotated[float, Duration("10ms", "30d", Zero.NO_LIMIT)] = knob(
        "1h", "For the next bytes of a tunnel, in either direction."
    )
    half_closed: Annotated[float, Duration("10ms", "1d", Zero.NO_LIMIT)] = knob(
        "10s",
        "For the answer to a client that has closed its half of the connection: it may be "
        "gone altogether, which looks the same.",
    )
    linger: Annotated[float, Duration("10ms", "1m", Zero.NO_LIMIT)] = knob(
        "2s",
        "For the next bytes, or the end, of a connection that Turnout has closed: it is still "
        "read, so that a reset does not destroy the last answer before the client has read it.",
    )
    linger_total: Annotated[float, Duration("10ms", "1h", Zero.NO_LIMIT)] = knob(
        "30s", "For the end of such a connection, whose client goes on sending."
    )
    queue: Annotated[float, Duration("10ms", "5m", Zero.NO_LIMIT)] = knob(
        "5s", "For a connection when `limits.server_connections` is reached. Then 503."
    )
    shutdown: Annotated[float, Duration("10ms", "1d", Zero.NO_LIMIT)] = knob(
        "30s", "How long a stopping or replaced worker may finish what it has."
    )
    watchdog: Annotated[float, Duration("1s", "1h", Zero.NO_LIMIT)] = knob(
        "10s",
        "For a worker to turn its event loop again, which it does some twenty times a second. "
        "Then it hangs: it is killed and replaced, and what it held is counted as cut, by name. "
        "So is control, which holds nothing, and goes on where it was.",
    )


class Limits(Section):
    """How much Turnout takes on. Each ends in a well-formed answer."""

    header_bytes: Annotated[int, Size("1KiB", "1MiB", Zero.NO_LIMIT)] = knob(
        "32KiB", "A request's head. Then 431, or 414 when it is the request line."
    )
    response_header_bytes: Annotated[int, Size("1KiB", "16MiB", Zero.NO_LIMIT)] = knob(
        "64KiB", "An answer's head. Then 502."
    )
    headers: Annotated[int, Count("10", "10000", Zero.NO_LIMIT)] = knob(
        100, "Fields in a head, of a request (431) or of an answer (502)."
    )
    interim_answers: Annotated[int, Count("1", "1000", Zero.NO_LIMIT)] = knob(
        32, "1xx heads before the final one. Then 502."
    )
    trailer_bytes: Annotated[int, Size("64B", "1MiB", Zero.NO_LIMIT)] = knob(
        "8KiB",
        "What may follow a chunked body, of a request (400) or of an answer, which is then "
        "broken off, as its head has been passed on.",
    )
    body_bytes: Annotated[int, Size("1B", "1000000GiB", Zero.NO_LIMIT)] = knob(
        0, "A request's body. Then 413."
    )
    connections: Annotated[int, Count("1", "1000000")] = knob(
        10000,
        "From clients, in all workers together. Then 503; those that are connected keep their "
        "service. A listener may have a limit of its own.",
    )
    connections_per_client: Annotated[int, Count("1", "1000000", Zero.NO_LIMIT)] = knob(
        0,
        "From one client's address (of IPv6, from one /64), in all workers together. Then 503. "
        "Peers in `trust_forwarded` speak for many clients and are exempt, and so are those on "
        "Unix sockets.",
    )
    refused_connections: Annotated[int, Count("1", "100000", Zero.NONE)] = knob(
        256,
        "Connections beyond one of these limits that one worker answers at a time; while there "
        "are more of them, further ones are closed without an answer.",
    )
    client_rate: Annotated[int, Size("1B", "1GiB", Zero.NO_LIMIT)] = knob(
        "100B",
        "A second, that a client has to send of a request's body, or to take of an answer that "
        "waits for it, on average over `timeouts.client_rate`. Slower ones are ended: 408, or "
        "the answer is broken off.",
    )
    server_connections: Annotated[int, Count("1", "1000000", Zero.NO_LIMIT)] = knob(
        0, "From one worker to one server, busy and idle."
    )
    replay_bytes: Annotated[int, Size("1B", "64MiB", Zero.NONE)] = knob(
        "64KiB", "Of a request's body kept for a retry; a longer one is not sent anew."
    )
    pipeline_bytes: Annotated[int, Size("1KiB", "64MiB", Zero.NO_LIMIT)] = knob(
        "64KiB",
        "Read of a connection while an earlier request of it is under way; the rest waits in "
        "the client's socket.",
    )
    pipes: Annotated[int, Count("1", "100000", Zero.NONE)] = knob(
        256,
        "Through which one worker passes long answers on without copying them. A client that "
        "stalls holds one, with up to 1 MiB; what finds none free is copied.",
    )
    services: Annotated[int, Count("1", "65000")] = knob(
        4096, "Services in the file. Shared memory is laid out for so many.", live=False
    )
    servers: Annotated[int, Count("1", "10000")] = knob(256, "Servers of one upstream.")
    in_flight_named: Annotated[int, Count("64", "1000000")] = knob(
        4096,
        "Exchanges that one worker can name at a time, in a receipt that lists what was cut. "
        "Further ones are served and counted, not named.",
        live=False,
    )


class Pool(Section):
    """Connections to servers that are kept for further requests, in each worker."""

    idle: Annotated[int, Count("1", "100000", Zero.NONE)] = knob(
        256, "So many idle ones to each server are kept."
    )
    idle_timeout: Annotated[float, Duration("100ms", "1d")] = knob(
        "30s", "For so long; less when the server's `Keep-Alive: timeout` says so. Keep it "
        "below the server's own, or requests meet a closing connection."
    )  # fmt: skip
    reuse: Annotated[model.Reuse, Choice(model.Reuse)] = knob(
        "aggressive", "`safe`: the first request of a client's connection goes out on a kept one "
        "only if it may be retried (as HAProxy's `http-reuse safe`)."
    )  # fmt: skip


class Prober(Section):
    """Bounds on the probes of all services together."""

    concurrency: Annotated[int, Count("1", "10000")] = knob(64, "So many at once.")
    body: Annotated[int, Size("1KiB", "16MiB")] = knob(
        "64KiB", "So much of an answer is read to look for `health.body`."
    )


class Resolver(Section):
    """How server names become addresses."""

    ttl_min: Annotated[float, Duration("100ms", "1h")] = knob(
        "1s", "No name is asked for more often than this."
    )
    ttl_max: Annotated[float, Duration("1s", "7d")] = knob(
        "5m", "Each name is asked for at least this often, whatever its TTL."
    )
    hosts_interval: Annotated[float, Duration("100ms", "1h")] = knob(
        "5s", "How often a name from /etc/hosts, which has no TTL, is looked up."
    )
    timeout: Annotated[float, Duration("100ms", "1m")] = knob(
        "2s", "A lookup that takes longer has failed; the last addresses stay."
    )
    failed_max: Annotated[float, Duration("100ms", "1h")] = knob(
        "30s",
        "A name without an answer is asked for again after `ttl_min`, then after twice that, "
        "and so on up to this.",
    )
    concurrency: Annotated[int, Count("1", "1000")] = knob(16, "So many lookups at once.")


class Settings(Section):
    """The whole file."""

    workers: Annotated[int | None, Count("1", "256")] = knob(
        None, "Processes that serve traffic. Left out: one a core."
    )
    runtime_dir: Annotated[str | None, FilePath()] = knob(
        None,
        "Shared memory and sockets of the running program; on tmpfs. Left out: "
        "`$RUNTIME_DIRECTORY`, else `$XDG_RUNTIME_DIR/turnout`, else `/dev/shm/turnout-$UID`.",
        live=False,
    )
    listeners: Annotated[tuple[Listener, ...], Field(min_length=1)] = needed(
        "Where clients connect."
    )
    control: Control = knob({}, "The control API.")
    state: State = knob({}, "Where decisions are kept.")
    log: Log = knob({}, "The access log and the event log.")
    timeouts: Timeouts = knob({}, "What Turnout waits for, and how long.")
    limits: Limits = knob({}, "How much Turnout takes on.")
    pool: Pool = knob({}, "Kept connections to servers.")
    trust_forwarded: tuple[Annotated[str, Network()], ...] = knob(
        [],
        "Networks whose `X-Forwarded-*`, `Forwarded` and `X-Request-Id` are kept and appended "
        "to; others' are replaced. `unix` stands for peers on a Unix socket.",
    )
    via: Annotated[str, Token()] = knob("turnout", "What Turnout calls itself in `Via`.")
    prober: Prober = knob({}, "Bounds on all probes together.")
    resolver: Resolver = knob({}, "How server names become addresses.")
    services: Annotated[dict[Annotated[str, Name()], Service], Field(min_length=1)] = needed(
        "What is served, by name."
    )

    @model_validator(mode="after")
    def _goes_together(self) -> "Settings":
        found = list(conflicts.conflicts(self))
        if found:
            raise PydanticCustomError(CONFLICTS, "settings contradict", {CONFLICTS: found})
        return self

    def to_configuration(
        self, *, source: str, workers: int, runtime_dir: str
    ) -> model.Configuration:
        """The domain's values; `workers` and `runtime_dir` stand in where the file says none."""
        control, log, state = self.control, self.log, self.state
        return model.Configuration(
            source=source,
            workers=self.workers or workers,
            runtime_dir=self.runtime_dir or runtime_dir,
            listeners=tuple(
                model.Listener(listener.bind, listener.health_path, listener.connections)
                for listener in self.listeners
            ),
            control=model.ControlPlane(
                bind=control.bind,
                tokens=tuple(_token(token) for token in control.tokens),
                hosts=control.hosts,
                tls=None if control.tls is None else control.tls.to_model(),
                socket_mode=control.socket_mode,
                connections=control.connections,
                header_bytes=control.header_bytes,
                headers=control.headers,
                timeout_s=control.timeout,
                keep_alive_s=control.keep_alive,
                body_bytes=control.body,
                event_streams=control.event_streams,
                idempotency_s=control.idempotency,
            ),
            state=model.State(
                path=state.path,
                switchovers_kept=state.keep.switchovers,
                audit_kept=state.keep.audit,
                refusals_kept=state.keep.refusals,
                events_kept=state.keep.events,
            ),
            access_log=model.AccessLog(
                format=log.access.format,
                path=log.access.path,
                buffer_bytes=log.access.buffer,
                worker_buffer_bytes=log.access.worker_buffer,
            ),
            event_log=model.EventLog(log.events.format, log.events.path),
            timeouts=self._timeouts(),
            limits=self._limits(),
            pool=self._pool(),
            trust_forwarded=self.trust_forwarded,
            via=self.via,
            prober=model.Prober(self.prober.concurrency, self.prober.body),
            resolver=model.Resolver(
                ttl_min_s=self.resolver.ttl_min,
                ttl_max_s=self.resolver.ttl_max,
                hosts_interval_s=self.resolver.hosts_interval,
                timeout_s=self.resolver.timeout,
                failed_max_s=self.resolver.failed_max,
                concurrency=self.resolver.concurrency,
            ),
            services=tuple(service.to_model(name) for name, service in self.services.items()),
        )

    def _timeouts(self) -> model.Timeouts:
        timeouts = self.timeouts
        return model.Timeouts(
            header_s=timeouts.header,
            body_idle_s=timeouts.body_idle,
            client_rate_s=timeouts.client_rate,
            keep_alive_s=timeouts.keep_alive,
            connect_s=timeouts.connect,
            first_byte_s=timeouts.first_byte,
            tunnel_idle_s=timeouts.tunnel_idle,
            half_closed_s=timeouts.half_closed,
            linger_s=timeouts.linger,
            linger_total_s=timeouts.linger_total,
            shutdown_s=timeouts.shutdown,
            watchdog_s=timeouts.watchdog,
        )

    def _limits(self) -> model.Limits:
        limits = self.limits
        return model.Limits(
            header_bytes=limits.header_bytes,
            response_header_bytes=limits.response_header_bytes,
            headers=limits.headers,
            interim_answers=limits.interim_answers,
            trailer_bytes=limits.trailer_bytes,
            body_bytes=limits.body_bytes,
            connections=limits.connections,
            connections_per_client=limits.connections_per_client,
            refused_connections=limits.refused_connections,
            client_rate_bytes=limits.client_rate,
            replay_bytes=limits.replay_bytes,
            pipeline_bytes=limits.pipeline_bytes,
            pipes=limits.pipes,
            services=limits.services,
            servers=limits.servers,
            in_flight_named=limits.in_flight_named,
        )

    def _pool(self) -> model.Pool:
        return model.Pool(
            connections_max=self.limits.server_connections,
            idle_max=self.pool.idle,
            idle_timeout_s=self.pool.idle_timeout,
            queue_timeout_s=self.timeouts.queue,
            reuse=self.pool.reuse,
        )
