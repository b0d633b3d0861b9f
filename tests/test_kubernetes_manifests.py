"""The manifests agree with themselves and with the program: names, ports, labels, probes, times,
and rights that are just what is asked of the API. No cluster has seen them."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.fakes.kubernetes import FakeKubernetes
from tests.outer.target import Target
from tests.outer.target_kubernetes import GatewayApiTarget, KubernetesServiceTarget
from turnout.config.loader import load_text
from turnout.config.model import Configuration
from turnout.config.outer.kubernetes import EndpointSlices, GatewayApi, KubernetesService
from turnout.control.outer import kube_routes
from turnout.control.outer.endpoint_slices import make_discovery
from turnout.control.outer.seams import Context, Wanted
from turnout.proxy.scoreboard import Geometry

ROOT = Path(__file__).resolve().parent.parent
MANIFESTS = ROOT / "deploy" / "kubernetes"
FILES = sorted(MANIFESTS.glob("*.yaml"))
Document = dict[str, Any]


def documents(*names: str) -> list[Document]:
    return [
        document
        for path in FILES
        if path.stem in names or not names
        for document in YAML(typ="safe", pure=True).load_all(path)
    ]


def only(kind: str, name: str, *files: str) -> Document:
    (found,) = (
        one for one in documents(*files) if one["kind"] == kind and one["metadata"]["name"] == name
    )
    return found


def turnouts() -> Iterator[tuple[Document, Document]]:
    """(Pod's spec, Turnout's container) of each manifest that runs it."""
    for document in documents("edge", "sidecar"):
        if document["kind"] == "Deployment":
            pod = document["spec"]["template"]["spec"]
            for container in [*pod.get("initContainers", ()), *pod["containers"]]:
                if container["name"] == "turnout":
                    yield pod, container


PODS = [
    pytest.param(*one, id=name) for one, name in zip(turnouts(), ("edge", "sidecar"), strict=True)
]


def configuration(pod: Document) -> Configuration:
    """As the container reads it."""
    (volume,) = (one for one in pod["volumes"] if one["name"] == "configuration")
    return configured(volume["configMap"]["name"])


def configured(name: str) -> Configuration:
    """What the ConfigMap says, as the loader takes it."""
    text = only("ConfigMap", name)["data"]["turnout.yaml"]
    return load_text(text, environ={"TURNOUT_TOKEN": "a" * 64})


def port_of(container: Document, port: Any) -> int:
    numbers = {one["name"]: one["containerPort"] for one in container["ports"]}
    return int(numbers.get(port, port))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_each_document_is_whole(path: Path) -> None:
    found = list(YAML(typ="safe", pure=True).load_all(path))
    assert found
    for document in found:
        assert {"apiVersion", "kind", "metadata"} <= document.keys()
        assert document["metadata"]["name"]
        if document["kind"] != "Namespace":
            assert (
                document["metadata"]["namespace"] == only("Namespace", "shop")["metadata"]["name"]
            )


def test_the_namespace_comes_before_what_is_in_it() -> None:
    """`kubectl apply` refuses what names a namespace that is not there."""
    assert [one["kind"] for one in documents("namespace")] == ["Namespace"]
    words = (MANIFESTS / "namespace.yaml").read_text()
    told = [words, (ROOT / "docs" / "outer" / "kubernetes.md").read_text()]
    for text in told:
        first = text.index("kubectl apply -f namespace.yaml")
        assert (
            first < text.index("create secret generic turnout-tokens") < text.index("-f edge.yaml")
        )
        assert "-f rbac.yaml -f apps.yaml -f edge.yaml" in text


def test_there_is_an_edge_and_a_sidecar() -> None:
    assert len(PODS) == 2


@pytest.mark.parametrize(("pod", "container"), PODS)
def test_probes_ask_where_turnout_answers(pod: Document, container: Document) -> None:
    found = configuration(pod)
    (listener,) = found.listeners
    for probe in ("readinessProbe", "livenessProbe"):
        asked = container[probe]["httpGet"]
        assert asked["path"] == listener.health_path
        assert port_of(container, asked["port"]) == listener.bind.port
    asked = container["startupProbe"]["httpGet"]
    assert asked["path"] == "/readyz"
    assert port_of(container, asked["port"]) == found.control.bind.port
    # The kubelet comes from the node.
    assert (str(listener.bind), str(found.control.bind)) == (":8080", ":9180")
    assert [token.name for token in found.control.tokens] == ["operator"]


@pytest.mark.parametrize(("pod", "container"), PODS)
def test_nobody_but_the_node_reaches_the_control_port(pod: Document, container: Document) -> None:
    """It is plain HTTP, and has to listen where the kubelet's probe comes in."""
    (deployment,) = (
        one
        for one in documents("edge", "sidecar")
        if one["kind"] == "Deployment" and one["spec"]["template"]["spec"] == pod
    )
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    policies = [
        one["spec"]
        for one in documents()
        if one["kind"] == "NetworkPolicy"
        and one["spec"]["podSelector"]["matchLabels"].items() <= labels.items()
    ]
    assert [policy["policyTypes"] for policy in policies] == [["Ingress"]]
    (rule,) = policies[0]["ingress"]
    containers = [*pod.get("initContainers", ()), *pod["containers"]]
    numbers = {port["name"]: port["containerPort"] for one in containers for port in one["ports"]}
    opened = {numbers[one["port"]] for one in rule["ports"]}
    assert opened
    assert configuration(pod).control.bind.port not in opened
    # Beside a client it serves that client alone.
    if container not in pod["containers"]:
        assert configuration(pod).listeners[0].bind.port not in opened


