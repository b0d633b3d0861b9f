"""The `traffic_manager` router: what a profile says, what is asked of it, and its own cases.

What every router must do is in `test_conformance`.
"""

import copy
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.fakes.azure import FakeTrafficManager
from tests.outer.google_cases import ended, problems_of
from tests.outer.target_traffic_manager import TrafficManagerTarget
from turnout.config.weights import WHOLE
from turnout.control.outer.seams import Conflict, NotExpressible, Router, Verdict, Wanted
from turnout.control.outer.traffic_manager import (
    body_of,
    progress_of,
    reading_of,
    share,
    wanted_of,
)

NAMED = ("shop-blue", "shop-green")


@pytest.fixture
async def target(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[TrafficManagerTarget]:
    made = TrafficManagerTarget()
    async with made.serve():
        for name, value in made.environment().items():
            monkeypatch.setenv(name, value)
        yield made


@pytest.fixture
def fake(target: TrafficManagerTarget) -> FakeTrafficManager:
    return target.fake


@pytest.fixture
async def router(target: TrafficManagerTarget) -> AsyncIterator[Router]:
    made = target.router()
    yield made
    await made.close()


# ---------------------------------------------------------------- by value


def endpoint(name: str, weight: int, status: str = "Enabled", **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "type": "Microsoft.Network/trafficManagerProfiles/azureEndpoints",
        "properties": {
            "endpointStatus": status, "weight": weight, "targetResourceId": f"/x/{name}",
            "endpointMonitorStatus": "Online" if status == "Enabled" else "Disabled", **more,
        },
    }  # fmt: skip


def profile(*endpoints: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "properties": {
            "trafficRoutingMethod": "Weighted", "profileStatus": "Enabled",
            "dnsConfig": {"ttl": 35}, "endpoints": list(endpoints), **more,
        }
    }  # fmt: skip


BOTH = profile(endpoint("shop-blue", 900), endpoint("shop-green", 100))


@pytest.mark.parametrize(
    ("blue", "green", "weight"),
    [
        ((1, "Enabled"), (1, "Disabled"), 0),
        ((1, "Disabled"), (7, "Enabled"), WHOLE),
        ((900, "Enabled"), (100, "Enabled"), 1000),
        ((3, "Enabled"), (1, "Enabled"), 2500),
        ((2, "Enabled"), (1, "Enabled"), 3333),
        ((1000, "Enabled"), (1, "Enabled"), 10),
        ((1, "Disabled"), (1, "Disabled"), None),
    ],
)
def test_weights_and_statuses_make_a_share(
    blue: tuple[int, str], green: tuple[int, str], weight: int | None
) -> None:
    exact = {
        name: {"weight": parts, "endpointStatus": status}
        for name, (parts, status) in zip(NAMED, (blue, green), strict=True)
    }
    assert share(exact, NAMED) == weight


@pytest.mark.parametrize(
    ("document", "words"),
    [
        (
            profile(endpoint("shop-blue", 1, "Disabled"), endpoint("shop-green", 1, "Disabled")),
            "shop-blue and shop-green are both disabled",
        ),
        (profile(endpoint("shop-blue", 1)), "no endpoint shop-green in the profile; it has shop-"),
        (
            profile(*BOTH["properties"]["endpoints"], endpoint("old", 5)),
            "endpoint old is enabled with weight 5, and is none of shop-blue and shop-green",
        ),
        (
            profile(*BOTH["properties"]["endpoints"], endpoint("SHOP-BLUE", 5)),
            "two endpoints shop-blue, of different types",
        ),
        (
            profile(*BOTH["properties"]["endpoints"], trafficRoutingMethod="Priority"),
            "trafficRoutingMethod is Priority",
        ),
        (
            profile(*BOTH["properties"]["endpoints"], profileStatus="Disabled"),
            "the profile is disabled",
        ),
    ],
)
def test_what_does_not_split_by_two_weights_is_a_problem(document: Any, words: str) -> None:
    reading = reading_of(document, NAMED)
    assert reading.second_weight is None
    assert words in "; ".join(reading.problems)


def test_a_third_endpoint_that_is_disabled_is_no_problem() -> None:
    document = profile(*BOTH["properties"]["endpoints"], endpoint("old", 5, "Disabled"))
    assert reading_of(document, NAMED).problems == ()


def test_health_is_a_warning_and_no_setting() -> None:
    document = copy.deepcopy(BOTH)
    document["properties"]["endpoints"][1]["properties"]["endpointMonitorStatus"] = "Degraded"
    found, well = reading_of(document, NAMED), reading_of(BOTH, NAMED)
    assert "finds it Degraded" in found.warnings[0]
    assert (found.version, found.settings) == (well.version, well.settings)
    assert (found.ttl_s, well.warnings) == (35.0, ())


@pytest.mark.parametrize(
    ("weight", "blue", "green"),
    [
        (0, (900, "Enabled"), (100, "Disabled")),
        (WHOLE, (900, "Disabled"), (100, "Enabled")),
        (1, (999, "Enabled"), (1, "Enabled")),
        (3333, (667, "Enabled"), (333, "Enabled")),
        (9999, (1, "Enabled"), (999, "Enabled")),
        (1000, (900, "Enabled"), (100, "Enabled")),
    ],
)
def test_no_weight_is_0_so_what_has_nothing_is_disabled(
    weight: int, blue: tuple[int, str], green: tuple[int, str]
) -> None:
    goal = wanted_of(Wanted(weight), reading_of(BOTH, NAMED), NAMED)
    assert {name: (one["weight"], one["endpointStatus"]) for name, one in goal.items()} == {
        "shop-blue": blue,
        "shop-green": green,
    }


def test_what_is_not_there_cannot_be_weighed() -> None:
    reading = reading_of(profile(endpoint("shop-blue", 1)), NAMED)
    with pytest.raises(NotExpressible, match="there is no endpoint shop-green"):
        wanted_of(Wanted(5000), reading, NAMED)


def test_the_call_has_all_endpoints_as_they_were_but_for_what_is_moved() -> None:
    third = endpoint("old", 5, "Disabled", geoMapping=["GEO-EU"])
    document = profile(*BOTH["properties"]["endpoints"], third)
    body = body_of(document, wanted_of(Wanted(WHOLE), reading_of(document, NAMED), NAMED))
    assert list(body) == ["properties"]
    assert list(body["properties"]) == ["endpoints"]
    for before, after in zip(
        document["properties"]["endpoints"], body["properties"]["endpoints"], strict=True
    ):
        kept = {
            key: value
            for key, value in before["properties"].items()
            if key != "endpointMonitorStatus"
        }
        status = {"shop-blue": "Disabled", "shop-green": "Enabled", "old": "Disabled"}
        assert after["properties"] == {**kept, "endpointStatus": status[before["name"]]}
        assert (after["name"], after["type"]) == (before["name"], before["type"])


@pytest.mark.parametrize(
    ("green", "gains", "verdict", "words"),
    [
        ("Online", ["shop-green"], Verdict.IN_SYNC, "read back"),
        ("Unmonitored", ["shop-green"], Verdict.IN_SYNC, "read back"),
        ("CheckingEndpoint", [], Verdict.PENDING, "endpoint shop-green is CheckingEndpoint"),
        ("Degraded", ["shop-green"], Verdict.PENDING, "endpoint shop-green is Degraded"),
        ("Stopped", ["shop-green"], Verdict.PENDING, "endpoint shop-green is Stopped"),
        # On the way back, or where it loses: its health is nobody's condition.
        ("Degraded", [], Verdict.IN_SYNC, "read back"),
        ("Degraded", ["shop-blue"], Verdict.IN_SYNC, "read back"),
    ],
)
def test_what_gains_must_be_found_healthy(
    green: str, gains: list[str], verdict: Verdict, words: str
) -> None:
    document = copy.deepcopy(BOTH)
    document["properties"]["endpoints"][1]["properties"]["endpointMonitorStatus"] = green
    change = {"endpoints": reading_of(BOTH, NAMED).exact, "gains": gains}
    progress = progress_of(document, NAMED, change)
    assert (progress.verdict, progress.detail) == (verdict, words)


def test_what_is_not_written_yet_is_pending_with_the_difference() -> None:
    goal = wanted_of(Wanted(2000), reading_of(BOTH, NAMED), NAMED)
    progress = progress_of(BOTH, NAMED, {"endpoints": goal, "gains": []})
    assert progress.verdict is Verdict.PENDING
    assert "shop-green.weight: 200, now 100" in progress.detail


# ---------------------------------------------------------------- against the fake


async def test_both_endpoints_are_written_in_one_call(
    fake: FakeTrafficManager, router: Router
) -> None:
    change = await router.set_weights(Wanted(2500), await router.read())
    (call,) = fake.writing
    assert (call.method, call.path.rpartition("/")[2]) == ("PATCH", "shop?api-version=2022-04-01")
    sent = {
        one["name"]: (one["properties"]["weight"], one["properties"]["endpointStatus"])
        for one in json.loads(call.body)["properties"]["endpoints"]
    }
    assert sent == {
        "shop-blue": (750, "Enabled"), "shop-green": (250, "Enabled"), "old": (7, "Disabled"),
    }  # fmt: skip
    assert (await ended(router, change)).verdict is Verdict.IN_SYNC


async def test_what_is_so_already_is_written_all_the_same(
    fake: FakeTrafficManager, router: Router
) -> None:
    """A change before may still be under way, and must not be the last."""
    await ended(router, await router.set_weights(Wanted(0), await router.read()))
    assert len(fake.writing) == 1


async def test_everything_else_of_the_profile_stays(
    fake: FakeTrafficManager, router: Router
) -> None:
    before = fake.snapshot()
    for weight in (2500, WHOLE, 0):
        await ended(router, await router.set_weights(Wanted(weight), await router.read()))
    after = fake.snapshot()
    for document in (before, after):
        for one in document["properties"]["endpoints"]:
            one["properties"].pop("weight")
    assert after == before


async def test_a_header_field_of_a_probe_is_seen_to_change_and_never_shown(
    fake: FakeTrafficManager, router: Router
) -> None:
    reading = await router.read()
    fake.endpoint("shop-blue")["customHeaders"][0]["value"] = "another-never-seen"
    with pytest.raises(Conflict, match="customHeaders") as conflict:
        await router.set_weights(Wanted(WHOLE), reading)
    assert "never-seen" not in f"{reading!r} {conflict.value}"


async def test_the_way_back_does_not_wait_for_health(
    fake: FakeTrafficManager, router: Router
) -> None:
    first = await router.read()
    await ended(router, await router.set_weights(Wanted(WHOLE), first))
    fake.health["shop-blue"] = "Degraded"
    wanted = Wanted(0, exact=first.exact)
    change = await router.set_weights(wanted, await router.read())
    assert (await router.poll(change)).verdict is Verdict.IN_SYNC
    assert "finds it Degraded" in (await router.read()).warnings[0]


async def test_what_is_read_back_settles(
    target: TrafficManagerTarget, fake: FakeTrafficManager
) -> None:
    settings = {**target.settings(), "settle": "4m"}
    target.settings = lambda: settings  # type: ignore[method-assign]
    router = target.router()
    change = await router.set_weights(Wanted(WHOLE), await router.read())
    progress = await router.poll(change)
    assert progress.verdict is Verdict.PENDING
    assert "in sync in 240 s (settle)" in progress.detail
    await router.close()


async def test_the_tail_is_the_profiles_time_to_live(router: Router) -> None:
    assert (await router.tail(0)).ttl_s == 60


async def test_the_fake_refuses_what_azure_does(fake: FakeTrafficManager, router: Router) -> None:
    reading = await router.read()
    exact = {**reading.exact, "shop-green": {"weight": 0, "endpointStatus": "Enabled"}}
    with pytest.raises(Exception, match="The weight '0' must be between 1 and 1000"):
        await router.set_weights(Wanted(WHOLE, exact=exact), reading)


# ---------------------------------------------------------------- settings

SETTINGS = {
    "kind": "traffic_manager", "subscription": "s", "resource_group": "g", "profile": "shop",
    "endpoints": {"blue": "b", "green": "g"},
}  # fmt: skip


def test_a_change_must_have_time_to_settle() -> None:
    assert "Write a shorter one" in problems_of({**SETTINGS, "settle": "5m"})


@pytest.mark.parametrize(
    ("endpoints", "words"),
    [
        ({"blue": "b", "green": "g"}, ""),
        ({"blue": "b"}, "green is missing. Write one for each upstream"),
        ({"blue": "b", "green": "B"}, "two upstreams have the same. Write one for each"),
        ({"blue": "b", "green": "g", "red": "r"}, "it is no upstream of the service"),
    ],
)
def test_settings_that_do_not_go_together_are_said(endpoints: Any, words: str) -> None:
    said = problems_of({**SETTINGS, "endpoints": endpoints})
    assert words in said if words else said == ""
