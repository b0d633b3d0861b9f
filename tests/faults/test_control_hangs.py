"""Control hangs: stopped by a signal, or amid a callback that does not end.

Traffic goes on, and so does the replacement of workers; the supervisor ends a control that does
not turn its loop, and the next one goes on where it was.
"""

import os
import signal

import pytest

from tests.faults.store_faults import every_case
from tests.harness import bench
from tests.load import Load, failures, must_not_fail

WATCHDOG = {"timeouts": {"watchdog": "1s", "shutdown": "2s"}}

# It stands still once the store has been asked for the audit.
HANGS = """
from turnout.control.ledger import Ledger
from turnout.control import api

def hang(self, call):
    while True:
        pass

api.Api.audit = hang
"""


async def test_a_control_that_is_stopped_is_replaced_and_its_switchover_goes_on() -> None:
    slow = {"strategies": {"slow": {"steps": [10, 100], "pause": "3s"}}}
    async with bench(workers=2, top=WATCHDOG, switchover=slow) as at:
        load = Load(lambda: at.product.address, pause_s=0.01)
        async with load.running(6, 3):
            id = (await at.product.api.switch("green", wait=False, strategy="slow"))["id"]
            await at.product.api.state(id, "shifting")
            before, workers = at.product.control_pid, at.product.workers()
            os.kill(before, signal.SIGSTOP)
            # A worker that dies meanwhile is replaced: nobody waits for control.
            os.kill(workers[0], signal.SIGKILL)
            died = load.clock.tick()
            await at.product.until(
                lambda: at.product.workers().get(0, workers[0]) != workers[0], "another worker"
            )
            replaced = load.clock.tick()
            await at.product.control_replaced(before)
            over = await at.product.api.ended(id)
        assert over["state"] == "completed"
        log = at.product.log()
        assert f"control.hung pid={before}" in log
        assert log.count("control.hung") == 1
        assert all(one.began < replaced and one.ended > died for one in failures(load.samples)), (
            "what fails is what the dead worker held"
        )


@pytest.mark.skipif(not every_case(), reason="TURNOUT_FAULTS=all; one that is stopped is alike")
async def test_a_control_whose_loop_does_not_turn_is_replaced() -> None:
    faults = {"turnout.control.app": HANGS}
    async with bench(workers=1, top=WATCHDOG, faults=faults) as at:
        load = Load(lambda: at.product.address, pause_s=0.01)
        async with load.running(4, 2):
            before = at.product.control_pid
            try:
                await at.product.api.http.get("/v1/audit", timeout=0.5)
            except OSError:
                raise
            except Exception as error:  # noqa: BLE001 - it cannot answer, and that is what is meant
                assert "Timeout" in type(error).__name__
            await at.product.control_replaced(before)
            await at.product.api.healthy()
            assert (await at.product.api.switch("green"))["state"] == "completed"
        must_not_fail(load.samples)
        assert "control.hung" in at.product.log()
