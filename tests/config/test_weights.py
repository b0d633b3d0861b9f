"""Weights: hundredths of a percent, exact in both directions."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from turnout.config.weights import WHOLE, Percentage, Weights, hundredths, percent

SHARES = st.integers(0, WHOLE)


def test_every_share_survives_each_way_that_a_percentage_is_written() -> None:
    for share in range(WHOLE + 1):
        written = percent(share)
        exact = Decimal(share) / 100
        ways = (written, str(written), exact, str(exact))
        assert [hundredths(way) for way in ways] == [share] * 4


@given(SHARES)
def test_weights_survive_writing_and_reading(share: int) -> None:
    weights = Weights("blue", "green", share)
    assert Weights.of_percent("blue", "green", weights.percentages()) == weights
    assert weights.share("blue") + weights.share("green") == WHOLE


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (True, "weight True is no number; expected 0 to 100"),
        ("many", "weight 'many' is no number; expected 0 to 100"),
        (-1, "weight -1 is out of range; expected 0 to 100"),
        (100.01, "weight 100.01 is out of range; expected 0 to 100"),
        ("1e9", "weight 1e9 is out of range; expected 0 to 100"),
        (float("nan"), "weight nan is out of range; expected 0 to 100"),
        (float("inf"), "weight inf is out of range; expected 0 to 100"),
        (33.333, "weight 33.333 is too fine; expected at most two decimals"),
    ],
)
def test_a_wrong_percentage_says_what_was_expected(value: Percentage, message: str) -> None:
    with pytest.raises(ValueError, match=r".") as raised:
        hundredths(value)
    assert str(raised.value) == message


@pytest.mark.parametrize(
    ("percentages", "message"),
    [
        ({"blue": 90}, "the weight of green is missing; expected blue and green"),
        ({"blue": 90, "red": 10}, "unknown upstream 'red'; expected blue and green"),
        ({"blue": 90, "green": 9.99}, "weights sum to 99.99; expected 100"),
        ({"blue": 60, "green": 60}, "weights sum to 120; expected 100"),
    ],
)
def test_weights_name_both_upstreams_and_sum_to_100(
    percentages: dict[str, Percentage], message: str
) -> None:
    with pytest.raises(ValueError, match=r".") as raised:
        Weights.of_percent("blue", "green", percentages)
    assert str(raised.value) == message


def test_the_active_upstream_is_the_one_that_has_all() -> None:
    active = {share: Weights("blue", "green", share).active for share in (0, 1, 9_999, WHOLE)}
    assert active == {0: "blue", 1: None, 9_999: None, WHOLE: "green"}


def test_a_share_is_given_to_either_upstream_by_name() -> None:
    weights = Weights.all_on("blue", "green", "blue")
    assert weights.second_weight == 0
    assert weights.with_share("green", 1_250) == Weights("blue", "green", 1_250)
    assert weights.with_share("blue", 1_250) == Weights("blue", "green", 8_750)
    assert (weights.other("blue"), weights.other("green")) == ("green", "blue")
    with pytest.raises(ValueError, match="unknown upstream 'red'; expected blue or green"):
        weights.share("red")


def test_weights_are_shown_as_they_are_typed() -> None:
    assert str(Weights("blue", "green", 1_000)) == "blue=90 green=10"
    assert str(Weights("blue", "green", 5)) == "blue=99.95 green=0.05"


@pytest.mark.parametrize(("second", "share"), [("green", -1), ("green", 10_001), ("blue", 0)])
def test_weights_that_cannot_be_are_not_made(second: str, share: int) -> None:
    with pytest.raises(ValueError, match="expected"):
        Weights("blue", second, share)
