"""What is tried: messages made by the grammar, of valid parts and hostile ones, and then changed.

Pure: all comes of the `Random` that is given. Nearly every message is close to a valid one, as
what is junk from its first byte says little: most parts are plain, some are tricks of the
families that were published (two lengths, codings in disguise, chunk extensions, bare line ends,
names with blanks, folded lines), and of ten messages some are changed at random behind that.
"""

from random import Random
from typing import Final

from tests.fuzz.drive import ASKED
from tests.fuzz.results import ENDS, Case

METHODS: Final = (
    b"GET", b"GET", b"GET", b"HEAD", b"POST", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS",
    b"TRACE", b"CONNECT", b"PURGE", b"BREW", b"PRI", b"get", b"P", b"M-SEARCH", b"G\tT", b"",
)  # fmt: skip
TARGETS: Final = (
    b"/", b"/a", b"/a?b=c", b"/w", b"/first", b"*", b"http://a/x", b"http://a", b"https://b:1/?q",
    b"HTTP://A/", b"//a", b"/a#b", b"a:1", b"/%0d%0a", b"/a b", b"/\xff", b"/\x00", b"", b"/..//",
    b"http://a@b/", b"http:///x", b"/healthz", b"/" + b"a" * 60, b"?a", b"http://a?b", b"/\"<>`{}",
)  # fmt: skip
VERSIONS: Final = (
    *[b"HTTP/1.1"] * 14, b"HTTP/1.0", b"HTTP/1.0", b"HTTP/1.2", b"HTTP/2.0", b"HTTP/0.9", b"http/1.1",
    b"HTTP/1.1 ", b"HTTP/01.1", b"RTSP/1.0", b"HTTP/1.10", b"",
)  # fmt: skip
HOSTS: Final = (
    *[b"Host: a"] * 8, b"host: b.example:80", b"Host:a", b"HOST: a", b"Host: a ", b"Host:\ta",
    b"Host: a.", b"Host: [::1]:8", b"Host: ", b"Host: a b", b"Host: a,b", b"Host: a@b", b"Host : a",
    b"Host: a:x", b"Host: \xe9",
)  # fmt: skip
FIELDS: Final = (
    b"X-A: b", b"Accept: */*", b"Cookie: a=b; c=d", b"User-Agent: fuzz", b"Content-Type: text/plain",
    b"X-Empty:", b"X-Ws: \t b \t", b"X-Latin: \xe9\xff", b"x:y",
    b"Connection: close", b"Connection: keep-alive",
    b"Connection: Close", b"connection: close",
    b"Connection: keep-alive, X-A", b"Connection: close, X-A", b"Connection: host", b"Connection: ,",
    b"Connection: content-length", b"Connection: a b", b"Connection: upgrade", b"Connection:",
    b"Connection: x_forwarded_for", b"Connection: Upgrade, HTTP2-Settings",
    b"Keep-Alive: timeout=5", b"Keep-Alive: timeout=0", b"Keep-Alive: timeout=99999999999999999999",
    b"Keep_Alive: 1", b"Proxy-Connection: close", b"Content_Length: 3", b"Transfer_Encoding: chunked",
    b"Upgrade: websocket", b"Upgrade: h2c", b"Upgrade: websocket, h2c", b"HTTP2-Settings: AAMAAABk",
    b"TE: trailers", b"TE: chunked", b"Trailer: X-A", b"Trailer: Content-Length",
    b"Expect: 100-continue", b"Expect: 100-Continue", b"Expect: x", b"Expect:",
    b"Max-Forwards: 0", b"Max-Forwards: 3", b"Max-Forwards: x", b"X-Request-Id: abc",
    b"X-Request-Id: a b", b"X-Forwarded-For: 1.2.3.4", b"X_Forwarded_For: 1.2.3.4",
    b"X-Forwarded-Proto: https", b"X-Forwarded-Host: evil", b"X-Forwarded-Port: 1",
    b"Forwarded: for=1.2.3.4", b"X-Forwarded: x", b"X-Forwarded-For:", b"X-Fuzz-Try: none",
    b"Via: 1.1 x", b"Date: Thu, 26 Nov 2026 05:00:00 GMT", b"date:x", b"Server: s",
    b"Content-Type: text/event-stream", b"content-type:text/event-stream;a=b", b"Set-Cookie: a=b",
    b"Proxy-Status: turnout; error=x", b"Content-Encoding: gzip", b"Content-Range: bytes 0-1/2",
    b" folded", b"\tfolded", b"X-A : b", b": b", b"X-A", b"", b"X A: b", b"X-A\x0b: b", b"X-A: \x00",
    b"X-A: a\rb", b"X-A: a\nContent-Length: 3", b"X-A: a\r Content-Length: 3", b"X-A: \x7f", b"\xe9: b",
    b"X-A: " + b"a" * 200,
)  # fmt: skip
LENGTHS: Final = (
    *[b"Content-Length: %d"] * 12, b"content-length: %d", b"Content-Length:%d", b"CONTENT-LENGTH: %d",
    b"Content-Length: %d ", b"Content-Length:\t%d", b"Content-Length: 0%d", b"Content-Length: +%d",
    b"Content-Length: -%d", b"Content-Length: %d, %d", b"Content-Length: %d\r\nContent-Length: %d",
    b"Content-Length: 0\r\nContent-Length: %d", b"Content_Length: %d", b"Content-Length : %d",
    b" Content-Length: %d", b"Content-Length: 0x%d", b"Content-Length: %d.0", b"Content-Length: ",
    b"Content-Length: 9223372036854775807", b"Content-Length: 9223372036854775808",
    b"Content-Length: 18446744073709551616", b"Content-Length: \xb2", b"Content-Length: 1_0",
    b"Content-Length: %d\r\nTransfer-Encoding: chunked", b"X-A: Content-Length: %d",
)  # fmt: skip
CODINGS: Final = (
    *[b"Transfer-Encoding: chunked"] * 10, b"transfer-encoding: chunked", b"Transfer-Encoding:chunked",
    b"Transfer-Encoding: Chunked", b"Transfer-Encoding: chunked ", b"Transfer-Encoding: gzip, chunked",
    b"Transfer-Encoding: chunked, gzip", b"Transfer-Encoding: chunked, chunked",
    b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", b"Transfer_Encoding: chunked",
    b"Transfer-Encoding: identity", b"Transfer-Encoding: \x0bchunked", b"Transfer-Encoding : chunked",
    b"Transfer-Encoding: xchunked", b"Transfer-Encoding: chunked;a=b", b"Transfer-Encoding: \"chunked\"",
    b"Transfer-Encoding:\r\n chunked", b"Transfer-Encoding: chunked\r\nTransfer-Encoding: x",
    b"Transfer-Encoding:", b"Transfer-Encoding: ,chunked", b"X-A: b\nTransfer-Encoding: chunked",
    b"Transfer-Encoding: chunked\r\nContent-Length: 3",
)  # fmt: skip
BODIES: Final = (
    b"", b"x", b"hello", b"\r\n", b"\r\n\r\n", b"0\r\n\r\n", b"\n", b"\x00" * 9, b"x" * 100, b"y" * 700,
    b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    b"5\r\nhello\r\n0\r\n\r\n",
)  # fmt: skip
SIZES: Final = (
    *[b"%x"] * 16, b"%X", b"0%x", b"000000000000000%x", b"0000000000000000%x", b"0x%x", b"+%x", b" %x",
    b"%x ", b"-%x", b"%x;a", b"%x;a=b", b'%x;a="b c"', b"%x;", b"%x ;a=b", b"%x;a=\n", b"%x\t", b"%x;a;b=c",
    b"%x\r", b"\xb2", b"g", b"", b"ffffffffffffffff", b"7fffffffffffffff", b'%x;a="\\""', b"%x;a=\x7f",
)  # fmt: skip
TRAILERS: Final = (
    *[b""] * 8, b"X-T: a\r\n", b"Content-Length: 3\r\n", b"Host: b\r\n", b"Transfer-Encoding: chunked\r\n",
    b"Content_Length: 3\r\n", b"Authorization: x\r\n", b" X: a\r\n", b"X\r\n", b"X : a\r\n", b"X: a\n",
    b"X: \x00\r\n", b"X-T: " + b"a" * 150 + b"\r\n", b"X-T: a\r\nX-U: b\r\n", b"X-Forwarded-For: a\r\n",
)  # fmt: skip
ENDINGS: Final = (*[b"\r\n"] * 30, b"\n", b"\r", b"\r\r\n", b"\n\r\n", b"\r\n\r\n", b" \r\n")
STATUS_LINES: Final = (
    *[b"HTTP/1.1 200 OK"] * 10, b"HTTP/1.1 404 Not Found", b"HTTP/1.1 500 ", b"HTTP/1.1 503 Busy",
    b"HTTP/1.1 204 No Content", b"HTTP/1.1 304 Not Modified", b"HTTP/1.0 200 OK", b"HTTP/1.0 204 No",
    b"HTTP/1.1 205 Reset", b"HTTP/1.1 101 Switching", b"HTTP/1.1 100 Continue", b"HTTP/1.1 103 Early",
    b"HTTP/1.1 199 X", b"HTTP/1.1 200", b"HTTP/1.1  200 OK", b"HTTP/1.1 2000 OK", b"HTTP/1.1 099 X",
    b"HTTP/1.1 600 X", b"HTTP/2 200", b"http/1.1 200 OK", b"HTTP/1.1 200 \xe9", b"HTTP/1.1 200 O\tK",
    b"ICY 200 OK", b"HTTP/1.1 20 OK", b"HTTP/1.1 200 O\x00K", b"", b"HTTP/1.1 302 Found",
)  # fmt: skip
INTERIMS: Final = (
    b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n",
    b"HTTP/1.1 102 Processing\r\nContent-Length: 0\r\n\r\n", b"HTTP/1.0 100 Continue\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\nContent-Length: 5\r\n\r\n",
)  # fmt: skip
TOKENS: Final = (
    b"\r\n", b"\n", b"\r", b"\r\n\r\n", b"\x00", b" ", b"\t", b":", b",", b";", b"_", b"-", b"\x7f", b"\x0b",
    b"\xff", b"0", b"00", b"0\r\n\r\n", b"1", b"ffffffff", b"chunked", b"Content-Length: 1\r\n", b"#", b"*",
    b"Transfer-Encoding: chunked\r\n", b"Host: b\r\n", b"Connection: close\r\n", b"HTTP/1.1", b"/", b"\"",
    b"Upgrade: websocket\r\nConnection: upgrade\r\n", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"\r\n ",
    b"HTTP/1.1 200 OK\r\n\r\n",
)  # fmt: skip


