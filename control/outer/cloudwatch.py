"""Gates on CloudWatch: a metric, alarms, and how far a database or a bucket is behind.

Each question is one GetMetricData (of each region) for the newest whole periods, or one
DescribeAlarms; what its answer means is said by `cloudwatch_values`. The two data problems of a
blue-green switch have gates made ready: the lag of a replica in RDS or Aurora, and of an S3
bucket's replication.
"""

from collections.abc import Sequence
from itertools import groupby
from typing import Any, Final

from turnout.config.outer.aws import (
    CloudWatchAlarm,
    CloudWatchMetric,
    RdsReplicaLag,
    Replication,
    S3Replication,
)
from turnout.control.outer.aws import AwsClient
from turnout.control.outer.cloudwatch_values import (
    Metric,
    alarms_verdict,
    as_dimensions,
    series_of,
    together,
    too_early,
    verdict_of,
    window,
)
from turnout.control.outer.seams import (
    Context,
    Gate,
    GateQuestion,
    GateResult,
    GateVerdict,
    OuterError,
)

_MS: Final = 0.001
_SIMILAR_MAX: Final = 5
AnyMetricSettings = CloudWatchMetric | RdsReplicaLag | S3Replication


# ---------------------------------------------------------------- which metrics


def metrics_of(settings: AnyMetricSettings) -> list[Metric]:
    """What a gate looks at, all of which must be within its limits."""
    match settings:
        case CloudWatchMetric():
            return [
                Metric(
                    id="m1",
                    region=settings.region,
                    namespace=settings.namespace,
                    name=settings.metric,
                    dimensions=tuple(settings.dimensions.items()),
                    stat=settings.stat,
                    unit=settings.unit,
                    at_most=settings.at_most,
                    at_least=settings.at_least,
                )
            ]
        case RdsReplicaLag():
            return [_replica_lag(settings)]
        case S3Replication():
            return _s3_replication(settings)


def _replica_lag(settings: RdsReplicaLag) -> Metric:
    """Source: the metrics' reference in the user guides of RDS and Aurora."""
    instance = ("DBInstanceIdentifier", str(settings.instance))
    cluster = ("DBClusterIdentifier", str(settings.cluster))
    source = ("SourceRegion", str(settings.source_region))
    name, dimensions, scale = {
        Replication.READ_REPLICA: ("ReplicaLag", (instance,), 1.0),
        Replication.AURORA: ("AuroraReplicaLag", (instance,), _MS),
        Replication.AURORA_GLOBAL: ("AuroraGlobalDBReplicationLag", (cluster, source), _MS),
        Replication.AURORA_BINLOG: (
            "AuroraBinlogReplicaLag", (cluster if settings.cluster else instance,), 1.0,
        ),
    }[settings.replication]  # fmt: skip
    return Metric(
        id="lag",
        region=settings.region,
        namespace="AWS/RDS",
        name=name,
        dimensions=dimensions,
        stat="Maximum",
        unit="s",
        at_most=settings.at_most,
        scale=scale,
        negative_fails=True,
    )


def _s3_replication(settings: S3Replication) -> list[Metric]:
    """Source: "Using S3 Replication metrics" in the user guide of S3."""
    dimensions = (
        ("SourceBucket", settings.source),
        ("DestinationBucket", settings.destination),
        ("RuleId", settings.rule_id),
    )
    there, source = settings.region, settings.source_region or settings.region
    asked = (
        ("latency", "ReplicationLatency", there, "Maximum", "s", settings.at_most),
        ("pending", "OperationsPendingReplication", there, "Maximum", "", settings.pending),
        ("failed", "OperationsFailedReplication", source, "Sum", "", settings.failed),
    )
    return [
        Metric(id_, region, "AWS/S3", name, dimensions, stat, unit, at_most=at_most)
        for id_, name, region, stat, unit, at_most in asked
        if at_most is not None
    ]


# ---------------------------------------------------------------- gates


