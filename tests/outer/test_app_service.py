"""The `app_service` router: what slots say, how a swap is followed, and its own cases.

What every router must do is in `test_conformance`.
"""

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.control.test_executor import CI
from tests.control.test_outer_switchover import beyond
from tests.fakes.azure import FakeAppService
from tests.fakes.base import Fault
from tests.outer.google_cases import ended, problems_of
from tests.outer.target_app_service import AppServiceTarget
from turnout.config.weights import WHOLE
from turnout.control.outer import mover as mover_module
from turnout.control.outer.app_service import progress_of, reading_of, slot_of
from turnout.control.outer.arm import of_operation
from turnout.control.outer.seams import (
    Conflict,
    NotDone,
    Progress,
    Refused,
    Router,
    Throttled,
    Verdict,
    Wanted,
)
from turnout.control.state import State

MARKER = "TURNOUT_UPSTREAM"
VALUES = ("blue", "green")
NAMES = ("production", "staging")
SWAP = "/slots/staging/slotsswap?api-version=2023-12-01"


@pytest.fixture
async def target(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[AppServiceTarget]:
    made = AppServiceTarget()
    async with made.serve():
        for name, value in made.environment().items():
            monkeypatch.setenv(name, value)
        yield made


@pytest.fixture
def fake(target: AppServiceTarget) -> FakeAppService:
    return target.fake


@pytest.fixture
async def router(target: AppServiceTarget) -> AsyncIterator[Router]:
    made = target.router()
    yield made
    await made.close()


# ---------------------------------------------------------------- by value


def slot(marker: str | None = "blue", **properties: Any) -> Any:
    web = properties.pop("web", {})
    settings = {} if marker is None else {MARKER: marker}
    site = {"properties": {"state": "Running", "defaultHostName": "shop.example", **properties}}
    return slot_of(site, {"properties": settings}, {"properties": web}, MARKER)


def read(live: Any, idle: Any, sticky: Any = None) -> Any:
    return reading_of(
        {"production": live, "staging": idle}, {"properties": sticky or {}}, NAMES, MARKER, VALUES
    )


@pytest.mark.parametrize(("live", "weight"), [("blue", 0), ("green", WHOLE)])
def test_what_the_live_slot_has_is_the_weight(live: str, weight: int) -> None:
    reading = read(slot(live), slot("green" if live == "blue" else "blue"))
    assert (reading.second_weight, list(reading.problems)) == (weight, [])
    assert reading.exact["production"] == {MARKER: live}
    assert reading.ttl_s == 0


RULE = {"name": "staging", "actionHostName": "s.example", "reroutePercentage": 10.0}


@pytest.mark.parametrize(
    ("live", "idle", "sticky", "words"),
    [
        (slot("blue"), slot("blue"), {}, "is blue in both slots"),
        (slot(None), slot("green"), {}, "slot production has no app setting TURNOUT_UPSTREAM"),
        (slot("blue"), slot("red"), {}, "of slot staging is red; expected blue or green"),
        (slot(), slot("green"), {"appSettingNames": ["turnout_upstream"]}, "clear that mark"),
        (slot(), slot("green", state="Stopped"), {}, "slot staging is Stopped: start it"),
        (
            slot(web={"experiments": {"rampUpRules": [RULE]}}),
            slot("green"),
            {},
            "production sends 10.0 % of its requests to staging",
        ),
        (slot(), slot("green", web={"autoSwapSlotName": "production"}), {}, "switch that off"),
    ],
)
def test_what_a_swap_would_spoil_is_a_problem(
    live: Any, idle: Any, sticky: Any, words: str
) -> None:
    reading = read(live, idle, sticky)
    assert reading.second_weight is None
    assert words in "; ".join(reading.problems)


def test_a_routing_rule_of_nothing_is_none() -> None:
    rules = {"experiments": {"rampUpRules": [{**RULE, "reroutePercentage": 0.0}]}}
    assert read(slot(web=rules), slot("green")).problems == ()


BUSY = {"inProgressOperationId": "op-1"}


@pytest.mark.parametrize(
    ("live", "idle", "asked", "verdict", "words"),
    [
        (slot("green"), slot("blue"), False, Verdict.IN_SYNC, "production has green"),
        (slot("green", **BUSY), slot("blue"), True, Verdict.PENDING, "under way on slot produc"),
        (slot("green"), slot("blue", **BUSY), False, Verdict.PENDING, "under way on slot staging"),
        (slot("blue"), slot("green"), True, Verdict.PENDING, "production still has blue"),
        (slot("green"), slot("green"), True, Verdict.PENDING, "is green in both slots"),
        (slot("blue"), slot("green"), False, Verdict.UNKNOWN, "production still has blue"),
        (slot("green"), slot(None), False, Verdict.UNKNOWN, "has no app setting"),
    ],
)
def test_a_swap_is_over_when_nothing_is_under_way_and_the_slots_say_so(
    live: Any, idle: Any, asked: bool, verdict: Verdict, words: str
) -> None:
    slots = {"production": live, "staging": idle}
    progress = progress_of(slots, NAMES, MARKER, VALUES, WHOLE, asked=asked)
    assert progress.verdict is verdict
    assert words in progress.detail


@pytest.mark.parametrize(
    ("status", "document", "progress"),
    [
        (202, None, Progress(Verdict.PENDING, "202 Accepted")),
        (200, {"name": "shop", "properties": {}}, Progress(Verdict.IN_SYNC, "200")),
        (204, None, Progress(Verdict.IN_SYNC, "204")),
        (200, {"status": "InProgress"}, Progress(Verdict.PENDING, "InProgress")),
        (200, {"status": "Accepted"}, Progress(Verdict.PENDING, "Accepted")),
        (200, {"status": "Succeeded"}, Progress(Verdict.IN_SYNC, "Succeeded")),
        (
            200,
            {"status": "Failed", "error": {"code": "BadRequest", "message": "no worker"}},
            Progress(Verdict.FAILED, "Failed: BadRequest no worker"),
        ),
        (
            200,
            {"status": "Canceled"},
            Progress(Verdict.FAILED, "Canceled: no reason is given"),
        ),
    ],
)
def test_an_operation_is_followed_by_either_header(
    status: int, document: Any, progress: Progress
) -> None:
    assert of_operation(status, document) == progress


# ---------------------------------------------------------------- the call


async def test_the_slot_that_goes_live_is_the_source(fake: FakeAppService, router: Router) -> None:
    change = await router.set_weights(Wanted(WHOLE), await router.read())
    (call,) = fake.writing
    assert (call.method, call.path.endswith(SWAP)) == ("POST", True)
    assert json.loads(call.body) == {"targetSlot": "production", "preserveVnet": True}
    assert change.id in fake.operations
    assert (await ended(router, change)).verdict is Verdict.IN_SYNC
    assert fake.marker("production") == "green"


async def test_where_the_live_slot_is_another_one_production_is_swapped_by_the_apps_own_path(
    target: AppServiceTarget, fake: FakeAppService
) -> None:
    settings = {**target.settings(), "slot": "production", "live_slot": "staging"}
    target.settings = lambda: settings  # type: ignore[method-assign]
    router = target.router()
    change = await router.set_weights(Wanted(0), await router.read())
    assert fake.writing[0].path.endswith("sites/shop/slotsswap?api-version=2023-12-01")
    assert (await ended(router, change)).verdict is Verdict.IN_SYNC
    assert fake.marker("staging") == "blue"
    await router.close()


async def test_the_markers_values_may_be_others_than_the_names(
    target: AppServiceTarget, fake: FakeAppService
) -> None:
    for name, value in {"production": "v17", "staging": "v18"}.items():
        fake.slots[name]["app_settings"]["RELEASE"] = value
    settings = {
        **target.settings(), "marker": "RELEASE", "values": {"blue": "v18", "green": "v17"},
    }  # fmt: skip
    target.settings = lambda: settings  # type: ignore[method-assign]
    router = target.router()
    assert (await router.read()).second_weight == WHOLE
    await router.close()


async def test_other_app_settings_are_kept_nowhere(router: Router) -> None:
    reading = await router.read()
    assert "DB_PASSWORD" not in repr(reading)


# ---------------------------------------------------------------- while a swap is under way


async def test_a_swap_is_not_asked_for_while_one_is_under_way(
    fake: FakeAppService, router: Router
) -> None:
    fake.pending_s = float("inf")
    reading = await router.read()
    await router.set_weights(Wanted(WHOLE), reading)
    again = await router.read()
    assert again.second_weight == 0
    assert "under way on slot production" in again.warnings[0]
    with pytest.raises(Throttled, match="under way"):
        await router.set_weights(Wanted(WHOLE), again)
    assert len(fake.writing) == 1


@pytest.mark.parametrize("why", ["another operation is in progress", "prepared for swap"])
async def test_what_azure_refuses_as_under_way_is_not_done(
    fake: FakeAppService, router: Router, why: str
) -> None:
    reading = await router.read()
    if why == "prepared for swap":
        fake.prepared = True
    else:
        # It began between the reading and the call, and the slots do not say so.
        fake.pending_s = float("inf")
        await router.set_weights(Wanted(WHOLE), reading)
        fake.hides_operations = True
    with pytest.raises(Throttled, match="409"):
        await router.set_weights(Wanted(WHOLE), await router.read())
    assert len(fake.effective) <= 1


async def test_markers_in_between_are_read_again_later(
    fake: FakeAppService, router: Router
) -> None:
    fake.pending_s = float("inf")
    await router.set_weights(Wanted(WHOLE), await router.read())
    fake.slots["production"]["app_settings"][MARKER] = "green"
    with pytest.raises(Throttled, match="in both slots"):
        await router.read()


async def test_azure_says_how_long_it_need_not_be_asked(
    fake: FakeAppService, router: Router
) -> None:
    fake.retry_after = "3600"
    change = await router.set_weights(Wanted(WHOLE), await router.read())
    before = len(fake.journal)
    assert await router.poll(change) == Progress(Verdict.PENDING, "Azure asks to wait")
    assert len(fake.journal) == before


async def test_a_success_that_the_slots_do_not_show_is_pending(
    fake: FakeAppService, router: Router
) -> None:
    change = await router.set_weights(Wanted(WHOLE), await router.read())
    await ended(router, change)
    fake.swap()
    progress = await router.poll(change)
    assert progress.verdict is Verdict.PENDING
    assert "production still has blue" in progress.detail


async def test_an_operation_that_azure_does_not_know_any_more_is_judged_by_the_slots(
    fake: FakeAppService, router: Router
) -> None:
    change = await router.set_weights(Wanted(WHOLE), await router.read())
    assert fake.marker("production") == "green"
    fake.operations.clear()
    assert (await router.poll(change)).verdict is Verdict.IN_SYNC
    fake.swap()
    assert (await router.poll(change)).verdict is Verdict.UNKNOWN


async def test_the_token_goes_to_no_other_host(fake: FakeAppService, router: Router) -> None:
    fake.foreign_location = True
    change = await router.set_weights(Wanted(WHOLE), await router.read())
    assert change.document["operation"] == ""
    assert (await ended(router, change)).verdict is Verdict.IN_SYNC


async def test_the_other_header_is_followed_too(fake: FakeAppService, router: Router) -> None:
    fake.by_async_operation = True
    fake.pending_s = 0.1
    change = await router.set_weights(Wanted(WHOLE), await router.read())
    assert "/operations/" in change.document["operation"]
    assert (await router.poll(change)).verdict is Verdict.PENDING
    assert (await ended(router, change)).verdict is Verdict.IN_SYNC
    fake.fails_next = True
    change = await router.set_weights(Wanted(0), await router.read())
    failed = await ended(router, change)
    assert failed.verdict is Verdict.FAILED
    assert "worker process for 'staging' slot could not be started" in failed.detail


# ---------------------------------------------------------------- what may go wrong


async def test_a_slot_that_is_not_there_is_said(target: AppServiceTarget) -> None:
    settings = {**target.settings(), "slot": "stagin"}
    target.settings = lambda: settings  # type: ignore[method-assign]
    router = target.router()
    with pytest.raises(Refused, match="sites/shop/slots/stagin' under resource group"):
        await router.read()
    await router.close()


async def test_secret_settings_that_cannot_be_listed_now_may_be_later(
    fake: FakeAppService, router: Router
) -> None:
    # They are given by POST only: what is lost of it is no change that may have been made.
    fake.unlisted = True
    with pytest.raises(NotDone, match="unexpected error"):
        await router.read()
    fake.unlisted = False
    assert (await router.read()).second_weight == 0


async def test_who_swapped_meanwhile_is_named_by_what_changed(
    fake: FakeAppService, router: Router
) -> None:
    reading = await router.read()
    fake.swap()
    with pytest.raises(Conflict, match=r"slots\.production\.TURNOUT_UPSTREAM: blue, now green"):
        await router.set_weights(Wanted(WHOLE), reading)
    assert fake.writing == []


async def test_an_expired_token_is_renewed_within_the_call(
    fake: FakeAppService, router: Router
) -> None:
    reading = await router.read()
    fake.expired = True
    await ended(router, await router.set_weights(Wanted(WHOLE), reading))
    assert (fake.tokens, len(fake.effective)) == (2, 1)


# ---------------------------------------------------------------- a whole switchover


async def test_a_swap_whose_reply_was_lost_while_it_is_under_way_is_not_made_twice(
    target: AppServiceTarget,
    fake: FakeAppService,
    router: Router,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("RETRY_FIRST_S", "RETRY_MAX_S", "POLL_FIRST_S", "POLL_MAX_S"):
        monkeypatch.setattr(mover_module, name, 0.05)
    fake.pending_s = 0.6
    fake.inject(Fault.LOST_AFTER)
    async with beyond(tmp_path, router) as made:  # type: ignore[arg-type]
        switchover = await made.bench.ended(await made.bench.executor.start("shop", "green", CI))
        receipt = await made.receipt(switchover.id)
    assert switchover.state is State.COMPLETED
    assert [move["stage"] for move in receipt["moves"]] == ["in_sync"]
    assert (len(fake.effective), fake.marker("production")) == (1, "green")


# ---------------------------------------------------------------- settings

SETTINGS = {
    "kind": "app_service", "subscription": "s", "resource_group": "g", "app": "shop",
    "slot": "staging",
}  # fmt: skip


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({}, ""),
        ({"slot": "Production"}, "it is live_slot. Write the other one"),
        ({"values": {"blue": "1"}}, "green is missing. Write one for each upstream"),
        ({"values": {"blue": "1", "green": "1"}}, "two upstreams have the same"),
        ({"values": {"blue": "1", "red": "2"}}, "it is no upstream of the service"),
        ({"resource_group": "g."}, "1 to 90 of"),
        ({"marker": "1A"}, "1 to 128 letters, digits and underscores"),
        ({"endpoint": "http://management.azure.com"}, "in the clear. Write https://"),
        ({"endpoint": "https://management.azure.com/path"}, "`https://host`"),
        (
            {"credentials": {"token_file": "/t", "token_command": ["x"]}},
            "there is token_file already",
        ),
        (
            {"credentials": {"token_file": "/t", "identity": "managed"}},
            "it is not asked with an identity",
        ),
    ],
)
def test_settings_that_do_not_go_together_are_said(more: Any, words: str) -> None:
    said = problems_of({**SETTINGS, **more})
    assert words in said if words else said == ""


# ---------------------------------------------------------------- the page

PAGE = Path(__file__).resolve().parents[2] / "docs" / "outer" / "azure.md"
EXAMPLES = re.findall(r"^```yaml\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("example", EXAMPLES)
def test_the_pages_examples_are_taken_by_the_loader(example: str) -> None:
    document = YAML(typ="safe").load(example)
    outer = document.get("outer") or {**SETTINGS, **document}
    assert problems_of(outer) == ""


def test_the_page_has_examples() -> None:
    assert len(EXAMPLES) == 4
