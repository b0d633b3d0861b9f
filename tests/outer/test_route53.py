"""Route 53's router by real boto3 against a strict fake: what the conformance suite has not."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.base import Fault
from tests.fakes.route53 import FakeRoute53
from tests.outer.target import CONFIGURATION
from tests.outer.target_route53 import (
    ADDRESSES,
    LOAD_BALANCERS,
    NAME,
    SECRET_KEY,
    SESSION_TOKEN,
    environment,
    shop,
)
from turnout.config.loader import load_text
from turnout.config.outer.route53 import Route53
from turnout.config.weights import WHOLE
from turnout.control.outer import loading
from turnout.control.outer.loading import Pace
from turnout.control.outer.seams import (
    Change,
    Conflict,
    Context,
    Denied,
    NotDone,
    NotExpressible,
    OuterError,
    Refused,
    ReplyLost,
    Router,
    Throttled,
    Verdict,
    Wanted,
)

ROOT = Path(__file__).resolve().parents[2]


async def at_once() -> None:
    """No pace."""


def make(zone_id: str, turn: Any = at_once, **more: Any) -> Router:
    """A router of this section of the settings."""
    outer = {"kind": "route53", "zone_id": zone_id, "name": NAME, **more}
    if "targets" not in outer:
        outer["set_identifiers"] = {"blue": "shop-blue", "green": "shop-green"}
    found = load_text(CONFIGURATION.format(outer=outer), environ={}).services[0].outer
    assert found is not None
    context = Context(("blue", "green"), 5.0, turn, lambda what, remedy: None)
    return loading.make_router(found.settings, context)


@pytest.fixture(autouse=True)
def nothing_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment("http://127.0.0.1:9").items():
        monkeypatch.setenv(name, value)


@asynccontextmanager
async def served(fake: FakeRoute53, zone_id: str = "", **more: Any) -> AsyncIterator[Router]:
    async with fake:
        os.environ["AWS_ENDPOINT_URL_ROUTE_53"] = fake.url  # the fixture above puts it back
        router = make(zone_id or fake.zone_id, **more)
        try:
            yield router
        finally:
            await router.close()


async def settled(router: Router, change: Change) -> None:
    async with asyncio.timeout(10):
        while (await router.poll(change)).verdict is Verdict.PENDING:
            await asyncio.sleep(0.01)


# ---------------------------------------------------------------- one batch


async def test_both_records_of_both_types_are_changed_in_one_call() -> None:
    fake = shop("A", "AAAA")
    async with served(fake, types=["A", "AAAA"]) as router:
        change = await router.set_weights(Wanted(WHOLE), await router.read())
        assert (await router.poll(change)).verdict is Verdict.IN_SYNC
    (batch,) = fake.batches
    assert [
        (action, one["Type"], one["SetIdentifier"], one["Weight"]) for action, one in batch
    ] == [
        ("UPSERT", "A", "shop-blue", 0),
        ("UPSERT", "A", "shop-green", 100),
        ("UPSERT", "AAAA", "shop-blue", 0),
        ("UPSERT", "AAAA", "shop-green", 100),
    ]
    assert len(fake.effective) == 1


async def test_a_preview_is_the_batch_that_is_sent() -> None:
    fake = shop()
    async with served(fake) as router:
        reading = await router.read()
        preview = router.preview(Wanted(2500), reading)
        await router.set_weights(Wanted(2500), reading)
    changes = preview["ChangeBatch"]["Changes"]
    assert [(one["Action"], one["ResourceRecordSet"]) for one in changes] == fake.batches[0]


async def test_a_batch_that_is_wrong_in_one_place_changes_nothing() -> None:
    fake = shop("A", "AAAA")
    async with served(fake, types=["A", "AAAA"]) as router:
        reading = await router.read()
        broken = {**reading.exact}
        broken["AAAA shop-green"] = {**broken["AAAA shop-green"], "TTL": 61}
        broken["A shop-blue"] = {**broken["A shop-blue"], "Weight": 1}
        before = fake.snapshot()
        with pytest.raises(Refused, match="weighted sets must contain the same TTL"):
            await router.set_weights(Wanted(0, exact=broken), reading)
        assert fake.snapshot() == before


@pytest.mark.parametrize(
    "kept",
    [
        {"TTL": 17},
        {"HealthCheckId": "check-blue"},
        {"ResourceRecords": [{"Value": "192.0.2.9"}, {"Value": "192.0.2.8"}]},
        {
            "TTL": None,
            "ResourceRecords": None,
            "AliasTarget": {**LOAD_BALANCERS["red"], "EvaluateTargetHealth": True},
        },
    ],
    ids=["ttl", "health-check", "values", "alias"],
)
async def test_everything_beside_the_weight_is_kept(kept: dict[str, Any]) -> None:
    fake = shop()
    for identifier in ("shop-blue", "shop-green"):
        fake.change(NAME, "A", identifier, **kept)
    before = {
        identifier: fake.get(NAME, "A", identifier) for identifier in ("shop-blue", "shop-green")
    }
    async with served(fake) as router:
        await router.set_weights(Wanted(WHOLE), await router.read())
    for (identifier, one), weight in zip(before.items(), (0, 100), strict=True):
        assert fake.get(NAME, "A", identifier) == {**one, "Weight": weight}


async def test_a_third_record_without_weight_stays_as_it_is() -> None:
    fake = shop()
    fake.weighted(NAME, "A", {"shop-old": 0}, ADDRESSES["A"])
    old = fake.get(NAME, "A", "shop-old")
    async with served(fake) as router:
        reading = await router.read()
        assert not reading.problems
        assert any("third record, shop-old, with weight 0" in text for text in reading.warnings)
        await router.set_weights(Wanted(WHOLE), reading)
    assert fake.get(NAME, "A", "shop-old") == old
    assert len(fake.batches[0]) == 2


async def test_cname_records_are_moved() -> None:
    fake = FakeRoute53()
    values = {"shop-blue": "blue.example.net", "shop-green": "green.example.net"}
    fake.weighted(NAME, "CNAME", {"shop-blue": 100, "shop-green": 0}, values)
    async with served(fake, types=["CNAME"]) as router:
        await router.set_weights(Wanted(WHOLE), await router.read())
    assert [record.weight for record in fake.records()] == [0, 100]


async def test_wildcards_and_upper_case_are_the_same_name() -> None:
    fake = FakeRoute53()
    fake.weighted("*.Shop.Example", "A", {"shop-blue": 100, "shop-green": 0}, ADDRESSES["A"])
    async with served(fake, name="*.SHOP.example.") as router:
        reading = await router.read()
        assert (reading.second_weight, list(reading.problems)) == (0, [])
        await router.set_weights(Wanted(WHOLE), reading)
        assert (await router.read()).second_weight == WHOLE
    assert {one["Name"] for _, one in fake.batches[0]} == {r"\052.shop.example."}


# ---------------------------------------------------------------- reading


@pytest.mark.parametrize("page_max", [1, 2, 3, 300])
async def test_pages_are_followed_in_the_middle_of_a_name(page_max: int) -> None:
    fake = shop("A", "AAAA")
    fake.page_max = page_max
    fake.put({"Name": NAME, "Type": "TXT", "TTL": 5, "ResourceRecords": [{"Value": '"x"'}]})
    async with served(fake, types=["A", "AAAA"]) as router:
        assert sorted((await router.read()).exact) == [
            "A shop-blue", "A shop-green", "AAAA shop-blue", "AAAA shop-green",
        ]  # fmt: skip


async def test_a_large_zone_is_not_read_beyond_the_name() -> None:
    fake = shop()
    for number in range(900):
        fake.sets[f"{number}.{NAME}.", "A", ""] = {
            "Name": f"{number}.{NAME}.", "Type": "A", "TTL": 60,
            "ResourceRecords": [{"Value": "192.0.2.77"}],
        }  # fmt: skip
        fake.sets[f"aaa{number}.shop.example.", "TXT", ""] = {
            "Name": f"aaa{number}.shop.example.", "Type": "TXT", "TTL": 60,
            "ResourceRecords": [{"Value": '"x"'}],
        }  # fmt: skip
    async with served(fake) as router:
        assert (await router.read()).second_weight == 0
    assert len(fake.journal) == 1


@pytest.mark.parametrize(
    ("spoiled", "words"),
    [
        ("third", "third record, shop-old, with weight 10"),
        ("ttl", "different TTLs: shop-blue 60 s, shop-green 300 s"),
        ("missing", "no record with the set identifier shop-green; it has shop-blue"),
        ("nothing", f"there is no {NAME}. A in hosted zone Z1234567890"),
        ("simple", "is simple, not weighted"),
        ("latency", "is latency, not weighted"),
        ("cname", "the name has CNAME"),
        ("zero", "both weights"),
    ],
)
async def test_a_set_that_is_not_as_configured_is_a_problem(spoiled: str, words: str) -> None:
    fake = shop()
    simple = {"Name": NAME, "TTL": 60, "ResourceRecords": [{"Value": "192.0.2.9"}]}
    match spoiled:
        case "third":
            fake.weighted(NAME, "A", {"shop-old": 10}, ADDRESSES["A"])
        case "ttl":
            fake.change(NAME, "A", "shop-green", TTL=300)
        case "missing":
            fake.remove(NAME, "A", "shop-green")
        case "zero":
            fake.change(NAME, "A", "shop-blue", Weight=0)
        case _:
            fake.sets.clear()
    match spoiled:
        case "simple":
            fake.put({**simple, "Type": "A"})
        case "latency":
            fake.put({**simple, "Type": "A", "SetIdentifier": "shop-blue", "Region": "eu-west-1"})
        case "cname":
            fake.put({**simple, "Type": "CNAME", "ResourceRecords": [{"Value": "x.example"}]})
    async with served(fake) as router:
        reading = await router.read()
    assert len(reading.problems) == 1
    assert words in reading.problems[0]


async def test_a_and_aaaa_with_different_shares_are_a_problem() -> None:
    fake = shop("A", "AAAA")
    fake.change(NAME, "AAAA", "shop-green", Weight=100)
    async with served(fake, types=["A", "AAAA"]) as router:
        reading = await router.read()
    assert reading.second_weight is None
    assert "A 0 %, AAAA 50 %" in reading.problems[0]


@pytest.mark.parametrize(("fields", "ttl_s"), [({"TTL": 300}, 300.0), ({}, 60.0)])
async def test_the_time_to_live_is_the_records_and_60_s_of_an_alias(
    fields: dict[str, Any], ttl_s: float
) -> None:
    fake = shop()
    for identifier in ("shop-blue", "shop-green"):
        alias = {} if fields else {"AliasTarget": LOAD_BALANCERS["red"]}
        bare: dict[str, Any] = {} if fields else {"TTL": None, "ResourceRecords": None}
        fake.change(NAME, "A", identifier, **fields, **bare, **alias)
    async with served(fake) as router:
        assert (await router.read()).ttl_s == ttl_s
        assert (await router.tail(0)).ttl_s == ttl_s
        assert (await router.tail(0)).requests_per_min is None


# ---------------------------------------------------------------- weights


@pytest.mark.parametrize(("blue", "green"), [(0, 0), (256, 0)])
async def test_weights_that_there_are_not_are_refused_without_a_call(blue: int, green: int) -> None:
    fake = shop()
    async with served(fake) as router:
        reading = await router.read()
        exact = {
            key: {**one, "Weight": weight}
            for (key, one), weight in zip(reading.exact.items(), (blue, green), strict=True)
        }
        with pytest.raises(NotExpressible):
            await router.set_weights(Wanted(0, exact=exact), reading)
    assert fake.writing == []


async def test_what_was_there_is_restored_in_its_own_numbers() -> None:
    fake = shop(blue=17, green=5, ttl=120)
    fake.change(NAME, "A", "shop-blue", HealthCheckId="check-blue")
    before = fake.snapshot()
    async with served(fake) as router:
        first = await router.read()
        await router.set_weights(Wanted(5000), first)
        half = await router.read()
        assert (half.second_weight, fake.snapshot() == before) == (5000, False)
        await router.set_weights(Wanted(first.second_weight or 0, exact=first.exact), half)
    assert fake.snapshot() == before


async def test_the_share_that_is_reached_is_the_one_that_is_said() -> None:
    fake = shop()
    async with served(fake) as router:
        for asked, reached in ((3333, 3333), (1, 39), (9999, 9961), (6667, 6667)):
            assert router.expressible(asked) == reached
            await router.set_weights(Wanted(asked), await router.read())
            assert (await router.read()).second_weight == reached


# ---------------------------------------------------------------- somebody else


async def test_a_change_from_outside_is_a_conflict_with_the_difference() -> None:
    fake = shop()
    async with served(fake) as router:
        reading = await router.read()
        fake.change(NAME, "A", "shop-blue", Weight=42, HealthCheckId="check-blue")
        with pytest.raises(Conflict) as raised:
            await router.set_weights(Wanted(WHOLE), reading)
    assert str(raised.value) == (
        "Route 53: www.shop.example. in hosted zone Z1234567890 is not as it was read: "
        "A shop-blue.HealthCheckId: not there before, now check-blue; "
        "A shop-blue.Weight: 100, now 42"
    )
    assert fake.writing == []


async def test_what_is_confirmed_must_still_be_as_it_was_read() -> None:
    fake = shop()
    async with served(fake) as router:
        reading = await router.read()
        fake.change(NAME, "A", "shop-green", Weight=1)
        with pytest.raises(Conflict, match=r"A shop-green\.Weight: 0, now 1"):
            await router.confirm(Wanted(0), reading)
    assert fake.writing == []


async def test_a_third_record_that_appears_is_seen_as_a_changed_setting() -> None:
    fake = shop()
    async with served(fake) as router:
        reading = await router.read()
        fake.weighted(NAME, "A", {"shop-old": 0}, ADDRESSES["A"])
        again = await router.read()
        assert again.settings != reading.settings
        with pytest.raises(Conflict, match=r"A shop-old: not there before"):
            await router.set_weights(Wanted(WHOLE), reading)


# ---------------------------------------------------------------- changes


async def test_a_pending_change_says_since_when() -> None:
    fake = shop()
    fake.pending_s = float("inf")
    async with served(fake) as router:
        change = await router.set_weights(Wanted(WHOLE), await router.read())
        progress = await router.poll(change)
    assert progress.verdict is Verdict.PENDING
    assert progress.detail.startswith("PENDING since 20")
    assert not change.id.startswith("/")
    # What the API lists is not what the name servers answer by.
    assert [record.weight for record in fake.records()] == [0, 100]
    assert [record.weight for record in fake.in_sync_records()] == [100, 0]


async def test_a_change_that_is_not_known_any_more_is_unknown_and_says_why() -> None:
    fake = shop()
    async with served(fake) as router:
        change = await router.set_weights(Wanted(WHOLE), await router.read())
        fake.forget_changes()
        progress = await router.poll(change)
    assert progress.verdict is Verdict.UNKNOWN
    assert f"knows no change {change.id}" in progress.detail


async def test_a_lost_reply_leaves_one_change_and_another_id_to_follow() -> None:
    fake = shop()
    async with served(fake) as router:
        reading = await router.read()
        fake.inject(Fault.LOST_AFTER)
        with pytest.raises(ReplyLost):
            await router.set_weights(Wanted(WHOLE), reading)
        fake.pending_s = 0.1
        there = await router.read()
        assert there.second_weight == WHOLE
        before = fake.snapshot()
        change = await router.confirm(Wanted(WHOLE), there)
        assert (await router.poll(change)).verdict is Verdict.PENDING
        await settled(router, change)
        assert fake.snapshot() == before
    assert len(fake.writing) == 2
    assert len(fake.effective) == 1
    assert fake.batches[0] == fake.batches[1]


# ---------------------------------------------------------------- what may go wrong


@pytest.mark.parametrize("writes", [True, False], ids=["writing", "reading"])
@pytest.mark.parametrize(
    ("fault", "detail", "write_error", "read_error"),
    [
        (Fault.THROTTLED, "", Throttled, Throttled),
        (Fault.DENIED, "ExpiredToken", Denied, Denied),
        (Fault.DENIED, "InvalidClientTokenId", Denied, Denied),
        (Fault.DENIED, "AccessDenied", Denied, Denied),
        (Fault.UNAVAILABLE, "500", ReplyLost, NotDone),
        (Fault.UNAVAILABLE, "503", ReplyLost, NotDone),
        (Fault.LOST_BEFORE, "", ReplyLost, NotDone),
    ],
)
async def test_each_failure_says_whether_it_may_have_been_carried_out(
    fault: Fault,
    detail: str,
    write_error: type[OuterError],
    read_error: type[OuterError],
    writes: bool,
) -> None:
    fake = shop()
    if fault is Fault.DENIED:
        fake.denied_code = detail
    elif detail:
        fake.unavailable_status = int(detail)
    async with served(fake) as router:
        reading = await router.read()
        fake.journal.clear()
        fake.inject(fault, 10, writes=writes)
        with pytest.raises(OuterError) as raised:
            await (router.set_weights(Wanted(WHOLE), reading) if writes else router.read())
    assert type(raised.value) is (write_error if writes else read_error)
    # Made once: whether it is made again is decided by who reads first.
    assert len([call for call in fake.journal if call.writes == writes]) == 1
    assert fake.effective == []
    text = repr(raised.value) + repr(raised.value.__cause__)
    assert "Route 53" in text
    assert SECRET_KEY not in text and SESSION_TOKEN not in text


async def test_an_earlier_change_that_is_still_worked_on_is_throttled_not_refused() -> None:
    fake = shop()
    async with served(fake) as router:
        reading = await router.read()
        fake.inject_prior()
        with pytest.raises(Throttled, match="PriorRequestNotComplete"):
            await router.set_weights(Wanted(WHOLE), reading)
        await router.set_weights(Wanted(WHOLE), reading)
    assert len(fake.effective) == 1


async def test_a_zone_that_is_not_there_is_refused_with_the_remedy() -> None:
    fake = shop()
    async with served(fake, zone_id="Z0THER") as router:
        with pytest.raises(Refused, match=r"NoSuchHostedZone.*Correct zone_id \(Z0THER\)"):
            await router.read()


async def test_a_name_outside_the_zone_is_a_problem() -> None:
    fake = shop()
    async with served(fake, name="shop.example.org") as router:
        (problem,) = (await router.read()).problems
    assert problem.startswith("there is no shop.example.org. A in hosted zone Z1234567890")


async def test_without_credentials_it_is_denied(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = shop()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name)
    async with served(fake) as router:
        with pytest.raises(Denied, match="credentials"):
            await router.read()
    assert fake.journal == []


async def test_nobody_there_is_not_done() -> None:
    fake = shop()
    async with served(fake) as router:
        reading = await router.read()
        await fake.__aexit__()
        with pytest.raises(NotDone):
            await router.set_weights(Wanted(WHOLE), reading)
        await fake.__aenter__()


# ---------------------------------------------------------------- one record, switched whole


WHOLE_TARGETS = {
    name: {
        "dns_name": LOAD_BALANCERS[name]["DNSName"],
        "zone_id": LOAD_BALANCERS[name]["HostedZoneId"],
    }
    for name in ("blue", "green")
}


async def test_an_alias_of_two_types_is_switched_and_restored_in_one_call_each() -> None:
    fake = FakeRoute53(health_checks={"check-blue"})
    for type_ in ("A", "AAAA"):
        alias = {**LOAD_BALANCERS["blue"], "EvaluateTargetHealth": True}
        fake.put({"Name": NAME, "Type": type_, "AliasTarget": alias, "HealthCheckId": "check-blue"})
    before = fake.snapshot()
    async with served(fake, types=["A", "AAAA"], targets=WHOLE_TARGETS) as router:
        assert not router.capabilities.weighted
        first = await router.read()
        await router.set_weights(Wanted(WHOLE), first)
        for type_ in ("A", "AAAA"):
            assert fake.get(NAME, type_) == {
                "Name": f"{NAME}.",
                "Type": type_,
                "AliasTarget": {**LOAD_BALANCERS["green"], "EvaluateTargetHealth": True},
                "HealthCheckId": "check-blue",
            }
        await router.set_weights(Wanted(0, exact=first.exact), await router.read())
    assert fake.snapshot() == before
    assert [len(batch) for batch in fake.batches] == [2, 2]


async def test_a_plain_record_is_switched_between_values() -> None:
    fake = FakeRoute53()
    fake.put(
        {"Name": NAME, "Type": "CNAME", "TTL": 30, "ResourceRecords": [{"Value": "One.example"}]}
    )
    targets = {"blue": {"values": ["one.example"]}, "green": {"values": ["two.example"]}}
    async with served(fake, types=["CNAME"], targets=targets) as router:
        reading = await router.read()
        assert (reading.second_weight, reading.ttl_s) == (0, 30.0)
        await router.set_weights(Wanted(WHOLE), reading)
        assert (await router.read()).second_weight == WHOLE
    assert fake.get(NAME, "CNAME")["ResourceRecords"] == [{"Value": "two.example"}]
    assert fake.get(NAME, "CNAME")["TTL"] == 30


async def test_an_alias_that_leads_elsewhere_is_a_problem() -> None:
    fake = FakeRoute53()
    fake.put({"Name": NAME, "Type": "A", "AliasTarget": LOAD_BALANCERS["red"]})
    async with served(fake, targets=WHOLE_TARGETS) as router:
        reading = await router.read()
    assert reading.second_weight is None
    assert "leads to dualstack.shop-red" in reading.problems[0]


# ---------------------------------------------------------------- many, and without the library


async def test_twenty_services_together_stay_under_the_pace() -> None:
    fake = shop()
    pace = Pace(20.0, 5)
    async with fake, AsyncExitStack() as stack:
        os.environ["AWS_ENDPOINT_URL_ROUTE_53"] = fake.url
        routers = [make(fake.zone_id, pace.turn) for _ in range(20)]
        for router in routers:
            stack.push_async_callback(router.close)
        began_s = time.monotonic()
        await asyncio.gather(*(router.read() for router in routers))
        took_s = time.monotonic() - began_s
    assert len(fake.journal) == 20
    # Twenty calls of which five come at once take the time of fifteen.
    assert took_s >= 15 / 20.0 - 0.05
    # An account has 10 requests a second for each action, 50 at once; 5 by the older limit. At
    # most half of the latter for long, and less than half of the former's 50 at once.
    per_s, burst = Route53.paced
    assert per_s <= 2
    assert burst <= 20


def test_without_boto3_the_extra_is_named_and_nothing_imports_it_early() -> None:
    code = """
import asyncio, sys
from turnout.config.loader import load_text
from turnout.control.outer.loading import make_router
from turnout.control.outer.seams import Context, MissingExtra

settings = load_text(sys.argv[1], environ={}).services[0].outer.settings

async def turn():
    pass

async def main():
    context = Context(("blue", "green"), 1.0, turn, lambda what, remedy: None)
    make_router(settings, context)
    print("imported early:", "boto3" in sys.modules)
    sys.modules["boto3"] = None
    try:
        make_router(settings, context)
    except MissingExtra as error:
        print(error)

asyncio.run(main())
"""
    outer = {
        "kind": "route53", "zone_id": "Z1", "name": NAME,
        "set_identifiers": {"blue": "b", "green": "g"},
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", code, CONFIGURATION.format(outer=outer)],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        "imported early: False",
        "route53 needs boto3, which is not installed: pip install 'turnout[aws]'",
    ]
