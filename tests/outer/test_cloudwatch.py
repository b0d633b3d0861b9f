"""Gates on CloudWatch: what values mean, and what is asked."""

import math
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final

import pytest

from tests.fakes.aws import CREDENTIALS
from tests.fakes.base import Fault
from tests.fakes.cloudwatch import FakeCloudWatch
from turnout.config.document import SettingsError
from turnout.config.loader import load_text
from turnout.control.outer.cloudwatch_values import (
    Metric,
    Series,
    Window,
    series_of,
    together,
    verdict_of,
    window,
)
from turnout.control.outer.loading import make_gate
from turnout.control.outer.seams import Context, Gate, GateQuestion, GateResult, GateVerdict

PASS, FAIL = GateVerdict.PASS, GateVerdict.FAIL
INCONCLUSIVE, ERROR = GateVerdict.INCONCLUSIVE, GateVerdict.ERROR
NAN, INF = math.nan, math.inf
NOON: Final = int(datetime(2026, 11, 26, 12, tzinfo=UTC).timestamp())
OVER: Final = Window(NOON - 180, NOON, 60, 3)
LAG: Final = Metric(
    "m1", "eu-west-1", "AWS/RDS", "ReplicaLag", (("DBInstanceIdentifier", "shop-2"),),
    "Maximum", "s", at_most=5.0, negative_fails=True,
)  # fmt: skip


def series(*newest_first: float | None, status: str = "Complete", end: int = NOON) -> Series:
    points = tuple((float(end - 60 * (n + 1)), value) for n, value in enumerate(newest_first))
    return Series("ReplicaLag", status, points)


# ---------------------------------------------------------------- what values mean


@pytest.mark.parametrize(
    ("found", "verdict", "reason"),
    [
        ([series(1, 2, 3)], PASS, "1 s at 11:59:00Z, at most 5 s, as all 3 values"),
        ([series(5, 5, 5)], PASS, "5 s"),
        ([series(5.1, 1, 1)], FAIL, "5.1 s at 11:59:00Z, not at most 5 s"),
        ([series(6, NAN, 1)], FAIL, "6 s"),
        ([series(9)], FAIL, "9 s"),
        ([series(-1, 1, 1)], FAIL, "-1 at 11:59:00Z: nothing is replicated"),
        ([series(1, -1, 1)], INCONCLUSIVE, "-1 at 11:58:00Z: nothing was replicated"),
        ([series(1, 9, 1)], INCONCLUSIVE, "1 s at 11:59:00Z, but 9 s at 11:58:00Z"),
        ([series(1, 1)], INCONCLUSIVE, "2 of 3 values"),
        ([series()], INCONCLUSIVE, "no value from 11:57:00Z to 12:00:00Z"),
        ([], INCONCLUSIVE, "answered nothing"),
        ([series(NAN, 1, 1)], INCONCLUSIVE, "nan at 11:59:00Z"),
        ([series(INF, 1, 1)], INCONCLUSIVE, "inf at 11:59:00Z"),
        ([series(-INF, 1, 1)], INCONCLUSIVE, "inf at 11:59:00Z"),
        ([series(None, 1, 1)], INCONCLUSIVE, "no number at 11:59:00Z"),
        ([series(1, NAN, 1)], INCONCLUSIVE, "no number among"),
        ([series(1, 1, None)], INCONCLUSIVE, "no number among"),
        # Of before, and of periods that are not over: as if it were not there.
        ([series(1, 1, 1, end=NOON - 60)], INCONCLUSIVE, "2 of 3 values"),
        ([series(1, 1, 1, end=NOON - 600)], INCONCLUSIVE, "no value"),
        ([series(1, 1, 1, end=NOON + 60)], INCONCLUSIVE, "2 of 3 values"),
        ([series(9, 1, 1, 1, end=NOON + 60)], PASS, "1 s at 11:59:00Z"),
        ([series(1, 1, 1, status="PartialData")], INCONCLUSIVE, "a part of the values"),
        ([series(9, 1, 1, status="PartialData")], FAIL, "9 s"),
        ([series(1, 1, 1, status="Forbidden")], ERROR, "Forbidden"),
        ([series(1, 1, 1, status="InternalError")], ERROR, "InternalError"),
        ([series(1, 1, 1, status="SomethingNew")], ERROR, "SomethingNew"),
        ([series(1, 1, 1), series(1, 1, 1)], INCONCLUSIVE, "2 series where one was meant"),
        (
            [Series("x", "Complete", ((NOON - 60.0, 1.0), (NOON - 60.0, 9.0)))],
            INCONCLUSIVE,
            "two values for 11:59:00Z",
        ),
    ],
)
def test_only_what_is_surely_within_passes(
    found: Sequence[Series], verdict: GateVerdict, reason: str
) -> None:
    result = verdict_of(LAG, found, OVER)
    assert (result.verdict, reason in result.reason) == (verdict, True), result.reason
    assert result.reason.startswith(
        "AWS/RDS ReplicaLag (Maximum, DBInstanceIdentifier=shop-2) in eu-west-1: "
    )


