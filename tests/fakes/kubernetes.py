"""A Kubernetes API server: Services, Pods, EndpointSlices, HTTPRoutes; list, watch, get, patch.

Written by the API's documentation and the types of discovery.k8s.io/v1 and gateway.networking.k8s.io/v1; never
compared with a real cluster. What a client relies on is as strict as there: bearer tokens,
`resourceVersion`, 409 of a stale one, 410 of a watch or a page that is too old, bookmarks,
content types of patches, a `Status` object for every refusal, schema checks of what is written.
Pods and slices are kept by `controller`, which does what the EndpointSlice controller does.
"""

import asyncio
import copy
import json
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import unquote

from aiohttp import web

from tests.fakes.base import FakeService, Fault

NAMESPACE: Final = "shop"
TOKEN: Final = "a-service-accounts-token"
KINDS: Final[Mapping[tuple[str, str], str]] = {
    ("v1", "services"): "Service",
    ("v1", "pods"): "Pod",
    ("discovery.k8s.io/v1", "endpointslices"): "EndpointSlice",
    ("gateway.networking.k8s.io/v1", "httproutes"): "HTTPRoute",
}
JSON_PATCH: Final = "application/json-patch+json"
MERGE_PATCH: Final = "application/merge-patch+json"
STRATEGIC: Final = "application/strategic-merge-patch+json"
OF_RESOURCE: Final[Mapping[str, frozenset[str]]] = {
    "services": frozenset({JSON_PATCH, MERGE_PATCH, STRATEGIC}),
    "pods": frozenset({JSON_PATCH, MERGE_PATCH, STRATEGIC}),
    "endpointslices": frozenset({JSON_PATCH, MERGE_PATCH, STRATEGIC}),
    # A custom resource: there is no strategic merge of it.
    "httproutes": frozenset({JSON_PATCH, MERGE_PATCH}),
}
ROUTE_WEIGHT_MAX: Final = 1_000_000

Object = dict[str, Any]


class ApiError(Exception):
    """A refusal, as the server words it."""

    def __init__(self, code: int, reason: str, message: str) -> None:
        self.code = code
        self.reason = reason
        super().__init__(message)

    def status(self) -> Object:
        return {
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": str(self), "reason": self.reason, "code": self.code,
        }  # fmt: skip


@dataclass(slots=True)
class _Watch:
    resource: str
    selector: dict[str, str]
    events: asyncio.Queue[tuple[str, Object] | None]


