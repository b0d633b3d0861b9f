"""Where bodies end, and that chunks are read in one way however they come in."""

import tracemalloc
from itertools import pairwise

import httptools
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from turnout.proxy.fields import Refused
from turnout.proxy.framing import (
    CHUNK_LINE_MAX,
    BodyEnd,
    BodyKind,
    ChunkedDecoder,
    Passing,
    body_end_of_request,
    body_end_of_response,
    chunk,
    last_chunk,
    passing,
)

TRAILER_BYTES = 8192
"""The decoder's own default."""
NONE = BodyEnd(BodyKind.NONE, 0)
CHUNKED = BodyEnd(BodyKind.CHUNKED, 0)
UNTIL_CLOSE = BodyEnd(BodyKind.UNTIL_CLOSE, 0)


def length(number: int) -> BodyEnd:
    return BodyEnd(BodyKind.LENGTH, number)


# ---------------------------------------------------------------- RFC 9112, section 6.3


@pytest.mark.parametrize(
    ("declared", "coding", "minor", "end"),
    [
        (None, None, 1, NONE),
        (None, None, 0, NONE),
        (b"0", None, 1, NONE),
        (b"7", None, 0, length(7)),
        (b" 7\t", None, 1, length(7)),
        (None, b"chunked", 1, CHUNKED),
        (None, b" Chunked ", 1, CHUNKED),
    ],
)
def test_where_a_request_ends(
    declared: bytes | None, coding: bytes | None, minor: int, end: BodyEnd
) -> None:
    assert body_end_of_request(declared, coding, minor) == end


@pytest.mark.parametrize(
    ("declared", "coding", "minor", "status"),
    [
        (b"7", b"chunked", 1, 400),
        (b"7", b"gzip", 1, 400),
        (None, b"chunked", 0, 400),
        (None, b"gzip", 1, 501),
        (None, b"chunked, chunked", 1, 501),
        (None, b"", 1, 400),
        (b"", None, 1, 400),
        (b"7,7", None, 1, 400),
        (b"-7", None, 1, 400),
        (b"7" * 20, None, 1, 400),
        ("\u0667".encode(), None, 1, 400),
    ],
)
def test_a_request_that_could_end_in_two_places_is_refused(
    declared: bytes | None, coding: bytes | None, minor: int, status: int
) -> None:
    with pytest.raises(Refused) as caught:
        body_end_of_request(declared, coding, minor)
    assert caught.value.status == status
    with pytest.raises(Refused) as caught:
        body_end_of_response(200, b"GET", declared, coding, minor)
    assert caught.value.status == 502


@pytest.mark.parametrize(
    ("status", "method", "declared", "coding", "end"),
    [
        (200, b"GET", b"7", None, length(7)),
        (200, b"GET", b"0", None, NONE),
        (200, b"GET", None, None, UNTIL_CLOSE),
        (200, b"GET", None, b"chunked", CHUNKED),
        (500, b"POST", None, None, UNTIL_CLOSE),
        (205, b"POST", None, None, UNTIL_CLOSE),
        (200, b"HEAD", b"7", None, NONE),
        (200, b"HEAD", None, b"chunked", NONE),
        (200, b"HEAD", None, None, NONE),
        (204, b"GET", b"7", None, NONE),
        (204, b"GET", None, None, NONE),
        (304, b"GET", b"7", None, NONE),
        (304, b"GET", None, b"chunked", NONE),
        (100, b"POST", b"7", None, NONE),
        (101, b"GET", None, None, NONE),
        (103, b"GET", None, None, NONE),
    ],
)
def test_where_a_response_ends(
    status: int, method: bytes, declared: bytes | None, coding: bytes | None, end: BodyEnd
) -> None:
    assert body_end_of_response(status, method, declared, coding, 1) == end


@pytest.mark.parametrize(
    ("kind", "minor", "what"),
    [
        (BodyKind.NONE, 1, Passing.AS_IS),
        (BodyKind.NONE, 0, Passing.AS_IS),
        (BodyKind.LENGTH, 1, Passing.AS_IS),
        (BodyKind.LENGTH, 0, Passing.AS_IS),
        (BodyKind.CHUNKED, 1, Passing.RECHUNK),
        (BodyKind.CHUNKED, 0, Passing.DECHUNK),
        (BodyKind.UNTIL_CLOSE, 1, Passing.CHUNK),
        (BodyKind.UNTIL_CLOSE, 0, Passing.AS_IS),
    ],
)
def test_what_becomes_of_a_body_on_its_way(kind: BodyKind, minor: int, what: Passing) -> None:
    assert passing(kind, minor) is what


