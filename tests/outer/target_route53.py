"""Route 53 in both of its modes: weighted records, and one alias that is switched whole."""

import os
from collections.abc import Mapping
from typing import Any, ClassVar, Final

from tests.fakes.route53 import FakeRoute53
from tests.outer.target import Target
from turnout.config.weights import WHOLE

ACCESS_KEY: Final = "AKIAFAKE0SHOP0KEY000"
SECRET_KEY: Final = "fAk3/s3cret+of+the+t3sts/0123456789abcdef"
SESSION_TOKEN: Final = "fake-session-token-0123456789"

NAME: Final = "www.shop.example"
ADDRESSES: Final = {
    "A": {"shop-blue": "192.0.2.1", "shop-green": "192.0.2.2", "shop-old": "192.0.2.3"},
    "AAAA": {"shop-blue": "2001:db8::1", "shop-green": "2001:db8::2", "shop-old": "2001:db8::3"},
}
LOAD_BALANCERS: Final = {
    name: {
        "HostedZoneId": "Z35SXDOTRQ7X7K",
        "DNSName": f"dualstack.shop-{name}.us-east-1.elb.amazonaws.com.",
        "EvaluateTargetHealth": False,
    }
    for name in ("blue", "green", "red")
}


def environment(url: str) -> Mapping[str, str]:
    """What boto3 needs to find a fake, and nothing else of this machine."""
    return {
        "AWS_ENDPOINT_URL_ROUTE_53": url,
        "AWS_DEFAULT_REGION": "us-east-1",  # which boto3 wants with an endpoint of one's own
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        "AWS_SESSION_TOKEN": SESSION_TOKEN,
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def shop(*types: str, blue: int = 100, green: int = 0, **more: Any) -> FakeRoute53:
    """A zone with the weighted records of both colours."""
    fake = FakeRoute53(health_checks={"check-blue", "check-green"})
    for type_ in types or ("A",):
        fake.weighted(
            NAME, type_, {"shop-blue": blue, "shop-green": green}, ADDRESSES[type_], **more
        )
    return fake


class Route53Target(Target):
    """Weighted records, of two types."""

    kind: ClassVar[str] = "route53"
    can_fail: ClassVar[bool] = False  # a batch is taken on whole or refused
    secrets: ClassVar[tuple[str, ...]] = (SECRET_KEY, SESSION_TOKEN)
    fake: FakeRoute53

    def make_fake(self) -> FakeRoute53:
        return shop("A", "AAAA")

    def settings(self) -> Mapping[str, Any]:
        return {
            "kind": "route53",
            "zone_id": self.fake.zone_id,
            "name": NAME,
            "types": ["A", "AAAA"],
            "set_identifiers": {"blue": "shop-blue", "green": "shop-green"},
        }

    def environment(self) -> Mapping[str, str]:
        return environment(self.fake.url)

    def second_weight(self) -> int:
        weights = {
            identifier: self.fake.get(NAME, "A", identifier)["Weight"]
            for identifier in ("shop-blue", "shop-green")
        }
        share: float = weights["shop-green"] / sum(weights.values())
        return round(WHOLE * share)

    def change_weight_outside(self) -> None:
        for type_ in ("A", "AAAA"):
            self.fake.change(NAME, type_, "shop-green", Weight=7)

    def change_settings_outside(self) -> None:
        for identifier in ("shop-blue", "shop-green"):
            self.fake.change(NAME, "A", identifier, TTL=300)

    def spoil(self) -> None:
        self.fake.weighted(NAME, "A", {"shop-old": 10}, ADDRESSES["A"])


class Route53AliasTarget(Target):
    """One alias that leads to one of two load balancers."""

    kind: ClassVar[str] = "route53"
    can_fail: ClassVar[bool] = False
    secrets: ClassVar[tuple[str, ...]] = (SECRET_KEY, SESSION_TOKEN)
    fake: FakeRoute53

    def make_fake(self) -> FakeRoute53:
        fake = FakeRoute53(health_checks={"check-shop"})
        fake.put({"Name": NAME, "Type": "A", "AliasTarget": LOAD_BALANCERS["blue"]})
        return fake

    def settings(self) -> Mapping[str, Any]:
        return {
            "kind": "route53",
            "zone_id": self.fake.zone_id,
            "name": NAME,
            "targets": {
                name: {
                    "dns_name": LOAD_BALANCERS[name]["DNSName"],
                    "zone_id": LOAD_BALANCERS[name]["HostedZoneId"],
                }
                for name in ("blue", "green")
            },
        }

    def environment(self) -> Mapping[str, str]:
        return environment(self.fake.url)

    def second_weight(self) -> int:
        leads_to = self.fake.get(NAME, "A")["AliasTarget"]["DNSName"]
        return WHOLE if leads_to == LOAD_BALANCERS["green"]["DNSName"] else 0

    def change_weight_outside(self) -> None:
        self.fake.change(NAME, "A", AliasTarget=LOAD_BALANCERS["green"])

    def change_settings_outside(self) -> None:
        self.fake.change(NAME, "A", HealthCheckId="check-shop")

    def spoil(self) -> None:
        self.fake.change(NAME, "A", AliasTarget=LOAD_BALANCERS["red"])
