"""Upstreams whose servers are found: the running product beside a cluster that changes."""

import asyncio
import contextlib
import json
import sqlite3
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests import under_test
from tests.fakes.base import Fault
from tests.fakes.kubernetes import NAMESPACE, TOKEN, FakeKubernetes
from tests.harness import SERVICE, ApiError, Product, settings, until
from tests.load import Load, must_not_fail
from tests.outer.target_kubernetes import ROUTE
from tests.upstreams import Upstream


@dataclass
class Cluster:
    """A cluster with two Deployments, blue and green, whose pods are scripted upstreams.

    The pods of one Deployment have addresses of their own in 127.0.0.0/8 and one port.
    """

    fake: FakeKubernetes
    port: int = 0
    pods: dict[str, Upstream] = field(default_factory=dict)
    _addresses: int = 1

    async def start_pod(self, deployment: str, name: str, *, ready: bool = True) -> Upstream:
        self._addresses += 1
        ip = f"127.0.7.{self._addresses}"
        pod = await Upstream(deployment, f"{ip}:{self.port}").start()
        self.port = self.port or int(pod.address.rpartition(":")[2])
        self.pods[name] = pod
        self.fake.pod(name, {"app": deployment}, ready=ready, ip=ip)
        if ("services", deployment) not in self.fake.objects:
            ports = [{"name": "http", "port": 80, "targetPort": self.port, "protocol": "TCP"}]
            spec = {"type": "ClusterIP", "selector": {"app": deployment}, "ports": ports}
            self.fake.put("services", deployment, spec=spec)
        self.fake.controller(deployment)
        return pod

    def say(self, name: str, *, ready: bool) -> None:
        """The kubelet reports a pod's readiness."""
        pod = self.fake.objects["pods", name]
        status = {**pod["status"], "conditions": [{"type": "Ready", "status": str(ready)}]}
        self.fake.put("pods", name, status=status)
        self.fake.controller(pod["metadata"]["labels"]["app"])

    def terminate(self, name: str) -> None:
        """A pod is being deleted: it serves on until its grace period is over."""
        pod = self.fake.objects["pods", name]
        pod["metadata"]["deletionTimestamp"] = "2026-11-26T08:00:00Z"
        self.fake.controller(pod["metadata"]["labels"]["app"])

    async def remove(self, name: str) -> None:
        deployment = self.fake.objects["pods", name]["metadata"]["labels"]["app"]
        self.fake.delete("pods", name)
        self.fake.controller(deployment)
        await self.pods.pop(name).stop()

    def address(self, name: str) -> str:
        return self.pods[name].address

    async def close(self) -> None:
        for pod in self.pods.values():
            await pod.stop()


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    async with FakeKubernetes() as fake:
        found = Cluster(fake)
        yield found
        await found.close()


def discover(cluster: Cluster, product_dir: Path, deployment: str, **more: Any) -> dict[str, Any]:
    token = product_dir / "token"
    token.write_text(TOKEN)
    return {
        "kind": "kubernetes",
        "service": deployment,
        "namespace": NAMESPACE,
        "endpoint": cluster.fake.url,
        "token_file": str(token),
        "min_interval": "200ms",
        "retry_max": "1s",
        "watch": "1s",
        **more,
    }


def configuration(blue: Any, green: Any, **top: Any) -> dict[str, Any]:
    made = settings([], [])
    made["services"][SERVICE]["upstreams"] = {"blue": blue, "green": green}
    made["services"][SERVICE]["drain"] = {"timeout": "2s", "tunnels": "2s"}
    made["limits"].update(top.pop("limits", {}))
    return {**made, **top}


@contextlib.asynccontextmanager
async def turnout(
    cluster: Cluster, tmp_path: Path, *, more: Any = None, **top: Any
) -> AsyncIterator[Product]:
    """Blue is discovered, green has nothing."""
    found = {"discover": discover(cluster, tmp_path, "blue", **(more or {}))}
    product = Product(configuration(found, {"servers": []}, **top))
    try:
        yield await product.start()
    finally:
        await product.close()


async def blue_of(product: Product) -> dict[str, Any]:
    found: dict[str, Any] = (await product.api.service())["upstreams"]["blue"]
    return found


async def servers(product: Product) -> list[str]:
    return sorted(server["address"] for server in (await blue_of(product))["servers"])


async def eventually(
    asked: Callable[[], Awaitable[Any]], expected: Any, what: str, limit_s: float = 10.0
) -> None:
    found: Any = None
    try:
        async with asyncio.timeout(limit_s):
            while (found := await asked()) != expected:
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(f"{what}: expected {expected}, found {found}") from None


