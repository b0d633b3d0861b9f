"""The judge itself: what it must find, in bytes that were never sent."""

import pytest

from tests.conformance.answers import Unreadable, read_answers
from tests.conformance.judge import Ambiguous, as_sent, heard
from tests.conformance.readers import QUIRKS, STRICT, read_loosely, readings

HEAD = b"POST /seen HTTP/1.1\r\nHost: a\r\n"
INNER = b"GET /hidden HTTP/1.1\r\nHost: a\r\n\r\n"
PLAIN = HEAD + b"Content-Length: 5\r\n\r\nhello" + INNER
CHUNKS = HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX: a\r\n\r\n" + INNER

# For each mistake bytes that it reads in another way than somebody else.
READ_IN_TWO_WAYS = {
    "bare LF": HEAD + b"X: y\nContent-Length: 33\r\n\r\n" + INNER,
    "bare CR": HEAD + b"X: y\rContent-Length: 33\r\n\r\n" + INNER,
    "fold": HEAD + b"Content-Length: 3\r\n 3\r\n\r\n" + INNER,
    "no fold": HEAD + b"X: y\r\n Content-Length: 33\r\n\r\n" + INNER,
    "name": HEAD + b"Content-Length : 33\r\n\r\n" + INNER,
    "underscore": HEAD + b"Content_Length: 33\r\n\r\n" + INNER,
    "value": HEAD + b"Transfer-Encoding: \x0bchunked\r\n\r\n21\r\n" + INNER + b"\r\n0\r\n\r\n",
    "nul": HEAD + b"Transfer-Encoding: chunked\0x\r\n\r\n0\r\n\r\n" + INNER,
    "last": HEAD + b"Content-Length: 0\r\nContent-Length: 33\r\n\r\n" + INNER,
    "length first": HEAD + b"Content-Length: 38\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + INNER,
    "coding": HEAD + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + INNER,
    "any coding": HEAD + b"Transfer-Encoding: x\r\n\r\n0\r\n\r\n" + INNER,
    "prefix": HEAD + b"Content-Length: 33x\r\n\r\n" + INNER,
    "python": HEAD + b"Content-Length: +3_3\r\n\r\n" + INNER,
    "list": HEAD + b"Content-Length: 0,33\r\n\r\n" + INNER,
    "extension": HEAD + b"Transfer-Encoding: chunked\r\n\r\n5;\nhello\r\n0\r\n\r\n" + INNER,
    "no extension": HEAD + b"Transfer-Encoding: chunked\r\n\r\n0;a\r\n\r\n" + INNER,
    "two bytes": HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\naXX0\r\n\r\n" + INNER,
}  # fmt: skip


@pytest.mark.parametrize("data", [PLAIN, CHUNKS, INNER * 3, b""])
def test_plain_bytes_are_read_alike_by_all(data: bytes) -> None:
    one = heard(data)
    assert not one.unfinished
    assert [message.target for message in one.messages][-1:] == ([b"/hidden"] if data else [])
    assert one.messages == STRICT["gunicorn"](data).messages


@pytest.mark.parametrize("data", [PLAIN, CHUNKS])
def test_bytes_without_an_end_are_unfinished_to_all(data: bytes) -> None:
    whole = len(data) - len(INNER)
    for end in range(1, whole):
        if data[end - 1] == 13:
            continue  # a CR is an end to one of them
        one = heard(data[:end])
        assert one.unfinished and not one.messages, data[:end]
    assert len(heard(data[:whole]).messages) == 1


@pytest.mark.parametrize("quirk", QUIRKS)
def test_each_mistake_is_one(quirk: str) -> None:
    """A reader without a mistake would show nothing."""
    data = READ_IN_TWO_WAYS[quirk]
    mistaken = read_loosely(data, quirk)
    others = [read_loosely(data, other) for other in QUIRKS if other != quirk]
    assert any(mistaken.messages != other.messages for other in others)


@pytest.mark.parametrize("quirk", READ_IN_TWO_WAYS)
def test_what_can_be_read_in_two_ways_is_found(quirk: str) -> None:
    with pytest.raises(Ambiguous):
        heard(READ_IN_TWO_WAYS[quirk])


def test_a_request_that_says_not_where_it_comes_from_is_found() -> None:
    (message,) = heard(INNER).messages
    with pytest.raises(AssertionError, match="x-forwarded-for stands 0 times"):
        as_sent(message)


def test_no_reader_is_asked_that_is_not_there() -> None:
    assert len(readings(PLAIN)) == len(STRICT) + len(QUIRKS)
    assert len(STRICT) >= 2


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@pytest.mark.parametrize(
    "data",
    [
        OK + OK,
        OK + b"\r\n",
        OK.replace(b"\r\n", b"\n"),
        OK.replace(b"2", b"2, 2", 1),
        b"HTTP/1.1 200 OK\r\nX: a\0\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nokk",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)
def test_an_answer_that_is_none_is_found(data: bytes) -> None:
    with pytest.raises(Unreadable):
        read_answers(data, ["GET"], "closed")


@pytest.mark.parametrize("end", range(len(OK)))
def test_an_answer_that_is_cut_short_is_not_whole(end: int) -> None:
    assert not any(answer.whole for answer in read_answers(OK[:end], ["GET"], "closed"))
    (answer,) = read_answers(OK, ["GET"], "closed")
    assert (answer.whole, answer.body) == (True, b"ok")
