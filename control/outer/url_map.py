"""Weighted backend services in the URL map of an Application Load Balancer.

One `urlMaps.patch` (JSON merge patch, RFC 7396: lists are replaced) with the fingerprint:
atomic, and refused (412) when anything of the URL map was changed since. So it is made from a
URL map read just before; another's rules in it are kept, and two services may have their weights
in the same one.

In sync: the operation is done, and `settle` after it: that the load balancer's proxies take a
while is documented, how long is not.

Sources: the discovery document of compute v1 (UrlMap, HttpRouteAction, WeightedBackendService,
Operation); cloud.google.com, "Method: urlMaps.patch".
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from turnout.config.outer.google import UrlMap
from turnout.config.weights import WHOLE
from turnout.control.outer.google import (
    NotThere,
    api,
    error_text,
    short_name,
    write_as_read,
)
from turnout.control.outer.seams import (
    Capabilities,
    Change,
    Context,
    Progress,
    Reading,
    Tail,
    Verdict,
    Wanted,
    nearest_share,
)
from turnout.control.outer.settling import Settling

PARTS: Final = 1000
"""The greatest weight; ours sum up to it."""
OPERATIONS_MAX: Final = 100
"""So many of a project's last operations are looked through for one whose reply was lost."""
_WEIGHTED: Final = "weightedBackendServices"

Document = Mapping[str, Any]
Action = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Where:
    """Which route action of a URL map has the weights."""

    path_matcher: str | None = None
    route_priority: int | None = None
    path: str | None = None

    def __str__(self) -> str:
        if self.path_matcher is None:
            return "defaultRouteAction"
        inside = f"path matcher {self.path_matcher}"
        if self.route_priority is not None:
            return f"{inside}, route rule {self.route_priority}"
        if self.path is not None:
            return f"{inside}, path {self.path}"
        return f"{inside}, defaultRouteAction"


@dataclass(frozen=True, slots=True)
class Sides:
    """Which backend service is which upstream."""

    upstreams: tuple[str, str]
    services: tuple[str, str]
    """As configured: names, or paths from `projects/` on."""
    where: Where


# ---------------------------------------------------------------- what a URL map says


def understand(document: Document, sides: Sides) -> Reading:
    """A reading of what the API says of the URL map."""
    action = located(document, sides.where)
    entries = _entries(action)
    problems: list[str] = []
    if not entries:
        problems.append(
            f"{sides.where} has no weighted backend services. Give it {_WEIGHTED} with both,"
            f" instead of a service alone"
        )
    weights: dict[int, int] = {}
    for entry in entries:
        side = side_of(entry, sides)
        weight = int(entry.get("weight") or 0)
        if side is None:
            if weight:
                problems.append(
                    f"{sides.where} has a third backend service, of weight {weight}:"
                    f" {short_name(_reference(entry))}"
                )
        elif side in weights:
            problems.append(f"{sides.where} has {sides.services[side]} twice")
        else:
            weights[side] = weight
    for side in (0, 1):
        if entries and side not in weights:
            problems.append(
                f"{sides.where} has no {sides.services[side]}, which is {sides.upstreams[side]}'s."
                f" Add it with weight 0"
            )
    ours = [
        (_reference(entry), int(entry.get("weight") or 0))
        for entry in entries
        if side_of(entry, sides) is not None
    ]
    total = sum(weights.values())
    if len(weights) == 2 and not total:
        problems.append(f"{sides.where}: both weights are 0. Give one side a weight")
    return Reading(
        second_weight=None if problems else _share(weights[1], total),
        version=str(document.get("fingerprint", "")),
        exact={"weights": dict(ours)},
        settings={"action": _beside(action)},
        problems=problems,
    )


def located(document: Document, where: Where) -> Document | None:
    """The route action at `where`; None: there is none."""
    for owner in _owners(document, where):
        return owner.get(_key(where)) or None
    return None


