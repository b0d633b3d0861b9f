"""The bound on a worker's memory that docs/operations.md gives, held by clients and servers that
do their worst: what is resident stays below it, they keep nobody else out, and nothing stays."""

import asyncio
import contextlib
import re
import socket
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.harness import Bench, bench
from tests.upstreams import Exchange
from turnout.proxy.scoreboard import R_CONNECTIONS

pytestmark = pytest.mark.asyncio

EACH: Final = 20
KIB: Final = 1024
LIMITS: Final = {
    "header_bytes": 32 * KIB, "response_header_bytes": 64 * KIB, "replay_bytes": 64 * KIB,
    "pipeline_bytes": 64 * KIB,
}  # fmt: skip
READ: Final = 256_000
"""What uvloop reads at once, at most."""
STALLED: Final = 64 * KIB + READ
"""Of a peer that takes nothing: it is written to until so much waits, and one read more."""
OBJECTS: Final = 16 * KIB
"""For what a connection is made of, and for what is lost between the allocator's blocks."""

WORST: Final = {
    "endless_head": LIMITS["header_bytes"],
    "sends_ahead": LIMITS["pipeline_bytes"] + READ,
    "body_nobody_reads": LIMITS["replay_bytes"] + STALLED,
    "tiny_chunks_nobody_reads": LIMITS["replay_bytes"] + STALLED,
    "answer_not_taken": STALLED,
    "endless_answer_head": LIMITS["response_header_bytes"],
}
"""Bytes that one of each may make a worker hold."""
BOUND: Final = EACH * (sum(WORST.values()) + len(WORST) * OBJECTS)
SOCKETS: Final = 16 * KIB * KIB

TOP: Final = {
    "timeouts": dict.fromkeys(("header", "first_byte", "body_idle", "client_rate"), "5m"),
    "limits": {name: f"{size // KIB}KiB" for name, size in LIMITS.items()},
}


def resident_bytes(pid: int) -> int:
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    found = re.search(r"^Rss:\s+(\d+) kB", rollup, re.MULTILINE)
    assert found is not None
    return int(found[1]) * KIB


