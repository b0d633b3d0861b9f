"""Long answers, which go through a pipe: whole, exact, held back by nobody, ended as they should be.

What is below the threshold is tested elsewhere; here every answer is well above it.
"""

import array
import asyncio
import contextlib
import fcntl
import json
import os
import random
import resource
import signal
import termios
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.harness import Bench, Product, bench, settings, until
from tests.rawhttp import Client
from tests.upstreams import Exchange, Upstream
from turnout.proxy.long_body import LONG_BYTES
from turnout.proxy.scoreboard import CUT_REASONS, U_ABORTED, U_CUT
from turnout.proxy.splice import PIPE_BYTES

pytestmark = pytest.mark.asyncio(loop_scope="module")

MIB = 1 << 20
HUGE = 64 * MIB
"""More than all sockets on the way hold together."""
PATTERN = random.Random(4).randbytes(MIB + 7)
"""Of a length that no buffer's size divides, so that a shifted byte shows."""


def body_of(size: int) -> bytes:
    return (PATTERN * (size // len(PATTERN) + 1))[:size]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def at() -> AsyncIterator[Bench]:
    top = {
        "timeouts": {"body_idle": "1s", "half_closed": "20s"},
        "log": {"access": {"format": "json"}},
    }
    async with bench(control=False, workers=1, top=top) as found:
        yield found


class Sending:
    """A script of an answer with a Content-Length: what the server has sent of it, and when it
    is to stop and how."""

    def __init__(
        self, at: Bench, path: str, size: int, *, stop_at: int = -1, how: str = ""
    ) -> None:
        self.size = size
        self.sent = 0
        self._stop_at = size if stop_at < 0 else stop_at
        self._how = how
        at.blue.script[path] = self

    async def __call__(self, exchange: Exchange) -> None:
        self.sent = 0
        await exchange.send(exchange.head(200, (f"Content-Length: {self.size}",)))
        behind = self._how.encode() if self._how not in ("", "close", "reset", "silent") else b""
        while self.sent < self._stop_at:
            start = self.sent % len(PATTERN)
            piece = PATTERN[start : start + min(65_536, self._stop_at - self.sent)]
            self.sent += len(piece)
            # What stands behind the end comes with it: later it could be the next answer.
            await exchange.send(piece + behind if self.sent == self._stop_at else piece)
        if self._how == "close":
            exchange.keep = False
        elif self._how == "reset":
            exchange.reset()
        elif self._how == "silent":
            await exchange.wait(asyncio.Event())

    async def stands_still(self) -> int:
        """Wait until the server can send no more; how much it has sent."""
        last, times = -1, 0
        async with asyncio.timeout(20):
            while times < 25:
                times = times + 1 if self.sent == last else 0
                last = self.sent
                await asyncio.sleep(0.01)
        return last


def pid_of(at: Bench) -> int:
    return at.product.workers()[0]


def held(pid: int) -> list[int]:
    """Bytes in each pipe of a process that is not empty; libuv's own holds one, a token."""
    found = {}
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            target = os.readlink(entry)
            if target.startswith("pipe:") and target not in found:
                descriptor = os.open(entry, os.O_RDONLY | os.O_NONBLOCK)
                try:
                    count = array.array("i", [0])
                    fcntl.ioctl(descriptor, termios.FIONREAD, count)
                finally:
                    os.close(descriptor)
                found[target] = count[0]
    return [size for size in found.values() if size > 1]


def word(at: Bench, index: int) -> int:
    """A counter of the first upstream of the only service."""
    scoreboard = at.product.scoreboard
    return int(scoreboard.words[scoreboard.service(at.product.region_of(pid_of(at)), 1) + index])


def cuts(at: Bench) -> dict[str, int]:
    return {reason: word(at, U_CUT + index) for index, reason in enumerate(CUT_REASONS)}


@contextlib.contextmanager
def one_more_cut(at: Bench, reason: str) -> Iterator[None]:
    before = cuts(at)
    yield
    assert cuts(at) == {**before, reason: before[reason] + 1}


async def read(client: Client, size: int, limit_s: float = 30.0) -> bytes:
    async with asyncio.timeout(limit_s):
        return await client.reader.readexactly(size)


async def whole(client: Client, target: str) -> str:
    """Ask and get all of it; which of the server's connections it came on."""
    await client.ask(target)
    answer = (await client.answer()).must_be(200, "blue")
    assert answer.body == body_of(len(answer.body)) and answer.body
    return answer.get("X-Connection") or ""


# ---------------------------------------------------------------- whole and exact


@pytest.mark.parametrize(
    "size", [LONG_BYTES, LONG_BYTES + 1, MIB - 1, MIB + 17, 5 * MIB + 3, PIPE_BYTES * 9]
)
async def test_a_long_answer_is_whole_and_its_connection_is_used_again(
    at: Bench, size: int
) -> None:
    Sending(at, f"/long/{size}", size)
    async with await at.client() as client:
        # The first of a connection is read as all are, the next ones little at a time.
        used = {await whole(client, f"/long/{size}") for _ in range(4)}
        assert len(used) == 1
        answer = (await client.get("/short")).must_be(200, "blue")
        assert {answer.get("X-Connection")} == used


async def test_answers_of_all_kinds_follow_each_other_on_one_connection(at: Bench) -> None:
    Sending(at, "/long", 3 * MIB)
    async with await at.client() as client:
        for target in (
            "/?size=10", "/?size=20000", "/?size=100000", "/?size=300000&framing=chunked",
            "/?size=1000000&framing=chunked&trailers=1", "/?size=200000&pieces=40", "/?status=204",
        ):  # fmt: skip
            before = await whole(client, "/long")
            answer = (await client.get(target)).must_be(204 if "204" in target else 200, "blue")
            if "size" in target:
                assert len(answer.body) == int(target.partition("size=")[2].partition("&")[0])
            assert answer.get("X-Connection") == before
        await whole(client, "/long")
        answer = await client.get("/?size=700000&framing=close")
        assert len(answer.body) == 700000


async def test_a_tunnel_may_follow_a_long_answer(at: Bench) -> None:
    Sending(at, "/before-tunnel", 3 * MIB)
    async with await at.client() as client:
        for _ in range(2):
            await whole(client, "/before-tunnel")
        await client.send(
            b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        (await client.answer()).must_be(101, "blue")
        await client.send(b"\x82\x85\x00\x00\x00\x00hello")
        assert await client.reader.readexactly(7) == b"\x82\x05hello"


async def test_a_head_that_comes_alone_or_in_pieces_is_followed_by_its_body(at: Bench) -> None:
    async def slowly(exchange: Exchange) -> None:
        head = exchange.head(200, (f"Content-Length: {MIB}",))
        for piece in (head[:20], head[20:], body_of(10), body_of(MIB)[10:]):
            await exchange.send(piece)
            await asyncio.sleep(0.05)

    at.blue.script["/slowly"] = slowly
    async with await at.client() as client:
        for _ in range(3):
            await whole(client, "/slowly")


async def test_what_a_client_pipelines_behind_a_long_answer_is_served_after_it(at: Bench) -> None:
    Sending(at, "/first", 5 * MIB)
    async with await at.client() as client:
        for target in ("/first", "/first", "/?size=5", "/first"):
            await client.ask(target)
        for size in (5 * MIB, 5 * MIB, 5, 5 * MIB):
            answer = (await client.answer()).must_be(200, "blue")
            assert len(answer.body) == size
            if size > 5:
                assert answer.body == body_of(size)


@pytest.mark.parametrize("keep", [True, False])
async def test_a_client_of_http_1_0_gets_it_whole(at: Bench, keep: bool) -> None:
    Sending(at, "/old", 3 * MIB)
    fields = b"Connection: keep-alive\r\n" if keep else b""
    async with await at.client() as client:
        for _ in range(2 if keep else 1):
            await client.send(b"GET /old HTTP/1.0\r\nHost: a\r\n" + fields + b"\r\n")
            answer = (await client.answer()).must_be(200, "blue")
            assert answer.body == body_of(3 * MIB)
        if not keep:
            await client.ended()


async def test_the_answer_to_head_has_a_length_and_no_body(at: Bench) -> None:
    async with await at.client() as client:
        for _ in range(2):
            await client.ask("/?size=5000000", method="HEAD")
            answer = (await client.answer("HEAD")).must_be(200, "blue")
            assert answer.get("Content-Length") == "5000000"
            await whole_by_size(client, 5_000_000)


async def whole_by_size(client: Client, size: int) -> None:
    assert len((await client.get(f"/?size={size}")).must_be(200, "blue").body) == size


async def test_a_client_that_has_closed_its_half_gets_it_whole(at: Bench) -> None:
    sending = Sending(at, "/half-closed", HUGE)
    async with await at.client() as client:
        await client.ask("/half-closed")
        await client.head()
        client.half_close()
        await sending.stands_still()
        got = await read(client, HUGE)
        assert got == body_of(HUGE)
        await client.ended()


async def test_an_answer_that_comes_before_its_request_is_read_is_whole(at: Bench) -> None:
    sending = Sending(at, "/early", 5 * MIB)
    async with await at.client() as client:
        await client.send(b"POST /early HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\nbegun")
        answer = (await client.answer("POST")).must_be(200, "blue")
        assert answer.body == body_of(5 * MIB) and answer.closed
    assert sending.sent == 5 * MIB


async def test_the_access_log_counts_the_bytes_of_a_long_body_and_no_others(at: Bench) -> None:
    Sending(at, "/logged", 3 * MIB + 5)
    async with await at.client() as client:
        for _ in range(2):
            await whole(client, "/logged")

    def lines() -> list[dict[str, object]]:
        found = (json.loads(line) for line in at.product.access_log.read_text().splitlines())
        return [line for line in found if line["path"] == "/logged"]

    await until(lambda: len(lines()) == 2, "two lines in the access log")
    assert [line["bytes_out"] for line in lines()] == [3 * MIB + 5] * 2


# ---------------------------------------------------------------- held back


async def test_a_client_that_stalls_holds_one_pipe_and_then_gets_the_rest(at: Bench) -> None:
    sending = Sending(at, "/stalled", HUGE)
    async with await at.client(receive_buffer=65_536) as client:
        await client.ask("/stalled")
        await client.head()
        written = await sending.stands_still()
        assert written < HUGE, "the server was read although the client takes nothing"
        (size,) = held(pid_of(at))  # it goes through a pipe, and there is one
        assert size <= PIPE_BYTES
        assert await read(client, HUGE) == body_of(HUGE)
        assert held(pid_of(at)) == []
        assert await whole(client, "/stalled")


async def test_a_server_that_goes_on_after_its_client_has_caught_up_is_read_again(
    at: Bench,
) -> None:
    caught_up = asyncio.Event()

    async def in_two_parts(exchange: Exchange) -> None:
        await exchange.send(exchange.head(200, (f"Content-Length: {HUGE}",)))
        whole_body = body_of(HUGE)
        for start in range(0, HUGE, MIB):
            if start == HUGE // 2:
                await caught_up.wait()
            await exchange.send(whole_body[start : start + MIB])

    at.blue.script["/two-parts"] = in_two_parts
    async with await at.client(receive_buffer=65_536) as client:
        await client.ask("/two-parts")
        await client.head()
        await until(lambda: held(pid_of(at)), "the client to stall")
        half = await read(client, HUGE // 2)
        caught_up.set()
        assert half + await read(client, HUGE // 2) == body_of(HUGE)


async def test_clients_that_read_hold_no_pipe(at: Bench) -> None:
    Sending(at, "/reads", 3 * MIB)
    async with await at.client() as client:
        for _ in range(3):
            await whole(client, "/reads")
            assert held(pid_of(at)) == []


async def test_what_finds_no_pipe_free_is_copied() -> None:
    top = {"limits": {"pipes": 2}}
    async with bench(control=False, workers=1, top=top) as at:
        sending = [Sending(at, f"/{number}", HUGE) for number in range(5)]
        clients = [await at.client(receive_buffer=65_536) for _ in sending]
        for number, client in enumerate(clients):
            await client.ask(f"/{number}")
            await client.head()
            await sending[number].stands_still()
        assert len(held(pid_of(at))) == 2
        for client in clients:
            assert await read(client, HUGE) == body_of(HUGE)
            client.close()
        assert held(pid_of(at)) == []


async def test_without_pipes_all_is_copied() -> None:
    async with bench(control=False, workers=1, top={"limits": {"pipes": 0}}) as at:
        sending = Sending(at, "/copied", HUGE)
        async with await at.client(receive_buffer=65_536) as client:
            await client.ask("/copied")
            await client.head()
            await sending.stands_still()
            assert held(pid_of(at)) == []
            assert await read(client, HUGE) == body_of(HUGE)


async def test_a_worker_without_descriptors_left_copies() -> None:
    async with bench(control=False, workers=1) as at:
        Sending(at, "/scarce", 5 * MIB)
        pid = pid_of(at)
        async with await at.client() as client:
            await whole_by_size(client, 10)  # now both connections are there
            used = max(int(entry.name) for entry in Path(f"/proc/{pid}/fd").iterdir())
            before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (1, before[1]))
            try:
                for _ in range(3):
                    await whole(client, "/scarce")
            finally:
                resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
            assert used < 1000
            for _ in range(3):
                await whole(client, "/scarce")


# ---------------------------------------------------------------- other ends


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("stalls", [False, True])
async def test_what_the_server_cuts_short_is_cut_short_for_the_client(
    at: Bench, how: str, stalls: bool
) -> None:
    size = HUGE if stalls else 8 * MIB
    path = f"/short-{how}-{stalls}"
    sending = Sending(at, path, size, stop_at=size // 2 + 3, how=how)
    with one_more_cut(at, "upstream_closed"):
        async with await at.client(limit_s=20, receive_buffer=65_536 if stalls else 0) as client:
            await client.ask(path)
            await client.head()
            if stalls:
                await sending.stands_still()
            data, _ = await client.rest()
        expected = body_of(size // 2 + 3)
        # A reset may destroy what was under way.
        assert data == (expected if how == "close" else expected[: len(data)])
        await until(lambda: cuts(at)["upstream_closed"], "it to be counted")


async def test_bytes_behind_the_end_are_never_passed_on(at: Bench) -> None:
    Sending(at, "/more", 3 * MIB, how="HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
    async with await at.client() as client:
        seen = set()
        for _ in range(4):
            seen.add(await whole(client, "/more"))
            answer = (await client.get("/after")).must_be(200, "blue")
            assert b"evil" not in answer.body
        assert len(seen) == 4, "a connection was used again on which something unasked had come"


async def test_bytes_that_come_with_the_last_of_a_body_are_not_passed_on(at: Bench) -> None:
    """The end, and what stands behind it, in one read of the transport's."""
    size, last = 3 * MIB, asyncio.Event()

    async def surplus(exchange: Exchange) -> None:
        head = exchange.head(200, (f"Content-Length: {size}",))
        await exchange.send(head + body_of(size)[:-10])
        await last.wait()
        evil = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
        await exchange.send(body_of(size)[-10:] + evil)

    at.blue.script["/surplus"] = surplus
    async with await at.client() as client:
        await client.ask("/surplus")
        await client.head()
        data = await read(client, size - 10)
        last.set()
        assert data + await read(client, 10) == body_of(size)
        assert b"evil" not in (await client.get("/after")).must_be(200, "blue").body


async def test_what_a_lost_server_has_left_does_not_overtake_what_waits_for_the_client(
    at: Bench,
) -> None:
    """A server that answers without having read the request, and resets: the write to it fails
    while the client has not taken what came before."""
    go, answered = asyncio.Event(), asyncio.Event()
    exchanges: list[Exchange] = []
    size = 4_000_000

    async def deaf(exchange: Exchange) -> None:
        exchanges.append(exchange)
        exchange.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await go.wait()
        exchange.writer.write(exchange.head(200, (f"Content-Length: {size}",)))
        exchange.writer.write(body_of(size))
        answered.set()
        await asyncio.Event().wait()

    at.blue.script["/deaf"] = deaf
    with one_more_cut(at, "upstream_closed"):
        async with await at.client(limit_s=0.3, receive_buffer=4096) as client:
            await client.send(
                b"POST /deaf HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
            )
            with pytest.raises(TimeoutError):
                while True:  # until nobody on the way has room
                    await client.send(b"8000\r\n" + bytes(0x8000) + b"\r\n")
            go.set()
            await answered.wait()
            client.limit_s = 20.0
            await client.head()
            async with asyncio.timeout(10):
                while not held(pid_of(at)):
                    await asyncio.sleep(0.01)
            exchanges[0].reset()
            await until(lambda: cuts(at)["upstream_closed"], "it to be counted")
            data, _ = await client.rest()
        assert len(data) < size and data == body_of(len(data))


async def test_what_is_pipelined_never_gets_the_bytes_behind_the_end(at: Bench) -> None:
    Sending(at, "/more-2", 3 * MIB, how="HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
    async with await at.client() as client:
        for _ in range(4):
            await client.ask("/more-2")
            await client.ask("/after")
        for _ in range(4):
            assert len((await client.answer()).must_be(200, "blue").body) == 3 * MIB
            assert b"evil" not in (await client.answer()).must_be(200, "blue").body


@pytest.mark.parametrize("how", ["closes", "resets"])
@pytest.mark.parametrize("stalls", [False, True])
async def test_a_client_that_leaves_is_counted_and_its_server_left(
    at: Bench, how: str, stalls: bool
) -> None:
    path = f"/left-{how}-{stalls}"
    sending = Sending(at, path, 4 * HUGE)
    before = word(at, U_ABORTED)
    client = await at.client(receive_buffer=65_536)
    await client.ask(path)
    await client.head()
    if stalls:
        await sending.stands_still()
        assert held(pid_of(at))
    else:
        await read(client, 3 * MIB)
    if how == "resets":
        client.reset()
    else:
        client.close()
    received = await at.blue.received(path)
    await at.blue.until(lambda: received.abandoned)
    await until(lambda: word(at, U_ABORTED) == before + 1, "it to be counted as aborted")
    assert sending.sent < 4 * HUGE
    assert held(pid_of(at)) == []


async def test_a_client_that_takes_nothing_is_cut(at: Bench) -> None:
    sending = Sending(at, "/takes-nothing", HUGE)
    async with await at.client(receive_buffer=65_536) as client:
        with one_more_cut(at, "timeout"):
            before = cuts(at)["timeout"]
            await client.ask("/takes-nothing")
            await client.head()
            begun_s = time.monotonic()
            await until(lambda: cuts(at)["timeout"] > before, "it to be cut")
            assert 0.9 < time.monotonic() - begun_s < 5.0
        data, _ = await client.rest()
        assert len(data) < HUGE and data == body_of(len(data))
    assert sending.sent < HUGE
    assert held(pid_of(at)) == []


async def test_a_client_that_reads_slowly_is_not_cut(at: Bench) -> None:
    Sending(at, "/reads-slowly", 8 * MIB)
    before = cuts(at)
    async with await at.client(receive_buffer=65_536) as client:
        await client.ask("/reads-slowly")
        await client.head()
        begun_s, got = time.monotonic(), b""
        while time.monotonic() - begun_s < 3.5:  # thrice what a client that stalls is given
            got += await read(client, 16_384)
            await asyncio.sleep(0.1)
        got += await read(client, 8 * MIB - len(got))
        assert got == body_of(8 * MIB)
    assert cuts(at) == before


async def test_a_server_that_falls_silent_is_cut(at: Bench) -> None:
    Sending(at, "/silent", 8 * MIB, stop_at=3 * MIB, how="silent")
    with one_more_cut(at, "timeout"):
        async with await at.client() as client:
            await client.ask("/silent")
            await client.head()
            data, _ = await client.rest()
            assert data == body_of(3 * MIB)
    received = await at.blue.received("/silent")
    await at.blue.until(lambda: received.abandoned)


async def test_a_trickle_is_passed_on_at_once(at: Bench) -> None:
    """A body of known length may come in drops: none waits for the next."""
    seen = asyncio.Event()

    async def drops(exchange: Exchange) -> None:
        await exchange.send(exchange.head(200, (f"Content-Length: {MIB}",)))
        for number in range(20):
            seen.clear()
            await exchange.send(b"%08d" % number)
            async with asyncio.timeout(5):
                await seen.wait()
        await exchange.send(bytes(MIB - 160))

    at.blue.script["/drops"] = drops
    Sending(at, "/long", 3 * MIB)
    async with await at.client() as client:
        await whole(client, "/long")
        await client.ask("/drops")
        await client.head()
        for number in range(20):
            assert await read(client, 8) == b"%08d" % number
            seen.set()
        assert await read(client, MIB - 160) == bytes(MIB - 160)


async def test_a_leaving_worker_finishes_a_long_answer_and_cuts_it_at_its_deadline() -> None:
    top = {"timeouts": {"shutdown": "6s"}}
    async with bench(control=False, workers=1, top=top) as at:
        finishes, cut = Sending(at, "/finishes", HUGE), Sending(at, "/cut", HUGE)
        reads, stalls = (
            await at.client(receive_buffer=65_536),
            await at.client(receive_buffer=65_536),
        )
        for client, path in ((reads, "/finishes"), (stalls, "/cut")):
            await client.ask(path)
            await client.head()
        await read(stalls, 2 * MIB)
        pid = pid_of(at)
        await finishes.stands_still()
        await cut.stands_still()
        # The other one may still wait for its first read, copied, to be taken.
        assert held(pid)
        os.kill(pid, signal.SIGTERM)
        assert await read(reads, HUGE) == body_of(HUGE)
        await until(lambda: not Path(f"/proc/{pid}").exists(), "the worker to leave")
        data, _ = await stalls.rest()
        assert len(data) < HUGE - 2 * MIB
        reads.close()
        stalls.close()


async def test_a_drain_deadline_cuts_a_long_answer_that_stalls() -> None:
    async with bench(workers=1, drain={"timeout": "500ms", "tunnels": "500ms"}) as at:
        sending = Sending(at, "/drained", HUGE)
        async with await at.client(receive_buffer=65_536) as client:
            await client.ask("/drained")
            await client.head()
            await sending.stands_still()
            assert len(held(pid_of(at))) == 1
            switched = await at.product.api.switch("green")
            receipt = switched["receipt"]
            assert [(one["path"], one["reason"]) for one in receipt["cut"]] == [
                ("/drained", "drain_deadline")
            ]
            data, _ = await client.rest()
            assert len(data) < HUGE and data == body_of(len(data))
            assert held(pid_of(at)) == []


# ---------------------------------------------------------------- other sockets


async def test_unix_sockets_on_both_sides_are_served_as_well(tmp_path: Path) -> None:
    async with Upstream("blue", f"unix:{tmp_path}/b.sock") as blue, Upstream("green") as green:
        configuration = settings([blue.address], [green.address], workers=1)
        configuration["listeners"] = [{"bind": f"unix:{tmp_path}/t.sock"}]
        async with Product(configuration) as product:
            at = Bench(product, blue, green)
            sending = Sending(at, "/unix", HUGE)
            async with await Client.open(f"unix:{tmp_path}/t.sock", limit_s=30) as client:
                await client.ask("/unix")
                await client.head()
                await sending.stands_still()
                assert len(held(pid_of(at))) == 1
                assert await read(client, HUGE) == body_of(HUGE)
                Sending(at, "/unix", 5 * MIB)
                used = {await whole(client, "/unix") for _ in range(3)}
                assert len(used) == 1


async def test_nothing_is_left_of_all_these(at: Bench) -> None:
    """No exchange, no pipe with something in it, and not more descriptors than before."""
    scoreboard, pid = at.product.scoreboard, pid_of(at)
    region = at.product.region_of(pid)
    await until(lambda: not list(scoreboard.in_flight(region)), "nothing to be in flight")
    assert scoreboard.service_in_flight(region, 1) == 0
    assert held(pid) == []
    assert len(list(Path(f"/proc/{pid}/fd").iterdir())) < 150
