"""What is sent again, where, and what is not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from turnout.proxy.retry import (
    Answer,
    Attempt,
    Budget,
    Failure,
    Retry,
    decide,
)
from turnout.proxy.scoreboard import NOT_RETRIED_REASONS, RETRY_REASONS

WINDOW_S, FLOOR = 10, 100
"""A budget's own defaults."""
CONNECTING = (Failure.CONNECT_FAILED, Failure.CONNECT_TIMEOUT)


def attempt(
    failure: Failure,
    *,
    idempotent: bool = True,
    replayable: bool = True,
    other_servers: int = 1,
    retries: int = 0,
    written: bool = True,
    response_started: bool = False,
    client_gone: bool = False,
) -> Attempt:
    return Attempt(
        failure=failure,
        idempotent=idempotent,
        replayable=replayable,
        other_servers=other_servers,
        retries=retries,
        written=written and failure not in CONNECTING,
        response_started=response_started,
        client_gone=client_gone,
    )


def decided(failed: Attempt, *, attempts_max: int = 2, fraction: float = 0.2) -> Retry | Answer:
    return decide(
        failed, attempts_max=attempts_max, budget=Budget(fraction), now_s=0.0, requests_total=1
    )


@pytest.mark.parametrize(
    ("failed", "decision"),
    [
        (attempt(Failure.CONNECT_FAILED), Retry("connect_failed", elsewhere=True)),
        (attempt(Failure.CONNECT_TIMEOUT), Retry("connect_timeout", elsewhere=True)),
        # Nothing was sent, so it may be a POST, and its body need not be held.
        (
            attempt(Failure.CONNECT_FAILED, idempotent=False, replayable=False),
            Retry("connect_failed", elsewhere=True),
        ),
        (
            attempt(Failure.REUSED_CLOSED),
            Retry("reused_connection_closed", elsewhere=False),
        ),
        # The same server again, so that it needs no other.
        (
            attempt(Failure.REUSED_CLOSED, other_servers=0),
            Retry("reused_connection_closed", elsewhere=False),
        ),
        (
            attempt(Failure.REUSED_CLOSED, idempotent=False, replayable=False, written=False),
            Retry("reused_connection_closed", elsewhere=False),
        ),
        (attempt(Failure.REUSED_CLOSED, idempotent=False), Answer("method_not_idempotent")),
        (attempt(Failure.REUSED_CLOSED, replayable=False), Answer("body_not_replayable")),
        (attempt(Failure.CONNECT_FAILED, other_servers=0), Answer("no_other_server")),
        (attempt(Failure.CONNECT_FAILED, retries=2), Answer("attempts_exhausted")),
        (attempt(Failure.REUSED_CLOSED, retries=2), Answer("attempts_exhausted")),
        (attempt(Failure.CLOSED_BEFORE_ANSWER), Answer("attempts_exhausted")),
        (
            attempt(Failure.CLOSED_BEFORE_ANSWER, idempotent=False),
            Answer("method_not_idempotent"),
        ),
        (attempt(Failure.REUSED_CLOSED, response_started=True), Answer("response_started")),
        (attempt(Failure.CONNECT_FAILED, client_gone=True), Answer("client_gone")),
    ],
)
def test_what_becomes_of_a_failed_attempt(failed: Attempt, decision: Retry | Answer) -> None:
    assert decided(failed) == decision


def test_retries_can_be_off_in_two_ways() -> None:
    failed = attempt(Failure.CONNECT_FAILED)
    assert decided(failed, attempts_max=0) == Answer("retries_off")
    assert decided(failed, fraction=0.0) == Answer("retries_off")


attempts = st.builds(
    attempt,
    st.sampled_from(Failure),
    idempotent=st.booleans(),
    replayable=st.booleans(),
    other_servers=st.integers(0, 2),
    retries=st.integers(0, 3),
    written=st.booleans(),
    response_started=st.booleans(),
    client_gone=st.booleans(),
)


