"""The fast path does for every request what the general way does, and is really taken."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from random import Random
from typing import Any

import pytest
import pytest_asyncio

from tests.harness import Bench, bench
from tests.rawhttp import Client, Malformed
from tests.upstreams import Exchange, Upstream, pattern
from turnout.proxy.scoreboard import (
    LATENCY_BUCKETS,
    S_ACCEPTED,
    S_PROXY,
    U_LATENCY,
    U_LATENCY_SUM_US,
    U_PROXY,
    UPSTREAM_WORDS,
    Scoreboard,
    proxy_code_index,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")
SLOT = 1
UNMATCHED = 0

NO_GENERAL_WAY = """
import turnout.proxy.downstream as d, turnout.proxy.upstream as u
def forbidden(*_):
    raise AssertionError("the general way was taken")
parse, heads = d.parse_request, u.UpstreamConnection._heads
d.parse_request = lambda data, fields_max: (
    parse(data, fields_max) if b"/warm" in data else forbidden()
)
u.UpstreamConnection._heads = lambda self, exchange, data: (
    heads(self, exchange, data) if exchange.plain is None else forbidden()
)
"""

TIGHT: dict[str, Any] = {
    "listeners": [{"bind": "127.0.0.1:0"}],
    "timeouts": {"first_byte": "2s", "body_idle": "5s"},
    "limits": {"interim_answers": 3},
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def at() -> AsyncIterator[Bench]:
    async with bench(
        control=False, workers=1, top=TIGHT, health="off", match={"hosts": ["test.example"]}
    ) as found:
        yield found


async def warm(at: Bench) -> None:
    """A server's connection is idle, and the name of the host is known."""
    (await at.get("/warm")).must_be(200, "blue")


def sums(board: Scoreboard, slot: int) -> dict[str, int]:
    """Accepted, and answered by the proxy with 404 for no upstream and for each."""
    words = board.service_counters(slot)
    index = proxy_code_index(404)
    return {
        "accepted": words[S_ACCEPTED],
        "proxy": words[S_PROXY + index],
        "first": words[U_PROXY + index],
        "second": words[UPSTREAM_WORDS + U_PROXY + index],
    }


async def test_a_plain_request_takes_the_fast_path_both_ways() -> None:
    async with bench(
        control=False, workers=1, health="off", faults={"turnout.proxy.worker": NO_GENERAL_WAY}
    ) as at:
        await warm(at)
        async with await at.client() as client:
            for number in range(20):
                (await client.get(f"/{number}")).must_be(200, "blue")
            for method in ("POST", "PUT", "PATCH"):
                await client.ask(f"/{method}", method=method, body=pattern(5000))
                (await client.answer()).must_be(200, "blue")
            (await client.get("/behind")).must_be(200, "blue")
        bodies = [at.blue.find(f"/{method}") for method in ("POST", "PUT", "PATCH")]
        assert [[one.body_bytes for one in each] for each in bodies] == [[5000]] * 3


async def test_a_request_that_no_service_matches_is_not_counted_for_the_last_ones_upstream(
    at: Bench,
) -> None:
    await warm(at)
    board = at.product.scoreboard
    shop, unmatched = sums(board, SLOT), sums(board, UNMATCHED)
    async with await at.client() as client:
        (await client.get("/plain")).must_be(200, "blue")
        await client.ask("/", host="elsewhere.example")
        (await client.answer()).must_be(404)
    assert sums(board, SLOT) == {**shop, "accepted": shop["accepted"] + 1}
    assert sums(board, UNMATCHED) == {
        **unmatched, "accepted": unmatched["accepted"] + 1, "proxy": unmatched["proxy"] + 1
    }  # fmt: skip


async def test_a_connection_whose_client_was_slow_to_read_is_read_again(at: Bench) -> None:
    """The server's connection is paused in the write of the whole answer; it goes back to the
    pool with that answer, and whoever gets it next must get an answer too."""
    await warm(at)
    at.blue.script["/large"] = lambda exchange: exchange.answer(pattern(15_000))
    async with await at.client(receive_buffer=4096) as slow, await at.client() as other:
        for number in range(1, 1000):
            await slow.ask("/large")
            (await other.get("/plain")).must_be(200, "blue")
            try:
                await at.blue.received("/large", number, limit_s=1.0)
            except AssertionError:
                break  # waits behind one whose answer waits for the client
        assert 3 < number < 999


