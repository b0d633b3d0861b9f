"""The routers of Kubernetes beside the conformance suite, how the cluster is reached, and that
the fake is as strict as the API."""

import asyncio
import re
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import trustme

from tests.fakes.kubernetes import NAMESPACE, TOKEN, FakeKubernetes
from tests.outer.target_kubernetes import ROUTE, GatewayApiTarget, KubernetesServiceTarget
from turnout.config.loader import SettingsError, load_text
from turnout.config.outer.kubernetes import EndpointSlices
from turnout.control.outer import kube
from turnout.control.outer.endpoint_slices import make_discovery
from turnout.control.outer.kube import Kube
from turnout.control.outer.seams import (
    Conflict,
    Context,
    Denied,
    FoundServers,
    NotDone,
    Refused,
    Verdict,
    Wanted,
)


async def turn() -> None:
    """No pace."""


CONTEXT = Context(("blue", "green"), 2.0, turn, lambda what, remedy: None)


@pytest.fixture
async def service() -> AsyncIterator[KubernetesServiceTarget]:
    target = KubernetesServiceTarget()
    async with target.serve():
        yield target


@pytest.fixture
async def gateway() -> AsyncIterator[GatewayApiTarget]:
    target = GatewayApiTarget()
    async with target.serve():
        yield target


# ---------------------------------------------------------------- a Service


async def test_other_labels_of_a_selector_stay(service: KubernetesServiceTarget) -> None:
    router = service.router()
    await router.set_weights(Wanted(10000), await router.read())
    selector = service.fake.objects["services", "shop"]["spec"]["selector"]
    assert selector == {"app": "shop", "version": "green"}
    await router.close()


async def test_a_service_is_not_moved_to_where_no_pod_is_ready(
    service: KubernetesServiceTarget,
) -> None:
    for number in (1, 2):
        status = {"conditions": [{"type": "Ready", "status": "False"}]}
        service.fake.put("pods", f"green-{number}", status=status)
    router = service.router()
    with pytest.raises(NotDone, match="none of the 2 pods with app=shop,version=green is ready"):
        await router.set_weights(Wanted(10000), await router.read())
    assert service.fake.writing == []
    await router.close()


@pytest.mark.parametrize("writes", [1, 2])
async def test_a_status_that_somebody_writes_meanwhile_is_no_conflict(
    service: KubernetesServiceTarget, writes: int
) -> None:
    """Its resourceVersion is another one by then: the API refuses, and it is read again."""
    meddle(service.fake, "services", writes, status={"loadBalancer": {"ingress": []}})
    router = service.router()
    await router.set_weights(Wanted(10000), await router.read())
    assert [call.status for call in service.fake.writing] == [409] * writes + [200]
    assert len(service.fake.effective) == 1
    await router.close()


async def test_a_selector_that_somebody_writes_meanwhile_is_one(
    service: KubernetesServiceTarget,
) -> None:
    spec = service.fake.objects["services", "shop"]["spec"]
    changed = {**spec, "selector": {**spec["selector"], "tier": "web"}}
    meddle(service.fake, "services", 1, spec=changed)
    router = service.router()
    with pytest.raises(Conflict, match=r"other labels.tier: not there before, now web"):
        await router.set_weights(Wanted(10000), await router.read())
    assert service.second_weight() == 0
    assert [call.status for call in service.fake.writing] == [409]
    await router.close()


async def test_an_object_that_is_written_all_the_time_is_given_up(
    service: KubernetesServiceTarget,
) -> None:
    meddle(service.fake, "services", 100, status={"loadBalancer": {}})
    router = service.router()
    with pytest.raises(NotDone, match="written all the time"):
        await router.set_weights(Wanted(10000), await router.read())
    assert service.second_weight() == 0
    await router.close()


async def test_a_selector_that_is_changed_back_is_not_in_sync_ever(
    service: KubernetesServiceTarget,
) -> None:
    router = service.router()
    change = await router.set_weights(Wanted(10000), await router.read())
    service.change_weight_outside()
    progress = await router.poll(change)
    assert progress.verdict is Verdict.FAILED
    assert "somebody else has set the selector: app=shop,version=blue" in progress.detail
    await router.close()


