"""What happens in which turn of the loop: clients, servers and deadlines in any order.

Here the messages are honest and the order is not: reads and writes in pieces, connections that
are lost, refused or stalled, deadlines that pass, cuts, flips and holds of the routing word, as
many of them in one turn of the loop as chance will have it. A client must only ever get the
answers to its own requests, in order and with whole bodies or a visible end; a request that is not
idempotent reaches servers once at most; the counters add up. One number makes an episode.
"""

import json
import re
from collections import Counter
from dataclasses import dataclass, field, replace
from random import Random
from typing import Final

from tests.fuzz import readers
from tests.fuzz.drive import held_bytes
from tests.fuzz.readers import Message
from tests.fuzz.wires import Wire
from tests.fuzz.world import WIDE, Client, world
from turnout.config.table import TablePool
from turnout.proxy.scoreboard import NEWEST_EPOCH, RoutingWord, service_word_index

STEPS: Final = 150
CLIENTS_MAX: Final = 4
HELD_MAX_BYTES: Final = 2_000_000
"""Of all connections of an episode: nothing that is sent is so long by far."""
POOLS: Final = (
    TablePool(idle_timeout_s=1e6),
    TablePool(idle_timeout_s=1e6, connections_max=1),
    TablePool(idle_timeout_s=1e6, connections_max=1),
    TablePool(idle_timeout_s=1e6, connections_max=2),
    TablePool(idle_timeout_s=1e6, connections_max=3, idle_max=1, reuse_safe=True),
    TablePool(idle_timeout_s=0.0),
)
TIGHT_TURNS: Final = replace(WIDE, replay_bytes=90, pipeline_bytes=200, headers=12)
_ID: Final = re.compile(rb"/(i[0-9]+)")
_SAFE: Final = (b"GET", b"HEAD", b"PUT", b"DELETE")


@dataclass(eq=False)
class Asking:
    """A client, what it has asked for, and how far it has read."""

    client: Client
    asked: list[bytes] = field(default_factory=list)
    """Ids, in order, whose answers have not been read whole."""
    unsent: bytes = b""
    read: int = 0
    has_left: bool = False
    """By itself: it judges no end any more."""


@dataclass(eq=False)
class Serving:
    """A server's connection: what it has been asked, and what it still wants to say."""

    wire: Wire
    read: int = 0
    questions: list[Message] = field(default_factory=list)
    begun: bytes | None = None
    """Id of the request that has begun and is not whole."""
    unsent: bytes = b""
    early: bool = False
    """It has answered what it has not read whole."""
    ends: bytes | None = None
    """Id whose answer ends with the connection."""
    said: bytes = b""
    """Of that answer."""


