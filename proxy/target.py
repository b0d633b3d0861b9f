"""Pure: a request's start line and Host, and what is wrong with a head that is refused.

Behind `head.py`: what is not the plain case. A target has one of four forms (RFC 9112, section
3.2): origin-form is what a server gets, absolute-form is rewritten to it, `*` is for OPTIONS,
and authority-form is CONNECT's, which is not done here.
"""

import re
from ipaddress import AddressValueError, IPv6Address
from typing import Final

import httptools

from turnout.proxy.fields import TOKEN, Refused, field_fault
from turnout.proxy.framing import body_end_of_request

HOSTS_REMEMBERED: Final = 4096

# Hot: first the plain start line together with a Host right behind it, as nearly every
# client sends them, which saves one turn of the scan (0.3 us).
ORIGIN_FORM: Final = re.compile(
    rb"([A-Z-]+) (?:(/[!\"$->@-~]*)(?:\?[!\"$-~]*)?|\*) HTTP/1\.([01])\r\n"
    rb"(?:[Hh]ost: ?([!-~]*)\r\n)?"
)

hosts: dict[bytes, bytes] = {}
"""Host as it was sent -> name to route by; filled by `read_host`, bounded."""

_HOST_VALUE: Final = re.compile(
    rb"[ \t]*((?:([A-Za-z0-9._~-]+)|\[([0-9A-Fa-f:.]+)\])(?::([0-9]{0,5}))?)[ \t]*"
)


def read_host(value: bytes) -> tuple[bytes, bytes]:
    """Return a Host as it is passed on, and the name to route by. Raises Refused(400)."""
    found = _HOST_VALUE.fullmatch(value)
    if found is None:
        raise _bad_host()
    authority, name, address, port = found.groups()
    if port and int(port) > 65535:
        raise _bad_host()
    if name is None:
        try:
            IPv6Address(address.decode())
        except AddressValueError:
            raise _bad_host() from None
        name = b"[" + address + b"]"
    host: bytes = name.lower()
    if host.endswith(b"."):
        host = host[:-1]
    if not host:
        raise _bad_host()
    if len(value) <= 255:
        # Bounded twice: whoever sends thousands of names only makes it forget.
        if len(hosts) >= HOSTS_REMEMBERED:
            hosts.clear()
        hosts[authority] = host
    return authority, host


def _bad_host() -> Refused:
    return Refused(400, "bad_host", "The Host is not a name or an address with a port.")


_START_LINE: Final = re.compile(rb"([^ \r\n]+) ([^ \r\n]+) HTTP/([0-9])\.([0-9])\r\n")
_ABSOLUTE_FORM: Final = re.compile(rb"(?i:https?)://([^/?#]*)(/[^?#]*)?(\?[^#]*)?")
_HOST_LINE: Final = re.compile(rb"\n(?i:host):([^\r]*)\r")


def connect_refused() -> Refused:
    return Refused(405, "connect", "This is not a proxy that connects elsewhere.")


def to_origin_form(head: bytes) -> bytes:
    """Rewrite a head with an absolute-form target: origin-form, its authority as the Host.

    Source: RFC 9112, section 3.2.2. Raises Refused for what is neither form.
    """
    if head.startswith(b"\r\n"):
        head = head[2:]
        if ORIGIN_FORM.match(head) is not None:
            return head
    line = _START_LINE.match(head)
    if line is None:
        raise Refused(400, "bad_request_line", "The request line is not one of HTTP/1.1.")
    method, target, major, minor = line.groups()
    if major != b"1" or minor not in b"01":
        raise Refused(505, "bad_version", "The version is neither HTTP/1.0 nor HTTP/1.1.")
    if method == b"CONNECT":
        raise connect_refused()
    if TOKEN.fullmatch(method) is None:
        raise Refused(400, "bad_request_line", "The method is not a token.")
    if method_is_unknown(method):
        raise Refused(501, "unknown_method", "The method is not known here.")
    form = _ABSOLUTE_FORM.fullmatch(target)
    if form is None:
        raise Refused(400, "bad_target", "The target of the request is not valid.")
    authority, path, query = form.groups()
    named: list[bytes] = _HOST_LINE.findall(head)
    if len(named) > 1:
        raise Refused(400, "several_hosts", "There is more than one Host.")
    if minor == b"1" and not named:
        raise Refused(400, "no_host", "An HTTP/1.1 request needs a Host.")
    for host in named:
        read_host(host)
    if path is None:
        path = b"*" if method == b"OPTIONS" and query is None else b"/"
    return b"%b %b%b HTTP/1.%b\r\nHost: %b\r\n%b" % (
        method,
        path,
        query or b"",
        minor,
        authority,
        _HOST_LINE.sub(b"", head[line.end() - 1 :])[1:],
    )


def cannot_become_head(data: bytes) -> bool:
    """Whether what has come of a head, not empty and without a blank line yet, is none whatever
    follows: its request line is not one (as HTTP/0.9's, behind which nothing would follow), or a
    line does not end in CR LF, behind which a blank line may never come.

    Not on the fast path, but for each read of a slow head: counting is all it does to it.
    """
    if data == b"\r":
        return False
    if data[0] <= 32 or data[0] >= 127:
        return True
    lines = data.count(b"\r\n")
    if lines != data.count(b"\n") or lines != data.count(b"\r") - data.endswith(b"\r"):
        return True
    return lines > 0 and _START_LINE.match(data) is None


def method_is_unknown(method: bytes) -> bool:
    """Whether llhttp has no such method (it knows those of the IANA registry and some more)."""
    try:
        httptools.HttpRequestParser(None).feed_data(method + b" / HTTP/1.1\r\nHost: a\r\n\r\n")
    except httptools.HttpParserUpgrade:
        return False
    except httptools.HttpParserError:
        return True
    return False


def fault_of(head: bytes) -> Refused:
    """Say why llhttp would not read a head whose start line we could read."""
    method = head.lstrip(b"\r\n").partition(b" ")[0]
    if method_is_unknown(method):
        return Refused(501, "unknown_method", "The method is not known here.")
    codings = _CODING_LINE.findall(head)
    lengths = _LENGTH_LINE.findall(head)
    fault = field_fault(head, 400)
    if fault.detail != "bad_head":
        return fault
    if len(lengths) > 1:
        return Refused(400, "several_lengths", "There is more than one Content-Length.")
    try:
        body_end_of_request(
            lengths[0] if lengths else None,
            b",".join(codings) if codings else None,
            0 if b" HTTP/1.0\r\n" in head else 1,
        )
    except Refused as refused:
        return refused
    return fault


_CODING_LINE: Final = re.compile(rb"\n(?i:transfer-encoding):([^\r]*)")
_LENGTH_LINE: Final = re.compile(rb"\n(?i:content-length):([^\r]*)")
