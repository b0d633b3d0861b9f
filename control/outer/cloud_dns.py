"""Records of a managed zone of Cloud DNS: weighted round robin, or switched whole.

One change deletes the record sets as they were read and adds them as they shall be, of all types
together: atomic, and refused (412) when a deletion is not exactly what is there. A change that
is "done" is not in sync: the API's documentation says that "the request to update the
authoritative servers has been sent, but the servers might not be updated yet". So `settle`
follows it. Resolvers remember for the records' TTL after that.

Sources: the discovery document of dns v1 (Change, ResourceRecordSet, RRSetRoutingPolicy);
cloud.google.com, "DNS routing policies and health checks".
"""

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from turnout.config.outer.google import CloudDns, CloudDnsMode
from turnout.config.weights import WHOLE, percent
from turnout.control.outer.google import NotThere, api, changed, digest
from turnout.control.outer.seams import (
    Capabilities,
    Change,
    Conflict,
    Context,
    NotExpressible,
    OuterError,
    Progress,
    Reading,
    Refused,
    Tail,
    Verdict,
    Wanted,
)
from turnout.control.outer.settling import Settling

Record = Mapping[str, Any]
"""A ResourceRecordSet, as the API has it."""
Values = Mapping[str, tuple[frozenset[str], frozenset[str]]]
"""Record type -> what each side's records of it lead to, in one spelling."""

CHANGES_MAX: Final = 50
"""So many of a zone's last changes are looked through for one whose reply was lost."""
_MADE_BY_THE_SERVICE: Final = frozenset({"kind", "signatureRrdatas"})


@dataclass(frozen=True, slots=True)
class Sides:
    """What tells the two upstreams apart in the records of `name`."""

    upstreams: tuple[str, str]
    name: str
    weighted: bool
    values: Values


# ---------------------------------------------------------------- what the records say


def understand(records: Iterable[Record], sides: Sides) -> Reading:
    """A reading of the record sets of the name; those of other types are left alone."""
    found = {str(record.get("type")): own(record) for record in records}
    problems: list[str] = []
    weights: dict[str, int] = {}
    settings: dict[str, Any] = {}
    exact: dict[str, Any] = {}
    for record_type, values in sides.values.items():
        record = found.get(record_type)
        if record is None:
            problems.append(f"there is no record set {sides.name} {record_type}")
            continue
        exact[record_type] = record
        read = _weighted if sides.weighted else _whole
        weight = read(record, values, sides, problems)
        settings[record_type] = _beside(record)
        if weight is not None:
            weights[record_type] = weight
    if len(set(weights.values())) > 1:
        split = ", ".join(f"{name} {percent(weight)} %" for name, weight in weights.items())
        problems.append(f"the types do not agree on {sides.upstreams[1]}'s share: {split}")
    return Reading(
        second_weight=None if problems else next(iter(weights.values())),
        version=digest(exact),
        exact=exact,
        settings=settings,
        problems=problems,
        ttl_s=max((float(record.get("ttl", 0)) for record in exact.values()), default=0.0),
    )


def own(value: Any) -> Any:
    """A record without what the service adds by itself: signatures (DNSSEC), kinds."""
    if isinstance(value, Mapping):
        return {key: own(part) for key, part in value.items() if key not in _MADE_BY_THE_SERVICE}
    return [own(part) for part in value] if isinstance(value, list) else value


def _weighted(
    record: Record, values: tuple[frozenset[str], frozenset[str]], sides: Sides, problems: list[str]
) -> int | None:
    """The second side's share of one weighted record set; None with a problem."""
    what = f"{sides.name} {record['type']}"
    if "wrr" not in record.get("routingPolicy", {}):
        problems.append(
            f"{what} has no weighted round robin policy. Make it one with an item for each side,"
            f" or write mode: whole"
        )
        return None
    weights: dict[int, float] = {}
    before = len(problems)
    for item in items(record):
        there = leads_to(item)
        side = next((index for index in (0, 1) if values[index] == there), None)
        weight = float(item.get("weight", 0))
        if side is None:
            if weight:
                problems.append(f"{what} has a third item, of weight {weight:g}: {_list(there)}")
        elif side in weights:
            problems.append(f"{what} has two items of {sides.upstreams[side]}. Remove one")
        else:
            weights[side] = weight
    for side in (0, 1):
        if side not in weights:
            problems.append(f"{what} has no item of {sides.upstreams[side]}: {_list(values[side])}")
    total = sum(weights.values())
    if len(weights) == 2 and total <= 0:
        problems.append(f"{what}: all weights are 0. Give one side a weight")
    if len(problems) > before:
        return None
    return _share(weights[1], total)


