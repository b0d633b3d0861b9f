"""Where a request's body ends, if two fields or two readers disagree."""

from tests.conformance.case import Sent
from tests.conformance.corpus.family import CHUNKED, GET, HELLO, HOST, INNER, POST, Family

KETTLE = "HTTP Desync Attacks (Kettle, 2019)"
KLEIN = "HTTP Request Smuggling in 2020 (Klein)"
GARDEN = "HTTP Garden, list of bugs"
HELLO_SENT = Sent(body=b"hello", chunked=True)

# ---------------------------------------------------------------- CL.TE, TE.CL

cl_te = Family("CL.TE", f"RFC 9112, 6.1 and 6.3; {KETTLE}")
cl_te.refused(
    "length before chunked", POST + b"Content-Length: 6\r\n" + CHUNKED + b"\r\n0\r\n\r\nG"
)
cl_te.refused(
    "a whole request behind the last chunk",
    POST + b"Content-Length: 40\r\n" + CHUNKED + b"\r\n0\r\n\r\n" + INNER,
)
cl_te.refused(
    "the length is that of the chunks", POST + b"Content-Length: 15\r\n" + CHUNKED + b"\r\n" + HELLO
)
cl_te.refused("a length of zero", POST + b"Content-Length: 0\r\n" + CHUNKED + b"\r\n" + HELLO)
cl_te.refused("on a GET", GET + HOST + b"Content-Length: 5\r\n" + CHUNKED + b"\r\n0\r\n\r\n")
cl_te.refused(
    "on a HEAD",
    b"HEAD /seen HTTP/1.1\r\n" + HOST + b"Content-Length: 5\r\n" + CHUNKED + b"\r\n0\r\n\r\n",
)
cl_te.refused(
    "in lower case", POST + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n" + HELLO
)
cl_te.refused(
    "in capitals", POST + b"CONTENT-LENGTH: 5\r\nTRANSFER-ENCODING: CHUNKED\r\n\r\n" + HELLO
)
cl_te.refused(
    "with Connection: close",
    POST + b"Connection: close\r\nContent-Length: 5\r\n" + CHUNKED + b"\r\n" + HELLO,
)
cl_te.refused(
    "far apart", POST + b"Content-Length: 5\r\n" + b"X: y\r\n" * 30 + CHUNKED + b"\r\n" + HELLO
)

te_cl = Family("TE.CL", f"RFC 9112, 6.1 and 6.3; {KETTLE}")
te_cl.refused("chunked before length", POST + CHUNKED + b"Content-Length: 4\r\n\r\n" + HELLO)
te_cl.refused(
    "a whole request inside a chunk",
    POST + CHUNKED + b"Content-Length: 4\r\n\r\n21\r\n" + INNER + b"\r\n0\r\n\r\n",
)
te_cl.refused("the same length as the body", POST + CHUNKED + b"Content-Length: 15\r\n\r\n" + HELLO)
te_cl.refused("a length that is none either", POST + CHUNKED + b"Content-Length: x\r\n\r\n" + HELLO)
te_cl.refused("an empty length", POST + CHUNKED + b"Content-Length:\r\n\r\n" + HELLO)
te_cl.refused("a negative length", POST + CHUNKED + b"Content-Length: -1\r\n\r\n" + HELLO)
te_cl.refused(
    "two lengths", POST + CHUNKED + b"Content-Length: 4\r\nContent-Length: 4\r\n\r\n" + HELLO
)
te_cl.refused(
    "on a DELETE",
    b"DELETE /seen HTTP/1.1\r\n" + HOST + CHUNKED + b"Content-Length: 4\r\n\r\n" + HELLO,
)
te_cl.refused("on a GET", GET + HOST + CHUNKED + b"Content-Length: 4\r\n\r\n" + HELLO)

# ---------------------------------------------------------------- TE.TE

te_te = Family(
    "TE.TE", f"RFC 9112, 6.1; {KETTLE}; smuggler and http-request-smuggler, permutations"
)


