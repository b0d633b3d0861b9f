"""Pure: what environments of Elastic Beanstalk and their instances mean.

The environment that holds the live name has all traffic. Its instances are servers.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from turnout.config.outer.aws import ElasticBeanstalk
from turnout.config.weights import WHOLE
from turnout.control.outer.seams import (
    Change,
    FoundServer,
    NotDone,
    NotExpressible,
    Progress,
    Reading,
    Verdict,
    Wanted,
)

PASSING: Final = frozenset({"Updating", "LinkingFrom", "LinkingTo", "Aborting"})
"""States that end by themselves in `Ready`; a swap is one of them."""
GOOD: Final = frozenset({"Ok", "Info", "Green"})
"""Of `HealthStatus` (enhanced health reporting), else of the colour `Health`."""

EnvironmentNow = Mapping[str, Any]
"""As DescribeEnvironments has it."""


# ---------------------------------------------------------------- two environments


def is_id(environment: str) -> bool:
    return re.fullmatch(r"e-[a-z0-9]{10}", environment) is not None


def named(environment: str) -> dict[str, list[str]]:
    """How it is asked for."""
    return {"EnvironmentIds" if is_id(environment) else "EnvironmentNames": [environment]}


def reading_of(
    found: Sequence[EnvironmentNow | None], settings: ElasticBeanstalk, names: tuple[str, str]
) -> Reading:
    """What the two environments, as they were described, amount to. None: it is not there.

    Raises NotDone while the names are between the two: a swap is under way.
    """
    problems: list[str] = []
    warnings: list[str] = []
    exact: dict[str, Any] = {}
    beside: dict[str, Any] = {}
    for name, there in zip(names, found, strict=True):
        if there is None:
            problems.append(f"{name}'s environment {settings.environments[name]} is not there")
            continue
        exact[name] = host(there.get("CNAME"))
        # Not the version: a new one may be deployed to the idle environment on the way back.
        beside[name] = {
            key: str(there.get(key) or "")
            for key in ("EnvironmentId", "EnvironmentName", "ApplicationName")
        } | {"Tier": str((there.get("Tier") or {}).get("Name") or "")}
        status = str(there.get("Status"))
        if status in PASSING:
            warnings.append(f"{called(name, there)} is {status}: no swap is taken on until Ready")
        elif status != "Ready":
            problems.append(f"{called(name, there)} is {status}, not Ready")
        health = health_of(there)
        if health not in GOOD:
            warnings.append(f"{called(name, there)} has health {health}")
    holders = [name for name in names if exact.get(name) == settings.cname]
    if not problems and len(holders) != 1:
        if any((there or {}).get("Status") in PASSING for there in found):
            raise NotDone(
                f"Elastic Beanstalk: {settings.cname} is between {names[0]} and {names[1]}: a swap "
                f"is under way"
            )
        held = ", ".join(f"{name}'s is {cname or 'none'}" for name, cname in exact.items())
        problems.append(
            f"{settings.cname} (cname) is held by {'both' if holders else 'neither'}: {held}"
        )
    second_weight = None
    if not problems:
        second_weight = WHOLE if holders == [names[1]] else 0
    return Reading(
        second_weight=second_weight,
        version=digest([exact, beside]),
        exact=exact,
        settings=beside,
        problems=problems,
        warnings=warnings,
        ttl_s=settings.ttl,
    )


def health_of(there: EnvironmentNow) -> str:
    """By enhanced reporting, else its colour."""
    return str(there.get("HealthStatus") or there.get("Health") or "unknown")


def host(cname: object) -> str:
    """A name of DNS as it is compared."""
    return str(cname or "").lower().removesuffix(".")


def called(name: str, there: EnvironmentNow) -> str:
    return f"{name}'s environment {there.get('EnvironmentName')}"


def digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def names_wanted(
    wanted: Wanted, reading: Reading, cname: str, names: tuple[str, str]
) -> dict[str, str]:
    """Upstream -> the name that its environment is to have. Raises NotExpressible."""
    there = {name: str(reading.exact.get(name) or "") for name in names}
    swapped = {names[0]: there[names[1]], names[1]: there[names[0]]}
    if wanted.exact is not None:
        for possible in (there, swapped):
            if possible == dict(wanted.exact):
                return possible
        raise NotExpressible(
            f"environments can only swap their names; wanted are {_shown(wanted.exact)}, and "
            f"there are {_shown(there)}"
        )
    if wanted.second_weight not in (0, WHOLE):
        raise NotExpressible("Elastic Beanstalk switches whole: 0 or 100 %")
    gets = names[1] if wanted.second_weight else names[0]
    return there if there[gets] == cname else swapped


def _shown(cnames: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}: {cname or 'none'}" for name, cname in cnames.items())


def progress_of(
    found: Sequence[EnvironmentNow | None],
    change: Change,
    names: tuple[str, str],
    now: float,
    start_timeout_s: float,
) -> Progress:
    """How far a swap is, by the environments now."""
    before, after = change.document["before"], change.document["after"]
    there = [one for one in found if one is not None]
    if len(there) < 2:
        return Progress(Verdict.UNKNOWN, "an environment is not there any more")
    states = {name: str(one.get("Status")) for name, one in zip(names, there, strict=True)}
    said = ", ".join(f"{name}'s environment is {state}" for name, state in states.items())
    cnames = {name: host(one.get("CNAME")) for name, one in zip(names, there, strict=True)}
    if any(state != "Ready" and state not in PASSING for state in states.values()):
        return Progress(Verdict.UNKNOWN, said)
    ready = set(states.values()) == {"Ready"}
    if cnames == after:
        return Progress(Verdict.IN_SYNC if ready else Verdict.PENDING, said)
    if not ready:
        return Progress(Verdict.PENDING, said)
    if cnames != before:
        return Progress(Verdict.UNKNOWN, f"somebody else has changed it: {_shown(cnames)}")
    if now - change.document["at"] < start_timeout_s:
        return Progress(Verdict.PENDING, "it does not show yet")
    return Progress(
        Verdict.FAILED,
        f"{said}, and each has its name of before; see the environments' events",
    )


def is_environment(there: EnvironmentNow, environment: str) -> bool:
    """Whether what was described is the one of this name, or id."""
    key = "EnvironmentId" if is_id(environment) else "EnvironmentName"
    return there.get(key) == environment and there.get("Status") != "Terminated"


# ---------------------------------------------------------------- servers

UNFIT: Final = frozenset({"Pending", "Severe", "Suspended"})
"""Of an instance's HealthStatus. `NoData` and `Unknown` say nothing of the instance: an agent
that fails must not take every server away."""
INSTANCES_MAX: Final = 100
"""Ids in one call; a filter takes 200 values."""


def servers_of(
    instances: Sequence[Mapping[str, Any]], health: Mapping[str, str], port: int
) -> tuple[FoundServer, ...]:
    """Instances, as EC2 describes them, as servers; `health` by their ids, as far as known."""
    found = []
    for instance in instances:
        address = instance.get("PrivateIpAddress")
        state = str((instance.get("State") or {}).get("Name"))
        if not address or state in ("terminated", "stopped"):
            continue
        fit = health.get(str(instance.get("InstanceId")), "") not in UNFIT
        draining = state in ("shutting-down", "stopping")
        found.append(FoundServer(f"{address}:{port}", state == "running" and fit, draining))
    return tuple(sorted(found, key=lambda server: server.address))


def batches(ids: Sequence[str]) -> Iterator[list[str]]:
    for start in range(0, len(ids), INSTANCES_MAX):
        yield list(ids[start : start + INSTANCES_MAX])
