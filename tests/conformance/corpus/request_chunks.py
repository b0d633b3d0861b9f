"""The chunks of a request's body: sizes, extensions, ends and trailers."""

from tests.conformance.case import Sent
from tests.conformance.corpus.family import CHUNKED, HELLO, INNER, POST, Family

GARDEN = "HTTP Garden, list of bugs"


def chunks(data: bytes) -> bytes:
    return POST + CHUNKED + b"\r\n" + data


def hello(line: bytes) -> bytes:
    """The five bytes behind a size line of this kind."""
    return chunks(line + b"\r\nhello\r\n0\r\n\r\n")


HELLO_SENT = Sent(body=b"hello", chunked=True)

sizes = Family("chunk sizes", f"RFC 9112, 7.1; {GARDEN}")
for _name, _line in {
    "0x": b"0x5", "a sign": b"+5", "negative": b"-5", "an underscore": b"0_5", "a space before": b" 5",
    "a space behind": b"5 ", "a tab before": b"\t5", "a tab behind": b"5\t", "spaces inside": b"0 5",
    "none": b"", "not hex": b"g", "a letter behind": b"5g", "seventeen digits": b"00000000000000005",
    "beyond 64 bits": b"10000000000000005", "2^63": b"8000000000000000", "all ones": b"ffffffffffffffff",
    "a comma": b"5,5", "a fraction": b"5.0", "a NUL behind": b"5\0", "a NUL before": b"\x005",
    "a vertical tab before": b"\x0b5", "a form feed behind": b"5\x0c", "in quotes": b'"5"',
    "digits of another script": b"\xef\xbc\x95", "h behind": b"5h", "a dollar": b"$5",
    "a CR behind": b"5\r", "a byte beyond ASCII behind": b"5\xff", "a CR before": b"\r5",
}.items():  # fmt: skip
    sizes.broken(_name, hello(_line))
sizes.broken("ended by a bare LF", chunks(b"5\nhello\r\n0\r\n\r\n"))
sizes.broken("ended by a bare CR", chunks(b"5\rhello\r\n0\r\n\r\n"))
sizes.broken("ended by CR and another byte", chunks(b"5\rXhello\r\n0\r\n\r\n"))
sizes.broken("the last one ended by a bare LF", chunks(b"5\r\nhello\r\n0\n\r\n"))
sizes.broken("the last one of other zeros", chunks(b"5\r\nhello\r\n0x0\r\n\r\n"))
sizes.broken("too short", chunks(b"4\r\nhello\r\n0\r\n\r\n"))
sizes.broken("too long", chunks(b"6\r\nhello\r\n0\r\n\r\n"))
sizes.broken(
    "too long by two", chunks(b"7\r\nhello\r\n0\r\n\r\n"), source="two bytes passed over unseen"
)
sizes.broken("data ended by a bare LF", chunks(b"5\r\nhello\n0\r\n\r\n"))
sizes.broken("data ended by a bare CR", chunks(b"5\r\nhello\r0\r\n\r\n"))
sizes.broken("data ended by two LFs", chunks(b"5\r\nhello\n\n0\r\n\r\n"))
sizes.broken("data ended by other bytes", chunks(b"5\r\nhelloXX0\r\n\r\n"), source=GARDEN)
sizes.broken("data without an end", chunks(b"5\r\nhello0\r\n\r\n"))
sizes.broken("a blank line before the first", chunks(b"\r\n5\r\nhello\r\n0\r\n\r\n"))
sizes.broken("a blank line between two", chunks(b"5\r\nhello\r\n\r\n0\r\n\r\n"))
sizes.broken("a whole request where a size should be", chunks(b"5\r\nhello\r\n" + INNER))
sizes.broken("a fault behind a good chunk", chunks(b"5\r\nhello\r\nzz\r\nhello\r\n0\r\n\r\n"))
sizes.passed("zeros before", hello(b"0005"), HELLO_SENT)
sizes.passed("sixteen digits", hello(b"0000000000000005"), HELLO_SENT)
sizes.passed(
    "in capitals", chunks(b"A\r\n0123456789\r\n0\r\n\r\n"), Sent(body=b"0123456789", chunked=True)
)
sizes.passed(
    "in lower case", chunks(b"a\r\n0123456789\r\n0\r\n\r\n"), Sent(body=b"0123456789", chunked=True)
)
sizes.passed("several zeros at the end", chunks(b"5\r\nhello\r\n0000\r\n\r\n"), HELLO_SENT)
sizes.passed(
    "sixteen zeros at the end", chunks(b"5\r\nhello\r\n0000000000000000\r\n\r\n"), HELLO_SENT
)
sizes.passed(
    "one byte a chunk",
    chunks(b"".join(b"1\r\n%c\r\n" % byte for byte in b"hello") + b"0\r\n\r\n"),
    HELLO_SENT,
)
sizes.passed(
    "data that looks like chunks",
    chunks(b"f\r\n" + HELLO + b"\r\n0\r\n\r\n"),
    Sent(body=HELLO, chunked=True),
)
sizes.passed(
    "data that looks like the end",
    chunks(b"7\r\n\r\n0\r\n\r\n\r\n0\r\n\r\n"),
    Sent(body=b"\r\n0\r\n\r\n", chunked=True),
)

