"""What a client got, in bytes, read by h11 and llhttp: how many answers, and whether whole."""

from dataclasses import dataclass, field
from typing import Any

import h11
import httptools

from tests.conformance.readers import Pairs, _pairs


@dataclass(slots=True)
class Got:
    """One answer, with the interim ones before it."""

    status: int
    fields: Pairs
    body: bytes = b""
    trailers: Pairs = ()
    interims: list[int] = field(default_factory=list)
    whole: bool = False

    def all(self, name: str) -> list[str]:
        return [value.decode("latin-1") for key, value in self.fields if key.decode() == name]

    @property
    def closes(self) -> bool:
        options = ",".join(self.all("connection")).lower().split(",")
        return "close" in [option.strip() for option in options]


class Unreadable(AssertionError):
    """What the client got is not what a server may send it."""


def read_answers(data: bytes, methods: list[str], ended: str, minor: int = 1) -> list[Got]:
    """The answers to requests of these methods, in their order, as h11 reads them; those that
    did not come are missing. `ended` is how the connection ended: closed, reset, or `open`.

    Raises Unreadable if it is not HTTP/1.1, if more came than was asked for, or if llhttp
    does not find the same ends.
    """
    found: list[Got] = []
    rest = data
    for method in methods:
        if not rest:
            break
        got, behind = _one(rest, method, ended, minor)
        found.append(got)
        if not got.whole:
            return found
        taken, rest = rest[: len(rest) - len(behind)], behind
        _agrees(taken, method, got, rest == b"" and ended != "open")
    if rest:
        raise Unreadable(f"more came than was asked for: {rest[:300]!r}")
    return found


def _one(data: bytes, method: str, ended: str, minor: int) -> tuple[Got, bytes]:
    link = h11.Connection(h11.CLIENT, max_incomplete_event_size=1 << 22)
    fields = [("Host", "a"), ("Connection", "keep-alive")]
    link.send(h11.Request(method=method, target="/", headers=fields))
    link.send(h11.EndOfMessage())
    link.receive_data(data)
    if ended == "closed":
        link.receive_data(b"")
    interims: list[int] = []
    got: Got | None = None
    try:
        while True:
            event = link.next_event()
            if isinstance(event, h11.InformationalResponse):
                interims.append(event.status_code)
            elif isinstance(event, h11.Response):
                got = Got(event.status_code, _pairs(event.headers), interims=interims)
            elif isinstance(event, h11.Data):
                assert got is not None
                got.body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                assert got is not None
                got.trailers = _pairs(event.headers)
                got.whole = True
                return got, link.trailing_data[0]
            else:
                return got or Got(0, (), interims=interims), b""
    except h11.RemoteProtocolError as error:
        # h11 says the same of an end amid a body, which is an answer cut short.
        if ended == "closed" and _is_about_an_end(error):
            return got or Got(0, (), interims=interims), b""
        raise Unreadable(f"h11: {error}: {data[:600]!r}") from error


def _is_about_an_end(error: h11.RemoteProtocolError) -> bool:
    text = str(error)
    return "peer closed connection" in text or "peer unexpectedly closed" in text


class _Llhttp:
    def __init__(self) -> None:
        self.ends = 0
        self.body = b""

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.ends += 1


def _agrees(data: bytes, method: str, got: Got, at_end: bool) -> None:
    """llhttp must find as many ends in `data`, and none before its last byte."""
    if method == "HEAD":
        return  # it cannot be told that it reads the answer to one
    until_close = got.status not in (204, 304) and not (
        got.all("content-length") or got.all("transfer-encoding")
    )
    wanted = len(got.interims) + (0 if until_close else 1)
    for data_read, ends in ((data, wanted), (data[:-1], wanted - (not until_close))):
        seen = _Llhttp()
        parser: Any = httptools.HttpResponseParser(seen)
        try:
            parser.feed_data(data_read)
        except httptools.HttpParserUpgrade:
            pass
        except httptools.HttpParserError as error:
            raise Unreadable(f"llhttp: {error}: {data[:600]!r}") from error
        if seen.ends != ends or (data_read is data and seen.body != got.body):
            raise Unreadable(f"llhttp finds {seen.ends} ends, not {ends}: {data[:600]!r}")
    if until_close and not at_end:
        raise Unreadable(f"an answer without an end on a connection that goes on: {data[:600]!r}")
