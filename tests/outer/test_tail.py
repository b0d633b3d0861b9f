"""The DNS tail end to end: a zone, a DNS server that answers from it, clients that remember, and
two listeners of the product at the addresses of blue and green.

Spans are short (a TTL of 1 s, `below: 1/s` for 1.5 s), and real.
"""

import asyncio
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from tests import under_test
from tests.fakes.dns import DnsServer
from tests.fakes.route53 import FakeRoute53
from tests.harness import SERVICE, Product, settings
from tests.outer.caching_client import CachingClient, Manner, Went
from tests.outer.target_route53 import environment
from tests.upstreams import Upstream

NAME: Final = "www.shop.example"
BLUE, GREEN = "127.0.0.1", "127.0.0.2"
TTL_S: Final = 1
FOR_S: Final = 1.5
PENDING_S: Final = 0.3
LATE_S: Final = 5.0
"""How late it may be noticed that a tail is over, on a machine with other things to do."""


@dataclass
class World:
    """All of it. Blue has the traffic."""

    product: Product
    zone: FakeRoute53
    names: DnsServer
    port: int
    clients: list[CachingClient] = field(default_factory=list)

    def client(self, manner: Manner = Manner.TTL) -> CachingClient:
        made = CachingClient(("127.0.0.1", self.names.port), NAME, self.port, manner)
        self.clients.append(made)
        return made

    async def tail(self) -> dict[str, Any]:
        found: dict[str, Any] = await self.product.api.call("GET", f"/v1/services/{SERVICE}/tail")
        return found

    async def switch(self) -> str:
        """Begin a switch to green; its id."""
        started = await self.product.api.switch("green", wait=False)
        return str(started["id"])

    async def in_sync(self) -> float:
        """Wait until the name servers answer with green; since when they do, monotonic."""
        await self.product.until(
            lambda: next(one.weight for one in self.zone.in_sync_records()) == 0,
            "the zone to be in sync",
        )
        return self.zone.changes[-1].in_sync_at

    def by(self, address: str) -> list[Went]:
        """What every client sent by this address, in order."""
        return sorted(
            (one for client in self.clients for one in client.by(address)),
            key=lambda one: one.at_s,
        )


def free_port() -> int:
    """A port that is free at both addresses: DNS does not tell ports."""
    while True:
        with socket.socket() as one, socket.socket() as other:
            one.bind((BLUE, 0))
            port: int = one.getsockname()[1]
            try:
                other.bind((GREEN, port))
            except OSError:
                continue
            return port


