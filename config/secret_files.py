"""Tokens of the control API, as they stand in the configuration or in files of their own.

What is read here is never printed: not in an error, not in a `repr`, not in a log. An error
names the file, where the text is one for certain, and never what is in it.
"""

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from pydantic import GetCoreSchemaHandler, ValidationInfo
from pydantic_core import CoreSchema, core_schema

from turnout.config.knobs import BASE, Kind, Secret, person_text

LENIENT: Final = "lenient"
"""Key of the validation context: a file that cannot be read must not keep control from starting
again, as the configuration was right once. Its token fits nobody then."""
CHARACTERS_MIN: Final = 16
"""Of a token: it may be all that stands between a network and the traffic. 16 of hexadecimal
are 64 bits."""
_FILE_BYTES_MAX: Final = 4096


class FileSecret(str):
    """The content of a secret's file, which knows where it came from."""

    path: str
    problem: str
    """Why it could not be read; it then stands for a secret that nobody knows."""

    def __new__(cls, content: str, path: str, problem: str = "") -> Self:
        made = super().__new__(cls, content)
        made.path, made.problem = path, problem
        return made

    def __repr__(self) -> str:
        return "FileSecret(…)"


@dataclass(frozen=True, slots=True)
class ApiSecret(Secret):
    """A token that is hard to guess."""

    def read(self, value: Any, base: Path) -> str:
        text = Secret.read(self, value, base)
        if len(text) < CHARACTERS_MIN:
            raise ValueError(
                "it is short, and who guesses it may move the traffic; "
                f"expected {CHARACTERS_MIN} or more. `openssl rand -hex 32` makes a good one"
            )
        return text

    def expected(self) -> str:
        return f'{CHARACTERS_MIN} to 512 characters of visible ASCII but `"`, `\\`, `,` and `;`'


@dataclass(frozen=True, slots=True)
class SecretFile(Kind):
    """A file with a token in it; read as the token."""

    def read(self, value: Any, base: Path) -> FileSecret:
        text = person_text(value, "a path")
        path, where = base / text, _shown(text, base)
        content = self._content(path, where)
        lines = content.removesuffix("\n").removesuffix("\r")
        if not lines.strip():
            raise ValueError(f"{where} is empty; expected the token in its only line")
        if "\n" in lines:
            raise ValueError(f"{where} has several lines; expected the token alone in one")
        try:
            return FileSecret(ApiSecret().read(lines, base), str(path))
        except ValueError as error:
            raise ValueError(f"what is in {where} is no token: {error}") from None

    def expected(self) -> str:
        return "a path"

    def _content(self, path: Path, where: str) -> str:
        """Raises ValueError."""
        try:
            content = read_file(path, _FILE_BYTES_MAX + 1)
        except FileNotFoundError:
            raise ValueError(f"{where} does not exist. Write the token into it") from None
        except PermissionError:
            raise ValueError(
                f"{where} may not be read by user {os.geteuid()}. Let it belong to the user that "
                "runs turnout, with mode 0600"
            ) from None
        except (OSError, ValueError) as error:
            what = getattr(error, "strerror", None) or "it is no path"
            raise ValueError(f"{where} cannot be read: {what}") from None
        if content is None:
            raise ValueError(f"{where} is no regular file. Write the token into one")
        if len(content) > _FILE_BYTES_MAX:
            raise ValueError(f"{where} has more than {_FILE_BYTES_MAX} bytes; expected one line")
        try:
            return content.decode("ascii")
        except UnicodeDecodeError:
            raise ValueError(f"what is in {where} is no token: it is not ASCII") from None

    def __get_pydantic_core_schema__(
        self, _source: Any, _handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        def validate(value: Any, info: ValidationInfo) -> FileSecret:
            context = info.context or {}
            base = context.get(BASE) or Path.cwd()
            try:
                return self.read(value, base)
            except ValueError as error:
                if not context.get(LENIENT):
                    raise
                return FileSecret(os.urandom(32).hex(), str(base / str(value)), str(error))

        return core_schema.with_info_plain_validator_function(validate)


def read_file(path: Path | str, bytes_max: int) -> bytes | None:
    """The first `bytes_max` bytes of a regular file; None: it is something else.

    Never waits for what is no file: a pipe could have no writer. Raises OSError, ValueError.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return None
        content = b""
        while (left := bytes_max - len(content)) and (part := os.read(descriptor, left)):
            content += part
        return content
    finally:
        os.close(descriptor)


def _shown(text: str, base: Path) -> str:
    """The path, unless it may be a token that was written at the wrong key."""
    path = base / text
    certain = "/" in text and text.isprintable() and len(path.parts) > 2 and path.parent.is_dir()
    return str(path) if certain else "the file"