def _share(weight: float, total: float) -> int:
    """Never nothing or everything for what is neither."""
    if weight in (0, total):
        return 0 if weight == 0 else WHOLE
    return min(max(round(weight * WHOLE / total), 1), WHOLE - 1)


def _whole(
    record: Record, values: tuple[frozenset[str], frozenset[str]], sides: Sides, problems: list[str]
) -> int | None:
    """0 or WHOLE, of a plain record set; None with a problem."""
    what = f"{sides.name} {record['type']}"
    if "routingPolicy" in record:
        problems.append(f"{what} has a routing policy. Make it plain, or write mode: weighted")
        return None
    there = leads_to(record)
    for side, weight in ((0, 0), (1, WHOLE)):
        if values[side] == there:
            return weight
    problems.append(f"{what} leads to neither side: {_list(there)}")
    return None


def items(record: Record) -> Sequence[Record]:
    """Of its weighted round robin policy."""
    return list(record.get("routingPolicy", {}).get("wrr", {}).get("items", ()))


def leads_to(item: Record) -> frozenset[str]:
    """The values of a record set or of an item of its policy, in one spelling; also those that
    are health-checked: they stand elsewhere."""
    checked = item.get("healthCheckedTargets", {})
    values = [
        *item.get("rrdatas", ()),
        *checked.get("externalEndpoints", ()),
        *(balancer.get("ipAddress", "") for balancer in checked.get("internalLoadBalancers", ())),
    ]
    return frozenset(canonical(str(value)) for value in values)


def canonical(value: str) -> str:
    """One spelling for each address and each name."""
    try:
        return str(ipaddress.ip_address(value))
    except ValueError:
        return value.lower().removesuffix(".") + "."


def _beside(record: Record) -> Any:
    """What a change of weights leaves: TTL, targets, health checks."""
    if "routingPolicy" not in record:
        return {key: value for key, value in record.items() if key != "rrdatas"}
    without = [
        {key: value for key, value in item.items() if key != "weight"} for item in items(record)
    ]
    return _with_items(record, without)


def _with_items(record: Record, changed_items: Sequence[Record]) -> dict[str, Any]:
    policy = record.get("routingPolicy", {})
    wrr = {**policy.get("wrr", {}), "items": [dict(item) for item in changed_items]}
    return {**record, "routingPolicy": {**policy, "wrr": wrr}}


def _list(values: Iterable[str]) -> str:
    return ", ".join(sorted(values)) or "nothing"


# ---------------------------------------------------------------- what is asked


def becomes(wanted: Wanted, reading: Reading, sides: Sides) -> dict[str, Any]:
    """The record sets as they shall be, by types; everything but the weights as read.

    Raises NotExpressible for a split of plain records.
    """
    if wanted.exact is not None:
        return dict(wanted.exact)
    if not sides.weighted and wanted.second_weight not in (0, WHOLE):
        raise NotExpressible(
            f"{sides.name} is switched whole; {percent(wanted.second_weight)} % is no side"
        )
    if reading.second_weight == wanted.second_weight:
        return dict(reading.exact)  # in other numbers, perhaps: 1 and 0 are 100 and 0
    return {
        record_type: _moved(record, wanted.second_weight, sides, sides.values[record_type])
        for record_type, record in reading.exact.items()
    }


def _moved(
    record: Record,
    second_weight: int,
    sides: Sides,
    values: tuple[frozenset[str], frozenset[str]],
) -> Record:
    if not sides.weighted:
        return {**record, "rrdatas": sorted(values[second_weight == WHOLE])}
    weights = {
        values[0]: percent(WHOLE - second_weight),
        values[1]: percent(second_weight),
    }
    moved = [
        {**item, "weight": weights[leads_to(item)]} if leads_to(item) in weights else item
        for item in items(record)
    ]
    return _with_items(record, moved)


def request(before: Mapping[str, Record], after: Mapping[str, Record]) -> dict[str, Any]:
    """The change from one to the other: what is the same is not in it."""
    types = [name for name in before if before[name] != after.get(name)]
    return {
        "deletions": [before[name] for name in types],
        "additions": [after[name] for name in types if name in after],
    }


def made(changes: Iterable[Record], after: Mapping[str, Record]) -> str:
    """The id of the newest of the zone's changes (newest first) that brought about one of these
    records; empty: none of them did."""
    for change in changes:
        if any(own(record) in after.values() for record in change.get("additions", ())):
            return str(change.get("id", ""))
    return ""


