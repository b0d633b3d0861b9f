"""The reference pages of the control API and the command line, made of the code that they tell of.

`python -m turnout.control.reference` writes them (`make docs`); a test holds them together.
"""

import inspect
import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, Final

import typer
from pydantic import BaseModel

from turnout.control import api_models, events, openapi, problems
from turnout.control.cli import app
from turnout.control.routes import ROUTES, Route

PAGES: Final = Path(__file__).resolve().parent.parent / "docs" / "reference"

API_TOP: Final = """\
# Control API

<!-- Generated from the code by `make docs`. Change it there. -->

HTTP with JSON at `control.bind` (by default `127.0.0.1:9180`; or `unix:/path`). The document for
machines is at `/openapi.json` (OpenAPI 3.1). The [command line](cli.md) is a client of it.

- **Who may.** Without `control.tokens` whoever reaches the API may do everything, and it can be
  bound to loopback or a Unix socket only. As soon as one token exists every call but `/healthz`
  and `/readyz` needs `Authorization: Bearer …`: 401 without one, 403 when its scope is `read` and
  the call is a write. The token's name is who did it, in history, receipt and audit.
- **Browsers.** A call whose `Origin` or `Sec-Fetch-Site` is another site's gets 403, also one that
  only reads. As `Host` the API answers to `localhost`, addresses, its own bind and `control.hosts`.
- **Errors** are `application/problem+json` (RFC 9457), each with a `type` that does not change for
  one cause. A wrong body gets 400 and lists every field in `errors`; 422 is for a well-formed call
  that the present state refuses. What was refused has changed nothing.
- **Lists** come as `{"items": […]}`.
- **`If-Match: "<revision>"`** on a write: done only if the service (the switchover, for its verbs)
  still has this revision, else 412. Answers carry it as `ETag` and as `revision`.
- **`Idempotency-Key`** on a write: the same call with the same key gets the first answer again, for
  `control.idempotency`, also from a control process that was restarted since; another call with
  the key gets 422. Keys are those of one token.
- **`?wait=true`** holds the answer until the switchover has ended: 200 with its receipt.
- **Times** are UTC in RFC 3339, **weights** percentages with at most two decimals.

```sh
curl -s localhost:9180/v1/services/shop | jq .active
curl -s 'localhost:9180/v1/services/shop/switchovers?wait=true' -d '{"to":"green","reason":"v42"}'
curl -sN localhost:9180/v1/events
```
"""

CLI_TOP: Final = """\
# Command line

<!-- Generated from the code by `make docs`. Change it there. -->

`turnout` is a client of the [control API](api.md), but for `run`, `check`, `schema`, `demo` and `beanstalk`.
It finds the API by `--control`, then `$TURNOUT_CONTROL`, then in the configuration; the
configuration by `-c`, then `$TURNOUT_CONFIG`, then `./turnout.yaml`; its token in
`$TURNOUT_TOKEN`, or in the file that `$TURNOUT_TOKEN_FILE` names. Over TLS (`https://…`, or a
configuration with `control.tls`) it trusts the authorities in `$TURNOUT_CONTROL_CA`, else the very
certificate that the configuration names, else the system's authorities; a certificate of its own
is `$TURNOUT_CONTROL_CERT`, its key `$TURNOUT_CONTROL_KEY`. `SERVICE` may be left out when there is one only; `ID` when one switchover is
under way. Results go to standard output, remarks to standard error; with `--json` standard output
has the JSON and nothing else.

| exit code | |
|---|---|
| 0 | done |
| 1 | tried and failed: rolled back, aborted, or the server answered 5xx |
| 2 | wrong use or a wrong configuration (400, 404, 405, 501); `run`: also a port in use |
| 3 | the control API is not reachable, or was lost while waiting and not back in 30 s |
| 4 | refused (401, 403, 409, 412, 422) |
| 130 | interrupted: the waiting ends, the switchover goes on, its id is printed |

When `turnout switch` returns 0, the old upstream has nothing in flight and may be stopped. If
something was cut at the drain deadline it is still 0 and the count is on standard error;
`--strict` makes it 1.
"""


# ---------------------------------------------------------------- the API


def api_page() -> str:
    return "\n".join([API_TOP, *_calls(), *_bodies(), *_problems(), *_events()])


def _calls() -> Iterator[str]:
    yield "## Calls\n"
    yield "| call | does | takes | answers | problems |"
    yield "|---|---|---|---|---|"
    for route in ROUTES:
        takes = [] if route.body is None else [_model(route.body)]
        takes += [f"`?{query.name}`" for query in route.query]
        takes += ["`If-Match`"] if route.conditional else []
        yield _row(
            f"`{route.method} {route.path}`",
            route.what,
            ", ".join(takes),
            ", ".join(_answers(route)),
            " ".join(str(status) for status in sorted(route.problems)),
        )
    every = " ".join(str(status) for status in sorted(openapi.statuses_of_problems(_PLAIN_WRITE)))
    yield f"\nEvery write may also get: {every}.\n"
    asked = [(query.name, query.what) for route in ROUTES for query in route.query]
    for name, what in dict.fromkeys(asked):
        yield f"- `?{name}`: {what}"
    yield ""


_PLAIN_WRITE: Final = Route("POST", "/", "", "", ())


def _answers(route: Route) -> Iterator[str]:
    for status, model in route.answers:
        what = _model(model) if model is not None else f"`{route.media}`"
        yield f"{status} {what}"


def _bodies() -> Iterator[str]:
    models = [
        model
        for model in vars(api_models).values()
        if inspect.isclass(model)
        and issubclass(model, BaseModel)
        and model.__module__ == api_models.__name__
        and model.model_fields
    ]
    for title, kind in (("What comes in", api_models.Body), ("What goes out", BaseModel)):
        yield f"## {title}\n"
        for model in models:
            if issubclass(model, api_models.Body) is (kind is api_models.Body):
                yield from _body(model)


