"""The fields of a request: line ends, names, values, and what `Connection` may do to them."""

from tests.conformance.case import Sent
from tests.conformance.corpus.family import CHUNKED, GET, HELLO, HOST, INNER, POST, Family

KETTLE = "HTTP Desync Attacks (Kettle, 2019)"
SEEN = Sent(method="GET")


def fields(*pairs: tuple[str, str]) -> Sent:
    return Sent(method="GET", fields=pairs)


def with_line(line: bytes) -> bytes:
    return GET + HOST + line + b"\r\n\r\n"


# ---------------------------------------------------------------- line ends

ends = Family("bare CR and LF", "RFC 9112, 2.2; RFC 9110, 5.5")
ends.refused("LF at every line's end", b"GET /seen HTTP/1.1\nHost: a\n\n")
ends.refused("LF behind the request line", b"GET /seen HTTP/1.1\nHost: a\r\n\r\n")
ends.refused("LF between two fields", GET + b"Host: a\nX: y\r\n\r\n")
ends.refused("LF behind the last field", GET + b"Host: a\n\r\n")
ends.refused("LF for the blank line", GET + b"Host: a\r\n\n")
ends.refused("two LFs amid a head, and a request", GET + b"Host: a\r\nX: y\n\n" + INNER)
ends.refused("LF CR", GET + b"Host: a\n\rX: y\r\n\r\n")
ends.refused("CR at every line's end", b"GET /seen HTTP/1.1\rHost: a\r\r" + INNER)
ends.refused("CR behind the request line", b"GET /seen HTTP/1.1\rHost: a\r\n\r\n")
ends.refused("CR between two fields", GET + b"Host: a\rX: y\r\n\r\n")
ends.refused("CR CR LF behind a field", GET + b"Host: a\r\r\n\r\n")
ends.refused("CR for the blank line", GET + b"Host: a\r\n\rX")
ends.refused("CR CR LF for the blank line", GET + b"Host: a\r\n\r\r\n\r\n")
ends.refused("CR amid a value", with_line(b"X: a\rb"))
ends.refused("CR at a value's end", with_line(b"X: a\r"))
ends.refused("CR at a value's beginning", with_line(b"X: \ra"))
ends.refused("CR amid a name", with_line(b"X\rY: a"))
ends.refused("LF amid a name", with_line(b"X\nY: a"))
ends.refused(
    "CR and another request in a value", with_line(b"X: a\r\rGET /hidden HTTP/1.1\rHost: a")
)
ends.refused("LF before the request line", b"\n" + with_line(b"X: y"))
ends.refused("CR before the request line", b"\r" + with_line(b"X: y"))
ends.refused("CR in the target", b"GET /se\ren HTTP/1.1\r\nHost: a\r\n\r\n")
ends.refused("LF in the target", b"GET /se\nen HTTP/1.1\r\nHost: a\r\n\r\n")
ends.refused(
    "LF before the version",
    b"GET /seen\nHTTP/1.1\r\nHost: a\r\n\r\n",
    source="HTTP Garden, list of bugs",
)
ends.passed(
    "an empty line before the request line, which is dropped", b"\r\n" + GET + HOST + b"\r\n", SEEN
)
ends.passed("several empty lines before it", b"\r\n\r\n\r\n" + GET + HOST + b"\r\n", SEEN)

controls = Family("control bytes", "RFC 9110, 5.5; RFC 9112, 2.2")
for _byte in (0, 1, 7, 8, 11, 12, 14, 26, 27, 31, 127):
    controls.refused(f"byte {_byte:02x} in a value", with_line(b"X: a%cb" % _byte))
    controls.refused(f"byte {_byte:02x} in a name", with_line(b"X%cY: a" % _byte))
    controls.refused(
        f"byte {_byte:02x} in the target", b"GET /se%cen HTTP/1.1\r\nHost: a\r\n\r\n" % _byte
    )
