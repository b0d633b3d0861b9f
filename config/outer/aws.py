"""AWS beside Route 53: Elastic Beanstalk, load balancers, and gates on CloudWatch."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Literal

from turnout.config.document import Place
from turnout.config.knobs import (
    Choice,
    Count,
    Duration,
    Kind,
    Name,
    Number,
    OrOff,
    Pattern,
    Text,
    TrueOrFalse,
    Zero,
    knob,
    needed,
    person_text,
)
from turnout.config.outer.common import KIND, DiscoverSection, GateSection, OuterSection
from turnout.config.places import DnsName

REGION: Final = "Left out: boto3's own, as `AWS_DEFAULT_REGION` or its profile has it."


REGION_NAME: Final = Pattern(
    r"[a-z]{2,}(-[a-z]+)+-[0-9]{1,2}", "a region", "a region of AWS, such as `eu-west-1`"
)


@dataclass(frozen=True, slots=True)
class Arn(Kind):
    """The name of something of a load balancer."""

    resource: str
    example: str

    def read(self, value: Any, base: Path) -> str:
        text = person_text(value, "an ARN")
        where = r"arn:aws[a-z-]*:elasticloadbalancing:[a-z0-9-]+:[0-9]{12}"
        if not re.fullmatch(rf"{where}:{self.resource}/[!-~]{{1,512}}", text, re.ASCII):
            raise ValueError(f"expected {self.expected()}")
        return text

    def expected(self) -> str:
        return (
            f"an ARN: `arn:aws:elasticloadbalancing:REGION:ACCOUNT:{self.resource}/{self.example}`"
        )


ENVIRONMENT: Final = Pattern(
    r"[A-Za-z0-9][A-Za-z0-9-]{2,38}[A-Za-z0-9]",
    "an environment",
    "an environment's name (4 to 40 letters, digits and dashes) or its id (`e-` and 10 letters "
    "and digits)",
)


@dataclass(frozen=True, slots=True)
class Period(Duration):
    """How long each value of a metric is of."""

    def read(self, value: Any, base: Path) -> Any:
        seconds = Duration.read(self, value, base)
        if seconds not in (1, 5, 10, 20, 30) and seconds % 60:
            raise ValueError(f"expected {self.expected()}")
        return seconds

    def expected(self) -> str:
        return "a multiple of `1m` to `1d`; `1s`, `5s`, `10s`, `20s` or `30s` of a fine metric"


# ---------------------------------------------------------------- routers


class ElasticBeanstalk(OuterSection):
    """Two environments of AWS Elastic Beanstalk that swap their names (`turnout[aws]`). It
    switches whole: no split."""

    module: ClassVar[str] = "elastic_beanstalk"
    library: ClassVar[str] = "boto3"
    paced: ClassVar[tuple[float, int]] = (1.0, 5)

    kind: Literal["elastic_beanstalk"] = needed(KIND)
    region: Annotated[str | None, REGION_NAME] = knob(None, f"Where the environments are. {REGION}")
    environments: dict[Annotated[str, Name()], Annotated[str, ENVIRONMENT]] = needed(
        "Upstream -> its environment, by name or id."
    )
    cname: Annotated[str, DnsName()] = needed(
        "The name that clients come by, `shop.eu-west-1.elasticbeanstalk.com`: the upstream "
        "whose environment holds it has all weight."
    )
    ttl: Annotated[float, Duration("1s", "1d", Zero.NONE)] = knob(
        "60s", "How long clients may remember where `cname` led."
    )
    start_timeout: Annotated[float, Duration("10ms", "10m")] = knob(
        "30s",
        "A swap that was taken on and shows nothing of itself after so long has failed: both "
        "environments are ready, and each has the name that it had.",
    )

    def conflicts(self, upstreams: Sequence[str]) -> Iterator[tuple[Place, str]]:
        yield from _by_upstream("environments", self.environments, upstreams, "an environment")


class LoadBalancer(OuterSection):
    """Weighted target groups of an Application Load Balancer (`turnout[aws]`)."""

    module: ClassVar[str] = "alb"
    library: ClassVar[str] = "boto3"

    kind: Literal["alb"] = needed(KIND)
    rule_arn: Annotated[
        str | None, Arn("listener-rule", "app/shop/50dc6c495c0c9188/f2f7dc8efc522ab2/9683b2d02a6c")
    ] = knob(None, "The rule that forwards to the target groups.")
    listener_arn: Annotated[
        str | None, Arn("listener", "app/shop/50dc6c495c0c9188/f2f7dc8efc522ab2")
    ] = knob(None, "Instead of `rule_arn`: the listener whose default action forwards to them.")
    target_groups: dict[
        Annotated[str, Name()], Annotated[str, Arn("targetgroup", "shop-blue/73e2d6bc24d8a067")]
    ] = needed("Upstream -> its target group.")
    settle: Annotated[float, Duration("10ms", "10m", Zero.NONE)] = knob(
        "10s", "How long after a change the load balancer's nodes may still act on the old one."
    )

    @property
    def region(self) -> str:
        return str(self.rule_arn or self.listener_arn).split(":")[3]

    def conflicts(self, upstreams: Sequence[str]) -> Iterator[tuple[Place, str]]:
        yield from _by_upstream("target_groups", self.target_groups, upstreams, "a target group")
        if self.rule_arn and self.listener_arn:
            yield (
                ("listener_arn",),
                "rule_arn is given too: weights are either those of a rule, or those of the "
                "listener's default action. Remove one of the two",
            )
        elif not self.rule_arn and not self.listener_arn:
            yield (
                ("rule_arn",),
                "it must be given; or listener_arn, when the listener's default action forwards",
            )
        else:
            for name, arn in self.target_groups.items():
                if arn.split(":")[3] != self.region:
                    yield (
                        ("target_groups", name),
                        f"it is in {arn.split(':')[3]}, and the load balancer in {self.region}",
                    )


def _by_upstream(
    key: str, given: Mapping[str, str], upstreams: Sequence[str], what: str
) -> Iterator[tuple[Place, str]]:
    seen: dict[str, str] = {}
    for name, value in given.items():
        if name not in upstreams:
            yield (
                (key, name),
                f"it is no upstream of the service. Write one of {', '.join(upstreams)}",
            )
        elif seen.setdefault(value, name) != name:
            yield (key, name), f"it is {seen[value]}'s already. Write {what} of its own"
    for name in upstreams:
        if name not in given:
            yield (key,), f"{name} is missing; expected one for each of {', '.join(upstreams)}"


# ---------------------------------------------------------------- servers


class BeanstalkInstances(DiscoverSection):
    """The instances of an Elastic Beanstalk environment (`turnout[aws]`)."""

    module: ClassVar[str] = "elastic_beanstalk"
    library: ClassVar[str] = "boto3"

    kind: Literal["elastic_beanstalk"] = needed(KIND)
    region: Annotated[str | None, REGION_NAME] = knob(None, f"Where the environment is. {REGION}")
    environment: Annotated[str, ENVIRONMENT] = needed("The environment, by name or id.")
    port: Annotated[int, Count("1", "65535")] = knob(80, "Where the instances are served.")
    interval: Annotated[float, Duration("100ms", "1h")] = knob(
        "15s", "From one look at the environment to the next."
    )


# ---------------------------------------------------------------- gates


class _CloudWatchSection(GateSection):
    """A gate on values of CloudWatch. It passes when all of the newest `points` are within the
    limits, fails when the newest is not, and is inconclusive else."""

    module: ClassVar[str] = "cloudwatch"
    library: ClassVar[str] = "boto3"
    paced: ClassVar[tuple[float, int]] = (5.0, 20)

    period: Annotated[float, Period("1s", "1d")] = knob("1m", "How long each value is of.")
    points: Annotated[int, Count("1", "100")] = knob(
        3, "So many of the newest values are looked at; fewer are inconclusive."
    )
    delay: Annotated[float, Duration("1s", "1d", Zero.NONE)] = knob(
        "1m",
        "How long after its end a period may still change, or have no value yet. What is newer "
        "is not looked at.",
    )


class CloudWatchMetric(_CloudWatchSection):
    """A metric of CloudWatch within bounds (`turnout[aws]`)."""

    kind: Literal["cloudwatch_metric"] = needed(KIND)
    region: Annotated[str | None, REGION_NAME] = knob(None, f"Where the metric is. {REGION}")
    namespace: Annotated[str, Text(255, may_be_empty=False)] = needed(
        "The metric's namespace, such as `AWS/ApplicationELB`."
    )
    metric: Annotated[str, Text(255, may_be_empty=False)] = needed("The metric's name.")
    dimensions: dict[
        Annotated[str, Text(255, may_be_empty=False)],
        Annotated[str, Text(1024, may_be_empty=False)],
    ] = knob(
        {},
        "All dimensions of the metric, name -> value. One too few or too many is another metric, "
        "which has no values.",
    )
    stat: Annotated[str, Text(64, may_be_empty=False)] = knob(
        "Average", "Which statistic of a period: `Average`, `Maximum`, `Sum`, `p99`."
    )
    unit: Annotated[str, Text(64)] = knob("", "The values' unit, for what is said of them.")
    at_most: Annotated[float | None, Number()] = knob(None, "No value may be above.")
    at_least: Annotated[float | None, Number()] = knob(None, "No value may be below.")
    since_step: Annotated[bool, TrueOrFalse()] = knob(
        True,
        "Only periods that began after the weights were last moved are looked at; older ones "
        "say nothing of the step.",
    )

    def conflicts(self) -> Iterator[tuple[Place, str]]:
        if self.at_most is None and self.at_least is None:
            yield ("at_most",), "it must be given, or at_least, or both"
        elif (self.at_most or 0) < (self.at_least or 0) and None not in (
            self.at_most,
            self.at_least,
        ):
            yield ("at_most",), f"it is below at_least ({self.at_least:g}): nothing would pass"


class CloudWatchAlarm(GateSection):
    """Alarms of CloudWatch that are not raised (`turnout[aws]`): metric alarms and composite
    ones. All `OK` passes, one in `ALARM` fails, `INSUFFICIENT_DATA` is inconclusive."""

    module: ClassVar[str] = "cloudwatch"
    library: ClassVar[str] = "boto3"
    paced: ClassVar[tuple[float, int]] = (5.0, 20)

    kind: Literal["cloudwatch_alarm"] = needed(KIND)
    region: Annotated[str | None, REGION_NAME] = knob(None, f"Where the alarms are. {REGION}")
    names: tuple[Annotated[str, Text(255, may_be_empty=False)], ...] = needed(
        "The alarms' names, at most 100."
    )
    after: Annotated[float, Duration("1s", "1d", Zero.NONE)] = knob(
        "3m",
        "An alarm that is `OK` says nothing of a step that was just made: so long after the "
        "weights were moved it is inconclusive. As long as the alarm looks back.",
    )

    def conflicts(self) -> Iterator[tuple[Place, str]]:
        if not self.names:
            yield ("names",), "it is empty. Write the name of an alarm"
        if len(self.names) > 100:
            yield ("names",), "CloudWatch takes 100 at a time. Write several gates"
        for index, name in enumerate(self.names):
            if name in self.names[:index]:
                yield ("names", index), "it is listed twice. Remove one"


class Replication(StrEnum):
    """How a database's replica is fed; which metric tells its lag."""

    READ_REPLICA = "read_replica"
    AURORA = "aurora"
    AURORA_GLOBAL = "aurora_global"
    AURORA_BINLOG = "aurora_binlog"


