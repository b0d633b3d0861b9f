"""The commonest exchange, in two callbacks: what it costs is what Turnout costs.

A request without a body, for an upstream with a connection to spare, is answered by one read
of a head and a body of declared length. `begin` and `end` do for it what `downstream`,
`exchange`, `pool` and `upstream` do for every exchange, in the same order and with the same
counters, and leave everything else to them: whatever is the least bit unusual, `begin` refuses
and nothing has changed. Between the two the exchange is one as any other, so a timeout, a cut,
a retry or a client that goes away finds what it expects.

Hot, and written for it: few calls, each attribute looked up once. By the general way the same
exchange takes 1.6 times the instructions (docs/architecture.md, where the time goes).
"""

from time import monotonic_ns
from typing import TYPE_CHECKING, Final

from turnout.proxy.exchange import State
from turnout.proxy.framing import BodyKind
from turnout.proxy.head import IDEMPOTENT, NO_HEAD, RequestHead
from turnout.proxy.response_head import ResponseHead, forward_response
from turnout.proxy.routing import choose
from turnout.proxy.scoreboard import TABLE_IN_FORCE, HealthWord

if TYPE_CHECKING:
    from turnout.proxy.downstream import Downstream
    from turnout.proxy.exchange import Exchange
    from turnout.proxy.upstream import UpstreamConnection

_NO_BODY: Final = BodyKind.NONE
_UNHEALTHY: Final = HealthWord.UNHEALTHY
_ASKED: Final = State.ASKED
_ENDED: Final = State.ENDED


def begin(down: "Downstream", head: RequestHead) -> bool:
    """Send a plain request on its way; False, and nothing has changed, if it is not one."""
    worker = down.worker
    exchange = down.exchange
    serving = worker.serving
    service = serving.only
    if service is None:
        position = serving.router.find(head.host, head.path)
        if position < 0:
            return False
        service = serving.services[position]
    routing = worker.routing
    if (
        exchange is None
        or head.body is not _NO_BODY
        or not head.version_minor
        or head.method not in IDEMPOTENT
        or routing[TABLE_IN_FORCE] != down.hop_table  # which is the worker's then, too
        or down.health_path
        or down.write_paused
        or service.try_out is not None
    ):
        return False
    hop = down.hop
    if hop.trusted and head.forwarding is not None:
        return False
    word = routing[service.word_index]
    if word != service.word:
        return False
    phase = service.phase
    upstream = service.sole
    if upstream is None:
        if service.hold:
            return False
        position, phase = choose(word, phase)
        upstream = service.upstreams[position]
    pool = upstream.only
    if pool is None or not pool.idle or worker.health[pool.health_slot] == _UNHEALTHY:
        return False
    started_us = monotonic_ns() // 1000
    now_s = started_us / 1e6
    connection = pool.idle[-1]
    if connection.expires_s <= now_s:
        return False

    pool.idle.pop()
    service.phase = phase
    worker.now_s = now_s
    request_id = worker.request_id()
    exchange.head = head
    exchange.request_id = request_id
    exchange.service = service
    exchange.epoch = service.epoch
    exchange.started_us = started_us
    exchange.count_accepted_and_picked(upstream)
    exchange.pool = pool
    pool.in_flight += 1
    exchange.connection = connection
    exchange.is_plain = True
    exchange.state = _ASKED
    connection.exchange = exchange
    exchange.request_head = request_head = b"".join(
        (head.kept, hop.lines, head.authority, b"\r\nX-Request-Id: ", request_id, head.tail)
    )
    connection.transport.write(request_head)
    down.deadline_s = now_s + worker.first_byte_s
    return True


def end(
    connection: "UpstreamConnection", exchange: "Exchange", head: ResponseHead, data: bytes
) -> None:
    """Pass on a plain answer, `head.is_plain` with its whole body, and end the exchange, which
    `begin` has begun."""
    worker, down, pool = exchange.worker, exchange.down, connection.pool
    close = worker.draining or not exchange.head.keep_alive
    down.transport.write(
        forward_response(head, 1, close, exchange.request_id, worker.via, worker.date, data)
    )
    connection.exchange = exchange.connection = None
    connection.has_answered = True
    upstream_transport = connection.transport
    if (
        connection.lost
        or connection.paused
        or upstream_transport.get_write_buffer_size()
        or upstream_transport.is_closing()
    ):
        connection.keep = True
        connection.finished()
    else:
        connection.keep_alive_s = head.keep_alive_timeout_s
        pool.give_back(connection)
    pool.in_flight -= 1
    pool.answered += 1
    status = head.status
    if status >= 500 or pool.troubled:
        pool.note(status)
    now_us = monotonic_ns() // 1000
    exchange.count_answered(status, now_us)
    exchange.release()
    exchange.state = _ENDED
    if worker.access_log is not None:
        exchange.status = status
        exchange.bytes_out = len(data)
        worker.access_log.add(exchange, "answered_by_upstream", now_us)
        exchange.status = exchange.bytes_out = 0
    exchange.head = NO_HEAD
    exchange.request_head = b""
    exchange.pool = None
    exchange.is_plain = False
    if close or down.eof or down.paused or down.buffer or down.gone or down.write_paused:
        down.close_after = close
        down.exchange_ended()
    else:
        down.quiet_since_s = now_s = worker.now_s
        down.deadline_s = now_s + worker.keep_alive_s
        down.ready = True
