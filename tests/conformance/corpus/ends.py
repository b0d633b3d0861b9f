"""Answers that are cut short, in every framing; and what a server says on an idle connection."""

from typing import Any, Final

from tests.conformance.corpus.family import Family
from tests.conformance.corpus.responses import CHUNKED, HEAD, HTTP_1_0, KEPT_1_0, OK, POISON

# ---------------------------------------------------------------- whole, in every framing

whole = Family("whole answers", "RFC 9112, 6.3 and 8")
for _name, _asks in (
    ("HTTP/1.1", None),
    ("HTTP/1.0", HTTP_1_0),
    ("HTTP/1.0 that is kept", KEPT_1_0),
):
    _more: dict[str, Any] = {} if _asks is None else {"asks": _asks}
    whole.answer(
        f"of a length to {_name}", OK + b"Content-Length: 5\r\n\r\nhello", b"hello", **_more
    )
    whole.answer(
        f"of chunks to {_name}", OK + CHUNKED + b"5\r\nhello\r\n0\r\n\r\n", b"hello", **_more
    )
    whole.answer(
        f"ended by close to {_name}", OK + b"\r\nhello", b"hello", "close", unfit=True, **_more
    )
    whole.answer(
        f"of HTTP/1.0 ended by close to {_name}",
        b"HTTP/1.0 200 OK\r\n\r\nhello",
        b"hello",
        "close",
        unfit=True,
        **_more,
    )
    whole.answer(
        f"ended by close with nothing to {_name}", OK + b"\r\n", b"", "close", unfit=True, **_more
    )
whole.answer(
    "with trailers",
    OK + CHUNKED + b"5\r\nhello\r\n0\r\nX: a\r\n\r\n",
    b"hello",
    trailers=(("x", "a"),),
)
for _name in ("Content-Length", "Transfer-Encoding", "Set-Cookie", "WWW-Authenticate", "Connection", "Location",
              "Proxy-Authenticate", "Host"):  # fmt: skip
    whole.answer(
        f"with the trailer {_name}, which is dropped",
        OK + CHUNKED + b"5\r\nhello\r\n0\r\n" + _name.encode() + b": 5\r\nX: a\r\n\r\n",
        b"hello",
        trailers=(("x", "a"),),
    )
whole.answer(
    "with a trailer that Connection names, which is dropped",
    OK + b"Connection: x-HOP\r\n" + CHUNKED + b"5\r\nhello\r\n0\r\nX-Hop: b\r\nX: a\r\n\r\n",
    b"hello",
    trailers=(("x", "a"),),
    source="RFC 9110, 7.6.1",
)
whole.answer(
    "with chunk extensions, which are dropped",
    OK + CHUNKED + b'5;a="b"\r\nhello\r\n0;c\r\n\r\n',
    b"hello",
)

# ---------------------------------------------------------------- cut short

cut = Family("answers cut short", "RFC 9112, 8")
_LENGTH: Final = OK + b"Content-Length: 9\r\n\r\n"
for _then in ("close", "reset"):
    _how = "closed" if _then == "close" else "reset"
    for _name, _asks in (
        ("HTTP/1.1", None),
        ("HTTP/1.0", HTTP_1_0),
        ("HTTP/1.0 that is kept", KEPT_1_0),
    ):
        _more = {} if _asks is None else {"asks": _asks}
        cut.cut(f"{_how} amid a length, to {_name}", _LENGTH + b"hello", b"hello", _then, **_more)
        cut.cut(f"{_how} behind a head with a length, to {_name}", _LENGTH, b"", _then, **_more)
        for _where, _body in {
            "behind a head with chunks": b"", "amid a size": b"5", "behind a size": b"5\r\n", "amid a chunk": b"5\r\nhel",
            "behind a chunk's data": b"5\r\nhello", "behind a chunk": b"5\r\nhello\r\n",
            "amid the last chunk": b"5\r\nhello\r\n0", "behind the last chunk's size": b"5\r\nhello\r\n0\r\n",
            "amid the last line's end": b"5\r\nhello\r\n0\r\n\r", "amid the trailers": b"5\r\nhello\r\n0\r\nX: a\r\n",
        }.items():  # fmt: skip
            _got = b"hello" if b"hello" in _body else b"hel" if b"hel" in _body else b""
            cut.cut(f"{_how} {_where}, to {_name}", OK + CHUNKED + _body, _got, _then, **_more)
        if _then == "reset":
            cut.cut(
                f"reset amid a body that ends by close, to {_name}",
                OK + b"\r\nhello",
                b"hello",
                _then,
                **_more,
            )
            cut.cut(
                f"reset behind a head whose body ends by close, to {_name}",
                OK + b"\r\n",
                b"",
                _then,
                **_more,
            )
