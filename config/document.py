"""A YAML text as plain data, with the line of each key, and variables filled in.

YAML 1.2, so `off` and `yes` are words and `010` is ten. Two keys of one name in a mapping are
an error: the later one would win silently. Variables are filled into single values after
the text was parsed, so that no variable's content can add a key or a line.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

Place: TypeAlias = tuple[str | int, ...]
"""Keys and indices from the top of the file to a value."""

VALUES_MAX: Final = 200_000
"""Values in one file, aliases counted as often as they are used: some short texts would
otherwise unfold to fill the memory."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong, as `turnout.yaml:14: drain.timeout is 30; …` says it."""

    file: str
    line: int | None
    key: str
    """Dotted; empty when the text as a whole is wrong."""
    found: str
    """What follows "is": the value as it was written, `missing`, or `(hidden)` for secrets."""
    remedy: str
    """What was expected, and what to write."""

    def __str__(self) -> str:
        where = self.file if self.line is None else f"{self.file}:{self.line}"
        what = f"{self.key} is {self.found}; " if self.key else ""
        end = "" if self.remedy.endswith((".", "?")) else "."
        return f"{where}: {what}{self.remedy}{end}"


class SettingsError(ValueError):
    """A configuration that cannot be used. It holds every problem; `str()` is one a line."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class Mark:
    """Where a value stands and how it was written, before variables were filled in."""

    line: int
    found: str


@dataclass(frozen=True, slots=True)
class Document:
    data: Any
    """Mappings with text keys, lists, text, numbers, booleans, None."""
    marks: Mapping[Place, Mark]


def read_document(
    text: str, *, file: str, environ: Mapping[str, str], about: Place | None = None
) -> Document:
    """Parse `text`, which stands in `file` (for errors only), and fill in variables.

    Raises SettingsError with the line for what is not YAML, for two equal keys, and for a
    variable that is not set; with `about`, only where that value stands or what it stands in.
    """
    yaml = YAML(typ="safe", pure=True)
    reader = _Reader(file, environ, yaml)
    try:
        root = yaml.compose(text)
        if root is None:
            raise SettingsError((Problem(file, 1, "", "", _EMPTY),))
        data = reader.value(root, ())
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        what = f"not valid YAML: {error.problem or error.context or 'it cannot be read'}"
        if "${" in text.split("\n")[line - 1]:
            what += ". Between braces or brackets, put ${…} in quotes"
        raise SettingsError((Problem(file, line, "", "", what),)) from None
    except YAMLError as error:
        # No position, and its text may quote the file: only its kind is told.
        what = (
            f"not valid YAML: it has a character that YAML does not allow ({type(error).__name__})"
        )
        raise SettingsError((Problem(file, None, "", "", what),)) from None
    except RecursionError:
        raise SettingsError((Problem(file, None, "", "", "it is nested too deeply"),)) from None
    problems = reader.problems
    if about is not None:
        on_the_way = {dotted(about[:length]) for length in range(len(about) + 1)}
        problems = [problem for problem in problems if problem.key in on_the_way]
    if problems:
        raise SettingsError(tuple(problems))
    return Document(data, reader.marks)


_EMPTY: Final = "it is empty; expected at least `listeners` and `services`"


class _Reader:
    """Turns nodes into values and notes where they stood."""

    def __init__(self, file: str, environ: Mapping[str, str], yaml: YAML) -> None:
        self.marks: dict[Place, Mark] = {}
        self.problems: list[Problem] = []
        self._file = file
        self._environ = environ
        self._yaml = yaml
        self._open: set[int] = set()

    def value(self, node: Node, place: Place, line: int | None = None) -> Any:
        line = node.start_mark.line + 1 if line is None else line
        self.marks[place] = Mark(line, _found(node))
        if len(self.marks) > VALUES_MAX:
            raise SettingsError((Problem(self._file, line, "", "", "it unfolds to too much"),))
        if isinstance(node, ScalarNode):
            return self._scalar(node, place, line)
        if id(node) in self._open:
            self._wrong(place, line, "an alias of what it stands in", "write it out")
            return None
        self._open.add(id(node))
        try:
            if isinstance(node, MappingNode):
                return self._mapping(node, place)
            return [self.value(item, (*place, index)) for index, item in enumerate(_items(node))]
        finally:
            self._open.discard(id(node))

    def _mapping(self, node: MappingNode, place: Place) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key, value in self._entries(node, place):
            values[key.value] = self.value(value, (*place, key.value), key.start_mark.line + 1)
        return values

    def _entries(self, node: MappingNode, place: Place) -> Iterator[tuple[ScalarNode, Node]]:
        """The mapping's own entries, and those merged in (`<<`) that it does not have."""
        own: dict[str, int] = {}
        merged: list[tuple[ScalarNode, Node]] = []
        for key, value in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, ScalarNode):
                self._wrong(place, line, "a mapping with a key that is no word", "write a word")
            elif key.tag == "tag:yaml.org,2002:merge":
                merged.extend(self._merged(value, place))
            elif key.value in own:
                before = own[key.value]
                self._wrong((*place, key.value), line, f"on line {before} too", "remove one")
            else:
                own[key.value] = line
                yield key, value
        for key, value in merged:
            if key.value not in own:
                own[key.value] = 0
                yield key, value

    def _merged(self, value: Node, place: Place) -> Iterator[tuple[ScalarNode, Node]]:
        for node in _items(value) if isinstance(value, SequenceNode) else (value,):
            if isinstance(node, MappingNode) and id(node) not in self._open:
                self._open.add(id(node))
                yield from self._entries(node, place)
                self._open.discard(id(node))
            else:
                line = node.start_mark.line + 1
                self._wrong((*place, "<<"), line, _found(node), "expected an alias of a mapping")

    def _scalar(self, node: ScalarNode, place: Place, line: int) -> Any:
        if node.tag != "tag:yaml.org,2002:str":
            return self._yaml.constructor.construct_object(node)
        try:
            return expand(node.value, self._environ)
        except ValueError as error:
            self._wrong(place, line, _found(node), str(error))
            return node.value

    def _wrong(self, place: Place, line: int, found: str, remedy: str) -> None:
        self.problems.append(Problem(self._file, line, dotted(place), found, remedy))


