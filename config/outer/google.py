"""Google Cloud: Cloud Run's traffic, Cloud DNS, URL maps of load balancers."""

import ipaddress
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
    Section,
    Zero,
    knob,
    needed,
    person_text,
)
from turnout.config.outer.common import KIND, OuterSection
from turnout.config.outer.credentials import GoogleCredentials
from turnout.config.places import DnsName, Endpoint, UrlPath

_Problem = tuple[Place, str]
_SETTLE: Final = (
    "So long after Google Cloud has said that a change is done it counts as in sync: it says so "
    "before all of its servers act on it."
)
_ENDPOINT: Final = "Where its API is; another one behind a private endpoint."


# ---------------------------------------------------------------- kinds of value


@dataclass(frozen=True, slots=True)
class BackendService(Kind):
    """A backend service by its name, or by its URL where names alone do not tell."""

    def read(self, value: Any, base: Path) -> str:
        text = person_text(value, "a backend service")
        # The host is left away: the API gives the same service by several of them.
        bare = re.sub(r"^https://[a-z.]+/compute/v1/", "", text)
        name = r"[a-z](?:[-a-z0-9]{0,61}[a-z0-9])?"
        if not re.fullmatch(rf"(?:[A-Za-z0-9:._/-]+/backendServices/)?{name}", bare, re.ASCII):
            raise ValueError(f"expected {self.expected()}")
        return bare

    def expected(self) -> str:
        return "a backend service's name, or `projects/P/global/backendServices/NAME`"


@dataclass(frozen=True, slots=True)
class IpAddress(Kind):
    """An address of one family, in its canonical spelling."""

    version: int

    def read(self, value: Any, base: Path) -> str:
        text = person_text(value, "an IP address")
        try:
            address = ipaddress.ip_address(text)
        except ValueError:
            address = None
        if address is None or address.version != self.version:
            raise ValueError(f"expected {self.expected()}")
        return str(address)

    def expected(self) -> str:
        return f"an IPv{self.version} address"


# ---------------------------------------------------------------- what they have in common


def _of_each(key: str, given: Mapping[str, object], upstreams: Sequence[str]) -> Iterator[_Problem]:
    """A mapping by upstreams names each of them, no other, and leads to two things."""
    for name in given:
        if name not in upstreams:
            known = ", ".join(upstreams)
            yield (key, name), f"it is no upstream of the service. Write one of {known}"
    for name in upstreams:
        if name not in given:
            yield (key,), f"{name} is missing; both upstreams are needed"
    values = list(given.values())
    if len(values) == 2 and values[0] == values[1]:
        yield (key,), f"{' and '.join(given)} are the same there. Write two different ones"


class GoogleSection(OuterSection):
    """What all systems of Google Cloud have."""

    project: Annotated[str, Name()] = needed("The project's id, or its number.")
    credentials: GoogleCredentials = knob(
        {}, "How Turnout gets its access tokens. Left out: from the metadata server."
    )
    settle: Annotated[float, Duration("1s", "1h", Zero.NONE)]

    def conflicts(self, upstreams: Sequence[str]) -> Iterator[_Problem]:
        for place, text in self.credentials.conflicts():
            yield ("credentials", *place), text
        if self.settle >= self.in_sync_timeout:
            yield (
                ("settle",),
                f"it is not shorter than in_sync_timeout ({self.in_sync_timeout:g} s), so no "
                f"change would ever be in sync in time. Write a longer in_sync_timeout",
            )


# ---------------------------------------------------------------- Cloud Run


class CloudRun(GoogleSection):
    """Two revisions of a Cloud Run service, by tags or by their names."""

    module: ClassVar[str] = "cloud_run"

    kind: Literal["cloud_run"] = needed(KIND)
    location: Annotated[str, Name()] = needed("Its region, such as `europe-west1`.")
    service: Annotated[str, Name()] = needed("The Cloud Run service's name.")
    tags: dict[Annotated[str, Name()], Annotated[str, Name()]] = knob(
        {},
        "Upstream -> the traffic tag of its revision, such as `{blue: blue, green: green}`. A "
        "deployment moves the idle side's tag to the revision that it makes, so nothing is to be "
        "written anew here for a release.",
    )
    revisions: dict[Annotated[str, Name()], Annotated[str, Name()]] = knob(
        {}, "Upstream -> the name of its revision, instead of `tags`. To be written for each one."
    )
    settle: Annotated[float, Duration("1s", "1h", Zero.NONE)] = knob("10s", _SETTLE)
    endpoint: Annotated[str, Endpoint()] = knob("https://run.googleapis.com", _ENDPOINT)

    def conflicts(self, upstreams: Sequence[str]) -> Iterator[_Problem]:
        yield from super().conflicts(upstreams)
        if self.tags and self.revisions:
            yield ("revisions",), "there are tags already. Leave one of them out"
        elif self.revisions:
            yield from _of_each("revisions", self.revisions, upstreams)
        elif self.tags:
            yield from _of_each("tags", self.tags, upstreams)
        else:
            tags = ", ".join(f"{name}: TAG" for name in upstreams)
            yield ("tags",), f"it must be given: {{{tags}}}; or revisions, by their names"


