"""What every router must do, whatever its system: each case for each of TARGETS.

A target stands at blue 100 in the beginning. What its system cannot do (`can_fail`, `can_pend`,
`can_be_denied`) is skipped with that reason. A kind's own cases are in `test_KIND.py`.
"""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from typing import Any, Final

import pytest

from tests.fakes.base import Fault
from tests.outer.target import Target
from tests.outer.targets import TARGETS
from turnout.config.weights import WHOLE
from turnout.control.outer.seams import (
    Change,
    Conflict,
    Denied,
    NotDone,
    NotExpressible,
    OuterError,
    Progress,
    Reading,
    ReplyLost,
    Router,
    Throttled,
    Verdict,
    Wanted,
)

ALWAYS: Final = 1000
"""So often a fault comes that is there for good."""
LIMIT_S: Final = 20.0
PENDING_S: Final = 0.2


@pytest.fixture(params=TARGETS, ids=lambda target: target.__name__)
async def target(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Target]:
    made: Target = request.param()
    async with made.serve():
        for name, value in made.environment().items():
            monkeypatch.setenv(name, value)
        yield made


@pytest.fixture
async def router(target: Target) -> AsyncIterator[Router]:
    made = target.router()
    yield made
    await made.close()


@pytest.fixture
def pends(target: Target) -> Target:
    if not target.can_pend:
        pytest.skip(f"{target.kind}: a change is in sync with its answer")
    return target


@pytest.fixture
def denies(target: Target) -> Target:
    if not target.can_be_denied:
        pytest.skip(f"{target.kind} asks nobody who he is")
    return target


def middle(router: Router) -> int:
    """A weight that moves something: a split where there can be one, else everything."""
    return router.expressible(3000) or WHOLE


async def in_sync(router: Router, change: Change) -> list[Progress]:
    """Poll until it is; all that was said. Fails when it is said to have failed."""
    said = []
    async with asyncio.timeout(LIMIT_S):
        while True:
            said.append(await router.poll(change))
            assert said[-1].verdict in (Verdict.PENDING, Verdict.IN_SYNC), said[-1]
            if said[-1].verdict is Verdict.IN_SYNC:
                return said
            await asyncio.sleep(0.01)


async def bring(router: Router, wanted: Wanted) -> Reading:
    """Read, set, wait until it is in sync, read."""
    await in_sync(router, await router.set_weights(wanted, await router.read()))
    return await router.read()


def once(target: Target, router: Router) -> None:
    """One effective change: one call, where one call can do it."""
    assert 1 <= len(target.fake.effective) <= (1 if router.capabilities.atomic else 2), (
        target.fake.journal
    )


# ---------------------------------------------------------------- reading


async def test_what_is_read_is_what_there_is(target: Target, router: Router) -> None:
    reading = await router.read()
    assert (reading.second_weight, list(reading.problems)) == (0, [])
    assert target.second_weight() == 0
    assert target.fake.effective == []


async def test_a_reading_is_json_and_equal_for_equal_states(target: Target, router: Router) -> None:
    first, second = await router.read(), await router.read()
    assert first == second
    other = target.router()
    assert await other.read() == first, "another instance reads the same"
    await other.close()
    for value in (first.exact, first.settings):
        # A store gives back what JSON makes of it; that has to be equal to the next reading.
        assert json.loads(json.dumps(value)) == value
    assert first.version


async def test_a_change_of_weights_outside_is_read_and_gives_another_version(
    target: Target, router: Router
) -> None:
    before = await router.read()
    target.change_weight_outside()
    after = await router.read()
    assert after.second_weight == target.second_weight() != 0
    assert after.version != before.version
    assert after.exact != before.exact
    assert after.settings == before.settings, "weights are no settings"


async def test_a_change_of_settings_outside_is_seen(target: Target, router: Router) -> None:
    before = await router.read()
    target.change_settings_outside()
    after = await router.read()
    assert after.version != before.version
    assert after.settings != before.settings or after.problems
    assert json.loads(json.dumps(after.settings)) == after.settings