async def test_endpoints_must_have_been_right_for_a_while(
    service: KubernetesServiceTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr("turnout.control.outer.kubernetes_service.time.monotonic", lambda: now[0])
    service.settle = "5s"
    router = service.router()
    change = await router.set_weights(Wanted(10000), await router.read())

    async def verdict_at(at_s: float) -> Verdict:
        now[0] = at_s
        return (await router.poll(change)).verdict

    assert await verdict_at(101) is Verdict.PENDING
    assert await verdict_at(105.9) is Verdict.PENDING
    # An old pod shows up once more: it begins anew.
    fake = service.fake
    endpoints = fake.objects["endpointslices", "shop-x1"]["endpoints"]
    stray = {"addresses": ["10.0.1.1"], "targetRef": {"uid": "uid-1"}}
    fake.put("endpointslices", "shop-x1", endpoints=[*endpoints, stray])
    assert await verdict_at(106.5) is Verdict.PENDING
    fake.controller("shop")
    assert await verdict_at(107) is Verdict.PENDING
    assert await verdict_at(111.9) is Verdict.PENDING
    assert await verdict_at(112) is Verdict.IN_SYNC
    await router.close()


async def test_a_service_that_is_not_there_is_a_problem(service: KubernetesServiceTarget) -> None:
    service.fake.delete("services", "shop")
    router = service.router()
    reading = await router.read()
    assert reading.second_weight is None
    assert reading.problems == ("there is no Service shop in the namespace shop",)
    await router.close()


# ---------------------------------------------------------------- a route


async def test_a_status_that_the_gateway_writes_meanwhile_is_no_conflict(
    gateway: GatewayApiTarget,
) -> None:
    meddle(gateway.fake, "httproutes", 1, status={"parents": []})
    router = gateway.router()
    await router.set_weights(Wanted(2500), await router.read())
    # A test of a JSON patch that does not hold.
    assert [call.status for call in gateway.fake.writing] == [422, 200]
    assert gateway.second_weight() == 2500
    await router.close()


async def test_weights_that_somebody_writes_meanwhile_are_one(gateway: GatewayApiTarget) -> None:
    spec = {**ROUTE, "rules": [{**ROUTE["rules"][0], "backendRefs": refs(70, 30)}]}
    meddle(gateway.fake, "httproutes", 1, spec=spec)
    router = gateway.router()
    with pytest.raises(Conflict, match="green: 0, now 30"):
        await router.set_weights(Wanted(2500), await router.read())
    assert gateway.second_weight() == 3000
    await router.close()


async def test_everything_else_of_a_route_stays_as_it_is(gateway: GatewayApiTarget) -> None:
    router = gateway.router()
    await router.set_weights(Wanted(2500), await router.read())
    spec = gateway.fake.objects["httproutes", "shop"]["spec"]
    assert spec == {
        **ROUTE,
        "rules": [{**ROUTE["rules"][0], "backendRefs": refs(75, 25)}, ROUTE["rules"][1]],
    }
    await router.close()


async def test_a_route_that_its_gateway_refuses_has_failed_and_can_be_restored(
    gateway: GatewayApiTarget,
) -> None:
    router = gateway.router()
    before = await router.read()
    gateway.fake.fails_next = True
    change = await router.set_weights(Wanted(10000), before)
    progress = await router.poll(change)
    assert progress.verdict is Verdict.FAILED
    assert "Gateway/" not in progress.detail
    assert "edge: ResolvedRefs is False: BackendNotFound" in progress.detail
    # What is written is written, accepted or not.
    reading = await router.read()
    assert reading.second_weight == 10000
    change = await router.set_weights(Wanted(0, before.exact), reading)
    assert (await router.poll(change)).verdict is Verdict.IN_SYNC
    assert (await router.read()).exact == before.exact
    await router.close()


def refs(blue: int, green: int) -> list[dict[str, Any]]:
    both = ROUTE["rules"][0]["backendRefs"]
    return [{**both[0], "weight": blue}, {**both[1], "weight": green}]


def meddle(fake: FakeKubernetes, resource: str, times: int, **parts: Any) -> None:
    """Somebody else writes parts of the object just before each of the next so many patches."""
    patch = fake.handle
    left = [times]

    async def handle(request: Any, body: bytes) -> Any:
        if request.method == "PATCH" and left[0]:
            left[0] -= 1
            fake.put(resource, "shop", **parts)
        return await patch(request, body)

    fake.handle = handle  # type: ignore[method-assign]


# ---------------------------------------------------------------- how the cluster is reached


class Secure(FakeKubernetes):
    """A fake behind TLS, as API servers are."""

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"


@pytest.fixture
async def secure(tmp_path: Path) -> AsyncIterator[tuple[Secure, trustme.CA]]:
    authority = trustme.CA()
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(tls)
    async with Secure(tls=tls) as fake:
        fake.pod("a1", {"app": "blue"}, ip="10.0.0.1")
        spec = {"selector": {"app": "blue"}, "ports": [{"port": 80, "targetPort": 8080}]}
        fake.put("services", "blue", spec=spec)
        fake.controller("blue")
        yield fake, authority


def account(directory: Path, authority: trustme.CA, token: str = TOKEN) -> Path:
    """A service account as the kubelet mounts it."""
    directory.mkdir(exist_ok=True)
    (directory / "token").write_text(token)
    (directory / "namespace").write_text(NAMESPACE)
    authority.cert_pem.write_to_path(str(directory / "ca.crt"))
    return directory


async def first(settings: EndpointSlices) -> FoundServers:
    source = make_discovery(settings, CONTEXT)
    snapshots = source.snapshots()
    try:
        return await anext(snapshots)
    finally:
        await snapshots.aclose()
        await source.close()


def pod_settings(**more: Any) -> EndpointSlices:
    return EndpointSlices.model_validate({"kind": "kubernetes", "service": "blue", **more})


async def test_in_a_pod_nothing_has_to_be_said(
    secure: tuple[Secure, trustme.CA], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake, authority = secure
    monkeypatch.setattr(kube, "ACCOUNT", account(tmp_path / "account", authority))
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(fake.port))
    found = await first(pod_settings())
    assert [server.address for server in found.servers] == ["10.0.0.1:8080"]


async def test_a_server_that_others_have_signed_is_not_spoken_to(
    secure: tuple[Secure, trustme.CA], tmp_path: Path
) -> None:
    fake, _ = secure
    there = account(tmp_path / "account", trustme.CA())
    with pytest.raises(NotDone, match="CERTIFICATE_VERIFY_FAILED"):
        await first(
            pod_settings(
                endpoint=fake.url,
                ca_file=str(there / "ca.crt"),
                token_file=str(there / "token"),
                namespace=NAMESPACE,
            )
        )
    assert fake.journal == []


async def test_outside_of_a_pod_it_is_said_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kube, "ACCOUNT", tmp_path)
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(Refused, match="namespace is not set"):
        Kube(pod_settings(), CONTEXT)
    with pytest.raises(Refused, match="this is no pod: set endpoint"):
        Kube(pod_settings(namespace="shop"), CONTEXT)
    with pytest.raises(Refused, match=r"ca_file .* cannot be used"):
        Kube(
            pod_settings(namespace="shop", endpoint="https://k", ca_file=str(tmp_path / "none")),
            CONTEXT,
        )


