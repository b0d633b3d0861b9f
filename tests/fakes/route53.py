"""A fake of Amazon Route 53: one hosted zone behind the XML API of 2013-04-01.

It validates as the service's documentation and its known messages say, stricter than other
imitations of it: batches are atomic, a change is PENDING for `pending_s`, weights are 0 to 255,
a weighted set has one TTL and no simple record beside it. `records` is what the API lists,
`in_sync_records` what the zone's name servers answer by.
"""

import ipaddress
import itertools
import math
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final
from xml.etree import ElementTree

from aiohttp import web

from tests.fakes.base import FakeService, Fault

NAMESPACE: Final = "https://route53.amazonaws.com/doc/2013-04-01/"
_API: Final = "/2013-04-01"
_IN: Final = f"{{{NAMESPACE}}}"

Set = dict[str, Any]
"""A record set as boto3 has it."""
Key = tuple[str, str, str]
"""Name, type, set identifier; the last empty for a simple record."""

POLICIES: Final = (
    "Weight", "Region", "GeoLocation", "Failover", "MultiValueAnswer", "CidrRoutingConfig",
    "GeoProximityLocation",
)  # fmt: skip
_ORDER: Final = (
    "Name", "Type", "SetIdentifier", "Weight", "Region", "GeoLocation", "Failover",
    "MultiValueAnswer", "TTL", "ResourceRecords", "AliasTarget", "HealthCheckId",
    "TrafficPolicyInstanceId", "CidrRoutingConfig", "GeoProximityLocation",
)  # fmt: skip
_NUMBERS: Final = {"Weight": 255, "TTL": 2147483647, "Bias": 99}
_FLAGS: Final = {"MultiValueAnswer", "EvaluateTargetHealth"}
_INSIDE: Final = {
    "AliasTarget": ("HostedZoneId", "DNSName", "EvaluateTargetHealth"),
    "GeoLocation": ("ContinentCode", "CountryCode", "SubdivisionCode"),
    "CidrRoutingConfig": ("CollectionId", "LocationName"),
    "GeoProximityLocation": ("AWSRegion", "LocalZoneGroup", "Coordinates", "Bias"),
    "Coordinates": ("Latitude", "Longitude"),
}


@dataclass(frozen=True, slots=True)
class Record:
    """A record set, for who wants to answer by it."""

    name: str
    """Lower case, with its final dot; `*` as itself."""
    type: str
    set_identifier: str | None
    weight: int | None
    ttl: int | None
    """None: an alias."""
    values: tuple[str, ...]
    alias: str | None = None
    """The name that an alias leads to."""


@dataclass(slots=True)
class _Change:
    id: str
    submitted: datetime
    in_sync_at: float
    """Monotonic."""
    after: dict[Key, Set]
    """The zone as this change left it."""


class _Invalid(Exception):
    """An error answer: status, code and message."""

    def __init__(self, status: int, code: str, message: str) -> None:
        self.status = status
        self.code = code
        super().__init__(message)


