"""What a load balancer's actions mean, what is written of them, and its own cases."""

import json
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final

import pytest

from tests.fakes.aws import CREDENTIALS
from tests.fakes.elb import BLUE, GREEN, LISTENER, OTHER, RULE, FakeElb, forward
from tests.outer.target_alb import AlbTarget
from turnout.config.document import SettingsError
from turnout.config.weights import WHOLE
from turnout.control.outer.alb import (
    PARTS,
    Place,
    as_written,
    progress_of,
    reading_of,
    wanted_actions,
    weights_of,
)
from turnout.control.outer.seams import (
    Change,
    Conflict,
    Reading,
    Refused,
    Router,
    Verdict,
    Wanted,
    nearest_share,
)

OF_RULE: Final = Place(RULE, of_rule=True)
GROUPS: Final = (BLUE, GREEN)
NAMES: Final = ("blue", "green")
LOGIN: Final = {
    "Type": "authenticate-oidc",
    "Order": 1,
    "AuthenticateOidcConfig": {
        "Issuer": "https://id.example", "AuthorizationEndpoint": "https://id.example/a",
        "TokenEndpoint": "https://id.example/t", "UserInfoEndpoint": "https://id.example/u",
        "ClientId": "shop", "OnUnauthenticatedRequest": "authenticate",
    },
}  # fmt: skip


def reading(*actions: Mapping[str, Any], **more: Any) -> Reading:
    return reading_of({"Actions": actions, **more}, OF_RULE, GROUPS, NAMES)


# ---------------------------------------------------------------- by value


@pytest.mark.parametrize(
    ("second_weight", "first", "second"),
    [
        (0, 100, 0),
        (100, 99, 1),
        (5000, 50, 50),
        (WHOLE, 0, 100),
        (50, 995, 5),
        (1, 999, 1),
        (9999, 1, 999),
        (1234, 877, 123),
    ],
)
def test_a_share_is_written_in_percent_or_in_tenths_of_one(
    second_weight: int, first: int, second: int
) -> None:
    assert weights_of(second_weight) == (first, second)


def test_every_weight_is_written_as_it_is_said_to_be_and_within_bounds() -> None:
    for second_weight in range(WHOLE + 1):
        first, second = weights_of(second_weight)
        assert 0 <= first <= 999 and 0 <= second <= 999 and first + second > 0
        read = reading(forward({BLUE: first, GREEN: second})).second_weight
        assert read == nearest_share(second_weight, PARTS)


@pytest.mark.parametrize(
    ("there", "problem"),
    [
        (None, "is not there"),
        ({"Actions": [forward({BLUE: 1, GREEN: 0})], "IsDefault": True}, "listener_arn"),
        ({"Actions": []}, "does not forward; its actions: none"),
        (
            {"Actions": [{"Type": "redirect", "Order": 1}]},
            "does not forward; its actions: redirect",
        ),
        ({"Actions": [forward({BLUE: 1})]}, f"green's target group {GREEN}. Add it"),
        ({"Actions": [forward({BLUE: 1, GREEN: 0, OTHER: 7})]}, f"{OTHER} too, with weight 7"),
        ({"Actions": [forward({BLUE: 0, GREEN: 0})]}, "weight 0 for both"),
        ({"Actions": [{"Type": "forward", "TargetGroupArn": OTHER}]}, "blue's target group"),
    ],
)
def test_what_is_not_as_configured_is_said(there: Mapping[str, Any] | None, problem: str) -> None:
    found = reading_of(there, OF_RULE, GROUPS, NAMES)
    assert problem in "; ".join(found.problems)
    assert RULE in found.problems[0]


def test_another_group_without_weight_is_no_problem_and_is_kept() -> None:
    found = reading(forward({OTHER: 0, GREEN: 0, BLUE: 3}, sticky_s=60))
    assert (found.second_weight, found.problems) == (0, [])
    [action] = wanted_actions(Wanted(2500), found, GROUPS)
    assert action["ForwardConfig"] == {
        "TargetGroups": sorted(
            [
                {"TargetGroupArn": BLUE, "Weight": 75},
                {"TargetGroupArn": GREEN, "Weight": 25},
                {"TargetGroupArn": OTHER, "Weight": 0},
            ],
            key=lambda group: str(group["TargetGroupArn"]),
        ),
        "TargetGroupStickinessConfig": {"Enabled": True, "DurationSeconds": 60},
    }


def test_the_order_in_which_groups_are_described_is_no_change() -> None:
    assert reading(forward({BLUE: 1, GREEN: 0})) == reading(forward({GREEN: 0, BLUE: 1}))


def test_stickiness_is_warned_of_and_is_how_long_clients_go_on() -> None:
    found = reading(forward({BLUE: 1, GREEN: 0}, sticky_s=3600))
    assert found.ttl_s == 3600
    assert "stickiness is on, for 3600 s" in found.warnings[0]
    assert reading(forward({BLUE: 1, GREEN: 0})).warnings == []


