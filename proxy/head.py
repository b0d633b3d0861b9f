"""Pure: read a request's head, and write the one that is sent on. First in a request's life.

Every head is read twice: by llhttp, which is strict about its grammar, and by one scan of
ours for the fields that mean something to a proxy. What llhttp lets pass and must not pass
is refused here (several spaces, HTTP/0.9 and 2.0, `#fragment`, no or several Hosts, codings
on HTTP/1.0 ...), and so is a head that the two read differently.

`parse_request` takes a whole head, blank line included, and cuts it: `RequestHead.kept` is
everything that is passed on untouched, in the client's own bytes. `forward_request` puts
behind it what this hop says. Responses: `response_head.py`, to be had from here as well.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import httptools

from turnout.proxy.fields import (
    NO_OPTIONS,
    UPGRADES,
    connection_options,
    drop_named,
    field_scan,
)
from turnout.proxy.framing import BodyKind, Refused, body_end_of_request, is_plain_length
from turnout.proxy.response_head import Listener as Listener
from turnout.proxy.response_head import ResponseHead as ResponseHead
from turnout.proxy.response_head import forward_interim as forward_interim
from turnout.proxy.response_head import forward_response as forward_response
from turnout.proxy.response_head import parse_response as parse_response
from turnout.proxy.target import (
    ORIGIN_FORM,
    connect_refused,
    fault_of,
    hosts,
    read_host,
    to_origin_form,
)

IDEMPOTENT: Final = frozenset((b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"PUT", b"DELETE"))
"""RFC 9110, section 9.2.2."""


@dataclass(slots=True)
class Forwarding:
    """What earlier proxies said of the client; counts only if the peer is trusted."""

    for_: list[bytes]
    proto: bytes | None
    host: bytes | None
    forwarded: list[bytes]
    others: list[bytes]
    """Whole lines of other X-Forwarded fields (`X-Forwarded-Port: 443`), without CRLF."""
    request_id: bytes | None
    """Taken over only if it is 1 to 128 visible characters."""


@dataclass(slots=True)
class RequestHead:
    """A request's head as far as a proxy cares. Not frozen: that would cost 0.9 us a request."""

    method: bytes
    path: bytes
    """The target, in origin-form or `*`, without its query."""
    version_minor: int
    host: bytes
    """For routing: lower case, no port, no final dot; empty if HTTP/1.0 sent none."""
    authority: bytes
    """The Host as it was sent, or the authority of an absolute-form target."""
    body: BodyKind
    content_length: int
    """Bytes of a body of kind LENGTH, else 0."""
    keep_alive: bool
    """The client's connection is to go on after this exchange."""
    upgrade: bytes | None
    """The protocol asked for, in lower case; only a known one, on a GET without body."""
    forwarding: Forwarding | None
    """None: no such field was sent (nearly always)."""
    kept: bytes
    """Start line and the fields that go on untouched; ends with CRLF."""
    tail: bytes
    """What ends the head that is sent on, from the CRLF of its last common line."""
    named: frozenset[bytes] = NO_OPTIONS
    """The options of Connection, if there is a body of chunks, whose trailers they hold for."""

    @property
    def idempotent(self) -> bool:
        return self.method in IDEMPOTENT

    @property
    def request_id(self) -> bytes | None:
        """The peer's request id, if it sent a usable one. Only for a trusted peer's."""
        return None if self.forwarding is None else self.forwarding.request_id

    @property
    def has_body(self) -> bool:
        return self.body is not BodyKind.NONE

    def find(self, field: re.Pattern[bytes]) -> bytes | None:
        """Return the value of the first field that `field_pattern` describes, or None.

        Looks only at fields that are passed on untouched.
        """
        found = field.search(self.kept)
        return None if found is None else found[1].rstrip(b" \t")


NO_HEAD: Final = RequestHead(b"", b"", 1, b"", b"", BodyKind.NONE, 0, False, None, None, b"", b"")
"""In the place of a head while there is none."""


def field_pattern(name: bytes) -> re.Pattern[bytes]:
    """Compile a search for one field by name; once for each table, never for a request."""
    spelled = re.escape(name).replace(rb"\-", b"[-_]")
    return re.compile(rb"\n(?i:" + spelled + rb"):[ \t]*([^\r]*)\r")


@dataclass(slots=True)
class Hop:
    """What this hop says of itself: the same for all requests of a client."""

    peer: bytes
    """The client's address without port; an IPv6 one without brackets; `unknown` for none."""
    scheme: bytes
    via: bytes
    trusted: bool
    """The peer's own forwarding fields and request id are kept."""
    local: bytes
    """Our own `host:port`, for an HTTP/1.0 request that names no host."""
    lines: bytes
    """The fields of an untrusted peer's request, up to the value of X-Forwarded-Host."""


