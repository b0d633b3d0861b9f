"""The `cloud_run` router's service, its colours by tags and by the names of revisions."""

import copy
from collections.abc import Mapping
from typing import Any, ClassVar

from tests.fakes.cloud_run import FakeCloudRun, target
from tests.outer.google_token import GoogleTarget


class CloudRunTarget(GoogleTarget):
    kind: ClassVar[str] = "cloud_run"
    fake: FakeCloudRun

    def make_fake(self) -> FakeCloudRun:
        return FakeCloudRun()

    def settings(self) -> Mapping[str, Any]:
        return {
            **self.common(),
            "location": "europe-west1",
            "service": "shop",
            "tags": {"blue": "blue", "green": "green"},
        }

    def state(self) -> Any:
        return copy.deepcopy(self.fake.in_force())

    def second_weight(self) -> int:
        return self.fake.percent_of("shop-00002-bbb") * 100

    def change_weight_outside(self) -> None:
        blue, green, *others = self.fake.traffic
        self.fake.change_outside([blue | {"percent": 97}, green | {"percent": 3}, *others])

    def change_settings_outside(self) -> None:
        blue, _, preview = self.fake.traffic
        self.fake.change_outside([blue, target("shop-00003-ccc", 0, "green"), preview])

    def spoil(self) -> None:
        blue, green, preview = self.fake.traffic
        self.fake.change_outside([blue | {"percent": 90}, green, preview | {"percent": 10}])


class CloudRunByRevisionTarget(CloudRunTarget):
    """As a first deployment leaves it: blue alone is in the traffic, and without a tag."""

    def make_fake(self) -> FakeCloudRun:
        preview = target("shop-00003-ccc", 0, "pr-12")
        return FakeCloudRun(traffic=[target("shop-00001-aaa", 100), preview])

    def settings(self) -> Mapping[str, Any]:
        settings = {key: value for key, value in super().settings().items() if key != "tags"}
        revisions = {"blue": "shop-00001-aaa", "green": "shop-00002-bbb"}
        return {**settings, "revisions": revisions}

    def change_weight_outside(self) -> None:
        preview = self.fake.traffic[-1]
        split = [target("shop-00001-aaa", 97), target("shop-00002-bbb", 3)]
        self.fake.change_outside([*split, preview])

    def change_settings_outside(self) -> None:
        """The only thing beside that a switch would take away: a tag."""
        blue, *others = self.fake.traffic
        self.fake.change_outside([blue | {"tag": "stable"}, *others])

    def spoil(self) -> None:
        blue, preview = self.fake.traffic
        self.fake.change_outside([blue | {"percent": 90}, preview | {"percent": 10}])
