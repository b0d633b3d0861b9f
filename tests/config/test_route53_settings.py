"""The section of Route 53: what is read, and what is refused with the place and the remedy."""

import re
import textwrap
from pathlib import Path
from typing import Any

import pytest

from turnout.config.document import SettingsError
from turnout.config.loader import load_text
from turnout.config.outer.route53 import RecordType, Route53

FILE = """
listeners: [{{bind: "127.0.0.1:8080"}}]
services:
  shop:
    upstreams: {{blue: {{servers: ["127.0.0.1:9001"]}}, green: {{servers: ["127.0.0.1:9002"]}}}}
    outer: {{kind: route53, zone_id: {zone}, name: {name}, {rest}}}
"""
ALIASES = (
    "targets: {blue: {dns_name: a.example, zone_id: Z2}, green: {dns_name: b.example, zone_id: Z2}}"
)


def read(rest: str, zone: str = "Z1", name: str = "shop.example") -> Route53:
    text = FILE.format(zone=zone, name=name, rest=rest)
    outer = load_text(text, environ={}).services[0].outer
    assert outer is not None and isinstance(outer.settings, Route53)
    return outer.settings


def test_the_examples_of_the_guide_are_read() -> None:
    page = Path(__file__).resolve().parents[2] / "docs" / "outer" / "route53.md"
    blocks = re.findall(r"```yaml\n(.*?)```", page.read_text(), re.DOTALL)
    whole, alias, values, tail = (textwrap.dedent(block) for block in blocks)
    first = load_text("listeners: [{bind: :8080}]\n" + whole, environ={}).services[0].outer
    assert first is not None and first.in_sync_timeout_s == 300
    frame = "listeners: [{bind: :8080}]\n" + whole.partition("    outer:")[0]
    for text in (
        alias,
        alias.partition("  types:")[0] + textwrap.indent(values, "  "),
        whole[whole.index("    outer:") :] + textwrap.indent(tail, " " * 6),
    ):
        section = textwrap.indent(textwrap.dedent(text), "    ")
        found = load_text(frame + section, environ={}).services[0].outer
        assert found is not None and isinstance(found.settings, Route53)
        assert bool(found.settings.targets) == ("targets:" in text)


def test_both_modes_are_read() -> None:
    weighted = read(
        "types: [A, AAAA], set_identifiers: {blue: shop-blue, green: shop-green}, "
        "order: outer_first, in_sync_timeout: 5m, tail: {below: 1/min, for: 5m}",
        name='"*.Shop.Example."',
    )
    assert weighted.name == "*.shop.example"
    assert weighted.types == (RecordType.A, RecordType.AAAA)
    assert weighted.set_identifiers == {"blue": "shop-blue", "green": "shop-green"}
    alias = read(ALIASES)
    assert alias.types == (RecordType.A,)
    assert alias.targets["blue"].dns_name == "a.example"
    assert alias.targets["blue"].evaluate_target_health is None


@pytest.mark.parametrize(
    ("rest", "words"),
    [
        ("", ["outer.set_identifiers", "it must be given for weighted records"]),
        (
            ALIASES + ", set_identifiers: {blue: b, green: g}",
            ["outer.targets", "set_identifiers is given too"],
        ),
        ("set_identifiers: {blue: b}", ["outer.set_identifiers", "green is missing"]),
        (
            "set_identifiers: {blue: b, red: r}",
            ["set_identifiers.red", "no upstream of the service. Write one of blue, green"],
        ),
        ("set_identifiers: {blue: b, green: b}", ["set_identifiers.green", "blue's already"]),
        ('set_identifiers: {blue: b, green: ""}', ["set_identifiers.green", "it is empty"]),
        (
            "types: [A, CNAME], set_identifiers: {blue: b, green: g}",
            ["types.1", "a CNAME has no other type beside it"],
        ),
        ("types: [A, A], set_identifiers: {blue: b, green: g}", ["types.1", "listed twice"]),
        ("types: [], set_identifiers: {blue: b, green: g}", ["outer.types", "it is empty"]),
        ("types: [MX], set_identifiers: {blue: b, green: g}", ["types.0", "`A` or `AAAA`"]),
        (
            "targets: {blue: {dns_name: a.example}, green: {zone_id: Z2}}",
            ["targets.blue.zone_id", "targets.green.dns_name"],
        ),
        (
            "targets: {blue: {dns_name: a.example, zone_id: Z2}, green: {values: [192.0.2.1]}}",
            ["outer.targets", "cannot be both"],
        ),
        (
            "targets: {blue: {dns_name: a.example, zone_id: Z2}, "
            "green: {dns_name: A.example., zone_id: Z2}}",
            ["targets.green", "it leads where blue's does"],
        ),
        (
            'targets: {blue: {values: [192.0.2.1]}, green: {values: ["2001:db8::1"]}}',
            ["targets.green.values.0", "type AAAA, which is not in types", "none for the record"],
        ),
        (
            "types: [CNAME], targets: {blue: {values: [a.example, b.example]}, "
            "green: {values: [c.example]}}",
            ["targets.blue.values", "a CNAME has one name only"],
        ),
        (
            "targets: {blue: {values: [192.0.2.1, 192.0.2.1], evaluate_target_health: true}, "
            "green: {values: [192.0.2.2]}}",
            ["targets.blue.values.1", "evaluate_target_health", "it belongs to an alias"],
        ),
        (
            "targets: {blue: {values: [192.0.2.300]}, green: {values: [192.0.2.2]}}",
            ["targets.blue.values.0"],
        ),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_said_where_it_stands(rest: str, words: list[str]) -> None:
    with pytest.raises(SettingsError) as raised:
        read(rest)
    for word in words:
        assert word in str(raised.value)


@pytest.mark.parametrize(
    ("zone", "name", "words"),
    [
        ("/hostedzone/Z1", "shop.example", "Write Z1"),
        ("my-zone", "shop.example", "expected a hosted zone's id"),
        ("Z1", "shop..example", "expected a name in DNS"),
        ("Z1", '"shop.*.example"', "expected a name in DNS"),
        ("Z1", '"käse.example"', "`xn--` form"),
        ("Z1", '"https://shop.example"', "expected a name in DNS"),
        ("Z1", "192.0.2.1", "expected a name in DNS"),
        ("Z1", "5", "Put it in quotes"),
    ],
)
def test_a_zone_and_a_name_are_as_dns_has_them(zone: str, name: str, words: str) -> None:
    with pytest.raises(SettingsError) as raised:
        read("set_identifiers: {blue: b, green: g}", zone, name)
    assert words in str(raised.value)


def test_what_would_be_an_address_is_no_name_of_a_cname() -> None:
    target: Any = read(
        "types: [A, AAAA], targets: "
        '{blue: {values: [192.0.2.1, "2001:DB8:0::1"]}, '
        'green: {values: [192.0.2.2, "2001:db8::2"]}}'
    ).targets["blue"]
    assert target.values_of(RecordType.AAAA) == ("2001:db8::1",)
    assert target.values_of(RecordType.CNAME) == ()