async def interim_apart(exchange: Exchange) -> None:
    """A 103, and in a read of its own the final answer."""
    await exchange.send(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")
    await asyncio.sleep(0.03)
    await exchange.answer(b"final")


async def test_interim_answers_are_counted_anew_for_each_request(at: Bench) -> None:
    await warm(at)
    at.blue.script["/hints"] = interim_apart
    async with await at.client() as client:
        for _ in range(8):
            answer = await client.get("/hints")
            assert (answer.status, answer.body) == (200, b"final")
            assert len(answer.interim) == 1


async def test_what_one_request_said_is_not_taken_for_the_next_ones(at: Bench) -> None:
    await warm(at)
    at.blue.script["/hints"] = interim_apart
    async with await at.client() as client:
        assert (await client.get("/hints")).status == 200
        answer = await client.get("/last?framing=chunked", Connection="close")
        answer.must_be(200, "blue")
        assert answer.get("Connection") == "close"
        await client.ended()


async def test_a_request_without_answer_ends_as_any_other(at: Bench) -> None:
    await warm(at)
    async with await at.client() as client:
        await client.ask("/hang?hang=1")
        (await client.answer()).must_be(504)
        (await client.get("/after")).must_be(200, "blue")
    board = at.product.scoreboard
    await at.product.until(lambda: not list(board.in_flight(0)), "nothing to be in flight")


# ---------------------------------------------------------------- both ways, compared

GENERAL_WAY_ONLY = "import turnout.proxy.fast_path as f\nf.begin = lambda down, data, end: False\n"

TARGETS = (
    "/a", "/a/b?x=1", "/?status=204", "/?status=304", "/?status=500", "/?status=404&size=0",
    "/?size=1", "/?size=16383", "/?size=16384", "/?size=40000", "/?size=300000",
    "/?framing=chunked", "/?framing=chunked&trailers=1", "/?framing=close", "/?http=1.0",
    "/?interim=103", "/?pieces=2&gap=0.01", "/?break=before", "/?break=half&size=100",
    "/?keep_alive=9", "/?keep_alive=1", "/?connection=close", "/events?sse=2&gap=0.01&connection=close",
    "/unasked", "/twice", "/two-heads", "/race", "/hints", "/odd", "/split", "/malformed",
    "/spaced",
)  # fmt: skip
METHODS = (
    ("GET",) * 12 + ("POST",) * 4 + ("HEAD", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "FOO")
)
FIELDS: tuple[dict[str, str], ...] = (
    {}, {}, {}, {}, {}, {},
    {"Connection": "close"}, {"Connection": "keep-alive"}, {"connection": "Keep-Alive, X-A"},
    {"X-Forwarded-For": "9.9.9.9"}, {"X-Request-Id": "mine"}, {"Forwarded": "for=1"},
    {"Cookie": "a=b", "User-Agent": "t", "Accept": "*/*"}, {"Content-Length": "0"},
    {"TE": "trailers"}, {"Expect": "100-continue"}, {"Upgrade": "websocket"}, {"Bad Name": "x"},
    {"X-Long": "x" * 31_000}, {"X-Too-Long": "x" * 33_000}, {"Max-Forwards": "3"},
)  # fmt: skip
HOSTS = ("test.example",) * 9 + ("TEST.example:80", "elsewhere.example", "bad host", "")


def scripted(upstream: Upstream) -> None:
    """What a server may do that no query asks for."""

    async def unasked(exchange: Exchange) -> None:
        await exchange.answer(b"one")
        await asyncio.sleep(0.01)
        await exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nbad")

    async def twice(exchange: Exchange) -> None:
        body = b"HTTP/1.1 200 OK\r\nX-Upstream: blue\r\nContent-Length: 3\r\n\r\none"
        await exchange.send(body + body)

    async def two_heads(exchange: Exchange) -> None:
        await exchange.send(
            b"HTTP/1.1 103 Early\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\none"
        )

    times = 0

    async def race(exchange: Exchange) -> None:
        nonlocal times
        times += 1
        if times % 2:
            exchange.keep = False
            exchange.writer.close()
        else:
            await exchange.answer(b"second time")

    async def odd(exchange: Exchange) -> None:
        await exchange.send(
            b"HTTP/1.1 200 \r\nContent-Type:  text/event-stream\r\ncontent-length:3\r\n"
            b"X-Request-Id: server\r\nconnection: Keep-Alive\r\nServer: x\r\n\r\none"
        )

    async def split(exchange: Exchange) -> None:
        await exchange.send(b"HTTP/1.1 200 OK\r\nContent-Le")
        await asyncio.sleep(0.01)
        await exchange.send(b"ngth: 3\r\nDATE: now\r\n\r\non")
        await asyncio.sleep(0.01)
        await exchange.send(b"e")

    async def malformed(exchange: Exchange) -> None:
        exchange.keep = False
        await exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nBad Name: x\r\n\r\none")

    async def spaced(exchange: Exchange) -> None:
        await exchange.send(
            b"HTTP/1.1 200 OK\r\nContent-Type:  text/event-stream\r\nContent-Length: 3\r\n\r\none"
        )

    upstream.script |= {
        "/unasked": unasked, "/twice": twice, "/two-heads": two_heads, "/race": race,
        "/hints": interim_apart, "/odd": odd, "/split": split, "/malformed": malformed,
        "/spaced": spaced,
    }  # fmt: skip


@dataclass(slots=True)
class Seen:
    """What was to be seen of one run, but for what differs from any run to the next."""

    answers: list[object]
    received: list[object]
    counters: list[list[int]]
    refused: list[int]
    log: list[dict[str, object]]


VARIES = ("date", "x-request-id", "x-connection")


async def one_answer(client: Client, method: str) -> list[object]:
    """An answer as far as it must be the same, or how the connection ended instead."""
    try:
        answer = await client.answer(method)
    except Malformed as fault:
        return ["malformed", str(fault).partition(chr(10))[0]]
    fields = sorted((name.lower(), value) for name, value in answer.fields)
    ids = answer.all("X-Request-Id")
    return [
        answer.status, answer.version_minor, answer.framing, answer.body, answer.trailers,
        len(answer.interim), [one for one in fields if one[0] not in VARIES], len(ids),
        ids == ["mine"], len(answer.all("Date")),
    ]  # fmt: skip


async def run_script(product: Bench, seed: int, requests: int) -> list[object]:
    """Ask `requests` times, by chance over kept and fresh connections; what came back."""
    random = Random(seed)
    answers: list[object] = []
    client = await product.client()
    for _ in range(requests):
        method, target = random.choice(METHODS), random.choice(TARGETS)
        version = "1.0" if random.random() < 0.04 else "1.1"
        host, fields = random.choice(HOSTS), dict(random.choice(FIELDS))
        # What is longer than one packet of loopback may come in one read or in two: an answer of
        # Turnout's own keeps the connection only when all of the request has come.
        body = (
            b"x" * random.choice((0, 5, 3000, 3000, 30_000))
            if method in ("POST", "PUT", "PATCH")
            else b""
        )
        if body:
            fields["Content-Length"] = str(len(body))
        lines = [f"{method} {target} HTTP/{version}"]
        lines += [f"{name}: {value}" for name, value in fields.items() if random.random() < 0.5]
        lines += [f"Host: {host}"] if host else []
        rest = [f"{name}: {value}" for name, value in fields.items()]
        lines += [line for line in rest if line not in lines]
        data = "\r\n".join(lines).encode() + b"\r\n\r\n" + body
        how = random.random()
        if how < 0.04:
            data = b"\r\n" + data
        elif how < 0.08:
            data += b"GET /piped HTTP/1.1\r\nHost: test.example\r\n\r\n"
        await client.send(data[: len(data) // 2] if 0.08 < how < 0.12 else data)
        if 0.08 < how < 0.12:
            await asyncio.sleep(0.01)
            await client.send(data[len(data) // 2 :])
        if 0.12 < how < 0.16:
            client.half_close()
        found = await one_answer(client, method)
        answers.append([method, target, version, fields.keys(), host, found])
        closes = found[0] == "malformed" or ("connection", "close") in found[6]  # type: ignore[operator]
        if 0.04 <= how < 0.08 and not closes:
            answers.append(await one_answer(client, "GET"))
            closes = found[2] == "close"
        if closes or version == "1.0" or 0.04 <= how < 0.16 or random.random() < 0.2:
            client.close()
            client = await product.client()
    client.close()
    return answers


async def seen(fault: str, seed: int, requests: int) -> Seen:
    top = {
        "log": {"access": {"format": "json"}},
        "timeouts": {"half_closed": "3s", "linger": "200ms"},
        "pool": {"idle": 4},
    }
    faults = {"turnout.proxy.worker": fault} if fault else None
    async with bench(
        workers=1, top=top, health="off", faults=faults, match={"hosts": ["test.example"]}
    ) as at:
        scripted(at.blue)
        answers = await run_script(at, seed, requests)
        board = at.product.scoreboard
        await at.product.until(lambda: not list(board.in_flight(0)), "nothing in flight")
        counters = [board.service_counters(slot) for slot in (UNMATCHED, SLOT)]
        accepted = sum(one[S_ACCEPTED] for one in counters)
        for one in counters:
            for base in (0, UPSTREAM_WORDS):
                buckets = slice(base + U_LATENCY, base + U_LATENCY + LATENCY_BUCKETS)
                one[buckets] = [sum(one[buckets])] + [0] * (LATENCY_BUCKETS - 1)
                one[base + U_LATENCY_SUM_US] = 0
        lines: list[str] = []

        def logged() -> bool:
            lines[:] = at.product.access_log.read_text().splitlines()
            return len(lines) == accepted

        await at.product.until(logged, f"{accepted} lines")
        log = [json.loads(line) for line in lines]
        for line in log:
            line["server"] = bool(line["server"])
            line["request_id"] = line["request_id"] == "mine"
            assert line.pop("duration_ms") >= 0 and line.pop("time")
        received: list[object] = []
        for request in at.blue.ledger:
            head = re.sub(rb"X-Request-Id: [^\r]*", b"", request.head)
            start, *rest = head.split(b"\r\n")
            received.append([start, sorted(rest), request.body_bytes, request.digest])
        return Seen(answers, received, counters, board.worker_counters(), log)


@pytest.mark.parametrize("seed", [1, 2])
async def test_the_fast_path_differs_in_nothing_from_the_general_way(seed: int) -> None:
    requests = 250
    fast = await seen("", seed, requests)
    general = await seen(GENERAL_WAY_ONLY, seed, requests)
    for number, (one, other) in enumerate(zip(fast.answers, general.answers, strict=False)):
        assert one == other, f"answer {number}: {one[:5] if isinstance(one, list) else one}"
    assert fast.received == general.received
    for one, other in zip(fast.log, general.log, strict=True):
        assert one == other
    assert fast.counters == general.counters
    assert fast == general
