"""The `traffic_manager` router's profile."""

from collections.abc import Mapping
from typing import Any, ClassVar

from tests.fakes.azure import (
    CLIENT,
    GROUP,
    SECRET,
    SUBSCRIPTION,
    TENANT,
    TOKEN,
    FakeTrafficManager,
)
from tests.outer.target import Target


class TrafficManagerTarget(Target):
    kind: ClassVar[str] = "traffic_manager"
    can_fail: ClassVar[bool] = False
    secrets: ClassVar[tuple[str, ...]] = (SECRET, TOKEN, "probe-s3cret-never-seen")
    calls_without_turn: ClassVar[int] = 1
    fake: FakeTrafficManager

    def make_fake(self) -> FakeTrafficManager:
        return FakeTrafficManager()

    def settings(self) -> Mapping[str, Any]:
        return {
            "kind": "traffic_manager",
            "subscription": SUBSCRIPTION,
            "resource_group": GROUP,
            "profile": "shop",
            "endpoints": {"blue": "shop-blue", "green": "shop-green"},
            "endpoint": self.fake.url,
            "settle": "0",
        }

    def environment(self) -> Mapping[str, str]:
        return {
            "AZURE_AUTHORITY_HOST": self.fake.url,
            "AZURE_TENANT_ID": TENANT,
            "AZURE_CLIENT_ID": CLIENT,
            "AZURE_CLIENT_SECRET": SECRET,
        }

    def second_weight(self) -> int:
        blue, green = (
            int(values["weight"]) if values["endpointStatus"] == "Enabled" else 0
            for values in map(self.fake.endpoint, ("shop-blue", "shop-green"))
        )
        return round(green * 10000 / (blue + green))

    def change_weight_outside(self) -> None:
        self.fake.endpoint("shop-green").update(endpointStatus="Enabled", weight=3)

    def change_settings_outside(self) -> None:
        self.fake.endpoint("shop-blue")["target"] = "blue-2.shop.example"

    def spoil(self) -> None:
        self.fake.endpoint("old")["endpointStatus"] = "Enabled"
