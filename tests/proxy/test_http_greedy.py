"""Slow and greedy clients: each is bounded in time and memory, answered where that is possible,
and counted by its reason in /metrics. Those who are only slow are let be."""

import asyncio
import contextlib
import re
import socket
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Final

import pytest
import pytest_asyncio

from tests.harness import Bench, bench
from tests.rawhttp import Client, Malformed
from tests.upstreams import Exchange, pattern

pytestmark = pytest.mark.asyncio(loop_scope="module")

WINDOW_S: Final = 0.3
RATE: Final = 20 * 1024
HEALTH: Final = "/alive"
LISTENERS: Final = [{"bind": "127.0.0.1:0", "health_path": HEALTH}]

RATED = {
    "listeners": LISTENERS,
    "timeouts": {
        "header": "500ms", "body_idle": "3s", "client_rate": f"{int(WINDOW_S * 1000)}ms",
        "linger": "300ms", "linger_total": "1s",
    },
    "limits": {"client_rate": f"{RATE // 1024}KiB", "header_bytes": "4KiB", "headers": 20},
}  # fmt: skip
UNRATED = {
    "listeners": LISTENERS,
    "timeouts": {
        "header": "2s", "body_idle": "600ms", "client_rate": f"{int(WINDOW_S * 1000)}ms",
        "linger": "300ms",
    },
    "limits": {"client_rate": 0, "pipeline_bytes": "4KiB"},
}  # fmt: skip


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def at() -> AsyncIterator[Bench]:
    """With a least rate, and a longer time for those who move nothing."""
    async with bench(workers=1, top=RATED) as found:
        yield found


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def unrated() -> AsyncIterator[Bench]:
    """Without a least rate."""
    async with bench(workers=1, top=UNRATED) as found:
        yield found


@contextlib.asynccontextmanager
async def counts(at: Bench, **wanted: int) -> AsyncIterator[None]:
    """/metrics count so many more of each fault or reason for a refusal, and no other one."""
    before = await counted(at)
    yield
    await until_counted(at, before, wanted)


async def counted(at: Bench) -> dict[str, float]:
    metrics = await at.product.api.metrics()
    return {
        sample.labels.get("fault") or sample.labels["reason"]: sample.value
        for sample in metrics.samples
        if sample.name in ("turnout_peer_faults_total", "turnout_refused_total")
    }


async def until_counted(at: Bench, before: dict[str, float], wanted: dict[str, int]) -> None:
    deadline_s = time.monotonic() + 5.0
    while True:
        after = await counted(at)
        more = {name: after[name] - before[name] for name in after if after[name] != before[name]}
        # How a client that was ended goes is its own business.
        more.pop("client_reset", None)
        if more == wanted:
            return
        assert time.monotonic() < deadline_s, f"{more}, not {wanted}"
        await asyncio.sleep(0.05)


class Reader:
    """A client with the smallest window there is, that takes what it is told to and no more."""

    def __init__(self, at: Bench) -> None:
        host, _, port = at.product.address.rpartition(":")
        self.socket = socket.socket()
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        self.socket.connect((host, int(port)))
        self.socket.setblocking(False)
        self.loop = asyncio.get_running_loop()

    async def ask(self, target: str) -> None:
        await self.loop.sock_sendall(
            self.socket, f"GET {target} HTTP/1.1\r\nHost: a\r\n\r\n".encode()
        )

    async def read(self, size: int) -> bytes:
        async with asyncio.timeout(10):
            return await self.loop.sock_recv(self.socket, size)

    async def trickle(self, size: int, every_s: float, limit_s: float) -> float:
        """Read `size` bytes now and then until the end; after how many seconds that came, or 0
        when it did not come within `limit_s`."""
        begun_s = time.monotonic()
        while (now_s := time.monotonic()) - begun_s < limit_s:
            try:
                if not await self.read(size):
                    return now_s - begun_s
            except ConnectionError:
                return now_s - begun_s
            await asyncio.sleep(every_s)
        return 0.0


@contextlib.contextmanager
def reader(at: Bench) -> Iterator[Reader]:
    found = Reader(at)
    try:
        yield found
    finally:
        found.socket.close()


BODY: Final = {
    "length": b"Content-Length: 1000000\r\n\r\n",
    "chunked": b"Transfer-Encoding: chunked\r\n\r\n",
}


async def send_body(client: Client, framing: str, size: int, every_s: float, limit_s: float) -> int:
    """Send `size` bytes of a body again and again until an answer comes or `limit_s` is over;
    how many were sent."""
    await client.send(b"POST /trickle HTTP/1.1\r\nHost: a\r\n" + BODY[framing])
    sent = 0
    ends_s = time.monotonic() + limit_s
    while time.monotonic() < ends_s and not client.reader._buffer:  # type: ignore[attr-defined]
        piece = b"x" * size
        client.writer.write(b"%x\r\n%b\r\n" % (size, piece) if framing == "chunked" else piece)
        sent += size
        await asyncio.sleep(every_s)
    return sent


