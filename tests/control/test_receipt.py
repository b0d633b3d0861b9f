"""The receipt by value: its sums agree by construction, and `verify` finds those that do not."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from turnout.config.model import WHOLE, OnFailure
from turnout.control.evidence import Snapshot
from turnout.control.receipt import build, phases, verify
from turnout.control.switchover import State, Switchover
from turnout.proxy import scoreboard as board

AT = 1_764_000_000.25
OUTCOME_WORDS = [
    *(
        base + word
        for base in (0, board.UPSTREAM_WORDS)
        for word in range(board.U_ANSWERED, board.U_OUTCOMES_END)
    ),
    *range(board.S_PROXY, board.S_OUTCOMES_END),
]


def ended(state: State = State.COMPLETED, **changes: Any) -> Switchover:
    value = Switchover(
        id="01",
        service="shop",
        first="blue",
        second="green",
        from_upstream="blue",
        to_upstream="green",
        strategy="atomic",
        weights_before=0,
        second_weight=WHOLE,
        steps=(WHOLE,),
        pause_s=0.0,
        on_failure=OnFailure.ROLLBACK,
        check_s=5.0,
        requested_by="ci",
        reason="v42",
        created_at=AT,
        state=state,
        phases=(
            (State.PREPARING, AT + 0.1),
            (State.CHECKING, AT + 0.2),
            (State.SHIFTING, AT + 1.4),
            (State.DRAINING, AT + 1.5),
            (state, AT + 3.0),
        ),
        moved=True,
    )
    return replace(value, **changes)


def snapshot(
    words: dict[int, int], accepted: int = 0, identity: str = "1", refused: int = 0
) -> Snapshot:
    block = [0] * board.SERVICE_WORDS
    block[board.S_ACCEPTED] = accepted
    for word, count in words.items():
        block[word] = count
    return Snapshot(identity, AT, tuple(block), refused)


BLUE_200 = board.U_ANSWERED + board.CODE_INDEX[200]
GREEN_200 = board.UPSTREAM_WORDS + board.U_ANSWERED + board.CODE_INDEX[200]
GREEN_500 = board.UPSTREAM_WORDS + board.U_ANSWERED + board.CODE_INDEX[500]
GREEN_5MS = board.UPSTREAM_WORDS + board.U_LATENCY + 4
CONNECT_FAILED = board.S_RETRIES
NOT_IDEMPOTENT = board.S_NOT_RETRIED
BLUE_CUT = board.U_CUT


def test_a_receipt_says_what_was_counted_between_the_snapshots() -> None:
    before = snapshot({BLUE_200: 94, CONNECT_FAILED: 5}, accepted=100, refused=3)
    after = snapshot(
        {
            BLUE_200: 99,
            BLUE_CUT: 1,
            GREEN_200: 40,
            GREEN_500: 4,
            GREEN_5MS: 44,
            CONNECT_FAILED: 7,
            NOT_IDEMPOTENT: 1,
        },
        accepted=150,
        refused=4,
    )
    cut = [{"method": "GET", "path": "/slow", "reason": "drain_deadline"}]
    receipt = build(ended(), before, after, {"plain": 5, "sse": 1}, cut)
    assert verify(receipt) == []
    assert receipt["requests"] == {
        "accepted": 56,
        "answered_by_upstream": 49,
        "answered_by_proxy": 0,
        "client_aborted": 0,
        "cut": 1,
        "in_flight": 6,
    }
    assert receipt["in_flight_at_flip"] == {"plain": 5, "upload": 0, "sse": 1, "tunnel": 0}
    assert (receipt["refused"], receipt["retries"], receipt["not_retried"]) == (
        1,
        {"connect_failed": 2},
        {"method_not_idempotent": 1},
    )
    assert receipt["upstreams"] == {
        "blue": {"requests": 6, "errors": 0, "p50_ms": None, "p99_ms": None},
        "green": {"requests": 44, "errors": 4, "p50_ms": 4.0, "p99_ms": 4.98},
    }
    assert receipt["cut"] == cut
    assert (receipt["weights_before"], receipt["weights_after"]) == (
        {"blue": 100, "green": 0},
        {"blue": 0, "green": 100},
    )


def test_phases_are_the_states_and_how_long_they_lasted() -> None:
    assert phases(ended()) == [
        {"name": "pending", "seconds": 0.1},
        {"name": "preparing", "seconds": 0.1},
        {"name": "checking", "seconds": 1.2},
        {"name": "shifting", "seconds": 0.1},
        {"name": "draining", "seconds": 1.5},
    ]


def test_one_that_never_moved_anything_counts_nothing() -> None:
    receipt = build(ended(State.FAILED), None, snapshot({BLUE_200: 5}, accepted=7), {}, [])
    assert receipt["requests"]["accepted"] == receipt["requests"]["in_flight"] == 2
    assert verify(receipt) == []


def test_counters_that_began_anew_begin_the_window_anew_and_it_says_so() -> None:
    before = snapshot({BLUE_200: 990}, accepted=1000)
    after = snapshot({GREEN_200: 4}, accepted=5, identity="2")
    receipt = build(ended(), before, after, {}, [{"reason": "worker_died"}] * 3)
    assert receipt["window"]["counters_restarted"] is True
    assert receipt["requests"]["accepted"] == 5
    assert verify(receipt) == []


@given(
    st.lists(
        st.tuples(st.sampled_from(OUTCOME_WORDS), st.integers(0, 50), st.integers(0, 50)),
        max_size=20,
    ),
    st.integers(0, 20),
    st.integers(0, 20),
)
def test_whatever_was_counted_the_sums_agree(
    counted: list[tuple[int, int, int]], in_flight_before: int, in_flight_after: int
) -> None:
    before = [0] * board.SERVICE_WORDS
    after = [0] * board.SERVICE_WORDS
    for word, early, more in counted:
        before[word] += early
        after[word] += early + more
    ended_before = sum(before)
    ended_after = sum(after)
    before[board.S_ACCEPTED] = ended_before + in_flight_before
    after[board.S_ACCEPTED] = max(ended_after + in_flight_after, before[board.S_ACCEPTED])
    receipt = build(
        ended(), Snapshot("1", AT, tuple(before)), Snapshot("1", AT + 1, tuple(after)), {}, []
    )
    assert verify(receipt) == []


@pytest.mark.parametrize(
    ("path", "value", "wrong"),
    [
        (("requests", "accepted"), 9, "accepted is 9"),
        (("requests", "cut"), -1, "cut is -1"),
        (("refused",), -1, "refused is -1"),
        (("upstreams", "green", "requests"), 99, "the upstreams ended"),
        (("upstreams", "green", "errors"), 99, "99 errors"),
        (("cut",), [{"reason": "drain_deadline"}], "1 exchanges are named"),
    ],
)
def test_verify_finds_what_does_not_agree(path: tuple[str, ...], value: object, wrong: str) -> None:
    receipt = build(ended(), snapshot({}), snapshot({GREEN_200: 2}, accepted=2), {}, [])
    place: Any = receipt
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value
    assert any(wrong in problem for problem in verify(receipt))
