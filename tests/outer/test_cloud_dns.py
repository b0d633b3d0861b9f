"""The `cloud_dns` router: what records say, what is asked, and its own cases.

What every router must do is in `test_conformance`.
"""

import json
from typing import Any

import pytest

from tests.fakes.base import Fault
from tests.fakes.cloud_dns import NAME, plain, weighted
from tests.outer.google_cases import ended, problems_of, served
from tests.outer.target_cloud_dns import BLUE, GREEN, CloudDnsTarget, WholeCloudDnsTarget
from turnout.config.weights import WHOLE
from turnout.control.outer.cloud_dns import (
    Sides,
    becomes,
    canonical,
    made,
    request,
    understand,
)
from turnout.control.outer.seams import (
    Conflict,
    NotExpressible,
    Refused,
    ReplyLost,
    Throttled,
    Verdict,
    Wanted,
)

VALUES = {
    "A": (frozenset({"192.0.2.1"}), frozenset({"192.0.2.2"})),
    "AAAA": (frozenset({"2001:db8::1"}), frozenset({"2001:db8::2"})),
}
A_ALONE = Sides(("blue", "green"), NAME, True, {"A": VALUES["A"]})
BOTH = Sides(("blue", "green"), NAME, True, VALUES)
PLAIN = Sides(("blue", "green"), NAME, False, {"A": VALUES["A"]})


def of_a(blue: float, green: float, *more: tuple[float, str]) -> dict[str, Any]:
    return weighted("A", (blue, "192.0.2.1"), (green, "192.0.2.2"), *more)


# ---------------------------------------------------------------- reading


@pytest.mark.parametrize(
    ("blue", "green", "second_weight"),
    [
        (100, 0, 0),
        (0, 0.5, WHOLE),
        (3, 1, 2500),
        (2, 1, 3333),
        (0.7, 0.3, 3000),
        # What is neither nothing nor everything stays so.
        (1e9, 1, 1),
        (1, 1e9, WHOLE - 1),
    ],
)
def test_the_second_sides_share_is_of_the_sum(
    blue: float, green: float, second_weight: int
) -> None:
    reading = understand([of_a(blue, green)], A_ALONE)
    assert (reading.second_weight, list(reading.problems)) == (second_weight, [])


def test_a_weight_that_is_left_out_is_nothing() -> None:
    record = of_a(1, 0)
    del record["routingPolicy"]["wrr"]["items"][1]["weight"]
    assert understand([record], A_ALONE).second_weight == 0


@pytest.mark.parametrize(
    ("records", "problem"),
    [
        ([], "there is no record set shop.example. A"),
        ([of_a(1, 0, (1, "192.0.2.3"))], "a third item, of weight 1: 192.0.2.3"),
        ([of_a(0, 0)], "all weights are 0"),
        ([of_a(1, 0, (1, "192.0.2.2"))], "two items of green"),
        ([weighted("A", (1, "192.0.2.1"))], "no item of green: 192.0.2.2"),
        ([plain("A", "192.0.2.1")], "no weighted round robin policy"),
        ([{**plain("A"), "routingPolicy": {"geo": {"items": []}}}], "no weighted round robin"),
    ],
)
def test_what_is_not_two_weighted_sides_is_a_problem(
    records: list[dict[str, Any]], problem: str
) -> None:
    reading = understand(records, A_ALONE)
    assert reading.second_weight is None
    assert problem in "; ".join(reading.problems)


def test_a_third_item_without_weight_is_kept() -> None:
    reading = understand([of_a(1, 0, (0, "192.0.2.3"))], A_ALONE)
    assert list(reading.problems) == []
    after = becomes(Wanted(WHOLE), reading, A_ALONE)["A"]
    weights = [item["weight"] for item in after["routingPolicy"]["wrr"]["items"]]
    assert weights == [0, 100, 0]


def test_types_that_disagree_are_a_problem() -> None:
    records = [of_a(1, 0), weighted("AAAA", (1, "2001:db8::1"), (1, "2001:db8::2"))]
    (problem,) = understand(records, BOTH).problems
    assert "A 0 %, AAAA 50 %" in problem


def test_sides_may_be_known_by_what_is_health_checked() -> None:
    record = of_a(1, 0)
    one, other = record["routingPolicy"]["wrr"]["items"]
    one["healthCheckedTargets"] = {"externalEndpoints": one.pop("rrdatas")}
    balancer = {"ipAddress": other.pop("rrdatas")[0], "port": "80", "project": "p"}
    other["healthCheckedTargets"] = {"internalLoadBalancers": [balancer]}
    reading = understand([record], A_ALONE)
    assert (reading.second_weight, list(reading.problems)) == (0, [])
    after = becomes(Wanted(2500), reading, A_ALONE)["A"]
    assert after["routingPolicy"]["wrr"]["items"] == [
        {**one, "weight": 75},
        {**other, "weight": 25},
    ]


