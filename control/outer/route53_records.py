"""Pure: what record sets of Route 53 mean, and which batch of changes a weight takes.

A record set is a dict as boto3 has it. In `Reading.exact` each of ours stands whole, under its
type and set identifier; in `Reading.settings` without what a switch changes, beside those of the
same name and type that are not ours.
"""

import hashlib
import ipaddress
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from turnout.config.outer.route53 import RecordTarget, RecordType, Route53
from turnout.config.weights import WHOLE, percent
from turnout.control.outer.seams import NotExpressible, Reading, Wanted, differences

WEIGHT_MAX: Final = 255
ALIAS_TTL_S: Final = 60.0
"""An alias has its target's time to live, which is 60 s for all of AWS's own (Developer Guide,
"Choosing between alias and non-alias records")."""
POLICIES: Final = {
    "Region": "latency",
    "Failover": "failover",
    "GeoLocation": "geolocation",
    "GeoProximityLocation": "geoproximity",
    "MultiValueAnswer": "multivalue answer",
    "CidrRoutingConfig": "IP-based",
    "AZAffinity": "AZ affinity",
}
"""Field -> the routing policy that it belongs to, beside `Weight`."""
_COMMENT_MAX: Final = 256

RecordSet = Mapping[str, Any]


# ---------------------------------------------------------------- names and weights


def canonical(name: str) -> str:
    """A name to compare: lower case, a final dot, without the escapes of the API.

    Route 53 gives `*` back as `\\052`, and so whatever is neither letter, digit, dash, underscore
    nor dot (Developer Guide, "DNS domain name format").
    """
    plain = re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), name)
    return plain.lower().removesuffix(".") + "."


def weights_for(second_weight: int) -> tuple[int, int]:
    """The two weights, 0 to 255, whose share of the second is nearest.

    Never 0 for a share that is something: 1/256 is the least. Of those that are equally near
    the ones that add up to 100, as people read them, else the smallest.
    """
    if second_weight in (0, WHOLE):
        return (100, 0) if second_weight == 0 else (0, 100)
    best = (float(WHOLE), True, 0)
    chosen = (1, 1)
    for total in range(2, 2 * WEIGHT_MAX + 1):
        below = second_weight * total // WHOLE
        for second in (below, below + 1):
            first = total - second
            if 1 <= second <= WEIGHT_MAX and 1 <= first <= WEIGHT_MAX:
                # Of whole numbers this small, what is equally near is equal as a float too.
                off = abs(second * WHOLE - second_weight * total) / total
                if (off, total != 100, total) < best:
                    best, chosen = (off, total != 100, total), (first, second)
    return chosen


def share_of(first: int, second: int) -> int:
    """Hundredths of a percent of the second. Route 53 takes weights that are all 0 for equal."""
    return round(WHOLE * second / (first + second)) if first + second else WHOLE // 2


# ---------------------------------------------------------------- reading


@dataclass(slots=True)
class _Found:
    """What is gathered of the record sets."""

    exact: dict[str, Any]
    settings: dict[str, Any]
    shares: dict[str, int]
    """By type; of those whose share can be told."""
    problems: list[str]
    warnings: list[str]
    ttls_s: list[float]
    unwatched: dict[str, list[str]]
    """Upstream -> types of its records that are answered whether it is healthy or not."""


def reading(settings: Route53, names: tuple[str, str], record_sets: Sequence[RecordSet]) -> Reading:
    """What the record sets of `settings.name` mean. Those of other names are passed over."""
    wanted_name = canonical(settings.name)
    of_name = [one for one in record_sets if canonical(str(one["Name"])) == wanted_name]
    found = _Found({}, {}, {}, [], [], [], {})
    for type_ in settings.types:
        group = [one for one in of_name if one["Type"] == type_]
        what = f"{wanted_name} {type_} in hosted zone {settings.zone_id}"
        if not group:
            found.problems.append(_nothing(settings, names, what, of_name))
        elif settings.set_identifiers:
            _weighted(settings, names, type_, group, what, found)
        else:
            _whole(settings, names, type_, group, what, found)
    found.warnings += [
        f"{wanted_name} {' and '.join(types)} of {settings.set_identifiers[name]} has no health "
        f"check and evaluates no target's health: Route 53 answers by it also when {name} is down"
        for name, types in found.unwatched.items()
    ]
    found.warnings += _left_behind(settings, of_name)
    if len(set(found.shares.values())) > 1:
        shares = ", ".join(f"{type_} {percent(at)} %" for type_, at in found.shares.items())
        found.problems.append(
            f"the types of {wanted_name} have different shares of {names[1]}: {shares}. Give them "
            f"the same"
        )
    known = len(found.shares) == len(settings.types) and len(set(found.shares.values())) == 1
    return Reading(
        second_weight=next(iter(found.shares.values())) if known else None,
        version=_digest([found.exact, found.settings]),
        exact=found.exact,
        settings=found.settings,
        problems=tuple(found.problems),
        warnings=tuple(found.warnings),
        ttl_s=max(found.ttls_s, default=0.0),
    )


