"""Input without end: whatever somebody goes on sending, what is held of it is bounded."""

import tracemalloc
from collections.abc import Callable, Iterator
from itertools import chain, count, islice, repeat

import pytest

from tests.fuzz.drive import Servers, held_bytes, held_max
from tests.fuzz.wires import HIGH_WATER_BYTES, Wire
from tests.fuzz.world import TIGHT, Client, World, world

READS = {100: 250, 4096: 75}
"""How many reads of so many bytes are offered: far more than all limits together, and in the longer
ones than a transport takes, too."""
START = b"POST / HTTP/1.1\r\nHost: a\r\n"
CHUNKED = START + b"Transfer-Encoding: chunked\r\n\r\n"
UPGRADE = b"GET /w HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
SWITCHED = b"HTTP/1.1 101 S\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\n"

Endless = Iterator[bytes]


def pieces(data: Endless, size: int) -> Endless:
    """The same bytes in reads of `size`."""
    waiting = b""
    for one in data:
        waiting += one
        while len(waiting) >= size:
            yield waiting[:size]
            waiting = waiting[size:]


CLIENT: dict[str, Callable[[], Endless]] = {
    "a target": lambda: chain([b"GET /"], repeat(b"a" * 100)),
    "a field": lambda: chain([START, b"X-A: "], repeat(b"a" * 100)),
    "fields": lambda: chain([START], (b"X-%d: a\r\n" % number for number in count())),
    "empty lines": lambda: repeat(b"\r\n" * 50),
    "no line ends": lambda: repeat(b"\xff" * 100),
    "a chunk's size": lambda: chain([CHUNKED], repeat(b"0" * 100)),
    "a chunk's extension": lambda: chain([CHUNKED, b"5;"], repeat(b"a" * 100)),
    "extensions": lambda: chain([CHUNKED, b"5"], repeat(b";a=b" * 20)),
    "chunks of one byte": lambda: chain([CHUNKED], repeat(b"1\r\na\r\n" * 20)),
    "a trailer": lambda: chain([CHUNKED, b"0\r\nX: "], repeat(b"a" * 100)),
    "trailers": lambda: chain([CHUNKED, b"0\r\n"], repeat(b"X: a\r\n" * 20)),
    "requests": lambda: repeat(GET),
    "requests with bodies": lambda: repeat(START + b"Content-Length: 5\r\n\r\nhello"),
    "a body": lambda: chain([START, b"Content-Length: 500\r\n\r\n"], repeat(b"a" * 100)),
    "bytes for a tunnel": lambda: chain([UPGRADE], repeat(b"a" * 100)),
}

SERVER: dict[str, Callable[[], Endless]] = {
    "a status line": lambda: chain([b"HTTP/1.1 200 "], repeat(b"a" * 100)),
    "a field": lambda: chain([OK, b"X-A: "], repeat(b"a" * 100)),
    "fields": lambda: chain([OK], (b"X-%d: a\r\n" % number for number in count())),
    "interim answers": lambda: repeat(b"HTTP/1.1 103 Early\r\n\r\n"),
    "a chunk's size": lambda: chain([OK, b"Transfer-Encoding: chunked\r\n\r\n"], repeat(b"0" * 99)),
    "a chunk's extension": lambda: chain(
        [OK, b"Transfer-Encoding: chunked\r\n\r\n5;"], repeat(b"a" * 100)
    ),
    "trailers": lambda: chain(
        [OK, b"Transfer-Encoding: chunked\r\n\r\n0\r\n"], repeat(b"X: a\r\n" * 20)
    ),
    "a body of known length": lambda: chain(
        [OK, b"Content-Length: 999999999\r\n\r\n"], repeat(b"a" * 100)
    ),
    "a body until close": lambda: chain([OK, b"\r\n"], repeat(b"a" * 100)),
    "chunks": lambda: chain(
        [OK, b"Transfer-Encoding: chunked\r\n\r\n"], repeat(b"1\r\na\r\n" * 20)
    ),
    "answers": lambda: repeat(OK + b"Content-Length: 0\r\n\r\n"),
    "bytes through a tunnel": lambda: chain([SWITCHED], repeat(b"a" * 100)),
}


@pytest.fixture
def at() -> Iterator[World]:
    with world(TIGHT) as found, found.loop.running():
        found.begin()
        yield found
        found.end()
        assert found.left_over() == []


def feed(at: World, wire: Wire, data: Endless, piece: int) -> int:
    """Offer `data` to the worker until it reads no more; return the most that it held."""
    most = 0
    for read in islice(pieces(data, piece), READS[piece]):
        if not wire.open or not wire.reading:
            break
        wire.deliver(read)
        at.loop.settle()
        most = max(most, held_bytes(at))
    return most


def must_be_bounded(at: World, wire: Wire, data: Endless, piece: int) -> None:
    tracemalloc.start()
    try:
        most = feed(at, wire, data, piece)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    sent = sum(len(one.sent) for one in (*at.servers, *(client.wire for client in at.clients)))
    limit = held_max(at) + HIGH_WATER_BYTES + 3 * piece
    assert most <= limit
    # What has been written stands in the stand-ins, twice for a moment when such a one grows.
    assert peak <= 3 * (limit + sent) + 200_000


@pytest.mark.parametrize("piece", READS)
@pytest.mark.parametrize("server", ["reads", "does not read", "is not there"])
@pytest.mark.parametrize("what", CLIENT)
def test_a_client_that_goes_on_is_held_back(at: World, what: str, server: str, piece: int) -> None:
    if server == "is not there":
        at.loop.knocking = []
    client = at.client()
    if server == "does not read":
        client.wire.deliver(GET)
        at.loop.settle()
        Servers(at).answer_all()
        at.servers[0].takes = False
    must_be_bounded(at, client.wire, CLIENT[what](), piece)
    for _, future in at.loop.knocking or ():
        future.set_exception(ConnectionRefusedError(111, "refused"))


@pytest.mark.parametrize("piece", READS)
@pytest.mark.parametrize("reads", [True, False], ids=["the client reads", "it does not"])
@pytest.mark.parametrize("what", SERVER)
def test_a_server_that_goes_on_is_held_back(at: World, what: str, reads: bool, piece: int) -> None:
    client: Client = at.client()
    client.wire.deliver(UPGRADE if "tunnel" in what else GET)
    at.loop.settle()
    client.wire.takes = reads
    must_be_bounded(at, at.servers[0], SERVER[what](), piece)
