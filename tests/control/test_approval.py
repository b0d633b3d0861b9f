"""A strategy whose steps a person allows, in the real product by its real API."""

from typing import Any

import pytest

from tests.harness import ApiError, Bench, bench

BY_A_PERSON: dict[str, Any] = {
    "switchover": {"strategies": {"asked": {"steps": [10, 50, 100], "approval": True}}}
}


async def test_each_step_but_the_last_waits_for_a_person() -> None:
    async with bench(**BY_A_PERSON) as at:
        api = at.product.api
        started = await api.switch("green", wait=False, strategy="asked")
        id = started["id"]
        for step, green in ((1, 10), (2, 50)):
            now = await waiting(at, id, step)
            assert now["next_step_at"] is None
            assert (await api.service())["weights"]["green"] == green
            with pytest.raises(ApiError) as refused:
                await api.act("resume", id)
            assert refused.value.status == 409
            await api.act("approve", id, reason="looks good")
        ended = await api.ended(id)
        assert ended["state"] == "completed"
        assert (await api.service())["weights"]["green"] == 100
        with pytest.raises(ApiError) as refused:
            await api.act("approve", id)
        assert refused.value.status == 409
        audit = await api.call("GET", "/v1/audit")
        approvals = [entry for entry in audit["items"] if entry["action"] == "switchover.approve"]
        assert [entry["reason"] for entry in approvals] == ["looks good"] * 2


async def test_what_waits_for_a_person_outlives_everything_and_can_be_taken_back() -> None:
    async with bench(**BY_A_PERSON) as at:
        api = at.product.api
        id = (await api.switch("green", wait=False, strategy="asked"))["id"]
        await waiting(at, id, 1)
        at.product.kill_everything()
        await at.product.start()
        api = at.product.api
        assert (await waiting(at, id, 1))["weights"]["green"] == 10
        await api.healthy()
        await api.act("abort", id)
        assert (await api.ended(id))["state"] == "aborted"
        assert (await api.service())["weights"]["green"] == 0


async def waiting(at: Bench, id: str, step: int) -> dict[str, Any]:
    """Wait until it waits for approval behind that step."""
    now = await at.product.api.state(id, "paused")
    assert (now["waiting_for"], now["step"]) == ("approval", step)
    return now
