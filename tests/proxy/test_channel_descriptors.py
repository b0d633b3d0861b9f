"""What the channel has closed it leaves alone: its number may be a client's by then."""

import asyncio
import gc
import os
import socket
from pathlib import Path

import uvloop

from turnout.proxy.channel import Channel
from turnout.proxy.commands import WORKERS_SOCKET, Hello


async def held_meanwhile(directory: Path) -> list[int]:
    """Connect again and again to a control that ends each connection at once, as one that is
    killed does; return those of our own descriptors, opened meanwhile, that were closed."""
    loop = asyncio.get_running_loop()
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listening.bind(str(directory / WORKERS_SOCKET))
    listening.listen(1)
    listening.setblocking(False)
    ours: list[int] = []
    ended = 0

    def end_one() -> None:
        nonlocal ended
        listening.accept()[0].close()
        ended += 1

    loop.add_reader(listening.fileno(), end_one)
    channel = Channel(directory, Hello(0, 0, os.getpid(), "-"), lambda message: None)
    running = loop.create_task(channel.run())
    try:
        async with asyncio.timeout(10):
            while ended < 200:
                await asyncio.sleep(0)
                if len(ours) < 400:
                    ours.append(os.dup(listening.fileno()))
        gc.collect()
        return [one for one in ours if not is_open(one)]
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        loop.remove_reader(listening.fileno())
        listening.close()
        for one in ours:
            if is_open(one):
                os.close(one)


def is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def test_a_connection_to_control_that_ends_at_once_closes_nobody_elses(tmp_path: Path) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(held_meanwhile(tmp_path)) == []