@asynccontextmanager
async def world(ttl_s: int = TTL_S, **tail: Any) -> AsyncIterator[World]:
    zone = FakeRoute53(pending_s=PENDING_S)
    zone.weighted(
        NAME, "A", {"shop-blue": 1, "shop-green": 0}, {"shop-blue": BLUE, "shop-green": GREEN},
        ttl=ttl_s,
    )  # fmt: skip
    port = free_port()
    async with (
        zone,
        DnsServer(zone.in_sync_records) as names,
        Upstream("blue") as blue,
        Upstream("green") as green,
    ):
        binds = {"blue": f"{BLUE}:{port}", "green": f"{GREEN}:{port}"}
        outer = {
            "kind": "route53",
            "zone_id": zone.zone_id,
            "name": NAME,
            "types": ["A"],
            "set_identifiers": {"blue": "shop-blue", "green": "shop-green"},
            "tail": {
                "below": "1/s",
                "for": f"{FOR_S:g}s",
                "listeners": {name: [bind] for name, bind in binds.items()},
                **tail,
            },
        }
        configuration = settings([blue.address], [green.address], outer=outer)
        configuration["listeners"] = [{"bind": bind} for bind in binds.values()]
        product = Product(configuration, environment=environment(zone.url))
        try:
            await product.start()
            await product.api.healthy()
            yield World(product, zone, names, port)
        finally:
            await product.close()


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was said, and between which times it was asked and answered."""

    asked_s: float
    told_s: float
    over: bool
    reason: str
    old: str | None


async def watch(at: World, verdicts: list[Verdict]) -> None:
    """Ask again and again what is said of the tail."""
    while True:
        asked_s = time.monotonic()
        found = await at.tail()
        verdicts.append(
            Verdict(asked_s, time.monotonic(), found["over"], found["reason"], found["old"])
        )
        await asyncio.sleep(0.02)


@asynccontextmanager
async def watched(at: World) -> AsyncIterator[list[Verdict]]:
    verdicts: list[Verdict] = []
    task = asyncio.create_task(watch(at, verdicts))
    try:
        yield verdicts
        assert not task.done(), task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_the_old_side_is_quiet_after_the_ttl_and_over_after_the_last_who_pinned_it() -> None:
    async with world() as at, watched(at) as verdicts:
        pinned = at.client(Manner.PINNED)
        async with (
            pinned.asking(0.1),
            at.client().asking(0.05),
            at.client().asking(0.05),
        ):
            await at.product.until(lambda: len(at.by(BLUE)) > 30, "requests by blue's address")
            id = await at.switch()
            began_s = time.monotonic()
            # One that is told of blue just before the change is in sync.
            late = at.client()
            async with late.asking(0.05):
                in_sync_s = await at.in_sync()
                gone_s = in_sync_s + TTL_S
                await at.product.until(
                    lambda: time.monotonic() > gone_s + FOR_S + 0.5, "the time to live and more"
                )
                # One that still comes is enough.
                await at.product.api.state(id, "draining")
                assert not any(one.over for one in verdicts if one.asked_s > began_s)
                script = await cli(at, "tail", "--wait", "--json")
            # Who keeps to the TTL kept to it: until it had passed, and not for longer.
            by_ttl = [
                one for client in at.clients if client is not pinned for one in client.by(BLUE)
            ]
            last_s = max(one.at_s for one in by_ttl)
            assert in_sync_s < last_s < gone_s + 1.0
            assert late.by(BLUE) and late.by(GREEN)
            # All were served, by whichever upstream had the weight: no address lost anybody.
            assert {one.status for client in at.clients for one in client.went} == {200}
        quiet_s = pinned.went[-1].at_s
        found = await at.product.api.ended(id)
        over_s = min(one.told_s for one in verdicts if one.over and one.asked_s > began_s)
        assert {one.old for one in verdicts if one.asked_s > began_s} == {"blue"}
        assert found["state"] == "completed", found
        # Never too early, and not much later.
        assert over_s >= quiet_s + FOR_S
        assert over_s < quiet_s + FOR_S + LATE_S
        output, _ = await asyncio.to_thread(script.communicate)
        assert script.returncode == 0
        assert json.loads(output)["over"] is True
        # Counted to the last one, at each way in, and in all that tells it.
        shown = await at.tail()
        ways = shown["upstreams"]
        assert ways["blue"]["requests"] == len(at.by(BLUE))
        assert ways["green"]["requests"] == len(at.by(GREEN))
        assert sum(point["requests"] for point in ways["blue"]["curve"]["points"]) == len(
            at.by(BLUE)
        )
        since = [one for one in at.by(BLUE) if one.at_s > in_sync_s]
        tail = found["receipt"]["outer"]["tail"]
        assert (tail["over"], tail["upstream"], tail["ttl_seconds"]) == (True, "blue", TTL_S)
        # The switchover learns of being in sync when it polls; requests of that while are missing.
        assert 3 <= tail["requests"] <= len(since)
        assert [one["network"] for one in ways["blue"]["networks"]] == ["127.0.0.0/24"]
        metrics = await at.product.api.metrics()
        name = "turnout_entry_requests_total"
        assert metrics.sum(name, upstream="blue") == len(at.by(BLUE))
        assert metrics.sum(name, upstream="green") == len(at.by(GREEN))


async def cli(at: World, *words: str) -> "subprocess.Popen[bytes]":
    """Begin a command of the product's."""
    return await asyncio.to_thread(
        subprocess.Popen,
        [under_test.PYTHON, "-P", "-m", "turnout", *words, "--control", at.product.control_address],
        env=at.product.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


async def test_a_tail_without_end_fails_the_switchover_with_the_weights_where_they_are() -> None:
    async with world(timeout="2s") as at:
        async with at.client(Manner.PINNED).asking(0.2) as pinned:
            await at.product.until(lambda: pinned.went, "a request")
            id = await at.switch()
            waits = await cli(at, "tail", "--wait")
            found = await at.product.api.ended(id)
            output, said = await asyncio.to_thread(waits.communicate)
        assert found["state"] == "failed"
        assert "blue must not be removed yet" in found["outcome"]
        assert found["weights"] == {"blue": 0, "green": 100}
        tail = found["receipt"]["outer"]["tail"]
        assert tail["over"] is False
        # Those of its first second and of its last one may be missing.
        assert tail["requests"] > 0
        assert sum(count for _, count in tail["networks"]) <= tail["requests"]
        assert "(tail.timeout): " in found["outcome"]
        assert waits.returncode == 1, said
        assert b"blue must not go yet, though 2 s (tail.timeout) have passed" in output


async def test_silence_waits_for_the_ttl_also_when_control_is_killed_meanwhile() -> None:
    ttl_s = 3
    async with world(ttl_s=ttl_s) as at:
        async with at.client(Manner.PINNED).asking(0.2) as pinned:
            await at.product.until(lambda: pinned.went, "a request")
            id = await at.switch()
            in_sync_s = await at.in_sync()
            await at.product.api.state(id, "draining")
        before = at.product.control_pid
        os.kill(before, signal.SIGKILL)
        await at.product.control_replaced(before)
        found = await at.product.api.ended(id)
        assert found["state"] == "completed", found
        assert time.monotonic() >= max(in_sync_s + ttl_s, pinned.went[-1].at_s + FOR_S)
        tail = found["receipt"]["outer"]["tail"]
        assert ttl_s <= tail["seconds"] < ttl_s + LATE_S
        # The counters are the workers', and go on; what the watch had seen is gone.
        after = await at.tail()
        assert after["upstreams"]["blue"]["requests"] == len(pinned.went)
        assert after["upstreams"]["blue"]["watched_since"] > after["in_sync_at"]
        assert after["ttl_seconds"] == ttl_s
