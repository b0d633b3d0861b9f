"""The watch over real counters, with a clock that is turned by hand."""

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from tests.control.api_bench import make_shared, table_of
from turnout.config.loader import load_text
from turnout.config.model import Configuration, TailPolicy
from turnout.control.ports import TailSummary
from turnout.control.shared import SharedState
from turnout.control.tail_watch import TailWatch
from turnout.proxy.commands import Entered
from turnout.proxy.scoreboard import S_ENTERED, RoutingWord

CONFIGURATION = """
listeners: [{{bind: "127.0.0.1:8080"}}, {{bind: "127.0.0.2:8080"}}]
services:
  shop:
    upstreams: {{blue: {{servers: ["127.0.0.1:9001"]}}, green: {{servers: ["127.0.0.1:9002"]}}}}
    outer: {{kind: webhook, url: "http://127.0.0.1:9/", tail: {{{tail}}}}}
  plain:
    match: {{hosts: [plain.example]}}
    upstreams: {{blue: {{servers: ["127.0.0.1:9003"]}}, green: {{servers: ["127.0.0.1:9004"]}}}}
"""
LISTENERS = 'listeners: {blue: ["127.0.0.1:8080"], green: ["127.0.0.2:8080"]}'
SHOP = 1
NEAR, FAR = "192.0.2.0/24", "198.51.100.0/24"
UPTIME, AHEAD = 1000.0, 1_700_000_000.0


def configured(tail: str) -> Configuration:
    return load_text(CONFIGURATION.format(tail=tail), base=Path("/srv"), environ={})


@dataclass
class Watch:
    """A watch, looked at each second of its own clock. Blue has all, and loses it."""

    shared: SharedState
    configuration: Configuration
    now: float = UPTIME
    tails: TailWatch = field(init=False)

    def __post_init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """As a new control process does."""
        self.tails = TailWatch(
            self.shared,
            lambda: self.configuration,
            lambda: table_of(self.configuration),
            uptime=lambda: self.now,
            wall=lambda: self.now + AHEAD,
        )
        self.tails.look()

    @property
    def policy(self) -> TailPolicy:
        outer = self.configuration.services[0].outer
        assert outer is not None and outer.tail is not None
        return outer.tail

    def weight(self, second: int) -> None:
        self.shared.set_word(SHOP, RoutingWord(False, second, 1))

    def came(self, upstream: int, count: int = 1) -> None:
        board = self.shared.scoreboard
        board.words[board.service(0, SHOP) + S_ENTERED + upstream] += count

    def tell(self, upstream: int, networks: Mapping[str, int], since: float | None = None) -> None:
        """A worker tells of what came after this time; left out: of what came just now."""
        self.tails.heard(
            Entered(SHOP, upstream, dict(networks), self.now if since is None else since)
        )

    async def pass_s(self, seconds: float, every: float = 1.0) -> None:
        for _ in range(round(seconds / every)):
            self.now += every
            self.tails.look()
            await asyncio.sleep(0)

    def shown(self) -> dict[str, Any]:
        found = self.tails.document("shop")
        assert found is not None
        return found


@pytest.fixture
def watch(tmp_path: Path) -> Iterator[Watch]:
    shared = make_shared(tmp_path / "run")
    yield Watch(shared, configured(f"{LISTENERS}, below: 1/min, for: 2m, timeout: 1h"))
    shared.close()


async def waiting(
    watch: Watch, passed_s: float = 0.0, ttl_s: float = 60.0
) -> "asyncio.Task[TailSummary]":
    """Who waits for the end of blue's tail, from now on."""
    wait = asyncio.create_task(watch.tails.wait_over("shop", "blue", passed_s, ttl_s, watch.policy))
    await asyncio.sleep(0)
    return wait


async def ended(wait: "asyncio.Task[TailSummary]") -> TailSummary:
    return await asyncio.wait_for(wait, 2)


