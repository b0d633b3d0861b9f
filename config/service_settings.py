"""The knobs of one service: what it matches, its two upstreams, and its policies."""

from typing import Annotated, Final

from turnout.config import model
from turnout.config.knobs import (
    Choice,
    Count,
    Duration,
    Fraction,
    Name,
    Secret,
    Section,
    Steps,
    Switchable,
    Text,
    Token,
    TrueOrFalse,
    Zero,
    knob,
    needed,
)
from turnout.config.outer import DiscoverKind, GateKind, OuterKind
from turnout.config.places import HostPattern, Server, Statuses, UrlPath

# Fields of HTTP itself: a request that carries one of these does not ask for an upstream.
_TAKEN_FIELDS: Final = frozenset(
    [
        "authorization",
        "connection",
        "content-length",
        "cookie",
        "forwarded",
        "host",
        "keep-alive",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "via",
        "x-forwarded-for",
        "x-forwarded-host",
        "x-forwarded-proto",
        "x-request-id",
    ]
)


class Match(Section):
    """Which requests are this service's. The longest host wins, then the longest prefix."""

    hosts: tuple[Annotated[str, HostPattern()], ...] = knob(
        [], "Host names, without port. `*.` stands for one label. Left out: every host."
    )
    path_prefix: Annotated[str, UrlPath(prefix=True)] = knob(
        "/", "Only paths below this one; it matches whole parts: `/shop` is not `/shopping`."
    )


class Upstream(Section):
    """One of the two environments: a named group of servers."""

    servers: tuple[Annotated[str, Server()], ...] = knob(
        [],
        "A list of addresses. A name is resolved again as its TTL says. Needed unless `discover` "
        "finds them; may be empty for the upstream that is not `initial`: nothing is deployed "
        "there yet.",
    )
    discover: Annotated[DiscoverKind | None, Switchable()] = knob(
        "off", "Where its servers are known, if that is not here."
    )
    min_healthy: Annotated[int, Count("1", "10000")] = knob(
        1, "So many servers must be healthy for the upstream to be held healthy."
    )

    @property
    def servers_given(self) -> bool:
        return "servers" in self.model_fields_set

    def to_model(self, name: str) -> model.Upstream:
        discover = self.discover.to_model(self.discover.kind) if self.discover else None
        return model.Upstream(name, self.servers, self.min_healthy, discover)


class Passive(Section):
    """When the results of real traffic take a server out, between two probes."""

    connect_failures: Annotated[int, Count("1", "1000", Zero.NONE)] = knob(
        3, "After so many failed connections in a row."
    )
    avoid: Annotated[float, Duration("100ms", "10m", Zero.NONE)] = knob(
        "2s",
        "For so long a worker that has met `connect_failures` in a row itself, or as many "
        "requests without an answer, prefers other servers of the upstream: at once, and also "
        "while control is away.",
    )
    error_answers: Annotated[int, Count("1", "100000", Zero.NONE)] = knob(
        10, "After so many 5xx answers, or missing ones, in a row."
    )

    def to_model(self) -> model.PassivePolicy:
        return model.PassivePolicy(self.connect_failures, self.error_answers, self.avoid)


