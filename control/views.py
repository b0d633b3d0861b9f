"""Pure: a service, a switchover, an entry of the audit -> what the API shows of it."""

from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

from turnout.config.model import WHOLE, Outer, Service
from turnout.config.weights import Weights
from turnout.control.events import utc
from turnout.control.health import ProbeResult, UpstreamHealth
from turnout.control.outer.moves import Move
from turnout.control.receipt import phases
from turnout.control.rows import AuditEntry, ServiceRow, StoredEvent
from turnout.control.switchover import State, Switchover
from turnout.proxy.scoreboard import HealthWord


class ServerView(Protocol):
    """One server as the prober knows it."""

    @property
    def address(self) -> str: ...
    @property
    def endpoint(self) -> str: ...
    @property
    def state(self) -> HealthWord: ...
    @property
    def reason(self) -> str: ...
    @property
    def last_probe(self) -> ProbeResult | None: ...
    @property
    def healthy(self) -> bool: ...


UpstreamView = tuple[UpstreamHealth, int, Sequence[ServerView]]
"""Health, exchanges in flight, servers."""


_NONE: Final[Mapping[str, Mapping[str, Any] | None]] = {}


def service(
    configured: Service,
    row: ServiceRow,
    running: Switchover | None,
    upstreams: Sequence[UpstreamView],
    outer: Move | None = None,
    discovered: Mapping[str, Mapping[str, Any] | None] = _NONE,
) -> dict[str, Any]:
    """A service as it is now; `upstreams` first and second, as the row counts them; `outer` the
    last move of what is beyond the proxy."""
    weights = row.weights
    shown = {
        name: {
            **_upstream(found, _differing(configured, row, name)),
            "discovered": discovered.get(name),
        }
        for name, found in zip((row.first, row.second), upstreams, strict=True)
    }
    return {
        "name": row.name,
        "revision": row.revision,
        "weights": weights.percentages(),
        "active": _active(row),
        "held": row.held,
        "held_until": None if row.hold_until is None or not row.held else utc(row.hold_until),
        "upstreams": shown,
        "strategies": [strategy.name for strategy in configured.switchover.strategies],
        "switchover": None if running is None else switchover(running, configured),
        "outer": None if configured.outer is None else _outer(configured.outer, row, outer),
    }


def _outer(configured: Outer, row: ServiceRow, last: Move | None) -> dict[str, Any]:
    if last is None:
        return {"kind": configured.kind, "weights": None, "stage": None, "since": None}
    since = last.in_sync_at or last.ended_at or last.taken_on_at or last.asked_at
    return {
        "kind": configured.kind,
        "weights": Weights(row.first, row.second, last.becomes).percentages(),
        "stage": last.stage.value,
        "since": utc(since),
    }


def _active(row: ServiceRow) -> str | None:
    if row.second_weight == 0:
        return row.first
    return row.second if row.second_weight == WHOLE else None


def _differing(configured: Service, row: ServiceRow, name: str) -> list[str] | None:
    """The file's servers of an upstream, where the API's are others."""
    upstream = configured.upstream(name)
    if upstream is not None and upstream.discover is not None:
        return None
    servers = upstream.servers if upstream is not None else ()
    return None if row.servers.get(name, servers) == servers else list(servers)


def _upstream(found: UpstreamView, configured: list[str] | None) -> dict[str, Any]:
    health, in_flight, servers = found
    return {
        "healthy": health.healthy,
        "health": health.state.name.lower(),
        "reason": health.reason,
        "in_flight": in_flight,
        "servers": [_server(server) for server in servers],
        "configured_servers": configured,
    }


def _server(server: ServerView) -> dict[str, Any]:
    probe = server.last_probe
    return {
        "address": server.address,
        "endpoint": server.endpoint,
        "healthy": server.healthy,
        "health": server.state.name.lower(),
        "reason": server.reason,
        "last_probe": None
        if probe is None
        else {
            "at": utc(probe.at),
            "status": probe.status,
            "ms": probe.duration_ms,
            "error": probe.error or None,
        },
    }


def switchover(
    value: Switchover, configured: Service | None, *, changed: bool = True, dry_run: bool = False
) -> dict[str, Any]:
    """A switchover; `configured` None when the configuration no longer has its service."""

    def shares(second_weight: int) -> dict[str, float]:
        return Weights(value.first, value.second, second_weight).percentages()

    return {
        "id": value.id or None,
        "service": value.service,
        "state": value.state.value,
        "changed": changed,
        "dry_run": dry_run,
        "from": value.from_upstream,
        "to": value.to_upstream,
        "strategy": value.strategy,
        "steps": [shares(step) for step in value.steps],
        "step": value.step_index + 1,
        "weights": shares(value.second_weight),
        "weights_before": shares(value.weights_before),
        "requested_by": value.requested_by,
        "reason": value.reason,
        "forced_by": value.forced_by,
        "force_reason": value.force_reason,
        "outcome": value.outcome,
        "waiting_for": value.waiting_for,
        "next_step_at": _at(value.next_step_at if value.state is State.SHIFTING else None),
        "check_until": _at(value.check_until if value.state is State.CHECKING else None),
        "drain_until": _at(_drain_until(value, configured)),
        "started_at": utc(value.created_at),
        "finished_at": _at(value.finished_at),
        "phases": phases(value),
        "gates": list(value.gates),
        "doing": "",
        "outer": None,
        "revision": value.revision,
    }


def _drain_until(value: Switchover, configured: Service | None) -> float | None:
    if value.state is not State.DRAINING or configured is None:
        return None
    return value.entered_at + max(configured.drain.timeout_s, configured.drain.tunnels_s)


def _at(seconds: float | None) -> str | None:
    return None if seconds is None else utc(seconds)


def audit_entry(entry: AuditEntry) -> dict[str, Any]:
    return {
        "id": entry.seq,
        "at": utc(entry.at),
        "who": entry.who,
        "address": entry.address,
        "action": entry.action,
        "service": entry.service,
        "detail": entry.detail,
        "reason": entry.reason,
        "outcome": entry.outcome,
        "revision": entry.revision,
    }


def event(stored: StoredEvent) -> dict[str, Any]:
    """An event of the stream, without its number, which is the SSE id."""
    return {
        "event": stored.name,
        "at": utc(stored.at),
        "revision": stored.revision,
        **stored.document,
    }