async def test_it_is_over_once_the_ttl_has_passed_and_it_was_quiet_for_long(watch: Watch) -> None:
    watch.weight(10_000)
    watch.came(0, 500)
    await watch.pass_s(1)
    wait = await waiting(watch)
    watch.came(0, 3)
    watch.tell(0, {"192.0.2.0/24": 2, "198.51.100.0/24": 1})
    watch.tell(1, {"203.0.113.0/24": 9})
    await watch.pass_s(30)
    watch.came(0)
    await watch.pass_s(120)
    assert not wait.done()
    await watch.pass_s(1)
    found = await ended(wait)
    assert found == TailSummary(
        upstream="blue",
        over=True,
        reason="the TTL passed 1m31s ago, and there were fewer than 1/min for 2m: the last "
        "request came 2m ago",
        seconds=151.0,
        requests=4,
        networks=(("192.0.2.0/24", 2), ("198.51.100.0/24", 1)),
    )


async def test_silence_does_not_shorten_the_time_to_live(watch: Watch) -> None:
    watch.weight(10_000)
    await watch.pass_s(600)
    wait = await waiting(watch, ttl_s=300.0)
    await watch.pass_s(299)
    assert not wait.done()
    await watch.pass_s(1)
    assert (await ended(wait)).over


async def test_a_tail_that_does_not_end_is_given_up_at_its_timeout(watch: Watch) -> None:
    """One request a minute: a client that has pinned the address."""
    watch.weight(10_000)
    await watch.pass_s(1)
    wait = await waiting(watch)
    for minute in range(60):
        assert not wait.done(), minute
        watch.came(0)
        await watch.pass_s(60)
    found = await ended(wait)
    assert (found.over, found.requests, found.seconds) == (False, 60, 3600.0)
    assert found.reason == ("1 request in the last minute; fewer than 1/min for 2m is needed")
    assert watch.shown()["timed_out"] is True


async def test_a_control_that_begins_anew_watches_anew(watch: Watch) -> None:
    watch.weight(10_000)
    watch.came(0, 7)
    await watch.pass_s(500)
    watch.begin()
    wait = await waiting(watch, passed_s=400.0)
    await watch.pass_s(119)
    assert not wait.done()
    assert watch.shown()["reason"] == ("watched for 1m59s only; fewer than 1/min for 2m is needed")
    await watch.pass_s(1)
    found = await ended(wait)
    # What came before is not known to have been since.
    assert (found.over, found.requests, found.seconds) == (True, 0, 520.0)


async def test_without_listeners_the_time_to_live_alone_is_waited_for(watch: Watch) -> None:
    watch.configuration = configured("below: 1/min, for: 2m")
    watch.weight(10_000)
    watch.begin()
    wait = await waiting(watch, ttl_s=0.5)
    assert not wait.done()
    watch.now += 0.5
    found = await ended(wait)
    assert (found.over, found.requests) == (True, None)
    assert watch.shown()["upstreams"]["blue"]["curve"] is None


async def test_a_wait_outlives_a_service_that_leaves_the_configuration(watch: Watch) -> None:
    watch.weight(10_000)
    wait = await waiting(watch, ttl_s=0.5)
    watch.configuration = replace(watch.configuration, services=())
    await watch.pass_s(1)
    assert (await ended(wait)).over


async def test_a_wait_that_is_begun_again_counts_from_when_it_was_in_sync(watch: Watch) -> None:
    watch.weight(10_000)
    watch.came(0, 50)
    await watch.pass_s(1)
    wait = await waiting(watch)
    watch.came(0, 3)
    await watch.pass_s(121)
    assert (await ended(wait)).requests == 3
    watch.came(0, 4)
    await watch.pass_s(5)
    wait = await waiting(watch, passed_s=126.0)
    await watch.pass_s(121)
    assert (await ended(wait)).requests == 7
    # Told by another one, who did not see it: to a point of the curve.
    wait = await waiting(watch, passed_s=150.0)
    await watch.pass_s(1)
    assert (await ended(wait)).requests == 4