def _owners(document: Document, where: Where) -> Iterable[Document]:
    """What has the route action: the URL map, a path matcher, or a rule of it."""
    if where.path_matcher is None:
        yield document
        return
    for matcher in document.get("pathMatchers", ()):
        if matcher.get("name") != where.path_matcher:
            continue
        if where.route_priority is not None:
            for rule in matcher.get("routeRules", ()):
                if int(rule.get("priority") or 0) == where.route_priority:
                    yield rule
        elif where.path is not None:
            for rule in matcher.get("pathRules", ()):
                if where.path in rule.get("paths", ()):
                    yield rule
        else:
            yield matcher


def _key(where: Where) -> str:
    of_a_rule = where.route_priority is not None or where.path is not None
    return "routeAction" if of_a_rule else "defaultRouteAction"


def _entries(action: Document | None) -> Sequence[Document]:
    found: Sequence[Document] = (action or {}).get(_WEIGHTED, ())
    return found


def _reference(entry: Document) -> str:
    return str(entry.get("backendService", ""))


def side_of(entry: Document, sides: Sides) -> int | None:
    """Whose backend service an entry is; None: of neither. Its URL may begin with any of the
    API's hosts."""
    for side in (0, 1):
        if f"/{_reference(entry)}".endswith(f"/{sides.services[side]}"):
            return side
    return None


def _share(weight: int, total: int) -> int:
    """Never nothing or everything for what is neither."""
    if weight in (0, total):
        return 0 if weight == 0 else WHOLE
    return min(max(round(weight * WHOLE / total), 1), WHOLE - 1)


def _beside(action: Document | None) -> Any:
    """What a change of weights leaves of the route action."""
    if action is None:
        return None
    without = [
        {key: value for key, value in entry.items() if key != "weight"}
        for entry in _entries(action)
    ]
    return {**action, _WEIGHTED: without}


# ---------------------------------------------------------------- what is asked of it


def weights_of(wanted: Wanted, reading: Reading, sides: Sides) -> Mapping[str, int]:
    """Backend service, as the URL map has it -> its weight."""
    if wanted.exact is not None:
        return dict(wanted.exact["weights"])
    share = nearest_share(wanted.second_weight, PARTS)
    if reading.second_weight == share:
        return weights_there(reading)  # in other numbers, perhaps: 1 and 0 are 1000 and 0
    part = share * PARTS // WHOLE
    shares = {0: PARTS - part, 1: part}
    return {
        service: shares[side]
        for service in weights_there(reading)
        if (side := side_of({"backendService": service}, sides)) is not None
    }


def weights_there(reading: Reading) -> Mapping[str, int]:
    """Backend service, as the URL map has it -> its weight."""
    return dict(reading.exact.get("weights", {}))


def patch(document: Document, where: Where, weights: Mapping[str, int]) -> dict[str, Any]:
    """The merge patch that brings the route action at `where` to these weights.

    The lists on the way to it are replaced by the API, so they are there whole, as read.
    """
    if where.path_matcher is None:
        changed: Document = {
            "defaultRouteAction": _weighted(document["defaultRouteAction"], weights)
        }
    else:
        changed = {
            "pathMatchers": [
                _matcher(matcher, where, weights)
                if matcher.get("name") == where.path_matcher
                else matcher
                for matcher in document["pathMatchers"]
            ]
        }
    return {"fingerprint": document.get("fingerprint", ""), **changed}


def _matcher(matcher: Document, where: Where, weights: Mapping[str, int]) -> Document:
    rules = (
        "routeRules"
        if where.route_priority is not None
        else "pathRules"
        if where.path is not None
        else None
    )
    if rules is None:
        return _with_action(matcher, where, weights)
    chosen = next(iter(_owners({"pathMatchers": [matcher]}, where)))
    changed = [
        _with_action(rule, where, weights) if rule is chosen else rule for rule in matcher[rules]
    ]
    return {**matcher, rules: changed}


def _with_action(owner: Document, where: Where, weights: Mapping[str, int]) -> Document:
    key = _key(where)
    return {**owner, key: _weighted(owner[key], weights)}


def _weighted(action: Document, weights: Mapping[str, int]) -> Action:
    entries = [
        {**entry, "weight": weights.get(_reference(entry), entry.get("weight", 0))}
        for entry in action[_WEIGHTED]
    ]
    return {**action, _WEIGHTED: entries}


