"""Pure: read a response's head, and write the one that the client gets.

As `head.py`, for the other direction: llhttp and one scan of ours, refused where they
differ. A refused response is a 502 for the client: its server is at fault.
"""

import re
from dataclasses import dataclass
from typing import ClassVar, Final

import httptools

from turnout.proxy.fields import (
    NO_OPTIONS,
    UPGRADES,
    connection_options,
    drop_named,
    field_fault,
    field_scan,
)
from turnout.proxy.framing import (
    BodyKind,
    Passing,
    Refused,
    body_end_of_response,
    content_length,
    is_plain_length,
    passing,
)


@dataclass(slots=True)
class ResponseHead:
    """A response's head as far as a proxy cares. (Not frozen: see RequestHead.)"""

    status: int
    version_minor: int
    body: BodyKind
    content_length: int
    """Bytes of a body of kind LENGTH, else 0."""
    keep_alive: bool
    """The server's connection may be used again once the body has ended."""
    keep_alive_timeout_s: float | None
    """How long the server says it keeps an idle connection (`Keep-Alive: timeout=5`)."""
    upgrade: bytes | None
    """The protocol that a 101 switches to: what was asked for, else the 101 is refused."""
    is_event_stream: bool
    kept: bytes
    """Status line and the fields that go on untouched; ends with CRLF."""
    declares_chunked: bool
    """Chunked, or the answer to a HEAD that would have been chunked to a GET."""
    named: frozenset[bytes] = NO_OPTIONS
    """The options of Connection: trailers of these names go no further either."""

    @property
    def is_interim(self) -> bool:
        return self.status < 200 and self.status != 101

    def passing(self, client_version_minor: int) -> Passing:
        return passing(self.body, client_version_minor)


_STATUS_LINE: Final = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9][0-9]) [\t -~\x80-\xff]*\r\n")

_NAMES: Final = b"""
content-length content_length content-type connection transfer-encoding transfer_encoding upgrade
x-request-id keep-alive proxy-connection
"""
# As in a request: with `_` for `-` it is cut, as it is the same name to some.
_TREE: Final = rb"""
 [Cc][Oo][Nn](?:[Tt](?i:ent)(?:-(?:[Ll](?i:ength)@length
    |[Tt](?i:ype):[ \t]*(?P<events>(?i:text/event-stream))(?=[ \t;\r]))|_(?i:length)@)
  |[Nn](?i:ection)@connection)
|[Tt][Rr](?i:ansfer)(?:-(?i:encoding)@coding|_(?i:encoding)@)
|[Uu][Pp](?i:grade)@upgrade
|[Xx]-(?i:request-id)@
|[Kk][Ee](?i:ep-alive)@keep_alive
|[Pp][Rr](?i:oxy-connection)@
"""
_FIELDS: Final = field_scan(_NAMES, _TREE)
_WITH_BODY: Final = frozenset(range(200, 600)) - {204, 304}
_KINDS: Final = _FIELDS.groupindex
_LENGTH: Final = _KINDS["length"]
_EVENTS: Final = _KINDS["events"]
_CONNECTION: Final = _KINDS["connection"]
_KEEP_ALIVE: Final = _KINDS["keep_alive"]
_CODING: Final = _KINDS["coding"]
_UPGRADE: Final = _KINDS["upgrade"]
_NO_BODY: Final = BodyKind.NONE
_LENGTH_BODY: Final = BodyKind.LENGTH
_CHUNKED_BODY: Final = BodyKind.CHUNKED
TIMEOUTS_REMEMBERED: Final = 256


class Listener:
    """What llhttp calls. A list's own `pop` notes the end of a message without a frame of
    Python; a second message in one head would pop from an empty list, which is an error."""

    # Hot: what a parser does not find it asks for by an exception, each time it is made new.
    on_message_begin: ClassVar[None] = None
    on_url: ClassVar[None] = None
    on_status: ClassVar[None] = None
    on_header: ClassVar[None] = None
    on_headers_complete: ClassVar[None] = None
    on_body: ClassVar[None] = None
    on_chunk_header: ClassVar[None] = None
    on_chunk_complete: ClassVar[None] = None

    def __init__(self, pending: list[bool]) -> None:
        self.on_message_complete = pending.pop


_pending: list[bool] = []
_listener = Listener(_pending)
_llhttp = httptools.HttpResponseParser(_listener)


