"""Runs the cases of the corpus through one Turnout and over real sockets.

Between the client and a recording server stands one worker, so that its next client gets the
connection that a case has used. Each case is run in several ways: whole in one write with a
further request behind it, byte by byte, split where a seed says, and alone (for the short
reader, which nearly every request is read by). Behind each stands the next client: it must get
its own answer. `TURNOUT_CONFORMANCE_SPLITS=20` splits each case in so many ways.
"""

import asyncio
import itertools
import os
import random
import socket
import struct
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from tests.conformance.answers import Got, read_answers
from tests.conformance.case import HOST, Case, IdleCase, RequestCase, ResponseCase, Sent
from tests.conformance.corpus import family
from tests.conformance.judge import as_sent, heard
from tests.harness import Bench
from tests.rawhttp import Client
from tests.upstreams import Exchange, Upstream

SPLITS: Final = tuple(
    f"split {seed}" for seed in range(int(os.environ.get("TURNOUT_CONFORMANCE_SPLITS", "1")))
)
WAYS: Final = ("whole", "byte by byte", "alone", *SPLITS)
WAYS_OF_ANSWERS: Final = ("whole", "byte by byte", *SPLITS)
BYTEWISE_MAX: Final = 400
"""Longer ones come in as many pieces, of several bytes."""
_USUAL: Final = (family.POST, family.GET + family.HOST, b"HTTP/1.1 200 OK\r\n")
PAUSE_S: Final = 0.00005
"""Between two pieces, so that most are read apart. Nothing that is judged depends on it."""
HIDDEN: Final = b"GET /hidden HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
_HIDDEN: Final = Sent("/hidden", "GET")
_FENCE: Final = Sent("/fence", "GET")