def coded(value: bytes) -> bytes:
    return POST + b"Transfer-Encoding: " + value + b"\r\n\r\n" + HELLO


def coded_and_long(line: bytes) -> bytes:
    return POST + b"Content-Length: 4\r\n" + line + b"\r\n\r\n" + HELLO


te_te.refused("chunked twice", POST + CHUNKED + CHUNKED + b"\r\n" + HELLO, 501)
te_te.refused("chunked and cow", POST + CHUNKED + b"Transfer-Encoding: cow\r\n\r\n" + HELLO, 501)
te_te.refused(
    "cow and chunked", POST + b"Transfer-Encoding: cow\r\n" + CHUNKED + b"\r\n" + HELLO, 501
)
te_te.refused(
    "chunked and identity", POST + CHUNKED + b"Transfer-encoding: identity\r\n\r\n" + HELLO, 501
)
te_te.refused("chunked, chunked", coded(b"chunked, chunked"), 501)
te_te.refused("chunked, identity", coded(b"chunked, identity"), 501)
te_te.refused("identity, chunked", coded(b"identity, chunked"), 501)
te_te.refused("identity, chunked, identity", coded(b"identity, chunked, identity"), 501)
te_te.refused("gzip, chunked", coded(b"gzip, chunked"), 501)
te_te.refused("chunked, gzip", coded(b"chunked, gzip"), 501)
te_te.refused("identity", coded(b"identity"), 501)
te_te.refused("deflate", coded(b"deflate"), 501)
te_te.refused("xchunked", coded(b"xchunked"), 501)
te_te.refused("chunkedx", coded(b"chunkedx"), 501)
te_te.refused("chunk", coded(b"chunk"), 501)
te_te.refused("chunked with a parameter", coded(b"chunked;q=1"), 501)
te_te.refused("chunked with a comma behind", coded(b"chunked,"), 501)
te_te.refused("chunked with a comma before", coded(b", chunked"), 501)
te_te.refused("in quotes", coded(b'"chunked"'), 501)
te_te.refused("in apostrophes", coded(b"'chunked'"), 501)
te_te.refused("in words", coded(b"cow chunked bar"), 501)
te_te.refused("as an encoded word", coded(b"=?utf-8?B?Y2h1bmtlZA==?="), 400)
te_te.refused("empty", POST + b"Transfer-Encoding:\r\n\r\n" + HELLO)
te_te.refused(
    "empty beside chunked", POST + b"Transfer-Encoding:\r\n" + CHUNKED + b"\r\n" + HELLO, 501
)
te_te.refused("behind a byte beyond ASCII", coded(b"\xffchunked"))
te_te.refused("behind a no-break space", coded(b"\xa0chunked"))
te_te.refused("with a next line behind", coded(b"chunked\x85"))
te_te.refused("accented", coded(b"ch\x96nked"))
for _byte in (0, 1, 8, 11, 12, 14, 27, 31, 127):
    te_te.refused(f"byte {_byte:02x} before the value", coded(b"%cchunked" % _byte))
    te_te.refused(f"byte {_byte:02x} behind the value", coded(b"chunked%c" % _byte))
    te_te.refused(
        f"byte {_byte:02x} before the colon",
        coded_and_long(b"Transfer-Encoding%c: chunked" % _byte),
    )
    te_te.refused(
        f"byte {_byte:02x} before the name", coded_and_long(b"%cTransfer-Encoding: chunked" % _byte)
    )
