"""The same by property: messages of the grammar, cut anywhere, have one result.

Hypothesis looks for the smallest message that shows a mistake, where the fuzzer looks for any.
The same examples in every run; others with `--hypothesis-profile=default`.
"""

from collections.abc import Iterator

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.fuzz import grammar
from tests.fuzz.drive import ASKED, Worlds, check
from tests.fuzz.results import ENDS, Case

EXAMPLES = 150


@pytest.fixture(scope="module")
def worlds() -> Iterator[Worlds]:
    with Worlds() as found:
        yield found


def either(plain: tuple[bytes, ...], any_of: tuple[bytes, ...]) -> st.SearchStrategy[bytes]:
    """Mostly a plain one, else whichever."""
    return st.one_of(st.sampled_from(plain), st.sampled_from(plain), st.sampled_from(any_of))


LINE_ENDS = st.sampled_from([b"\r\n"] * 40 + [b"\n", b"\r", b"\r\r\n"])
FIELDS = st.lists(either(grammar.FIELDS[:11], grammar.FIELDS), max_size=4)
BODIES = st.one_of(st.sampled_from(grammar.BODIES), st.binary(max_size=30))
CUTS = st.lists(st.integers(0, 400), max_size=4)


@st.composite
def chunked(draw: st.DrawFn, body: bytes) -> bytes:
    out = b""
    while body:
        size = draw(st.integers(1, len(body)))
        line = draw(either(grammar.SIZES[:1], grammar.SIZES)).replace(b"%x", b"%x" % size)
        out += line + draw(LINE_ENDS) + body[:size] + b"\r\n"
        body = body[size:]
    return out + b"0\r\n" + draw(either(grammar.TRAILERS[:1], grammar.TRAILERS)) + b"\r\n"


@st.composite
def framed(draw: st.DrawFn, start: bytes, first: list[bytes]) -> bytes:
    """A message of that start line and those fields, others, and a body framed in some way."""
    fields = first + draw(FIELDS)
    body = draw(BODIES)
    how = draw(st.sampled_from(["none", "length", "chunked"]))
    if how == "none":
        body = b""
    elif how == "length":
        length = draw(either(grammar.LENGTHS[:1], grammar.LENGTHS))
        fields.append(length.replace(b"%d", b"%d" % len(body)))
    else:
        fields.append(draw(either(grammar.CODINGS[:1], grammar.CODINGS)))
        body = draw(chunked(body))
    fields = draw(st.permutations(fields))
    lines = [start, *fields]
    return b"".join(line + draw(LINE_ENDS) for line in lines) + b"\r\n" + body


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    start = b" ".join(
        (
            draw(either(grammar.METHODS[:10], grammar.METHODS)),
            draw(either(grammar.TARGETS[:5], grammar.TARGETS)),
            draw(either(grammar.VERSIONS[:1], grammar.VERSIONS)),
        )
    )
    return draw(framed(start, [draw(either(grammar.HOSTS[:1], grammar.HOSTS))]))


@st.composite
def answers(draw: st.DrawFn) -> bytes:
    interim = draw(st.lists(st.sampled_from(grammar.INTERIMS), max_size=4))
    start = draw(either(grammar.STATUS_LINES[:1], grammar.STATUS_LINES))
    behind = draw(st.sampled_from([b"", b"", b"x", b"\r\n", b"HTTP/1.1 200 OK\r\n\r\n"]))
    return b"".join(interim) + draw(framed(start, [])) + behind


def must_be_one_result(worlds: Worlds, case: Case, cuts: list[int]) -> None:
    found, _ = check(worlds, case, cuts)
    assert [f"{one.way}: {one.text}" for one in found] == []


@settings(max_examples=EXAMPLES)
@given(st.lists(requests(), min_size=1, max_size=3), CUTS, st.sampled_from(ENDS),
       st.sampled_from(("tight", "wide", "trusting", "healthy")))  # fmt: skip
@example([b"BREW / HTTP/1.1\r\nHost: a\n\n\r\n\r\n"], [], "stay", "tight")
@example([b"\r\n\r\n\r\n\r\n", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"], [2], "stay", "tight")
def test_requests_have_one_result_however_they_come(
    worlds: Worlds, messages: list[bytes], cuts: list[int], end: str, where: str
) -> None:
    data = b"".join(messages)
    must_be_one_result(worlds, Case("request", data, end=end, world=where), cuts)  # type: ignore[arg-type]


@settings(max_examples=EXAMPLES)
@given(answers(), CUTS, st.sampled_from(sorted(ASKED)), st.sampled_from(ENDS),
       st.sampled_from(("tight", "wide")))  # fmt: skip
@example(b"HTTP/1.1 200 OK\r\nContent_Length: 3\r\n\r\nabc", [], "get", "eof", "tight")
def test_an_answer_has_one_result_however_it_comes(
    worlds: Worlds, data: bytes, cuts: list[int], asked: str, end: str, where: str
) -> None:
    must_be_one_result(worlds, Case("answer", data, asked, end, where), cuts)  # type: ignore[arg-type]


@settings(max_examples=EXAMPLES)
@given(st.binary(min_size=1, max_size=60), CUTS, st.sampled_from(("request", "answer")))
def test_any_bytes_have_one_result_however_they_come(
    worlds: Worlds, data: bytes, cuts: list[int], kind: str
) -> None:
    must_be_one_result(worlds, Case(kind, data), cuts)  # type: ignore[arg-type]
