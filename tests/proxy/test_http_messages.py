"""Requests and answers through a worker, byte for byte: framing, order, versions, interims."""

import hashlib
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.harness import Bench, bench
from tests.upstreams import Exchange, pattern

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def at() -> AsyncIterator[Bench]:
    async with bench(control=False) as found:
        yield found


def says(at: Bench, head: bytes, body: bytes = b"") -> None:
    """The server at `/say` answers these bytes and closes."""

    async def say(exchange: Exchange) -> None:
        await exchange.read_body()
        exchange.keep = False
        await exchange.send(head.replace(b"\n", b"\r\n") + b"\r\n" + body)

    at.blue.script["/say"] = say


# ---------------------------------------------------------------- connections


async def test_one_connection_carries_many_requests_over_one_to_the_server(at: Bench) -> None:
    async with await at.client() as client:
        connections = set()
        for number in range(20):
            answer = (await client.get(f"/{number}")).must_be(200, "blue")
            assert answer.body.startswith(f"blue 1 GET /{number} ".encode())
            connections.add(answer.get("X-Connection"))
    assert len(connections) == 1


async def test_pipelined_requests_are_answered_in_their_order(at: Bench) -> None:
    async with await at.client() as client:
        await client.send(
            b"GET /1?delay=0.2 HTTP/1.1\r\nHost: a\r\n\r\n"
            b"POST /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"
            b"HEAD /3 HTTP/1.1\r\nHost: a\r\n\r\n"
            b"POST /4 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nxy\r\n0\r\n\r\n"
            b"GET /nowhere/5?status=404 HTTP/1.1\r\nHost: a\r\n\r\n"
            b"GET /6 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
        )
        for method, target, status in (
            ("GET", "/1?delay=0.2", 200),
            ("POST", "/2", 200),
            ("HEAD", "/3", 200),
            ("POST", "/4", 200),
            ("GET", "/nowhere/5?status=404", 404),
            ("GET", "/6", 200),
        ):
            answer = (await client.answer(method)).must_be(status, "blue")
            if method != "HEAD":
                assert f" {method} {target} ".encode() in answer.body
        await client.ended()


async def test_a_flood_of_pipelined_requests_is_answered_whole(at: Bench) -> None:
    async with await at.client() as client:
        count = 3000  # more than what a worker reads ahead
        request = b"GET /flood?size=10 HTTP/1.1\r\nHost: a\r\n\r\n"
        client.writer.write(request * count)
        for _ in range(count):
            (await client.answer()).must_be(200, "blue")


async def test_a_request_may_come_byte_by_byte(at: Bench) -> None:
    async with await at.client() as client:
        for octet in b"POST /slow HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody":
            await client.send(bytes((octet,)))
        (await client.answer()).must_be(200, "blue")
    assert (await at.blue.received("/slow")).body_bytes == 4


async def test_an_empty_line_before_a_request_is_ignored(at: Bench) -> None:
    async with await at.client() as client:
        await client.send(b"\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n")
        (await client.answer()).must_be(200, "blue")


async def test_connection_close_is_kept_to_and_announced(at: Bench) -> None:
    async with await at.client() as client:
        answer = await client.get("/", Connection="close")
        assert answer.closed and answer.get("Connection") == "close"
        await client.ended()


async def test_a_server_that_closes_does_not_close_the_client(at: Bench) -> None:
    async with await at.client() as client:
        for _ in range(3):
            answer = (await client.get("/?connection=close")).must_be(200, "blue")
            assert not answer.closed


async def test_a_client_that_closes_its_half_still_reads_its_answer(at: Bench) -> None:
    async with await at.client() as client:
        await client.send(b"GET /half?delay=0.3 HTTP/1.1\r\nHost: a\r\n\r\n")
        client.half_close()
        (await client.answer()).must_be(200, "blue")
        await client.ended()


async def test_pipelined_requests_of_a_client_that_closed_its_half_are_all_answered(
    at: Bench,
) -> None:
    async with await at.client() as client:
        await client.send(b"GET /1?delay=0.1 HTTP/1.1\r\nHost: a\r\n\r\n" * 3)
        client.half_close()
        for _ in range(3):
            (await client.answer()).must_be(200, "blue")
        await client.ended()


# ---------------------------------------------------------------- bodies of requests


@pytest.mark.parametrize("size", [1, 1000, 65_536, 1_000_000])
async def test_a_body_with_a_length_arrives_as_it_is(at: Bench, size: int) -> None:
    body = pattern(size)
    async with await at.client() as client:
        await client.ask(f"/up{size}", method="PUT", body=body)
        (await client.answer("PUT")).must_be(200, "blue")
    received = at.blue.find(f"/up{size}")[-1]
    assert received.values("Content-Length") == [str(size)]
    assert received.digest == hashlib.sha256(body).hexdigest()


