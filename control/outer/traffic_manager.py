"""Azure Traffic Manager: the weights of two endpoints of a profile.

Traffic Manager answers DNS queries, with an endpoint of those that are enabled and healthy, by
weights from 1 to 1000: no weight is 0, so an endpoint that is to have nothing is disabled. Both
endpoints are written in one PATCH of the profile, whose `endpoints` are all of the profile's, as
read but for weight and status. The API has no condition for it, so it is read just before.

Source: trafficmanager.json of version 2022-04-01 in Azure/azure-rest-api-specs;
learn.microsoft.com, "Traffic Manager endpoint monitoring".
"""

import hashlib
from collections.abc import Mapping
from typing import Any, Final

from turnout.config.outer.azure import TrafficManager
from turnout.config.weights import WHOLE
from turnout.control.outer.arm import Arm, digest
from turnout.control.outer.seams import (
    Capabilities,
    Change,
    Conflict,
    Context,
    NotExpressible,
    Progress,
    Reading,
    Router,
    Tail,
    Verdict,
    Wanted,
    differences,
    nearest_share,
)
from turnout.control.outer.settling import Settling

API_VERSION: Final = "2022-04-01"
PARTS: Final = 1000
"""What both weights amount to in a split: each is 1 to 1000."""
_MOVED: Final = frozenset({"weight", "endpointStatus"})
_OBSERVED: Final = frozenset({"endpointMonitorStatus"})
_HEALTHY: Final = frozenset({"Online", "Unmonitored"})
_NO_WORDS: Final = "not said"

Named = tuple[str, str]
"""The names of the two endpoints, of the first upstream and the second."""


def make_router(settings: TrafficManager, context: Context) -> Router:
    return TrafficManagerRouter(settings, context)


class TrafficManagerRouter:
    capabilities = Capabilities(atomic=True, weighted=True, exchange=False, conditional=False)

    def __init__(self, settings: TrafficManager, context: Context) -> None:
        first, second = context.names
        self._named = (settings.endpoints[first], settings.endpoints[second])
        self._resource = f"Microsoft.Network/trafficmanagerprofiles/{settings.profile}"
        self._settling = Settling(settings.settle)
        self._arm = Arm(settings, context, who="Traffic Manager", api_version=API_VERSION)

    def expressible(self, second_weight: int) -> int | None:
        return nearest_share(second_weight, PARTS)

    async def read(self) -> Reading:
        return reading_of(await self._arm.read(self._resource), self._named)

    def preview(self, wanted: Wanted, reading: Reading) -> Mapping[str, Any]:
        return {
            "call": f"PATCH {self._resource}",
            "endpoints": wanted_of(wanted, reading, self._named),
        }

    async def set_weights(self, wanted: Wanted, if_read: Reading) -> Change:
        goal = wanted_of(wanted, if_read, self._named)
        document = await self._arm.read(self._resource)
        now = reading_of(document, self._named)
        if now.version != if_read.version:
            changed = differences(
                {"endpoints": if_read.exact, "settings": if_read.settings},
                {"endpoints": now.exact, "settings": now.settings},
            )
            raise Conflict(f"Traffic Manager: somebody else changed it: {'; '.join(changed)}")
        change = _change(wanted, goal, now, self._named)
        # Also when it is so already: a change before may still be under way.
        await self._arm.change("PATCH", self._resource, body_of(document, goal))
        return change

    async def confirm(self, wanted: Wanted, reading: Reading) -> Change:
        goal = wanted_of(wanted, reading, self._named)
        return _change(wanted, goal, reading, self._named)

    async def poll(self, change: Change) -> Progress:
        document = await self._arm.read(self._resource)
        progress = progress_of(document, self._named, change.document)
        if progress.verdict is Verdict.IN_SYNC:
            return self._settling.done(change, progress.detail)
        return progress

    async def tail(self, old_upstream: int) -> Tail:
        return Tail((await self.read()).ttl_s)

    async def close(self) -> None:
        await self._arm.close()


