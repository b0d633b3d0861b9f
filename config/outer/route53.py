"""Route 53: weighted records, or one record whose target is switched whole."""

import ipaddress
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from turnout.config.document import Place
from turnout.config.knobs import (
    Choice,
    Kind,
    Name,
    Section,
    Text,
    TrueOrFalse,
    knob,
    needed,
    person_text,
)
from turnout.config.outer.common import KIND, OuterSection
from turnout.config.places import DnsName


class RecordType(StrEnum):
    A = "A"
    AAAA = "AAAA"
    CNAME = "CNAME"


@dataclass(frozen=True, slots=True)
class ZoneId(Kind):
    """The id of a hosted zone."""

    def read(self, value: Any, base: Path) -> str:
        text = person_text(value, "a hosted zone's id")
        bare = text.removeprefix("/").removeprefix("hostedzone/")
        if not re.fullmatch(r"[A-Z0-9]{1,32}", bare, re.ASCII):
            raise ValueError(f"expected {self.expected()}")
        if bare != text:
            raise ValueError(f"the id alone is expected. Write {bare}")
        return text

    def expected(self) -> str:
        return "a hosted zone's id, such as `Z1234567890`"

    def schema(self) -> dict[str, Any]:
        return {"type": "string", "pattern": r"^([A-Z0-9]{1,32}|\$\{.*\})$"}


@dataclass(frozen=True, slots=True)
class RecordValue(Kind):
    """What a record of type A, AAAA or CNAME says."""

    def read(self, value: Any, base: Path) -> str:
        text = person_text(value, self.expected())
        try:
            return str(ipaddress.ip_address(text))
        except ValueError:
            pass
        try:
            return DnsName().read(text, base)
        except ValueError:
            raise ValueError(f"expected {self.expected()}") from None

    def expected(self) -> str:
        return "an IP address, or the host name that a CNAME leads to"


class RecordTarget(Section):
    """Where the record leads for one upstream: an alias, or plain values."""

    dns_name: Annotated[str | None, DnsName()] = knob(
        None,
        "The alias's target as the record has it, such as a load balancer's name with its "
        "`dualstack.`.",
    )
    zone_id: Annotated[str | None, ZoneId()] = knob(
        None, "The hosted zone of the target: not your own, but that of the load balancer."
    )
    evaluate_target_health: Annotated[bool | None, TrueOrFalse()] = knob(
        None,
        "Whether Route 53 answers by the alias only while its target is healthy. Left out: "
        "as the record has it.",
    )
    values: tuple[Annotated[str, RecordValue()], ...] = knob(
        [],
        "Instead of `dns_name`, for a record that is no alias: IP addresses, of which each of "
        "`types` takes its own family, or the one name of a CNAME.",
    )

    def values_of(self, type_: RecordType) -> tuple[str, ...]:
        """Those that a record of this type takes."""
        return tuple(value for value in self.values if _type_of(value) is type_)


def _type_of(value: str) -> RecordType:
    try:
        version = ipaddress.ip_address(value).version
    except ValueError:
        return RecordType.CNAME
    return RecordType.A if version == 4 else RecordType.AAAA