def test_a_lower_bound_holds_too() -> None:
    count = replace(LAG, at_most=None, at_least=100.0, unit="requests", negative_fails=False)
    assert verdict_of(count, [series(100, 101, 102)], OVER).verdict is PASS
    low = verdict_of(count, [series(99, 101, 102)], OVER)
    assert (low.verdict, low.value) == (FAIL, 99)
    assert "99 requests at 11:59:00Z, not at least 100 requests" in low.reason


def test_milliseconds_are_compared_as_seconds() -> None:
    aurora = replace(LAG, scale=0.001)
    assert verdict_of(aurora, [series(4900, 20, 20)], OVER).value == 4.9
    assert verdict_of(aurora, [series(5100, 20, 20)], OVER).verdict is FAIL


@pytest.mark.parametrize(
    ("at", "since", "start", "end"),
    [
        (NOON, None, -240, -60),
        (NOON + 59, None, -240, -60),  # the minute of 11:59 has ended 59 s ago: too new
        (NOON + 60, None, -180, 0),
        (NOON, NOON - 200, -180, -60),  # since 11:56:40: the first whole one begins 11:57
        (NOON, NOON - 180, -180, -60),
        (NOON, NOON - 30, -60, -60),
    ],
)
def test_the_window_has_whole_periods_that_are_over_and_after_the_step(
    at: float, since: float | None, start: int, end: int
) -> None:
    found = window(at, since=since, period_s=60, points=3, delay_s=60.0)
    assert (found.start - NOON, found.end - NOON) == (start, end)


def test_pages_are_one_series_and_the_last_page_says_whether_it_is_whole() -> None:
    def page(status: str, *points: tuple[int, float], label: str = "Lag") -> dict[str, Any]:
        return {
            "Id": "m1",
            "Label": label,
            "StatusCode": status,
            "Timestamps": [at for at, _ in points],
            "Values": [value for _, value in points],
        }

    pages = [page("PartialData", (NOON - 60, 1.0)), page("Complete", (NOON - 120, 2.0))]
    [one] = series_of(pages)["m1"]
    assert (one.status, one.points) == ("Complete", ((NOON - 60, 1.0), (NOON - 120, 2.0)))
    [part] = series_of(pages[:1])["m1"]
    assert part.status == "PartialData"
    two = series_of([*pages, page("Complete", (NOON - 60, 1.0), label="other")])["m1"]
    assert len(two) == 2


def test_times_without_values_are_no_values() -> None:
    result = {"Id": "m1", "StatusCode": "Complete", "Timestamps": [NOON - 60], "Values": []}
    assert verdict_of(LAG, series_of([result])["m1"], OVER).verdict is INCONCLUSIVE


@pytest.mark.parametrize(
    ("verdicts", "worst"),
    [
        ([PASS, PASS], PASS),
        ([PASS, INCONCLUSIVE], INCONCLUSIVE),
        ([INCONCLUSIVE, ERROR, PASS], ERROR),
        ([ERROR, FAIL, PASS], FAIL),
    ],
)
def test_of_several_the_worst_holds_with_its_reasons(
    verdicts: Sequence[GateVerdict], worst: GateVerdict
) -> None:
    result = together([GateResult(verdict, f"is {verdict.value}") for verdict in verdicts])
    assert result.verdict is worst
    assert result.reason == "; ".join(
        f"is {verdict.value}" for verdict in verdicts if verdict is worst
    )