cut.cut("a long one", OK + b"Content-Length: 400000\r\n\r\n" + b"x" * 300_000, b"x" * 300_000)
for _name, _body in {
    "a size that is none": b"zz\r\n", "a size with a sign": b"+5\r\nhello\r\n", "a chunk too short": b"4\r\nhello\r\n",
    "a chunk too long": b"6\r\nhello\r\n0\r\n\r\n", "a bare LF behind a size": b"5\nhello\r\n0\r\n\r\n",
    "a bare LF behind a chunk": b"5\r\nhello\n0\r\n\r\n", "a size beyond 64 bits": b"10000000000000005\r\nhello\r\n",
    "a control byte in an extension": b"5;\x01\r\nhello\r\n0\r\n\r\n", "a trailer without a colon": b"0\r\nX\r\n\r\n",
    "a folded trailer": b"0\r\nX: a\r\n b\r\n\r\n", "a NUL in a trailer": b"0\r\nX: \0\r\n\r\n",
    "a bare LF in the trailers": b"0\r\nX: a\n\n", "too many trailers": b"0\r\nX: " + b"a" * 9000 + b"\r\n\r\n",
}.items():  # fmt: skip
    for _version in ("HTTP/1.1", "HTTP/1.0"):
        _more = {"asks": HTTP_1_0} if _version == "HTTP/1.0" else {}
        cut.cut(
            f"for {_name}, to {_version}",
            OK + CHUNKED + b"2\r\nhe\r\n" + _body,
            b"hehello\r",
            "keep",
            may_refuse=True,
            **_more,
        )
    cut.cut(f"for {_name} at once", OK + CHUNKED + _body, b"hello\r", "keep", may_refuse=True)
for _name, _says in {
    "nothing": b"", "half a status line": b"HTTP/1.1 2", "half a head": b"HTTP/1.1 200 OK\r\nX: ",
    "a head without its end": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n",
    "an interim answer": b"HTTP/1.1 103 Early\r\n\r\n",
}.items():  # fmt: skip
    cut.bad(f"closed behind {_name}", _says, "close")
    cut.bad(f"reset behind {_name}", _says, "reset")
cut.answer(
    "nothing, to HEAD", OK + b"Content-Length: 9\r\n\r\n", b"", "close", asks=HEAD, unfit=True
)

# ---------------------------------------------------------------- idle connections

idle = Family(
    "unasked bytes on an idle connection",
    "RFC 9112, 9.2 and 9.3; HTTP/2: The Sequel is Always Worse: response queue poisoning (Kettle, 2021)",
)
for _name, _says in {
    "a whole answer": POISON, "two answers": POISON * 2, "half an answer": POISON[:20], "a head": POISON[:-6],
    "one byte": b"H", "an empty line": b"\r\n", "a LF": b"\n", "a NUL": b"\0", "an interim answer": b"HTTP/1.1 100 Continue\r\n\r\n",
    "a timeout": b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
    "a request": b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", "a megabyte": b"x" * 1_000_000, "the last chunk": b"0\r\n\r\n",
    "a switch of protocols": b"HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
}.items():  # fmt: skip
    idle.idle(_name, _says)
    idle.idle(f"{_name}, and an end", _says, "close")
idle.idle("an end alone", b"", "close")
idle.idle("a reset", b"", "reset")

FAMILIES = (whole, cut, idle)