controls.refused("NUL at a value's end", with_line(b"X: a\0"))
controls.refused("NUL alone", with_line(b"X: \0"))
controls.refused("NUL in the Host", GET + b"Host: a\0b\r\n\r\n")
controls.refused("NUL in the method", b"G\0T /seen HTTP/1.1\r\nHost: a\r\n\r\n")
controls.refused("NUL in the version", b"GET /seen HTTP/1.1\0\r\nHost: a\r\n\r\n")
controls.passed("a tab in a value", with_line(b"X: a\tb"), fields(("x", "a\tb")))
controls.passed(
    "bytes beyond ASCII in a value", with_line(b"X: \xe9\xff\x80"), fields(("x", "\xe9\xff\x80"))
)

# ---------------------------------------------------------------- folds, names

folds = Family("obs-fold", "RFC 9112, 5.2")
folds.refused("by a space", with_line(b"X: a\r\n b"))
folds.refused("by a tab", with_line(b"X: a\r\n\tb"))
folds.refused("an empty line of white space", with_line(b"X: a\r\n \r\nY: b"))
folds.refused("a field inside", with_line(b"X: a\r\n Content-Length: 33"))
folds.refused("of the Host", GET + b"Host:\r\n a\r\n\r\n")
folds.refused("of the Content-Length", POST + b"Content-Length: 1\r\n 0\r\n\r\n0123456789")
folds.refused("of the Transfer-Encoding", POST + b"Transfer-Encoding:\r\n chunked\r\n\r\n" + HELLO)
folds.refused("of Connection", with_line(b"Connection: keep-alive,\r\n X"))
folds.refused("of the last field, before the end", with_line(b"X: a\r\n "))
folds.refused("twice", with_line(b"X: a\r\n \r\n b"), source=f"{KETTLE}: doublewrapped")

first = Family("white space around names", "RFC 9112, 2.2 and 5.1")
first.refused("a space before the first field", GET + b" Host: a\r\n\r\n")
first.refused("a tab before the first field", GET + b"\tHost: a\r\n\r\n")
first.refused("a space before a second first field", GET + b" X: y\r\nHost: a\r\n\r\n")
first.refused(
    "a space before the first, that has a length",
    GET + b" Content-Length: 33\r\nHost: a\r\n\r\n" + INNER,
    source="HTTP Garden, list of bugs",
)
first.refused("a line of white space first", GET + b" \r\nHost: a\r\n\r\n")
for _name in (
    b"Host",
    b"X",
    b"Connection",
    b"Transfer-Encoding",
    b"Content-Length",
    b"Expect",
    b"Upgrade",
):
    first.refused(
        f"a space before the colon of {_name.decode()}",
        (GET if _name == b"Host" else GET + HOST) + _name + b" : a\r\n\r\n",
    )
first.refused("a tab before the colon", with_line(b"X\t: a"))
first.refused("several before the colon", with_line(b"X \t : a"))

names = Family("field names", "RFC 9110, 5.1 and 5.6.2")
names.refused("empty", with_line(b": a"))
names.refused("empty, with the first field", GET + b": a\r\nHost: a\r\n\r\n")
names.refused("a colon alone", with_line(b":"))
names.refused("no colon", with_line(b"nonsense"))
names.refused("two words", with_line(b"X Y: a"))
for _byte in b'()<>@,;\\"/[]?={}':
    names.refused(f"with {_byte:c}", with_line(b"X%cY: a" % _byte))
for _byte in (0x80, 0x85, 0xA0, 0xAD, 0xE9, 0xFF):
    names.refused(f"with byte {_byte:02x}", with_line(b"X%cY: a" % _byte))
names.passed(
    "of every sign that a token may have",
    with_line(b"!#$%&'*+-.^_`|~0aZ: a"),
    fields(("!#$%&'*+-.^_`|~0az", "a")),
)
names.passed("a value with a colon", with_line(b"X: a: b"), fields(("x", "a: b")))
names.passed("an empty value", with_line(b"X:"), fields(("x", "")))
names.passed(
    "several of a name, in their order",
    with_line(b"X: 1\r\nY: 2\r\nX: 3"),
    fields(("x", "1"), ("y", "2"), ("x", "3")),
)

