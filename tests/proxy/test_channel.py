"""The worker's line to control: control may be away at any time, and is found when it comes."""

import asyncio
import contextlib
import os
import select
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import uvloop

from turnout.proxy.channel import RETRY_S, Channel
from turnout.proxy.commands import WORKERS_SOCKET, Hello

SOON_S = 4 * RETRY_S
"""Well below the half second that a first switch once waited for."""


class Control(asyncio.Protocol):
    """Listens, and counts what connects."""

    def __init__(self, connected: asyncio.Event, live: list[asyncio.Transport]) -> None:
        self._connected = connected
        self._live = live

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._live.append(transport)
        self._connected.set()


@contextlib.asynccontextmanager
async def control(runtime_dir: Path) -> AsyncIterator[asyncio.Event]:
    """A control that listens; the event is set once a worker has connected."""
    path = runtime_dir / WORKERS_SOCKET
    connected = asyncio.Event()
    live: list[asyncio.Transport] = []
    path.unlink(missing_ok=True)
    loop = asyncio.get_running_loop()
    server = await loop.create_unix_server(lambda: Control(connected, live), path=str(path))
    try:
        yield connected
    finally:
        server.close()
        for transport in live:
            transport.abort()


@contextlib.asynccontextmanager
async def worker(runtime_dir: Path) -> AsyncIterator[Channel]:
    channel = Channel(runtime_dir, Hello(0, 0, 1, "generation"), lambda message: None)
    task = asyncio.create_task(channel.run())
    try:
        yield channel
    finally:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_a_control_that_was_long_away_is_found_at_once(tmp_path: Path) -> None:
    async with worker(tmp_path) as channel:
        # Pauses of half a second, or ones that double from 50 ms, would end well after SOON_S.
        await asyncio.sleep(0.78)
        assert not channel.connected
        begun_s = time.monotonic()
        async with control(tmp_path) as connected:
            await asyncio.wait_for(connected.wait(), 5.0)
            assert time.monotonic() - begun_s < SOON_S


async def test_a_control_that_was_killed_leaves_a_socket_file_behind_and_is_found_again(
    tmp_path: Path,
) -> None:
    async with worker(tmp_path):
        async with control(tmp_path) as connected:
            await asyncio.wait_for(connected.wait(), 5.0)
        (tmp_path / WORKERS_SOCKET).touch()
        async with control(tmp_path) as connected:
            await asyncio.wait_for(connected.wait(), SOON_S)


# ---------------------------------------------------------------- whose descriptor it is


async def closed_behind_us(runtime_dir: Path, times: int) -> list[int]:
    """Let control die `times` times in the moment between the worker's connecting and its first
    word; return those of our own descriptors, opened meanwhile, that somebody else has closed.

    A descriptor that two think their own is closed twice, and by the second time its number is
    a client's: that client's connection ended, and the next one got its answer.
    """
    path = runtime_dir / WORKERS_SOCKET
    loop = asyncio.get_running_loop()
    died = asyncio.Event()
    ours: list[int] = []
    deaths = 0
    listening = listen(path)

    def look() -> None:
        nonlocal listening, deaths
        if deaths and len(ours) < 200:  # one takes whatever number has just become free
            ours.append(os.open(os.devnull, os.O_RDONLY))
        if select.select([listening], [], [], 0)[0]:
            listening.close()  # what waits in its queue gets a broken pipe
            path.unlink()
            listening = listen(path)
            deaths += 1
        if deaths < times:
            loop.call_soon(look)
        else:
            died.set()

    try:
        async with worker(runtime_dir):
            look()
            await asyncio.wait_for(died.wait(), 20.0)
            await asyncio.sleep(4 * RETRY_S)  # it has come back once more, and let go of the last
        return [one for one in ours if not is_open(one)]
    finally:
        listening.close()
        for one in filter(is_open, ours):
            os.close(one)


def listen(path: Path) -> socket.socket:
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listening.bind(str(path))
    listening.listen(1)
    return listening


def is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def test_a_control_that_dies_as_it_is_connected_to_costs_nobody_his_descriptor(
    tmp_path: Path,
) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(closed_behind_us(tmp_path, 5)) == []
