"""What the short readers say, the full ones say as well; for anything else they say None."""

from contextlib import suppress

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.proxy.test_head_refused import get, request
from tests.proxy.test_head_refused import heads as request_heads
from tests.proxy.test_response_head import heads as response_heads
from turnout.proxy.fields import Refused
from turnout.proxy.framing import BodyKind
from turnout.proxy.head import forward_request, hop, parse_request
from turnout.proxy.plain_head import (
    PlainRequest,
    full_head,
    read_plain_answer,
    read_plain_request,
)
from turnout.proxy.response_head import parse_response

PLAIN_REQUEST = get(b"Accept: */*", b"Cookie: a=b")
PLAIN_FIELDS = (b"Content-Type: text/plain", b"Content-Length: 5", b"Connection: keep-alive")
BROWSER = (
    b"User-Agent: a", b"Accept: */*", b"Accept-Encoding: gzip", b"Cookie: a=b", b"Dnt: 1",
    b"Sec-Fetch-Mode: navigate", b"Upgrade-Insecure-Requests: 1", b"Cache-Control: no-cache",
)  # fmt: skip


def answer(*fields: bytes, line: bytes = b"HTTP/1.1 200 OK", body: bytes = b"hello") -> bytes:
    return b"\r\n".join([line, *fields, b"", body])


def read(data: bytes, fields_max: int = 100) -> tuple[int, int, bytes] | None:
    return read_plain_answer(data, data.index(b"\r\n\r\n") + 4, fields_max)


def plain_request(head: bytes, fields_max: int = 100, body: bytes = b"") -> PlainRequest | None:
    return read_plain_request(head + body, len(head), fields_max)


@pytest.fixture(autouse=True)
def _known_host() -> None:
    """A name is known once the full reader has met it."""
    parse_request(get())


# ---------------------------------------------------------------- requests


@pytest.mark.parametrize(
    "head",
    [
        get(),
        get(*BROWSER),
        get(*BROWSER, b"Connection: keep-alive", b"Priority: u=0"),
        get(b"Connection: close", b"A: b"),
        request(b"DELETE /a/b?c=d HTTP/1.1", b"host: shop.example", b"A: b"),
        request(b"OPTIONS / HTTP/1.1", b"Host:shop.example"),
        request(b"GET / HTTP/1.1", b"A: b", b"Connection: keep-alive", b"Host: shop.example"),
    ],
)
def test_a_plain_request_is_read_as_the_full_reader_reads_it(head: bytes) -> None:
    plain = plain_request(head)
    assert plain is not None
    assert full_head(plain) == parse_request(head)


@pytest.mark.parametrize(
    "head",
    [
        get(b"Content-Length: 0"),
        get(b"Content-Length: 3"),
        get(b"Transfer-Encoding: chunked"),
        get(b"Transfer_Encoding: chunked"),
        get(b"Connection: close", b"Connection: close"),
        get(b"Connection: Close"),
        get(b"Connection: keep-alive", b"Connection: keep-alive"),
        get(b"Connection: Keep-Alive"),
        get(b"Connection: keep-alive, cookie"),
        get(b"Connection: upgrade", b"Upgrade: websocket"),
        get(b"Host: shop.example"),
        get(b"X-Forwarded-For: 1.2.3.4"),
        get(b"X-Request-Id: a"),
        get(b"Expect: 100-continue"),
        get(b"TE: trailers"),
        get(b"A : b"),
        get(b"A: b\n c"),
        get(b"A: \x00"),
        get(b"A: b\rc"),
        request(b"GET / HTTP/1.0", b"Host: shop.example"),
        request(b"GET / HTTP/1.1", b"A: b", b"Host: shop.example "),
        request(b"GET / HTTP/1.1", b"A: b", b"Host: a", b"Host: shop.example"),
        request(b"GET / HTTP/1.1", b"Host: never-met.example"),
        request(b"GET / HTTP/1.1", b"Host: \tevil", b"Host: shop.example"),
        request(b"GET / HTTP/1.1", b"host:  evil", b"Host: shop.example"),
        request(b"GET / HTTP/1.1", b"Host: e vil", b"Host: shop.example"),
        request(b"GET / HTTP/1.1", b"Host: \t", b"Host: shop.example"),
        request(b"GET / HTTP/1.1", b"Host : evil", b"Host: shop.example"),
        request(b"GET / HTTP/1.1", b"Host: evil ", b"Host: shop.example"),
        request(b"GET / HTTP/1.1"),
        request(b"GET http://shop.example/ HTTP/1.1", b"Host: shop.example"),
        request(b"OPTIONS * HTTP/1.1", b"Host: shop.example"),
        request(b"CONNECT shop.example:1 HTTP/1.1", b"Host: shop.example"),
        request(b"BREW / HTTP/1.1", b"Host: shop.example"),
        b"\r\n" + get(),
    ],
)
def test_any_other_request_is_left_to_the_full_reader_and_the_next_is_read(head: bytes) -> None:
    assert plain_request(head) is None
    assert plain_request(PLAIN_REQUEST) is not None


