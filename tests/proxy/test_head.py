"""Requests' heads: what is read from them, what is sent on, what is refused."""

from contextlib import suppress

import httptools
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from turnout.proxy.fields import Refused
from turnout.proxy.framing import BodyKind
from turnout.proxy.head import (
    HOSTS_REMEMBERED,
    RequestHead,
    field_pattern,
    forward_request,
    hop,
    parse_request,
)
from turnout.proxy.scoreboard import REFUSED_REASONS

STRANGER = hop(peer=b"203.0.113.9", scheme=b"http", via=b"turnout", trusted=False)
TRUSTED = hop(peer=b"10.0.0.1", scheme=b"http", via=b"turnout", trusted=True)
OURS = [
    (b"X-Forwarded-For", b"203.0.113.9"),
    (b"X-Forwarded-Proto", b"http"),
    (b"Via", b"1.1 turnout"),
    (b"X-Forwarded-Host", b"shop.example"),
    (b"X-Request-Id", b"id-1"),
]
"""What is put behind every untrusted request to shop.example."""


def request(line: bytes, *fields: bytes) -> bytes:
    return b"\r\n".join([line, *fields, b"", b""])


def get(*fields: bytes) -> bytes:
    return request(b"GET /a?b=c HTTP/1.1", b"Host: shop.example", *fields)


def post(*fields: bytes) -> bytes:
    return request(b"POST /a HTTP/1.1", b"Host: shop.example", *fields)


def lines_of(head: bytes) -> tuple[bytes, list[tuple[bytes, bytes]]]:
    """Read a head by splitting alone: a third reader, that knows nothing of the other two."""
    assert head.endswith(b"\r\n\r\n")
    start, *fields = head[:-4].split(b"\r\n")
    split = [field.partition(b":") for field in fields]
    assert all(colon for _, colon, _ in split), fields
    return start, [(name, value.strip(b" \t")) for name, _, value in split]


def sent(head: bytes, *, trusted: bool = False) -> list[tuple[bytes, bytes]]:
    start, fields = lines_of(
        forward_request(parse_request(head), TRUSTED if trusted else STRANGER, b"id-1")
    )
    assert start.endswith(b" HTTP/1.1")
    return fields


def refusal(head: bytes, fields_max: int = 100) -> tuple[int, str]:
    with pytest.raises(Refused) as caught:
        parse_request(head, fields_max)
    assert caught.value.reason in REFUSED_REASONS
    return caught.value.status, caught.value.detail


# ---------------------------------------------------------------- what is read


def test_a_plain_get_is_read_and_goes_on_in_its_own_bytes() -> None:
    head = parse_request(get(b"Accept: */*", b"Connection: keep-alive", b"Cookie: a=b"))
    assert head == RequestHead(
        method=b"GET",
        target=b"/a?b=c",
        path=b"/a",
        version_minor=1,
        host=b"shop.example",
        authority=b"shop.example",
        body=BodyKind.NONE,
        content_length=0,
        keep_alive=True,
        expect_continue=False,
        upgrade=None,
        wants_trailers=False,
        forwarding=None,
        kept=b"GET /a?b=c HTTP/1.1\r\nHost: shop.example\r\nAccept: */*\r\nCookie: a=b\r\n",
        tail=b"\r\n\r\n",
    )
    assert forward_request(head, STRANGER, b"id-1") == (
        b"GET /a?b=c HTTP/1.1\r\nHost: shop.example\r\nAccept: */*\r\nCookie: a=b\r\n"
        b"X-Forwarded-For: 203.0.113.9\r\nX-Forwarded-Proto: http\r\nVia: 1.1 turnout\r\n"
        b"X-Forwarded-Host: shop.example\r\nX-Request-Id: id-1\r\n\r\n"
    )


@pytest.mark.parametrize(
    ("fields", "body", "length"),
    [
        ((), BodyKind.NONE, 0),
        ((b"Content-Length: 0",), BodyKind.NONE, 0),
        ((b"Content-Length: 00017",), BodyKind.LENGTH, 17),
        ((b"Content-Length:5 \t",), BodyKind.LENGTH, 5),
        ((b"content-LENGTH: 5",), BodyKind.LENGTH, 5),
        ((b"Content-Length: 9223372036854775807",), BodyKind.LENGTH, 2**63 - 1),
        ((b"Transfer-Encoding: chunked",), BodyKind.CHUNKED, 0),
        ((b"transfer-encoding:CHUNKED ",), BodyKind.CHUNKED, 0),
        # To a WSGI server `_` is `-`; to us and the next it is another name, and is cut.
        ((b"Content_Length: 5",), BodyKind.NONE, 0),
        ((b"Transfer_Encoding: chunked",), BodyKind.NONE, 0),
    ],
)
def test_where_the_body_ends(fields: tuple[bytes, ...], body: BodyKind, length: int) -> None:
    head = parse_request(post(*fields))
    assert (head.body, head.content_length) == (body, length)
    names = [name.lower() for name, _ in sent(post(*fields))]
    assert (b"content-length" in names) == (b"-length" in b"".join(fields).lower())
    assert names.count(b"transfer-encoding") == (body is BodyKind.CHUNKED)
    assert not any(b"_" in name for name in names)


