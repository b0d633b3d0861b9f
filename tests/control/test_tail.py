"""When the old side may go: held against the definition, read off the requests themselves."""

from bisect import bisect_right
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from turnout.config.model import TailPolicy
from turnout.config.units import Rate, parse_rate
from turnout.control.tail import (
    CURVE_POINTS,
    OTHER,
    Curve,
    Networks,
    Quiet,
    verdict,
    width_for,
    without_counting,
    words,
)


def policy(below: str, for_s: float) -> TailPolicy:
    return TailPolicy(below=parse_rate(below), for_s=for_s, timeout_s=3600, listeners={})


# ---------------------------------------------------------------- against the definition


def over_by_definition(
    requests: list[float], now: float, begin: float, ttl_until: float, below: Rate, for_s: float
) -> bool:
    """The time to live has passed, and each half-open span of `per_s` that lies within the last
    `for_s` seconds (one span at least) had fewer than `count` requests."""
    length = max(for_s, below.per_s)
    if now < ttl_until or now - length < begin:
        return False
    inside = [at for at in requests if now - length < at <= now]
    # The fullest span begins just before a request.
    return all(
        sum(first <= at < first + below.per_s for at in inside) < below.count for first in inside
    )


counts = st.integers(1, 5)
# In hundredths of a span; close together and far apart, so that spans are just full, or just not.
gaps = st.one_of(st.integers(1, 40), st.sampled_from([49, 50, 51, 99, 100, 101, 200, 400]))
times = st.lists(gaps, max_size=30).map(
    lambda found: [sum(found[: index + 1]) for index in range(len(found))]
)


@given(
    requests=times,
    count=counts,
    per_s=st.sampled_from([1.0, 60.0]),
    spans=st.sampled_from([0.5, 1.0, 1.5, 3.0]),
    ttl=st.integers(0, 600),
    looks=st.lists(st.integers(1, 24), min_size=40, max_size=150),
)
def test_it_is_never_over_too_early_and_at_most_two_looks_late(
    requests: list[int], count: int, per_s: float, spans: float, ttl: int, looks: list[int]
) -> None:
    unit = per_s / 100
    below = Rate(count, per_s)
    for_s, ttl_s = spans * per_s, ttl * unit
    rule = TailPolicy(below=below, for_s=for_s, timeout_s=0, listeners={})
    quiet = Quiet(below, 0.0, 0)
    now = 0
    slack_s = 2 * max(looks) * unit
    for step in looks:
        now += step
        now_s = now * unit
        known = [at * unit for at in requests if at <= now]
        quiet.look(now_s, len(known))
        found = verdict(quiet, now_s, ttl_s, rule)
        if found.over:
            # By a thousandth of what is looked at: sums of floats are not exact.
            narrow = Rate(count, per_s * 0.999)
            assert over_by_definition(known, now_s, -unit, ttl_s - unit, narrow, for_s - unit / 2)
        else:
            # With spans and time longer by what is not seen between looks it is not over either.
            wide = Rate(count, per_s + slack_s)
            longest_s = max(for_s, per_s) + per_s + slack_s
            assert not over_by_definition(known, now_s, 0.0, ttl_s, wide, longest_s)
            assert found.wait_s > 0 and found.reason


@given(requests=times, count=counts)
def test_a_new_request_never_brings_the_end_nearer(requests: list[int], count: int) -> None:
    below = Rate(count, 60.0)
    rule = TailPolicy(below=below, for_s=100.0, timeout_s=0, listeners={})
    quiet, one_more = Quiet(below, 0.0, 0), Quiet(below, 0.0, 0)
    for now in range(1, 800, 3):
        came = bisect_right(requests, now)
        quiet.look(now, came)
        one_more.look(now, came + (now >= 150))
        if verdict(one_more, now, 0.0, rule).over:
            assert verdict(quiet, now, 0.0, rule).over


# ---------------------------------------------------------------- cases


def watched(below: str, until: int, *requests: float, begin: int = 0) -> Quiet:
    """Looked at each second."""
    quiet = Quiet(parse_rate(below), begin, 0)
    for now in range(begin + 1, until + 1):
        quiet.look(now, bisect_right(sorted(requests), now))
    return quiet


def test_one_request_a_minute_is_not_below_one_a_minute() -> None:
    """Test 20 of what is known of Route 53: a client that has pinned the address."""
    rule = policy("1/min", 300)
    pinned = [60.0 * minute for minute in range(1, 60)]
    quiet = Quiet(rule.below, 0, 0)
    for now in range(1, 3600):
        quiet.look(now, bisect_right(pinned, now))
        assert not verdict(quiet, now, 60, rule).over, now
    # And then silence: five minutes after the last one.
    last = 59 * 60
    for now in range(3600, 4000):
        quiet.look(now, len(pinned))
        assert verdict(quiet, now, 60, rule).over is (now >= last + 300)


