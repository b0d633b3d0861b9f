"""Azure App Service: two slots that are swapped.

A swap exchanges what is deployed in the slots, while the slots stay where they are. So an
upstream is no slot, but a deployment: an app setting that is no deployment slot setting travels
with it in a swap and says which one it is. Both slots must have it, with another value each.

A swap takes minutes: the slot that is to go live restarts with the live slot's settings and is
warmed up, and only then is the routing changed. Made twice it undoes itself, so it is asked for
only when the slots were read just before and nothing is under way on them.

Source: WebApps.json of version 2023-12-01 in Azure/azure-rest-api-specs; learn.microsoft.com, "Set
up staging environments in Azure App Service".
"""

from collections.abc import Mapping
from typing import Any, Final

from turnout.config.outer.azure import AppService
from turnout.config.weights import WHOLE
from turnout.control.outer.arm import Arm, digest
from turnout.control.outer.seams import (
    Capabilities,
    Change,
    Conflict,
    Context,
    NotExpressible,
    Progress,
    Reading,
    Tail,
    Throttled,
    Verdict,
    Wanted,
    differences,
)

API_VERSION: Final = "2023-12-01"
PRODUCTION: Final = "production"
"""The slot that is the app itself."""
_SAID_MAX: Final = 64


def make_router(settings: AppService, context: Context) -> "AppServiceRouter":
    return AppServiceRouter(settings, context)


class AppServiceRouter:
    capabilities = Capabilities(atomic=True, weighted=False, exchange=True, conditional=False)

    def __init__(self, settings: AppService, context: Context) -> None:
        self._app = f"Microsoft.Web/sites/{settings.app}"
        self._live, self._idle = settings.live_slot, settings.slot
        self._marker = settings.marker
        first, second = (settings.values.get(name, name) for name in context.names)
        self._values = (first, second)
        self._preserve_vnet = settings.preserve_vnet
        self._arm = Arm(settings, context, who="App Service", api_version=API_VERSION)

    def expressible(self, second_weight: int) -> int | None:
        return second_weight if second_weight in (0, WHOLE) else None

    async def read(self) -> Reading:
        """Raises Throttled, too, while what is under way has left the markers in between."""
        slots = {name: await self._slot(name) for name in (self._live, self._idle)}
        sticky = await self._arm.read(f"{self._app}/config/slotConfigNames")
        reading = reading_of(slots, sticky, (self._live, self._idle), self._marker, self._values)
        if reading.second_weight is None and (busy := under_way(slots)):
            raise Throttled(f"App Service: {busy}, and {'; '.join(reading.problems)}")
        return reading

    def preview(self, wanted: Wanted, reading: Reading) -> Mapping[str, Any]:
        goal = self._goal(wanted)
        if reading.second_weight == goal:
            return {"call": "none: it is so already"}
        return {"call": f"POST {self._swap}", **self._body}

    async def set_weights(self, wanted: Wanted, if_read: Reading) -> Change:
        goal = self._goal(wanted)
        now = await self.read()
        if now.version != if_read.version:
            changed = differences(
                {"slots": if_read.exact, "settings": if_read.settings},
                {"slots": now.exact, "settings": now.settings},
            )
            raise Conflict(f"App Service: somebody else changed it: {'; '.join(changed)}")
        if now.second_weight == goal:
            return await self.confirm(wanted, now)
        if busy := [text for text in now.warnings if text.startswith(_UNDER_WAY)]:
            # It may be this very swap, whose reply was lost: asked for again it would be undone.
            raise Throttled(f"App Service: {busy[0]}")
        operation = await self._arm.change("POST", self._swap, self._body)
        return Change(
            operation.partition("?")[0].rpartition("/")[2],
            {"second_weight": goal, "operation": operation, "asked": True},
        )

    async def confirm(self, wanted: Wanted, reading: Reading) -> Change:
        return Change("", {"second_weight": self._goal(wanted), "operation": "", "asked": False})

    async def poll(self, change: Change) -> Progress:
        operation, asked = change.document["operation"], change.document["asked"]
        if operation:
            progress = await self._arm.progress(operation)
            if progress.verdict in (Verdict.PENDING, Verdict.FAILED):
                return progress
            # An operation that Azure does not know any more is judged by what the slots say.
            asked = progress.verdict is Verdict.IN_SYNC
        slots = {name: await self._slot(name) for name in (self._live, self._idle)}
        goal = change.document["second_weight"]
        names = (self._live, self._idle)
        return progress_of(slots, names, self._marker, self._values, goal, asked=asked)

    async def tail(self, old_upstream: int) -> Tail:
        return Tail(0.0)

    async def close(self) -> None:
        await self._arm.close()

    # ------------------------------------------------------------ parts

    async def _slot(self, name: str) -> "Slot":
        """What is told of a slot: nothing of its other settings is kept, as they are secret."""
        site = await self._arm.read(self._resource(name))
        settings = await self._arm.listed(f"{self._resource(name)}/config/appsettings/list")
        config = await self._arm.read(f"{self._resource(name)}/config/web")
        return slot_of(site, settings, config, self._marker)

    def _resource(self, name: str) -> str:
        return self._app if name.lower() == PRODUCTION else f"{self._app}/slots/{name}"

    @property
    def _swap(self) -> str:
        """The slot that goes live is named by the path: it is the one that is warmed up."""
        return f"{self._resource(self._idle)}/slotsswap"

    @property
    def _body(self) -> dict[str, Any]:
        return {"targetSlot": self._live, "preserveVnet": self._preserve_vnet}

    def _goal(self, wanted: Wanted) -> int:
        """All or nothing. Of an exact reading its weight is all that a swap can restore."""
        if wanted.second_weight not in (0, WHOLE):
            raise NotExpressible(
                f"App Service swaps slots whole: {wanted.second_weight / 100:g} % cannot be had"
            )
        return wanted.second_weight