async def test_networks_are_of_the_same_requests_as_the_count(watch: Watch) -> None:
    """Workers tell of them up to a second later, and of what came before as well."""
    watch.weight(10_000)
    watch.came(0, 50)
    await watch.pass_s(1)
    wait = await waiting(watch)
    watch.tell(0, {NEAR: 50}, since=watch.now - 1)  # of before
    watch.came(0, 3)
    await watch.pass_s(0.5, every=0.5)
    watch.tell(0, {NEAR: 2, FAR: 1}, since=watch.now - 1)  # of both
    watch.tell(0, {NEAR: 1, FAR: 1}, since=watch.now - 0.5)
    await watch.pass_s(121)
    found = await ended(wait)
    assert (found.requests, found.networks) == (3, ((NEAR, 1), (FAR, 1)))


async def test_a_control_that_begins_anew_leaves_out_what_came_before_also_by_network(
    watch: Watch,
) -> None:
    watch.weight(10_000)
    await watch.pass_s(100)
    watch.came(0, 80)  # while there was no control, to which it is told once there is
    watch.begin()
    wait = await waiting(watch, passed_s=50.0)
    watch.tell(0, {NEAR: 80}, since=watch.now - 30)
    watch.tell(0, {NEAR: 9}, since=0.0)  # a worker of before, which does not say since when
    watch.came(0, 2)
    watch.tell(0, {FAR: 2})
    await watch.pass_s(121)
    found = await ended(wait)
    assert (found.requests, found.networks) == (2, ((FAR, 2),))


async def test_networks_are_not_ahead_of_the_count_either(watch: Watch) -> None:
    """A worker may tell of what came after the last look."""
    watch.weight(10_000)
    await watch.pass_s(1)
    wait = await waiting(watch)
    watch.came(0, 5)
    watch.tell(0, {NEAR: 5})
    blue = watch.shown()["upstreams"]["blue"]
    assert (blue["requests_since_in_sync"], blue["networks"]) == (0, [])
    watch.tails.look()
    blue = watch.shown()["upstreams"]["blue"]
    assert blue["requests_since_in_sync"] == 5
    assert [(one["network"], one["requests"]) for one in blue["networks"]] == [(NEAR, 5)]
    wait.cancel()


async def test_who_says_late_since_when_it_counts_has_the_networks_since_then(
    watch: Watch,
) -> None:
    watch.weight(10_000)
    await watch.pass_s(20)
    for network in (NEAR, FAR, FAR):
        watch.came(0, 10)
        watch.tell(0, {network: 10})
        await watch.pass_s(1)
    wait = await waiting(watch, passed_s=2.0)
    blue = watch.shown()["upstreams"]["blue"]
    assert [(one["network"], one["requests"]) for one in blue["networks"]] == [(FAR, 20)]
    assert blue["requests_since_in_sync"] == 20
    wait.cancel()


