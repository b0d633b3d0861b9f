"""Kubernetes: a Service's selector, Gateway API routes, and EndpointSlices as servers."""

from typing import ClassVar, Literal

from turnout.config.knobs import needed
from turnout.config.outer.common import KIND, DiscoverSection, OuterSection


class KubernetesService(OuterSection):
    """A Service whose selector names one of two Deployments."""

    module: ClassVar[str] = "kubernetes_service"

    kind: Literal["kubernetes_service"] = needed(KIND)


class GatewayApi(OuterSection):
    """Two weighted backends of a Gateway API HTTPRoute."""

    module: ClassVar[str] = "gateway_api"

    kind: Literal["gateway_api"] = needed(KIND)


class EndpointSlices(DiscoverSection):
    """The endpoints of a Kubernetes Service."""

    module: ClassVar[str] = "endpoint_slices"

    kind: Literal["kubernetes"] = needed(KIND)
