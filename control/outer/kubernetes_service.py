"""A Kubernetes Service that is moved from one Deployment to the other by its selector."""

import time
from collections.abc import Mapping
from typing import Any, Final

from turnout.config.outer.kubernetes import KubernetesService
from turnout.config.weights import WHOLE
from turnout.control.outer import kube_selectors
from turnout.control.outer.kube import MERGE_PATCH, Kube, Object
from turnout.control.outer.kube_settling import Settling
from turnout.control.outer.kube_slices import SERVICE_LABEL, awaited, is_ready
from turnout.control.outer.rest import NotFound
from turnout.control.outer.seams import (
    Capabilities,
    Change,
    Conflict,
    Context,
    NotDone,
    Progress,
    Reading,
    Refused,
    Tail,
    Verdict,
    Wanted,
    differences,
)

ATTEMPTS: Final = 4
"""How often a patch is made anew when only what does not matter has changed meanwhile."""


def make_router(settings: KubernetesService, context: Context) -> "SelectorRouter":
    return SelectorRouter(settings, Kube(settings, context), context.names)


class SelectorRouter:
    capabilities = Capabilities(atomic=True, weighted=False, exchange=False, conditional=True)

    def __init__(self, settings: KubernetesService, kube: Kube, names: tuple[str, str]) -> None:
        self._name = settings.service
        self._settling = Settling(settings.settle)
        self._kube = kube
        self._names = names
        self._sides = (settings.selectors[names[0]], settings.selectors[names[1]])
        self._core = f"/api/v1/namespaces/{kube.namespace}"
        self._path = f"{self._core}/services/{self._name}"

    def expressible(self, second_weight: int) -> int | None:
        return second_weight if second_weight in (0, WHOLE) else None

    async def read(self) -> Reading:
        try:
            return self._reading(await self._kube.get(self._path))
        except NotFound:
            return kube_selectors.missing(self._name, self._kube.namespace)

    def preview(self, wanted: Wanted, reading: Reading) -> Mapping[str, Any]:
        labels = kube_selectors.wanted_labels(wanted, self._sides)
        return {
            "method": "PATCH",
            "path": self._path,
            "body": {"spec": kube_selectors.patch(labels, "")["spec"]},
        }

    async def set_weights(self, wanted: Wanted, if_read: Reading) -> Change:
        labels = kube_selectors.wanted_labels(wanted, self._sides)
        for _ in range(ATTEMPTS):
            service = await self._service(if_read)
            if wanted.exact is None:
                await self._refuse_to_empty(service, labels)
            version = str(service["metadata"]["resourceVersion"])
            try:
                changed = await self._kube.patch(
                    self._path, kube_selectors.patch(labels, version), MERGE_PATCH
                )
            except Conflict:
                continue  # read again: perhaps it is its status alone that somebody wrote
            return self._change(labels, changed)
        raise NotDone(f"Service {self._name} is written all the time: {ATTEMPTS} patches were late")

    async def confirm(self, wanted: Wanted, reading: Reading) -> Change:
        labels = kube_selectors.wanted_labels(wanted, self._sides)
        return self._change(labels, await self._kube.get(self._path))

    async def poll(self, change: Change) -> Progress:
        labels = dict(change.document["selector"])
        try:
            service = await self._kube.get(self._path)
        except NotFound as error:
            return Progress(Verdict.FAILED, f"the Service is gone: {error}")
        selector = (service.get("spec") or {}).get("selector") or {}
        found = {key: selector.get(key) for key in labels}
        if found != labels or service["metadata"].get("uid") != change.document["uid"]:
            text = kube_selectors.text(selector)
            return Progress(Verdict.FAILED, f"somebody else has set the selector: {text}")
        pods = await self._pods(selector)
        slices = await self._kube.list(
            f"/apis/discovery.k8s.io/v1/namespaces/{self._kube.namespace}/endpointslices",
            f"{SERVICE_LABEL}={self._name}",
        )
        if missing := awaited(pods, slices.items):
            self._settling.wrong(change.id)
            return Progress(Verdict.PENDING, missing)
        if left_s := self._settling.left_s(change.id, time.monotonic()):
            return Progress(
                Verdict.PENDING, f"its endpoints are right; settling for {left_s:.1f} s"
            )
        return Progress(Verdict.IN_SYNC, f"its endpoints are {sum(map(is_ready, pods))} ready pods")

    async def tail(self, old_upstream: int) -> Tail:
        return Tail(0.0)

    async def close(self) -> None:
        await self._kube.close()

    # ------------------------------------------------------------ parts

    def _reading(self, service: Object) -> Reading:
        return kube_selectors.reading(service, self._name, self._names, self._sides)

    async def _service(self, if_read: Reading) -> Object:
        """The Service, as it was read. Raises Conflict when it is another one."""
        try:
            service = await self._kube.get(self._path)
        except NotFound as error:
            raise Conflict(f"Service {self._name} is gone: {error}") from error
        now = self._reading(service)
        if now.version != if_read.version:
            found = differences(
                {**if_read.settings, **if_read.exact}, {**now.settings, **now.exact}
            )
            raise Conflict(f"Service {self._name} has changed: {'; '.join(found)}")
        return service

    async def _refuse_to_empty(self, service: Object, labels: Mapping[str, str | None]) -> None:
        """Raise NotDone when no pod would be ready: a Service without endpoints refuses all."""
        selector = {**((service.get("spec") or {}).get("selector") or {}), **labels}
        pods = await self._pods(selector)
        if not any(map(is_ready, pods)):
            raise NotDone(
                f"Service {self._name} is not moved: none of the {len(pods)} pods with"
                f" {kube_selectors.text(selector)} is ready"
            )

    async def _pods(self, selector: Mapping[str, str | None]) -> tuple[Object, ...]:
        text = kube_selectors.text(selector)
        if not text:
            raise Refused(f"Service {self._name} has no selector")
        return (await self._kube.list(f"{self._core}/pods", text)).items

    def _change(self, labels: Mapping[str, str | None], service: Object) -> Change:
        metadata = service["metadata"]
        document = {"selector": dict(labels), "uid": metadata.get("uid")}
        return Change(str(metadata["resourceVersion"]), document)
