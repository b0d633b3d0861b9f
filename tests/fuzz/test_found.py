"""What the fuzzer has found, by value: each of these was wrong once."""

from collections.abc import Iterator

import pytest

from tests.fuzz import readers
from tests.fuzz.drive import Servers
from tests.fuzz.world import TIGHT, World, world
from turnout.config.table import TablePool

ONE_CONNECTION = TablePool(idle_timeout_s=1e6, connections_max=1)


def post(path: bytes) -> bytes:
    return b"POST %b HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi" % path


def begin(at: World) -> Iterator[World]:
    with at.loop.running():
        at.begin()
        yield at
        at.end()
        assert at.left_over() == []


@pytest.fixture
def at() -> Iterator[World]:
    with world(TIGHT) as found:
        yield from begin(found)


@pytest.fixture
def narrow() -> Iterator[World]:
    """At most one connection to the server."""
    with world(TIGHT, pool=ONE_CONNECTION) as found:
        yield from begin(found)


def test_a_connection_that_was_asked_for_by_one_request_is_not_taken_for_the_nexts(
    narrow: World,
) -> None:
    """The first one's time is over in the turn in which its connection is asked for, and the one
    behind it waits in the queue: there it is found once, and sent once."""
    client, servers = narrow.client(), Servers(narrow)
    client.wire.deliver(post(b"/first") + post(b"/second"))
    client.down.deadline_passed()
    narrow.loop.settle()
    servers.answer_all()
    assert [one.start[1] for one in servers.requests] == [b"/second"]
    client.wire.deliver(post(b"/third"))
    narrow.loop.settle()
    servers.answer_all()
    assert [one.start[1] for one in servers.requests] == [b"/second", b"/third"]
    assert client.wire.sent.count(b"X-Asked: ") == 2
    pool = narrow.pools[0]
    assert (pool.in_flight, len(pool.waiting), len(pool.idle)) == (0, 0, 1)


@pytest.mark.parametrize("when", ["its time is over", "its body never comes"])
def test_an_answer_ended_by_close_that_is_given_up_for_a_client_that_closed_its_half_looks_cut(
    at: World, when: str
) -> None:
    """It may read on: a clean end would be that of the whole answer."""
    client = at.client()
    head = b"PUT / HTTP/1.0\r\nHost: a\r\nContent-Length: 5\r\n\r\n"
    client.wire.deliver(head if when == "its body never comes" else head + b"hello")
    at.loop.settle()
    if when == "its time is over":
        client.wire.deliver_eof()
    at.servers[0].deliver(b"HTTP/1.1 200 OK\r\n\r\nhalf of it")
    answer = readers.read_answer(bytes(client.wire.sent), b"PUT", ended=False)
    assert answer is not None and answer.body == b"half of it"
    if when == "its time is over":
        client.down.deadline_passed()
    else:
        client.wire.deliver_eof()
    at.loop.settle()
    assert client.wire.aborted and client.wire.resets


@pytest.mark.parametrize("size", [1, 7, 5000])
def test_a_body_that_is_too_long_and_malformed_behind_that_is_too_long_however_it_comes(
    at: World, size: int
) -> None:
    client = at.client()
    limit = at.worker.table.limits.body_bytes
    data = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b!!" % (
        limit + 1, b"x" * (limit + 1)
    )  # fmt: skip
    for place in range(0, len(data), size):
        if client.wire.reading:
            client.wire.deliver(data[place : place + size])
            at.loop.settle()
    assert client.wire.sent.startswith(b"HTTP/1.1 413 ")


def test_a_slow_clients_last_answer_is_waited_for_while_it_reads_and_then_looks_cut(
    at: World,
) -> None:
    """Also with less to write than what pauses the server."""
    client = at.client()
    client.wire.deliver(b"GET / HTTP/1.0\r\nHost: a\r\n\r\n")
    at.loop.settle()
    client.wire.takes = False
    at.servers[0].deliver(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 300)
    at.servers[0].deliver_eof()
    at.loop.settle()
    client.wire.takes_some(200)
    client.down.deadline_passed()
    at.loop.settle()
    assert client.wire.sent and not client.wire.aborted
    client.down.deadline_passed()
    at.loop.settle()
    assert client.wire.resets and client.wire.aborted
    assert not client.wire.sent.endswith(b"x" * 300)


@pytest.mark.parametrize("all_taken", [False, True])
def test_what_a_client_has_not_taken_when_its_worker_ends_looks_cut(
    at: World, all_taken: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer that ends by close has ended, but not yet for the client."""
    worker, client = at.worker, at.client()
    client.wire.deliver(b"GET / HTTP/1.0\r\nHost: a\r\n\r\n")
    at.loop.settle()
    client.wire.takes = False
    at.servers[0].deliver(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 300)
    at.servers[0].deliver_eof()
    at.loop.settle()
    if all_taken:
        client.wire.drain()
    else:
        client.wire.takes_some(200)
    gone: list[bool] = []
    monkeypatch.setattr(worker, "_go", lambda: gone.append(True))
    monkeypatch.setattr(worker, "leave_at_s", worker.now_s)
    worker._leave()
    at.loop.settle()
    whole = client.wire.sent.endswith(b"x" * 300)
    assert gone == [True] and whole is all_taken
    assert (client.wire.resets and client.wire.aborted) is not whole
