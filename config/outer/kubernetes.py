"""Kubernetes: a Service's selector, Gateway API routes, and EndpointSlices as servers."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, ClassVar, Final, Literal

from turnout.config.document import Place
from turnout.config.knobs import (
    Duration,
    Name,
    Pattern,
    Section,
    Text,
    Zero,
    knob,
    needed,
)
from turnout.config.outer.common import KIND, DiscoverSection, OuterSection
from turnout.config.places import ApiUrl, FilePath

_LABEL: Final = r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"

OBJECT_NAME: Final = Pattern(
    r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?",
    "a name",
    "1 to 253 of `a-z 0-9 - .`, first and last a letter or digit, as `kubectl get` shows it",
)


LABEL_KEY: Final = Pattern(
    rf"([a-z0-9]([-a-z0-9.]{{0,251}}[a-z0-9])?/)?{_LABEL}",
    "a label",
    "a label's key, such as `version` or `app.kubernetes.io/version`",
)


LABEL_VALUE: Final = Pattern(
    rf"({_LABEL})?", "a label's value", "a label's value: at most 63 of `A-Z a-z 0-9 - _ .`"
)


_Name = Annotated[str, OBJECT_NAME]
_Labels = dict[Annotated[str, LABEL_KEY], Annotated[str, LABEL_VALUE]]


class Cluster(Section):
    """How the API server is reached. In a pod nothing of it is needed."""

    namespace: Annotated[str | None, OBJECT_NAME] = knob(
        None, "Of the object. Left out: the namespace that this pod is in."
    )
    endpoint: Annotated[str | None, ApiUrl()] = knob(
        None,
        "The API server's URL. Left out: the cluster that this pod is in, by "
        "`KUBERNETES_SERVICE_HOST` and `KUBERNETES_SERVICE_PORT`.",
    )
    token_file: Annotated[str | None, FilePath()] = knob(
        None,
        "A bearer token's file, read again for each call. Left out: the pod's service account, "
        "or none where `endpoint` is given.",
    )
    ca_file: Annotated[str | None, FilePath()] = knob(
        None,
        "The certificates that sign the API server's. Left out: the pod's service account's, or "
        "the system's where `endpoint` is given.",
    )


class KubernetesService(Cluster, OuterSection):
    """A Service whose selector names one of two Deployments. It switches whole."""

    module: ClassVar[str] = "kubernetes_service"

    kind: Literal["kubernetes_service"] = needed(KIND)
    service: _Name = needed("The Service's name.")
    selectors: dict[Annotated[str, Name()], _Labels] = needed(
        "Upstream -> the labels of its pods, as `{blue: {version: blue}, green: {version: green}}`: "
        "the same keys on both sides. Other keys of the selector stay as they are."
    )
    settle: Annotated[float, Duration("100ms", "10m", Zero.NONE)] = knob(
        "5s",
        "So long the new pods must have been the Service's only endpoints before it counts as in "
        "sync: the nodes learn of them later, and none says when.",
    )

    def conflicts(self, upstreams: Sequence[str]) -> Iterator[tuple[Place, str]]:
        yield from _sides("selectors", self.selectors, upstreams)
        if len(self.selectors) != 2:
            return
        (one, first), (other, second) = self.selectors.items()
        if not first or set(first) != set(second):
            yield (
                ("selectors",),
                f"{one} has {_and(first)}, and {other} has {_and(second)}. Write the same keys on"
                " both sides, one at least",
            )
        elif first == second:
            yield (
                ("selectors",),
                f"{one} and {other} are the same pods. Write labels that tell them apart",
            )


class GatewayApi(Cluster, OuterSection):
    """Two weighted backends of a Gateway API HTTPRoute."""

    module: ClassVar[str] = "gateway_api"

    kind: Literal["gateway_api"] = needed(KIND)
    route: _Name = needed("The HTTPRoute's name.")
    backends: dict[Annotated[str, Name()], _Name] = needed(
        "Upstream -> the Service that it is in `backendRefs`: `{blue: shop-blue, green: shop-green}`."
    )
    rule: Annotated[str, Text(253)] = knob(
        "",
        'Which rule of the route: its `name`, or its place, `"0"` being the first. Left out: every '
        "rule that names both backends; their weights must agree.",
    )
    settle: Annotated[float, Duration("100ms", "10m", Zero.NONE)] = knob(
        "2s",
        "So long the route must have been accepted before it counts as in sync: the gateway's "
        "proxies learn of it later, and the route does not say when.",
    )

    def conflicts(self, upstreams: Sequence[str]) -> Iterator[tuple[Place, str]]:
        yield from _sides("backends", self.backends, upstreams)
        if len(set(self.backends.values())) < len(self.backends):
            yield ("backends",), "both are the same Service. Write two"


class EndpointSlices(Cluster, DiscoverSection):
    """The endpoints of a Kubernetes Service."""

    module: ClassVar[str] = "endpoint_slices"

    kind: Literal["kubernetes"] = needed(KIND)
    service: _Name = needed("The Service's name.")
    port: Annotated[str, Text(63)] = knob(
        "",
        'The name of the Service\'s port, or the number that the pods listen on, such as `"8080"`. '
        "Left out: the only one that there is.",
    )
    watch: Annotated[float, Duration("1s", "1h")] = knob(
        "1m",
        "How long one watch lasts before the next one goes on from there. A connection that died "
        "without a word is noticed by then.",
    )


def _sides(
    key: str, sides: Mapping[str, object], upstreams: Sequence[str]
) -> Iterator[tuple[Place, str]]:
    """What is written once for each upstream must name them all, and no other."""
    for name in sides:
        if name not in upstreams:
            yield (key, name), f"it is no upstream of the service. Write one of {_and(upstreams)}"
    for name in upstreams:
        if name not in sides:
            yield (key,), f"{name} is missing. Write one entry each for {_and(upstreams)}"


def _and(names: Sequence[str] | Mapping[str, object]) -> str:
    return " and ".join(names) if names else "nothing"
