"""The `webhook` router's service, one that splits and one that switches whole."""

from collections.abc import Mapping
from typing import Any, ClassVar

from tests.fakes.webhook import API_KEY, SECRET, TOKEN, FakeWebhook
from tests.outer.target import Target


class WebhookTarget(Target):
    kind: ClassVar[str] = "webhook"
    secrets: ClassVar[tuple[str, ...]] = (TOKEN, SECRET, API_KEY)
    fake: FakeWebhook

    def make_fake(self) -> FakeWebhook:
        return FakeWebhook()

    def settings(self) -> Mapping[str, Any]:
        return {
            "kind": "webhook",
            "url": f"{self.fake.url}/shop",
            "token": TOKEN,
            "secret": SECRET,
            "headers": {"X-Api-Key": API_KEY},
        }

    def second_weight(self) -> int:
        return self.fake.second_weight()

    def change_weight_outside(self) -> None:
        self.fake.change_outside(weights={"blue": 25, "green": 3})

    def change_settings_outside(self) -> None:
        self.fake.change_outside(settings={"pool": "b", "sticky": True})

    def spoil(self) -> None:
        self.fake.change_outside(weights={"blue": 90, "green": 0, "canary": 10})


class WholeWebhookTarget(WebhookTarget):
    def settings(self) -> Mapping[str, Any]:
        return {**super().settings(), "weighted": False}

    def change_weight_outside(self) -> None:
        self.fake.change_outside(weights={"blue": 0, "green": 1})
