"""A fake of Compute Engine's URL maps, global and regional, with their operations.

By the discovery document of compute v1: a patch is a JSON merge patch (RFC 7396), needs an
up-to-date fingerprint (412), and is an operation that is done after a while. While one is not,
another is refused (`resourceNotReady`).
"""

import base64
import copy
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import unquote

from aiohttp import web

from tests.fakes.google import FakeGoogle, Problem, body_of, not_found

HOST: Final = "https://www.googleapis.com/compute/v1"
PROJECT: Final = "projects/acme-prod"


def backend(name: str, scope: str = "global") -> str:
    return f"{HOST}/{PROJECT}/{scope}/backendServices/{name}"


def weights(blue: int, green: int, scope: str = "global") -> list[dict[str, Any]]:
    return [
        {"backendService": backend("shop-blue", scope), "weight": blue},
        {
            "backendService": backend("shop-green", scope),
            "weight": green,
            "headerAction": {
                "responseHeadersToAdd": [{"headerName": "x-side", "headerValue": "g"}]
            },
        },
    ]


@dataclass
class Operation:
    name: str
    since_s: float
    fails: bool


@dataclass
class FakeUrlMap(FakeGoogle):
    older = True
    scope: str = "global"
    document: dict[str, Any] = field(
        default_factory=lambda: {
            "defaultRouteAction": {
                "weightedBackendServices": weights(100, 0),
                "timeout": {"seconds": "30"},
            },
        }
    )
    services: tuple[str, ...] = (
        "shop-blue",
        "shop-green",
        "shop-canary",
        "cart-blue",
        "cart-green",
    )
    count: int = 1
    operations: list[Operation] = field(default_factory=list)
    forgets: bool = False
    """Operations are not known any more."""

    def snapshot(self) -> Any:
        return copy.deepcopy(self.document)

    @property
    def fingerprint(self) -> str:
        return base64.b64encode(f"print-{self.count}".encode()).decode()

    def change_outside(self, **changed: Any) -> None:
        """Somebody else's change, in force at once."""
        self.document |= changed
        self.count += 1

    # ------------------------------------------------------------ serving

    @property
    def _path(self) -> str:
        return f"/compute/v1/{PROJECT}/{self.scope}"

    def serve(self, request: web.Request, body: bytes) -> Mapping[str, Any]:
        match request.method, request.path.removeprefix(self._path):
            case "GET", "/urlMaps/shop-map":
                return {
                    "kind": "compute#urlMap",
                    "name": "shop-map",
                    "selfLink": f"{HOST}/{PROJECT}/{self.scope}/urlMaps/shop-map",
                    "fingerprint": self.fingerprint,
                    **copy.deepcopy(self.document),
                }
            case "PATCH", "/urlMaps/shop-map":
                return self._patch(body)
            case "GET", "/operations":
                if request.query.get("orderBy", "name") not in ("name", "creationTimestamp desc"):
                    raise Problem(400, "Invalid value for field 'orderBy'")
                found = [] if self.forgets else [self.shown(one) for one in self.operations]
                return {"kind": "compute#operationList", "items": found[::-1]}
            case "GET", path if path.startswith("/operations/"):
                for operation in self.operations:
                    if path == f"/operations/{operation.name}" and not self.forgets:
                        return self.shown(operation)
        raise not_found(request)

    def _patch(self, body: bytes) -> Mapping[str, Any]:
        known = {"fingerprint", "defaultService", "defaultRouteAction", "pathMatchers", "hostRules"}
        document = body_of(body, frozenset(known))
        if "fingerprint" not in document:
            raise Problem(400, "Required field 'resource.fingerprint' not specified", "required")
        if document.pop("fingerprint") != self.fingerprint:
            raise Problem(412, "Invalid fingerprint.", "conditionNotMet")
        if not all(self._is_done(operation) for operation in self.operations):
            text = f"The resource '{PROJECT}/{self.scope}/urlMaps/shop-map' is not ready"
            raise Problem(400, text, "resourceNotReady")
        merged = merge(copy.deepcopy(self.document), document)
        for owner, key in route_actions(merged):
            self._check(owner, key)
        operation = Operation(
            f"operation-{len(self.operations) + 1}",
            time.monotonic(),
            self.fails_next,
        )
        self.fails_next = False
        self.operations.append(operation)
        if not operation.fails:
            self.document = merged
            self.count += 1
        return self.shown(operation)

    def _check(self, owner: Mapping[str, Any], key: str) -> None:
        entries = owner[key].get("weightedBackendServices")
        if entries is None:
            return
        service = "defaultService" if key == "defaultRouteAction" else "service"
        if service in owner:
            raise Problem(400, f"Only one of {service} and weightedBackendServices may be set")
        for entry in entries:
            name = unquote(str(entry.get("backendService", ""))).rsplit("/", 1)[-1]
            if name not in self.services:
                text = f"The resource 'backendServices/{name}' was not found"
                raise Problem(404, text, "notFound")
            weight = entry.get("weight", 0)
            if type(weight) is not int or not 0 <= weight <= 1000:
                raise Problem(400, f"Invalid value for field 'weight': '{weight}'. 0 to 1000")
        if not any(entry.get("weight", 0) for entry in entries):
            raise Problem(400, "At least one weightedBackendService must have a weight above 0")

    def _is_done(self, operation: Operation) -> bool:
        return time.monotonic() >= operation.since_s + self.pending_s

    def shown(self, operation: Operation) -> Mapping[str, Any]:
        done = self._is_done(operation)
        shown: dict[str, Any] = {
            "kind": "compute#operation",
            "name": operation.name,
            "operationType": "patch",
            "targetLink": f"{HOST}/{PROJECT}/{self.scope}/urlMaps/shop-map",
            "status": "DONE" if done else "RUNNING",
            "progress": 100 if done else 0,
        }
        if done and operation.fails:
            error = {"code": "INTERNAL_ERROR", "message": "It could not be carried out."}
            shown |= {"error": {"errors": [error]}, "httpErrorStatusCode": 503}
        return shown


def merge(target: Any, patch: Any) -> Any:
    """RFC 7396: objects are merged, all else is replaced, null takes away."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merge(result.get(key), value)
    return result


def route_actions(document: Mapping[str, Any]) -> Iterator[tuple[Mapping[str, Any], str]]:
    """Every route action of a URL map, with what has it."""
    owners = [(document, "defaultRouteAction")]
    for matcher in document.get("pathMatchers", ()):
        owners.append((matcher, "defaultRouteAction"))
        for rule in (*matcher.get("routeRules", ()), *matcher.get("pathRules", ())):
            owners.append((rule, "routeAction"))
    yield from ((owner, key) for owner, key in owners if key in owner)
