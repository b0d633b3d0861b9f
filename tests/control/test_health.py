"""Health by value: rise, fall, doubt, real traffic, and a whole upstream."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from turnout.config.model import HealthPolicy, PassivePolicy, StatusRange
from turnout.control.health import (
    ProbeResult,
    ServerHealth,
    Traffic,
    UpstreamHealth,
    first_verdict_s,
    from_word,
    next_probe_s,
    observed,
    probed,
    upstream_health,
)
from turnout.proxy.scoreboard import HealthWord

POLICY = HealthPolicy(
    path="/healthz",
    host="",
    interval_s=1.0,
    timeout_s=2.0,
    rise=2,
    fall=3,
    status=(StatusRange(200, 399),),
    body="",
    jitter_fraction=0.1,
    doubt_interval_s=0.25,
    passive=PassivePolicy(connect_failures=3, error_answers=10, avoid_s=2.0),
)
GOOD = ProbeResult(at=1.0, duration_ms=4.0, status=200)
BAD = ProbeResult(at=1.0, duration_ms=2000.0, error="no answer in 2 s")
HEALTHY = ServerHealth(HealthWord.HEALTHY, "")


def after(health: ServerHealth, *results: ProbeResult) -> ServerHealth:
    for result in results:
        health = probed(health, result, POLICY)
    return health


def test_rise_good_probes_make_it_healthy() -> None:
    assert after(ServerHealth(), GOOD).state is HealthWord.UNKNOWN
    risen = after(ServerHealth(), GOOD, GOOD)
    assert (risen.state, risen.reason) == (HealthWord.HEALTHY, "")


def test_fall_bad_probes_make_it_unhealthy_and_it_says_why() -> None:
    assert after(HEALTHY, BAD, BAD).state is HealthWord.HEALTHY
    fallen = after(HEALTHY, BAD, BAD, BAD)
    assert (fallen.state, fallen.reason) == (HealthWord.UNHEALTHY, "probe: no answer in 2 s")


def test_one_good_probe_between_bad_ones_begins_the_count_anew() -> None:
    assert after(HEALTHY, BAD, BAD, GOOD, BAD, BAD).state is HealthWord.HEALTHY


def test_a_server_that_never_answered_says_so_before_its_verdict() -> None:
    once = after(ServerHealth(), BAD)
    assert (once.state, once.reason) == (
        HealthWord.UNKNOWN,
        "1 of 3 bad probes: no answer in 2 s",
    )


def test_a_server_whose_probes_are_good_so_far_says_so() -> None:
    once = after(ServerHealth(), GOOD)
    assert (once.state, once.reason) == (HealthWord.UNKNOWN, "1 of 2 good probes so far")


def test_the_reason_is_that_of_the_last_probe() -> None:
    other = replace(BAD, error="status 500")
    assert after(HEALTHY, BAD, BAD, BAD, other).reason == "probe: status 500"


@given(st.lists(st.booleans(), max_size=30))
def test_unhealthy_always_says_why_and_healthy_never_complains(results: list[bool]) -> None:
    health = ServerHealth()
    for good in results:
        health = probed(health, GOOD if good else BAD, POLICY)
        assert bool(health.reason) == (health.state is not HealthWord.HEALTHY)
        assert health.last_probe is not None


# ---------------------------------------------------------------- real traffic


def saw(health: ServerHealth, *traffic: Traffic, **policy: Any) -> ServerHealth:
    for seen in traffic:
        health = observed(health, seen, replace(POLICY, **policy))
    return health


def test_connections_that_fail_in_a_row_take_it_out() -> None:
    refused = Traffic(0, 0, 1, "connection refused")
    assert saw(HEALTHY, refused, refused).state is HealthWord.HEALTHY
    out = saw(HEALTHY, refused, refused, refused)
    assert (out.state, out.reason) == (
        HealthWord.UNHEALTHY,
        "traffic: 3 connection attempts in a row failed: connection refused",
    )


def test_an_answer_in_between_ends_the_row() -> None:
    refused, answered = Traffic(0, 0, 2), Traffic(5, 0, 1)
    assert saw(HEALTHY, refused, answered, refused).state is HealthWord.HEALTHY


def test_a_run_of_5xx_goes_on_over_reports_and_is_ended_by_a_better_answer() -> None:
    worse, mixed = Traffic(6, 6, 0), Traffic(9, 5, 0)
    assert saw(HEALTHY, worse, mixed).state is HealthWord.HEALTHY
    out = saw(HEALTHY, worse, Traffic(4, 4, 0))
    assert out.reason == "traffic: 10 answers in a row were 5xx or never came"


def test_traffic_never_brings_it_back_and_probes_do() -> None:
    out = saw(HEALTHY, Traffic(0, 0, 3))
    assert saw(out, Traffic(100, 0, 0)).state is HealthWord.UNHEALTHY
    assert after(out, GOOD).state is HealthWord.UNHEALTHY
    back = after(out, GOOD, GOOD)
    assert (back.state, back.connect_errors_in_a_row) == (HealthWord.HEALTHY, 0)


def test_traffic_counts_for_nothing_where_it_is_not_to() -> None:
    assert saw(HEALTHY, Traffic(0, 0, 99), passive=None) == HEALTHY
    off = PassivePolicy(connect_failures=0, error_answers=0, avoid_s=2.0)
    assert saw(HEALTHY, Traffic(50, 50, 99), passive=off).state is HealthWord.HEALTHY


# ---------------------------------------------------------------- when to probe


@pytest.mark.parametrize(
    ("health", "dice", "seconds"),
    [
        (HEALTHY, 0.0, 1.0),
        (HEALTHY, 1.0, 1.1),
        (HEALTHY, -1.0, 0.9),
        (ServerHealth(), 0.0, 0.25),
        (after(HEALTHY, BAD), 0.0, 0.25),
        (after(HEALTHY, BAD, BAD, BAD), 0.0, 1.0),
        (after(HEALTHY, BAD, BAD, BAD, GOOD), 0.0, 0.25),
        (saw(HEALTHY, Traffic(0, 0, 1)), 0.0, 0.25),
    ],
)
def test_in_doubt_it_is_probed_faster(health: ServerHealth, dice: float, seconds: float) -> None:
    assert next_probe_s(health, POLICY, dice) == pytest.approx(seconds)


def test_the_first_verdict_takes_rise_intervals_and_a_timeout() -> None:
    assert first_verdict_s(POLICY) == 4.0
    assert first_verdict_s(None) == 0.0


@pytest.mark.parametrize(
    ("word", "state"),
    [
        (0, HealthWord.UNKNOWN),
        (1, HealthWord.HEALTHY),
        (2, HealthWord.UNHEALTHY),
        (77, HealthWord.UNKNOWN),
    ],
)
def test_after_a_restart_it_begins_with_the_word(word: int, state: HealthWord) -> None:
    assert from_word(word).state is state


# ---------------------------------------------------------------- an upstream


UNHEALTHY = ServerHealth(HealthWord.UNHEALTHY, "probe: status 500")


@pytest.mark.parametrize(
    ("servers", "min_healthy", "state"),
    [
        ({"a": HEALTHY}, 1, HealthWord.HEALTHY),
        ({"a": HEALTHY, "b": UNHEALTHY}, 1, HealthWord.HEALTHY),
        ({"a": HEALTHY, "b": UNHEALTHY}, 2, HealthWord.UNHEALTHY),
        ({"a": HEALTHY, "b": ServerHealth()}, 2, HealthWord.UNKNOWN),
        ({"a": UNHEALTHY, "b": ServerHealth()}, 2, HealthWord.UNHEALTHY),
        ({}, 0, HealthWord.UNHEALTHY),
    ],
)
def test_enough_servers_make_an_upstream(
    servers: dict[str, ServerHealth], min_healthy: int, state: HealthWord
) -> None:
    found = upstream_health("green", servers, min_healthy, POLICY)
    assert found.state is state
    assert bool(found.reason) == (not found.healthy)


def test_an_unhealthy_upstream_names_its_servers_and_their_reasons() -> None:
    found = upstream_health("green", {"10.0.0.7:9001": UNHEALTHY}, 1, POLICY)
    assert found == UpstreamHealth(
        "green",
        HealthWord.UNHEALTHY,
        "0 of 1 servers of green healthy, 1 needed: 10.0.0.7:9001 probe: status 500",
        0,
        1,
    )


def test_without_checks_it_is_always_healthy_but_not_without_servers() -> None:
    assert upstream_health("green", {"a": UNHEALTHY}, 1, None).healthy
    assert upstream_health("green", {}, 1, None).reason == "green has no servers"


def test_a_server_whose_name_does_not_resolve_is_one_that_is_not_healthy() -> None:
    lost = {"app:9001": "there is no such name"}
    assert upstream_health("green", {"a": HEALTHY}, 1, POLICY, lost) == UpstreamHealth(
        "green", HealthWord.HEALTHY, "", 1, 2
    )
    assert upstream_health("green", {"a": HEALTHY}, 2, POLICY, lost).reason == (
        "1 of 2 servers of green healthy, 2 needed:"
        " app:9001 name does not resolve: there is no such name"
    )
    assert not upstream_health("green", {}, 1, None, lost).healthy
    assert upstream_health("green", {"a": UNHEALTHY}, 1, None, lost).healthy
