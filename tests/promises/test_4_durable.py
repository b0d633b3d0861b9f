"""Promise 4: what the control API acknowledged survives `kill -9` of every process.

Everything is killed at random moments of switchovers and started again on the same state. A
weight that was acknowledged holds from the first request on; a switchover that was accepted is
taken up again from the step it had reached, or goes back, as configured.
"""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from tests.harness import SERVICE, ApiError, Bench, Product, settings
from tests.upstreams import Upstream

ROUNDS = 6
STEPS = {"strategies": {"stepped": {"steps": [10, 50, 100], "pause": "1s"}}}

# A control plane that acknowledges what it has only in memory.
FORGETS = """
import sqlite3
from turnout.control import ledger
connect = ledger._connect

def only_in_memory(path, read_only):
    kept = connect(path, read_only)
    copy = sqlite3.connect(
        ":memory:", isolation_level=kept.isolation_level, check_same_thread=False
    )
    kept.backup(copy)
    copy.row_factory = kept.row_factory
    kept.close()
    return copy

ledger._connect = only_in_memory
"""


@asynccontextmanager
async def killable(fault: str = "", **service: Any) -> AsyncIterator[Bench]:
    async with Upstream("blue") as blue, Upstream("green") as green:
        product = Product(
            settings([blue.address], [green.address], workers=2, **service),
            faults={"turnout.control.app": fault} if fault else None,
        )
        try:
            await product.start()
            await product.api.healthy()
            yield Bench(product, blue, green)
        finally:
            await product.close()


async def shares(at: Bench, count: int = 40) -> Counter[str | None]:
    """Who answers, of so many requests over connections of their own."""
    return Counter([(await at.get("/")).upstream for _ in range(count)])


async def attempt(at: Bench, chosen: random.Random, blue: float) -> dict[str, Any]:
    """One decision, somehow; what was acknowledged of it, nothing if nothing was.

    `blue` is its weight now.
    """
    api = at.product.api
    other = "green" if blue >= 50 else "blue"
    try:
        match chosen.choice(("switch", "accepted", "weights", "stepped")):
            case "switch":
                done = await api.switch(other)
                return {"wanted": done["weights"]["blue"], "id": done["id"]}
            case "accepted":
                begun = await api.switch(other, wait=False)
                return {"wanted": 100 if other == "blue" else 0, "id": begun["id"]}
            case "stepped":
                begun = await api.switch(other, wait=False, strategy="stepped")
                return {"wanted": 100 if other == "blue" else 0, "id": begun["id"]}
            case _:
                wanted = chosen.choice((25, 50.5, 75))
                await api.weights(wanted)
                return {"wanted": wanted}
    except (httpx.TransportError, ApiError) as error:
        # Killed before it could answer. A refusal would be a mistake of this test.
        assert not isinstance(error, ApiError) or error.status >= 500, error
        return {}


async def test_what_was_acknowledged_holds_whenever_everything_is_killed() -> None:
    chosen = random.Random(20)
    async with killable(switchover=STEPS) as at:
        for number in range(ROUNDS):
            before = (await at.product.api.service())["weights"]
            acting = asyncio.ensure_future(attempt(at, chosen, before["blue"]))
            if number % 2:
                await asyncio.wait((acting,), timeout=chosen.uniform(0, 0.03))
            else:
                await acting  # acknowledged, and killed at once
            at.product.kill_everything()
            acknowledged = await acting
            await at.product.start()
            await at.product.api.healthy()
            found = await at.product.api.settled()
            if not acknowledged:
                continue  # both are right
            assert found["weights"]["blue"] == acknowledged["wanted"], (number, acknowledged)
            if "id" in acknowledged:
                over = await at.product.api.switchover(acknowledged["id"])
                assert over["state"] == "completed"


async def test_acknowledged_weights_hold_from_the_first_request_on() -> None:
    """Control need not be there for that, nor anybody else but a worker.

    And a deploy script that lost the answer asks again with the same key, and gets it.
    """
    async with killable() as at:
        call = ("POST", f"/v1/services/{SERVICE}/switchovers?wait=true", {"to": "green"})
        key = {"Idempotency-Key": "release-42"}
        first = await at.product.api.call(*call, headers=key)
        at.product.kill_everything()
        await at.product.start(control=False)
        assert await shares(at) == {"green": 40}
        await at.product.control_ready()
        assert (await at.product.api.call(*call, headers=key))["id"] == first["id"]
        await at.product.api.healthy()
        await at.product.api.weights(75)
        at.product.kill_everything()
        await at.product.start(control=False)
        counts = await shares(at, 100)
        assert abs(counts["blue"] - 75) <= 2, counts


async def stepped_and_killed(at: Bench) -> str:
    """Kill everything in the pause behind the second of three steps; the switchover's id."""
    id: str = (await at.product.api.switch("green", wait=False, strategy="stepped"))["id"]
    async with asyncio.timeout(10):
        while (await at.product.api.switchover(id))["weights"]["green"] != 50:
            await asyncio.sleep(0.01)
    at.product.kill_everything()
    await at.product.start(control=False)
    return id


async def test_a_switchover_is_taken_up_from_the_step_it_had_reached() -> None:
    async with killable(switchover=STEPS) as at:
        id = await stepped_and_killed(at)
        counts = await shares(at, 60)
        assert counts["green"] >= 28, counts
        await at.product.control_ready()
        over = await at.product.api.ended(id)
        assert over["state"] == "completed"
        assert await shares(at) == {"green": 40}
        # One switchover, not a second one beside it.
        history = (await at.product.api.call("GET", f"/v1/services/{SERVICE}/switchovers"))["items"]
        assert [one["id"] for one in history] == [id]


async def test_a_switchover_goes_back_if_it_is_configured_so() -> None:
    async with killable(switchover={**STEPS, "after_restart": "rollback"}) as at:
        id = await stepped_and_killed(at)
        await at.product.control_ready()
        over = await at.product.api.ended(id)
        assert over["state"] == "rolled_back"
        assert await shares(at) == {"blue": 40}


async def test_a_control_that_only_remembers_is_found_out() -> None:
    """The promise broken on purpose: decisions are acknowledged and not stored."""
    async with killable(FORGETS) as at:
        await at.product.api.switch("green")
        at.product.kill_everything()
        await at.product.start(control=False)
        with pytest.raises(AssertionError):
            assert await shares(at) == {"green": 40}