# ---------------------------------------------------------------- against the fake

METRIC: Final = {
    "kind": "cloudwatch_metric",
    "namespace": "AWS/ApplicationELB",
    "metric": "TargetResponseTime",
    "dimensions": {"TargetGroup": "targetgroup/shop-green/1", "LoadBalancer": "app/shop/5"},
    "stat": "p99",
    "unit": "s",
    "at_most": 0.5,
}
DIMENSIONS: Final = {"LoadBalancer": "app/shop/5", "TargetGroup": "targetgroup/shop-green/1"}


def settings_of(gate: Mapping[str, Any], **environ: str) -> Any:
    text = f"""
listeners: [{{bind: "127.0.0.1:8080"}}]
services:
  shop:
    upstreams: {{blue: {{servers: ["127.0.0.1:9001"]}}, green: {{servers: ["127.0.0.1:9002"]}}}}
    gates: {{lag: {dict(gate)}}}
"""
    return load_text(text, environ=environ).services[0].gates[0].settings


@pytest.fixture
async def fake(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FakeCloudWatch]:
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    async with FakeCloudWatch() as served:
        monkeypatch.setenv("AWS_ENDPOINT_URL_CLOUDWATCH", served.url)
        yield served


@asynccontextmanager
async def gate_of(gate: Mapping[str, Any]) -> AsyncIterator[Gate]:
    async def turn() -> None:
        """No pace."""

    context = Context(("blue", "green"), 5.0, turn, lambda what, remedy: None)
    made = make_gate(settings_of(gate), context)
    yield made
    await made.close()


def question(at: float = NOON, *, step: int = 1, since: float = 0.0) -> GateQuestion:
    return GateQuestion("shop", "green", "s1", step, since, at)


def minutes(*newest_first: float, end: int = NOON - 60) -> dict[int, float]:
    return {end - 60 * (n + 1): value for n, value in enumerate(newest_first)}


async def test_a_metric_within_its_limit_passes_and_what_is_newer_is_left_out(
    fake: FakeCloudWatch,
) -> None:
    values = minutes(9.0, 0.2, 0.3, 0.1, end=NOON)
    fake.put("AWS/ApplicationELB", "TargetResponseTime", DIMENSIONS, "p99", values)
    async with gate_of(METRIC) as gate:
        result = await gate.check(question())
        assert (result.verdict, result.value) == (PASS, 0.2)
        assert "0.2 s at 11:58:00Z, at most 0.5 s, as all 3 values" in result.reason
        assert [call.note for call in fake.journal] == ["GetMetricData"]


async def test_a_metric_above_its_limit_fails_with_value_unit_limit_and_place(
    fake: FakeCloudWatch,
) -> None:
    fake.put(
        "AWS/ApplicationELB", "TargetResponseTime", DIMENSIONS, "p99", minutes(0.812, 0.3, 0.1)
    )
    async with gate_of(METRIC) as gate:
        result = await gate.check(question())
    assert (result.verdict, result.value) == (FAIL, 0.812)
    assert result.reason == (
        "AWS/ApplicationELB TargetResponseTime (p99, TargetGroup=targetgroup/shop-green/1, "
        "LoadBalancer=app/shop/5): 0.812 s at 11:58:00Z, not at most 0.5 s"
    )


@pytest.mark.parametrize("value", [NAN, INF, -INF])
async def test_no_number_never_passes(fake: FakeCloudWatch, value: float) -> None:
    fake.put(
        "AWS/ApplicationELB", "TargetResponseTime", DIMENSIONS, "p99", minutes(value, 0.1, 0.1)
    )
    async with gate_of(METRIC) as gate:
        assert (await gate.check(question())).verdict is INCONCLUSIVE


