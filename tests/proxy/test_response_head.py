"""Responses' heads: what is read from them, what the client gets, what is refused."""

import re
from contextlib import suppress

import httptools
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from turnout.proxy import response_head as module
from turnout.proxy.fields import Refused
from turnout.proxy.framing import BodyKind, Passing
from turnout.proxy.response_head import (
    TIMEOUTS_REMEMBERED,
    ResponseHead,
    closes,
    forward_interim,
    forward_response,
    parse_response,
)

OURS = [(b"Via", b"1.1 turnout"), (b"X-Request-Id", b"id-1")]


def response(line: bytes, *fields: bytes) -> bytes:
    return b"\r\n".join([line, *fields, b"", b""])


def ok(*fields: bytes) -> bytes:
    return response(b"HTTP/1.1 200 OK", *fields)


def read(head: bytes, method: bytes = b"GET", *, asked: bool = False) -> ResponseHead:
    return parse_response(head, request_method=method, upgrade_asked=asked)


def given_to_client(
    head: ResponseHead, minor: int = 1, *, close: bool = False, date: bytes = b""
) -> tuple[bytes, list[tuple[bytes, bytes]]]:
    out = forward_response(
        head,
        client_version_minor=minor,
        close=close,
        request_id=b"id-1",
        via=b"turnout",
        date=date,
    )
    return lines_of(out)


def lines_of(head: bytes) -> tuple[bytes, list[tuple[bytes, bytes]]]:
    assert head.endswith(b"\r\n\r\n")
    start, *fields = head[:-4].split(b"\r\n")
    split = [field.partition(b":") for field in fields]
    assert all(colon for _, colon, _ in split), fields
    return start, [(name, value.strip(b" \t")) for name, _, value in split]


def refusal(head: bytes, method: bytes = b"GET", *, asked: bool = False) -> str:
    with pytest.raises(Refused) as caught:
        read(head, method, asked=asked)
    assert caught.value.status == 502
    return caught.value.detail


def test_a_plain_answer_is_read_and_goes_on_in_its_own_bytes() -> None:
    head = read(
        ok(
            b"Date: x",
            b"Content-Length: 5",
            b"Connection: keep-alive",
            b"Keep-Alive: timeout=5, max=100",
            b"Set-Cookie: a=b",
            b"set-cookie: c=d",
        )
    )
    assert head == ResponseHead(
        status=200,
        version_minor=1,
        body=BodyKind.LENGTH,
        content_length=5,
        keep_alive=True,
        keep_alive_timeout_s=5.0,
        upgrade=None,
        is_event_stream=False,
        kept=b"HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 5\r\n"
        b"Set-Cookie: a=b\r\nset-cookie: c=d\r\n",
        declares_chunked=False,
    )
    assert forward_response(
        head, client_version_minor=1, close=False, request_id=b"id-1", via=b"turnout"
    ) == (
        b"HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 5\r\nSet-Cookie: a=b\r\nset-cookie: c=d\r\n"
        b"Via: 1.1 turnout\r\nX-Request-Id: id-1\r\n\r\n"
    )


