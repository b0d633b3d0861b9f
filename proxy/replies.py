"""Every answer that Turnout makes itself: status, reason, body, and what the peer is told.

All of them are here, as data, so that an operator can look up what he sees. Each carries one
line of text and, unless it is a health answer, `Proxy-Status: turnout; error=…` with an error
type of RFC 9209, section 2.3, so that it is never taken for the application's.
"""

from dataclasses import dataclass
from typing import Final

from turnout.proxy.fields import Refused

RETRY_AFTER_S: Final = 1
_PHRASES: Final = {
    200: b"OK",
    400: b"Bad Request",
    404: b"Not Found",
    405: b"Method Not Allowed",
    408: b"Request Timeout",
    413: b"Content Too Large",
    414: b"URI Too Long",
    417: b"Expectation Failed",
    431: b"Request Header Fields Too Large",
    500: b"Internal Server Error",
    501: b"Not Implemented",
    502: b"Bad Gateway",
    503: b"Service Unavailable",
    504: b"Gateway Timeout",
    505: b"HTTP Version Not Supported",
}


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer, ready but for what depends on the request: `start` is its head up to the
    request id, `body` its one line."""

    status: int
    reason: str
    """Stable, for logs."""
    text: str
    start: bytes
    body: bytes


def _reply(status: int, reason: str, error: str | None, text: str, *, fields: str = "") -> Reply:
    body = text.encode() + b"\n"
    lines = [
        b"HTTP/1.1 %d %b" % (status, _PHRASES[status]),
        b"Content-Type: text/plain; charset=utf-8",
        b"Content-Length: %d" % len(body),
        b"Cache-Control: no-store",
    ]
    if error is not None:
        lines.append(b"Proxy-Status: turnout; error=" + error.encode())
    if status == 503 and error is not None:
        lines.append(b"Retry-After: %d" % RETRY_AFTER_S)
    if fields:
        lines.append(fields.encode())
    return Reply(status, reason, text, b"\r\n".join(lines) + b"\r\n", body)


def render(
    reply: Reply,
    *,
    head_only: bool = False,
    close: bool,
    version_minor: int = 1,
    request_id: bytes = b"",
    date: bytes = b"",
) -> tuple[bytes, int]:
    """Return the whole answer and how many bytes of it are body.

    `head_only` answers a HEAD; `version_minor` is the client's; an empty `request_id` or
    `date` is left out. Nothing of the request itself is ever echoed.
    """
    parts = [reply.start]
    if request_id:
        parts.append(b"X-Request-Id: " + request_id + b"\r\n")
    if date:
        parts.append(b"Date: " + date + b"\r\n")
    if close:
        parts.append(b"Connection: close\r\n")
    elif version_minor == 0:
        parts.append(b"Connection: keep-alive\r\n")
    parts.append(b"\r\n")
    if head_only:
        return b"".join(parts), 0
    parts.append(reply.body)
    return b"".join(parts), len(reply.body)


# ---------------------------------------------------------------- what a client did

MALFORMED: Final = _reply(
    400, "malformed_request", "http_request_error", "The request is not one of HTTP/1.1."
)
MALFORMED_BODY: Final = _reply(
    400, "malformed_body", "http_request_error", "The request's body is malformed."
)
HEADER_TIMEOUT: Final = _reply(
    408, "header_timeout", "http_request_error", "The request's head did not come in time."
)
BODY_TIMEOUT: Final = _reply(
    408, "body_timeout", "http_request_error", "The request's body did not come in time."
)
BODY_TOO_LARGE: Final = _reply(
    413, "body_too_large", "http_request_error", "The request's body is larger than is allowed."
)
TARGET_TOO_LONG: Final = _reply(
    414, "target_too_long", "http_request_error", "The request line is longer than is allowed."
)
HEAD_TOO_LARGE: Final = _reply(
    431, "header_too_large", "http_request_error", "The request's head is larger than is allowed."
)
NO_SERVICE: Final = _reply(
    404, "no_service", "destination_not_found", "No service is configured for this host and path."
)
TOO_MANY_CONNECTIONS: Final = _reply(
    503, "connection_limit", "connection_limit_reached", "There are too many connections."
)

# ---------------------------------------------------------------- what a server did

CONNECT_FAILED: Final = _reply(
    502, "connect_failed", "connection_refused", "The server could not be connected to."
)
CONNECT_TIMEOUT: Final = _reply(
    504, "connect_timeout", "connection_timeout", "The server did not take a connection in time."
)
UPSTREAM_CLOSED: Final = _reply(
    502, "upstream_closed", "connection_terminated", "The server closed without an answer."
)
FIRST_BYTE_TIMEOUT: Final = _reply(
    504, "first_byte_timeout", "connection_read_timeout", "The server did not answer in time."
)
BAD_RESPONSE: Final = _reply(
    502, "bad_response", "http_protocol_error", "The server's answer is malformed."
)
RESPONSE_HEAD_TOO_LARGE: Final = _reply(
    502,
    "response_head_too_large",
    "http_response_header_section_size",
    "The head of the server's answer is larger than is allowed.",
)

# ---------------------------------------------------------------- what Turnout is about

NO_SERVER: Final = _reply(
    503, "no_server", "destination_unavailable", "The upstream has no server."
)
POOL_TIMEOUT: Final = _reply(
    503, "pool_timeout", "connection_limit_reached", "No connection to the server became free."
)
NO_DESCRIPTORS: Final = _reply(
    503, "no_descriptors", "connection_limit_reached", "There is no room for another connection."
)
HOLD_FULL: Final = _reply(
    503, "hold_full", "destination_unavailable", "The service is held and too many are waiting."
)
HOLD_TIMEOUT: Final = _reply(
    503, "hold_timeout", "destination_unavailable", "The service is held for too long."
)
CUT: Final = _reply(
    503, "cut", "destination_unavailable", "The time to finish this request is over."
)
NO_TABLE: Final = _reply(
    503, "no_table", "proxy_configuration_error", "There is no routing table to serve from."
)
SHUTTING_DOWN: Final = _reply(
    503, "shutting_down", "destination_unavailable", "This proxy is going away."
)
INTERNAL_ERROR: Final = _reply(
    500, "internal_error", "proxy_internal_error", "Turnout made a mistake."
)

# ---------------------------------------------------------------- health_path

HEALTHY: Final = _reply(200, "healthy", None, "ok")
LEAVING: Final = _reply(503, "leaving", None, "leaving")


def refused(fault: Refused) -> Reply:
    """Return the answer to a request that `parse_request` or a ChunkedDecoder refused.

    The text is ours alone, never the client's bytes. Of a few dozen faults each is made once.
    """
    key = (fault.status, fault.detail, fault.text)
    reply = _refusals.get(key)
    if reply is None:
        allow = "Allow: GET, HEAD, POST, PUT, DELETE, OPTIONS, PATCH" if fault.status == 405 else ""
        text = fault.text.encode("ascii", "replace").decode()
        reply = _reply(fault.status, fault.detail, "http_request_error", text, fields=allow)
        if len(_refusals) < REFUSALS_REMEMBERED:
            _refusals[key] = reply
    return reply


REFUSALS_REMEMBERED: Final = 256
_refusals: dict[tuple[int, str, str], Reply] = {}
