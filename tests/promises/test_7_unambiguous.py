"""Promise 7: no message is forwarded that two parsers could read in two ways.

Each row is sent over a real socket, with a request hidden behind it or inside it. What counts
is what the server received, byte for byte: for a refused one nothing at all, for an accepted
one exactly one request in one reading.
"""

import hashlib
import re
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.harness import Bench, bench
from tests.rawhttp import Malformed
from tests.upstreams import Exchange

pytestmark = pytest.mark.asyncio(loop_scope="module")

HIDDEN = b"GET /hidden HTTP/1.1\r\nHost: a\r\n\r\n"
FENCE = b"GET /fence HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
GET = b"GET /seen HTTP/1.1\r\n"
POST = b"POST /seen HTTP/1.1\r\nHost: a\r\n"
HOST = b"Host: a\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"


def chunks(data: bytes) -> bytes:
    return POST + CHUNKED + b"\r\n" + data


# name -> bytes, status. The hidden request follows each.
REFUSED: dict[str, tuple[bytes, int]] = {
    # Where does the body end?
    "length and chunked": (POST + b"Content-Length: 5\r\n" + CHUNKED + b"\r\n0\r\n\r\n", 400),
    "chunked and length": (POST + CHUNKED + b"Content-Length: 5\r\n\r\n0\r\n\r\n", 400),
    "two lengths": (POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello", 400),
    "the same length twice": (POST + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello", 400),
    "a list of lengths": (POST + b"Content-Length: 5, 5\r\n\r\nhello", 400),
    "a length with a sign": (POST + b"Content-Length: +5\r\n\r\nhello", 400),
    "a negative length": (POST + b"Content-Length: -5\r\n\r\nhello", 400),
    "a length in hex": (POST + b"Content-Length: 0x5\r\n\r\nhello", 400),
    "a length with a fraction": (POST + b"Content-Length: 5.0\r\n\r\nhello", 400),
    "a length with a space inside": (POST + b"Content-Length: 1 0\r\n\r\nhello", 400),
    "a length with an underscore": (POST + b"Content-Length: 1_0\r\n\r\nhello", 400),
    "an empty length": (POST + b"Content-Length:\r\n\r\nhello", 400),
    "a length beyond 64 bits": (POST + b"Content-Length: 18446744073709551621\r\n\r\nhello", 400),
    "a length in other digits": (POST + b"Content-Length: \xef\xbc\x95\r\n\r\nhello", 400),
    "two codings": (POST + CHUNKED + CHUNKED + b"\r\n0\r\n\r\n", 501),
    "chunked twice in a list": (POST + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n", 501),
    "gzip before chunked": (POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
    "chunked is not the last": (POST + b"Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n", 501),
    "identity": (POST + b"Transfer-Encoding: identity\r\n\r\n", 501),
    "a coding that only looks like chunked": (
        POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 501),
    "a coding behind a vertical tab": (
        POST + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n", 400),
    "an empty coding": (POST + b"Transfer-Encoding:\r\n\r\n0\r\n\r\n", 400),
    "a coding on http/1.0": (
        b"POST /seen HTTP/1.0\r\nHost: a\r\n" + CHUNKED + b"\r\n0\r\n\r\n", 400),
    # Where does a field end, and what is its name?
    "a space before the colon": (POST + b"Content-Length : 5\r\n\r\nhello", 400),
    "a tab before the colon": (POST + b"Transfer-Encoding\t: chunked\r\n\r\n0\r\n\r\n", 400),
    "a folded line": (POST + b"X-Folded: a\r\n b\r\n\r\n", 400),
    "a folded coding": (POST + b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n", 400),
    "a first line that is folded": (GET + b" X: y\r\n" + HOST + b"\r\n", 400),
    "a bare LF": (b"GET /seen HTTP/1.1\nHost: a\n\n", 400),
    "a bare LF between fields": (GET + b"Host: a\nX: y\r\n\r\n", 400),
    "a bare LF at the head's end": (GET + b"Host: a\r\n\n", 400),
    "a bare CR in a value": (GET + HOST + b"X: a\rContent-Length: 5\r\n\r\n", 400),
    "a NUL in a value": (GET + HOST + b"X: a\0b\r\n\r\n", 400),
    "a control byte in a value": (GET + HOST + b"X: a\x01b\r\n\r\n", 400),
    "a NUL in a name": (GET + HOST + b"X\0Y: a\r\n\r\n", 400),
    "a name with a space": (GET + HOST + b"X Y: a\r\n\r\n", 400),
    "a name with a byte beyond ascii": (GET + HOST + b"X\xe9: a\r\n\r\n", 400),
    "a line without a colon": (GET + HOST + b"nonsense\r\n\r\n", 400),
    "an empty name": (GET + HOST + b": a\r\n\r\n", 400),
    # Which request is it?
    "no host": (GET + b"\r\n", 400),
    "two hosts": (GET + HOST + b"Host: b\r\n\r\n", 400),
    "the same host twice": (GET + HOST + HOST + b"\r\n", 400),
    "a second host behind one with a tab": (GET + b"Host: \tb\r\n" + HOST + b"\r\n", 400),
    "a second host behind one with two spaces": (GET + b"Host:  b\r\n" + HOST + b"\r\n", 400),
    "a second host behind one in two words": (GET + b"Host: b c\r\n" + HOST + b"\r\n", 400),
    "a second host behind an empty one": (GET + b"Host:\r\n" + HOST + b"\r\n", 400),
    "a second host behind a body's length": (
        POST + b"Content-Length: 5\r\nHost: b\r\n\r\nhello", 400),
    "a list of hosts": (GET + b"Host: a, b\r\n\r\n", 400),
    "a host with a path": (GET + b"Host: a/b\r\n\r\n", 400),
    "a host with a user": (GET + b"Host: user@a\r\n\r\n", 400),
    "two spaces": (b"GET  /seen HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "a tab in the request line": (b"GET\t/seen HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "a space in the target": (b"GET /seen x HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "a space behind the version": (b"GET /seen HTTP/1.1 \r\n" + HOST + b"\r\n", 400),
    "a fragment": (b"GET /seen#x HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "a control byte in the target": (b"GET /se\x01en HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "a target without a slash": (b"GET seen HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "http/0.9": (b"GET /seen\r\n", 400),
    "http/2.0": (b"GET /seen HTTP/2.0\r\n" + HOST + b"\r\n", 505),
    "http/1.2": (b"GET /seen HTTP/1.2\r\n" + HOST + b"\r\n", 505),
    "http/01.1": (b"GET /seen HTTP/01.1\r\n" + HOST + b"\r\n", 400),
    "a name in lower case for the protocol": (b"GET /seen http/1.1\r\n" + HOST + b"\r\n", 400),
    "another protocol": (b"GET /seen ICE/1.0\r\n" + HOST + b"\r\n", 400),
    "the preface of http/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    "a tls handshake": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(40), 400),
    "a method in lower case": (b"get /seen HTTP/1.1\r\n" + HOST + b"\r\n", 501),
    "connect": (b"CONNECT a:80 HTTP/1.1\r\n" + HOST + b"\r\n", 405),
}  # fmt: skip

# Faults in a body: the head has gone to the server, which must see the request cut short.
BROKEN_BODIES: dict[str, bytes] = {
    "a chunk size with a sign": chunks(b"+5\r\nhello\r\n0\r\n\r\n"),
    "a chunk size in 0x": chunks(b"0x5\r\nhello\r\n0\r\n\r\n"),
    "a chunk size with a space before": chunks(b" 5\r\nhello\r\n0\r\n\r\n"),
    "a chunk size with a space behind": chunks(b"5 \r\nhello\r\n0\r\n\r\n"),
    "no chunk size": chunks(b"\r\nhello\r\n0\r\n\r\n"),
    "a chunk size beyond 64 bits": chunks(b"10000000000000005\r\nhello\r\n0\r\n\r\n"),
    "a chunk size that ends in a bare LF": chunks(b"5\nhello\r\n0\r\n\r\n"),
    "a chunk that ends in a bare LF": chunks(b"5\r\nhello\n0\r\n\r\n"),
    "a chunk that is too short": chunks(b"6\r\nhello\r\n0\r\n\r\n"),
    "a chunk that is too long": chunks(b"4\r\nhello\r\n0\r\n\r\n"),
    "an extension with a bare CR": chunks(b"5;a\rb\r\nhello\r\n0\r\n\r\n"),
    "a trailer without a colon": chunks(b"5\r\nhello\r\n0\r\nnonsense\r\n\r\n"),
    "a folded trailer": chunks(b"5\r\nhello\r\n0\r\nX: a\r\n b\r\n\r\n"),
    "trailers that end in bare LFs": chunks(b"5\r\nhello\r\n0\r\nX: a\n\n"),
}

# Passed on, and in one reading only: name -> bytes, the body that the server must have got.
ACCEPTED: dict[str, tuple[bytes, bytes]] = {
    "a plain body": (POST + b"Content-Length: 5\r\n\r\nhello", b"hello"),
    "a length of zero": (POST + b"Content-Length: 0\r\n\r\n", b""),
    "a length with leading zeros": (POST + b"Content-Length: 005\r\n\r\nhello", b"hello"),
    "a length in white space": (POST + b"Content-Length: \t 5 \t\r\n\r\nhello", b"hello"),
    "chunked in capitals": (POST + b"Transfer-Encoding: CHUNKED\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
                            b"hello"),
    "chunk sizes with zeros and capitals": (
        chunks(b"0005\r\nhello\r\n0A\r\n0123456789\r\n000\r\n\r\n"), b"hello0123456789"),
    "an extension": (chunks(b'5;a="b c"\r\nhello\r\n0;x\r\n\r\n'), b"hello"),
    "a target whose host is not the field's": (  # RFC 9112, section 3.2.2: the target's counts
        b"GET http://a/seen HTTP/1.1\r\nHost: b\r\n\r\n", b""),
    "a target that is a whole url": (
        b"GET http://a/seen HTTP/1.1\r\nHost: a\r\n\r\n", b""),
}  # fmt: skip

# What a server answers, for which the client gets 502.
BAD_ANSWERS: dict[str, bytes] = {
    "length and chunked": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n" + CHUNKED + b"\r\n0\r\n\r\n",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
    "a length with a sign": b"HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\nhello",
    "an unknown coding": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nhello",
    "gzip before chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "a coding on http/1.0": b"HTTP/1.0 200 OK\r\n" + CHUNKED + b"\r\n0\r\n\r\n",
    "a bare LF": b"HTTP/1.1 200 OK\nContent-Length: 5\n\nhello",
    "a folded line": b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 5\r\n\r\nhello",
    "a space before the colon": b"HTTP/1.1 200 OK\r\nContent-Length : 5\r\n\r\nhello",
    "a NUL": b"HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 5\r\n\r\nhello",
    "another protocol": b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
    "http/0.9": b"<html>hello</html>\r\n\r\n",
    "http/2.0": b"HTTP/2.0 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    "a status of two digits": b"HTTP/1.1 20 OK\r\nContent-Length: 5\r\n\r\nhello",
    "a status of four digits": b"HTTP/1.1 2000 OK\r\nContent-Length: 5\r\n\r\nhello",
    "a switch of protocols that nobody asked for":
        b"HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\nhello",
}  # fmt: skip


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def at() -> AsyncIterator[Bench]:
    async with bench(control=False, health="off") as found:
        yield found


async def statuses(at: Bench, data: bytes) -> list[int]:
    """What comes back to these bytes until the connection's end."""
    async with await at.client(limit_s=5) as client:
        await client.send(data)
        found = []
        try:
            while True:
                found.append((await client.answer()).status)
        except (Malformed, ConnectionError):
            return found


@pytest.mark.parametrize("name", REFUSED)
async def test_an_ambiguous_request_is_refused_and_nothing_of_it_is_passed_on(
    at: Bench, name: str
) -> None:
    data, status = REFUSED[name]
    at.blue.ledger.clear()
    # Nothing behind it is read either: where it begins is what nobody can know.
    assert await statuses(at, data + HIDDEN) == [status]
    (await at.get("/fence")).must_be(200, "blue")
    assert [one.path for one in at.blue.ledger] == ["/fence"]


@pytest.mark.parametrize("name", BROKEN_BODIES)
async def test_a_broken_body_is_seen_as_broken_by_the_server(at: Bench, name: str) -> None:
    at.blue.ledger.clear()
    assert await statuses(at, BROKEN_BODIES[name] + HIDDEN) in ([400], [])
    (await at.get("/fence")).must_be(200, "blue")
    await at.blue.until(lambda: all(one.path != "/seen" or one.abandoned for one in at.blue.ledger))
    assert not [one for one in at.blue.ledger if one.path == "/hidden"]
    assert not [one for one in at.blue.ledger if one.path == "/seen" and one.whole]


@pytest.mark.parametrize("name", REFUSED)
async def test_it_reaches_no_server_when_it_comes_alone_either(at: Bench, name: str) -> None:
    """With nothing behind it, a host that is known and a server's connection to spare it is
    looked at by the short reader first, as nearly every request is."""
    data, status = REFUSED[name]
    async with await at.client() as client:
        await client.ask("/warm", host="a")
        (await client.answer()).must_be(200, "blue")
        at.blue.ledger.clear()
        await client.send(data)
        client.half_close()
        said, _ = await client.rest()
    # Of what is no whole head nothing need be said.
    assert said.startswith(b"HTTP/1.1 %d " % status) or (not said and b"\r\n\r\n" not in data)
    assert not at.blue.ledger


@pytest.mark.parametrize("name", ACCEPTED)
async def test_what_is_passed_on_has_one_reading(at: Bench, name: str) -> None:
    data, body = ACCEPTED[name]
    at.blue.ledger.clear()
    assert await statuses(at, data + FENCE) == [200, 200]
    seen, fence = at.blue.ledger
    assert (seen.target, fence.target) == ("/seen", "/fence")
    lengths, codings = seen.values("Content-Length"), seen.values("Transfer-Encoding")
    assert len(lengths) + len(codings) <= 1 and seen.values("Host") == ["a"]
    if lengths:
        assert lengths == [str(len(body))], "as any reader reads it"
    if codings:
        assert codings == ["chunked"]
    assert (seen.digest or hashlib.sha256(b"").hexdigest()) == hashlib.sha256(body).hexdigest()
    assert re.fullmatch(rb"[\t\r\n -~\x80-\xff]+", seen.head)
    assert seen.head.count(b"\n") == seen.head.count(b"\r\n") == seen.head.count(b"\r")


@pytest.mark.parametrize("name", BAD_ANSWERS)
async def test_an_ambiguous_answer_is_not_passed_on(at: Bench, name: str) -> None:
    async def bad(exchange: Exchange) -> None:
        await exchange.read_body()
        exchange.keep = False
        await exchange.send(BAD_ANSWERS[name])

    at.blue.script["/bad"] = bad
    async with await at.client() as client:
        answer = (await client.get("/bad")).must_be(502)
        assert answer.get("Proxy-Status") == "turnout; error=http_protocol_error"
        # The next client of that connection must not get what is left in it.
        (await client.get("/after")).must_be(200, "blue")


async def test_bytes_behind_an_answer_are_nobodys(at: Bench) -> None:
    """A server that says more than it was asked must not answer the next client with it."""

    async def more(exchange: Exchange) -> None:
        await exchange.read_body()
        extra = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\nX-Upstream: poison\r\n\r\npoison"
        await exchange.send(exchange.head(200, ("Content-Length: 2",)) + b"ok" + extra)

    at.blue.script["/more"] = more
    for _ in range(20):
        assert (await at.get("/more")).must_be(200, "blue").body == b"ok"
        (await at.get("/after")).must_be(200, "blue")


async def test_a_proxy_that_passes_on_what_it_gets_is_found_out() -> None:
    """The promise broken on purpose: heads are passed on as they come, bodies ended by guess."""
    async with bench(control=False, health="off", workers=1, faults={
        "turnout.proxy.worker": TAKES_THE_LAST_LENGTH
    }) as at:  # fmt: skip
        data, status = REFUSED["two lengths"]
        assert await statuses(at, data + HIDDEN) != [status]
        assert at.blue.find("/seen")


TAKES_THE_LAST_LENGTH = """
import re
from turnout.proxy import downstream, head
parse = head.parse_request

def lenient(data, **more):
    lengths = re.findall(rb"Content-Length: [0-9]+\\r\\n", data)
    for length in lengths[:-1]:
        data = data.replace(length, b"", 1)
    return parse(data, **more)

downstream.parse_request = lenient
"""