# ---------------------------------------------------------------- Cloud DNS


class Records(Section):
    """What a name leads to on one side: addresses, or another name."""

    a: tuple[Annotated[str, IpAddress(4)], ...] = knob([], "Its IPv4 addresses.", alias="A")
    aaaa: tuple[Annotated[str, IpAddress(6)], ...] = knob([], "Its IPv6 addresses.", alias="AAAA")
    cname: Annotated[str | None, DnsName()] = knob(
        None, "The name that it stands for. It has no addresses then.", alias="CNAME"
    )

    def by_type(self) -> Mapping[str, tuple[str, ...]]:
        """The types that are given, with their values."""
        given = {"A": self.a, "AAAA": self.aaaa, "CNAME": (self.cname,) if self.cname else ()}
        return {record_type: values for record_type, values in given.items() if values}


class CloudDnsMode(StrEnum):
    """How one name has two sides."""

    WEIGHTED = "weighted"
    WHOLE = "whole"


class CloudDns(GoogleSection):
    """A record set of Cloud DNS: weighted round robin, or one that is switched whole."""

    module: ClassVar[str] = "cloud_dns"

    kind: Literal["cloud_dns"] = needed(KIND)
    zone: Annotated[str, Name()] = needed("The managed zone's name, not its domain.")
    name: Annotated[str, DnsName(wildcard=True)] = needed(
        "The name whose records are switched: `shop.example`."
    )
    values: dict[Annotated[str, Name()], Records] = needed(
        "Upstream -> what the name leads to there, by record types; the same types for both. All "
        "of them are changed at once."
    )
    mode: Annotated[CloudDnsMode, Choice(CloudDnsMode)] = knob(
        "weighted",
        "`weighted`: record sets with a weighted round robin policy, one item for each side. "
        "`whole`: plain record sets, which have one side's values or the other's.",
    )
    settle: Annotated[float, Duration("1s", "1h", Zero.NONE)] = knob("2m", _SETTLE)
    endpoint: Annotated[str, Endpoint()] = knob("https://dns.googleapis.com", _ENDPOINT)

    def conflicts(self, upstreams: Sequence[str]) -> Iterator[_Problem]:
        yield from super().conflicts(upstreams)
        yield from _of_each("values", self.values, upstreams)
        sides = [(name, records.by_type()) for name, records in self.values.items()]
        for name, by_type in sides:
            if not by_type:
                yield ("values", name), "it is empty. Write A, AAAA or CNAME"
            elif "CNAME" in by_type and len(by_type) > 1:
                yield ("values", name, "CNAME"), "a CNAME has no other records beside it"
        if len(sides) != 2:
            return
        (one, first), (other, second) = sides
        if set(first) != set(second):
            yield (
                ("values",),
                f"{one} has {', '.join(first)} and {other} has {', '.join(second)}; expected the "
                f"same types for both, as they are switched together",
            )
        for record_type in first:
            if set(first[record_type]) & set(second.get(record_type, ())):
                yield (
                    ("values", other, record_type),
                    f"a value is {one}'s too: nobody could tell the sides apart. Write others",
                )


# ---------------------------------------------------------------- URL maps


class UrlMap(GoogleSection):
    """Weighted backend services in the URL map of an Application Load Balancer."""

    module: ClassVar[str] = "url_map"

    kind: Literal["url_map"] = needed(KIND)
    url_map: Annotated[str, Name()] = needed("The URL map's name.")
    region: Annotated[str | None, Name()] = knob(
        None, "The region of a regional URL map. Left out: it is a global one."
    )
    backend_services: dict[Annotated[str, Name()], Annotated[str, BackendService()]] = needed(
        "Upstream -> its backend service in `weightedBackendServices`."
    )
    path_matcher: Annotated[str | None, Name()] = knob(
        None,
        "The path matcher in which the weights are. Left out: they are the URL map's own "
        "`defaultRouteAction`.",
    )
    route_priority: Annotated[int | None, Count("0", "2147483647")] = knob(
        None,
        "The priority of the path matcher's route rule that has them. Left out, as `path`: they "
        "are in the path matcher's `defaultRouteAction`.",
    )
    path: Annotated[str | None, UrlPath()] = knob(
        None, "A path of the path matcher's path rule that has them, as it stands there: `/cart/*`."
    )
    settle: Annotated[float, Duration("1s", "1h", Zero.NONE)] = knob("2m", _SETTLE)
    endpoint: Annotated[str, Endpoint()] = knob("https://compute.googleapis.com", _ENDPOINT)

    def conflicts(self, upstreams: Sequence[str]) -> Iterator[_Problem]:
        yield from super().conflicts(upstreams)
        yield from _of_each("backend_services", self.backend_services, upstreams)
        if self.path_matcher is None:
            for key in ("route_priority", "path"):
                if getattr(self, key) is not None:
                    yield (key,), "it is a path matcher's. Write path_matcher, too"
        elif self.route_priority is not None and self.path is not None:
            yield ("path",), "a path matcher has route rules or path rules. Leave one of them out"
