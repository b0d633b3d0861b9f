"""The bodies of the control API's calls and answers, as pydantic models.

Bodies that come in are checked by these; an unknown field is refused, as a mistyped
`"forse": true` must not be taken for a call without it. Answers are made in `views`; their
models describe them in the OpenAPI document, and tests hold real answers against them.
"""

from typing import Annotated, Any, Final

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictFloat,
    StrictInt,
    WithJsonSchema,
    model_validator,
)

from turnout.config.units import parse_duration


class Body(BaseModel):
    """What comes in."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Answer(BaseModel):
    """What goes out."""

    model_config = ConfigDict(extra="forbid")


def _duration(value: Any) -> float:
    if not isinstance(value, str):
        raise ValueError('expected a duration in quotes with a unit, such as "60s"')
    seconds = parse_duration(value)
    if seconds > DURATION_MAX_S:
        # Beyond some years the moment could not be told as a date any more.
        raise ValueError("expected at most 60d")
    return seconds


DURATION_MAX_S: Final = 60 * 86400.0
_WRITTEN = Annotated[
    str,
    Field(
        pattern=r"^(0|(?=.)([0-9]d)?([0-9]{1,3}h)?([0-9]{1,4}m)?"
        r"([0-9]{1,5}(\.[0-9]{1,3})?s)?([0-9]{1,6}ms)?)$"
    ),
]
Duration = Annotated[
    float,
    BeforeValidator(_duration, json_schema_input_type=_WRITTEN),
    Field(description="A duration with a unit: `500ms`, `60s`, `5m`; `0` is none."),
]
Percent = Annotated[
    StrictInt | StrictFloat,
    Field(ge=0, le=100),
    # Of two kinds together the description would lose the bounds.
    WithJsonSchema({"type": "number", "minimum": 0, "maximum": 100}),
]
Name = Annotated[str, Field(min_length=1, max_length=256)]
Why = Annotated[str, Field(max_length=1000, description="Kept in history, receipt and audit.")]
Force = Annotated[
    bool,
    Field(
        description="Even onto an upstream that is not healthy; the record says who did, and needs a `reason`."
    ),
]


# ---------------------------------------------------------------- what comes in


class ReasonBody(Body):
    """Why, if somebody wants to say it. The body may be left out."""

    reason: Why = ""


class ForcibleBody(ReasonBody):
    force: Force = False

    model_config = ConfigDict(
        json_schema_extra={
            "if": {"properties": {"force": {"const": True}}, "required": ["force"]},
            "then": {"properties": {"reason": {"pattern": "\\S"}}, "required": ["reason"]},
        }
    )

    @model_validator(mode="after")
    def _forced_for_a_reason(self) -> "ForcibleBody":
        if self.force and not self.reason.strip():
            raise ValueError("force needs a reason: the record says who forced what, and why")
        return self


class RollbackBody(ForcibleBody):
    pass


class WeightsBody(ForcibleBody):
    weights: dict[str, Percent] = Field(
        # Described only: who names one alone is told by the executor which is missing.
        json_schema_extra={"minProperties": 2, "maxProperties": 2},
        description="Percentages of both upstreams, with at most two decimals; their sum is 100.",
    )
    dry_run: bool = Field(False, description="Say what would be done, and do nothing.")


class SwitchBody(ForcibleBody):
    to: Name = Field(description="The upstream that all traffic is to go to.")
    strategy: str = Field(
        "", max_length=256, description="One of the service's; left out: its default."
    )
    wait_healthy: Duration = Field(
        "0",
        validate_default=True,
        description="Wait so long for the target to become healthy, instead of a 422: `60s`.",
    )
    dry_run: bool = Field(False, description="Say what would be done, and do nothing.")


class ServersBody(ReasonBody):
    servers: list[Name] = Field(
        max_length=10_000,
        description="`host:port`, `[v6]:port` or `unix:/path`; may be empty.",
    )


# ---------------------------------------------------------------- what goes out


class LastProbe(Answer):
    at: str
    status: int | None = Field(description="null: there was no answer.")
    ms: float
    error: str | None = Field(description="Why it was bad; null when it was good.")


class Server(Answer):
    address: str = Field(description="As configured.")
    endpoint: str = Field(
        description="What is connected to; empty while the address is a name without one."
    )
    healthy: bool
    health: str = Field(description="`healthy`, `unhealthy` or `unknown` (no verdict yet).")
    reason: str = Field(description="Why it is not healthy; empty when it is.")
    last_probe: LastProbe | None


class Discovered(Answer):
    """Where an upstream's servers are known, and how that is."""

    kind: str
    found: int | None = Field(description="Servers in the last snapshot; null before the first.")
    ready: int | None = Field(description="Of these, those that are ready and not draining.")
    seconds_ago: float | None = Field(description="When the source said something last.")
    revision: str = Field(description="The source's own name for its last snapshot.")
    problem: str = Field(description="Why the servers are not just what it says; empty when well.")


class Upstream(Answer):
    healthy: bool
    health: str = Field(description="`healthy`, `unhealthy` or `unknown` (not probed yet).")
    reason: str = Field(description="Why it is not healthy; empty when it is.")
    in_flight: int
    servers: list[Server]
    configured_servers: list[str] | None = Field(
        description="The file's, where the API has set others; else null."
    )
    discovered: Discovered | None = Field(
        description="The source of its servers; null when they are the file's or the API's."
    )


class Phase(Answer):
    name: str
    seconds: float


