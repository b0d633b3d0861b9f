"""Fakes of Azure Resource Manager: an App Service with slots, a Traffic Manager profile.

Strict by the API's specifications (azure-rest-api-specs: WebApps.json of 2023-12-01,
trafficmanager.json of 2022-04-01) and by what the services are reported to say; not compared with
the real ones.
"""

import copy
import json
import math
import time
import uuid
from abc import abstractmethod
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs

from aiohttp import web

from tests.fakes.base import FakeService, Fault

TENANT = "0b6c8ba1-7a5d-4b6d-9a55-5d3f7c1e2a10"
CLIENT = "c1f2d0a4-51b3-4f08-8f53-91d0be7a9c21"
SECRET = "s3cret~of-the-application-Zq8"
SUBSCRIPTION = "34adfa4f-cedf-4dc0-ba29-b6d1a69ab345"
GROUP = "shop-rg"
ROOT = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/{GROUP}/providers/"
TOKEN = "eyJ0eXAi.of-a-length-that-must-never-be-seen"


def error(status: int, code: str, message: str, **headers: str) -> web.Response:
    """Azure's shape of an error."""
    body = {"error": {"code": code, "message": message}}
    return web.json_response(body, status=status, headers=headers)


@dataclass
class FakeArm(FakeService):
    """What all resource providers have in common; and Microsoft Entra ID, for the tokens."""

    versions: tuple[str, ...] = ()
    throttled_s: int = 17
    tokens: int = 0
    expired: bool = False
    """No token given so far is taken any more."""

    def writes(self, request: web.Request, body: bytes) -> bool:
        path = request.path
        return request.method != "GET" and not path.endswith(("/token", "/list"))

    def refusal(self, fault: Fault, request: web.Request) -> web.Response:
        match fault:
            case Fault.THROTTLED:
                headers = {
                    "retry-after": str(self.throttled_s),
                    "x-ms-ratelimit-remaining-subscription-writes": "0",
                }
                return error(
                    429,
                    "SubscriptionRequestsThrottled",
                    "Number of requests for subscription exceeded the limit.",
                    **headers,
                )
            case Fault.DENIED:
                return error(
                    401,
                    "ExpiredAuthenticationToken",
                    f"The access token {request.headers.get('authorization')} expiry UTC time has"
                    " passed.",
                )
        return error(503, "ServiceUnavailable", "The service is unavailable.")

    async def handle(self, request: web.Request, body: bytes) -> web.StreamResponse:
        if request.path == f"/{TENANT}/oauth2/v2.0/token":
            return self._token(request, body)
        if request.path.lower().startswith("/subscriptions/"):
            return self._checked(request, body)
        return error(404, "NotFound", "There is nothing.")

    def _token(self, request: web.Request, body: bytes) -> web.Response:
        form = {key: value[0] for key, value in parse_qs(body.decode()).items()}
        expected = {
            "grant_type": "client_credentials",
            "client_id": CLIENT,
            "client_secret": SECRET,
            "scope": f"{self.url}/.default",
        }
        if form != expected:
            document = {"error": "invalid_client", "error_description": "AADSTS7000215"}
            return web.json_response(document, status=401)
        self.tokens += 1
        self.expired = False
        given = {"access_token": self.token, "expires_in": 3599, "token_type": "Bearer"}
        return web.json_response(given)

    @property
    def token(self) -> str:
        return f"{TOKEN}.{self.tokens}"

    def _checked(self, request: web.Request, body: bytes) -> web.StreamResponse:
        if self.expired or request.headers.get("authorization") != f"Bearer {self.token}":
            return error(401, "InvalidAuthenticationToken", "The access token is invalid.")
        version = request.query.get("api-version")
        if version is None:
            return error(
                400,
                "MissingApiVersionParameter",
                "The api-version query parameter (?api-version=) is required for all requests.",
            )
        if version not in self.versions:
            return error(
                400, "InvalidResourceType", f"No resource is of the api version '{version}'."
            )
        if not request.path.lower().startswith(ROOT.lower()):
            return error(403, "AuthorizationFailed", "The client does not have authorization.")
        parts = request.path[len(ROOT) :].split("/")
        return self.resource(request, parts, body)

    @abstractmethod
    def resource(self, request: web.Request, parts: list[str], body: bytes) -> web.Response:
        """The answer of a resource provider; `parts` from its namespace on."""


def document_of(body: bytes) -> Any:
    """The body as JSON; None when it is none."""
    try:
        return json.loads(body)
    except ValueError:
        return None


# ---------------------------------------------------------------- App Service


@dataclass(slots=True)
class Operation:
    """A swap under way."""

    id: str
    source: str
    target: str
    until: float
    fails: bool
    settled: bool = False


