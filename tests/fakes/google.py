"""What fakes of Google Cloud's APIs have in common: tokens, and errors in their own shape.

Shapes by google.aip.dev/193 and, for the older APIs (Cloud DNS, Compute Engine), with
`errors[].reason` as their clients' issues show them. Nothing was compared with the real ones.
"""

import json
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from aiohttp import web

from tests.fakes.base import FakeService, Fault

TOKEN: Final = "ya29.a-token-that-nobody-else-may-see"

STATUSES: Final = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    409: "ABORTED",
    412: "FAILED_PRECONDITION",
    429: "RESOURCE_EXHAUSTED",
    503: "UNAVAILABLE",
}


class Problem(Exception):
    """What the API refuses, as it says it."""

    def __init__(self, code: int, message: str, reason: str = "", status: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.reason = reason
        self.status = status or STATUSES[code]

    def answer(self, *, older: bool) -> web.Response:
        error: dict[str, Any] = {"code": self.code, "message": self.message}
        if older:
            one = {"message": self.message, "domain": "global", "reason": self.reason or "invalid"}
            error["errors"] = [one]
        else:
            error["status"] = self.status
        return web.json_response({"error": error}, status=self.code)


@dataclass
class FakeGoogle(FakeService):
    """Subclasses have `serve`, which raises Problem for what the API refuses."""

    older = False
    """The API has `errors[].reason`, and says 403 where others say 429."""
    token: str = TOKEN

    def writes(self, request: web.Request, body: bytes) -> bool:
        return request.method not in ("GET", "HEAD")

    async def handle(self, request: web.Request, body: bytes) -> web.StreamResponse:
        try:
            if request.headers.get("authorization") != f"Bearer {self.token}":
                raise Problem(401, "Request had invalid authentication credentials.", "authError")
            return web.json_response(self.serve(request, body))
        except Problem as problem:
            return problem.answer(older=self.older)

    @abstractmethod
    def serve(self, request: web.Request, body: bytes) -> Mapping[str, Any]:
        """The answer's body."""

    def refusal(self, fault: Fault, request: web.Request) -> web.Response:
        match fault:
            case Fault.THROTTLED if self.older:
                problem = Problem(403, "Rate Limit Exceeded", "rateLimitExceeded")
            case Fault.THROTTLED:
                problem = Problem(429, "Quota exceeded for quota metric 'Write requests'.")
            case Fault.DENIED:
                problem = Problem(
                    401, "Request had invalid authentication credentials.", "authError"
                )
            case _:
                problem = Problem(503, "The service is currently unavailable.", "backendError")
        return problem.answer(older=self.older)


def body_of(body: bytes, known: frozenset[str]) -> dict[str, Any]:
    """A call's JSON object. Raises Problem for fields that the API does not know."""
    try:
        document = json.loads(body)
    except ValueError:
        raise Problem(400, "Invalid JSON payload received.") from None
    if not isinstance(document, dict):
        raise Problem(400, "Invalid JSON payload received. Expected an object.")
    for key in document:
        if key not in known:
            raise Problem(
                400, f'Invalid JSON payload received. Unknown name "{key}": Cannot find field.'
            )
    return document


def not_found(request: web.Request) -> Problem:
    return Problem(404, f"Resource '{request.path}' was not found.", "notFound")
