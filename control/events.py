"""What is told outside: one frozen class an event, with a dotted name that does not change.

Read by people at 3 a.m. (`to_line`), by log collectors (`to_json`) and by readers of the
event stream. Fields are plain values; a name that is once given keeps its meaning. Points in
time (`TIMES`) are seconds since 1970 here, and UTC in ISO 8601 wherever they are read.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any, ClassVar, Final


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened; `service` is empty for what concerns no service alone."""

    NAME: ClassVar[str]
    service: str = ""


# ---------------------------------------------------------------- a switchover's life


@dataclass(frozen=True, slots=True, kw_only=True)
class SwitchoverEvent(Event):
    switchover: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Started(SwitchoverEvent):
    NAME = "switchover.started"
    from_upstream: str
    to_upstream: str
    strategy: str
    requested_by: str
    forced_by: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Preparing(SwitchoverEvent):
    NAME = "switchover.preparing"


@dataclass(frozen=True, slots=True, kw_only=True)
class Checking(SwitchoverEvent):
    NAME = "switchover.checking"
    upstream: str
    until: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Shifting(SwitchoverEvent):
    NAME = "switchover.shifting"
    step: int
    steps: int
    second_weight: int
    next_step_at: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Paused(SwitchoverEvent):
    NAME = "switchover.paused"
    waiting_for: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Draining(SwitchoverEvent):
    NAME = "switchover.draining"
    upstream: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RollingBack(SwitchoverEvent):
    NAME = "switchover.rolling_back"
    step: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended(SwitchoverEvent):
    """A switchover's end; `next` says where to read on."""

    second_weight: int
    cut: int
    reason: str
    next: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Completed(Ended):
    NAME = "switchover.completed"


@dataclass(frozen=True, slots=True, kw_only=True)
class RolledBack(Ended):
    NAME = "switchover.rolled_back"


@dataclass(frozen=True, slots=True, kw_only=True)
class Aborted(Ended):
    NAME = "switchover.aborted"


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed(Ended):
    NAME = "switchover.failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovered(SwitchoverEvent):
    """Control came back and took the switchover up again."""

    NAME = "switchover.recovered"
    state: str
    action: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OuterMoving(SwitchoverEvent):
    """An outer system has taken a change on; it is not in sync yet."""

    NAME = "outer.moving"
    kind: str
    weights: Mapping[str, float]
    change: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OuterInSync(SwitchoverEvent):
    NAME = "outer.in_sync"
    kind: str
    weights: Mapping[str, float]
    change: str
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class OuterGivenUp(SwitchoverEvent):
    """A change that failed, was refused, or of which nobody knows; `next` says what to do."""

    NAME = "outer.given_up"
    kind: str
    stage: str
    reason: str
    next: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TailWaiting(SwitchoverEvent):
    """A change beyond the proxy is in sync; who still comes by the old address is waited for."""

    NAME = "tail.waiting"
    upstream: str
    ttl_seconds: float
    below: str
    for_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TailOver(SwitchoverEvent):
    """The old side may go. `requests` is None where nothing is counted."""

    NAME = "tail.over"
    upstream: str
    seconds: float
    requests: int | None
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TailNotOver(SwitchoverEvent):
    """It was not over in time: the old side must not go yet."""

    NAME = "tail.not_over"
    upstream: str
    seconds: float
    requests: int | None
    reason: str
    next: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GateChecked(SwitchoverEvent):
    """A gate's verdict, when it is another one than before."""

    NAME = "gate.checked"
    gate: str
    verdict: str
    reason: str


# ---------------------------------------------------------------- a service


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsChanged(Event):
    NAME = "service.weights_changed"
    weights: Mapping[str, float]
    epoch: int
    switchover: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Held(Event):
    NAME = "service.held"
    who: str
    until: float | None
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Released(Event):
    NAME = "service.released"
    who: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ServersChanged(Event):
    NAME = "service.servers_changed"
    upstream: str
    servers: tuple[str, ...]
    who: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DiscoveryProblem(Event):
    """An upstream's servers are not just what their source says, or it says nothing."""

    NAME = "discovery.problem"
    upstream: str
    kind: str
    problem: str
    next: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DiscoveryRestored(Event):
    NAME = "discovery.restored"
    upstream: str
    kind: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerHealthy(Event):
    NAME = "server.healthy"
    upstream: str
    server: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerUnhealthy(Event):
    NAME = "server.unhealthy"
    upstream: str
    server: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamHealthy(Event):
    NAME = "upstream.healthy"
    upstream: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamUnhealthy(Event):
    NAME = "upstream.unhealthy"
    upstream: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ExchangesCut(Event):
    """So many exchanges were ended by Turnout, or with a worker; `names` are their methods and
    paths. The receipt of the switchover that they fell into, if any, says more of each."""

    NAME = "exchanges.cut"
    upstream: str
    count: int
    reason: str
    switchover: str
    names: tuple[str, ...]


# ---------------------------------------------------------------- the processes


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlStarted(Event):
    NAME = "control.started"
    pid: int
    services: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerReplaced(Event):
    NAME = "worker.replaced"
    region: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerDied(Event):
    NAME = "worker.died"
    region: int
    pid: int
    status: str
    cut: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TablePublished(Event):
    NAME = "table.published"
    number: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TableRefused(Event):
    NAME = "table.refused"
    number: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigurationReloaded(Event):
    NAME = "configuration.reloaded"
    who: str
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigurationRefused(Event):
    NAME = "configuration.refused"
    who: str
    source: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlProblem(Event):
    """Something in Turnout itself is not as it should be; `next` says what to do."""

    NAME = "control.problem"
    problem: str
    next: str


# ---------------------------------------------------------------- as they are read


TIMES: Final = frozenset({"until", "next_step_at"})
"""Fields that are points in time."""


def utc(at: float) -> str:
    """Seconds since 1970 as `2026-11-24T02:08:31.250Z` (RFC 3339)."""
    text = datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")
    return text.removesuffix("+00:00") + "Z"


def to_document(event: Event) -> dict[str, Any]:
    """The event's fields as they are read, without its name; an empty `service` is left out."""
    values = {field.name: getattr(event, field.name) for field in fields(event)}
    for name in TIMES & values.keys():
        values[name] = None if values[name] is None else utc(values[name])
    if not event.service:
        del values["service"]
    return values


def to_line(event: Event) -> str:
    """`switchover.rolled_back service=shop step=3 reason="green is unhealthy"`."""
    return line(event.NAME, to_document(event))


def to_json(event: Event, at_utc: str) -> str:
    """One JSON object on one line: time, name, fields."""
    document = {"at": at_utc, "event": event.NAME, **to_document(event)}
    return json.dumps(document, separators=(",", ":"))


def line(name: str, document: Mapping[str, Any]) -> str:
    """A name and its fields as `key=value`; values that need it are quoted, absent ones go."""
    parts = [name]
    parts += [f"{key}={_text(value)}" for key, value in document.items() if value not in ("", None)]
    return " ".join(parts)


def _text(value: object) -> str:
    match value:
        case bool():
            return "yes" if value else "no"
        case list() | tuple():
            text = ",".join(str(item) for item in value)
        case Mapping():
            text = ",".join(f"{key}:{item}" for key, item in value.items())
        case _:
            text = str(value)
    plain = text and not any(char in ' "=\\' or not char.isprintable() for char in text)
    # JSON's quoting: no line break or control character of a client's gets into the log.
    return text if plain else json.dumps(text)