class Episode:
    """Random steps, all of which come of `seed`."""

    def __init__(self, seed: int) -> None:
        self._random = random = Random(seed)
        self.problems: list[str] = []
        self.methods: dict[bytes, bytes] = {}
        self.bodies: dict[bytes, bytes] = {}
        self.versions: dict[bytes, int] = {}
        self.answered_with: dict[bytes, list[bytes]] = {}
        """Bodies that servers have given for an id."""
        self.seen: Counter[bytes] = Counter()
        self.clients: list[Asking] = []
        self.servers: list[Serving] = []
        self._known_wires = 0
        self._limits = random.choice((TIGHT_TURNS, WIDE, WIDE))
        self._pool = random.choice(POOLS)
        self._honest = random.random() < 0.5
        """Servers do nothing worse than to be slow."""
        self._epoch = 1

    def run(self, steps: int = STEPS) -> list[str]:
        """Return what went wrong."""
        general = self._random.random() < 0.15
        with world(self._limits, pool=self._pool, general=general) as at:
            self._at = at
            with at.loop.running():
                at.begin()
                at.loop.knocking = []
                try:
                    for _ in range(steps):
                        self._turn()
                        if self.problems or at.loop.errors:
                            break
                    self._finish()
                except Exception as error:  # noqa: BLE001 - whatever it is, it is a finding
                    self.problems.append(f"{type(error).__name__}: {error}")
                self.problems += at.loop.errors
        return self.problems

    def _finish(self) -> None:
        at = self._at
        self._read_all()
        accepted, _ = at.sums()
        for _, future in at.loop.knocking or ():
            if not future.done():
                future.set_exception(ConnectionRefusedError(111, "refused"))
        at.worker.routing[service_word_index(1)] = RoutingWord(False, 0, self._epoch + 1).pack()
        at.worker._look()
        at.end()
        at.loop.knocking = None
        at.end()
        for serving in self.servers:
            if not serving.wire.lost:
                serving.wire.force_close(None)
        at.loop.settle()
        self.problems += at.left_over()
        accepted, _ = at.sums()
        assert at.worker.access_log is not None
        lines, count = at.worker.access_log.take()
        if count != accepted:
            self.problems.append(f"{count} lines for {accepted} requests")
        for line in map(json.loads, lines.splitlines()):
            number = line["path"][1:].encode()
            sent = self.bodies.get(number)
            if sent is None:
                continue
            if line["bytes_in"] > len(sent):
                self.problems.append(f"bytes_in is {line['bytes_in']} of {len(sent)}: {line}")

    # ------------------------------------------------------------ one turn

    def _turn(self) -> None:
        random, at = self._random, self._at
        while len(self.clients) < 2 or (len(self.clients) < CLIENTS_MAX and random.random() < 0.1):
            self.clients.append(Asking(at.client()))
        for _ in range(random.choice((1, 1, 2, 3, 5))):
            self._step()
        if random.random() < 0.7:
            at.loop.turn()
        else:
            at.loop.settle()
        self._meet()
        self._read_all()
        self._look_at_pools()
        held = held_bytes(at)
        if held > HELD_MAX_BYTES:
            self.problems.append(f"{held} bytes are held")

    def _look_at_pools(self) -> None:
        at = self._at
        for pool in at.pools:
            limit = pool.policy.connections_max
            wires = sum(one.protocol.pool is pool and not one.lost for one in at.servers)
            knocking = sum(port == pool.target.port for port, _ in at.loop.knocking or ())
            if limit and wires + knocking > limit:
                self.problems.append(f"{wires} open, {knocking} connecting, of {limit}")
            if pool.in_flight < 0:
                self.problems.append("in_flight is negative")
            if pool.waiting and not pool.full and not pool.connecting and not at.loop.busy:
                self.problems.append(f"{len(pool.waiting)} wait for nothing")
            if len(set(map(id, pool.idle))) != len(pool.idle):
                self.problems.append("a connection is idle twice")
            if any(up.exchange is not None for up in pool.idle):
                self.problems.append("an idle connection has an exchange")

    def _step(self) -> None:
        random = self._random
        asking = random.choice(self.clients)
        serving = random.choice(self.servers) if self.servers else None
        kind = random.random()
        if kind < 0.33:
            self._client_sends(asking)
        elif kind < 0.66 and serving is not None:
            self._server_sends(serving)
        elif kind < 0.76:
            self._let_in()
        elif kind < 0.78 and serving is not None:
            self._server_goes(serving)
        elif kind < 0.80:
            self._client_goes(asking)
        elif kind < 0.82:
            self._deadline(asking)
        elif kind < 0.83:
            self._cut(asking)
        elif kind < 0.85:
            self._flip()
        elif kind < 0.91 and serving is not None:
            self._stall(serving.wire)
        elif kind < 0.96:
            self._stall(asking.client.wire)

    # ------------------------------------------------------------ clients

    def _new_request(self) -> tuple[bytes, bytes]:
        random = self._random
        number = b"i%d" % (len(self.methods) + 1)
        method = random.choice(
            (b"GET", b"GET", b"HEAD", b"POST", b"POST", b"PUT", b"PATCH", b"DELETE")
        )
        body, tail = b"", b""
        version = 0 if random.random() < 0.06 else 1
        lines = b"Host: shop.example\r\n"
        if random.random() < 0.06:
            lines += b"Connection: close\r\n"
        if random.random() < 0.05:
            lines += b"Expect: 100-continue\r\n"
        if method in (b"POST", b"PUT", b"PATCH"):
            body = (number + b"-") * random.choice((0, 1, 3, 100, 1000, 6000))
            if random.random() < 0.25 and version:
                lines += b"Transfer-Encoding: chunked\r\n"
                rest = body
                while rest:
                    size = random.randint(1, len(rest))
                    tail += b"%x\r\n%b\r\n" % (size, rest[:size])
                    rest = rest[size:]
                tail += b"0\r\n\r\n"
            else:
                lines += b"Content-Length: %d\r\n" % len(body)
                tail = body
        self.methods[number], self.bodies[number] = method, body
        self.versions[number] = version
        head = b"%b /%b HTTP/1.%d\r\n%b\r\n" % (method, number, version, lines)
        return number, head + tail

    def _client_sends(self, asking: Asking) -> None:
        random, wire = self._random, asking.client.wire
        if not wire.open or not wire.reading:
            return
        data = asking.unsent
        if not data:
            for _ in range(random.choice((1, 1, 1, 1, 2, 3))):
                number, text = self._new_request()
                asking.asked.append(number)
                data += text
        asking.unsent = b""
        if random.random() < 0.3 and len(data) > 1:
            cut = random.randrange(1, len(data))
            data, asking.unsent = data[:cut], data[cut:]
        wire.deliver(data)

    def _client_goes(self, asking: Asking) -> None:
        wire = asking.client.wire
        if not wire.open:
            return
        if self._random.random() < 0.5:
            error = ConnectionResetError(104, "reset") if self._random.random() < 0.5 else None
            asking.has_left = True
            wire.force_close(error)
        elif wire.reading:
            wire.deliver_eof()

    def _deadline(self, asking: Asking) -> None:
        self._at.worker.flush()
        if not asking.client.down.gone:
            asking.client.down.deadline_passed()

    def _cut(self, asking: Asking) -> None:
        self._at.worker.flush()
        exchange = asking.client.down.exchange
        if exchange is not None and exchange.under_way:
            exchange.cut("drain_deadline")

    def _flip(self) -> None:
        random, worker = self._random, self._at.worker
        self._epoch += 1
        word = RoutingWord(random.random() < 0.3, random.choice((0, 10000, 5000)), self._epoch)
        worker.routing[service_word_index(1)] = word.pack()
        worker.routing[NEWEST_EPOCH] = self._epoch
        if random.random() < 0.8:
            worker.flush()
            worker._look()

    def _stall(self, wire: Wire) -> None:
        if wire.lost or wire.conn_lost:
            return
        if wire.takes and self._random.random() < 0.4:
            wire.takes = False
        else:
            wire.takes = True
            wire.drain()

    def _read_all(self) -> None:
        for asking in list(self.clients):
            self._read(asking)
            if asking.client.wire.lost:
                self.clients.remove(asking)

    def _read(self, asking: Asking) -> None:
        """Hold what a client has got against what it asked for."""
        wire = asking.client.wire
        while len(wire.sent) > asking.read:
            data = bytes(wire.sent[asking.read :])
            head = readers.read_head(data)
            if head is None:
                break
            if data.startswith(b"HTTP/1.1 1"):
                asking.read += head[2]
                continue
            fields = dict(head[1])
            if not asking.asked:
                self.problems.append(f"an answer to nothing: {data[:200]!r}")
                return
            number = asking.asked[0]
            own = fields.get(b"proxy-status") is not None
            if own and not asking.client.down.gone and fields.get(b"connection") == b"close":
                # It may be to a head that never was whole: of no known method.
                asking.asked.clear()
                asking.read = len(wire.sent)
                return
            ended = (wire.eof or wire.closing) and not (
                wire.resets or wire.waiting or asking.has_left
            )
            if not ended and not wire.closing and b"content-length" not in fields and (
                b"transfer-encoding" not in fields
            ):  # fmt: skip
                return
            answer = readers.read_answer(data, self.methods[number], ended=ended)
            if answer is None or not answer.whole:
                break
            asking.asked.pop(0)
            asking.read += answer.size
            if own:
                continue
            if fields.get(b"x-id") != number:
                self.problems.append(f"{number!r} got the answer {head!r}")
            elif self.methods[number] != b"HEAD" and answer.body not in self.answered_with.get(
                number, ()
            ):
                self.problems.append(
                    f"{number!r} got a whole answer with {len(answer.body)} bytes of body"
                )

    # ------------------------------------------------------------ servers

    def _let_in(self) -> None:
        knocking = self._at.loop.knocking
        if not knocking:
            return
        _, future = knocking.pop(self._random.randrange(len(knocking)))
        if future.done():
            return
        kind = self._random.random()
        if kind < 0.85:
            future.set_result(None)
        elif kind < 0.95:
            future.set_exception(ConnectionRefusedError(111, "refused"))
        else:
            future.set_exception(TimeoutError())

    def _meet(self) -> None:
        """Servers that have been connected to, and what they have been asked."""
        wires = self._at.servers
        self.servers += [Serving(wire) for wire in wires[self._known_wires :]]
        self._known_wires = len(wires)
        for serving in self.servers:
            self._listen(serving)
        self.servers = [one for one in self.servers if not one.wire.lost]

    def _listen(self, serving: Serving) -> None:
        while len(serving.wire.sent) > serving.read:
            data = bytes(serving.wire.sent[serving.read :])
            head = readers.read_head(data)
            if head is None:
                return
            found = _ID.search(head[0])
            if found is None:
                self.problems.append(f"a server got {data[:200]!r}")
                return
            number = found[1]
            if serving.begun != number:
                serving.begun = number
                self.seen[number] += 1
                if self.seen[number] > 1 and self.methods[number] not in _SAFE:
                    self.problems.append(f"{self.methods[number]!r} {number!r} came twice")
            one = readers.read_request(data)
            if one is None:
                return
            serving.read += len(one.raw)
            serving.begun = None
            if serving.early:
                serving.early = False
            else:
                serving.questions.append(one)
            if one.body != self.bodies[number]:
                self.problems.append(f"{number!r} came with {len(one.body)} bytes of body")

    def _answer_to(self, serving: Serving, number: bytes) -> bytes:
        random = self._random
        body = (number + b".") * random.choice((0, 1, 10, 100, 2000, 20000))
        self.answered_with.setdefault(number, []).append(body)
        status = random.choice((200, 200, 404, 500, 503))
        version = 1 if random.random() < 0.95 else 0
        head = b"HTTP/1.%d %d X\r\nX-Id: %b\r\n" % (version, status, number)
        if random.random() < 0.05:
            head += b"Content-Type: text/event-stream\r\n"
        if random.random() < 0.1:
            head += b"Connection: close\r\n"
        if self.methods[number] == b"HEAD":
            body_out = b""
            head += b"Content-Length: %d\r\n" % len(body)
        elif random.random() < 0.1:
            serving.ends, serving.said = number, b""
            self.answered_with[number].pop()
            body_out = body
        elif version and random.random() < 0.2:
            head += b"Transfer-Encoding: chunked\r\n"
            body_out = (b"%x\r\n%b\r\n" % (len(body), body) if body else b"") + b"0\r\n\r\n"
        else:
            head += b"Content-Length: %d\r\n" % len(body)
            body_out = body
        interim = b"HTTP/1.1 103 E\r\n\r\n" if random.random() < 0.1 else b""
        return interim + head + b"\r\n" + body_out

    def _server_sends(self, serving: Serving) -> None:
        random, wire = self._random, serving.wire
        self._listen(serving)
        if not wire.open or not wire.reading:
            return
        data = serving.unsent
        if not data:
            if serving.questions:
                found = _ID.search(serving.questions.pop(0).start[1])
                assert found is not None
                data = self._answer_to(serving, found[1])
            elif serving.begun is not None and not serving.early and random.random() < 0.2:
                serving.early = True
                data = self._answer_to(serving, serving.begun)
            elif (
                not self._honest and serving.ends is None
                and len(wire.sent) == serving.read and not wire.waiting
                and random.random() < 0.05
            ):  # fmt: skip
                wire.deliver(b"HTTP/1.1 408 Stray\r\nX-Id: stray\r\nContent-Length: 0\r\n\r\n")
                return
            else:
                return
        serving.unsent = b""
        if random.random() < 0.3 and len(data) > 1:
            cut = random.randrange(1, len(data))
            data, serving.unsent = data[:cut], data[cut:]
        serving.said += data
        wire.deliver(data)
        if serving.ends is not None and not serving.unsent and wire.open and wire.reading:
            self._server_ends(serving)

    def _server_ends(self, serving: Serving) -> None:
        """A clean end. What has been said until then is the whole of an answer that has no other."""
        if serving.ends is not None:
            _, _, body = serving.said.rpartition(b"\r\n\r\n")
            self.answered_with[serving.ends].append(body)
        serving.wire.deliver_eof()

    def _server_goes(self, serving: Serving) -> None:
        wire, random = serving.wire, self._random
        if not wire.open:
            return
        if random.random() < 0.5:
            error = ConnectionResetError(104, "reset") if random.random() < 0.5 else None
            wire.force_close(error)
        elif wire.reading:
            self._server_ends(serving)
