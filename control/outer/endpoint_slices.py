"""The endpoints of a Kubernetes Service as an upstream's servers: list, then watch."""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Final

from turnout.config.outer.kubernetes import EndpointSlices
from turnout.control.outer.kube import Gone, Kube, Object
from turnout.control.outer.kube_slices import SERVICE_LABEL, servers_in
from turnout.control.outer.seams import Context, FoundServers

PAUSE_S: Final = 1.0
"""Between two lists, and between two watches of which the first ended sooner than this."""


def make_discovery(settings: EndpointSlices, context: Context) -> "SliceWatch":
    return SliceWatch(settings, Kube(settings, context), context)


class SliceWatch:
    """Follows the EndpointSlices of one Service."""

    def __init__(self, settings: EndpointSlices, kube: Kube, context: Context) -> None:
        self._settings = settings
        self._kube = kube
        self._tell = context.tell
        self._told: tuple[str, ...] = ()
        self._path = f"/apis/discovery.k8s.io/v1/namespaces/{kube.namespace}/endpointslices"
        self._labels = f"{SERVICE_LABEL}={settings.service}"

    async def snapshots(self) -> AsyncGenerator[FoundServers, None]:
        """The servers now, and whenever a slice has changed; at each new watch once more, as a
        sign that the source is there. Raises OuterError."""
        while True:
            listed = await self._kube.list(self._path, self._labels)
            slices = {_key(slice): slice for slice in listed.items}
            version = listed.version
            yield self._snapshot(slices, version)
            try:
                while True:
                    began_s = time.monotonic()
                    watch = self._kube.watch(
                        self._path, self._labels, version, self._settings.watch
                    )
                    async with aclosing(watch):
                        async for kind, slice in watch:
                            version = str(slice["metadata"]["resourceVersion"])
                            if kind == "DELETED":
                                slices.pop(_key(slice), None)
                            elif kind in ("ADDED", "MODIFIED"):
                                slices[_key(slice)] = slice
                            if kind != "BOOKMARK":
                                yield self._snapshot(slices, version)
                    yield self._snapshot(slices, version)
                    if time.monotonic() - began_s < PAUSE_S:
                        await asyncio.sleep(PAUSE_S)
            except Gone:
                await asyncio.sleep(PAUSE_S)

    def _snapshot(self, slices: dict[str, Object], version: str) -> FoundServers:
        found = servers_in(slices.values(), self._settings.port)
        if found.problems != self._told:
            self._told = found.problems
            for problem in found.problems:
                self._tell(
                    f"Service {self._settings.service}: {problem}", "kubectl get endpointslices"
                )
        return FoundServers(found.servers, version, found.complete)

    async def close(self) -> None:
        await self._kube.close()


def _key(slice: Object) -> str:
    metadata: dict[str, Any] = slice["metadata"]
    return str(metadata["name"])
