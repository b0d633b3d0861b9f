"""Evidence by value: differences, errors and quantiles out of counters."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from turnout.control.evidence import (
    Evidence,
    Snapshot,
    Window,
    difference,
    evidence,
    outcomes,
    quantile_ms,
    snapshot_of,
    zero,
)
from turnout.proxy import scoreboard as board


def block(**counts: int) -> tuple[int, ...]:
    """Counters of a service: `first_200=5`, `second_cut_timeout=1`, `accepted=6`, …"""
    words = [0] * board.SERVICE_WORDS
    for name, count in counts.items():
        where, _, what = name.partition("_")
        base = {"first": 0, "second": board.UPSTREAM_WORDS}.get(where, 0)
        if name == "accepted":
            words[board.S_ACCEPTED] = count
        elif where == "proxy":
            words[board.S_PROXY + board.PROXY_CODE_LABELS.index(what)] = count
        elif what.isdigit():
            words[base + board.U_ANSWERED + board.CODE_INDEX[int(what)]] = count
        elif what.startswith("proxy_"):
            code = board.PROXY_CODE_LABELS.index(what.removeprefix("proxy_"))
            words[base + board.U_PROXY + code] = count
        elif what.startswith("cut_"):
            words[base + board.U_CUT + board.CUT_REASONS.index(what.removeprefix("cut_"))] = count
        else:
            assert what == "aborted"
            words[base + board.U_ABORTED] = count
    return tuple(words)


def test_every_outcome_is_of_one_kind_and_the_rest_is_in_flight() -> None:
    counted = block(
        accepted=20,
        first_200=5,
        first_503=1,
        second_101=2,
        first_proxy_502=3,
        proxy_503=1,
        second_aborted=2,
        first_cut_drain_deadline=4,
    )
    assert outcomes(counted) == {
        "answered_by_upstream": 8,
        "answered_by_proxy": 4,
        "client_aborted": 2,
        "cut": 4,
    }
    assert Snapshot("1", 0.0, counted).in_flight == 2


def test_errors_are_5xx_and_what_the_upstream_failed() -> None:
    counted = block(
        second_200=80,
        second_404=5,
        second_500=4,
        second_503=1,
        second_proxy_502=3,
        second_proxy_504=2,
        second_cut_upstream_closed=1,
        second_cut_timeout=1,
        second_cut_drain_deadline=1,
        second_cut_shutdown=1,
        second_aborted=9,
        first_500=50,
    )
    found = evidence(counted, 1, 10.0)
    assert (found.requests, found.errors) == (99, 12)
    assert found.error_fraction == pytest.approx(12 / 99)
    assert found.requests_per_s == pytest.approx(9.9)


def test_no_request_is_no_error() -> None:
    found = evidence(block(), 0, 0.0)
    assert found == Evidence(0, 0, None, None, 0.0)
    assert (found.error_fraction, found.requests_per_s) == (0.0, 0.0)


def test_a_difference_of_two_scoreboards_does_not_exist() -> None:
    with pytest.raises(ValueError, match="two scoreboards"):
        difference(zero("1", 0.0), zero("2", 1.0))


def test_a_snapshot_survives_writing_and_reading() -> None:
    snapshot = Snapshot("1", 5.0, block(accepted=3), refused=2)
    assert snapshot_of(snapshot.to_document()) == snapshot


# ---------------------------------------------------------------- quantiles


def buckets(**counts: int) -> list[int]:
    found = [0] * board.LATENCY_BUCKETS
    for bound, count in counts.items():
        found[int(bound.removeprefix("b"))] = count
    return found


def test_a_quantile_lies_linearly_in_its_bucket() -> None:
    # Bucket 4 holds 3 ms to 5 ms: half of 10 requests lies in its middle.
    assert quantile_ms(buckets(b4=10), 0.5) == 4.0
    assert quantile_ms(buckets(b4=90, b6=10), 0.99) == pytest.approx(9.75)


def test_beyond_the_last_bound_the_bound_is_given() -> None:
    last = board.LATENCY_BUCKETS - 1
    assert quantile_ms(buckets(**{f"b{last}": 3}), 0.5) == 60_000


def test_nothing_has_no_quantile() -> None:
    assert quantile_ms([0] * board.LATENCY_BUCKETS, 0.5) is None


@given(
    st.lists(st.floats(0.01, 90_000), min_size=1, max_size=60),
    st.sampled_from([0.5, 0.9, 0.99]),
)
def test_a_quantile_lies_in_the_bucket_of_the_true_one(
    latencies_ms: list[float], fraction: float
) -> None:
    counts = [0] * board.LATENCY_BUCKETS
    for latency_ms in latencies_ms:
        counts[board.latency_bucket(int(latency_ms * 1000))] += 1
    rank = max(0, -(-int(fraction * len(latencies_ms) * 100) // 100) - 1)
    true_bucket = board.latency_bucket(int(sorted(latencies_ms)[rank] * 1000))
    found = quantile_ms(counts, fraction)
    assert found is not None
    bounds = (0.0, *board.LATENCY_BOUNDS_MS, board.LATENCY_BOUNDS_MS[-1])
    later = next(index for index in range(true_bucket, board.LATENCY_BUCKETS) if counts[index])
    # Between two requests the rank may belong to either: the found one is of one of the two.
    following = next(
        (index for index in range(later + 1, board.LATENCY_BUCKETS) if counts[index]), later
    )
    assert bounds[true_bucket] <= found <= bounds[following + 1]


# ---------------------------------------------------------------- the window


def test_a_window_forgets_what_is_older_than_its_length() -> None:
    window = Window(10.0)
    assert window.evidence(1).requests == 0
    for second, (good, bad) in enumerate([(0, 0), (100, 0), (100, 10), (100, 20)]):
        window.add(Snapshot("1", second * 10.0, block(second_200=good, second_500=bad)))
    found = window.evidence(1)
    assert (found.requests, found.errors, found.seconds) == (10, 10, 10.0)


def test_a_window_that_is_not_full_yet_begins_with_its_first_sample() -> None:
    window = Window(10.0)
    window.add(Snapshot("1", 0.0, block(second_200=5)))
    window.add(Snapshot("1", 1.0, block(second_200=7)))
    assert window.evidence(1).requests == 2


def test_a_window_begins_anew_with_a_new_scoreboard() -> None:
    window = Window(10.0)
    window.add(Snapshot("1", 0.0, block(second_200=500)))
    window.add(Snapshot("2", 1.0, block(second_200=1)))
    assert window.evidence(1).requests == 0