# ---------------------------------------------------------------- what a profile says


def reading_of(document: Any, named: Named) -> Reading:
    """What a profile's document means."""
    properties = document.get("properties") or {}
    endpoints = properties.get("endpoints") or []
    exact: dict[str, Any] = {}
    others: dict[str, Any] = {}
    settings: dict[str, Any] = {}
    problems, warnings = _of_profile(properties)
    for endpoint in endpoints:
        name = str(endpoint.get("name", ""))
        values = endpoint.get("properties") or {}
        ours = next((known for known in named if known.lower() == name.lower()), None)
        if ours is None:
            others[f"{_kind(endpoint)} {name}"] = _without(values, _OBSERVED)
            if values.get("endpointStatus") != "Disabled":
                problems.append(
                    f"endpoint {name} is enabled with weight {values.get('weight')}, and is none of"
                    f" {' and '.join(named)}: disable it or take it out of the profile"
                )
            continue
        if ours in exact:
            problems.append(f"there are two endpoints {ours}, of different types: rename one")
            continue
        exact[ours] = {
            "endpointStatus": values.get("endpointStatus", "Enabled"),
            "weight": values.get("weight", 1),
        }
        settings[ours] = {"type": _kind(endpoint), **_without(values, _MOVED | _OBSERVED)}
        warnings += _of_health(ours, values)
    for name in named:
        if name not in exact:
            found = ", ".join(str(endpoint.get("name")) for endpoint in endpoints) or "none"
            problems.append(f"there is no endpoint {name} in the profile; it has {found}")
    second_weight = None if problems else share(exact, named)
    if second_weight is None and not problems:
        problems.append(
            f"{' and '.join(named)} are both disabled: enable the one that is to have the traffic"
        )
    about = {"endpoints": settings, "others": others, "profile": _profile_settings(properties)}
    return Reading(
        second_weight=second_weight,
        version=digest(exact, about),
        exact=exact,
        settings=about,
        problems=tuple(problems),
        warnings=tuple(warnings),
        ttl_s=float((properties.get("dnsConfig") or {}).get("ttl") or 0),
    )


def share(exact: Mapping[str, Any], named: Named) -> int | None:
    """The second endpoint's part of the traffic; None: both are disabled."""
    first, second = (
        0 if exact[name]["endpointStatus"] == "Disabled" else int(exact[name]["weight"])
        for name in named
    )
    if first + second == 0:
        return None
    if 0 in (first, second):
        return WHOLE if second else 0
    return min(max(round(second * WHOLE / (first + second)), 1), WHOLE - 1)


def wanted_of(wanted: Wanted, reading: Reading, named: Named) -> dict[str, Any]:
    """Weight and status of both endpoints, as they should become. Raises NotExpressible."""
    if wanted.exact is not None:
        return {name: dict(values) for name, values in wanted.exact.items()}
    if set(reading.exact) != set(named):
        raise NotExpressible("; ".join(reading.problems))
    if reading.second_weight == wanted.second_weight:
        return {name: dict(values) for name, values in reading.exact.items()}
    first, second = named
    if wanted.second_weight in (0, WHOLE):
        on, off = (first, second) if wanted.second_weight == 0 else (second, first)
        # A weight of what is alone, or of what is disabled, means nothing: it stays as it is.
        return {
            on: {**reading.exact[on], "endpointStatus": "Enabled"},
            off: {**reading.exact[off], "endpointStatus": "Disabled"},
        }
    part = round(nearest_share(wanted.second_weight, PARTS) * PARTS / WHOLE)
    return {
        first: {"endpointStatus": "Enabled", "weight": PARTS - part},
        second: {"endpointStatus": "Enabled", "weight": part},
    }


