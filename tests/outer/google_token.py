"""The file from which a target of Google Cloud has its token."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from tests.fakes.google import TOKEN
from tests.outer.target import Target


class GoogleTarget(Target):
    """A target whose fake wants a token. It stands in a file that goes with the target."""

    secrets: ClassVar[tuple[str, ...]] = (TOKEN,)

    settle: str | int = 0

    def __init__(self) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="turnout-google-")
        self._file = Path(self._directory.name) / "token"
        self._file.write_text(f"{TOKEN}\n")

    def common(self) -> Mapping[str, Any]:
        """The settings that all of them have."""
        return {
            "kind": self.kind,
            "project": "acme-prod",
            "endpoint": self.fake.url,
            "credentials": {"token_file": str(self._file)},
            "settle": self.settle,
        }
