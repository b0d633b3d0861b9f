"""What a setting is made of: its kind of value, how that is read, checked and described.

A kind stands in an annotation, `Annotated[float, Duration(at_most="1h")]`, so that the
check, the text of the error, the JSON Schema and the reference page come from one place.
Amounts and words are here, addresses and paths in `places`; `settings` puts them together.

Every `read` raises ValueError with what was expected and what to write; the place and the
value found are added by `loader`.
"""

import functools
import operator
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, StrEnum
from itertools import pairwise
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Final, Union, get_args, get_origin

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    ValidationInfo,
    model_validator,
)
from pydantic_core import CoreSchema, core_schema

from turnout.config.units import Rate as RateValue
from turnout.config.units import parse_duration, parse_fraction, parse_rate, parse_size
from turnout.config.weights import WHOLE, hundredths, percent

BASE: Final = "base"
"""Key of the validation context: the directory that relative paths are relative to."""


def knob(
    default: Any,
    description: str,
    *,
    live: bool = True,
    secret: bool = False,
    alias: str | None = None,
) -> Any:
    """A setting with a default, which is written as a person would write it.

    `alias` is its key where that is a word of the language, such as `for`.
    """
    return Field(
        default=default,
        alias=alias,
        repr=not secret,
        description=description,
        validate_default=default is not None,
        json_schema_extra={"x-live": live},
    )


def needed(description: str, *, live: bool = True) -> Any:
    """A setting that must be given."""
    return Field(description=description, json_schema_extra={"x-live": live})


class Section(BaseModel):
    """A mapping of the file."""

    # hide_input: what stands at a wrong place may be a secret.
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    @model_validator(mode="before")
    @classmethod
    def _empty_is_all_defaults(cls, value: Any) -> Any:
        return {} if value is None else value


