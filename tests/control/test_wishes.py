"""Wishes by value: what somebody wants becomes a switchover."""

from dataclasses import replace
from pathlib import Path

import pytest

from turnout.config.loader import load_text
from turnout.config.model import WHOLE, Strategy
from turnout.control.rows import Author, ServiceRow
from turnout.control.wishes import Wish, moves, to_upstream, to_weight, weights_before

(SHOP,) = load_text(
    """
listeners: [{bind: "127.0.0.1:8080"}]
services:
  shop:
    upstreams: {blue: {servers: ["127.0.0.1:9001"]}, green: {servers: ["127.0.0.1:9002"]}}
    health: {path: /, interval: 1s, timeout: 2s, rise: 2}
""",
    base=Path("/srv"),
    environ={},
).services
ROW = ServiceRow(1, "shop", "blue", "green", 0, 0, False, None, {}, 1)
WISH = Wish(Author("ci", "10.0.0.1", "v42"), at=5.0)
CAREFUL = Strategy("careful", (1000, WHOLE), 60.0)


def test_a_wish_becomes_what_would_do_it() -> None:
    made = to_upstream(SHOP, ROW, CAREFUL, "green", WISH)
    assert (made.from_upstream, made.to_upstream, made.steps) == ("blue", "green", (1000, WHOLE))
    assert (made.weights_before, made.second_weight, made.pause_s) == (0, 0, 60.0)
    assert (made.requested_by, made.reason, made.forced_by) == ("ci", "v42", "")
    assert made.check_s == 4.0
    assert moves(made) == "blue=100 green=0 -> blue=0 green=100"


def test_a_longer_wait_for_health_is_granted() -> None:
    assert (
        to_upstream(SHOP, ROW, CAREFUL, "green", replace(WISH, wait_healthy_s=60.0)).check_s == 60
    )
    assert to_upstream(SHOP, ROW, CAREFUL, "green", replace(WISH, wait_healthy_s=1.0)).check_s == 4


def test_force_names_who_and_why() -> None:
    made = to_upstream(SHOP, ROW, CAREFUL, "green", replace(WISH, force=True))
    assert (made.forced_by, made.force_reason) == ("ci", "v42")


def test_a_pause_without_end_waits_for_approval() -> None:
    endless = replace(CAREFUL, pause_s=float("inf"))
    assert to_upstream(SHOP, ROW, endless, "green", WISH).pause_s is None


@pytest.mark.parametrize(
    ("before", "after", "gains"),
    [
        (0, 1, "green"),
        (5000, 4999, "blue"),
        (WHOLE, 0, "blue"),
        (0, 0, "blue"),
        (WHOLE, WHOLE, "green"),
    ],
)
def test_weights_by_hand_go_to_whoever_gains(before: int, after: int, gains: str) -> None:
    made = to_weight(SHOP, replace(ROW, second_weight=before), "weights", after, WISH)
    assert (made.to_upstream, made.steps) == (gains, (after,))


def test_weights_of_before_are_counted_as_the_service_counts_now() -> None:
    last = replace(to_weight(SHOP, ROW, "weights", 3000, WISH), weights_before=2500)
    assert weights_before(last, ROW) == 2500
    assert weights_before(last, replace(ROW, first="green", second="blue")) == 7500
    assert weights_before(last, replace(ROW, second="canary")) is None
