"""Lines of the ledgers, what is read from /metrics, and the schedule."""

from itertools import islice, pairwise

import pytest

from loadtests.bodies import Digest, digest, page
from loadtests.ledgers import Arrived, Got, Line, Sent, Served, counters, decode, encode, only
from loadtests.schedule import Do, plan

LINES: tuple[Line, ...] = (
    Sent("r1", "GET kept", 1.5, "d"),
    Got("r1", 2.5, 200, "blue", "e", "why", True),
    Arrived("r1", "blue", "blue-2", 1.75),
    Served("r1", "blue", "blue-2", "d", "e", True),
)


@pytest.mark.parametrize("line", LINES, ids=lambda line: type(line).__name__)
def test_a_line_is_read_as_it_was_written(line: Line) -> None:
    assert decode(encode(line)) == line
    assert encode(line).count(b"\n") == 1


def test_the_lines_of_one_kind() -> None:
    assert only(Got, LINES) == [LINES[1]]


def test_what_metrics_say() -> None:
    found = counters(
        [
            ("turnout_requests_accepted_total", {"service": "shop"}, 5.0),
            ("turnout_requests_accepted_total", {"service": ""}, 1.0),
            (
                "turnout_requests_in_flight",
                {"service": "shop", "upstream": "blue", "class": "sse"},
                1.0,
            ),
            ("turnout_requests_total", ended("blue", "answered_by_upstream", "200"), 4.0),
            ("turnout_requests_total", ended("", "answered_by_proxy", "404"), 1.0),
            (
                "turnout_request_duration_seconds_count",
                {"service": "shop", "upstream": "blue"},
                4.0,
            ),
            ("turnout_requests_cut_total", {**ended("blue", "", ""), "reason": "timeout"}, 2.0),
            ("turnout_refused_total", {"reason": "other"}, 0.0),
            ("turnout_weight", {"service": "shop", "upstream": "blue"}, 100.0),
        ]
    )
    assert found.accepted == 6
    assert found.in_flight == 1
    assert found.outcomes == {
        ("blue", "answered_by_upstream", "200"): 4,
        ("", "answered_by_proxy", "404"): 1,
    }
    assert found.durations == {"blue": 4}
    assert found.troubles == {
        "turnout_requests_cut_total{service=shop, upstream=blue, reason=timeout}": 2
    }


def ended(upstream: str, outcome: str, code: str) -> dict[str, str]:
    return {"service": "shop", "upstream": upstream, "outcome": outcome, "code": code}


def test_a_page_is_of_one_request_and_one_server() -> None:
    pages = {page(who, id, 1000) for who in ("blue-1", "green-1") for id in ("r1", "r2")}
    assert len(pages) == 4
    assert {len(one) for one in pages} == {1000}
    # A piece that is left out or comes twice shows.
    whole = page("blue-1", "r1", 1000)
    assert len({whole[start : start + 64] for start in range(0, 960, 64)}) == 15


def test_a_digest_is_of_all_bytes_however_they_come() -> None:
    pieces = Digest()
    for piece in (b"ab", b"", b"c"):
        pieces.update(piece)
    assert pieces.hexdigest() == digest(b"abc") != digest(b"abd")
    assert digest(b"") == ""


def test_the_same_seed_gives_the_same_schedule() -> None:
    assert list(islice(plan(7), 200)) == list(islice(plan(7), 200)) != list(islice(plan(8), 200))


def test_a_short_schedule_has_every_kind() -> None:
    assert {step.do for step in islice(plan(1), 9)} == set(Do) - {Do.CHANGED, Do.KILLED}


def test_a_rollback_follows_only_what_can_be_rolled_back() -> None:
    steps = list(islice(plan(3), 2000))
    before = {one.do for one, after in pairwise(steps) if after.do is Do.ROLLBACK}
    assert before == {Do.ATOMIC, Do.STEPPED, Do.HELD}