async def test_a_dimension_too_few_is_another_metric_and_is_warned_of(
    fake: FakeCloudWatch,
) -> None:
    fake.put("AWS/ApplicationELB", "TargetResponseTime", DIMENSIONS, "p99", minutes(0.1, 0.1, 0.1))
    fewer = {**METRIC, "dimensions": {"LoadBalancer": "app/shop/5"}}
    async with gate_of(fewer) as gate:
        assert (await gate.check(question())).verdict is INCONCLUSIVE
        [warning] = await gate.check_setup()  # type: ignore[attr-defined]
    assert (
        "no metric with exactly these dimensions; there are: {LoadBalancer=app/shop/5, " in warning
    )
    async with gate_of(METRIC) as gate:
        assert await gate.check_setup() == []  # type: ignore[attr-defined]
    other = {**METRIC, "dimensions": {"LoadBalancer": "app/other/5"}}
    async with gate_of(other) as gate:
        [warning] = await gate.check_setup()  # type: ignore[attr-defined]
    assert "there are: {LoadBalancer=app/shop/5, TargetGroup=" in warning


async def test_metrics_are_listed_through_all_pages(fake: FakeCloudWatch) -> None:
    fake.page_max = 1
    for name in ("a", "b"):
        fake.put(
            "AWS/ApplicationELB", "TargetResponseTime", {**DIMENSIONS, "Zone": name}, "p99", {}
        )
    fake.put("AWS/ApplicationELB", "TargetResponseTime", DIMENSIONS, "p99", {})
    async with gate_of(METRIC) as gate:
        assert await gate.check_setup() == []  # type: ignore[attr-defined]
    assert len(fake.journal) == 3


async def test_values_are_read_through_all_pages(fake: FakeCloudWatch) -> None:
    fake.page_max = 1
    fake.put("AWS/ApplicationELB", "TargetResponseTime", DIMENSIONS, "p99", minutes(0.1, 0.2, 0.3))
    async with gate_of(METRIC) as gate:
        assert (await gate.check(question())).verdict is PASS
        assert len(fake.journal) == 3
        fake.status = "PartialData"
        assert (await gate.check(question())).verdict is INCONCLUSIVE


async def test_what_is_older_than_the_step_is_not_looked_at(fake: FakeCloudWatch) -> None:
    fake.put("AWS/ApplicationELB", "TargetResponseTime", DIMENSIONS, "p99", minutes(0.1, 0.1, 9.0))
    async with gate_of(METRIC) as gate:
        result = await gate.check(question(since=NOON - 185))
        assert result.verdict is INCONCLUSIVE
        assert "2 of 3 periods of 60 s are over since the weights were moved" in result.reason
        asked = len(fake.journal)
        assert (await gate.check(question(since=NOON - 30))).verdict is INCONCLUSIVE
        assert len(fake.journal) == asked, "there is nothing to ask for yet"
        # At the first step nothing has been moved: the values of before count.
        first = await gate.check(question(step=0, since=NOON - 1))
        assert "9 s at 11:56:00Z" in first.reason
    async with gate_of({**METRIC, "since_step": False, "points": 2}) as gate:
        assert (await gate.check(question(since=NOON - 1))).verdict is PASS


async def test_a_bad_value_since_the_step_fails_before_all_are_there(
    fake: FakeCloudWatch,
) -> None:
    fake.put("AWS/ApplicationELB", "TargetResponseTime", DIMENSIONS, "p99", minutes(9.0))
    async with gate_of(METRIC) as gate:
        assert (await gate.check(question(since=NOON - 125))).verdict is FAIL


@pytest.mark.parametrize(
    ("status", "message", "reason"),
    [
        ("Forbidden", ("Forbidden", "Authentication too complex"), "Authentication too complex"),
        ("InternalError", None, "InternalError"),
    ],
)
async def test_what_could_not_be_asked_is_an_error(
    fake: FakeCloudWatch, status: str, message: tuple[str, str] | None, reason: str
) -> None:
    fake.put("AWS/ApplicationELB", "TargetResponseTime", DIMENSIONS, "p99", minutes(0.1, 0.1, 0.1))
    fake.status, fake.message = status, message
    async with gate_of(METRIC) as gate:
        result = await gate.check(question())
    assert (result.verdict, reason in result.reason) == (ERROR, True), result.reason