async def test_counters_that_begin_anew_are_counted_from_their_beginning(
    watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch.weight(10_000)
    watch.came(0, 500)
    await watch.pass_s(1)
    wait = await waiting(watch)
    board = watch.shared.scoreboard
    board.words[board.service(0, SHOP) + S_ENTERED] = 4
    monkeypatch.setattr(type(watch.shared.boards), "identity", "another")
    await watch.pass_s(1)
    watch.came(0, 3)
    await watch.pass_s(121)
    assert (await ended(wait)).requests == 3


async def test_a_wait_may_be_given_up(watch: Watch) -> None:
    wait = await waiting(watch)
    await watch.pass_s(1)
    wait.cancel()
    with pytest.raises(asyncio.CancelledError):
        await wait
    await watch.pass_s(1)


async def test_what_is_shown_while_it_lasts(watch: Watch) -> None:
    watch.weight(5_000)
    await watch.pass_s(1)
    assert watch.shown()["old"] is None
    assert watch.shown()["reason"] == "both upstreams have weight: neither is the old side"
    watch.came(0, 10)
    watch.came(1, 4)
    await watch.pass_s(5)
    watch.weight(10_000)
    await watch.pass_s(4)
    wait = await waiting(watch, ttl_s=60)
    watch.came(0, 2)
    await watch.pass_s(17)
    watch.tell(0, {"2001:db8:1::/48": 2, "other": 5})
    watch.tails.look()
    found = watch.shown()
    blue, green = found["upstreams"]["blue"], found["upstreams"]["green"]
    assert (found["old"], found["over"], found["timed_out"]) == ("blue", False, False)
    assert found["ttl_seconds"] == 60
    assert found["reason"].startswith("the TTL passes in 43s; 12 requests in the last minute; ")
    assert (blue["requests"], blue["requests_since_in_sync"]) == (12, 2)
    assert (green["requests"], green["requests_since_in_sync"]) == (4, None)
    assert blue["curve"]["seconds"] == 10
    assert [point["requests"] for point in blue["curve"]["points"]] == [10, 2, 0]
    assert [one["network"] for one in blue["networks"]] == ["2001:db8:1::/48"]
    assert blue["other_networks"] == 5
    assert found["in_sync_at"] == "2023-11-14T22:30:10.000Z"
    assert found["ttl_passed_at"] == "2023-11-14T22:31:10.000Z"
    assert blue["last_request_at"] == "2023-11-14T22:30:11.000Z"
    # Back again: the old side is the other one, and nobody has said since when.
    watch.weight(0)
    await watch.pass_s(1)
    found = watch.shown()
    assert (found["old"], found["in_sync_at"], found["ttl_seconds"]) == ("green", None, None)
    assert found["upstreams"]["green"]["requests_since_in_sync"] == 0
    wait.cancel()


async def test_nothing_is_over_while_a_switchover_has_not_brought_its_change_in_sync(
    watch: Watch,
) -> None:
    await watch.pass_s(500)
    assert (watch.shown()["old"], watch.shown()["over"]) == ("green", True)
    found = watch.tails.document("shop", "1m8bjad97", "blue")
    assert found is not None
    assert (found["old"], found["over"]) == ("blue", False)
    assert found["reason"] == (
        "switchover 1m8bjad97 is under way, and its change is not in sync yet"
    )
    watch.weight(10_000)
    await watch.pass_s(1)
    wait = await waiting(watch)
    found = watch.tails.document("shop", "1m8bjad97", "blue")
    assert found is not None
    assert (found["old"], found["ttl_seconds"]) == ("blue", 60)
    await watch.pass_s(121)
    assert (await ended(wait)).over
    # The way back: what was told of blue is not what this one waits for.
    found = watch.tails.document("shop", "1m8bjad98", "green")
    assert found is not None
    assert (found["old"], found["over"]) == ("green", False)


async def test_who_has_no_tail_is_not_watched(watch: Watch) -> None:
    assert watch.tails.document("plain") is None
    assert watch.tails.document("nobody") is None
    assert watch.tails.counted() == {"shop": [True, True]}


async def test_another_limit_begins_the_watch_anew_and_keeps_what_was_told(watch: Watch) -> None:
    watch.weight(10_000)
    await watch.pass_s(1)
    wait = await waiting(watch)
    await watch.pass_s(500)
    assert (await ended(wait)).over
    watch.configuration = configured(f"{LISTENERS}, below: 1/min, for: 5m, timeout: 1h")
    await watch.pass_s(1)
    found = watch.shown()
    assert (found["over"], found["ttl_seconds"]) == (False, 60)
    assert found["reason"].startswith("watched for 0ms only")


@pytest.mark.parametrize(
    ("below", "for_", "interval_s"),
    [("1/s", "2s", 0.05), ("1/min", "5m", 1.0), ("1/h", "1s", 0.05)],
)
async def test_it_is_looked_at_some_times_in_each_span(
    watch: Watch, below: str, for_: str, interval_s: float
) -> None:
    watch.configuration = configured(f"{LISTENERS}, below: {below}, for: {for_}")
    watch.begin()
    assert watch.tails._watched["shop"].interval_s == interval_s