@pytest.mark.parametrize(
    ("head", "method", "body", "length", "keep_alive"),
    [
        (ok(b"Content-Length: 0"), b"GET", BodyKind.NONE, 0, True),
        (ok(b"Content-Length: 007"), b"GET", BodyKind.LENGTH, 7, True),
        (ok(b"Transfer-Encoding: Chunked "), b"GET", BodyKind.CHUNKED, 0, True),
        (ok(b"Transfer-Encoding: chunked", b"Connection: close"), b"GET",
         BodyKind.CHUNKED, 0, False),
        (ok(), b"GET", BodyKind.UNTIL_CLOSE, 0, False),
        (ok(b"Connection: keep-alive"), b"GET", BodyKind.UNTIL_CLOSE, 0, False),
        (ok(), b"HEAD", BodyKind.NONE, 0, True),
        (ok(b"Content-Length: 0"), b"HEAD", BodyKind.NONE, 0, True),
        (ok(b"Content-Length: 9"), b"HEAD", BodyKind.NONE, 0, False),
        (ok(b"Transfer-Encoding: chunked"), b"HEAD", BodyKind.NONE, 0, False),
        (ok(b"Content-Length: 3", b"Connection: Close"), b"GET", BodyKind.LENGTH, 3, False),
        (ok(b"Content-Length: 3", b"Connection: Keep-Alive"), b"GET", BodyKind.LENGTH, 3, True),
        (response(b"HTTP/1.0 200 OK", b"Content-Length: 3"), b"GET", BodyKind.LENGTH, 3, False),
        (response(b"HTTP/1.0 200 OK", b"Content-Length: 3", b"Connection: keep-alive"), b"GET",
         BodyKind.LENGTH, 3, True),
        (response(b"HTTP/1.0 200 OK"), b"GET", BodyKind.UNTIL_CLOSE, 0, False),
        (response(b"HTTP/1.1 204 No Content"), b"GET", BodyKind.NONE, 0, True),
        (response(b"HTTP/1.1 204 ", b"Content-Length: 0"), b"GET", BodyKind.NONE, 0, True),
        (response(b"HTTP/1.1 204 ", b"Content-Length: 3"), b"GET", BodyKind.NONE, 0, False),
        (response(b"HTTP/1.1 304 Not Modified"), b"GET", BodyKind.NONE, 0, True),
        (response(b"HTTP/1.1 304 Not Modified", b"Content-Length: 3"), b"GET",
         BodyKind.NONE, 0, False),
        (response(b"HTTP/1.1 304 x", b"Transfer-Encoding: chunked"), b"GET",
         BodyKind.NONE, 0, False),
        (response(b"HTTP/1.1 404 \xe4\t!", b"Content-Length: 3"), b"GET",
         BodyKind.LENGTH, 3, True),
        (response(b"HTTP/1.1 599 x"), b"POST", BodyKind.UNTIL_CLOSE, 0, False),
    ],
)  # fmt: skip
def test_where_the_body_ends_and_whether_the_connection_goes_on(
    head: bytes, method: bytes, body: BodyKind, length: int, keep_alive: bool
) -> None:
    got = read(head, method)
    assert (got.body, got.content_length, got.keep_alive) == (body, length, keep_alive)


@pytest.mark.parametrize(
    ("head", "method", "minor", "close", "framing"),
    [
        (ok(b"Content-Length: 3"), b"GET", 1, False, {b"Content-Length": b"3"}),
        (ok(b"Content-Length: 3 "), b"GET", 1, False, {b"Content-Length": b"3"}),
        (ok(b"Content-Length: 03"), b"GET", 1, False, {b"Content-Length": b"3"}),
        (ok(b"Content-Length: 3"), b"GET", 1, True,
         {b"Content-Length": b"3", b"Connection": b"close"}),
        (ok(b"Content-Length: 3"), b"GET", 0, False,
         {b"Content-Length": b"3", b"Connection": b"keep-alive"}),
        (ok(b"Content-Length: 3"), b"GET", 0, True,
         {b"Content-Length": b"3", b"Connection": b"close"}),
        (ok(b"Transfer-Encoding: chunked"), b"GET", 1, False, {b"Transfer-Encoding": b"chunked"}),
        (ok(b"Transfer-Encoding: chunked"), b"GET", 1, True,
         {b"Transfer-Encoding": b"chunked", b"Connection": b"close"}),
        (ok(b"Transfer-Encoding: chunked"), b"GET", 0, False, {b"Connection": b"close"}),
        (ok(), b"GET", 1, False, {b"Transfer-Encoding": b"chunked"}),
        (ok(), b"GET", 0, False, {b"Connection": b"close"}),
        (response(b"HTTP/1.0 200 OK"), b"GET", 1, False, {b"Transfer-Encoding": b"chunked"}),
        (ok(b"Content-Length: 3"), b"HEAD", 1, False, {b"Content-Length": b"3"}),
        (ok(b"Transfer-Encoding: chunked"), b"HEAD", 1, False, {b"Transfer-Encoding": b"chunked"}),
        (ok(b"Transfer-Encoding: chunked"), b"HEAD", 0, False, {b"Connection": b"keep-alive"}),
        (ok(), b"HEAD", 1, False, {}),
        (ok(), b"HEAD", 0, False, {b"Connection": b"keep-alive"}),
        (response(b"HTTP/1.1 204 x", b"Content-Length: 3"), b"GET", 1, False, {}),
        (response(b"HTTP/1.1 204 x", b"Transfer-Encoding: chunked"), b"GET", 1, False, {}),
        (response(b"HTTP/1.1 304 x", b"Content-Length: 3"), b"GET", 1, False,
         {b"Content-Length": b"3"}),
        (response(b"HTTP/1.1 304 x", b"Transfer-Encoding: chunked"), b"GET", 1, False, {}),
    ],
)  # fmt: skip
def test_how_the_client_is_told_where_the_body_ends(
    head: bytes, method: bytes, minor: int, close: bool, framing: dict[bytes, bytes]
) -> None:
    got = read(head, method)
    start, fields = given_to_client(got, minor, close=close)
    assert start == b"HTTP/1.1" + head.partition(b"\r\n")[0][8:]
    told = [(n, v) for n, v in fields if n not in (b"Via", b"X-Request-Id")]
    assert sorted(told) == sorted(framing.items())
    assert closes(got, minor) == (
        minor == 0 and got.body in (BodyKind.CHUNKED, BodyKind.UNTIL_CLOSE)
    )