def hop(
    *, peer: bytes, scheme: bytes, via: bytes, trusted: bool, local: bytes = b"localhost"
) -> Hop:
    """Make the Hop of a connection. All values must be free of control bytes."""
    lines = b"X-Forwarded-For: %b\r\nX-Forwarded-Proto: %b\r\nVia: 1.1 %b\r\nX-Forwarded-Host: "
    return Hop(peer, scheme, via, trusted, local, lines % (peer, scheme, via))


# ---------------------------------------------------------------- reading

_NAMES: Final = b"""
content-length content_length connection host http2-settings te transfer-encoding
transfer_encoding upgrade x-forwarded-for x-forwarded-proto x-forwarded-host x-forwarded-port
x-request-id x_forwarded_for x_request_id expect forwarded keep-alive keep_alive
proxy-connection proxy_connection max-forwards
"""
# A name with `_` for `-` is always cut: to WSGI and CGI servers it is the same name.
_TREE: Final = rb"""
 [Cc][Oo][Nn](?:[Tt](?i:ent)(?:-(?i:length)@length|_(?i:length)@)|[Nn](?i:ection)@connection)
|[Hh](?:[Oo](?i:st)@host|[Tt](?i:tp2[-_]settings)@)
|[Tt](?:[Ee]@te|[Rr](?i:ansfer)(?:-(?i:encoding)@coding|_(?i:encoding)@))
|[Uu][Pp](?i:grade)@upgrade
|[Xx](?:-(?:[Ff](?i:orwarded)-
    (?:(?i:for)@x_for|(?i:proto)@x_proto|(?i:host)@x_host|[^\r:]*@x_other)
    |[Rr](?i:equest-id)@x_id)
  |[-_](?i:forwarded[-_][^\r:]*|request[-_]id)@)
|[Ee][Xx](?i:pect)@expect
|[Ff][Oo](?i:rwarded)@forwarded
|[Kk][Ee](?i:ep[-_]alive)@
|[Pp][Rr](?i:oxy[-_]connection)@
|[Mm][Aa][Xx]-(?i:forwards)@max_forwards
"""
FIELDS: Final = field_scan(_NAMES, _TREE)
"""Finds each field that means something to a proxy, in any spelling."""
_KINDS: Final = FIELDS.groupindex
_CONNECTION: Final = _KINDS["connection"]
_HOST: Final = _KINDS["host"]
_LENGTH: Final = _KINDS["length"]
_MAX_FORWARDS: Final = _KINDS["max_forwards"]

_TAIL: Final = b"\r\n\r\n"
_CHUNKED_TAIL: Final = b"\r\nTransfer-Encoding: chunked\r\n\r\n"
_BODY_NONE: Final = BodyKind.NONE
_BODY_LENGTH: Final = BodyKind.LENGTH


_pending: list[bool] = []
_listener = Listener(_pending)
_llhttp = httptools.HttpRequestParser(_listener)
_llhttp_is_clean = True


