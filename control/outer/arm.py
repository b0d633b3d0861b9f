"""Calls of Azure Resource Manager: what App Service and Traffic Manager have in common.

Every call names its API's version. What takes longer is answered by 202 and a URL to follow it by:
`Azure-AsyncOperation`, whose document has a `status`, or else `Location`, which answers 202 until
it is done and by the operation's own error when it failed.

Sources: learn.microsoft.com, "Track asynchronous Azure operations" and "Understand how Azure
Resource Manager throttles requests"; the API's specifications in Azure/azure-rest-api-specs.
"""

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import quote, urlsplit

import httpx

from turnout.config.outer.azure import ArmSection
from turnout.control.outer.rest import NotFound, Rest, retry_after_s
from turnout.control.outer.seams import (
    Context,
    NotDone,
    OuterError,
    Progress,
    Refused,
    ReplyLost,
    Throttled,
    Verdict,
)
from turnout.control.outer.tokens import azure_tokens

_SHOWN_MAX: Final = 300
_OPERATION_MAX: Final = 4096
"""Characters of an operation's URL; Azure asks clients to take as many."""


class Arm:
    """The resources of one resource group.

    >>> arm = Arm(settings, context, who="Traffic Manager", api_version="2022-04-01")
    >>> profile = await arm.read("Microsoft.Network/trafficmanagerprofiles/shop")
    """

    def __init__(
        self,
        settings: ArmSection,
        context: Context,
        *,
        who: str,
        api_version: str,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Raises Denied when the credentials are not complete."""
        self._endpoint = settings.endpoint
        group = quote(settings.resource_group, safe="()")
        self._root = f"/subscriptions/{settings.subscription}/resourceGroups/{group}/providers"
        self._params = {"api-version": api_version}
        self._monotonic = monotonic
        self._ask_at = float("-inf")
        """Azure says how long an operation need not be asked for."""
        self._rest = Rest(
            settings.endpoint,
            who=who,
            timeout_s=context.timeout_s,
            turn=context.turn,
            authorization=azure_tokens(settings.credentials, settings.endpoint),
            meaning=_meaning,
        )

    async def read(self, resource: str) -> Mapping[str, Any]:
        """A resource's document. Raises NotDone, Denied, NotFound, Refused."""
        what = f"{self._root}/{resource}"
        return _mapping(await self._rest.document("GET", what, params=self._params), what)

    async def listed(self, resource: str) -> Mapping[str, Any]:
        """What Azure gives by POST only, as it is secret; a read all the same. Raises as `read`."""
        what = f"{self._root}/{resource}"
        try:
            document = await self._rest.document("POST", what, params=self._params, content=b"")
        except ReplyLost as error:
            raise NotDone(str(error)) from error
        return _mapping(document, what)

    async def change(self, method: str, resource: str, body: Any) -> str:
        """Ask for a change; what to follow it by (`progress`), empty when it is done.

        Raises Throttled while another operation on it is under way, too.
        """
        answer = await self._rest.call(
            method, f"{self._root}/{resource}", params=self._params, json=body
        )
        self._not_before(answer)
        if answer.status_code not in (201, 202):
            return ""
        headers = answer.headers
        return self._followed(headers.get("azure-asyncoperation") or headers.get("location", ""))

    async def progress(self, operation: str) -> Progress:
        """How far an operation is. Raises NotDone when it could not be asked."""
        if self._monotonic() < self._ask_at:
            return Progress(Verdict.PENDING, "Azure asks to wait")
        try:
            answer = await self._rest.call("GET", operation)
        except NotFound as error:
            return Progress(Verdict.UNKNOWN, str(error))
        except Throttled:
            raise
        except Refused as error:
            # By `Location` a failed operation answers with its own error.
            return Progress(Verdict.FAILED, str(error))
        self._not_before(answer)
        return of_operation(answer.status_code, _document(answer))

    def _followed(self, url: str) -> str:
        """An operation's URL without its host: the token goes to the endpoint alone."""
        parts, endpoint = urlsplit(url), urlsplit(self._endpoint)
        if len(url) > _OPERATION_MAX or not parts.path.startswith("/"):
            return ""
        if parts.netloc and (parts.scheme, parts.netloc) != (endpoint.scheme, endpoint.netloc):
            return ""
        return f"{parts.path}?{parts.query}" if parts.query else parts.path

    def _not_before(self, answer: httpx.Response) -> None:
        self._ask_at = self._monotonic() + retry_after_s(answer)

    async def close(self) -> None:
        await self._rest.close()


def of_operation(status: int, document: Any) -> Progress:
    """What a 2xx answer of an operation's URL means; both sorts of URL."""
    said = document.get("status") if isinstance(document, Mapping) else None
    if isinstance(said, str) and status == 200:
        match said.lower():
            case "succeeded":
                return Progress(Verdict.IN_SYNC, said)
            case "failed" | "canceled" | "cancelled":
                return Progress(Verdict.FAILED, f"{said}: {_error_of(document)}")
        return Progress(Verdict.PENDING, said)
    if status == 202:
        return Progress(Verdict.PENDING, "202 Accepted")
    return Progress(Verdict.IN_SYNC, str(status))


def digest(*values: Any) -> str:
    """Another text for other values."""
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _mapping(document: Any, what: str) -> Mapping[str, Any]:
    if not isinstance(document, Mapping):
        raise NotDone(f"{what}: its answer is no JSON object")
    return document


def _error_of(document: Mapping[str, Any]) -> str:
    error = document.get("error")
    if not isinstance(error, Mapping):
        return "no reason is given"
    text = f"{error.get('code', '')} {error.get('message', '')}".strip()
    return text if len(text) <= _SHOWN_MAX else f"{text[:_SHOWN_MAX]}…"


def _meaning(answer: httpx.Response, text: str) -> OuterError | None:
    if answer.status_code == 409:
        # "Cannot modify this site because another operation is in progress": nothing was changed.
        return Throttled(text, retry_after_s(answer))
    return None


def _document(answer: httpx.Response) -> Any:
    try:
        return answer.json()
    except ValueError:
        return None
