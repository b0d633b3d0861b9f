"""Promise 6: no weight moves to an upstream that is not held healthy, unless somebody forces it.

And when the chosen upstream has no healthy server left, its requests still go to it, counted;
never silently to the other side.
"""

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.harness import SERVICE, ApiError, Bench, bench
from tests.load import Load, must_not_fail

pytestmark = pytest.mark.asyncio(loop_scope="module")

# A control plane that takes every upstream for healthy when it is asked to switch.
TRUSTS_ANYBODY = """
from turnout.control import decider, executor
for module in (decider, executor):
    for name in ("may_start", "may_rise"):
        setattr(module, name, lambda *_, **__: decider.GoOn())
import sys
for name, module in list(sys.modules.items()):
    if name.startswith("turnout.control"):
        for rule in ("may_start", "may_rise"):
            if hasattr(module, rule):
                setattr(module, rule, lambda *_, **__: decider.GoOn())
"""


STRATEGIES = {
    "strategies": {
        "slow": {"steps": [20, 50, 100], "pause": "20s"},
        "half": {"steps": [50, 100], "pause": "20s"},
    },
    "error_limit": {"rate": "10%", "requests": 20, "window": "5s"},
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared() -> AsyncIterator[Bench]:
    async with bench(switchover=STRATEGIES) as found:
        yield found


@pytest_asyncio.fixture(loop_scope="module")
async def at(shared: Bench) -> Bench:
    """Both healthy, blue has all, nothing under way."""
    shared.blue.healthy = shared.green.healthy = True
    await shared.product.api.settled()
    await shared.product.api.healthy()
    await shared.product.api.weights(100)
    await shared.product.api.settled()
    for upstream in (shared.blue, shared.green):
        upstream.ledger.clear()
        upstream.script.clear()
    return shared


async def make_sick(at: Bench, name: str) -> None:
    """Let probes of an upstream fail, and wait until it is held unhealthy."""
    (at.blue if name == "blue" else at.green).healthy = False
    async with asyncio.timeout(10):
        while (await at.product.api.service())["upstreams"][name]["healthy"] is not False:
            await asyncio.sleep(0.02)


async def refused(at: Bench, upstream: str) -> None:
    """Neither a switch nor a weight reaches the sick upstream, and nothing moves."""
    before = (await at.product.api.service())["weights"]
    with pytest.raises(ApiError) as switched:
        await at.product.api.switch(upstream)
    with pytest.raises(ApiError) as weighted:
        await at.product.api.weights(before["blue"] - 1 if upstream == "green" else 1)
    assert (switched.value.status, weighted.value.status) == (422, 422)
    assert "503" in str(switched.value), "it says why: what the last probe found"
    assert (await at.product.api.service())["weights"] == before
    for _ in range(20):
        assert (await at.get("/")).upstream != upstream


async def test_a_sick_upstream_gets_no_weight(at: Bench) -> None:
    await make_sick(at, "green")
    await refused(at, "green")


async def test_a_rollback_onto_a_sick_upstream_is_refused(at: Bench) -> None:
    await at.product.api.switch("green")
    await make_sick(at, "blue")
    with pytest.raises(ApiError) as error:
        await at.product.api.rollback()
    assert error.value.status == 422
    (await at.get("/")).must_be(200, "green")


async def test_who_forced_it_is_in_the_record(at: Bench) -> None:
    await make_sick(at, "green")
    over = await at.product.api.switch("green", force=True, reason="the probe is wrong")
    receipt = over["receipt"]
    assert (over["state"], receipt["reason"]) == ("completed", "the probe is wrong")
    assert receipt["forced_by"]
    audit = (await at.product.api.call("GET", "/v1/audit"))["items"]
    assert any("the probe is wrong" in str(entry) for entry in audit)
    (await at.get("/")).must_be(200, "green")


async def test_a_switch_may_wait_for_health(at: Bench) -> None:
    await make_sick(at, "green")
    id = (await at.product.api.switch("green", wait=False, wait_healthy="20s"))["id"]
    await at.product.api.state(id, "checking")
    for _ in range(20):
        (await at.get("/")).must_be(200, "blue")
    at.green.healthy = True
    assert (await at.product.api.ended(id))["state"] == "completed"


async def test_a_switch_that_waited_in_vain_moves_nothing(at: Bench) -> None:
    await make_sick(at, "green")
    over = await at.product.api.switch("green", wait_healthy="500ms")
    assert over["state"] == "failed"
    assert (await at.product.api.service())["weights"] == {"blue": 100, "green": 0}
    (await at.get("/")).must_be(200, "blue")


async def test_a_target_that_turns_sick_on_the_way_is_left_again(at: Bench) -> None:
    load = Load(lambda: at.product.address, pause_s=0.01)
    async with load.running(6, 2):
        id = (await at.product.api.switch("green", wait=False, strategy="slow"))["id"]
        await at.product.api.state(id, "shifting")
        await load.more(200)
        assert {one.upstream for one in load.samples} == {"blue", "green"}
        at.green.healthy = False
        over = await at.product.api.ended(id)
        assert over["state"] == "rolled_back", over
        done = load.clock.tick()
        await load.more(100)
    must_not_fail(load.samples)
    assert {one.upstream for one in load.samples if one.began > done} == {"blue"}
    assert (await at.product.api.service())["weights"] == {"blue": 100, "green": 0}


ONLY_PROBES = {
    "path": "/healthz", "interval": "200ms", "timeout": "1s", "rise": 1, "fall": 2,
    "passive": "off",
}  # fmt: skip
"""Otherwise a run of errors may make the target unhealthy before its rate passes the limit."""


async def test_a_target_whose_answers_are_errors_is_left_again() -> None:
    async with bench(switchover=STRATEGIES, health=ONLY_PROBES) as at:
        load = Load(lambda: at.product.address, target=lambda _: "/?status=200", pause_s=0.005)
        async with load.running(6, 0):
            id = (await at.product.api.switch("green", wait=False, strategy="half"))["id"]
            await at.product.api.state(id, "shifting")
            load.target = lambda _: "/fails"
            at.green.script["/fails"] = lambda exchange: exchange.answer(b"no", status=500)
            over = await at.product.api.ended(id)
    assert over["state"] == "rolled_back", over
    assert "%" in over["outcome"], "it says which rate passed which limit"


async def test_no_return_to_an_upstream_that_is_sicker(at: Bench) -> None:
    """The target fails, and so has what was before it: the weights stay, a person is needed."""
    id = (await at.product.api.switch("green", wait=False, strategy="half"))["id"]
    await at.product.api.state(id, "shifting")
    await make_sick(at, "blue")
    await make_sick(at, "green")
    over = await at.product.api.ended(id)
    assert over["state"] == "failed", over
    assert (await at.product.api.service())["weights"] == {"blue": 50, "green": 50}


async def test_requests_for_a_sick_upstream_still_go_to_it_and_are_counted(at: Bench) -> None:
    await make_sick(at, "blue")
    before = (await at.product.api.metrics()).sum(
        "turnout_unhealthy_picks_total", service=SERVICE, upstream="blue"
    )
    for _ in range(30):
        (await at.get("/")).must_be(200, "blue")
    after = (await at.product.api.metrics()).sum(
        "turnout_unhealthy_picks_total", service=SERVICE, upstream="blue"
    )
    assert after - before == 30
    assert not at.green.ledger


async def test_a_control_that_trusts_anybody_is_found_out() -> None:
    """The promise broken on purpose: health is not asked for before weight rises."""
    async with bench(faults={"turnout.control.app": TRUSTS_ANYBODY}) as at:
        await make_sick(at, "green")
        with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
            await refused(at, "green")
