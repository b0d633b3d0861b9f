"""The `url_map` router: what a URL map says, what is asked of it, and its own cases.

What every router must do is in `test_conformance`.
"""

import copy
import json
from typing import Any

import pytest

from tests.fakes.base import Fault
from tests.fakes.url_map import backend, merge, weights
from tests.outer.google_cases import ended, problems_of, served
from tests.outer.target_url_map import RegionalUrlMapTarget, UrlMapTarget
from turnout.config.weights import WHOLE
from turnout.control.outer.seams import (
    Conflict,
    Refused,
    ReplyLost,
    Throttled,
    Verdict,
    Wanted,
)
from turnout.control.outer.url_map import (
    Sides,
    Where,
    newest,
    patch,
    side_of,
    understand,
    weights_of,
)

SIDES = Sides(("blue", "green"), ("shop-blue", "shop-green"), Where())
CANARY = {"backendService": backend("shop-canary"), "weight": 10}
PATH_RULES = {
    "name": "shop",
    "defaultRouteAction": {"weightedBackendServices": weights(7, 3)},
    "pathRules": [
        {"paths": ["/cart/*"], "routeAction": {"weightedBackendServices": weights(1, 3)}},
        {"paths": ["/", "/*"], "service": backend("shop-blue")},
    ],
}


def document(entries: list[dict[str, Any]]) -> dict[str, Any]:
    return {"fingerprint": "f", "defaultRouteAction": {"weightedBackendServices": entries}}


# ---------------------------------------------------------------- reading


@pytest.mark.parametrize(
    ("blue", "green", "second_weight"),
    [(100, 0, 0), (0, 1, WHOLE), (3, 1, 2500), (2, 1, 3333), (1000, 1, 10), (0, 1000, WHOLE)],
)
def test_the_second_services_share_is_of_the_sum(blue: int, green: int, second_weight: int) -> None:
    reading = understand(document(weights(blue, green)), SIDES)
    assert (reading.second_weight, list(reading.problems)) == (second_weight, [])


@pytest.mark.parametrize(
    ("there", "problem"),
    [
        ({"defaultService": backend("shop-blue")}, "has no weighted backend services"),
        (document([*weights(90, 0), CANARY]), "a third backend service, of weight 10: shop-canary"),
        (document(weights(1, 0)[:1]), "has no shop-green, which is green's"),
        (document([*weights(1, 0), weights(1, 0)[0]]), "has shop-blue twice"),
        (document(weights(0, 0)), "both weights are 0"),
    ],
)
def test_what_is_not_two_weighted_services_is_a_problem(
    there: dict[str, Any], problem: str
) -> None:
    reading = understand(there, SIDES)
    assert reading.second_weight is None
    assert problem in "; ".join(reading.problems)


@pytest.mark.parametrize(
    ("configured", "same"),
    [
        ("shop-green", True),
        ("projects/acme-prod/global/backendServices/shop-green", True),
        ("global/backendServices/shop-green", True),
        ("green", False),
        ("projects/other/global/backendServices/shop-green", False),
    ],
)
def test_a_backend_service_is_known_by_its_name_or_its_whole_path(
    configured: str, same: bool
) -> None:
    sides = Sides(("blue", "green"), ("shop-blue", configured), Where())
    assert (side_of({"backendService": backend("shop-green")}, sides) == 1) is same


@pytest.mark.parametrize(
    ("where", "second_weight"),
    [
        (Where("shop"), 3000),
        (Where("shop", path="/cart/*"), 7500),
        (Where("shop", path="/*"), None),
        (Where("shop", route_priority=1), None),
        (Where("cart"), None),
    ],
)
def test_weights_are_found_where_they_are_said_to_be(
    where: Where, second_weight: int | None
) -> None:
    there = {"pathMatchers": [{"name": "other"}, PATH_RULES]}
    sides = Sides(SIDES.upstreams, SIDES.services, where)
    reading = understand(there, sides)
    assert reading.second_weight == second_weight
    assert bool(reading.problems) is (second_weight is None)