def parse_response(
    head: bytes, request_method: bytes, upgrade_asked: bool = False, fields_max: int = 0
) -> ResponseHead:
    """Read a whole head, from its first byte to the last of the blank line.

    `request_method` is what it answers; `upgrade_asked` whether the request that was sent on
    asked for another protocol. Raises Refused(502); then the server's connection is not to
    be used again.
    """
    line = _STATUS_LINE.match(head)
    if line is None:
        raise Refused(502, "bad_status_line", "The server's status line is not one of HTTP/1.1.")
    # A field takes 4 bytes at least, so a short head need not be counted.
    if fields_max and len(head) > 4 * fields_max and head.count(b"\r\n") > fields_max + 2:
        raise Refused(502, "too_many_fields", "The server's answer has too many fields.")
    _llhttp.__init__(_listener)  # type: ignore[misc]  # as good as a new one, 0.2 us
    if not _pending:
        _pending.append(True)
    try:
        _llhttp.feed_data(head)
    except httptools.HttpParserUpgrade:
        pass  # at the end of the head, which is all that there is
    except httptools.HttpParserError:
        raise field_fault(head, 502) from None

    kept = b""
    position = 0
    length: bytes | None = None
    coding: bytes | None = None
    connection: bytes | None = None
    timeout_s: float | None = None
    is_event_stream = False
    others: list[re.Match[bytes]] | None = None
    for field in _FIELDS.finditer(head, line.end() - 1):
        kind = field.lastindex
        if kind == _LENGTH and length is None:
            length = field[_LENGTH]
            continue
        if kind == _CONNECTION and connection is None:
            connection = field[_CONNECTION]
        elif kind == _EVENTS:
            is_event_stream = True
            continue
        elif kind == _CODING and coding is None:
            coding = field[_CODING]
        elif kind == _KEEP_ALIVE:
            timeout_s = _keep_alive_timeout_s(field[_KEEP_ALIVE])
        elif kind is not None:
            others = [field] if others is None else [*others, field]
        begin, end = field.span()
        kept += head[position : begin + 1]
        position = end + 2
    kept = kept + head[position:-2] if position else head[:-2]

    minor, digits = line.groups()
    status = int(digits)
    if (
        others is not None
        or minor == b"0"
        or (connection is not None and connection != b"keep-alive")
        or status not in _WITH_BODY
        or request_method == b"HEAD"
        or (
            coding != b"chunked" or length is not None
            if length is None or coding is not None
            else not is_plain_length(length)
        )
    ):
        return _read_unusual(
            _Found(status, 0 if minor == b"0" else 1, length, coding, connection, others or []),
            kept,
            request_method,
            upgrade_asked,
            timeout_s,
            is_event_stream,
        )
    # Hot: an answer with a body whose end is declared, on a connection that goes on.
    if length is not None:
        number = int(length)
        body = _LENGTH_BODY if number else _NO_BODY
    else:
        number = 0
        body = _CHUNKED_BODY
    if (body is _NO_BODY) == bool(_pending):
        raise _two_readings()
    return ResponseHead(
        status,
        1,
        body,
        number,
        True,
        timeout_s,
        None,
        is_event_stream,
        kept,
        body is _CHUNKED_BODY,
    )


@dataclass(slots=True)
class _Found:
    """What the scan has found in a head that is not of the commonest kind."""

    status: int
    version_minor: int
    length: bytes | None
    coding: bytes | None
    connection: bytes | None
    others: list[re.Match[bytes]]

    def all_of(self, kind: int, first: bytes | None = None) -> list[bytes]:
        values = [] if first is None else [first]
        return values + [field[kind] for field in self.others if field.lastindex == kind]


def _read_unusual(
    found: _Found,
    kept: bytes,
    request_method: bytes,
    upgrade_asked: bool,
    timeout_s: float | None,
    is_event_stream: bool,
) -> ResponseHead:
    """Finish a head of another kind: HTTP/1.0, without a body, ended by close, several options."""
    status, minor = found.status, found.version_minor
    if len(found.all_of(_LENGTH, found.length)) > 1:
        raise Refused(502, "several_lengths", "The answer has several lengths.")
    codings = found.all_of(_CODING, found.coding)
    coding = b",".join(codings) if codings else None
    body = body_end_of_response(status, request_method, found.length, coding, minor)
    # llhttp does not know that it reads the answer to a HEAD.
    if request_method != b"HEAD" and (body.kind is _NO_BODY) == bool(_pending):
        raise _two_readings()

    options = connection_options(found.all_of(_CONNECTION, found.connection), 502)
    keep_alive = b"close" not in options and (minor == 1 or b"keep-alive" in options)
    if body.kind is _NO_BODY and (coding is not None or content_length(found.length or b"0", 502)):
        # A body is declared that must not come, to a HEAD or with this status. If it comes
        # all the same, and late, it would be the beginning of the next answer (decision 20).
        keep_alive = False
    dropped = options
    if status < 200 or status == 204:
        # RFC 9110, section 8.6: such an answer has no length, whatever it says.
        dropped = options | {b"content-length"}
    elif found.length is not None and not is_plain_length(found.length):
        dropped = options | {b"content-length"}
    kept = drop_named(kept, dropped)
    if b"content-length" in dropped and status >= 200 and status != 204:
        kept += b"Content-Length: %d\r\n" % content_length(found.length or b"", 502)
    if minor == 0:
        kept = b"HTTP/1.1" + kept[8:]
    upgrade = None
    if status == 101:
        if found.length is not None or coding is not None:
            raise Refused(502, "length_of_101", "The server's 101 declares a body.")
        upgrade = _upgrade(found.all_of(_UPGRADE), options, upgrade_asked)
    return ResponseHead(
        status,
        minor,
        body.kind,
        body.length,
        keep_alive and upgrade is None and body.kind is not BodyKind.UNTIL_CLOSE,
        timeout_s,
        upgrade,
        is_event_stream,
        kept,
        coding is not None and status >= 200 and status != 204 and status != 304,
        options,
    )