# ---------------------------------------------------------------- the router


class CloudDnsRouter:
    """The records of one name."""

    def __init__(self, settings: CloudDns, context: Context) -> None:
        first, second = (settings.values[name].by_type() for name in context.names)
        self._sides = Sides(
            context.names,
            canonical(settings.name),
            settings.mode is CloudDnsMode.WEIGHTED,
            {
                name: (
                    frozenset(map(canonical, first[name])),
                    frozenset(map(canonical, second[name])),
                )
                for name in first
            },
        )
        self._zone = f"/dns/v1/projects/{settings.project}/managedZones/{settings.zone}"
        self._rest = api(settings, settings.endpoint, context, "Cloud DNS")
        self._settling = Settling(settings.settle)
        self._ttl_s = 0.0
        self.capabilities = Capabilities(
            atomic=True, weighted=self._sides.weighted, exchange=False, conditional=True
        )

    def expressible(self, second_weight: int) -> int | None:
        if self._sides.weighted or second_weight in (0, WHOLE):
            return second_weight
        return None

    async def read(self) -> Reading:
        records: list[Record] = []
        params = {"name": self._sides.name}
        while True:
            try:
                page = await self._rest.document("GET", f"{self._zone}/rrsets", params=params)
            except NotThere as error:
                return Reading(None, "", {}, {}, problems=[f"there is no such zone: {error}"])
            records += page.get("rrsets", ())
            if not (token := page.get("nextPageToken")):
                break
            params["pageToken"] = str(token)
        reading = understand(records, self._sides)
        self._ttl_s = reading.ttl_s
        return reading

    def preview(self, wanted: Wanted, reading: Reading) -> Mapping[str, Any]:
        return {
            "method": "POST",
            "path": f"{self._zone}/changes",
            "body": request(reading.exact, becomes(wanted, reading, self._sides)),
        }

    async def set_weights(self, wanted: Wanted, if_read: Reading) -> Change:
        after = becomes(wanted, if_read, self._sides)
        body = request(if_read.exact, after)
        if not body["deletions"]:
            return await self._unchanged(if_read, after)
        try:
            change = await self._rest.document("POST", f"{self._zone}/changes", json=body)
        except (Conflict, Refused) as error:
            raise await self._explained(error, if_read) from error
        return Change(str(change.get("id", "")), {"records": after})

    async def _unchanged(self, if_read: Reading, after: Mapping[str, Record]) -> Change:
        now = await self.read()
        if difference := changed(if_read, now, self._sides.upstreams[1]):
            raise Conflict(f"somebody else has changed it: {difference}")
        return Change("", {"records": after})

    async def _explained(self, error: OuterError, if_read: Reading) -> OuterError:
        """What a refusal was about: a change by somebody else, with the difference, or the call
        itself. A record set that is gone is refused as not found."""
        try:
            now = await self.read()
        except OuterError:
            return error
        if difference := changed(if_read, now, self._sides.upstreams[1]):
            return Conflict(f"somebody else has changed it: {difference}")
        return Refused(str(error))

    async def confirm(self, wanted: Wanted, reading: Reading) -> Change:
        after = becomes(wanted, reading, self._sides)
        params = {
            "sortBy": "changeSequence",
            "sortOrder": "descending",
            "maxResults": str(CHANGES_MAX),
        }
        page = await self._rest.document("GET", f"{self._zone}/changes", params=params)
        return Change(made(page.get("changes", ()), after), {"records": after})

    async def poll(self, change: Change) -> Progress:
        if change.id:
            try:
                there = await self._rest.document("GET", f"{self._zone}/changes/{change.id}")
            except NotThere:
                return await self._read_back(change)
            if there.get("status") != "done":
                return Progress(Verdict.PENDING, f"its status is {there.get('status')}")
            return self._settling.done(change, "its status is done")
        return await self._read_back(change)

    async def _read_back(self, change: Change) -> Progress:
        """For a change that the service does not know (any more)."""
        now = await self.read()
        if now.exact == change.document["records"]:
            return self._settling.done(change, "the records are as wanted")
        return Progress(Verdict.UNKNOWN, "the service does not know it, and the records differ")

    async def tail(self, old_upstream: int) -> Tail:
        if not self._ttl_s:
            await self.read()
        return Tail(ttl_s=self._ttl_s)

    async def close(self) -> None:
        await self._rest.close()


def make_router(settings: CloudDns, context: Context) -> CloudDnsRouter:
    """For the records that `settings` names."""
    return CloudDnsRouter(settings, context)