def parse_request(head: bytes, fields_max: int = 100) -> RequestHead:
    """Read a whole head, from its first byte to the last of the blank line.

    `fields_max` is a count, 0 for no limit. The caller has cut at the first blank line, which
    is not looked for again; one CRLF before the start line is skipped (RFC 9112, section 2.2).
    Raises Refused: 400, 405, 417, 431, 501, 505; then the connection must be closed behind the
    answer.
    """
    global _llhttp_is_clean
    wire = head
    start = ORIGIN_FORM.match(head)
    if start is None:
        head = to_origin_form(head)
        start = ORIGIN_FORM.match(head)
        if start is None:
            raise Refused(400, "bad_target", "The target of the request is not valid.")
    # A field takes 4 bytes at least, so a short head need not be counted (0.1 to 0.3 us).
    if fields_max and len(head) > 4 * fields_max and head.count(b"\r\n") > fields_max + 2:
        raise Refused(431, "too_many_fields", f"There are more than {fields_max} fields.")

    if not _llhttp_is_clean:
        _llhttp.__init__(_listener)  # type: ignore[misc]  # as good as a new one, 0.2 us
    _llhttp_is_clean = False
    if not _pending:
        _pending.append(True)
    stopped = False
    try:
        _llhttp.feed_data(wire)
    except httptools.HttpParserUpgrade:
        stopped = True  # at the end of the head, whatever body is declared
    except httptools.HttpParserError:
        raise fault_of(wire) from None

    method, path, minor, authority = start.groups()
    kept = b""
    position = 0
    length: bytes | None = None
    connection: bytes | None = None
    others: list[re.Match[bytes]] | None = None
    # Hot: searched for one by one, as most heads hold none or one of them (finditer: 0.2 us).
    field = FIELDS.search(head, start.end() - 1)
    while field is not None:
        kind = field.lastindex
        begin, end = field.span()
        if kind == _HOST and authority is None:
            authority = field[_HOST]
        elif kind == _LENGTH and length is None:
            length = field[_LENGTH]
        else:
            if kind == _CONNECTION and connection is None:
                connection = field[_CONNECTION]
            elif others is None:
                others = [field]
            else:
                others.append(field)
            kept += head[position : begin + 1]
            position = end + 2
        field = FIELDS.search(head, end)
    kept = kept + head[position:-2] if position else head[:-2]

    if (
        others is not None
        or minor == b"0"
        or path is None
        or stopped
        or (length is not None and (method == b"TRACE" or not is_plain_length(length)))
    ):
        return _read_unusual(start, kept, authority, length, connection, others or [], stopped)
    if authority is None:
        raise Refused(400, "no_host", "An HTTP/1.1 request needs a Host.")
    host = hosts.get(authority)
    if host is None:
        authority, host = read_host(authority)
    if length is None:
        number = 0
        body = _BODY_NONE
    else:
        number = int(length)
        body = _BODY_LENGTH if number else _BODY_NONE
    if (body is _BODY_NONE) == bool(_pending):
        raise Refused(400, "two_readings", "The length of the body can be read in two ways.")
    keep_alive = True
    if connection is None or connection == b"keep-alive":
        _llhttp_is_clean = body is _BODY_NONE
    else:
        options = connection_options((connection,), 400)
        keep_alive = b"close" not in options
        kept = drop_named(kept, options)
    return RequestHead(
        method,
        path,
        1,
        host,
        authority,
        body,
        number,
        keep_alive,
        None,
        None,
        kept,
        _TAIL,
    )


def _read_unusual(
    start: re.Match[bytes],
    kept: bytes,
    authority: bytes | None,
    length: bytes | None,
    connection: bytes | None,
    others: list[re.Match[bytes]],
    stopped: bool,
) -> RequestHead:
    """Finish a head that holds more than a plain request does: codings, an Upgrade, Expect,
    other proxies' fields, HTTP/1.0, `*`."""
    method, path, minor_digit, _ = start.groups()
    minor = minor_digit[0] - 48
    values: dict[str | None, list[bytes]] = {}
    for field in others:
        kind = field.lastgroup
        value = field[0][1:] if kind == "x_other" else b"" if kind is None else field[kind]
        values.setdefault(kind, []).append(value)
    if "host" in values:
        raise Refused(400, "several_hosts", "There is more than one Host.")
    if "length" in values:
        raise Refused(400, "several_lengths", "There is more than one Content-Length.")
    codings = values.get("coding")
    coding = None if codings is None else b",".join(codings)
    end = body_end_of_request(length, coding, minor)
    if not stopped and (end.kind is BodyKind.NONE) == bool(_pending):
        raise Refused(400, "two_readings", "The length of the body can be read in two ways.")
    if path is None and method != b"OPTIONS":
        raise Refused(400, "bad_target", "Only OPTIONS may ask for `*`.")
    if method == b"CONNECT":
        raise connect_refused()
    if method == b"TRACE" and end.kind is not BodyKind.NONE:
        raise Refused(400, "trace_with_body", "A TRACE may not have a body.")

    if authority is None and minor:
        raise Refused(400, "no_host", "An HTTP/1.1 request needs a Host.")
    host = b""
    if authority is not None:
        authority, host = read_host(authority)

    options = NO_OPTIONS
    if connection is not None:
        options = connection_options((connection, *values.get("connection", ())), 400)
        kept = drop_named(kept, options)
    keep_alive = b"close" not in options and (minor == 1 or b"keep-alive" in options)
    if length is not None and not is_plain_length(length):
        kept = drop_named(kept, {b"content-length"}) + b"Content-Length: %d\r\n" % end.length
    if minor == 0:
        kept = kept[: start.end(3) - 1] + b"1" + kept[start.end(3) :]

    tail = b""
    upgrade = None
    if (
        b"upgrade" in options
        and method == b"GET"
        and minor == 1
        and end.kind is BodyKind.NONE
        and len(values.get("upgrade", ())) == 1
    ):
        wanted = values["upgrade"][0].strip(b" \t").lower()
        if wanted in UPGRADES:
            upgrade = wanted
            tail += b"\r\nConnection: Upgrade\r\nUpgrade: " + wanted
    if upgrade is None and b"trailers" in _members(values.get("te", ())):
        tail += b"\r\nConnection: TE\r\nTE: trailers"
    expects = _expects_continue(values.get("expect", ()))
    if expects and minor == 1 and end.kind is not BodyKind.NONE:
        tail += b"\r\nExpect: 100-continue"
    if "max_forwards" in values:
        tail += _max_forwards(method, values["max_forwards"])
    tail += _CHUNKED_TAIL if end.kind is BodyKind.CHUNKED else _TAIL
    return RequestHead(
        method,
        b"*" if path is None else path,
        minor,
        host,
        authority or b"",
        end.kind,
        end.length,
        keep_alive,
        upgrade,
        _forwarding(values),
        kept,
        tail,
        options,
    )