async def test_what_is_not_as_configured_is_a_problem_in_the_reading(
    target: Target, router: Router
) -> None:
    target.spoil()
    reading = await router.read()
    assert reading.problems
    assert all(isinstance(problem, str) and len(problem) > 10 for problem in reading.problems)
    assert json.loads(json.dumps(reading.exact)) == reading.exact


# ---------------------------------------------------------------- setting


async def test_all_goes_to_the_other_side_and_back(target: Target, router: Router) -> None:
    after = await bring(router, Wanted(WHOLE))
    assert after.second_weight == target.second_weight() == WHOLE
    once(target, router)
    back = await bring(router, Wanted(0))
    assert back.second_weight == target.second_weight() == 0


async def test_a_split_is_set_or_refused(target: Target, router: Router) -> None:
    if router.capabilities.weighted:
        after = await bring(router, Wanted(3000))
        assert after.second_weight == target.second_weight() == router.expressible(3000)
        once(target, router)
        return
    reading, before = await router.read(), target.state()
    assert router.expressible(3000) is None
    with pytest.raises(NotExpressible):
        router.preview(Wanted(3000), reading)
    with pytest.raises(NotExpressible):
        await router.set_weights(Wanted(3000), reading)
    assert (target.state(), target.fake.writing) == (before, [])


@pytest.mark.parametrize("weight", [1, 3333, 9999])
async def test_a_weight_is_rounded_as_said_and_never_to_nothing(
    target: Target, router: Router, weight: int
) -> None:
    if not router.capabilities.weighted:
        pytest.skip(f"{target.kind} has no splits")
    nearest = router.expressible(weight)
    assert nearest is not None and 0 < nearest < WHOLE
    assert router.expressible(nearest) == nearest
    after = await bring(router, Wanted(weight))
    assert after.second_weight == target.second_weight() == nearest


async def test_expressible_weights_rise_and_the_ends_are_exact(
    target: Target, router: Router
) -> None:
    asked = [0, 1, 2, 50, 100, 3333, 5000, 6667, 9900, 9999, WHOLE]
    given = [router.expressible(weight) for weight in asked]
    assert (given[0], given[-1]) == (0, WHOLE)
    if router.capabilities.weighted:
        assert None not in given
        assert given == sorted(given)  # type: ignore[type-var]
        assert all(0 < share < WHOLE for share in given[1:-1] if share is not None)
    else:
        assert set(given[1:-1]) == {None}


async def test_settings_do_not_change_with_weights(target: Target, router: Router) -> None:
    before = await router.read()
    after = await bring(router, Wanted(middle(router)))
    assert after.settings == before.settings
    assert after.version != before.version
    whole = await bring(router, Wanted(WHOLE))
    assert whole.settings == before.settings


async def test_what_is_there_already_is_set_without_an_effect(
    target: Target, router: Router
) -> None:
    state = target.state()
    await in_sync(router, await router.set_weights(Wanted(0), await router.read()))
    assert (target.state(), target.fake.effective) == (state, [])


async def test_the_same_call_again_is_refused_or_without_an_effect(
    target: Target, router: Router
) -> None:
    reading = await router.read()
    await in_sync(router, await router.set_weights(Wanted(WHOLE), reading))
    with contextlib.suppress(Conflict):
        await router.set_weights(Wanted(WHOLE), reading)
    assert target.second_weight() == WHOLE
    once(target, router)


async def test_abort_restores_exactly_what_was_read(target: Target, router: Router) -> None:
    state, first = target.state(), await router.read()
    await bring(router, Wanted(middle(router)))
    assert target.state() != state
    assert first.second_weight is not None
    kept = json.loads(json.dumps(first.exact))
    after = await bring(router, Wanted(first.second_weight, exact=kept))
    assert target.state() == state
    assert (after.exact, after.settings, after.second_weight) == (
        first.exact, first.settings, first.second_weight,
    )  # fmt: skip


async def test_abort_restores_what_turnout_would_not_have_written(
    target: Target, router: Router
) -> None:
    target.change_weight_outside()
    state, first = target.state(), await router.read()
    assert first.second_weight is not None
    other = 0 if first.second_weight == WHOLE else WHOLE
    assert (await bring(router, Wanted(other))).second_weight == other
    after = await bring(router, Wanted(first.second_weight, exact=first.exact))
    assert target.state() == state
    assert after.exact == first.exact


