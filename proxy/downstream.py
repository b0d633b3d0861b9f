"""A client's connection: reads requests, writes answers in their order. I/O shell.

One request at a time is under way (`exchange.py`); what a client pipelines behind it waits in
the buffer, and beyond a limit in the client's own socket.
"""

import asyncio
import contextlib
import math
import os
import socket
import struct
from dataclasses import replace
from time import monotonic_ns
from typing import TYPE_CHECKING, Final, cast

from turnout.proxy import fast_path, replies
from turnout.proxy.admission import NOBODY, Door
from turnout.proxy.exchange import Exchange, State
from turnout.proxy.framing import BodyKind, ChunkedDecoder, Refused
from turnout.proxy.head import (
    NO_HEAD,
    RequestHead,
    forward_request,
    parse_request,
)
from turnout.proxy.head import hop as make_hop
from turnout.proxy.scoreboard import (
    C_CONNECTIONS_ACCEPTED,
    C_REFUSED,
    REFUSED_REASONS,
    REGION_HEADER_WORDS,
    TABLE_IN_FORCE,
)
from turnout.proxy.slow import Progress
from turnout.proxy.target import cannot_become_head

if TYPE_CHECKING:
    from turnout.proxy.tunnel import Tunnel
    from turnout.proxy.worker_core import Worker

RESET: Final = struct.pack("ii", 1, 0)
"""SO_LINGER on, 0 seconds: closing sends a reset, the only unclean end that a body which ends
by close can have."""

# Why reading from the client is paused; bits, as several may hold at once.
PAUSED_BODY: Final = 1
PAUSED_PIPELINE: Final = 2
PAUSED_TURN: Final = 4

TURN_FRAMING_BYTES: Final = 16 * 1024
"""So much of chunks that is no data (sizes, line ends) is read of a client in one turn of the
loop. libuv reads up to 32 times 256 KB in one, and of chunks of one byte each read takes 24 ms."""


NO_HOP: Final = make_hop(peer=b"unknown", scheme=b"http", via=b"", trusted=False)
"""Of a connection that has not asked yet, or not for a while: nobody has looked at its peer."""
NO_HEAD_OF_HEAD: Final = replace(NO_HEAD, method=b"HEAD")
_HEAD_END: Final = b"\r\n\r\n"
_P: Final = ord("P")
_NONE: Final = BodyKind.NONE  # Hot: looking up an enum's member takes 0.05 us.


