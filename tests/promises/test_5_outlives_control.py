"""Promise 5: the data plane outlives the control plane.

Traffic flows on, and a dead worker is replaced, while control is dead, restarting or stuck.
"""

import asyncio
import os
import signal

import pytest

from tests.harness import Bench, bench, stopped
from tests.load import Load, failures, must_not_fail
from turnout.proxy.scoreboard import CUT_REASONS, S_CUT, U_CUT, UPSTREAM_WORDS

# A data plane that needs its control plane: it ends when the connection to it is lost.
NEEDS_CONTROL = """
import os, sys
from turnout.proxy import channel

made = channel.Channel.connection_made

def found(self, transport):
    made(self, transport)
    print("test.found_control", file=sys.stderr, flush=True)

def lost(self, error):
    os._exit(1)

channel.Channel.connection_made = found
channel.Channel.connection_lost = lost
"""


def load_of(at: Bench) -> Load:
    return Load(lambda: at.product.address, pause_s=0.01)


@pytest.mark.parametrize("workers", [1, 2])
async def test_traffic_flows_while_control_is_stuck(workers: int) -> None:
    async with bench(workers=workers) as at, load_of(at).running(8, 4) as load:
        async with stopped(at.product.control_pid):
            await load.more(500)
        await at.product.control_ready()
        assert (await at.product.api.switch("green"))["state"] == "completed"
    must_not_fail(load.samples)


async def test_traffic_flows_while_control_dies_again_and_again() -> None:
    async with bench(workers=2) as at, load_of(at).running(8, 4) as load:
        for _ in range(2):
            pid = await at.product.until(lambda: at.product.control_pid, "a control process")
            os.kill(pid, signal.SIGKILL)
            await load.more(100)
        await at.product.control_ready()
        await at.product.api.healthy()
        assert (await at.product.api.switch("green"))["state"] == "completed"
    must_not_fail(load.samples)


async def test_a_worker_that_dies_while_control_is_stuck_is_replaced() -> None:
    """Only what the dead worker held is lost, and that is counted as cut."""
    async with bench(workers=2) as at:
        load = load_of(at)
        load.target = lambda number: "/load?delay=0.02"
        async with load.running(12, 6), stopped(at.product.control_pid):
            await load.more(100)
            before = at.product.workers()
            os.kill(before[0], signal.SIGKILL)
            died_at = load.clock.tick()
            await at.product.until(
                lambda: (
                    set(at.product.workers()) == {0, 1} and at.product.workers()[0] != before[0]
                ),
                "another worker 0",
            )
            replaced_at = load.clock.tick()
            await load.more(200)
        # A connection that was being opened or kept at that moment breaks with its worker.
        failed = failures(load.samples)
        assert all(one.began < replaced_at and one.ended > died_at for one in failed), failed
        assert len(failed) <= 18, "each client had one request under way"
        words = at.product.scoreboard.service_counters(1)
        died = CUT_REASONS.index("worker_died")
        cut = sum(words[base + died] for base in (U_CUT, UPSTREAM_WORDS + U_CUT, S_CUT))
        assert cut <= len(failed)


async def test_new_connections_are_served_while_a_worker_is_dead() -> None:
    """A sibling accepts from the socket of the dead one: nobody waits for its successor."""
    async with bench(workers=2) as at:
        async with stopped(at.product.supervisor_pid):
            os.kill(at.product.workers()[0], signal.SIGKILL)
            await at.product.until(lambda: len(at.product.workers()) == 1, "its death")
            async with asyncio.timeout(5):
                answers = await asyncio.gather(*(at.get(f"/{number}") for number in range(60)))
            assert [answer.status for answer in answers] == [200] * 60
        await at.product.until(lambda: len(at.product.workers()) == 2, "its successor")


async def test_a_data_plane_that_needs_control_is_found_out() -> None:
    """The promise broken on purpose: a worker ends when it loses control."""
    async with bench(workers=2, faults={"turnout.proxy.worker": NEEDS_CONTROL}) as at:
        async with load_of(at).running(8, 4) as load:
            await load.more(50)
            before = at.product.workers()
            # Who has not found it yet cannot lose it.
            await at.product.until(
                lambda: at.product.log().count("test.found_control") == 2, "both to find control"
            )
            os.kill(at.product.control_pid, signal.SIGKILL)
            await at.product.until(lambda: at.product.workers() != before, "workers to end")
            await load.more(100)
        with pytest.raises(AssertionError, match="failed, such as"):
            must_not_fail(load.samples)
