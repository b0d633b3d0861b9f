"""An Application Load Balancer as a router: the weights of two target groups in one action.

The action is a rule's, or the default one of a listener. It is written whole, as read, with two
weights changed: other actions in their order, stickiness and further target groups stay. The
API knows no condition for a change, so it is read again just before.

An answer says that the change is stored; the load balancer's nodes take it over in the seconds
after. Calls: ElasticLoadBalancingV2 2015-12-01 (DescribeRules, ModifyRule, DescribeListeners,
ModifyListener).
"""

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from turnout.config.outer.aws import LoadBalancer
from turnout.config.weights import WHOLE, percent
from turnout.control.outer.aws import AwsClient, Turns
from turnout.control.outer.seams import (
    Capabilities,
    Change,
    Conflict,
    Context,
    Progress,
    Reading,
    Refused,
    Tail,
    Verdict,
    Wanted,
    differences,
    nearest_share,
)

PARTS: Final = 1000
"""The shares that are written are of so many parts: a weight is 0 to 999."""

Action = dict[str, Any]


class Gone(Refused):
    """The rule or the listener is not there."""


_MEANINGS: Final = {"RuleNotFound": Gone, "ListenerNotFound": Gone}


# ---------------------------------------------------------------- pure


@dataclass(frozen=True, slots=True)
class Place:
    """Which rule or listener it is, and which calls read and write it."""

    arn: str
    of_rule: bool

    @property
    def name(self) -> str:
        return f"{'rule' if self.of_rule else 'listener'} {self.arn}"

    @property
    def arn_key(self) -> str:
        return "RuleArn" if self.of_rule else "ListenerArn"

    @property
    def actions_key(self) -> str:
        return "Actions" if self.of_rule else "DefaultActions"