def _nothing(
    settings: Route53, names: tuple[str, str], what: str, of_name: Sequence[RecordSet]
) -> str:
    others = sorted({str(one["Type"]) for one in of_name})
    beside = f"; the name has {', '.join(others)}" if others else ""
    if settings.set_identifiers:
        identifiers = " and ".join(settings.set_identifiers[name] for name in names)
        remedy = f"Create two weighted records with the set identifiers {identifiers}"
    else:
        remedy = f"Create the record, with {names[0]}'s target"
    return f"there is no {what}{beside}. {remedy}, or correct zone_id, name or types"


def _weighted(
    settings: Route53,
    names: tuple[str, str],
    type_: RecordType,
    group: Sequence[RecordSet],
    what: str,
    found: _Found,
) -> None:
    identifiers = [settings.set_identifiers[name] for name in names]
    strangers = [one for one in group if "Weight" not in one]
    if strangers:
        found.problems.append(
            f"{what} is {_policy(strangers[0])}, not weighted. Make it two weighted records, or "
            f"write targets instead of set_identifiers"
        )
        return
    ours = {one["SetIdentifier"]: one for one in group if one.get("SetIdentifier") in identifiers}
    for one in group:
        key = f"{type_} {one.get('SetIdentifier')}"
        if one.get("SetIdentifier") in identifiers:
            found.exact[key] = dict(one)
            found.settings[key] = _without(one, "Weight")
        else:
            found.settings[key] = dict(one)
    missing = [identifier for identifier in identifiers if identifier not in ours]
    if missing:
        there = ", ".join(str(one.get("SetIdentifier")) for one in group)
        found.problems.append(
            f"{what} has no record with the set identifier {' and none with '.join(missing)}; it "
            f"has {there}. Create it, or correct set_identifiers"
        )
        return
    pair = [ours[identifier] for identifier in identifiers]
    first, second = (int(one["Weight"]) for one in pair)
    found.shares[type_] = share_of(first, second)
    found.ttls_s += [float(one.get("TTL", ALIAS_TTL_S)) for one in pair]
    if first == second == 0:
        found.problems.append(
            f"both weights of {what} are 0, and Route 53 then answers by both of them alike. Give "
            f"one of them a weight"
        )
    found.problems += _unlike(what, group)
    found.problems += [text for one in pair for text in _policed(f"{what} {_id(one)}", one)]
    others = [one for one in group if one.get("SetIdentifier") not in identifiers]
    for one in others:
        if int(one["Weight"]) > 0:
            found.problems.append(
                f"{what} has a third record, {_id(one)}, with weight {one['Weight']}. Set its "
                f"weight to 0, or delete it"
            )
        else:
            found.warnings.append(
                f"{what} has a third record, {_id(one)}, with weight 0: Route 53 may answer by it "
                f"when the others are unhealthy"
            )
    for name, one in zip(names, pair, strict=True):
        if "HealthCheckId" not in one and not _alias(one).get("EvaluateTargetHealth"):
            found.unwatched.setdefault(name, []).append(str(type_))


def _unlike(what: str, group: Sequence[RecordSet]) -> Iterator[str]:
    ttls = {_id(one): one["TTL"] for one in group if "TTL" in one}
    if len(set(ttls.values())) > 1:
        shown = ", ".join(f"{identifier} {ttl} s" for identifier, ttl in ttls.items())
        yield f"the records of {what} have different TTLs: {shown}. Give them the same"


