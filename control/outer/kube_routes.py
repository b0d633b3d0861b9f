"""Pure: a Gateway API HTTPRoute -> the weights of two of its backends, the patch that changes
them, and whether its gateways act on them.

Source: gateway.networking.k8s.io/v1 types. A weight that is left out is 1, from 0 to 1,000,000;
a share is weight/(sum of the rule's weights), and a rule whose weights are all 0 answers 500.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from turnout.config.weights import WHOLE
from turnout.control.outer.kube_versions import digest
from turnout.control.outer.seams import Progress, Reading, Refused, Verdict, Wanted, differences

GATEWAY_GROUP: Final = "gateway.networking.k8s.io"
_CONDITIONS: Final = ("Accepted", "ResolvedRefs")


@dataclass(frozen=True, slots=True)
class Pair:
    """The two backends of one rule."""

    rule: int
    places: tuple[int, int]
    """Of the first and the second upstream in the rule's backendRefs."""
    weights: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Meant:
    """What the settings say of a route."""

    route: str
    namespace: str
    names: tuple[str, str]
    backends: tuple[str, str]
    """Their Services."""
    rule: str = ""


def reading(route: Mapping[str, Any], meant: Meant) -> Reading:
    """What a route says."""
    rules = _rules(route)
    problems: list[str] = []
    pairs = list(_pairs(rules, meant, problems))
    if not pairs and not problems:
        both = " and ".join(meant.backends)
        problems.append(f"no rule of HTTPRoute {meant.route} names both {both}")
    shares = {pair.rule: share(pair.weights) for pair in pairs}
    for rule, found in shares.items():
        if found is None:
            problems.append(f"rule {rule} has weights 0 and 0: it answers 500")
    if len(set(shares.values())) > 1:
        text = ", ".join(f"rule {pair.rule} {pair.weights[0]}:{pair.weights[1]}" for pair in pairs)
        problems.append(f"its rules disagree: {text}. Make them equal, or set rule to one of them")
    weight = next(iter(shares.values()), None) if not problems else None
    exact = {
        "rules": {
            str(pair.rule): dict(zip(meant.names, pair.weights, strict=True)) for pair in pairs
        }
    }
    spec = route.get("spec") or {}
    settings = {
        "uid": (route.get("metadata") or {}).get("uid"),
        "hostnames": spec.get("hostnames"),
        "parentRefs": spec.get("parentRefs"),
        "rules": _without_weights(rules, pairs),
    }
    warnings = list(_warnings(route, rules, pairs, meant))
    return Reading(weight, digest(exact, settings), exact, settings, tuple(problems), warnings)


def missing(meant: Meant) -> Reading:
    """Of a route that is not there."""
    problem = f"there is no HTTPRoute {meant.route} in the namespace {meant.namespace}"
    return Reading(None, "", {}, {}, (problem,))


def share(weights: tuple[int, int]) -> int | None:
    """The second's share; what is neither nothing nor everything stays so. None: 0 and 0."""
    first, second = weights
    if first + second == 0:
        return None
    if not first or not second:
        return WHOLE if second else 0
    return min(max(round(WHOLE * second / (first + second)), 1), WHOLE - 1)


def weights_of(second_weight: int) -> tuple[int, int]:
    """As people write them where they can: 90 and 10; else of 10,000."""
    parts = 100 if second_weight % 100 == 0 else 1
    return (WHOLE - second_weight) // parts, second_weight // parts


def wanted_weights(
    wanted: Wanted, reading: Reading, names: tuple[str, str]
) -> dict[str, dict[str, int]]:
    """Rule -> upstream -> weight. Raises Refused for 0 and 0."""
    if wanted.exact is not None:
        rules = {rule: dict(weights) for rule, weights in wanted.exact["rules"].items()}
    else:
        both = dict(zip(names, weights_of(wanted.second_weight), strict=True))
        rules = {rule: dict(both) for rule in reading.exact.get("rules", {})}
    if not rules or any(not sum(weights.values()) for weights in rules.values()):
        raise Refused("weights 0 and 0, or no rule: the route would answer 500")
    return rules


def patch(
    route: Mapping[str, Any], meant: Meant, wanted: Mapping[str, Mapping[str, int]]
) -> list[dict[str, Any]]:
    """A JSON patch (RFC 6902) of the weights alone; the server carries it out whole, and only on
    the version that `route` is. Raises Refused when a rule has not both backends."""
    metadata = route["metadata"]
    pairs = {str(pair.rule): pair for pair in _pairs(_rules(route), meant, [])}
    if not wanted.keys() <= pairs.keys():
        raise Refused(f"HTTPRoute {meant.route} has no rules {', '.join(wanted)} with both")
    operations = [
        {"op": "test", "path": "/metadata/uid", "value": metadata["uid"]},
        {"op": "test", "path": "/metadata/resourceVersion", "value": metadata["resourceVersion"]},
    ]
    for rule, weights in wanted.items():
        for name, place in zip(meant.names, pairs[rule].places, strict=True):
            path = f"/spec/rules/{rule}/backendRefs/{place}/weight"
            # add: replace would fail where it is left out.
            operations.append({"op": "add", "path": path, "value": weights[name]})
    return operations


# ---------------------------------------------------------------- whether it is acted on


