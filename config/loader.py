"""A configuration file and the environment -> `Configuration`, or every problem at once.

An error says file, line, key, the value found, and what to write instead:

    turnout.yaml:14: services.shop.drain.timeout is 30; it needs a unit. Write 30s.

`turnout check`, the server's start and its reload all come through here, so they give the
same answer.
"""

import difflib
import math
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import UnionType
from typing import Any, Final, get_args, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from turnout.config.address import Address
from turnout.config.document import (
    Document,
    Place,
    Problem,
    SettingsError,
    dotted,
    read_document,
)
from turnout.config.knobs import BASE, Kind, by_kind, plain_type
from turnout.config.model import Configuration
from turnout.config.origin import INLINE_SERVICE
from turnout.config.places import Bind, FilePath
from turnout.config.secret_files import CHARACTERS_MIN, LENIENT
from turnout.config.settings import CONFLICTS, Settings

__all__ = [
    "Problem",
    "SettingsError",
    "control_bind",
    "default_runtime_dir",
    "default_workers",
    "load",
    "load_text",
    "needs_restart",
    "read_text",
    "schema",
]

FILE_BYTES_MAX: Final = 16 * 1024 * 1024
INLINE: Final = "options"
"""What stands for the file's name in errors of a configuration made from options."""


def load(path: Path, environ: Mapping[str, str] = os.environ) -> Configuration:
    """Read the file. Raises SettingsError with every problem found."""
    text = read_text(path)
    absolute = Path(os.path.abspath(path))
    return load_text(
        text, file=str(path), base=absolute.parent, source=str(absolute), environ=environ
    )


def control_bind(
    path: Path, environ: Mapping[str, str] = os.environ
) -> tuple[Address | None, str | None]:
    """Where the file has the control API listen, and its certificate's file if it speaks TLS,
    whatever else is wrong with it; None: it does not say.

    For who asks a running server: that takes none of its secrets, nor a file that is whole.
    Raises SettingsError when these alone cannot be known.
    """
    file, text, base = str(path), read_text(path), Path(os.path.abspath(path)).parent

    def asked(place: Place, kind: Kind) -> Any:
        document = read_document(text, file=file, environ=environ, about=place)
        value: Any = document.data
        for key in place:
            value = value.get(key) if isinstance(value, dict) else None
        if value is None:
            return None
        try:
            return kind.read(value, base)
        except ValueError as error:
            found = _found(document, place)
            raise SettingsError((_problem(document, file, place, found, str(error)),)) from None

    bind = asked(("control", "bind"), Bind())
    # Most files have none, and parsing one takes longer than a call.
    certificate = asked(("control", "tls", "cert"), FilePath()) if "tls" in text else None
    return bind, certificate


def read_text(path: Path) -> str:
    """The text of a configuration's file. Raises SettingsError: missing, too long, not UTF-8."""
    try:
        with path.open("rb") as file:
            content = file.read(FILE_BYTES_MAX + 1)
        if len(content) > FILE_BYTES_MAX:
            what = f"it has more than {FILE_BYTES_MAX} bytes"
            raise SettingsError((Problem(str(path), None, "", "", what),))
        return content.decode("utf-8-sig")
    except OSError as error:
        what = f"cannot be read: {error.strerror or error}"
        raise SettingsError((Problem(str(path), None, "", "", what),)) from None
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise SettingsError((Problem(str(path), line, "", "", "it is not UTF-8"),)) from None


def load_text(
    text: str,
    *,
    file: str = INLINE,
    base: Path | None = None,
    source: str = "",
    environ: Mapping[str, str] = os.environ,
    lenient: bool = False,
) -> Configuration:
    """Read a configuration that is at hand as text, such as `origin.inline` made.

    `file` names it in errors; paths are relative to `base`, by default the working
    directory. With `lenient`, for a text that was in force already, files that it names (of
    tokens, of certificates) may have become unusable: `secret_files`, `tls_files`. Raises
    SettingsError with every problem found.
    """
    document = read_document(text, file=file, environ=environ)
    context = {BASE: base or Path.cwd(), LENIENT: lenient}
    try:
        settings = Settings.model_validate(document.data, context=context)
    except ValidationError as error:
        problems = (
            replace(problem, remedy=_without_values(problem, environ))
            for problem in _problems(error, document, file)
        )
        in_order = sorted(problems, key=lambda problem: problem.line or 0)
        raise SettingsError(tuple(in_order)) from None
    return settings.to_configuration(
        source=source, workers=default_workers(), runtime_dir=default_runtime_dir(environ)
    )


def schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of the file, for editors."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **Settings.model_json_schema(),
        "title": "Turnout configuration",
    }


RESTART_KEYS: Final[Mapping[str, Callable[[Configuration], object]]] = {
    "runtime_dir": lambda configuration: configuration.runtime_dir,
    "control.bind": lambda configuration: configuration.control.bind,
    "control.socket_mode": lambda configuration: configuration.control.socket_mode,
    "state.path": lambda configuration: configuration.state.path,
    "log.access.buffer": lambda configuration: configuration.access_log.buffer_bytes,
    "limits.services": lambda configuration: configuration.limits.services,
    "limits.in_flight_named": lambda configuration: configuration.limits.in_flight_named,
}
"""The keys that a reload cannot apply."""


def needs_restart(before: Configuration, after: Configuration) -> tuple[str, ...]:
    """The keys that differ and that a reload cannot apply."""
    return tuple(key for key, read in RESTART_KEYS.items() if read(before) != read(after))


def default_runtime_dir(environ: Mapping[str, str]) -> str:
    """Where shared memory and sockets go when the file does not say."""
    if environ.get("RUNTIME_DIRECTORY"):
        # systemd may name several, with colons between.
        return environ["RUNTIME_DIRECTORY"].partition(":")[0]
    if environ.get("XDG_RUNTIME_DIR"):
        return str(Path(environ["XDG_RUNTIME_DIR"]) / "turnout")
    shared_memory = Path("/dev/shm")
    place = shared_memory if shared_memory.is_dir() else Path(tempfile.gettempdir())
    return str(place / f"turnout-{os.getuid()}")


