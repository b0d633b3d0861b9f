"""Google Cloud: Cloud Run's traffic, Cloud DNS, URL maps of load balancers."""

from typing import ClassVar, Literal

from turnout.config.knobs import needed
from turnout.config.outer.common import KIND, OuterSection


class CloudRun(OuterSection):
    """Two revisions of a Cloud Run service."""

    module: ClassVar[str] = "cloud_run"

    kind: Literal["cloud_run"] = needed(KIND)


class CloudDns(OuterSection):
    """A weighted record set of Cloud DNS."""

    module: ClassVar[str] = "cloud_dns"

    kind: Literal["cloud_dns"] = needed(KIND)


class UrlMap(OuterSection):
    """Weighted backend services in the URL map of a Google Cloud load balancer."""

    module: ClassVar[str] = "url_map"

    kind: Literal["url_map"] = needed(KIND)
