"""What a person may do in each state of a switchover, and what follows: in the real product.

`test_switchover` walks every pair of the table by value; here are the sentences that are
promised of states, said to the real API while real processes carry them out.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_asyncio

from tests.harness import SERVICE, ApiError, Bench, bench

pytestmark = pytest.mark.asyncio(loop_scope="module")

POLICY: dict[str, Any] = {
    "switchover": {
        "strategies": {"steps": {"steps": [10, 50, 100], "pause": "30s"}},
    },
    "drain": {"timeout": "3s", "tunnels": "3s"},
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared() -> AsyncIterator[Bench]:
    async with bench(**POLICY) as found:
        yield found


@pytest_asyncio.fixture(loop_scope="module")
async def at(shared: Bench) -> Bench:
    """Both healthy, blue has all, nothing under way, and nothing to roll back to but blue."""
    api = shared.product.api
    shared.blue.healthy = shared.green.healthy = True
    await api.healthy()
    running = (await api.service())["switchover"]
    if running is not None:
        await api.act("abort", running["id"])
    await api.settled()
    await api.weights(100)
    await api.settled()
    return shared


async def is_held(at: Bench, name: str, health: str) -> None:
    async with asyncio.timeout(10):
        while (await at.product.api.service())["upstreams"][name]["health"] != health:
            await asyncio.sleep(0.02)


async def make_sick(at: Bench, name: str) -> None:
    (at.blue if name == "blue" else at.green).healthy = False
    await is_held(at, name, "unhealthy")


async def green_has(at: Bench) -> float:
    found: float = (await at.product.api.service())["weights"]["green"]
    return found


@contextlib.contextmanager
def refused(status: int, kind: str = "") -> Iterator[pytest.ExceptionInfo[ApiError]]:
    """The calls inside are refused so."""
    with pytest.raises(ApiError) as error:
        yield error
    assert error.value.status == status, error.value
    assert error.value.problem["type"].endswith(kind), error.value


async def in_steps(at: Bench) -> str:
    """A switchover in steps, held behind its first."""
    started = await at.product.api.switch("green", wait=False, strategy="steps")
    async with asyncio.timeout(10):
        while (await at.product.api.switchover(started["id"]))["next_step_at"] is None:
            await asyncio.sleep(0.01)
    id: str = started["id"]
    return id


async def test_a_second_one_gets_409_and_the_first_ones_id_whatever_else_is_wrong(
    at: Bench,
) -> None:
    id = await in_steps(at)
    await make_sick(at, "blue")
    api = at.product.api
    for ask in (api.switch("blue"), api.switch("red"), api.weights(30)):
        with refused(409, "switchover-under-way") as error:
            await ask
        assert error.value.problem["switchover"] == id
    at.blue.healthy = True


async def test_abort_behind_a_step_restores_the_weights_before_it(at: Bench) -> None:
    id = await in_steps(at)
    assert await green_has(at) == 10
    await at.product.api.act("abort", id, reason="not today")
    over = await at.product.api.ended(id)
    assert (over["state"], await green_has(at)) == ("aborted", 0)
    for verb in ("pause", "resume", "approve", "abort"):
        with refused(409, "illegal-verb"):
            await at.product.api.act(verb, id)


async def test_a_check_may_be_paused_and_goes_on_when_it_is_resumed(at: Bench) -> None:
    await make_sick(at, "green")
    started = await at.product.api.switch("green", wait=False, wait_healthy="10s")
    id = started["id"]
    await at.product.api.state(id, "checking")
    assert (await at.product.api.act("pause", id))["waiting_for"] == "resume"
    at.green.healthy = True
    await is_held(at, "green", "healthy")
    assert (await at.product.api.switchover(id))["state"] == "paused"
    assert await green_has(at) == 0
    await at.product.api.act("resume", id)
    assert (await at.product.api.ended(id))["state"] == "completed"


@pytest.mark.parametrize(("verb", "state"), [("abort", "aborted"), ("rollback", "rolled_back")])
@pytest.mark.parametrize("paused", [False, True])
async def test_what_has_moved_nothing_ends_with_the_weights_untouched(
    at: Bench, verb: str, state: str, paused: bool
) -> None:
    await make_sick(at, "green")
    id = (await at.product.api.switch("green", wait=False, wait_healthy="20s"))["id"]
    await at.product.api.state(id, "checking")
    if paused:
        await at.product.api.act("pause", id)
    if verb == "abort":
        await at.product.api.act("abort", id)
    else:
        assert (await at.product.api.rollback(wait=False))["id"] == id
    over = await at.product.api.ended(id)
    assert (over["state"], await green_has(at)) == (state, 0)
    assert over["receipt"]["state"] == state


async def test_draining_cannot_be_paused_and_can_be_turned_round(at: Bench) -> None:
    slow = asyncio.create_task(at.get("/slow?delay=1.5"))
    await at.blue.received("/slow")
    id = (await at.product.api.switch("green", wait=False))["id"]
    await at.product.api.state(id, "draining")
    with refused(409, "illegal-verb"):
        await at.product.api.act("pause", id)
    back = await at.product.api.rollback(reason="a mistake")
    assert (back["id"], back["state"], await green_has(at)) == (id, "rolled_back", 0)
    assert (await slow).status == 200


async def test_abort_gives_no_weight_to_the_sick_and_a_forced_rollback_does(at: Bench) -> None:
    id = await in_steps(at)
    await make_sick(at, "blue")
    for ask in (at.product.api.act("abort", id), at.product.api.rollback()):
        with refused(422, "upstream-unhealthy"):
            await ask
    assert (await at.product.api.switchover(id))["state"] == "shifting"
    over = await at.product.api.rollback(force=True, reason="green is worse")
    assert (over["id"], over["state"], await green_has(at)) == (id, "rolled_back", 0)
    receipt = over["receipt"]
    assert (receipt["forced_by"], receipt["reason"]) != ("", "")
    assert over["force_reason"] == "green is worse"


async def test_a_rollback_behind_the_end_is_a_new_one_and_a_second_goes_forward(
    at: Bench,
) -> None:
    first = await at.product.api.switch("green")
    back = await at.product.api.rollback()
    assert back["id"] != first["id"]
    assert (back["state"], back["to"], await green_has(at)) == ("completed", "blue", 0)
    again = await at.product.api.rollback()
    assert (again["to"], await green_has(at)) == ("green", 100)
    await make_sick(at, "blue")
    with refused(422, "upstream-unhealthy"):
        await at.product.api.rollback()
    over = await at.product.api.rollback(force=True, reason="known")
    assert (over["forced_by"], await green_has(at)) == ("local", 0)


async def test_what_failed_half_way_is_rolled_back_to_where_it_began(at: Bench) -> None:
    id = await in_steps(at)
    await make_sick(at, "blue")
    await make_sick(at, "green")
    over = await at.product.api.ended(id)
    assert (over["state"], await green_has(at)) == ("failed", 10)
    assert "no way back" in over["outcome"]
    with refused(422, "upstream-unhealthy"):
        await at.product.api.rollback()
    at.blue.healthy = True
    await is_held(at, "blue", "healthy")
    back = await at.product.api.rollback()
    assert (back["state"], await green_has(at)) == ("completed", 0)


async def test_a_target_that_was_never_probed_gets_its_time_and_no_weight(at: Bench) -> None:
    """A server that takes connections and says nothing: no probe ends before the verdict."""
    silent = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
    address = "{}:{}".format(*silent.sockets[0].getsockname())
    path = f"/v1/services/{SERVICE}/upstreams/green"
    await at.product.api.call("PUT", path, {"servers": [address]})
    try:
        assert (await at.product.api.service())["upstreams"]["green"]["health"] == "unknown"
        started = await at.product.api.switch("green", wait=False)
        assert (await at.product.api.state(started["id"], "checking"))["check_until"]
        over = await at.product.api.ended(started["id"])
        assert (over["state"], await green_has(at)) == ("failed", 0)
        [checking] = [phase for phase in over["phases"] if phase["name"] == "checking"]
        # rise 1 x interval 200 ms + timeout 1 s
        assert 1.1 < checking["seconds"] < 3
    finally:
        await at.product.api.call("PUT", path, {"servers": [at.green.address]})
        silent.close()


async def test_to_where_all_traffic_is_nothing_is_done_once_the_other_is_empty(
    at: Bench,
) -> None:
    same = await at.product.api.switch("blue")
    assert (same["state"], same["changed"], same["id"]) == ("completed", False, None)
    before = (await at.product.api.service())["revision"]
    wished = await at.product.api.switch("green", dry_run=True)
    assert (wished["id"], wished["dry_run"], wished["steps"][-1]["green"]) == (None, True, 100)
    assert (await at.product.api.service())["revision"] == before


async def test_weights_by_hand_are_a_switchover_with_a_receipt(at: Bench) -> None:
    shown = await at.product.api.weights(90, reason="a look")
    assert shown["weights"] == {"blue": 90, "green": 10}
    await at.product.api.settled()
    [last, *_] = (await at.product.api.call("GET", f"/v1/services/{SERVICE}/switchovers"))["items"]
    assert (last["strategy"], last["state"], last["reason"]) == ("weights", "completed", "a look")
    assert (await at.product.api.switchover(last["id"]))["receipt"]["to"] == "green"
    await make_sick(at, "green")
    with refused(422, "upstream-unhealthy"):
        await at.product.api.weights(80)
    # Taking weight from the sick is always right.
    await at.product.api.weights(95)
    await at.product.api.settled()
    assert await green_has(at) == 5