def test_a_plain_request_has_no_more_fields_than_are_allowed() -> None:
    many = get(*[b"A: %d" % number for number in range(200)])
    assert plain_request(many, 201) is not None
    assert plain_request(many, 200) is None
    assert plain_request(many, 0) is not None


@settings(max_examples=1500, deadline=None)
@given(request_heads())
@example(get(b"Connection: keep-alive", b"A: b"))
def test_whatever_is_read_as_a_plain_request_is_what_the_full_reader_reads(head: bytes) -> None:
    plain = plain_request(head)
    if plain is not None:
        assert full_head(plain) == parse_request(head)
    assert plain_request(PLAIN_REQUEST) is not None


def post(*fields: bytes, line: bytes = b"POST /a HTTP/1.1") -> bytes:
    return request(line, b"Host: shop.example", *fields)


@pytest.mark.parametrize(
    ("head", "body"),
    [
        (post(b"Content-Length: 3"), b"abc"),
        (post(b"Content-Type: a/b", b"content-length:12", b"Connection: keep-alive"), b"x" * 12),
        (post(b"Connection: close", b"Content-Length: 3"), b"abc"),
        (post(b"Content-Length: 3", line=b"PUT /a?b HTTP/1.1"), b"\r\n\r"),
        (get(b"Content-Length: 18"), b"GET / HTTP/1.1\r\n\r\n"),
        (post(b"Content-Length: 60000"), b"\0" * 60_000),
    ],
)
def test_a_plain_request_may_have_its_body_with_it(head: bytes, body: bytes) -> None:
    plain = plain_request(head, body=body)
    assert plain is not None
    assert full_head(plain) == parse_request(head)
    assert plain[-1] == len(body)
    assert plain_request(PLAIN_REQUEST) is not None


@pytest.mark.parametrize(
    ("head", "body"),
    [
        (post(), b"abc"),
        (post(b"Content-Length: 2"), b"abc"),
        (post(b"Content-Length: 4"), b"abc"),
        (post(b"Content-Length: 03"), b"abc"),
        (post(b"Content-Length: +3"), b"abc"),
        (post(b"Content-Length: 3", b"Content-Length: 3"), b"abc"),
        (post(b"Content_Length: 3"), b"abc"),
        (post(b"Transfer-Encoding: chunked"), b"0\r\n\r\n"),
        (post(b"Content-Length: 5", b"Transfer-Encoding: chunked"), b"0\r\n\r\n"),
        (post(b"Expect: 100-continue", b"Content-Length: 3"), b"abc"),
        (post(b"Content-Length: 3", line=b"TRACE /a HTTP/1.1"), b"abc"),
        (post(b"Content-Length: 3", line=b"POST /a HTTP/1.0"), b"abc"),
        (get(), get()),
    ],
)
def test_any_other_body_is_left_to_the_full_reader(head: bytes, body: bytes) -> None:
    assert plain_request(head, body=body) is None
    assert plain_request(PLAIN_REQUEST) is not None