te_te.refused("a CR behind the value", coded(b"chunked\r"))
te_te.refused("a CR before the value", coded(b"\rchunked"))
te_te.refused("a CR amid the name", coded_and_long(b"Tra\rnsfer-Encoding: chunked"))
te_te.refused("wrapped by a bare LF", coded_and_long(b"Transfer-Encoding:\n chunked"))
te_te.refused(
    "wrapped by a LF and a vertical tab", coded_and_long(b"Transfer-Encoding:\n\x0bchunked")
)
te_te.refused("an accented name", coded_and_long(b"Transf\x82r-Encoding: chunked"))
te_te.refused("a soft hyphen in the name", coded_and_long(b"Transfer\xadEncoding: chunked"))
te_te.refused("a space in the name", coded_and_long(b"Transfer Encoding: chunked"))
te_te.refused(
    "a backslash in the name", coded_and_long(b"Transfer\\Encoding: chunked"), source=KLEIN
)
te_te.refused(
    "a word behind the name", coded_and_long(b"Transfer-Encoding x: chunked"), source=KLEIN
)
te_te.refused("a colon before the name", coded_and_long(b":transfer-encoding: chunked"))
te_te.refused("in a value behind a bare CR", coded_and_long(b"X: x\rTransfer-Encoding: chunked"))
te_te.refused("in a value behind a bare LF", coded_and_long(b"X: x\nTransfer-Encoding: chunked"))
te_te.refused(
    "in a line that begins with CR", coded_and_long(b"X: x\r\n\rTransfer-Encoding: chunked")
)
te_te.refused(
    "on HTTP/1.0",
    b"POST /seen HTTP/1.0\r\nHost: a\r\n" + CHUNKED + b"\r\n" + HELLO,
    source="RFC 9112, 6.1",
)
te_te.refused(
    "another coding on HTTP/1.0",
    b"POST /seen HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n" + HELLO,
)
te_te.refused(
    "kept alive on HTTP/1.0",
    b"POST /seen HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n" + CHUNKED + b"\r\n" + HELLO,
)
te_te.passed("in capitals", coded(b"CHUNKED"), HELLO_SENT)
te_te.passed("in both cases", POST + b"TrAnSFer-EnCODinG: cHuNkeD\r\n\r\n" + HELLO, HELLO_SENT)
te_te.passed("behind white space", coded(b"\t chunked"), HELLO_SENT)
te_te.passed("before a space", coded(b"chunked "), HELLO_SENT)
te_te.refused("before a tab", coded(b"chunked\t"), source=f"{KETTLE}: tabsuffix")
te_te.passed("without a space", POST + b"Transfer-Encoding:chunked\r\n\r\n" + HELLO, HELLO_SENT)
te_te.passed(
    "with a name that only looks like it",
    POST + b"Content-Length: 5\r\nTransfer-%45ncoding: chunked\r\n\r\nhello",
    Sent(body=b"hello", fields=(("transfer-%45ncoding", "chunked"),)),
)
te_te.passed(
    "another field that says chunked",
    POST + b"Content-Length: 5\r\nContent-Encoding: chunked\r\n\r\nhello",
    Sent(body=b"hello", fields=(("content-encoding", "chunked"),)),
)
te_te.passed(
    "with an underscore, which is dropped",
    POST + b"Content-Length: 5\r\nTransfer_Encoding: chunked\r\n\r\nhello",
    Sent(body=b"hello"),
    source="smuggler: underjoin1; RFC 3875, 4.1.18",
)

# ---------------------------------------------------------------- CL.0, TE.0, 0.CL

cl_0 = Family("CL.0", "Browser-Powered Desync Attacks (Kettle, 2022)")
for _method in ("GET", "HEAD", "OPTIONS", "DELETE", "PUT", "PATCH", "PURGE"):
    cl_0.passed(
        f"a body on {_method}",
        b"%b /seen HTTP/1.1\r\nHost: a\r\nContent-Length: 33\r\n\r\n" % _method.encode() + INNER,
        Sent(method=_method, body=INNER),
    )
