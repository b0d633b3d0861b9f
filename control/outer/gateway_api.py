"""Weights of two backends of a Gateway API HTTPRoute."""

import time
from collections.abc import Mapping
from typing import Any, Final

from turnout.config.outer.kubernetes import GatewayApi
from turnout.control.outer import kube_routes
from turnout.control.outer.kube import JSON_PATCH, Kube, Object
from turnout.control.outer.kube_routes import Meant
from turnout.control.outer.kube_settling import Settling
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
"""How often a patch is made anew when only the route's status has changed meanwhile."""


def make_router(settings: GatewayApi, context: Context) -> "RouteRouter":
    return RouteRouter(settings, Kube(settings, context), context.names)


class RouteRouter:
    capabilities = Capabilities(atomic=True, weighted=True, exchange=False, conditional=True)

    def __init__(self, settings: GatewayApi, kube: Kube, names: tuple[str, str]) -> None:
        self._kube = kube
        self._settling = Settling(settings.settle)
        first, second = names
        self._meant = Meant(
            settings.route,
            kube.namespace,
            names,
            (settings.backends[first], settings.backends[second]),
            settings.rule,
        )
        self._path = (
            f"/apis/{kube_routes.GATEWAY_GROUP}/v1/namespaces/{kube.namespace}"
            f"/httproutes/{settings.route}"
        )

    def expressible(self, second_weight: int) -> int | None:
        return second_weight

    async def read(self) -> Reading:
        try:
            return kube_routes.reading(await self._kube.get(self._path), self._meant)
        except NotFound:
            return kube_routes.missing(self._meant)

    def preview(self, wanted: Wanted, reading: Reading) -> Mapping[str, Any]:
        rules = kube_routes.wanted_weights(wanted, reading, self._meant.names)
        return {"method": "PATCH", "path": self._path, "weights": rules}

    async def set_weights(self, wanted: Wanted, if_read: Reading) -> Change:
        rules = kube_routes.wanted_weights(wanted, if_read, self._meant.names)
        for _ in range(ATTEMPTS):
            route = await self._route(if_read)
            body = kube_routes.patch(route, self._meant, rules)
            try:
                changed = await self._kube.patch(self._path, body, JSON_PATCH)
            except (Conflict, Refused):
                # A test of the patch that does not hold is answered with 422, as is what is wrong
                # of itself: only a version that is another one by now is worth another attempt.
                if await self._version() == route["metadata"]["resourceVersion"]:
                    raise
                continue
            return self._change(rules, changed)
        raise NotDone(
            f"HTTPRoute {self._meant.route} is written all the time: {ATTEMPTS} patches were late"
        )

    async def confirm(self, wanted: Wanted, reading: Reading) -> Change:
        rules = kube_routes.wanted_weights(wanted, reading, self._meant.names)
        return self._change(rules, await self._kube.get(self._path))

    async def poll(self, change: Change) -> Progress:
        try:
            route = await self._kube.get(self._path)
        except NotFound as error:
            return Progress(Verdict.FAILED, f"the route is gone: {error}")
        progress = kube_routes.progress(route, self._meant, change.document["rules"])
        if progress.verdict is not Verdict.IN_SYNC:
            self._settling.wrong(change.id)
            return progress
        if left_s := self._settling.left_s(change.id, time.monotonic()):
            return Progress(Verdict.PENDING, f"{progress.detail}; settling for {left_s:.1f} s")
        return progress

    async def tail(self, old_upstream: int) -> Tail:
        return Tail(0.0)

    async def close(self) -> None:
        await self._kube.close()

    # ------------------------------------------------------------ parts

    async def _route(self, if_read: Reading) -> Object:
        """The route, as it was read. Raises Conflict when it is another one."""
        try:
            route = await self._kube.get(self._path)
        except NotFound as error:
            raise Conflict(f"HTTPRoute {self._meant.route} is gone: {error}") from error
        now = kube_routes.reading(route, self._meant)
        if now.version != if_read.version:
            found = differences(
                {**if_read.settings, "weights": if_read.exact},
                {**now.settings, "weights": now.exact},
            )
            raise Conflict(f"HTTPRoute {self._meant.route} has changed: {'; '.join(found)}")
        return route

    async def _version(self) -> str:
        return str((await self._kube.get(self._path))["metadata"]["resourceVersion"])

    def _change(self, rules: Mapping[str, Mapping[str, int]], route: Object) -> Change:
        metadata = route["metadata"]
        document = {"rules": {rule: dict(weights) for rule, weights in rules.items()}}
        return Change(f"generation {metadata.get('generation')}", document)