class Switchover(Answer):
    id: str | None = Field(description="null: nothing was started.")
    service: str
    state: str
    changed: bool = Field(description="false: there was nothing to do.")
    dry_run: bool
    from_: str = Field(alias="from")
    to: str
    strategy: str
    steps: list[dict[str, float]] = Field(description="The weights of each step.")
    step: int = Field(description="The present one, counted from 1.")
    weights: dict[str, float] = Field(description="What it last ordered.")
    weights_before: dict[str, float]
    requested_by: str
    reason: str
    forced_by: str
    force_reason: str
    outcome: str = Field(description="Why it failed, was rolled back or aborted.")
    waiting_for: str = Field(description="While paused: `resume` or `approval`.")
    next_step_at: str | None
    check_until: str | None
    drain_until: str | None = Field(description="When what is still in flight will be cut.")
    started_at: str
    finished_at: str | None
    phases: list[Phase]
    gates: list[str] = Field(description="What is asked before weight goes to its target.")
    doing: str = Field(
        description="What is being waited for beyond the proxy, or at which gate, in words; empty: "
        "nothing there."
    )
    outer: dict[str, Any] | None = Field(
        description="What it moves beyond the proxy, while it is under way; of a dry run, what it "
        "would call. null: nothing, or see its receipt."
    )
    revision: int


class SwitchoverWithReceipt(Switchover):
    receipt: dict[str, Any] | None = Field(description="null until it has ended.")


class Beyond(Answer):
    """What a service has beyond the proxy, by the last switchover that moved it."""

    kind: str
    weights: dict[str, float] | None = Field(description="null: none has moved it yet.")
    stage: str | None = Field(
        description="`in_sync`, `nothing` (it was so already), `left`, or how far the move came."
    )
    since: str | None


class Service(Answer):
    name: str
    revision: int
    weights: dict[str, float]
    active: str | None = Field(description="The upstream that has 100; null while they are split.")
    held: bool
    held_until: str | None
    upstreams: dict[str, Upstream]
    strategies: list[str]
    switchover: Switchover | None = Field(description="The one under way.")
    outer: Beyond | None = Field(description="null: the configuration names nothing there.")


class CurvePoint(Answer):
    at: str = Field(description="Its beginning.")
    requests: int


class Curve(Answer):
    seconds: int = Field(description="Of each point; the last one is not over yet.")
    points: list[CurvePoint]


class NetworkCount(Answer):
    network: str = Field(description="/24 of IPv4, /48 of IPv6, or `unix`.")
    requests: int
    last_at: str


class WayIn(Answer):
    """An upstream's address, as the way in. Without listeners nothing of it is known."""

    listeners: list[str] = Field(description="Those that the address leads to: `tail.listeners`.")
    requests: int | None = Field(description="That ever came in by it; a counter.")
    requests_since_in_sync: int | None = Field(
        description="Of the old side: since the change was in sync, or since control watches it, "
        "if that is later."
    )
    watched_since: str | None = Field(description="A control that begins anew watches anew.")
    last_request_at: str | None = Field(description="Since it is watched.")
    curve: Curve | None = Field(description="Of at least an hour, and of `tail.timeout`.")
    networks: list[NetworkCount] = Field(description="Those that most came from, the most first.")
    other_networks: int = Field(description="Requests from networks beyond `tail.networks`.")


class Tail(Answer):
    """Who still comes by the old way."""

    service: str
    old: str | None = Field(
        description="The upstream that lost its weight; null while both have some."
    )
    in_sync_at: str | None = Field(
        description="When the outer system's change was; null: none is known of, and only the "
        "proxy's weights say which side is the old one."
    )
    ttl_seconds: float | None = Field(description="Of what clients were told before.")
    ttl_passed_at: str | None
    over: bool = Field(description="The old side may go.")
    timed_out: bool = Field(description="It is not over, and `tail.timeout` has passed.")
    reason: str = Field(description="Why it is over, or not yet, in words and numbers.")
    below: str = Field(description="`tail.below`")
    for_seconds: float
    timeout_seconds: float | None
    upstreams: dict[str, WayIn]


class Services(Answer):
    items: list[Service]


class Switchovers(Answer):
    items: list[Switchover]


class AuditEntry(Answer):
    id: int
    at: str
    who: str
    address: str
    action: str
    service: str
    detail: str
    reason: str
    outcome: str
    revision: int


class AuditEntries(Answer):
    items: list[AuditEntry]


class Unresolved(Answer):
    service: str
    upstream: str
    address: str


class Reload(Answer):
    changed: bool
    table: int
    workers: int
    needs_restart: list[str] = Field(description="Keys that keep the value of the start.")
    unresolved: list[Unresolved]


class Upgrade(Answer):
    """The last upgrade, or the one that is under way."""

    id: str | None = Field(description="None: there was none.")
    step: str | None = Field(
        description="`proving`, `starting`, `replacing`; at the end `done` or `failed`."
    )
    under_way: bool
    from_version: str | None
    to_version: str | None = Field(description="As the new program says; None before it did.")
    requested_by: str | None
    started_at: str | None
    finished_at: str | None
    error: str | None = Field(description="Why it failed, and what to do.")
    remark: str | None = Field(description="What is odd about one that is done.")
    finishing: int = Field(description="Workers that finish what they have, and leave.")
    program_changed: bool = Field(
        description="Another program is installed than the one that runs: workers that die are "
        "not replaced before an upgrade or a restart."
    )
    version: str = Field(description="Of the program that runs.")


class Status(Answer):
    status: str


class Readiness(Answer):
    status: str = Field(description="`ready` or `not ready`.")
    reasons: list[str] = Field(description="Why it is not ready; empty when it is.")


class ProblemDocument(BaseModel):
    """RFC 9457; some types have further members."""

    model_config = ConfigDict(extra="allow")

    type: str
    title: str
    status: int
    detail: str