class Crowd:
    """Clients that send what they can, and read nothing."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self.address = (host, int(port))
        self.sockets: list[socket.socket] = []
        self.sending: set[asyncio.Task[None]] = set()

    async def send(self, *pieces: bytes) -> None:
        """One more, in the background, for as long as its pieces are taken."""
        link = socket.socket()
        link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        link.setblocking(False)
        self.sockets.append(link)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(link, self.address)

        async def all_of_it() -> None:
            with contextlib.suppress(ConnectionError):
                for piece in pieces:
                    await loop.sock_sendall(link, piece)

        self.sending.add(asyncio.create_task(all_of_it()))

    async def close(self) -> None:
        for task in self.sending:
            task.cancel()
        await asyncio.gather(*self.sending, return_exceptions=True)
        for link in self.sockets:
            link.close()


HEAD: Final = b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"y" * (LIMITS["header_bytes"] - 100)
BODY: Final = bytes(2_000_000)
TINY: Final = b"1\r\nx\r\n" * 80_000


async def everybody(crowd: Crowd) -> None:
    for _ in range(EACH):
        await crowd.send(*(HEAD[start : start + 1500] for start in range(0, len(HEAD), 1500)))
        await crowd.send(
            b"GET /silent HTTP/1.1\r\nHost: a\r\n\r\n",
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(BODY),
            BODY,
        )
        await crowd.send(
            b"POST /silent HTTP/1.1\r\nHost: a\r\nContent-Length: 90000000\r\n\r\n", BODY * 4
        )
        await crowd.send(
            b"POST /silent HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", TINY
        )
        await crowd.send(b"GET /flood HTTP/1.1\r\nHost: a\r\n\r\n")
        await crowd.send(b"GET /endless HTTP/1.1\r\nHost: a\r\n\r\n")


def scripts(stop: asyncio.Event) -> dict[str, Callable[[Exchange], Awaitable[None]]]:
    async def silent(exchange: Exchange) -> None:
        await stop.wait()
        exchange.keep = False

    async def flood(exchange: Exchange) -> None:
        await exchange.send(exchange.head(200, ("Transfer-Encoding: chunked",)))
        while not stop.is_set():
            await exchange.send(b"10000\r\n" + bytes(65536) + b"\r\n")
        exchange.keep = False

    async def endless(exchange: Exchange) -> None:
        await exchange.send(b"HTTP/1.1 200 OK\r\nX: " + b"y" * (60 * KIB))
        await stop.wait()
        exchange.keep = False

    return {"/silent": silent, "/flood": flood, "/endless": endless}


async def steady(pid: int) -> int:
    """Wait until what a process has resident does not grow any more, and return that."""
    looks = [resident_bytes(pid)]
    async with asyncio.timeout(30):
        while len(looks) < 6 or max(looks[-6:]) - min(looks[-6:]) > 256 * KIB:
            await asyncio.sleep(0.06)
            looks.append(resident_bytes(pid))
    return looks[-1]


async def test_a_worker_holds_no_more_than_its_limits_allow() -> None:
    async with bench(control=False, workers=1, top=TOP, health="off") as at:
        pid = at.product.workers()[0]
        (await at.get("/")).must_be(200, "blue")
        empty = await steady(pid)
        rounds = [await one_round(at, pid) - empty for _ in range(2)]
    assert max(rounds) < BOUND, f"{rounds} bytes, and {BOUND} may be"
    # They did do something; and what the first ones made it hold, the next ones use again.
    assert min(rounds) > BOUND / 4
    assert rounds[1] < rounds[0] * 1.25


@contextlib.contextmanager
def memory_limit(pid: int, size: int) -> Iterator[Callable[[], int]]:
    """Hold what a process takes from now on to `size` bytes by a cgroup (v1 or v2) of its own, and
    give how often the kernel killed for it. Skips where cgroups may not be made."""
    old, new = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")
    version_1 = (old / "cgroup.procs").exists()
    group = (old if version_1 else new) / f"turnout-test-{pid}"
    limit = "memory.limit_in_bytes" if version_1 else "memory.max"
    events = "memory.oom_control" if version_1 else "memory.events"
    before = Path(f"/proc/{pid}/cgroup").read_text()
    found = re.search(r"^\d+:memory:(.*)$" if version_1 else r"^0::(.*)$", before, re.MULTILINE)
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no memory cgroup can be made here: {error.strerror}")
    try:
        if not (group / limit).exists():
            pytest.skip("the memory controller is not on in the root cgroup")
        (group / limit).write_text(str(size))
        (group / "cgroup.procs").write_text(str(pid))

        def killed() -> int:
            kills = re.search(r"^oom_kill (\d+)$", (group / events).read_text(), re.MULTILINE)
            assert kills is not None
            return int(kills[1])

        yield killed
    finally:
        home = (old if version_1 else new) / (found[1].lstrip("/") if found else "")
        with contextlib.suppress(OSError):  # it may be dead
            (home / "cgroup.procs").write_text(str(pid))
        group.rmdir()


async def test_a_cgroup_of_that_size_is_enough() -> None:
    """The bound, held by the kernel; of what sockets hold a cgroup of version 2 counts, too."""
    async with bench(control=False, workers=1, top=TOP, health="off") as at:
        pid = at.product.workers()[0]
        (await at.get("/")).must_be(200, "blue")
        with memory_limit(pid, BOUND + SOCKETS) as killed:
            await one_round(at, pid)
            assert killed() == 0
        assert at.product.workers() == {0: pid}


async def one_round(at: Bench, pid: int) -> int:
    """What is resident while all of them do their worst."""
    stop = asyncio.Event()
    at.blue.script.update(scripts(stop))
    crowd = Crowd(at.product.address)
    try:
        await everybody(crowd)
        board = at.product.scoreboard
        connections = board.region(0) + R_CONNECTIONS
        everyone = EACH * len(WORST)
        await at.product.until(lambda: board.words[connections] == everyone, "all of them", 30.0)
        found = await steady(pid)
        for _ in range(20):
            (await at.get("/")).must_be(200, "blue")
    finally:
        stop.set()
        await crowd.close()
    await at.blue.until(lambda: all(one.answered or one.abandoned for one in at.blue.ledger), 20.0)
    at.blue.ledger.clear()
    await steady(pid)
    return found
