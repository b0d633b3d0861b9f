"""Versions of the program that are installed one over the other while it runs.

Each is a whole copy of the package, changed as a test says; a link names the one that is
installed. So what an upgrade becomes is really another program: other files, another version,
another layout of shared memory.
"""

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import pytest

from tests import under_test

PARTS: Final = ("turnout", "proxy", "control", "config")

Edits = Mapping[str, Sequence[tuple[str, str]]]
"""File -> (text that stands in it, what to put there)."""


class Programs:
    """`path` is where the product's processes import from."""

    def __init__(self, directory: Path) -> None:
        if not under_test.IS_CHECKOUT:
            pytest.skip("what is changed is the sources, and something else is tested")
        self._directory = directory
        self.path = directory / "installed"
        self.versions: list[str] = []
        self.install("1")

    def install(self, version: str, edits: Edits | None = None) -> None:
        """Make a version and put it in place, as a whole."""
        made = self._directory / version
        if version not in self.versions:
            for part in PARTS:
                shutil.copytree(
                    under_test.ROOT / part, made / part, symlinks=True,
                    ignore=lambda _, names: [one for one in names if one.endswith(".so")],
                )  # fmt: skip
            about = made / f"turnout-{version}.dist-info"
            about.mkdir()
            text = f"Metadata-Version: 2.1\nName: turnout\nVersion: {version}\n"
            (about / "METADATA").write_text(text)
            for file, changes in (edits or {}).items():
                source = (made / file).read_text()
                for old, new in changes:
                    assert old in source, f"{file} has no {old!r} any more: change the test"
                    source = source.replace(old, new)
                (made / file).write_text(source)
            self.versions.append(version)
        link = self._directory / ".new"
        link.symlink_to(version)
        os.rename(link, self.path)


OTHER_LAYOUT: Final[Edits] = {
    # Counters and header fields at other places, one more of each kind, blocks of other sizes.
    "proxy/scoreboard.py": (
        ("\nLAYOUT: Final = 3", "\nLAYOUT: Final = 9"),
        ("REGION_HEADER_WORDS: Final = 32", "REGION_HEADER_WORDS: Final = 40"),
        ("R_PID: Final = 0\n", "R_PID: Final = 33\n"),
        ("R_STATE: Final = 1\n", "R_STATE: Final = 34\n"),
        ("R_EPOCH_SEEN: Final = 5\n", "R_EPOCH_SEEN: Final = 35\n"),
        ("U_ANSWERED: Final = 1\n", "U_ANSWERED: Final = 2\n"),
        ("UPSTREAM_WORDS: Final = 80", "UPSTREAM_WORDS: Final = 96"),
        ("SERVICE_WORDS: Final = 192", "SERVICE_WORDS: Final = 256"),
        ("    101, 200, 201, 202,", "    101, 200, 299, 201, 202,"),
        ('    "no_table",\n', '    "no_table",\n    "quite_new",\n'),
        ('("drain_deadline", "upstream_closed",', '("upstream_closed", "drain_deadline",'),
    ),
}
"""A program whose scoreboard is another: it needs a file of its own, and reads the old one."""