def progress(
    route: Mapping[str, Any], meant: Meant, wanted: Mapping[str, Mapping[str, int]]
) -> Progress:
    """How far a route with these weights is; IN_SYNC when every parent says so of what it is."""
    found = reading(route, meant).exact.get("rules", {})
    if found != wanted:
        text = "; ".join(differences(wanted, found, "rules"))
        return Progress(Verdict.FAILED, f"somebody else has changed the weights: {text}")
    generation = int(route["metadata"].get("generation", 0))
    waiting, refused = [], []
    for parent in (route.get("spec") or {}).get("parentRefs") or ():
        statuses = [one for one in _statuses(route) if _same_parent(one.get("parentRef"), parent)]
        if not statuses:
            waiting.append(f"no controller has said anything of {_parent(parent)}")
        for status in statuses:
            for condition in _CONDITIONS:
                says, text = _says(status, condition, generation)
                where = f"{_parent(parent)}: {condition} {text}"
                if says is None:
                    waiting.append(where)
                elif not says:
                    refused.append(where)
    if refused:
        return Progress(Verdict.FAILED, "; ".join(refused))
    if waiting:
        return Progress(Verdict.PENDING, "; ".join(waiting))
    return Progress(Verdict.IN_SYNC, f"accepted by every parent at generation {generation}")


def _says(status: Mapping[str, Any], condition: str, generation: int) -> tuple[bool | None, str]:
    """None: it does not say of this generation yet."""
    for one in status.get("conditions") or ():
        if one.get("type") != condition:
            continue
        observed = int(one.get("observedGeneration") or 0)
        if observed < generation:
            return None, f"is of generation {observed}, not {generation}"
        if one.get("status") == "Unknown":
            return None, "is Unknown"
        text = f"is {one.get('status')}: {one.get('reason', '')} {one.get('message', '')}".rstrip()
        return one.get("status") == "True", text
    return None, "is not said yet"


def _statuses(route: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    return (route.get("status") or {}).get("parents") or ()


def _same_parent(first: Mapping[str, Any] | None, second: Mapping[str, Any]) -> bool:
    """Whether two references are the same; what is left out has a meaning."""
    first = first or {}
    defaults = {"group": GATEWAY_GROUP, "kind": "Gateway"}
    keys = ("group", "kind", "name", "sectionName", "port")
    alike = all(
        (first.get(key, defaults.get(key)) == second.get(key, defaults.get(key))) for key in keys
    )
    # A controller writes the namespace that the route leaves out, or leaves it out too.
    spaces = {space for one in (first, second) if (space := one.get("namespace"))}
    return alike and len(spaces) < 2


def _parent(parent: Mapping[str, Any]) -> str:
    return "/".join(
        str(parent[key]) for key in ("kind", "namespace", "name", "sectionName") if parent.get(key)
    )


# ---------------------------------------------------------------- rules


def _rules(route: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    return (route.get("spec") or {}).get("rules") or ()


def _pairs(rules: Sequence[Mapping[str, Any]], meant: Meant, problems: list[str]) -> Iterator[Pair]:
    """The rules that are meant, those that are as they should be."""
    for index, rule in enumerate(rules):
        if meant.rule and meant.rule not in (rule.get("name"), str(index)):
            continue
        refs: Sequence[Mapping[str, Any]] = rule.get("backendRefs") or ()
        places = [
            [at for at, ref in enumerate(refs) if _is_service(ref, backend, meant.namespace)]
            for backend in meant.backends
        ]
        if not all(places):
            if meant.rule:
                problems.append(
                    f"rule {meant.rule} does not name both {' and '.join(meant.backends)}"
                )
            continue
        if any(len(there) > 1 for there in places):
            problems.append(f"rule {index} names a backend twice. Set rule to another one")
            continue
        both = (places[0][0], places[1][0])
        others = [
            f"{ref.get('name')} ({_weight(ref)})"
            for at, ref in enumerate(refs)
            if at not in both and _weight(ref)
        ]
        if others:
            problems.append(f"rule {index} has a third backend with weight: {', '.join(others)}")
            continue
        yield Pair(index, both, (_weight(refs[both[0]]), _weight(refs[both[1]])))


def _is_service(ref: Mapping[str, Any], name: str, namespace: str) -> bool:
    return (
        ref.get("name") == name
        and (ref.get("kind") or "Service") == "Service"
        and not ref.get("group")
        and (ref.get("namespace") or namespace) == namespace
    )


def _weight(ref: Mapping[str, Any]) -> int:
    weight = ref.get("weight")
    return 1 if weight is None else int(weight)


def _without_weights(
    rules: Sequence[Mapping[str, Any]], pairs: Sequence[Pair]
) -> list[dict[str, Any]]:
    """The rules as they are, but for the weights that are ours to move."""
    ours = {(pair.rule, place) for pair in pairs for place in pair.places}
    return [
        {
            **rule,
            "backendRefs": [
                {key: value for key, value in ref.items() if key != "weight"}
                if (index, at) in ours
                else dict(ref)
                for at, ref in enumerate(rule.get("backendRefs") or ())
            ],
        }
        for index, rule in enumerate(rules)
    ]


def _warnings(
    route: Mapping[str, Any],
    rules: Sequence[Mapping[str, Any]],
    pairs: Sequence[Pair],
    meant: Meant,
) -> Iterator[str]:
    moved = {pair.rule for pair in pairs}
    for index, rule in enumerate(rules):
        for ref in rule.get("backendRefs") or ():
            if index in moved or not _weight(ref):
                continue
            for backend in meant.backends:
                if _is_service(ref, backend, meant.namespace):
                    yield f"rule {index} sends to {backend} too, and is not moved"
    if not (route.get("spec") or {}).get("parentRefs"):
        yield "it has no parentRefs: no gateway serves it, and it is in sync at once"
