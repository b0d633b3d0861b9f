"""Every timeout and every limit of the data plane is reached, and ends in a well-formed answer."""

import asyncio
import time
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.harness import Bench, bench
from tests.rawhttp import Answer, Client
from tests.upstreams import Exchange

pytestmark = pytest.mark.asyncio(loop_scope="module")

TIGHT = {
    "timeouts": {
        "header": "400ms", "body_idle": "500ms", "keep_alive": "600ms", "first_byte": "500ms",
        "tunnel_idle": "700ms", "linger": "300ms", "queue": "300ms",
    },
    "limits": {
        "header_bytes": "4KiB", "headers": 20, "body_bytes": "1000B", "connections": 30,
        "server_connections": 4,
    },
}  # fmt: skip


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def at() -> AsyncIterator[Bench]:
    async with bench(control=False, workers=1, top=TIGHT) as found:
        yield found


def well_formed(answer: Answer, status: int, error: str) -> None:
    """An answer of Turnout's own, as its users know them."""
    answer.must_be(status)
    assert (answer.get("Proxy-Status") or "").startswith(f"turnout; error={error}")
    assert answer.get("X-Request-Id")
    assert answer.body.count(b"\n") == 1 and answer.body.endswith(b"\n")
    assert (answer.get("Retry-After") is not None) == (status == 503)


async def refused(at: Bench, data: bytes, status: int, error: str = "http_request_error") -> None:
    """The bytes are answered with `status`, and the connection is closed."""
    async with await at.client() as client:
        await client.send(data)
        answer = await client.answer()
        well_formed(answer, status, error)
        assert answer.closed
        await client.ended()


HEAD = b"GET / HTTP/1.1\r\nHost: a\r\n"


# ---------------------------------------------------------------- limits


async def test_a_head_that_is_too_large_gets_431(at: Bench) -> None:
    await refused(at, HEAD + b"X-Large: " + b"x" * 5000 + b"\r\n\r\n", 431)


async def test_a_head_that_is_too_large_gets_431_before_its_end(at: Bench) -> None:
    await refused(at, HEAD + b"X-Large: " + b"x" * 5000, 431)


async def test_too_many_fields_get_431(at: Bench) -> None:
    await refused(at, HEAD + b"".join(b"X-%d: y\r\n" % n for n in range(30)) + b"\r\n", 431)


async def test_a_target_that_is_too_long_gets_414(at: Bench) -> None:
    await refused(at, b"GET /" + b"x" * 5000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414)


async def test_a_declared_body_that_is_too_large_gets_413_and_no_server_sees_it(at: Bench) -> None:
    await refused(
        at,
        b"POST /large HTTP/1.1\r\nHost: a\r\nContent-Length: 1001\r\n\r\n" + b"x" * 1001,
        413,
    )
    assert not at.blue.find("/large")


async def test_a_chunked_body_gets_413_once_it_is_too_large(at: Bench) -> None:
    async with await at.client() as client:
        await client.send(
            b"POST /grows HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"1f4\r\n" + b"x" * 500 + b"\r\n"
        )
        received = await at.blue.received("/grows")
        await client.send(b"1f4\r\n" + b"x" * 500 + b"\r\n")
        await client.send(b"1\r\nx\r\n")
        well_formed(await client.answer("POST"), 413, "http_request_error")
    await at.blue.until(lambda: received.abandoned)


async def test_one_connection_too_many_gets_503(at: Bench) -> None:
    clients: list[Client] = []
    try:
        for _ in range(30):
            client = await at.client()
            clients.append(client)
            (await client.get("/")).must_be(200, "blue")
        async with await at.client() as client:
            answer = await client.answer()
            well_formed(answer, 503, "connection_limit_reached")
            await client.ended()
    finally:
        for client in clients:
            client.close()
    region = at.product.scoreboard.region(0)
    await at.product.until(lambda: at.product.scoreboard.words[region + 8] == 0, "them to go")
    (await at.get("/")).must_be(200, "blue")


async def test_connections_to_a_server_have_a_limit_and_those_who_wait_get_their_turn(
    at: Bench,
) -> None:
    async def busy(exchange: Exchange) -> None:
        await asyncio.sleep(0.05)
        await exchange.answer(b"done")

    at.blue.script["/busy"] = busy
    answers = await asyncio.gather(*(at.get("/busy") for _ in range(12)))
    assert [answer.status for answer in answers] == [200] * 12
    # The prober's are not of them.
    assert len({received.connection for received in at.blue.find("/busy")}) <= 4


async def test_who_waits_too_long_for_a_connection_gets_503(at: Bench) -> None:
    enough = asyncio.Event()

    async def long(exchange: Exchange) -> None:
        """An answer that goes on, so that no other timeout ends it."""
        await exchange.send(exchange.head(200, ("Transfer-Encoding: chunked",)))
        while not enough.is_set():
            await exchange.send(b"1\r\nx\r\n")
            await asyncio.sleep(0.05)
        await exchange.send(b"0\r\n\r\n")

    at.blue.script["/long"] = long
    busy = [asyncio.ensure_future(at.get("/long")) for _ in range(4)]
    await at.blue.received("/long", 4)
    well_formed(await at.get("/waits"), 503, "connection_limit_reached")
    enough.set()
    assert [(await one).status for one in busy] == [200] * 4
    assert not at.blue.find("/waits")


