"""Every call of the control API, in one table: the server and the OpenAPI document are made of it.

`operation` is the name of the method of `api.Api` that answers.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from pydantic import BaseModel

from turnout.config.model import Scope
from turnout.control import api_models as models

JSON: Final = "application/json"
TEXT: Final = "text/plain"
HTML: Final = "text/html"
EVENTS: Final = "text/event-stream"

LIMIT_DEFAULT: Final = 100
LIMIT_MAX: Final = 1000
BEFORE_MAX: Final = 10**17


@dataclass(frozen=True, slots=True)
class Query:
    """A query parameter. `schema` is its JSON Schema."""

    name: str
    schema: Mapping[str, Any]
    what: str


@dataclass(frozen=True, slots=True)
class Route:
    method: str
    path: str
    operation: str
    what: str
    answers: tuple[tuple[int, type[BaseModel] | None], ...]
    """(status, model) of the good ones; None: not JSON, see `media`."""
    body: type[BaseModel] | None = None
    body_needed: bool = True
    query: tuple[Query, ...] = ()
    problems: tuple[int, ...] = ()
    """Besides those that every call may get."""
    media: str = JSON
    open: bool = False
    """Answered without a token."""
    conditional: bool = False
    """Takes If-Match."""

    @property
    def scope(self) -> Scope:
        return Scope.READ if self.method == "GET" else Scope.WRITE


NAME: Final[Mapping[str, Any]] = {
    "type": "string",
    "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$",
}
ID: Final[Mapping[str, Any]] = {"type": "string", "pattern": "^[0-9a-z]{9}$"}

_WAIT: Final = Query(
    "wait",
    {"anyOf": [{"type": "boolean"}, {"enum": ["1", "0", ""]}]},
    "Hold the answer until the switchover has ended.",
)
_LIMIT: Final = Query(
    "limit",
    {"type": "integer", "minimum": 0, "maximum": LIMIT_MAX, "default": LIMIT_DEFAULT},
    f"At most so many; {LIMIT_DEFAULT} by default, {LIMIT_MAX} at most.",
)
_BEFORE: Final = "Only those before this id: the next page."
_SERVICE: Final = "/v1/services/{service}"
_SWITCHOVER: Final = "/v1/switchovers/{id}"
_STARTED: Final[tuple[tuple[int, type[BaseModel] | None], ...]] = (
    (202, models.Switchover),
    (200, models.SwitchoverWithReceipt),
)


def _verb(verb: str, what: str) -> Route:
    return Route(
        "POST",
        f"{_SWITCHOVER}/{verb}",
        verb,
        what,
        ((200, models.SwitchoverWithReceipt),),
        body=models.ReasonBody,
        body_needed=False,
        query=(_WAIT,),
        problems=(404, 409, 412, 422),
        conditional=True,
    )


ROUTES: Final = (
    Route(
        "GET", "/v1/services", "services", "All services, in the configuration's order.",
        ((200, models.Services),),
    ),
    Route(
        "GET", _SERVICE, "service", "One service: weights, health with the reason, in flight.",
        ((200, models.Service),), problems=(404,),
    ),
    Route(
        "GET", f"{_SERVICE}/tail", "tail",
        "Who still comes by the address of the side that lost its weight, and whether that may go.",
        ((200, models.Tail),), problems=(404,),
    ),
    Route(
        "PUT", f"{_SERVICE}/weights", "weights",
        "Set the weights by hand. Answers when every worker has acknowledged them.",
        ((200, models.Service),), body=models.WeightsBody, query=(_WAIT,),
        problems=(404, 409, 412, 422), conditional=True,
    ),
    Route(
        "POST", f"{_SERVICE}/switchovers", "switch",
        "Move all traffic to an upstream. 202 with the switchover and its Location; 200 when "
        "there is nothing to do, for a dry run, and at its end with `wait`.",
        _STARTED, body=models.SwitchBody, query=(_WAIT,), problems=(404, 409, 412, 422),
        conditional=True,
    ),
    Route(
        "GET", f"{_SERVICE}/switchovers", "history", "What was done, the newest first.",
        ((200, models.Switchovers),), query=(_LIMIT, Query("before", ID, _BEFORE)), problems=(404,),
    ),
    Route(
        "POST", f"{_SERVICE}/rollback", "rollback",
        "Back to where the traffic was before the last switchover; or turn back the one under way.",
        _STARTED, body=models.RollbackBody, body_needed=False, query=(_WAIT,),
        problems=(404, 409, 412, 422), conditional=True,
    ),
    Route(
        "POST", f"{_SERVICE}/hold", "hold",
        "Keep new requests waiting: at most `hold.requests`, for `hold.timeout`.",
        ((200, models.Service),), body=models.ReasonBody, body_needed=False,
        problems=(404, 412), conditional=True,
    ),
    Route(
        "POST", f"{_SERVICE}/release", "release", "Let held requests go.",
        ((200, models.Service),), body=models.ReasonBody, body_needed=False,
        problems=(404, 412), conditional=True,
    ),
    Route(
        "PUT", f"{_SERVICE}/upstreams/{{upstream}}", "servers",
        "Use these servers for an upstream; answers when those that go are drained.",
        ((200, models.Service),), body=models.ServersBody, problems=(404, 412, 422),
        conditional=True,
    ),
    Route(
        "GET", _SWITCHOVER, "switchover", "One switchover, with its receipt when it has ended.",
        ((200, models.SwitchoverWithReceipt),), problems=(404,),
    ),
    _verb("pause", "Keep the weights where they are."),
    _verb("resume", "Go on after a pause."),
    _verb("approve", "Allow the next step of a switchover that waits for approval."),
    _verb("abort", "End it and restore the weights before it."),
    Route(
        "GET", "/v1/events", "events",
        "Server-sent events: every change, with its revision. `Last-Event-ID` goes on behind "
        "that event.",
        ((200, None),), problems=(400, 503), media=EVENTS,
    ),
    Route(
        "GET", "/v1/audit", "audit", "Who, when, from where, what, why; the newest first.",
        ((200, models.AuditEntries),),
        query=(
            _LIMIT,
            Query("before", {"type": "integer", "minimum": 0, "maximum": BEFORE_MAX}, _BEFORE),
            Query("service", NAME, "Of this service only."),
        ),
    ),
    Route(
        "POST", "/v1/reload", "reload",
        "Read the configuration anew, as SIGHUP does. A wrong one changes nothing.",
        ((200, models.Reload),), body=models.ReasonBody, body_needed=False, problems=(422, 503),
    ),
    Route(
        "POST", "/v1/upgrade", "upgrade",
        "Become the program that is installed now, on the same sockets. What becomes of it is to "
        "be asked for by GET: control is replaced meanwhile.",
        ((202, models.Upgrade),), body=models.ReasonBody, body_needed=False, problems=(409, 503),
    ),
    Route(
        "GET", "/v1/upgrade", "upgrade_state", "The last upgrade, or the one that is under way.",
        ((200, models.Upgrade),),
    ),
    Route(
        "GET", "/metrics", "metrics", "For Prometheus: text, or OpenMetrics where it is asked for.",
        ((200, None),), media=TEXT,
    ),
    Route(
        "GET", "/healthz", "healthz", "This process is alive.", ((200, models.Status),), open=True,
    ),
    Route(
        "GET", "/readyz", "readyz",
        "A worker serves, the store can be used, the supervisor can be reached, and every "
        "server is being probed; else 503.",
        ((200, models.Readiness), (503, models.Readiness)), open=True,
    ),
    Route("GET", "/openapi.json", "openapi", "This document.", ((200, None),)),
    Route("GET", "/", "page", "A page with the status of all services.", ((200, None),), media=HTML),
)  # fmt: skip