def _two_readings() -> Refused:
    return Refused(502, "two_readings", "The answer's length can be read in two ways.")


_TIMEOUT: Final = re.compile(rb"(?i:(?:^|[,; \t])timeout[ \t]*=[ \t]*\"?([0-9]{1,9}))")
_timeouts: dict[bytes, float | None] = {}


def _keep_alive_timeout_s(value: bytes) -> float | None:
    """Read `timeout=5, max=100`; a server says the same at every answer, so it is remembered."""
    if value in _timeouts:
        return _timeouts[value]
    found = _TIMEOUT.search(value)
    timeout_s = None if found is None else float(found[1])
    # `max` counts down: without a bound each answer would be remembered.
    if len(_timeouts) >= TIMEOUTS_REMEMBERED:
        _timeouts.clear()
    _timeouts[value] = timeout_s
    return timeout_s


def _upgrade(
    upgrades: list[bytes],
    options: frozenset[bytes],
    asked: bool,
) -> bytes:
    if not asked:
        raise Refused(502, "unasked_upgrade", "The server switched protocols unasked.")
    protocol = upgrades[0].strip(b" \t").lower() if len(upgrades) == 1 else b""
    if b"upgrade" not in options or protocol not in UPGRADES:
        raise Refused(502, "wrong_upgrade", "The server switched to another protocol.")
    return protocol


# ---------------------------------------------------------------- writing


def forward_response(
    head: ResponseHead,
    client_version_minor: int,
    close: bool,
    request_id: bytes,
    via: bytes,
    date: bytes = b"",
    data: bytes = b"",
) -> bytes:
    """Return the head to send to the client, and behind it `data`, what is there of the body
    as `head.passing` has made it.

    `close`: the client's connection ends behind this answer. It always does when the body
    can only end by that (`closes`). `date`, an HTTP date, is added where the server sent none.
    """
    if head.upgrade is not None:
        tail = b"\r\nConnection: Upgrade\r\nUpgrade: " + head.upgrade + b"\r\n\r\n"
    elif client_version_minor == 1:
        # A HEAD's answer says what a GET would have had; any other without a body says nothing.
        body = head.body
        if body is _LENGTH_BODY or (body is _NO_BODY and not head.declares_chunked):
            tail = _CLOSE if close else _KEEP
        else:
            tail = _CHUNKED_CLOSE if close else _CHUNKED_KEEP
    else:
        tail = _CLOSE if close or closes(head, 0) else _KEEP_10
    if date and not has_date(head.kept):
        tail = b"\r\nDate: " + date + tail
    return b"".join(
        (
            head.kept,
            _VIA if head.version_minor else _VIA_10,
            via,
            b"\r\nX-Request-Id: ",
            request_id,
            tail,
            data,
        )
    )


def closes(head: ResponseHead, client_version_minor: int) -> bool:
    """Whether the client can only tell the body's end by the end of its connection."""
    return client_version_minor == 0 and head.body in (BodyKind.CHUNKED, BodyKind.UNTIL_CLOSE)


_VIA: Final = b"Via: 1.1 "
_VIA_10: Final = b"Via: 1.0 "
_KEEP: Final = b"\r\n\r\n"
_KEEP_10: Final = b"\r\nConnection: keep-alive\r\n\r\n"
_CLOSE: Final = b"\r\nConnection: close\r\n\r\n"
_CHUNKED_KEEP: Final = b"\r\nTransfer-Encoding: chunked\r\n\r\n"
_CHUNKED_CLOSE: Final = b"\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
_DATE: Final = re.compile(rb"\n(?i:date):")


def has_date(lines: bytes) -> bool:
    """Whether a response's lines hold a Date, in any spelling."""
    return b"\r\nDate:" in lines or _DATE.search(lines) is not None


def forward_interim(head: ResponseHead, *, via: bytes) -> bytes:
    """Return a 1xx other than 101 for the client; an HTTP/1.0 client must get none of them."""
    return b"".join((head.kept, _VIA if head.version_minor else _VIA_10, via, _KEEP))