@dataclass
class FakeRoute53(FakeService):
    """Serves one zone; `put` fills it."""

    zone_id: str = "Z1234567890"
    zone_name: str = "shop.example."
    health_checks: set[str] = field(default_factory=set)
    page_max: int = 300
    """Record sets in one answer."""
    denied_code: str = "ExpiredToken"
    unavailable_status: int = 503
    sets: dict[Key, Set] = field(default_factory=dict)
    changes: list[_Change] = field(default_factory=list)
    _prior_left: int = 0
    _ids: Any = field(default_factory=lambda: itertools.count(1))

    # ------------------------------------------------------------ what a test does

    def put(self, *record_sets: Mapping[str, Any]) -> None:
        """Write as somebody else, in sync at once, and without a question."""
        for one in record_sets:
            self.sets[key_of(one)] = {**one, "Name": wire_name(one["Name"])}
        self._take_on(0.0)

    def weighted(
        self,
        name: str,
        type_: str,
        weights: Mapping[str, int],
        values: Mapping[str, str],
        ttl: int = 60,
        **more: Any,
    ) -> None:
        """`put` a weighted set: identifier -> weight, identifier -> value."""
        self.put(
            *(
                {
                    "Name": name, "Type": type_, "SetIdentifier": identifier, "Weight": weight,
                    "TTL": ttl, "ResourceRecords": [{"Value": values[identifier]}], **more,
                }
                for identifier, weight in weights.items()
            )
        )  # fmt: skip

    def change(self, name: str, type_: str, identifier: str = "", **fields: Any) -> None:
        """Change fields of a record set as somebody else; None takes one away."""
        key = (wire_name(name), type_, identifier)
        changed = {**self.sets[key], **fields}
        self.put({name: value for name, value in changed.items() if value is not None})

    def remove(self, name: str, type_: str, identifier: str = "") -> None:
        """Delete a record set as somebody else."""
        del self.sets[wire_name(name), type_, identifier]
        self._take_on(0.0)

    def get(self, name: str, type_: str, identifier: str = "") -> Set:
        return self.sets[wire_name(name), type_, identifier]

    def inject_prior(self, times: int = 1) -> None:
        """Let the next changes find an earlier one still being worked on."""
        self._prior_left += times
        self.inject(Fault.THROTTLED, times)

    def forget_changes(self) -> None:
        """As if it were another account's, or long ago: no change id is known."""
        self.changes[:] = [_Change("", _now(), 0.0, dict(self.sets))]

    @property
    def batches(self) -> list[list[tuple[str, Set]]]:
        """What each writing call asked for: action and record set."""
        return [read_batch(call.body) for call in self.writing]

    def records(self) -> list[Record]:
        """What the API lists, in its order."""
        return _records(self.sets)

    def in_sync_records(self) -> list[Record]:
        """What the name servers answer by: as the last change that is in sync left it."""
        return _records(self._in_sync())

    def _in_sync(self) -> dict[Key, Set]:
        now = time.monotonic()
        done = [change.after for change in self.changes if change.in_sync_at <= now]
        return done[-1] if done else {}

    # ------------------------------------------------------------ the API

    def snapshot(self) -> Any:
        return repr(sorted(self.sets.items()))

    def writes(self, request: web.Request, body: bytes) -> bool:
        return request.method == "POST"

    def refusal(self, fault: Fault, request: web.Request) -> web.Response:
        match fault:
            case Fault.DENIED:
                message = {
                    "ExpiredToken": "The security token included in the request is expired",
                    "InvalidClientTokenId": "The security token included in the request is invalid.",
                }.get(
                    self.denied_code,
                    "User: arn:aws:iam::123456789012:user/turnout is not authorized to perform: "
                    "route53:ChangeResourceRecordSets because no identity-based policy allows it",
                )
                return _error(403, self.denied_code, message)
            case Fault.UNAVAILABLE:
                return _error(
                    self.unavailable_status, "ServiceUnavailable", "Service is unavailable"
                )
        if request.method == "POST" and self._prior_left > 0:
            self._prior_left -= 1
            return _error(
                400,
                "PriorRequestNotComplete",
                "The request was rejected because Route 53 was still processing a prior request.",
            )
        return _error(400, "Throttling", "Rate exceeded")

    async def handle(self, request: web.Request, body: bytes) -> web.Response:
        try:
            if not request.headers.get("Authorization", "").startswith("AWS4-HMAC-SHA256 "):
                raise _Invalid(403, "MissingAuthenticationToken", "Missing Authentication Token")
            return self._answer(request, body)
        except _Invalid as error:
            return _error(error.status, error.code, str(error))

    def _answer(self, request: web.Request, body: bytes) -> web.Response:
        path = request.path.rstrip("/")
        if found := re.fullmatch(rf"{_API}/hostedzone/([A-Z0-9]+)/rrset", path):
            self._zone(found[1])
            return self._change(body) if request.method == "POST" else self._list(request)
        if request.method == "GET" and (found := re.fullmatch(rf"{_API}/change/(\w+)", path)):
            return self._get_change(found[1])
        if request.method == "GET" and (found := re.fullmatch(rf"{_API}/hostedzone/(\w+)", path)):
            self._zone(found[1])
            zone = {
                "Id": f"/hostedzone/{self.zone_id}",
                "Name": self.zone_name,
                "CallerReference": "fake",
                "ResourceRecordSetCount": len(self.sets),
            }
            return _xml("GetHostedZoneResponse", {"HostedZone": zone})
        raise _Invalid(404, "UnknownOperationException", f"{request.method} {request.path}")

    def _zone(self, zone_id: str) -> None:
        if zone_id != self.zone_id:
            raise _Invalid(404, "NoSuchHostedZone", f"No hosted zone found with ID: {zone_id}")

    def _list(self, request: web.Request) -> web.Response:
        unknown = set(request.query) - {"name", "type", "identifier", "maxitems"}
        if unknown:
            raise _Invalid(400, "InvalidInput", f"Unknown parameters: {sorted(unknown)}")
        name = request.query.get("name")
        type_ = request.query.get("type")
        if type_ is not None and name is None:
            raise _Invalid(400, "InvalidInput", "The type requires a name")
        asked = request.query.get("maxitems", "300")
        if not asked.isdecimal() or int(asked) < 1:
            raise _Invalid(400, "InvalidInput", "maxitems must be a positive number")
        ordered = sorted(self.sets, key=_sort_key)
        if name is not None:
            start = _sort_key((wire_name(name), type_ or "", request.query.get("identifier", "")))
            ordered = [key for key in ordered if _sort_key(key) >= start]
        size = min(int(asked), self.page_max)
        page, rest = ordered[:size], ordered[size:]
        document: dict[str, Any] = {
            "ResourceRecordSets": [{"ResourceRecordSet": self.sets[key]} for key in page],
            "IsTruncated": bool(rest),
        }
        if rest:
            document["NextRecordName"], document["NextRecordType"] = rest[0][:2]
            if rest[0][2]:
                document["NextRecordIdentifier"] = rest[0][2]
        document["MaxItems"] = str(asked)
        return _xml("ListResourceRecordSetsResponse", document)

    def _get_change(self, change_id: str) -> web.Response:
        for change in self.changes:
            if change.id == change_id:
                return _xml("GetChangeResponse", {"ChangeInfo": _info(change)})
        raise _Invalid(404, "NoSuchChange", f"Could not find resource with ID: {change_id}")

    def _change(self, body: bytes) -> web.Response:
        batch = read_batch(body)
        after = dict(self.sets)
        messages: list[str] = []
        touched: set[Key] = set()
        for action, wanted in batch:
            messages += self._one(action, wanted, after)
            key = key_of(wanted)
            if key in touched and action != "CREATE":
                messages.append(
                    f"The request contains an invalid set of changes for a resource record set "
                    f"'{key[1]} {key[0]}'"
                )
            touched.add(key)
        if not messages:
            messages = [text for key in sorted(touched) for text in _beside(key, after)]
        if messages:
            raise _Invalid(400, "InvalidChangeBatch", f"[{', '.join(messages)}]")
        self.sets = after
        change = self._take_on(self.pending_s)
        return _xml("ChangeResourceRecordSetsResponse", {"ChangeInfo": _info(change)})

    def _one(self, action: str, wanted: Set, after: dict[Key, Set]) -> list[str]:
        """Carry one change out in `after`; what is wrong with it."""
        name, type_, identifier = key = key_of(wanted)
        what = f"[name='{name}', type='{type_}'" + (
            f", set identifier='{identifier}']" if identifier else "]"
        )
        if name != self.zone_name and not name.endswith(f".{self.zone_name}"):
            return [f"RRSet with DNS name {name} is not permitted in zone {self.zone_name}"]
        if type_ == "CNAME" and name == self.zone_name:
            return [
                f"RRSet of type CNAME with DNS name {name} is not permitted at apex in zone {name}"
            ]
        check = wanted.get("HealthCheckId")
        if check is not None and check not in self.health_checks:
            raise _Invalid(404, "NoSuchHealthCheck", f"No health check exists with the ID {check}")
        there = after.get(key)
        if action == "DELETE":
            if there is None:
                return [f"Tried to delete resource record set {what} but it was not found"]
            if _comparable(there) != _comparable(wanted):
                return [
                    f"Tried to delete resource record set {what} "
                    f"but the values provided do not match the current values"
                ]
            del after[key]
            return []
        if action == "CREATE" and there is not None:
            return [f"Tried to create resource record set {what} but it already exists"]
        if there is not None and "TrafficPolicyInstanceId" in there:
            return [f"Tried to change resource record set {what} of a traffic policy instance"]
        messages = _wrong_values(wanted)
        alias = wanted.get("AliasTarget")
        if alias is not None and alias["HostedZoneId"] == self.zone_id:
            target = wire_name(alias["DNSName"])
            if not any(key[:2] == (target, type_) for key in after):
                messages.append(
                    f"Tried to create an alias that targets {target}, type {type_} in zone "
                    f"{self.zone_id}, but that target was not found"
                )
        after[key] = {**wanted, "Name": name}
        return messages

    def _take_on(self, pending_s: float) -> _Change:
        change = _Change(
            f"C{next(self._ids):013d}", _now(), time.monotonic() + pending_s, dict(self.sets)
        )
        self.changes.append(change)
        return change


