"""Request lines, hosts, and what is pipelined behind a fault."""

from tests.conformance.case import Sent
from tests.conformance.corpus.family import CHUNKED, GET, HELLO, HOST, INNER, POST, Family

SEEN = Sent(method="GET")
KLEIN = "HTTP Request Smuggling in 2020 (Klein)"


def line(line: bytes) -> bytes:
    return line + b"\r\nHost: a\r\n\r\n"


# ---------------------------------------------------------------- Host

hosts = Family("Host", "RFC 9112, 3.2; RFC 9110, 7.2; Host of Troubles (Chen et al., 2016)")
hosts.refused("none", GET + b"\r\n")
hosts.refused("none but other fields", GET + b"X: y\r\n\r\n")
hosts.refused("none on a POST", b"POST /seen HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello")
hosts.refused("none on OPTIONS *", b"OPTIONS * HTTP/1.1\r\n\r\n")
hosts.refused("two that differ", GET + HOST + b"Host: b\r\n\r\n")
hosts.refused("two of a kind", GET + HOST + HOST + b"\r\n")
hosts.refused("two in other spellings", GET + HOST + b"hOST: a\r\n\r\n")
hosts.refused("two with a field between", GET + HOST + b"X: y\r\nHost: b\r\n\r\n")
hosts.refused("two on HTTP/1.0", b"GET /seen HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n")
hosts.refused("a second behind one with a tab", GET + b"Host: \tb\r\n" + HOST + b"\r\n")
hosts.refused("a second behind one with two spaces", GET + b"Host:  b\r\n" + HOST + b"\r\n")
hosts.refused("a second behind one in two words", GET + b"Host: b c\r\n" + HOST + b"\r\n")
hosts.refused("a second behind an empty one", GET + b"Host:\r\n" + HOST + b"\r\n")
hosts.refused(
    "a second behind a body's length", POST + b"Content-Length: 5\r\nHost: b\r\n\r\nhello"
)
hosts.refused("a second with a space before it", GET + HOST + b" Host: b\r\n\r\n")
for _name, _value in {
    "empty": b"", "a list": b"a, b", "two words": b"a b", "a path": b"a/b", "a user": b"user@a", "a scheme": b"http://a",
    "a query": b"a?b", "a fragment": b"a#b", "a backslash": b"a\\b", "a port that is no number": b"a:x",
    "a port with a sign": b"a:+80", "two ports": b"a:80:80", "a port of six digits": b"a:123456",
    "a port beyond 65535": b"a:65536", "a port alone": b":80", "a percent": b"a%00", "a quote": b'"a"',
    "an angle": b"<a>", "a NUL": b"a\0", "a byte beyond ASCII": b"\xe9", "a dot alone": b".",
    "an address without an end": b"[::1", "an address without a beginning": b"::1]",
    "an address of IPv6 without brackets": b"::1", "brackets around nothing": b"[]",
    "brackets around no address": b"[1]", "brackets around a name": b"[a]", "brackets around too much": b"[::1::1]",
    "brackets with a zone": b"[fe80::1%25eth0]", "more behind the brackets": b"[::1]a",
    "a comma": b"a,", "a semicolon": b"a;b", "an at sign alone": b"@",
}.items():  # fmt: skip
    hosts.refused(f"of {_name}", GET + b"Host: " + _value + b"\r\n\r\n")
for _host in (
    "a:80",
    "a:",
    "A.Example",
    "a.",
    "127.0.0.1:8080",
    "[::1]",
    "[2001:DB8::1]:80",
    "a_b",
    "xn--bcher-kva",
):
    hosts.passed(
        f"of {_host}",
        GET + b"Host: " + _host.encode() + b"\r\n\r\n",
        Sent(method="GET", host=_host),
    )
hosts.passed("in white space", GET + b"Host: \t a \t\r\n\r\n", SEEN)
hosts.passed(
    "behind other fields",
    GET + b"X: y\r\nHost: a\r\n\r\n",
    Sent(method="GET", fields=(("x", "y"),)),
)