def _slot(marker: str) -> dict[str, Any]:
    return {
        "app_settings": {"TURNOUT_UPSTREAM": marker, "DB_PASSWORD": "db-passw0rd-never-seen"},
        "state": "Running",
        "auto_swap": None,
        "ramp_up": [],
    }


@dataclass
class FakeAppService(FakeArm):
    """The app `shop` with the slots `production` and `staging`."""

    versions: tuple[str, ...] = ("2022-03-01", "2023-12-01", "2025-05-01")
    slots: dict[str, dict[str, Any]] = field(
        default_factory=lambda: {"production": _slot("blue"), "staging": _slot("green")}
    )
    sticky: list[str] = field(default_factory=list)
    operations: dict[str, Operation] = field(default_factory=dict)
    prepared: bool = False
    """A swap with preview waits to be completed."""
    by_async_operation: bool = False
    """Operations are followed by `Azure-AsyncOperation` instead of `Location`."""
    retry_after: str | None = None
    foreign_location: bool = False
    """Operations are to be followed at another host."""
    unlisted: bool = False
    """App settings cannot be listed just now."""
    hides_operations: bool = False
    """A slot does not say that an operation is under way on it."""

    def snapshot(self) -> Any:
        """As it will be when what is under way has been carried out."""
        slots = copy.deepcopy(self.slots)
        for operation in self.operations.values():
            if not operation.settled and not operation.fails:
                _exchange(slots, operation)
        return {"slots": slots, "sticky": sorted(self.sticky)}

    def marker(self, slot: str) -> str | None:
        self._settle()
        found: str | None = self.slots[slot]["app_settings"].get("TURNOUT_UPSTREAM")
        return found

    def swap(self, source: str = "staging", target: str = "production") -> None:
        """Somebody else swaps, at once."""
        _exchange(self.slots, Operation("", source, target, 0, fails=False))

    def _settle(self) -> None:
        for operation in self.operations.values():
            if not operation.settled and operation.until <= time.monotonic():
                operation.settled = True
                if not operation.fails:
                    _exchange(self.slots, operation)

    def _busy(self) -> Operation | None:
        return next((one for one in self.operations.values() if not one.settled), None)

    def resource(self, request: web.Request, parts: list[str], body: bytes) -> web.Response:
        self._settle()
        match parts:
            case ["Microsoft.Web", "sites", app, *rest] if app.lower() == "shop":
                slot = "production"
                if len(rest) > 1 and rest[0] == "slots":
                    slot, rest = rest[1].lower(), rest[2:]
                if slot not in self.slots:
                    return error(
                        404,
                        "ResourceNotFound",
                        f"The Resource 'Microsoft.Web/sites/shop/slots/{slot}' under resource group"
                        f" '{GROUP}' was not found.",
                    )
                return self._of_slot(request, slot, rest, body)
        return error(404, "ResourceNotFound", "The Resource was not found.")

    def _of_slot(
        self, request: web.Request, slot: str, rest: list[str], body: bytes
    ) -> web.Response:
        state = self.slots[slot]
        match request.method, rest:
            case "GET", []:
                return web.json_response(self._site(slot))
            case "POST", ["config", "appsettings", "list"] if self.unlisted:
                return error(500, "InternalServerError", "There was an unexpected error.")
            case "POST", ["config", "appsettings", "list"]:
                return web.json_response(
                    {"name": "appsettings", "properties": state["app_settings"]}
                )
            case "GET", ["config", "appsettings"]:
                return error(405, "MethodNotAllowed", "Secrets are listed by POST.")
            case "GET", ["config", "web"]:
                web_config = {
                    "autoSwapSlotName": state["auto_swap"],
                    "experiments": {"rampUpRules": state["ramp_up"]},
                    "appSettings": None,
                    "linuxFxVersion": "NODE|20-lts",
                }
                return web.json_response({"name": "shop", "properties": web_config})
            case "GET", ["config", "slotConfigNames"] if slot == "production":
                names = {"appSettingNames": self.sticky, "connectionStringNames": None}
                return web.json_response({"name": "slotConfigNames", "properties": names})
            case "GET", ["operationresults" | "operations" as kind, id_]:
                return self._followed(id_, by_status=kind == "operations")
            case "POST", ["slotsswap"]:
                return self._swap(request, slot, document_of(body))
        return error(404, "ResourceNotFound", f"There is no {request.method} {'/'.join(rest)}.")

    def _site(self, slot: str) -> dict[str, Any]:
        busy = self._busy()
        mine = busy is not None and slot in (busy.source, busy.target)
        mine = mine and not self.hides_operations
        host = "shop" if slot == "production" else f"shop-{slot}"
        return {
            "name": "shop" if slot == "production" else f"shop/{slot}",
            "type": "Microsoft.Web/sites",
            "location": "West Europe",
            "tags": {},
            "properties": {
                "state": self.slots[slot]["state"],
                "enabled": True,
                "defaultHostName": f"{host}.azurewebsites.net",
                "inProgressOperationId": busy.id if busy is not None and mine else None,
                "slotSwapStatus": None,
                "lastModifiedTimeUtc": f"2026-11-26T09:00:00.{len(self.journal):06d}",
            },
        }

    def _swap(self, request: web.Request, source: str, body: Any) -> web.Response:
        if not isinstance(body, dict) or set(body) != {"targetSlot", "preserveVnet"}:
            return error(400, "BadRequest", "targetSlot and preserveVnet are required.")
        target = body["targetSlot"]
        if not isinstance(target, str) or not isinstance(body["preserveVnet"], bool):
            return error(400, "BadRequest", "The request content was invalid.")
        target = target.lower()
        if target not in self.slots or target == source:
            return error(404, "NotFound", f"Cannot find slot with name {target}.")
        if (busy := self._busy()) is not None:
            return error(
                409,
                "Conflict",
                "Cannot modify this site because another operation is in progress. Details: Id:"
                f" {busy.id}, OperationName: SwapSiteSlots, SiteName: shop, SlotName: {source}",
            )
        if self.prepared:
            return error(
                409,
                "Conflict",
                "The slot cannot be changed because its configuration settings have been prepared"
                " for swap.",
            )
        operation = Operation(
            str(uuid.uuid4()), source, target, time.monotonic() + self.pending_s, self.fails_next
        )
        self.fails_next = False
        self.operations[operation.id] = operation
        where = "" if source == "production" else f"/slots/{source}"
        kind = "operations" if self.by_async_operation else "operationresults"
        url = "http://elsewhere.example" if self.foreign_location else self.url
        name = "Azure-AsyncOperation" if self.by_async_operation else "Location"
        version = request.query["api-version"]
        there = f"{url}{ROOT}Microsoft.Web/sites/shop{where}/{kind}/{operation.id}"
        headers = {name: f"{there}?api-version={version}"}
        if self.retry_after:
            headers["Retry-After"] = self.retry_after
        return web.Response(status=202, headers=headers)

    def _followed(self, id_: str, *, by_status: bool) -> web.Response:
        operation = self.operations.get(id_)
        if operation is None:
            return error(404, "NotFound", f"The operation {id_} is not found.")
        why = (
            "Cannot swap slots for site 'shop' because the worker process for"
            f" '{operation.source}' slot could not be started."
        )
        headers = {"Retry-After": self.retry_after} if self.retry_after else {}
        if by_status:
            document: dict[str, Any] = {"id": id_, "status": "InProgress"}
            if operation.settled:
                document["status"] = "Failed" if operation.fails else "Succeeded"
            if operation.settled and operation.fails:
                document["error"] = {"code": "BadRequest", "message": why}
            return web.json_response(document, headers=headers)
        if not operation.settled:
            return web.Response(status=202, headers=headers)
        if operation.fails:
            return error(400, "BadRequest", why)
        return web.json_response(self._site(operation.source))


