"""A connection to a server: writes requests, reads responses. I/O shell.

It finds heads and the ends of bodies in what comes in and tells its exchange; what a head
means is decided in `response_head.py` and `framing.py`.
"""

import asyncio
import contextlib
import os
from typing import TYPE_CHECKING, Final, cast

from turnout.proxy import fast_path
from turnout.proxy.fast_path import WRITE_APART_BYTES
from turnout.proxy.framing import BodyKind, ChunkedDecoder, Passing, Refused, chunk
from turnout.proxy.long_body import LONG_BYTES
from turnout.proxy.response_head import parse_response
from turnout.proxy.scoreboard import R_UPSTREAM_CONNECTIONS

if TYPE_CHECKING:
    from turnout.proxy.exchange import Exchange
    from turnout.proxy.pool import ServerPool
    from turnout.proxy.tunnel import Tunnel

READ_BYTES: Final = 65536

# Hot: looking up an enum's member takes 0.05 us.
_HEAD_END: Final = b"\r\n\r\n"
_NONE: Final = BodyKind.NONE
_LENGTH: Final = BodyKind.LENGTH


class UpstreamConnection:
    """One connection to a server: as `Downstream`, a protocol in all but its base. `exchange` is
    None while it is idle in the pool."""

    __slots__ = (
        # for the connection's life
        "pool", "transport", "descriptor", "expires_s", "has_answered", "is_put_aside", "keep_alive_s",
        "lost", "made",
        "paused", "reads_short", "stalled",
        # for one exchange
        "body", "buffer", "decoder", "exchange", "interims", "keep", "remaining", "tunnel",
    )  # fmt: skip

    def __init__(self, pool: "ServerPool") -> None:
        self.pool = pool
        self.has_answered = False
        self.is_put_aside = False
        self.expires_s = 0.0
        self.keep_alive_s: float | None = None
        self.lost = False
        self.made = False
        self.paused = False
        self.reads_short = False
        self.stalled = False
        self.exchange: Exchange | None = None
        self.tunnel: Tunnel | None = None
        self.body: BodyKind | None = None
        self.buffer = b""
        self.interims = 0
        self.keep = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.made = True
        self.transport = cast(asyncio.Transport, transport)
        self.descriptor: int = transport.get_extra_info("socket").fileno()
        self.pool.open += 1
        worker = self.pool.worker
        worker.words[worker.region_base + R_UPSTREAM_CONNECTIONS] += 1

    def given_up(self) -> None:
        """Whoever waited for this connection was cancelled. If that was in the moment between its
        being made and his hearing of it, uvloop has closed it and says so to nobody."""
        if self.made and not self.lost:
            self.connection_lost(None)

    # ------------------------------------------------------------ for the exchange

    def ask(self, exchange: "Exchange") -> None:
        """The connection is `exchange`'s until `finished` or `abandon`."""
        self.exchange = exchange

    def write(self, data: bytes) -> None:
        self.transport.write(data)
        if self.stalled and not self.transport.get_write_buffer_size():
            # uvloop pauses before it tries, and does not resume what went out at once.
            self.resume_writing()

    def finished(self) -> None:
        """The answer is complete and the request too: back to the pool, if both agree."""
        self.exchange = None
        self.has_answered = True
        if self.lost:
            return
        transport = self.transport
        if transport.get_write_buffer_size():
            # It answered and does not read: what it has not taken would stand here for ever.
            transport.abort()
        elif self.keep:
            self.body = None
            self.interims = 0
            if self.paused:
                self.resume()
            if not transport.is_closing():
                self.pool.give_back(self)
        else:
            transport.close()

    def abandon(self) -> None:
        """The exchange is over before its end: what may still come is nobody's."""
        self.exchange = None
        self.tunnel = None
        if not self.lost:
            self.transport.abort()

    def close(self) -> None:
        self.transport.close()

    @property
    def closing(self) -> bool:
        """It has ended or is about to: nothing written to it would arrive."""
        return self.lost or self.transport.is_closing()

    def pause(self) -> None:
        """A stalled client must not make us hold its whole response: stop reading."""
        if not self.lost and not self.paused:
            self.paused = True
            self.transport.pause_reading()

    def resume(self) -> None:
        if not self.lost and self.paused:
            self.paused = False
            self.transport.resume_reading()

    def read_short(self, short: bool) -> None:
        """Read little at a time from now on, or all there is (`long_body.ShortReads`)."""
        if short is not self.reads_short and not self.lost:
            self.reads_short = short
            transport = self.transport
            protocol = self.pool.worker.short_reads(self) if short else self
            transport.set_protocol(cast(asyncio.BaseProtocol, protocol))
            if transport.is_reading():
                # How to read is looked up when reading begins.
                transport.pause_reading()
                transport.resume_reading()

    @property
    def bytes_left(self) -> int:
        """Of a body of known length that is under way: so much has not been read."""
        return self.remaining if self.body is BodyKind.LENGTH else 0

    def has_input(self) -> bool:
        """Has anything come in that the loop has not read yet? One system call."""
        return self.pool.has_input(self)

    # ------------------------------------------------------------ from the transport

    def data_received(self, data: bytes) -> None:
        exchange = self.exchange
        if exchange is None:
            # Unasked bytes on an idle connection: the next answer would begin with them.
            self.keep = False
            if not self.lost:
                self.pool.forget(self)
                self.transport.abort()
            return
        if self.is_put_aside:
            # It has not been asked yet: what it says is the answer to nothing.
            self.connection_unfit(exchange)
        elif self.tunnel is not None:
            self.tunnel.from_server(data)
        elif self.body is None:
            if exchange.plain is None or self.buffer or not fast_path.end(self, exchange, data):
                self._heads(exchange, data)
        else:
            out, ended = self._body(data)
            if out:
                exchange.response_data(out)
            if ended and self.exchange is exchange:
                exchange.response_end()

    def connection_unfit(self, exchange: "Exchange") -> None:
        """Unasked bytes came before the request was written: it goes out on another one."""
        self.is_put_aside = False
        self.exchange = None
        if not self.lost:
            self.transport.abort()
        exchange.upstream_lost("unasked bytes")

    def _heads(self, exchange: "Exchange", data: bytes) -> None:
        """Read heads up to the final one and pass it on with the body's beginning."""
        if self.buffer:
            data = self.buffer + data
            self.buffer = b""
        worker = exchange.worker
        while True:
            end = data.find(_HEAD_END) + 4
            if end < 4 or end > worker.response_header_bytes:
                self._no_head(exchange, data, end)
                return
            request = exchange.head
            try:
                head = parse_response(
                    data[:end], request.method, request.upgrade is not None, worker.fields_max
                )
            except Refused as refused:
                exchange.bad_response(refused)
                return
            if not head.is_interim:
                break
            data = data[end:]
            self.interims += 1
            if 0 < worker.table.limits.interim_answers < self.interims:
                exchange.bad_response(Refused(502, "interim_flood", "Too many 1xx answers."))
                return
            exchange.interim(head)
            if not data:
                return
        self.keep = head.keep_alive
        self.keep_alive_s = head.keep_alive_timeout_s
        rest: bytes | memoryview
        if head.body is BodyKind.LENGTH and len(data) - end >= WRITE_APART_BYTES:
            rest = memoryview(data)[end:]
        else:
            rest = data[end:]
        if head.status == 101:
            self.read_short(False)
            exchange.tunnelled(head, bytes(rest))
            return
        self.body = kind = head.body
        if kind is _NONE:
            if rest:
                self.keep = False
            exchange.response_head(head, b"", ended=True)
            ended = True
        else:
            exchange.passing = head.passing(exchange.head.version_minor)
            self.remaining = head.content_length
            if kind is BodyKind.CHUNKED:
                limits = worker.table.limits
                self.decoder = ChunkedDecoder(502, limits.trailer_bytes, head.named)
            if self.reads_short and self.bytes_left - len(rest) < LONG_BYTES:
                self.read_short(False)
            out, ended = self._body(rest) if rest else (b"", False)
            if self.exchange is not exchange:
                return  # refused in the body's first bytes
            exchange.response_head(head, out, ended=ended)
        if ended and self.exchange is exchange:
            exchange.response_end()

    def _no_head(self, exchange: "Exchange", data: bytes, end: int) -> None:
        """The head is not complete yet (`end` < 4), or will never be one that we take."""
        if (end if end >= 4 else len(data)) > exchange.worker.response_header_bytes:
            exchange.bad_response(Refused(502, "head_too_large", "The answer's head is too large."))
        elif b"\n\n" in data:
            exchange.bad_response(Refused(502, "bare_lf", "A line ends in a bare LF."))
        else:
            self.buffer = data

    def _body(self, data: bytes | memoryview) -> tuple[bytes | memoryview, bool]:
        """Return (what the client gets for `data`, whether the body has ended). A view is of a
        body of known length."""
        kind = self.body
        if kind is _LENGTH:
            self.remaining -= len(data)
            if self.remaining > 0:
                return data, False
            if self.remaining < 0:
                # Bytes behind the end: whoever asked next would get them as his answer.
                self.keep = False
                data = data[: self.remaining]
            return data, True
        exchange = self.exchange
        assert exchange is not None and isinstance(data, bytes)
        how = exchange.passing
        if kind is BodyKind.UNTIL_CLOSE:
            return (chunk(data) if how is Passing.CHUNK else data), False
        decoder = self.decoder
        out = decoder.decode(data) if how is Passing.DECHUNK else decoder.reencode(data)
        if decoder.fault is not None:
            self.keep = False
            if out and exchange.answering:
                exchange.response_data(out)
            exchange.bad_response_body(decoder.fault)
            return b"", False
        if decoder.finished and decoder.leftover:
            self.keep = False
        return out, decoder.finished

    def eof_received(self) -> bool:
        exchange = self.exchange
        if self.tunnel is not None:
            return self.tunnel.server_eof()
        if exchange is None:
            self.pool.forget(self)  # now: `connection_lost` comes a turn later
        elif self.body is BodyKind.UNTIL_CLOSE:
            self.keep = False
            if exchange.passing is Passing.CHUNK:
                exchange.response_data(b"0\r\n\r\n")
            exchange.response_end()
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self.lost = True
        exchange = self.exchange
        if error is not None and exchange is not None and exchange.long_body is None:
            self._read_what_is_left()
        worker = self.pool.worker
        worker.words[worker.region_base + R_UPSTREAM_CONNECTIONS] -= 1
        if error is not None:
            worker.count_fault("server_reset")
        self.pool.lost(self)
        exchange, self.exchange = self.exchange, None
        tunnel, self.tunnel = self.tunnel, None
        if tunnel is not None:
            tunnel.server_gone()
        elif exchange is not None:
            exchange.upstream_lost(str(error) if error is not None else "closed by the server")

    def _read_what_is_left(self) -> None:
        """A failed write ends the connection at once, while its socket, which is closed behind
        this call, may still hold what the server said before: its answer, as a rule. Not of a
        long body: more of it may stand in a pipe, and would be overtaken."""
        with contextlib.suppress(OSError):
            while self.exchange is not None and (data := os.read(self.descriptor, READ_BYTES)):
                self.data_received(data)

    def pause_writing(self) -> None:
        self.stalled = True
        if self.exchange is not None:
            self.exchange.down.pause_body()

    def resume_writing(self) -> None:
        self.stalled = False
        if self.exchange is not None:
            self.exchange.down.resume_body()