class Route53(OuterSection):
    """DNS records of a hosted zone of Amazon Route 53 (`turnout[aws]`). Two weighted records for
    each type (`set_identifiers`), or one record whose target is switched whole (`targets`)."""

    module: ClassVar[str] = "route53"
    library: ClassVar[str] = "boto3"
    # AWS: 10 requests a second and 50 at once, for each account and action. Others call too.
    paced: ClassVar[tuple[float, int]] = (2.0, 20)

    kind: Literal["route53"] = needed(KIND)
    zone_id: Annotated[str, ZoneId()] = needed("The hosted zone that has the records.")
    name: Annotated[str, DnsName(wildcard=True)] = needed(
        "The records' name, in full: `shop.example`; in quotes where it begins with `*`."
    )
    types: tuple[Annotated[RecordType, Choice(RecordType)], ...] = knob(
        ["A"], "The records' types, which are changed together."
    )
    set_identifiers: dict[Annotated[str, Name()], Annotated[str, Text(128, may_be_empty=False)]] = (
        knob({}, "Upstream -> the set identifier of its weighted records, the same in each type.")
    )
    targets: dict[Annotated[str, Name()], RecordTarget] = knob(
        {}, "Upstream -> where the one record leads. It switches whole: no split."
    )

    def conflicts(self, upstreams: Sequence[str]) -> Iterator[tuple[Place, str]]:
        if not self.types:
            yield ("types",), "it is empty. Write [A], or leave it out"
        for index, type_ in enumerate(self.types):
            if type_ in self.types[:index]:
                yield ("types", index), "it is listed twice. Remove one"
            elif type_ is RecordType.CNAME and len(self.types) > 1:
                yield ("types", index), "a CNAME has no other type beside it. Write [CNAME]"
        if self.set_identifiers and self.targets:
            yield (
                ("targets",),
                "set_identifiers is given too: records are weighted, or one is switched whole. "
                "Remove one of the two",
            )
        elif self.set_identifiers:
            yield from self._identifiers(upstreams)
        elif self.targets:
            yield from self._targets(upstreams)
        else:
            names = ", ".join(f"{name}: …" for name in upstreams)
            yield (
                ("set_identifiers",),
                f"it must be given for weighted records: {{{names}}}; or targets for one record "
                f"that is switched whole",
            )

    def _identifiers(self, upstreams: Sequence[str]) -> Iterator[tuple[Place, str]]:
        yield from _by_upstream("set_identifiers", self.set_identifiers, upstreams)
        seen: dict[str, str] = {}
        for name, identifier in self.set_identifiers.items():
            if seen.setdefault(identifier, name) != name:
                yield (
                    ("set_identifiers", name),
                    f"it is {seen[identifier]}'s already. Write that of another record",
                )

    def _targets(self, upstreams: Sequence[str]) -> Iterator[tuple[Place, str]]:
        yield from _by_upstream("targets", self.targets, upstreams)
        forms = set()
        seen: list[tuple[object, str]] = []
        for name, target in self.targets.items():
            place: Place = ("targets", name)
            yield from ((place + below, text) for below, text in self._target(target))
            forms.add(bool(target.values))
            where = (target.dns_name, target.zone_id, frozenset(target.values))
            for other, owner in seen:
                if other == where:
                    yield place, f"it leads where {owner}'s does. Write another target"
            seen.append((where, name))
        if len(forms) > 1:
            yield (
                ("targets",),
                "one is an alias and one has values: their record cannot be both. Write two of "
                "one sort",
            )

    def _target(self, target: RecordTarget) -> Iterator[tuple[Place, str]]:
        if not target.values:
            if target.dns_name is None:
                yield (
                    ("dns_name",),
                    "it must be given, with zone_id, for an alias; or values for a record that "
                    "is none",
                )
            elif target.zone_id is None:
                yield ("zone_id",), "it must be given: the hosted zone of the alias's target"
            return
        for key in ("dns_name", "zone_id", "evaluate_target_health"):
            if getattr(target, key) is not None:
                yield (key,), "it belongs to an alias, and values to a record that is none"
        for index, value in enumerate(target.values):
            if _type_of(value) not in self.types:
                yield (
                    ("values", index),
                    f"it belongs into a record of type {_type_of(value)}, which is not in types",
                )
            elif value in target.values[:index]:
                yield ("values", index), "it is listed twice. Remove one"
        for type_ in self.types:
            if not target.values_of(type_):
                yield ("values",), f"it has none for the record of type {type_}"
        if len(target.values_of(RecordType.CNAME)) > 1:
            yield ("values",), "a CNAME has one name only"


def _by_upstream(
    key: str, given: Mapping[str, object], upstreams: Sequence[str]
) -> Iterator[tuple[Place, str]]:
    for name in given:
        if name not in upstreams:
            yield (
                (key, name),
                f"it is no upstream of the service. Write one of {', '.join(upstreams)}",
            )
    for name in upstreams:
        if name not in given:
            yield (key,), f"{name} is missing; expected one for each of {', '.join(upstreams)}"