def body_of(document: Any, goal: Mapping[str, Any]) -> dict[str, Any]:
    """The PATCH: all of the profile's endpoints as read, but for what is moved. An endpoint that
    were left out might be taken out."""
    endpoints = []
    for endpoint in document["properties"]["endpoints"]:
        name = next((known for known in goal if known.lower() == endpoint["name"].lower()), None)
        moved = goal[name] if name is not None else {}
        kept = {key: endpoint[key] for key in ("id", "name", "type") if key in endpoint}
        values = {
            key: value for key, value in endpoint["properties"].items() if key not in _OBSERVED
        }
        endpoints.append({**kept, "properties": {**values, **moved}})
    return {"properties": {"endpoints": endpoints}}


def progress_of(document: Any, named: Named, change: Mapping[str, Any]) -> Progress:
    """Whether a profile is as a change wanted it, and what gained by it is found healthy.

    What is disabled was not probed; until its first probe Traffic Manager calls it
    CheckingEndpoint.
    """
    reading = reading_of(document, named)
    if changed := differences(change["endpoints"], reading.exact):
        return Progress(Verdict.PENDING, f"not as wanted yet: {'; '.join(changed)}")
    states = {
        str(endpoint.get("name", "")).lower(): endpoint["properties"].get("endpointMonitorStatus")
        for endpoint in document["properties"]["endpoints"]
    }
    for name, values in reading.exact.items():
        status = states[name.lower()]
        probed = status != "CheckingEndpoint" or values["endpointStatus"] == "Disabled"
        if not probed or (name in change["gains"] and status not in _HEALTHY):
            return Progress(Verdict.PENDING, f"endpoint {name} is {status or _NO_WORDS}")
    return Progress(Verdict.IN_SYNC, "read back")


def _change(wanted: Wanted, goal: Mapping[str, Any], reading: Reading, named: Named) -> Change:
    return Change("", {"endpoints": goal, "gains": _gains(wanted, reading, named)})


def _gains(wanted: Wanted, reading: Reading, named: Named) -> list[str]:
    """The endpoints that must be found healthy before the change is in sync."""
    if wanted.exact is not None:
        return []  # on the way back nobody waits for health: where it goes is where it was
    if wanted.second_weight in (0, WHOLE):
        return [named[1] if wanted.second_weight else named[0]]
    if reading.second_weight is None or reading.second_weight == wanted.second_weight:
        return []
    return [named[1] if wanted.second_weight > reading.second_weight else named[0]]


# ---------------------------------------------------------------- parts


def _of_profile(properties: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    problems = []
    method = properties.get("trafficRoutingMethod")
    if method != "Weighted":
        problems.append(
            f"trafficRoutingMethod is {method}, and weights have no meaning: make it Weighted"
        )
    if properties.get("profileStatus") == "Disabled":
        problems.append("the profile is disabled, and answers no query: enable it")
    return problems, []


def _of_health(name: str, values: Mapping[str, Any]) -> list[str]:
    status = values.get("endpointMonitorStatus")
    if values.get("endpointStatus") == "Disabled" or status in _HEALTHY:
        return []
    return [f"endpoint {name} is enabled, and Traffic Manager finds it {status or _NO_WORDS}"]


def _kind(endpoint: Mapping[str, Any]) -> str:
    return str(endpoint.get("type", "")).rpartition("/")[2]


def _profile_settings(properties: Mapping[str, Any]) -> dict[str, Any]:
    kept = _without(properties, frozenset({"endpoints", "monitorConfig"}))
    monitor = _without(properties.get("monitorConfig") or {}, frozenset({"profileMonitorStatus"}))
    return {**kept, "monitorConfig": monitor}


def _without(values: Mapping[str, Any], keys: frozenset[str]) -> dict[str, Any]:
    """Without `keys`, and without what header fields say, which may be secrets of a probe."""
    return {
        key: _hidden(value) if key == "customHeaders" else value
        for key, value in values.items()
        if key not in keys
    }


def _hidden(fields: Any) -> Any:
    return [
        {**one, "value": hashlib.sha256(str(one.get("value")).encode()).hexdigest()[:12]}
        for one in fields or []
    ]