async def test_a_preview_is_data_and_changes_nothing(target: Target, router: Router) -> None:
    state, reading = target.state(), await router.read()
    for wanted in (Wanted(WHOLE), Wanted(0, exact=reading.exact)):
        preview = router.preview(wanted, reading)
        assert preview and json.loads(json.dumps(preview)) == preview
    assert (target.state(), target.fake.writing) == (state, [])


# ---------------------------------------------------------------- somebody else


async def test_weights_changed_from_outside_are_a_conflict(target: Target, router: Router) -> None:
    reading = await router.read()
    target.change_weight_outside()
    await refused_as_changed(target, router, reading)


async def test_settings_changed_from_outside_are_a_conflict(target: Target, router: Router) -> None:
    reading = await router.read()
    target.change_settings_outside()
    await refused_as_changed(target, router, reading)


async def refused_as_changed(target: Target, router: Router, reading: Reading) -> None:
    state = target.state()
    other = 0 if target.second_weight() == WHOLE else WHOLE
    with pytest.raises(Conflict) as raised:
        await router.set_weights(Wanted(other), reading)
    assert (target.state(), target.fake.effective) == (state, [])
    assert ", now " in str(raised.value) or "now gone" in str(raised.value), "the difference"


# ---------------------------------------------------------------- taking its time


async def test_a_pending_change_is_never_said_to_be_in_sync_before(
    pends: Target, router: Router
) -> None:
    pends.fake.pending_s = PENDING_S
    reading = await router.read()
    began_s = time.monotonic()
    change = await router.set_weights(Wanted(WHOLE), reading)
    verdicts = []
    async with asyncio.timeout(LIMIT_S):
        while Verdict.IN_SYNC not in verdicts:
            verdicts.append((await router.poll(change)).verdict)
            early = time.monotonic() - began_s < PENDING_S
            assert verdicts[-1] is (Verdict.PENDING if early else verdicts[-1])
            assert verdicts[-1] in (Verdict.PENDING, Verdict.IN_SYNC)
            await asyncio.sleep(0.01)
    assert pends.second_weight() == WHOLE
    once(pends, router)


async def test_what_pends_for_ever_stays_pending(pends: Target, router: Router) -> None:
    pends.fake.pending_s = float("inf")
    change = await router.set_weights(Wanted(WHOLE), await router.read())
    verdicts = [(await router.poll(change)).verdict for _ in range(3)]
    assert verdicts == [Verdict.PENDING] * 3
    once(pends, router)


async def test_a_change_is_polled_by_who_has_its_document_alone(
    target: Target, router: Router
) -> None:
    if target.can_pend:
        target.fake.pending_s = PENDING_S / 4
    change = await router.set_weights(Wanted(WHOLE), await router.read())
    stored = json.loads(json.dumps({"id": change.id, "document": change.document}))
    assert stored["document"] == change.document
    other = target.router()
    await in_sync(other, Change(stored["id"], stored["document"]))
    await other.close()
    once(target, router)


async def test_a_change_that_fails_is_said_to_have_failed(target: Target, router: Router) -> None:
    if not target.can_fail:
        pytest.skip(f"{target.kind}: what was taken on does not fail")
    target.fake.fails_next = True
    change = await router.set_weights(Wanted(WHOLE), await router.read())
    verdict = Verdict.PENDING
    async with asyncio.timeout(LIMIT_S):
        while verdict is Verdict.PENDING:
            verdict = (await router.poll(change)).verdict
            await asyncio.sleep(0.01)
    assert verdict is Verdict.FAILED
    assert target.second_weight() == 0


@pytest.mark.parametrize("second_weight", [WHOLE, 0])
async def test_after_a_change_that_failed_either_side_is_really_asked_for(
    target: Target, router: Router, second_weight: int
) -> None:
    """What is read then may be only what was asked for, or what is in force beside it."""
    if not target.can_fail:
        pytest.skip(f"{target.kind}: what was taken on does not fail")
    target.fake.fails_next = True
    change = await router.set_weights(Wanted(WHOLE), await router.read())
    async with asyncio.timeout(LIMIT_S):
        while (await router.poll(change)).verdict is Verdict.PENDING:
            await asyncio.sleep(0.01)
    if router.capabilities.exchange and second_weight == 0:
        return  # it is there, and a swap would take it away
    calls = len(target.fake.writing)
    now = await bring(router, Wanted(second_weight))
    assert len(target.fake.writing) == calls + 1
    assert (now.second_weight, list(now.warnings)) == (second_weight, [])
    assert target.second_weight() == second_weight