# ---------------------------------------------------------------- absolute-form

absolute = Family(
    "absolute-form against Host", "RFC 9112, 3.2.2; Host of Troubles (Chen et al., 2016)"
)
absolute.passed("the same", b"GET http://a/seen HTTP/1.1\r\nHost: a\r\n\r\n", SEEN)
absolute.passed(
    "another Host, whose place it takes", b"GET http://a/seen HTTP/1.1\r\nHost: b\r\n\r\n", SEEN
)
absolute.passed(
    "with a port",
    b"GET http://a:80/seen HTTP/1.1\r\nHost: b\r\n\r\n",
    Sent(method="GET", host="a:80"),
)
absolute.passed("of https", b"GET https://a/seen HTTP/1.1\r\nHost: a\r\n\r\n", SEEN)
absolute.passed("in capitals", b"GET HTTP://a/seen HTTP/1.1\r\nHost: a\r\n\r\n", SEEN)
absolute.passed("without a path", b"GET http://a HTTP/1.1\r\nHost: a\r\n\r\n", Sent("/", "GET"))
absolute.passed(
    "without a path but with a query",
    b"GET http://a?b HTTP/1.1\r\nHost: a\r\n\r\n",
    Sent("/?b", "GET"),
)
absolute.passed(
    "without a path, of OPTIONS",
    b"OPTIONS http://a HTTP/1.1\r\nHost: a\r\n\r\n",
    Sent("*", "OPTIONS"),
)
absolute.passed(
    "with a query",
    b"GET http://a/seen?b=http://c/ HTTP/1.1\r\nHost: a\r\n\r\n",
    Sent("/seen?b=http://c/", "GET"),
)
absolute.passed(
    "of HTTP/1.0 without a Host",
    b"GET http://a/seen HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    SEEN,
)
absolute.passed(
    "with a body",
    b"POST http://a/seen HTTP/1.1\r\nHost: b\r\nContent-Length: 5\r\n\r\nhello",
    Sent(body=b"hello"),
)
absolute.passed(
    "with chunks",
    b"POST http://a/seen HTTP/1.1\r\nHost: b\r\n" + CHUNKED + b"\r\n" + HELLO,
    Sent(body=b"hello", chunked=True),
)
absolute.refused("without a Host", b"GET http://a/seen HTTP/1.1\r\n\r\n")
absolute.refused("with two", b"GET http://a/seen HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n")
absolute.refused("with an invalid one", b"GET http://a/seen HTTP/1.1\r\nHost: a/b\r\n\r\n")
absolute.refused("with a space before its colon", b"GET http://a/seen HTTP/1.1\r\nHost : b\r\n\r\n")
absolute.refused("with a user", b"GET http://user@a/seen HTTP/1.1\r\nHost: a\r\n\r\n")
absolute.refused("with a user and a password", b"GET http://u:p@a/seen HTTP/1.1\r\nHost: a\r\n\r\n")
absolute.refused("without an authority", b"GET http:///seen HTTP/1.1\r\nHost: a\r\n\r\n")
absolute.refused("with a port alone", b"GET http://:80/seen HTTP/1.1\r\nHost: a\r\n\r\n")
absolute.refused("with an invalid port", b"GET http://a:x/seen HTTP/1.1\r\nHost: a\r\n\r\n")
absolute.refused("with one slash", b"GET http:/a/seen HTTP/1.1\r\nHost: a\r\n\r\n")
absolute.refused("with a backslash", b"GET http:\\\\a\\seen HTTP/1.1\r\nHost: a\r\n\r\n")
absolute.refused("with a fragment", b"GET http://a/seen#b HTTP/1.1\r\nHost: a\r\n\r\n")
absolute.refused(
    "with an at sign behind the fragment", b"GET http://a#@b/seen HTTP/1.1\r\nHost: a\r\n\r\n"
)
absolute.refused("with a control byte", b"GET http://a/se\x01en HTTP/1.1\r\nHost: a\r\n\r\n")
absolute.refused("with a NUL in its authority", b"GET http://a\0b/seen HTTP/1.1\r\nHost: a\r\n\r\n")
absolute.refused("of ftp", b"GET ftp://a/seen HTTP/1.1\r\nHost: a\r\n\r\n")
absolute.refused("of a file", b"GET file:///etc/passwd HTTP/1.1\r\nHost: a\r\n\r\n")
absolute.refused("of no scheme", b"GET ://a/seen HTTP/1.1\r\nHost: a\r\n\r\n")
absolute.passed(
    "a path that looks like an authority",
    b"GET //b/seen HTTP/1.1\r\nHost: a\r\n\r\n",
    Sent("//b/seen", "GET"),
    source="RFC 9112, 3.2.1",
)
absolute.passed(
    "a path that holds a URL",
    b"GET /http://b/ HTTP/1.1\r\nHost: a\r\n\r\n",
    Sent("/http://b/", "GET"),
    source="RFC 9112, 3.2.1",
)