def test_some_are_allowed_where_the_limit_says_so() -> None:
    rule = policy("3/min", 120)
    every_32_s = [32.0 * number for number in range(1, 100)]
    assert verdict(watched("3/min", 200, *every_32_s), 200, 60, rule).over
    three_at_once = (40.0, 41.0, 42.0)
    assert not verdict(watched("3/min", 150, *three_at_once), 150, 60, rule).over
    assert verdict(watched("3/min", 163, *three_at_once), 163, 60, rule).over


def test_two_that_were_hardly_less_than_a_span_apart_are_too_many() -> None:
    """Though by the looks they may have been a whole one apart."""
    rule = policy("2/min", 120)
    apart = (100.9, 160.1)
    assert verdict(watched("2/min", 220, *apart), 220, 60, rule).over is False
    assert verdict(watched("2/min", 221, *apart), 221, 60, rule).over is True


def test_the_reason_says_what_is_missing_in_numbers() -> None:
    rule = policy("1/min", 300)
    quiet = watched("1/min", 400, 310.0, 318.0, 320.0)
    found = verdict(quiet, 17, 60, rule)
    assert found.reason == (
        "the TTL passes in 43s; 0 requests in the last minute; fewer than 1/min for 5m is needed, "
        "and there have been so few for 1m20s"
    )
    assert found.wait_s == 220
    quiet.look(401, 4)
    assert verdict(quiet, 61, 60, rule).reason == (
        "1 request in the last minute; fewer than 1/min for 5m is needed"
    )
    assert verdict(watched("1/min", 80), 80, 60, rule).reason == (
        "watched for 1m20s only; fewer than 1/min for 5m is needed"
    )
    for now in range(402, 702):
        quiet.look(now, 4)
    assert verdict(quiet, 360, 60, rule).reason == (
        "the TTL passed 5m ago, and there were fewer than 1/min for 5m: the last request came 5m "
        "ago"
    )
    assert verdict(watched("1/min", 300), 300, 60, rule).reason.endswith(
        ": no request since it is watched"
    )


def test_a_watch_that_begins_anew_waits_anew() -> None:
    """After a restart of control nobody knows what came before."""
    rule = policy("1/min", 300)
    assert verdict(watched("1/min", 1299, begin=1000), 5000, 60, rule).over is False
    assert verdict(watched("1/min", 1300, begin=1000), 5000, 60, rule).over is True


def test_at_least_one_whole_span_is_waited_for() -> None:
    rule = policy("1/h", 60)
    assert verdict(watched("1/h", 3599), 3599, 0, rule).over is False
    assert verdict(watched("1/h", 3600), 3600, 0, rule).over is True


def test_without_listeners_the_time_to_live_alone_is_waited_for() -> None:
    assert without_counting(17, 60).over is False
    assert without_counting(17, 60).reason.startswith("the TTL passes in 43s; no listener is named")
    assert without_counting(60, 60).over is True


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0ms"), (-3, "0ms"), (0.85, "850ms"), (43.9, "43s"), (80, "1m20s"), (120, "2m"),
        (3600, "1h"), (7505, "2h5m"), (90061, "1d1h"), (86400 * 3 + 30, "3d"),
    ],
)  # fmt: skip
def test_a_duration_in_words(seconds: float, text: str) -> None:
    assert words(seconds) == text


def test_what_is_left_is_rounded_up() -> None:
    assert words(42.1, up=True) == "43s"
    assert words(59.5, up=True) == "1m"


# ---------------------------------------------------------------- what is shown


@given(st.lists(st.tuples(st.integers(0, 900), st.integers(1, 9)), max_size=200))
def test_a_curve_has_every_request_of_its_time_and_is_bounded(
    came: list[tuple[int, int]],
) -> None:
    curve = Curve(1, 100)
    came.sort()
    for at, count in came:
        curve.add(at, count)
    end = came[-1][0] if came else 0
    points = curve.points(0, end)
    assert len(points) <= 100
    assert all(later - earlier == 1 for (earlier, _), (later, _) in pairwise(points))
    begin = points[0][0]
    assert sum(count for _, count in points) == sum(n for at, n in came if at >= begin)
    assert curve.since(begin) == sum(count for _, count in points)
    assert len(curve._counts) <= 200


def test_a_curve_is_as_long_as_it_has_to_be() -> None:
    for length_s in (1, 300, 3600, 86400, 30 * 86400):
        width = width_for(length_s)
        assert width * CURVE_POINTS >= min(length_s, 30 * 86400)
    assert width_for(3600) == 10
    assert width_for(360) == 1


def test_networks_are_bounded_and_none_is_lost_from_the_sum() -> None:
    networks = Networks(10)
    for number in range(1000):
        networks.add({f"10.0.{number % 250}.0/24": 1, "192.0.2.0/24": 3, OTHER: 1}, number)
    top = networks.top(2)
    assert (top[0].network, top[0].requests, top[0].last_at) == ("192.0.2.0/24", 3000, 999)
    everything = networks.top(1000)
    assert len(everything) <= 20
    assert sum(one.requests for one in everything) + networks.other == 5000
