"""Promise 1: nothing that an operator does adds an error.

Under load of both kinds (connections that are kept, and one for each request; requests that may
be sent again, and such that may not): switches, weights, rollbacks, holds, new servers, reloads
with more and fewer workers, restarts of control. Every request must be answered with 200 by the
upstream whose ledger has it, once.
"""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.harness import SERVICE, Bench, bench
from tests.load import Load, misplaced, must_not_fail
from tests.upstreams import Upstream

# What every proxy does that is reconfigured by a restart of its workers' connections.
DROPS_CONNECTIONS = """
from turnout.proxy import serving
adopt = serving.Serving.adopt

def adopt_and_drop(self, *arguments):
    adopt(self, *arguments)
    for connection in list(self._worker.connections):
        connection.transport.abort()

serving.Serving.adopt = adopt_and_drop
"""


@asynccontextmanager
async def under_load(at: Bench, checked: bool = True, pause_s: float = 0.0) -> AsyncIterator[Load]:
    """Load by GET and by POST, until left; then every request must have been answered."""

    def load(method: str) -> Load:
        return Load(
            lambda: at.product.address,
            method=method,
            name=method,
            pause_s=pause_s,
            target=lambda number: f"/{method}?delay=0.0{number % 3}",
        )

    gets, posts = load("GET"), load("POST")
    async with gets.running(10, 4), posts.running(6, 3):
        await gets.more(50)
        yield gets
        await gets.more(50)
    gets.samples += posts.samples
    if checked:
        must_not_fail(gets.samples)
        assert misplaced(gets.samples, [at.blue, at.green]) == []


@pytest.mark.parametrize("workers", [1, 2])
async def test_no_move_of_weight_drops_a_request(workers: int) -> None:
    stepped = {"steps": [10, 50, 100], "pause": "50ms"}
    # One that is surely still under way when it is aborted, on however slow a machine.
    long = {"steps": [10, 50, 100], "pause": "30s"}
    strategies = {"strategies": {"stepped": stepped, "long": long}}
    async with bench(workers=workers, switchover=strategies) as at:
        api = at.product.api
        async with under_load(at) as load:
            for _ in range(3):
                assert (await api.switch("green"))["state"] == "completed"
                await load.more(20)
                assert (await api.rollback())["state"] == "completed"
                await load.more(20)
                for blue in (90, 33.33, 50, 0):
                    await api.weights(blue)
                    await load.more(10)
                await api.settled()
                assert (await api.switch("blue", strategy="stepped"))["state"] == "completed"
            id = (await api.switch("green", strategy="long", wait=False))["id"]
            await api.state(id, "shifting")
            await load.more(20)
            assert (await api.act("abort", id))["id"] == id
            assert (await api.ended(id))["state"] == "aborted"
            await api.act("hold")
            await asyncio.sleep(0.2)
            await api.act("release")


async def test_no_change_of_servers_drops_a_request() -> None:
    async with bench() as at, Upstream("blue") as second:
        async with under_load(at, checked=False) as load:
            for servers in (
                [second.address],
                [at.blue.address, second.address],
                [at.blue.address],
            ) * 3:
                await at.product.api.call(
                    "PUT", f"/v1/services/{SERVICE}/upstreams/blue", {"servers": servers}
                )
                await load.more(60)
        must_not_fail(load.samples)
        assert misplaced(load.samples, [at.blue, second, at.green]) == []
        assert any(one.id for one in second.ledger)


async def test_no_reload_drops_a_request() -> None:
    """Asked for by the API and by a signal; with more workers, with fewer, and with others."""
    async with bench(workers=2) as at, under_load(at) as load:
        for workers, by_signal in ((3, False), (1, True), (2, False)):
            at.product.write_config({"workers": workers, "via": f"turnout-{workers}"})
            if by_signal:
                os.kill(at.product.supervisor_pid, signal.SIGHUP)
            else:
                await at.product.api.call("POST", "/v1/reload")
            await at.product.until(
                lambda: len(at.product.workers()) == at.product.workers_wanted,
                f"{workers} workers",
            )
            async with asyncio.timeout(10):
                while (await at.get("/x")).get("Via") != f"1.1 turnout-{workers}":
                    await asyncio.sleep(0.01)
            await load.more(100)


async def test_no_restart_of_control_drops_a_request() -> None:
    async with bench(workers=2) as at, under_load(at, pause_s=0.02) as load:
        for number, to in ((signal.SIGTERM, "green"), (signal.SIGKILL, "blue")):
            before = at.product.control_pid
            os.kill(before, number)
            await at.product.control_replaced(before)
            await at.product.api.healthy()
            assert (await at.product.api.switch(to))["state"] == "completed"
            await load.more(50)


async def test_stopping_finishes_what_has_begun() -> None:
    """SIGTERM to everything: what is under way is answered, kept connections end politely."""
    async with bench(workers=2) as at:
        slow = [asyncio.ensure_future(at.get(f"/slow/{n}?delay=0.5")) for n in range(10)]
        idle = [await at.client() for _ in range(4)]
        for client in idle:
            (await client.get("/idle")).must_be(200, "blue")
        for number in range(10):
            await at.blue.received(f"/slow/{number}")
        assert await at.product.stop() == 0
        for one in slow:
            answer = (await one).must_be(200, "blue")
            assert answer.closed, "the answer says that the connection ends"
        for client in idle:
            await client.ended()


async def test_a_reload_that_drops_connections_is_found_out() -> None:
    """The promise broken on purpose: a new table ends the connections of before."""
    async with bench(workers=2, faults={"turnout.proxy.worker": DROPS_CONNECTIONS}) as at:
        async with under_load(at, checked=False) as load:
            at.product.write_config({"via": "turnout-x"})
            await at.product.api.call("POST", "/v1/reload")
            await load.more(50)
        with pytest.raises(AssertionError, match="failed, such as"):
            must_not_fail(load.samples)
