"""The decider by value: what may move, and when it must go back."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from turnout.config.model import ErrorLimit, OnFailure
from turnout.control.decider import (
    GATES,
    GiveUp,
    GoOn,
    Refuse,
    RollBack,
    Situation,
    Wait,
    may_return,
    may_rise,
    may_start,
    watch,
)
from turnout.control.evidence import Evidence
from turnout.control.health import UpstreamHealth
from turnout.proxy.scoreboard import HealthWord

LIMIT = ErrorLimit(rate_fraction=0.1, requests_min=50, window_s=10.0)


def upstream(state: HealthWord, name: str = "green") -> UpstreamHealth:
    reason = "" if state is HealthWord.HEALTHY else f"{name} is {state.name.lower()}"
    return UpstreamHealth(name, state, reason, 0, 1)


WELL, SICK, NEW = (
    upstream(state) for state in (HealthWord.HEALTHY, HealthWord.UNHEALTHY, HealthWord.UNKNOWN)
)
BLUE_WELL, BLUE_SICK, BLUE_NEW = (
    upstream(state, "blue")
    for state in (HealthWord.HEALTHY, HealthWord.UNHEALTHY, HealthWord.UNKNOWN)
)


@pytest.mark.parametrize(
    ("target", "wait_healthy_s", "forced", "verdict"),
    [
        (WELL, 0.0, False, GoOn()),
        (SICK, 0.0, False, Refuse("green is unhealthy")),
        (SICK, 60.0, False, Wait("green is unhealthy")),
        (NEW, 0.0, False, Wait("green is unknown")),
        (SICK, 0.0, True, GoOn()),
    ],
)
def test_who_may_start(
    target: UpstreamHealth, wait_healthy_s: float, forced: bool, verdict: object
) -> None:
    assert may_start(target, wait_healthy_s, forced) == verdict


@pytest.mark.parametrize(
    ("target", "until", "verdict"),
    [
        (WELL, 5.0, GoOn()),
        (SICK, 11.0, Wait("green is unhealthy")),
        (SICK, 10.0, Refuse("green is unhealthy")),
        (NEW, 10.0, Refuse("green is unknown")),
        (SICK, None, Refuse("green is unhealthy")),
        (NEW, None, Wait("green is unknown")),
    ],
)
def test_when_weight_may_rise(target: UpstreamHealth, until: float | None, verdict: object) -> None:
    assert may_rise(target, 10.0, until, forced=False) == verdict
    assert may_rise(target, 10.0, until, forced=True) == GoOn()


@pytest.mark.parametrize(
    ("back", "verdict"),
    [
        ([], GoOn()),
        ([BLUE_WELL], GoOn()),
        ([BLUE_SICK], Refuse("blue is unhealthy")),
        ([BLUE_NEW], Wait("blue is unknown")),
    ],
)
def test_no_rollback_goes_to_the_sick(back: list[UpstreamHealth], verdict: object) -> None:
    assert may_return(back, forced=False) == verdict
    assert may_return(back, forced=True) == GoOn()


def judged(target: UpstreamHealth = WELL, **changes: Any) -> object:
    evidence = Evidence(changes.pop("requests", 0), changes.pop("errors", 0), None, None, 10.0)
    situation = Situation(target, evidence, changes.pop("limit", LIMIT))
    given_: dict[str, Any] = {
        "back": [BLUE_WELL],
        "on_failure": OnFailure.ROLLBACK,
        "forced": False,
        **changes,
    }
    return watch(situation, **given_)


def test_a_target_that_is_well_stays() -> None:
    assert judged() == GoOn()
    assert judged(NEW) == GoOn()  # it got new servers; nothing speaks against them


def test_a_target_that_turns_unhealthy_is_left() -> None:
    assert judged(SICK) == RollBack("green is unhealthy")


@pytest.mark.parametrize(
    ("requests", "errors", "left"),
    [(49, 49, False), (50, 5, False), (50, 6, True), (1000, 101, True), (0, 0, False)],
)
def test_a_target_is_left_for_more_errors_than_the_limit_of_enough_requests(
    requests: int, errors: int, left: bool
) -> None:
    verdict = judged(requests=requests, errors=errors)
    assert isinstance(verdict, RollBack if left else GoOn)
    assert judged(requests=requests, errors=errors, limit=None) == GoOn()


def test_the_reason_has_the_numbers() -> None:
    assert judged(requests=100, errors=20) == RollBack(
        "20 of 100 requests to green failed (20.0% > 10.0%)"
    )


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({"back": [BLUE_SICK]}, GiveUp("green is unhealthy; no way back: blue is unhealthy")),
        ({"back": [BLUE_NEW]}, Wait("green is unhealthy; the way back: blue is unknown")),
        ({"on_failure": OnFailure.STAY}, GiveUp("green is unhealthy; on_failure is stay")),
        ({"forced": True}, GoOn()),
    ],
)
def test_what_follows_when_going_back_is_not_possible(
    changes: dict[str, Any], verdict: object
) -> None:
    assert judged(SICK, **changes) == verdict


def test_a_further_gate_is_one_more_function() -> None:
    def never_on_a_friday(situation: Situation) -> str:
        return f"it is Friday for {situation.target.name}"

    assert judged(gates=(*GATES, never_on_a_friday)) == RollBack("it is Friday for green")


@given(
    st.sampled_from([WELL, SICK, NEW]),
    st.sampled_from([BLUE_WELL, BLUE_SICK, BLUE_NEW]),
    st.integers(0, 200),
    st.integers(0, 200),
    st.sampled_from(OnFailure),
)
def test_it_never_rolls_back_onto_what_is_not_healthy(
    target: UpstreamHealth,
    back: UpstreamHealth,
    requests: int,
    errors: int,
    on_failure: OnFailure,
) -> None:
    verdict = judged(
        target, requests=requests, errors=min(errors, requests), back=[back], on_failure=on_failure
    )
    if isinstance(verdict, RollBack):
        assert back.healthy
