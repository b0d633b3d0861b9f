"""What a client's connection that waits for its next request costs: there may be very many."""

import asyncio
import re
import resource
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.harness import bench
from turnout.proxy.deadlines import REST_S

pytestmark = pytest.mark.asyncio

BATCH: Final = 1000
BATCHES_MAX: Final = 10
LOOKS_EVERY_S: Final = 1.1
BOUND_BYTES: Final = 1770
"""1,640 were found; with what a request needs kept, 1,905. 3,072 are what it may be at most."""


@pytest.fixture
def batches() -> Iterator[int]:
    """As many as there are descriptors for: this process is the client, and a worker accepts
    one for each two that it may have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    found = min(BATCHES_MAX, (hard // 2 - 400) // BATCH)
    if found < 5:
        pytest.skip(f"no more than {hard} descriptors")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield found
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def resident_bytes(pid: int) -> int:
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    found = re.search(r"^Rss:\s+(\d+) kB", rollup, re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024


def ask(client: socket.socket, number: int) -> None:
    client.sendall(
        b"GET /some/path/%d?q=1 HTTP/1.1\r\nHost: shop.example:8080\r\nAccept: */*\r\n"
        b"User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36\r\n"
        b"Cookie: session=%d\r\n\r\n" % (number, number)
    )
    answer = client.recv(4096)
    assert answer.startswith(b"HTTP/1.1 200 "), answer


async def test_an_idle_connection_holds_little_and_serves_again(batches: int) -> None:
    top = {"limits": {"connections": 20_000}, "timeouts": {"keep_alive": "10m"}}
    clients: list[socket.socket] = []
    async with bench(control=False, workers=1, top=top, health="off") as at:
        pid = at.product.workers()[0]
        host, _, port = at.product.address.rpartition(":")

        def more(size: int) -> None:
            for _ in range(size):
                client = socket.create_connection((host, int(port)), timeout=10)
                clients.append(client)
                ask(client, len(clients))

        try:
            await asyncio.to_thread(more, 200)  # what is made once is made
            before = resident_bytes(pid)
            for _ in range(batches):
                # While a connection asks it holds more, and what it gives up when it has been
                # quiet for so long is for the next ones, not for the system.
                await asyncio.to_thread(more, BATCH)
                await asyncio.sleep(REST_S + LOOKS_EVERY_S)
            held_bytes = (resident_bytes(pid) - before) / (BATCH * batches)
            assert held_bytes < BOUND_BYTES
            # They are in nobody's way.
            begun_s = time.monotonic()
            for _ in range(100):
                (await at.get("/")).must_be(200, "blue")
            assert time.monotonic() - begun_s < 10.0
            for client in clients[::100]:
                await asyncio.to_thread(ask, client, 0)
        finally:
            for client in clients:
                client.close()