def _line(random: Random, text: bytes, hostile: float) -> bytes:
    return text + (random.choice(ENDINGS) if random.random() < hostile else b"\r\n")


def _chunked(random: Random, body: bytes, hostile: float) -> bytes:
    """A body in chunks, of which some are tricks."""
    out = b""
    while body:
        size = random.randint(1, len(body))
        line = random.choice(SIZES) if random.random() < hostile else b"%x"
        out += _line(random, line.replace(b"%x", b"%x" % size), hostile / 3)
        out += body[:size] + _line(random, b"", hostile / 5)
        body = body[size:]
    out += b"0" if random.random() > hostile / 2 else random.choice((b"00", b"0;a=b", b"", b"-0"))
    trailers = random.choice(TRAILERS) if random.random() < max(hostile, 0.2) else b""
    return out + b"\r\n" + trailers + _line(random, b"", hostile / 5)


def _fields(random: Random, hostile: float) -> list[bytes]:
    count = random.choice((0, 0, 1, 1, 2, 3, 5, 20 if random.random() < 0.1 else 2))
    plain = FIELDS[:11]
    return [random.choice(FIELDS if random.random() < hostile * 2 else plain) for _ in range(count)]


def _framed(random: Random, fields: list[bytes], hostile: float) -> bytes:
    """Add what frames a body to `fields`, and return it."""
    body = random.choice(BODIES)
    framing = random.random()
    if framing < 0.35:
        return body if random.random() < hostile / 4 else b""
    if framing < 0.7:
        size = len(body) + (random.choice((1, -1, 5)) if random.random() < hostile / 2 else 0)
        length = random.choice(LENGTHS) if random.random() < hostile else LENGTHS[0]
        fields.append(length.replace(b"%d", b"%d" % max(size, 0)))
        return body
    fields.append(random.choice(CODINGS) if random.random() < hostile else CODINGS[0])
    return _chunked(random, body, hostile)


