"""One string of bytes, given to a worker in reads of any size, and what comes of it.

Two kinds of cases: bytes of a *client*, with servers that answer whatever is whole, and bytes of
a *server*, as the answer to one request; the requests behind it, on the same connection and on
another, must get their own answers. `check` runs a case in several splits and by several ways,
and says what is wrong: results that differ, something raised, counters that do not add up, a
message that two readers read in two ways.
"""

from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final, Self

from tests.fuzz import readers
from tests.fuzz.readers import Message
from tests.fuzz.results import Case, Result, differs
from tests.fuzz.wires import Wire
from tests.fuzz.world import TIGHT, WIDE, Client, World, world
from turnout.proxy import target
from turnout.proxy.framing import CHUNK_LINE_MAX

ASKED: Final[dict[str, bytes]] = {
    "get": b"GET /first HTTP/1.1\r\nHost: a\r\n\r\n",
    "head": b"HEAD /first HTTP/1.1\r\nHost: a\r\n\r\n",
    "options": b"OPTIONS /first HTTP/1.1\r\nHost: a\r\nAccept: */*\r\n\r\n",
    "get closing": b"GET /first HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    "get 1.0": b"GET /first HTTP/1.0\r\nHost: a\r\n\r\n",
    "get 1.0 keeping": b"GET /first HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n",
    "post": b"POST /first HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
    "put": b"PUT /first HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
    "post chunked": b"POST /first HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"5\r\nhello\r\n0\r\n\r\n",
    "put begun": b"PUT /first HTTP/1.1\r\nHost: a\r\nContent-Length: 500\r\n\r\nhello",
    "upgrade": b"GET /first HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\n"
    b"Upgrade: websocket\r\n\r\n",
}
"""What an answer under test answers."""
SECOND: Final = b"GET /second HTTP/1.1\r\nHost: a\r\n\r\n"
THIRD: Final = b"GET /third HTTP/1.1\r\nHost: a\r\n\r\n"
WARM: Final = b"GET /warm HTTP/1.1\r\nHost: a\r\n\r\n"


# ---------------------------------------------------------------- servers


class Servers:
    """Answers whatever is whole, with what tells whom it is for."""

    def __init__(self, at: World) -> None:
        self._at = at
        self.read: dict[Wire, int] = {}
        self.requests: list[Message] = []
        self.tunnels: set[Wire] = set()

    def next_request(self) -> tuple[Wire, Message] | None:
        """Return a whole request that has not been answered yet."""
        for wire in self._at.servers:
            if wire in self.tunnels:
                continue
            at = self.read.get(wire, 0)
            if len(wire.sent) > at:
                one = readers.read_request(bytes(wire.sent[at:]))
                if one is not None:
                    self.read[wire] = at + len(one.raw)
                    self.requests.append(one)
                    return wire, one
        return None

    def answer_all(self) -> bool:
        """Answer every request that is whole, and those that come of that; was there any?"""
        found = False
        while (next_one := self.next_request()) is not None:
            found = True
            wire, one = next_one
            if wire.reading and wire.open:
                wire.deliver(self._answer(wire, one))
            self._at.loop.settle()
        return found

    def _answer(self, wire: Wire, one: Message) -> bytes:
        method, path = one.start
        if one.get(b"upgrade") is not None and b"w" in path:
            self.tunnels.add(wire)
            return (
                b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n"
                b"Upgrade: websocket\r\n\r\ntunnel"
            )
        body = b"" if method == b"HEAD" else b"[%b %d]" % (path, len(one.body))
        return b"HTTP/1.1 200 OK\r\nX-Asked: %b\r\nContent-Length: %d\r\n\r\n%b" % (
            path, len(body), body
        )  # fmt: skip

    def rests(self) -> list[bytes]:
        found = [bytes(wire.sent[self.read.get(wire, 0) :]) for wire in self._at.servers]
        return [rest for rest in found if rest]


# ---------------------------------------------------------------- one run


def split(data: bytes, cuts: Sequence[int]) -> list[bytes]:
    """Return `data` in pieces, cut at these places."""
    places = [0, *sorted({cut for cut in cuts if 0 < cut < len(data)}), len(data)]
    return [data[a:b] for a, b in pairwise(places) if a < b]


def run(at: World, case: Case, pieces: Sequence[bytes], *, eager: bool = True) -> Result:
    """Try `case` with its data in these pieces.

    `eager`: servers answer as soon as a request is whole, else when all pieces have come.
    """
    with at.loop.running():
        return _run(at, case, pieces, eager)


def _run(at: World, case: Case, pieces: Sequence[bytes], eager: bool) -> Result:
    at.begin()
    servers = Servers(at)
    result = Result()
    try:
        _warm(at, servers)
        before = at.snapshot()
        if case.kind == "request":
            _run_request(at, case, pieces, eager, servers, result)
        else:
            _run_answer(at, case, pieces, servers, result)
        held = held_bytes(at)
        limit = held_max(at) + 3 * max(map(len, pieces), default=0)
        if held > limit:
            result.problems.append(f"{held} bytes are held, of {limit} at most")
        at.end()
        result.counted = at.counted(before)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is a finding
        result.problems.append(f"{type(error).__name__}: {error}")
        with suppress(Exception):
            at.end()
    result.problems += at.left_over()
    return result