# ---------------------------------------------------------------- asking


@pytest.mark.parametrize("where", [Where("shop"), Where("shop", path="/cart/*")])
def test_a_patch_changes_two_weights_and_nothing_else(where: Where) -> None:
    there = {"fingerprint": "f", "pathMatchers": [{"name": "other"}, PATH_RULES]}
    sides = Sides(SIDES.upstreams, SIDES.services, where)
    before = copy.deepcopy(there)
    change = patch(there, where, weights_of(Wanted(4000), understand(there, sides), sides))
    after = merge(there, change)
    assert there == before
    assert understand(after, sides).second_weight == 4000
    assert understand(after, sides).settings == understand(there, sides).settings
    back = patch(
        after,
        where,
        weights_of(Wanted(0, understand(there, sides).exact), understand(after, sides), sides),
    )
    assert merge(after, back) == there


def test_the_newest_operation_on_a_map_that_did_not_fail_is_taken() -> None:
    link = "https://www.googleapis.com/compute/v1/projects/p/global/urlMaps/shop-map"
    operations: list[dict[str, Any]] = [
        {"name": "5", "targetLink": f"{link}-2"},
        {"name": "4", "targetLink": link, "error": {"errors": []}},
        {"name": "3", "targetLink": link},
        {"name": "2", "targetLink": link},
    ]
    assert newest(operations, "global/urlMaps/shop-map") == "3"
    assert newest(operations, "global/urlMaps/map") == ""


# ---------------------------------------------------------------- with the fake


async def test_the_call_is_one_patch_with_the_fingerprint() -> None:
    async with served(UrlMapTarget()) as (there, router):
        fingerprint = there.fake.fingerprint
        await router.set_weights(Wanted(1230), await router.read())
        (call,) = there.fake.writing
        assert (call.method, call.path) == (
            "PATCH", "/compute/v1/projects/acme-prod/global/urlMaps/shop-map",
        )  # fmt: skip
        body = json.loads(call.body)
        assert set(body) == {"fingerprint", "defaultRouteAction"}
        assert body["fingerprint"] == fingerprint
        entries = body["defaultRouteAction"]["weightedBackendServices"]
        assert [entry["weight"] for entry in entries] == [877, 123]
        assert entries[1]["headerAction"] == weights(0, 0)[1]["headerAction"]


async def test_another_services_rule_in_the_same_map_is_kept_and_no_conflict() -> None:
    async with served(RegionalUrlMapTarget()) as (there, router):
        reading = await router.read()
        others = copy.deepcopy(there.fake.document)
        cart = {"backendService": backend("cart-green", there.scope), "weight": 1}
        others["pathMatchers"][1]["routeRules"][0]["routeAction"] = {
            "weightedBackendServices": [cart]
        }
        there.fake.change_outside(**others)
        await ended(router, await router.set_weights(Wanted(WHOLE), reading))
        assert there.second_weight() == WHOLE
        rule = there.fake.document["pathMatchers"][1]["routeRules"][0]
        assert rule["routeAction"]["weightedBackendServices"] == [cart]


async def test_two_of_the_same_map_at_once_both_succeed() -> None:
    """One is overtaken between its reading and its call: 412, and it is made anew."""
    async with served(RegionalUrlMapTarget()) as (there, router):
        reading = await router.read()
        serve, left = there.fake.serve, [1]

        def overtake(request: Any, body: bytes) -> Any:
            if request.method == "PATCH" and left:
                left.pop()
                there.fake.change_outside(hostRules=[{"hosts": ["*"], "pathMatcher": "shop"}])
            return serve(request, body)

        there.fake.serve = overtake  # type: ignore[method-assign]
        await ended(router, await router.set_weights(Wanted(WHOLE), reading))
        assert [call.status for call in there.fake.writing] == [412, 200]
        assert there.fake.document["hostRules"]