def test_a_secret_that_is_not_described_is_kept_where_it_is() -> None:
    found = reading(LOGIN, forward({BLUE: 1, GREEN: 0}, order=2))
    first, second = as_written(wanted_actions(Wanted(WHOLE), found, GROUPS))
    assert first["AuthenticateOidcConfig"]["UseExistingClientSecret"] is True
    assert (first["Order"], second["Order"]) == (1, 2)


def test_nothing_is_restored_that_would_leave_both_without_weight() -> None:
    found = reading(forward({BLUE: 1, GREEN: 0}))
    for actions in ([], [forward({BLUE: 0, GREEN: 0})], [forward({OTHER: 1})]):
        with pytest.raises(Refused):
            wanted_actions(Wanted(0, exact={"actions": actions}), found, GROUPS)


@pytest.mark.parametrize(
    ("there", "now", "verdict"),
    [
        ({BLUE: 0, GREEN: 100}, 109.0, Verdict.PENDING),
        ({BLUE: 0, GREEN: 100}, 110.0, Verdict.IN_SYNC),
        ({BLUE: 100, GREEN: 0}, 200.0, Verdict.PENDING),  # it is not read back yet
        ({BLUE: 50, GREEN: 50}, 200.0, Verdict.UNKNOWN),
        ({BLUE: 0, GREEN: 0}, 200.0, Verdict.UNKNOWN),
    ],
)
def test_in_sync_is_read_back_and_some_seconds(
    there: dict[str, int], now: float, verdict: Verdict
) -> None:
    before = reading(forward({BLUE: 100, GREEN: 0})).version
    change = Change("r", {"second_weight": WHOLE, "before": before, "at": 100.0})
    assert progress_of(reading(forward(there)), change, now, 10.0).verdict is verdict


# ---------------------------------------------------------------- against the fake


class ListenerTarget(AlbTarget):
    """The default action of a listener, behind a login."""

    fake: FakeElb

    def make_fake(self) -> FakeElb:
        fake = FakeElb()
        secret = {**LOGIN["AuthenticateOidcConfig"], "ClientSecret": "kept"}  # type: ignore[dict-item]
        login = {**LOGIN, "AuthenticateOidcConfig": secret}
        fake.put(LISTENER, [login, forward({BLUE: 100, GREEN: 0, OTHER: 0}, order=2, sticky_s=60)])
        return fake

    def settings(self) -> Mapping[str, Any]:
        settings = {**super().settings(), "listener_arn": LISTENER}
        del settings["rule_arn"]
        return settings


@pytest.fixture
async def listener(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[FakeElb, Router]]:
    target = ListenerTarget()
    async with target.serve():
        for name, value in target.environment().items():
            monkeypatch.setenv(name, value)
        router = target.router()
        yield target.fake, router
        await router.close()


async def test_a_listener_keeps_its_login_its_secret_its_stickiness_and_a_third_group(
    listener: tuple[FakeElb, Router],
) -> None:
    fake, router = listener
    before = fake.snapshot()
    first = await router.read()
    assert (first.second_weight, first.problems) == (0, [])
    await router.set_weights(Wanted(3000), first)
    assert fake.weights(LISTENER) == {BLUE: 70, GREEN: 30, OTHER: 0}
    login, forwarding = fake.actions[LISTENER]
    assert login["AuthenticateOidcConfig"]["ClientSecret"] == "kept"
    assert forwarding["ForwardConfig"]["TargetGroupStickinessConfig"] == {
        "Enabled": True, "DurationSeconds": 60,
    }  # fmt: skip
    await router.set_weights(Wanted(0, exact=first.exact), await router.read())
    assert fake.snapshot() == before
    assert [call.note for call in fake.writing] == ["ModifyListener", "ModifyListener"]
    assert b"Certificates" not in fake.writing[0].body, "nothing but the actions is given"


async def test_a_secret_is_in_no_reading_and_in_no_preview(
    listener: tuple[FakeElb, Router],
) -> None:
    _, router = listener
    found = await router.read()
    assert "kept" not in json.dumps([found.exact, found.settings])
    assert "kept" not in json.dumps(router.preview(Wanted(WHOLE), found))


async def test_a_conflict_names_what_differs(listener: tuple[FakeElb, Router]) -> None:
    fake, router = listener
    found = await router.read()
    fake.put(LISTENER, [forward({BLUE: 60, GREEN: 40}, sticky_s=60)])
    with pytest.raises(Conflict) as raised:
        await router.set_weights(Wanted(WHOLE), found)
    said = str(raised.value)
    assert "weights.blue: 100, now 60; weights.green: 0, now 40" in said
    assert f"action 2.TargetGroups.{OTHER}: 0, now gone" not in said, "the forward is action 1 now"
    assert "action 2: " in said
    assert fake.weights(LISTENER) == {BLUE: 60, GREEN: 40}