def _warm(at: World, servers: Servers) -> None:
    """A host is known, a server's connection is idle: the fast path may be taken. A parser that
    the last case has left unclean shows here."""
    target.hosts.clear()
    client = at.client()
    client.wire.deliver(WARM)
    at.loop.settle()
    servers.answer_all()
    assert bytes(client.wire.sent).endswith(b"[/warm 0]"), f"warm: {bytes(client.wire.sent)!r}"
    client.wire.force_close(None)
    at.loop.settle()
    servers.requests.clear()
    assert sum(len(pool.idle) for pool in at.pools) == 1


def _run_request(
    at: World, case: Case, pieces: Sequence[bytes], eager: bool, servers: Servers, result: Result
) -> None:
    client = at.client()
    wire = client.wire
    for piece in pieces:
        while wire.open and not wire.reading and servers.answer_all():
            pass
        if not wire.open:
            break
        if not wire.reading:
            result.problems.append("the client is not read from, and nothing is under way")
            break
        wire.deliver(piece)
        at.loop.settle()
        if eager:
            servers.answer_all()
    servers.answer_all()
    _end(at, case, wire, client)
    servers.answer_all()
    result.client_end = end_of(wire)
    result.to_client = bytes(wire.sent)
    result.requests = servers.requests
    result.rests = servers.rests()
    for one in servers.requests:
        readers.check_request(one)
    _match(result, bool(servers.tunnels))


def _match(result: Result, tunnelled: bool) -> None:
    """Each request that a server got has been answered by what was its answer, in order; between
    them stand answers of the worker's own."""
    rest = result.to_client
    requests = iter(result.requests)
    while rest:
        head = readers.read_head(rest)
        fields = dict(head[1]) if head is not None else {}
        switched = rest.startswith(b"HTTP/1.1 101 ")
        method = b"GET"
        if b"x-asked" in fields or switched:
            one = next(requests, None)
            assert one is not None, "an answer to nothing"
            method, path = one.start
            if not switched and fields[b"x-asked"] != path:
                result.problems.append(f"{one.start} was answered by {head}")
        elif head is not None and rest[head[2] : head[2] + 9] in (b"", b"HTTP/1.1 "):
            method = b"HEAD"  # of ours, to whatever could be read of a request
        answer = readers.read_answer(rest, method, ended=False)
        if answer is None or not answer.whole:
            if not tunnelled:
                result.problems.append(f"the client got {rest!r}")
            break
        if not switched:
            readers.check_answer(rest[: answer.size], answer, method)
        result.answers.append(answer)
        rest = rest[answer.size :]
        if switched:
            break
    result.behind = rest


def _run_answer(
    at: World, case: Case, pieces: Sequence[bytes], servers: Servers, result: Result
) -> None:
    client = at.client()
    client.wire.deliver(ASKED[case.asked])
    at.loop.settle()
    wire = at.servers[-1]
    first = servers.next_request()
    if first is not None:
        wire = first[0]
    for piece in pieces:
        if not wire.open:
            break
        if not wire.reading:
            result.problems.append("the server is not read from, and the client reads")
            break
        wire.deliver(piece)
        at.loop.settle()
    _end(at, case, wire, client)
    servers.answer_all()  # a request that was sent anew
    result.client_end = end_of(client.wire)
    result.server_is_kept = wire.open
    result.to_client = bytes(client.wire.sent)
    result.requests = servers.requests[:]
    method = ASKED[case.asked].partition(b" ")[0]
    ended = result.client_end in ("ended", "aborted")
    answer = readers.read_answer(result.to_client, method, ended=ended)
    if answer is None:
        if not readers.only_interims(result.to_client):
            result.problems.append(f"the client got {result.to_client!r}")
    else:
        result.answers.append(answer)
        behind = result.to_client[answer.size :]
        if answer.status == 101:
            result.behind = behind
        elif behind:
            result.problems.append(f"behind the answer the client got {behind!r}")
        if answer.whole and answer.status != 101:
            readers.check_answer(result.to_client, answer, method)
    if client.wire.open and not client.wire.eof and client.wire.reading and (
        answer is not None and answer.whole and answer.status != 101 and case.asked != "put begun"
    ):  # fmt: skip
        _ask(at, servers, client, SECOND, result)
    _ask(at, servers, at.client(), THIRD, result)


def _ask(at: World, servers: Servers, client: Client, request: bytes, result: Result) -> None:
    """Whoever asks next gets his own answer."""
    had = len(client.wire.sent)
    client.wire.deliver(request)
    at.loop.settle()
    servers.answer_all()
    got = bytes(client.wire.sent[had:])
    path = request.split(b" ")[1]
    if not got.startswith(b"HTTP/1.1 200 OK\r\nX-Asked: %b\r\n" % path):
        result.problems.append(f"{path!r} was answered by {got!r}")


