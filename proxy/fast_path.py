"""The commonest exchange, in two callbacks and a flush: what it costs is what Turnout costs.

A request that has come whole, for an upstream with a connection to spare, is answered by one
read of a head and a body of declared length. `begin` and `end` do for it what `downstream`,
`exchange`, `pool` and `upstream` do for every exchange, in the same order and with the same
counters, and leave everything else to them: whatever is the least bit unusual they refuse, and
nothing has changed. Between the two the exchange is one as any other, so a timeout, a cut,
a retry or a client that goes away finds what it expects. What both have to write is put aside
and written at the end of the loop's turn (`flush`); only then has an exchange been answered.

Hot, and written for it: few calls, each attribute looked up once. By the general way the same
exchange takes nearly twice the instructions (docs/architecture.md, where the time goes).
"""

from bisect import bisect_left
from time import monotonic_ns
from typing import TYPE_CHECKING, Final

from turnout.proxy.account import NO_SLOT
from turnout.proxy.exchange import Exchange, State
from turnout.proxy.head import IDEMPOTENT, NO_HEAD
from turnout.proxy.plain_head import read_plain_answer, read_plain_request
from turnout.proxy.response_head import has_date
from turnout.proxy.routing import choose
from turnout.proxy.scoreboard import (
    CODE_INDEX,
    LATENCY_BOUNDS_US,
    METHOD_INDEX,
    OTHER_METHOD,
    TABLE_IN_FORCE,
    U_ANSWERED,
    U_LATENCY,
    U_LATENCY_SUM_US,
    U_PICKED,
    WORD,
    ExchangeClass,
    HealthWord,
    pack_inflight,
    write_inflight,
)

if TYPE_CHECKING:
    from turnout.proxy.downstream import Downstream
    from turnout.proxy.upstream import UpstreamConnection
    from turnout.proxy.worker_core import Worker

WRITE_APART_BYTES: Final = 16 * 1024
"""What comes of a body with its head is not copied to be joined to it, from this length on."""

MARKS: Final = {
    method: pack_inflight(0, 0, ExchangeClass.PLAIN, index)
    for method, index in METHOD_INDEX.items()
}
OTHER_MARK: Final = pack_inflight(0, 0, ExchangeClass.PLAIN, OTHER_METHOD)
"""The method as it stands in word 0 of the in-flight slot of a plain exchange."""

_WRITTEN: Final = b"written"
"""In the place of an answer that is put aside: it has left already, and is to be counted."""
_UNHEALTHY: Final = HealthWord.UNHEALTHY
_ASKED: Final = State.ASKED
_ENDED: Final = State.ENDED


def begin(down: "Downstream", data: bytes, end: int) -> bool:
    """Send the request whose head is `data[:end]` and whose body is the rest, mostly none, on
    its way; False if it is not a plain one."""
    worker = down.worker
    exchange = down.exchange
    routing = worker.routing
    table_number = worker.table_number
    if routing[TABLE_IN_FORCE] != table_number or down.health_path or down.write_paused:
        return False
    if exchange is None:
        exchange = down.exchange = Exchange(down)
    if down.hop_table != table_number:
        down.look_at_peer()
    plain = read_plain_request(data, end, worker.fields_max)
    if plain is None:
        return False
    method, path, host, authority, kept, _, size = plain
    serving = worker.serving
    service = serving.only
    if service is None:
        position = serving.router.find(host, path)
        if position < 0:
            return False
        service = serving.services[position]
    if routing[service.word_index] != service.word or service.try_out is not None:
        return False
    phase = service.phase
    upstream = service.sole
    if upstream is None:
        if service.hold:
            return False
        position, phase = choose(service.word, phase)
        upstream = service.upstreams[position]
    pool = upstream.only
    if (
        pool is None
        or not pool.idle
        or worker.health[pool.health_slot] == _UNHEALTHY
        or method == b"HEAD"
        or size > worker.body_bytes_max
    ):
        return False
    idempotent = method in IDEMPOTENT
    started_us = monotonic_ns() // 1000
    worker.now_s = now_s = started_us / 1e6
    connection = pool.idle[-1]
    if connection.expires_s <= now_s:
        return False
    if not idempotent and (not size or pool.kept_from(exchange)):
        return False
    if size and pool.has_input(connection):
        return False  # as `Exchange._attempt` has it

    pool.idle.pop()
    service.phase = phase
    worker.ids_given = number = worker.ids_given + 1
    request_id = b"%b%x" % (worker.id_prefix, number)
    exchange.plain = plain
    exchange.request_id = request_id
    exchange.service = service
    exchange.upstream = upstream
    exchange.epoch = service.epoch
    exchange.started_us = started_us
    # As `Account.count_accepted` and `count_picked`, with one mark for both.
    words = worker.words
    free = worker.free_inflight
    if free:
        exchange.inflight = inflight = free.pop()
        mark = upstream.mark | MARKS.get(method, OTHER_MARK)
        write_inflight(worker.octets, inflight * WORD, mark, started_us, path)
    else:
        exchange.inflight = NO_SLOT
    words[service.accepted] += 1
    words[upstream.base] += 1  # U_PICKED
    exchange.pool = pool
    pool.in_flight += 1
    exchange.connection = connection
    exchange.state = _ASKED
    connection.exchange = exchange
    exchange.request_head = b"".join(
        (kept, down.hop.lines, authority, b"\r\nX-Request-Id: ", request_id, b"\r\n\r\n")
    )
    if size:
        # Written now: the less time between that look at the socket and this, the better.
        body = data[end:]
        exchange.idempotent = idempotent
        exchange.replayable = size <= worker.replay_bytes
        exchange.bytes_in = exchange.stash_bytes = size
        exchange.stash = [body] if exchange.replayable else ()
        connection.write(exchange.request_head + body)
    else:
        connection.is_put_aside = True
        if not worker.asked and not worker.answers:
            worker.loop.call_soon(worker.flush)
        worker.asked.append(connection)
    down.deadline_s = now_s + worker.first_byte_s
    return True