def _items(node: Node) -> list[Node]:
    items: list[Node] = node.value
    return items


def _found(node: Node) -> str:
    if isinstance(node, MappingNode):
        return "a mapping"
    if isinstance(node, SequenceNode):
        return "a list" if node.value else "an empty list"
    text = str(node.value)
    if isinstance(node, ScalarNode) and node.style is None and text.isprintable():
        return _short(text) or "empty"
    return f'"{_short(text)}"'


def _short(text: str) -> str:
    line = text.replace("\n", " ")
    return line if len(line) <= 80 else f"{line[:77]}…"


def dotted(place: Place) -> str:
    """`services.shop.upstreams.blue.servers.0`."""
    return ".".join(str(part) for part in place)


_VARIABLE: Final = re.compile(r"\$\$\{|\$\{(?P<inside>[^}]*)(?P<close>\}?)")
_INSIDE: Final = re.compile(r"(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>.*))?", re.DOTALL)


def expand(text: str, environ: Mapping[str, str]) -> str:
    """Fill in `${X}`, and `${X:-y}` with y when X is unset or empty; `$${` is a literal `${`.

    Raises ValueError that names the variable and what to write; never a variable's value.
    """

    def fill(match: re.Match[str]) -> str:
        if match["inside"] is None:
            return "${"
        inside = _INSIDE.fullmatch(match["inside"])
        if not match["close"] or inside is None or "${" in (inside["default"] or ""):
            raise ValueError(
                "expected ${NAME} or ${NAME:-default}; write $${ for the two characters themselves"
            )
        name, default = inside["name"], inside["default"]
        value = environ.get(name)
        if default is not None:
            return value or default
        if value is None:
            raise ValueError(
                f"the environment has no {name}. Set it, or write ${{{name}:-default}}"
            )
        return value

    return _VARIABLE.sub(fill, text)
