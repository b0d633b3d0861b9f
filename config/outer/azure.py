"""Azure: slots of App Service, endpoints of Traffic Manager."""

from typing import ClassVar, Literal

from turnout.config.knobs import needed
from turnout.config.outer.common import KIND, OuterSection


class AppService(OuterSection):
    """Two slots of an Azure App Service that are swapped."""

    module: ClassVar[str] = "app_service"

    kind: Literal["app_service"] = needed(KIND)


class TrafficManager(OuterSection):
    """Two weighted endpoints of an Azure Traffic Manager profile."""

    module: ClassVar[str] = "traffic_manager"

    kind: Literal["traffic_manager"] = needed(KIND)
