"""What record sets of Route 53 mean, and which batch a weight takes: by value."""

from typing import Any

import pytest

from tests.outer.target import CONFIGURATION
from turnout.config.loader import load_text
from turnout.config.outer.route53 import Route53
from turnout.control.outer.route53_records import (
    batch,
    canonical,
    changed,
    reading,
    repeated,
    share_of,
    weights_for,
)
from turnout.control.outer.seams import NotExpressible, Wanted

NAMES = ("blue", "green")


def settings(**more: Any) -> Route53:
    outer = {"kind": "route53", "zone_id": "Z1", "name": "shop.example", **more}
    if "targets" not in outer:
        outer["set_identifiers"] = {"blue": "b", "green": "g"}
    found = load_text(CONFIGURATION.format(outer=outer), environ={}).services[0].outer
    assert found is not None and isinstance(found.settings, Route53)
    return found.settings


def weighted(identifier: str, weight: int, type_: str = "A", **more: Any) -> dict[str, Any]:
    return {
        "Name": "shop.example.", "Type": type_, "SetIdentifier": identifier, "Weight": weight,
        "TTL": 60, "ResourceRecords": [{"Value": "192.0.2.1"}], **more,
    }  # fmt: skip


# ---------------------------------------------------------------- weights


@pytest.mark.parametrize(
    ("share", "weights"),
    [
        (0, (100, 0)),
        (10_000, (0, 100)),
        (5000, (50, 50)),
        (1000, (90, 10)),
        (100, (99, 1)),
        (3333, (2, 1)),
        (1250, (7, 1)),
        (2550, (149, 51)),
        (50, (199, 1)),
        (1, (255, 1)),
        (9999, (1, 255)),
    ],
)
def test_weights_are_the_nearest_and_as_people_read_them(
    share: int, weights: tuple[int, int]
) -> None:
    assert weights_for(share) == weights


def test_a_share_that_is_something_never_becomes_nothing_and_is_near() -> None:
    for share in range(1, 10_000, 7):
        first, second = weights_for(share)
        assert 1 <= first <= 255 and 1 <= second <= 255
        # 1/256 is the least; between, two neighbours are nowhere farther apart than 0.4 %.
        assert abs(share_of(first, second) - share) <= (38 if share < 40 or share > 9960 else 10)


def test_what_was_reached_is_reached_by_the_same_weights_again() -> None:
    for share in range(0, 10_001, 13):
        reached = share_of(*weights_for(share))
        assert share_of(*weights_for(reached)) == reached


# ---------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("Shop.Example", "shop.example."),
        ("shop.example.", "shop.example."),
        (r"\052.shop.example.", "*.shop.example."),
        (r"a\100b.shop.example.", "a@b.shop.example."),
        (r"a\057b.shop.example", "a/b.shop.example."),
    ],
)
def test_names_are_compared_without_case_dot_and_escapes(name: str, plain: str) -> None:
    assert canonical(name) == plain


# ---------------------------------------------------------------- readings


def test_a_reading_has_the_whole_records_and_beside_them_all_but_the_weights() -> None:
    blue, green = weighted("b", 30, HealthCheckId="h"), weighted("g", 10, HealthCheckId="i")
    read = reading(settings(), NAMES, [blue, green])
    assert (read.second_weight, read.problems, read.warnings, read.ttl_s) == (2500, (), (), 60.0)
    assert read.exact == {"A b": blue, "A g": green}
    assert "Weight" not in str(read.settings)
    assert read.settings["A b"]["TTL"] == 60


@pytest.mark.parametrize(
    ("record_sets", "words"),
    [
        ([], ["no shop.example. A in hosted zone Z1", "set identifiers b and g"]),
        ([weighted("b", 1)], ["set identifier g", "it has b"]),
        ([weighted("x", 1), weighted("y", 1)], ["identifier b and none with g", "it has x, y"]),
        ([weighted("b", 0), weighted("g", 0)], ["both weights", "are 0"]),
        (
            [weighted("b", 1), weighted("g", 1), weighted("old", 3)],
            ["third record, old, with weight 3", "Set its weight to 0"],
        ),
        (
            [weighted("b", 1), weighted("g", 1, TTL=300)],
            ["different TTLs: b 60 s, g 300 s"],
        ),
        (
            [{"Name": "shop.example.", "Type": "A", "TTL": 60, "ResourceRecords": []}],
            ["is simple, not weighted", "write targets"],
        ),
        (
            [weighted("b", 1, TrafficPolicyInstanceId="t-1"), weighted("g", 1)],
            ["traffic policy instance t-1"],
        ),
        (
            [{"Name": "shop.example.", "Type": "CNAME", "TTL": 60}],
            ["no shop.example. A", "the name has CNAME"],
        ),
    ],
)
def test_what_is_not_as_configured_is_said_with_the_remedy(
    record_sets: list[dict[str, Any]], words: list[str]
) -> None:
    problems = "; ".join(reading(settings(), NAMES, record_sets).problems)
    for word in words:
        assert word in problems


