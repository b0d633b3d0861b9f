"""Who may come in, by the counts of all workers: exact, shared, and given back."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from turnout.config.table import LISTENERS_LIMITED_MAX
from turnout.proxy.admission import NOBODY, Admission, Door, client_words
from turnout.proxy.scoreboard import (
    CLIENT_WORDS,
    LISTENER_WORDS,
    R_CONNECTIONS,
    R_LISTENERS,
    Geometry,
    Scoreboard,
)

KEY = b"of-a-run"
SMALL = Geometry(regions=3, services=1, inflight=8)


@pytest.fixture
def board(tmp_path: Path) -> Scoreboard:
    return Scoreboard.create(tmp_path, SMALL, identity=42)


def worker(board: Scoreboard, region: int, *trusted: str) -> Admission:
    return Admission(board, region, trusted.__contains__)


def come(admission: Admission, door: Door, peer: str = "") -> str:
    return admission.refusal(door, admission.client(peer) if admission.by_client else NOBODY)


def test_a_limit_is_that_of_all_workers_together(board: Scoreboard) -> None:
    first, second = worker(board, 0), worker(board, 2)
    for one in (first, second):
        one.use(5, 0, {})
    here, there = first.door("a"), second.door("a")
    assert [come(first, here) for _ in range(3)] == [""] * 3
    assert [come(second, there) for _ in range(3)] == ["", "", "connection_limit"]
    assert come(first, here) == "connection_limit"
    second.leave(there, NOBODY)
    assert [come(first, here), come(first, here)] == ["", "connection_limit"]
    assert board.words[board.region(0) + R_CONNECTIONS] == 4


def test_a_listener_has_a_limit_of_its_own(board: Scoreboard) -> None:
    first, second = worker(board, 0), worker(board, 1)
    for one in (first, second):
        one.use(100, 0, {"b": 2})
    assert come(first, first.door("b")) == ""
    assert come(second, second.door("b")) == ""
    assert come(first, first.door("b")) == "listener_connection_limit"
    assert come(first, first.door("a")) == ""


def test_a_listeners_connections_are_counted_before_it_has_a_limit(board: Scoreboard) -> None:
    """And stay counted, wherever a new table puts its word."""
    only = worker(board, 0)
    only.use(100, 0, {"other": 9})
    door = only.door("b")
    assert [come(only, door), come(only, door), come(only, only.door("other"))] == [""] * 3
    only.use(100, 0, {"b": 3, "other": 2})
    assert come(only, door) == ""
    assert come(only, door) == "listener_connection_limit"
    assert come(only, only.door("other")) == ""
    only.use(100, 0, {"other": 2, "b": 3})
    assert come(only, door) == "listener_connection_limit"
    only.leave(door, NOBODY)
    assert come(only, door) == ""
    only.use(100, 0, {})
    assert list(board.words[R_LISTENERS + board.region(0) :][:LISTENER_WORDS]) == [0] * 16


def test_every_listener_with_a_limit_has_a_word() -> None:
    assert LISTENERS_LIMITED_MAX == LISTENER_WORDS


def test_a_client_has_a_limit_over_all_workers_and_others_come_in(board: Scoreboard) -> None:
    workers = [worker(board, region, "10.0.0.9") for region in range(3)]
    for one in workers:
        one.use(1000, 6, {"a": 500})
    came = [come(one, one.door("a"), "10.0.0.1") for one in workers for _ in range(3)]
    assert came == [""] * 6 + ["client_connection_limit"] * 3
    assert [come(workers[0], workers[0].door("a"), "10.0.0.2") for _ in range(6)] == [""] * 6
    assert come(workers[0], workers[0].door("a"), "::ffff:10.0.0.1") == "client_connection_limit"
    # Who speaks for many, and who comes by a Unix socket, which has no address.
    for peer in ("10.0.0.9", ""):
        assert [come(workers[1], workers[1].door("a"), peer) for _ in range(20)] == [""] * 20
    workers[1].leave(workers[1].door("a"), workers[1].client("10.0.0.1"))
    assert come(workers[0], workers[0].door("a"), "10.0.0.1") == ""


def test_a_dead_workers_connections_are_nobodys(board: Scoreboard) -> None:
    dead, alive = worker(board, 0), worker(board, 1)
    for one in (dead, alive):
        one.use(1000, 3, {"a": 3})
    for _ in range(3):
        assert come(dead, dead.door("a"), "10.0.0.1") == ""
    assert come(alive, alive.door("a"), "10.0.0.1") == "listener_connection_limit"
    board.settle(0)
    for _ in range(3):
        assert come(alive, alive.door("a"), "10.0.0.1") == ""


@given(
    st.lists(
        st.tuples(
            st.integers(0, 1),
            st.sampled_from(["10.0.0.1", "10.0.0.2", "2001:db8::1"]),
            st.sampled_from("ab"),
            st.booleans(),
        ),
        max_size=80,
    )
)
@settings(max_examples=60)
def test_what_has_gone_is_counted_no_more(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[int, str, str, bool]]
) -> None:
    """Whatever comes and goes: when all have gone, every word is 0 again."""
    board = Scoreboard.create(tmp_path_factory.mktemp("board"), SMALL, identity=7)
    workers = [worker(board, region) for region in range(2)]
    for one in workers:
        one.use(9, 4, {"a": 5})
    inside: list[tuple[int, str, str]] = []
    for at, peer, bind, leaves in steps:
        one = workers[at]
        if leaves and (at, peer, bind) in inside:
            inside.remove((at, peer, bind))
            one.leave(one.door(bind), one.client(peer))
            continue
        same_client = sum(other == peer for _, other, _ in inside)
        at_a = sum(other == "a" for _, _, other in inside)
        reason = come(one, one.door(bind), peer)
        if len(inside) >= 9:
            assert reason == "connection_limit"
        elif bind == "a" and at_a >= 5:
            assert reason == "listener_connection_limit"
        elif same_client >= 4:
            assert reason == "client_connection_limit"
        else:
            assert reason == ""
            inside.append((at, peer, bind))
    for at, peer, bind in inside:
        workers[at].leave(workers[at].door(bind), workers[at].client(peer))
    for region in range(2):
        base, clients = board.region(region), board.clients(region)
        assert board.words[base + R_CONNECTIONS] == 0
        assert not any(board.words[base + R_LISTENERS : base + R_LISTENERS + LISTENER_WORDS])
        assert not any(board.words[clients : clients + CLIENT_WORDS])
    board.memory.close()


def test_a_client_of_ipv6_is_a_64() -> None:
    one = client_words("2001:db8:1:2::1", KEY)
    assert client_words("2001:db8:1:2:ffff:ffff:ffff:ffff", KEY) == one
    assert client_words("2001:db8:1:3::1", KEY) != one
    assert client_words("fe80::1%eth0", KEY) == client_words("fe80::2", KEY)


def test_whose_words_one_shares_cannot_be_chosen() -> None:
    assert client_words("10.0.0.1", KEY) != client_words("10.0.0.1", b"another!")


def test_few_clients_share_both_words() -> None:
    """So that one who opens many connections hardly ever keeps another one out."""
    words = {client_words(f"10.{a}.{b}.1", KEY) for a in range(10) for b in range(100)}
    assert len(words) >= 998