async def test_an_ipv6_cluster_is_reached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "fd00::1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    assert kube._own_cluster() == "https://[fd00::1]:443"


async def test_a_token_that_cannot_be_read_is_denied(
    service: KubernetesServiceTarget,
) -> None:
    router = service.router()
    service.token_file.unlink()
    with pytest.raises(Denied, match="automountServiceAccountToken"):
        await router.read()
    assert service.fake.journal == []
    await router.close()


async def test_a_token_that_is_renewed_is_used(service: KubernetesServiceTarget) -> None:
    router = service.router()
    await router.read()
    service.fake.token = "another"
    with pytest.raises(Denied, match="Unauthorized"):
        await router.read()
    service.token_file.write_text("another\n")
    assert (await router.read()).second_weight == 0
    await router.close()


async def test_lists_come_in_pages_and_one_that_is_too_old_is_read_again(
    service: KubernetesServiceTarget,
) -> None:
    fake = service.fake
    fake.page_max = 1
    cluster = Kube(pod_settings(**service.cluster_access()), CONTEXT)
    path = f"/api/v1/namespaces/{NAMESPACE}/pods"
    assert len((await cluster.list(path, "app=shop")).items) == 4
    assert len(fake.journal) == 4
    reading = asyncio.create_task(cluster.list(path, "app=shop"))
    while len(fake.journal) < 5:
        await asyncio.sleep(0)
    fake.forget_history()
    with pytest.raises(NotDone, match="continue parameter is too old"):
        await reading
    await cluster.close()


# ---------------------------------------------------------------- discovery


