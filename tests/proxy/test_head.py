"""Requests' heads: what is read from them and what is sent on."""

import pytest

from turnout.proxy.fields import Refused
from turnout.proxy.framing import BodyKind
from turnout.proxy.head import (
    RequestHead,
    field_pattern,
    forward_request,
    hop,
    parse_request,
)
from turnout.proxy.scoreboard import REFUSED_REASONS
from turnout.proxy.target import HOSTS_REMEMBERED, hosts

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
        path=b"/a",
        version_minor=1,
        host=b"shop.example",
        authority=b"shop.example",
        body=BodyKind.NONE,
        content_length=0,
        keep_alive=True,
        upgrade=None,
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
    for number in range(HOSTS_REMEMBERED + 10):
        parse_request(request(b"GET / HTTP/1.1", b"Host: h%d" % number))
    assert len(hosts) <= HOSTS_REMEMBERED


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
    assert head.path == start.split(b" ")[1].partition(b"?")[0]
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