@pytest.mark.parametrize(("pod", "container"), PODS)
def test_the_time_to_end_is_long_enough(pod: Document, container: Document) -> None:
    found = configuration(pod)
    stop = container.get("lifecycle", {}).get("preStop", {})
    sleeps = int(stop["exec"]["command"][1]) if stop else 0
    drains = max(service.drain.timeout_s for service in found.services)
    assert found.timeouts.shutdown_s >= drains
    assert pod["terminationGracePeriodSeconds"] >= sleeps + found.timeouts.shutdown_s + 5


@pytest.mark.parametrize(("pod", "container"), PODS)
def test_what_it_writes_is_on_volumes_that_are_right(pod: Document, container: Document) -> None:
    found = configuration(pod)
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    mounts = {one["mountPath"]: one["name"] for one in container["volumeMounts"]}
    volumes = {one["name"]: one for one in pod["volumes"]}
    assert set(mounts.values()) == set(volumes)

    def volume_of(path: str) -> Document:
        (there,) = (name for mount, name in mounts.items() if Path(path).is_relative_to(mount))
        return dict(volumes[there])

    memory = volume_of(found.runtime_dir)["emptyDir"]
    assert memory["medium"] == "Memory"
    # The directory itself has to belong to the user, and an emptyDir is root's.
    assert found.runtime_dir not in mounts
    need = Geometry(max(8, 3 * found.workers) + 1, 64, found.limits.in_flight_named).file_bytes
    # Two of them while an upgrade goes on, and 1 MiB for the rest.
    assert int(memory["sizeLimit"].removesuffix("Mi")) * 2**20 > 2 * need + 2**20
    assert volume_of(found.state.path)
    assert "configMap" in volume_of("/etc/turnout/turnout.yaml")


def test_what_the_edge_decided_outlives_its_pod() -> None:
    deployment = only("Deployment", "turnout", "edge")
    state = [
        one for one in deployment["spec"]["template"]["spec"]["volumes"] if one["name"] == "state"
    ]
    claim = only("PersistentVolumeClaim", state[0]["persistentVolumeClaim"]["claimName"])
    assert claim["spec"]["accessModes"] == ["ReadWriteOncePod"]
    # Two pods at once would have one store.
    assert deployment["spec"]["replicas"] == 1
    assert deployment["spec"]["strategy"] == {"type": "Recreate"}


