"""What reaches the control API of the running product and is no proper call: bytes, not calls.

No answer is a 5xx, nothing of what came is repeated, every client is answered or let go in a
bounded time, and the log stays silent: whoever may not call must not be able to fill it.
"""

import asyncio
import contextlib
import json
import re
import socket
import time
from collections.abc import AsyncIterator
from typing import Any, Final

import httpx
import pytest
import pytest_asyncio

from tests.harness import SERVICE, Product, settings, until
from tests.upstreams import Upstream

TOKEN: Final = "write-token-0123456789"
SECRET: Final = b"s3cr3t-of-somebody"
HEAD: Final = b"Host: localhost\r\nAuthorization: Bearer %b\r\n" % TOKEN.encode()
HOLD: Final = b"POST /v1/services/shop/release HTTP/1.1\r\n" + HEAD
CONNECTIONS: Final = 40
STREAMS: Final = 5


class Api:
    """The API's address, and the product behind it."""

    def __init__(self, product: Product, port: int) -> None:
        self.product = product
        self.port = port
        self.http = httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}", headers={"Authorization": f"Bearer {TOKEN}"}
        )

    async def open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)

    async def send(self, *pieces: bytes, limit_s: float = 10.0) -> bytes:
        """What comes until the API closes. AssertionError if it does not."""
        reader, writer = await self.open()
        try:
            async with asyncio.timeout(limit_s):
                for piece in pieces:
                    writer.write(piece)
                    await writer.drain()
                return await reader.read()
        except TimeoutError:
            raise AssertionError(f"not closed within {limit_s} s") from None
        finally:
            writer.close()

    async def refused(self) -> dict[str, float]:
        """Problem -> how often, by /metrics."""
        text = (await self.http.get("/metrics")).text
        found = re.findall(r'turnout_api_calls_refused_total\{problem="([a-z-]+)"\} (\S+)', text)
        return {name: float(count) for name, count in found}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def api() -> AsyncIterator[Api]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    async with Upstream("blue") as blue, Upstream("green") as green:
        product = Product(settings([blue.address], [green.address]))
        product.write_config(
            {
                "control": {
                    "bind": f"127.0.0.1:{port}",
                    "tokens": [{"name": "ci", "scope": "write", "token": TOKEN}],
                    "connections": CONNECTIONS,
                    "event_streams": STREAMS,
                    "timeout": "600ms",
                    "keep_alive": "1s",
                    "body": "64KiB",
                    "header_bytes": "2KiB",
                    "headers": 20,
                }
            }
        )
        try:
            await product.start(control=False)
            await until(lambda: "control.started" in product.log(), "control", 20.0)
            made = Api(product, port)
            yield made
            await made.http.aclose()
            # Nothing that came in has made Turnout write a word.
            log = product.log()
            assert "Traceback" not in log
            assert "api.mistake" not in log
            assert "aiohttp" not in log.lower()
            assert SECRET.decode() not in log
        finally:
            await product.close()


def answer_of(raw: bytes) -> tuple[int, dict[str, Any]]:
    """Status and problem document of an answer that is whole."""
    head, _, body = raw.rpartition(b"\r\n\r\n")
    match = re.match(rb"HTTP/1\.[01] (\d{3}) ", head.rpartition(b"\r\n\r\n")[2])
    assert match is not None, raw
    assert b"Server: turnout\r\n" in head + b"\r\n"
    assert b"Python" not in head
    document: dict[str, Any] = json.loads(body)
    return int(match[1]), document