async def test_two_series_never_pass(fake: FakeCloudWatch) -> None:
    fake.put("AWS/ApplicationELB", "TargetResponseTime", DIMENSIONS, "p99", minutes(0.1, 0.1, 0.1))
    fake.twice = True
    async with gate_of(METRIC) as gate:
        result = await gate.check(question())
    assert result.verdict is INCONCLUSIVE
    assert "2 series where one was meant" in result.reason


@pytest.mark.parametrize(
    "fault", [Fault.THROTTLED, Fault.DENIED, Fault.UNAVAILABLE, Fault.LOST_AFTER]
)
@pytest.mark.parametrize("kind", ["metric", "alarm"])
async def test_a_fault_is_an_error_once_and_raises_nothing(
    fake: FakeCloudWatch, fault: Fault, kind: str
) -> None:
    fake.put("AWS/ApplicationELB", "TargetResponseTime", DIMENSIONS, "p99", minutes(0.1, 0.1, 0.1))
    fake.alarm("green-5xx", "OK")
    fake.inject(fault, writes=False)
    async with gate_of(METRIC if kind == "metric" else ALARM) as gate:
        result = await gate.check(question())
        assert result.verdict is ERROR
        assert result.reason.startswith("CloudWatch: ")
        assert CREDENTIALS["AWS_SECRET_ACCESS_KEY"] not in result.reason
        assert (await gate.check(question())).verdict is PASS


# ---------------------------------------------------------------- made ready


@pytest.mark.parametrize(
    ("settings", "name", "dimensions", "good", "bad"),
    [
        ({"instance": "shop-2"}, "ReplicaLag", {"DBInstanceIdentifier": "shop-2"}, 5, 6),
        (
            {"replication": "aurora", "instance": "shop-2"},
            "AuroraReplicaLag", {"DBInstanceIdentifier": "shop-2"}, 5000, 5001,
        ),
        (
            {"replication": "aurora_global", "cluster": "shop", "source_region": "us-east-1"},
            "AuroraGlobalDBReplicationLag",
            {"DBClusterIdentifier": "shop", "SourceRegion": "us-east-1"}, 5000, 5001,
        ),
        (
            {"replication": "aurora_binlog", "cluster": "shop"},
            "AuroraBinlogReplicaLag", {"DBClusterIdentifier": "shop"}, 5, -1,
        ),
        (
            {"replication": "aurora_binlog", "instance": "shop-1"},
            "AuroraBinlogReplicaLag", {"DBInstanceIdentifier": "shop-1"}, 5, -1,
        ),
    ],
)  # fmt: skip
async def test_the_lag_of_a_replica(
    fake: FakeCloudWatch,
    settings: Mapping[str, Any],
    name: str,
    dimensions: Mapping[str, str],
    good: float,
    bad: float,
) -> None:
    gate_settings = {"kind": "rds_replica_lag", "at_most": "5s", **settings}
    fake.put("AWS/RDS", name, dimensions, "Maximum", minutes(good, 0, 0))
    async with gate_of(gate_settings) as gate:
        result = await gate.check(question(since=NOON - 1))
        assert (result.verdict, result.value) == (PASS, 5.0)
        fake.put("AWS/RDS", name, dimensions, "Maximum", minutes(bad, 0, 0))
        assert (await gate.check(question())).verdict is FAIL
        fake.put("AWS/RDS", name, dimensions, "Maximum", minutes(-1, 0, 0))
        stopped = await gate.check(question())
        assert (stopped.verdict, stopped.value) == (FAIL, -1)
        assert "nothing is replicated" in stopped.reason
        fake.values.clear()
        assert (await gate.check(question())).verdict is INCONCLUSIVE


S3: Final = {
    "kind": "s3_replication",
    "source": "shop-media",
    "destination": "shop-media-green",
    "rule_id": "all to green",
    "region": "eu-central-1",
    "source_region": "eu-west-1",
    "at_most": "30s",
}
RULE: Final = {
    "SourceBucket": "shop-media",
    "DestinationBucket": "shop-media-green",
    "RuleId": "all to green",
}