async def status_of(product: Product) -> int:
    async with httpx.AsyncClient(base_url=product.url, timeout=10.0) as client:
        return (await client.get("/")).status_code


def counted(product: Product, event: str) -> int:
    return sum(f" {event} " in line for line in product.log().splitlines())


async def found(product: Product, cluster: Cluster, *names: str) -> None:
    """Wait until just these pods are blue's servers."""
    expected = sorted(cluster.address(name) for name in names)
    await eventually(lambda: servers(product), expected, "blue's servers")


# ---------------------------------------------------------------- what is found is used


async def test_a_rolling_update_under_load_loses_nothing(cluster: Cluster, tmp_path: Path) -> None:
    old = ["a1", "a2", "a3", "a4"]
    for name in old:
        await cluster.start_pod("blue", name)
    async with turnout(cluster, tmp_path) as product:
        await found(product, cluster, *old)
        await product.api.healthy("blue")
        tables = counted(product, "table.published")
        load = Load(lambda: product.address)
        async with load.running(kept=4, fresh=2):
            await load.more(100)
            leaving = []
            for number, name in enumerate(old, 1):
                new = f"b{number}"
                await cluster.start_pod("blue", new, ready=False)
                cluster.say(new, ready=True)
                cluster.terminate(name)
                leaving.append(name)
                await load.more(30)
            await found(product, cluster, "b1", "b2", "b3", "b4")
            # Their grace period: until nothing comes to them any more.
            await until(
                lambda: all(not received_by(cluster, load, name) for name in leaving),
                "the old pods to be left alone",
            )
            for name in leaving:
                await cluster.remove(name)
            await load.more(200)
        must_not_fail(load.samples, at_least=400)
        assert {sample.upstream for sample in load.samples} == {"blue"}
        assert 1 <= counted(product, "table.published") - tables <= 16
        audit = (await product.api.call("GET", "/v1/audit?limit=100"))["items"]
        entries = [one for one in audit if one["action"] == "servers.discover"]
        assert len(entries) == counted(product, "service.servers_changed")
        assert {one["who"] for one in entries} == {"discovery kubernetes"}


def received_by(cluster: Cluster, load: Load, name: str) -> bool:
    """Whether a pod got any of the last hundred requests."""
    last = {sample.id for sample in load.samples[-100:]}
    return any(received.id in last for received in cluster.pods[name].ledger[-100:])


async def test_many_changes_are_put_together(cluster: Cluster, tmp_path: Path) -> None:
    await cluster.start_pod("blue", "a1")
    async with turnout(cluster, tmp_path, more={"min_interval": "500ms"}) as product:
        await found(product, cluster, "a1")
        slice = cluster.fake.objects["endpointslices", "blue-x1"]
        began_s = time.monotonic()
        tables = counted(product, "table.published")
        for number in range(1, 41):
            more = {"addresses": [f"127.0.8.{number}"], "conditions": {"ready": True}}
            cluster.fake.put("endpointslices", "blue-x1", endpoints=[*slice["endpoints"][:1], more])
            await asyncio.sleep(0.01)
        expected = sorted([cluster.address("a1"), f"127.0.8.40:{cluster.port}"])
        await eventually(lambda: servers(product), expected, "the last of them")
        # One at once and one in each half second since; the clock may turn just behind the last.
        allowed = 2 + (time.monotonic() - began_s) / 0.5
        assert counted(product, "table.published") - tables <= allowed < 20


async def test_what_is_found_first_is_used_at_once_and_until_then_there_is_nothing(
    cluster: Cluster, tmp_path: Path
) -> None:
    async with turnout(cluster, tmp_path) as product:
        assert await status_of(product) == 503
        await until(lambda: counted(product, "discovery.problem"), "that nothing is there")
        shown = (await blue_of(product))["discovered"]
        assert shown["kind"] == "kubernetes"
        assert "requests to it get 503" in shown["problem"]
        await cluster.start_pod("blue", "a1")
        await found(product, cluster, "a1")
        await product.api.healthy("blue")
        assert await status_of(product) == 200
        shown = (await blue_of(product))["discovered"]
        assert (shown["found"], shown["ready"], shown["problem"]) == (1, 1, "")
        assert shown["seconds_ago"] < 5
        # The watch is begun anew every second: a sign of life, and nothing to be told.
        before = await product.api.metrics()
        assert before.sum("turnout_discovery_problem", upstream="blue") == 0
        assert counted(product, "service.servers_changed") == 1