def _policed(what: str, one: RecordSet) -> Iterator[str]:
    if "TrafficPolicyInstanceId" in one:
        yield (
            f"{what} was made by the traffic policy instance {one['TrafficPolicyInstanceId']}, "
            f"which would not know of a change. Change it there, or make a record without it"
        )


def _whole(
    settings: Route53,
    names: tuple[str, str],
    type_: RecordType,
    group: Sequence[RecordSet],
    what: str,
    found: _Found,
) -> None:
    """One record whose target is switched."""
    one = group[0]
    if len(group) > 1 or "SetIdentifier" in one:
        found.problems.append(
            f"{what} is {len(group)} records of the routing policy {_policy(one)}. Write "
            f"set_identifiers for weighted ones, or make it one simple record"
        )
        return
    found.exact[str(type_)] = dict(one)
    found.settings[str(type_)] = _beside_target(settings, one)
    found.ttls_s.append(float(one.get("TTL", ALIAS_TTL_S)))
    found.problems += _policed(what, one)
    sides = [_leads_to(one, settings.targets[name], type_) for name in names]
    if any(sides):
        found.shares[type_] = 0 if sides[0] else WHOLE
    else:
        wanted = " nor ".join(
            f"{name}'s {_shown_target(settings.targets[name], type_)}" for name in names
        )
        found.problems.append(
            f"{what} leads to {_shown(one)}, which is neither {wanted}. Correct targets, or the "
            f"record"
        )


def _beside_target(settings: Route53, one: RecordSet) -> RecordSet:
    """The record without what a switch changes. The evaluation of health is kept as it is read
    unless the configuration says it."""
    bare = _without(one, "ResourceRecords", "AliasTarget")
    told = any(target.evaluate_target_health is not None for target in settings.targets.values())
    if "AliasTarget" in one and not told:
        bare["EvaluateTargetHealth"] = _alias(one).get("EvaluateTargetHealth")
    return bare


def _leads_to(one: RecordSet, target: RecordTarget, type_: RecordType) -> bool:
    alias = _alias(one)
    if target.dns_name is not None:
        return (
            canonical(alias.get("DNSName", "")) == canonical(target.dns_name)
            and alias.get("HostedZoneId") == target.zone_id
        )
    return {_value(text) for text in _values(one)} == {
        _value(text) for text in target.values_of(type_)
    }


def _left_behind(settings: Route53, of_name: Sequence[RecordSet]) -> Iterator[str]:
    """Addresses of the same name that a switch would leave where they are."""
    there = {str(one["Type"]) for one in of_name}
    for type_ in (RecordType.A, RecordType.AAAA):
        if type_ in there and type_ not in settings.types and "CNAME" not in settings.types:
            yield (
                f"{canonical(settings.name)} has {type_} records too, which are not in types: who "
                f"goes by them stays where they lead"
            )


# ---------------------------------------------------------------- changing


def batch(
    settings: Route53, names: tuple[str, str], wanted: Wanted, read: Reading
) -> dict[str, Any]:
    """What ChangeResourceRecordSets takes: all types and both records in one batch, which
    Route 53 carries out whole or not at all.

    UPSERT replaces a record set, so each is written as it was read but for the weight or the
    target. Raises NotExpressible.
    """
    if wanted.exact is not None:
        record_sets: list[RecordSet] = list(wanted.exact.values())
    elif settings.set_identifiers:
        weights = dict(zip(names, weights_for(wanted.second_weight), strict=True))
        record_sets = [
            {
                **read.exact[f"{type_} {settings.set_identifiers[name]}"],
                "Weight": weights[name],
            }
            for type_ in settings.types
            for name in names
        ]
    elif wanted.second_weight in (0, WHOLE):
        target = settings.targets[names[0] if wanted.second_weight == 0 else names[1]]
        record_sets = [_led_to(read.exact[str(type_)], target, type_) for type_ in settings.types]
    else:
        raise NotExpressible(
            f"{canonical(settings.name)} is one record that leads to {names[0]} or to {names[1]}; "
            f"it cannot have {percent(wanted.second_weight)} %. Write a strategy with the one step "
            f"[100], or use weighted records"
        )
    _check_weights(record_sets)
    share = f"{names[1]} {percent(wanted.second_weight)} %"
    return _request(settings, record_sets, f"Turnout: {share} of {canonical(settings.name)}")