def put_s3(fake: FakeCloudWatch, latency: float, pending: float, failed: float) -> None:
    fake.put("AWS/S3", "ReplicationLatency", RULE, "Maximum", minutes(latency, 0, 0))
    fake.put("AWS/S3", "OperationsPendingReplication", RULE, "Maximum", minutes(pending, 0, 0))
    fake.put("AWS/S3", "OperationsFailedReplication", RULE, "Sum", minutes(failed, 0, 0))


async def test_the_replication_of_a_bucket_by_three_metrics_of_two_regions(
    fake: FakeCloudWatch,
) -> None:
    put_s3(fake, 30, 0, 0)
    async with gate_of(S3) as gate:
        result = await gate.check(question())
        assert result.verdict is PASS
        assert len(fake.journal) == 2, "one call for each region"
        for latency, pending, failed, name in (
            (31, 0, 0, "ReplicationLatency"),
            (0, 1, 0, "OperationsPendingReplication"),
            (0, 0, 1, "OperationsFailedReplication"),
        ):
            put_s3(fake, latency, pending, failed)
            result = await gate.check(question())
            assert (result.verdict, name in result.reason) == (FAIL, True), result.reason
        put_s3(fake, 0, 0, 0)
        del fake.values[
            ("AWS/S3", "OperationsPendingReplication", frozenset(RULE.items())), "Maximum"
        ]
        result = await gate.check(question())
        assert result.verdict is INCONCLUSIVE
        assert "OperationsPendingReplication" in result.reason


async def test_what_is_off_is_not_asked_for(fake: FakeCloudWatch) -> None:
    fake.put("AWS/S3", "ReplicationLatency", RULE, "Maximum", minutes(1, 1, 1))
    async with gate_of({**S3, "pending": "off", "failed": "off"}) as gate:
        assert (await gate.check(question())).verdict is PASS
        assert await gate.check_setup() == []  # type: ignore[attr-defined]
    assert b"Operations" not in b"".join(call.body for call in fake.journal)


# ---------------------------------------------------------------- alarms

ALARM: Final = {"kind": "cloudwatch_alarm", "names": ["green-5xx"], "after": "2m"}


@pytest.mark.parametrize(
    ("states", "verdict"),
    [
        (["OK", "OK"], PASS),
        (["OK", "ALARM"], FAIL),
        (["INSUFFICIENT_DATA", "ALARM"], FAIL),
        (["OK", "INSUFFICIENT_DATA"], INCONCLUSIVE),
        (["OK", "SOMETHING_NEW"], INCONCLUSIVE),
        (["OK", None], ERROR),
    ],
)
async def test_alarms(
    fake: FakeCloudWatch, states: Sequence[str | None], verdict: GateVerdict
) -> None:
    names = ["green-5xx", "green-latency"]
    fake.alarm("another", "ALARM")
    for name, state in zip(names, states, strict=True):
        if state is not None:
            fake.alarm(name, state, composite=name == "green-latency")
    async with gate_of({**ALARM, "names": names}) as gate:
        result = await gate.check(question())
    assert result.verdict is verdict
    if verdict is FAIL:
        assert (
            "alarm green-latency (CloudWatch) is ALARM since 2026-11-01 00:00:00Z" in result.reason
        )


async def test_an_alarm_that_is_ok_says_nothing_of_a_step_that_was_just_made(
    fake: FakeCloudWatch,
) -> None:
    fake.alarm("green-5xx", "OK")
    async with gate_of(ALARM) as gate:
        early = await gate.check(question(since=NOON - 119))
        assert (early.verdict, "1 s more" in early.reason) == (INCONCLUSIVE, True)
        assert (await gate.check(question(since=NOON - 120))).verdict is PASS
        assert (await gate.check(question(step=0, since=NOON))).verdict is PASS
        fake.alarm("green-5xx", "ALARM")
        assert (await gate.check(question(since=NOON))).verdict is FAIL


async def test_an_alarm_whose_evaluation_is_in_doubt_does_not_pass(fake: FakeCloudWatch) -> None:
    fake.alarm("green-5xx", "OK", EvaluationState="PARTIAL_DATA")
    async with gate_of(ALARM) as gate:
        result = await gate.check(question())
    assert (result.verdict, "PARTIAL_DATA" in result.reason) == (INCONCLUSIVE, True)


