"""Azure: slots of App Service, endpoints of Traffic Manager."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, ClassVar, Final, Literal

from turnout.config.document import Place
from turnout.config.knobs import (
    Duration,
    Name,
    Pattern,
    Text,
    TrueOrFalse,
    Zero,
    knob,
    needed,
)
from turnout.config.outer.common import KIND, OuterSection
from turnout.config.outer.credentials import AzureCredentials
from turnout.config.places import Endpoint

RESOURCE_GROUP: Final = Pattern(
    r"[A-Za-z0-9._()-]{0,89}[A-Za-z0-9_()-]",
    "a resource group's name",
    "1 to 90 of `A-Z a-z 0-9 . _ - ( )`, the last no dot",
)


SETTING_NAME: Final = Pattern(
    r"[A-Za-z_][A-Za-z0-9_]{0,127}",
    "a setting's name",
    "1 to 128 letters, digits and underscores, first no digit",
)


class ArmSection(OuterSection):
    """What all of Azure Resource Manager have."""

    subscription: Annotated[str, Name()] = needed("The subscription's id.")
    resource_group: Annotated[str, RESOURCE_GROUP] = needed("The resource group.")
    endpoint: Annotated[str, Endpoint()] = knob(
        "https://management.azure.com",
        "Azure Resource Manager; other clouds have their own, such as "
        "`https://management.usgovcloudapi.net`.",
    )
    credentials: AzureCredentials = knob({}, "Who calls.")

    def conflicts(self, upstreams: Sequence[str]) -> Iterator[tuple[Place, str]]:
        for place, text in self.credentials.conflicts():
            yield ("credentials", *place), text


def _by_upstream(
    key: str, given: Mapping[str, str], upstreams: Sequence[str]
) -> Iterator[tuple[Place, str]]:
    """Say what is wrong with what should be one value for each upstream, all different."""
    for name in given:
        if name not in upstreams:
            yield (key, name), f"it is no upstream of the service. Write {', '.join(upstreams)}"
    for name in upstreams:
        if name not in given:
            yield (key,), f"{name} is missing. Write one for each upstream"
    if len(given) > 1 and len({value.lower() for value in given.values()}) < len(given):
        yield (key,), "two upstreams have the same. Write one for each"


class AppService(ArmSection):
    """Two slots of an Azure App Service that are swapped. A swap exchanges what is deployed in
    them, so an upstream is no slot: it is a deployment, which says by an app setting of its own
    which one it is, and takes that with it."""

    module: ClassVar[str] = "app_service"

    kind: Literal["app_service"] = needed(KIND)
    app: Annotated[str, Name()] = needed("The app's name.")
    slot: Annotated[str, Name()] = needed(
        "The slot that is swapped with the live one, such as `staging`."
    )
    live_slot: Annotated[str, Name()] = knob("production", "The slot that clients come to.")
    marker: Annotated[str, SETTING_NAME] = knob(
        "TURNOUT_UPSTREAM",
        "The app setting that names the upstream, in both slots. It must not be a deployment slot "
        "setting, as it is to travel with what is deployed.",
    )
    values: dict[Annotated[str, Name()], Annotated[str, Text(128, may_be_empty=False)]] = knob(
        {}, "Upstream -> what the marker says for it. Left out: the upstream's name."
    )
    preserve_vnet: Annotated[bool, TrueOrFalse()] = knob(
        "true", "Whether each slot keeps its own virtual network integration in a swap."
    )
    in_sync_timeout: Annotated[float, Duration("1s", "1d")] = knob(
        "30m", "As everywhere, but longer: a swap restarts and warms up every instance."
    )
    retry_for: Annotated[float, Duration("1s", "1h")] = knob(
        "10m",
        "As everywhere, but longer: while a swap is under way, such as one whose reply was lost, "
        "another is not asked for.",
    )

    def conflicts(self, upstreams: Sequence[str]) -> Iterator[tuple[Place, str]]:
        yield from super().conflicts(upstreams)
        if self.slot.lower() == self.live_slot.lower():
            yield ("slot",), "it is live_slot. Write the other one"
        if self.values:
            yield from _by_upstream("values", self.values, upstreams)


class TrafficManager(ArmSection):
    """Two weighted endpoints of an Azure Traffic Manager profile."""

    module: ClassVar[str] = "traffic_manager"

    kind: Literal["traffic_manager"] = needed(KIND)
    profile: Annotated[str, Name()] = needed("The profile's name.")
    endpoints: dict[Annotated[str, Name()], Annotated[str, Text(260, may_be_empty=False)]] = needed(
        "Upstream -> the name of its endpoint in the profile."
    )
    settle: Annotated[float, Duration("1s", "1h", Zero.NONE)] = knob(
        "1m",
        "How long after a change was read back, and its endpoint found healthy, it is in sync: "
        "Azure does not say when all of its DNS servers have it.",
    )

    def conflicts(self, upstreams: Sequence[str]) -> Iterator[tuple[Place, str]]:
        yield from super().conflicts(upstreams)
        yield from _by_upstream("endpoints", self.endpoints, upstreams)
        if self.settle >= self.in_sync_timeout:
            yield (
                ("settle",),
                f"it is not shorter than in_sync_timeout ({self.in_sync_timeout:g} s), so no "
                "change would ever be in sync in time. Write a shorter one",
            )
