"""What two environments mean, when a swap is made, and an environment's instances as servers."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Final

import pytest

from tests.fakes.aws import CREDENTIALS
from tests.fakes.base import Fault
from tests.fakes.elastic_beanstalk import (
    BLUE,
    GREEN,
    IDLE,
    LIVE,
    FakeEc2,
    FakeElasticBeanstalk,
    asked_for,
)
from tests.outer.target_elastic_beanstalk import ElasticBeanstalkTarget
from turnout.config.document import SettingsError
from turnout.config.loader import load_text
from turnout.config.outer.aws import ElasticBeanstalk
from turnout.config.weights import WHOLE
from turnout.control.outer.beanstalk_environments import (
    batches,
    names_wanted,
    progress_of,
    reading_of,
    servers_of,
)
from turnout.control.outer.loading import make_discovery
from turnout.control.outer.seams import (
    Change,
    Conflict,
    Context,
    Discovery,
    FoundServer,
    NotDone,
    NotExpressible,
    OuterError,
    Refused,
    ReplyLost,
    Router,
    Throttled,
    Verdict,
    Wanted,
)

NAMES: Final = ("blue", "green")
SETTINGS: Final = ElasticBeanstalk.model_validate(
    {
        "kind": "elastic_beanstalk",
        "environments": {"blue": "shop-blue", "green": "shop-green"},
        "cname": "Shop.eu-west-1.elasticbeanstalk.com.",
    }
)


def environment(id_: str, cname: str | None, status: str = "Ready", **more: Any) -> dict[str, Any]:
    name = "shop-blue" if id_ == BLUE else "shop-green"
    return {
        "EnvironmentId": id_, "EnvironmentName": name, "ApplicationName": "shop",
        "CNAME": cname, "Status": status, "Health": "Green", **more,
    }  # fmt: skip


# ---------------------------------------------------------------- by value


@pytest.mark.parametrize(
    ("blue", "green", "second_weight"),
    [(LIVE, IDLE, 0), (IDLE, LIVE, WHOLE), (LIVE.upper(), f"{IDLE}.", 0)],
)
def test_who_holds_the_live_name_has_all_weight(blue: str, green: str, second_weight: int) -> None:
    found = reading_of([environment(BLUE, blue), environment(GREEN, green)], SETTINGS, NAMES)
    assert (found.second_weight, found.problems, found.warnings) == (second_weight, [], [])
    assert found.ttl_s == 60


@pytest.mark.parametrize(
    ("blue", "green", "problem"),
    [
        (environment(BLUE, LIVE), None, "green's environment shop-green is not there"),
        (
            environment(BLUE, "x.example"), environment(GREEN, IDLE),
            f"{LIVE} (cname) is held by neither: blue's is x.example, green's is {IDLE}",
        ),
        (environment(BLUE, None), environment(GREEN, IDLE), "blue's is none"),
        (environment(BLUE, LIVE), environment(GREEN, LIVE), "is held by both"),
        (environment(BLUE, LIVE), environment(GREEN, IDLE, "Terminating"), "is Terminating"),
        (environment(BLUE, LIVE), environment(GREEN, IDLE, "Launching"), "is Launching"),
    ],
)  # fmt: skip
def test_what_is_not_as_configured_is_said(
    blue: dict[str, Any], green: dict[str, Any] | None, problem: str
) -> None:
    found = reading_of([blue, green], SETTINGS, NAMES)
    assert problem in "; ".join(found.problems)
    assert found.second_weight is None


def test_an_update_and_bad_health_are_warned_of() -> None:
    found = reading_of(
        [
            environment(BLUE, LIVE, HealthStatus="Degraded"),
            environment(GREEN, IDLE, "Updating", Health="Grey"),
        ],
        SETTINGS,
        NAMES,
    )
    assert (found.second_weight, found.problems) == (0, [])
    assert found.warnings == [
        "blue's environment shop-blue has health Degraded",
        "green's environment shop-green is Updating: no swap is taken on until Ready",
        "green's environment shop-green has health Grey",
    ]


def test_between_the_two_names_nothing_is_said_but_that_a_swap_is_under_way() -> None:
    between = [environment(BLUE, IDLE, "Updating"), environment(GREEN, IDLE, "Updating")]
    with pytest.raises(NotDone, match="a swap is under way"):
        reading_of(between, SETTINGS, NAMES)


def test_a_new_version_is_no_change_of_settings_and_a_new_environment_is() -> None:
    def read(**more: Any) -> Mapping[str, Any]:
        green = environment(GREEN, IDLE, **more)
        return reading_of([environment(BLUE, LIVE), green], SETTINGS, NAMES).settings

    assert read() == read(VersionLabel="v2") == read(Status="Updating")
    assert read() != read(EnvironmentId="e-another001")


THERE: Final = {"blue": LIVE, "green": IDLE}
SWAPPED: Final = {"blue": IDLE, "green": LIVE}


@pytest.mark.parametrize(
    ("wanted", "names"),
    [
        (Wanted(0), THERE),
        (Wanted(WHOLE), SWAPPED),
        (Wanted(0, exact=SWAPPED), SWAPPED),
        (Wanted(WHOLE, exact=THERE), THERE),
    ],
)
def test_names_that_are_wanted(wanted: Wanted, names: Mapping[str, str]) -> None:
    found = reading_of([environment(BLUE, LIVE), environment(GREEN, IDLE)], SETTINGS, NAMES)
    assert names_wanted(wanted, found, LIVE, NAMES) == names


@pytest.mark.parametrize(
    "wanted", [Wanted(1), Wanted(5000), Wanted(0, exact={"blue": LIVE, "green": "x.example"})]
)
def test_names_that_no_swap_makes_are_refused(wanted: Wanted) -> None:
    found = reading_of([environment(BLUE, LIVE), environment(GREEN, IDLE)], SETTINGS, NAMES)
    with pytest.raises(NotExpressible):
        names_wanted(wanted, found, LIVE, NAMES)


@pytest.mark.parametrize(
    ("blue", "green", "now", "verdict"),
    [
        ((IDLE, "Ready"), (LIVE, "Ready"), 1.0, Verdict.IN_SYNC),
        ((IDLE, "Updating"), (LIVE, "Ready"), 1.0, Verdict.PENDING),
        ((LIVE, "Updating"), (IDLE, "Updating"), 99.0, Verdict.PENDING),
        ((IDLE, "Updating"), (IDLE, "Updating"), 99.0, Verdict.PENDING),
        ((LIVE, "Ready"), (IDLE, "Ready"), 29.0, Verdict.PENDING),
        ((LIVE, "Ready"), (IDLE, "Ready"), 30.0, Verdict.FAILED),
        (("x.example", "Ready"), (LIVE, "Ready"), 1.0, Verdict.UNKNOWN),
        ((IDLE, "Ready"), (LIVE, "Terminating"), 1.0, Verdict.UNKNOWN),
    ],
)
def test_in_sync_is_both_ready_with_the_names_as_wanted(
    blue: tuple[str, str], green: tuple[str, str], now: float, verdict: Verdict
) -> None:
    change = Change("r", {"before": THERE, "after": SWAPPED, "at": 0.0})
    found = [environment(BLUE, *blue), environment(GREEN, *green)]
    assert progress_of(found, change, NAMES, now, 30.0).verdict is verdict


def test_an_environment_that_is_gone_leaves_it_unknown() -> None:
    change = Change("r", {"before": THERE, "after": SWAPPED, "at": 0.0})
    found = [environment(BLUE, IDLE), None]
    assert progress_of(found, change, NAMES, 1.0, 30.0).verdict is Verdict.UNKNOWN


# ---------------------------------------------------------------- against the fake

Made = tuple[FakeElasticBeanstalk, Router]


@pytest.fixture
async def made(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Made]:
    target = ElasticBeanstalkTarget()
    async with target.serve():
        for name, value in target.environment().items():
            monkeypatch.setenv(name, value)
        router = target.router()
        yield target.fake, router
        await router.close()


async def until_in_sync(router: Router, change: Change) -> None:
    async with asyncio.timeout(10):
        while (await router.poll(change)).verdict is not Verdict.IN_SYNC:
            await asyncio.sleep(0.01)


async def test_a_swap_asked_for_twice_is_made_once(made: Made) -> None:
    fake, router = made
    assert router.capabilities.exchange, "the mover waits before it looks for a lost one"
    first = await router.read()
    await until_in_sync(router, await router.set_weights(Wanted(WHOLE), first))
    with pytest.raises(Conflict, match=r"names\.blue: shop\.eu-west-1.*, now shop-idle"):
        await router.set_weights(Wanted(WHOLE), first)
    await router.set_weights(Wanted(WHOLE), await router.read())
    assert asked_for(fake.journal, "SwapEnvironmentCNAMEs") == 1
    assert fake.cname(GREEN) == LIVE


async def test_a_lost_reply_is_read_back_and_no_second_swap_undoes_it(made: Made) -> None:
    fake, router = made
    fake.pending_s = 0.2
    first = await router.read()
    fake.inject(Fault.LOST_AFTER)
    with pytest.raises(ReplyLost):
        await router.set_weights(Wanted(WHOLE), first)
    now = await router.read()
    assert now.second_weight == WHOLE
    await until_in_sync(router, await router.confirm(Wanted(WHOLE), now))
    assert asked_for(fake.journal, "SwapEnvironmentCNAMEs") == 1


async def test_while_a_lost_swap_does_not_show_yet_no_other_is_made(made: Made) -> None:
    fake, router = made
    fake.pending_s, fake.names_last = 0.3, True
    first = await router.read()
    fake.inject(Fault.LOST_AFTER)
    with pytest.raises(ReplyLost):
        await router.set_weights(Wanted(WHOLE), first)
    again = await router.read()
    assert (again.second_weight, again.problems) == (0, []), "it shows as it was before"
    with pytest.raises(Throttled, match="shop-blue is Updating"):
        await router.set_weights(Wanted(WHOLE), again)
    async with asyncio.timeout(10):
        while (await router.read()).second_weight != WHOLE:
            await asyncio.sleep(0.01)
    assert asked_for(fake.journal, "SwapEnvironmentCNAMEs") == 1


async def test_it_swaps_by_ids_as_a_name_may_have_passed_on(made: Made) -> None:
    fake, router = made
    await router.set_weights(Wanted(WHOLE), await router.read())
    [call] = fake.writing
    assert f"SourceEnvironmentId={BLUE}&DestinationEnvironmentId={GREEN}".encode() in call.body
    assert b"EnvironmentName" not in call.body


async def test_an_update_by_somebody_else_is_waited_for(made: Made) -> None:
    fake, router = made
    found = await router.read()
    fake.environments[GREEN]["Status"] = "Updating"
    with pytest.raises(Throttled, match="shop-green is Updating"):
        await router.set_weights(Wanted(WHOLE), found)
    assert fake.writing == []
    fake.environments[GREEN]["Status"] = "Ready"
    await router.set_weights(Wanted(WHOLE), found)
    assert fake.cname(GREEN) == LIVE


async def test_an_environment_that_is_going_is_refused(made: Made) -> None:
    fake, router = made
    found = await router.read()
    fake.environments[GREEN]["Status"] = "Terminating"
    with pytest.raises(Refused, match="is Terminating, not Ready"):
        await router.set_weights(Wanted(WHOLE), found)
    assert fake.writing == []


async def test_a_swap_that_shows_nothing_has_failed(made: Made) -> None:
    fake, router = made
    fake.fails_next = True
    change = await router.set_weights(Wanted(WHOLE), await router.read())
    async with asyncio.timeout(10):
        while (progress := await router.poll(change)).verdict is Verdict.PENDING:
            await asyncio.sleep(0.01)
    assert progress.verdict is Verdict.FAILED
    assert "each has its name of before" in progress.detail


async def test_environments_are_found_through_all_pages_and_by_id(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class ById(ElasticBeanstalkTarget):
        def settings(self) -> Mapping[str, Any]:
            environments = {"blue": BLUE, "green": "shop-green"}
            return {**super().settings(), "environments": environments}

    for target in (ElasticBeanstalkTarget(), ById()):
        async with target.serve():
            target.fake.page_max = 1
            target.fake.put("e-oldoldold1", "shop-green", "gone.example", Status="Terminated")
            for name, value in target.environment().items():
                monkeypatch.setenv(name, value)
            router = target.router()
            found = await router.read()
            assert (found.second_weight, found.problems) == (0, [])
            await router.close()


# ---------------------------------------------------------------- servers, by value


def instance(id_: str, address: str | None, state: str = "running") -> dict[str, Any]:
    return {"InstanceId": id_, "PrivateIpAddress": address, "State": {"Name": state}}


@pytest.mark.parametrize(
    ("state", "health", "server"),
    [
        ("running", "Ok", FoundServer("10.0.0.1:80", True)),
        ("running", None, FoundServer("10.0.0.1:80", True)),
        ("running", "Warning", FoundServer("10.0.0.1:80", True)),
        ("running", "Degraded", FoundServer("10.0.0.1:80", True)),
        ("running", "NoData", FoundServer("10.0.0.1:80", True)),
        ("running", "Unknown", FoundServer("10.0.0.1:80", True)),
        ("running", "Severe", FoundServer("10.0.0.1:80", False)),
        ("running", "Pending", FoundServer("10.0.0.1:80", False)),
        ("pending", "Ok", FoundServer("10.0.0.1:80", False)),
        ("shutting-down", "Ok", FoundServer("10.0.0.1:80", False, draining=True)),
        ("stopping", "Ok", FoundServer("10.0.0.1:80", False, draining=True)),
        ("stopped", "Ok", None),
        ("terminated", "Ok", None),
    ],
)
def test_an_instance_is_a_server_as_it_runs_and_is_fit(
    state: str, health: str | None, server: FoundServer | None
) -> None:
    known = {} if health is None else {"i-1": health}
    found = servers_of([instance("i-1", "10.0.0.1", state)], known, 80)
    assert found == (() if server is None else (server,))


def test_an_instance_without_an_address_is_none_yet() -> None:
    assert servers_of([instance("i-1", None)], {}, 80) == ()


def test_ids_are_asked_for_in_batches_that_a_filter_takes() -> None:
    assert [len(batch) for batch in batches([f"i-{n}" for n in range(250)])] == [100, 100, 50]
    assert list(batches([])) == []


# ---------------------------------------------------------------- servers, against the fakes


class World:
    """Both fakes, what was told, and a discovery that looks every 10 ms."""

    def __init__(self, beanstalk: FakeElasticBeanstalk, ec2: FakeEc2) -> None:
        self.beanstalk = beanstalk
        self.ec2 = ec2
        self.told: list[str] = []

        async def turn() -> None:
            """No pace."""

        text = """