def _exchange(slots: dict[str, dict[str, Any]], operation: Operation) -> None:
    one, other = slots[operation.source], slots[operation.target]
    one["app_settings"], other["app_settings"] = other["app_settings"], one["app_settings"]


# ---------------------------------------------------------------- Traffic Manager

_TYPES = ("azureEndpoints", "externalEndpoints", "nestedEndpoints")
_PREFIX = "Microsoft.Network/trafficManagerProfiles/"
_PROPERTIES = {
    "targetResourceId", "target", "endpointStatus", "weight", "priority", "endpointLocation",
    "minChildEndpoints", "minChildEndpointsIPv4", "minChildEndpointsIPv6", "geoMapping", "subnets",
    "customHeaders", "alwaysServe",
}  # fmt: skip


def _endpoint(name: str, status: str, priority: int) -> dict[str, Any]:
    return {
        "id": f"{ROOT}{_PREFIX}shop/externalEndpoints/{name}",
        "name": name,
        "type": f"{_PREFIX}externalEndpoints",
        "properties": {
            "endpointStatus": status,
            "target": f"{name}.shop.example",
            "weight": 7,
            "priority": priority,
            "endpointLocation": "North Europe",
            "customHeaders": [{"name": "x-probe", "value": "probe-s3cret-never-seen"}],
        },
    }


