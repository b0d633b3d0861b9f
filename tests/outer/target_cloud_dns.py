"""The `cloud_dns` router's zone: weighted record sets of two types, and one switched whole."""

from collections.abc import Mapping
from typing import Any, ClassVar

from tests.fakes.cloud_dns import NAME, FakeCloudDns, plain, weighted
from tests.outer.google_token import GoogleTarget

BLUE = {"A": ["192.0.2.1"], "AAAA": ["2001:db8::1"]}
GREEN = {"A": ["192.0.2.2"], "AAAA": ["2001:db8::2"]}


class CloudDnsTarget(GoogleTarget):
    kind: ClassVar[str] = "cloud_dns"
    can_fail: ClassVar[bool] = False
    fake: FakeCloudDns

    def make_fake(self) -> FakeCloudDns:
        fake = FakeCloudDns()
        fake.put(*self.split(100, 0), plain("A", "192.0.2.9", name="www.shop.example."))
        # Another type at the name, which is left alone.
        fake.put(plain("TXT", '"v=spf1 -all"'))
        return fake

    def split(self, blue: float, green: float) -> list[dict[str, Any]]:
        return [
            weighted("A", (blue, "192.0.2.1"), (green, "192.0.2.2")),
            weighted("AAAA", (blue, "2001:db8::1"), (green, "2001:0DB8::2")),
        ]

    def settings(self) -> Mapping[str, Any]:
        return {
            **self.common(),
            "zone": "shop-zone",
            "name": "Shop.Example",
            "values": {"blue": BLUE, "green": GREEN},
        }

    def second_weight(self) -> int:
        found: set[int] = set()
        for record_type in ("A", "AAAA"):
            items = self.fake.records[NAME, record_type]["routingPolicy"]["wrr"]["items"]
            blue, green = (item["weight"] for item in items)
            found.add(round(green * 10000 / (blue + green)))
        (only,) = found
        return only

    def change_weight_outside(self) -> None:
        self.fake.put(*self.split(31, 1))

    def change_settings_outside(self) -> None:
        record = self.fake.records[NAME, "A"]
        self.fake.put({**record, "ttl": 300})

    def spoil(self) -> None:
        three = ((9, "192.0.2.1"), (0, "192.0.2.2"), (1, "192.0.2.3"))
        self.fake.put(weighted("A", *three))


class WholeCloudDnsTarget(GoogleTarget):
    kind: ClassVar[str] = "cloud_dns"
    can_fail: ClassVar[bool] = False
    fake: FakeCloudDns

    def make_fake(self) -> FakeCloudDns:
        fake = FakeCloudDns()
        fake.put(plain("CNAME", "shop-blue.example.net."))
        return fake

    def settings(self) -> Mapping[str, Any]:
        return {
            **self.common(),
            "zone": "shop-zone",
            "name": "shop.example.",
            "mode": "whole",
            "values": {
                "blue": {"CNAME": "shop-blue.example.net"},
                "green": {"CNAME": "Shop-Green.example.net."},
            },
        }

    def second_weight(self) -> int:
        (value,) = self.fake.records[NAME, "CNAME"]["rrdatas"]
        return {"shop-blue.example.net.": 0, "shop-green.example.net.": 10000}[value]

    def change_weight_outside(self) -> None:
        self.fake.put(plain("CNAME", "shop-green.example.net."))

    def change_settings_outside(self) -> None:
        self.fake.put(plain("CNAME", "shop-blue.example.net.", ttl=300))

    def spoil(self) -> None:
        self.fake.put(plain("CNAME", "elsewhere.example.net."))