def repeated(settings: Route53, read: Reading) -> dict[str, Any]:
    """A batch that writes what is there already."""
    record_sets = list(read.exact.values())
    _check_weights(record_sets)
    return _request(
        settings, record_sets, f"Turnout: as it is, to be followed: {canonical(settings.name)}"
    )


def changed(settings: Route53, before: Reading, after: Reading) -> str:
    """In words, what is not as it was read; empty: all is."""
    if before.version == after.version:
        return ""
    # What is ours stands whole in the one and without its weight in the other: said once.
    found = differences(before.exact, after.exact) + differences(before.settings, after.settings)
    return (
        f"{canonical(settings.name)} in hosted zone {settings.zone_id} is not as it was read: "
        f"{'; '.join(dict.fromkeys(found))}"
    )


def _led_to(one: RecordSet, target: RecordTarget, type_: RecordType) -> RecordSet:
    if target.dns_name is None:
        return {**one, "ResourceRecords": [{"Value": text} for text in target.values_of(type_)]}
    health = target.evaluate_target_health
    return {
        **one,
        "AliasTarget": {
            "HostedZoneId": target.zone_id,
            "DNSName": canonical(target.dns_name),
            "EvaluateTargetHealth": (
                bool(_alias(one).get("EvaluateTargetHealth")) if health is None else health
            ),
        },
    }


def _check_weights(record_sets: Iterable[RecordSet]) -> None:
    """Raises NotExpressible for weights that Route 53 refuses, or takes for something else."""
    weighted: dict[str, list[int]] = {}
    for one in record_sets:
        if "Weight" in one:
            weighted.setdefault(str(one["Type"]), []).append(int(one["Weight"]))
    for type_, weights in weighted.items():
        if not any(weights):
            raise NotExpressible(
                f"all weights of type {type_} would be 0, and Route 53 then answers by all of them "
                f"alike"
            )
        for weight in weights:
            if not 0 <= weight <= WEIGHT_MAX:
                raise NotExpressible(f"the weight {weight} is not within 0 to {WEIGHT_MAX}")


def _request(settings: Route53, record_sets: Sequence[RecordSet], comment: str) -> dict[str, Any]:
    return {
        "HostedZoneId": settings.zone_id,
        "ChangeBatch": {
            "Comment": comment[:_COMMENT_MAX],
            "Changes": [
                {"Action": "UPSERT", "ResourceRecordSet": _to_write(one)} for one in record_sets
            ],
        },
    }


def _to_write(one: RecordSet) -> RecordSet:
    # An alias may be read with an empty list of values, which is refused when it is written.
    return {key: value for key, value in one.items() if key != "ResourceRecords" or value}


# ---------------------------------------------------------------- of a record set


def _id(one: RecordSet) -> str:
    return str(one.get("SetIdentifier", "without set identifier"))


def _alias(one: RecordSet) -> Mapping[str, Any]:
    alias: Mapping[str, Any] = one.get("AliasTarget", {})
    return alias


def _values(one: RecordSet) -> list[str]:
    return [str(record["Value"]) for record in one.get("ResourceRecords", ())]


def _value(text: str) -> str:
    """A record's value to compare."""
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return canonical(text)


def _policy(one: RecordSet) -> str:
    if "Weight" in one:
        return "weighted"
    return next((policy for key, policy in POLICIES.items() if key in one), "simple")


def _shown(one: RecordSet) -> str:
    alias = _alias(one)
    if alias:
        return f"{alias.get('DNSName')} (hosted zone {alias.get('HostedZoneId')})"
    return ", ".join(_values(one)) or "nothing"


def _shown_target(target: RecordTarget, type_: RecordType) -> str:
    if target.dns_name is not None:
        return f"{canonical(target.dns_name)} (hosted zone {target.zone_id})"
    return ", ".join(target.values_of(type_))


def _without(one: RecordSet, *keys: str) -> dict[str, Any]:
    return {key: value for key, value in one.items() if key not in keys}


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:32]