async def test_an_operation_still_at_work_on_the_map_is_waited_for() -> None:
    async with served(UrlMapTarget()) as (there, router):
        there.fake.pending_s = float("inf")
        await router.set_weights(Wanted(5000), await router.read())
        with pytest.raises(Throttled, match="not ready"):
            await router.set_weights(Wanted(WHOLE), await router.read())


async def test_weights_that_somebody_moved_are_a_conflict_with_the_difference() -> None:
    async with served(UrlMapTarget()) as (there, router):
        reading = await router.read()
        there.change_weight_outside()
        with pytest.raises(Conflict, match=r"green 0 %, now 3\.12 %.*shop-blue: 100, now 31"):
            await router.set_weights(Wanted(WHOLE), reading)


async def test_the_operation_of_a_lost_reply_is_found_again() -> None:
    async with served(UrlMapTarget()) as (there, router):
        there.fake.inject(Fault.LOST_AFTER)
        with pytest.raises(ReplyLost):
            await router.set_weights(Wanted(WHOLE), await router.read())
        change = await router.confirm(Wanted(WHOLE), await router.read())
        assert change.id == "operation-1"
        assert len(there.fake.writing) == 1


async def test_a_forgotten_operation_is_told_by_the_weights() -> None:
    async with served(UrlMapTarget()) as (there, router):
        change = await router.set_weights(Wanted(WHOLE), await router.read())
        there.fake.forgets = True
        assert (await router.poll(change)).verdict is Verdict.IN_SYNC
        there.change_weight_outside()
        assert (await router.poll(change)).verdict is Verdict.UNKNOWN


async def test_why_an_operation_failed_is_said() -> None:
    async with served(UrlMapTarget()) as (there, router):
        there.fake.fails_next = True
        change = await router.set_weights(Wanted(WHOLE), await router.read())
        found = await ended(router, change)
        assert found.verdict is Verdict.FAILED
        assert found.detail == "INTERNAL_ERROR It could not be carried out."


async def test_done_is_not_in_sync_before_it_has_settled() -> None:
    there = UrlMapTarget()
    there.settle = "1m"
    async with served(there) as (_, router):
        change = await router.set_weights(Wanted(WHOLE), await router.read())
        first = await router.poll(change)
        assert there.fake.shown(there.fake.operations[0])["status"] == "DONE"
        assert first.verdict is Verdict.PENDING and "settle" in first.detail


async def test_a_map_that_is_not_there_is_a_problem_in_the_reading() -> None:
    there = UrlMapTarget()
    async with served(there):
        there.settings = lambda: {**UrlMapTarget.settings(there), "url_map": "shp"}  # type: ignore[method-assign]
        router = there.router()
        (problem,) = (await router.read()).problems
        assert "there is no such URL map" in problem
        with pytest.raises((Conflict, Refused)):
            await router.set_weights(Wanted(WHOLE), await router.read())
        await router.close()


# ---------------------------------------------------------------- settings

GOOD: dict[str, Any] = {
    "kind": "url_map", "project": "acme-prod", "url_map": "shop-map",
    "backend_services": {"blue": "shop-blue", "green": "shop-green"},
}  # fmt: skip


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        ({}, ""),
        ({"region": "europe-west1", "path_matcher": "shop", "path": "/cart/*"}, ""),
        ({"backend_services": {"blue": "shop-blue"}}, "green is missing"),
        ({"backend_services": {"blue": "s", "green": "s"}}, "are the same there"),
        ({"backend_services": {"blue": "Shop", "green": "s"}}, "a backend service's name"),
        ({"route_priority": 1}, "it is a path matcher's"),
        ({"path_matcher": "m", "route_priority": 1, "path": "/"}, "Leave one of them out"),
    ],
)
def test_settings_that_do_not_go_together_are_named(more: dict[str, Any], problem: str) -> None:
    found = problems_of({**GOOD, **more})
    assert problem in found if problem else found == ""