def _members(values: Iterable[bytes]) -> list[bytes]:
    return [member.strip(b" \t") for value in values for member in value.lower().split(b",")]


def _expects_continue(values: Sequence[bytes]) -> bool:
    """Raises Refused(417) for any other expectation: servers have been seen to differ on what
    a misspelt one means for the body (RFC 9110, section 10.1.1, lets us)."""
    if not values:
        return False
    if len(values) == 1 and values[0].strip(b" \t").lower() == b"100-continue":
        return True
    raise Refused(417, "expectation", "The only expectation that can be met is 100-continue.")


def _max_forwards(method: bytes, values: Sequence[bytes]) -> bytes:
    """Return the line with one hop less. Source: RFC 9110, section 7.6.2."""
    value = values[0].strip(b" \t")
    if method not in (b"OPTIONS", b"TRACE"):
        return b"\r\nMax-Forwards: " + value
    if len(values) > 1 or not value.isdigit() or len(value) > 9:
        raise Refused(400, "bad_max_forwards", "Max-Forwards is not one whole number.")
    if int(value) == 0:
        raise Refused(501, "max_forwards", "Max-Forwards ends the request's way here.")
    return b"\r\nMax-Forwards: %d" % (int(value) - 1)


_REQUEST_ID: Final = re.compile(rb"[!-~]{1,128}")


def _forwarding(values: Mapping[str | None, Sequence[bytes]]) -> Forwarding | None:
    if not values.keys() & {"x_for", "x_proto", "x_host", "x_other", "x_id", "forwarded"}:
        return None

    def only(kind: str) -> bytes | None:
        found = values.get(kind, ())
        return found[0].strip(b" \t") if len(found) == 1 else None

    request_id = only("x_id")
    if request_id is not None and _REQUEST_ID.fullmatch(request_id) is None:
        request_id = None
    return Forwarding(
        [value.strip(b" \t") for value in values.get("x_for", ())],
        only("x_proto") or None,
        only("x_host") or None,
        [value.strip(b" \t") for value in values.get("forwarded", ())],
        list(values.get("x_other", ())),
        request_id,
    )


# ---------------------------------------------------------------- writing


def forward_request(
    head: RequestHead,
    hop: Hop,
    request_id: bytes,
    drop: re.Pattern[bytes] | None = None,
) -> bytes:
    """Return the head to send to the server.

    `request_id` is the trusted peer's (`head.request_id`) or a new one; `drop` (from
    `field_pattern`) is a field that is not passed on. HTTP/1.1 whatever the client
    spoke; no Connection unless it is needed.
    """
    kept = head.kept if drop is None else drop.sub(b"", head.kept)
    if head.version_minor == 0 or (hop.trusted and head.forwarding is not None):
        lines, host = _unusual_lines(head, hop)
        if not head.authority:
            start, _, fields = kept.partition(b"\r\n")
            kept = start + b"\r\nHost: " + hop.local + b"\r\n" + fields
        return b"".join((kept, lines, host, b"\r\nX-Request-Id: ", request_id, head.tail))
    return b"".join((kept, hop.lines, head.authority, b"\r\nX-Request-Id: ", request_id, head.tail))


def _unusual_lines(head: RequestHead, hop: Hop) -> tuple[bytes, bytes]:
    """Return the lines of this hop up to the value of X-Forwarded-Host, and that value."""
    for_, proto, host = hop.peer, hop.scheme, head.authority or hop.local
    lines = b""
    said = head.forwarding if hop.trusted else None
    if said is not None:
        for_ = b", ".join([*filter(None, said.for_), hop.peer])
        if said.forwarded:
            node = hop.peer if b":" not in hop.peer else b'"[' + hop.peer + b']"'
            element = b'for=%b;host="%b";proto=%b' % (node, host, hop.scheme)
            lines = b"Forwarded: " + b", ".join([*filter(None, said.forwarded), element]) + b"\r\n"
        for line in said.others:
            lines += line + b"\r\n"
        proto = said.proto or proto
        host = said.host or host
    lines += b"X-Forwarded-For: %b\r\nX-Forwarded-Proto: %b\r\nVia: 1.%d %b\r\n" % (
        for_,
        proto,
        head.version_minor,
        hop.via,
    )
    return lines + b"X-Forwarded-Host: ", host
