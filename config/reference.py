"""Writes docs/reference/configuration.md from the settings: `make docs`.

Generated, so that the page cannot say another default or range than the program has; a
test compares the two.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Final, get_args, get_origin

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from turnout.config.knobs import Kind, Section, plain_type
from turnout.config.settings import Settings

PAGE: Final = Path(__file__).resolve().parent.parent / "docs" / "reference" / "configuration.md"

HEAD: Final = """\
# Configuration

<!-- Generated from the settings by `make docs`. Change it there. -->

Turnout reads one YAML 1.2 file (JSON is YAML too): the one that `-c` names, else
`$TURNOUT_CONFIG`, else `./turnout.yaml`. `turnout check` says whether it is right, with the
same words as the server: file, line, key, the value found, and what to write instead.
`turnout schema` prints a JSON Schema for editors.

- **Durations and sizes have units**: `500ms`, `30s`, `5m`, `1h30m`, `2d`; `512B`, `64KiB`,
  `1.5MiB` (powers of 1024), `10MB` (of 1000). Shares are percentages: `20%`.
- **`0`** may be written where the range says so, and says what it means there: as a rule no
  limit in `timeouts` and `limits`, none at all elsewhere. It needs no unit.
- **`off`** may be written as the word or as `false`.
- **Unknown keys and equal keys are errors.** Anchors, aliases and `<<` work.
- **`${X}`** is replaced with the environment's X, which must be set; `${X:-y}` is y when X is
  unset or empty; `$${` is a literal `${`. Between braces or brackets, put it in quotes. A
  variable fills in one value: its content can add no key.
- **Relative paths** are relative to the file, also those of `unix:` addresses.
- **Live** settings are applied by a reload (`turnout reload`, SIGHUP); the others need a
  restart. A file with an error changes nothing, and one that changes a setting which is not
  live is reported.
- What was changed through the control API (weights, servers) is kept in the store and wins
  over the file; `turnout status` shows where they differ.
- A request goes to the service with the longest matching host, then the longest path prefix.
  One that no service matches gets 404. Two services may not match the same.

The smallest file:

```yaml
listeners:
  - bind: :8080
services:
  shop:
    upstreams:
      blue: {servers: [127.0.0.1:9001]}
      green: {servers: [127.0.0.1:9002]}
```
"""


def page() -> str:
    """The whole page."""
    return (
        "\n".join([HEAD, *_section("The file", "", Settings.__doc__, Settings.model_fields)]) + "\n"
    )


def _section(
    title: str, place: str, about: str | None, fields: Mapping[str, FieldInfo], of: str = ""
) -> Iterator[str]:
    """A section and those in it; `of` tells the places of one kind from another's."""
    yield f"## {title}\n"
    yield f"{_one_line(about)}\n"
    yield "| key | default | may be | live | |"
    yield "|---|---|---|---|---|"
    inner: list[tuple[str, Sequence[type[Section]]]] = []
    for name, field in fields.items():
        key = field.alias or name
        below, inside = sections_of(field)
        if inside:
            inner.append((f"{place}{key}{below}", inside))
        yield _row(key, field, f"{place}{key}{below}{of}" if inside else None)
    yield ""
    for path, inside in inner:
        if len(inside) == 1:
            only = inside[0]
            title = f"`{path}{of}`"
            yield from _section(title, f"{path}.", only.__doc__, only.model_fields, of)
        else:
            yield from _kinds(path, inside)


def _kinds(place: str, sections: Sequence[type[Section]]) -> Iterator[str]:
    """A place where one of several kinds may stand: what they have in common, then each."""
    common = _common(sections)
    yield from _section(f"`{place}`", f"{place}.", common.__doc__, common.model_fields)
    yield "Its `kind` says what else it has:\n"
    for section in sections:
        kind = get_args(section.model_fields["kind"].annotation)[0]
        yield f"- [`{kind}`](#{_anchor(_of_kind(place, kind))})"
    yield ""
    for section in sections:
        kind = get_args(section.model_fields["kind"].annotation)[0]
        own = {
            key: field
            for key, field in section.model_fields.items()
            if key not in common.model_fields or field.default != common.model_fields[key].default
        }
        title = f"`{_of_kind(place, kind)}`"
        yield from _section(title, f"{place}.", section.__doc__, own, _of_kind("", kind))


def _of_kind(place: str, kind: str) -> str:
    return f"{place} of kind {kind}"


def _common(sections: Sequence[type[Section]]) -> type[Section]:
    """The class that all of them are made from."""
    return next(
        base
        for base in sections[0].__mro__
        if issubclass(base, Section) and all(issubclass(section, base) for section in sections)
    )


def _row(name: str, field: FieldInfo, below: str | None) -> str:
    extra = field.json_schema_extra
    live = not isinstance(extra, dict) or extra.get("x-live", True)
    cells = [
        f"[`{name}`](#{_anchor(below)})" if below else f"`{name}`",
        _default(field, below),
        "" if below else _expected(field),
        "" if below else "yes" if live else "restart",
        _one_line(field.description),
    ]
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _default(field: FieldInfo, below: str | None) -> str:
    if field.default is PydanticUndefined:
        return "**required**"
    if below or field.default in (None, "", []):
        return "`off`" if field.default == "off" else ""
    return f"`{field.default}`"


def _expected(field: FieldInfo) -> str:
    kinds = [entry for entry in field.metadata if isinstance(entry, Kind)]
    return kinds[0].expected() if kinds else _expected_of(field.annotation)


def _expected_of(annotation: Any) -> str:
    origin, inside = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        kind = next((entry for entry in inside[1:] if isinstance(entry, Kind)), None)
        return kind.expected() if kind else _expected_of(inside[0])
    if origin is tuple:
        return f"a list of: {_expected_of(inside[0])}"
    if origin is dict:
        return f"a mapping to: {_expected_of(inside[1])}"
    return " or ".join(f"`{value}`" for value in inside)


def sections_of(field: FieldInfo) -> tuple[str, Sequence[type[Section]]]:
    """The sections that may stand under a key, and how their place is written from there."""
    annotation: Any = field.annotation
    below = ""
    if get_origin(annotation) is tuple:
        annotation, below = get_args(annotation)[0], "[]"
    elif get_origin(annotation) is dict:
        annotation, below = get_args(annotation)[1], ".NAME"
    annotation = plain_type(annotation)
    if isinstance(annotation, UnionType) and below != "[]":
        kinds = get_args(annotation)
        if all(isinstance(kind, type) and issubclass(kind, Section) for kind in kinds):
            return below, kinds
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return below, [annotation]
    return "", []


def _anchor(place: str) -> str:
    """As the renderers of Markdown make it from the heading."""
    return "".join(
        char for char in place.lower().replace(" ", "-") if char.isalnum() or char in "_-"
    )


def _one_line(text: str | None) -> str:
    return " ".join((text or "").split())


def main() -> None:
    """Write the page; with `--check`, only say whether it is what it should be."""
    text = page()
    if "--check" in sys.argv[1:]:
        if PAGE.read_text() != text:
            sys.exit(f"{PAGE} is not what the settings say; run `make docs`")
        return
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text(text)


if __name__ == "__main__":
    main()
