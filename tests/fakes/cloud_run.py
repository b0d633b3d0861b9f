"""A fake of the Cloud Run Admin API v2: one service with revisions, its traffic, operations.

By google/cloud/run/v2/*.proto: a patch changes what is wanted (`traffic`) and the generation at
once; `trafficStatuses` and `observedGeneration` follow when it is reconciled, or stay as they
were when that fails.
"""

import copy
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from aiohttp import web

from tests.fakes.google import FakeGoogle, Problem, body_of, not_found

REVISION: Final = "TRAFFIC_TARGET_ALLOCATION_TYPE_REVISION"
LATEST: Final = "TRAFFIC_TARGET_ALLOCATION_TYPE_LATEST"
PARENT: Final = "projects/acme-prod/locations/europe-west1"
NAME: Final = f"{PARENT}/services/shop"


def target(revision: str, percent: int = 0, tag: str = "") -> dict[str, Any]:
    """A TrafficTarget as the API writes it: without what is nothing."""
    entry: dict[str, Any] = {"type": REVISION, "revision": revision}
    return entry | ({"percent": percent} if percent else {}) | ({"tag": tag} if tag else {})


@dataclass
class Operation:
    name: str
    generation: int
    since_s: float
    fails: bool
    settled: bool = False


@dataclass
class FakeCloudRun(FakeGoogle):
    revisions: tuple[str, ...] = ("shop-00001-aaa", "shop-00002-bbb", "shop-00003-ccc")
    traffic: list[dict[str, Any]] = field(
        default_factory=lambda: [
            target("shop-00001-aaa", 100, "blue"),
            target("shop-00002-bbb", 0, "green"),
            target("shop-00003-ccc", 0, "pr-12"),
        ]
    )
    template: dict[str, Any] = field(default_factory=dict)
    generation: int = 7
    observed: int = 7
    etag: int = 1
    statuses: list[dict[str, Any]] = field(default_factory=list)
    condition: dict[str, str] = field(
        default_factory=lambda: {"type": "Ready", "state": "CONDITION_SUCCEEDED"}
    )
    operations: list[Operation] = field(default_factory=list)
    forgets: bool = False
    """Operations are not known any more."""

    def __post_init__(self) -> None:
        self.statuses = copy.deepcopy(self.traffic)

    def snapshot(self) -> Any:
        return copy.deepcopy(self.traffic)

    def in_force(self) -> Sequence[Mapping[str, Any]]:
        """The traffic that requests have once everything is settled."""
        failed = self.condition["state"] == "CONDITION_FAILED"
        return self.statuses if failed else self.traffic

    def percent_of(self, revision: str) -> int:
        return sum(
            entry.get("percent", 0) for entry in self.in_force() if entry["revision"] == revision
        )

    def change_outside(
        self, traffic: Sequence[Mapping[str, Any]] | None = None, **template: Any
    ) -> None:
        """Somebody else's change, or deployment, that is in force at once."""
        if traffic is not None:
            self.traffic = [dict(entry) for entry in traffic]
            self.statuses = copy.deepcopy(self.traffic)
        self.template |= template
        self.generation += 1
        self.observed = self.generation
        self.etag += 1
        self.condition = {"type": "Ready", "state": "CONDITION_SUCCEEDED"}

    # ------------------------------------------------------------ serving

    def serve(self, request: web.Request, body: bytes) -> Mapping[str, Any]:
        self._advance()
        match request.method, request.path:
            case "GET", path if path == f"/v2/{NAME}":
                return self._document()
            case "PATCH", path if path == f"/v2/{NAME}":
                return self._patch(request, body)
            case "GET", path if path.startswith(f"/v2/{PARENT}/operations/"):
                return self._operation(request)
        raise not_found(request)

    def _advance(self) -> None:
        """Carry out what is due."""
        for operation in self.operations:
            if operation.settled or time.monotonic() < operation.since_s + self.pending_s:
                continue
            operation.settled = True
            if operation.generation != self.generation:
                continue
            if operation.fails:
                message = "Revision 'shop-00002-bbb' is not ready and cannot serve traffic."
                self.condition = {
                    "type": "Ready", "state": "CONDITION_FAILED", "message": message,
                }  # fmt: skip
                continue
            self.condition = {"type": "Ready", "state": "CONDITION_SUCCEEDED"}
            self.statuses = copy.deepcopy(self.traffic)
            self.observed = self.generation

    def _document(self) -> Mapping[str, Any]:
        reconciling = any(not operation.settled for operation in self.operations)
        statuses = [
            {
                **entry,
                **({"uri": f"https://{entry['tag']}---shop.run.app"} if "tag" in entry else {}),
            }
            for entry in self.statuses
        ]
        return {
            "name": NAME,
            "uid": "5f7c2d7e-0000-4000-8000-000000000000",
            "generation": str(self.generation),
            "template": self.template,
            "traffic": self.traffic,
            "observedGeneration": str(self.observed),
            "terminalCondition": self.condition,
            "latestReadyRevision": f"{NAME}/revisions/{self.revisions[-1]}",
            "trafficStatuses": statuses,
            **({"reconciling": True} if reconciling else {}),
            "etag": f'"etag-{self.etag}"',
        }

    def _patch(self, request: web.Request, body: bytes) -> Mapping[str, Any]:
        document = body_of(body, frozenset({"name", "etag", "traffic"}))
        if request.query.get("updateMask") != "traffic":
            # Without a mask all fields are replaced; nobody here wants that.
            raise Problem(400, "template.containers: at least one container is required")
        if document.get("name", NAME) != NAME:
            raise Problem(400, "service.name does not match the request's path")
        if "etag" in document and document["etag"] != f'"etag-{self.etag}"':
            raise Problem(409, "Conflict for resource 'shop': etag does not match.")
        self._check(document.get("traffic") or [])
        self.traffic = document["traffic"]
        self.generation += 1
        self.etag += 1
        operation = Operation(
            f"{PARENT}/operations/op-{self.generation}",
            self.generation,
            time.monotonic(),
            self.fails_next,
        )
        self.fails_next = False
        self.operations.append(operation)
        self._advance()
        return {"name": operation.name, "metadata": {}, "done": False}

    def _check(self, traffic: Sequence[Mapping[str, Any]]) -> None:
        tags = [entry["tag"] for entry in traffic if "tag" in entry]
        if len(set(tags)) < len(tags):
            raise Problem(400, "traffic: a tag may be used once")
        for entry in traffic:
            unknown = set(entry) - {"type", "revision", "percent", "tag"}
            if unknown:
                raise Problem(400, f"Unknown name {unknown}: Cannot find field.")
            if entry.get("type") not in (REVISION, LATEST):
                raise Problem(400, "traffic.type is required")
            if (entry["type"] == REVISION) != bool(entry.get("revision")):
                raise Problem(400, "traffic.revision is for allocations by revision")
            if entry["type"] == REVISION and entry["revision"] not in self.revisions:
                raise Problem(400, f"Revision '{entry['revision']}' was not found")
            percent = entry.get("percent", 0)
            if type(percent) is not int or not 0 <= percent <= 100:
                raise Problem(400, "traffic.percent: expected a whole number, 0 to 100")
            if not percent and not entry.get("tag"):
                raise Problem(400, "traffic: an entry has a percentage or a tag")
            if not re.fullmatch(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", entry.get("tag", "x")):
                raise Problem(400, "traffic.tag: expected lower-case letters, digits and dashes")
        if sum(entry.get("percent", 0) for entry in traffic) != 100:
            raise Problem(400, "traffic: the percentages must sum up to 100")

    def _operation(self, request: web.Request) -> Mapping[str, Any]:
        for operation in self.operations:
            if request.path == f"/v2/{operation.name}" and not self.forgets:
                answer: dict[str, Any] = {"name": operation.name, "metadata": {}}
                if operation.settled and operation.fails:
                    message = "Revision 'shop-00002-bbb' is not ready and cannot serve traffic."
                    return answer | {"done": True, "error": {"code": 9, "message": message}}
                return answer | ({"done": True, "response": {}} if operation.settled else {})
        raise not_found(request)