# ---------------------------------------------------------------- what the slots say

Slot = Mapping[str, Any]
"""A slot as `slot_of` tells it."""
Names = tuple[str, str]
_UNDER_WAY: Final = "an operation is under way"


def slot_of(
    site: Mapping[str, Any], settings: Mapping[str, Any], config: Mapping[str, Any], marker: str
) -> Slot:
    """What matters of a slot, by three documents of it."""
    properties = site.get("properties") or {}
    said = (settings.get("properties") or {}).get(marker)
    web = config.get("properties") or {}
    rules = (web.get("experiments") or {}).get("rampUpRules") or []
    return {
        "marker": None if said is None else str(said)[:_SAID_MAX],
        "state": properties.get("state"),
        "host": properties.get("defaultHostName"),
        "operation": properties.get("inProgressOperationId"),
        "auto_swap": web.get("autoSwapSlotName") or None,
        "split": {
            str(rule.get("name")): rule.get("reroutePercentage")
            for rule in rules
            if rule.get("reroutePercentage")
        },
    }


def reading_of(
    slots: Mapping[str, Slot],
    sticky: Mapping[str, Any],
    names: Names,
    marker: str,
    values: tuple[str, str],
) -> Reading:
    """What two slots mean; `names` the live one first, `values` the marker's for each upstream."""
    live = names[0]
    names_of = sticky.get("properties") or {}
    sticky_settings = sorted(names_of.get("appSettingNames") or [])
    problems = list(_of_markers(slots, names, marker, values))
    if marker.lower() in (name.lower() for name in sticky_settings):
        problems.append(
            f"{marker} is a deployment slot setting, which stays where it is in a swap, and so"
            " does not tell what is deployed: clear that mark"
        )
    for name in names:
        if slots[name]["state"] != "Running":
            problems.append(f"slot {name} is {slots[name]['state']}: start it")
    for name, part in slots[live]["split"].items():
        problems.append(
            f"{live} sends {part} % of its requests to {name} by a routing rule: set that to 0"
        )
    for name in names:
        if slots[name]["auto_swap"]:
            problems.append(
                f"slot {name} swaps itself with {slots[name]['auto_swap']} when it is deployed to"
                " (auto swap): switch that off"
            )
    exact = {name: {marker: slots[name]["marker"]} for name in names}
    settings = {
        "slots": {
            name: {key: slots[name][key] for key in ("host", "state", "split", "auto_swap")}
            for name in names
        },
        "deployment_slot_settings": sticky_settings,
        "deployment_slot_connection_strings": sorted(names_of.get("connectionStringNames") or []),
    }
    busy = under_way(slots)
    return Reading(
        second_weight=None if problems else _weight(slots[live]["marker"], values),
        version=digest(exact, settings),
        exact=exact,
        settings=settings,
        problems=tuple(problems),
        warnings=(busy,) if busy else (),
    )


def under_way(slots: Mapping[str, Slot]) -> str:
    """That Azure is at work on a slot, in words; empty: it is not."""
    for name, slot in slots.items():
        if slot["operation"]:
            return f"{_UNDER_WAY} on slot {name} ({slot['operation']})"
    return ""


def progress_of(
    slots: Mapping[str, Slot],
    names: Names,
    marker: str,
    values: tuple[str, str],
    goal: int,
    *,
    asked: bool,
) -> Progress:
    """Whether a swap is over by what the slots say; `asked`: it was taken on, and nothing says
    that it failed."""
    if busy := under_way(slots):
        return Progress(Verdict.PENDING, busy)
    trouble = list(_of_markers(slots, names, marker, values))
    if not trouble and _weight(slots[names[0]]["marker"], values) == goal:
        return Progress(Verdict.IN_SYNC, f"{names[0]} has {slots[names[0]]['marker']}")
    what = "; ".join(trouble) or f"{names[0]} still has {slots[names[0]]['marker']}"
    if asked:
        return Progress(Verdict.PENDING, f"the swap was taken on, and {what}")
    return Progress(Verdict.UNKNOWN, f"no operation is under way, and {what}")


def _of_markers(
    slots: Mapping[str, Slot], names: Names, marker: str, values: tuple[str, str]
) -> list[str]:
    """Why what is deployed cannot be told."""
    said = [slots[name]["marker"] for name in names]
    problems = []
    for name, value in zip(names, said, strict=True):
        if value is None:
            problems.append(
                f"slot {name} has no app setting {marker}: set it to {' or '.join(values)},"
                " whichever is deployed there"
            )
        elif value not in values:
            problems.append(f"{marker} of slot {name} is {value}; expected {' or '.join(values)}")
    if not problems and said[0] == said[1]:
        problems.append(
            f"{marker} is {said[0]} in both slots, so it does not tell what is deployed: correct"
            " one"
        )
    return problems


def _weight(said: str | None, values: tuple[str, str]) -> int:
    return WHOLE if said == values[1] else 0
