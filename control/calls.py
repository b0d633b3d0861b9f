"""One call of the control API: what it brings with it, and the forms of an answer."""

import json
import re
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from aiohttp import web
from pydantic import BaseModel, ValidationError

from turnout.control import api_models
from turnout.control.access import Caller
from turnout.control.problems import Problem
from turnout.control.routes import Route
from turnout.control.store import Author, Key

B = TypeVar("B", bound=BaseModel)

PAGE: Final = Path(__file__).with_name("page.html")
_CREDENTIALS: Final = struct.Struct("3i")


@dataclass(frozen=True, slots=True)
class Call:
    """One call: its request, who made it, and its body if the route has one."""

    request: web.Request
    caller: Caller
    body: BaseModel | None = None
    key: Key | None = None
    """The call's Idempotency-Key, if it has one."""

    def path(self, name: str) -> str:
        return self.request.match_info[name]

    def asked(self, kind: type[B]) -> B:
        assert isinstance(self.body, kind)
        return self.body

    @property
    def author(self) -> Author:
        reason = self.body.reason if isinstance(self.body, api_models.ReasonBody) else ""
        return Author(self.caller.name, peer(self.request), reason, self.key)

    @property
    def revision(self) -> int | None:
        """That of If-Match; None when there is none. Raises Problem(400)."""
        given = self.request.headers.get("If-Match")
        if given is None or given.strip() == "*":
            return None
        text = given.strip().removeprefix("W/").strip('"')
        if not (text.isascii() and text.isdigit() and len(text) <= 18):
            raise Problem("malformed-header", f'If-Match is {given}; write a revision: "17"')
        return int(text)

    def flag(self, name: str) -> bool:
        """Raises Problem(400)."""
        given = self.request.query.get(name, "false").lower()
        if given not in ("true", "false", "1", "0", ""):
            raise Problem("malformed-query", f"{name} is {given!r}; expected true or false")
        return given in ("true", "1", "")

    def word(self, name: str, schema: Mapping[str, Any]) -> str:
        """A parameter of the schema's pattern; empty when there is none. Raises Problem(400)."""
        given = self.request.query.get(name)
        if given is not None and not re.search(schema["pattern"], given, re.ASCII):
            raise Problem(
                "malformed-query", f"{name} is {given[:100]!r}; expected {schema['pattern']}"
            )
        return given or ""

    def number(self, name: str, default: int, most: int) -> int:
        """Raises Problem(400)."""
        given = self.request.query.get(name, str(default))
        if not (given.isascii() and given.isdigit() and len(given) <= 18 and int(given) <= most):
            raise Problem("malformed-query", f"{name} is {given!r}; expected 0 to {most}")
        return int(given)


def json_answer(
    document: Mapping[str, Any],
    status: int = 200,
    headers: Mapping[str, str] | None = None,
    revision: int | None = None,
) -> web.Response:
    tagged = {} if revision is None else {"ETag": f'"{revision}"'}
    return web.Response(
        body=json.dumps(document).encode(),
        status=status,
        headers={**(headers or {}), **tagged, "Content-Type": "application/json"},
    )


def page_answer(status: int) -> web.Response:
    return web.Response(
        body=PAGE.read_bytes(),
        status=status,
        headers={
            "Content-Type": "text/html; charset=utf-8",
            "Content-Security-Policy": (
                "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
                "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
            ),
        },
    )


def parsed_body(route: Route, content: bytes) -> BaseModel:
    """The call's body. Raises Problem(400) that lists every field that is wrong."""
    assert route.body is not None
    if not content.strip() and not route.body_needed:
        content = b"{}"
    check_json(content)
    try:
        return route.body.model_validate_json(content)
    except ValidationError as error:
        fields = [
            {"field": ".".join(str(part) for part in entry["loc"]), "detail": _expected(entry)}
            for entry in error.errors(include_url=False, include_input=False, include_context=False)
        ]
    places = "one place" if len(fields) == 1 else f"{len(fields)} places"
    detail = f"the body is wrong in {places}"
    raise Problem("malformed-body", detail, more={"errors": fields})


def check_json(content: bytes) -> None:
    """Refuse what two readers of JSON could take for two things: equal keys, NaN and Infinity,
    another encoding than UTF-8. Source: RFC 8259, sections 4, 6 and 8.1. Raises Problem(400).
    """
    try:
        json.loads(content.decode("utf-8"), object_pairs_hook=_once, parse_constant=_no_constant)
    except UnicodeDecodeError as error:
        detail = f"the body is not UTF-8: byte {error.start} is 0x{content[error.start]:02x}"
    except json.JSONDecodeError as error:
        # Its own words, without the text that it could not read.
        detail = f"the body is no JSON: {error.msg}, line {error.lineno} column {error.colno}"
    except ValueError as error:
        detail = f"the body is no JSON that everybody reads alike: {error}"
    except RecursionError:
        detail = "the body is nested too deeply"
    else:
        return
    raise Problem("malformed-body", detail)


def _once(pairs: list[tuple[str, Any]]) -> None:
    if len({key for key, _ in pairs}) < len(pairs):
        raise ValueError("a key stands there twice")


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no number")


_SINGLE: Final = (
    "Host", "Authorization", "Origin", "Sec-Fetch-Site", "If-Match", "Idempotency-Key",
    "Last-Event-ID", "Content-Type", "Content-Encoding", "Expect",
)  # fmt: skip
"""Fields of which a second one could be read instead of the first."""


def check_head(request: web.Request) -> None:
    """Refuse what could be read in two ways. Raises Problem(400)."""
    for name in _SINGLE:
        if len(request.headers.getall(name, ())) > 1:
            raise Problem("malformed-header", f"{name} is there twice")
    target = request.raw_path
    if not target.startswith(("/", "*")):
        # A proxy's form (RFC 9112, section 3.2.2): its authority counts, not Host. It must be one.
        authority = target.partition("://")[2].partition("/")[0].partition("?")[0]
        if authority.lower() != request.headers.get("Host", "").lower():
            raise Problem("malformed-header", "Host is another one than the target's")
    query = request.query
    for name in query:
        if len(query.getall(name)) > 1:
            raise Problem("malformed-query", f"{name[:100]!r} is there twice")
    texts = (request.path, *query, *query.values(), *request.match_info.values())
    if any("\ud800" <= char <= "\udfff" for text in texts for char in text):
        raise Problem("malformed-query", "the path or the query is not UTF-8")


def _expected(entry: Mapping[str, Any]) -> str:
    text = str(entry["msg"]).removeprefix("Value error, ")
    return "there is no such field" if entry["type"] == "extra_forbidden" else text


def peer(request: web.Request) -> str:
    """From where: an address, or who is at the other end of a Unix socket."""
    link = request.transport.get_extra_info("socket") if request.transport is not None else None
    if link is not None and link.family == socket.AF_UNIX:
        if not hasattr(socket, "SO_PEERCRED"):
            return "unix"
        packed = link.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        pid, uid, _ = _CREDENTIALS.unpack(packed)
        return f"unix uid={uid} pid={pid}"
    return request.remote or ""