# ---------------------------------------------------------------- targets and methods

targets = Family("targets and methods", "RFC 9112, 3.1 and 3.2")
targets.refused("a fragment", line(b"GET /seen#x HTTP/1.1"))
targets.refused("a fragment in the query", line(b"GET /seen?a#x HTTP/1.1"))
targets.refused("without a slash", line(b"GET seen HTTP/1.1"))
targets.refused("a query alone", line(b"GET ?a HTTP/1.1"))
targets.refused("of bytes beyond ASCII", line(b"GET /s\xe9en HTTP/1.1"))
targets.refused("of authority-form", line(b"GET a:80 HTTP/1.1"))
targets.refused("* of GET", line(b"GET * HTTP/1.1"))
targets.refused("* of POST", line(b"POST * HTTP/1.1"))
targets.refused("* with a query", line(b"OPTIONS *?a HTTP/1.1"))
targets.refused("two stars", line(b"OPTIONS ** HTTP/1.1"))
targets.refused("empty", line(b"GET  HTTP/1.1"))
targets.passed("* of OPTIONS", line(b"OPTIONS * HTTP/1.1"), Sent("*", "OPTIONS"))
targets.passed(
    "an encoded line end", line(b"GET /seen%0d%0aX:y HTTP/1.1"), Sent("/seen%0d%0aX:y", "GET")
)
targets.passed("an encoded NUL", line(b"GET /seen%00 HTTP/1.1"), Sent("/seen%00", "GET"))
targets.passed("dots", line(b"GET /../seen/./x HTTP/1.1"), Sent("/../seen/./x", "GET"))
targets.refused(
    "CONNECT", b"CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n", 405, source="RFC 9110, 9.3.6"
)
targets.refused("CONNECT without a Host", b"CONNECT a:80 HTTP/1.1\r\n\r\n", 405)
targets.refused("CONNECT of a path", line(b"CONNECT /seen HTTP/1.1"), 405)
targets.refused("CONNECT of a URL", line(b"CONNECT http://a/ HTTP/1.1"), 405)
targets.refused(
    "CONNECT with a body",
    b"CONNECT a:80 HTTP/1.1\r\nHost: a\r\nContent-Length: 33\r\n\r\n" + INNER,
    405,
)
targets.refused("CONNECT of HTTP/1.0", b"CONNECT a:80 HTTP/1.0\r\n\r\n", 405)
for _method in ("FOO", "get", "Get", "GETT", "GE", "G", "FOO1", "X-FOO", "G+T", "GET,", "_GET"):
    targets.refused(
        f"method {_method}",
        line(_method.encode() + b" /seen HTTP/1.1"),
        400 if _method == "GET," else 501,
        source="RFC 9110, 9.1",
    )