def newest(operations: Iterable[Document], target: str) -> str:
    """The name of the newest operation on a resource that did not fail (newest first); empty:
    there is none."""
    for operation in operations:
        on_it = str(operation.get("targetLink", "")).endswith(f"/{target}")
        if on_it and "error" not in operation:
            return str(operation.get("name", ""))
    return ""


# ---------------------------------------------------------------- the router


class UrlMapRouter:
    """One route action of one URL map."""

    capabilities = Capabilities(atomic=True, weighted=True, exchange=False, conditional=True)

    def __init__(self, settings: UrlMap, context: Context) -> None:
        first, second = context.names
        self._sides = Sides(
            context.names,
            (settings.backend_services[first], settings.backend_services[second]),
            Where(settings.path_matcher, settings.route_priority, settings.path),
        )
        part = f"regions/{settings.region}" if settings.region else "global"
        scope = f"projects/{settings.project}/{part}"
        self._target = f"{part}/urlMaps/{settings.url_map}"
        self._path = f"/compute/v1/{scope}/urlMaps/{settings.url_map}"
        self._operations = f"/compute/v1/{scope}/operations"
        self._rest = api(settings, settings.endpoint, context, "Compute Engine")
        self._settling = Settling(settings.settle)

    def expressible(self, second_weight: int) -> int:
        return nearest_share(second_weight, PARTS)

    async def read(self) -> Reading:
        try:
            return (await self._read())[0]
        except NotThere as error:
            return Reading(None, "", {}, {}, problems=[f"there is no such URL map: {error}"])

    async def _read(self) -> tuple[Reading, Document]:
        document = await self._rest.document("GET", self._path)
        return understand(document, self._sides), document

    def preview(self, wanted: Wanted, reading: Reading) -> Mapping[str, Any]:
        weights = weights_of(wanted, reading, self._sides)
        return {
            "method": "PATCH",
            "path": self._path,
            "fingerprint": reading.version,
            "where": str(self._sides.where),
            _WEIGHTED: [
                {"backendService": service, "weight": weight} for service, weight in weights.items()
            ],
            "kept": "all else of the URL map, as it is then",
        }

    async def set_weights(self, wanted: Wanted, if_read: Reading) -> Change:
        async def write(now: Reading, document: Document) -> Change:
            weights = weights_of(wanted, now, self._sides)
            # Also when the map has them already: the operation that wrote them may have failed.
            becomes = patch(document, self._sides.where, weights)
            operation = await self._rest.document("PATCH", self._path, json=becomes)
            return self._change(str(operation.get("name", "")), weights)

        return await write_as_read(self._read, write, if_read, self._sides.upstreams[1])

    async def confirm(self, wanted: Wanted, reading: Reading) -> Change:
        params = {"orderBy": "creationTimestamp desc", "maxResults": str(OPERATIONS_MAX)}
        page = await self._rest.document("GET", self._operations, params=params)
        name = newest(page.get("items", ()), self._target)
        return self._change(name, weights_of(wanted, reading, self._sides))

    def _change(self, operation: str, weights: Mapping[str, int]) -> Change:
        return Change(operation, {"weights": dict(weights)})

    async def poll(self, change: Change) -> Progress:
        if change.id:
            try:
                operation = await self._rest.document("GET", f"{self._operations}/{change.id}")
            except NotThere:
                return await self._read_back(change)
            if operation.get("status") != "DONE":
                return Progress(Verdict.PENDING, f"its status is {operation.get('status')}")
            if error := operation.get("error"):
                return Progress(Verdict.FAILED, error_text(error))
            return self._settling.done(change, "its operation is done")
        return await self._read_back(change)

    async def _read_back(self, change: Change) -> Progress:
        """For a change without an operation, or with one that is forgotten."""
        now = await self.read()
        if weights_there(now) == change.document["weights"]:
            return self._settling.done(change, "the weights are as wanted")
        return Progress(Verdict.UNKNOWN, "no operation is known for it, and the weights differ")

    async def tail(self, old_upstream: int) -> Tail:
        return Tail(ttl_s=0.0)

    async def close(self) -> None:
        await self._rest.close()


def make_router(settings: UrlMap, context: Context) -> UrlMapRouter:
    """For the URL map that `settings` names."""
    return UrlMapRouter(settings, context)
