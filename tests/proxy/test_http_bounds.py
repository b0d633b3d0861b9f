"""Limits on what servers say and on clients that go on and on: each is reached, through its knob."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest
import pytest_asyncio

from tests.harness import Bench, Product, bench, settings
from tests.proxy.test_http_servers import closed_port, counted
from tests.rawhttp import Client
from tests.upstreams import Exchange, Upstream
from turnout.proxy.scoreboard import (
    C_LOG_LINES_DROPPED,
    HOLD_BIT,
    R_CONNECTIONS,
    U_ATTEMPTS_FAILED,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")
SLOT = 1

TIGHT = {
    "timeouts": {"half_closed": "500ms", "linger": "400ms", "linger_total": "1s"},
    "limits": {
        "response_header_bytes": "4KiB", "headers": 20, "interim_answers": 3,
        "trailer_bytes": "200B", "pipeline_bytes": "4KiB", "replay_bytes": 0,
    },
}  # fmt: skip


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def at() -> AsyncIterator[Bench]:
    no_hold = {"requests": 10, "timeout": 0}
    async with bench(control=False, workers=1, top=TIGHT, health="off", hold=no_hold) as found:
        yield found


# ---------------------------------------------------------------- what a server says


@pytest.mark.parametrize(
    ("fields", "whole", "status"),
    [
        (("X: " + "x" * 3000,), True, 200),
        (("X: " + "x" * 5000,), True, 502),
        (("X: " + "x" * 5000,), False, 502),
        (tuple(f"X-{n}: y" for n in range(12)), True, 200),
        (tuple(f"X-{n}: y" for n in range(25)), True, 502),
    ],
    ids=["small", "large", "large-without-end", "few-fields", "many-fields"],
)
async def test_an_answers_head_has_a_limit(
    at: Bench, fields: tuple[str, ...], whole: bool, status: int
) -> None:
    async def say(exchange: Exchange) -> None:
        head = exchange.head(200, ("Content-Length: 2", *fields)) + b"ok"
        await exchange.send(head if whole else head[:-20])
        await asyncio.sleep(0.2 if whole else 5)

    at.blue.script["/head"] = say
    answer = await at.get("/head")
    assert (answer.status, answer.upstream) == (status, "blue" if status == 200 else None)
    (await at.get("/")).must_be(200, "blue")


@pytest.mark.parametrize(("interims", "status"), [(3, 200), (4, 502)])
async def test_so_many_interim_answers_are_passed_on(at: Bench, interims: int, status: int) -> None:
    async def say(exchange: Exchange) -> None:
        for _ in range(interims):
            await exchange.send(b"HTTP/1.1 103 Early Hints\r\n\r\n")
        await exchange.answer(b"done")

    at.blue.script["/early"] = say
    answer = await at.get("/early")
    assert (answer.status, len(answer.interim)) == (status, 3)


@pytest.mark.parametrize(("size", "whole"), [(100, True), (300, False)])
async def test_an_answers_trailers_have_a_limit(at: Bench, size: int, whole: bool) -> None:
    passed_on = asyncio.Event()

    async def say(exchange: Exchange) -> None:
        await exchange.send(exchange.head(200, ("Transfer-Encoding: chunked",)) + b"2\r\nok\r\n")
        await exchange.wait(passed_on)
        await exchange.send(b"0\r\nX-Trailer: " + b"x" * size + b"\r\n\r\n")

    at.blue.script["/trailers"] = say
    async with await at.client() as client:
        await client.ask("/trailers")
        assert (await client.head()).status == 200
        assert await client.until(b"ok\r\n") == b"2\r\nok\r\n"
        passed_on.set()
        if whole:
            assert (await client.until(b"\r\n\r\n")).startswith(b"0\r\nX-Trailer: xxx")
        else:
            assert (await client.rest())[0] == b""  # its end never comes


# ---------------------------------------------------------------- clients that go on


@pytest.mark.parametrize(("size", "status"), [(100, 200), (300, 400)])
async def test_a_requests_trailers_have_a_limit(at: Bench, size: int, status: int) -> None:
    async with await at.client() as client:
        await client.send(
            b"POST /with-trailers HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"2\r\nok\r\n0\r\nX-Trailer: " + b"x" * size + b"\r\n\r\n"
        )
        assert (await client.answer("POST")).status == status


async def test_what_is_pipelined_beyond_a_limit_waits_in_the_clients_socket(at: Bench) -> None:
    answer = asyncio.Event()

    async def first(exchange: Exchange) -> None:
        await exchange.wait(answer)
        await exchange.answer(b"first")

    at.blue.script["/first"] = first
    async with await at.client(limit_s=30.0) as client:
        await client.ask("/first")
        await at.blue.received("/first")
        size = 32 * 1024 * 1024
        client.writer.write(
            b"POST /second HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % size
        )
        client.writer.write(bytes(size))
        # Beyond what both sockets hold nothing moves any more.
        unsent, looks = -1, 0
        while looks < 25:
            await asyncio.sleep(0.02)
            now = client.writer.transport.get_write_buffer_size()
            unsent, looks = now, looks + 1 if now == unsent else 0
        assert unsent > size // 4
        answer.set()
        assert (await client.answer()).body == b"first"
        (await client.answer("POST")).must_be(200, "blue")
    assert at.blue.find("/second")[0].body_bytes == size


async def test_a_client_that_has_closed_its_half_is_waited_for_so_long(at: Bench) -> None:
    async with await at.client() as client:
        await client.ask("/never?hang=1")
        await at.blue.received("/never")
        begun_s = time.monotonic()
        client.half_close()
        await client.ended()
        assert 0.4 <= time.monotonic() - begun_s < 5.0
    received = at.blue.find("/never")[0]
    await at.blue.until(lambda: received.abandoned)


async def refused_client(at: Bench) -> Client:
    """One that has got its last answer, and Turnout's end of the connection with it."""
    client = await at.client()
    await client.send(b"BAD\r\n\r\n")
    assert (await client.answer()).status == 400
    return client