# ---------------------------------------------------------------- bodies


@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_a_body_that_trickles_in_gets_408(at: Bench, framing: str) -> None:
    async with counts(at, body_too_slow=1), await at.client() as client:
        begun_s = time.monotonic()
        await send_body(client, framing, 10, 0.02, 10.0)
        answer = (await client.answer("POST")).must_be(408)
        assert WINDOW_S * 0.9 <= time.monotonic() - begun_s < 9.0
        assert answer.get("Proxy-Status") == "turnout; error=http_request_error" and answer.closed
        await client.ended()
    received = at.blue.find("/trickle")[-1]
    await at.blue.until(lambda: received.abandoned)


@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_a_body_that_is_fast_enough_is_let_go_on(at: Bench, framing: str) -> None:
    async with counts(at), await at.client() as client:
        sent = await send_body(client, framing, 4096, 0.04, 4 * WINDOW_S)
        if framing == "chunked":
            await client.send(b"0\r\n\r\n")
        else:
            await client.send(b"x" * (1_000_000 - sent))
        (await client.answer("POST")).must_be(200, "blue")


async def test_a_slow_body_is_let_go_on_where_there_is_no_rate(unrated: Bench) -> None:
    async with counts(unrated), await unrated.client() as client:
        await send_body(client, "chunked", 1, 0.1, 4 * WINDOW_S)
        await client.send(b"0\r\n\r\n")
        (await client.answer("POST")).must_be(200, "blue")


async def test_a_body_that_stands_still_gets_408(unrated: Bench) -> None:
    async with counts(unrated, body_timeout=1), await unrated.client() as client:
        await client.send(b"POST /still HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n1234")
        (await client.answer("POST")).must_be(408)
        await client.ended()


async def test_a_server_that_does_not_read_is_not_its_clients_fault(at: Bench) -> None:
    """The client would send, and is not read: its rate is 0, and that is ours."""
    read = asyncio.Event()

    async def later(exchange: Exchange) -> None:
        await asyncio.sleep(4 * WINDOW_S)
        read.set()
        await exchange.read_body()
        await exchange.answer(b"late")

    at.blue.script["/later"] = later
    async with counts(at), await at.client(limit_s=30.0) as client:
        client.writer.write(
            b"POST /later HTTP/1.1\r\nHost: a\r\nContent-Length: 16000000\r\n\r\n"
            + bytes(16_000_000)
        )
        (await client.answer("POST")).must_be(200, "blue")
        assert read.is_set()


# ---------------------------------------------------------------- answers

ANSWERS: Final = pytest.mark.parametrize(
    "target",
    ["/big?size=20000000&framing=chunked", "/big?size=20000000"],
    ids=["copied", "by-pipe"],
)


@ANSWERS
async def test_an_answer_that_is_hardly_taken_is_broken_off(at: Bench, target: str) -> None:
    cut = (await at.product.api.metrics()).sum("turnout_requests_cut_total", reason="timeout")
    async with counts(at, reader_too_slow=1):
        with reader(at) as client:
            await client.ask(target)
            took_s = await client.trickle(200, 0.05, 20.0)
            assert took_s >= WINDOW_S * 0.9
    metrics = await at.product.api.metrics()
    assert metrics.sum("turnout_requests_cut_total", reason="timeout") == cut + 1


@pytest.mark.parametrize(
    "target", ["/big?size=900000&framing=chunked", "/big?size=900000"], ids=["copied", "by-pipe"]
)
async def test_a_tiny_window_that_is_used_gets_the_whole_answer(at: Bench, target: str) -> None:
    async with counts(at):
        with reader(at) as client:
            await client.ask(target)
            data, body = b"", pattern(900_000)
            end = b"\r\n0\r\n\r\n" if "chunked" in target else body[-100:]
            while len(data) < len(body) or not data.endswith(end):
                piece = await client.read(65536)
                assert piece, f"the end after {len(data)} bytes"
                data += piece
            if "chunked" not in target:
                assert data.partition(b"\r\n\r\n")[2] == body


async def test_an_answer_that_is_not_taken_at_all_is_broken_off(unrated: Bench) -> None:
    async with counts(unrated, reader_timeout=2):
        with reader(unrated) as one, reader(unrated) as other:
            await one.ask("/big?size=20000000&framing=chunked")
            await other.ask("/big?size=20000000")
            await until_gone(unrated)


async def until_gone(at: Bench) -> None:
    """Wait until the worker has no client."""
    deadline_s = time.monotonic() + 15.0
    while (await at.product.api.metrics()).sum("turnout_connections"):
        assert time.monotonic() < deadline_s
        await asyncio.sleep(0.05)