@pytest.mark.parametrize("fault", [Fault.THROTTLED, Fault.UNAVAILABLE, Fault.LOST_BEFORE])
async def test_a_poll_that_gets_no_answer_says_so(
    pends: Target, router: Router, fault: Fault
) -> None:
    pends.fake.pending_s = float("inf")
    change = await router.set_weights(Wanted(WHOLE), await router.read())
    pends.fake.inject(fault, ALWAYS, writes=False)
    with pytest.raises((NotDone, ReplyLost)):
        await router.poll(change)
    pends.fake.heal()
    assert (await router.poll(change)).verdict is Verdict.PENDING


async def test_once_in_sync_its_tail_can_be_asked_for(target: Target, router: Router) -> None:
    await bring(router, Wanted(WHOLE))
    tail = await router.tail(0)
    assert tail.ttl_s >= 0
    assert tail.requests_per_min is None or tail.requests_per_min >= 0
    once(target, router)


# ---------------------------------------------------------------- what may go wrong


async def test_throttled_is_said_and_nothing_is_changed(target: Target, router: Router) -> None:
    reading, state = await router.read(), target.state()
    target.fake.inject(Fault.THROTTLED, ALWAYS)
    with pytest.raises(Throttled):
        await router.set_weights(Wanted(WHOLE), reading)
    assert target.state() == state
    target.fake.heal()
    await in_sync(router, await router.set_weights(Wanted(WHOLE), await router.read()))
    once(target, router)


async def test_unavailable_is_said_and_reading_tells(target: Target, router: Router) -> None:
    reading = await router.read()
    target.fake.inject(Fault.UNAVAILABLE, ALWAYS)
    with pytest.raises((NotDone, ReplyLost)):
        await router.set_weights(Wanted(WHOLE), reading)
    target.fake.heal()
    assert (await router.read()).exact == reading.exact
    await in_sync(router, await router.set_weights(Wanted(WHOLE), await router.read()))
    once(target, router)


async def test_expired_credentials_are_said_without_them(denies: Target, router: Router) -> None:
    reading, state = await router.read(), denies.state()
    denies.fake.inject(Fault.DENIED, ALWAYS)
    with pytest.raises(Denied) as raised:
        await router.set_weights(Wanted(WHOLE), reading)
    assert denies.state() == state
    without_secrets(denies, raised.value)
    denies.fake.heal()
    await in_sync(router, await router.set_weights(Wanted(WHOLE), await router.read()))
    once(denies, router)


async def test_reading_with_expired_credentials_is_denied(denies: Target, router: Router) -> None:
    denies.fake.inject(Fault.DENIED, ALWAYS, writes=False)
    with pytest.raises(Denied) as raised:
        await router.read()
    without_secrets(denies, raised.value)


@pytest.mark.parametrize("fault", [Fault.THROTTLED, Fault.UNAVAILABLE, Fault.LOST_BEFORE])
async def test_reading_that_gets_no_answer_may_be_tried_again(
    target: Target, router: Router, fault: Fault
) -> None:
    target.fake.inject(fault, ALWAYS, writes=False)
    with pytest.raises(NotDone):
        await router.read()
    target.fake.heal()
    assert (await router.read()).second_weight == 0


async def test_a_call_lost_on_its_way_changes_nothing_and_reading_tells(
    target: Target, router: Router
) -> None:
    reading = await router.read()
    target.fake.inject(Fault.LOST_BEFORE, ALWAYS)
    with pytest.raises((NotDone, ReplyLost)):
        await router.set_weights(Wanted(WHOLE), reading)
    target.fake.heal()
    assert (await router.read()).exact == reading.exact
    await in_sync(router, await router.set_weights(Wanted(WHOLE), await router.read()))
    once(target, router)