# ---------------------------------------------------------------- chunks


class Outcome:
    """All that a decoder returned over a row of reads."""

    def __init__(self, reads: list[bytes], *, bare: bool = False, status: int = 400) -> None:
        decoder = ChunkedDecoder(status)
        out = []
        rest = b""
        for read in reads:
            if decoder.finished:
                rest += read  # the caller keeps what comes behind the end
            else:
                out.append(decoder.decode(read) if bare else decoder.reencode(read))
        self.out = b"".join(out)
        self.finished = decoder.finished
        self.refused = decoder.fault is not None
        self.fault = decoder.fault
        self.trailers = decoder.trailers
        self.leftover = decoder.leftover + rest if not self.refused else b""
        self.body_bytes = decoder.body_bytes
        self.decoder = decoder

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Outcome) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def __repr__(self) -> str:
        return f"Outcome{self._key()}"

    def _key(self) -> tuple[bytes, bool, bool, bytes, bytes, int]:
        return (
            self.out, self.finished, self.refused, self.trailers, self.leftover, self.body_bytes,
        )  # fmt: skip


def bare(data: bytes) -> bytes:
    outcome = Outcome([data], bare=True)
    assert outcome.finished and not outcome.refused
    return outcome.out


@pytest.mark.parametrize(
    ("data", "sent", "body", "trailers", "leftover"),
    [
        (b"0\r\n\r\n", b"0\r\n\r\n", b"", b"", b""),
        (b"000\r\n\r\nGET", b"0\r\n\r\n", b"", b"", b"GET"),
        (b"5\r\nhello\r\n0\r\n\r\n", b"5\r\nhello\r\n0\r\n\r\n", b"hello", b"", b""),
        (b"a\r\n0123456789\r\nA\r\n0123456789\r\n0\r\n\r\n",
         b"a\r\n0123456789\r\nA\r\n0123456789\r\n0\r\n\r\n", b"0123456789" * 2, b"", b""),
        (b"0000000000000005\r\nhello\r\n0\r\n\r\n",
         b"0000000000000005\r\nhello\r\n0\r\n\r\n", b"hello", b"", b""),
        (b"2\r\n\r\n\r\n0\r\n\r\n", b"2\r\n\r\n\r\n0\r\n\r\n", b"\r\n", b"", b""),
        (b'5;a=b;c="d e"\r\nhello\r\n0;z\r\n\r\n', b"5\r\nhello\r\n0\r\n\r\n", b"hello", b"", b""),
        (b"1\r\na\r\n1;x\r\nb\r\n1\r\nc\r\n0\r\n\r\n",
         b"1\r\na\r\n1\r\nb\r\n1\r\nc\r\n0\r\n\r\n", b"abc", b"", b""),
        (b"1\r\na\r\n0\r\nX: y\r\nZ:\r\n\r\n\r\n",
         b"1\r\na\r\n0\r\nX: y\r\nZ:\r\n\r\n", b"a", b"X: y\r\nZ:\r\n", b"\r\n"),
    ],
)  # fmt: skip
def test_a_chunked_body_goes_on_without_its_extensions(
    data: bytes, sent: bytes, body: bytes, trailers: bytes, leftover: bytes
) -> None:
    outcome = Outcome([data])
    assert (outcome.out, outcome.trailers, outcome.leftover) == (sent, trailers, leftover)
    assert outcome.finished and not outcome.refused
    assert outcome.body_bytes == len(body)
    assert bare(data) == body


