"""A fake of who gives tokens: Azure's two metadata endpoints, Google's metadata server, Microsoft
Entra ID; and an API that takes the newest of them only.

Strict as their documentation has it: the field that keeps a redirected request out, the versions,
the parameters, the form of each grant.
"""

import asyncio
import time
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs

from aiohttp import web

from tests.fakes.base import FakeService

TENANT, CLIENT, SECRET, ASSERTION = "tenant-1", "client-1", "s3cret~Value", "ey.federated.1"
HEADER = "identity-header-1"
AUDIENCE = "https://management.azure.com"


@dataclass
class FakeIdentities(FakeService):
    life_s: int = 3600
    issued: int = 0
    answer_s: float = 0.0
    """How long it takes to issue one."""
    revoked: set[str] = field(default_factory=set)
    flavor: str = "Google"
    """What Google's metadata server says that it is."""

    def writes(self, request: web.Request, body: bytes) -> bool:
        return request.path == "/api" and request.method != "GET"

    def snapshot(self) -> int:
        return self.issued

    @property
    def token(self) -> str:
        return f"token-{self.issued}-of-a-length-that-must-never-be-seen"

    async def handle(self, request: web.Request, body: bytes) -> web.StreamResponse:
        match request.path.split("/")[1:]:
            case ["api"]:
                return self._api(request)
            case ["metadata", "identity", "oauth2", "token"]:
                return await self._azure(request, "metadata", "true", "2018-02-01")
            case ["msi", "token"]:
                return await self._azure(request, "x-identity-header", HEADER, "2019-08-01")
            case ["computeMetadata", "v1", "instance", "service-accounts", account, "token"]:
                return await self._google(request, account)
            case [tenant, "oauth2", "v2.0", "token"]:
                return await self._entra_id(request, tenant, body)
        return web.json_response({"error": "not_found"}, status=404)

    def _api(self, request: web.Request) -> web.Response:
        given = request.headers.get("authorization")
        if given != f"Bearer {self.token}" or self.token in self.revoked:
            return web.json_response({"error": "expired"}, status=401)
        return web.json_response({"done": True})

    async def _issue(self) -> str:
        await asyncio.sleep(self.answer_s)
        self.issued += 1
        return self.token

    async def _azure(
        self, request: web.Request, name: str, value: str, version: str
    ) -> web.Response:
        query = request.query
        if request.method != "GET" or request.headers.get(name) != value:
            return _oauth_error("invalid_request", "Required metadata header not specified")
        if query.get("api-version") != version or query.get("resource") != f"{AUDIENCE}/":
            return _oauth_error("invalid_request", f"The request is not of {version}")
        if query.get("client_id", CLIENT) != CLIENT:
            return _oauth_error("invalid_request", "Identity not found")
        document: dict[str, Any] = {"access_token": await self._issue(), "token_type": "Bearer"}
        document["resource"] = query["resource"]
        document["expires_on"] = str(int(time.time()) + self.life_s)
        if version == "2018-02-01":  # the other one does not say it
            document["expires_in"] = str(self.life_s)
        return web.json_response(document)

    async def _google(self, request: web.Request, account: str) -> web.Response:
        if request.headers.get("metadata-flavor") != "Google":
            return web.Response(status=403, text="Missing Metadata-Flavor:Google header.")
        if account not in ("default", "turnout@p.iam.gserviceaccount.com"):
            return web.Response(status=404, text="404 page not found")
        document = {
            "access_token": await self._issue(),
            "expires_in": self.life_s,
            "token_type": "Bearer",
        }
        return web.json_response(document, headers={"metadata-flavor": self.flavor})

    async def _entra_id(self, request: web.Request, tenant: str, body: bytes) -> web.Response:
        if request.content_type != "application/x-www-form-urlencoded":
            return _oauth_error("invalid_request", "AADSTS900144: The request body must be a form")
        form = {key: value[0] for key, value in parse_qs(body.decode()).items()}
        if tenant != TENANT or form.pop("client_id", "") != CLIENT:
            return _oauth_error("unauthorized_client", "AADSTS700016: Application not found")
        if form.pop("grant_type", "") != "client_credentials":
            return _oauth_error("unsupported_grant_type", "AADSTS70003")
        if form.pop("scope", "") != f"{AUDIENCE}/.default":
            return _oauth_error("invalid_scope", "AADSTS1002012: scope is not valid")
        by_secret = {"client_secret": SECRET}
        by_assertion = {
            "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
            "client_assertion": ASSERTION,
        }
        if form not in (by_secret, by_assertion):
            return _oauth_error(
                "invalid_client", "AADSTS7000215: Invalid client secret provided.", 401
            )
        return web.json_response(
            {
                "token_type": "Bearer",
                "expires_in": self.life_s,
                "ext_expires_in": self.life_s,
                "access_token": await self._issue(),
            }
        )


def _oauth_error(error: str, description: str, status: int = 400) -> web.Response:
    return web.json_response({"error": error, "error_description": description}, status=status)