class Health(Section):
    """How each server is probed, on whichever side it is. `off`: always held healthy."""

    path: Annotated[str | None, UrlPath()] = knob(None, "What is asked for. Left out: `/`.")
    host: Annotated[str, Text(255)] = knob(
        "", "The probe's `Host` field. Left out: the server's own address."
    )
    interval: Annotated[float, Duration("100ms", "1h")] = knob(
        "1s", "From one probe of a server to the next."
    )
    timeout: Annotated[float, Duration("10ms", "5m")] = knob(
        "2s", "A probe that takes longer has failed."
    )
    rise: Annotated[int, Count("1", "100")] = knob(
        2, "So many good probes in a row make a server healthy."
    )
    fall: Annotated[int, Count("1", "100")] = knob(
        3, "So many bad probes in a row make a server unhealthy."
    )
    status: Annotated[tuple[model.StatusRange, ...] | None, Statuses()] = knob(
        None,
        "Which answers are good. Left out: `200-399`; with neither `path` nor `status`, "
        "`200-499`: without a page meant for it, any answer but an error of the server's own.",
    )
    body: Annotated[str, Text(1000)] = knob(
        "", "Must occur in the answer's body. Left out: not looked at."
    )
    jitter: Annotated[float, Fraction("1%", "50%", Zero.NONE)] = knob(
        "10%", "Each wait is longer or shorter by up to this, so that probes spread."
    )
    doubt_interval: Annotated[float, Duration("50ms", "1h")] = knob(
        "250ms",
        "The interval while a result contradicts the state or none is known yet; "
        "never longer than `interval`.",
    )
    passive: Annotated[Passive | None, Switchable()] = knob(
        {}, "When the results of real traffic take a server out, between two probes."
    )

    def to_model(self) -> model.HealthPolicy:
        answering = (model.StatusRange(200, 499),)
        passing = (model.StatusRange(200, 399),)
        return model.HealthPolicy(
            path=self.path or "/",
            host=self.host,
            interval_s=self.interval,
            timeout_s=self.timeout,
            rise=self.rise,
            fall=self.fall,
            status=self.status or (answering if self.path is None else passing),
            body=self.body,
            jitter_fraction=self.jitter,
            doubt_interval_s=min(self.interval, self.doubt_interval),
            passive=self.passive.to_model() if self.passive else None,
        )


class TryOut(Section):
    """A header that reaches an upstream before any weight does:
    `X-Turnout-Upstream: green; token=…`."""

    header: Annotated[str, Token(_TAKEN_FIELDS)] = knob(
        "X-Turnout-Upstream", "The field's name. It is not passed on."
    )
    token: Annotated[str, Secret()] = needed("Who does not know it is routed by weight.")

    def to_model(self) -> model.TryOut:
        return model.TryOut(self.header, self.token)


class Drain(Section):
    """How long the old upstream may finish what it has. What is left then is cut and named."""

    timeout: Annotated[float, Duration("10ms", "1d", Zero.NONE)] = knob(
        "30s", "For requests and their answers."
    )
    tunnels: Annotated[float, Duration("10ms", "7d", Zero.NONE)] = knob(
        "30s", "For tunnels (WebSocket) and event streams, which may never end by themselves."
    )


class Retries(Section):
    """Sending a request anew, never one that might be carried out twice."""

    attempts: Annotated[int, Count("1", "10", Zero.NONE)] = knob(
        2, "How often a request may be sent anew after the first attempt."
    )
    budget: Annotated[float, Fraction("1%", "100%", Zero.NONE)] = knob(
        "20%", "Retries may be this share of a worker's recent requests, so that they never "
        "multiply an overload."
    )  # fmt: skip
    budget_window: Annotated[float, Duration("1s", "1m")] = knob("10s", "What is recent.")
    budget_floor: Annotated[int, Count("1", "1000000", Zero.NONE)] = knob(
        100,
        "So many retries in a window are always allowed in each worker, so that a quiet "
        "service has failover too.",
    )


class Hold(Section):
    """Requests that wait while the service is held. One too many, or too long: 503."""

    requests: Annotated[int, Count("1", "1000000", Zero.NONE)] = knob(
        1000, "How many may wait, in all workers together."
    )
    timeout: Annotated[float, Duration("10ms", "1h", Zero.NONE)] = knob(
        "30s", "How long each may wait."
    )


class Strategy(Section):
    """A way to move the weights, in steps."""

    steps: Annotated[tuple[int, ...], Steps()] = needed(
        "Percentages of the target, one after the other."
    )
    pause: Annotated[float, Duration("1ms", "30d", Zero.NONE)] = knob(
        "60s", "Between one step and the next."
    )
    approval: Annotated[bool, TrueOrFalse()] = knob(
        "false",
        "`true`: each step but the last is held until somebody says `turnout approve`, however "
        "long that takes, instead of for a `pause`.",
    )

    @property
    def pause_given(self) -> bool:
        return "pause" in self.model_fields_set

    def to_model(self, name: str) -> model.Strategy:
        return model.Strategy(name, self.steps, float("inf") if self.approval else self.pause)


