"""What goes wrong in a call of the API, as RFC 9457 problem documents.

A `type` never changes for one cause: `urn:turnout:problem:<name>`, with the names in `KNOWN`.
A script reads the type (or the status); `detail` is for people and may change its words.
"""

import json
from collections.abc import Mapping
from typing import Any, Final

from aiohttp import web

from turnout.control.refusals import Refusal

MEDIA_TYPE: Final = "application/problem+json"
PREFIX: Final = "urn:turnout:problem:"

KNOWN: Final[Mapping[str, tuple[int, str]]] = {
    "malformed-body": (400, "The body is not what the call takes"),
    "malformed-query": (400, "A query parameter is not what the call takes"),
    "malformed-header": (400, "A header field is not what the call takes"),
    "bad-weights": (400, "The weights cannot be"),
    "bad-servers": (400, "The servers cannot be"),
    "body-too-slow": (408, "The body did not come in time"),
    "token-needed": (401, "A token is needed"),
    "scope-too-small": (403, "The token allows too little"),
    "foreign-host": (403, "The Host is not one of this API's"),
    "foreign-origin": (403, "The call comes from another web site"),
    "not-found": (404, "There is nothing here"),
    "unknown-service": (404, "There is no such service"),
    "unknown-upstream": (404, "There is no such upstream"),
    "unknown-strategy": (404, "There is no such strategy"),
    "no-tail": (404, "Nobody watches who still comes by the old way"),
    "unknown-switchover": (404, "There is no such switchover"),
    "method-not-allowed": (405, "There is no such call"),
    "switchover-under-way": (409, "Another switchover is under way"),
    "upgrade-under-way": (409, "An upgrade is under way"),
    "illegal-verb": (409, "The switchover's state does not allow it"),
    "nothing-to-roll-back": (409, "There is nothing to roll back"),
    "stale-revision": (412, "It has changed since it was read"),
    "body-too-large": (413, "The body is too large"),
    "expectation-failed": (417, "What is expected is not offered"),
    "upstream-unhealthy": (422, "The upstream is not healthy"),
    "server-needed": (422, "The upstream has traffic and needs a server"),
    "servers-discovered": (422, "The upstream's servers are found by a source"),
    "table-refused": (422, "The workers could not take the change"),
    "outer-unusable": (422, "What is beyond the proxy cannot be moved"),
    "configuration-refused": (422, "The configuration was refused, and nothing has changed"),
    "weights-not-reached": (422, "The weights were not reached"),
    "key-used-otherwise": (422, "The Idempotency-Key came with another call before"),
    "head-too-large": (431, "The head of the call is too large"),
    "http-error": (400, "The call could not be understood"),
    "internal-error": (500, "Something went wrong in Turnout itself"),
    "not-in-this-version": (501, "Not in this version"),
    "store-unusable": (503, "The store cannot be used, and nothing has changed"),
    "too-many-connections": (503, "There are too many connections"),
    "too-many-streams": (503, "There are too many readers of events"),
    "upgrade-not-begun": (503, "The upgrade could not be begun, and nothing has changed"),
    "no-supervisor": (503, "The supervisor cannot be reached, and nothing has changed"),
    "stopping": (503, "Control is stopping; what was decided goes on"),
}
"""Name -> status and title. A name that is once given keeps its meaning."""


class Problem(Exception):
    """A call that gets a problem document. `more` are its further members."""

    def __init__(
        self,
        name: str,
        detail: str,
        *,
        more: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        status: int = 0,
    ) -> None:
        super().__init__(detail)
        self.name = name
        self.detail = detail
        self.more = dict(more or {})
        self.headers = dict(headers or {})
        self.status = status or KNOWN[name][0]

    @classmethod
    def of(cls, refusal: Refusal) -> "Problem":
        """The problem of a refusal of the executor's."""
        return cls(refusal.type, str(refusal), more=refusal.details, status=refusal.status)

    def document(self) -> dict[str, Any]:
        return {
            "type": PREFIX + self.name,
            "title": KNOWN[self.name][1],
            "status": self.status,
            "detail": self.detail,
            **self.more,
        }

    def response(self) -> web.Response:
        return web.Response(
            body=json.dumps(self.document()).encode(),
            status=self.status,
            headers=self.headers,
            content_type=MEDIA_TYPE,
        )


def of_http_error(error: web.HTTPException, method: str, path: str) -> Problem:
    """A problem for what aiohttp itself refuses."""
    if error.status == 404:
        return Problem("not-found", f"there is no {path}; /openapi.json lists the calls")
    if isinstance(error, web.HTTPMethodNotAllowed):
        allowed = ", ".join(sorted(error.allowed_methods))
        return Problem(
            "method-not-allowed",
            f"{path} takes {allowed}, not {method}",
            headers={"Allow": allowed},
        )
    if error.status == 413:
        return Problem("body-too-large", error.reason)
    return Problem("http-error", error.reason, status=error.status)