# ---------------------------------------------------------------- timeouts


async def timed(client: Client, at_least_s: float, at_most_s: float) -> Answer:
    """The answer, and that it came neither early nor much too late (the machine is shared)."""
    begun_s = time.monotonic()
    answer = await client.answer()
    took_s = time.monotonic() - begun_s
    assert at_least_s <= took_s < at_most_s, f"took {took_s:.2f} s"
    return answer


async def test_a_head_that_does_not_end_gets_408(at: Bench) -> None:
    async with await at.client() as client:
        await client.send(b"GET / HTTP/1.1\r\nHo")
        well_formed(await timed(client, 0.3, 3.0), 408, "http_request_error")
        await client.ended()


async def test_a_slow_head_gets_408_however_often_something_comes(at: Bench) -> None:
    async with await at.client() as client:
        reading = asyncio.ensure_future(timed(client, 0.3, 3.0))
        for octet in HEAD * 10:
            if reading.done():
                break
            await client.send(bytes((octet,)))
            await asyncio.sleep(0.03)
        well_formed(await reading, 408, "http_request_error")


async def test_a_body_that_stops_gets_408(at: Bench) -> None:
    async with await at.client() as client:
        await client.send(b"POST /stops HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n1234")
        well_formed(await timed(client, 0.4, 3.0), 408, "http_request_error")
        await client.ended()
    received = await at.blue.received("/stops")
    await at.blue.until(lambda: received.abandoned)


async def test_a_slow_body_that_goes_on_is_let_go_on(at: Bench) -> None:
    async with await at.client() as client:
        await client.send(b"POST /slowly HTTP/1.1\r\nHost: a\r\nContent-Length: 8\r\n\r\n")
        for _ in range(8):
            await asyncio.sleep(0.15)
            await client.send(b"x")
        (await client.answer("POST")).must_be(200, "blue")


async def test_a_server_that_does_not_answer_gets_the_client_504(at: Bench) -> None:
    async with await at.client() as client:
        await client.ask("/silent?hang=1")
        well_formed(await timed(client, 0.4, 3.0), 504, "connection_read_timeout")
        # Nothing was wrong with the client: its connection goes on.
        (await client.get("/after")).must_be(200, "blue")
    assert len(at.blue.find("/silent")) == 1
    received = at.blue.find("/silent")[0]
    await at.blue.until(lambda: received.abandoned)


async def test_an_answer_that_stops_is_broken_off(at: Bench) -> None:
    async def stop(exchange: Exchange) -> None:
        await exchange.send(exchange.head(200, ("Content-Length: 100",)) + b"x" * 50)
        await asyncio.sleep(5)

    at.blue.script["/stop"] = stop
    async with await at.client() as client:
        await client.ask("/stop")
        assert (await client.head()).status == 200
        data, _ = await client.rest()
        assert data == b"x" * 50


async def test_an_event_stream_may_be_silent_for_longer_than_a_body(at: Bench) -> None:
    async with await at.client() as client:
        await client.ask("/quiet?sse=2&gap=0.6")
        assert (await client.head()).status == 200
        await client.until(b"data: blue 1\n")
        await client.until(b"data: blue 2\n")
        await client.until(b"0\r\n\r\n")


async def test_a_tunnel_in_which_nothing_moves_is_closed(at: Bench) -> None:
    async with await at.client() as client:
        await client.send(
            b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        (await client.answer()).must_be(101, "blue")
        begun_s = time.monotonic()
        await client.rest()
        assert 0.6 <= time.monotonic() - begun_s < 3.0


async def test_an_idle_connection_is_closed(at: Bench) -> None:
    async with await at.client() as client:
        (await client.get("/")).must_be(200, "blue")
        begun_s = time.monotonic()
        await client.ended()
        assert 0.5 <= time.monotonic() - begun_s < 3.0


async def test_empty_lines_do_not_keep_an_idle_connection(at: Bench) -> None:
    async with await at.client() as client:
        (await client.get("/")).must_be(200, "blue")
        began = time.monotonic()
        ended = asyncio.create_task(client.ended())
        while not ended.done() and time.monotonic() - began < 5.0:
            await client.send(b"\r\n")
            await asyncio.sleep(0.1)
        await ended
        assert time.monotonic() - began < 3.0


async def test_a_connection_on_which_nothing_was_ever_said_is_closed(at: Bench) -> None:
    async with await at.client() as client:
        begun_s = time.monotonic()
        await client.ended()
        assert 0.3 <= time.monotonic() - begun_s < 3.0


async def test_a_client_that_sends_after_its_last_answer_still_reads_it(at: Bench) -> None:
    """Closing with unread input would reset the connection, and the answer with it."""
    for _ in range(10):
        async with await at.client() as client:
            client.writer.write(
                b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 900000\r\n\r\n" + bytes(900_000)
            )
            well_formed(await client.answer("POST"), 413, "http_request_error")
