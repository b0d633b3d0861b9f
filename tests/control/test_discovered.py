"""What is used of what a source says: by value, and for any snapshots whatever."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from turnout.control.discovered import Trouble, judge, next_pause_s
from turnout.control.outer.seams import FoundServer, FoundServers

A, B, C, D = (f"10.0.0.{number}:80" for number in (1, 2, 3, 4))


def found(
    *ready: str,
    not_ready: Sequence[str] = (),
    draining: Sequence[str] = (),
    complete: bool = True,
) -> FoundServers:
    servers = [
        *(FoundServer(address, ready=True) for address in ready),
        *(FoundServer(address, ready=False) for address in not_ready),
        *(FoundServer(address, ready=True, draining=True) for address in draining),
    ]
    return FoundServers(tuple(servers), "7", complete)


def test_servers_that_are_ready_are_used_and_those_that_leave_are_not() -> None:
    judged = judge((A, B), found(B, C, not_ready=[D], draining=[A]), 10)
    assert (judged.servers, judged.trouble) == ((B, C), Trouble.NONE)


def test_those_in_use_keep_their_order_and_new_ones_come_behind() -> None:
    assert judge((C, A), found(A, B, C, D), 10).servers == (C, A, B, D)


@pytest.mark.parametrize(
    ("snapshot", "said"),
    [
        (found(), "no server: the 2 last known stay"),
        (found(not_ready=[A, B]), "2 servers, none of them ready: the 2 last known stay"),
        (found(draining=[A]), "1 servers, none of them ready"),
        (found("no address"), "1 servers, none of them ready"),
    ],
)
def test_when_none_is_ready_the_last_known_stay(snapshot: FoundServers, said: str) -> None:
    judged = judge((A, B), snapshot, 10)
    assert (judged.servers, judged.trouble) == ((A, B), Trouble.EMPTY)
    assert said in judged.detail


def test_where_nothing_was_ever_known_there_is_nothing() -> None:
    judged = judge((), found(), 10)
    assert (judged.servers, judged.trouble) == ((), Trouble.EMPTY)
    assert "503" in judged.detail


def test_a_snapshot_that_is_not_whole_adds_and_takes_nothing_away() -> None:
    judged = judge((A, B), found(C, draining=[A], complete=False), 10)
    assert (judged.servers, judged.trouble) == ((A, B, C), Trouble.INCOMPLETE)


def test_beyond_the_limit_those_in_use_go_before_others() -> None:
    judged = judge((D, C), found(A, B, C, D), 3)
    assert (judged.servers, judged.trouble) == ((D, C, A), Trouble.TOO_MANY)
    assert "limits.servers allows 3: 1 get no traffic" in judged.detail


def test_what_is_no_address_is_left_out_and_said() -> None:
    judged = judge((A,), found("nothing", B), 10)
    assert (judged.servers, judged.trouble) == ((B,), Trouble.NO_ADDRESS)
    assert "nothing" in judged.detail


def test_one_address_in_two_spellings_is_one_server() -> None:
    judged = judge((), found("[2001:DB8:0::7]:80", "[2001:db8::7]:80"), 10)
    assert judged.servers == ("[2001:db8::7]:80",)


servers = st.builds(
    FoundServer,
    st.one_of(st.sampled_from([f"10.0.0.{n}:80" for n in range(8)]), st.just("nonsense")),
    st.booleans(),
    st.booleans(),
)
snapshots = st.builds(
    FoundServers, st.lists(servers, max_size=12).map(tuple), st.just("1"), st.booleans()
)


@given(st.lists(snapshots, max_size=8), st.integers(1, 6))
def test_whatever_a_source_says(said: list[FoundServers], servers_max: int) -> None:
    known: tuple[str, ...] = ()
    for snapshot in said:
        judged = judge(known, snapshot, servers_max)
        after = judged.servers
        ready = {
            one.address
            for one in snapshot.servers
            if one.ready and not one.draining and one.address != "nonsense"
        }
        assert len(after) == len(set(after)) <= servers_max
        assert set(after) <= ready | set(known), "from nowhere"
        if known or ready:
            assert after, "an upstream was emptied"
        if not ready or not snapshot.complete:
            assert set(known) <= set(after), "a server was taken away without a word"
        if ready and snapshot.complete:
            assert set(after) <= ready, "one that left, or never was ready, is used"
            assert set(after) == ready or len(after) == servers_max
        assert bool(judged.trouble) == bool(judged.detail)
        assert judge(after, snapshot, servers_max).servers == after, "the same again moves nothing"
        known = after


def test_a_source_that_is_lost_is_tried_again_after_ever_longer() -> None:
    pauses = [1.0]
    while len(pauses) < 7:
        pauses.append(next_pause_s(pauses[-1], 30.0))
    assert pauses == [1, 2, 4, 8, 16, 30, 30]