@dataclass(slots=True)
class Stand:
    """The running product and its recording server."""

    at: Bench
    limit_s: float = 5.0
    """For what must happen at once."""

    @property
    def server(self) -> Upstream:
        return self.at.blue

    def marks(self) -> dict[int, int]:
        """How much each connection has received up to now, which has been judged."""
        return {number: len(raw) for number, raw in self.server.raw.items()}

    async def fence(self) -> None:
        """The next client, which must get its own answer."""
        (got,) = [await self._ask(b"GET /fence HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")]
        assert (got.status, got.all("x-upstream")) == (200, ["blue"]), got
        assert b" GET /fence " in got.body, f"the next client got another's answer: {got}"

    async def _ask(self, data: bytes) -> Got:
        async with await self.at.client(limit_s=self.limit_s) as client:
            await client.send(data)
            raw, ended = await client.rest()
        (got,) = read_answers(raw, ["GET"], ended)
        return got

    async def judge(
        self, marks: dict[int, int], allowed: Sequence[Sent], *, broken: int = 0, again: int = 0
    ) -> None:
        """What the server has received since must be `allowed`, and unfinished ones `broken`,
        whose connections must have been ended. The first may have come `again` so many times
        more: an idempotent request is sent anew when its connection fails."""
        found: list[Sent] = []
        unfinished = []
        for number, raw in self.server.raw.items():
            data = bytes(raw[marks.get(number, 0) :])
            if not data:
                continue
            one = heard(data)
            found += [as_sent(message) for message in one.messages]
            if one.unfinished:
                unfinished.append(number)
        wanted = list(allowed)
        for sent in found[:]:
            if sent in wanted:
                wanted.remove(sent)
                found.remove(sent)
            elif again and sent == allowed[0]:
                again -= 1
                found.remove(sent)
        assert (found, wanted) == ([], []), f"received: {found}\nnot received: {wanted}"
        assert len(unfinished) <= broken, f"unfinished requests on connections {unfinished}"
        await self._ended(unfinished)

    async def _ended(self, numbers: Iterable[int]) -> None:
        """Wait for the end of the server's connections with these numbers."""
        wanted = set(numbers)
        await self.server.until(lambda: not self.server.open.keys() & wanted, self.limit_s)

    async def run(self, case: Case) -> None:
        """Run a case of any kind, in each way that it may come."""
        if isinstance(case, RequestCase):
            await self.run_request(case)
        elif isinstance(case, ResponseCase):
            await self.run_response(case)
        else:
            await self.run_idle(case)

    # ------------------------------------------------------------ requests

    async def run_request(self, case: RequestCase) -> None:
        for way in WAYS:
            try:
                await self._run_request(case, way)
            except BaseException as error:
                error.add_note(f"sent {way}: {case.data!r}")
                raise

    async def _run_request(self, case: RequestCase, way: str) -> None:
        marks = self.marks()
        goes_on = not case.status and not case.closes
        methods = [sent.method for sent in case.sent]
        raw = b""
        async with await self.at.client(limit_s=self.limit_s) as client:
            follow = b"" if way == "alone" else HIDDEN
            write_apart(client.writer, pieces_of(case.data + follow, way))
            await client.send(b"")
            if way == "alone" and goes_on:
                raw = await until_answered(client, methods)
                await client.send(HIDDEN)
            rest, ended = await client.rest()
        raw += rest
        if goes_on:
            methods.append("GET")
        elif case.status:
            methods.append(case.data.split(b" ", 1)[0].decode("latin-1") if not case.sent else "")
        # Nothing that was sent behind a refusal may have the answer taken away by a reset.
        assert ended == "closed", f"ended by a {ended} behind {raw[-300:]!r}"
        answers = read_answers(raw, [known(method) for method in methods], ended)
        await self.fence()
        self._check_answers(case, answers, methods)
        allowed = [*case.sent, *([_HIDDEN] if goes_on else []), _FENCE]
        await self.judge(marks, allowed, broken=1 if case.broken else 0)

    def _check_answers(
        self, case: RequestCase, answers: Sequence[Got], methods: Sequence[str]
    ) -> None:
        statuses = [answer.status for answer in answers]
        wanted = [200] * len(case.sent)
        if case.status:
            wanted.append(case.status)
        elif not case.closes:
            wanted.append(200)
        assert statuses == wanted, f"{statuses}, not {wanted}"
        assert all(answer.whole for answer in answers)
        for answer, sent in zip(answers, case.sent, strict=False):
            assert answer.all("x-upstream") == ["blue"]
            if sent.method != "HEAD":
                assert f" {sent.method} {sent.target} ".encode() in answer.body, answer
        if case.status:
            must_be_ours(answers[-1], "http_request_error")
            assert answers[-1].closes, "a refusal must announce the end"
            assert (case.status == 405) == bool(answers[-1].all("allow"))

    # ------------------------------------------------------------ responses

    async def run_response(self, case: ResponseCase) -> None:
        for way in WAYS_OF_ANSWERS:
            try:
                await self._run_response(case, way)
            except BaseException as error:
                error.add_note(f"said {way}: {case.says[:2000]!r}")
                raise

    async def _run_response(self, case: ResponseCase, way: str) -> None:
        marks = self.marks()
        used: list[int] = []

        async def say(exchange: Exchange) -> None:
            used.append(exchange.received.connection)
            if not case.early:
                await exchange.read_body()
            write_apart(exchange.writer, pieces_of(case.says, way))
            await exchange.writer.drain()
            if case.early and case.then == "keep":
                await exchange.read_body()
            exchange.keep = case.then == "keep"
            if case.then == "reset":
                exchange.reset()

        self.server.script["/said"] = say
        minor = 0 if b" HTTP/1.0\r\n" in case.asks else 1
        async with await self.at.client(limit_s=self.limit_s) as client:
            await client.send(case.asks)
            # Where the answer says its end, the connection must still be fit for another.
            raw = await until_answered(client, [case.method])
            first = read_answers(raw, [case.method], "open")
            goes_on = bool(first and first[0].whole and not first[0].closes) and (
                minor == 1 or first[0].all("connection") == ["keep-alive"]
            )
            if goes_on:
                await client.send(HIDDEN)
            rest, ended = await client.rest()
        raw += rest
        if case.unfit:
            await self._ended(used)
        await self.fence()
        self._check_response(case, raw, ended, goes_on, minor)
        sent = as_asked(case)
        allowed = [*([] if case.early else [sent]), *([_HIDDEN] if goes_on else []), _FENCE]
        await self.judge(marks, allowed, broken=1 if case.early else 0, again=1)

    def _check_response(
        self, case: ResponseCase, raw: bytes, ended: str, goes_on: bool, minor: int
    ) -> None:
        methods = [case.method, *(["GET"] if goes_on else [])]
        answers = read_answers(raw, methods, ended, minor)
        if not case.status:
            assert not answers or not answers[0].status, answers
            return
        assert len(answers) == len(methods), (answers, raw[-600:])
        got = answers[0]
        # What a reset overtakes before it is read has never come.
        refusable = case.cut and (case.may_refuse or case.then == "reset")
        if not (refusable and got.status == 502):
            assert got.status == case.status, raw[:600]
        if goes_on:
            assert answers[1].status == 200 and b" GET /hidden " in answers[1].body, raw
        if got.status == 502:
            assert got.whole
            must_be_ours(got, "http_protocol_error", "connection_terminated",
                         "http_response_header_section_size")  # fmt: skip
            return
        assert got.interims == list(case.interims)
        assert len(got.all("x-request-id")) == 1 and "turnout" in got.all("via")[-1]
        assert minor or not got.all("transfer-encoding")
        if case.cut:
            # To who knows an end by the connection's alone, only a reset is not a clean one.
            until_close = not got.all("content-length") and not got.all("transfer-encoding")
            assert not got.whole if not until_close else ended == "reset", (got, ended)
            assert case.body.startswith(got.body) or minor == 0
        else:
            assert got.whole and ended == "closed", (got, ended)
            assert got.body == case.body
            assert got.trailers == tuple((n.encode(), v.encode()) for n, v in case.trailers)
        for name, value in case.fields:
            assert got.all(name) == [value], got
        assert not [name for name in case.lacks if got.all(name)], got

    # ------------------------------------------------------------ idle connections

    async def run_idle(self, case: IdleCase) -> None:
        """A server that says something while nobody has asked it."""
        marks = self.marks()
        await self.fence()
        number, writer = max(self.server.open.items())
        writer.write(case.says)
        if case.then == "close":
            writer.close()
        elif case.then == "reset":
            link = writer.get_extra_info("socket")
            link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
        await self._ended([number])
        await self.fence()
        await self.judge(marks, [_FENCE, _FENCE])