@pytest.mark.parametrize(
    ("line", "fields", "keep_alive"),
    [
        (b"GET / HTTP/1.1", (), True),
        (b"GET / HTTP/1.1", (b"Connection: Keep-Alive",), True),
        (b"GET / HTTP/1.1", (b"Connection: close",), False),
        (b"GET / HTTP/1.1", (b"Connection: x, CLOSE ,y",), False),
        (b"GET / HTTP/1.1", (b"Connection: keep-alive", b"connection: close"), False),
        (b"GET / HTTP/1.1", (b"Connection:",), True),
        (b"GET / HTTP/1.0", (), False),
        (b"GET / HTTP/1.0", (b"Connection: keep-alive",), True),
        (b"GET / HTTP/1.0", (b"Connection: keep-alive, close",), False),
    ],
)
def test_whether_the_connection_goes_on(
    line: bytes, fields: tuple[bytes, ...], keep_alive: bool
) -> None:
    head = request(line, b"Host: shop.example", *fields)
    assert parse_request(head).keep_alive == keep_alive
    assert sent(head)[1:] == [
        (name, b"1.0 turnout" if name == b"Via" and line.endswith(b"0") else value)
        for name, value in OURS
    ]


@pytest.mark.parametrize(
    ("value", "host"),
    [
        (b"shop.example", b"shop.example"),
        (b"SHOP.Example:8080", b"shop.example"),
        (b"shop.example.", b"shop.example"),
        (b"shop.example:", b"shop.example"),
        (b"127.0.0.1:1", b"127.0.0.1"),
        (b"[::1]", b"[::1]"),
        (b"[2001:DB8::7]:80", b"[2001:db8::7]"),
        (b"under_score", b"under_score"),
    ],
)
def test_the_host_to_route_by(value: bytes, host: bytes) -> None:
    for _ in range(2):  # the second time it is remembered
        head = parse_request(request(b"GET / HTTP/1.1", b"X: y", b"hOST:\t " + value + b" "))
        assert (head.host, head.authority) == (host, value)


def test_thousands_of_hosts_are_not_remembered_for_ever() -> None:
    from turnout.proxy import head as module

    for number in range(HOSTS_REMEMBERED + 10):
        parse_request(request(b"GET / HTTP/1.1", b"Host: h%d" % number))
    assert len(module._hosts) <= HOSTS_REMEMBERED


def test_an_http_10_request_without_a_host_gets_ours() -> None:
    ours = hop(peer=b"p", scheme=b"http", via=b"t", trusted=False, local=b"127.0.0.1:80")
    head = parse_request(b"GET / HTTP/1.0\r\nA: b\r\n\r\n")
    assert (head.host, head.version_minor) == (b"", 0)
    start, fields = lines_of(forward_request(head, ours, b"i"))
    assert start == b"GET / HTTP/1.1"
    assert fields[:2] == [(b"Host", b"127.0.0.1:80"), (b"A", b"b")]
    assert (b"X-Forwarded-Host", b"127.0.0.1:80") in fields
    assert (b"Via", b"1.0 t") in fields


@pytest.mark.parametrize(
    ("method", "idempotent"),
    [(m, True) for m in (b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"PUT", b"DELETE")]
    + [(m, False) for m in (b"POST", b"PATCH", b"MERGE", b"PURGE", b"PROPFIND")],
)
def test_which_methods_may_be_sent_twice(method: bytes, idempotent: bool) -> None:
    head = parse_request(request(method + b" / HTTP/1.1", b"Host: a"))
    assert head.idempotent == idempotent


# ---------------------------------------------------------------- what is rewritten


@pytest.mark.parametrize(
    ("line", "start", "authority"),
    [
        (b"GET http://b.example/x?y HTTP/1.1", b"GET /x?y HTTP/1.1", b"b.example"),
        (b"GET HTTP://b.example:81 HTTP/1.1", b"GET / HTTP/1.1", b"b.example:81"),
        (b"GET https://b.example?y=/ HTTP/1.1", b"GET /?y=/ HTTP/1.1", b"b.example"),
        (b"OPTIONS http://b.example HTTP/1.1", b"OPTIONS * HTTP/1.1", b"b.example"),
        (b"OPTIONS http://b.example/ HTTP/1.1", b"OPTIONS / HTTP/1.1", b"b.example"),
        (b"GET http://b.example/x HTTP/1.0", b"GET /x HTTP/1.1", b"b.example"),
        (b"OPTIONS * HTTP/1.1", b"OPTIONS * HTTP/1.1", b"shop.example"),
        (b"GET //a//b HTTP/1.1", b"GET //a//b HTTP/1.1", b"shop.example"),
    ],
)
def test_an_absolute_target_becomes_origin_form_and_its_authority_the_host(
    line: bytes, start: bytes, authority: bytes
) -> None:
    head = parse_request(request(line, b"A: b", b"Host: shop.example", b"C: d"))
    out, fields = lines_of(forward_request(head, STRANGER, b"id-1"))
    assert out == start
    assert [value for name, value in fields if name == b"Host"] == [authority]
    assert [name for name, _ in fields if name in b"AC"] == [b"A", b"C"]
    assert head.authority == authority
    assert head.target == start.split(b" ")[1]
    assert (b"X-Forwarded-Host", authority) in fields