def test_what_becomes_of_the_body_is_told_with_the_head() -> None:
    assert read(ok()).passing(1) is Passing.CHUNK
    assert read(ok(b"Transfer-Encoding: chunked")).passing(0) is Passing.DECHUNK


def test_hop_by_hop_fields_and_what_connection_names_do_not_reach_the_client() -> None:
    head = read(
        ok(
            b"Content-Length: 3",
            b"X-A: 1",
            b"Proxy-Connection: keep-alive",
            b"Keep-Alive: timeout=7",
            b"X-Private: 2",
            b"Upgrade: h2c",
            b"X-Request-Id: theirs",
            b"Content_Length: 7",
            b"transfer_encoding: chunked",
            b"Connection: x-private",
            b"connection: upgrade",
            b"Via: 1.1 inner",
            b"Trailer: Server-Timing",
        )
    )
    assert given_to_client(head)[1] == [
        (b"Content-Length", b"3"),
        (b"X-A", b"1"),
        (b"Via", b"1.1 inner"),
        (b"Trailer", b"Server-Timing"),
        *OURS,
    ]


def test_via_says_what_the_server_spoke() -> None:
    head = read(response(b"HTTP/1.0 200 OK", b"Content-Length: 3"))
    assert given_to_client(head)[1][-2:] == [(b"Via", b"1.0 turnout"), (b"X-Request-Id", b"id-1")]


def test_a_date_is_added_only_where_there_is_none() -> None:
    def dates(head: bytes, date: bytes) -> list[bytes]:
        _, fields = given_to_client(read(head), date=date)
        return [value for name, value in fields if name.lower() == b"date"]

    assert dates(ok(b"Content-Length: 3"), b"now") == [b"now"]
    assert dates(ok(b"Content-Length: 3"), b"") == []
    assert dates(ok(b"Content-Length: 3", b"Date: then"), b"now") == [b"then"]
    assert dates(ok(b"Content-Length: 3", b"dATE: then"), b"now") == [b"then"]


@pytest.mark.parametrize(
    ("value", "timeout_s"),
    [
        (b"timeout=5", 5.0),
        (b"max=100, Timeout = 60", 60.0),
        (b'timeout="7"', 7.0),
        (b"timeout=0", 0.0),
        (b"max=100", None),
        (b"timeout=x", None),
        (b"xtimeout=3", None),
        (b"", None),
    ],
)
def test_how_long_the_server_keeps_a_connection(value: bytes, timeout_s: float | None) -> None:
    for _ in range(2):  # the second time it is remembered
        head = read(ok(b"Content-Length: 1", b"Keep-Alive: " + value))
        assert head.keep_alive_timeout_s == timeout_s


def test_keep_alive_values_are_not_remembered_for_ever() -> None:
    for number in range(TIMEOUTS_REMEMBERED + 10):
        head = read(ok(b"Content-Length: 1", b"Keep-Alive: timeout=9, max=%d" % number))
        assert head.keep_alive_timeout_s == 9.0
    assert len(module._timeouts) <= TIMEOUTS_REMEMBERED


@pytest.mark.parametrize(
    ("fields", "is_stream"),
    [
        ((b"Content-Type: text/event-stream",), True),
        ((b"content-TYPE:Text/Event-Stream; charset=utf-8",), True),
        ((b"Content-Type: text/html",), False),
        ((b"X-Content-Type: text/event-stream",), False),
        ((b"Content-Type-X: text/event-stream",), False),
        ((b"Content-Type: text/event-streams",), False),
    ],
)
def test_an_event_stream_is_known(fields: tuple[bytes, ...], is_stream: bool) -> None:
    head = read(ok(b"Transfer-Encoding: chunked", *fields))
    assert head.is_event_stream == is_stream
    assert given_to_client(head)[1][0][1] == fields[0].partition(b":")[2].strip()


SWITCH = (b"Connection: Upgrade", b"Upgrade: WebSocket", b"Sec-WebSocket-Accept: x")