# ---------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("gate", "said"),
    [
        ({**METRIC, "at_most": None}, "at_most"),
        ({**METRIC, "at_least": 1}, "it is below at_least (1): nothing would pass"),
        ({**METRIC, "at_most": "5s"}, "expected a number"),
        ({**METRIC, "period": "90s"}, "a multiple of `1m`"),
        ({**METRIC, "region": "Europe"}, "a region of AWS, such as `eu-west-1`"),
        ({**ALARM, "names": []}, "it is empty"),
        ({**ALARM, "names": ["a", "a"]}, "listed twice"),
        ({"kind": "rds_replica_lag", "at_most": "5s"}, "it must be given for read_replica"),
        (
            {"kind": "rds_replica_lag", "at_most": "5s", "instance": "i", "cluster": "c"},
            "read_replica is told by instance",
        ),
        (
            {"kind": "rds_replica_lag", "at_most": "5s", "replication": "aurora_global",
             "cluster": "c"},
            "the primary cluster's region",
        ),
        (
            {"kind": "rds_replica_lag", "at_most": "5s", "instance": "i",
             "source_region": "eu-west-1"},
            "it belongs to aurora_global only",
        ),
        ({**S3, "at_most": "off", "pending": "off", "failed": "off"}, "nothing is looked at"),
    ],
)  # fmt: skip
def test_settings_that_do_not_go_together_are_refused(gate: Mapping[str, Any], said: str) -> None:
    given = {key: value for key, value in gate.items() if value is not None}
    with pytest.raises(SettingsError) as raised:
        settings_of(given)
    assert said in str(raised.value)
    assert "services.shop.gates.lag" in str(raised.value)


# ---------------------------------------------------------------- another imitation of it


async def test_against_another_imitation_of_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    """moto tells the truth of a maximum, and of a dimension that is another."""
    import boto3
    from moto.server import ThreadedMotoServer

    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL_CLOUDWATCH", f"http://{host}:{port}")
    try:
        client = boto3.client("cloudwatch")
        # moto refuses values of long ago.
        now = int(datetime.now(UTC).timestamp()) // 60 * 60
        for minute, lags in ((1, (90.0,)), (2, (1.0, 4.0)), (3, (2.0,)), (4, (3.0,))):
            for seconds in lags:
                datum: dict[str, Any] = {
                    "MetricName": "ReplicaLag", "Value": seconds, "Unit": "Seconds",
                    "Timestamp": now - 60 * minute,
                    "Dimensions": [{"Name": "DBInstanceIdentifier", "Value": "shop-2"}],
                }  # fmt: skip
                client.put_metric_data(Namespace="AWS/RDS", MetricData=[datum])
        lag = {"kind": "rds_replica_lag", "at_most": "5s", "instance": "shop-2"}
        async with gate_of(lag) as gate:
            result = await gate.check(question(now))
            assert (result.verdict, result.value) == (PASS, 4.0), result.reason
            assert (await gate.check(question(now + 60))).verdict is FAIL
            assert await gate.check_setup() == []  # type: ignore[attr-defined]
        async with gate_of({**lag, "instance": "shop-3"}) as gate:
            assert (await gate.check(question(now))).verdict is INCONCLUSIVE
            [warning] = await gate.check_setup()  # type: ignore[attr-defined]
            assert "{DBInstanceIdentifier=shop-2}" in warning
        client.put_metric_alarm(
            AlarmName="green-5xx", ComparisonOperator="GreaterThanThreshold", Threshold=1.0,
            EvaluationPeriods=1, MetricName="x", Namespace="y", Period=60, Statistic="Sum",
        )  # fmt: skip
        for state, verdict in (("OK", PASS), ("ALARM", FAIL), ("INSUFFICIENT_DATA", INCONCLUSIVE)):
            client.set_alarm_state(AlarmName="green-5xx", StateValue=state, StateReason="so it is")
            async with gate_of(ALARM) as gate:
                assert (await gate.check(question(now))).verdict is verdict
    finally:
        server.stop()