async def test_a_pod_that_is_not_ready_leaves_and_what_it_has_finishes(
    cluster: Cluster, tmp_path: Path
) -> None:
    first = await cluster.start_pod("blue", "a1")
    async with turnout(cluster, tmp_path) as product:
        await found(product, cluster, "a1")
        await product.api.healthy("blue")
        async with httpx.AsyncClient(base_url=product.url, timeout=10.0) as client:
            slow = asyncio.create_task(client.get("/slow?delay=1.5"))
            await until(lambda: first.ledger, "the slow one")
            await cluster.start_pod("blue", "a2")
            cluster.say("a1", ready=False)
            await found(product, cluster, "a2")
            # Nor does the next change wait for it.
            await cluster.start_pod("blue", "a3")
            await found(product, cluster, "a2", "a3")
            assert not slow.done()
            assert (await slow).status_code == 200
        assert await status_of(product) == 200
        assert len(first.ledger) == 1


async def test_more_servers_than_the_limit_are_not_used_nor_what_people_say(
    cluster: Cluster, tmp_path: Path
) -> None:
    for name in ("a1", "a2"):
        await cluster.start_pod("blue", name)
    async with turnout(cluster, tmp_path, limits={"servers": 2}) as product:
        await found(product, cluster, "a1", "a2")
        await cluster.start_pod("blue", "a3")
        await until(lambda: counted(product, "discovery.problem"), "that there are too many")
        await found(product, cluster, "a1", "a2")
        assert "limits.servers allows 2" in (await blue_of(product))["discovered"]["problem"]
        await cluster.remove("a1")
        await found(product, cluster, "a2", "a3")
        await until(lambda: counted(product, "discovery.restored"), "that it is over")
        await people_cannot_set_them(product)
        await found(product, cluster, "a2", "a3")


async def people_cannot_set_them(product: Product) -> None:
    path = f"/v1/services/{SERVICE}/upstreams/blue"
    with pytest.raises(ApiError) as refused:
        await product.api.call("PUT", path, {"servers": ["127.0.0.1:1"]})
    assert refused.value.status == 422
    assert refused.value.problem["type"] == "urn:turnout:problem:servers-discovered"
    assert "take discover out of the file" in refused.value.problem["detail"]
    command = [under_test.PYTHON, "-P", "-m", "turnout", "status"]
    said = await asyncio.to_thread(
        subprocess.run,
        [*command, "--control", product.control_address],
        capture_output=True,
        text=True,
        env=product.environment,
    )
    assert "shop/blue: servers from kubernetes, 2 ready" in said.stdout, said


async def test_a_release_in_a_cluster_loses_nothing(cluster: Cluster, tmp_path: Path) -> None:
    """Green is rolled out, the switch moves the proxy and an HTTPRoute, blue is scaled down."""
    for name in ("a1", "a2"):
        await cluster.start_pod("blue", name)
    cluster.fake.put("httproutes", "shop", spec=ROUTE)
    cluster.fake.gateway("shop")
    cluster.fake.pending_s = 0.2
    cluster.fake.inject(Fault.THROTTLED, 1)
    access = discover(cluster, tmp_path, "blue")
    made = configuration({"discover": access}, {"discover": {**access, "service": "green"}})
    made["services"][SERVICE]["outer"] = {
        "kind": "gateway_api",
        "route": "shop",
        "backends": {"blue": "shop-blue", "green": "shop-green"},
        "settle": "100ms",
        **{key: access[key] for key in ("namespace", "endpoint", "token_file")},
    }
    product = Product(made)
    try:
        await product.start()
        await product.api.healthy("blue")
        load = Load(lambda: product.address)
        async with load.running(kept=3, fresh=2):
            await load.more(50)
            for name in ("b1", "b2"):
                await cluster.start_pod("green", name, ready=False)
                cluster.say(name, ready=True)
            await product.api.healthy("green")
            ended = await product.api.switch("green")
            assert ended["state"] == "completed"
            await load.more(50)
            assert {sample.upstream for sample in load.samples[-20:]} == {"green"}
            for name in ("a1", "a2"):
                cluster.terminate(name)
            for name in ("a1", "a2"):
                await cluster.remove(name)
            await eventually(lambda: healthy(product), False, "that blue is gone")
            await eventually(lambda: last_known(product), True, "that it is said")
            await load.more(50)
        must_not_fail(load.samples)
        assert len([call for call in cluster.fake.effective if call.method == "PATCH"]) == 1
        weights = [one["weight"] for one in route_of(cluster)["rules"][0]["backendRefs"]]
        assert weights == [0, 100]
        # The last known stay, and Turnout knows what they are worth.
        assert (await blue_of(product))["servers"]
    finally:
        await product.close()