# ---------------------------------------------------------------- Connection

connection = Family(
    "hop-by-hop", "RFC 9110, 7.6.1; Abusing HTTP hop-by-hop request headers (Davison, 2019)"
)


def connected(options: bytes, line: bytes = b"") -> bytes:
    return with_line(b"Connection: " + options + (b"\r\n" + line if line else b""))


for _option in (
    "Host", "Content-Length", "Transfer-Encoding", "Trailer", "Expect", "Authorization", "Cookie",
    "Proxy-Authorization", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Forwarded-Port",
    "X-Real-IP", "Forwarded", "Via", "X-Request-Id", "Origin", "Sec-Fetch-Site", "Cache-Control", "Content-Type",
    "Content-Encoding", "Max-Forwards", "Connection", "X_Forwarded_For", "content-length",
):  # fmt: skip
    connection.refused(f"names {_option}", connected(b"keep-alive, " + _option.encode()))
connection.refused(
    "names the length of a body",
    POST + b"Connection: Content-Length\r\nContent-Length: 33\r\n\r\n" + INNER,
)
connection.refused(
    "names the coding of a body",
    POST + b"Connection: Transfer-Encoding\r\n" + CHUNKED + b"\r\n" + HELLO,
)
connection.refused(
    "names it in a second field", with_line(b"Connection: close\r\nConnection: Host")
)
connection.refused("an option that is no token", connected(b"X Y"))
connection.refused("an option in quotes", connected(b'"close"'))
connection.refused("an option with a byte beyond ASCII", connected(b"close\xa0"))
connection.refused("an option with a colon", connected(b"X:"))
connection.passed(
    "names a field, which is dropped", connected(b"X-Hop", b"X-Hop: a\r\nY: b"), fields(("y", "b"))
)
connection.passed("names it in another spelling", connected(b"x-HOP", b"X-Hop: a"), SEEN)
connection.passed(
    "names one that stands twice",
    connected(b"X-Hop", b"X-Hop: a\r\nY: b\r\nX-Hop: c"),
    fields(("y", "b")),
)
connection.passed(
    "names one that stands before it", with_line(b"X-Hop: a\r\nConnection: X-Hop"), SEEN
)
connection.passed("names one that is not there", connected(b"X-Hop"), SEEN)
connection.passed("empty members", connected(b", ,X-Hop,,", b"X-Hop: a"), SEEN)
connection.passed("empty", connected(b""), SEEN)
connection.passed(
    "two fields",
    with_line(b"Connection: X\r\nConnection: Y\r\nX: a\r\nY: b\r\nZ: c"),
    fields(("z", "c")),
)
connection.passed("close and a field", connected(b"close, X-Hop", b"X-Hop: a"), SEEN, closes=True)
connection.passed("close in capitals", connected(b"CLOSE"), SEEN, closes=True)
connection.passed("keep-alive and close", connected(b"keep-alive, close"), SEEN, closes=True)
connection.passed("close and more requests behind it", connected(b"close"), SEEN, closes=True)
connection.passed("Keep-Alive, which is dropped", with_line(b"Keep-Alive: timeout=5"), SEEN)
connection.passed("Proxy-Connection, which is dropped", with_line(b"Proxy-Connection: close"), SEEN)
connection.passed("TE, which is dropped", with_line(b"TE: gzip"), SEEN)
connection.passed(
    "TE: trailers, which is this hop's to say",
    connected(b"TE", b"TE: trailers, gzip"),
    fields(("connection", "TE"), ("te", "trailers")),
)
connection.passed(
    "HTTP/1.0 without keep-alive", b"GET /seen HTTP/1.0\r\nHost: a\r\n\r\n", SEEN, closes=True
)
connection.passed(
    "HTTP/1.0 with keep-alive",
    b"GET /seen HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n",
    SEEN,
)
connection.passed(
    "HTTP/1.0 with keep-alive and close",
    b"GET /seen HTTP/1.0\r\nHost: a\r\nConnection: keep-alive, close\r\n\r\n",
    SEEN,
    closes=True,
)