cl_0.passed("a body of one byte", POST + b"Content-Length: 1\r\n\r\nG", Sent(body=b"G"))
cl_0.passed(
    "a length of zero and a request behind it",
    POST + b"Content-Length: 0\r\n\r\n",
    Sent(length=True),
)
cl_0.passed("no length and a request behind it", POST + b"\r\n", Sent())
cl_0.passed(
    "kept alive by name",
    POST + b"Connection: keep-alive\r\nContent-Length: 33\r\n\r\n" + INNER,
    Sent(body=INNER),
)
cl_0.passed(
    "of a form",
    POST + b"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 33\r\n\r\n" + INNER,
    Sent(body=INNER, fields=(("content-type", "application/x-www-form-urlencoded"),)),
)
cl_0.refused(
    "a body on TRACE",
    b"TRACE /seen HTTP/1.1\r\nHost: a\r\nContent-Length: 33\r\n\r\n" + INNER,
    source="RFC 9110, 9.3.8",
)

te_0 = Family("TE.0", "TE.0 HTTP Request Smuggling (Bugcrowd, 2024)")
for _method in ("GET", "OPTIONS", "HEAD", "DELETE", "POST"):
    te_0.passed(
        f"a request inside a chunk on {_method}",
        b"%b /seen HTTP/1.1\r\nHost: a\r\n" % _method.encode()
        + CHUNKED
        + b"\r\n21\r\n"
        + INNER
        + b"\r\n0\r\n\r\n",
        Sent(method=_method, body=INNER, chunked=True),
    )
te_0.passed("no chunk but the last", POST + CHUNKED + b"\r\n0\r\n\r\n", Sent(chunked=True))
te_0.refused("on TRACE", b"TRACE /seen HTTP/1.1\r\nHost: a\r\n" + CHUNKED + b"\r\n" + HELLO)
te_0.broken("a size that is a request's beginning", POST + CHUNKED + b"\r\n" + INNER)

zero_cl = Family("0.CL", "HTTP/1.1 Must Die (Kettle, 2025)")
for _name, _line in {
    "a space before the colon": b"Content-Length : 34",
    "a tab before the colon": b"Content-Length\t: 34",
    "a space before the name": b" Content-Length: 33",
    "a tab before the name": b"\tContent-Length: 33",
    "a vertical tab before the name": b"\x0bContent-Length: 33",
    "a NUL behind the name": b"Content-Length\0: 34",
    "a bare LF before the colon": b"Content-Length\n: 34",
    "folded": b"Content-Length:\r\n 34",
    "folded by a bare LF": b"Content-Length:\n 34",
    "in a value behind a bare LF": b"X: y\nContent-Length: 33",
    "in a value behind a bare CR": b"X: y\rContent-Length: 33",
    "a next line behind the name": b"Content-Length\x85: 34",
    "a no-break space behind the name": b"Content-Length\xa0: 34",
    "a field that is no token before it": b"X-Invalid Y: \r\nContent-Length: 33",
    "a line without a colon before it": b"nonsense\r\nContent-Length: 33",
}.items():  # fmt: skip
    zero_cl.refused(_name, GET + HOST + _line + b"\r\n\r\n" + INNER)
zero_cl.passed(
    "with an underscore, which is dropped",
    GET + HOST + b"Content_Length: 34\r\n\r\n",
    Sent(method="GET"),
    source="RFC 3875, 4.1.18",
)
zero_cl.refused(
    "an expectation that is hidden",
    POST + b"Expect: y 100-continue\r\nContent-Length: 5\r\n\r\nhello",
    417,
    source="HTTP/1.1 Must Die: Expect; RFC 9110, 10.1.1",
)
zero_cl.refused(
    "two expectations",
    POST + b"Expect: 100-continue\r\nExpect: x\r\nContent-Length: 5\r\n\r\nhello",
    417,
)
zero_cl.refused(
    "a list of expectations",
    POST + b"Expect: 100-continue, x\r\nContent-Length: 5\r\n\r\nhello",
    417,
)
zero_cl.refused(
    "an expectation in quotes",
    POST + b'Expect: "100-continue"\r\nContent-Length: 5\r\n\r\nhello',
    417,
)
zero_cl.refused("an empty expectation", POST + b"Expect:\r\nContent-Length: 5\r\n\r\nhello", 417)
zero_cl.passed(
    "an expectation without a body, which is dropped",
    GET + HOST + b"Expect: 100-continue\r\n\r\n",
    Sent(method="GET"),
    source="RFC 9110, 10.1.1",
)
zero_cl.passed(
    "an expectation of HTTP/1.0, which is dropped",
    b"POST /seen HTTP/1.0\r\nHost: a\r\nExpect: 100-continue\r\nConnection: keep-alive\r\n"
    b"Content-Length: 5\r\n\r\nhello",
    Sent(body=b"hello"),
    source="RFC 9110, 10.1.1",
)

