"""A fake of the Cloud DNS API v1: one managed zone, its record sets and its changes.

By the discovery document of dns v1: a change is atomic, its deletions must be exactly what is
there (412), and it is "pending" for a while. Lists come in pages of one.
"""

import copy
import ipaddress
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from aiohttp import web

from tests.fakes.google import FakeGoogle, Problem, body_of, not_found

ZONE: Final = "/dns/v1/projects/acme-prod/managedZones/shop-zone"
NAME: Final = "shop.example."
PAGE: Final = 1

Key = tuple[str, str]


def plain(record_type: str, *rrdatas: str, name: str = NAME, ttl: int = 60) -> dict[str, Any]:
    return {"name": name, "type": record_type, "ttl": ttl, "rrdatas": list(rrdatas)}


def weighted(record_type: str, *items: tuple[float, str], name: str = NAME) -> dict[str, Any]:
    return {
        "name": name,
        "type": record_type,
        "ttl": 60,
        "routingPolicy": {
            "wrr": {"items": [{"weight": weight, "rrdatas": [value]} for weight, value in items]}
        },
    }


@dataclass
class Change:
    id: str
    additions: Sequence[Mapping[str, Any]]
    deletions: Sequence[Mapping[str, Any]]
    since_s: float

    def document(self, pending_s: float) -> dict[str, Any]:
        return {
            "kind": "dns#change",
            "id": self.id,
            "additions": self.additions,
            "deletions": self.deletions,
            "startTime": "2026-01-01T00:00:00.000Z",
            "status": "done" if time.monotonic() >= self.since_s + pending_s else "pending",
        }