# ---------------------------------------------------------------- who says where it came from

forged = Family("forwarding fields", "RFC 7239, 8.1; RFC 3875, 4.1.18")
for _line in (
    b"X-Forwarded-For: 127.0.0.1", b"X-Forwarded-Host: evil", b"X-Forwarded-Proto: https", b"X-Forwarded-Port: 1",
    b"Forwarded: for=127.0.0.1", b"X-Request-Id: forged", b"X_Forwarded_For: 127.0.0.1", b"X_Request_Id: forged",
    b"X-Forwarded_For: 127.0.0.1", b"x-forwarded-for: 127.0.0.1", b"X-Forwarded-For: 1\r\nX-Forwarded-For: 2",
    b"X-Forwarded-Anything: a",
):  # fmt: skip
    forged.passed(f"{_line.decode()!r}, which is dropped"[:70], with_line(_line), SEEN)

# ---------------------------------------------------------------- Upgrade

upgrades = Family("h2c and other upgrades", "RFC 9110, 7.8; h2c Smuggling (Bishop Fox, 2020)")
_H2C = b"Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA"
upgrades.passed(
    "h2c with its settings, dropped",
    with_line(b"Connection: Upgrade, HTTP2-Settings\r\n" + _H2C),
    SEEN,
)
upgrades.passed("h2c without settings", with_line(b"Connection: Upgrade\r\nUpgrade: h2c"), SEEN)
upgrades.passed("h2c that Connection does not name", with_line(_H2C), SEEN)
upgrades.passed("h2c in capitals", with_line(b"Connection: upgrade\r\nUpgrade: H2C"), SEEN)
upgrades.passed("settings alone", with_line(b"HTTP2-Settings: AAMAAABk"), SEEN)
upgrades.passed("settings with underscores", with_line(b"HTTP2_Settings: AAMAAABk"), SEEN)
upgrades.passed(
    "h2c with a body",
    POST
    + b"Connection: Upgrade, HTTP2-Settings\r\n"
    + _H2C
    + b"\r\nContent-Length: 33\r\n\r\n"
    + INNER,
    Sent(body=INNER),
)
upgrades.passed(
    "h2c with chunks",
    POST + b"Connection: Upgrade, HTTP2-Settings\r\n" + _H2C + b"\r\n" + CHUNKED + b"\r\n" + HELLO,
    Sent(body=b"hello", chunked=True),
)
upgrades.passed(
    "h2c and websocket", with_line(b"Connection: Upgrade\r\nUpgrade: h2c, websocket"), SEEN
)
upgrades.passed(
    "websocket and h2c in two fields",
    with_line(b"Connection: Upgrade\r\nUpgrade: websocket\r\nUpgrade: h2c"),
    SEEN,
)
upgrades.passed("TLS", with_line(b"Connection: Upgrade\r\nUpgrade: TLS/1.0"), SEEN)
upgrades.passed("something unknown", with_line(b"Connection: Upgrade\r\nUpgrade: foo/2"), SEEN)
upgrades.passed("websocket that Connection does not name", with_line(b"Upgrade: websocket"), SEEN)
upgrades.passed(
    "websocket on a POST", POST + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n", Sent()
)
upgrades.passed(
    "websocket with a body",
    GET + HOST + b"Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 33\r\n\r\n" + INNER,
    Sent(method="GET", body=INNER),
)
upgrades.passed(
    "websocket on HTTP/1.0",
    b"GET /seen HTTP/1.0\r\nHost: a\r\nConnection: Upgrade, keep-alive\r\nUpgrade: websocket\r\n\r\n",
    SEEN,
)
upgrades.passed(
    "websocket that the server declines",
    with_line(b"Connection: Upgrade\r\nUpgrade: websocket"),
    fields(("connection", "Upgrade"), ("upgrade", "websocket")),
    source="Websocket smuggling (0ang3el, 2019)",
)

FAMILIES = (ends, controls, folds, first, names, connection, forged, upgrades)
