"""AWS beside Route 53: Elastic Beanstalk, load balancers, and gates on CloudWatch."""

from typing import ClassVar, Literal

from turnout.config.knobs import needed
from turnout.config.outer.common import KIND, DiscoverSection, GateSection, OuterSection


class ElasticBeanstalk(OuterSection):
    """Two environments of AWS Elastic Beanstalk that swap their names (`turnout[aws]`)."""

    module: ClassVar[str] = "elastic_beanstalk"

    kind: Literal["elastic_beanstalk"] = needed(KIND)


class LoadBalancer(OuterSection):
    """Weighted target groups of an Application Load Balancer (`turnout[aws]`)."""

    module: ClassVar[str] = "alb"

    kind: Literal["alb"] = needed(KIND)


class BeanstalkInstances(DiscoverSection):
    """The instances of an Elastic Beanstalk environment (`turnout[aws]`)."""

    module: ClassVar[str] = "elastic_beanstalk"

    kind: Literal["elastic_beanstalk"] = needed(KIND)


class CloudWatchMetric(GateSection):
    """A metric of CloudWatch within bounds (`turnout[aws]`)."""

    module: ClassVar[str] = "cloudwatch"

    kind: Literal["cloudwatch_metric"] = needed(KIND)


class CloudWatchAlarm(GateSection):
    """An alarm of CloudWatch that is not raised (`turnout[aws]`)."""

    module: ClassVar[str] = "cloudwatch"

    kind: Literal["cloudwatch_alarm"] = needed(KIND)


class RdsReplicaLag(GateSection):
    """How far a read replica of RDS, or an Aurora cluster, is behind (`turnout[aws]`)."""

    module: ClassVar[str] = "cloudwatch"

    kind: Literal["rds_replica_lag"] = needed(KIND)


class S3Replication(GateSection):
    """How far the replication of an S3 bucket is behind (`turnout[aws]`)."""

    module: ClassVar[str] = "cloudwatch"

    kind: Literal["s3_replication"] = needed(KIND)
