"""What servers say: two lengths, no length, other lengths, and what comes when nobody asked."""

from typing import Any, Final

from tests.conformance.corpus.family import Family

OK: Final = b"HTTP/1.1 200 OK\r\nX-Upstream: blue\r\n"
CHUNKED: Final = b"Transfer-Encoding: chunked\r\n\r\n"
HELLO: Final = b"5\r\nhello\r\n0\r\n\r\n"
POISON: Final = b"HTTP/1.1 200 OK\r\nX-Upstream: blue\r\nContent-Length: 6\r\n\r\npoison"
HEAD: Final = b"HEAD /said HTTP/1.1\r\nHost: a\r\n\r\n"
HTTP_1_0: Final = b"GET /said HTTP/1.0\r\nHost: a\r\n\r\n"
KEPT_1_0: Final = b"GET /said HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n"
SPLITTING = "HTTP Response Splitting (Klein, 2004); Response Smuggling (Doyhenard, 2021)"


def long(value: bytes) -> bytes:
    return OK + b"Content-Length: " + value + b"\r\n\r\nhello"


def coded(value: bytes) -> bytes:
    return OK + b"Transfer-Encoding: " + value + b"\r\n\r\n" + HELLO


# ---------------------------------------------------------------- two lengths

two = Family("responses with two lengths", "RFC 9112, 6.3")
two.bad("length and chunked", OK + b"Content-Length: 5\r\n" + CHUNKED + HELLO)
two.bad(
    "chunked and length", OK + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n" + HELLO
)
two.bad(
    "length and another coding", OK + b"Content-Length: 5\r\nTransfer-Encoding: gzip\r\n\r\nhello"
)
two.bad("two that differ", OK + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello")
two.bad("two of a kind", OK + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello")
two.bad("two in other spellings", OK + b"Content-Length: 5\r\ncontent-length: 6\r\n\r\nhello")
two.bad("two of zero", OK + b"Content-Length: 0\r\nContent-Length: 0\r\n\r\n")
for _name, _value in {
    "a list": b"5, 5", "a list that differs": b"5, 6", "a sign": b"+5", "negative": b"-5", "hex": b"0x5",
    "a fraction": b"5.0", "an underscore": b"0_5", "a space inside": b"0 5", "a letter": b"5a",
    "beyond 64 bits": b"18446744073709551621", "2^63": b"9223372036854775808", "words": b"five",
    "quotes": b'"5"', "a NUL": b"5\0", "a no-break space": b"5\xa0",
}.items():  # fmt: skip
    two.bad(f"a length with {_name}", long(_value))
two.bad("an empty length", OK + b"Content-Length:\r\n\r\nhello")
two.bad("chunked twice", OK + b"Transfer-Encoding: chunked\r\n" + CHUNKED + HELLO)
for _name, _value in {
    "gzip": b"gzip", "gzip, chunked": b"gzip, chunked", "chunked, gzip": b"chunked, gzip", "identity": b"identity",
    "xchunked": b"xchunked", "chunked, chunked": b"chunked, chunked", "chunked in quotes": b'"chunked"',
    "a vertical tab": b"\x0bchunked", "a byte beyond ASCII": b"chunked\xff", "a parameter": b"chunked;q=1",
}.items():  # fmt: skip
    two.bad(f"a coding: {_name}", coded(_value))
two.bad("an empty coding", OK + b"Transfer-Encoding:\r\n\r\n" + HELLO)
two.bad("a coding on HTTP/1.0", b"HTTP/1.0 200 OK\r\n" + CHUNKED + HELLO)
two.bad("two on a 204", b"HTTP/1.1 204 No\r\nContent-Length: 0\r\nContent-Length: 5\r\n\r\n")
two.bad("both on a 304", b"HTTP/1.1 304 No\r\nContent-Length: 5\r\n" + CHUNKED)
two.bad("both on an answer to HEAD", OK + b"Content-Length: 5\r\n" + CHUNKED, asks=HEAD)
two.answer("zeros before", long(b"005"), b"hello", fields=(("content-length", "5"),))
two.answer("white space around", long(b"\t 5 "), b"hello", fields=(("content-length", "5"),))
two.answer("in capitals", OK + b"CONTENT-LENGTH: 5\r\n\r\nhello", b"hello")
two.answer(
    "chunked in capitals", coded(b"CHUNKED"), b"hello", fields=(("transfer-encoding", "chunked"),)
)
two.answer(
    "another field that says chunked",
    OK + b"Content-Encoding: chunked\r\nContent-Length: 5\r\n\r\nhello",
    b"hello",
)

# ---------------------------------------------------------------- heads

heads = Family("status lines", "RFC 9112, 4")
for _name, _line in {
    "two digits": b"HTTP/1.1 20 OK", "four digits": b"HTTP/1.1 2000 OK", "no digits": b"HTTP/1.1 OK",
    "letters in the code": b"HTTP/1.1 2x0 OK", "a sign": b"HTTP/1.1 +200 OK", "below 100": b"HTTP/1.1 099 OK",
    "above 599": b"HTTP/1.1 600 OK", "999": b"HTTP/1.1 999 OK", "two spaces": b"HTTP/1.1  200 OK",
    "a tab": b"HTTP/1.1\t200 OK", "no space": b"HTTP/1.1200 OK", "no reason and no space": b"HTTP/1.1 200",
    "a space before": b" HTTP/1.1 200 OK", "lower case": b"http/1.1 200 OK", "HTTP/2.0": b"HTTP/2.0 200 OK",
    "HTTP/1.2": b"HTTP/1.2 200 OK", "HTTP/0.9": b"HTTP/0.9 200 OK", "HTTP/2": b"HTTP/2 200 OK",
    "HTTP/1": b"HTTP/1 200 OK", "HTTP/11": b"HTTP/11 200 OK", "ICY": b"ICY 200 OK", "SIP": b"SIP/2.0 200 OK",
    "a request line": b"GET / HTTP/1.1", "a NUL in the reason": b"HTTP/1.1 200 O\0K",
    "a control byte in the reason": b"HTTP/1.1 200 O\x01K", "a bare CR in the reason": b"HTTP/1.1 200 O\rK",
    "a fraction": b"HTTP/1.1 200.0 OK", "zeros before": b"HTTP/1.1 0200 OK", "SSH": b"SSH-2.0-OpenSSH_9.2",
    "an empty line": b"", "a body": b"<html>hello</html>",
}.items():  # fmt: skip
    heads.bad(_name, _line + b"\r\nContent-Length: 5\r\n\r\nhello")
heads.bad("no head at all", b"hello" * 10 + b"\r\n\r\n")
heads.answer(
    "no reason", b"HTTP/1.1 200 \r\nX-Upstream: blue\r\nContent-Length: 5\r\n\r\nhello", b"hello"
)
heads.answer(
    "a reason beyond ASCII",
    b"HTTP/1.1 200 \xc3\xa9\r\nX-Upstream: blue\r\nContent-Length: 5\r\n\r\nhello",
    b"hello",
)
heads.answer(
    "HTTP/1.0 with a length",
    b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    b"hello",
    unfit=True,
)
heads.answer(
    "HTTP/1.0 that is kept",
    b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 5\r\n\r\nhello",
    b"hello",
)
heads.answer("599", b"HTTP/1.1 599 Odd\r\nContent-Length: 5\r\n\r\nhello", b"hello", status=599)

fields = Family("fields of responses", "RFC 9112, 5.1, 5.2 and 2.2")


def with_line(line: bytes) -> bytes:
    return OK + line + b"\r\nContent-Length: 5\r\n\r\nhello"


for _name, _line in {
    "a bare LF": b"X: a\nY: b", "a bare CR": b"X: a\rY: b", "CR CR LF": b"X: a\r", "a NUL": b"X: a\0b",
    "byte 01": b"X: a\x01", "a vertical tab": b"X: a\x0b", "byte 7f": b"X: a\x7f", "a fold": b"X: a\r\n b",
    "a fold by a tab": b"X: a\r\n\tb", "a fold of nothing": b"X: a\r\n ", "a space before the colon": b"X : a",
    "a tab before the colon": b"X\t: a", "an empty name": b": a", "no colon": b"nonsense", "two words": b"X Y: a",
    "a byte beyond ASCII in a name": b"X\xe9: a", "a colon alone": b":", "a parenthesis": b"X(: a",
    "a space before the length's colon": b"Content-Length : 0",
    "a folded length": b"Content-Length:\r\n 0", "a status line again": b"HTTP/1.1 200 OK",
}.items():  # fmt: skip
    fields.bad(_name, with_line(_line))
fields.bad(
    "a space before the first", b"HTTP/1.1 200 OK\r\n X: a\r\nContent-Length: 5\r\n\r\nhello"
)
fields.bad("LF at every line's end", b"HTTP/1.1 200 OK\nContent-Length: 5\n\nhello")
fields.bad("LF for the blank line", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\nhello")
fields.bad("CR at every line's end", b"HTTP/1.1 200 OK\rContent-Length: 5\r\rhello\r\n\r\n")
fields.bad("too many", OK + b"X: a\r\n" * 1200 + b"Content-Length: 5\r\n\r\nhello")
fields.bad("Connection names the length", with_line(b"Connection: Content-Length"))
fields.bad("Connection names a cookie", with_line(b"Connection: Set-Cookie\r\nSet-Cookie: a=b"))
fields.bad(
    "Connection names the coding", OK + b"Connection: Transfer-Encoding\r\n" + CHUNKED + HELLO
)
fields.bad("Connection is no token", with_line(b"Connection: a b"))
fields.answer(
    "Connection names a field, which is dropped",
    with_line(b"Connection: X-Hop\r\nX-Hop: a\r\nX: b"),
    b"hello",
    fields=(("x", "b"),),
    lacks=("x-hop", "connection"),
)
fields.answer(
    "Keep-Alive, which is dropped",
    with_line(b"Keep-Alive: timeout=60"),
    b"hello",
    lacks=("keep-alive",),
)
fields.answer(
    "Proxy-Connection, which is dropped",
    with_line(b"Proxy-Connection: close"),
    b"hello",
    lacks=("proxy-connection",),
)
fields.answer("Upgrade, which is dropped", with_line(b"Upgrade: h2c"), b"hello", lacks=("upgrade",))
fields.answer(
    "a close, which is this hop's alone",
    with_line(b"Connection: close"),
    b"hello",
    then="close",
    lacks=("connection",),
    unfit=True,
)

# ---------------------------------------------------------------- splitting, behind the end

behind = Family("bytes behind the end", f"RFC 9112, 6.3 and 9.2; {SPLITTING}")
for _name, _says in {
    "a length": OK + b"Content-Length: 5\r\n\r\nhello", "a length of zero": OK + b"Content-Length: 0\r\n\r\n",
    "the last chunk": OK + CHUNKED + HELLO, "trailers": OK + CHUNKED + b"5\r\nhello\r\n0\r\nX: a\r\n\r\n",
    "a 204": b"HTTP/1.1 204 No\r\n\r\n", "a 304": b"HTTP/1.1 304 No\r\n\r\n",
}.items():  # fmt: skip
    _body = b"hello" if b"hello" in _says else b""
    _more: dict[str, Any] = {
        "status": 204 if b" 204 " in _says else 304 if b" 304 " in _says else 200,
        "unfit": True,
        "trailers": (("x", "a"),) if b"X: a" in _says else (),
    }
    behind.answer(f"another answer behind {_name}", _says + POISON, _body, **_more)
    behind.answer(f"one byte behind {_name}", _says + b"X", _body, **_more)
    behind.answer(f"an empty line behind {_name}", _says + b"\r\n", _body, **_more)
    behind.answer(
        f"an interim answer behind {_name}", _says + b"HTTP/1.1 103 Early\r\n\r\n", _body, **_more
    )
behind.answer(
    "a hundred answers", OK + b"Content-Length: 5\r\n\r\nhello" + POISON * 100, b"hello", unfit=True
)
behind.answer(
    "a request",
    OK + b"Content-Length: 5\r\n\r\nhelloGET / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"hello",
    unfit=True,
)
behind.answer(
    "another answer behind a close",
    OK + b"Connection: close\r\nContent-Length: 5\r\n\r\nhello" + POISON,
    b"hello",
    unfit=True,
)
behind.answer(
    "another answer behind a long one",
    OK + b"Content-Length: 300000\r\n\r\n" + b"x" * 300_000 + POISON,
    b"x" * 300_000,
    unfit=True,
)
behind.bad(
    "a head split in a value by LF",
    OK + b"Location: /a\nContent-Length: 0\n\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
)
behind.bad(
    "a head split in a value by CR",
    OK + b"Location: /a\rContent-Length: 0\r\rHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
)
behind.answer(
    "a head split in a value by CR LF, which is a head's end",
    b"HTTP/1.1 302 Found\r\nLocation: /a\r\nContent-Length: 0\r\n\r\n" + POISON,
    status=302,
    unfit=True,
)

# ---------------------------------------------------------------- no body

none = Family("HEAD, 204 and 304", "RFC 9112, 6.3; RFC 9110, 8.6, 9.3.2, 15.3.5 and 15.4.5")
none.answer(
    "HEAD with a body",
    OK + b"Content-Length: 5\r\n\r\nhello",
    asks=HEAD,
    unfit=True,
    fields=(("content-length", "5"),),
)
none.answer(
    "HEAD with another answer for a body",
    OK + b"Content-Length: %d\r\n\r\n" % len(POISON) + POISON,
    asks=HEAD,
    unfit=True,
)
none.answer(
    "HEAD with chunks",
    OK + CHUNKED + HELLO,
    asks=HEAD,
    unfit=True,
    fields=(("transfer-encoding", "chunked"),),
)
none.answer(
    "HEAD with a length and no body",
    OK + b"Content-Length: 5\r\n\r\n",
    asks=HEAD,
    unfit=True,
    fields=(("content-length", "5"),),
)
none.answer("HEAD with chunked and no body", OK + CHUNKED, asks=HEAD, unfit=True)
none.answer("HEAD with a length of zero", OK + b"Content-Length: 0\r\n\r\n", asks=HEAD)
none.answer("HEAD without a length", OK + b"\r\n", asks=HEAD)
none.answer("HEAD without a length but with a body", OK + b"\r\nhello", asks=HEAD, unfit=True)
for _status in (204, 304):
    _line = b"HTTP/1.1 %d No\r\nX-Upstream: blue\r\n" % _status
    _lacks = ("content-length", "transfer-encoding") if _status == 204 else ("transfer-encoding",)
    none.answer(
        f"{_status} with a length and a body",
        _line + b"Content-Length: 5\r\n\r\nhello",
        status=_status,
        unfit=True,
        lacks=_lacks,
    )
    none.answer(
        f"{_status} with another answer for a body",
        _line + b"Content-Length: %d\r\n\r\n" % len(POISON) + POISON,
        status=_status,
        unfit=True,
        lacks=_lacks,
    )
    none.answer(
        f"{_status} with chunks", _line + CHUNKED + HELLO, status=_status, unfit=True, lacks=_lacks
    )
    none.answer(
        f"{_status} with a body and no length",
        _line + b"\r\nhello",
        status=_status,
        unfit=True,
        lacks=_lacks,
    )
    none.answer(
        f"{_status} with a length and no body",
        _line + b"Content-Length: 5\r\n\r\n",
        status=_status,
        unfit=True,
        lacks=_lacks,
    )
    none.answer(f"{_status} with nothing", _line + b"\r\n", status=_status, lacks=_lacks)
none.answer(
    "a 205 with a length of zero", b"HTTP/1.1 205 Reset\r\nContent-Length: 0\r\n\r\n", status=205
)

# ---------------------------------------------------------------- 1xx and 101

interims = Family("1xx", "RFC 9110, 15.2; RFC 8297; 1xx floods")
_FINAL: Final = OK + b"Content-Length: 5\r\n\r\nhello"
interims.answer("100 unasked", b"HTTP/1.1 100 Continue\r\n\r\n" + _FINAL, b"hello", interims=(100,))
interims.answer(
    "102 and 103",
    b"HTTP/1.1 102 P\r\n\r\nHTTP/1.1 103 E\r\nLink: <a>\r\n\r\n" + _FINAL,
    b"hello",
    interims=(102, 103),
)
interims.answer("199", b"HTTP/1.1 199 Odd\r\n\r\n" + _FINAL, b"hello", interims=(199,))
interims.answer(
    "ten of them", b"HTTP/1.1 103 E\r\n\r\n" * 10 + _FINAL, b"hello", interims=(103,) * 10
)
interims.answer(
    "to HTTP/1.0, which gets none",
    b"HTTP/1.1 100 Continue\r\n\r\n" + _FINAL,
    b"hello",
    asks=HTTP_1_0,
)
interims.answer(
    "a length, which is dropped",
    b"HTTP/1.1 103 E\r\nContent-Length: 0\r\n\r\n" + _FINAL,
    b"hello",
    interims=(103,),
)
_EXPECTS: Final[dict[str, Any]] = {
    "asks": b"POST /said HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\nhello",
    "asked": (("expect", "100-continue"),),
}
interims.answer(
    "100 that was asked for",
    b"HTTP/1.1 100 Continue\r\n\r\n" + _FINAL,
    b"hello",
    interims=(100,),
    **_EXPECTS,
)
interims.answer("no 100 where it was asked for", _FINAL, b"hello", **_EXPECTS)
interims.answer(
    "two where one was asked for",
    b"HTTP/1.1 100 Continue\r\n\r\n" * 2 + _FINAL,
    b"hello",
    interims=(100, 100),
    source="HTTP/1.1 Must Die: double desync (Kettle, 2025)",
    **_EXPECTS,
)
interims.bad("a flood", b"HTTP/1.1 103 E\r\n\r\n" * 1000 + _FINAL)
interims.bad("a flood without an end", b"HTTP/1.1 100 Continue\r\n\r\n" * 5000)
interims.bad("a length and a body", b"HTTP/1.1 103 E\r\nContent-Length: 5\r\n\r\nhello" + _FINAL)
interims.bad("chunks", b"HTTP/1.1 103 E\r\n" + CHUNKED + HELLO + _FINAL)
interims.bad("nonsense behind one", b"HTTP/1.1 100 Continue\r\n\r\nhello\r\n\r\n")
interims.bad("a bare LF in one", b"HTTP/1.1 103 E\nX: a\r\n\r\n" + _FINAL)
interims.bad("another answer behind one that has a fault", b"HTTP/1.1 100\r\n\r\n" + _FINAL)
interims.answer(
    "bytes behind the answer behind one",
    b"HTTP/1.1 100 Continue\r\n\r\n" + _FINAL + POISON,
    b"hello",
    interims=(100,),
    unfit=True,
)

unasked = Family("101 unasked", "RFC 9110, 7.8 and 15.2.2; Websocket smuggling (0ang3el, 2019)")
_101: Final = b"HTTP/1.1 101 Switching Protocols\r\n"
_WEBSOCKET: Final = b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
_ASKS: Final = b"GET /said HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: %b\r\n\r\n"
unasked.bad("to an ordinary request", _101 + _WEBSOCKET)
unasked.bad("with an answer behind it", _101 + _WEBSOCKET + POISON)
unasked.bad("without fields", _101 + b"\r\n")
unasked.bad(
    "of h2c, to a request that asked for it",
    _101 + b"Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
    asks=_ASKS % b"h2c",
)
unasked.bad("of websocket, to a request that asked for h2c", _101 + _WEBSOCKET, asks=_ASKS % b"h2c")
unasked.bad(
    "to a request that names it for Connection only",
    _101 + _WEBSOCKET,
    asks=b"GET /said HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\n\r\n",
)
unasked.bad("to HEAD", _101 + _WEBSOCKET, asks=HEAD)
unasked.bad("to HTTP/1.0", _101 + _WEBSOCKET, asks=HTTP_1_0)
unasked.bad(
    "to a POST that asked",
    _101 + _WEBSOCKET,
    asks=b"POST /said HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Content-Length: 5\r\n\r\nhello",
)
unasked.bad("behind an interim answer", b"HTTP/1.1 103 E\r\n\r\n" + _101 + _WEBSOCKET)
for _name, _says in {
    "of another protocol than was asked for": _101 + b"Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
    "of two protocols": _101 + b"Connection: Upgrade\r\nUpgrade: websocket, h2c\r\n\r\n",
    "without Connection": _101 + b"Upgrade: websocket\r\n\r\n",
    "without Upgrade": _101 + b"Connection: Upgrade\r\n\r\n",
    "with a length": _101 + b"Content-Length: 5\r\n" + _WEBSOCKET,
    "with chunks": _101 + b"Transfer-Encoding: chunked\r\n" + _WEBSOCKET,
}.items():  # fmt: skip
    unasked.bad(
        _name,
        _says,
        asks=_ASKS % b"websocket",
        asked=(("connection", "Upgrade"), ("upgrade", "websocket")),
    )

# ---------------------------------------------------------------- early answers

early = Family(
    "early answers", "RFC 9112, 9.3 and 9.5; Browser-Powered Desync: early response (Kettle, 2022)"
)
_UPLOAD: Final = b"POST /said HTTP/1.1\r\nHost: a\r\nContent-Length: 50\r\n\r\nhello"
_CHUNKS: Final = (
    b"POST /said HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"
)
for _kind, _asks in (("a length", _UPLOAD), ("chunks", _CHUNKS)):
    early.answer(
        f"before a body of {_kind} has come",
        _FINAL,
        b"hello",
        asks=_asks,
        early=True,
        unfit=True,
        fields=(("connection", "close"),),
    )
    early.answer(
        f"a refusal before a body of {_kind} has come",
        b"HTTP/1.1 413 Large\r\nContent-Length: 0\r\n\r\n",
        asks=_asks,
        early=True,
        unfit=True,
        status=413,
    )
    early.answer(
        f"two before a body of {_kind} has come",
        _FINAL + POISON,
        b"hello",
        asks=_asks,
        early=True,
        unfit=True,
    )
    early.bad(f"a bad one before a body of {_kind} has come", long(b"-1"), asks=_asks, early=True)
    early.cut(
        f"cut short before a body of {_kind} has come",
        OK + b"Content-Length: 9\r\n\r\nhello",
        b"hello",
        asks=_asks,
        early=True,
    )

FAMILIES = (two, heads, fields, behind, none, interims, unasked, early)