@dataclass
class FakeKubernetes(FakeService):
    token: str = TOKEN
    objects: dict[tuple[str, str], Object] = field(default_factory=dict)
    """(Resource, name) -> object."""
    version: int = 1000
    oldest: int = 0
    """Watches and pages from before it are too old: 410."""
    page_max: int = 1000
    """However many a list asks for; the rest is on further pages."""
    accept_routes: bool = True
    """A gateway's controller says of each route that it acts on it, `pending_s` later."""
    granted: set[tuple[str, str]] = field(default_factory=set)
    """(Verb, resource) of every call that was made: what a Role has to allow."""
    refuses_watch: bool = False
    _history: list[tuple[int, str, str, Object]] = field(default_factory=list)
    """(Version, resource, type of event, object)."""
    _watches: list[_Watch] = field(default_factory=list)
    _uids: int = 0
    _later: set[asyncio.Task[None]] = field(default_factory=set)

    async def __aexit__(self, *about: object) -> None:
        for task in self._later:
            task.cancel()
        self.cut_watches()
        await super().__aexit__(*about)

    # ------------------------------------------------------------ what a test does to it

    def put(self, resource: str, name: str, **parts: Any) -> Object:
        """Make an object, or replace its parts, as somebody else with every right."""
        key = (resource, name)
        known = self.objects.get(key)
        found = copy.deepcopy(known) if known else self._new(resource, name)
        labels = parts.pop("labels", None)
        if labels is not None:
            found["metadata"]["labels"] = dict(labels)
        for part, value in parts.items():
            found[part] = value
        self._write(resource, found, "MODIFIED" if known else "ADDED")
        return found

    def delete(self, resource: str, name: str) -> None:
        found = self.objects.pop((resource, name))
        self._write(resource, found, "DELETED")

    def bookmark(self) -> None:
        """Tell every watch how far it is, as the server does now and then."""
        self.version += 1
        for watch in self._watches:
            kind = next(kind for (_, name), kind in KINDS.items() if name == watch.resource)
            slim = {"kind": kind, "metadata": {"resourceVersion": str(self.version)}}
            watch.events.put_nowait(("BOOKMARK", slim))

    def forget_history(self) -> None:
        """Compact: watches that go on from before now get 410."""
        self.version += 1
        self.oldest = self.version
        self._history.clear()

    def expire_watches(self) -> None:
        """Running watches end with an ERROR event of 410."""
        error = ApiError(410, "Expired", "too old resource version: 1 (2)").status()
        for watch in self._watches:
            watch.events.put_nowait(("ERROR", error))
            watch.events.put_nowait(None)

    def cut_watches(self) -> None:
        """Running watches end."""
        for watch in self._watches:
            watch.events.put_nowait(None)

    @property
    def watching(self) -> int:
        return len(self._watches)

    def pod(
        self, name: str, labels: Mapping[str, str], *, ready: bool = True, ip: str = ""
    ) -> None:
        """A pod as its kubelet reports it; `controller` makes it an endpoint."""
        conditions = [{"type": "Ready", "status": "True" if ready else "False"}]
        self.put(
            "pods",
            name,
            labels=labels,
            status={"podIP": ip or "10.0.0.9", "conditions": conditions},
        )

    def controller(self, service: str) -> None:
        """Write the EndpointSlice of a Service anew, from its selector and the pods."""
        spec = self.objects["services", service]["spec"]
        selector = spec["selector"]
        endpoints = [
            _endpoint(pod)
            for pod in self._having("pods", selector)
            if (pod.get("status") or {}).get("podIP")
        ]
        self.put(
            "endpointslices",
            f"{service}-x1",
            labels={"kubernetes.io/service-name": service},
            addressType="IPv4",
            ports=[
                {"name": port.get("name", ""), "port": port["targetPort"], "protocol": "TCP"}
                for port in spec["ports"]
            ],
            endpoints=endpoints,
        )

    # ------------------------------------------------------------ what a fake says itself

    def writes(self, request: web.Request, body: bytes) -> bool:
        return request.method not in ("GET", "HEAD")

    def snapshot(self) -> Any:
        # Not what controllers write: a change is what its caller asked for.
        return copy.deepcopy({key: value.get("spec") for key, value in self.objects.items()})

    def refusal(self, fault: Fault, request: web.Request) -> web.Response:
        error = {
            Fault.THROTTLED: ApiError(
                429, "TooManyRequests", "too many requests, please try again later"
            ),
            Fault.DENIED: ApiError(401, "Unauthorized", "Unauthorized"),
            Fault.UNAVAILABLE: ApiError(503, "ServiceUnavailable", "apiserver is shutting down"),
        }[fault]
        headers = {"Retry-After": "1"} if fault is Fault.THROTTLED else {}
        return _refused(error, headers)

    async def handle(self, request: web.Request, body: bytes) -> web.StreamResponse:
        try:
            if self.token and request.headers.get("Authorization") != f"Bearer {self.token}":
                raise ApiError(401, "Unauthorized", "Unauthorized")
            resource, name = _place(request.path)
            verb = _verb(request, name)
            self.granted.add((verb, resource))
            if verb == "watch":
                return await self._watch(request, resource)
            if verb == "list":
                return web.json_response(self._list(request, resource))
            if verb == "get":
                return web.json_response(self._found(resource, name))
            if verb == "patch":
                return web.json_response(self._patch(request, resource, name, body))
            raise ApiError(405, "MethodNotAllowed", f"{request.method} is not served here")
        except ApiError as error:
            return _refused(error)

    # ------------------------------------------------------------ reading

    def _found(self, resource: str, name: str) -> Object:
        found = self.objects.get((resource, name))
        if found is None:
            raise ApiError(404, "NotFound", f'{resource} "{name}" not found')
        return found

    def _having(self, resource: str, selector: Mapping[str, str]) -> Iterator[Object]:
        for (of, _), found in sorted(self.objects.items()):
            if of == resource and _matches(found, selector):
                yield found

    def _list(self, request: web.Request, resource: str) -> Object:
        found = list(self._having(resource, _selector(request)))
        limit = min(int(request.query.get("limit", "0")) or self.page_max, self.page_max)
        begin, version = 0, self.version
        if token := request.query.get("continue"):
            version, begin = json.loads(token)
            if version < self.oldest:
                raise ApiError(410, "Expired", "The provided continue parameter is too old")
        metadata: Object = {"resourceVersion": str(version)}
        if begin + limit < len(found):
            metadata["continue"] = json.dumps([version, begin + limit])
        (group, kind) = next((g, kind) for (g, name), kind in KINDS.items() if name == resource)
        items = [
            {key: value for key, value in one.items() if key not in ("kind", "apiVersion")}
            for one in found[begin : begin + limit]
        ]
        return {"kind": f"{kind}List", "apiVersion": group, "metadata": metadata, "items": items}

    async def _watch(self, request: web.Request, resource: str) -> web.StreamResponse:
        if self.refuses_watch:
            raise ApiError(403, "Forbidden", f"{resource} is forbidden: cannot watch")
        since = int(request.query.get("resourceVersion") or 0)
        if since < self.oldest:
            raise ApiError(410, "Expired", f"too old resource version: {since} ({self.oldest})")
        watch = _Watch(resource, _selector(request), asyncio.Queue())
        for version, of, kind, found in self._history:
            if version > since and of == resource:
                self._send(watch, kind, found)
        self._watches.append(watch)
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        deadline_s = time.monotonic() + float(request.query.get("timeoutSeconds", "1800"))
        try:
            await response.prepare(request)
            while (left_s := deadline_s - time.monotonic()) > 0:
                try:
                    event = await asyncio.wait_for(watch.events.get(), left_s)
                except TimeoutError:
                    break
                if event is None:
                    break
                kind, found = event
                if kind == "BOOKMARK" and request.query.get("allowWatchBookmarks") != "true":
                    continue
                line = json.dumps({"type": kind, "object": found}) + "\n"
                await response.write(line.encode())
            await response.write_eof()
        except ConnectionError:
            pass
        finally:
            self._watches.remove(watch)
        return response

    def _send(self, watch: _Watch, kind: str, found: Object) -> None:
        if watch.resource and _matches(found, watch.selector):
            watch.events.put_nowait((kind, copy.deepcopy(found)))

    # ------------------------------------------------------------ writing

    def _new(self, resource: str, name: str) -> Object:
        self._uids += 1
        (group, kind) = next((g, kind) for (g, of), kind in KINDS.items() if of == resource)
        metadata = {"name": name, "namespace": NAMESPACE, "uid": f"uid-{self._uids}"}
        return {"kind": kind, "apiVersion": group, "metadata": metadata}

    def _write(self, resource: str, found: Object, kind: str) -> None:
        self.version += 1
        metadata = found["metadata"]
        before = self.objects.get((resource, metadata["name"]))
        metadata["resourceVersion"] = str(self.version)
        if resource == "httproutes" and (before is None or before["spec"] != found["spec"]):
            metadata["generation"] = metadata.get("generation", 0) + 1
        if kind != "DELETED":
            self.objects[resource, metadata["name"]] = found
        kept = copy.deepcopy(found)
        self._history.append((self.version, resource, kind, kept))
        for watch in self._watches:
            if watch.resource == resource:
                self._send(watch, kind, kept)

    def _patch(self, request: web.Request, resource: str, name: str, body: bytes) -> Object:
        kind = request.content_type
        if kind not in OF_RESOURCE[resource]:
            raise ApiError(
                415,
                "UnsupportedMediaType",
                f"the body of the request was in an unknown format - accepted media types include:"
                f" {', '.join(sorted(OF_RESOURCE[resource]))}",
            )
        try:
            wanted = json.loads(body)
        except ValueError as error:
            raise ApiError(400, "BadRequest", f"error decoding patch: {error}") from error
        before = self._found(resource, name)
        if kind == JSON_PATCH:
            after = _json_patched(before, wanted)
        else:
            if not isinstance(wanted, dict):
                raise ApiError(400, "BadRequest", "error decoding patch: expected an object")
            after = _merged(before, wanted)
        given, there = after["metadata"], before["metadata"]
        if given.get("resourceVersion") not in (None, "", there["resourceVersion"]):
            raise ApiError(
                409,
                "Conflict",
                f'Operation cannot be fulfilled on {resource} "{name}": the object has been modified;'
                " please apply your changes to the latest version and try again",
            )
        if given.get("uid") != there["uid"] or given.get("name") != there["name"]:
            raise ApiError(422, "Invalid", f'{resource} "{name}" is invalid: metadata: immutable')
        _validate(resource, name, after)
        if after["spec"] == before["spec"]:
            return before
        self._write(resource, after, "MODIFIED")
        self._begin(resource, name)
        return self._found(resource, name)

    def _begin(self, resource: str, name: str) -> None:
        """Controllers act on a change, later."""
        fails, self.fails_next = self.fails_next, False

        async def act() -> None:
            if self.pending_s:
                await asyncio.sleep(self.pending_s)
            if resource == "services":
                self.controller(name)
            else:
                self.gateway(name, fails=fails)

        if self.pending_s == float("inf"):
            return
        if not self.pending_s:
            # At once, and yet in a write of its own.
            if resource == "services":
                self.controller(name)
            else:
                self.gateway(name, fails=fails)
            return
        task = asyncio.get_running_loop().create_task(act())
        self._later.add(task)
        task.add_done_callback(self._later.discard)

    def gateway(self, name: str, *, fails: bool = False) -> None:
        """A gateway's controller writes the status of a route."""
        if not self.accept_routes:
            return
        route = copy.deepcopy(self.objects["httproutes", name])
        generation = route["metadata"]["generation"]
        resolved = ("False", "BackendNotFound") if fails else ("True", "ResolvedRefs")
        route["status"] = {
            "parents": [
                {
                    "parentRef": {
                        "group": "gateway.networking.k8s.io", "kind": "Gateway",
                        "namespace": NAMESPACE, **parent,
                    },
                    "controllerName": "example.net/gateway-controller",
                    "conditions": [
                        {
                            "type": kind, "status": status, "reason": reason, "message": "",
                            "observedGeneration": generation,
                            "lastTransitionTime": "2026-11-26T08:00:00Z",
                        }
                        for kind, (status, reason) in (
                            ("Accepted", ("True", "Accepted")), ("ResolvedRefs", resolved)
                        )
                    ],
                }
                for parent in route["spec"].get("parentRefs", ())
            ]
        }  # fmt: skip
        self._write("httproutes", route, "MODIFIED")