def _end(at: World, case: Case, wire: Wire, client: Client) -> None:
    down = client.down
    if case.end == "stay":
        under_way = down.exchange is not None and down.exchange.under_way
        if under_way or (case.kind == "request" and not down.gone and not down.lingering):
            down.deadline_passed()
    elif wire.open:
        if case.end == "reset":
            wire.force_close(ConnectionResetError(104, "Connection reset by peer"))
        elif wire.reading:
            wire.deliver_eof()
    at.loop.settle()


def end_of(wire: Wire) -> str:
    if wire.resets:
        return "reset"
    if wire.aborted and not wire.eof:
        return "aborted"
    return "ended" if wire.eof or wire.closing else "open"


# ---------------------------------------------------------------- what is held

_COUNTED: Final = (bytes, bytearray, memoryview)


def size_of(value: Any) -> int:
    """Bytes that a value holds: itself, a list of them, or what stands in its slots."""
    if isinstance(value, _COUNTED):
        return len(value)
    if isinstance(value, (list, tuple)):
        return sum(map(size_of, value))
    if type(value).__name__ in ("ChunkedDecoder", "RequestHead", "Forwarding", "Tunnel"):
        return slots_of(value)
    return 0


def slots_of(thing: Any) -> int:
    return sum(
        size_of(getattr(thing, name, None))
        for kind in type(thing).__mro__
        for name in getattr(kind, "__slots__", ())
    )


def held_bytes(at: World) -> int:
    """What of messages the worker holds for all of its connections."""
    total = 0
    for client in at.clients:
        total += slots_of(client.down) + client.wire.waiting_bytes
        if client.down.exchange is not None:
            total += slots_of(client.down.exchange)
    for wire in at.servers:
        total += wire.waiting_bytes
        if not wire.lost:
            total += slots_of(wire.protocol)
    return total


def held_max(at: World) -> int:
    """What it may hold for one exchange, by its limits: the head as it came and as it was read
    and as it is sent on, and what may be sent anew, read ahead, or is not whole yet."""
    limits = at.worker.table.limits
    return (
        4 * limits.header_bytes + limits.response_header_bytes + limits.pipeline_bytes
        + limits.replay_bytes + 2 * (limits.trailer_bytes + CHUNK_LINE_MAX) + 4096
    )  # fmt: skip


# ---------------------------------------------------------------- a case in all ways


class Worlds:
    """Those that a case may be tried in, each opened once."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._open: dict[str, World] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def __getitem__(self, name: str) -> World:
        found = self._open.get(name)
        if found is None:
            found = self._open[name] = self._stack.enter_context(world(**WORLDS[name]))
        return found

    def renew(self) -> None:
        """After a mistake of the product its worker is not to be trusted any more."""
        self._stack.close()
        self._open.clear()


WORLDS: Final[dict[str, dict[str, Any]]] = {
    "tight": {"limits": TIGHT},
    "wide": {"limits": WIDE},
    "trusting": {"limits": WIDE, "trusted": True},
    "healthy": {"limits": TIGHT, "health_path": b"/healthz"},
    "tight, general way": {"limits": TIGHT, "general": True},
    "wide, general way": {"limits": WIDE, "general": True},
    "trusting, general way": {"limits": WIDE, "trusted": True, "general": True},
    "healthy, general way": {"limits": TIGHT, "health_path": b"/healthz", "general": True},
}


@dataclass(frozen=True)
class Found:
    """What is wrong with a case: in itself, or between two ways to try it."""

    case: Case
    cuts: tuple[int, ...]
    way: str
    text: str


def ways(case: Case, cuts: Sequence[int]) -> list[tuple[str, str, tuple[int, ...], bool]]:
    """Return (how it is called, world, cuts, eager) of each way to try a case in; the first one
    is what the others are held against."""
    every = tuple(range(1, len(case.data)))
    found = [
        ("whole", case.world, (), True),
        ("whole, general way", f"{case.world}, general way", (), True),
        ("byte by byte", case.world, every, True),
        ("in pieces", case.world, tuple(cuts), True),
    ]
    if case.kind == "request":
        found += [
            ("whole, answered late", case.world, (), False),
            ("byte by byte, answered late", case.world, every, False),
        ]
    return found


def check(worlds: Worlds, case: Case, cuts: Sequence[int] = ()) -> tuple[list[Found], Result]:
    """Try a case in all ways; return what is wrong, and its first result."""
    found = []
    first: Result | None = None
    for way, name, places, eager in ways(case, cuts):
        result = run(worlds[name], case, split(case.data, places), eager=eager)
        if result.problems:
            found.append(Found(case, places, way, "; ".join(result.problems)))
            worlds.renew()
        if first is None:
            first = result
        elif not result.problems and not first.problems:
            text = differs(case, first, result)
            if text is not None:
                found.append(Found(case, places, way, text))
    assert first is not None
    return found, first