class ErrorLimit(Section):
    """When the target's errors end a switchover: 5xx answers, and requests that it failed.
    `off`: errors are counted, and nothing follows."""

    rate: Annotated[float, Fraction("0.01%", "100%")] = knob(
        "10%", "More than this share of the target's requests in the window."
    )
    requests: Annotated[int, Count("1", "1000000000")] = knob(
        50, "With fewer requests in the window there is no verdict."
    )
    window: Annotated[float, Duration("100ms", "1h")] = knob("10s", "How far back is looked.")

    def to_model(self) -> model.ErrorLimit:
        return model.ErrorLimit(self.rate, self.requests, self.window)


class Switchover(Section):
    """How traffic is moved, and what happens when it goes wrong."""

    default: Annotated[str, Name()] = knob(
        model.ATOMIC, "The strategy when none is asked for. `atomic` is built in: 0 to 100 at once."
    )
    on_failure: Annotated[model.OnFailure, Choice(model.OnFailure)] = knob(
        "rollback", "When the target turns unhealthy or passes `error_limit` on the way."
    )
    after_restart: Annotated[model.AfterRestart, Choice(model.AfterRestart)] = knob(
        "resume", "What becomes of a switchover that was under way when Turnout was stopped."
    )
    error_limit: Annotated[ErrorLimit | None, Switchable()] = knob(
        {}, "When the target's errors end a switchover."
    )
    prepare_timeout: Annotated[float, Duration("100ms", "10m")] = knob(
        "10s",
        "How long the workers may take to load a new table before a change is given up. "
        "For a change of several services, such as a reload, the longest of theirs holds.",
    )
    strategies: dict[Annotated[str, Name()], Strategy] = knob(
        {}, "Strategies by name, for `turnout switch --strategy NAME`."
    )

    def to_model(self) -> model.SwitchoverPolicy:
        own = (strategy.to_model(name) for name, strategy in self.strategies.items())
        return model.SwitchoverPolicy(
            default=self.default,
            on_failure=self.on_failure,
            after_restart=self.after_restart,
            error_limit=self.error_limit.to_model() if self.error_limit else None,
            prepare_timeout_s=self.prepare_timeout,
            strategies=(model.Strategy(model.ATOMIC, (model.WHOLE,), 0.0), *own),
        )


class Service(Section):
    """A thing that clients reach, and the two environments that serve it."""

    match: Match = knob({}, "Which requests are this service's. Left out: all.")
    initial: Annotated[str | None, Name()] = knob(
        None,
        "The upstream that has 100 while the store knows nothing yet. Left out: the one "
        "that stands first.",
    )
    upstreams: dict[Annotated[str, Name()], Upstream] = needed(
        "Exactly two, by names of your own, such as `blue` and `green`."
    )
    health: Annotated[Health | None, Switchable()] = knob(
        {}, "How each server is probed. `off`: always held healthy."
    )
    try_out: Annotated[TryOut | None, Switchable()] = knob(
        "off", "A header that reaches an upstream before any weight does."
    )
    drain: Drain = knob({}, "How long the old upstream may finish what it has.")
    retries: Retries = knob({}, "Sending a request anew.")
    hold: Hold = knob({}, "Requests that wait while the service is held.")
    switchover: Switchover = knob({}, "How traffic is moved.")
    outer: Annotated[OuterKind | None, Switchable()] = knob(
        "off", "A system in front of Turnout that a switchover moves too."
    )
    gates: dict[Annotated[str, Name()], GateKind] = knob(
        {}, "Conditions that must hold before a step takes weight to its target, by names."
    )

    def to_model(self, name: str) -> model.Service:
        first, second = (upstream.to_model(name) for name, upstream in self.upstreams.items())
        return model.Service(
            name=name,
            match=model.Match(self.match.hosts, self.match.path_prefix),
            initial=self.initial or first.name,
            upstreams=(first, second),
            health=self.health.to_model() if self.health else None,
            try_out=self.try_out.to_model() if self.try_out else None,
            drain=model.DrainPolicy(self.drain.timeout, self.drain.tunnels),
            retries=model.RetryPolicy(
                attempts=self.retries.attempts,
                budget_fraction=self.retries.budget,
                budget_window_s=self.retries.budget_window,
                budget_floor=self.retries.budget_floor,
            ),
            hold=model.HoldPolicy(self.hold.requests, self.hold.timeout),
            switchover=self.switchover.to_model(),
            outer=self.outer.to_model(self.outer.kind) if self.outer else None,
            gates=tuple(gate.to_model(name, gate.kind) for name, gate in self.gates.items()),
        )
