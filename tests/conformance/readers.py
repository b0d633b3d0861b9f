"""Readers of HTTP/1 that share nothing with the product's own, and nothing with each other.

h11 (Python, a grammar in regular expressions), llhttp (C, a generated state machine; by way of
httptools) and gunicorn's (Python, by hand) are asked what stands in the bytes that a server
received. They are strict, so beside them stand *loose* readers: each makes one mistake that
some server was once known for (`QUIRKS`). Bytes that all of these read alike are read alike
by anyone. (Who counts in 32 bits is not among them: sizes beyond that are passed on.)
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import h11
import httptools
from gunicorn.config import Config  # type: ignore[import-untyped]
from gunicorn.http.errors import NoMoreData, ParseException  # type: ignore[import-untyped]
from gunicorn.http.parser import RequestParser  # type: ignore[import-untyped]

Pairs = tuple[tuple[bytes, bytes], ...]


@dataclass(frozen=True, slots=True)
class Message:
    """A request as somebody read it; names in lower case."""

    method: bytes
    target: bytes
    version: bytes
    fields: Pairs
    body: bytes
    trailers: Pairs = ()


@dataclass(frozen=True, slots=True)
class Reading:
    """What stands in a connection's bytes: whole requests, and how it ends behind them."""

    messages: tuple[Message, ...]
    end: str
    """`clean`, `unfinished`: a request has begun, or `refused`: not HTTP/1.1 to this reader."""


def _pairs(fields: Any) -> Pairs:
    return tuple((bytes(name).lower(), bytes(value).strip(b" \t")) for name, value in fields)


# ---------------------------------------------------------------- requests


def read_by_h11(data: bytes) -> Reading:
    """What h11 reads, as a server that declines every upgrade."""
    link = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    if data:
        link.receive_data(data)
    found: list[Message] = []
    head: h11.Request | None = None
    body = b""
    try:
        while True:
            event = link.next_event()
            if isinstance(event, h11.Request):
                head, body = event, b""
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                assert head is not None
                fields, trailers = _pairs(head.headers), _pairs(event.headers)
                found.append(
                    Message(head.method, head.target, head.http_version, fields, body, trailers)
                )
                head = None
                link.send(h11.Response(status_code=200, headers=[("Content-Length", "0")]))
                link.send(h11.EndOfMessage())
                if link.our_state is h11.MUST_CLOSE:
                    return Reading(tuple(found), "unfinished" if link.trailing_data[0] else "clean")
                link.start_next_cycle()
            else:
                rest = head is not None or link.trailing_data[0].strip(b"\r\n")
                return Reading(tuple(found), "unfinished" if rest else "clean")
    except h11.RemoteProtocolError:
        return Reading(tuple(found), "refused")


class _Llhttp:
    """What llhttp calls while it reads requests."""

    def __init__(self) -> None:
        self.found: list[Message] = []
        self.begun = False
        self.parser: Any = None
        self.on_message_begin()

    def on_message_begin(self) -> None:
        self.begun = self.parser is not None
        self.target, self.body = b"", b""
        self.fields: list[tuple[bytes, bytes]] = []
        self.head_fields = 0

    def on_url(self, target: bytes) -> None:
        self.target += target

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name, value))

    def on_headers_complete(self) -> None:
        self.head_fields = len(self.fields)

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.begun = False
        self.found.append(
            Message(
                self.parser.get_method(),
                self.target,
                self.parser.get_http_version().encode(),
                _pairs(self.fields[: self.head_fields]),
                self.body,
                _pairs(self.fields[self.head_fields :]),
            )
        )


def read_by_llhttp(data: bytes) -> Reading:
    """What llhttp reads, strict as httptools has it, by a server that declines every upgrade."""
    seen = _Llhttp()
    while True:
        seen.parser = httptools.HttpRequestParser(seen)
        try:
            seen.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            data = data[upgrade.args[0] :]
            seen.begun = False
            if data:
                continue
        except httptools.HttpParserError:
            return Reading(tuple(seen.found), "refused")
        return Reading(tuple(seen.found), "unfinished" if seen.begun else "clean")


_GUNICORN: Final = Config()
_GUNICORN.set("header_map", "dangerous")  # a name with `_` is passed on, not passed over


def read_by_gunicorn(data: bytes) -> Reading:
    """What gunicorn's own parser reads."""
    found: list[Message] = []
    parser = RequestParser(_GUNICORN, iter([data] if data else []), ("127.0.0.1", 1))
    try:
        for request in parser:
            fields = _pairs(
                (name.encode(), value.encode("latin-1")) for name, value in request.headers
            )
            body = request.body.read()
            lengths = [int(value) for name, value in fields if name == b"content-length"]
            if lengths and len(body) < lengths[0]:
                return Reading(tuple(found), "unfinished")  # it says nothing of that itself
            trailers = _pairs(
                (name.encode(), value.encode("latin-1")) for name, value in request.trailers
            )
            version = b"%d.%d" % request.version
            found.append(
                Message(
                    request.method.encode(), request.uri.encode(), version, fields, body, trailers
                )
            )
    except (NoMoreData, StopIteration):
        return Reading(tuple(found), "unfinished")
    except ParseException:
        return Reading(tuple(found), "refused")
    return Reading(tuple(found), "clean")


STRICT: Final[Mapping[str, Callable[[bytes], Reading]]] = {
    "h11": read_by_h11,
    "llhttp": read_by_llhttp,
    "gunicorn": read_by_gunicorn,
}

# ---------------------------------------------------------------- readers that are too kind

