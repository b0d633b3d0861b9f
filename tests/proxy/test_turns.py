"""What comes in which turn of the loop: pieces of a head, and what meets an answer in its turn."""

import asyncio
import re
from collections.abc import Iterator

import pytest
import uvloop

from benchmarks import hot_path
from turnout.proxy.commands import RetireServers
from turnout.proxy.downstream import Downstream
from turnout.proxy.exchange import State
from turnout.proxy.scoreboard import U_ANSWERED, U_CUT, U_OUTCOMES_END

HEAD, ANSWER = hot_path.request(0), hot_path.answer(0)


class Transport(hot_path.Transport):
    """Keeps all that is written."""

    def __init__(self) -> None:
        super().__init__()
        self.all = b""

    def write(self, data: bytes) -> None:
        self.all += data

    def resume_reading(self) -> None:
        pass

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        pass


@pytest.fixture
def at() -> Iterator[hot_path.Bench]:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:

        async def enter() -> hot_path.Bench:
            return bench.__enter__()

        bench = hot_path.bench()
        yield runner.run(enter())
        bench.__exit__(None, None, None)


def test_a_head_may_come_in_two_pieces_of_any_size(at: hot_path.Bench) -> None:
    down, up, before = Transport(), Transport(), at.up.transport
    at.down.transport = down  # type: ignore[assignment]
    at.up.transport = up  # type: ignore[assignment]
    for size in range(1, len(HEAD)):
        at.down.data_received(HEAD[:size])
        assert (down.all, up.all) == (b"", b""), f"{size} bytes"
        at.down.data_received(HEAD[size:])
        at.worker.flush()
        assert up.all.startswith(HEAD[:-2]), f"{size} bytes"
        at.up.data_received(ANSWER)
        at.worker.flush()
        assert down.all.startswith(b"HTTP/1.1 200 OK\r\n"), f"{size} bytes"
        down.all = up.all = b""
    before.close()  # its descriptor is the connection's


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"BREW / HTTP/1.1\r\nHost: a\n\n\r\n\r\n", 400),
        (b"GET / HTTP/2.0\r\nHost: a\n\n\r\n\r\n", 400),
        (b"\x00ET / HTTP/2.0\r\nHost: a\r\n\r\n", 400),
        (b"\xffET / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET / HTTP/1.1\nHost: a\n\n" + b"a" * 40_000 + b"\r\n\r\n", 400),
        (b"BREW / HTTP/1.1\r\nHost: a\r\n\r\n", 501),
        (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505),
    ],
)
def test_a_head_is_refused_in_the_same_words_however_it_comes(
    at: hot_path.Bench, head: bytes, status: int
) -> None:
    answers = set()
    for size in (len(head), 1, 2, 7):
        transport = Transport()
        down = Downstream(at.worker, at.worker.admission.door("-"), b"")
        down.connection_made(transport)  # type: ignore[arg-type]
        for place in range(0, len(head), size):
            down.data_received(head[place : place + size])
        answers.add(re.sub(rb"X-Request-Id: .*", b"", transport.all))
        transport.close()
    assert len(answers) == 1, answers
    assert answers.pop().startswith(b"HTTP/1.1 %d " % status)


@pytest.mark.parametrize("lines", [1, 2, 3, 8])
def test_empty_lines_before_a_request_are_passed_over_however_they_come(
    at: hot_path.Bench, lines: int
) -> None:
    data = b"\r\n" * lines + HEAD
    up, before = Transport(), at.up.transport
    at.up.transport = up  # type: ignore[assignment]
    for size in (len(data), 1, 2, 3, 4, 5):
        up.all = b""
        for place in range(0, len(data), size):
            at.down.data_received(data[place : place + size])
        at.worker.flush()
        assert up.all.startswith(HEAD[:-2]), f"{size} bytes"
        at.up.data_received(ANSWER)
        at.worker.flush()
    before.close()


def test_an_answer_of_the_turn_in_which_its_server_is_retired_is_the_only_one(
    at: hot_path.Bench,
) -> None:
    down = Transport()
    at.down.transport = down  # type: ignore[assignment]
    at.up.transport = Transport()  # type: ignore[assignment]
    at.down.data_received(HEAD)
    at.worker.flush()
    at.up.data_received(ANSWER)
    exchange = at.down.exchange
    assert exchange is not None and exchange.state is State.ASKED, "its answer is put aside"
    base = at.worker.serving.services[0].upstreams[0].base
    words = at.worker.words
    outcomes = range(base + U_ANSWERED, base + U_OUTCOMES_END)
    before = sum(words[index] for index in outcomes)
    retire = at.worker._retire(RetireServers(1, 1, 0, [at.up.pool.endpoint], 0.0))
    with pytest.raises(StopIteration):
        retire.send(None)
    at.worker.flush()
    assert down.all.count(b"HTTP/1.1 ") == 1
    assert sum(words[index] for index in outcomes) == before + 1
    assert not words[base + U_CUT]
