"""Pure: the commonest heads of both directions, read in fewer steps.

A request without a body or with one that came with its head, and a final answer of declared
length, on connections that go on: nearly every one. What `head.parse_request` and `response_head.parse_response` say of it these
two say as well, for half the instructions, or they say None: then the full readers are asked,
which also say what is wrong. They are as strict: llhttp reads every head too, and one search
of ours finds any field that means something to a proxy.
"""

import re
from typing import Final

import httptools

from turnout.proxy.fields import field_scan
from turnout.proxy.framing import BodyKind
from turnout.proxy.head import FIELDS as REQUEST_FIELDS
from turnout.proxy.head import Listener, RequestHead
from turnout.proxy.target import hosts

PlainRequest = tuple[bytes, bytes, bytes, bytes, bytes, bool, int]
"""Method, path without query, name to route by, Host as it is passed on, what else is; whether
the connection is to go on; bytes of the body."""
PlainAnswer = tuple[int, int, bytes]
"""Status, bytes of the body, what is passed on of the head."""

_CONNECTION: Final = REQUEST_FIELDS.groupindex["connection"]
_ON_OR_NOT: Final = frozenset((b"keep-alive", b"close"))
_HOST: Final = REQUEST_FIELDS.groupindex["host"]
_LENGTH_OF_REQUEST: Final = REQUEST_FIELDS.groupindex["length"]

_pending: Final[list[bool]] = []
_requests: Final = httptools.HttpRequestParser(Listener(_pending))
_answers: Final = httptools.HttpResponseParser(Listener(_pending))


# As `target.ORIGIN_FORM`, without what is not plain. No group of it is possessive: Python before
# 3.11.5 goes on amid one that did not match (gh-106052), and a first Host was passed over so.
_START: Final = re.compile(
    rb"([A-Z-]+) (/[!\"$->@-~]*)(?:\?[!\"$-~]*)? HTTP/1\.1\r\n(?:[Hh]ost: ?([!-~]*)\r\n)?"
)


def read_plain_request(data: bytes, end: int, fields_max: int) -> PlainRequest | None:
    """Read the head `data[:end]` of a request whose whole body is the rest of `data`, mostly
    none, that speaks HTTP/1.1, names a host that is known and says nothing to a proxy but
    whether the connection is to go on; None for any other, and for one that is not to be passed
    on. `fields_max` as for `parse_request`."""
    size = len(data) - end
    head = data[:end] if size else data
    start = _START.match(head)
    if start is None or (end > 4 * fields_max > 0 and head.count(b"\r\n") > fields_max + 2):
        return None
    method, path, authority = start.groups()
    kept = b""
    keep_alive = True
    is_whole = not size
    field = REQUEST_FIELDS.search(head, start.end() - 1)
    while field is not None:
        begin, end = field.span()
        kind = field.lastindex
        if kind == _HOST and authority is None:
            authority = field[_HOST]
        elif kind == _CONNECTION and not kept and field[_CONNECTION] in _ON_OR_NOT:
            keep_alive = field[_CONNECTION] != b"close"
            kept = head[: begin + 1] + head[end + 2 : -2]
        elif kind == _LENGTH_OF_REQUEST and not is_whole and field[kind] == b"%d" % size:
            is_whole = method != b"TRACE"
        else:
            return None
        field = REQUEST_FIELDS.search(head, end)
    host = hosts.get(authority)
    if host is None or not is_whole:
        return None
    _pending.append(True)
    try:  # noqa: SIM105 - hot: suppress() takes 0.3 us
        _requests.feed_data(data)
    except (httptools.HttpParserError, httptools.HttpParserUpgrade):
        pass
    if _pending or not keep_alive:
        # llhttp takes nothing behind a close. And what it says is not one whole message the
        # full reader knows better.
        refused = bool(_pending)
        _pending.clear()
        _requests.__init__(Listener(_pending))  # type: ignore[misc]
        if refused:
            return None
    return method, path, host, authority, kept or head[:-2], keep_alive, size


def full_head(plain: PlainRequest) -> RequestHead:
    """Return what `parse_request` says of a head that was read as a plain one."""
    method, path, host, authority, kept, keep_alive, size = plain
    body = BodyKind.LENGTH if size else BodyKind.NONE
    return RequestHead(
        method, path, 1, host, authority, body, size, keep_alive, None, None, kept, _TAIL
    )


_TAIL: Final = b"\r\n\r\n"
_STATUS_LINE: Final = re.compile(rb"HTTP/1\.1 ([2-5][0-9][0-9]) [\t -~\x80-\xff]*\r\n")
_OK: Final = b"HTTP/1.1 200 OK\r\n"
_NO_BODY: Final = frozenset((b"204", b"304"))
_LENGTH: Final = b"\nContent-Length: "
_KEEP_ALIVE: Final = b"\nConnection: keep-alive\r"

# Every field that means something in an answer, but for the two above in the very form in
# which nearly every server writes them. These, and types that are no event stream, are passed
# over first (0.2 us).
_UNUSUAL: Final = field_scan(
    b"""
    content-length content_length content-type connection transfer-encoding transfer_encoding
    upgrade x-request-id keep-alive proxy-connection
    """,
    rb"""
 (?!Content-(?:Length:\ (?:0|[1-9][0-9]{0,17})\r|Type:\ (?:[^tT\ \t]|text/[^eE]))
   |Connection:\ keep-alive\r)
 (?:[Cc][Oo][Nn](?:
     [Tt](?i:ent)(?:-(?:[Ll](?i:ength)@|[Tt](?i:ype):[ \t]*(?i:text/event-stream)(?=[ \t;\r]))
       |_(?i:length)@)
    |[Nn](?i:ection)@)
  |[Tt][Rr](?i:ansfer[-_]encoding)@
  |[Uu][Pp](?i:grade)@
  |[Xx]-(?i:request-id)@
  |[Kk][Ee](?i:ep-alive)@
  |[Pp][Rr](?i:oxy-connection)@)
""",
)


def read_plain_answer(data: bytes, end: int, fields_max: int) -> PlainAnswer | None:
    """Read the head `data[:end]` of an answer whose whole body, of a length that it declares,
    is the rest of `data`; None for any other. To be asked only for an answer that is not one to
    HEAD. `fields_max` as for `parse_response`."""
    if data.startswith(_OK):
        status = 200
        fields_at = 15
    else:
        line = _STATUS_LINE.match(data)
        if line is None or line[1] in _NO_BODY:
            return None
        status = int(line[1])
        fields_at = line.end() - 1
    if end > 4 * fields_max > 0 and data.count(b"\r\n", 0, end) > fields_max + 2:
        return None
    size = len(data) - end
    head = data[:end]
    at = head.find(b"\nContent-Length: %d\r" % size)
    if at < 0 or head.rfind(_LENGTH) != at or _UNUSUAL.search(head, fields_at) is not None:
        return None
    at = head.find(_KEEP_ALIVE)
    if at < 0:
        kept = head[:-2]
    elif head.rfind(_KEEP_ALIVE) == at:
        kept = head[: at + 1] + head[at + 25 : -2]
    else:
        return None
    _pending.append(True)
    try:  # noqa: SIM105
        _answers.feed_data(data)
    except (httptools.HttpParserError, httptools.HttpParserUpgrade):
        pass
    if _pending:
        _pending.clear()
        _answers.__init__(Listener(_pending))  # type: ignore[misc]
        return None
    return status, size, kept