def test_one_empty_line_before_the_request_is_skipped() -> None:
    assert sent(b"\r\n" + get()) == sent(get())


def test_hop_by_hop_fields_and_what_connection_names_are_not_sent_on() -> None:
    fields = sent(
        get(
            b"X-A: 1",
            b"x-private: 2",
            b"Keep-Alive: 300",
            b"Proxy-Connection: keep-alive",
            b"Proxy_Connection: x",
            b"Keep_Alive: x",
            b"Upgrade: h2c",
            b"HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA",
            b"Connection: X-Private, Upgrade, HTTP2-Settings",
            b"TE: gzip",
            b"X-PRIVATE: 3",
            b"X-Private-Not: 4",
        )
    )
    assert fields == [(b"Host", b"shop.example"), (b"X-A", b"1"), (b"X-Private-Not", b"4"), *OURS]


def test_te_trailers_is_asked_for_again() -> None:
    head = parse_request(get(b"TE: deflate;q=0.5, Trailers", b"Connection: TE"))
    assert head.wants_trailers
    assert lines_of(forward_request(head, STRANGER, b"id-1"))[1][-2:] == [
        (b"Connection", b"TE"),
        (b"TE", b"trailers"),
    ]


@pytest.mark.parametrize(
    ("head", "expects"),
    [
        (post(b"Expect: 100-Continue", b"Content-Length: 3"), True),
        (post(b"Expect: 100-continue", b"Transfer-Encoding: chunked"), True),
        # Without a body there is nothing to wait for, and servers differ on what it means.
        (post(b"Expect: 100-continue"), False),
        (
            request(b"POST / HTTP/1.0", b"Host: a", b"Expect: 100-continue", b"Content-Length: 3"),
            False,
        ),
    ],
)
def test_expect_is_passed_on_only_with_a_body_that_can_wait(head: bytes, expects: bool) -> None:
    assert parse_request(head).expect_continue == expects
    assert ((b"Expect", b"100-continue") in sent(head)) == expects
    assert sum(name.lower() == b"expect" for name, _ in sent(head)) == expects


WEBSOCKET = (b"Connection: keep-alive, Upgrade", b"Upgrade: WebSocket", b"Sec-WebSocket-Key: k")


@pytest.mark.parametrize(
    ("head", "upgrade"),
    [
        (get(*WEBSOCKET), b"websocket"),
        (get(*WEBSOCKET, b"Content-Length: 0"), b"websocket"),
        (get(*WEBSOCKET, b"Content-Length: 3"), None),
        (get(*WEBSOCKET, b"Transfer-Encoding: chunked"), None),
        (post(*WEBSOCKET), None),
        (request(b"GET / HTTP/1.0", b"Host: a", *WEBSOCKET), None),
        (get(b"Upgrade: websocket"), None),
        (get(b"Connection: upgrade"), None),
        (get(b"Connection: upgrade", b"Upgrade: h2c"), None),
        (get(b"Connection: upgrade", b"Upgrade: websocket, h2c"), None),
        (get(b"Connection: upgrade", b"Upgrade: websocket", b"Upgrade: h2c"), None),
        (get(b"Connection: upgrade", b"Upgrade: TLS/1.2"), None),
    ],
)
def test_only_a_websocket_on_a_get_without_body_is_upgraded(
    head: bytes, upgrade: bytes | None
) -> None:
    read = parse_request(head)
    assert read.upgrade == upgrade
    fields = [(n, v) for n, v in sent(head) if n.lower() in (b"upgrade", b"connection")]
    wanted = [(b"Connection", b"Upgrade"), (b"Upgrade", b"websocket")]
    assert fields == (wanted if upgrade else [])
    # A declined upgrade leaves the body to our own reading; no state is left in llhttp.
    assert parse_request(get()).kept == b"GET /a?b=c HTTP/1.1\r\nHost: shop.example\r\n"