def _body(model: type[BaseModel]) -> Iterator[str]:
    comes_in = issubclass(model, api_models.Body)
    schema = model.model_json_schema(mode="validation" if comes_in else "serialization")
    parent = model.__bases__[0]
    inherited = set(parent.model_fields) if issubclass(parent, BaseModel) else set()
    yield f"### {model.__name__}\n"
    if model.__doc__ and model.__doc__ != BaseModel.__doc__:
        yield _one_line(model.__doc__) + "\n"
    if inherited:
        yield f"What {_model(parent)} has, and:\n"
    yield "| field | is | default | |" if comes_in else "| field | is | |"
    yield "|---|---|---|---|" if comes_in else "|---|---|---|"
    for name, field in model.model_fields.items():
        if name in inherited:
            continue
        shown = field.alias or name
        default = "**required**" if field.is_required() else f"`{_json(field.default)}`"
        kind = _kind(schema["properties"][shown])
        cells = (f"`{shown}`", kind, *((default,) if comes_in else ()), field.description or "")
        yield _row(*cells)
    yield ""


def _problems() -> Iterator[str]:
    yield "## Problems\n"
    yield f"The `type` is `{problems.PREFIX}` and the name.\n"
    yield "| name | status | |"
    yield "|---|---|---|"
    for name, (status, title) in problems.KNOWN.items():
        yield _row(f"`{name}`", str(status), title + ".")
    yield ""


def _events() -> Iterator[str]:
    yield "## Events\n"
    yield (
        "`GET /v1/events`: the SSE `id` is the event's number, to come back with in "
        "`Last-Event-ID`; `data` is JSON with `event`, `at`, `revision` and the fields below.\n"
    )
    yield "| event | fields |"
    yield "|---|---|"
    # By name: a class with slots is made anew, and its first form is still known as a subclass.
    for kind in {kind.NAME: kind for kind in _event_kinds(events.Event)}.values():
        named = ", ".join(f"`{field.name}`" for field in fields(kind))
        yield _row(f"`{kind.NAME}`", named)
    yield ""


def _event_kinds(parent: type[events.Event]) -> Iterator[type[events.Event]]:
    for kind in parent.__subclasses__():
        if "NAME" in vars(kind):
            yield kind
        yield from _event_kinds(kind)


def _model(model: type[BaseModel]) -> str:
    return f"[{model.__name__}](#{model.__name__.lower()})"


def _kind(schema: dict[str, Any]) -> str:
    """A field's type in words."""
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_kind(part) for part in schema["anyOf"]))
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if schema["type"] == "array":
        return f"a list of {_kind(schema['items'])}"
    if schema["type"] == "object":
        inside = schema.get("additionalProperties")
        return f"an object: name to {_kind(inside)}" if isinstance(inside, dict) else "an object"
    return _WORDS[schema["type"]]


_WORDS: Final = {
    "string": "text",
    "integer": "a number",
    "number": "a number",
    "boolean": "true or false",
    "null": "null",
}


# ---------------------------------------------------------------- the command line


def cli_page() -> str:
    return "\n".join([CLI_TOP, *_commands()])


def _commands() -> Iterator[str]:
    group: Any = typer.main.get_command(app)
    panels: dict[str, list[tuple[str, Any]]] = {}
    for name, command in group.commands.items():
        panels.setdefault(command.rich_help_panel or "Commands", []).append((name, command))
    for panel, commands in panels.items():
        yield f"## {panel}\n"
        for name, command in commands:
            for below, one in getattr(command, "commands", {"": command}).items():
                yield from _command(f"{name} {below}".rstrip(), one)


def _command(name: str, command: Any) -> Iterator[str]:
    arguments = [one for one in command.params if one.param_type_name == "argument"]
    options = [one for one in command.params if one.param_type_name == "option"]
    usage = [f"turnout {name}", *(_argument(one) for one in arguments)]
    yield f"### turnout {name}\n"
    yield "```\n" + " ".join([*usage, *(["[OPTIONS]"] if options else [])]) + "\n```\n"
    what, _, examples = inspect.cleandoc(command.help or "").partition("\n\nExample")
    yield _one_line(what) + "\n"
    lines = [line for line in re.split(r"\n| {3,}", examples.partition(":")[2]) if line.strip()]
    if lines:
        yield "```sh\n" + "\n".join(line.strip() for line in lines) + "\n```\n"
    rows = [
        _row(" ".join(f"`{word}`" for word in one.opts), _default(one), one.help or "")
        for one in options
    ]
    if rows:
        yield "\n".join(["| option | default | |", "|---|---|---|", *rows]) + "\n"


def _argument(argument: Any) -> str:
    name = str(argument.metavar or argument.name.upper())
    return name if argument.required or name.startswith("[") else f"[{name}]"


def _default(option: Any) -> str:
    return "" if option.default in (None, "", False) else f"`{option.default}`"


# ---------------------------------------------------------------- words


def _json(value: Any) -> str:
    return {"": '""', False: "false"}.get(value, str(value))


def _one_line(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()


def _row(*cells: str) -> str:
    return "| " + " | ".join(_one_line(cell).replace("|", "\\|") for cell in cells) + " |"


def pages() -> dict[Path, str]:
    """The files of both pages, and what they should have."""
    texts = {"api.md": api_page(), "cli.md": cli_page()}
    return {PAGES / name: text.rstrip("\n") + "\n" for name, text in texts.items()}


def main() -> None:
    for path, text in pages().items():
        path.write_text(text)


if __name__ == "__main__":
    main()
