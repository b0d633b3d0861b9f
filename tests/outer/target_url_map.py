"""The `url_map` router's URL maps: a global one, and a rule inside a regional one."""

import copy
from collections.abc import Mapping
from typing import Any, ClassVar

from tests.fakes.url_map import FakeUrlMap, backend, weights
from tests.outer.google_token import GoogleTarget


class UrlMapTarget(GoogleTarget):
    kind: ClassVar[str] = "url_map"
    scope: ClassVar[str] = "global"
    fake: FakeUrlMap

    def make_fake(self) -> FakeUrlMap:
        return FakeUrlMap()

    def settings(self) -> Mapping[str, Any]:
        return {
            **self.common(),
            "url_map": "shop-map",
            "backend_services": {
                "blue": "shop-blue",
                "green": "https://compute.googleapis.com/compute/v1/projects/acme-prod"
                f"/{self.scope}/backendServices/shop-green",
            },
        }

    def action(self, document: dict[str, Any]) -> dict[str, Any]:
        """The route action that has the weights."""
        action: dict[str, Any] = document["defaultRouteAction"]
        return action

    def change(self, **changed: Any) -> None:
        """Somebody else's change of the route action."""
        document = copy.deepcopy(self.fake.document)
        self.action(document).update(changed)
        self.fake.change_outside(**document)

    def second_weight(self) -> int:
        blue, green = (
            entry["weight"] for entry in self.action(self.fake.document)["weightedBackendServices"]
        )
        weight: int = round(green * 10000 / (blue + green))
        return weight

    def change_weight_outside(self) -> None:
        self.change(weightedBackendServices=weights(31, 1, self.scope))

    def change_settings_outside(self) -> None:
        self.change(retryPolicy={"numRetries": 3})

    def spoil(self) -> None:
        canary = {"backendService": backend("shop-canary", self.scope), "weight": 10}
        self.change(weightedBackendServices=[*weights(90, 0, self.scope), canary])


class RegionalUrlMapTarget(UrlMapTarget):
    scope: ClassVar[str] = "regions/europe-west1"

    def make_fake(self) -> FakeUrlMap:
        cart = {"backendService": backend("cart-blue", self.scope), "weight": 1}
        rules = [
            {"priority": 1, "routeAction": {"weightedBackendServices": [cart]}},
            {"priority": 2, "routeAction": {"weightedBackendServices": weights(1, 0, self.scope)}},
        ]
        default = backend("cart-blue", self.scope)
        matchers = [
            {"name": "other", "defaultService": default},
            {"name": "shop", "defaultService": default, "routeRules": rules},
        ]
        document = {"defaultService": default, "pathMatchers": matchers}
        return FakeUrlMap(scope=self.scope, document=document)

    def settings(self) -> Mapping[str, Any]:
        return {
            **super().settings(),
            "region": "europe-west1",
            "path_matcher": "shop",
            "route_priority": 2,
        }

    def action(self, document: dict[str, Any]) -> dict[str, Any]:
        action: dict[str, Any] = document["pathMatchers"][1]["routeRules"][1]["routeAction"]
        return action