@settings(max_examples=1500, deadline=None)
@given(request_heads(), st.sampled_from([b"a", b"abc", b"a" * 10, b"0\r\n\r\n"]))
def test_whatever_is_read_with_a_body_is_what_the_full_reader_reads(
    head: bytes, body: bytes
) -> None:
    plain = plain_request(head, body=body)
    if plain is not None:
        assert full_head(plain) == parse_request(head)
        assert plain[-1] == len(body)
    assert plain_request(PLAIN_REQUEST) is not None


PLAIN_LINES = st.lists(
    st.one_of(
        st.sampled_from(BROWSER),
        st.sampled_from([b"Connection: keep-alive", b"connection: x", b"CONNECTION: keep-alive"]),
        st.sampled_from([b"Host: shop.example", b"Host: \tevil", b"Host: e vil", b"host:evil"]),
        st.tuples(st.sampled_from([b"A", b"Te", b"Hos", b"Keep-Aliv", b"X-Forwarded"]), st.binary(
            max_size=4)).map(b": ".join),
    ),
    max_size=8,
)  # fmt: skip


@settings(max_examples=800, deadline=None)
@given(PLAIN_LINES)
def test_nearly_plain_requests_are_read_as_the_full_reader_reads_them(lines: list[bytes]) -> None:
    head = get(*lines)
    head = head[: head.index(b"\r\n\r\n") + 4]
    plain = plain_request(head)
    if plain is not None:
        assert full_head(plain) == parse_request(head)


def test_what_is_sent_on_of_a_plain_request_is_the_full_writers() -> None:
    stranger = hop(peer=b"203.0.113.9", scheme=b"http", via=b"turnout", trusted=False)
    head = get(*BROWSER, b"Connection: keep-alive")
    plain = plain_request(head)
    assert plain is not None
    authority, kept = plain[3:5]
    written = b"".join(
        (kept, stranger.lines, authority, b"\r\nX-Request-Id: ", b"id-1", b"\r\n\r\n")
    )
    assert written == forward_request(parse_request(head), stranger, b"id-1")


# ---------------------------------------------------------------- answers


@pytest.mark.parametrize(
    "data",
    [
        answer(*PLAIN_FIELDS),
        answer(b"Content-Length: 5", b"Server: a", b"Set-Cookie: a=b", b"Set-Cookie: c=d"),
        answer(b"Connection: keep-alive", b"Content-Length: 0", body=b""),
        answer(b"Content-Length: 5", line=b"HTTP/1.1 404 "),
        answer(b"Content-Length: 2", line=b"HTTP/1.1 500 \xe4", body=b"\r\n"),
        answer(b"Content-Length: 9", body=b"\r\n\r\nHTTP/"),
        answer(b"Content-Type: text/event-streams", b"Content-Length: 5"),
    ],
)
def test_a_plain_answer_is_read_as_the_full_reader_reads_it(data: bytes) -> None:
    agrees_with_the_full_reader(data)
    assert read(data) is not None


