"""A load balancer's rule that forwards to two target groups."""

import copy
from collections.abc import Mapping
from typing import Any

from tests.fakes.aws import CREDENTIALS
from tests.fakes.elb import BLUE, GREEN, OTHER, RULE, FakeElb, forward
from tests.outer.target import Target


class AlbTarget(Target):
    kind = "alb"
    can_fail = False
    secrets = (CREDENTIALS["AWS_SECRET_ACCESS_KEY"],)

    fake: FakeElb

    def make_fake(self) -> FakeElb:
        fake = FakeElb()
        fake.put(RULE, [forward({BLUE: 100, GREEN: 0})])
        return fake

    def settings(self) -> Mapping[str, Any]:
        return {
            "kind": "alb",
            "rule_arn": RULE,
            "target_groups": {"blue": BLUE, "green": GREEN},
            "settle": "10ms",
        }

    def environment(self) -> Mapping[str, str]:
        return {**CREDENTIALS, "AWS_ENDPOINT_URL_ELASTIC_LOAD_BALANCING_V2": self.fake.url}

    def second_weight(self) -> int:
        weights = self.fake.weights(RULE)
        return round(weights[GREEN] * 10000 / (weights[BLUE] + weights[GREEN]))

    def change_weight_outside(self) -> None:
        self.fake.put(RULE, [forward({BLUE: 70, GREEN: 30})])

    def change_settings_outside(self) -> None:
        actions = copy.deepcopy(self.fake.actions[RULE])
        actions[-1]["ForwardConfig"]["TargetGroupStickinessConfig"] = {
            "Enabled": True,
            "DurationSeconds": 600,
        }
        self.fake.put(RULE, actions)

    def spoil(self) -> None:
        self.fake.put(RULE, [forward({BLUE: 100, GREEN: 0, OTHER: 5})])
