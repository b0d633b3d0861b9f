"""Evidence and health -> go on, wait, roll back, give up or refuse, with the reason.

Pure: it advises, the executor acts. Two rules stand above all: no weight rises on an upstream
that is not healthy, and no rollback goes to one. A person may overrule both (`forced`), and
is then named in the record; nothing here overrules the person.

`GATES` are asked in turn while a target carries weight; a further one is one more function.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol, TypeAlias

from turnout.config.model import ErrorLimit, OnFailure
from turnout.control.evidence import Evidence
from turnout.control.health import UpstreamHealth
from turnout.proxy.scoreboard import HealthWord


@dataclass(frozen=True, slots=True)
class GoOn:
    """Nothing speaks against it."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Not now; ask again."""

    reason: str


@dataclass(frozen=True, slots=True)
class RollBack:
    """The target must lose its weight, and the upstream before it may have it."""

    reason: str


@dataclass(frozen=True, slots=True)
class GiveUp:
    """The target has failed, and the weights must stay: a person is needed."""

    reason: str


@dataclass(frozen=True, slots=True)
class Refuse:
    """It must not happen."""

    reason: str


# ---------------------------------------------------------------- before weight rises


def may_start(target: UpstreamHealth, wait_healthy_s: float, forced: bool) -> GoOn | Wait | Refuse:
    """May a switchover begin? Wait: it may, and `checking` has to last."""
    if forced or target.healthy:
        return GoOn()
    if target.state is HealthWord.UNKNOWN or wait_healthy_s > 0:
        return Wait(target.reason)
    return Refuse(target.reason)


def may_rise(
    target: UpstreamHealth, at: float, until: float | None, forced: bool
) -> GoOn | Wait | Refuse:
    """May weight rise on `target` now? Refuse: not, and the time for it (`until`) is over.

    Without `until` an unhealthy target is refused at once; one not known is waited for.
    """
    if forced or target.healthy:
        return GoOn()
    waits = target.state is HealthWord.UNKNOWN if until is None else at < until
    return Wait(target.reason) if waits else Refuse(target.reason)


def may_return(back: Sequence[UpstreamHealth], forced: bool) -> GoOn | Wait | Refuse:
    """May a rollback give weight back to these upstreams? Wait: one is not known yet."""
    if forced or all(upstream.healthy for upstream in back):
        return GoOn()
    sick = [upstream for upstream in back if not upstream.healthy]
    reason = "; ".join(upstream.reason for upstream in sick)
    known = all(upstream.state is not HealthWord.UNKNOWN for upstream in sick)
    return Refuse(reason) if known else Wait(reason)


# ---------------------------------------------------------------- while the target has weight


@dataclass(frozen=True, slots=True)
class Situation:
    """What a gate looks at."""

    target: UpstreamHealth
    evidence: Evidence
    """Of the target, in the last `ErrorLimit.window_s` and since it got its first weight."""
    error_limit: ErrorLimit | None


class Gate(Protocol):
    """Says what speaks against the target; empty while nothing does."""

    def __call__(self, situation: Situation, /) -> str: ...


def target_is_healthy(situation: Situation) -> str:
    """Not known is not against it: a target that got new servers is probed anew."""
    target = situation.target
    return target.reason if target.state is HealthWord.UNHEALTHY else ""


def target_has_few_errors(situation: Situation) -> str:
    limit, found = situation.error_limit, situation.evidence
    if limit is None or found.requests < limit.requests_min:
        return ""
    if found.error_fraction <= limit.rate_fraction:
        return ""
    return (
        f"{found.errors} of {found.requests} requests to {situation.target.name} failed"
        f" ({found.error_fraction:.1%} > {limit.rate_fraction:.1%})"
    )


GATES: Final[tuple[Gate, ...]] = (target_is_healthy, target_has_few_errors)

WatchVerdict: TypeAlias = GoOn | Wait | RollBack | GiveUp


def watch(
    situation: Situation,
    back: Sequence[UpstreamHealth],
    on_failure: OnFailure,
    forced: bool,
    gates: Sequence[Gate] = GATES,
) -> WatchVerdict:
    """Judge a target that carries weight; `back` are the upstreams that a rollback gives to.

    Wait: the target has failed, and it is not known yet whether to go back.
    """
    if forced:
        return GoOn()
    reason = next((reason for gate in gates if (reason := gate(situation))), "")
    return failed(reason, back, on_failure) if reason else GoOn()


def failed(reason: str, back: Sequence[UpstreamHealth], on_failure: OnFailure) -> WatchVerdict:
    """What follows from a target's failure: back, unless that would be onto the unhealthy."""
    if on_failure is OnFailure.STAY:
        return GiveUp(f"{reason}; on_failure is stay")
    match may_return(back, forced=False):
        case GoOn():
            return RollBack(reason)
        case Wait(unknown):
            return Wait(f"{reason}; the way back: {unknown}")
        case Refuse(sick):
            return GiveUp(f"{reason}; no way back: {sick}")