targets.refused("an unknown method of a URL", line(b"FOO http://a/seen HTTP/1.1"), 501)
targets.refused("a method in lower case of a URL", line(b"get http://a/seen HTTP/1.1"), 501)
targets.refused(
    "an unknown method with a digit of a URL", line(b"FOO1 http://a/seen HTTP/1.1"), 501
)
targets.refused("a method in quotes", line(b'"GET" /seen HTTP/1.1'))
targets.refused("a method with a parenthesis", line(b"G(T /seen HTTP/1.1"))
targets.refused("a method with a byte beyond ASCII", line(b"G\xc9T /seen HTTP/1.1"))
for _method in (
    "PUT",
    "PATCH",
    "DELETE",
    "OPTIONS",
    "PROPFIND",
    "M-SEARCH",
    "PURGE",
    "REPORT",
    "TRACE",
):
    targets.passed(
        f"method {_method}", line(_method.encode() + b" /seen HTTP/1.1"), Sent(method=_method)
    )

# ---------------------------------------------------------------- the line itself

lines = Family("request lines", "RFC 9112, 3; RFC 9110, 2.5")
for _name, _line in {
    "two spaces before the target": b"GET  /seen HTTP/1.1", "two spaces before the version": b"GET /seen  HTTP/1.1",
    "a tab before the target": b"GET\t/seen HTTP/1.1", "a tab before the version": b"GET /seen\tHTTP/1.1",
    "a space before the method": b" GET /seen HTTP/1.1", "a space behind the version": b"GET /seen HTTP/1.1 ",
    "a tab behind the version": b"GET /seen HTTP/1.1\t", "a space in the target": b"GET /seen x HTTP/1.1",
    "a whole request in the target": b"GET /seen HTTP/1.1 HTTP/1.1", "a vertical tab": b"GET\x0b/seen HTTP/1.1",
    "a form feed": b"GET /seen\x0cHTTP/1.1", "a no-break space": b"GET\xa0/seen HTTP/1.1",
    "no method": b"/seen HTTP/1.1", "no target": b"GET HTTP/1.1", "a space alone": b" ",
    "a field where the line should be": b"Host: a", "a status line": b"HTTP/1.1 200 OK",
    "no version": b"GET /seen", "no version but a space": b"GET /seen ", "no version of POST": b"POST /seen",
    "the protocol in lower case": b"GET /seen http/1.1", "another protocol": b"GET /seen ICE/1.0",
    "RTSP": b"DESCRIBE /seen RTSP/1.0", "HTTPS": b"GET /seen HTTPS/1.1", "no slash": b"GET /seen HTTP1.1",
    "no minor version": b"GET /seen HTTP/1", "no minor version of 2": b"GET /seen HTTP/2",
    "three parts": b"GET /seen HTTP/1.1.1", "a comma": b"GET /seen HTTP/1,1", "zeros before": b"GET /seen HTTP/01.1",
    "zeros behind": b"GET /seen HTTP/1.10", "a letter behind": b"GET /seen HTTP/1.1a", "a sign": b"GET /seen HTTP/+1.1",
    "two versions": b"GET /seen HTTP/1.1HTTP/1.1", "spaces in the version": b"GET /seen HTTP/ 1.1",
    "SSH": b"SSH-2.0-OpenSSH_9.2", "SIP": b"OPTIONS sip:a SIP/2.0",
}.items():  # fmt: skip
    lines.refused(_name, line(_line))
for _version in ("0.9", "1.2", "1.9", "2.0", "2.1", "3.0", "9.9"):
    lines.refused(
        f"HTTP/{_version}",
        line(f"GET /seen HTTP/{_version}".encode()),
        505,
        source="RFC 9110, 15.6.6",
    )