async def test_a_watch_goes_on_from_a_bookmark(service: KubernetesServiceTarget) -> None:
    fake = service.fake
    settings = pod_settings(**{**service.cluster_access(), "service": "shop", "watch": "1s"})
    source = make_discovery(settings, CONTEXT)
    snapshots = source.snapshots()
    await anext(snapshots)
    following = asyncio.ensure_future(anext(snapshots))
    while not fake.watching:
        await asyncio.sleep(0.001)
    fake.bookmark()
    version = fake.version
    # The watch ends by itself, and its snapshot is the bookmark's.
    assert (await following).revision == str(version)
    # Everything before the bookmark is forgotten: a watch from the list would be too old.
    fake.oldest = version
    fake.controller("shop")
    assert (await asyncio.wait_for(anext(snapshots), 5)).revision == str(fake.version)
    lists = [call for call in fake.journal if "watch=true" not in call.path]
    assert len(lists) == 1
    await snapshots.aclose()
    await source.close()


@pytest.mark.parametrize("amid", [True, False], ids=["amid a watch", "as one begins"])
async def test_a_watch_that_is_too_old_is_no_loss_but_listed_anew(
    service: KubernetesServiceTarget, amid: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("turnout.control.outer.endpoint_slices.PAUSE_S", 0.01)
    fake = service.fake
    settings = pod_settings(**{**service.cluster_access(), "service": "shop", "watch": "1s"})
    source = make_discovery(settings, CONTEXT)
    snapshots = source.snapshots()
    before = await anext(snapshots)
    if not amid:
        # What the watch would begin from is forgotten, and a change with it.
        fake.pod("blue-3", {"app": "shop", "version": "blue"}, ip="10.0.1.3")
        fake.controller("shop")
        fake.forget_history()
    following = asyncio.ensure_future(anext(snapshots))
    if amid:
        while not fake.watching:
            await asyncio.sleep(0.001)
        fake.expire_watches()
        fake.pod("blue-3", {"app": "shop", "version": "blue"}, ip="10.0.1.3")
        fake.controller("shop")
        fake.forget_history()
    found = await asyncio.wait_for(following, 5)
    assert {one.address for one in found.servers} - {one.address for one in before.servers} == {
        "10.0.1.3:8080"
    }
    assert len([call for call in fake.journal if "watch=true" not in call.path]) == 2
    await snapshots.aclose()
    await source.close()


async def test_a_watch_that_may_not_be_is_said(service: KubernetesServiceTarget) -> None:
    service.fake.refuses_watch = True
    settings = pod_settings(**{**service.cluster_access(), "service": "shop"})
    source = make_discovery(settings, CONTEXT)
    snapshots = source.snapshots()
    await anext(snapshots)
    with pytest.raises(Denied, match="cannot watch"):
        await anext(snapshots)
    await source.close()


# ---------------------------------------------------------------- the fake


@pytest.mark.parametrize(
    ("method", "path", "headers", "body", "status", "reason"),
    [
        ("GET", "/api/v1/namespaces/shop/services/none", {}, b"", 404, "NotFound"),
        ("GET", "/api/v1/namespaces/other/services/shop", {}, b"", 403, "Forbidden"),
        ("GET", "/apis/apps/v1/namespaces/shop/deployments", {}, b"", 404, "NotFound"),
        ("GET", "/api/v1/namespaces/shop/services/shop", {"Authorization": "Bearer x"}, b"", 401,
         "Unauthorized"),
        ("PATCH", "/api/v1/namespaces/shop/services/shop", {"Content-Type": "application/json"},
         b"{}", 415, "UnsupportedMediaType"),
        ("PATCH", "/api/v1/namespaces/shop/services/shop",
         {"Content-Type": "application/merge-patch+json"}, b"{", 400, "BadRequest"),
        ("PATCH", "/api/v1/namespaces/shop/services/shop",
         {"Content-Type": "application/merge-patch+json"},
         b'{"metadata": {"resourceVersion": "1"}}', 409, "Conflict"),
        ("PATCH", "/api/v1/namespaces/shop/services/shop",
         {"Content-Type": "application/merge-patch+json"},
         b'{"spec": {"selector": {"version": 5}}}', 422, "Invalid"),
        ("PATCH", "/api/v1/namespaces/shop/services/shop",
         {"Content-Type": "application/json-patch+json"},
         b'[{"op": "replace", "path": "/spec/nothing", "value": 5}]', 422, "Invalid"),
    ],
)  # fmt: skip
async def test_the_fake_refuses_what_the_api_refuses(
    service: KubernetesServiceTarget,
    method: str,
    path: str,
    headers: dict[str, str],
    body: bytes,
    status: int,
    reason: str,
) -> None:
    fields = {"Authorization": f"Bearer {TOKEN}", **headers}
    async with httpx.AsyncClient(base_url=service.fake.url) as client:
        answer = await client.request(method, path, headers=fields, content=body)
    assert (answer.status_code, answer.json()["reason"]) == (status, reason)
    assert answer.json()["kind"] == "Status"
    assert service.fake.effective == []


@pytest.mark.parametrize("weight", [-1, 1_000_001, "5", None, True])
async def test_the_fake_refuses_weights_that_cannot_be(
    gateway: GatewayApiTarget, weight: Any
) -> None:
    path = f"/apis/gateway.networking.k8s.io/v1/namespaces/{NAMESPACE}/httproutes/shop"
    where = "/spec/rules/0/backendRefs/0/weight"
    async with httpx.AsyncClient(base_url=gateway.fake.url) as client:
        answer = await client.patch(
            path,
            json=[{"op": "add", "path": where, "value": weight}],
            headers={
                "Authorization": f"Bearer {TOKEN}",
                "Content-Type": "application/json-patch+json",
            },
        )
    assert answer.status_code == 422, answer.text
    assert gateway.second_weight() == 0


# ---------------------------------------------------------------- settings

PAGE = Path(__file__).resolve().parents[2] / "docs" / "outer" / "kubernetes.md"
EXAMPLES = re.findall(r"^```yaml\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)


def test_the_examples_of_the_page_are_right() -> None:
    kinds = set()
    for text in EXAMPLES:
        (service,) = load_text(text, environ={}).services
        kinds |= {one.discover.kind for one in service.upstreams if one.discover}
        kinds |= {service.outer.kind} if service.outer else set()
    assert kinds == {"kubernetes", "kubernetes_service", "gateway_api"}


FILE = """
listeners: [{{bind: ":8080"}}]
services:
  shop:
    upstreams:
      blue: {{{blue}}}
      green: {{servers: []}}
    outer: {outer}
"""
SERVERS = 'servers: ["127.0.0.1:1"]'


@pytest.mark.parametrize(
    ("outer", "said"),
    [
        ("{kind: kubernetes_service, service: s, selectors: {blue: {v: b}}}",
         "green is missing. Write one entry each for blue and green"),
        ("{kind: kubernetes_service, service: s, selectors: {blue: {v: b}, red: {v: r}}}",
         "it is no upstream of the service. Write one of blue and green"),
        ("{kind: kubernetes_service, service: s, selectors: {blue: {v: b}, green: {w: g}}}",
         "blue has v, and green has w. Write the same keys on both sides"),
        ("{kind: kubernetes_service, service: s, selectors: {blue: {v: b}, green: {v: b}}}",
         "are the same pods"),
        ("{kind: kubernetes_service, service: s, selectors: {blue: {v: a b}, green: {v: b}}}",
         "expected a label's value"),
        ("{kind: gateway_api, route: Shop, backends: {blue: b, green: g}}",
         "first and last a letter or digit"),
        ("{kind: gateway_api, route: shop, backends: {blue: b, green: b}}",
         "both are the same Service"),
        ("{kind: gateway_api, route: s, backends: {blue: b, green: g}, endpoint: http://k8s:6443}",
         "could be read on the way. Write https://"),
        ("{kind: gateway_api, route: s, backends: {blue: b, green: g}, endpoint: k8s:6443}",
         "expected `https://host:port`"),
    ],
)  # fmt: skip
def test_settings_that_cannot_be_are_refused(outer: str, said: str) -> None:
    with pytest.raises(SettingsError) as refused:
        load_text(FILE.format(outer=outer, blue=SERVERS), environ={})
    assert said in str(refused.value)


def test_servers_or_a_source_of_them_is_needed() -> None:
    with pytest.raises(SettingsError, match="a list of addresses; or discover"):
        load_text(FILE.format(outer="off", blue="min_healthy: 1"), environ={})
    found = load_text(
        FILE.format(outer="off", blue="discover: {kind: kubernetes, service: blue}"), environ={}
    )
    discover = found.services[0].upstreams[0].discover
    assert discover is not None
    assert (discover.kind, discover.min_interval_s, discover.retry_max_s) == ("kubernetes", 1, 30)