async def test_a_chunked_body_stays_chunked_and_keeps_its_trailers(at: Bench) -> None:
    async with await at.client() as client:
        await client.send(
            b"POST /chunks HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n"
            b"Trailer: X-Sum\r\n\r\n5\r\nhello\r\n6;name=value\r\n world\r\n0\r\nX-Sum: 11\r\n\r\n"
        )
        (await client.answer("POST")).must_be(200, "blue")
    received = at.blue.find("/chunks")[-1]
    assert received.values("Transfer-Encoding") == ["chunked"]
    assert not received.values("Content-Length")
    assert received.body_bytes == 11
    assert received.trailers == b"X-Sum: 11\r\n"


async def test_a_malformed_chunk_ends_the_request_at_both_sides(at: Bench) -> None:
    async with await at.client() as client:
        await client.send(
            b"POST /badchunk HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        received = await at.blue.received("/badchunk")
        await client.send(b"5\r\nhelloX\r\n0\r\n\r\n")
        (await client.answer("POST")).must_be(400)
        await client.ended()
    await at.blue.until(lambda: received.abandoned)
    assert not received.whole


# ---------------------------------------------------------------- bodies of answers


@pytest.mark.parametrize("size", [0, 1, 65_536, 1_000_000])
@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
async def test_an_answer_arrives_as_it_is(at: Bench, framing: str, size: int) -> None:
    async with await at.client() as client:
        answer = (await client.get(f"/?size={size}&framing={framing}")).must_be(200, "blue")
        assert answer.body == pattern(size)
        # What ends by close is chunked on the way, so that a broken answer shows.
        assert answer.framing == ("length" if framing == "length" else "chunked")
        assert not answer.closed
        (await client.get("/again")).must_be(200, "blue")


async def test_an_answers_trailers_are_passed_on(at: Bench) -> None:
    answer = await at.get("/?framing=chunked&trailers=1", TE="trailers")
    assert answer.trailers == [("X-Trailer", "end")]


@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_the_answer_to_head_has_no_body_and_the_connection_goes_on(
    at: Bench, framing: str
) -> None:
    async with await at.client() as client:
        await client.ask(f"/?size=5000&framing={framing}", method="HEAD")
        answer = (await client.answer("HEAD")).must_be(200, "blue")
        if framing == "length":
            assert answer.get("Content-Length") == "5000"
        (await client.get("/after")).must_be(200, "blue")


@pytest.mark.parametrize("status", [204, 304])
async def test_an_answer_without_body_by_its_status_ends_with_its_head(
    at: Bench, status: int
) -> None:
    async with await at.client() as client:
        answer = (await client.get(f"/?status={status}")).must_be(status, "blue")
        assert not answer.all("Transfer-Encoding")
        (await client.get("/after")).must_be(200, "blue")


async def test_a_304_may_say_how_long_the_body_would_have_been(at: Bench) -> None:
    says(at, b"HTTP/1.1 304 Not Modified\nContent-Length: 500\nX-Upstream: blue\n")
    async with await at.client() as client:
        answer = (await client.get("/say")).must_be(304, "blue")
        assert answer.get("Content-Length") == "500"
        (await client.get("/after")).must_be(200, "blue")


@pytest.mark.parametrize("how", ["fin", "reset"])
@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_an_answer_that_breaks_off_breaks_off_for_the_client(
    at: Bench, framing: str, how: str
) -> None:
    async with await at.client() as client:
        await client.ask(f"/?size=50000&framing={framing}&break=half&how={how}")
        head = await client.head()
        assert head.status == 200
        data, _ = await client.rest()
        # However much arrived, it must not look complete.
        if framing == "length":
            assert len(data) < 50_000
        else:
            assert not data.endswith(b"0\r\n\r\n")


async def test_a_body_that_ends_by_close_is_broken_off_by_a_reset(at: Bench) -> None:
    """HTTP/1.0 has no other end that a client could tell from a complete body's."""
    async with await at.client() as client:
        await client.send(b"GET /?size=50000&framing=chunked&break=half HTTP/1.0\r\n\r\n")
        assert (await client.head()).status == 200
        _, how = await client.rest()
        assert how == "reset"


# ---------------------------------------------------------------- HTTP/1.0


async def test_an_http_1_0_client_gets_its_body_ended_by_close(at: Bench) -> None:
    async with await at.client() as client:
        await client.send(b"GET /ten?size=5000&framing=chunked HTTP/1.0\r\n\r\n")
        answer = (await client.answer()).must_be(200, "blue")
        assert (answer.framing, answer.body) == ("close", pattern(5000))
    received = at.blue.find("/ten")[-1]
    assert received.head.split(b"\r\n")[0].endswith(b"HTTP/1.1")


async def test_an_http_1_0_client_may_keep_its_connection(at: Bench) -> None:
    async with await at.client() as client:
        for _ in range(3):
            await client.send(b"GET /?size=5 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
            answer = (await client.answer()).must_be(200, "blue")
            assert answer.get("Connection") == "keep-alive" and not answer.closed


async def test_an_http_1_0_client_gets_no_interim_answer(at: Bench) -> None:
    async with await at.client() as client:
        await client.send(b"GET /?interim=103&size=5 HTTP/1.0\r\n\r\n")
        answer = (await client.answer()).must_be(200, "blue")
        assert answer.interim == []


@pytest.mark.parametrize("framing", ["length", "close"])
async def test_an_http_1_0_server_is_understood(at: Bench, framing: str) -> None:
    async with await at.client() as client:
        answer = (await client.get(f"/?http=1.0&size=5000&framing={framing}")).must_be(200, "blue")
        assert answer.version_minor == 1 and answer.body == pattern(5000)
        (await client.get("/after")).must_be(200, "blue")


# ---------------------------------------------------------------- interims and early answers


async def test_interim_answers_are_passed_on(at: Bench) -> None:
    answer = (await at.get("/?interim=103")).must_be(200, "blue")
    assert [(one.status, one.get("X-Interim")) for one in answer.interim] == [(103, "103")]


async def test_several_interims_and_the_answer_in_one_packet(at: Bench) -> None:
    says(
        at,
        b"HTTP/1.1 103 Early Hints\nLink: </a>\n\nHTTP/1.1 103 Early Hints\nLink: </b>\n\n"
        b"HTTP/1.1 102 Processing\n\nHTTP/1.1 200 OK\nContent-Length: 2\n",
        b"ok",
    )
    answer = await at.get("/say")
    assert [one.status for one in answer.interim] == [103, 103, 102]
    assert [one.get("Link") for one in answer.interim[:2]] == ["</a>", "</b>"]
    assert (answer.status, answer.body) == (200, b"ok")


async def test_the_server_says_continue_before_the_client_sends_its_body(at: Bench) -> None:
    async with await at.client() as client:
        await client.send(
            b"POST /expect HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n"
        )
        interim = await client.head()
        assert interim.status == 100
        received = at.blue.find("/expect")[-1]
        assert received.values("Expect") == ["100-continue"]
        assert not received.whole, "the body has not been sent"
        await client.send(b"body")
        (await client.answer("POST")).must_be(200, "blue")
    assert received.body_bytes == 4


async def test_a_final_answer_instead_of_continue_ends_the_connection(at: Bench) -> None:
    async with await at.client() as client:
        await client.send(
            b"POST /no?early=close&status=403 HTTP/1.1\r\nHost: a\r\n"
            b"Expect: 100-continue\r\nContent-Length: 4\r\n\r\n"
        )
        answer = (await client.answer("POST")).must_be(403, "blue")
        # The body may or may not follow: only a new connection is sure of its framing.
        assert answer.closed
        await client.ended()


async def test_an_answer_before_the_bodys_end_is_passed_on_at_once(at: Bench) -> None:
    async with await at.client() as client:
        await client.send(
            b"POST /early?early=close&status=413 HTTP/1.1\r\nHost: a\r\n"
            b"Content-Length: 10000000\r\n\r\n" + bytes(100_000)
        )
        answer = (await client.answer("POST")).must_be(413, "blue")
        assert answer.closed


async def test_an_early_answer_survives_a_client_that_goes_on_sending(at: Bench) -> None:
    # The server has closed with data unread: a reset on its way must not destroy the answer.
    for _ in range(20):
        async with await at.client() as client:
            client.writer.write(
                b"POST /early?early=close&status=413 HTTP/1.1\r\nHost: a\r\n"
                b"Content-Length: 3000000\r\n\r\n" + bytes(3_000_000)
            )
            (await client.answer("POST")).must_be(413, "blue")


async def test_a_body_goes_on_behind_an_early_answer(at: Bench) -> None:
    async with await at.client() as client:
        await client.send(
            b"POST /both?early=read&framing=chunked HTTP/1.1\r\nHost: a\r\n"
            b"Content-Length: 8\r\n\r\n1234"
        )
        received = await at.blue.received("/both")
        head = await client.head()
        assert head.status == 200
        await at.blue.until(lambda: received.body_bytes == 4)


async def test_each_end_of_a_broken_client_reaches_the_server(at: Bench) -> None:
    client = await at.client()
    await client.send(b"POST /gone HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n1234")
    received = await at.blue.received("/gone")
    client.reset()
    await at.blue.until(lambda: received.abandoned)