QUIRKS: Final = {
    "bare LF": "takes LF alone for the end of a line",
    "bare CR": "takes CR alone for the end of a line",
    "fold": "joins a line that begins with white space to the one before",
    "no fold": "takes a line that begins with white space for a field of its own",
    "name": "strips white space and control bytes from a field's name",
    "underscore": "takes `_` for `-` in a name, as CGI and WSGI do",
    "value": "strips every control byte from a value",
    "nul": "ends a value at NUL, as C does",
    "last": "takes the last of several fields, not the first",
    "length first": "believes a Content-Length beside a Transfer-Encoding",
    "coding": "takes every Transfer-Encoding that contains `chunked` for it",
    "any coding": "takes every Transfer-Encoding for chunked",
    "prefix": "reads a number up to the first byte that is not a digit",
    "python": "reads a number by Python's int(): signs, underscores, spaces, 0x",
    "list": "takes the last of a list of lengths",
    "extension": "ends a chunk extension at LF",
    "no extension": "knows no chunk extension",
    "two bytes": "passes over two bytes behind a chunk, whatever they are",
}
"""The mistakes, one a reader. Each was some server's: the advisories of HTTP Garden's list,
`HTTP Desync Attacks` (2019), `HTTP Request Smuggling in 2020`."""

_CONTROL: Final = bytes(range(33)) + b"\x7f"


class Stopped(Exception):
    """The bytes end here, or cannot be read any further."""


def read_loosely(data: bytes, quirk: str) -> Reading:
    """What a reader with one of the `QUIRKS` reads. Asks for no more form than it needs."""
    found: list[Message] = []
    position = 0
    while True:
        while data.startswith((b"\r", b"\n"), position):
            position += 1
        if position >= len(data):
            return Reading(tuple(found), "clean")
        try:
            message, position = _read_one(data, position, quirk)
        except Stopped as stopped:
            return Reading(tuple(found), str(stopped))
        found.append(message)


def _read_one(data: bytes, position: int, quirk: str) -> tuple[Message, int]:
    end_of_line = {"bare LF": rb"\r?\n", "bare CR": rb"\r\n|\r|\n"}.get(quirk, rb"\r\n")
    lines: list[bytes] = []
    while True:
        ended = re.compile(end_of_line).search(data, position)
        if ended is None:
            raise Stopped("unfinished")
        line, position = data[position : ended.start()], ended.end()
        if not line:
            break
        if quirk == "fold" and line[:1] in (b" ", b"\t") and len(lines) > 1:
            lines[-1] += line
        else:
            lines.append(line)
    words = lines[0].split()
    if len(words) != 3:
        raise Stopped("refused")
    fields = tuple(_field(line, quirk) for line in lines[1:])
    method, target, version = words
    rest, position, trailers = _body(data, position, fields, quirk, end_of_line)
    return Message(method, target, version.partition(b"/")[2], fields, rest, trailers), position


def _field(line: bytes, quirk: str) -> tuple[bytes, bytes]:
    name, _, value = line.partition(b":")
    if quirk == "name":
        name = name.strip(_CONTROL)
    if quirk == "underscore":
        name = name.replace(b"_", b"-")
    if quirk == "nul":
        value = value.partition(b"\0")[0]
    return name.lower(), value.strip(_CONTROL if quirk == "value" else b" \t")


def _body(
    data: bytes, position: int, fields: Pairs, quirk: str, end_of_line: bytes
) -> tuple[bytes, int, Pairs]:
    index = -1 if quirk == "last" else 0
    lengths = [value for name, value in fields if name == b"content-length"]
    codings = [value.lower() for name, value in fields if name == b"transfer-encoding"]
    coding = codings[index] if codings else b""
    chunked = {
        "coding": b"chunked" in coding,
        "any coding": bool(codings),
    }.get(quirk, coding == b"chunked")
    if lengths and (quirk == "length first" or not chunked):
        value = lengths[index]
        if quirk == "list":
            value = value.rpartition(b",")[2]
        size = _number(value, 10, quirk)
        if position + size > len(data):
            raise Stopped("unfinished")
        return data[position : position + size], position + size, ()
    if not chunked:
        return b"", position, ()
    line_end = re.compile(rb"\r?\n" if quirk == "extension" else end_of_line)
    body = b""
    while True:
        ended = line_end.search(data, position)
        if ended is None:
            raise Stopped("unfinished")
        digits, extended, _ = data[position : ended.start()].partition(b";")
        if extended and quirk == "no extension":
            raise Stopped("refused")
        size = _number(digits, 16, quirk)
        position = ended.end()
        if not size:
            break
        if position + size > len(data):
            raise Stopped("unfinished")
        body += data[position : position + size]
        position += size
        if quirk == "two bytes":
            position += 2
        elif (behind := line_end.match(data, position)) is not None:
            position = behind.end()
        elif position + 2 > len(data):
            raise Stopped("unfinished")
        else:
            raise Stopped("refused")
    trailers: list[tuple[bytes, bytes]] = []
    while True:
        ended = re.compile(end_of_line).search(data, position)
        if ended is None:
            raise Stopped("unfinished")
        line, position = data[position : ended.start()], ended.end()
        if not line:
            return body, position, tuple(trailers)
        trailers.append(_field(line, quirk))


def _number(value: bytes, base: int, quirk: str) -> int:
    digits = re.match(rb"[0-9]+" if base == 10 else rb"[0-9A-Fa-f]+", value)
    if quirk == "python":
        try:
            return int(value, base)
        except ValueError:
            raise Stopped("refused") from None
    if digits is None or (quirk != "prefix" and len(digits[0]) != len(value)):
        raise Stopped("refused")
    return int(digits[0], base)


def readings(data: bytes) -> dict[str, Reading]:
    """What each reader makes of the same bytes."""
    found = {name: read(data) for name, read in STRICT.items()}
    return found | {quirk: read_loosely(data, quirk) for quirk in QUIRKS}
