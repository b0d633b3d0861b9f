"""/metrics: the text against counters that are known, in a real scoreboard."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from turnout.control import exposition
from turnout.control.exposition import Facts, render
from turnout.control.rows import ServiceRow
from turnout.control.shared import SharedState
from turnout.proxy import scoreboard as board
from turnout.proxy.scoreboard import Geometry, RoutingWord, Scoreboard, SharedWords, WorkerState

SHOP = ServiceRow(1, "shop", "blue", "green", 2_500, 7, False, None, {}, 3)
FACTS = Facts(
    version="1.2.3",
    services=(SHOP,),
    healthy={("shop", "blue"): True, ("shop", "green"): False},
    ended={("shop", "completed"): 4, ("shop", "failed"): 1},
    event_streams=2,
    slow_readers=3,
)


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[SharedState]:
    for name, size in (
        (board.ROUTING_FILE, board.ROUTING_BYTES),
        (board.HEALTH_FILE, board.HEALTH_BYTES),
    ):
        SharedWords(tmp_path / name, size, create=True).close()
    Scoreboard.create(tmp_path, Geometry(regions=3, services=4, inflight=8), 42).memory.close()
    made = SharedState(tmp_path)
    made.set_word(1, RoutingWord(False, 2_500, 7))
    made.set_table_in_force(5)
    for region in (0, 1):
        base = made.scoreboard.region(region)
        made.scoreboard.words[base + board.R_STATE] = WorkerState.SERVING
        made.scoreboard.words[base + board.R_STARTS] = 2  # a reload let one go, and one come
    yield made
    made.close()


def samples(shared: SharedState, facts: Facts = FACTS) -> dict[tuple[str, ...], float]:
    """(Name, label values in the order of their names) -> value."""
    text, kind = render(shared, facts)
    assert kind.startswith("text/plain")
    return {
        (sample.name, *(f"{key}={value}" for key, value in sorted(sample.labels.items()))):
            sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }  # fmt: skip


def add(shared: SharedState, region: int, place: int, count: int, slot: int = 1) -> None:
    shared.scoreboard.words[shared.scoreboard.service(region, slot) + place] += count


def accept(shared: SharedState, region: int, upstream: int, count: int) -> None:
    add(shared, region, board.S_ACCEPTED, count)
    add(shared, region, upstream * board.UPSTREAM_WORDS + board.U_PICKED, count)


def in_flight_slot(shared: SharedState, region: int, index: int, upstream: int, kind: int) -> None:
    place = shared.scoreboard.inflight_slot(region, index)
    shared.scoreboard.words[place] = board.pack_inflight(1, upstream, kind, 0)


def served(shared: SharedState) -> None:
    """20 accepted in two workers: 12 answered, 3 cut, 1 gone, 1 by the proxy, 3 in flight."""
    accept(shared, 0, 0, 10)
    accept(shared, 1, 1, 9)
    add(shared, 1, board.S_ACCEPTED, 1)
    add(shared, 0, board.U_ANSWERED + board.CODE_INDEX[200], 5)
    add(shared, 0, board.U_ANSWERED + board.CODE_INDEX[503], 2)
    green = board.UPSTREAM_WORDS
    add(shared, 1, green + board.U_ANSWERED + board.CODE_INDEX[200], 5)
    add(shared, 1, green + board.U_CUT + board.CUT_REASONS.index("drain_deadline"), 3)
    add(shared, 1, green + board.U_ABORTED, 1)
    add(shared, 1, board.S_PROXY + board.proxy_code_index(503), 1)
    in_flight_slot(shared, 0, 0, 0, board.ExchangeClass.SSE)
    in_flight_slot(shared, 0, 1, 0, board.ExchangeClass.PLAIN)


def total(found: dict[tuple[str, ...], float], name: str) -> float:
    return sum(value for key, value in found.items() if key[0] == name)


def test_requests_are_counted_over_all_workers_by_service_upstream_outcome_and_code(
    shared: SharedState,
) -> None:
    served(shared)
    found = samples(shared)
    name = "turnout_requests_total"
    ended = {key[1:]: value for key, value in found.items() if key[0] == name}
    assert ended == {
        ("code=200", "outcome=answered_by_upstream", "service=shop", "upstream=blue"): 5,
        ("code=503", "outcome=answered_by_upstream", "service=shop", "upstream=blue"): 2,
        ("code=200", "outcome=answered_by_upstream", "service=shop", "upstream=green"): 5,
        ("code=", "outcome=cut", "service=shop", "upstream=green"): 3,
        ("code=", "outcome=client_aborted", "service=shop", "upstream=green"): 1,
        ("code=503", "outcome=answered_by_proxy", "service=shop", "upstream="): 1,
    }
    assert found["turnout_requests_accepted_total", "service=shop"] == 20
    cut = "turnout_requests_cut_total"
    assert found[cut, "reason=drain_deadline", "service=shop", "upstream=green"] == 3


def test_accepted_is_what_has_ended_plus_what_is_in_flight_in_one_scrape(
    shared: SharedState,
) -> None:
    served(shared)
    found = samples(shared)
    assert total(found, "turnout_requests_in_flight") == 3
    assert total(found, "turnout_requests_accepted_total") == total(
        found, "turnout_requests_total"
    ) + total(found, "turnout_requests_in_flight")
    flying = {
        key[1:]: value
        for key, value in found.items()
        if key[0] == "turnout_requests_in_flight" and value
    }
    # The third has ended its slot already, or has none yet: it is counted as plain.
    assert flying == {
        ("class=plain", "service=shop", "upstream=blue"): 2,
        ("class=sse", "service=shop", "upstream=blue"): 1,
    }


def test_a_held_request_is_in_flight_without_an_upstream(shared: SharedState) -> None:
    add(shared, 0, board.S_ACCEPTED, 1)
    in_flight_slot(shared, 0, 0, board.NO_UPSTREAM, board.ExchangeClass.PLAIN)
    found = samples(shared)
    assert found["turnout_requests_in_flight", "class=plain", "service=shop", "upstream="] == 1


@pytest.mark.parametrize(
    ("flying", "classes", "expected"),
    [
        (3, (1, 0, 1, 0), [2, 0, 1, 0]),
        (3, (5, 0, 1, 0), [2, 0, 1, 0]),
        (1, (0, 0, 2, 1), [0, 0, 0, 1]),
        (0, (1, 1, 1, 1), [0, 0, 0, 0]),
        (0, (0, 0, 0, 0), [0, 0, 0, 0]),
    ],
)
def test_classes_sum_to_what_is_counted(
    flying: int, classes: tuple[int, ...], expected: list[int]
) -> None:
    assert exposition.split(flying, classes) == expected


def test_the_counts_of_a_worker_that_was_killed_stay(shared: SharedState) -> None:
    served(shared)
    shared.scoreboard.settle(0)
    shared.scoreboard.words[shared.scoreboard.region(0) + board.R_DEATHS] += 1
    found = samples(shared)
    assert found["turnout_requests_accepted_total", "service=shop"] == 20
    assert total(found, "turnout_requests_total") == 20
    assert total(found, "turnout_requests_in_flight") == 0
    cut = "turnout_requests_cut_total"
    assert found[cut, "reason=worker_died", "service=shop", "upstream=blue"] == 3
    assert found["turnout_worker_restarts_total",] == 1
    assert found["turnout_workers", "state=dead"] == 1
    assert found["turnout_workers", "state=serving"] == 1


def test_durations_are_a_cumulative_histogram_in_seconds(shared: SharedState) -> None:
    for duration_us in (400, 500, 9_000, 70_000_000):
        add(shared, 0, board.U_LATENCY + board.latency_bucket(duration_us), 1)
        add(shared, 0, board.U_LATENCY_SUM_US, duration_us)
    found = samples(shared)
    name = "turnout_request_duration_seconds"
    labels = ("service=shop", "upstream=blue")
    assert found[f"{name}_bucket", "le=0.0005", *labels] == 2
    assert found[f"{name}_bucket", "le=0.0075", *labels] == 2
    assert found[f"{name}_bucket", "le=0.01", *labels] == 3
    assert found[f"{name}_bucket", "le=60.0", *labels] == 3
    assert found[f"{name}_bucket", "le=+Inf", *labels] == 4
    assert found[f"{name}_count", *labels] == 4
    assert found[f"{name}_sum", *labels] == pytest.approx(70.0099)


def test_retries_refusals_and_picks_are_counted_by_reason(shared: SharedState) -> None:
    add(shared, 0, board.S_RETRIES + board.RETRY_REASONS.index("connect_failed"), 2)
    add(shared, 1, board.S_NOT_RETRIED + board.NOT_RETRIED_REASONS.index("client_gone"), 1)
    add(shared, 1, board.UPSTREAM_WORDS + board.U_UNHEALTHY_PICKS, 6)
    region = shared.scoreboard.region(1)
    refused = board.C_REFUSED + board.REFUSED_REASONS.index("header_timeout")
    shared.scoreboard.words[region + refused] = 9
    found = samples(shared)
    assert found["turnout_retries_total", "reason=connect_failed"] == 2
    assert found["turnout_not_retried_total", "reason=client_gone"] == 1
    assert found["turnout_refused_total", "reason=header_timeout"] == 9
    assert found["turnout_refused_total", "reason=malformed_request"] == 0
    assert found["turnout_unhealthy_picks_total", "service=shop", "upstream=green"] == 6


def test_weights_health_and_ends_of_switchovers_are_shown(shared: SharedState) -> None:
    found = samples(shared)
    assert found["turnout_weight", "service=shop", "upstream=blue"] == 75
    assert found["turnout_weight", "service=shop", "upstream=green"] == 25
    assert found["turnout_upstream_healthy", "service=shop", "upstream=blue"] == 1
    assert found["turnout_upstream_healthy", "service=shop", "upstream=green"] == 0
    assert found["turnout_switchovers_total", "service=shop", "state=completed"] == 4
    assert found["turnout_switchovers_total", "service=shop", "state=aborted"] == 0
    assert found["turnout_build_info", "version=1.2.3"] == 1
    assert found["turnout_event_streams_too_slow_total",] == 3
    assert found["turnout_routing_table",] == 5
    assert found["turnout_epoch",] == 7


def test_requests_that_no_service_matched_have_an_empty_service(shared: SharedState) -> None:
    add(shared, 0, board.S_ACCEPTED, 2, slot=0)
    add(shared, 0, board.S_PROXY + board.proxy_code_index(404), 2, slot=0)
    found = samples(shared)
    assert found["turnout_requests_accepted_total", "service="] == 2
    key = ("code=404", "outcome=answered_by_proxy", "service=", "upstream=")
    assert found["turnout_requests_total", *key] == 2


def test_a_service_that_left_the_configuration_keeps_its_counters_and_loses_its_gauges(
    shared: SharedState,
) -> None:
    served(shared)
    facts = Facts(version="1", services=(SHOP,), healthy={}, ended={})
    found = samples(shared, facts)
    assert found["turnout_requests_accepted_total", "service=shop"] == 20
    assert not [key for key in found if key[0] == "turnout_weight"]


def test_openmetrics_is_given_where_it_is_asked_for(shared: SharedState) -> None:
    text, kind = render(shared, FACTS, "application/openmetrics-text; version=1.0.0")
    assert kind.startswith("application/openmetrics-text")
    assert text.endswith(b"# EOF\n")


def test_how_switchovers_ended_is_left_out_while_nobody_knows(shared: SharedState) -> None:
    """Not 0: a counter that comes back from there looks like so many that have just ended."""
    text, _ = render(shared, replace(FACTS, ended=None))
    assert b"turnout_weight" in text
    assert b"turnout_switchovers_total{" not in text
    assert b"turnout_switchovers_total{" in render(shared, FACTS)[0]


def test_requests_are_counted_by_the_way_in_where_one_is_named(shared: SharedState) -> None:
    add(shared, 0, board.S_ENTERED, 3)
    add(shared, 1, board.S_ENTERED, 4)
    add(shared, 1, board.S_ENTERED + 1, 5)
    name = "turnout_entry_requests_total"
    assert not any(key[0] == name for key in samples(shared))
    only_blue = samples(shared, replace(FACTS, entries={"shop": [True, False]}))
    assert {key: value for key, value in only_blue.items() if key[0] == name} == {
        (name, "service=shop", "upstream=blue"): 7
    }
    both = samples(shared, replace(FACTS, entries={"shop": [True, True]}))
    assert both[name, "service=shop", "upstream=green"] == 5