def request(random: Random, hostile: float) -> bytes:
    """One request; each of its parts is a trick with a probability of about `hostile`."""
    fields = _fields(random, hostile)
    body = _framed(random, fields, hostile)
    if random.random() > hostile / 4:
        fields.append(random.choice(HOSTS) if random.random() < hostile else HOSTS[0])
    method = random.choice(METHODS if random.random() < hostile else METHODS[:10])
    where = random.choice(TARGETS if random.random() < hostile else TARGETS[:5])
    if random.random() < 0.06:
        fields += [b"Connection: Upgrade", b"Upgrade: websocket"]
        if random.random() > hostile:
            method, where = b"GET", random.choice((b"/w", b"/w", b"/no"))
    random.shuffle(fields)
    version = random.choice(VERSIONS) if random.random() < hostile else VERSIONS[0]
    blank = b" " if random.random() > hostile / 8 else random.choice((b"  ", b"\t", b""))
    out = (
        random.choice((b"\r\n", b"\r\n\r\n", b"\r", b"\n"))
        if random.random() < hostile / 8
        else b""
    )
    out += _line(random, blank.join((method, where, version)), hostile / 6)
    for text in fields:
        out += _line(random, text, hostile / 8)
    return out + _line(random, b"", hostile / 8) + body


def answer(random: Random, hostile: float) -> bytes:
    """One answer of a server, with what comes before and behind it."""
    out = b""
    again = random.choice((0.1, 0.1, 0.1, 0.8))
    while random.random() < again:
        out += random.choice(INTERIMS) if random.random() < hostile else INTERIMS[1]
    fields = _fields(random, hostile)
    body = _framed(random, fields, hostile)
    random.shuffle(fields)
    line = random.choice(STATUS_LINES) if random.random() < hostile else STATUS_LINES[0]
    out += _line(random, line, hostile / 6)
    for text in fields:
        out += _line(random, text, hostile / 8)
    out += _line(random, b"", hostile / 8) + body
    return out + (random.choice(BODIES) if random.random() < hostile / 4 else b"")