class Zero(Enum):
    """What 0 means for a setting."""

    REFUSED = "refused"
    NO_LIMIT = "no limit"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Kind(ABC):
    """A kind of value. Subclasses say how it is read and what a person may write."""

    @abstractmethod
    def read(self, value: Any, base: Path) -> Any:
        """Return the value that the text means. Raises ValueError with the remedy."""

    @abstractmethod
    def expected(self) -> str:
        """What a person may write, for the reference: `100ms to 1h`."""

    def schema(self) -> dict[str, Any]:
        """The JSON Schema of what a person may write."""
        return {"type": "string"}

    def __get_pydantic_core_schema__(
        self, _source: Any, _handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        def validate(value: Any, info: ValidationInfo) -> Any:
            context = info.context or {}
            return self.read(value, context.get(BASE) or Path.cwd())

        return core_schema.with_info_plain_validator_function(validate)

    def __get_pydantic_json_schema__(
        self, _schema: CoreSchema, _handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return self.schema()


@dataclass(frozen=True, slots=True)
class OrOff(Kind):
    """A value that may be switched off, which reads as None."""

    kind: Kind

    def read(self, value: Any, base: Path) -> Any:
        return None if value is False or value == "off" else self.kind.read(value, base)

    def expected(self) -> str:
        return f"{self.kind.expected()}, or `off`"

    def schema(self) -> dict[str, Any]:
        return {"anyOf": [self.kind.schema(), {"const": False}]}


@dataclass(frozen=True, slots=True)
class Switchable:
    """A whole section that may be switched off, which reads as None."""

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        def switch(value: Any) -> Any:
            if value is None:  # the key alone, its lines commented out: all of its defaults
                return {}
            return None if value is False or value == "off" else value

        return core_schema.no_info_before_validator_function(switch, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        kinds = [kind for kind in handler(schema)["anyOf"] if kind != {"type": "null"}]
        return {"anyOf": [*kinds, {"enum": ["off", False]}]}


def person_text(value: Any, expected: str) -> str:
    """A person's text; a number or a word such as `true` is not taken for one."""
    if isinstance(value, str):
        return value
    if isinstance(value, (int, float)):
        raise ValueError(f"expected {expected} as text. Put it in quotes")
    raise ValueError(f"expected {expected}")


def _number_text(value: Any) -> str | None:
    """The text of a number or of what should have a unit; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    return str(value)


# ---------------------------------------------------------------- amounts


@dataclass(frozen=True, slots=True)
class _Amount(Kind):
    """A number between two bounds, which are written as a person writes them."""

    at_least: str
    at_most: str
    zero: Zero = Zero.REFUSED

    @abstractmethod
    def parse(self, text: str) -> float:
        """Return the number that the text means. Raises ValueError."""

    @property
    @abstractmethod
    def noun(self) -> str:
        """What it is, for who wrote something else."""

    def read(self, value: Any, base: Path) -> Any:
        text = _number_text(value)
        if text is None:
            raise ValueError(f"expected {self.noun}: {self.expected()}")
        amount = self.parse(text)
        if amount == 0 and self.zero is not Zero.REFUSED:
            return amount
        if not self.parse(self.at_least) <= amount <= self.parse(self.at_most):
            raise ValueError(f"it is out of range; expected {self.expected()}")
        return amount

    def expected(self) -> str:
        bounds = f"{self.at_least} to {self.at_most}"
        return bounds if self.zero is Zero.REFUSED else f"{bounds}, or 0 for {self.zero.value}"

    def _or_zero(self, text: dict[str, Any]) -> dict[str, Any]:
        if self.zero is Zero.REFUSED:
            return text
        return {"anyOf": [text, {"const": 0}]}


@dataclass(frozen=True, slots=True)
class Duration(_Amount):
    """`30s`; read as seconds."""

    noun = "a duration"

    def parse(self, text: str) -> float:
        return parse_duration(text)

    def schema(self) -> dict[str, Any]:
        return self._or_zero(
            {"type": "string", "pattern": r"^((\d+(\.\d+)?(ms|s|m|h|d))+|\$\{.*\})$"}
        )


@dataclass(frozen=True, slots=True)
class Size(_Amount):
    """`32KiB`; read as bytes."""

    noun = "a size"

    def parse(self, text: str) -> float:
        return parse_size(text)

    def schema(self) -> dict[str, Any]:
        return self._or_zero({"type": "string", "pattern": r"^(\d+(\.\d+)?(B|[KMG]i?B)|\$\{.*\})$"})


@dataclass(frozen=True, slots=True)
class Fraction(_Amount):
    """`20%`; read as 0.2."""

    noun = "a percentage"

    def parse(self, text: str) -> float:
        return parse_fraction(text)

    def schema(self) -> dict[str, Any]:
        return self._or_zero({"type": "string", "pattern": r"^(\d+(\.\d+)?%|\$\{.*\})$"})


@dataclass(frozen=True, slots=True)
class Count(_Amount):
    """A whole number without a unit."""

    noun = "a whole number"

    def parse(self, text: str) -> float:
        text = text.strip().replace(",", "")
        if not re.fullmatch(r"[0-9]{1,15}", text, re.ASCII):
            raise ValueError(f"expected a whole number: {self.expected()}")
        return int(text)

    def schema(self) -> dict[str, Any]:
        lowest = int(self.parse(self.at_least)) if self.zero is Zero.REFUSED else 0
        number = {"type": "integer", "minimum": lowest, "maximum": int(self.parse(self.at_most))}
        return {"anyOf": [number, {"type": "string", "pattern": r"^\$\{.*\}$"}]}


@dataclass(frozen=True, slots=True)
class Number(Kind):
    """A number without a unit of ours, with its sign and decimals."""

    def read(self, value: Any, base: Path) -> float:
        text = _number_text(value)
        if text is None or not re.fullmatch(
            r"-?[0-9]{1,15}(\.[0-9]{1,15})?(e[+-]?[0-9]{1,2})?", text.strip(), re.ASCII
        ):
            raise ValueError(f"expected {self.expected()}")
        return float(text)

    def expected(self) -> str:
        return "a number, such as 0.5"

    def schema(self) -> dict[str, Any]:
        return {"anyOf": [{"type": "number"}, {"type": "string", "pattern": r"^\$\{.*\}$"}]}


@dataclass(frozen=True, slots=True)
class Rate(Kind):
    """`1/min`; read as a count and the seconds that it is of."""

    at_least: str
    at_most: str

    def read(self, value: Any, base: Path) -> RateValue:
        rate = parse_rate(person_text(value, "a rate"))
        least, most = parse_rate(self.at_least), parse_rate(self.at_most)
        if not least.per_second <= rate.per_second <= most.per_second:
            raise ValueError(f"it is out of range; expected {self.expected()}")
        return rate

    def expected(self) -> str:
        return f"{self.at_least} to {self.at_most}, of `s`, `min` or `h`"

    def schema(self) -> dict[str, Any]:
        return {"type": "string", "pattern": r"^([0-9]+/(s|min|h)|\$\{.*\})$"}


@dataclass(frozen=True, slots=True)
class Steps(Kind):
    """`[1, 5, 25, 50, 100]`; read as hundredths of a percent."""

    def read(self, value: Any, base: Path) -> tuple[int, ...]:
        if not isinstance(value, Sequence) or isinstance(value, str) or not value:
            raise ValueError("expected a list of percentages. Write [10, 50, 100]")
        steps = []
        for step in value:
            if not isinstance(step, (int, float, str)) or isinstance(step, bool):
                raise ValueError("expected a list of percentages. Write [10, 50, 100]")
            steps.append(hundredths(step.removesuffix("%") if isinstance(step, str) else step))
        for before, after in pairwise(steps):
            if after <= before:
                raise ValueError(
                    f"{percent(after)} does not rise after {percent(before)}; "
                    f"expected rising percentages, such as [10, 50, 100]"
                )
        if steps[0] == 0:
            raise ValueError("a step of 0 moves nothing. Begin with more than 0")
        if steps[-1] != WHOLE:
            raise ValueError(f"the last step is {percent(steps[-1])}; expected 100 at the end")
        return tuple(steps)

    def expected(self) -> str:
        return "percentages above 0 with at most two decimals, rising, the last 100"

    def schema(self) -> dict[str, Any]:
        number = {"type": "number", "exclusiveMinimum": 0, "maximum": 100}
        return {"type": "array", "minItems": 1, "items": number}


# ---------------------------------------------------------------- words


@dataclass(frozen=True, slots=True)
class Choice(Kind):
    """One word of a few; `off` may also be written as false, as YAML 1.1 reads it."""

    options: type[StrEnum]

    def read(self, value: Any, base: Path) -> StrEnum:
        words = [option.value for option in self.options]
        if value is False and "off" in words:
            value = "off"
        if value not in words:
            raise ValueError(f"expected {self.expected()}")
        return self.options(value)

    def expected(self) -> str:
        return " or ".join(f"`{option.value}`" for option in self.options)

    def schema(self) -> dict[str, Any]:
        words: list[Any] = [option.value for option in self.options]
        return {"enum": [*words, False] if "off" in words else words}


@dataclass(frozen=True, slots=True)
class TrueOrFalse(Kind):
    """Also as a word, which is what a variable's content is."""

    def read(self, value: Any, base: Path) -> bool:
        match value:
            case True | "true":
                return True
            case False | "false":
                return False
        raise ValueError(f"expected {self.expected()}")

    def expected(self) -> str:
        return "`true` or `false`"

    def schema(self) -> dict[str, Any]:
        return {"enum": [True, False, "true", "false"]}


@dataclass(frozen=True, slots=True)
class Name(Kind):
    """A name that stands in URLs, on the command line and in metrics."""

    def read(self, value: Any, base: Path) -> str:
        name = person_text(value, "a name")
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", name, re.ASCII):
            raise ValueError(
                "a name is 1 to 63 letters, digits, dots, dashes or underscores and begins "
                "with a letter or digit, as it stands in URLs and metrics"
            )
        return name

    def expected(self) -> str:
        return "1 to 63 of `A-Z a-z 0-9 . _ -`, first a letter or digit"

    def schema(self) -> dict[str, Any]:
        return {"type": "string", "pattern": r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$"}


@dataclass(frozen=True, slots=True)
class Text(Kind):
    """Free text that fits one line."""

    characters_max: int
    may_be_empty: bool = True

    def read(self, value: Any, base: Path) -> str:
        text = person_text(value, "text")
        if not text and not self.may_be_empty:
            raise ValueError("it is empty; expected some text")
        if len(text) > self.characters_max or not text.isprintable():
            raise ValueError(f"expected {self.expected()}")
        return text

    def expected(self) -> str:
        return f"one line of at most {self.characters_max} characters"


@dataclass(frozen=True, slots=True)
class Pattern(Kind):
    """Text of a form that somebody else has laid down, such as a name in a cloud."""

    pattern: str
    """All of it, as a regular expression of ASCII."""
    noun: str
    says: str
    """What is expected, for the reference and for who wrote something else."""

    def read(self, value: Any, base: Path) -> str:
        text = person_text(value, self.noun)
        if not re.fullmatch(self.pattern, text, re.ASCII):
            raise ValueError(f"expected {self.says}")
        return text

    def expected(self) -> str:
        return self.says


@dataclass(frozen=True, slots=True)
class Secret(Kind):
    """A shared secret, never printed. Visible ASCII, as it travels in a header field."""

    def read(self, value: Any, base: Path) -> str:
        text = person_text(value, "a secret")
        if not re.fullmatch(r"[!#-+\--:<-\[\]-~]{1,512}", text, re.ASCII):
            raise ValueError(
                "expected 1 to 512 characters of visible ASCII, without quotes, backslashes, "
                "commas and semicolons. `openssl rand -hex 32` makes a good one"
            )
        return text

    def expected(self) -> str:
        return '1 to 512 characters of visible ASCII but `"`, `\\`, `,` and `;`'


@dataclass(frozen=True, slots=True)
class Token(Kind):
    """A token of the HTTP grammar (RFC 9110, section 5.6.2): a field name or a pseudonym."""

    refused: frozenset[str] = frozenset()

    def read(self, value: Any, base: Path) -> str:
        text = person_text(value, "a word")
        if not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}", text, re.ASCII):
            raise ValueError(f"expected {self.expected()}")
        if text.lower() in self.refused:
            raise ValueError("this field has a meaning of its own. Write X-Turnout-Upstream")
        return text

    def expected(self) -> str:
        return "1 to 64 letters, digits and dashes, without spaces"


# ---------------------------------------------------------------- sections of several kinds


def plain_type(annotation: Any) -> Any:
    """A type without its annotations and its `| None`; of several kinds, their union."""
    while get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    if isinstance(annotation, UnionType) or get_origin(annotation) is Union:
        inside = [entry for entry in get_args(annotation) if entry is not type(None)]
        if len(inside) == 1:
            return plain_type(inside[0])
        return functools.reduce(operator.or_, inside)
    return annotation


def by_kind(union: Any) -> dict[str, type[Section]]:
    """The sections of a union that `kind` tells apart, by that."""
    return {
        get_args(section.model_fields["kind"].annotation)[0]: section for section in get_args(union)
    }