@pytest.mark.parametrize(("pod", "container"), PODS)
def test_what_is_discovered_is_there(pod: Document, container: Document) -> None:
    services = {
        one["metadata"]["name"]: one for one in documents("apps") if one["kind"] == "Service"
    }
    (shop,) = configuration(pod).services
    for upstream in shop.upstreams:
        assert upstream.discover is not None
        wanted = upstream.discover.settings
        assert isinstance(wanted, EndpointSlices)
        found = services[wanted.service]
        assert wanted.port in {port["name"] for port in found["spec"]["ports"]}
        assert found["spec"]["selector"]["version"] == upstream.name


def test_services_select_pods_and_lead_to_their_ports() -> None:
    for file in ("apps", "edge"):
        for service in documents(file):
            if service["kind"] != "Service":
                continue
            chosen = [
                one["spec"]["template"]
                for one in documents(file)
                if one["kind"] == "Deployment"
                and service["spec"]["selector"].items()
                <= one["spec"]["template"]["metadata"]["labels"].items()
            ]
            assert len(chosen) == 1, f"{service['metadata']['name']} selects one Deployment's pods"
            ports = {port["name"] for port in chosen[0]["spec"]["containers"][0]["ports"]}
            assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports


# ---------------------------------------------------------------- what is moved beyond the proxy


@pytest.mark.parametrize("name", ["turnout-route", "turnout-service"])
def test_an_example_with_an_outer_layer_is_the_edges_with_it(name: str) -> None:
    pod, _ = next(turnouts())
    found = configured(name)
    (shop,) = found.services
    assert shop.outer is not None
    (edge,) = configuration(pod).services
    assert replace(found, services=(replace(shop, outer=None),)) == replace(
        configuration(pod), services=(edge,)
    )


def test_the_route_that_is_moved_is_there() -> None:
    (shop,) = configured("turnout-route").services
    assert shop.outer is not None
    wanted = shop.outer.settings
    assert isinstance(wanted, GatewayApi)
    route = only("HTTPRoute", wanted.route)
    backends = (wanted.backends["blue"], wanted.backends["green"])
    reading = kube_routes.reading(
        {**route, "metadata": {**route["metadata"], "resourceVersion": "1", "generation": 1}},
        kube_routes.Meant(wanted.route, "shop", ("blue", "green"), backends, wanted.rule),
    )
    assert (reading.second_weight, list(reading.problems), list(reading.warnings)) == (0, [], [])
    (parent,) = route["spec"]["parentRefs"]
    assert only("Gateway", parent["name"])
    for backend in route["spec"]["rules"][0]["backendRefs"]:
        ports = only("Service", backend["name"], "apps")["spec"]["ports"]
        assert backend["port"] in {port["port"] for port in ports}
    assert resources_of("turnout-route", "httproutes") == [[wanted.route]]


def test_the_service_that_is_moved_is_there() -> None:
    (shop,) = configured("turnout-service").services
    assert shop.outer is not None
    wanted = shop.outer.settings
    assert isinstance(wanted, KubernetesService)
    service = only("Service", wanted.service)
    for upstream, selector in wanted.selectors.items():
        becomes = {**service["spec"]["selector"], **selector}
        (chosen,) = (
            one["spec"]["template"]
            for one in documents("apps")
            if one["kind"] == "Deployment"
            and becomes.items() <= one["spec"]["template"]["metadata"]["labels"].items()
        )
        ports = {port["name"] for port in chosen["spec"]["containers"][0]["ports"]}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports
        assert (service["spec"]["selector"] == becomes) == (upstream == shop.initial)
    assert resources_of("turnout-service", "services") == [[wanted.service]]


