"""The wall clock jumps, by an hour or by a day, forth and back: what control waits for does not.

`time.time()` of the control process is the real one and an offset from a file; durations are the
machine's. Deadlines are kept over control's death too, with the clock set meanwhile.
"""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from tests.faults.store_faults import every_case
from tests.harness import SERVICE, Bench, Product, settings
from tests.load import Load, must_not_fail
from tests.upstreams import Upstream

VARIABLE: Final = "TURNOUT_TEST_CLOCK"
HOUR_S: Final = 3600.0
DAY_S: Final = 24 * HOUR_S
PATH: Final = f"/v1/services/{SERVICE}"

JUMPS: Final = """
import os, time
real, path = time.time, os.environ["TURNOUT_TEST_CLOCK"]

def jumping():
    with open(path) as file:
        return real() + float(file.read())

time.time = jumping
time.time_ns = lambda: int(jumping() * 1e9)
"""


class Clock:
    """The wall clock of the control process."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.jump(0.0)

    def jump(self, to_s: float) -> None:
        """So far ahead of the true time from now on."""
        unfinished = self.path.with_suffix(".new")
        unfinished.write_text(str(to_s))
        unfinished.rename(self.path)


@asynccontextmanager
async def clocked(directory: Path, **service: Any) -> AsyncIterator[tuple[Bench, Clock]]:
    clock = Clock(directory / "clock")
    async with Upstream("blue") as blue, Upstream("green") as green:
        product = Product(
            settings([blue.address], [green.address], workers=1, **service),
            faults={"turnout.control.app": JUMPS},
            environment={VARIABLE: str(clock.path)},
        )
        try:
            await product.start()
            await product.api.healthy()
            yield Bench(product, blue, green), clock
        finally:
            await product.close()


async def killed(product: Product) -> None:
    before = product.control_pid
    os.kill(before, signal.SIGKILL)
    await product.control_replaced(before)


EVERY: Final = [(DAY_S, True), (-DAY_S, True), (DAY_S, False), (-DAY_S, False)]


@pytest.mark.parametrize(("jump_s", "dies"), EVERY if every_case() else EVERY[:1])
async def test_a_step_is_held_as_long_as_it_should_be(
    tmp_path: Path, jump_s: float, dies: bool
) -> None:
    steps = {"strategies": {"stepped": {"steps": [10, 100], "pause": "1s"}}}
    async with clocked(tmp_path, switchover=steps) as (at, clock):
        api = at.product.api
        load = Load(lambda: at.product.address, pause_s=0.02)
        async with load.running(2, 2):
            began_s = time.monotonic()
            id = (await api.switch("green", wait=False, strategy="stepped"))["id"]
            while (await api.switchover(id))["next_step_at"] is None:
                await asyncio.sleep(0.01)
            clock.jump(jump_s)
            if dies:
                await killed(at.product)
            over = await api.ended(id, limit_s=8.0)
            took_s = time.monotonic() - began_s
        assert over["state"] == "completed"
        assert 0.9 < took_s < 8
        must_not_fail(load.samples, at_least=20)
        phases = {phase["name"]: phase["seconds"] for phase in over["receipt"]["phases"]}
        assert 0.9 < phases["shifting"] < took_s, phases
        assert over["started_at"] < over["finished_at"]
        # Another one, later: in order, whatever the clock has said in between.
        again = await api.switch("blue")
        assert again["id"] > id
        audit = (await api.call("GET", "/v1/audit"))["items"]
        revisions = [entry["revision"] for entry in audit]
        assert revisions == sorted(revisions, reverse=True)


async def test_a_drain_cuts_nothing_before_its_time_when_the_clock_jumps(tmp_path: Path) -> None:
    async with clocked(tmp_path, drain={"timeout": "20s", "tunnels": "20s"}) as (at, clock):
        asked = asyncio.ensure_future(at.get("/slow?delay=1"))
        await at.product.until(lambda: at.blue.ledger, "the request at blue")
        id = (await at.product.api.switch("green", wait=False))["id"]
        await at.product.api.state(id, "draining")
        clock.jump(HOUR_S)
        answer = await asked
        assert (answer.status, answer.upstream) == (200, "blue")
        over = await at.product.api.ended(id)
        assert over["receipt"]["cut"] == []
        assert over["receipt"]["in_flight_at_flip"]["plain"] == 1


async def test_a_drain_ends_in_its_time_when_the_clock_is_set_back(tmp_path: Path) -> None:
    async with clocked(tmp_path, drain={"timeout": "1s", "tunnels": "1s"}) as (at, clock):
        asked = asyncio.ensure_future(at.get("/hangs?hang=1"))
        await at.product.until(lambda: at.blue.ledger, "the request at blue")
        id = (await at.product.api.switch("green", wait=False))["id"]
        clock.jump(-DAY_S)
        over = await at.product.api.ended(id, limit_s=8.0)
        assert [cut["path"] for cut in over["receipt"]["cut"]] == ["/hangs"]
        assert (await asked).status == 503


@pytest.mark.parametrize("dies", [False, True] if every_case() else [False])
async def test_a_hold_ends_in_its_time_when_the_clock_is_set_back(
    tmp_path: Path, dies: bool
) -> None:
    async with clocked(tmp_path, hold={"timeout": "1s"}) as (at, clock):
        await at.product.api.act("hold")
        clock.jump(-DAY_S)
        if dies:
            await killed(at.product)
        async with asyncio.timeout(8):
            while (await at.product.api.service())["held"]:
                await asyncio.sleep(0.05)
        assert (await at.get("/")).status == 200


async def test_a_key_is_not_forgotten_when_the_clock_is_set_forward(tmp_path: Path) -> None:
    async with clocked(tmp_path) as (at, clock):
        call = ("POST", f"{PATH}/switchovers?wait=true", {"to": "green"})
        key = {"Idempotency-Key": "release-42"}
        first = await at.product.api.call(*call, headers=key)
        clock.jump(400 * DAY_S)
        other = {"Idempotency-Key": "another"}
        await at.product.api.call("POST", f"{PATH}/hold", {}, headers=other)
        await at.product.api.act("release")
        assert (await at.product.api.call(*call, headers=key))["id"] == first["id"]