def default_workers(quota_file: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """One a core that this process may use: by its affinity, and by its container's quota."""
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    try:
        quota, period = quota_file.read_text().split()
    except (OSError, ValueError):  # no cgroup v2 here: no quota that could be known
        return cores
    if quota == "max":
        return cores
    return max(1, min(cores, math.ceil(int(quota) / int(period))))


# ---------------------------------------------------------------- errors


def _problems(error: ValidationError, document: Document, file: str) -> Iterator[Problem]:
    entries = error.errors(include_url=False, include_input=False)
    for entry in entries:
        if entry["type"] == "too_short" and any(_inside_of(entry, other) for other in entries):
            continue  # it is short only because what it has is wrong
        if entry["type"] == CONFLICTS:
            for place, remedy in entry["ctx"][CONFLICTS]:
                yield _problem(document, file, place, _found(document, place), remedy)
            continue
        tagged = tuple(part for part in entry["loc"] if part != "[key]")
        place = _untagged(tagged)
        if entry["loc"][-1:] == ("[key]",):
            yield _problem(document, file, place, "no name", _remedy(entry))
        elif entry["type"] == "extra_forbidden":
            yield _problem(document, file, place, "no key", _nearest(tagged))
        elif entry["type"] == "missing":
            yield _problem(document, file, place, "missing", _needed(tagged))
        elif entry["type"] == "union_tag_not_found":
            yield _problem(document, file, (*place, "kind"), "missing", _kinds(tagged))
        elif entry["type"] == "union_tag_invalid":
            there = (*place, "kind")
            yield _problem(document, file, there, _found(document, there), _kinds(tagged))
        else:
            yield _problem(document, file, place, _found(document, place), _remedy(entry))


def _without_values(problem: Problem, environ: Mapping[str, str]) -> str:
    """The remedy with each variable's name in the place of its value, which may be a secret."""
    remedy = problem.remedy
    for name in re.findall(r"\$\{(\w+)", problem.found):
        value = environ.get(name, "")
        # A shorter one is no secret, and its digits may stand in the remedy by themselves.
        if len(value) >= 4:
            remedy = re.sub(rf"(?<!\w){re.escape(value)}(?!\w)", f"${{{name}}}", remedy)
    return remedy


def _inside_of(outer: ErrorDetails, inner: ErrorDetails) -> bool:
    place = outer["loc"]
    return len(inner["loc"]) > len(place) and inner["loc"][: len(place)] == place


def _problem(document: Document, file: str, place: Place, found: str, remedy: str) -> Problem:
    if file == INLINE:
        return Problem(file, None, _option(place), found, remedy)
    return Problem(file, _line(document, place), dotted(place), found, remedy)


def _line(document: Document, place: Place) -> int:
    """The line of the value, or, when it is missing, of the nearest thing around it."""
    while place not in document.marks:
        place = place[:-1]
    return document.marks[place].line


_OPTIONS: Final[Mapping[Place, str]] = {
    ("listeners",): "--listen",
    ("services", INLINE_SERVICE, "upstreams", "blue"): "--blue",
    ("services", INLINE_SERVICE, "upstreams", "green"): "--green",
    ("services", INLINE_SERVICE, "health"): "--health",
    ("control",): "--control",
    ("state",): "--state",
    ("runtime_dir",): "--runtime-dir",
    ("workers",): "--workers",
}


def _option(place: Place) -> str:
    for start, option in _OPTIONS.items():
        if place[: len(start)] == start:
            return option
    return dotted(place)


_SECRET: Final = frozenset({"secret", "token", "tokens", "try_out"})
_NOT_SECRET: Final = frozenset({"name", "scope", "header"})


def _found(document: Document, place: Place) -> str:
    """The value as it was written; never one that is, or may have been meant as, a secret."""
    mark = document.marks.get(place)
    if mark is None:
        # A default that does not go with what was written elsewhere.
        return "not given"
    plain = mark.found.startswith(("a mapping", "a list", "an empty list", "empty"))
    if not plain and _SECRET.intersection(place):
        # What is as long as a token of the API may be one that was written at the wrong key.
        long = "tokens" in place and len(mark.found) >= CHARACTERS_MIN
        if long or place[-1] not in _NOT_SECRET:
            return "(hidden)"
    return mark.found


def _remedy(entry: ErrorDetails) -> str:
    context = entry.get("ctx", {})
    match entry["type"]:
        case "value_error":
            return str(context["error"])
        case "model_type" | "model_attributes_type" | "dict_type":
            return "expected a mapping: keys with values, indented"
        case "list_type" | "tuple_type":
            return "expected a list. Write [ and ] around it"
        case "too_short":
            return "expected at least one entry"
        case "literal_error":
            return f"expected {context['expected']}"
        case "string_type":
            return "expected text"
    return str(entry["msg"])


def _nearest(place: Place) -> str:
    key, known = str(place[-1]), list(_fields(place[:-1]))
    near = difflib.get_close_matches(key, known, n=1)
    if near:
        return f"did you mean {near[0]}?"
    return f"expected one of {', '.join(known)}"


def _needed(place: Place) -> str:
    field = _fields(place[:-1])[str(place[-1])]
    kind = next((entry for entry in field.metadata if isinstance(entry, Kind)), None)
    if kind is not None:
        return f"it must be given: {kind.expected()}"
    return f"it must be given: {field.description}"


def _fields(place: Place) -> Mapping[str, FieldInfo]:
    """The keys that the section at `place` may have."""
    kind: Any = Settings
    for part in place:
        kind = _inside(kind, str(part))
    return {field.alias or name: field for name, field in kind.model_fields.items()}


def _inside(kind: Any, part: str) -> Any:
    """The type of what stands under `part`, without its annotations and its `| None`.

    Of one of several kinds it is all of them, and the next part is the one that was meant.
    """
    if isinstance(kind, UnionType):
        return by_kind(kind)[part]
    if get_origin(kind) is None:
        by_key = {field.alias or name: field for name, field in kind.model_fields.items()}
        inside = by_key[part].annotation
    else:
        entries = get_args(kind)
        inside = entries[1] if get_origin(kind) is dict else entries[0]
    return plain_type(inside)


def _untagged(tagged: Place) -> Place:
    """The place as it stands in the file: which kind was meant is a value there, not a key."""
    place: list[str | int] = []
    kind: Any = Settings
    for part in tagged:
        if not isinstance(kind, UnionType):
            place.append(part)
        try:
            kind = _inside(kind, str(part))
        except (KeyError, IndexError, AttributeError):  # below what this program knows of
            kind = None
    return tuple(place)


def _kinds(tagged: Place) -> str:
    kind: Any = Settings
    for part in tagged:
        kind = _inside(kind, str(part))
    return f"expected one of {', '.join(sorted(by_kind(kind)))}"