def _profile() -> dict[str, Any]:
    return {
        "id": f"{ROOT}{_PREFIX}shop",
        "name": "shop",
        "type": "Microsoft.Network/trafficManagerProfiles",
        "location": "global",
        "tags": {"team": "shop"},
        "properties": {
            "profileStatus": "Enabled",
            "trafficRoutingMethod": "Weighted",
            "dnsConfig": {
                "relativeName": "shop", "fqdn": "shop.trafficmanager.net", "ttl": 60,
            },
            "monitorConfig": {"protocol": "HTTPS", "port": 443, "path": "/health"},
            "endpoints": [
                _endpoint("shop-blue", "Enabled", 1),
                _endpoint("shop-green", "Disabled", 2),
                _endpoint("old", "Disabled", 3),
            ],
        },
    }  # fmt: skip


@dataclass
class FakeTrafficManager(FakeArm):
    """The profile `shop` with two endpoints and a third that is disabled."""

    versions: tuple[str, ...] = ("2018-08-01", "2022-04-01")
    profile: dict[str, Any] = field(default_factory=_profile)
    checked_at: dict[str, float] = field(default_factory=dict)
    """When an endpoint that was enabled has its first probe, monotonic."""
    health: dict[str, str] = field(default_factory=dict)
    """What probes find, where it is not Online."""

    def snapshot(self) -> Any:
        return copy.deepcopy(self.profile)

    def endpoint(self, name: str) -> dict[str, Any]:
        """Its properties."""
        found: dict[str, Any] = next(
            one["properties"] for one in self.profile["properties"]["endpoints"]
            if one["name"] == name
        )  # fmt: skip
        return found

    def resource(self, request: web.Request, parts: list[str], body: bytes) -> web.Response:
        provider = [part.lower() for part in parts]
        if provider != ["microsoft.network", "trafficmanagerprofiles", "shop"]:
            return error(
                404, "ResourceNotFound", f"The Resource '{'/'.join(parts)}' was not found."
            )
        match request.method:
            case "GET":
                return web.json_response(self._shown())
            case "PATCH":
                return self._patch(document_of(body))
        return error(405, "MethodNotAllowed", request.method)

    def _shown(self) -> dict[str, Any]:
        shown = copy.deepcopy(self.profile)
        shown["properties"]["monitorConfig"]["profileMonitorStatus"] = "Online"
        for endpoint in shown["properties"]["endpoints"]:
            properties = endpoint["properties"]
            status = self.health.get(endpoint["name"], "Online")
            if properties["endpointStatus"] == "Disabled":
                status = "Disabled"
            elif self.checked_at.get(endpoint["name"], -math.inf) > time.monotonic():
                status = "CheckingEndpoint"
            properties["endpointMonitorStatus"] = status
        return shown

    def _patch(self, body: Any) -> web.Response:
        if not isinstance(body, dict) or set(body) - {"properties", "tags", "location"}:
            return error(400, "BadRequest", "The request content was invalid.")
        properties = body.get("properties", {})
        if set(properties) - set(self.profile["properties"]):
            return error(400, "BadRequest", f"Unknown properties: {sorted(properties)}")
        endpoints = properties.get("endpoints")
        if endpoints is not None and (wrong := self._wrong(endpoints)):
            return error(400, "BadRequest", wrong)
        if endpoints is not None:
            self._write(endpoints)
        for key, value in properties.items():
            if key != "endpoints":
                self.profile["properties"][key] = value
        return web.json_response(self._shown())

    def _wrong(self, endpoints: Any) -> str:
        names = [str(one.get("name")).lower() for one in endpoints]
        if len(set(names)) < len(names):
            return "Endpoint names must be unique within a profile."
        for one in endpoints:
            if set(one) - {"id", "name", "type", "properties"}:
                return f"Unknown members of an endpoint: {sorted(one)}"
            if one.get("type", "").removeprefix(_PREFIX) not in _TYPES:
                return f"The endpoint type {one.get('type')} is invalid."
            values = one.get("properties", {})
            if unknown := set(values) - _PROPERTIES:
                return f"Unknown properties of an endpoint: {sorted(unknown)}"
            weight = values.get("weight", 1)
            if type(weight) is not int or not 1 <= weight <= 1000:
                return f"The weight '{weight}' must be between 1 and 1000."
            if values.get("endpointStatus", "Enabled") not in ("Enabled", "Disabled"):
                return "endpointStatus must be Enabled or Disabled."
            if not values.get("target") and not values.get("targetResourceId"):
                return "The endpoint has no target."
        return ""

    def _write(self, endpoints: list[dict[str, Any]]) -> None:
        before = {
            one["name"]: one["properties"]["endpointStatus"]
            for one in self.profile["properties"]["endpoints"]
        }
        for one in endpoints:
            enabled = one["properties"].get("endpointStatus", "Enabled") == "Enabled"
            if enabled and before.get(one["name"]) != "Enabled":
                self.checked_at[one["name"]] = time.monotonic() + self.pending_s
        self.profile["properties"]["endpoints"] = copy.deepcopy(endpoints)
