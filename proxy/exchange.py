"""One request and its response: from the head that has been read to exactly one outcome.

An exchange is made for each client connection once and used again for each of its requests.
It holds what both sides must agree on: which upstream was picked, what has been sent, what
may be sent again, and how it ended. The two connections (`downstream.py`, `upstream.py`)
move the bytes and tell it what happened.
"""

from collections.abc import Sequence
from enum import IntEnum
from time import monotonic_ns
from typing import TYPE_CHECKING, Final

from turnout.proxy import replies
from turnout.proxy.account import Account
from turnout.proxy.balancer import pick_server
from turnout.proxy.framing import BodyKind, Passing, Refused
from turnout.proxy.head import (
    IDEMPOTENT,
    NO_HEAD,
    RequestHead,
    ResponseHead,
    forward_interim,
    forward_response,
)
from turnout.proxy.hold import share
from turnout.proxy.long_body import LONG_BYTES, LongBody
from turnout.proxy.plain_head import PlainRequest, full_head
from turnout.proxy.response_head import closes
from turnout.proxy.retry import Answer, Attempt, Failure, decide
from turnout.proxy.routing import choose, tried_out
from turnout.proxy.scoreboard import ExchangeClass, HealthWord
from turnout.proxy.tunnel import Tunnel

if TYPE_CHECKING:
    from turnout.proxy.downstream import Downstream
    from turnout.proxy.pool import ServerPool
    from turnout.proxy.serving import ServiceState, UpstreamState
    from turnout.proxy.upstream import UpstreamConnection


class State(IntEnum):
    ENDED = 0
    """None under way: before the first request, and between two."""
    HELD = 1
    """Accepted; no upstream picked while its service is held."""
    CONNECTING = 2
    """Upstream and server picked; waits for a connection."""
    ASKED = 3
    """The request is on its way; no final head has come back."""
    ANSWERING = 4
    """The response's head has been passed on."""
    TUNNEL = 5


MOVES: Final = {
    State.ENDED: {State.HELD, State.CONNECTING, State.ASKED, State.ENDED},
    State.HELD: {State.CONNECTING, State.ASKED, State.HELD, State.ENDED},
    State.CONNECTING: {State.ASKED, State.CONNECTING, State.ENDED},
    State.ASKED: {State.ANSWERING, State.TUNNEL, State.CONNECTING, State.ASKED, State.ENDED},
    State.ANSWERING: {State.ENDED},
    State.TUNNEL: {State.ENDED},
}
"""Which state may follow which; anything else is a mistake of ours."""


# Hot: looking up an enum's member takes 0.05 us.
_ENDED: Final = State.ENDED
_ASKED: Final = State.ASKED
_NO_BODY: Final = BodyKind.NONE
_PLAIN: Final = ExchangeClass.PLAIN
_UPLOAD: Final = ExchangeClass.UPLOAD
_UNHEALTHY: Final = HealthWord.UNHEALTHY

Pieces = list[bytes] | tuple[()]
_NOTHING: Final = ()
"""No pieces: what nearly every exchange has, so none makes a list for it."""


def _with(pieces: Pieces, piece: bytes) -> Pieces:
    """Return `pieces` and one more behind them; a list is added to in place."""
    if isinstance(pieces, list):
        pieces.append(piece)
        return pieces
    return [piece]