class MetricGate:
    """Passes when all of its metrics' newest values are within their limits."""

    def __init__(self, settings: AnyMetricSettings, context: Context) -> None:
        self._settings = settings
        self._metrics = metrics_of(settings)
        # Values of a replica say how it stands now, whatever the weights did.
        self._since_step = isinstance(settings, CloudWatchMetric) and settings.since_step
        self._clients = {
            region: AwsClient("cloudwatch", context, who="CloudWatch", region=region)
            for region in {metric.region for metric in self._metrics}
        }

    async def check(self, question: GateQuestion) -> GateResult:
        settings = self._settings
        # At the first step nothing has been moved yet.
        since = question.since if self._since_step and question.step > 0 else None
        asked = window(
            question.at,
            since=since,
            period_s=int(settings.period),
            points=settings.points,
            delay_s=settings.delay,
        )
        if asked.periods == 0:
            return together([too_early(metric, asked) for metric in self._metrics])
        results: list[GateResult] = []
        for region, metrics in _by_region(self._metrics):
            try:
                answered = await self._clients[region].every(
                    "get_metric_data",
                    "MetricDataResults",
                    sends="NextToken",
                    gets="NextToken",
                    MetricDataQueries=[metric.query(asked.period_s) for metric in metrics],
                    StartTime=asked.start,
                    EndTime=asked.end,
                    ScanBy="TimestampDescending",
                )
            except OuterError as error:
                results.append(GateResult(GateVerdict.ERROR, str(error)))
                continue
            series = series_of(answered)
            for metric in metrics:
                result = verdict_of(metric, series.get(metric.id, ()), asked)
                undecided = result.verdict is GateVerdict.INCONCLUSIVE
                if undecided and asked.periods < asked.points:
                    result = too_early(metric, asked)
                results.append(result)
        return together(results)

    async def check_setup(self) -> list[str]:
        """What CloudWatch does not list just so: a metric that nobody has written lately, or
        whose dimensions are others."""
        warnings = []
        for metric in self._metrics:
            try:
                listed = await self._listed(metric, metric.dimensions[:10])
                if any(_same(one, metric) for one in listed):
                    continue
                others = listed or await self._listed(metric, ())
            except OuterError as error:
                warnings.append(str(error))
                continue
            similar = sorted({_dimensions(one) for one in others})[:_SIMILAR_MAX]
            there = f"; there are: {', '.join(similar)}" if similar else ""
            warnings.append(
                f"{metric.place}: CloudWatch lists no metric with exactly these dimensions{there}"
            )
        return warnings

    async def close(self) -> None:
        for client in self._clients.values():
            await client.close()

    async def _listed(
        self, metric: Metric, dimensions: Sequence[tuple[str, str]]
    ) -> list[dict[str, Any]]:
        return await self._clients[metric.region].every(
            "list_metrics",
            "Metrics",
            sends="NextToken",
            gets="NextToken",
            Namespace=metric.namespace,
            MetricName=metric.name,
            Dimensions=as_dimensions(dimensions),
        )


def _by_region(metrics: Sequence[Metric]) -> list[tuple[str | None, list[Metric]]]:
    def region(metric: Metric) -> str:
        return metric.region or ""

    return [
        (key or None, list(group)) for key, group in groupby(sorted(metrics, key=region), region)
    ]


def _same(listed: dict[str, Any], metric: Metric) -> bool:
    there = {(one["Name"], one["Value"]) for one in listed.get("Dimensions") or ()}
    return there == set(metric.dimensions)


def _dimensions(listed: dict[str, Any]) -> str:
    pairs = sorted((one["Name"], one["Value"]) for one in listed.get("Dimensions") or ())
    return "{" + ", ".join(f"{name}={value}" for name, value in pairs) + "}"


class AlarmGate:
    """Passes when all of its alarms are `OK`."""

    def __init__(self, settings: CloudWatchAlarm, context: Context) -> None:
        self._settings = settings
        self._place = f"CloudWatch in {settings.region}" if settings.region else "CloudWatch"
        self._client = AwsClient("cloudwatch", context, who="CloudWatch", region=settings.region)

    async def check(self, question: GateQuestion) -> GateResult:
        try:
            found = await self._found()
        except OuterError as error:
            return GateResult(GateVerdict.ERROR, str(error))
        early = ""
        left_s = question.since + self._settings.after - question.at
        if question.step > 0 and left_s > 0:
            early = f"{left_s:.0f} s more until it speaks of the last step (after)"
        return alarms_verdict(found, self._settings.names, self._place, early)

    async def check_setup(self) -> list[str]:
        """An alarm that is not there is found by `check`."""
        return []

    async def close(self) -> None:
        await self._client.close()

    async def _found(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        for items in ("MetricAlarms", "CompositeAlarms"):
            found += await self._client.every(
                "describe_alarms",
                items,
                sends="NextToken",
                gets="NextToken",
                AlarmNames=list(self._settings.names),
                # Left out, it is of metric alarms alone.
                AlarmTypes=[items.removesuffix("s")],
                MaxRecords=100,
            )
        return found


def make_gate(settings: AnyMetricSettings | CloudWatchAlarm, context: Context) -> Gate:
    if isinstance(settings, CloudWatchAlarm):
        return AlarmGate(settings, context)
    return MetricGate(settings, context)