@dataclass
class FakeCloudDns(FakeGoogle):
    older = True
    records: dict[Key, dict[str, Any]] = field(default_factory=dict)
    changes: list[Change] = field(default_factory=list)
    forgets: bool = False
    """Changes are not known any more."""
    signed: bool = False
    """DNSSEC: records come with signatures."""

    def put(self, *records: Mapping[str, Any]) -> None:
        """Somebody else's change, in force at once; also how it begins."""
        for record in records:
            self.records[record["name"], record["type"]] = copy.deepcopy(dict(record))

    def snapshot(self) -> Any:
        return copy.deepcopy(self.records)

    # ------------------------------------------------------------ serving

    def serve(self, request: web.Request, body: bytes) -> Mapping[str, Any]:
        match request.method, request.path.removeprefix(ZONE):
            case "GET", "/rrsets":
                return self._list(request)
            case "GET", "/changes":
                return self._changes(request)
            case "POST", "/changes":
                return self._change(body)
            case "GET", path if path.startswith("/changes/"):
                for change in self.changes:
                    if path == f"/changes/{change.id}" and not self.forgets:
                        return change.document(self.pending_s)
        raise not_found(request)

    def _list(self, request: web.Request) -> Mapping[str, Any]:
        name = request.query.get("name")
        if "type" in request.query and name is None:
            raise Problem(400, "The 'type' parameter needs 'name'.")
        found = [
            record
            for (owner, record_type), record in sorted(self.records.items())
            if name in (None, owner) and request.query.get("type", record_type) == record_type
        ]
        start = int(request.query.get("pageToken", "0"))
        answer: dict[str, Any] = {
            "kind": "dns#resourceRecordSetsListResponse",
            "rrsets": [self._shown(record) for record in found[start : start + PAGE]],
        }
        if start + PAGE < len(found):
            answer["nextPageToken"] = str(start + PAGE)
        return answer

    def _shown(self, record: Mapping[str, Any]) -> Mapping[str, Any]:
        shown = {**copy.deepcopy(dict(record)), "kind": "dns#resourceRecordSet"}
        shown["signatureRrdatas"] = ["A 8 2 60 signed"] if self.signed else []
        policy = shown.get("routingPolicy")
        if policy is not None:
            policy["kind"] = "dns#rRSetRoutingPolicy"
            for item in policy.get("wrr", {}).get("items", ()):
                item["kind"] = "dns#rRSetRoutingPolicyWrrPolicyWrrPolicyItem"
                item["signatureRrdatas"] = list(shown["signatureRrdatas"])
        return shown

    def _changes(self, request: web.Request) -> Mapping[str, Any]:
        if request.query.get("sortBy", "changeSequence") != "changeSequence":
            raise Problem(400, "Invalid value for 'parameters.sortBy'")
        found = [] if self.forgets else [change.document(self.pending_s) for change in self.changes]
        if request.query.get("sortOrder") == "descending":
            found.reverse()
        return {"kind": "dns#changesListResponse", "changes": found}

    def _change(self, body: bytes) -> Mapping[str, Any]:
        document = body_of(body, frozenset({"additions", "deletions", "kind"}))
        additions = document.get("additions") or []
        deletions = document.get("deletions") or []
        if not additions and not deletions:
            raise Problem(400, "The 'entity.change' parameter is required but was missing.")
        records = dict(self.records)
        for index, record in enumerate(deletions):
            self._delete(records, f"entity.change.deletions[{index}]", record)
        for index, record in enumerate(additions):
            self._add(records, f"entity.change.additions[{index}]", record)
        self.records = records
        change = Change(str(len(self.changes) + 1), additions, deletions, time.monotonic())
        self.changes.append(change)
        return change.document(self.pending_s)

    def _delete(
        self, records: dict[Key, dict[str, Any]], what: str, record: Mapping[str, Any]
    ) -> None:
        key = (record.get("name", ""), record.get("type", ""))
        if key not in records:
            text = f"The '{what}' resource named '{key[0]} ({key[1]})' does not exist."
            raise Problem(404, text, "notFound")
        if records[key] != record:
            raise Problem(412, f"Precondition not met for '{what}'", "conditionNotMet")
        del records[key]

    def _add(
        self, records: dict[Key, dict[str, Any]], what: str, record: Mapping[str, Any]
    ) -> None:
        name, record_type = record.get("name", ""), record.get("type", "")
        if (name, record_type) in records:
            text = f"The '{what}' resource named '{name} ({record_type})' already exists."
            raise Problem(409, text, "alreadyExists")
        if not name.endswith("."):
            raise Problem(400, f"Invalid value for '{what}.name': '{name}'")
        unknown = set(record) - {"name", "type", "ttl", "rrdatas", "routingPolicy", "kind"}
        if unknown:
            raise Problem(400, f"Invalid value for '{what}': {sorted(unknown)}")
        if type(record.get("ttl")) is not int or record["ttl"] < 0:
            raise Problem(400, f"Invalid value for '{what}.ttl'")
        if ("rrdatas" in record) == ("routingPolicy" in record):
            raise Problem(400, f"'{what}': one of rrdatas and routingPolicy is required")
        if "rrdatas" in record:
            self._values(what, record_type, record["rrdatas"])
        else:
            self._policy(what, record_type, record["routingPolicy"])
        beside = {other for owner, other in records if owner == name}
        if beside and "CNAME" in {record_type, *beside}:
            text = f"The '{what}' resource conflicts with another at '{name}': CNAME"
            raise Problem(400, text, "cnameResourceRecordSetConflict")
        records[name, record_type] = copy.deepcopy(dict(record))

    def _policy(self, what: str, record_type: str, policy: Mapping[str, Any]) -> None:
        items = policy.get("wrr", {}).get("items", [])
        if set(policy) - {"wrr", "healthCheck"} or not items:
            raise Problem(400, f"Invalid value for '{what}.routingPolicy'")
        for item in items:
            weight = item.get("weight", 0)
            if type(weight) not in (int, float) or weight < 0:
                raise Problem(400, f"Invalid value for '{what}.routingPolicy.wrr.items.weight'")
            if set(item) - {"weight", "rrdatas", "healthCheckedTargets"}:
                raise Problem(400, f"Invalid value for '{what}.routingPolicy.wrr.items'")
            self._values(what, record_type, item.get("rrdatas", []))
        if not sum(item.get("weight", 0) for item in items):
            raise Problem(400, f"'{what}': the weights must not all be 0")

    def _values(self, what: str, record_type: str, values: Sequence[str]) -> None:
        for value in values:
            if record_type == "CNAME":
                valid = value.endswith(".") and len(values) == 1
            else:
                valid = version_of(value) == {"A": 4, "AAAA": 6}.get(record_type)
            if not valid:
                raise Problem(400, f"Invalid value for '{what}.rrdatas': '{value}'")


def version_of(value: str) -> int | None:
    """Of an IP address; None: it is none."""
    try:
        return ipaddress.ip_address(value).version
    except ValueError:
        return None