# ---------------------------------------------------------------- heads, and many at once


@pytest.mark.parametrize(
    ("data", "status", "reason"),
    [
        (b"GET / HTTP/1.1\r\nHo", 408, "header_timeout"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 5000, 431, "header_too_large"),
        (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 30 + b"\r\n", 431, "too_many_headers"),
        (b"GET /" + b"x" * 5000, 414, "target_too_long"),
    ],
    ids=["slow", "large", "many-fields", "long-target"],
)
async def test_a_head_that_floods_or_lingers_is_refused(
    at: Bench, data: bytes, status: int, reason: str
) -> None:
    async with counts(at, **{reason: 1}), await at.client() as client:
        await client.send(data)
        (await client.answer()).must_be(status)
        await client.ended()


async def test_who_connects_and_says_nothing_is_closed_and_counted(at: Bench) -> None:
    async with counts(at, never_asked=1), await at.client() as client:
        await client.ended()
    # Who has asked before, and now only rests, is none of them.
    async with counts(at), await at.client() as client:
        (await client.get("/")).must_be(200, "blue")


async def test_empty_lines_do_not_prolong_a_connection() -> None:
    """They are ignored, and are no head: the time of keep-alive runs on."""
    top = {"timeouts": {"keep_alive": "600ms", "header": "600ms"}}
    async with (
        bench(control=False, workers=1, top=top, health="off") as at,
        await at.client() as client,
    ):
        (await client.get("/")).must_be(200, "blue")
        begun_s = time.monotonic()
        ended = asyncio.ensure_future(client.rest())
        while not ended.done() and time.monotonic() - begun_s < 8.0:
            client.writer.write(b"\r\n")
            await asyncio.sleep(0.05)
        assert ended.done() and time.monotonic() - begun_s < 5.0


REQUEST: Final = b"GET %s HTTP/1.1\r\nHost: a\r\n\r\n" % HEALTH.encode()


def resident_bytes(pid: int) -> int:
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    found = re.search(r"^Rss:\s+(\d+) kB", rollup, re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024


async def test_answers_of_our_own_that_nobody_takes_do_not_pile_up(unrated: Bench) -> None:
    """A client that asks, and asks, and reads nothing, is read no more itself."""
    pid = unrated.product.workers()[0]
    before = resident_bytes(pid)
    async with counts(unrated, reader_timeout=1, pipeline_full=1):
        with reader(unrated) as client:
            sent = 0
            with contextlib.suppress(TimeoutError, ConnectionError):
                while sent < 64_000_000:
                    async with asyncio.timeout(1):
                        await client.loop.sock_sendall(client.socket, REQUEST * 10_000)
                    sent += len(REQUEST) * 10_000
            assert sent < 64_000_000
            assert resident_bytes(pid) - before < 1_600_000
            await until_gone(unrated)


async def test_what_was_asked_while_nothing_was_taken_is_answered_once_it_is(at: Bench) -> None:
    """The same client, when it does read: all of its answers, in their order."""
    count = 5000
    async with await at.client(limit_s=30.0) as client:
        client.writer.write(REQUEST * count + b"GET /last HTTP/1.1\r\nHost: a\r\n\r\n")
        for _ in range(count):
            answer = await client.answer()
            assert (answer.status, answer.body) == (200, b"ok\n")
        (await client.answer()).must_be(200, "blue")


async def test_a_half_closed_client_gets_all_that_it_asked_for(at: Bench) -> None:
    count = 5000
    async with await at.client(limit_s=30.0) as client:
        client.writer.write(REQUEST * count)
        client.half_close()
        for _ in range(count):
            assert (await client.answer()).status == 200
        await client.ended()


async def test_what_is_sent_ahead_is_counted_once_for_each_request_it_waits_for(
    unrated: Bench,
) -> None:
    async with counts(unrated, pipeline_full=1), await unrated.client() as client:
        await client.ask("/slow?delay=0.5")
        await unrated.blue.received("/slow")
        client.writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 90000\r\n\r\n")
        client.writer.write(bytes(90_000))
        (await client.answer()).must_be(200, "blue")
        (await client.answer("POST")).must_be(200, "blue")


async def test_a_client_that_is_ended_amid_a_flood_of_bytes_sees_the_end(at: Bench) -> None:
    """One that sends for ever behind a refused head is cut off after a bounded time."""
    async with await at.client() as client:
        await client.send(b"BAD\r\n\r\n")
        (await client.answer()).must_be(400)
        begun_s = time.monotonic()
        with contextlib.suppress(ConnectionError, Malformed):
            while time.monotonic() - begun_s < 20.0:
                await client.send(bytes(1000))
                await asyncio.sleep(0.01)
        assert time.monotonic() - begun_s < 10.0