@pytest.mark.parametrize(
    ("field", "policy"),
    [
        ({"Region": "eu-west-1"}, "latency"),
        ({"Failover": "PRIMARY"}, "failover"),
        ({"GeoLocation": {"CountryCode": "DE"}}, "geolocation"),
        ({"MultiValueAnswer": True}, "multivalue answer"),
        ({"CidrRoutingConfig": {"CollectionId": "c"}}, "IP-based"),
        ({"GeoProximityLocation": {"AWSRegion": "eu-west-1"}}, "geoproximity"),
    ],
)
def test_another_routing_policy_is_named(field: dict[str, Any], policy: str) -> None:
    one = {"Name": "shop.example.", "Type": "A", "SetIdentifier": "b", "TTL": 60, **field}
    read = reading(settings(), NAMES, [one])
    assert read.second_weight is None
    assert f"is {policy}, not weighted" in read.problems[0]


def test_types_with_different_shares_are_no_one_weight() -> None:
    sets = [
        weighted("b", 1), weighted("g", 1),
        weighted("b", 3, "AAAA"), weighted("g", 1, "AAAA"),
    ]  # fmt: skip
    read = reading(settings(types=["A", "AAAA"]), NAMES, sets)
    assert read.second_weight is None
    assert read.problems == (
        "the types of shop.example. have different shares of green: A 50 %, AAAA 25 %. "
        "Give them the same",
    )


def test_types_with_the_same_share_in_other_weights_are_one() -> None:
    sets = [
        weighted("b", 1), weighted("g", 1),
        weighted("b", 50, "AAAA"), weighted("g", 50, "AAAA"),
    ]  # fmt: skip
    read = reading(settings(types=["A", "AAAA"]), NAMES, sets)
    assert (read.second_weight, read.problems) == (5000, ())


def test_addresses_of_the_other_family_are_warned_of() -> None:
    sets = [weighted("b", 1), weighted("g", 1), weighted("b", 1, "AAAA")]
    warnings = reading(settings(), NAMES, sets).warnings
    assert any("AAAA records too, which are not in types" in text for text in warnings)


def test_a_side_without_a_look_at_its_health_is_warned_of() -> None:
    alias = {"HostedZoneId": "Z2", "DNSName": "lb.", "EvaluateTargetHealth": True}
    blue = weighted("b", 1, AliasTarget=alias)
    del blue["TTL"], blue["ResourceRecords"]
    warnings = reading(settings(), NAMES, [blue, weighted("g", 1)]).warnings
    assert [text for text in warnings if "health" in text] == [
        "shop.example. A of g has no health check and evaluates no target's health: Route 53 "
        "answers by it also when green is down"
    ]


def test_the_version_follows_everything_of_ours() -> None:
    pair = [weighted("b", 1), weighted("g", 1)]
    before = reading(settings(), NAMES, pair)
    assert reading(settings(), NAMES, [dict(one) for one in pair]) == before
    for changes in ({"Weight": 2}, {"TTL": 61}, {"HealthCheckId": "h"}):
        after = reading(settings(), NAMES, [pair[0], {**pair[1], **changes}])
        assert after.version != before.version
        field = next(iter(changes))
        assert f"A g.{field}" in changed(settings(), before, after)
    assert changed(settings(), before, before) == ""


# ---------------------------------------------------------------- batches


def test_a_batch_has_both_records_of_all_types_and_changes_their_weights_alone() -> None:
    both = settings(types=["A", "AAAA"])
    sets = [weighted(who, 9, type_, HealthCheckId=who) for type_ in ("A", "AAAA") for who in "bg"]
    request = batch(both, NAMES, Wanted(2500), reading(both, NAMES, sets))
    assert request["HostedZoneId"] == "Z1"
    changes = request["ChangeBatch"]["Changes"]
    assert [change["Action"] for change in changes] == ["UPSERT"] * 4
    assert [change["ResourceRecordSet"] for change in changes] == [
        {**one, "Weight": weight} for one, weight in zip(sets, [75, 25, 75, 25], strict=True)
    ]
    assert request["ChangeBatch"]["Comment"] == "Turnout: green 25 % of shop.example."


def test_what_was_read_is_restored_to_the_letter() -> None:
    pair = [weighted("b", 7), weighted("g", 3)]
    first = reading(settings(), NAMES, pair)
    now = reading(settings(), NAMES, [weighted("b", 0), weighted("g", 100)])
    request = batch(settings(), NAMES, Wanted(3000, exact=first.exact), now)
    assert [change["ResourceRecordSet"] for change in request["ChangeBatch"]["Changes"]] == pair


@pytest.mark.parametrize(("blue", "green"), [(0, 0), (256, 0), (0, 256), (-1, 1)])
def test_weights_that_route_53_has_not_are_refused_here(blue: int, green: int) -> None:
    read = reading(settings(), NAMES, [weighted("b", 1), weighted("g", 1)])
    exact = {"A b": weighted("b", blue), "A g": weighted("g", green)}
    with pytest.raises(NotExpressible):
        batch(settings(), NAMES, Wanted(0, exact=exact), read)


