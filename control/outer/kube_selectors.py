"""Pure: a Kubernetes Service -> which of two Deployments its selector names, and how it is told
to name the other."""

from collections.abc import Mapping
from typing import Any

from turnout.config.weights import WHOLE
from turnout.control.outer.kube_versions import digest
from turnout.control.outer.seams import NotExpressible, Reading, Wanted

Selector = Mapping[str, str]


def reading(
    service: Mapping[str, Any], name: str, names: tuple[str, str], sides: tuple[Selector, Selector]
) -> Reading:
    """What a Service says; `sides` are the labels of the first and the second upstream."""
    spec = service.get("spec") or {}
    selector: Mapping[str, str] = spec.get("selector") or {}
    keys = list(sides[0])
    here = {key: selector.get(key) for key in keys}
    weight = 0 if here == dict(sides[0]) else WHOLE if here == dict(sides[1]) else None
    problems = []
    if spec.get("type") == "ExternalName":
        problems.append(f"Service {name} is of type ExternalName: it has no pods")
    if weight is None:
        expected = " or ".join(
            f"{text(side)} ({upstream})" for upstream, side in zip(names, sides, strict=True)
        )
        problems.append(
            f"the selector of Service {name} is {text(selector) or 'empty'}; expected {expected}"
        )
    exact = {"selector": here}
    settings = {
        "uid": (service.get("metadata") or {}).get("uid"),
        "type": spec.get("type"),
        "ports": spec.get("ports"),
        "other labels": {key: value for key, value in sorted(selector.items()) if key not in keys},
    }
    return Reading(weight, digest(exact, settings), exact, settings, tuple(problems))


def missing(name: str, namespace: str) -> Reading:
    """Of a Service that is not there."""
    problem = f"there is no Service {name} in the namespace {namespace}"
    return Reading(None, "", {}, {}, (problem,))


def wanted_labels(wanted: Wanted, sides: tuple[Selector, Selector]) -> dict[str, str | None]:
    """What the selector's keys should be; None: absent. Raises NotExpressible."""
    if wanted.exact is not None:
        return dict(wanted.exact["selector"])
    if wanted.second_weight not in (0, WHOLE):
        raise NotExpressible("a Service's selector switches whole: 0 or 100 %, nothing in between")
    return dict(sides[1] if wanted.second_weight else sides[0])


def patch(labels: Mapping[str, str | None], resource_version: str) -> dict[str, Any]:
    """A merge patch (RFC 7386): null takes a key away, what is not named stays. The server
    refuses it (409) when the Service has another version."""
    return {
        "metadata": {"resourceVersion": resource_version},
        "spec": {"selector": dict(labels)},
    }


def text(labels: Mapping[str, str | None]) -> str:
    """As `kubectl -l` takes it."""
    return ",".join(f"{key}={value}" for key, value in sorted(labels.items()) if value is not None)
