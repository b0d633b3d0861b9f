"""Rounds become ratios, ratios a median, and a median is held against a bar."""

import pytest

from benchmarks.ratios import (
    Bar,
    Measure,
    Round,
    Sample,
    Separate,
    Spread,
    Verdict,
    judge,
    quantile,
    ratios_of,
    spread,
    values_of,
)

CPU = Measure.CPU_US


def a_round(**cpu_us: float) -> Round:
    return {name: Sample({CPU: value}) for name, value in cpu_us.items()}


ROUNDS = [
    a_round(turnout=12.0, haproxy=10.0),
    a_round(turnout=30.0, haproxy=20.0),  # the machine was slow: the ratio is what counts
    a_round(turnout=11.0, haproxy=10.0),
]


def test_a_ratio_is_formed_within_a_round() -> None:
    assert ratios_of(ROUNDS, "turnout", "haproxy", CPU) == [1.2, 1.5, 1.1]


def test_the_median_counts_and_the_spread_is_kept() -> None:
    found = spread(ratios_of(ROUNDS, "turnout", "haproxy", CPU))
    assert found == Spread(1.2, 1.1, 1.5, 3)


def test_of_nothing_there_is_no_spread() -> None:
    assert spread([]) is None


def test_a_void_turn_counts_for_nothing_on_either_side() -> None:
    void = {"turnout": Sample({CPU: 1.0}, ("2 timeouts",)), "haproxy": Sample({CPU: 10.0})}
    against = {"turnout": Sample({CPU: 1.0}), "haproxy": Sample({CPU: 10.0}, ("2 timeouts",))}
    assert ratios_of([*ROUNDS, void, against], "turnout", "haproxy", CPU) == [1.2, 1.5, 1.1]
    assert values_of([*ROUNDS, void], "turnout", CPU) == [12.0, 30.0, 11.0]


def test_who_had_no_turn_has_no_ratio() -> None:
    assert ratios_of(ROUNDS, "turnout", "envoy", CPU) == []
    assert ratios_of(ROUNDS, "envoy", "haproxy", CPU) == []
    assert ratios_of(ROUNDS, "turnout", "haproxy", Measure.P99_MS) == []


@pytest.mark.parametrize(
    ("limit", "aim", "verdict"),
    [
        (1.25, 1.2, Verdict.AIM),
        (1.25, 1.0, Verdict.MET),
        (1.2, None, Verdict.MET),
        (1.19, None, Verdict.MISSED),
        (1.19, 1.0, Verdict.MISSED),
    ],
)
def test_a_bar_is_met_missed_or_its_aim_reached(
    limit: float, aim: float | None, verdict: Verdict
) -> None:
    assert judge(Bar("plain-64", CPU, limit, aim), ROUNDS, cores=2).verdict is verdict


@pytest.mark.parametrize(("limit", "verdict"), [(1.2, Verdict.MET), (1.21, Verdict.MISSED)])
def test_of_some_there_must_be_at_least_so_much(limit: float, verdict: Verdict) -> None:
    assert judge(Bar("plain-64", CPU, limit, at_least=True), ROUNDS, cores=2).verdict is verdict


@pytest.mark.parametrize(
    ("separate", "cores", "verdict"),
    [
        (Separate.PROXY_LOAD_AND_ORIGIN, 2, Verdict.NOT_JUDGED),
        (Separate.PROXY_LOAD_AND_ORIGIN, 3, Verdict.MET),
        (Separate.TWO_WORKERS_LOAD_AND_ORIGIN, 3, Verdict.NOT_JUDGED),
        (Separate.TWO_WORKERS_LOAD_AND_ORIGIN, 4, Verdict.MET),
    ],
)
def test_what_shares_a_core_is_shown_but_not_judged(
    separate: Separate, cores: int, verdict: Verdict
) -> None:
    found = judge(Bar("plain-64", CPU, 1.25, separate=separate), ROUNDS, cores)
    assert found.verdict is verdict
    assert found.spread == Spread(1.2, 1.1, 1.5, 3)
    assert found.why == ("" if verdict is Verdict.MET else f"{cores} cores")


def test_a_bar_without_a_base_is_for_the_value_itself() -> None:
    found = judge(Bar("plain-64", CPU, 12.0, base=None), ROUNDS, cores=1)
    assert (found.verdict, found.spread) == (Verdict.MET, Spread(12.0, 11.0, 30.0, 3))


def test_against_someone_who_was_left_out_nothing_is_measured() -> None:
    found = judge(Bar("plain-64", CPU, 0.5, base="envoy"), ROUNDS, cores=2)
    assert (found.verdict, found.spread, found.why) == (
        Verdict.NOT_MEASURED, None, "no round with envoy",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("share", "value"), [(0.5, 2.0), (0.51, 3.0), (0.99, 4.0), (0.0, 1.0), (1.0, 4.0)]
)
def test_a_quantile_is_one_of_the_values(share: float, value: float) -> None:
    assert quantile([1.0, 2.0, 3.0, 4.0], share) == value


def test_of_nothing_there_is_no_quantile() -> None:
    with pytest.raises(ValueError, match="no values"):
        quantile([], 0.5)
