"""The worker's line to control: control may be away at any time, and is found when it comes."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

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
