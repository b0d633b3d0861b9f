"""The routers of Kubernetes and their fake."""

import copy
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from tests.fakes.kubernetes import NAMESPACE, TOKEN, FakeKubernetes
from tests.outer.target import Target

SERVICE = {
    "type": "ClusterIP",
    "selector": {"app": "shop", "version": "blue"},
    "ports": [{"name": "http", "port": 80, "targetPort": 8080, "protocol": "TCP"}],
}


def ref(name: str, weight: int | None) -> dict[str, Any]:
    found = {"group": "", "kind": "Service", "name": name, "port": 80}
    return found if weight is None else {**found, "weight": weight}


ROUTE: dict[str, Any] = {
    "parentRefs": [{"name": "edge"}],
    "hostnames": ["shop.example"],
    "rules": [
        {
            "name": "all",
            "matches": [{"path": {"type": "PathPrefix", "value": "/"}}],
            "backendRefs": [ref("shop-blue", 100), ref("shop-green", 0)],
        },
        {
            "matches": [{"path": {"type": "PathPrefix", "value": "/static"}}],
            "backendRefs": [ref("static", 1)],
        },
    ],
}


class _Kubernetes(Target):
    fake: FakeKubernetes
    secrets: ClassVar[tuple[str, ...]] = (TOKEN,)

    def __init__(self) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="turnout-kubernetes-")
        self.token_file = Path(self._directory.name) / "token"
        self.token_file.write_text(f"{TOKEN}\n")

    settle: str = "0"

    def cluster_access(self) -> dict[str, Any]:
        return {
            "endpoint": self.fake.url,
            "namespace": NAMESPACE,
            "token_file": str(self.token_file),
        }

    def cluster(self) -> dict[str, Any]:
        return {**self.cluster_access(), "settle": self.settle}


class KubernetesServiceTarget(_Kubernetes):
    kind: ClassVar[str] = "kubernetes_service"
    can_fail: ClassVar[bool] = False

    def make_fake(self) -> FakeKubernetes:
        fake = FakeKubernetes()
        for side in ("blue", "green"):
            for number in (1, 2):
                ip = f"10.0.{1 if side == 'blue' else 2}.{number}"
                fake.pod(f"{side}-{number}", {"app": "shop", "version": side}, ip=ip)
        fake.put("services", "shop", spec=dict(SERVICE))
        fake.controller("shop")
        return fake

    def settings(self) -> Mapping[str, Any]:
        return {
            "kind": "kubernetes_service",
            "service": "shop",
            "selectors": {"blue": {"version": "blue"}, "green": {"version": "green"}},
            **self.cluster(),
        }

    def second_weight(self) -> int:
        selector = self.fake.objects["services", "shop"]["spec"]["selector"]
        return {"blue": 0, "green": 10000}[selector["version"]]

    def change_weight_outside(self) -> None:
        other = "blue" if self.second_weight() else "green"
        self._select(version=other)

    def change_settings_outside(self) -> None:
        self._select(tier="web")

    def spoil(self) -> None:
        self._select(version="purple")

    def _select(self, **labels: str) -> None:
        spec = self.fake.objects["services", "shop"]["spec"]
        self.fake.put("services", "shop", spec={**spec, "selector": {**spec["selector"], **labels}})


class GatewayApiTarget(_Kubernetes):
    kind: ClassVar[str] = "gateway_api"
    can_fail: ClassVar[bool] = False
    """A route that no gateway accepts has the new weights all the same."""

    def make_fake(self) -> FakeKubernetes:
        fake = FakeKubernetes()
        fake.put("httproutes", "shop", spec=ROUTE)
        fake.gateway("shop")
        return fake

    def settings(self) -> Mapping[str, Any]:
        return {
            "kind": "gateway_api",
            "route": "shop",
            "backends": {"blue": "shop-blue", "green": "shop-green"},
            **self.cluster(),
        }

    def second_weight(self) -> int:
        blue, green = (one["weight"] for one in self._spec()["rules"][0]["backendRefs"])
        return int(10000 * green / (blue + green))

    def change_weight_outside(self) -> None:
        self.weigh(60, 40)

    def change_settings_outside(self) -> None:
        self.fake.put("httproutes", "shop", spec={**self._spec(), "hostnames": ["www.example"]})

    def spoil(self) -> None:
        spec = self._spec()
        spec["rules"][0]["backendRefs"].append(ref("shop-purple", 5))
        self.fake.put("httproutes", "shop", spec=spec)

    def weigh(self, blue: int, green: int) -> None:
        """As somebody else."""
        spec = self._spec()
        spec["rules"][0]["backendRefs"] = [ref("shop-blue", blue), ref("shop-green", green)]
        self.fake.put("httproutes", "shop", spec=spec)

    def _spec(self) -> dict[str, Any]:
        found: dict[str, Any] = copy.deepcopy(self.fake.objects["httproutes", "shop"]["spec"])
        return found