async def test_a_listener_that_is_gone_is_a_problem_not_an_error(
    listener: tuple[FakeElb, Router],
) -> None:
    fake, router = listener
    fake.actions.clear()
    found = await router.read()
    assert found.second_weight is None
    assert found.problems == [f"listener {LISTENER} is not there"]


async def test_both_weights_are_never_written_as_0(listener: tuple[FakeElb, Router]) -> None:
    fake, router = listener
    for weight in (0, 1, 5000, 9999, WHOLE):
        await router.set_weights(Wanted(weight), await router.read())
        weights = fake.weights(LISTENER)
        assert weights[BLUE] + weights[GREEN] > 0


async def test_against_another_imitation_of_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    """moto stores and describes as the service does; it checks nothing."""
    import boto3
    from moto.server import ThreadedMotoServer

    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    try:
        ec2 = boto3.client("ec2", endpoint_url=url)
        vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
        subnets = [
            ec2.create_subnet(
                VpcId=vpc, CidrBlock=f"10.0.{n}.0/24", AvailabilityZone=f"eu-west-1{z}"
            )
            for n, z in enumerate("ab")
        ]
        elb = boto3.client("elbv2", endpoint_url=url)
        balancer = elb.create_load_balancer(
            Name="shop", Subnets=[subnet["Subnet"]["SubnetId"] for subnet in subnets]
        )["LoadBalancers"][0]["LoadBalancerArn"]
        blue, green = (
            elb.create_target_group(Name=name, Protocol="HTTP", Port=80, VpcId=vpc)
            ["TargetGroups"][0]["TargetGroupArn"]
            for name in ("shop-blue", "shop-green")
        )  # fmt: skip
        action = forward({blue: 1, green: 0})
        listener = elb.create_listener(
            LoadBalancerArn=balancer, Protocol="HTTP", Port=80, DefaultActions=[action]
        )["Listeners"][0]["ListenerArn"]
        rule = elb.create_rule(
            ListenerArn=listener, Priority=10, Actions=[action],
            Conditions=[{"Field": "path-pattern", "Values": ["/shop/*"]}],
        )["Rules"][0]["RuleArn"]  # fmt: skip
        for place in ({"listener_arn": listener}, {"rule_arn": rule}):
            await _moved_there_and_back(url, monkeypatch, blue, green, place)
    finally:
        server.stop()


async def _moved_there_and_back(
    url: str, monkeypatch: pytest.MonkeyPatch, blue: str, green: str, place: Mapping[str, str]
) -> None:
    class Moto(AlbTarget):
        def settings(self) -> Mapping[str, Any]:
            groups = {"blue": blue, "green": green}
            return {"kind": "alb", "target_groups": groups, "settle": 0, **place}

    monkeypatch.setenv("AWS_ENDPOINT_URL_ELASTIC_LOAD_BALANCING_V2", url)
    target = Moto()
    target.fake = target.make_fake()  # not served: its address is not used
    router = target.router()
    first = await router.read()
    assert (first.second_weight, first.problems) == (0, [])
    change = await router.set_weights(Wanted(2500), first)
    assert (await router.poll(change)).verdict is Verdict.IN_SYNC
    assert (await router.read()).second_weight == 2500
    await router.set_weights(Wanted(0, exact=first.exact), await router.read())
    assert (await router.read()).exact == first.exact
    await router.close()


# ---------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"listener_arn": LISTENER}, "rule_arn is given too"),
        ({"rule_arn": None}, "it must be given; or listener_arn"),
        ({"rule_arn": LISTENER}, "`arn:aws:elasticloadbalancing:REGION:ACCOUNT:listener-rule/"),
        ({"target_groups": {"blue": BLUE}}, "green is missing"),
        ({"target_groups": {"blue": BLUE, "green": BLUE}}, "it is blue's already"),
        ({"target_groups": {"blue": BLUE, "grün": GREEN}}, "a name is 1 to 63"),
        (
            {"target_groups": {"blue": BLUE, "green": GREEN, "red": OTHER}},
            "it is no upstream of the service. Write one of blue, green",
        ),
        (
            {"target_groups": {"blue": BLUE, "green": GREEN.replace("eu-west-1", "us-east-1")}},
            "it is in us-east-1, and the load balancer in eu-west-1",
        ),
    ],
)
def test_settings_that_do_not_go_together_are_refused(
    changed: Mapping[str, Any], said: str
) -> None:
    class Changed(AlbTarget):
        def settings(self) -> Mapping[str, Any]:
            settings = {**super().settings(), **changed}
            return {key: value for key, value in settings.items() if value is not None}

    target = Changed()
    target.fake = target.make_fake()
    with pytest.raises(SettingsError) as raised:
        target.outer()
    assert said in str(raised.value)
    assert "services.shop.outer" in str(raised.value)