PLAIN_REQUESTS: Final = (b"GET /a HTTP/1.1", b"DELETE /a?b HTTP/1.1", b"OPTIONS / HTTP/1.1")
PLAIN_POSTS: Final = (b"POST /a HTTP/1.1", b"PUT / HTTP/1.1", b"PATCH /a HTTP/1.1")


def nearly_plain(random: Random, *, of_client: bool) -> bytes:
    """A message such as the fast path takes, but for one trick in it."""
    body = random.choice((b"", b"x", b"hello", b"x" * 50, b"\r\n\r\n"))
    if not of_client:
        lines = [STATUS_LINES[0]]
    else:
        lines = [random.choice(PLAIN_POSTS if body else PLAIN_REQUESTS), HOSTS[0]]
    size = len(body)
    trick = random.randrange(8)
    if trick >= 6:
        lines.append(CODINGS[0])
        body = _chunked(random, body, 0.3)
    elif trick == 0:
        size = max(0, size + random.choice((1, -1, -1, 7)))
    length = random.choice(LENGTHS) if trick == 1 else LENGTHS[0]
    if trick < 6 and (body or not of_client or trick == 1):
        lines.append(length.replace(b"%d", b"%d" % size))
    lines += random.sample(FIELDS[:9], random.randint(0, 2))
    if trick == 2:
        lines.append(random.choice(FIELDS if random.random() < 0.5 else FIELDS[9:24]))
    elif trick == 3:
        lines.append(random.choice(CODINGS))
    elif trick == 4:
        lines[0] = (
            random.choice(METHODS) + b" / HTTP/1.1" if of_client else random.choice(STATUS_LINES)
        )
    start, *fields = lines
    random.shuffle(fields)
    data = b"\r\n".join([start, *fields, b"", body])
    return mutate(random, data, b"") if trick == 5 else data