@pytest.mark.parametrize(
    "data",
    [
        answer(b"content-length: 5"),
        answer(b"Content-Length: 05"),
        answer(b"Content-Length:  5"),
        answer(b"Content-Length: 5 "),
        answer(b"Content-Length: 4"),
        answer(b"Content-Length: 6"),
        answer(b"Content-Length: 5", b"Content-Length: 5"),
        answer(b"Content-Length: 5", b"content-length: 6"),
        answer(b"Content-Length: 5", b"Transfer-Encoding: chunked"),
        answer(b"Transfer-Encoding: chunked", body=b"0\r\n\r\n"),
        answer(b"Content-Length: 5", b"Connection: close"),
        answer(b"Content-Length: 5", b"Connection: keep-alive", b"Connection: keep-alive"),
        answer(b"Content-Length: 5", b"Connection: keep-alive, server"),
        answer(b"Content-Length: 5", b"Keep-Alive: timeout=5"),
        answer(b"Content-Length: 5", b"Content_Length: 6"),
        answer(b"Content-Length: 5", b"Transfer_Encoding: chunked"),
        answer(b"Content-Length: 5", b"X-Request-Id: a"),
        answer(b"Content-Length: 5", b"Content-Type: text/event-stream"),
        answer(b"Content-Length: 5", b"Content-Type:  text/event-stream"),
        answer(b"Content-Length: 5", b"Content-Type: Text/Event-Stream;charset=utf-8"),
        answer(b"Content-Length: 5", b"content-type:text/event-stream"),
        answer(b"Content-Length: 5", b"Upgrade: h2c"),
        answer(b"Content-Length: 5", b"Proxy-Connection: a"),
        answer(b"Content-Length: 5", line=b"HTTP/1.0 200 OK"),
        answer(b"Content-Length: 0", line=b"HTTP/1.1 204 No Content", body=b""),
        answer(b"Content-Length: 0", line=b"HTTP/1.1 304 Not Modified", body=b""),
        answer(b"Content-Length: 0", line=b"HTTP/1.1 100 Continue", body=b""),
        answer(b"Content-Length: 0", line=b"HTTP/1.1 101 Switching", body=b""),
        answer(b"Content-Length: 5", b"A: b\rc"),
        answer(b"Content-Length: 5", b"A : b"),
        answer(b"A: b"),
        answer(b"Content-Length: 5", body=b"hello!"),
    ],
)
def test_any_other_answer_is_left_to_the_full_reader_and_the_next_is_read(data: bytes) -> None:
    assert read(data) is None
    assert read(answer(*PLAIN_FIELDS)) is not None


def test_a_plain_answer_has_no_more_fields_than_are_allowed() -> None:
    many = answer(b"Content-Length: 5", *[b"A: %d" % number for number in range(200)])
    assert read(many, 201) is not None
    assert read(many, 200) is None
    assert read(many, 0) is not None


def agrees_with_the_full_reader(data: bytes) -> None:
    plain = read(data)
    if plain is None:
        return
    status, size, kept = plain
    end = data.index(b"\r\n\r\n") + 4
    full = parse_response(data[:end], b"GET", False, 100)
    assert (status, size, kept) == (full.status, full.content_length, full.kept)
    assert size == len(data) - end
    assert full.keep_alive and full.keep_alive_timeout_s is None and not full.is_event_stream
    assert full.version_minor == 1
    assert full.body is (BodyKind.LENGTH if size else BodyKind.NONE)


ANSWER_LINES = st.lists(
    st.one_of(
        st.sampled_from([b"Content-Length: 5", b"Content-Length: 0", b"Connection: keep-alive"]),
        st.sampled_from([b"Date: a", b"Content-Type: text/event-stream", b"connection: close"]),
        st.tuples(st.sampled_from([b"A", b"Upgrad", b"Content-Lengt"]), st.binary(max_size=4)).map(
            b": ".join
        ),
    ),
    max_size=6,
)


@settings(max_examples=1500, deadline=None)
@given(st.one_of(response_heads(), ANSWER_LINES.map(lambda lines: answer(*lines, body=b""))),
       st.binary(max_size=8))  # fmt: skip
def test_whatever_is_read_as_a_plain_answer_is_what_the_full_reader_reads(
    head: bytes, body: bytes
) -> None:
    agrees_with_the_full_reader(head + body)
    assert read(answer(*PLAIN_FIELDS)) is not None


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=60))
def test_any_bytes_are_plain_or_not_and_nothing_is_raised(junk: bytes) -> None:
    for start in (b"", b"GET / HTTP/1.1\r\n", b"HTTP/1.1 200 OK\r\n"):
        data = start + junk + b"\r\n\r\n"
        with suppress(Refused):
            if plain_request(data[: data.index(b"\r\n\r\n") + 4]) is not None:
                parse_request(data[: data.index(b"\r\n\r\n") + 4])
        read(data)
    assert plain_request(PLAIN_REQUEST) is not None
    assert read(answer(*PLAIN_FIELDS)) is not None