class Downstream:
    """One client connection: an `asyncio.Protocol` in all but its base, as that is asked of it by
    nobody, and compiled classes inherit from compiled ones (decision 17)."""

    __slots__ = (
        # for the connection's life
        "client", "deadline_s", "door", "exchange", "gone", "health_path", "hop",
        "hop_table",
        "lingering", "paused", "has_asked", "quiet_since_s", "transport", "tunnel", "worker",
        "write_paused", "written_left", "linger_until_s",
        # for one exchange
        "ready",
        "body", "buffer", "close_after", "decoder", "eof", "pumping", "remaining",
    )  # fmt: skip

    def __init__(self, worker: "Worker", door: Door, health_path: bytes) -> None:
        self.worker = worker
        self.door: Door | None = door
        """Where it came in; None: it was refused, and is counted nowhere."""
        self.client = NOBODY
        self.health_path = health_path
        self.exchange: Exchange | None = None
        self.tunnel: Tunnel | None = None
        self.has_asked = False
        self.quiet_since_s = worker.now_s
        self.deadline_s = 0.0
        self.gone = False
        self.lingering = False
        self.paused = 0
        self.write_paused = False
        self.written_left = 0
        self.linger_until_s = 0.0
        self.hop = NO_HOP
        self.hop_table = -1
        self.ready = True
        self.body: BodyKind | None = None
        self.buffer = b""
        self.close_after = False
        self.eof = False
        self.pumping = False

    @property
    def closing(self) -> bool:
        """No further request is taken on this connection: the worker is leaving."""
        return self.worker.draining

    # ------------------------------------------------------------ from the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        worker = self.worker
        worker.words[worker.region_base + C_CONNECTIONS_ACCEPTED] += 1
        connections = worker.connections
        connections.add(self)
        admission, door = worker.admission, self.door
        assert door is not None
        if admission.by_client:
            self.client = admission.client(self.peer())
        reason = admission.refusal(door, self.client)
        if len(connections) >= worker.connections_looked_at:
            worker.look_at_descriptors()
        if reason:
            self._turn_away(reason)
            return
        header_s = worker.table.timeouts.header_s
        self.deadline_s = worker.now_s + header_s if header_s else 0.0

    def connection_lost(self, error: Exception | None) -> None:
        self.gone = True
        worker = self.worker
        worker.connections.discard(self)
        worker.stalled.discard(self)
        door = self.door
        if door is not None:
            worker.admission.leave(door, self.client)
            if error is not None:
                worker.count_fault("client_reset")
        else:
            worker.turned_away -= 1
        self.tunnel = None
        exchange = self.exchange
        if exchange is not None:
            if exchange.state is not State.ENDED:
                exchange.client_gone()
            # Both know each other: without this only the cycle collector frees them.
            self.exchange = None
        self.buffer = b""

    def data_received(self, data: bytes) -> None:
        if self.ready:
            # Nothing under way and nothing buffered.
            self.ready = False
            worker = self.worker
            end = data.find(_HEAD_END) + 4
            if end == len(data) <= worker.header_bytes:
                # Hot: one whole head and nothing else, as nearly always.
                if fast_path.begin(self, data, end):
                    return
                # Else these are three bytes, and no blank line was found; or it begins with one.
                if end >= 4 and data[0] != 13:
                    try:
                        head = parse_request(data, worker.fields_max)
                    except Refused as refused:
                        self._refuse_head(data, refused)
                    else:
                        self._start(head)
                    return
            # Hot: POST, PUT or PATCH with the whole body behind the head.
            if (
                data[0] == _P
                and 4 <= end <= worker.header_bytes
                and fast_path.begin(self, data, end)
            ):
                return
        exchange = self.exchange
        if self.lingering:
            self._linger()  # discarded: a client that still sends has not read its answer yet
        elif self.tunnel is not None:
            self.tunnel.from_client(data)
        elif self.body is not None:
            self._body(data)
        elif exchange is not None and exchange.state is not State.ENDED:
            self._ahead(data)
        elif self.write_paused:
            # What we answered ourselves has not been taken: a client that reads nothing must
            # not have more and more answers written to it.
            self._ahead(data)
        else:
            if self.buffer:
                data = self.buffer + data
            elif data[0] != 13:  # an empty line is no head: the time of keep-alive runs on
                self._head_begins()
            self.buffer = data
            self._pump()

    def _ahead(self, data: bytes) -> None:
        """Keep what came before its turn; beyond a limit it waits in the client's socket."""
        self.buffer += data
        if 0 < self.worker.table.limits.pipeline_bytes < len(self.buffer):
            if not self.paused & PAUSED_PIPELINE:
                self.worker.count_fault("pipeline_full")
            self._pause(PAUSED_PIPELINE)

    def eof_received(self) -> bool:
        exchange = self.exchange
        if self.lingering:
            return False
        if self.tunnel is not None:
            return self.tunnel.client_eof()
        if exchange is None or exchange.state is State.ENDED:
            if self.buffer:
                self._count_refused("client_closed_early")
            return False
        if self.body is not None:
            self._abort(exchange)
            return False
        # A client may close its half after its request and still read the answer. One that
        # has gone for good looks the same until something is written, so it gets less time.
        self.eof = True
        self.wait_until(self.deadline_s)
        return True

    def pause_writing(self) -> None:
        self.write_paused = True
        self.worker.stalled.add(self)
        self.written_left = self.transport.get_write_buffer_size()
        exchange = self.exchange
        if exchange is not None and exchange.connection is not None:
            exchange.connection.pause()

    def resume_writing(self) -> None:
        if not self.write_paused:
            return
        self.write_paused = False
        self.worker.stalled.discard(self)
        exchange = self.exchange
        if exchange is not None and exchange.connection is not None:
            exchange.connection.resume()
        elif self.buffer and self.idle_or_begun and not self.lingering:
            self._resume(PAUSED_PIPELINE)
            self._head_begins()
            self._pump()

    # ------------------------------------------------------------ requests

    def _head_begins(self) -> None:
        """The first byte of a head has come: the whole head is due from now on."""
        header_s = self.worker.table.timeouts.header_s
        self.deadline_s = self.worker.now_s + header_s if header_s else 0.0

    def _pump(self) -> None:
        """Start the requests that are complete in the buffer, one after the other's end."""
        if self.pumping:
            return
        self.pumping = True
        try:
            while self.buffer and not self.lingering and not self.gone and not self.write_paused:
                exchange = self.exchange
                if self.body is not None or (
                    exchange is not None and exchange.state is not State.ENDED
                ):
                    return
                if not self._next():
                    return
        finally:
            self.pumping = False
            if self.write_paused:
                if self.buffer:
                    # uvloop writes behind this callback, and may not say so.
                    self.worker.loop.call_soon(self._look_whether_written)
            elif self.eof and self.idle_or_begun and not self.lingering:
                # The client has closed its half: the rest of a begun head will never come.
                if self.buffer:
                    self._count_refused("client_closed_early")
                self._close_politely()

    def _look_whether_written(self) -> None:
        if self.write_paused and not self.gone and not self.transport.get_write_buffer_size():
            self.resume_writing()

    def _next(self) -> bool:
        """Start the first request of the buffer; False when its head is not complete."""
        data = self.buffer
        if data[:2] == b"\r\n":
            # RFC 9112, section 2.2: an empty line before the request line is ignored; each,
            # as it would be if it came by itself.
            while data[:2] == b"\r\n":
                data = data[2:]
            self.buffer = data
            if not data:
                return False
            if data != b"\r":
                self._head_begins()
        end = data.find(b"\r\n\r\n") + 4
        limits = self.worker.table.limits
        header_bytes = limits.header_bytes
        if end < 4:
            if header_bytes and len(data) > header_bytes:
                self._too_large(data)
            elif cannot_become_head(data):
                self._refuse(replies.MALFORMED, "malformed_request", data)
            return False
        if header_bytes and end > header_bytes:
            self._too_large(data)
            return False
        try:
            head = parse_request(data[:end], fields_max=limits.headers)
        except Refused as refused:
            self._refuse_head(data[:end], refused)
            return False
        self.buffer = data[end:]
        self._start(head)
        return True

    def _refuse_head(self, head: bytes, refused: Refused) -> None:
        """Answer a whole head as it would have been if its end had not come yet."""
        head = head.removeprefix(b"\r\n")
        if cannot_become_head(head):
            self._refuse(replies.MALFORMED, "malformed_request", head)
        else:
            self._refuse(replies.refused(refused), refused.reason, head)

    def _too_large(self, data: bytes) -> None:
        allowed = data[: self.worker.table.limits.header_bytes]
        if cannot_become_head(allowed):
            self._refuse(replies.MALFORMED, "malformed_request", data)
        elif b"\r\n" in allowed:
            self._refuse(replies.HEAD_TOO_LARGE, "header_too_large", data)
        else:
            self._refuse(replies.TARGET_TOO_LONG, "target_too_long", data)

    def _start(self, head: RequestHead) -> None:
        """Route one request whose head has been read."""
        started_us = monotonic_ns() // 1000
        worker = self.worker
        worker.now_s = started_us / 1e6
        if worker.routing[TABLE_IN_FORCE] != worker.table_number:
            worker.adopt_table()
        exchange = self.exchange
        if exchange is None:
            exchange = self.exchange = Exchange(self)
        if self.hop_table != worker.table_number:
            self.look_at_peer()
        hop = self.hop
        if not head.authority:
            local = _own_name(self.transport.get_extra_info("sockname"))
            hop = replace(hop, local=local)
        request_id = (head.request_id if hop.trusted else None) or worker.request_id()
        if self.health_path and head.path == self.health_path:
            ready = not worker.draining
            answer = replies.HEALTHY if ready else replies.LEAVING
            self.reply(answer, head, request_id, close=head.has_body)
            self.exchange_ended()
            return
        serving = worker.serving
        service = serving.only
        if service is None:
            position = serving.router.find(head.host, head.path)
            service = serving.services[position] if position >= 0 else None
        out = forward_request(
            head, hop, request_id, service.try_out if service is not None else None
        )
        kind = head.body
        refuse = None
        whole = b""
        length = head.content_length
        if kind is not _NONE:
            limit = worker.table.limits.body_bytes
            if (
                kind is BodyKind.LENGTH
                and length <= len(self.buffer)
                and length <= (limit or length)
            ):
                # Hot: a body that has come with its head goes on with it, in one write.
                whole = self.buffer[:length]
                self.buffer = self.buffer[length:]
            else:
                refuse = self._body_begins(head, limit)
        exchange.begin(head, out, request_id, service, started_us, refuse, whole)
        if self.body is not None and self.buffer and not self.lingering:
            data, self.buffer = self.buffer, b""
            self._body(data)

    def _body_begins(self, head: RequestHead, limit: int) -> replies.Reply | None:
        """What comes now is a body; the answer to one that is longer than `limit` bytes."""
        self.body = head.body
        self.remaining = head.content_length
        if head.body is BodyKind.CHUNKED:
            limits = self.worker.table.limits
            self.decoder = ChunkedDecoder(400, limits.trailer_bytes, head.named)
        elif limit and head.content_length > limit:
            return replies.BODY_TOO_LARGE
        return None

    def look_at_peer(self) -> None:
        """Who is it, and may it say where a request came from? Asked once for each table."""
        worker = self.worker
        host = self.peer()
        hop = worker.hops.get(host)
        if hop is None:
            hop = make_hop(
                peer=host.encode() or b"unknown",
                scheme=b"http",
                via=worker.via,
                trusted=worker.trusts(host),
            )
            worker.remember_hop(host, hop)
        self.hop = hop
        self.hop_table = worker.table_number

    def peer(self) -> str:
        """The client's address; empty on a Unix socket."""
        name = self.transport.get_extra_info("peername")
        return name[0] if isinstance(name, tuple) and name else ""

    # ------------------------------------------------------------ the request's body

    def _body(self, data: bytes) -> None:
        exchange = self.exchange
        assert exchange is not None
        if exchange.state is State.ENDED:
            return
        if self.body is BodyKind.LENGTH:
            size = len(data)
            if size > self.remaining:
                self.buffer = data[self.remaining :]
                data = data[: self.remaining]
                size = self.remaining
            self.remaining -= size
            exchange.bytes_in += size
            ended = not self.remaining
            out = data
        else:
            decoder = self.decoder
            before = decoder.body_bytes
            out = decoder.reencode(data)
            ended = decoder.finished
            gained = decoder.body_bytes - before
            exchange.bytes_in += gained
            if len(data) - gained > TURN_FRAMING_BYTES:
                self._pause(PAUSED_TURN)
                self.worker.loop.call_soon(self._resume, PAUSED_TURN)
            limit = self.worker.table.limits.body_bytes
            if limit and decoder.body_bytes > limit:
                self.body = None
                exchange.body_too_large()
                return
            if decoder.fault is not None:
                self.body = None
                exchange.bad_request_body(decoder.fault)
                return
            if ended:
                self.buffer = decoder.leftover
        if ended:
            self.body = None
        else:
            exchange.request_goes_on()
        if out:
            exchange.request_data(out)
        if ended and exchange.under_way:
            exchange.request_end()

    # ------------------------------------------------------------ for the exchange

    def write(self, data: bytes | memoryview) -> None:
        """Write; a view is of bytes that nobody changes."""
        self.transport.write(data)
        if self.write_paused and not self.transport.get_write_buffer_size():
            # uvloop pauses before it tries, and does not resume what went out at once.
            self.resume_writing()

    def write_apart(self, head: bytes, data: bytes | memoryview) -> None:
        """Write both in one system call, without a copy that joins them."""
        transport = self.transport
        sent = 0
        if not transport.get_write_buffer_size() and not transport.is_closing():
            # An error is the transport's, which meets it again at once.
            with contextlib.suppress(OSError):
                sent = os.writev(transport.get_extra_info("socket").fileno(), (head, data))
        if sent < len(head):
            self.write(head[sent:])
            self.write(data)
        elif sent < len(head) + len(data):
            self.write(data[sent - len(head) :])

    def write_eof(self) -> None:
        if not self.gone and self.transport.can_write_eof():
            self.transport.write_eof()

    def wait_until(self, deadline_s: float) -> None:
        """Nothing has to happen before `deadline_s` (worker's clock; 0: for ever)."""
        if self.eof:
            limit_s = self.worker.table.timeouts.half_closed_s
            if limit_s:
                soon = self.worker.now_s + limit_s
                deadline_s = min(deadline_s, soon) if deadline_s else soon
        self.deadline_s = deadline_s

    def wait_for_body(self) -> None:
        """More of the request's body is due."""
        idle_s = self.worker.table.timeouts.body_idle_s
        self.wait_until(self.worker.now_s + idle_s if idle_s else 0.0)

    def wait_for_answer(self, idle_s: float) -> None:
        """More of the response is due, or room for it at the client."""
        self.wait_until(self.worker.now_s + idle_s if idle_s else 0.0)

    def pause_body(self) -> None:
        """The server is slow or not there yet: the client's socket holds the rest."""
        self._pause(PAUSED_BODY)

    def resume_body(self) -> None:
        self._resume(PAUSED_BODY)

    def _pause(self, why: int) -> None:
        if not self.paused and not self.gone:
            self.transport.pause_reading()
        self.paused |= why

    def _resume(self, why: int) -> None:
        if self.paused & why:
            self.paused &= ~why
            if not self.paused and not self.gone:
                self.transport.resume_reading()

    def reply(
        self, reply: replies.Reply, head: RequestHead | None, request_id: bytes, *, close: bool
    ) -> int:
        """Write an answer of our own; returns the bytes of its body."""
        if head is None or close or not head.keep_alive or self.closing:
            self.close_after = True
        out, size = replies.render(
            reply,
            head_only=head is not None and head.method == b"HEAD",
            close=self.close_after,
            version_minor=head.version_minor if head is not None else 1,
            request_id=request_id,
            date=self.worker.date,
        )
        if not self.gone:
            self.write(out)
        return size

    def exchange_ended(self) -> None:
        """The answer has been written: on to the next request, or the connection's end."""
        self.tunnel = None
        self.has_asked = True
        self.quiet_since_s = self.worker.now_s
        if self.gone or self.transport.is_closing():
            return
        if self.close_after or (self.eof and not self.buffer):
            self._close_politely()
            return
        self.deadline_s = self.quiet_since_s + self.worker.keep_alive_s
        if self.paused:
            self._resume(PAUSED_BODY | PAUSED_PIPELINE)
        if self.buffer:
            self._head_begins()
            self._pump()
        else:
            # Else what comes next waits until this has been taken (`data_received`).
            self.ready = not self.write_paused

    def break_off(self, *, reset: bool) -> None:
        """End a response visibly unclean: what was written goes out, its end never does."""
        if self.gone:
            return
        self.close_after = True
        if reset:
            self._reset_on_close()
            self.transport.abort()
        else:
            # What was written goes out, if the client takes it at all.
            self.transport.close()
            self._linger_from_now()

    def leave_now(self) -> None:
        """The worker ends behind this. A client that has not been given all that was written must
        not take what it has for the whole."""
        if self.transport.get_write_buffer_size():
            self._reset_on_close()
            self.transport.abort()
        else:
            self.transport.close()

    def _reset_on_close(self) -> None:
        sock = self.transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)

    def _abort(self, exchange: Exchange) -> None:
        """The client is held to have gone. In case it reads on after all: what it has of an
        answer must not look whole."""
        if exchange.answering:
            self.break_off(reset=exchange.breaks_by_reset)
        self.transport.abort()
        exchange.client_gone()

    def begin_tunnel(self, tunnel: "Tunnel") -> None:
        self.tunnel = tunnel
        self._resume(PAUSED_PIPELINE)
        if self.buffer:
            data, self.buffer = self.buffer, b""
            tunnel.from_client(data)

    # ------------------------------------------------------------ the end

    def _refuse(self, reply: replies.Reply, reason: str, data: bytes = b"") -> None:
        """Answer the head that `data` begins with, which cannot be read, and close: what follows
        it cannot be either. Who asks by HEAD expects no body, whatever else is wrong."""
        self._count_refused(reason)
        self.buffer = b""
        head = NO_HEAD_OF_HEAD if data.startswith(b"HEAD ") else None
        self.reply(reply, head, self.worker.request_id(), close=True)
        self._close_politely()

    def _turn_away(self, reason: str) -> None:
        """There are too many connections: say so, or close at once if that was said to many who
        have not gone yet."""
        worker = self.worker
        self.door = None
        worker.turned_away += 1
        if worker.turned_away <= worker.table.limits.refused_connections:
            self._refuse(replies.TOO_MANY_CONNECTIONS, reason)
            return
        self._count_refused(reason)
        worker.count_fault("closed_unanswered")
        self.lingering = True
        self.ready = False
        self.transport.abort()

    def _count_refused(self, reason: str) -> None:
        worker = self.worker
        worker.words[worker.region_base + C_REFUSED + REFUSED_REASONS.index(reason)] += 1

    def _close_politely(self) -> None:
        """Close so that the last answer is still read: no reset on unread input.

        Our half is closed after what is written; what the client still sends is read and
        discarded until it closes too, for a bounded time.
        """
        self.body = None
        self.buffer = b""
        self.paused = 0
        if self.eof:
            self.transport.close()
        else:
            self.transport.resume_reading()
            self.write_eof()
        self._linger_from_now()

    def _linger_from_now(self) -> None:
        self.lingering = True
        self.ready = False
        self.written_left = self.transport.get_write_buffer_size()
        total_s = self.worker.table.timeouts.linger_total_s
        self.linger_until_s = self.worker.now_s + total_s if total_s else math.inf
        self._linger()

    def _linger(self) -> None:
        """What has been closed is read for a while from now on."""
        linger_s = self.worker.table.timeouts.linger_s
        soon_s = self.worker.now_s + linger_s if linger_s else math.inf
        # Infinity never passes, as 0 does not.
        self.deadline_s = min(soon_s, self.linger_until_s)

    def close_as_asked(self) -> None:
        """Close behind an answer whose request said that it would be the last. Nothing more
        comes, so nothing is to be read away; if the client has not got it all yet, politely."""
        if self.transport.get_write_buffer_size():
            self._close_politely()
        else:
            self.transport.close()

    def rest(self) -> None:
        """Hold as little as can be until the next request comes: by number, connections at rest
        are most of what a worker holds."""
        self.exchange = None
        self.hop = NO_HOP
        self.hop_table = -1

    def close_idle(self) -> None:
        """The worker is leaving and this connection has nothing under way."""
        self._close_politely()

    @property
    def idle_or_begun(self) -> bool:
        """No exchange under way; the next head may have begun."""
        exchange = self.exchange
        return not self.gone and (exchange is None or exchange.state is State.ENDED)

    @property
    def idle(self) -> bool:
        """Nothing under way and nothing begun."""
        return self.idle_or_begun and not self.buffer and not self.lingering

    def deadline_passed(self) -> None:
        """Called by the sweep (`deadlines.py`)."""
        self.deadline_s = 0.0
        exchange = self.exchange
        if self.lingering:
            if self.transport.get_write_buffer_size():
                if self._client_reads():
                    return
                self._reset_on_close()  # else the end of what it has got looks like that of all
            self.transport.abort()
        elif exchange is not None and exchange.state is not State.ENDED:
            if self.write_paused and self._client_reads():
                return
            if exchange.long_body is not None and exchange.long_body.client_reads():
                exchange.response_moved(0)
                return
            if self.eof and exchange.state is not State.TUNNEL:
                self._abort(exchange)
            else:
                exchange.timed_out()
        elif self.buffer and self.write_paused:
            # Requests wait behind answers that their client does not take.
            if not self._client_reads():
                self.worker.count_fault("reader_timeout")
                self.transport.abort()
        elif self.buffer:
            self._refuse(replies.HEADER_TIMEOUT, "header_timeout", self.buffer)
        else:
            if not self.has_asked:
                self.worker.count_fault("never_asked")
            self.close_after = True
            self._close_politely()

    def progress(self) -> Progress | None:
        """How far a wait for this client has come; None: it is not waited for."""
        exchange = self.exchange
        if exchange is None or exchange.state is State.ENDED:
            left = self.transport.get_write_buffer_size()
            if not left or not (self.write_paused or self.lingering):
                return None
            return Progress("reader_too_slow", 0, -left)
        long_body = exchange.long_body
        if self.write_paused or (long_body is not None and long_body.waits):
            taken = exchange.bytes_out - self.transport.get_write_buffer_size()
            return Progress("reader_too_slow", exchange.started_us, taken)
        if self.body is not None and not self.paused:
            return Progress("body_too_slow", exchange.started_us, exchange.bytes_in)
        return None

    def too_slow(self, fault: str) -> None:
        """Less has moved than must (`slow.py`)."""
        exchange = self.exchange
        if exchange is not None and exchange.state is not State.ENDED:
            exchange.too_slow(fault)
        else:
            self.worker.count_fault(fault)
            self.break_off(reset=True)

    def _client_reads(self) -> bool:
        """Has a slow client taken anything since the last look? Then it gets as long again."""
        left = self.transport.get_write_buffer_size()
        if left and left >= self.written_left:
            return False
        self.written_left = left
        idle_s = self.worker.table.timeouts.body_idle_s
        self.deadline_s = self.worker.now_s + idle_s if idle_s else 0.0
        return True


def _own_name(name: object) -> bytes:
    """Our own `host:port`, for an HTTP/1.0 request that names no host."""
    if not isinstance(name, tuple) or len(name) < 2:
        return b"localhost"
    host = f"[{name[0]}]" if ":" in name[0] else name[0]
    return f"{host}:{name[1]}".encode()


assert C_REFUSED >= REGION_HEADER_WORDS