async def test_a_lost_reply_is_read_back_and_confirmed(target: Target, router: Router) -> None:
    reading = await router.read()
    target.fake.inject(Fault.LOST_AFTER)
    with pytest.raises(ReplyLost):
        await router.set_weights(Wanted(WHOLE), reading)
    if router.capabilities.atomic:
        now = await router.read()
        assert (now.second_weight, list(now.problems)) == (WHOLE, [])
        assert now.settings == reading.settings
        await in_sync(router, await router.confirm(Wanted(WHOLE), now))
    assert target.second_weight() == WHOLE or not router.capabilities.atomic
    once(target, router)


async def test_what_is_confirmed_while_it_pends_is_pending(pends: Target, router: Router) -> None:
    pends.fake.pending_s = float("inf")
    reading = await router.read()
    pends.fake.inject(Fault.LOST_AFTER)
    with pytest.raises(ReplyLost):
        await router.set_weights(Wanted(WHOLE), reading)
    now = await router.read()
    if now.second_weight == WHOLE:
        change = await router.confirm(Wanted(WHOLE), now)
        assert (await router.poll(change)).verdict is Verdict.PENDING
    once(pends, router)


async def test_a_slow_answer_is_given_up_in_time(target: Target) -> None:
    hasty = target.router(timeout_s=0.2)
    reading = await hasty.read()
    target.fake.slow_s = 8.0
    target.fake.inject(Fault.SLOW, ALWAYS)
    began_s = time.monotonic()
    with pytest.raises(ReplyLost):
        await hasty.set_weights(Wanted(WHOLE), reading)
    assert time.monotonic() - began_s < 4.0
    assert (await hasty.read()).second_weight in (WHOLE, 0)
    await hasty.close()


async def test_a_slow_reading_is_given_up_in_time(target: Target) -> None:
    hasty = target.router(timeout_s=0.2)
    target.fake.slow_s = 8.0
    target.fake.inject(Fault.SLOW, ALWAYS, writes=False)
    began_s = time.monotonic()
    with pytest.raises(NotDone):
        await hasty.read()
    assert time.monotonic() - began_s < 4.0
    await hasty.close()


async def test_a_system_that_is_not_there_is_not_done(target: Target, router: Router) -> None:
    reading = await router.read()
    await target.fake.__aexit__()
    with pytest.raises(NotDone):
        await router.read()
    with pytest.raises((NotDone, ReplyLost)):
        await router.set_weights(Wanted(WHOLE), reading)
    await target.fake.__aenter__()
    assert (await router.read()).exact == reading.exact


# ---------------------------------------------------------------- manners


async def test_secrets_are_seen_nowhere(target: Target, router: Router) -> None:
    reading = await router.read()
    change = await router.set_weights(Wanted(WHOLE), reading)
    target.spoil()
    seen: list[Any] = [
        reading, change, await router.read(), router, target.outer(), target.outer().settings,
        router.preview(Wanted(0, exact=reading.exact), reading),
    ]  # fmt: skip
    target.fake.inject(Fault.UNAVAILABLE, ALWAYS)
    with pytest.raises(OuterError) as raised:
        await router.set_weights(Wanted(0), await router.read())
    for value in [*seen, raised.value]:
        without_secrets(target, value)


async def test_each_call_waits_for_its_turn(target: Target, router: Router) -> None:
    await bring(router, Wanted(WHOLE))
    assert len(target.fake.journal) <= target.turns + target.calls_without_turn


async def test_close_leaves_nothing_running(target: Target) -> None:
    before = asyncio.all_tasks()
    made = target.router()
    await bring(made, Wanted(WHOLE))
    await made.close()
    async with asyncio.timeout(LIMIT_S):
        while left := asyncio.all_tasks() - before - serving():
            assert left
            await asyncio.sleep(0.01)


def serving() -> set["asyncio.Task[Any]"]:
    """The tasks in which fakes serve."""
    return {task for task in asyncio.all_tasks() if "aiohttp" in repr(task.get_coro())}


def without_secrets(target: Target, value: object) -> None:
    if isinstance(value, BaseException):
        text = f"{value!r} {value} {value.__cause__!r}"
    else:
        text = f"{value!r} {value}"
    for secret in target.secrets:
        assert secret not in text
