"""Settings of a program of one's own: what is run, and with which variables."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from turnout.config.knobs import Kind

WORDS_MAX: Final = 64
VARIABLES_MAX: Final = 64


@dataclass(frozen=True, slots=True)
class Argv(Kind):
    """A program and its arguments. A program with a `/` is relative to the file that names it."""

    def read(self, value: Any, base: Path) -> tuple[str, ...]:
        if isinstance(value, str):
            raise ValueError("it is run without a shell. Write a list, [program, argument]")
        if not isinstance(value, Sequence) or not 0 < len(value) <= WORDS_MAX:
            raise ValueError(f"expected {self.expected()}")
        for word in value:
            if not isinstance(word, str):
                raise ValueError("expected each word as text. Put it in quotes")
            if "\0" in word or len(word) > 4096:
                raise ValueError("expected words of at most 4096 characters without NUL")
        program, *arguments = value
        if not program:
            raise ValueError("the program is empty. Write its path")
        return (str(base / program) if "/" in program else program, *arguments)

    def expected(self) -> str:
        return f"a list of 1 to {WORDS_MAX} words: the program, and its arguments"

    def schema(self) -> dict[str, Any]:
        return {"type": "array", "minItems": 1, "items": {"type": "string"}}


@dataclass(frozen=True, slots=True)
class Variables(Kind):
    """Names of variables of the environment."""

    def read(self, value: Any, base: Path) -> tuple[str, ...]:
        if isinstance(value, str) or not isinstance(value, Sequence) or len(value) > VARIABLES_MAX:
            raise ValueError(f"expected {self.expected()}")
        for name in value:
            if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z_]\w{0,127}", name, re.ASCII):
                raise ValueError("expected names of variables, without $ and =. Write [TOKEN]")
        return tuple(value)

    def expected(self) -> str:
        return f"a list of at most {VARIABLES_MAX} names of variables"

    def schema(self) -> dict[str, Any]:
        return {"type": "array", "items": {"type": "string"}}