def test_max_forwards_counts_down_for_options_only() -> None:
    def value(line: bytes) -> list[bytes]:
        fields = sent(request(line, b"Host: shop.example", b"Max-Forwards: 3"))
        return [v for n, v in fields if n == b"Max-Forwards"]

    assert value(b"OPTIONS * HTTP/1.1") == [b"2"]
    assert value(b"GET / HTTP/1.1") == [b"3"]
    assert refusal(request(b"OPTIONS * HTTP/1.1", b"Host: a", b"Max-Forwards: 0"))[0] == 501
    assert refusal(request(b"TRACE / HTTP/1.1", b"Host: a", b"Max-Forwards: x"))[0] == 400


# ---------------------------------------------------------------- where a request came from

SAID = (
    b"X-Forwarded-For: 198.51.100.1",
    b"X-Forwarded-Proto: https",
    b"X-Forwarded-Host: public.example",
    b"X-Forwarded-Port: 443",
    b"Forwarded: for=198.51.100.1;proto=https",
    b"X-Request-Id: theirs",
    b"X-Forwarded-For: 198.51.100.2",
    b"x_forwarded_for: 6.6.6.6",
    b"X-Forwarded_For: 6.6.6.6",
    b"X_Request_Id: 6",
    b"Via: 1.1 edge",
    b"traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    b"tracestate: a=b",
)