CLOSE: Final = b"Connection: close\r\n"
GET: Final = b"GET /v1/services HTTP/1.1\r\n"


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(
    ("raw", "status", "name"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400, "http-error"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, "http-error"),
        (b"\r\n\r\n\r\nnonsense\r\n\r\n", 400, "http-error"),
        (b"BREW / HTTP/1.1\r\n" + HEAD + b"\r\n", 400, "http-error"),
        (GET + b"Host: localhost\r\nAuthorization: Bearer " + SECRET + b"\x00\r\n\r\n", 400, "http-error"),
        (GET + b"Host: localhost\r\nAuthorization : " + SECRET + b"\r\n\r\n", 400, "http-error"),
        (GET + b"Host: localhost\r\nAuthorization: " + SECRET * 200 + b"\r\n\r\n", 431, "head-too-large"),
        (GET + HEAD + b"".join(b"X-%d: 1\r\n" % i for i in range(40)) + b"\r\n", 431, "head-too-large"),
        (b"GET /" + b"a" * 3000 + b" HTTP/1.1\r\n" + HEAD + b"\r\n", 431, "head-too-large"),
        (GET + HEAD + b"Host: evil.example\r\n" + CLOSE + b"\r\n", 400, "http-error"),
        (GET + CLOSE + b"\r\n", 400, "http-error"),
        (b"GET / HTTP/1.0\r\n\r\n", 403, "foreign-host"),
        (b"GET http://evil.example/ HTTP/1.1\r\n" + HEAD + CLOSE + b"\r\n", 400, "malformed-header"),
        (b"GET http://evil.example HTTP/1.1\r\n" + HEAD + CLOSE + b"\r\n", 400, "malformed-header"),
        (GET + HEAD + b"Authorization: Bearer x\r\n" + CLOSE + b"\r\n", 400, "malformed-header"),
        (GET + HEAD + b"Origin: http://localhost\r\nOrigin: null\r\n" + CLOSE + b"\r\n", 400, "malformed-header"),
        (GET + HEAD + b"Expect: the-inquisition\r\n" + CLOSE + b"\r\n", 417, "expectation-failed"),
        (b"GET /v1/switchovers/\xff\xfe HTTP/1.1\r\n" + HEAD + b"\r\n", 400, "http-error"),
        (b"GET /v1/switchovers/%ff%00 HTTP/1.1\r\n" + HEAD + CLOSE + b"\r\n", 404, "unknown-switchover"),
        (b"GET /v1/services/..%2f..%2fetc HTTP/1.1\r\n" + HEAD + CLOSE + b"\r\n", 404, "unknown-service"),
        (b"GET /v1/audit?service=%ed%a0%80 HTTP/1.1\r\n" + HEAD + CLOSE + b"\r\n", 400, "malformed-query"),
        (b"GET /v1/audit?limit=1&limit=2 HTTP/1.1\r\n" + HEAD + CLOSE + b"\r\n", 400, "malformed-query"),
        (b"GET /v1/audit?limit=%d HTTP/1.1\r\n" % 10**40 + HEAD + CLOSE + b"\r\n", 400, "malformed-query"),
        (b"GET /v1/audit?before=-1 HTTP/1.1\r\n" + HEAD + CLOSE + b"\r\n", 400, "malformed-query"),
        (b"TRACE / HTTP/1.1\r\n" + HEAD + CLOSE + b"\r\n", 405, "method-not-allowed"),
        (b"OPTIONS * HTTP/1.1\r\n" + HEAD + CLOSE + b"\r\n", 404, "not-found"),
        (b"CONNECT a.example:443 HTTP/1.1\r\n" + HEAD + CLOSE + b"\r\n", 400, "malformed-header"),
        (HOLD + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, "http-error"),
        (HOLD + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}", 400, "http-error"),
        (HOLD + b"Content-Length: +2\r\n\r\n{}", 400, "http-error"),
        (HOLD + b"If-Match: 1\r\nIf-Match: 2\r\n" + CLOSE + b"\r\n", 400, "malformed-header"),
        (HOLD + b'If-Match: "1", "2"\r\n' + CLOSE + b"\r\n", 400, "malformed-header"),
        (HOLD + b"Idempotency-Key: \xff\r\n" + CLOSE + b"\r\n", 400, "malformed-header"),
        (HOLD + b"Idempotency-Key: %b\r\n" % (b"k" * 201) + CLOSE + b"\r\n", 400, "malformed-header"),
        (b"GET /v1/events HTTP/1.1\r\n" + HEAD + b"Last-Event-ID: -1\r\n" + CLOSE + b"\r\n", 400, "malformed-header"),
    ],
)  # fmt: skip
async def test_what_is_no_call_is_answered_and_not_repeated(
    api: Api, raw: bytes, status: int, name: str
) -> None:
    answer = await api.send(raw)
    got, document = answer_of(answer)
    assert (got, document["type"]) == (status, f"urn:turnout:problem:{name}"), document
    assert SECRET not in answer
    assert TOKEN.encode() not in answer


def post(body: bytes, *fields: bytes) -> bytes:
    more = b"".join(field + b"\r\n" for field in fields)
    length = b"Content-Length: %d\r\n" % len(body)
    return HOLD + CLOSE + length + more + b"\r\n" + body


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(
    "body",
    [
        b'{"reason": "a", "reason": "b"}',
        b'{"reason": "a", "reas\\u006fn": "b"}',
        b'{"reason": NaN}',
        b'{"reason": -Infinity}',
        b'{"reason": 1e999}',
        b'{"reason": ' + b"9" * 5000 + b"}",
        b"[" * 20000 + b"]" * 20000,
        b'{"a":' * 8000 + b"1" + b"}" * 8000,
        '{"reason": "é"}'.encode("latin-1"),
        '{"reason": "x"}'.encode("utf-16"),
        b'\xef\xbb\xbf{"reason": "x"}',
        b'{"reason": "\\ud800"}',
        b'{"reason": "\x01"}',
        b'{"reason": "x"} {}',
        b'{"reason": "x",}',
        b"{'reason': 'x'}",
        b"null",
        b'"reason"',
        b"reason=x",
        b'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY y SYSTEM "file:///etc/passwd">]><x>&y;</x>',
    ],
)
async def test_a_body_that_is_no_json_or_could_be_read_in_two_ways_is_refused(
    api: Api, body: bytes
) -> None:
    status, document = answer_of(await api.send(post(body)))
    assert (status, document["type"]) == (400, "urn:turnout:problem:malformed-body"), document
    assert len(document["detail"]) < 300


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(
    "kind", [b"text/plain", b"application/json; charset=utf-16", b"multipart/form-data", b"\xff/;;"]
)
async def test_a_body_is_json_whatever_its_type_says(api: Api, kind: bytes) -> None:
    answer = await api.send(post(b'{"reason": "x"}', b"Content-Type: " + kind))
    assert answer.startswith(b"HTTP/1.1 200 ")