def must_be_ours(answer: Got, *errors: str) -> None:
    """An answer of Turnout's own, with its reason."""
    (said,) = answer.all("proxy-status")
    assert said in {f"turnout; error={error}" for error in errors}, said
    assert not answer.all("x-upstream")


def known(method: str) -> str:
    """What a reader of answers must know of a request that may not even have a method."""
    return "HEAD" if method == "HEAD" else "GET"


def as_asked(case: ResponseCase) -> Sent:
    """The request of a ResponseCase, as the server gets it."""
    head, _, body = case.asks.partition(b"\r\n\r\n")
    method, target, _ = head.split(b"\r\n")[0].decode().split(" ")
    return Sent(target, method, body, host=HOST, fields=case.asked)


def pieces_of(data: bytes, way: str) -> list[bytes]:
    """The data as it is written: whole, byte by byte, or cut at a few places. What nearly all
    begin with, and what follows them, is written whole: to write it in bytes takes half the time."""
    if way == "byte by byte":
        first = max(len(start) if data.startswith(start) else 0 for start in _USUAL)
        last = len(data) - len(HIDDEN) if data.endswith(HIDDEN) else len(data)
        step = -(-(last - first) // BYTEWISE_MAX) or 1
        inner = [data[start : min(start + step, last)] for start in range(first, last, step)]
        return [piece for piece in (data[:first], *inner, data[last:]) if piece]
    cuts = [0, len(data)]
    if way.startswith("split"):
        places = range(1, max(2, len(data)))
        cuts += random.Random(way.encode() + data).sample(places, min(3, len(places)))
    cuts.sort()
    return [data[a:b] for a, b in itertools.pairwise(cuts) if a < b]


def write_apart(writer: asyncio.StreamWriter, pieces: Sequence[bytes]) -> None:
    """Write each piece by itself, so that most are read by themselves."""
    for piece in pieces:
        if not writer.is_closing():
            writer.write(piece)
            time.sleep(PAUSE_S)


async def until_answered(client: Client, methods: Sequence[str]) -> bytes:
    """Read until each of the requests is answered whole, or the connection has ended."""
    raw = b""
    while True:
        answers = read_answers(raw, [known(method) for method in methods], "open")
        if len(answers) == len(methods) and all(answer.whole for answer in answers):
            return raw
        try:
            piece = await client.some()
        except ConnectionError:
            return raw
        if not piece:
            return raw
        raw += piece