async def test_a_closed_connection_is_read_until_its_client_is_silent_for_so_long(
    at: Bench,
) -> None:
    async with await refused_client(at):
        begun_s = time.monotonic()
        await gone(at)
        assert 0.3 <= time.monotonic() - begun_s < 0.95


async def test_a_closed_connection_is_read_no_longer_than_so_long_in_total(at: Bench) -> None:
    async with await refused_client(at) as client:
        begun_s = time.monotonic()
        sending = asyncio.ensure_future(go_on(client))
        await gone(at)
        took_s = time.monotonic() - begun_s
        sending.cancel()
        assert 0.95 <= took_s < 5.0, f"took {took_s:.2f} s"


async def go_on(client: Client) -> None:
    while True:
        client.writer.write(b"x")
        await asyncio.sleep(0.05)


async def gone(at: Bench) -> None:
    """Wait until Turnout has given its only connection up altogether."""
    scoreboard = at.product.scoreboard
    connections = scoreboard.region(0) + R_CONNECTIONS
    await at.product.until(lambda: scoreboard.words[connections] == 0, "the connection to go")


# ---------------------------------------------------------------- requests that wait, or go again


async def test_a_hold_of_0_lets_nothing_wait(at: Bench) -> None:
    routing = at.product.routing()
    word = routing.words[1 + SLOT]
    routing.words[1 + SLOT] = word | HOLD_BIT
    (await at.get("/held")).must_be(503)
    routing.words[1 + SLOT] = word
    routing.close()
    (await at.get("/held")).must_be(200, "blue")


async def test_a_body_that_may_not_be_kept_is_not_sent_again(at: Bench) -> None:
    async def close(exchange: Exchange) -> None:
        await exchange.read_body()
        exchange.keep = False
        exchange.writer.close()

    at.blue.script["/close"] = close
    for method, times in (("GET", 2), ("PUT", 1)):
        at.blue.ledger.clear()
        (await at.get("/warm")).must_be(200, "blue")
        async with await at.client() as client:
            await client.ask("/close", method=method, body=b"x" if method == "PUT" else b"")
            (await client.answer(method)).must_be(502)
        assert len(at.blue.find("/close")) == times


@contextlib.asynccontextmanager
async def without_control(configuration: Mapping[str, Any]) -> AsyncIterator[Product]:
    """A product whose control never gets as far as to do anything."""
    product = Product(
        configuration, faults={"turnout.control.app": "import time; time.sleep(1000)"}
    )
    try:
        yield await product.start(control=False)
    finally:
        await product.close()


@contextlib.asynccontextmanager
async def half_dead(**service: object) -> AsyncIterator[Product]:
    """A product whose first upstream has a server that refuses connections beside a good one."""
    async with Upstream("blue") as good, Upstream("green") as green:
        configuration = settings(
            [closed_port(), good.address], [green.address], workers=1, **service
        )
        configuration["services"]["shop"]["health"]["interval"] = "1h"
        async with without_control(configuration) as product:
            yield product


async def ask_often(product: Product) -> int:
    """How many of 40 requests were answered by a server."""
    answered = 0
    async with await Client.open(product.address) as client:
        for _ in range(40):
            answered += (await client.get("/")).status == 200
    return answered


@pytest.mark.parametrize(
    ("passive", "attempts"),
    [
        ({"connect_failures": 2, "avoid": "10m"}, range(2, 3)),
        ({"connect_failures": 2, "avoid": 0}, range(4, 41)),
        ("off", range(4, 41)),
    ],
    ids=["avoided", "for-no-time", "off"],
)
async def test_a_worker_avoids_a_server_that_fails_it(passive: object, attempts: range) -> None:
    """While control is away: nothing but the worker itself takes the server out."""
    health = {"path": "/healthz", "passive": passive}
    async with half_dead(health=health) as product:
        assert await ask_often(product) == 40
        failed = product.scoreboard.service_counters(SLOT)[U_ATTEMPTS_FAILED]
        assert failed in attempts


async def test_retries_have_a_floor_and_a_window() -> None:
    retries = {"budget": "1%", "budget_floor": 3, "budget_window": "1m"}
    async with half_dead(health={"path": "/healthz", "passive": "off"}, retries=retries) as product:
        answered = await ask_often(product)
        found = counted(product)
        assert found["connect_failed"] == 3
        assert found["budget_exhausted"] == 40 - answered > 0


# ---------------------------------------------------------------- the access log


async def test_lines_that_nobody_takes_are_kept_up_to_a_limit_and_then_counted() -> None:
    async with Upstream("blue") as blue, Upstream("green") as green:
        configuration = settings([blue.address], [green.address], workers=1)
        configuration["log"] = {"access": {"worker_buffer": "4KiB"}}
        async with without_control(configuration) as product:
            await ask_often(product)
            words, region = product.scoreboard.words, product.scoreboard.region(0)
            dropped = region + C_LOG_LINES_DROPPED
            # A line has some 300 bytes, so about 13 of them are kept. They are dropped as the
            # worker looks, not all at once.
            await product.until(lambda: words[dropped] >= 20, "lines to be dropped")
            assert words[dropped] <= 36