def test_the_longest_time_to_live_counts() -> None:
    slow = {**weighted("AAAA", (1, "2001:db8::1"), (0, "2001:db8::2")), "ttl": 300}
    assert understand([of_a(1, 0), slow], BOTH).ttl_s == 300


@pytest.mark.parametrize(
    ("value", "same"),
    [
        ("2001:0DB8:0:0::1", "2001:db8::1"),
        ("192.0.2.1", "192.0.2.1"),
        ("Shop.Example.NET", "shop.example.net."),
        ("shop.example.net.", "shop.example.net."),
    ],
)
def test_values_have_one_spelling(value: str, same: str) -> None:
    assert canonical(value) == same


def test_plain_records_are_one_side_or_the_other() -> None:
    assert understand([plain("A", "192.0.2.1")], PLAIN).second_weight == 0
    assert understand([plain("A", "192.0.2.2")], PLAIN).second_weight == WHOLE
    (problem,) = understand([plain("A", "192.0.2.1", "192.0.2.2")], PLAIN).problems
    assert "leads to neither side: 192.0.2.1, 192.0.2.2" in problem
    (problem,) = understand([of_a(1, 0)], PLAIN).problems
    assert "mode: weighted" in problem


# ---------------------------------------------------------------- asking


def test_types_that_stay_are_not_in_the_change() -> None:
    before = {"A": of_a(1, 0), "AAAA": plain("AAAA", "2001:db8::1")}
    after = {"A": of_a(0, 1), "AAAA": plain("AAAA", "2001:db8::1")}
    assert request(before, after) == {"deletions": [before["A"]], "additions": [after["A"]]}


def test_a_split_of_plain_records_cannot_be() -> None:
    reading = understand([plain("A", "192.0.2.1")], PLAIN)
    with pytest.raises(NotExpressible, match="switched whole"):
        becomes(Wanted(1), reading, PLAIN)


def test_the_change_whose_reply_was_lost_is_the_newest_that_made_a_record() -> None:
    older = {"id": "1", "additions": [of_a(0, 1)]}
    other = {"id": "2", "additions": [of_a(1, 0)]}
    newer = {"id": "3", "additions": [{**of_a(0, 1), "kind": "dns#resourceRecordSet"}]}
    assert made([newer, other, older], {"A": of_a(0, 1)}) == "3"
    assert made([other, older], {"A": of_a(0, 1)}) == "1"
    assert made([other], {"A": of_a(0, 1)}) == ""


# ---------------------------------------------------------------- with the fake


async def test_both_types_go_in_one_change_with_deletions_as_read() -> None:
    async with served(CloudDnsTarget()) as (there, router):
        before = there.fake.snapshot()
        await router.set_weights(Wanted(2550), await router.read())
        (call,) = there.fake.writing
        assert (call.method, call.path.rsplit("/", 1)[-1]) == ("POST", "changes")
        body = json.loads(call.body)
        assert body["deletions"] == [before[NAME, "A"], before[NAME, "AAAA"]]
        for record in body["additions"]:
            weights = [item["weight"] for item in record["routingPolicy"]["wrr"]["items"]]
            assert (weights, record["ttl"]) == ([74.5, 25.5], 60)


async def test_signatures_of_dnssec_are_the_services_own() -> None:
    async with served(CloudDnsTarget()) as (there, router):
        there.fake.signed = True
        first = await router.read()
        await ended(router, await router.set_weights(Wanted(WHOLE), first))
        await ended(router, await router.set_weights(Wanted(0, first.exact), await router.read()))
        assert (await router.read()).exact == first.exact


async def test_a_record_that_is_gone_meanwhile_is_a_conflict() -> None:
    async with served(CloudDnsTarget()) as (there, router):
        reading = await router.read()
        del there.fake.records[NAME, "AAAA"]
        with pytest.raises(Conflict, match=r"AAAA: .* now gone"):
            await router.set_weights(Wanted(WHOLE), reading)
        assert there.fake.effective == []


async def test_a_call_that_is_wrong_is_refused_and_no_conflict() -> None:
    async with served(CloudDnsTarget()) as (there, router):
        reading = await router.read()
        exact = json.loads(json.dumps(reading.exact))
        exact["A"]["ttl"] = -1
        with pytest.raises(Refused, match="ttl"):
            await router.set_weights(Wanted(0, exact=exact), reading)
        assert there.fake.effective == []