def test_a_101_that_was_asked_for_is_passed_on() -> None:
    head = read(response(b"HTTP/1.1 101 Switching Protocols", *SWITCH), asked=True)
    assert (head.status, head.upgrade, head.keep_alive) == (101, b"websocket", False)
    assert not head.is_interim
    assert given_to_client(head)[1] == [
        (b"Sec-WebSocket-Accept", b"x"),
        *OURS,
        (b"Connection", b"Upgrade"),
        (b"Upgrade", b"websocket"),
    ]


@pytest.mark.parametrize(
    ("fields", "asked", "detail"),
    [
        (SWITCH, False, "unasked_upgrade"),
        ((b"Upgrade: websocket",), True, "bad_head"),
        ((b"Connection: upgrade",), True, "bad_head"),
        ((b"Connection: upgrade", b"Upgrade: h2c"), True, "wrong_upgrade"),
        ((b"Connection: upgrade", b"Upgrade: websocket, h2c"), True, "wrong_upgrade"),
        ((*SWITCH, b"Upgrade: websocket"), True, "wrong_upgrade"),
        ((*SWITCH, b"Content-Length: 3"), True, "length_of_101"),
        ((*SWITCH, b"Transfer-Encoding: chunked"), True, "length_of_101"),
    ],
)
def test_any_other_101_is_refused(fields: tuple[bytes, ...], asked: bool, detail: str) -> None:
    assert refusal(response(b"HTTP/1.1 101 x", *fields), asked=asked) == detail


def test_interim_answers_are_passed_on_without_hop_by_hop_fields() -> None:
    head = read(
        response(b"HTTP/1.1 103 Early Hints", b"Link: </a>", b"Connection: x", b"X: y",
                 b"Content-Length: 3", b"Keep-Alive: timeout=1"),
        b"POST",
    )  # fmt: skip
    assert head.is_interim
    assert head.body is BodyKind.NONE
    assert lines_of(forward_interim(head, via=b"turnout")) == (
        b"HTTP/1.1 103 Early Hints",
        [(b"Link", b"</a>"), (b"Via", b"1.1 turnout")],
    )
    assert read(response(b"HTTP/1.1 100 Continue")).is_interim


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    "line",
    [
        b"HTTP/1.1 200",
        b"HTTP/1.1  200 OK",
        b"HTTP/1.1\t200 OK",
        b"HTTP/1.1 20 OK",
        b"HTTP/1.1 2000 OK",
        b"HTTP/1.1 099 OK",
        b"HTTP/1.1 600 OK",
        b"HTTP/1.1 999 OK",
        b"HTTP/1.1 2x0 OK",
        b"HTTP/1.2 200 OK",
        b"HTTP/2.0 200 OK",
        b"HTTP/0.9 200 OK",
        b"HTTP/1.10 200 OK",
        b"http/1.1 200 OK",
        b"RTSP/1.0 200 OK",
        b"ICY 200 OK",
        b" HTTP/1.1 200 OK",
        b"\r\nHTTP/1.1 200 OK",
        b"HTTP/1.1 200 O\x00K",
        b"HTTP/1.1 200 O\x7fK",
        b"HTTP/1.1 200 O\rK",
        b"HTTP/1.1 200 O\nK",
        b"HTTP/1.1 200 OK\rX: y",
        b"<html>",
        b"",
    ],
)
def test_a_status_line_that_is_refused(line: bytes) -> None:
    assert refusal(response(line, b"Content-Length: 0")) in ("bad_status_line", "bare_cr_or_lf")