def end(connection: "UpstreamConnection", exchange: "Exchange", data: bytes) -> bool:
    """Pass `data` on if it is a whole plain answer, and end the exchange, which `begin` has
    begun; False if it is not one."""
    worker, down, pool = exchange.worker, exchange.down, connection.pool
    end = data.find(b"\r\n\r\n") + 4
    if end < 4 or end > worker.response_header_bytes:
        return False
    plain = read_plain_answer(data, end, worker.fields_max)
    if plain is None or connection.lost or connection.paused or worker.draining:
        return False
    status, size, kept = plain
    request = exchange.plain
    assert request is not None
    request_id = exchange.request_id
    keep_alive = request[5]
    via_line = worker.via_line if keep_alive else worker.via_close_line
    date = b"" if b"\r\nDate:" in kept or has_date(kept) else worker.date_line
    connection.exchange = exchange.connection = None
    connection.has_answered = True
    transport = connection.transport
    idle = pool.idle
    if transport.get_write_buffer_size() or transport.is_closing():
        connection.finished()
    elif pool.waiting or pool.retired or len(idle) >= pool.idle_max or pool.idle_s <= 0:
        connection.keep_alive_s = None
        pool.give_back(connection)
    else:
        connection.expires_s = worker.now_s + pool.idle_s
        idle.append(connection)
    pool.answered += 1
    if status >= 500 or pool.troubled:
        pool.note(status)
    exchange.status = status
    exchange.bytes_out = size
    if size < WRITE_APART_BYTES:
        exchange.answer_put_aside = b"".join((kept, date, via_line, request_id, data[end - 4 :]))
    else:
        lines = b"".join((kept, date, via_line, request_id))
        down.write_apart(lines, memoryview(data)[end - 4 :])
        exchange.answer_put_aside = _WRITTEN
    if not worker.asked and not worker.answers:
        worker.loop.call_soon(worker.flush)
    worker.answers.append(exchange)
    return True


def flush(worker: "Worker") -> None:
    """Write what the callbacks of one turn of the loop have put aside: requests, then answers,
    whose exchanges end with that. Whatever has ended otherwise meanwhile is passed over.

    Hot: written one after the other, and not each in the midst of parsing, these cost a tenth
    less: the kernel's code and ours take turns in the caches once, not 64 times, and who reads
    at the other end of the sockets is woken once, not for each. What is under way is taken from
    the lists first, so that a mistake in it does not come round again.
    """
    asked = worker.asked
    while asked:
        connection = asked.pop()
        asking = connection.exchange
        if asking is not None and connection.is_put_aside:
            connection.is_put_aside = False
            connection.transport.write(asking.request_head)
    answers = worker.answers
    if not answers:
        return
    words, free, log = worker.words, worker.free_inflight, worker.access_log
    now_us = monotonic_ns() // 1000
    worker.now_s = now_s = now_us / 1e6
    keep_alive_until_s = now_s + worker.keep_alive_s
    while answers:
        exchange = answers.pop()
        answer = exchange.answer_put_aside
        if not answer:
            continue
        down, pool = exchange.down, exchange.pool
        request, upstream = exchange.plain, exchange.upstream
        assert request is not None and upstream is not None and pool is not None
        if answer is not _WRITTEN:
            down.transport.write(answer)
        exchange.answer_put_aside = b""
        pool.in_flight -= 1
        # As `Account.count_answered` and `release`.
        base = upstream.base
        duration_us = now_us - exchange.started_us
        words[base + U_LATENCY + bisect_left(LATENCY_BOUNDS_US, duration_us)] += 1
        words[base + U_LATENCY_SUM_US] += duration_us
        words[base + U_ANSWERED + CODE_INDEX[exchange.status]] += 1
        inflight = exchange.inflight
        if inflight != NO_SLOT:
            words[inflight] = 0
            free.append(inflight)
            exchange.inflight = NO_SLOT
        exchange.state = _ENDED
        if log is not None:
            log.add(exchange, "answered_by_upstream", now_us)
        exchange.status = exchange.bytes_out = 0
        if exchange.stash_bytes:
            exchange.bytes_in = exchange.stash_bytes = 0
            exchange.stash = ()
            exchange.idempotent = exchange.replayable = True
        exchange._head = NO_HEAD
        exchange.plain = None
        exchange.request_head = b""
        exchange.upstream = exchange.pool = None
        down.has_asked = True
        if down.eof or down.paused or down.buffer or down.gone or down.write_paused:
            down.close_after = not request[5]
            down.exchange_ended()
        elif not request[5]:
            down.close_as_asked()
        else:
            down.quiet_since_s = now_s
            down.deadline_s = keep_alive_until_s
            down.ready = True


assert U_PICKED == 0, "begin() counts it at the block's first word"