async def test_403_for_a_rate_is_throttled_and_no_missing_permission() -> None:
    async with served(CloudDnsTarget()) as (there, router):
        reading = await router.read()
        there.fake.inject(Fault.THROTTLED)
        with pytest.raises(Throttled, match="403"):
            await router.set_weights(Wanted(WHOLE), reading)


async def test_done_is_not_in_sync_before_it_has_settled() -> None:
    there = CloudDnsTarget()
    there.settle = "1m"
    async with served(there) as (_, router):
        change = await router.set_weights(Wanted(WHOLE), await router.read())
        first = await router.poll(change)
        assert (first.verdict, there.fake.changes[0].document(0.0)["status"]) == (
            Verdict.PENDING, "done",
        )  # fmt: skip
        assert "settle" in first.detail


async def test_a_forgotten_change_is_told_by_the_records() -> None:
    async with served(CloudDnsTarget()) as (there, router):
        change = await router.set_weights(Wanted(WHOLE), await router.read())
        there.fake.forgets = True
        assert (await router.poll(change)).verdict is Verdict.IN_SYNC
        there.change_weight_outside()
        assert (await router.poll(change)).verdict is Verdict.UNKNOWN


async def test_the_change_of_a_lost_reply_is_found_again() -> None:
    async with served(CloudDnsTarget()) as (there, router):
        there.fake.inject(Fault.LOST_AFTER)
        with pytest.raises(ReplyLost):
            await router.set_weights(Wanted(WHOLE), await router.read())
        change = await router.confirm(Wanted(WHOLE), await router.read())
        assert change.id == "1"
        assert len(there.fake.writing) == 1


async def test_its_tail_is_the_records_time_to_live() -> None:
    async with served(CloudDnsTarget()) as (_, router):
        assert (await router.tail(0)).ttl_s == 60


async def test_several_addresses_of_a_side_are_written_together() -> None:
    there = WholeCloudDnsTarget()
    settings = {
        **there_settings(there),
        "values": {
            "blue": {"A": ["192.0.2.1", "192.0.2.3"]},
            "green": {"A": ["192.0.2.4", "192.0.2.2"]},
        },
    }
    there.settings = lambda: {**settings, "endpoint": there.fake.url}  # type: ignore[method-assign]
    async with there.serve():
        there.fake.records.clear()
        there.fake.put(plain("A", "192.0.2.3", "192.0.2.1"))
        router = there.router()
        reading = await router.read()
        assert (reading.second_weight, list(reading.problems)) == (0, [])
        await ended(router, await router.set_weights(Wanted(WHOLE), reading))
        assert there.fake.records[NAME, "A"]["rrdatas"] == ["192.0.2.2", "192.0.2.4"]
        await ended(router, await router.set_weights(Wanted(0, reading.exact), await router.read()))
        assert there.fake.records[NAME, "A"]["rrdatas"] == ["192.0.2.3", "192.0.2.1"]
        await router.close()


def there_settings(there: WholeCloudDnsTarget) -> dict[str, Any]:
    there.fake = there.make_fake()
    return dict(there.settings())


# ---------------------------------------------------------------- settings

GOOD: dict[str, Any] = {
    "kind": "cloud_dns", "project": "acme-prod", "zone": "shop-zone", "name": "shop.example",
    "values": {"blue": BLUE, "green": GREEN},
}  # fmt: skip


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        ({}, ""),
        ({"mode": "whole"}, ""),
        ({"name": "*.shop.example"}, ""),
        ({"values": {"blue": BLUE}}, "green is missing"),
        ({"values": {"blue": BLUE, "green": {}}}, "it is empty. Write A, AAAA or CNAME"),
        ({"values": {"blue": BLUE, "green": {"A": ["192.0.2.2"]}}}, "the same types for both"),
        ({"values": {"blue": BLUE, "green": BLUE}}, "are the same there"),
        (
            {"values": {"blue": BLUE, "green": {**GREEN, "A": ["192.0.2.2", "192.0.2.1"]}}},
            "a value is blue's too",
        ),
        ({"values": {"blue": {"A": ["::1"]}, "green": GREEN}}, "an IPv4 address"),
        (
            {"values": {"blue": {**BLUE, "CNAME": "b.example"}, "green": GREEN}},
            "a CNAME has no other records beside it",
        ),
        ({"mode": "both"}, "expected `weighted` or `whole`"),
    ],
)
def test_settings_that_do_not_go_together_are_named(more: dict[str, Any], problem: str) -> None:
    found = problems_of({**GOOD, **more})
    assert problem in found if problem else found == ""
