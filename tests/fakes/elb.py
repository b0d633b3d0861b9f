"""A fake of Elastic Load Balancing v2: listeners and rules with weighted target groups.

It validates as the API's reference says, which moto does not: weights, the routing action's
place, target groups that are not there, a secret that is neither given nor kept. `pending_s` is
how long a change is not read back yet.
"""

import copy
import time
from dataclasses import dataclass, field
from typing import Any, Final

from tests.fakes.aws import Invalid, QueryService

NAME: Final = "arn:aws:elasticloadbalancing:eu-west-1:123456789012"
LISTENER: Final = f"{NAME}:listener/app/shop/50dc6c495c0c9188/f2f7dc8efc522ab2"
RULE: Final = f"{NAME}:listener-rule/app/shop/50dc6c495c0c9188/f2f7dc8efc522ab2/9683b2d02a6cabee"
BLUE: Final = f"{NAME}:targetgroup/shop-blue/73e2d6bc24d8a067"
GREEN: Final = f"{NAME}:targetgroup/shop-green/12e2d6bc24d8a0aa"
OTHER: Final = f"{NAME}:targetgroup/old-shop/99e2d6bc24d8a0ff"
ROUTING: Final = ("forward", "fixed-response", "redirect")
CONFIGS: Final = {
    "forward": "ForwardConfig",
    "fixed-response": "FixedResponseConfig",
    "redirect": "RedirectConfig",
    "authenticate-oidc": "AuthenticateOidcConfig",
    "authenticate-cognito": "AuthenticateCognitoConfig",
}