# ---------------------------------------------------------------- calls


def _place(path: str) -> tuple[str, str]:
    """The resource and the name that a path leads to."""
    parts = unquote(path).strip("/").split("/")
    group, rest = ("v1", parts[2:]) if parts[:2] == ["api", "v1"] else ("", [])
    if parts[:1] == ["apis"]:
        group, rest = "/".join(parts[1:3]), parts[3:]
    if len(rest) < 3 or rest[0] != "namespaces" or (group, rest[2]) not in KINDS:
        raise ApiError(404, "NotFound", "the server could not find the requested resource")
    if rest[1] != NAMESPACE:
        raise ApiError(403, "Forbidden", f'{rest[2]} is forbidden in the namespace "{rest[1]}"')
    return rest[2], rest[3] if len(rest) > 3 else ""


def _verb(request: web.Request, name: str) -> str:
    if request.method == "GET":
        if name:
            return "get"
        return "watch" if request.query.get("watch") in ("true", "1") else "list"
    return request.method.lower()


def _refused(error: ApiError, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.json_response(error.status(), status=error.code, headers=headers)


def _selector(request: web.Request) -> dict[str, str]:
    text = request.query.get("labelSelector", "")
    if not text:
        return {}
    pairs = [part.partition("=") for part in text.split(",")]
    if any(not key or not equals for key, equals, _ in pairs):
        raise ApiError(400, "BadRequest", f"unable to parse requirement: {text}")
    return {key: value for key, _, value in pairs}


def _matches(found: Object, selector: Mapping[str, str]) -> bool:
    labels = found["metadata"].get("labels", {})
    return all(labels.get(key) == value for key, value in selector.items())


def _endpoint(pod: Object) -> Object:
    ready = any(
        one["type"] == "Ready" and one["status"] == "True" for one in pod["status"]["conditions"]
    )
    terminating = "deletionTimestamp" in pod["metadata"]
    return {
        "addresses": [pod["status"]["podIP"]],
        "conditions": {
            "ready": ready and not terminating, "serving": ready, "terminating": terminating,
        },
        "targetRef": {
            "kind": "Pod", "name": pod["metadata"]["name"], "namespace": NAMESPACE,
            "uid": pod["metadata"]["uid"],
        },
    }  # fmt: skip


# ---------------------------------------------------------------- patches


def _merged(before: Any, patch: Any) -> Any:
    """RFC 7386."""
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    after = copy.deepcopy(before) if isinstance(before, dict) else {}
    for key, value in patch.items():
        if value is None:
            after.pop(key, None)
        else:
            after[key] = _merged(after.get(key), value)
    return after


def _json_patched(before: Object, operations: Any) -> Object:
    """RFC 6902, of what is asked for here: test, add and replace."""
    after: Any = copy.deepcopy(before)
    if not isinstance(operations, list):
        raise ApiError(400, "BadRequest", "error decoding patch: expected a list of operations")
    for operation in operations:
        parts = [
            part.replace("~1", "/").replace("~0", "~")
            for part in str(operation["path"]).split("/")[1:]
        ]
        try:
            there = after
            for part in parts[:-1]:
                there = there[int(part)] if isinstance(there, list) else there[part]
            last: Any = int(parts[-1]) if isinstance(there, list) else parts[-1]
            match operation["op"]:
                case "test":
                    if there[last] != operation["value"]:
                        raise ApiError(
                            422, "Invalid", f"testing value {operation['path']} failed: test failed"
                        )
                case "replace":
                    _ = there[last]
                    there[last] = operation["value"]
                case "add" if isinstance(there, dict):
                    there[last] = operation["value"]
                case other:
                    raise ApiError(400, "BadRequest", f"unexpected operation {other}")
        except (KeyError, IndexError, ValueError, TypeError) as error:
            raise ApiError(
                422, "Invalid", f"{operation.get('op')} operation does not apply: {error!r}"
            ) from error
    return dict(after)


def _validate(resource: str, name: str, found: Object) -> None:
    for problem in _problems(resource, found.get("spec") or {}):
        raise ApiError(422, "Invalid", f'{resource} "{name}" is invalid: {problem}')


def _problems(resource: str, spec: Object) -> Iterable[str]:
    if resource == "services":
        selector = spec.get("selector")
        if not isinstance(selector, dict):
            yield "spec.selector: Invalid value: must be a map"
            return
        for key, value in selector.items():
            if not isinstance(value, str) or not key:
                yield f"spec.selector.{key}: Invalid value: {value!r}: must be a string"
        if not spec.get("ports"):
            yield "spec.ports: Required value"
    if resource == "httproutes":
        rules = spec.get("rules") or []
        if len(rules) > 16:
            yield f"spec.rules: Too many: {len(rules)}: must have at most 16 items"
        for index, rule in enumerate(rules):
            for at, ref in enumerate(rule.get("backendRefs") or []):
                weight = ref.get("weight", 1)
                where = f"spec.rules[{index}].backendRefs[{at}].weight"
                if not isinstance(weight, int) or isinstance(weight, bool):
                    yield f"{where}: Invalid value: {weight!r}: must be of type integer"
                elif not 0 <= weight <= ROUTE_WEIGHT_MAX:
                    yield f"{where}: Invalid value: {weight}: should be 0 to {ROUTE_WEIGHT_MAX}"
