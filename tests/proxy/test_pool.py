"""A server's connections in a worker: what is counted of them stays right whoever is cancelled."""

import asyncio
import socket
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from typing import cast

import pytest
import uvloop

from benchmarks import hot_path
from turnout.config.table import TableServer
from turnout.proxy.downstream import Downstream
from turnout.proxy.exchange import Exchange, State
from turnout.proxy.pool import ServerPool
from turnout.proxy.scoreboard import R_UPSTREAM_CONNECTIONS
from turnout.proxy.worker_core import Worker


@dataclass
class Bench:
    worker: Worker
    pool: ServerPool
    listening: socket.socket

    def exchange(self) -> Exchange:
        """One that waits for a connection."""
        down = Downstream(self.worker, self.worker.admission.door("-"), b"")
        down.connection_made(cast(asyncio.Transport, hot_path.Transport()))
        exchange = down.exchange = Exchange(down)
        exchange.state = State.CONNECTING
        exchange.request_head = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
        exchange.pool = self.pool
        return exchange

    @property
    def counted(self) -> tuple[int, int, int]:
        """Open, being opened, and open by the scoreboard (which has one of the worker's own)."""
        gauge = self.worker.region_base + R_UPSTREAM_CONNECTIONS
        return self.pool.open, len(self.pool.connecting), self.worker.words[gauge] - 1


def on_uvloop(test: Callable[[Bench], Coroutine[None, None, None]]) -> None:
    """Run `test` with a pool of one connection at the most, whose server listens."""

    async def run() -> None:
        with hot_path.bench() as found, socket.create_server(("127.0.0.1", 0)) as listening:
            worker = found.worker
            worker.loop = asyncio.get_running_loop()
            address = f"127.0.0.1:{listening.getsockname()[1]}"
            policy = replace(worker.table.pool, connections_max=1)
            pool = ServerPool(worker, TableServer(address, address, 1), policy)
            await test(Bench(worker, pool, listening))

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())


async def settled(pool: ServerPool) -> None:
    async with asyncio.timeout(5):
        while pool.connecting:
            await asyncio.sleep(0.001)
    await asyncio.sleep(0.01)  # what was closed is lost by then


@pytest.mark.parametrize("turns", [0, 1, 2])
def test_a_connection_that_is_given_up_as_it_is_made_is_counted_no_more(turns: int) -> None:
    """So many turns of the loop after it was made."""

    async def test(at: Bench) -> None:
        pool, left = at.pool, turns

        def look() -> None:
            nonlocal left
            left -= bool(pool.open)
            if left < 0:
                pool.close_idle()
            else:
                at.worker.loop.call_soon(look)

        look()
        exchange = at.exchange()
        exchange.state = State.ENDED  # nobody waits for it any more
        pool.connect(exchange)
        async with asyncio.timeout(5):
            while left >= 0:
                await asyncio.sleep(0.001)
        await settled(pool)
        assert at.counted == (0, 0, 0)

    on_uvloop(test)


def test_one_that_is_given_up_before_it_has_begun_is_counted_no_more() -> None:
    async def test(at: Bench) -> None:
        at.pool.connect(at.exchange())
        at.pool.close_idle()
        await settled(at.pool)
        assert at.counted == (0, 0, 0)
        later = at.exchange()
        at.pool.connect(later)
        await settled(at.pool)
        assert later.connection is not None

    on_uvloop(test)


def test_who_waits_while_another_ones_connection_is_given_up_has_his_turn() -> None:
    async def test(at: Bench) -> None:
        at.pool.connect(at.exchange())
        at.pool.close_idle()
        waits = at.exchange()
        at.pool.connect(waits)
        assert at.pool.waiting
        await settled(at.pool)
        assert waits.connection is not None
        assert at.counted == (1, 0, 1)

    on_uvloop(test)