extensions = Family("chunk extensions", "RFC 9112, 7.1.1; Funky Chunks (2025): TERM.EXT, EXT.TERM")
for _name, _line in {
    "a bare CR": b"5;a\rb", "a bare CR at its end": b"5;a\r", "a NUL": b"5;a\0", "a vertical tab": b"5;\x0ba",
    "a form feed": b"5;a\x0c", "byte 01": b"5;\x01", "byte 1f in quotes": b'5;a="\x1f"', "byte 7f": b"5;a\x7f",
    "a NUL in quotes": b'5;a="\0"', "a byte beyond ASCII": b"5;a=\xff",
    "a byte beyond ASCII in quotes": b'5;a="\xff"',
    "no name": b"5;", "no name but a value": b"5;=a", "no value": b"5;a=", "two signs": b"5;a==b",
    "quotes without an end": b'5;a="b', "quotes with more behind": b'5;a="b"c', "a bare word": b"5 a",
    "a space before the sign": b"5 ;a", "a space behind the sign": b"5; a", "a space behind it": b"5;a ",
    "a comma": b"5,a", "an ampersand without a sign": b"5&a", "a backslash at the end of quotes": b'5;a="\\',
    "longer than a line may be": b"5;" + b"a" * 1100,
}.items():  # fmt: skip
    extensions.broken(_name, hello(_line))
extensions.broken("a bare LF amid it", chunks(b"5;a\nhello\r\n0\r\n\r\n"))
extensions.broken("a bare LF before more of it", chunks(b"2;\nxx\r\n4\r\nabcd\r\n0\r\n\r\n"))
extensions.broken("a bare LF in quotes", chunks(b'5;a="\n"\r\nhello\r\n0\r\n\r\n'))
extensions.broken("at the end, by a bare LF", chunks(b"5\r\nhello\r\n0;a\n\r\n"))
extensions.broken("at the end, with a bare CR", chunks(b"5\r\nhello\r\n0;a\rb\r\n\r\n"))
for _name, _line in {
    "a name, which is dropped": b"5;a", "a value, which is dropped": b"5;a=b",
    "quotes, which are dropped": b'5;a="b c;d"', "escapes, which are dropped": b'5;a="\\"\\\\"',
    "several, which are dropped": b"5;a=b;c;d=e", "one that looks like a size": b"5;5=5",
}.items():  # fmt: skip
    extensions.passed(_name, hello(_line), HELLO_SENT)
extensions.passed("at the end, dropped too", chunks(b"5\r\nhello\r\n0;a=b\r\n\r\n"), HELLO_SENT)

trailers = Family("trailers", "RFC 9110, 6.5.1; RFC 9112, 7.1.2")


def trailed(lines: bytes) -> bytes:
    return chunks(b"5\r\nhello\r\n0\r\n" + lines + b"\r\n")


for _name, _line in {
    "without a colon": b"nonsense\r\n", "folded": b"X: a\r\n b\r\n", "a bare LF": b"X: a\nY: b\r\n",
    "ended by bare LFs": b"X: a\n\n", "a bare CR": b"X: a\rb\r\n", "a NUL": b"X: a\0b\r\n",
    "a control byte": b"X: a\x01\r\n", "byte 7f": b"X: a\x7f\r\n", "a space before the colon": b"X : a\r\n",
    "a tab before the colon": b"X\t: a\r\n", "white space before the first": b" X: a\r\n",
    "an empty name": b": a\r\n", "a name that is no token": b"X Y: a\r\n", "a byte beyond ASCII": b"X\xe9: a\r\n",
    "a request": b"GET /hidden HTTP/1.1\r\nHost: a\r\n", "larger than is allowed": b"X: " + b"a" * 9000 + b"\r\n",
}.items():  # fmt: skip
    trailers.broken(_name, trailed(_line))
for _name in (
    "Content-Length", "Transfer-Encoding", "Host", "Connection", "Authorization", "Cookie", "Set-Cookie",
    "Proxy-Authorization", "X-Forwarded-For", "X-Forwarded-Host", "Forwarded", "Via", "X-Request-Id", "Expect",
    "Trailer", "TE", "Upgrade", "Content-Type", "Content-Encoding", "Max-Forwards", "X-Real-Ip",
    "Transfer_Encoding", "X_Forwarded_For", "content-length",
):  # fmt: skip
    trailers.passed(
        f"{_name}, which is dropped",
        trailed(_name.encode() + b": 5\r\nX: a\r\n"),
        Sent(body=b"hello", chunked=True, trailers=(("x", "a"),)),
    )
trailers.passed(
    "one that Connection names, which is dropped",
    POST + b"Connection: X-Hop\r\n" + CHUNKED + b"\r\n5\r\nhello\r\n0\r\nX-Hop: a\r\nX: a\r\n\r\n",
    Sent(body=b"hello", chunked=True, trailers=(("x", "a"),)),
    source="RFC 9110, 7.6.1",
)
trailers.passed(
    "one that may go on",
    trailed(b"X-Sum: 11\r\n"),
    Sent(body=b"hello", chunked=True, trailers=(("x-sum", "11"),)),
)
trailers.passed(
    "several, in their order",
    trailed(b"X: 1\r\nY: 2\r\nX: 3\r\n"),
    Sent(body=b"hello", chunked=True, trailers=(("x", "1"), ("y", "2"), ("x", "3"))),
)
trailers.passed(
    "announced",
    POST + CHUNKED + b"Trailer: X\r\n\r\n5\r\nhello\r\n0\r\nX: a\r\n\r\n",
    Sent(body=b"hello", chunked=True, fields=(("trailer", "X"),), trailers=(("x", "a"),)),
)

FAMILIES = (sizes, extensions, trailers)