async def healthy(product: Product) -> bool:
    return bool((await blue_of(product))["healthy"])


async def last_known(product: Product) -> bool:
    return "last known stay" in (await blue_of(product))["discovered"]["problem"]


def route_of(cluster: Cluster) -> dict[str, Any]:
    found: dict[str, Any] = cluster.fake.objects["httproutes", "shop"]["spec"]
    return found


# ---------------------------------------------------------------- a source that is not well


async def test_when_no_pod_is_ready_the_last_known_stay_and_it_is_told_once(
    cluster: Cluster, tmp_path: Path
) -> None:
    for name in ("a1", "a2"):
        await cluster.start_pod("blue", name)
    async with turnout(cluster, tmp_path) as product:
        await found(product, cluster, "a1", "a2")
        await product.api.healthy("blue")
        cluster.say("a1", ready=False)
        await found(product, cluster, "a2")
        cluster.say("a2", ready=False)
        await until(lambda: counted(product, "discovery.problem"), "that none is ready")
        cluster.fake.delete("endpointslices", "blue-x1")
        # Through a watch that begins anew, too.
        watches = cluster.fake.journal[:]
        await until(lambda: len(cluster.fake.journal) > len(watches), "a further watch")
        assert await servers(product) == [cluster.address("a2")]
        assert await status_of(product) == 200
        assert counted(product, "discovery.problem") == 1
        cluster.say("a1", ready=True)
        await found(product, cluster, "a1")
        await until(lambda: counted(product, "discovery.restored"), "that it is over")


async def test_a_source_that_is_lost_takes_nothing_away_and_is_found_again(
    cluster: Cluster, tmp_path: Path
) -> None:
    for name in ("a1", "a2"):
        await cluster.start_pod("blue", name)
    async with turnout(cluster, tmp_path) as product:
        await found(product, cluster, "a1", "a2")
        await product.api.healthy("blue")
        cluster.fake.inject(Fault.UNAVAILABLE, 1000, writes=False)
        cluster.fake.cut_watches()
        await until(lambda: counted(product, "discovery.problem"), "that it is lost")
        problem = (await blue_of(product))["discovered"]["problem"]
        assert "503" in problem
        assert TOKEN not in product.log()
        assert await status_of(product) == 200
        # Nor does it over a start of everything.
        product.kill_everything()
        await product.start()
        await product.api.healthy("blue")
        assert await status_of(product) == 200
        assert await servers(product) == sorted(pod.address for pod in cluster.pods.values())
        await cluster.remove("a1")
        cluster.fake.heal()
        await found(product, cluster, "a2")
        await until(lambda: counted(product, "discovery.restored"), "that it is back")
        # Both lives told of it, each once.
        assert counted(product, "discovery.problem") == 2


# ---------------------------------------------------------------- beside people and the file


async def test_a_file_that_begins_to_discover_and_ends_it_loses_nothing(
    cluster: Cluster, tmp_path: Path
) -> None:
    async with Upstream("blue") as own:
        product = Product(configuration({"servers": [own.address]}, {"servers": []}))
        try:
            await product.start()
            await product.api.healthy("blue")
            await cluster.start_pod("blue", "a1")
            load = Load(lambda: product.address)
            async with load.running(kept=2, fresh=2):
                await load.more(50)
                # Nothing is heard of the source at first, and the file names no server now.
                cluster.fake.inject(Fault.UNAVAILABLE, 1, writes=False)
                blue = {"discover": discover(cluster, tmp_path, "blue")}
                await reload(product, blue)
                assert await servers(product) == [own.address]
                await found(product, cluster, "a1")
                # Another of its settings: another follower, the same servers.
                blue["discover"]["min_interval"] = "100ms"
                await reload(product, blue)
                await load.more(50)
                await found(product, cluster, "a1")
                await reload(product, {"servers": [own.address]})
                assert await servers(product) == [own.address]
                await load.more(50)
                await until(lambda: not cluster.fake.watching, "nobody to watch any more")
            must_not_fail(load.samples)
            with contextlib.closing(sqlite3.connect(product.base / "turnout.db")) as store:
                kept = store.execute("SELECT * FROM discovered").fetchall()
            assert kept == [], "it would be stale if discover ever came back"
            assert (await blue_of(product))["discovered"] is None
        finally:
            await product.close()


async def reload(product: Product, blue: dict[str, Any]) -> None:
    services = json.loads(json.dumps(product.configuration["services"]))
    services[SERVICE]["upstreams"]["blue"] = blue
    product.write_config({"services": services})
    await product.api.call("POST", "/v1/reload")