lines.refused("no version and nothing else", b"GET /seen\r\n")
lines.refused("HTTP/2.0 of a URL", line(b"GET http://a/seen HTTP/2.0"), 505)
lines.refused(
    "the preface of HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, source="RFC 9113, 3.4"
)
lines.refused("the preface of HTTP/2 with another version", line(b"PRI * HTTP/1.1"), 501)
lines.refused("a TLS handshake", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(40))
lines.refused("a header of PROXY v1", b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n" + GET + HOST + b"\r\n")
lines.refused(
    "a header of PROXY v2", b"\r\n\r\n\0\r\nQUIT\n\x20\x11\0\x0c" + bytes(12) + GET + HOST + b"\r\n"
)
lines.refused("Redis", b"*1\r\n$4\r\nPING\r\n\r\n")
lines.refused("SMTP", b"EHLO a\r\n\r\n")

# ---------------------------------------------------------------- pipelining

piped = Family("pipelining", "RFC 9112, 9.3.2 and 9.6")
_TWO = Sent("/two", "GET")
_GET_TWO = b"GET /two HTTP/1.1\r\nHost: a\r\n\r\n"
piped.passed("two requests", GET + HOST + b"\r\n" + _GET_TWO, SEEN, _TWO)
piped.passed(
    "a body and a request behind it",
    POST + b"Content-Length: 5\r\n\r\nhello" + _GET_TWO,
    Sent(body=b"hello"),
    _TWO,
)
piped.passed(
    "chunks and a request behind them",
    POST + CHUNKED + b"\r\n" + HELLO + _GET_TWO,
    Sent(body=b"hello", chunked=True),
    _TWO,
)
piped.passed("an empty line between two", GET + HOST + b"\r\n\r\n" + _GET_TWO, SEEN, _TWO)
piped.passed(
    "several empty lines between two", GET + HOST + b"\r\n\r\n\r\n\r\n" + _GET_TWO, SEEN, _TWO
)
piped.passed(
    "three of kinds",
    GET + HOST + b"\r\n" + POST + b"Content-Length: 5\r\n\r\nhello" + _GET_TWO,
    SEEN,
    Sent(body=b"hello"),
    _TWO,
)
piped.passed(
    "a request behind one that closes",
    GET + HOST + b"Connection: close\r\n\r\n" + _GET_TWO,
    SEEN,
    closes=True,
)
piped.passed(
    "a request behind HTTP/1.0",
    b"GET /seen HTTP/1.0\r\nHost: a\r\n\r\n" + _GET_TWO,
    SEEN,
    closes=True,
)
for _name, _data, _status in (
    ("no host", GET + b"\r\n", 400), ("nonsense", b"nonsense\r\n\r\n", 400), ("a bare LF", b"GET /x HTTP/1.1\nHost: a\n\n", 400),
    ("HTTP/2.0", line(b"GET /x HTTP/2.0"), 505), ("CONNECT", line(b"CONNECT a:80 HTTP/1.1"), 405),
    ("an unknown method", line(b"FOO /x HTTP/1.1"), 501), ("two framings", POST + b"Content-Length: 5\r\n" + CHUNKED + b"\r\n", 400),
    ("an unknown coding", POST + b"Transfer-Encoding: gzip\r\n\r\n", 501), ("an expectation", GET + HOST + b"Expect: x\r\n\r\n", 417),
):  # fmt: skip
    piped.refused(
        f"{_name} behind a request",
        GET + HOST + b"\r\n" + _data + _GET_TWO,
        _status,
        behind=(SEEN,),
    )
    piped.refused(
        f"{_name} behind a body",
        POST + b"Content-Length: 5\r\n\r\nhello" + _data + _GET_TWO,
        _status,
        behind=(Sent(body=b"hello"),),
    )
piped.refused(
    "bytes behind a body's length",
    POST + b"Content-Length: 5\r\n\r\nhelloX\r\n\r\n" + _GET_TWO,
    400,
    behind=(Sent(body=b"hello"),),
)
piped.refused(
    "bytes behind the last chunk",
    POST + CHUNKED + b"\r\n" + HELLO + b"X\r\n\r\n" + _GET_TWO,
    400,
    behind=(Sent(body=b"hello", chunked=True),),
)
piped.refused(
    "a request glued to a body",
    POST + b"Content-Length: 5\r\n\r\nhello " + _GET_TWO,
    400,
    behind=(Sent(body=b"hello"),),
)

FAMILIES = (hosts, absolute, targets, lines, piped)
