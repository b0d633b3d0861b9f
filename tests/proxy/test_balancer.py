"""Which server gets a request."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from turnout.proxy.balancer import NO_SERVER, pick_server


@pytest.mark.parametrize(
    ("in_flight", "usable", "tried", "picks"),
    [
        ([3], [True], [False], {(0, False)}),
        ([3], [False], [False], {(0, True)}),
        ([3], [True], [True], {(0, False)}),
        ([], [], [], {(NO_SERVER, False)}),
        ([1, 9], [True, True], [False, False], {(0, False)}),
        ([9, 1], [True, True], [False, False], {(1, False)}),
        ([5, 5], [True, True], [False, False], {(0, False), (1, False)}),
        # Never the busiest of three: of any two it is the worse.
        ([1, 9, 1], [True] * 3, [False] * 3, {(0, False), (2, False)}),
        ([1, 2, 9], [True] * 3, [False] * 3, {(0, False), (1, False)}),
        # Unhealthy ones are skipped, tried ones too, as long as there is another.
        ([0, 9], [False, True], [False, False], {(1, False)}),
        ([0, 9], [True, True], [True, False], {(1, False)}),
        ([0, 9, 9], [False, True, True], [False, True, False], {(2, False)}),
        # A healthy one that was tried is better than an unhealthy one that was not.
        ([0, 9], [False, True], [False, True], {(1, False)}),
        # None is usable: it fails open, and says so; not to the one that just failed.
        ([0, 9], [False, False], [False, False], {(0, True)}),
        ([0, 9], [False, False], [True, False], {(1, True)}),
        ([4, 4], [False, False], [True, True], {(0, True), (1, True)}),
    ],
)
def test_who_can_be_picked(
    in_flight: list[int], usable: list[bool], tried: list[bool], picks: set[tuple[int, bool]]
) -> None:
    found = {pick_server(in_flight, usable, tried, random << 16 | random) for random in range(64)}
    found |= {pick_server(in_flight, usable, tried, random) for random in range(64)}
    assert found == picks


@pytest.mark.parametrize("count", [2, 3, 5, 16])
def test_equals_share_evenly(count: int) -> None:
    step = 2_654_435_769  # Knuth's multiplicative sequence: evenly spread 32-bit numbers
    total = 20_000
    picked = Counter(
        pick_server([0] * count, [True] * count, [False] * count, number * step % 2**32)[0]
        for number in range(total)
    )
    assert set(picked) == set(range(count))
    assert max(picked.values()) - min(picked.values()) < total / count * 0.1


def test_the_fullest_and_the_emptiest_end_up_even() -> None:
    in_flight = [100, 0, 50, 0]
    for number in range(400):
        position, _ = pick_server(
            in_flight, [True] * 4, [False] * 4, number * 2_654_435_769 % 2**32
        )
        in_flight[position] += 1
    assert max(in_flight) - min(in_flight) <= 6


@given(st.data(), st.integers(1, 8), st.integers(0, 2**64))
def test_a_usable_server_is_always_preferred(data: st.DataObject, count: int, random: int) -> None:
    flags = st.lists(st.booleans(), min_size=count, max_size=count)
    in_flight = data.draw(st.lists(st.integers(0, 9), min_size=count, max_size=count))
    usable, tried = data.draw(flags), data.draw(flags)
    position, unhealthy = pick_server(in_flight, usable, tried, random)
    assert 0 <= position < count
    assert unhealthy == (not any(usable))
    assert usable[position] or not any(usable)
    if any(u and not t for u, t in zip(usable, tried, strict=True)):
        assert not tried[position]
