"""Who else may read what was passed on: three readers, and one that suspects everything.

A message that Turnout passes on has exactly one reading. So all of them must find the same
messages in it, with the same fields and bodies, and end each at the same byte.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import h11
import httptools

Fields = tuple[tuple[bytes, bytes], ...]


@dataclass(frozen=True)
class Message:
    """One message, as a reader has it. Field names in lower case."""

    start: tuple[bytes, bytes]
    """Method and target, or status and nothing."""
    fields: Fields
    body: bytes
    raw: bytes = b""
    """All of its bytes; only of our own reader."""

    def get(self, name: bytes) -> bytes | None:
        return next((value for key, value in self.fields if key == name), None)


class Unreadable(Exception):
    """It cannot be read, or could be read in another way."""


_NAME: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_REQUEST_LINE: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+) ([!-~]+) HTTP/1\.1")
_STATUS_LINE: Final = re.compile(rb"HTTP/1\.1 ([1-9][0-9][0-9]) [\t -~\x80-\xff]*")
_VALUE: Final = re.compile(rb"[\t -~\x80-\xff]*")
_CHUNK_SIZE: Final = re.compile(rb"([0-9A-Fa-f]{1,16})\r\n")


def read_head(data: bytes) -> tuple[bytes, Fields, int] | None:
    """Return start line, fields and where the head ends; None while it is not whole.

    Raises Unreadable for whatever somebody could read in another way.
    """
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return None
    start, *lines = data[:end].split(b"\r\n")
    fields = []
    for line in lines:
        name, colon, value = line.partition(b":")
        if not colon or _NAME.fullmatch(name) is None or _VALUE.fullmatch(value) is None:
            raise Unreadable(f"the field {line!r}")
        fields.append((name.lower(), value.strip(b" \t")))
    _suspect(tuple(fields))
    return start, tuple(fields), end + 4


def _suspect(fields: Fields) -> None:
    """Somebody takes `_` for `-`, the first of two fields, or the last."""
    names = [name.replace(b"_", b"-") for name, _ in fields]
    lengths = [value for (_, value), name in zip(fields, names, strict=True)
               if name == b"content-length"]  # fmt: skip
    codings = [value for (_, value), name in zip(fields, names, strict=True)
               if name == b"transfer-encoding"]  # fmt: skip
    if len(lengths) + len(codings) > 1:
        raise Unreadable(f"lengths {lengths} and codings {codings}")
    if lengths and re.fullmatch(rb"0|[1-9][0-9]{0,18}", lengths[0]) is None:
        raise Unreadable(f"the length {lengths[0]!r}")
    if codings and codings[0] != b"chunked":
        raise Unreadable(f"the coding {codings[0]!r}")


def read_chunked(data: bytes, position: int) -> tuple[bytes, int, bool]:
    """Return what is there of a chunked body, where that ends, and whether it is all of it."""
    body = bytearray()
    while True:
        line = _CHUNK_SIZE.match(data, position)
        if line is None:
            if data.find(b"\r\n", position) >= 0 or len(data) - position > 18:
                raise Unreadable(f"the chunk {data[position : position + 20]!r}")
            return bytes(body), len(data), False
        size = int(line[1], 16)
        position = line.end()
        if not size:
            break
        body += data[position : position + size]
        if len(data) < position + size + 2:
            return bytes(body), len(data), False
        if data[position + size : position + size + 2] != b"\r\n":
            raise Unreadable(f"a chunk's end {data[position + size : position + size + 2]!r}")
        position += size + 2
    if data.startswith(b"\r\n", position):
        return bytes(body), position + 2, True
    trailers = read_head(b"\r\n" + data[position:])
    if trailers is None:
        return bytes(body), len(data), False
    _, fields, end = trailers
    for name, _ in fields:
        if name.replace(b"_", b"-") in (b"content-length", b"transfer-encoding", b"host"):
            raise Unreadable(f"the trailer {name!r}")
    return bytes(body), position + end - 2, True


def read_request(data: bytes) -> Message | None:
    """Return the first request, None while it is not whole. Raises Unreadable."""
    head = read_head(data)
    if head is None:
        return None
    start, fields, end = head
    line = _REQUEST_LINE.fullmatch(start)
    if line is None:
        raise Unreadable(f"the request line {start!r}")
    if [name.replace(b"_", b"-") for name, _ in fields].count(b"host") != 1:
        raise Unreadable("not one Host")
    named = dict(fields)
    if b"transfer-encoding" in named:
        body, end, whole = read_chunked(data, end)
        if not whole:
            return None
    else:
        size = int(named.get(b"content-length", b"0"))
        if len(data) < end + size:
            return None
        body, end = data[end : end + size], end + size
    return Message((line[1], line[2]), fields, body, data[:end])


@dataclass(frozen=True)
class Answer:
    """What a client has got for a request."""

    status: int
    fields: Fields
    body: bytes
    whole: bool
    """It ended as it had said that it would."""
    interims: int
    size: int
    """Bytes of all of it."""

    def get(self, name: bytes) -> bytes | None:
        return next((value for key, value in self.fields if key == name), None)


def read_answer(data: bytes, method: bytes, *, ended: bool) -> Answer | None:
    """Return the first answer; None if no whole head is there. `ended`: cleanly, by close.

    Raises Unreadable.
    """
    position = interims = 0
    while True:
        head = read_head(data[position:])
        if head is None:
            return None
        start, fields, size = head
        line = _STATUS_LINE.fullmatch(start)
        if line is None:
            raise Unreadable(f"the status line {start!r}")
        status = int(line[1])
        position += size
        if status >= 200 or status == 101:
            break
        interims += 1
    named = dict(fields)
    whole = True
    if method == b"HEAD" or status in (101, 204, 304):
        body = b""
    elif b"transfer-encoding" in named:
        body, end, whole = read_chunked(data, position)
        return Answer(status, fields, body, whole, interims, end)
    elif b"content-length" in named:
        length = int(named[b"content-length"])
        body = data[position : position + length]
        whole = len(body) == length
    else:
        body = data[position:]
        whole = ended
    return Answer(status, fields, body, whole, interims, position + len(body))


def only_interims(data: bytes) -> bool:
    """Whether `data` is whole 1xx heads and nothing else."""
    while data:
        head = read_head(data)
        if head is None or not head[0].startswith(b"HTTP/1.1 1"):
            return False
        data = data[head[2] :]
    return True


# ---------------------------------------------------------------- llhttp and h11


class _Listener:
    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.parser: Any = None
        self._url = b""
        self._fields: list[tuple[bytes, bytes]] = []
        self._in_body = False
        self._body = b""

    def on_message_begin(self) -> None:
        self._url, self._body, self._in_body, self._fields = b"", b"", False, []

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._in_body:  # else a trailer
            self._fields.append((name.lower(), value.strip(b" \t")))

    def on_headers_complete(self) -> None:
        self._in_body = True

    def on_body(self, data: bytes) -> None:
        self._body += data

    def on_message_complete(self) -> None:
        if isinstance(self.parser, httptools.HttpRequestParser):
            start = (self.parser.get_method(), self._url)
        else:
            start = (b"%d" % self.parser.get_status_code(), b"")
        self.messages.append(Message(start, tuple(self._fields), self._body))


def _feed(parser: Any, data: bytes) -> None:
    try:
        parser.feed_data(data)
    except httptools.HttpParserUpgrade:
        pass  # stops behind this one
    except httptools.HttpParserError as error:
        raise Unreadable(f"llhttp: {error}") from error


def llhttp_request(data: bytes) -> list[Message]:
    """Return the requests that llhttp finds. Raises Unreadable."""
    listener = _Listener()
    listener.parser = httptools.HttpRequestParser(listener)
    _feed(listener.parser, data)
    return listener.messages


def llhttp_answer(data: bytes) -> list[Message]:
    """Return the answers that llhttp finds, interim ones not. Raises Unreadable."""
    listener = _Listener()
    listener.parser = httptools.HttpResponseParser(listener)
    _feed(listener.parser, data)
    return [one for one in listener.messages if not one.start[0].startswith(b"1")]


def _h11_message(connection: h11.Connection, data: bytes, *, ended: bool = False) -> list[Message]:
    try:
        connection.receive_data(data)
        if ended:
            connection.receive_data(b"")
        event = connection.next_event()
        while isinstance(event, h11.InformationalResponse):
            event = connection.next_event()
        if isinstance(event, h11.Request):
            start = (event.method, event.target)
        elif isinstance(event, h11.Response):
            start = (b"%d" % event.status_code, b"")
        else:
            return []
        fields = tuple((name, value.strip(b" \t")) for name, value in event.headers)
        body = b""
        while isinstance(event := connection.next_event(), h11.Data):
            body += event.data
        behind, _ = connection.trailing_data
    except h11.ProtocolError as error:
        raise Unreadable(f"h11: {error}") from error
    if not isinstance(event, h11.EndOfMessage):
        return []
    if behind:
        raise Unreadable(f"h11 leaves {behind!r}")
    return [Message(start, fields, body)]


def h11_request(data: bytes) -> list[Message]:
    """Return the request that h11 finds in `data`, which must be all of it. Raises Unreadable."""
    return _h11_message(h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20), data)


def h11_answer(data: bytes, method: bytes) -> list[Message]:
    """Return the final answer that h11 finds. Raises Unreadable."""
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=1 << 20)
    connection.send(h11.Request(method=method, target=b"/", headers=[(b"host", b"a")]))
    connection.send(h11.EndOfMessage())
    return _h11_message(connection, data, ended=True)


def check_request(one: Message) -> None:
    """Raises Unreadable unless llhttp and h11 find in its bytes what we do, and nothing more."""
    mine = Message(one.start, one.fields, one.body)
    for name, reader in (("llhttp", llhttp_request), ("h11", h11_request)):
        theirs = reader(one.raw)
        if theirs != [mine]:
            raise Unreadable(f"{name} reads {theirs!r}, we read {mine!r}")


def check_answer(data: bytes, one: Answer, method: bytes) -> None:
    """The same for an answer that its client has got whole. llhttp can read neither one to HEAD nor
    the end of one that ends by close."""
    mine = Message((b"%d" % one.status, b""), one.fields, one.body)
    readers: dict[str, Callable[[], list[Message]]] = {"h11": lambda: h11_answer(data, method)}
    if method != b"HEAD" and (one.get(b"content-length") or one.get(b"transfer-encoding")):
        readers["llhttp"] = lambda: llhttp_answer(data)
    for name, reader in readers.items():
        theirs = reader()
        if theirs != [mine]:
            raise Unreadable(f"{name} reads {theirs!r}, we read {mine!r}")