def test_a_strangers_forwarding_fields_are_replaced() -> None:
    assert sent(get(*SAID)) == [
        (b"Host", b"shop.example"),
        (b"Via", b"1.1 edge"),
        (b"traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        (b"tracestate", b"a=b"),
        *OURS,
    ]


def test_a_trusted_peers_forwarding_fields_are_kept_and_appended_to() -> None:
    assert sent(get(*SAID), trusted=True) == [
        (b"Host", b"shop.example"),
        (b"Via", b"1.1 edge"),
        (b"traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        (b"tracestate", b"a=b"),
        (
            b"Forwarded",
            b'for=198.51.100.1;proto=https, for=10.0.0.1;host="shop.example";proto=http',
        ),
        (b"X-Forwarded-Port", b"443"),
        (b"X-Forwarded-For", b"198.51.100.1, 198.51.100.2, 10.0.0.1"),
        (b"X-Forwarded-Proto", b"https"),
        (b"Via", b"1.1 turnout"),
        (b"X-Forwarded-Host", b"public.example"),
        (b"X-Request-Id", b"id-1"),
    ]


def test_a_trusted_peer_that_says_nothing_is_described_like_a_stranger() -> None:
    assert dict(sent(get(), trusted=True))[b"X-Forwarded-For"] == b"10.0.0.1"
    assert b"Forwarded" not in dict(sent(get(), trusted=True))


def test_an_ipv6_peer_is_quoted_in_forwarded() -> None:
    peer = hop(peer=b"2001:db8::1", scheme=b"https", via=b"t", trusted=True)
    fields = dict(lines_of(forward_request(parse_request(get(b"Forwarded: for=a")), peer, b"i"))[1])
    assert fields[b"Forwarded"] == (b'for=a, for="[2001:db8::1]";host="shop.example";proto=https')
    assert fields[b"X-Forwarded-For"] == b"2001:db8::1"


@pytest.mark.parametrize(
    ("fields", "request_id"),
    [
        ((), None),
        ((b"X-Request-Id: a-1.b",), b"a-1.b"),
        ((b"x-request-ID:  a \t",), b"a"),
        ((b"X-Request-Id: " + b"a" * 129,), None),
        ((b"X-Request-Id: a b",), None),
        ((b"X-Request-Id: \xff",), None),
        ((b"X-Request-Id:",), None),
        ((b"X-Request-Id: a", b"X-Request-Id: b"), None),
    ],
)
def test_which_request_ids_may_be_taken_over(
    fields: tuple[bytes, ...], request_id: bytes | None
) -> None:
    assert parse_request(get(*fields)).request_id == request_id


def test_a_try_out_field_is_found_and_can_be_left_out() -> None:
    field = field_pattern(b"X-Turnout-Upstream")
    head = parse_request(
        get(b"x-turnout-UPSTREAM:  green; token=t \t", b"A: b", b"X_Turnout_Upstream: blue")
    )
    assert head.find(field) == b"green; token=t"
    assert parse_request(get(b"A: X-Turnout-Upstream: green")).find(field) is None
    fields = lines_of(forward_request(head, STRANGER, b"id-1", field))[1]
    assert fields == [(b"Host", b"shop.example"), (b"A", b"b"), *OURS]


# ---------------------------------------------------------------- what is refused

BAD_LINES = [
    (b"GET / HTTP/1.1 ", 400),
    (b"GET  / HTTP/1.1", 400),
    (b"GET /  HTTP/1.1", 400),
    (b"GET\t/ HTTP/1.1", 400),
    (b" GET / HTTP/1.1", 400),
    (b"GET /", 400),
    (b"GET / ", 400),
    (b"/ HTTP/1.1", 400),
    (b"GET HTTP/1.1", 400),
    (b"", 400),
    (b"GET / http/1.1", 400),
    (b"GET / HTTP/1.10", 400),
    (b"GET / HTTP/11", 400),
    (b"GET / HTTP/01.1", 400),
    (b"GET / HTTP/1.x", 400),
    (b"GET / RTSP/1.0", 400),
    (b"GET / ICE/1.0", 400),
    (b"SOURCE / ICE/1.0", 400),
    (b"GET / HTTP/0.9", 505),
    (b"GET / HTTP/1.2", 505),
    (b"GET / HTTP/2.0", 505),
    (b"PRI * HTTP/2.0", 505),
    (b"GET / HTTP/3.1", 505),
    (b"CONNECT shop.example:443 HTTP/1.1", 405),
    (b"CONNECT / HTTP/1.1", 405),
    (b"CONNECT http://a/ HTTP/1.1", 405),
    (b"FOO / HTTP/1.1", 501),
    (b"get / HTTP/1.1", 501),
    (b"GETT / HTTP/1.1", 501),
    (b"DESCRIBE / HTTP/1.1", 501),
    (b"G@T / HTTP/1.1", 400),
    (b"GET /a#b HTTP/1.1", 400),
    (b"GET /?a#b HTTP/1.1", 400),
    (b"GET http://a/#b HTTP/1.1", 400),
    (b"GET * HTTP/1.1", 400),
    (b"GET *? HTTP/1.1", 400),
    (b"OPTIONS *a HTTP/1.1", 400),
    (b"GET a HTTP/1.1", 400),
    (b"GET ?a HTTP/1.1", 400),
    (b"GET shop.example:80 HTTP/1.1", 400),
    (b"GET ftp://a/ HTTP/1.1", 400),
    (b"GET http:///x HTTP/1.1", 400),
    (b"GET http:/x HTTP/1.1", 400),
    (b"GET http://user@a/ HTTP/1.1", 400),
    (b"GET http://a:b@c/ HTTP/1.1", 400),
    (b"GET http://a b/ HTTP/1.1", 400),
    (b"GET http://a:1x/ HTTP/1.1", 400),
    (b"GET /\xc3\xa4 HTTP/1.1", 400),
    (b"GET /\x7f HTTP/1.1", 400),
    (b"GET /\x00 HTTP/1.1", 400),
    (b"GET /a\tb HTTP/1.1", 400),
    (b"GET /\rb HTTP/1.1", 400),
    (b"GET / HTTP/1.1\rX: y", 400),
    (b"GET / HTTP/1.1\nX: y", 400),
    (b"TRACE / HTTP/1.1\r\nContent-Length: 1", 400),
]


@pytest.mark.parametrize(("line", "status"), BAD_LINES)
def test_a_request_line_that_is_refused(line: bytes, status: int) -> None:
    assert refusal(request(line, b"Host: shop.example"))[0] == status


BAD_FIELDS = [
    ((b"Host: b",), 400, "several_hosts"),
    ((b"Host : b",), 400, "bad_field_name"),
    ((b"host: shop.example",), 400, "several_hosts"),
    ((b"A : b",), 400, "bad_field_name"),
    ((b"A\t: b",), 400, "bad_field_name"),
    ((b": b",), 400, "bad_field_name"),
    ((b"A",), 400, "bad_field_name"),
    ((b"A b: c",), 400, "bad_field_name"),
    ((b"A(b: c",), 400, "bad_field_name"),
    ((b"\xe4: c",), 400, "bad_field_name"),
    ((b"A: b", b" c"), 400, "obs_fold"),
    ((b"A: b", b"\tc: d"), 400, "obs_fold"),
    ((b"Content-Length:", b" 5"), 400, "obs_fold"),
    ((b"A: b\rc",), 400, "bare_cr_or_lf"),
    ((b"A: b\r\rc",), 400, "bare_cr_or_lf"),
    ((b"A: b\nC: d",), 400, "bare_cr_or_lf"),
    ((b"A: b\x00",), 400, "control_byte"),
    ((b"A\x00: b",), 400, "control_byte"),
    ((b"A: \x01b",), 400, "control_byte"),
    ((b"A: b\x0bc",), 400, "control_byte"),
    ((b"A: \x7f",), 400, "control_byte"),
    ((b"Transfer-Encoding:\x0bchunked",), 400, "control_byte"),
    ((b"Content-Length: 3", b"Content-Length: 3"), 400, "several_lengths"),
    ((b"Content-Length: 3", b"content-length: 4"), 400, "several_lengths"),
    ((b"Content-Length: 3, 3",), 400, "bad_content_length"),
    ((b"Content-Length: 3 3",), 400, "bad_content_length"),
    ((b"Content-Length: +3",), 400, "bad_content_length"),
    ((b"Content-Length: -3",), 400, "bad_content_length"),
    ((b"Content-Length: 0x3",), 400, "bad_content_length"),
    ((b"Content-Length: 3.0",), 400, "bad_content_length"),
    ((b"Content-Length: 3a",), 400, "bad_content_length"),
    ((b"Content-Length: \xb2",), 400, "bad_content_length"),
    ((b"Content-Length:",), 400, "bad_content_length"),
    ((b"Content-Length: \t",), 400, "bad_content_length"),
    ((b"Content-Length: 9223372036854775808",), 400, "bad_content_length"),
    ((b"Content-Length: 18446744073709551617",), 400, "bad_content_length"),
    ((b"Content-Length: " + b"0" * 20,), 400, "bad_content_length"),
    ((b"Content-Length: 3", b"Transfer-Encoding: chunked"), 400, "conflicting_lengths"),
    ((b"Transfer-Encoding: chunked", b"Content-Length: 0"), 400, "conflicting_lengths"),
    ((b"Transfer-Encoding: gzip", b"Content-Length: 0"), 400, "conflicting_lengths"),
    ((b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"), 501, "unknown_coding"),
    ((b"Transfer-Encoding: identity", b"Transfer-Encoding: chunked"), 501, "unknown_coding"),
    ((b"Transfer-Encoding: chunked, chunked",), 501, "unknown_coding"),
    ((b"Transfer-Encoding: gzip, chunked",), 501, "unknown_coding"),
    ((b"Transfer-Encoding: chunked, gzip",), 501, "unknown_coding"),
    ((b"Transfer-Encoding: gzip",), 501, "unknown_coding"),
    ((b"Transfer-Encoding: identity",), 501, "unknown_coding"),
    ((b"Transfer-Encoding: xchunked",), 501, "unknown_coding"),
    ((b"Transfer-Encoding: ,chunked",), 501, "unknown_coding"),
    ((b"Transfer-Encoding: chunked;q=1",), 501, "unknown_coding"),
    ((b'Transfer-Encoding: "chunked"',), 501, "unknown_coding"),
    ((b"Transfer-Encoding:",), 400, "unknown_coding"),
    ((b"Transfer-Encoding: \xffchunked",), 400, "unknown_coding"),
    ((b"Connection: Host",), 400, "connection_names_protected"),
    ((b"Connection: content-length",), 400, "connection_names_protected"),
    ((b"Connection: close, Transfer-Encoding",), 400, "connection_names_protected"),
    ((b"Connection: x-forwarded-for",), 400, "connection_names_protected"),
    ((b"Connection: X-Forwarded-Anything",), 400, "connection_names_protected"),
    ((b"Connection: forwarded",), 400, "connection_names_protected"),
    ((b"Connection: authorization",), 400, "connection_names_protected"),
    ((b"Connection: a", b"Connection: COOKIE"), 400, "connection_names_protected"),
    ((b"Connection: x-request-id",), 400, "connection_names_protected"),
    ((b"Connection: expect",), 400, "connection_names_protected"),
    ((b"Connection: a b",), 400, "bad_connection"),
    ((b"Connection: a;b",), 400, "bad_connection"),
    ((b'Connection: "close"',), 400, "bad_connection"),
    ((b"Expect: 100-continu",), 417, "expectation"),
    ((b"Expect: 100-continue, 100-continue",), 417, "expectation"),
    ((b"Expect: 100-continue", b"Expect: 100-continue"), 417, "expectation"),
    ((b"Expect:",), 417, "expectation"),
    ((b"Expect: y 100-continue",), 417, "expectation"),
]


@pytest.mark.parametrize(("fields", "status", "detail"), BAD_FIELDS)
@pytest.mark.parametrize("line", [b"POST / HTTP/1.1", b"POST http://shop.example/ HTTP/1.1"])
def test_fields_that_are_refused(
    line: bytes, fields: tuple[bytes, ...], status: int, detail: str
) -> None:
    assert refusal(request(line, b"Host: shop.example", *fields)) == (status, detail)
    # Behind other fields, and with fields behind them, they are refused the same.
    embedded = request(line, b"A: b", b"Host: shop.example", b"C: d", *fields, b"E: f")
    assert refusal(embedded) == (status, detail)
    assert parse_request(get()).method == b"GET"  # and nothing of it is left behind


@pytest.mark.parametrize(
    "fields",
    [
        (),
        (b"Host:",),
        (b"Host:  \t",),
        (b"Host: a, b",),
        (b"Host: a b",),
        (b"Host: a/b",),
        (b"Host: a@b",),
        (b"Host: a:b",),
        (b"Host: a:123456",),
        (b"Host: [::1",),
        (b"Host: ::1",),
        (b"Host: [g]",),
        (b"Host: a%00",),
        (b"Host: .",),
        (b"Host: \xe4",),
        (b"Host: http://a/",),
        (b"Host: a#b",),
    ],
)
def test_a_missing_or_invalid_host_is_refused(fields: tuple[bytes, ...]) -> None:
    assert refusal(request(b"GET / HTTP/1.1", *fields, b"A: b"))[0] == 400
    assert refusal(request(b"GET / HTTP/1.1", b"A: b", *fields))[0] == 400
    assert refusal(request(b"GET http://a/ HTTP/1.1", *fields))[0] == 400
    if fields:
        assert refusal(request(b"GET / HTTP/1.0", *fields))[0] == 400


def test_a_coding_on_http_10_is_refused() -> None:
    head = request(b"POST / HTTP/1.0", b"Host: a", b"Transfer-Encoding: chunked")
    assert refusal(head) == (400, "coding_on_http10")


def test_too_many_fields_are_refused_at_the_limit() -> None:
    def with_fields(count: int) -> bytes:
        return request(b"GET / HTTP/1.1", b"Host: a", *[b"x:"] * (count - 1))

    assert parse_request(with_fields(100), 100).host == b"a"
    assert refusal(with_fields(101), 100) == (431, "too_many_fields")
    assert refusal(with_fields(3), 2) == (431, "too_many_fields")
    assert parse_request(with_fields(2), 2).host == b"a"
    assert parse_request(with_fields(500), 0).host == b"a"


@pytest.mark.parametrize("byte", [b for b in range(256) if b < 0x20 or b == 0x7F])
def test_no_control_byte_gets_through_anywhere(byte: int) -> None:
    control = bytes([byte])
    for head in (
        request(b"GET /a" + control + b"b HTTP/1.1", b"Host: a"),
        request(b"GET / HTTP/1.1" + control, b"Host: a"),
        request(b"G" + control + b"ET / HTTP/1.1", b"Host: a"),
        get(b"A" + control + b"b: c"),
        get(control + b"A: c"),
        get(b"Connection: a" + control + b"b"),
    ):
        assert refusal(head)[0] in (400, 501)
    if byte != 9:
        assert refusal(get(b"A: b" + control + b"c"))[0] == 400
        assert refusal(get(b"A: b" + control))[0] == 400


# ---------------------------------------------------------------- properties


class Listening:
    """llhttp with all its callbacks: the other reading, in full."""

    def __init__(self) -> None:
        self.target = b""
        self.fields: list[tuple[bytes, bytes]] = []
        self.complete = False

    def on_url(self, target: bytes) -> None:
        self.target += target

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name, value))

    def on_message_complete(self) -> None:
        self.complete = True


def read_by_llhttp(head: bytes) -> Listening | None:
    listening = Listening()
    try:
        httptools.HttpRequestParser(listening).feed_data(head)
    except httptools.HttpParserUpgrade:
        pass
    except httptools.HttpParserError:
        return None
    return listening


NAMES = st.sampled_from(
    [
        b"Host", b"host", b"Content-Length", b"content-length", b"Content_Length", b"CONTENT-length",
        b"Transfer-Encoding", b"transfer-encoding", b"Transfer_Encoding", b"Transfer-Encodin",
        b"Connection", b"connection", b"TE", b"te", b"T", b"Upgrade", b"Expect", b"Keep-Alive",
        b"X-Forwarded-For", b"X-Forwarded-Host", b"X-Forwarded", b"x-forwarded-x", b"X-Request-Id",
        b"Forwarded", b"Via", b"Proxy-Connection", b"HTTP2-Settings", b"Cookie", b"Trailer", b"",
        b"Max-Forwards", b"Content-Type", b"Connection-X", b"X-Connection", b"Hosts", b"Content-Len",
    ]
)  # fmt: skip
VALUES = st.one_of(
    st.sampled_from(
        [
            b"a", b"shop.example", b"a:80", b"0", b"3", b"03", b"3, 3", b"+3", b"", b"chunked",
            b"Chunked", b"gzip, chunked", b"identity", b"keep-alive", b"close", b"upgrade, x",
            b"x, cookie", b"websocket", b"h2c", b"100-continue", b"trailers", b"for=a", b"host",
            b"a b", b"\xe4", b"\t3", b"3 ", b" ", b"a:b", b"a\tb",
        ]
    ),
    st.binary(max_size=6),
)  # fmt: skip
SEPARATORS = st.sampled_from([b": "] * 8 + [b":", b":\t", b" : ", b":\r\n ", b" ", b":  "])
ENDS = st.sampled_from([b"\r\n"] * 20 + [b"\n", b"\r", b"\r\r\n", b"\r\n "])
START_LINES = st.one_of(
    st.sampled_from(
        [
            b"GET / HTTP/1.1", b"GET /a?b HTTP/1.1", b"POST /a HTTP/1.1", b"HEAD / HTTP/1.0",
            b"POST / HTTP/1.0", b"OPTIONS * HTTP/1.1", b"GET http://b.example/c HTTP/1.1",
            b"PUT /\"<>|{}^` HTTP/1.1", b"GET / HTTP/1.2", b"TRACE / HTTP/1.1",
            b"M-SEARCH / HTTP/1.1", b"GET /#a HTTP/1.1", b"CONNECT a:1 HTTP/1.1",
        ]
    ),
    st.tuples(
        st.sampled_from([b"GET", b"POST", b"get", b"", b"DELETE"]),
        st.sampled_from([b" ", b"  ", b"\t"]),
        st.binary(max_size=6).map(lambda b: b"/" + b),
        st.sampled_from([b" HTTP/1.1", b" HTTP/1.0", b" HTTP/2.0", b"", b" HTTP/1.1 "]),
    ).map(b"".join),
)  # fmt: skip


@st.composite
def heads(draw: st.DrawFn) -> bytes:
    lines = [draw(START_LINES), draw(ENDS)]
    if draw(st.integers(0, 3)):
        lines += [b"Host: shop.example", b"\r\n"]
    for _ in range(draw(st.integers(0, 6))):
        lines += [draw(NAMES), draw(SEPARATORS), draw(VALUES), draw(ENDS)]
    head = b"".join(lines) + b"\r\n"
    # The caller cuts at the first blank line.
    end = head.find(b"\r\n\r\n")
    assume(end >= 0)
    return head[: end + 4]


HOP_BY_HOP = {
    b"connection", b"keep-alive", b"proxy-connection", b"te", b"upgrade", b"http2-settings",
    b"transfer-encoding", b"expect", b"forwarded", b"x-request-id", b"max-forwards",
}  # fmt: skip


@settings(max_examples=1500, deadline=None)
@given(heads())
@example(get(b"Connection: a", b"A: b"))
@example(post(b"Transfer-Encoding: chunked", b"Connection: close"))
def test_what_is_accepted_is_what_llhttp_reads_and_what_is_sent_has_one_reading(
    head: bytes,
) -> None:
    try:
        read = parse_request(head)
    except Refused as refused:
        assert refused.status in (400, 405, 417, 431, 501, 505)
        assert refused.reason in REFUSED_REASONS
        return
    other = read_by_llhttp(head)
    assert other is not None
    fields = [(name.lower(), value.strip(b" \t")) for name, value in other.fields]
    named = dict(fields)
    lengths = [value for name, value in fields if name == b"content-length"]
    codings = [value for name, value in fields if name == b"transfer-encoding"]
    assert len(lengths) + len(codings) <= 1
    if codings:
        assert (read.body, codings[0].lower()) == (BodyKind.CHUNKED, b"chunked")
    else:
        assert read.content_length == int(lengths[0] if lengths else 0)
    if read.upgrade is None and b"upgrade" not in named:
        assert other.complete == (read.body is BodyKind.NONE)
    hosts = [value for name, value in fields if name == b"host"]
    assert len(hosts) == 1 or (read.version_minor == 0 and not hosts)
    if other.target.startswith((b"/", b"*")):
        assert (read.target, read.authority) == (other.target, hosts[0] if hosts else b"")

    out = forward_request(read, STRANGER, b"id-1")
    once_more = read_by_llhttp(out)
    assert once_more is not None
    assert out.find(b"\r\n\r\n") == len(out) - 4
    _, sent_fields = lines_of(out)
    assert [(name, value.strip(b" \t")) for name, value in once_more.fields] == sent_fields
    # Sent on is every field that came, in its order, apart from those that are this hop's.
    options = {
        option.strip(b" \t")
        for name, value in fields
        if name == b"connection"
        for option in value.lower().split(b",")
    }
    passed = [
        (name, b"%d" % int(value) if name == b"content-length" else value)
        for name, value in fields
        if name not in HOP_BY_HOP | options
        and not name.replace(b"_", b"-").startswith(b"x-forwarded-")
        and name not in (b"content_length", b"transfer_encoding", b"host")
    ]
    ours = {b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"x-request-id"}
    via = b"1.%d turnout" % read.version_minor
    gone_on = [
        (name.lower(), value)
        for name, value in sent_fields
        if name.lower() not in HOP_BY_HOP | ours | {b"host"} and value != via
    ]
    # (A Content-Length that was written anew stands last.)
    assert sorted(gone_on, key=is_length) == sorted(passed, key=is_length)
    assert parse_request(out).body is read.body
    assert parse_request(out).content_length == read.content_length


def is_length(field: tuple[bytes, bytes]) -> bool:
    return field[0] == b"content-length"


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused_and_nothing_else_is_raised(junk: bytes) -> None:
    for head in (junk + b"\r\n\r\n", b"GET / HTTP/1.1\r\nHost: a\r\n" + junk + b"\r\n\r\n"):
        with suppress(Refused):
            parse_request(head[: head.index(b"\r\n\r\n") + 4])
    assert parse_request(get()).host == b"shop.example"
