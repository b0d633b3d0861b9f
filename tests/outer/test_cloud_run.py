"""The `cloud_run` router: what a service says, what is asked of it, and its own cases.

What every router must do is in `test_conformance`.
"""

import json
from typing import Any

import pytest

from tests.fakes.base import Fault
from tests.fakes.cloud_run import LATEST, target
from tests.outer.google_cases import ended, problems_of, served
from tests.outer.target_cloud_run import CloudRunByRevisionTarget, CloudRunTarget
from turnout.config.weights import WHOLE
from turnout.control.outer.cloud_run import (
    Sides,
    progress,
    restored,
    shares,
    split,
    understand,
)
from turnout.control.outer.google import ROUNDS_MAX
from turnout.control.outer.seams import Change, Conflict, Refused, Verdict, Wanted

BY_TAG = Sides(("blue", "green"), True, ("b", "g"))
BY_NAME = Sides(("blue", "green"), False, ("r1", "r2"))
READY = {"state": "CONDITION_SUCCEEDED"}
FAILED = {"state": "CONDITION_FAILED", "message": "r2 is not ready"}


def service(traffic: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    return {
        "etag": "1", "generation": "3", "observedGeneration": "3", "traffic": traffic,
        "trafficStatuses": traffic, "terminalCondition": READY, **more,
    }  # fmt: skip


# ---------------------------------------------------------------- reading


@pytest.mark.parametrize(
    ("traffic", "second_weight"),
    [
        ([target("r1", 100, "b"), target("r2", 0, "g")], 0),
        ([target("r1", 0, "b"), target("r2", 100, "g")], WHOLE),
        # gcloud puts shares and tags into entries of their own.
        ([target("r1", 70), target("r2", 30), target("r1", 0, "b"), target("r2", 0, "g")], 3000),
        # A revision may have its share in two entries.
        ([target("r1", 50), target("r1", 20, "b"), target("r2", 30, "g")], 3000),
        ([target("r1", 99, "b"), target("r2", 1, "g"), target("r3", 0, "pr-12")], 100),
    ],
)
def test_the_second_revisions_share_is_read(
    traffic: list[dict[str, Any]], second_weight: int
) -> None:
    reading = understand(service(traffic), BY_TAG)
    assert (reading.second_weight, list(reading.problems)) == (second_weight, [])
    assert reading.settings["revisions"] == {"blue": "r1", "green": "r2"}


def test_a_side_by_name_need_not_be_in_the_traffic() -> None:
    assert understand(service([target("r1", 100)]), BY_NAME).second_weight == 0
    assert understand(service([target("r2", 100)]), BY_NAME).second_weight == WHOLE


def test_full_names_of_revisions_are_the_same_as_short_ones() -> None:
    name = "projects/p/locations/l/services/s/revisions/r1"
    assert understand(service([target(name, 100)]), BY_NAME).second_weight == 0


@pytest.mark.parametrize(
    ("traffic", "problem"),
    [
        ([target("r1", 100, "b")], "no revision has the traffic tag g, which is green's"),
        ([target("r1", 100, "b"), target("r1", 0, "g")], "both sides are the revision r1"),
        (
            [target("r1", 90, "b"), target("r2", 0, "g"), target("r3", 10)],
            "other revisions have traffic: r3 10 %",
        ),
        (
            [target("r1", 60, "b"), target("r2", 0, "g"), {"type": LATEST, "percent": 40}],
            "40 % go to whichever revision is the latest",
        ),
        (
            [target("r1", 100, "b"), {"type": LATEST, "tag": "g"}],
            "no revision has the traffic tag g",
        ),
        ([], "100 % go to whichever revision is the latest"),
    ],
)
def test_what_is_not_two_fixed_revisions_is_a_problem(
    traffic: list[dict[str, Any]], problem: str
) -> None:
    reading = understand(service(traffic), BY_TAG)
    assert reading.second_weight is None
    assert problem in "; ".join(reading.problems)


def test_a_latest_revision_without_traffic_is_no_problem() -> None:
    preview = {"type": LATEST, "tag": "newest"}
    reading = understand(service([target("r1", 100, "b"), target("r2", 0, "g"), preview]), BY_TAG)
    assert (reading.second_weight, list(reading.problems)) == (0, [])


def test_a_failed_change_leaves_what_is_in_force_and_says_so() -> None:
    before = [target("r1", 100, "b"), target("r2", 0, "g")]
    wanted = [target("r1", 0, "b"), target("r2", 100, "g")]
    failed = service(wanted, trafficStatuses=before, terminalCondition=FAILED)
    reading = understand(failed, BY_TAG)
    assert reading.second_weight == 0
    assert reading.exact == understand(service(before), BY_TAG).exact
    assert "r2 is not ready" in reading.warnings[0]


def test_a_sentence_of_the_services_own_ends_once() -> None:
    before = [target("r1", 100, "b"), target("r2", 0, "g")]
    wanted = [target("r1", 0, "b"), target("r2", 100, "g")]
    condition = {"state": "CONDITION_FAILED", "message": "r2 cannot serve traffic."}
    failed = service(wanted, trafficStatuses=before, terminalCondition=condition)
    (warning,) = understand(failed, BY_TAG).warnings
    assert "failed: r2 cannot serve traffic. The traffic is split as before" in warning
    assert progress(failed, {"r2": 100}).detail == "r2 cannot serve traffic"
    assert ".." not in warning


def test_a_change_that_failed_is_not_somebody_else() -> None:
    """What is in force is wanted, and the settings still have what failed."""
    before = [target("r1", 100, "b"), target("r2", 0, "g")]
    wanted = [target("r1", 0, "b"), target("r2", 100, "g")]
    failed = service(wanted, trafficStatuses=before, terminalCondition=FAILED)
    found = progress(failed, {"r1": 100})
    assert found.verdict is Verdict.FAILED
    assert (
        found.detail == "its settings still have a change that failed (r2 100 %): r2 is not ready"
    )


def test_while_it_is_reconciling_what_it_was_told_counts() -> None:
    before = [target("r1", 100, "b"), target("r2", 0, "g")]
    wanted = [target("r1", 0, "b"), target("r2", 100, "g")]
    document = service(wanted, trafficStatuses=before, terminalCondition=FAILED, reconciling=True)
    assert understand(document, BY_TAG).second_weight == WHOLE


def test_what_hinders_or_blurs_a_split_is_warned_of() -> None:
    template = {"revision": "r2", "sessionAffinity": True}
    traffic = [target("r1", 100, "b"), target("r2", 0, "g")]
    named, sticky = understand(service(traffic, template=template), BY_TAG).warnings
    assert "409" in named and "r2" in named
    assert "session affinity" in sticky


# ---------------------------------------------------------------- asking


@pytest.mark.parametrize(
    ("traffic", "second", "becomes"),
    [
        (
            [target("r1", 100, "b"), target("r2", 0, "g"), target("r3", 0, "pr")],
            30,
            [target("r1", 70, "b"), target("r2", 30, "g"), target("r3", 0, "pr")],
        ),
        # The share stays where it is, not at the tag.
        (
            [target("r1", 100), target("r1", 0, "b"), target("r2", 0, "g")],
            100,
            [target("r1", 0, "b"), target("r2", 100, "g")],
        ),
        # An entry that says nothing any more is left out, one that is needed is added.
        ([target("r1", 100)], 100, [target("r2", 100)]),
        ([target("r1", 100)], 1, [target("r1", 99), target("r2", 1)]),
        # Shares of one revision come together.
        ([target("r1", 50), target("r1", 50, "b")], 0, [target("r1", 100, "b")]),
    ],
)
def test_a_split_changes_the_two_revisions_only(
    traffic: list[dict[str, Any]], second: int, becomes: list[dict[str, Any]]
) -> None:
    result = split(traffic, ("r1", "r2"), ("b", "g"), second)
    assert result == becomes
    assert sum(shares(result).values()) == 100


def test_what_was_is_restored_beside_what_others_have_now() -> None:
    first = [target("r1", 100), target("r1", 0, "b"), target("r2", 0, "g")]
    exact = understand(service(first), BY_TAG).exact
    now = [*split(first, ("r1", "r2"), ("b", "g"), 100), target("r3", 0, "pr-13")]
    back = restored(now, ("r1", "r2"), exact["traffic"])
    assert understand(service(back), BY_TAG).exact == exact
    assert target("r3", 0, "pr-13") in back


# ---------------------------------------------------------------- progress


@pytest.mark.parametrize(
    ("more", "verdict"),
    [
        ({}, Verdict.IN_SYNC),
        ({"reconciling": True}, Verdict.PENDING),
        ({"observedGeneration": "2"}, Verdict.PENDING),
        ({"trafficStatuses": [target("r1", 100)]}, Verdict.PENDING),
        ({"trafficStatuses": [target("r1", 100)], "terminalCondition": FAILED}, Verdict.FAILED),
        ({"traffic": [target("r1", 50), target("r2", 50)]}, Verdict.UNKNOWN),
        # A later deployment that failed: it is not observed, and moves no traffic.
        ({"observedGeneration": "2", "terminalCondition": FAILED}, Verdict.IN_SYNC),
    ],
)
def test_in_sync_is_when_all_of_it_agrees(more: dict[str, Any], verdict: Verdict) -> None:
    document = {**service([target("r2", 100)]), **more}
    assert progress(document, {"r2": 100}).verdict is verdict


# ---------------------------------------------------------------- with the fake


async def test_the_call_is_one_patch_of_traffic_with_the_etag() -> None:
    async with served(CloudRunTarget()) as (there, router):
        await router.set_weights(Wanted(3000), await router.read())
        (call,) = there.fake.writing
        assert call.method == "PATCH"
        assert call.path.endswith("/services/shop?updateMask=traffic")
        body = json.loads(call.body)
        assert set(body) == {"name", "etag", "traffic"}
        assert body["etag"] == '"etag-1"'
        assert [entry.get("percent", 0) for entry in body["traffic"]] == [70, 30, 0]


async def test_a_deployment_meanwhile_that_moves_nothing_is_no_conflict() -> None:
    async with served(CloudRunTarget()) as (there, router):
        reading = await router.read()
        there.fake.change_outside(containers=[{"image": "shop:43"}])
        await ended(router, await router.set_weights(Wanted(WHOLE), reading))
        assert there.second_weight() == WHOLE
        assert there.fake.template == {"containers": [{"image": "shop:43"}]}


async def test_a_preview_that_comes_meanwhile_is_kept_on_the_way_there_and_back() -> None:
    async with served(CloudRunTarget()) as (there, router):
        first = await router.read()
        await ended(router, await router.set_weights(Wanted(WHOLE), first))
        preview = target("shop-00003-ccc", 0, "pr-13")
        there.fake.change_outside([*there.fake.traffic, preview])
        back = Wanted(0, exact=first.exact)
        await ended(router, await router.set_weights(back, await router.read()))
        assert preview in there.fake.traffic
        assert (await router.read()).exact == first.exact


async def test_an_etag_that_is_overtaken_between_reading_and_writing_is_read_anew() -> None:
    async with served(CloudRunTarget()) as (there, router):
        reading = await router.read()
        handle, left = there.fake.serve, [1]

        def overtake(request: Any, body: bytes) -> Any:
            if request.method == "PATCH" and left.pop() if left else False:
                there.fake.etag += 1
            return handle(request, body)

        there.fake.serve = overtake  # type: ignore[method-assign]
        await ended(router, await router.set_weights(Wanted(WHOLE), reading))
        assert [call.status for call in there.fake.writing] == [409, 200]


async def test_one_that_is_overtaken_for_ever_ends_as_a_conflict() -> None:
    async with served(CloudRunTarget()) as (there, router):
        reading = await router.read()
        handle = there.fake.serve

        def overtake(request: Any, body: bytes) -> Any:
            there.fake.etag += request.method == "PATCH"
            return handle(request, body)

        there.fake.serve = overtake  # type: ignore[method-assign]
        with pytest.raises(Conflict):
            await router.set_weights(Wanted(WHOLE), reading)
        assert len(there.fake.writing) == ROUNDS_MAX
        assert there.fake.effective == []


async def test_another_sort_of_409_is_refused_and_not_repeated() -> None:
    """As a template that names its revision has it: the etag is right, and yet it is 409."""
    async with served(CloudRunTarget()) as (there, router):
        reading = await router.read()
        handle = there.fake.serve

        def refuse(request: Any, body: bytes) -> Any:
            if request.method == "PATCH":
                # An etag that is nobody's is refused, and the service stays as it is.
                body = body.replace(b'\\"etag-1\\"', b'\\"another\\"')
            return handle(request, body)

        there.fake.serve = refuse  # type: ignore[method-assign]
        with pytest.raises(Refused, match="409"):
            await router.set_weights(Wanted(WHOLE), reading)
        assert len(there.fake.writing) == 1


def answering(there: CloudRunTarget, operation: dict[str, Any]) -> None:
    """Let the API say this of every operation."""
    serve = there.fake.serve

    def say(request: Any, body: bytes) -> Any:
        return operation if "/operations/" in request.path else serve(request, body)

    there.fake.serve = say  # type: ignore[method-assign]


async def test_it_is_pending_while_the_operation_is_not_done_whatever_the_service_says() -> None:
    async with served(CloudRunTarget()) as (there, router):
        answering(there, {"metadata": {}})
        change = await router.set_weights(Wanted(WHOLE), await router.read())
        assert (await router.poll(change)).verdict is Verdict.PENDING


async def test_an_operation_that_failed_is_told_whatever_the_service_says() -> None:
    async with served(CloudRunTarget()) as (there, router):
        answering(there, {"done": True, "error": {"code": 13, "message": "internal"}})
        change = await router.set_weights(Wanted(WHOLE), await router.read())
        found = await router.poll(change)
        assert (found.verdict, found.detail) == (Verdict.FAILED, "13 internal")


async def test_what_is_there_is_not_in_sync_before_it_has_settled() -> None:
    there = CloudRunTarget()
    there.settle = "1m"
    async with served(there) as (_, router):
        change = await router.set_weights(Wanted(WHOLE), await router.read())
        first = await router.poll(change)
        assert there.fake.statuses == there.fake.traffic
        assert first.verdict is Verdict.PENDING and "settle" in first.detail


async def test_a_forgotten_operation_is_told_by_the_service() -> None:
    async with served(CloudRunTarget()) as (there, router):
        change = await router.set_weights(Wanted(WHOLE), await router.read())
        there.fake.forgets = True
        assert (await router.poll(change)).verdict is Verdict.IN_SYNC


async def test_a_change_that_somebody_overtakes_is_unknown() -> None:
    async with served(CloudRunTarget()) as (there, router):
        change = await router.set_weights(Wanted(WHOLE), await router.read())
        there.change_weight_outside()
        found = await router.poll(change)
        assert found.verdict is Verdict.UNKNOWN
        assert "somebody else" in found.detail


async def test_after_a_failure_reading_says_what_is_in_force_and_it_can_be_set_again() -> None:
    async with served(CloudRunTarget()) as (there, router):
        first = await router.read()
        there.fake.fails_next = True
        change = await router.set_weights(Wanted(WHOLE), first)
        assert "not ready" in (await ended(router, change)).detail
        now = await router.read()
        assert (now.second_weight, now.exact) == (0, first.exact)
        assert now.warnings
        await ended(router, await router.set_weights(Wanted(0, exact=first.exact), now))
        assert there.fake.traffic == first_traffic(there)
        assert not (await router.read()).warnings


def first_traffic(there: CloudRunTarget) -> list[dict[str, Any]]:
    return there.make_fake().traffic


async def test_a_service_that_is_not_there_is_a_problem_in_the_reading() -> None:
    async with served(CloudRunTarget()) as (there, _):
        there.settings = lambda: {**CloudRunTarget.settings(there), "service": "shp"}  # type: ignore[method-assign]
        router = there.router()
        (problem,) = (await router.read()).problems
        assert "there is no such service" in problem
        await router.close()


async def test_a_revision_that_is_not_there_is_refused_by_the_service() -> None:
    there = CloudRunByRevisionTarget()
    async with served(there) as (_, router):
        there.fake.revisions = ("shop-00001-aaa",)
        with pytest.raises(Refused, match="was not found"):
            await router.set_weights(Wanted(WHOLE), await router.read())


async def test_a_reply_lost_during_a_read_back_by_poll_is_said() -> None:
    async with served(CloudRunTarget()) as (there, router):
        change = Change("", {"shares": {"shop-00001-aaa": 100}})
        there.fake.inject(Fault.LOST_AFTER, writes=False)
        with pytest.raises(Exception, match="Cloud Run: GET"):
            await router.poll(change)
        assert (await router.poll(change)).verdict is Verdict.IN_SYNC


# ---------------------------------------------------------------- settings

GOOD: dict[str, Any] = {
    "kind": "cloud_run", "project": "acme-prod", "location": "europe-west1", "service": "shop",
    "tags": {"blue": "blue", "green": "green"},
}  # fmt: skip


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        ({}, ""),
        ({"tags": {"blue": "b"}}, "green is missing"),
        ({"tags": {}}, "it must be given: {blue: TAG, green: TAG}; or revisions"),
        ({"tags": {"blue": "b", "gren": "g"}}, "it is no upstream of the service"),
        ({"tags": {"blue": "b", "green": "b"}}, "blue and green are the same there"),
        ({"revisions": {"blue": "r1", "green": "r2"}}, "there are tags already"),
        ({"settle": "5m"}, "it is not shorter than in_sync_timeout"),
        ({"endpoint": "http://run.googleapis.com"}, "in the clear"),
        ({"credentials": {"token_file": "t", "token_command": ["x"]}}, "token_file already"),
    ],
)
def test_settings_that_do_not_go_together_are_named(more: dict[str, Any], problem: str) -> None:
    found = problems_of({**GOOD, **more})
    assert problem in found if problem else found == ""