class Exchange(Account):
    """A request under way. One a client connection; `begin` makes it new."""

    __slots__ = (
        # for the connection's life
        "down",
        # for one exchange
        "_head",
        "answer_put_aside",
        "attempt_number",
        "body_done",
        "breaks_by_reset",
        "bytes_in",
        "bytes_out",
        "connection",
        "epoch",
        "idempotent",
        "long_body",
        "passing",
        "plain",
        "reused",
        "server",
        "pool",
        "replayable",
        "request_head",
        "request_id",
        "retries",
        "stash",
        "stash_bytes",
        "state",
        "status",
        "tried",
        "unsent",
        "wanted",
    )  # fmt: skip

    def __init__(self, down: "Downstream") -> None:
        self.down = down
        self.worker = down.worker
        self.state = State.ENDED
        self.attempt_number = 0
        self.epoch = 0
        self.connection: UpstreamConnection | None = None
        self.service: ServiceState | None = None
        self.upstream: UpstreamState | None = None
        self.pool: ServerPool | None = None
        self.passing = Passing.AS_IS
        self._as_new()

    def _as_new(self) -> None:
        """Hold nothing of the exchange that has ended: an idle connection is to be small. What
        is set here is what `fast_path` relies on and leaves as it is."""
        self._head = NO_HEAD
        self.plain: PlainRequest | None = None
        self.answer_put_aside = b""
        self.request_head = self.request_id = b""
        self.upstream = None
        self.pool = None
        self.server = ""
        self.status = 0
        self.bytes_in = 0
        self.bytes_out = 0
        self.kind = _PLAIN
        self.body_done = True
        self.idempotent = True
        self.replayable = True
        self.reused = True
        self.retries = 0
        self.wanted = -1
        self.tried: Sequence[ServerPool] = ()
        self.stash: Pieces = _NOTHING
        self.stash_bytes = 0
        self.unsent: Pieces = _NOTHING
        self.long_body: LongBody | None = None

    @property
    def head(self) -> RequestHead:
        """The request's head, or NO_HEAD between two. Of a plain one it is made when it is
        asked for, which is seldom."""
        if self.plain is not None and self._head is NO_HEAD:
            self._head = full_head(self.plain)
        return self._head

    # ------------------------------------------------------------ the beginning

    def begin(
        self,
        head: RequestHead,
        request_head: bytes,
        request_id: bytes,
        service: "ServiceState | None",
        started_us: int,
        refusal: replies.Reply | None,
        body: bytes,
    ) -> None:
        """Count the request as accepted and send it on its way.

        `request_head` is what the server is to get; with `refusal` it gets nothing. `body` is
        the request's, if that has come as a whole already.
        Everything up to the picked upstream's counter happens in this one callback: the old
        upstream of a flip is drained once every worker has turned its loop and its counters
        say so.
        """
        self._head = head
        self.request_head = request_head
        self.request_id = request_id
        self.service = service
        self.started_us = started_us
        if body:
            self.bytes_in = self.stash_bytes = len(body)
            self.stash = [body]
            self.replayable = len(body) <= self.worker.table.limits.replay_bytes
        elif head.body is not _NO_BODY:
            self.body_done = False
            self.kind = _UPLOAD
        self.idempotent = head.method in IDEMPOTENT
        self.count_accepted(head.path)
        if service is None:
            self.answer(replies.NO_SERVICE)
            return
        if refusal is not None:
            self.answer(refusal)
            return
        if service.try_out is not None:
            value = self.head.find(service.try_out)
            if value is not None:
                self.wanted = tried_out(service.table, value)
        self.pick()

    def pick(self) -> None:
        """Choose the upstream by the routing word, or wait while the service is held."""
        worker = self.worker
        service = self.service
        assert service is not None
        if worker.serving.by_slot.get(service.slot) is not service:
            self.answer(replies.NO_SERVICE)  # gone with a reload while this was held
            return
        word = worker.routing[service.word_index]
        if word != service.word:
            service.follow(word)
        self.epoch = service.epoch
        if self.wanted >= 0:
            position = self.wanted
        elif service.hold:
            self._hold()
            return
        else:
            position, service.phase = choose(word, service.phase)
        self.count_picked(service.upstreams[position])
        self._attempt()

    def _hold(self) -> None:
        service = self.service
        assert service is not None
        worker = self.worker
        limit = share(service.table.hold_requests, worker.live_workers())
        if len(service.held) >= limit:
            self.answer(replies.HOLD_FULL)
            return
        if self.state is not State.HELD:
            limit_s = service.table.hold_timeout_s
            if not limit_s:
                self.answer(replies.HOLD_TIMEOUT)
                return
            self.state = State.HELD
            self.down.wait_until(worker.now_s + limit_s)
        service.held.add(self)

    @property
    def under_way(self) -> bool:
        return self.state is not State.ENDED

    @property
    def answering(self) -> bool:
        """The response's head has been passed on and its end has not."""
        return self.state is State.ANSWERING

    # ------------------------------------------------------------ attempts

    def _attempt(self) -> None:
        """Choose a server and get a connection to it."""
        worker = self.worker
        upstream = self.upstream
        assert upstream is not None
        now_s = worker.now_s
        pool = upstream.only
        if pool is None:
            pool = self._balance(upstream.servers)
            if pool is None:
                self.answer(replies.NO_SERVER)
                return
        elif worker.health[pool.health_slot] == _UNHEALTHY:
            self.count_unhealthy_pick()
        self.pool = pool
        pool.in_flight += 1
        self.attempt_number += 1
        connection = None
        if pool.idle and not (self.retries if self.idempotent else pool.kept_from(self)):
            connection = pool.take_idle(now_s)
        if connection is not None:
            self._send(connection, True)
            return
        self.state = State.CONNECTING
        limit_s = pool.policy.queue_timeout_s if pool.full else 0.0
        self.down.wait_until(now_s + limit_s if limit_s else 0.0)
        pool.connect(self)

    def _balance(self, servers: "list[ServerPool]") -> "ServerPool | None":
        """Choose one of several servers, or None when there is none at all."""
        if not servers:
            return None
        worker = self.worker
        now_s = worker.now_s
        position, unhealthy = pick_server(
            [pool.in_flight for pool in servers],
            [pool.usable(worker.health[pool.health_slot], now_s) for pool in servers],
            [pool in self.tried for pool in servers],
            worker.random(),
        )
        if unhealthy:
            self.count_unhealthy_pick()
        return servers[position]

    def waits_for(self, ticket: int) -> bool:
        """Is the attempt `ticket` still wanted?"""
        return self.state is State.CONNECTING and self.attempt_number == ticket

    def connected(self, connection: "UpstreamConnection") -> None:
        self._send(connection, connection.has_answered)

    def _send(self, connection: "UpstreamConnection", reused: bool) -> None:
        down = self.down
        self.connection = connection
        self.reused = reused
        self.state = _ASKED
        self.unsent = _NOTHING
        if down.write_paused:
            connection.pause()  # a pipelining client that has not read the last answer yet
        connection.ask(self)
        if self.stash:
            connection.write(self.request_head + b"".join(self.stash))
            if not self.replayable:
                self.stash = _NOTHING
        else:
            connection.write(self.request_head)
        if self.body_done:
            if down.eof:
                down.wait_until(self._first_byte_deadline_s())
            else:
                down.deadline_s = self.worker.now_s + self.worker.first_byte_s
        else:
            down.wait_for_body()
            down.resume_body()

    def _first_byte_deadline_s(self) -> float:
        return self.worker.now_s + self.worker.first_byte_s

    def connect_failed(self, reason: str) -> None:
        """`connect_failed` or `connect_timeout`: nothing has been sent to this server."""
        failure = Failure.CONNECT_TIMEOUT if reason == "connect_timeout" else Failure.CONNECT_FAILED
        self._attempt_failed(failure)

    def _attempt_failed(self, failure: Failure) -> None:
        """An attempt ended without a response: again elsewhere, or an answer of ours."""
        service, upstream, pool = self.service, self.upstream, self.pool
        assert service is not None and upstream is not None and pool is not None
        pool.in_flight -= 1
        self.pool = None
        self.server = pool.endpoint
        self._head, self.plain = self.head, None
        connection, self.connection = self.connection, None
        if connection is not None:
            connection.abandon()
        self.count_attempt_failed()
        decision = decide(
            Attempt(
                failure=failure,
                idempotent=self.idempotent,
                replayable=self.replayable,
                other_servers=sum(
                    other is not pool and other not in self.tried for other in upstream.servers
                ),
                retries=self.retries,
                written=connection is not None,
            ),
            attempts_max=service.table.retry_attempts,
            budget=service.budget,
            now_s=self.worker.now_s,
            requests_total=self.requests_total(),
        )
        if isinstance(decision, Answer):
            self.count_not_retried(decision.reason)
            self.answer(_FAILURE_REPLIES[failure])
            return
        self.count_retry(decision.reason)
        self.retries += 1
        if decision.elsewhere:
            self.tried = [*self.tried, pool]
        self._attempt()

    # ------------------------------------------------------------ the request's body

    def request_data(self, data: bytes) -> None:
        """Pass on a piece of the body, framed as the server is to get it."""
        if self.replayable:
            self.stash_bytes += len(data)
            if self.stash_bytes <= self.worker.table.limits.replay_bytes:
                self.stash = _with(self.stash, data)
            else:
                self.replayable = False
                if self.connection is not None:
                    self.stash = _NOTHING
                else:
                    # Not sent yet: kept until it is, and no more is read meanwhile.
                    self.stash = _with(self.stash, data)
                    self.down.pause_body()
        elif self.connection is None:
            self.stash = _with(self.stash, data)
            self.down.pause_body()
        connection = self.connection
        if connection is not None:
            if self.unsent or (self.state is State.ASKED and connection.has_input()):
                # A server may answer before the body's end and close. Writing to it then
                # fails, and its answer would be lost with the connection: read that first.
                self.unsent = _with(self.unsent, data)
                self.down.pause_body()
            else:
                connection.write(data)

    def _send_unsent(self) -> None:
        """The server has said something and is still there: go on with the body."""
        if self.unsent and self.connection is not None:
            data = b"".join(self.unsent)
            self.unsent = _NOTHING
            self.connection.write(data)
            self.down.resume_body()

    def request_goes_on(self) -> None:
        """A piece of the body has come and its end has not: more is due, unless the request
        still waits for something else that has a deadline of its own."""
        if self.state is State.ASKED:
            self.down.wait_for_body()
        elif self.state is State.ANSWERING:
            self._answer_due()

    def request_end(self) -> None:
        """The body is complete."""
        self.body_done = True
        if self.kind is ExchangeClass.UPLOAD:
            self.become(ExchangeClass.PLAIN)
        if self.state is State.ASKED:
            self.down.wait_until(self._first_byte_deadline_s())

    # ------------------------------------------------------------ the response

    def interim(self, head: ResponseHead) -> None:
        """A 1xx head other than 101: passed on to those who may understand it."""
        # Not plain any more: `fast_path.end` knows neither this head nor how many there were.
        self._head, self.plain = self.head, None
        if self.head.version_minor:
            self.down.write(forward_interim(head, via=self.worker.via))
        self._send_unsent()

    def response_head(self, head: ResponseHead, data: bytes | memoryview, *, ended: bool) -> None:
        """Pass the final head on, with `data`, the part of the body that came with it; `ended`
        if that is all of it."""
        down = self.down
        pool = self.pool
        assert pool is not None
        pool.answered_with(head.status)
        self.status = head.status
        self.state = State.ANSWERING
        self.stash = _NOTHING
        self.replayable = False
        # An answer that comes before the request's end may end before it too: what the
        # client still sends has then no reader, so the connection does not go on.
        close = (
            not self.head.keep_alive
            or not self.body_done
            or down.closing
            or closes(head, self.head.version_minor)
        )
        down.close_after = close
        self.breaks_by_reset = closes(head, self.head.version_minor)
        if head.is_event_stream:
            self.become(ExchangeClass.SSE)
        connection = self.connection
        assert connection is not None
        is_long = connection.bytes_left >= LONG_BYTES
        joined = not is_long and isinstance(data, bytes)
        out = forward_response(
            head,
            self.head.version_minor,
            close,
            self.request_id,
            self.worker.via,
            self.worker.date,
            bytes(data) if joined else b"",
        )
        if is_long and self.worker.table.limits.pipes and self._goes_long(connection, out, data):
            return
        self.bytes_out += len(data)
        if joined:
            down.write(out)
        else:
            down.write_apart(out, data)
        self._answer_due()
        if self.unsent and not ended:
            self._send_unsent()

    def _goes_long(
        self, connection: "UpstreamConnection", out: bytes, data: bytes | memoryview
    ) -> bool:
        """Send a head and the first of a long body by pipe; False when that cannot be now.

        The exchange may have ended when this returns, and the client's next one begun.
        """
        self._answer_due()
        if self.unsent:
            self._send_unsent()
        self.long_body = LongBody(self, connection)
        return self.long_body.pass_on(data, out)

    def _answer_due(self) -> None:
        """More of the answer is due. Event streams and tunnels may be silent for longer."""
        timeouts = self.worker.table.timeouts
        quiet = self.kind >= ExchangeClass.SSE
        self.down.wait_for_answer(timeouts.tunnel_idle_s if quiet else timeouts.body_idle_s)

    def response_data(self, data: bytes | memoryview) -> None:
        """Pass on a piece of the body, framed as the client is to get it."""
        long_body = self.long_body
        if long_body is not None and long_body.pass_on(data):
            return
        self.bytes_out += len(data)
        self.down.write(data)
        self._answer_due()

    def response_moved(self, size_bytes: int) -> None:
        """So much of the body has gone to the client without having been seen."""
        self.bytes_out += size_bytes
        self._answer_due()

    def response_end(self) -> None:
        """The response is complete and so is the exchange."""
        connection = self.connection
        assert connection is not None
        self.connection = None
        if self.body_done and not self.unsent:
            connection.finished()
        else:
            # The server did not wait for the body: what it would read next is not a head.
            connection.abandon()
        self._end_answered()

    def tunnelled(self, head: ResponseHead, data: bytes) -> None:
        """The server has agreed to switch protocols; `data` is what it sent behind its head."""
        connection, down, worker = self.connection, self.down, self.worker
        assert connection is not None and self.pool is not None
        self.pool.answered_with(head.status)
        self.state = State.TUNNEL
        self.status = 101
        self.breaks_by_reset = False
        self.become(ExchangeClass.TUNNEL)
        down.close_after = True
        down.write(forward_response(head, 1, False, self.request_id, worker.via))
        timeouts = worker.table.timeouts
        tunnel = Tunnel(self, down, connection, timeouts.tunnel_idle_s, timeouts.half_closed_s)
        connection.tunnel = tunnel
        if data:
            tunnel.from_server(data)
        down.begin_tunnel(tunnel)

    def tunnel_closed(self) -> None:
        connection, self.connection = self.connection, None
        if connection is not None:
            connection.abandon()
        self._end_answered()

    def _end_answered(self) -> None:
        now_us = monotonic_ns() // 1000
        self.count_answered(self.status, now_us)
        self._end("answered_by_upstream", now_us)

    # ------------------------------------------------------------ other ends

    def bad_response(self, refused: Refused) -> None:
        """The server's head cannot be passed on in one reading: 502."""
        self._drop_server(f"malformed response: {refused.detail}")
        self.answer(replies.BAD_RESPONSE)

    def upstream_lost(self, error: str) -> None:
        """The server's connection ended before its answer was complete."""
        if self.state is State.ASKED:
            pool = self.pool
            assert pool is not None
            if not self.reused:
                pool.trouble(error)
            self._attempt_failed(
                Failure.REUSED_CLOSED if self.reused else Failure.CLOSED_BEFORE_ANSWER
            )
        else:
            self.cut("upstream_closed")

    def bad_response_body(self, refused: Refused) -> None:
        """The response's body cannot be passed on; its head may have been."""
        if self.state is State.ASKED:
            self.bad_response(refused)
        else:
            self.cut("upstream_closed")

    def bad_request_body(self, refused: Refused) -> None:
        """The client's chunks are malformed: the server sees its request cut short."""
        self._client_at_fault(replies.refused(refused))

    def leave_queues(self) -> None:
        """Wait for nothing any more: neither for a release nor for a connection."""
        if self.state is State.HELD and self.service is not None:
            self.service.held.remove(self)
        elif self.state is State.CONNECTING and self.pool is not None and self in self.pool.waiting:
            self.pool.waiting.remove(self)

    def body_too_large(self) -> None:
        """A chunked body has grown beyond the limit."""
        self._client_at_fault(replies.BODY_TOO_LARGE)

    def _client_at_fault(self, reply: replies.Reply) -> None:
        """Answer `reply` if an answer is still possible, else break the response off."""
        if self.state is State.ANSWERING:
            self._drop_server("")
            self.down.break_off(reset=self.breaks_by_reset)
            self.client_gone()
        else:
            self.leave_queues()
            self.answer(reply)

    def timed_out(self) -> None:
        """The deadline that the client's connection keeps for this exchange has passed."""
        state = self.state
        self.leave_queues()
        if state is State.HELD:
            self.answer(replies.HOLD_TIMEOUT)
        elif state is State.CONNECTING:
            self.answer(replies.POOL_TIMEOUT)
        elif state is State.ASKED:
            assert self.pool is not None
            if self.body_done:
                self.pool.trouble("no answer in time")
                self.count_not_retried("timed_out")
                self._drop_server("")
                self.answer(replies.FIRST_BYTE_TIMEOUT)
            elif self.down.paused:
                # Not the client is late: the server does not take what has come.
                self._drop_server("request not read in time")
                self.answer(replies.FIRST_BYTE_TIMEOUT)
            else:
                self._body_late("body_timeout")
        else:
            if self.down.write_paused or (self.long_body is not None and self.long_body.waits):
                self.worker.count_fault("reader_timeout")
            self.cut("timeout")

    def too_slow(self, fault: str) -> None:
        """The client has sent less of its body, or taken less of its answer, than it has to."""
        if self.state is State.ASKED:
            self._body_late(fault)
        else:
            self.worker.count_fault(fault)
            # What it has not taken of the answer would take it as long again.
            self.breaks_by_reset = True
            self.cut("timeout")

    def _body_late(self, fault: str) -> None:
        self.worker.count_fault(fault)
        self._drop_server("")
        self.answer(replies.BODY_TIMEOUT)

    def _drop_server(self, trouble: str) -> None:
        """End the attempt under way; its connection cannot be used again."""
        connection, self.connection = self.connection, None
        if connection is not None:
            connection.abandon()
        if trouble and self.pool is not None:
            self.pool.trouble(trouble)

    def answer(self, reply: replies.Reply) -> None:
        """Answer the client ourselves. Only before a response's head has been passed on."""
        self._drop_server("")
        self.status = reply.status
        self.count_answered_by_proxy(reply.status)
        self.bytes_out = self.down.reply(
            reply, self.head, self.request_id, close=not self.body_done
        )
        self._end("answered_by_proxy", monotonic_ns() // 1000)

    def cut(self, reason: str) -> dict[str, object]:
        """End an exchange whose head was passed on, visibly unclean; return the receipt's entry.

        Also for what a drain's deadline ends before an answer began: that gets a 503 first,
        as an answer is still possible, and counts as cut all the same.
        """
        entry = self.as_cut(reason)
        connection, self.connection = self.connection, None
        if connection is not None:
            connection.abandon()
        self.leave_queues()
        self.count_cut(reason)
        down = self.down
        if self.state in (State.ANSWERING, State.TUNNEL):
            down.break_off(reset=self.breaks_by_reset)
        else:
            self.status = replies.CUT.status
            down.reply(replies.CUT, self.head, self.request_id, close=True)
        self._end("cut", monotonic_ns() // 1000)
        return entry

    def client_gone(self) -> None:
        """The client has gone: its server is left in peace."""
        self.leave_queues()
        if self.state is State.TUNNEL:
            self.tunnel_closed()
            return
        self._drop_server("")
        self.count_aborted()
        self._end("client_aborted", monotonic_ns() // 1000)

    def _end(self, outcome: str, now_us: int) -> None:
        """Exactly one outcome has been counted; free what the exchange held."""
        worker = self.worker
        pool = self.pool
        if pool is not None:
            pool.in_flight -= 1
        self.release()
        long_body, self.long_body = self.long_body, None
        if long_body is not None:
            long_body.stop()
        self.state = _ENDED
        if worker.access_log is not None:
            worker.access_log.add(self, outcome, now_us)
        self._as_new()
        self.down.exchange_ended()


_FAILURE_REPLIES: Final = {
    Failure.CONNECT_FAILED: replies.CONNECT_FAILED,
    Failure.CONNECT_TIMEOUT: replies.CONNECT_TIMEOUT,
    Failure.REUSED_CLOSED: replies.UPSTREAM_CLOSED,
    Failure.CLOSED_BEFORE_ANSWER: replies.UPSTREAM_CLOSED,
}
