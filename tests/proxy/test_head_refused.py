"""Requests that are refused; and that nothing is accepted which two could read in two ways."""

import re
from contextlib import suppress

import httptools
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from turnout.proxy import head as module
from turnout.proxy.fields import Refused
from turnout.proxy.framing import BodyKind
from turnout.proxy.head import forward_request, hop, parse_request
from turnout.proxy.scoreboard import REFUSED_REASONS
from turnout.proxy.target import cannot_become_head

STRANGER = hop(peer=b"203.0.113.9", scheme=b"http", via=b"turnout", trusted=False)


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


def refusal(head: bytes, fields_max: int = 100) -> tuple[int, str]:
    with pytest.raises(Refused) as caught:
        parse_request(head, fields_max)
    assert caught.value.reason in REFUSED_REASONS
    return caught.value.status, caught.value.detail


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
        (b"Host: a:65536",),
        (b"Host: [1]",),
        (b"Host: [::1::1]",),
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


@pytest.mark.parametrize("coding", [b"chunked", b"gzip"])
def test_a_coding_on_http_10_is_refused(coding: bytes) -> None:
    head = request(b"POST / HTTP/1.0", b"Host: a", b"Transfer-Encoding: " + coding)
    assert refusal(head) == (400, "coding_on_http10")


@pytest.mark.parametrize("method", [b"FOO", b"get", b"FOO1"])
def test_an_unknown_method_is_one_whatever_the_targets_form(method: bytes) -> None:
    for target in (b"/", b"http://a/", b"a"):
        head = request(method + b" " + target + b" HTTP/1.1", b"Host: a")
        assert refusal(head) == (501, "unknown_method")


@pytest.mark.parametrize(
    ("begun", "hopeless"),
    [
        (b"G", False),
        (b"\r", False),
        (b"GET /", False),
        (b"GET / HTTP/1.1\r", False),
        (b"GET / HTTP/1.1\r\n", False),
        (b"GET / HTTP/2.0\r\n", False),  # a head all the same, and its answer is another
        (b"GET http://a/ HTTP/1.1\r\nHost: a\r\nX", False),
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r", False),
        (b" ", True),
        (b"\n", True),
        (b"\x80", True),
        (b"GET /\r\n", True),
        (b"GET /\n", True),
        (b"GET / HTTP/1.1\n", True),
        (b"GET / HTTP/1.1\rX", True),
        (b"GET / HTTP/1.1\r\nHost: a\n", True),
        (b"GET / HTTP/1.1\r\nHost: a\n\r\n", True),
        (b"GET / HTTP/1.1\r\nHost: a\r\n\rX", True),
        (b"GET / HTTP/1.1\r\nHost: a\r\r\n", True),
        (b"GET  / HTTP/1.1\r\n", True),
        (b"hello\r\n", True),
    ],
)
def test_what_can_become_no_head_any_more(begun: bytes, hopeless: bool) -> None:
    assert cannot_become_head(begun) is hopeless


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


# ---------------------------------------------------------------- one reading alone


class BlindParser:
    """Stands for a llhttp that accepts everything, as its leniency may change with versions."""

    def __init__(self, _: object = None) -> None:
        pass

    def feed_data(self, data: bytes) -> None:
        pass


@pytest.mark.parametrize(
    ("fields", "status", "detail"),
    [case for case in BAD_FIELDS if case[2] not in ("obs_fold", "bad_field_name", "control_byte",
                                                    "bare_cr_or_lf")],
)  # fmt: skip
def test_our_reading_alone_refuses_what_could_end_in_two_places(
    monkeypatch: pytest.MonkeyPatch, fields: tuple[bytes, ...], status: int, detail: str
) -> None:
    monkeypatch.setattr(module, "_llhttp", BlindParser())
    got = refusal(post(*fields))
    # A request without a body looks to it as if llhttp expected one.
    assert got in ((status, detail), (400, "two_readings"))


@pytest.mark.parametrize(
    ("unseen", "field"),
    [
        (b"[Tt](?i:ent)", b"Content-Length: 3"),
        (b"(?i:ansfer)", b"Transfer-Encoding: chunked"),
    ],
)
def test_a_head_that_the_two_read_differently_is_refused(
    monkeypatch: pytest.MonkeyPatch, unseen: bytes, field: bytes
) -> None:
    """As if our scan overlooked a field that frames: only llhttp expects a body."""
    assert parse_request(post(field)).body is not BodyKind.NONE
    blind = re.compile(module.FIELDS.pattern.replace(unseen, b"(?i:zzz)"), re.VERBOSE)
    assert blind.groupindex == module.FIELDS.groupindex
    monkeypatch.setattr(module, "FIELDS", blind)
    assert refusal(post(field)) == (400, "two_readings")
    assert refusal(post(field, b"TE: trailers")) == (400, "two_readings")
    assert parse_request(post()).body is BodyKind.NONE


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
        target = read.kept.split(b" ", 2)[1]
        assert target.partition(b"?")[0] == read.path
        assert (target, read.authority) == (other.target, hosts[0] if hosts else b"")

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