# ---------------------------------------------------------------- names


def wire_name(name: str) -> str:
    """A name as the service gives it back: lower case, final dot, `*` as `\\052`."""
    plain = name.lower().removesuffix(".") + "."
    return re.sub(r"[^a-z0-9._\\-]", lambda found: f"\\{ord(found[0]):03o}", plain)


def plain_name(name: str) -> str:
    """A name without escapes."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), name)


def key_of(one: Mapping[str, Any]) -> Key:
    return wire_name(one["Name"]), one["Type"], one.get("SetIdentifier", "")


def _sort_key(key: Key) -> Key:
    name, type_, identifier = key
    return ".".join(reversed(name.removesuffix(".").split("."))) + ".", type_, identifier


def _records(sets: Mapping[Key, Set]) -> list[Record]:
    return [
        Record(
            plain_name(key[0]),
            key[1],
            one.get("SetIdentifier"),
            one.get("Weight"),
            one.get("TTL"),
            tuple(value["Value"] for value in one.get("ResourceRecords", ())),
            one["AliasTarget"]["DNSName"] if "AliasTarget" in one else None,
        )
        for key, one in sorted(sets.items(), key=lambda item: _sort_key(item[0]))
    ]


# ---------------------------------------------------------------- what is right


def _comparable(one: Set) -> Set:
    records = one.get("ResourceRecords")
    if records is not None:
        one = {**one, "ResourceRecords": sorted(value["Value"] for value in records)}
    return {**one, "Name": wire_name(one["Name"])}


def _wrong_values(wanted: Set) -> list[str]:
    type_ = wanted["Type"]
    values = [value["Value"] for value in wanted.get("ResourceRecords", ())]
    if len(set(values)) < len(values):
        return [f"Duplicate Resource Record: '{values}'"]
    if type_ == "CNAME" and len(values) > 1:
        return ["RRSet of type CNAME has more than one resource record"]
    kinds: Mapping[str, Any] = {"A": ipaddress.IPv4Address, "AAAA": ipaddress.IPv6Address}
    wrong = []
    for value in values:
        try:
            kinds.get(type_, str)(value)
        except ValueError:
            family = {"A": "IPv4", "AAAA": "IPv6"}[type_]
            wrong.append(
                f"Invalid Resource Record: FATAL problem: {type_}RRDATAIllegal{family}Address "
                f"(Value is not a valid {family} address) encountered with '{value}'"
            )
    return wrong


def _beside(key: Key, after: Mapping[Key, Set]) -> list[str]:
    """What is wrong with a record set together with the others of its name."""
    name, type_, identifier = key
    one = after.get(key)
    if one is None:
        return []
    what = f"RRSet with DNS name {name}, type {type_}"
    types = {other[1] for other in after if other[0] == name}
    if "CNAME" in types and len(types) > 1:
        return [
            f"RRSet of type {type_} with DNS name {name} is not permitted as it conflicts with "
            f"other records with the same DNS name"
        ]
    group = [other for there, other in after.items() if there[:2] == key[:2]]
    if not identifier:
        if len(group) > 1:
            return [f"{what} cannot be created as other RRSets exist with the same name and type."]
        return []
    what += f", SetIdentifier {identifier}"
    policy = _policy(one)
    if any(_policy(other) != policy for other in group):
        kind = {"Weight": "weighted"}.get(policy, policy)
        return [f"{what} cannot be created as a non-{kind} set exists with the same name and type."]
    if policy == "Weight":
        if len({other["TTL"] for other in group if "TTL" in other}) > 1:
            return [f"{what} cannot be created as weighted sets must contain the same TTL."]
        if len(group) > 100:
            return [f"{what} cannot be created as there are more than 100 weighted sets."]
    return []


def _policy(one: Set) -> str:
    return next((name for name in POLICIES if name in one), "")


# ---------------------------------------------------------------- XML


def read_batch(body: bytes) -> list[tuple[str, Set]]:
    """The changes of a request. Raises _Invalid as the service does for a wrong schema."""
    try:
        root = ElementTree.fromstring(body)
    except ElementTree.ParseError as error:
        raise _Invalid(400, "MalformedInput", f"Invalid XML: {error}") from None
    if root.tag != f"{_IN}ChangeResourceRecordSetsRequest":
        raise _Invalid(400, "InvalidInput", f"Invalid XML ; unexpected element {root.tag}")
    changes = root.findall(f"{_IN}ChangeBatch/{_IN}Changes/{_IN}Change")
    if not 1 <= len(changes) <= 1000:
        raise _Invalid(400, "InvalidChangeBatch", f"[Number of changes: {len(changes)}]")
    if len(root.findtext(f"{_IN}ChangeBatch/{_IN}Comment") or "") > 256:
        raise _Invalid(400, "InvalidInput", "Invalid XML ; the comment is longer than 256")
    batch = []
    for change in changes:
        action = change.findtext(f"{_IN}Action") or ""
        if action not in ("CREATE", "DELETE", "UPSERT"):
            raise _Invalid(400, "InvalidInput", f"Invalid XML ; unknown action {action}")
        element = change.find(f"{_IN}ResourceRecordSet")
        if element is None:
            raise _Invalid(400, "InvalidInput", "Invalid XML ; ResourceRecordSet is missing")
        wanted = _read(element, _ORDER)
        _check_form(action, wanted)
        batch.append((action, wanted))
    return batch


def _read(element: ElementTree.Element, names: Iterable[str]) -> Set:
    found: Set = {}
    for child in element:
        name = child.tag.removeprefix(_IN)
        text = child.text or ""
        if name not in names or name in found:
            raise _Invalid(400, "InvalidInput", f"Invalid XML ; unexpected element {name}")
        if name == "ResourceRecords":
            found[name] = [{"Value": one.findtext(f"{_IN}Value") or ""} for one in child]
        elif name in _INSIDE:
            found[name] = _read(child, _INSIDE[name])
        elif name in _NUMBERS:
            if not re.fullmatch(r"-?[0-9]{1,10}", text) or not (
                (-99 if name == "Bias" else 0) <= int(text) <= _NUMBERS[name]
            ):
                raise _Invalid(
                    400,
                    "InvalidInput",
                    f"Invalid XML ; cvc-maxInclusive-valid: Value '{text}' is not facet-valid "
                    f"with respect to maxInclusive '{_NUMBERS[name]}' for {name}",
                )
            found[name] = int(text)
        elif name in _FLAGS:
            if text not in ("true", "false"):
                raise _Invalid(400, "InvalidInput", f"Invalid XML ; {name} is '{text}'")
            found[name] = text == "true"
        else:
            found[name] = text
    return found


def _check_form(action: str, wanted: Set) -> None:
    """What a record set must and must not have, by itself."""
    identifier = wanted.get("SetIdentifier")
    what = (
        f"in Change with [Action={action}, Name={wanted.get('Name')}, Type={wanted.get('Type')}, "
        f"SetIdentifier={identifier or 'null'}]"
    )
    for name in ("Name", "Type"):
        if not wanted.get(name):
            raise _Invalid(400, "InvalidInput", f"Invalid request: Missing field '{name}' {what}")
    ways = [
        "AliasTarget" in wanted,
        "TTL" in wanted and bool(wanted.get("ResourceRecords")),
        "TrafficPolicyInstanceId" in wanted,
    ]
    mixed = "AliasTarget" in wanted and ("TTL" in wanted or "ResourceRecords" in wanted)
    if sum(ways) != 1 or mixed:
        raise _Invalid(
            400,
            "InvalidInput",
            f"Invalid request: Expected exactly one of [AliasTarget, all of [TTL, and "
            f"ResourceRecords], or TrafficPolicyInstanceId], but found "
            f"{'more than one' if sum(ways) > 1 or mixed else 'none'} {what}",
        )
    alias = wanted.get("AliasTarget")
    if alias is not None and len(alias) < 3:
        raise _Invalid(400, "InvalidInput", f"Invalid request: AliasTarget is not whole {what}")
    policies = [name for name in POLICIES if name in wanted]
    if identifier and len(policies) != 1:
        raise _Invalid(
            400,
            "InvalidInput",
            f"Invalid request: Expected exactly one of {list(POLICIES)}, but found "
            f"{'more than one' if policies else 'none'} {what}",
        )
    if policies and not identifier:
        raise _Invalid(
            400, "InvalidInput", f"Invalid request: Missing field 'SetIdentifier' {what}"
        )


def _info(change: _Change) -> dict[str, Any]:
    in_sync = change.in_sync_at <= time.monotonic() and not math.isinf(change.in_sync_at)
    return {
        "Id": f"/change/{change.id}",
        "Status": "INSYNC" if in_sync else "PENDING",
        "SubmittedAt": change.submitted.strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z",
    }


def _now() -> datetime:
    return datetime.now(UTC)


def _xml(root: str, document: Mapping[str, Any], status: int = 200) -> web.Response:
    element = ElementTree.Element(root, xmlns=NAMESPACE)
    _write(element, document)
    text = ElementTree.tostring(element, encoding="utf-8", xml_declaration=True)
    return web.Response(body=text, status=status, content_type="text/xml")


def _write(parent: ElementTree.Element, document: Mapping[str, Any]) -> None:
    for name in sorted(document, key=lambda name: _ORDER.index(name) if name in _ORDER else -1):
        value = document[name]
        child = ElementTree.SubElement(parent, name)
        if isinstance(value, Mapping):
            _write(child, value)
        elif isinstance(value, list):
            for one in value:
                _write(child, one if name == "ResourceRecordSets" else {"ResourceRecord": one})
        else:
            child.text = str(value).lower() if isinstance(value, bool) else str(value)


def _error(status: int, code: str, message: str) -> web.Response:
    error = {"Type": "Sender" if status < 500 else "Receiver", "Code": code, "Message": message}
    return _xml("ErrorResponse", {"Error": error, "RequestId": "fake-request"}, status)