listeners: [{bind: "127.0.0.1:8080"}]
services:
  shop:
    upstreams:
      blue: {servers: ["127.0.0.1:9001"]}
      green:
        discover: {kind: elastic_beanstalk, environment: shop-green, port: 8080, interval: 100ms}
"""
        upstream = load_text(text, environ={}).services[0].upstreams[1]
        assert upstream.discover is not None
        context = Context(NAMES, 5.0, turn, lambda what, remedy: self.told.append(what))
        self.discovery: Discovery = make_discovery(
            upstream.discover.settings,
            context,
        )

    def add(self, id_: str, address: str, state: str = "running") -> None:
        self.beanstalk.instances.setdefault(GREEN, []).append(id_)
        self.ec2.put(id_, address, state)


@pytest.fixture
async def world(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    async with FakeElasticBeanstalk() as beanstalk, FakeEc2() as ec2:
        monkeypatch.setenv("AWS_ENDPOINT_URL_ELASTIC_BEANSTALK", beanstalk.url)
        monkeypatch.setenv("AWS_ENDPOINT_URL_EC2", ec2.url)
        beanstalk.put(GREEN, "shop-green", IDLE)
        made = World(beanstalk, ec2)
        made.add("i-1", "10.0.0.1")
        made.add("i-2", "10.0.0.2")
        yield made
        await made.discovery.close()


def ready(addresses: Sequence[str]) -> tuple[FoundServer, ...]:
    return tuple(FoundServer(f"{address}:8080", True) for address in addresses)


async def test_an_environment_s_instances_are_servers_and_changes_are_told_once(
    world: World,
) -> None:
    async with asyncio.timeout(10), aclosing(world.discovery.snapshots()) as found:  # type: ignore[type-var]
        first = await anext(found)
        assert (first.servers, first.complete) == (ready(["10.0.0.1", "10.0.0.2"]), True)
        world.add("i-3", "10.0.0.3")
        second = await anext(found)
        assert second.servers == ready(["10.0.0.1", "10.0.0.2", "10.0.0.3"])
        assert second.revision != first.revision
        world.beanstalk.health["i-2"] = "Severe"
        third = await anext(found)
        assert [server.ready for server in third.servers] == [True, False, True]
    assert world.told == []


async def test_pages_of_instances_and_of_their_health_are_all_read(world: World) -> None:
    world.beanstalk.page_max = world.ec2.page_max = 1
    world.beanstalk.health["i-2"] = "Severe"
    async with asyncio.timeout(10), aclosing(world.discovery.snapshots()) as found:  # type: ignore[type-var]
        first = await anext(found)
    assert [server.ready for server in first.servers] == [True, False]
    assert first.complete


async def test_without_enhanced_health_they_are_taken_as_they_run_and_it_is_told_once(
    world: World,
) -> None:
    world.beanstalk.enhanced = False
    async with asyncio.timeout(10), aclosing(world.discovery.snapshots()) as found:  # type: ignore[type-var]
        assert (await anext(found)).servers == ready(["10.0.0.1", "10.0.0.2"])
        world.add("i-3", "10.0.0.3")
        await anext(found)
    assert len(world.told) == 1
    assert "Enhanced health reporting is not enabled" in world.told[0]


async def test_a_failed_page_makes_the_snapshot_incomplete(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("turnout.control.outer.beanstalk_environments.INSTANCES_MAX", 1)
    world.ec2.fails_on = "i-2"
    async with asyncio.timeout(10), aclosing(world.discovery.snapshots()) as found:  # type: ignore[type-var]
        first = await anext(found)
        assert (first.servers, first.complete) == (ready(["10.0.0.1"]), False)
        world.ec2.fails_on = None
        second = await anext(found)
        assert (second.servers, second.complete) == (ready(["10.0.0.1", "10.0.0.2"]), True)


async def test_an_instance_that_ec2_does_not_know_yet_makes_it_incomplete(world: World) -> None:
    del world.ec2.instances["i-2"]
    async with asyncio.timeout(10), aclosing(world.discovery.snapshots()) as found:  # type: ignore[type-var]
        first = await anext(found)
    assert (first.servers, first.complete) == (ready(["10.0.0.1"]), False)


@pytest.mark.parametrize("fault", [Fault.THROTTLED, Fault.DENIED, Fault.UNAVAILABLE])
async def test_what_cannot_be_asked_raises_and_gives_no_empty_upstream(
    world: World, fault: Fault
) -> None:
    for broken in (world.beanstalk, world.ec2):
        broken.inject(fault, 1, writes=False)
        with pytest.raises(OuterError):
            async with asyncio.timeout(10), aclosing(world.discovery.snapshots()) as found:  # type: ignore[type-var]
                await anext(found)


async def test_health_that_cannot_be_asked_for_a_while_stays_as_last_known(world: World) -> None:
    world.beanstalk.health["i-2"] = "Severe"
    async with asyncio.timeout(10), aclosing(world.discovery.snapshots()) as found:  # type: ignore[type-var]
        first = await anext(found)
        assert [server.ready for server in first.servers] == [True, False]
        world.beanstalk.health_fails = True
        world.add("i-3", "10.0.0.3")
        second = await anext(found)
        assert [server.ready for server in second.servers] == [True, False, True]
        world.beanstalk.health_fails, world.beanstalk.enhanced = False, False
        third = await anext(found)
        assert [server.ready for server in third.servers] == [True, True, True]


# ---------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"environments": {"blue": "shop-blue"}}, "green is missing"),
        ({"environments": {"blue": "shop", "green": "shop"}}, "it is blue's already"),
        ({"environments": {"blue": "-", "green": "shop-green"}}, "an environment's name (4 to 40"),
        ({"cname": "https://shop.example/"}, "a name in DNS"),
        ({"region": "Ireland"}, "a region of AWS"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(
    changed: Mapping[str, Any], said: str
) -> None:
    class Changed(ElasticBeanstalkTarget):
        def settings(self) -> Mapping[str, Any]:
            return {**super().settings(), **changed}

    target = Changed()
    target.fake = target.make_fake()
    with pytest.raises(SettingsError) as raised:
        target.outer()
    assert said in str(raised.value)
