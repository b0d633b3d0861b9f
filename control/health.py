"""Health as a value: probe results and real traffic -> healthy, unhealthy or not known yet.

Pure; the prober does the probing. A state changes only after several results in a row agree
(`rise`, `fall`), so that one lost packet moves nobody's traffic. "Unhealthy" always says why.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

from turnout.config.model import HealthPolicy, PassivePolicy
from turnout.proxy.scoreboard import HealthWord

NEVER_PROBED: Final = "not probed yet"


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """One active check. `at` in seconds since 1970; `error` is empty when it was good."""

    at: float
    duration_ms: float
    status: int | None = None
    """None: there was no answer."""
    error: str = ""

    @property
    def good(self) -> bool:
        return not self.error


@dataclass(frozen=True, slots=True)
class Traffic:
    """What one worker saw of a server in real traffic since it last said so."""

    answered: int
    errors_5xx: int
    """5xx answers in a row at the end of the period; all of them if none was better."""
    connect_errors: int
    last_error: str = ""


@dataclass(frozen=True, slots=True)
class ServerHealth:
    """What is known of one server, and why."""

    state: HealthWord = HealthWord.UNKNOWN
    reason: str = NEVER_PROBED
    good_in_a_row: int = 0
    bad_in_a_row: int = 0
    connect_errors_in_a_row: int = 0
    errors_5xx_in_a_row: int = 0
    last_probe: ProbeResult | None = None

    @property
    def in_doubt(self) -> bool:
        """Nothing is known yet, or the last result speaks against the state: probe faster."""
        match self.state:
            case HealthWord.UNKNOWN:
                return True
            case HealthWord.HEALTHY:
                traffic = self.connect_errors_in_a_row or self.errors_5xx_in_a_row
                return self.bad_in_a_row > 0 or traffic > 0
            case HealthWord.UNHEALTHY:
                return self.good_in_a_row > 0


def from_word(word: int) -> ServerHealth:
    """What is known of a server after a restart: the health word that was left."""
    try:
        state = HealthWord(word)
    except ValueError:
        state = HealthWord.UNKNOWN
    reason = NEVER_PROBED if state is HealthWord.UNKNOWN else "as it was before the restart"
    return ServerHealth(state, reason)


def probed(health: ServerHealth, result: ProbeResult, policy: HealthPolicy) -> ServerHealth:
    """The health after one more probe."""
    if result.good:
        good = health.good_in_a_row + 1
        changed = replace(health, last_probe=result, good_in_a_row=good, bad_in_a_row=0)
        if health.state is HealthWord.HEALTHY:
            return replace(changed, reason="")
        if good < policy.rise:
            if health.state is HealthWord.UNKNOWN:
                return replace(changed, reason=f"{good} of {policy.rise} good probes so far")
            return changed
        return replace(
            changed,
            state=HealthWord.HEALTHY,
            reason="",
            connect_errors_in_a_row=0,
            errors_5xx_in_a_row=0,
        )
    bad = health.bad_in_a_row + 1
    changed = replace(health, last_probe=result, good_in_a_row=0, bad_in_a_row=bad)
    if health.state is HealthWord.UNHEALTHY or bad >= policy.fall:
        return replace(changed, state=HealthWord.UNHEALTHY, reason=f"probe: {result.error}")
    if health.state is HealthWord.UNKNOWN:
        return replace(changed, reason=f"{bad} of {policy.fall} bad probes: {result.error}")
    return changed


def observed(health: ServerHealth, traffic: Traffic, policy: HealthPolicy) -> ServerHealth:
    """The health after a worker told what real traffic showed.

    Real traffic takes a server out and never in: that it fails is certain, that it works may
    be luck. Probes bring it back.
    """
    passive = policy.passive
    if passive is None:
        return health
    connect = 0 if traffic.answered else health.connect_errors_in_a_row + traffic.connect_errors
    errors = traffic.errors_5xx
    if traffic.errors_5xx == traffic.answered:  # none was better, so the run goes on
        errors += health.errors_5xx_in_a_row
    changed = replace(health, connect_errors_in_a_row=connect, errors_5xx_in_a_row=errors)
    reason = _passive_reason(connect, errors, traffic.last_error, passive)
    if not reason or health.state is HealthWord.UNHEALTHY:
        return changed
    return replace(changed, state=HealthWord.UNHEALTHY, reason=reason, good_in_a_row=0)


def _passive_reason(connect: int, errors: int, last_error: str, policy: PassivePolicy) -> str:
    detail = f": {last_error}" if last_error else ""
    if policy.connect_failures and connect >= policy.connect_failures:
        return f"traffic: {connect} connection attempts in a row failed{detail}"
    if policy.error_answers and errors >= policy.error_answers:
        return f"traffic: {errors} answers in a row were 5xx or never came{detail}"
    return ""


def next_probe_s(health: ServerHealth, policy: HealthPolicy, dice: float) -> float:
    """Seconds until the next probe; `dice` in -1..1 spreads probes over time."""
    interval_s = policy.interval_s
    if health.in_doubt:
        interval_s = min(interval_s, policy.doubt_interval_s)
    return interval_s * (1 + dice * policy.jitter_fraction)


def first_verdict_s(policy: HealthPolicy | None) -> float:
    """How long a server that was never probed may take to be known, in seconds."""
    return 0.0 if policy is None else policy.rise * policy.interval_s + policy.timeout_s


# ---------------------------------------------------------------- a whole upstream


@dataclass(frozen=True, slots=True)
class UpstreamHealth:
    """An upstream is as healthy as enough of its servers are."""

    name: str
    state: HealthWord
    reason: str
    """Why it is not healthy; empty when it is."""
    healthy_servers: int
    servers: int

    @property
    def healthy(self) -> bool:
        return self.state is HealthWord.HEALTHY


def not_resolved(error: str) -> str:
    """Why a server whose name has no address is not healthy."""
    return f"name does not resolve: {error or 'no answer yet'}"


def upstream_health(
    name: str,
    servers: Mapping[str, ServerHealth],
    min_healthy: int,
    policy: HealthPolicy | None,
    unresolved: Mapping[str, str] = MappingProxyType({}),
) -> UpstreamHealth:
    """Judge an upstream by its servers (address -> health, and address -> why the name of
    one has no address).

    Healthy: at least `min_healthy` are. Not known: those never probed may still make it so.
    Without a policy (`health: off`) it is always healthy, unless it has no server at all.
    """
    states = [server.state for server in servers.values()]
    healthy = states.count(HealthWord.HEALTHY)
    possible = healthy + states.count(HealthWord.UNKNOWN)
    total = len(servers) + len(unresolved)
    if not total:
        why = f"{name} has no servers"
        return UpstreamHealth(name, HealthWord.UNHEALTHY, why, 0, 0)
    if policy is None and servers:
        return UpstreamHealth(name, HealthWord.HEALTHY, "", len(servers), total)
    if servers and healthy >= min_healthy:
        return UpstreamHealth(name, HealthWord.HEALTHY, "", healthy, total)
    reasons = [
        f"{address} {server.reason}"
        for address, server in servers.items()
        if server.state is not HealthWord.HEALTHY
    ]
    reasons += [f"{address} {not_resolved(error)}" for address, error in unresolved.items()]
    why = (
        f"{healthy} of {total} servers of {name} healthy, {min_healthy} needed:"
        f" {', '.join(reasons)}"
    )
    state = HealthWord.UNKNOWN if possible >= min_healthy else HealthWord.UNHEALTHY
    return UpstreamHealth(name, state, why, healthy, total)
