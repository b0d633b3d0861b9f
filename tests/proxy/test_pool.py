"""A server's connections in a worker: what is counted of them stays right whoever is cancelled."""

import asyncio
import socket

import uvloop

from benchmarks import hot_path
from turnout.config.table import TableServer
from turnout.proxy.exchange import Exchange
from turnout.proxy.pool import ServerPool
from turnout.proxy.scoreboard import R_UPSTREAM_CONNECTIONS


async def counted_behind(turns: int) -> tuple[int, int, int]:
    """Give a connection up so many turns of the loop after it was made; return what is counted
    then: open, being opened, and in the scoreboard."""
    loop = asyncio.get_running_loop()
    with hot_path.bench() as found, socket.create_server(("127.0.0.1", 0)) as listening:
        worker = found.worker
        worker.loop = loop
        gauge = worker.region_base + R_UPSTREAM_CONNECTIONS
        before = worker.words[gauge]
        address = f"127.0.0.1:{listening.getsockname()[1]}"
        pool = ServerPool(worker, TableServer(address, address, 1), worker.table.pool)
        left = turns

        def look() -> None:
            nonlocal left
            if pool.open:
                left -= 1
            if left < 0:
                pool.close_idle()
            else:
                loop.call_soon(look)

        look()
        pool.connect(Exchange(found.down))
        async with asyncio.timeout(5):
            while left >= 0 or pool.connecting:
                await asyncio.sleep(0.001)
        await asyncio.sleep(0.01)  # a connection that was given back is closed by then
        return pool.open, pool.opening, worker.words[gauge] - before


def test_a_connection_that_is_given_up_as_it_is_made_is_counted_no_more() -> None:
    for turns in range(3):
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            assert runner.run(counted_behind(turns)) == (0, 0, 0), turns
