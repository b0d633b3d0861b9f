"""Route 53: weighted records, or one record whose target is switched whole."""

from typing import ClassVar, Literal

from turnout.config.knobs import needed
from turnout.config.outer.common import KIND, OuterSection


class Route53(OuterSection):
    """DNS records of a hosted zone of Amazon Route 53 (`turnout[aws]`)."""

    module: ClassVar[str] = "route53"
    paced: ClassVar[tuple[float, int]] = (1.0, 5)

    kind: Literal["route53"] = needed(KIND)
