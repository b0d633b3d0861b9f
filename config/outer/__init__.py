"""Settings of what lies beyond the proxy: outer layers, sources of servers, gates; by kind.

`common` has what all of a sort have; a file each for a family. What carries them out is in
`control/outer`, and is loaded by its kind.
"""

from typing import Annotated, TypeAlias

from pydantic import Field

from turnout.config.outer.aws import (
    BeanstalkInstances,
    CloudWatchAlarm,
    CloudWatchMetric,
    ElasticBeanstalk,
    LoadBalancer,
    RdsReplicaLag,
    S3Replication,
)
from turnout.config.outer.azure import AppService, TrafficManager
from turnout.config.outer.generic import Command, Webhook
from turnout.config.outer.google import CloudDns, CloudRun, UrlMap
from turnout.config.outer.kubernetes import EndpointSlices, GatewayApi, KubernetesService
from turnout.config.outer.route53 import Route53

OuterKind: TypeAlias = Annotated[
    Route53
    | ElasticBeanstalk
    | LoadBalancer
    | AppService
    | TrafficManager
    | CloudRun
    | CloudDns
    | UrlMap
    | KubernetesService
    | GatewayApi
    | Webhook
    | Command,
    Field(discriminator="kind"),
]
DiscoverKind: TypeAlias = Annotated[
    EndpointSlices | BeanstalkInstances, Field(discriminator="kind")
]
GateKind: TypeAlias = Annotated[
    CloudWatchMetric | CloudWatchAlarm | RdsReplicaLag | S3Replication,
    Field(discriminator="kind"),
]