@pytest.mark.parametrize(
    "name",
    [
        b"Transfer-Encoding", b"content-length", b"HOST", b"Trailer", b"Connection", b"TE",
        b"Authorization", b"Cookie", b"Set-Cookie", b"Proxy-Authorization", b"WWW-Authenticate",
        b"X-Forwarded-For", b"x-forwarded-anything", b"Forwarded", b"X-Request-Id", b"Upgrade",
        b"Content-Type", b"Content-Encoding", b"Content-Range", b"Cache-Control", b"Keep-Alive",
        b"Expect", b"Max-Forwards", b"Range", b"Location", b"Content_Length", b"X_Forwarded_For",
    ],
)  # fmt: skip
def test_trailers_that_frame_route_or_authenticate_are_dropped(name: bytes) -> None:
    data = b"0\r\nA: b\r\n" + name + b": 1\r\nServer-Timing: x\r\n\r\n"
    assert Outcome([data]).out == b"0\r\nA: b\r\nServer-Timing: x\r\n\r\n"


BAD = [
    b"\r\n",
    b"g\r\n",
    b"-1\r\n",
    b"+1\r\n",
    b"0x1\r\n",
    b" 1\r\n",
    b"1 \r\n",
    b"1 ;a\r\n",
    b"1\t\r\n",
    b";a\r\n",
    b"1\n",
    b"1\ra",
    b"1\r\r\n",
    b"1;a\n",
    b"1;a\rb\r\n",
    b"1;\x00\r\n",
    b"1;a=\x0b\r\n",
    b"1;\x7f\r\n",
    b"1;\r\n",
    b"1;a=\r\n",
    b"1;=a\r\n",
    b"1;a b\r\n",
    b"1; a\r\n",
    b"1;a;\r\n",
    b'1;a="\r\n',
    b'1;a="b"c\r\n',
    b"1;a=\xe4\r\n",
    b"00000000000000001\r\n",
    b"8000000000000000\r\n",
    b"ffffffffffffffff\r\n",
    b"1\r\nab\r\n",
    b"1\r\na0\r\n\r\n",
    b"1\r\na\n0\r\n\r\n",
    b"1\r\na\r0",
    b"3\r\nab\r\n0\r\n\r\n",
    b"0\r\n\n",
    b"0\r\n\rA",
    b"0\r\nA\r\n\r\n",
    b"0\r\n: b\r\n\r\n",
    b"0\r\nA : b\r\n\r\n",
    b"0\r\n A: b\r\n\r\n",
    b"0\r\nA: b\r\n c\r\n\r\n",
    b"0\r\nA: b\nC: d\r\n\r\n",
    b"0\r\nA: b\rc\r\n\r\n",
    b"0\r\nA: \x00\r\n\r\n",
    b"0\r\nA: \x7f\r\n\r\n",
    b"0\r\nA\xe4: b\r\n\r\n",
    b"1;" + b"a" * CHUNK_LINE_MAX + b"\r\n",
    b"0\r\nA: " + b"a" * TRAILER_BYTES + b"\r\n\r\n",
    b"0\r\n" + b"A: b\r\n" * (TRAILER_BYTES // 6 + 1) + b"\r\n",
]


@pytest.mark.parametrize("data", BAD)
@pytest.mark.parametrize("before", [b"", b"5\r\nhello\r\n"])
def test_a_malformed_chunked_body_is_refused_at_once(before: bytes, data: bytes) -> None:
    whole = Outcome([before + data], status=502)
    assert whole.refused and whole.finished
    assert whole.fault is not None
    assert (whole.fault.status, whole.fault.detail) == (502, "bad_chunk")
    assert b"0\r\n\r\n" not in whole.out or data.startswith((b"3", b"1\r\na"))
    split = Outcome([before[i : i + 1] for i in range(len(before))] + [data])
    assert (split.out, split.refused) == (whole.out, True)


def test_a_fault_shows_before_the_line_is_complete() -> None:
    # A client that waits for an answer behind `5\n` must not wait for a timeout.
    for data in (b"x", b"5\nhello", b"5;\x00", b"00000000000000000", b"5;" + b"a" * CHUNK_LINE_MAX):
        assert Outcome([data]).refused, data
    for data in (b"", b"5", b"5;", b"5;a=b", b"5\r", b"0000000000000000"):
        assert not Outcome([data]).finished, data


def test_the_limits_are_reached_but_not_passed() -> None:
    line = b"1;" + b"a" * (CHUNK_LINE_MAX - 4)
    assert bare(line + b"\r\nx\r\n0\r\n\r\n") == b"x"
    assert Outcome([line + b"a\r\nx\r\n0\r\n\r\n"]).refused
    value = b"a" * (TRAILER_BYTES - 7)
    assert Outcome([b"0\r\nA: " + value + b"\r\n\r\n"]).trailers == b"A: " + value + b"\r\n"
    assert Outcome([b"0\r\nA: " + value + b"a\r\n\r\n"]).refused
    assert Outcome([b"7fffffffffffffff\r\n"]).body_bytes == 2**63 - 1


def test_the_trailers_limit_is_the_callers_and_0_is_none() -> None:
    trailers = b"A: " + b"a" * 93 + b"\r\n"  # 98 bytes, 100 with the blank line
    for limit, refused in ((100, False), (99, True), (0, False)):
        decoder = ChunkedDecoder(400, limit)
        decoder.reencode(b"0\r\n" + trailers + b"\r\n")
        assert (decoder.finished, decoder.fault is not None) == (True, refused), limit
    unlimited = ChunkedDecoder(400, 0)
    unlimited.reencode(b"0\r\n" + trailers * 1000 + b"\r\n")
    assert unlimited.trailers == trailers * 1000


def test_a_trailer_that_connection_names_goes_no_further() -> None:
    decoder = ChunkedDecoder(400, 0, {b"x-hop", b"close"})
    decoder.reencode(b"0\r\nX-HOP: a\r\nX: b\r\n\r\n")
    assert decoder.trailers == b"X: b\r\n"


def test_a_read_in_the_midst_of_a_chunk_is_passed_on_uncopied() -> None:
    decoder = ChunkedDecoder()
    assert decoder.reencode(b"20000\r\n") == b"20000\r\n"
    data = b"x" * 65536
    assert decoder.reencode(data) is data
    assert decoder.reencode(data) is data
    whole = b"\r\n5\r\nhello\r\n0\r\n\r\n"
    assert decoder.reencode(whole) == whole
    assert decoder.finished and decoder.fault is None
    again = ChunkedDecoder()
    both = b"5\r\nhello\r\n5\r\nwor"
    assert again.reencode(both) is both


def test_an_unfinished_body_never_looks_finished() -> None:
    whole = b"5;x\r\nhello\r\n3\r\nabc\r\n0\r\nA: b\r\n\r\n"
    for cut in range(len(whole)):
        outcome = Outcome([whole[:cut]])
        assert not outcome.finished
        assert not outcome.out.endswith(b"0\r\n\r\n")
        assert b"A" not in outcome.out


def test_memory_is_bounded_by_one_line_or_the_trailers() -> None:
    for stream in (b"1;" + b"a" * 100, b"0\r\n" + b"A: b\r\n" * 100, b"5\r\nhello\r\n" * 100):
        decoder = ChunkedDecoder()
        tracemalloc.start()
        for read in [stream, *[stream[2:]] * 200]:
            if not decoder.finished:
                decoder.reencode(read)
        held, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert held < 4 * TRAILER_BYTES


@pytest.mark.parametrize(
    "read",
    [
        b"0\r\n" + b"A: b\r\n" * 40_000,
        b"0\r\nA: " + b"b" * 250_000,
        b"5" + b";a=b" * 60_000,
        b'5;a="' + b"\\a" * 120_000,
    ],
    ids=["trailers", "a trailer", "extensions", "a quoted extension"],
)
def test_one_long_read_is_refused_without_being_looked_through(read: bytes) -> None:
    """A search may remember 100 bytes for each that it has passed."""
    decoder = ChunkedDecoder()
    tracemalloc.start()
    decoder.reencode(read)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert decoder.fault is not None
    assert peak < 300_000  # the read itself is held, and no more than some lines beside it


# ---------------------------------------------------------------- writing


def test_chunks_are_written() -> None:
    assert chunk(b"") == b""  # an empty chunk would be the last
    assert chunk(b"hello") == b"5\r\nhello\r\n"
    assert chunk(b"x" * 26).startswith(b"1a\r\n")
    assert last_chunk() == b"0\r\n\r\n"
    assert last_chunk(b"A: b\r\n") == b"0\r\nA: b\r\n\r\n"


@given(st.lists(st.binary(max_size=300)))
def test_what_is_written_in_chunks_is_read_again(pieces: list[bytes]) -> None:
    written = b"".join(map(chunk, pieces)) + last_chunk()
    assert bare(written) == b"".join(pieces)
    assert Outcome([written]).out == written


# ---------------------------------------------------------------- properties

SIZES = st.one_of(
    st.integers(0, 20).map(lambda n: b"%x" % n),
    st.sampled_from([b"0005", b"A", b"g", b"", b"1 ", b"00000000000000001", b"fffffffffffffff"]),
)
EXTENSIONS = st.sampled_from(
    [b""] * 6 + [b";a", b';a="b\\"; c"', b";a;b=c", b";", b";\x00", b" ;a", b";a\n", b";\xff"]
)
LINE_ENDS = st.sampled_from([b"\r\n"] * 12 + [b"\n", b"\r", b"", b"\r\r\n"])
TRAILERS = st.lists(
    st.sampled_from(
        [b"A: b\r\n", b"Content-Length: 3\r\n", b"B:\r\n", b"C : d\r\n", b" e\r\n", b"F: g\n", b"H"]
    ),
    max_size=3,
).map(b"".join)


@st.composite
def chunked_bodies(draw: st.DrawFn) -> bytes:
    parts = []
    for _ in range(draw(st.integers(0, 4))):
        data = draw(st.binary(max_size=20))
        size = draw(st.one_of(*[st.just(b"%x" % len(data))] * 6, SIZES))
        parts += [size, draw(EXTENSIONS), draw(LINE_ENDS), data, draw(LINE_ENDS)]
    if draw(st.integers(0, 5)):
        parts += [b"0", draw(EXTENSIONS), draw(LINE_ENDS), draw(TRAILERS), draw(LINE_ENDS)]
    return b"".join(parts) + draw(st.binary(max_size=8))


def split_at(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted({cut % (len(data) + 1) for cut in cuts}), len(data)]
    return [data[begin:end] for begin, end in pairwise(edges)]


class ReadByLlhttp:
    """What llhttp makes of a chunked body; its trailers come after its headers."""

    def __init__(self, data: bytes) -> None:
        self.body = b""
        self.complete = False
        self.refused = False
        parser = httptools.HttpRequestParser(self)
        parser.feed_data(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        try:
            for position in range(len(data)):
                parser.feed_data(data[position : position + 1])
                if self.complete:
                    break
        except httptools.HttpParserError:
            self.refused = True

    def on_body(self, data: bytes) -> None:
        self.body += data

    def on_message_complete(self) -> None:
        self.complete = True


@settings(max_examples=1500, deadline=None)
@given(chunked_bodies(), st.lists(st.integers(0, 200), max_size=6))
@example(b"5;a\r\nhello\r\n0\r\nA: b\r\n\r\nGET", [1, 2, 3, 4, 5])
@example(b"5\r\nhello\r\n0\r\n\r\n", [3, 9, 10, 13, 14])
def test_any_split_into_reads_gives_the_same(data: bytes, cuts: list[int]) -> None:
    for is_bare in (False, True):
        whole = Outcome([data], bare=is_bare)
        assert Outcome(split_at(data, cuts), bare=is_bare) == whole
        single = [data[i : i + 1] for i in range(len(data))]
        assert Outcome(single, bare=is_bare) == whole


@settings(max_examples=1500, deadline=None)
@given(chunked_bodies())
def test_what_is_accepted_llhttp_reads_the_same_and_so_is_what_is_sent_on(data: bytes) -> None:
    outcome = Outcome([data])
    if not outcome.finished or outcome.refused:
        return
    body = bare(data)
    # llhttp refuses a length among the trailers, which is to be dropped, not refused.
    if b"Content-Length" not in data:
        theirs = ReadByLlhttp(data)
        assert (theirs.complete, theirs.refused, theirs.body) == (True, False, body)
    assert b";" not in outcome.out or b";" in body + outcome.trailers
    again = Outcome([outcome.out])
    assert (again.out, again.leftover, again.trailers) == (outcome.out, b"", outcome.trailers)
    assert bare(outcome.out) == body
    assert ReadByLlhttp(outcome.out).body == body
    assert data.endswith(outcome.leftover)


@given(st.binary(max_size=100), st.lists(st.integers(0, 100), max_size=4))
def test_any_bytes_are_read_or_refused_and_nothing_is_raised(junk: bytes, cuts: list[int]) -> None:
    assert Outcome(split_at(junk, cuts)) == Outcome([junk])
