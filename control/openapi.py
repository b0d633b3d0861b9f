"""The OpenAPI 3.1 document, made of the table of routes and the models of the bodies."""

import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, Final

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from turnout.control import problems
from turnout.control.api_models import Body, ProblemDocument
from turnout.control.routes import ID, JSON, NAME, ROUTES, Route

_REF: Final = "#/components/schemas/{model}"
_PARAMETERS: Final = re.compile(r"\{(\w+)\}")
_WHAT_PARAMETERS: Final[Mapping[str, tuple[Mapping[str, Any], str]]] = {
    "service": (NAME, "A service's name."),
    "upstream": (NAME, "An upstream's name."),
    "id": (ID, "A switchover's id."),
}
_REVISION: Final = {"type": "string", "pattern": '^(\\*|(W/)?"[0-9]{1,18}")$'}
_KEY: Final = {"type": "string", "pattern": "^[!-~]([ -~]{0,198}[!-~])?$"}
_EVENT_ID: Final = {"type": "string", "pattern": "^[0-9]{1,18}$"}
_EVERY_CALL: Final = (400, 403, 417, 431, 500, 503)
_EVERY_WRITE: Final = (408, 413, 422)
_DESCRIPTION: Final = """\
Errors are `application/problem+json` (RFC 9457) with a `type` that does not change for one
cause. Lists come as `{"items": […]}`. As soon as one token exists, every call but `/healthz` and
`/readyz` needs `Authorization: Bearer`. A write may carry `If-Match` with the revision that it
was decided on, and `Idempotency-Key`, with which it may be sent again."""


@cache
def document(version: str) -> dict[str, Any]:
    """The document as plain data. To be read, not changed."""
    models = sorted(_models(), key=lambda model: model.__name__)
    modes: list[tuple[type[BaseModel], Any]] = [
        (model, "validation" if issubclass(model, Body) else "serialization") for model in models
    ]
    _, schemas = models_json_schema(modes, ref_template=_REF, by_alias=True)
    paths: dict[str, dict[str, Any]] = {}
    for route in ROUTES:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Turnout", "version": version, "description": _DESCRIPTION},
        "paths": paths,
        "components": {
            "schemas": schemas["$defs"],
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _models() -> set[type[BaseModel]]:
    answers = {model for route in ROUTES for _, model in route.answers if model is not None}
    bodies = {route.body for route in ROUTES if route.body is not None}
    return answers | bodies | {ProblemDocument}


def _operation(route: Route) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": route.operation,
        "summary": route.what,
        "parameters": list(_parameters(route)),
        "responses": _responses(route),
        # An empty requirement: without control.tokens nobody needs one.
        "security": [] if route.open else [{"token": []}, {}],
    }
    if route.body is not None:
        operation["requestBody"] = {
            "required": route.body_needed,
            "content": {JSON: {"schema": _ref(route.body)}},
        }
    return operation


def _parameters(route: Route) -> Iterator[dict[str, Any]]:
    for name in _PARAMETERS.findall(route.path):
        yield _parameter("path", name, *_WHAT_PARAMETERS[name], required=True)
    for query in route.query:
        yield _parameter("query", query.name, query.schema, query.what)
    if route.conditional:
        what = 'Only if this is the revision now: `"17"`; else 412.'
        yield _parameter("header", "If-Match", _REVISION, what)
    if route.method != "GET":
        what = "The same body with the same key gets the first answer again."
        yield _parameter("header", "Idempotency-Key", _KEY, what)
    if route.operation == "events":
        yield _parameter("header", "Last-Event-ID", _EVENT_ID, "The id of the last event seen.")


def _parameter(
    where: str, name: str, schema: Mapping[str, Any], what: str, required: bool = False
) -> dict[str, Any]:
    return {
        "name": name,
        "in": where,
        "required": required,
        "schema": dict(schema),
        "description": what,
    }


def _responses(route: Route) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for status, model in route.answers:
        schema = {} if model is None else _ref(model)
        found[str(status)] = {
            "description": "Done." if status < 300 else "Not now.",
            "content": {route.media: {"schema": schema}},
        }
    for status in sorted(statuses_of_problems(route)):
        found.setdefault(
            str(status),
            {
                "description": _titles(status),
                "content": {problems.MEDIA_TYPE: {"schema": _ref(ProblemDocument)}},
            },
        )
    return found


def statuses_of_problems(route: Route) -> set[int]:
    """The statuses of all problem documents that a call may get."""
    token = set() if route.open else {401}
    write = set(_EVERY_WRITE) if route.method != "GET" else set()
    return {*_EVERY_CALL, *token, *write, *route.problems}


def _titles(status: int) -> str:
    names = [f"`{name}`" for name, (found, _) in problems.KNOWN.items() if found == status]
    return "One of the problems " + ", ".join(names) + "."


def _ref(model: type[BaseModel]) -> dict[str, str]:
    return {"$ref": _REF.format(model=model.__name__)}
