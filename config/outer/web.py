"""Settings of a web service of one's own: where it is and what it is sent."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from turnout.config.knobs import Kind, Token, person_text

FIELDS_MAX: Final = 32


@dataclass(frozen=True, slots=True)
class HttpUrl(Kind):
    """The URL of an HTTP service, as it is called."""

    def read(self, value: Any, base: Path) -> str:
        text = person_text(value, "a URL")
        if not re.fullmatch(r"https?://[!-\"$-~]+", text, re.ASCII) or len(text) > 2048:
            raise ValueError(f"expected {self.expected()}")
        try:
            url = urlsplit(text)
            port = url.port
        except ValueError:
            raise ValueError(f"expected {self.expected()}") from None
        if url.username is not None or url.password is not None:
            raise ValueError("a URL is shown in errors, so it holds no credentials")
        if not url.hostname or port == 0:
            raise ValueError(f"expected {self.expected()}")
        return text

    def expected(self) -> str:
        return "`http://` or `https://`, a host, and a path: without credentials and `#`"


@dataclass(frozen=True, slots=True)
class HeaderFields(Kind):
    """Header fields by their names. Their values may be secrets, and stand in no error."""

    refused: frozenset[str] = frozenset()
    """Names, in lower case, of fields that are set already."""

    def read(self, value: Any, base: Path) -> dict[str, str]:
        if not isinstance(value, dict):
            raise ValueError("expected a mapping of names to values. Write {X-Api-Key: …}")
        if len(value) > FIELDS_MAX:
            raise ValueError(f"there are {len(value)} fields; expected at most {FIELDS_MAX}")
        fields = {}
        for name, text in value.items():
            try:
                Token().read(name, base)
            except ValueError as error:
                raise ValueError(f"a field's name: {error}") from None
            if name.lower() in self.refused:
                raise ValueError(f"{name} is set by Turnout. Remove it")
            if not isinstance(text, str) or not re.fullmatch(
                r"[!-~](?:[ -~]{0,2046}[!-~])?", text, re.ASCII
            ):
                raise ValueError(
                    f"the value of {name}: expected 1 to 2048 characters of ASCII as text, without "
                    "spaces at its ends"
                )
            fields[name] = text
        return fields

    def expected(self) -> str:
        return f"a mapping of at most {FIELDS_MAX} names to values of ASCII"

    def schema(self) -> dict[str, Any]:
        return {"type": "object", "additionalProperties": {"type": "string"}}