def test_the_empty_values_of_an_alias_are_not_written() -> None:
    alias = {"HostedZoneId": "Z2", "DNSName": "lb.", "EvaluateTargetHealth": True}
    pair = [weighted(who, 1, AliasTarget=alias, ResourceRecords=[]) for who in "bg"]
    request = batch(settings(), NAMES, Wanted(0), reading(settings(), NAMES, pair))
    for change in request["ChangeBatch"]["Changes"]:
        assert "ResourceRecords" not in change["ResourceRecordSet"]


def test_a_comment_fits_whatever_the_name_is() -> None:
    long = settings(name=".".join(["a" * 60] * 4))
    name = canonical(long.name)
    pair = [weighted("b", 1, Name=name), weighted("g", 1, Name=name)]
    request = repeated(long, reading(long, NAMES, pair))
    assert len(request["ChangeBatch"]["Comment"]) <= 256


# ---------------------------------------------------------------- one record, switched whole


def balancer(name: str, **more: Any) -> dict[str, Any]:
    return {"dns_name": f"{name}.elb.example", "zone_id": "Z2", **more}


def alias(name: str, health: bool = False, **more: Any) -> dict[str, Any]:
    target = {
        "HostedZoneId": "Z2", "DNSName": f"{name}.ELB.example.", "EvaluateTargetHealth": health,
    }  # fmt: skip
    return {"Name": "shop.example.", "Type": "A", "AliasTarget": target, **more}


TWO = {"blue": balancer("one"), "green": balancer("two")}


def test_an_alias_is_where_it_leads() -> None:
    whole = settings(targets=TWO)
    for name, weight in (("one", 0), ("two", 10_000)):
        read = reading(whole, NAMES, [alias(name)])
        assert (read.second_weight, read.problems, read.ttl_s) == (weight, (), 60.0)


@pytest.mark.parametrize(
    ("record_sets", "words"),
    [
        ([alias("three")], ["leads to three.ELB.example.", "blue's one.elb.example."]),
        (
            [alias("one", SetIdentifier="b", Weight=1)],
            ["of the routing policy weighted", "Write set_identifiers"],
        ),
        ([], ["there is no shop.example. A", "with blue's target"]),
    ],
)
def test_an_alias_that_is_not_as_configured_is_said(
    record_sets: list[dict[str, Any]], words: list[str]
) -> None:
    read = reading(settings(targets=TWO), NAMES, record_sets)
    assert read.second_weight is None
    for word in words:
        assert word in "; ".join(read.problems)


@pytest.mark.parametrize(("configured", "becomes"), [(None, True), (False, False), (True, True)])
def test_the_evaluation_of_health_is_kept_or_as_configured(
    configured: bool | None, becomes: bool
) -> None:
    more = {} if configured is None else {"evaluate_target_health": configured}
    whole = settings(targets={"blue": balancer("one"), "green": balancer("two", **more)})
    read = reading(whole, NAMES, [alias("one", health=True)])
    (change,) = batch(whole, NAMES, Wanted(10_000), read)["ChangeBatch"]["Changes"]
    assert change["ResourceRecordSet"] == {
        "Name": "shop.example.",
        "Type": "A",
        "AliasTarget": {
            "HostedZoneId": "Z2",
            "DNSName": "two.elb.example.",
            "EvaluateTargetHealth": becomes,
        },
    }
    # What a switch does not touch is compared from one reading to the next.
    assert ("EvaluateTargetHealth" in str(read.settings)) == (configured is None)


def test_a_record_with_values_takes_those_of_its_own_type() -> None:
    whole = settings(
        types=["A", "AAAA"],
        targets={
            "blue": {"values": ["192.0.2.1", "2001:DB8::0:1"]},
            "green": {"values": ["192.0.2.2", "192.0.2.3", "2001:db8::2"]},
        },
    )
    plain = {"Name": "shop.example.", "TTL": 30, "HealthCheckId": "h"}
    sets = [
        {**plain, "Type": "A", "ResourceRecords": [{"Value": "192.0.2.1"}]},
        {**plain, "Type": "AAAA", "ResourceRecords": [{"Value": "2001:0db8::1"}]},
    ]
    read = reading(whole, NAMES, sets)
    assert (read.second_weight, read.problems, read.ttl_s) == (0, (), 30.0)
    changes = batch(whole, NAMES, Wanted(10_000), read)["ChangeBatch"]["Changes"]
    assert [change["ResourceRecordSet"] for change in changes] == [
        {**sets[0], "ResourceRecords": [{"Value": "192.0.2.2"}, {"Value": "192.0.2.3"}]},
        {**sets[1], "ResourceRecords": [{"Value": "2001:db8::2"}]},
    ]


def test_one_record_cannot_be_split() -> None:
    whole = settings(targets=TWO)
    with pytest.raises(NotExpressible, match=r"cannot have 30 %.*\[100\]"):
        batch(whole, NAMES, Wanted(3000), reading(whole, NAMES, [alias("one")]))