def resources_of(role: str, kind: str) -> list[list[str]]:
    """Which of a kind the Role names."""
    return [
        rule["resourceNames"] for rule in only("Role", role)["rules"] if kind in rule["resources"]
    ]


def test_deployments_select_their_own_pods() -> None:
    for one in documents():
        if one["kind"] == "Deployment":
            labels = one["spec"]["template"]["metadata"]["labels"]
            assert one["spec"]["selector"]["matchLabels"].items() <= labels.items()


def test_pods_that_go_serve_on_until_it_is_known() -> None:
    pod, _ = next(turnouts())
    for one in documents("apps"):
        if one["kind"] != "Deployment":
            continue
        spec = one["spec"]["template"]["spec"]
        (container,) = spec["containers"]
        sleeps = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
        discover = configuration(pod).services[0].upstreams[0].discover
        assert discover is not None
        assert sleeps >= discover.min_interval_s + 5
        assert spec["terminationGracePeriodSeconds"] >= sleeps + 30


# ---------------------------------------------------------------- rights


def allowed(role: str) -> set[tuple[str, str]]:
    """(Verb, resource) that a Role allows; it names no more than that."""
    rules = only("Role", role)["rules"]
    groups = {"endpointslices": "discovery.k8s.io", "httproutes": "gateway.networking.k8s.io"}
    for rule in rules:
        for resource in rule["resources"]:
            assert rule["apiGroups"] == [groups.get(resource, "")]
        assert "*" not in (*rule["verbs"], *rule["resources"])
    return {
        (verb, resource)
        for rule in rules
        for verb in rule["verbs"]
        for resource in rule["resources"]
    }


def test_roles_are_bound_to_who_runs_turnout() -> None:
    accounts = {one["metadata"]["name"] for one in documents() if one["kind"] == "ServiceAccount"}
    assert {pod["serviceAccountName"] for pod, _ in turnouts()} == accounts == {"turnout"}
    bindings = [one for one in documents() if one["kind"] == "RoleBinding"]
    roles = {one["metadata"]["name"] for one in documents() if one["kind"] == "Role"}
    assert {one["roleRef"]["name"] for one in bindings} == roles
    for one in bindings:
        assert one["subjects"] == [
            {"kind": "ServiceAccount", "name": "turnout", "namespace": "shop"}
        ]


def test_no_more_may_be_changed_than_what_is_named() -> None:
    for one in documents():
        for rule in one.get("rules", ()):
            if set(rule["verbs"]) - {"list", "watch"}:
                assert rule["resourceNames"] == ["shop"]


async def test_discovery_may_do_just_what_it_does() -> None:
    target = KubernetesServiceTarget()
    async with target.serve():
        settings = EndpointSlices.model_validate(
            {"kind": "kubernetes", "service": "shop", "watch": "1s", **target.cluster_access()}
        )
        source = make_discovery(settings, Context(("blue", "green"), 2.0, _turn, _tell))
        snapshots = source.snapshots()
        for _ in range(2):
            await anext(snapshots)
        await snapshots.aclose()
        await source.close()
        assert target.fake.granted == allowed("turnout-discovery")


@pytest.mark.parametrize(
    ("kind", "role"),
    [(KubernetesServiceTarget, "turnout-service"), (GatewayApiTarget, "turnout-route")],
)
async def test_a_router_may_do_just_what_it_does(kind: type[Target], role: str) -> None:
    target = kind()
    async with target.serve():
        router = target.router()
        reading = await router.read()
        change = await router.set_weights(Wanted(10000), reading)
        await router.poll(change)
        await router.confirm(Wanted(10000), await router.read())
        await router.close()
        assert isinstance(target.fake, FakeKubernetes)
        assert target.fake.granted == allowed(role)


async def _turn() -> None:
    """No pace."""


def _tell(what: str, remedy: str) -> None:
    raise AssertionError(what)