# ---------------------------------------------------------------- Content-Length itself

lengths = Family("Content-Length", "RFC 9110, 8.6; RFC 9112, 6.3")


def long(value: bytes) -> bytes:
    return POST + b"Content-Length: " + value + b"\r\n\r\nhello"


lengths.refused("two that differ", POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello")
lengths.refused("two of a kind", POST + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello")
lengths.refused(
    "two in other spellings", POST + b"Content-Length: 5\r\ncontent-length: 5\r\n\r\nhello"
)
lengths.refused(
    "two with a field between",
    POST + b"Content-Length: 5\r\nX: y\r\nContent-Length: 0\r\n\r\nhello",
)
lengths.refused("zero and five", POST + b"Content-Length: 0\r\nContent-Length: 5\r\n\r\nhello")
lengths.refused("two on a GET", GET + HOST + b"Content-Length: 0\r\nContent-Length: 0\r\n\r\n")
for _name, _value in {
    "a list": b"5, 5", "a list that differs": b"5, 6", "a list without a space": b"5,5",
    "a comma behind": b"5,", "a comma before": b", 5", "zero before, in a list": b"0, 5",
    "a sign": b"+5", "negative": b"-5", "negative zero": b"-0", "in hex": b"0x5", "in octal": b"0o5",
    "a fraction": b"5.0", "an exponent": b"5e0", "a space inside": b"1 0", "zero and a space": b"0 5",
    "an underscore": b"0_5", "a letter behind": b"5a", "a semicolon behind": b"5;", "in quotes": b'"5"',
    "beyond 64 bits": b"18446744073709551621", "2^63": b"9223372036854775808",
    "32 bits and five": b"4294967301, 5", "twenty digits": b"00000000000000000005",
    "digits of another script": b"\xef\xbc\x95", "a superscript": b"\xb2", "a NUL behind": b"5\0",
    "a NUL before": b"\x005", "a vertical tab before": b"\x0b5", "a form feed behind": b"5\x0c",
    "a CR behind": b"5\r", "a no-break space behind": b"5\xa0", "words": b"five",
    "an infinity": b"inf",
}.items():  # fmt: skip
    lengths.refused(_name, long(_value), source=GARDEN if b"_" in _value else "")
lengths.refused("empty", POST + b"Content-Length:\r\n\r\nhello")
lengths.refused("of white space", POST + b"Content-Length: \t \r\n\r\nhello")
lengths.passed("zeros before", long(b"005"), Sent(body=b"hello"))
lengths.passed("many zeros before", long(b"000000000000005"), Sent(body=b"hello"))
lengths.passed("in white space", long(b"\t 5 \t"), Sent(body=b"hello"))
lengths.passed("without a space", POST + b"Content-Length:5\r\n\r\nhello", Sent(body=b"hello"))
lengths.passed("in capitals", POST + b"CONTENT-LENGTH: 5\r\n\r\nhello", Sent(body=b"hello"))
lengths.passed("zero in zeros", POST + b"Content-Length: 00\r\n\r\n", Sent(length=True))
lengths.passed(
    "of HTTP/1.0",
    b"POST /seen HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\nContent-Length: 5\r\n\r\nhello",
    Sent(body=b"hello"),
)
lengths.passed(
    "with an underscore beside the real one",
    POST + b"Content-Length: 5\r\nContent_Length: 0\r\n\r\nhello",
    Sent(body=b"hello"),
)

FAMILIES = (cl_te, te_cl, te_te, cl_0, te_0, zero_cl, lengths)