@given(attempts, st.integers(0, 3))
def test_a_request_that_is_not_idempotent_is_never_sent_twice(
    failed: Attempt, attempts_max: int
) -> None:
    decision = decided(failed, attempts_max=attempts_max)
    if isinstance(decision, Retry):
        assert failed.idempotent or not failed.written
        assert failed.replayable or not failed.written
        assert not failed.response_started and not failed.client_gone
        assert failed.retries < attempts_max
        assert failed.other_servers or not decision.elsewhere
        assert decision.reason in RETRY_REASONS
    else:
        assert decision.reason in NOT_RETRIED_REASONS


# ---------------------------------------------------------------- budget


def test_an_exhausted_budget_is_the_reason_and_a_refusal_spends_nothing() -> None:
    budget = Budget(0.2)

    def one(failed: Attempt) -> Retry | Answer:
        return decide(failed, attempts_max=2, budget=budget, now_s=5.0, requests_total=50)

    for _ in range(FLOOR):
        assert one(attempt(Failure.CONNECT_FAILED, other_servers=0)) == Answer("no_other_server")
    for _ in range(FLOOR):
        assert isinstance(one(attempt(Failure.CONNECT_FAILED)), Retry)
    assert one(attempt(Failure.CONNECT_FAILED)) == Answer("budget_exhausted")


def test_the_floor_is_free_and_comes_back_with_the_window() -> None:
    budget = Budget(0.2)
    assert [budget.spend(0.0, 0) for _ in range(FLOOR + 1)].count(True) == FLOOR
    assert not budget.spend(WINDOW_S - 0.1, 0)
    assert budget.spend(WINDOW_S + 1.0, 0)


def test_a_busy_service_may_retry_its_share() -> None:
    budget = Budget(0.2)
    assert budget.spend(0.0, 1_000_000)  # a counter that did not begin at 0: no share yet
    spent = sum(budget.spend(5.0, 1_010_000) for _ in range(3000))
    assert spent == 2000 - 1


def test_no_budget_means_no_retry_at_all() -> None:
    assert not Budget(0.0).spend(0.0, 1000)


def test_window_and_floor_are_the_callers() -> None:
    budget = Budget(0.5, window_s=2.0, floor=3)
    assert [budget.spend(0.0, 0) for _ in range(5)].count(True) == 3
    assert not budget.spend(1.9, 0)
    assert [budget.spend(3.1, 0) for _ in range(5)].count(True) == 3
    none = Budget(0.5, floor=0)
    assert not none.spend(0.0, 0)
    assert [none.spend(1.0, 10) for _ in range(9)].count(True) == 5


def test_requests_of_long_ago_do_not_count() -> None:
    budget = Budget(0.2)
    budget.spend(0.0, 0)
    # 100,000 requests in 1,000 s are 1,000 in a window of 10 s: 200 retries, not 20,000.
    assert sum(budget.spend(1000.0, 100_000) for _ in range(1000)) == 200


@given(
    st.lists(st.tuples(st.floats(0.0, 3.0), st.integers(0, 400), st.integers(0, 150)), max_size=30)
)
def test_no_window_holds_more_retries_than_its_share(
    steps: list[tuple[float, int, int]],
) -> None:
    """Each step: time passes, requests come in, retries are asked for."""
    budget = Budget(0.2)
    now_s, total = 0.0, 0
    history: list[tuple[float, int, int]] = []
    for passed_s, requests, asked in steps:
        now_s += passed_s
        total += requests
        granted = sum(budget.spend(now_s, total) for _ in range(asked))
        history.append((now_s, requests, granted))
        # Marks are a second wide, so a window's edge is known to a second.
        inside = [entry for entry in history if entry[0] > now_s - WINDOW_S + 1]
        around = [entry for entry in history if entry[0] >= now_s - 2 * WINDOW_S - 4]
        allowed = max(FLOOR, 0.2 * sum(entry[1] for entry in around))
        assert sum(entry[2] for entry in inside) <= allowed
    assert len(budget._marks) <= WINDOW_S + 2