class RdsReplicaLag(_CloudWatchSection):
    """How far a read replica of RDS, or of an Aurora cluster, is behind (`turnout[aws]`). One
    that does not replicate (-1) fails."""

    kind: Literal["rds_replica_lag"] = needed(KIND)
    region: Annotated[str | None, REGION_NAME] = knob(None, f"Where the replica is. {REGION}")
    replication: Annotated[Replication, Choice(Replication)] = knob(
        "read_replica",
        "`read_replica`: of RDS (`ReplicaLag` of `instance`). `aurora`: a reader of an Aurora "
        "cluster (`AuroraReplicaLag` of `instance`). `aurora_global`: the secondary cluster of "
        "an Aurora global database (`AuroraGlobalDBReplicationLag` of `cluster`, from "
        "`source_region`). `aurora_binlog`: an Aurora cluster fed by a binary log "
        "(`AuroraBinlogReplicaLag` of `cluster`, or of its `instance`).",
    )
    instance: Annotated[str | None, Name()] = knob(None, "The replica's instance.")
    cluster: Annotated[str | None, Name()] = knob(None, "The replica's cluster.")
    source_region: Annotated[str | None, REGION_NAME] = knob(
        None, "Of `aurora_global`: where the primary cluster is."
    )
    at_most: Annotated[float, Duration("1ms", "1d", Zero.NONE)] = needed("So far it may be behind.")

    def conflicts(self) -> Iterator[tuple[Place, str]]:
        given = (self.instance is not None, self.cluster is not None)
        if self.replication is Replication.AURORA_BINLOG:
            if given[0] == given[1]:
                yield ("cluster",), "aurora_binlog is told by either cluster or instance. Give one"
        else:
            of_cluster = self.replication is Replication.AURORA_GLOBAL
            needs, other = ("cluster", "instance") if of_cluster else ("instance", "cluster")
            if getattr(self, needs) is None:
                yield (needs,), f"it must be given for {self.replication.value}"
            if getattr(self, other) is not None:
                yield (other,), f"{self.replication.value} is told by {needs}. Write that instead"
        if self.replication is Replication.AURORA_GLOBAL:
            if self.source_region is None:
                yield ("source_region",), "it must be given: the primary cluster's region"
        elif self.source_region is not None:
            yield ("source_region",), "it belongs to aurora_global only. Remove it"