@pytest.mark.parametrize(
    ("fields", "detail"),
    [
        ((b"Content-Length: 3", b"Content-Length: 3"), None),
        ((b"Content-Length: 3", b"Content-Length: 4"), None),
        ((b"Content-Length: 3, 3",), None),
        ((b"Content-Length: -3",), None),
        ((b"Content-Length: 3a",), None),
        ((b"Content-Length:",), None),
        ((b"Content-Length: 9223372036854775808",), "bad_content_length"),
        ((b"Content-Length: 3", b"Transfer-Encoding: chunked"), None),
        ((b"Transfer-Encoding: chunked", b"Content-Length: 3"), None),
        ((b"Transfer-Encoding: gzip",), "unknown_coding"),
        ((b"Transfer-Encoding: gzip, chunked",), "unknown_coding"),
        ((b"Transfer-Encoding: chunked, gzip",), "unknown_coding"),
        ((b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"), "unknown_coding"),
        ((b"Transfer-Encoding: identity",), "unknown_coding"),
        ((b"Transfer-Encoding:",), None),
        ((b"A : b",), "bad_field_name"),
        ((b": b",), "bad_field_name"),
        ((b"A: b", b" c"), "obs_fold"),
        ((b"A: b\nC: d",), "bare_cr_or_lf"),
        ((b"A: b\rC: d",), "bare_cr_or_lf"),
        ((b"A: \x00",), "control_byte"),
        ((b"Set-Cookie: a=\x0d\x0d\x0aX: y",), "bare_cr_or_lf"),
        ((b"Connection: content-length",), "connection_names_protected"),
        ((b"Connection: set-cookie",), "connection_names_protected"),
        ((b"Connection: a b",), "bad_connection"),
    ],
)
@pytest.mark.parametrize("method", [b"GET", b"HEAD"])
def test_fields_that_are_refused(
    method: bytes, fields: tuple[bytes, ...], detail: str | None
) -> None:
    got = refusal(ok(b"E: f", *fields, b"G: h"), method)
    assert detail is None or got == detail
    assert read(ok(b"Content-Length: 3")).content_length == 3  # and nothing is left behind


def test_a_coding_on_http_10_is_refused() -> None:
    head = response(b"HTTP/1.0 200 OK", b"Transfer-Encoding: chunked")
    assert refusal(head) == "coding_on_http10"


def test_too_many_fields_are_refused_at_the_limit() -> None:
    head = ok(b"Content-Length: 1", b"a:", b"b:")
    assert parse_response(head, request_method=b"GET", fields_max=3).content_length == 1
    with pytest.raises(Refused) as caught:
        parse_response(head, request_method=b"GET", fields_max=2)
    assert caught.value.detail == "too_many_fields"


class BlindParser:
    """Stands for a llhttp that accepts everything."""

    def __init__(self, _: object = None) -> None:
        pass

    def feed_data(self, data: bytes) -> None:
        pass


@pytest.mark.parametrize(
    ("fields", "detail"),
    [
        ((b"Content-Length: 3", b"Content-Length: 3"), "several_lengths"),
        ((b"Content-Length: 3, 3",), "bad_content_length"),
        ((b"Content-Length: 3", b"Transfer-Encoding: chunked"), "conflicting_lengths"),
        ((b"Transfer-Encoding: xchunked",), "unknown_coding"),
        ((b"Content-Length: 0",), "two_readings"),
    ],
)
def test_our_reading_alone_refuses_what_could_end_in_two_places(
    monkeypatch: pytest.MonkeyPatch, fields: tuple[bytes, ...], detail: str
) -> None:
    monkeypatch.setattr(module, "_llhttp", BlindParser())
    assert refusal(ok(*fields)) == detail


def test_a_head_that_the_two_read_differently_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if our scan overlooked the field by which a body has none: only llhttp sees its end."""
    blind = re.compile(module._FIELDS.pattern.replace(b"[Ll](?i:ength)", b"(?i:zzz)"), re.VERBOSE)
    assert blind.groupindex == module._FIELDS.groupindex
    monkeypatch.setattr(module, "_FIELDS", blind)
    assert refusal(ok(b"Content-Length: 0")) == "two_readings"


# ---------------------------------------------------------------- properties


class Listening:
    def __init__(self) -> None:
        self.fields: list[tuple[bytes, bytes]] = []
        self.complete = False

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name, value.strip(b" \t")))

    def on_message_complete(self) -> None:
        self.complete = True


def read_by_llhttp(head: bytes) -> Listening | None:
    listening = Listening()
    try:
        httptools.HttpResponseParser(listening).feed_data(head)
    except httptools.HttpParserUpgrade:
        pass
    except httptools.HttpParserError:
        return None
    return listening


NAMES = st.sampled_from(
    [
        b"Content-Length", b"content-length", b"Content_Length", b"Transfer-Encoding", b"TE",
        b"transfer-encoding", b"Connection", b"connection", b"Upgrade", b"Keep-Alive", b"Date",
        b"Proxy-Connection", b"Content-Type", b"X-Request-Id", b"Set-Cookie", b"Trailer", b"Via",
        b"", b"Content-Lengthy", b"X-Connection",
    ]
)  # fmt: skip
VALUES = st.one_of(
    st.sampled_from(
        [
            b"0", b"3", b"03", b"3 ", b"3,3", b"", b"chunked", b"Chunked", b"gzip, chunked", b"x",
            b"keep-alive", b"close", b"x, y", b"upgrade", b"websocket", b"timeout=5", b"\xe4",
            b"text/event-stream", b"set-cookie",
        ]
    ),
    st.binary(max_size=6),
)  # fmt: skip
ENDS = st.sampled_from([b"\r\n"] * 20 + [b"\n", b"\r", b"\r\r\n", b"\r\n "])


@st.composite
def heads(draw: st.DrawFn) -> bytes:
    version = draw(st.sampled_from([b"HTTP/1.1 "] * 6 + [b"HTTP/1.0 ", b"HTTP/1.2 ", b"HTTP/1.1"]))
    status = draw(st.sampled_from([b"200", b"204", b"304", b"100", b"101", b"404", b"20", b"600"]))
    reason = draw(st.sampled_from([b" OK"] * 6 + [b" ", b"", b" \x00", b" \xff", b"\t"]))
    lines = [version, status, reason, draw(ENDS)]
    for _ in range(draw(st.integers(0, 6))):
        lines += [draw(NAMES), draw(st.sampled_from([b": "] * 8 + [b":", b" :"]))]
        lines += [draw(VALUES), draw(ENDS)]
    head = b"".join(lines) + b"\r\n"
    end = head.find(b"\r\n\r\n")
    assume(end >= 0)
    return head[: end + 4]


HOP_BY_HOP = {
    b"connection", b"keep-alive", b"proxy-connection", b"upgrade", b"transfer-encoding",
    b"x-request-id", b"content_length", b"transfer_encoding",
}  # fmt: skip


@settings(max_examples=1500, deadline=None)
@given(heads(), st.sampled_from([b"GET", b"HEAD", b"POST"]), st.booleans(), st.integers(0, 1))
def test_what_is_accepted_is_what_llhttp_reads_and_the_client_gets_one_reading(
    head: bytes, method: bytes, asked: bool, minor: int
) -> None:
    try:
        got = read(head, method, asked=asked)
    except Refused as refused:
        assert refused.status == 502
        return
    other = read_by_llhttp(head)
    assert other is not None
    fields = [(name.lower(), value) for name, value in other.fields]
    lengths = [value for name, value in fields if name == b"content-length"]
    codings = [value.lower() for name, value in fields if name == b"transfer-encoding"]
    assert len(lengths) + len(codings) <= 1
    assert codings in ([], [b"chunked"])
    if got.body is BodyKind.LENGTH:
        assert got.content_length == int(lengths[0])
    if method != b"HEAD":
        assert other.complete == (got.body is BodyKind.NONE)

    close = not got.keep_alive
    out = forward_response(
        got, client_version_minor=minor, close=close, request_id=b"id-1", via=b"turnout"
    )
    assert out.find(b"\r\n\r\n") == len(out) - 4
    assert out.startswith(b"HTTP/1.1 %d " % got.status)
    once_more = read_by_llhttp(out)
    assert once_more is not None
    start, told = lines_of(out)
    assert start[8:] == head.partition(b"\r\n")[0][8:]
    assert once_more.fields == told
    options = {
        option.strip(b" \t")
        for name, value in fields
        if name == b"connection"
        for option in value.lower().split(b",")
    }
    bodiless = got.status < 200 or got.status == 204
    passed = [
        (name, b"%d" % int(value) if name == b"content-length" else value)
        for name, value in fields
        if name not in HOP_BY_HOP | options and not (bodiless and name == b"content-length")
    ]
    added = {b"1.%d turnout" % got.version_minor}
    gone_on = [
        (name.lower(), value)
        for name, value in told
        if name.lower() not in HOP_BY_HOP and value not in added
    ]
    assert sorted(gone_on, key=is_length) == sorted(passed, key=is_length)
    if minor and got.upgrade is None:
        client = read(out, method)
        if got.body is BodyKind.UNTIL_CLOSE:
            assert client.body is BodyKind.CHUNKED
        else:
            assert (client.body, client.content_length) == (got.body, got.content_length)
        assert client.keep_alive == (not close)


def is_length(field: tuple[bytes, bytes]) -> bool:
    return field[0] == b"content-length"


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused_and_nothing_else_is_raised(junk: bytes) -> None:
    for head in (junk + b"\r\n\r\n", b"HTTP/1.1 200 OK\r\n" + junk + b"\r\n\r\n"):
        with suppress(Refused):
            read(head[: head.index(b"\r\n\r\n") + 4])
    assert read(ok(b"Content-Length: 3")).content_length == 3
