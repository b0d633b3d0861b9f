"""What is flat and what grows, by value."""

import random

import pytest

from loadtests.curves import MIB, POINTS_MIN, Curve, growth, not_flat, sparkline
from loadtests.inside import Use
from loadtests.monotonic import went_down

POINTS = 600


def curve(rss: list[float], descriptors: list[float]) -> Curve:
    made = Curve("worker 0", 7)
    for number, (resident, opened) in enumerate(zip(rss, descriptors, strict=True)):
        made.add(float(number), Use(round(resident * MIB), round(opened)))
    return made


def noise(around: float, by: float) -> list[float]:
    dice = random.Random(1)
    return [around + dice.uniform(-by, by) for _ in range(POINTS)]


def test_what_goes_up_and_down_is_flat() -> None:
    assert not_flat(curve(noise(30, 5), noise(60, 30))) == []


def test_what_is_taken_up_once_is_flat() -> None:
    warm = [20 + min(number / 10, 10) for number in range(POINTS)]
    assert not_flat(curve(warm, [20.0] * POINTS)) == []


def test_a_leak_is_found_under_noise() -> None:
    leak = [value + number * 20 / POINTS for number, value in enumerate(noise(30, 5))]
    (text,) = not_flat(curve(leak, noise(60, 20)))
    assert text.startswith("worker 0 (7): memory grew from ")
    descriptors = [value + number * 40 / POINTS for number, value in enumerate(noise(60, 5))]
    (text,) = not_flat(curve(noise(30, 2), descriptors))
    assert text.startswith("worker 0 (7): descriptors grew from ")


def test_of_a_short_life_nothing_is_said() -> None:
    rising = [float(number) for number in range(POINTS_MIN - 1)]
    assert growth(rising, rising) is None
    assert not_flat(curve(rising, rising)) == []


def test_growth_is_said_by_the_hour() -> None:
    found = growth([float(s) for s in range(POINTS)], [float(s) for s in range(POINTS)])
    assert found is not None
    assert found.per_hour == pytest.approx(3600)


def test_a_curve_begins_at_nothing() -> None:
    assert sparkline([5.0] * 50, 4) == "████"
    assert sparkline([0.0, 1.0, 2.0, 3.0], 4) == "▁▃▆█"
    assert sparkline([], 4) == ""


def test_a_counter_that_falls_or_goes_is_found() -> None:
    assert went_down({"a": 1, "b": 2, "c": 3}, {"a": 1, "b": 1, "d": 9}) == [
        "b went from 2 to 1",
        "c went from 3 to None",
    ]