class S3Replication(_CloudWatchSection):
    """How far the replication of an S3 bucket is behind (`turnout[aws]`), by the metrics of a
    replication rule, which must be switched on there."""

    kind: Literal["s3_replication"] = needed(KIND)
    source: Annotated[str, Name()] = needed("The bucket that is replicated.")
    destination: Annotated[str, Name()] = needed("The bucket that it is replicated to.")
    rule_id: Annotated[str, Text(255, may_be_empty=False)] = needed(
        "The replication rule, by its ID."
    )
    region: Annotated[str | None, REGION_NAME] = knob(
        None,
        f"Where the destination is, which has the metrics of what is pending. {REGION}",
    )
    source_region: Annotated[str | None, REGION_NAME] = knob(
        None,
        "Where the source is, which has the metric of what has failed. Left out: as `region`.",
    )
    at_most: Annotated[float | None, OrOff(Duration("1s", "30d", Zero.NONE))] = knob(
        "1m", "So far the destination may be behind (`ReplicationLatency`)."
    )
    pending: Annotated[int | None, OrOff(Count("1", "1000000000", Zero.NONE))] = knob(
        0, "So many operations may be pending (`OperationsPendingReplication`)."
    )
    failed: Annotated[int | None, OrOff(Count("1", "1000000000", Zero.NONE))] = knob(
        0, "So many operations may have failed in a period (`OperationsFailedReplication`)."
    )

    def conflicts(self) -> Iterator[tuple[Place, str]]:
        if self.at_most is None and self.pending is None and self.failed is None:
            yield ("at_most",), "all of at_most, pending and failed are off: nothing is looked at"