def weights_of(second_weight: int) -> tuple[int, int]:
    """The two target groups' weights: percent where that is exact, else tenths of one."""
    nearest = nearest_share(second_weight, PARTS)
    whole = 100 if nearest % (WHOLE // 100) == 0 else PARTS
    second = nearest * whole // WHOLE
    return whole - second, second


def reading_of(
    there: Mapping[str, Any] | None, place: Place, groups: tuple[str, str], names: tuple[str, str]
) -> Reading:
    """What a rule or a listener, as it was described, amounts to. None: it is not there."""
    if there is None:
        return _unreadable({}, [f"{place.name} is not there"])
    actions = _in_order(there.get(place.actions_key) or ())
    exact = {"actions": actions}
    if place.of_rule and there.get("IsDefault"):
        return _unreadable(
            exact, [f"{place.name} is a default rule, which is changed by listener_arn only"]
        )
    forward = _forward(actions)
    if forward is None:
        kinds = ", ".join(str(action.get("Type")) for action in actions) or "none"
        return _unreadable(exact, [f"{place.name} does not forward; its actions: {kinds}"])
    weights = _weights(forward)
    problems = []
    for name, arn in zip(names, groups, strict=True):
        if arn not in weights:
            problems.append(
                f"{place.name} does not forward to {name}'s target group {arn}. Add it, with "
                f"weight 0: its targets are checked only while it is there"
            )
    for arn, weight in weights.items():
        if arn not in groups and weight:
            problems.append(
                f"{place.name} forwards to {arn} too, with weight {weight}, which is neither "
                f"{names[0]}'s nor {names[1]}'s target group"
            )
    first, second = (weights.get(arn, 0) for arn in groups)
    second_weight = None
    if first + second:
        second_weight = round(second * WHOLE / (first + second))
    elif not problems:
        problems.append(f"{place.name} has weight 0 for both target groups")
    stickiness = _stickiness(forward)
    sticky_s = float(stickiness.get("DurationSeconds") or 0) if stickiness.get("Enabled") else 0.0
    return Reading(
        second_weight=second_weight,
        version=_digest(exact),
        exact=exact,
        settings=_beside(actions, groups),
        problems=problems,
        warnings=_sticky(sticky_s),
        ttl_s=sticky_s,
    )


def _in_order(actions: Sequence[Mapping[str, Any]]) -> list[Action]:
    """As the load balancer carries them out; what has no order of its own, in one of ours, so
    that equal states are equal values."""
    ordered = []
    for action in sorted(actions, key=lambda action: int(action.get("Order") or 0)):
        kept = dict(action)
        if kept.get("ForwardConfig"):
            config = dict(kept["ForwardConfig"])
            config["TargetGroups"] = sorted(
                map(dict, config.get("TargetGroups") or ()),
                key=lambda group: str(group.get("TargetGroupArn")),
            )
            kept["ForwardConfig"] = config
        ordered.append(kept)
    return ordered


def _unreadable(exact: Mapping[str, Any], problems: Sequence[str]) -> Reading:
    return Reading(None, _digest(exact), exact, {}, problems)


def _forward(actions: Sequence[Action]) -> Action | None:
    """The action that routes, which is the last one."""
    return next((action for action in actions if action.get("Type") == "forward"), None)


def _weights(forward: Action) -> dict[str, int]:
    groups = (forward.get("ForwardConfig") or {}).get("TargetGroups") or [forward]
    # A lone target group has a weight of 1, or none.
    return {
        str(group["TargetGroupArn"]): int(group.get("Weight", 1))
        for group in groups
        if group.get("TargetGroupArn")
    }


def _stickiness(forward: Action) -> Mapping[str, Any]:
    return (forward.get("ForwardConfig") or {}).get("TargetGroupStickinessConfig") or {}


def _beside(actions: Sequence[Action], groups: tuple[str, str]) -> dict[str, Any]:
    """All but the two weights."""
    beside: dict[str, Any] = {}
    for index, action in enumerate(actions, 1):
        kept = dict(action)
        if kept.get("Type") == "forward":
            kept = {
                "Type": "forward",
                "Order": action.get("Order"),
                "TargetGroups": {
                    arn: "its share" if arn in groups else weight
                    for arn, weight in sorted(_weights(action).items())
                },
                "TargetGroupStickinessConfig": dict(_stickiness(action)),
            }
        beside[f"action {index}"] = kept
    return beside


def compared(reading: Reading, groups: tuple[str, str], names: tuple[str, str]) -> dict[str, Any]:
    """A reading as people compare two: the sides' weights by their names, and what is beside."""
    weights = _weights(_forward(reading.exact.get("actions") or ()) or {})
    ours = {name: weights.get(arn, "none") for name, arn in zip(names, groups, strict=True)}
    return {"weights": ours, **reading.settings}


def _sticky(seconds: float) -> list[str]:
    if not seconds:
        return []
    return [
        f"target group stickiness is on, for {seconds:g} s: a client stays with the target group "
        f"that it has come to for as long, whatever the weights"
    ]


def _digest(exact: Mapping[str, Any]) -> str:
    text = json.dumps(exact, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def wanted_actions(
    wanted: Wanted, reading: Reading, groups: tuple[str, str]
) -> list[dict[str, Any]]:
    """The actions as they should be: those of the reading with two weights changed, or those of
    `wanted.exact`.

    Raises Refused when there is nothing that could be changed, or when both weights would be 0.
    """
    if wanted.exact is not None:
        actions = [dict(action) for action in wanted.exact.get("actions") or ()]
        forward = _forward(actions)
        if forward is None or not any(_weights(forward).get(arn) for arn in groups):
            raise Refused("what is to be restored has no weight for either target group")
        return actions
    new = dict(zip(groups, weights_of(wanted.second_weight), strict=True))
    actions = []
    for action in reading.exact.get("actions") or ():
        kept = dict(action)
        if kept.get("Type") == "forward":
            config = dict(kept.get("ForwardConfig") or {})
            config["TargetGroups"] = [
                {"TargetGroupArn": arn, "Weight": new.get(arn, weight)}
                for arn, weight in _weights(action).items()
            ]
            # It stands for a lone target group, and may not be given beside several.
            kept.pop("TargetGroupArn", None)
            kept["ForwardConfig"] = config
        actions.append(kept)
    if _forward(actions) is None:
        raise Refused("it does not forward; there is no weight to change")
    return actions


def as_written(actions: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Actions as they are given to the API, of such as it describes.

    The client secret of an OpenID provider is never described: it is kept where it is.
    """
    written = []
    for action in actions:
        kept = dict(action)
        if kept.get("AuthenticateOidcConfig"):
            config = {**kept["AuthenticateOidcConfig"], "UseExistingClientSecret": True}
            config.pop("ClientSecret", None)
            kept["AuthenticateOidcConfig"] = config
        if len((kept.get("ForwardConfig") or {}).get("TargetGroups") or ()) > 1:
            kept.pop("TargetGroupArn", None)
        written.append(kept)
    return written


def progress_of(reading: Reading, change: Change, now: float, settle_s: float) -> Progress:
    """How far a change is, by what is read now and the time since it was made."""
    # `exact` may differ in what the service fills in; weights and what stands beside may not.
    if reading.second_weight is None:
        return Progress(Verdict.UNKNOWN, "; ".join(reading.problems))
    if reading.version == change.document.get("before") and (
        reading.second_weight != change.document["second_weight"]
    ):
        return Progress(Verdict.PENDING, "it is not read back yet")
    if reading.second_weight != change.document["second_weight"]:
        return Progress(
            Verdict.UNKNOWN,
            f"{percent(reading.second_weight)} is read, not "
            f"{percent(change.document['second_weight'])}: somebody else changed it",
        )
    left_s = change.document["at"] + settle_s - now
    if left_s > 0:
        return Progress(Verdict.PENDING, f"read back; {left_s:.1f} s more for all of its nodes")
    return Progress(Verdict.IN_SYNC, "read back")


# ---------------------------------------------------------------- the router


class Alb:
    """A rule's, or a listener's, weighted target groups."""

    capabilities = Capabilities(atomic=True, weighted=True, exchange=False, conditional=False)

    def __init__(self, settings: LoadBalancer, context: Context) -> None:
        self._place = Place(
            str(settings.rule_arn or settings.listener_arn), settings.rule_arn is not None
        )
        first, second = context.names
        self._groups = (settings.target_groups[first], settings.target_groups[second])
        self._names = context.names
        self._settle_s = settings.settle
        self._client = AwsClient(
            "elbv2",
            context,
            who="load balancer",
            region=settings.region,
            meanings=_MEANINGS,
        )

    def expressible(self, second_weight: int) -> int | None:
        return nearest_share(second_weight, PARTS)

    async def read(self) -> Reading:
        return await self._read(None)

    def preview(self, wanted: Wanted, reading: Reading) -> Mapping[str, Any]:
        actions = as_written(wanted_actions(wanted, reading, self._groups))
        return {
            "call": "ModifyRule" if self._place.of_rule else "ModifyListener",
            self._place.arn_key: self._place.arn,
            self._place.actions_key: actions,
        }

    async def set_weights(self, wanted: Wanted, if_read: Reading) -> Change:
        actions = as_written(wanted_actions(wanted, if_read, self._groups))
        turns = await self._client.turns(reads=1)
        now = await self._read(turns)
        if now.version != if_read.version:
            before, after = (compared(one, self._groups, self._names) for one in (if_read, now))
            what = "; ".join(differences(before, after)) or "it is another one now"
            raise Conflict(f"{self._place.name}: {what}")
        answer = await self._client.call(
            "modify_rule" if self._place.of_rule else "modify_listener",
            writes=True,
            turns=turns,
            **{self._place.arn_key: self._place.arn, self._place.actions_key: actions},
        )
        meta = answer.get("ResponseMetadata") or {}
        return self._change(wanted, str(meta.get("RequestId") or ""), if_read.version)

    async def confirm(self, wanted: Wanted, reading: Reading) -> Change:
        return self._change(wanted, "", "")

    async def poll(self, change: Change) -> Progress:
        return progress_of(await self.read(), change, time.time(), self._settle_s)

    async def tail(self, old_upstream: int) -> Tail:
        return Tail((await self.read()).ttl_s)

    async def close(self) -> None:
        await self._client.close()

    # ------------------------------------------------------------ calls

    def _change(self, wanted: Wanted, id_: str, before: str) -> Change:
        second_weight = nearest_share(wanted.second_weight, PARTS)
        if wanted.exact is not None:
            forward = _forward(list(wanted.exact.get("actions") or ())) or {}
            first, second = (_weights(forward).get(arn, 0) for arn in self._groups)
            if first + second:
                second_weight = round(second * WHOLE / (first + second))
        # Wall clock: it is stored, and polled by whoever is alive then.
        document = {"second_weight": second_weight, "before": before, "at": time.time()}
        return Change(id_, document)

    async def _read(self, turns: Turns | None) -> Reading:
        there = await self._described(turns)
        return reading_of(there, self._place, self._groups, self._names)

    async def _described(self, turns: Turns | None) -> Mapping[str, Any] | None:
        try:
            if self._place.of_rule:
                answer = await self._client.call(
                    "describe_rules", turns=turns, RuleArns=[self._place.arn]
                )
                found = answer.get("Rules") or []
            else:
                answer = await self._client.call(
                    "describe_listeners", turns=turns, ListenerArns=[self._place.arn]
                )
                found = answer.get("Listeners") or []
        except Gone:
            return None
        return found[0] if found else None


def make_router(settings: LoadBalancer, context: Context) -> Alb:
    return Alb(settings, context)