def mutate(random: Random, data: bytes, others: bytes) -> bytes:
    """Change `data` in one place, perhaps with a piece of `others`."""
    at = random.randrange(len(data) + 1)
    upto = min(len(data), at + random.choice((1, 1, 2, 5, 20)))
    kind = random.randrange(10)
    if kind == 0:
        return data[:at] + bytes([random.randrange(256)]) + data[at + 1 :]
    if kind == 1:
        return data[:at] + random.choice(TOKENS) + data[at:]
    if kind == 2:
        return data[:at] + random.choice(TOKENS) + data[upto:]
    if kind == 3:
        return data[:at] + data[upto:]
    if kind == 4:
        return data[:upto] + data[at:]  # twice
    if kind == 5:
        return data[:at]
    if kind == 6 and others:
        cut = random.randrange(len(others))
        return data[:at] + others[cut : cut + random.choice((1, 4, 16, 400))] + data[upto:]
    if kind == 7:
        return data[:at] + data[at:upto].swapcase() + data[upto:]
    lines = data.split(b"\r\n")
    if kind == 8 and len(lines) > 2:
        one, two = random.randrange(len(lines)), random.randrange(len(lines))
        lines[one], lines[two] = lines[two], lines[one]
        return b"\r\n".join(lines)
    lines.insert(random.randrange(len(lines)), random.choice(lines))
    return b"\r\n".join(lines)


WORLD_NAMES: Final = ("tight", "tight", "tight", "wide", "wide", "trusting", "healthy")


def case(random: Random, corpus: list[Case]) -> Case:
    """One case: new, or another one changed."""
    if corpus and random.random() < 0.4:
        old = random.choice(corpus)
        data = old.data
        for _ in range(random.choice((1, 1, 2, 4))):
            data = mutate(random, data, random.choice(corpus).data)
        asked = old.asked if random.random() < 0.8 else random.choice(tuple(ASKED))
        end = old.end if random.random() < 0.8 else random.choice(ENDS)
        return Case(old.kind, data[:DATA_MAX], asked, end, old.world)
    hostile = random.choice((0.0, 0.1, 0.1, 0.2, 0.5))
    where = random.choice(WORLD_NAMES)
    end = random.choice(ENDS)
    if random.random() < 0.3:
        of_client = random.random() < 0.5
        data = nearly_plain(random, of_client=of_client)
        asked = random.choice(("get", "options", "post", "put", "get closing"))
        return Case("request" if of_client else "answer", data, asked, end, where)
    if random.random() < 0.5:
        count = random.choice((1, 1, 1, 2, 2, 3))
        data = b"".join(request(random, hostile) for _ in range(count))
        made = Case("request", data, "get", end, where)
    else:
        asked = random.choice(tuple(ASKED)) if random.random() < 0.7 else "get"
        made = Case("answer", answer(random, hostile), asked, end, where)
    if random.random() < 0.3:
        data = mutate(random, made.data, b"")
        made = Case(made.kind, data, made.asked, made.end, made.world)
    return Case(made.kind, made.data[:DATA_MAX], made.asked, made.end, made.world)


DATA_MAX: Final = 4000


def cuts(random: Random, data: bytes) -> tuple[int, ...]:
    """Where to cut `data`: anywhere, or around a line's end."""
    if random.random() < 0.3:
        ends = [at for at in range(len(data)) if data[at] in b"\r\n"]
        chosen = random.sample(ends, min(len(ends), random.randint(1, 3)))
        return tuple(sorted(at + random.choice((0, 1)) for at in chosen))
    return tuple(sorted(random.randrange(len(data) + 1) for _ in range(random.randint(1, 4))))