@pytest.mark.asyncio(loop_scope="module")
async def test_a_body_beyond_the_limit_is_refused_as_soon_as_it_is(api: Api) -> None:
    chunk = b"1000\r\n" + b" " * 4096 + b"\r\n"
    answer = await api.send(HOLD + b"Transfer-Encoding: chunked\r\n\r\n", *[chunk] * 20)
    assert answer_of(answer)[1]["type"] == "urn:turnout:problem:body-too-large"


@pytest.mark.asyncio(loop_scope="module")
async def test_slow_clients_are_let_go(api: Api) -> None:
    """Each takes as long as the settings give it, and no longer."""
    began_s = time.monotonic()
    nothing, head, body = await asyncio.gather(
        api.send(),
        api.send(b"GET /v1/serv"),
        api.send(HOLD + b"Content-Length: 20\r\n\r\n{"),
    )
    assert time.monotonic() - began_s < 5.0
    assert nothing == head == b""
    assert answer_of(body)[1]["type"] == "urn:turnout:problem:body-too-slow"


@pytest.mark.asyncio(loop_scope="module")
async def test_a_client_that_takes_no_answer_is_let_go(api: Api) -> None:
    """It asks for much, many times, and reads nothing: its own buffer and the API's are full."""
    link = socket.socket()
    link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    link.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(link, ("127.0.0.1", api.port))
    with link:
        call = b"GET /openapi.json HTTP/1.1\r\n" + HEAD + b"\r\n"

        async def asking() -> None:
            while True:
                await loop.sock_sendall(link, call * 100)

        with pytest.raises(ConnectionError):
            async with asyncio.timeout(10):
                await asking()


@pytest.mark.asyncio(loop_scope="module")
async def test_readers_of_events_are_bounded_and_others_are_served_meanwhile(api: Api) -> None:
    links = [await api.open() for _ in range(STREAMS + 3)]
    heads = []
    for reader, writer in links:
        writer.write(b"GET /v1/events HTTP/1.1\r\n" + HEAD + b"\r\n")
        heads.append(await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5))
    statuses = [head[9:12] for head in heads]
    assert (statuses.count(b"200"), statuses.count(b"503")) == (STREAMS, 3)
    assert (await api.http.get(f"/v1/services/{SERVICE}")).status_code == 200
    for _, writer in links:
        writer.close()

    async def free() -> bool:
        reader, writer = await api.open()
        writer.write(b"GET /v1/events HTTP/1.1\r\n" + HEAD + b"\r\n")
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
        writer.close()
        return head[9:12] == b"200"

    async with asyncio.timeout(10):
        while not await free():
            await asyncio.sleep(0.02)


@pytest.mark.asyncio(loop_scope="module")
async def test_connections_are_bounded_and_those_that_are_there_are_served(api: Api) -> None:
    """One more gets 503 and a close; as soon as others go, there is room again."""
    kept = httpx.AsyncClient(base_url=f"http://127.0.0.1:{api.port}")
    assert (await kept.get("/healthz")).status_code == 200
    links: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
    try:
        links += [await api.open() for _ in range(CONNECTIONS)]
        reader, _ = links[-1]
        refused = await asyncio.wait_for(reader.read(), 5)
        assert answer_of(refused)[1]["type"] == "urn:turnout:problem:too-many-connections"
        assert (await kept.get("/healthz")).status_code == 200
    finally:
        for _, writer in links:
            writer.close()
    async with asyncio.timeout(10):
        answer = b""
        while not answer.startswith(b"HTTP/1.1 200"):
            # What is closed with a call unread is reset; then the 503 may not arrive.
            with contextlib.suppress(ConnectionError):
                answer = await api.send(GET + HEAD + CLOSE + b"\r\n")
    await kept.aclose()
    assert (await api.refused())["too-many-connections"] >= 1


@pytest.mark.asyncio(loop_scope="module")
async def test_what_was_refused_is_counted_by_its_problem(api: Api) -> None:
    before = await api.refused()
    await api.send(b"nonsense\r\n\r\n")
    await api.send(GET + b"Host: localhost\r\n" + CLOSE + b"\r\n")
    after = await api.refused()
    grown = {name: count - before.get(name, 0) for name, count in after.items()}
    assert grown["http-error"] == 1
    assert grown["token-needed"] == 1