@dataclass
class FakeElb(QueryService):
    namespace = "http://elasticloadbalancing.amazonaws.com/doc/2015-12-01/"
    version = "2015-12-01"
    signed_for = "elasticloadbalancing"
    writing_actions = frozenset({"ModifyRule", "ModifyListener"})

    actions: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """ARN of a rule or a listener -> its actions, secrets included."""
    default_rules: set[str] = field(default_factory=set)
    groups: set[str] = field(default_factory=lambda: {BLUE, GREEN, OTHER})
    _shown: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    _shown_until: dict[str, float] = field(default_factory=dict)

    def put(self, arn: str, actions: list[dict[str, Any]]) -> None:
        """Be configured so, by somebody else, at once."""
        self.actions[arn] = copy.deepcopy(actions)
        self._shown_until.pop(arn, None)

    def weights(self, arn: str) -> dict[str, int]:
        forward = next(action for action in self.actions[arn] if action["Type"] == "forward")
        return {
            group["TargetGroupArn"]: group.get("Weight", 1)
            for group in forward["ForwardConfig"]["TargetGroups"]
        }

    def snapshot(self) -> Any:
        """The order of target groups is no state: what counts are their weights."""
        actions = copy.deepcopy(self.actions)
        for one in (action for of_one in actions.values() for action in of_one):
            if groups := one.get("ForwardConfig", {}).get("TargetGroups"):
                groups.sort(key=str)
        return actions

    # ------------------------------------------------------------ the API

    def carry_out(self, action: str, given: dict[str, Any]) -> Any:
        match action:
            case "DescribeRules":
                return {"Rules": [self._rule(arn) for arn in self._known(given, "Rule")]}
            case "DescribeListeners":
                found = self._known(given, "Listener")
                return {"Listeners": [self._listener(arn) for arn in found]}
            case "ModifyRule":
                arn = self._modified(given, "RuleArn", "Actions")
                return {"Rules": [self._rule(arn, written=True)]}
            case "ModifyListener":
                arn = self._modified(given, "ListenerArn", "DefaultActions")
                return {"Listeners": [self._listener(arn, written=True)]}
        raise Invalid("InvalidAction", f"Could not find operation {action}")

    def _known(self, given: dict[str, Any], what: str) -> list[str]:
        arns = given.pop(f"{what}Arns", None)
        if given or not arns:
            raise Invalid("ValidationError", f"this fake is asked by {what}Arns only: {given}")
        for arn in arns:
            if arn not in self.actions:
                raise Invalid(f"{what}NotFound", f"One or more {what.lower()}s not found")
        return list(arns)

    def _rule(self, arn: str, *, written: bool = False) -> dict[str, Any]:
        return {
            "RuleArn": arn,
            "Priority": "default" if arn in self.default_rules else "10",
            "Conditions": [{"Field": "host-header", "Values": ["shop.example"]}],
            "Actions": self._described(arn, written),
            "IsDefault": arn in self.default_rules,
        }

    def _listener(self, arn: str, *, written: bool = False) -> dict[str, Any]:
        return {
            "ListenerArn": arn,
            "LoadBalancerArn": f"{NAME}:loadbalancer/app/shop/50dc6c495c0c9188",
            "Port": 443,
            "Protocol": "HTTPS",
            "DefaultActions": self._described(arn, written),
        }

    def _described(self, arn: str, written: bool) -> list[dict[str, Any]]:
        old = not written and time.monotonic() < self._shown_until.get(arn, 0.0)
        actions = copy.deepcopy(self._shown[arn] if old else self.actions[arn])
        for action in actions:
            action.get("AuthenticateOidcConfig", {}).pop("ClientSecret", None)
            groups = action.get("ForwardConfig", {}).get("TargetGroups", [])
            if len(groups) == 1:
                action["TargetGroupArn"] = groups[0]["TargetGroupArn"]
        return actions

    def _modified(self, given: dict[str, Any], arn_key: str, actions_key: str) -> str:
        arn = given.pop(arn_key, "")
        actions = given.pop(actions_key, None)
        if given:
            raise Invalid("ValidationError", f"what is not to be changed was given: {given}")
        if arn not in self.actions:
            what = arn_key.removesuffix("Arn")
            raise Invalid(f"{what}NotFound", f"One or more {what.lower()}s not found")
        if arn in self.default_rules:
            raise Invalid("OperationNotPermitted", f"Default rule '{arn}' cannot be modified")
        before = self._described(arn, written=False)
        self.actions[arn] = self._valid(actions or [], self.actions[arn])
        self._shown[arn] = before
        self._shown_until[arn] = time.monotonic() + self.pending_s
        return str(arn)

    def _valid(
        self, actions: list[dict[str, Any]], before: list[dict[str, Any]]
    ) -> list[dict[str, Any]]:
        if not actions:
            raise Invalid("ValidationError", "A rule must have at least one action")
        orders = [int(action.get("Order", 0)) for action in actions]
        if len(actions) > 1 and (0 in orders or len(set(orders)) < len(orders)):
            raise Invalid("ValidationError", "Actions must have unique orders")
        actions = [action for _, action in sorted(zip(orders, actions, strict=True), key=_first)]
        routing = [action["Type"] in ROUTING for action in actions]
        if routing.count(True) != 1 or not routing[-1]:
            raise Invalid(
                "InvalidLoadBalancerAction",
                "A rule must have exactly one routing action, and it must be the last",
            )
        return [self._valid_action(action, before) for action in actions]

    def _valid_action(self, action: dict[str, Any], before: list[dict[str, Any]]) -> dict[str, Any]:
        config_key = CONFIGS.get(action["Type"])
        if config_key is None:
            raise Invalid("ValidationError", f"1 validation error: type {action['Type']}")
        known = {"Type", "Order", config_key} | (
            {"TargetGroupArn"} if action["Type"] == "forward" else set()
        )
        if set(action) - known:
            raise Invalid("ValidationError", f"not of {action['Type']}: {set(action) - known}")
        kept: dict[str, Any] = {"Type": action["Type"], "Order": int(action.get("Order", 1))}
        if action["Type"] == "forward":
            kept["ForwardConfig"] = self._valid_forward(action)
            return kept
        kept[config_key] = config = dict(action.get(config_key) or {})
        if action["Type"] == "authenticate-oidc":
            keep = config.pop("UseExistingClientSecret", "false") == "true"
            if keep == ("ClientSecret" in config):
                raise Invalid(
                    "ValidationError",
                    "You must either specify a client secret or set UseExistingClientSecret",
                )
            if keep:
                was = [one.get("AuthenticateOidcConfig", {}).get("ClientSecret") for one in before]
                config["ClientSecret"] = next(secret for secret in was if secret)
        return kept

    def _valid_forward(self, action: dict[str, Any]) -> dict[str, Any]:
        config = action.get("ForwardConfig") or {}
        groups = config.get("TargetGroups") or []
        alone = action.get("TargetGroupArn")
        if alone and len(groups) > 1:
            raise Invalid(
                "ValidationError",
                "You can specify only one target group with both TargetGroupArn and ForwardConfig",
            )
        groups = groups or [{"TargetGroupArn": alone}]
        if not 1 <= len(groups) <= 5:
            raise Invalid("ValidationError", "A forward action has one to five target groups")
        arns = [group.get("TargetGroupArn") for group in groups]
        if len(set(arns)) < len(arns):
            raise Invalid("ValidationError", "Target groups may not be duplicated")
        valid = []
        for group in groups:
            if group.get("TargetGroupArn") not in self.groups:
                raise Invalid("TargetGroupNotFound", "One or more target groups not found")
            weight = int(group.get("Weight", 1))
            if not 0 <= weight <= 999:
                raise Invalid("ValidationError", f"Weight {weight} must be between 0 and 999")
            valid.append({"TargetGroupArn": group["TargetGroupArn"], "Weight": weight})
        sticky = config.get("TargetGroupStickinessConfig") or {"Enabled": "false"}
        stored: dict[str, Any] = {"Enabled": sticky.get("Enabled") in (True, "true")}
        if "DurationSeconds" in sticky:
            stored["DurationSeconds"] = int(sticky["DurationSeconds"])
            if not 1 <= stored["DurationSeconds"] <= 604800:
                raise Invalid("ValidationError", "DurationSeconds must be 1 to 604800")
        elif stored["Enabled"]:
            raise Invalid("ValidationError", "DurationSeconds must be given with stickiness")
        return {"TargetGroups": valid, "TargetGroupStickinessConfig": stored}


def _first(pair: tuple[int, Any]) -> int:
    return pair[0]


def forward(weights: dict[str, int], order: int = 1, sticky_s: int = 0) -> dict[str, Any]:
    """A forward action as it is described."""
    sticky: dict[str, Any] = {"Enabled": bool(sticky_s)}
    if sticky_s:
        sticky["DurationSeconds"] = sticky_s
    return {
        "Type": "forward",
        "Order": order,
        "ForwardConfig": {
            "TargetGroups": [
                {"TargetGroupArn": arn, "Weight": weight} for arn, weight in weights.items()
            ],
            "TargetGroupStickinessConfig": sticky,
        },
    }
