"""The `app_service` router's app: what is deployed in two slots."""

from collections.abc import Mapping
from typing import Any, ClassVar

from tests.fakes.azure import CLIENT, GROUP, SECRET, SUBSCRIPTION, TENANT, TOKEN, FakeAppService
from tests.outer.target import Target


class AppServiceTarget(Target):
    kind: ClassVar[str] = "app_service"
    secrets: ClassVar[tuple[str, ...]] = (SECRET, TOKEN, "db-passw0rd-never-seen")
    calls_without_turn: ClassVar[int] = 1
    fake: FakeAppService

    def make_fake(self) -> FakeAppService:
        return FakeAppService()

    def settings(self) -> Mapping[str, Any]:
        return {
            "kind": "app_service",
            "subscription": SUBSCRIPTION,
            "resource_group": GROUP,
            "app": "shop",
            "slot": "staging",
            "endpoint": self.fake.url,
        }

    def environment(self) -> Mapping[str, str]:
        return {
            "AZURE_AUTHORITY_HOST": self.fake.url,
            "AZURE_TENANT_ID": TENANT,
            "AZURE_CLIENT_ID": CLIENT,
            "AZURE_CLIENT_SECRET": SECRET,
        }

    def second_weight(self) -> int:
        return {"blue": 0, "green": 10000}[str(self.fake.marker("production"))]

    def change_weight_outside(self) -> None:
        self.fake.swap()

    def change_settings_outside(self) -> None:
        self.fake.sticky.append("DB_PASSWORD")

    def spoil(self) -> None:
        self.fake.slots["staging"]["app_settings"]["TURNOUT_UPSTREAM"] = "blue"
