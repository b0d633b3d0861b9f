"""Where the configuration in force comes from, so that it can be read again as it was.

A restarted control goes on with the text that is in force, kept in the plan, whatever has
become of the file since: only a reload reads the file anew. What a reload cannot change keeps
the value that Turnout was started with.
"""

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from turnout.config.address import Address
from turnout.config.loader import load_text, read_text
from turnout.config.model import Configuration

PROGRAM: Final = "turnout"


@dataclass(frozen=True, slots=True)
class Pinned:
    """What is fixed from the start to the end of Turnout, whatever a reload says."""

    runtime_dir: str
    control_bind: str
    state_path: str
    services: int
    in_flight_named: int

    @classmethod
    def of(cls, configuration: Configuration) -> "Pinned":
        return cls(
            runtime_dir=configuration.runtime_dir,
            control_bind=str(configuration.control.bind),
            state_path=configuration.state.path,
            services=configuration.limits.services,
            in_flight_named=configuration.limits.in_flight_named,
        )

    def apply(self, configuration: Configuration) -> Configuration:
        """The configuration with these values in place of its own."""
        return replace(
            configuration,
            runtime_dir=self.runtime_dir,
            control=replace(configuration.control, bind=Address.parse_bind(self.control_bind)),
            state=replace(configuration.state, path=self.state_path),
            limits=replace(
                configuration.limits,
                services=self.services,
                in_flight_named=self.in_flight_named,
            ),
        )


@dataclass(frozen=True, slots=True)
class Source:
    """A configuration's text, and what its meaning depends on beside the environment."""

    text: str = field(repr=False)
    file: str
    """Names it in errors."""
    base: str
    """Relative paths start there."""
    path: str
    """Absolute; empty for one that was given on the command line."""
    pinned: Pinned | None = None

    def read(self, *, lenient: bool = False) -> Configuration:
        """`lenient` as `load_text` has it. Raises SettingsError."""
        read = load_text(
            self.text,
            file=self.file,
            base=Path(self.base),
            source=self.path,
            lenient=lenient,
        )
        return self.pinned.apply(read) if self.pinned is not None else read

    def document(self) -> dict[str, Any]:
        """As `Plan.configuration` keeps it; `source_of` is the inverse."""
        return asdict(self)


def source_of(document: Mapping[str, Any]) -> Source:
    pinned = document["pinned"]
    return Source(**{**document, "pinned": None if pinned is None else Pinned(**pinned)})


def options(arguments: Sequence[str]) -> argparse.Namespace:
    """`--config FILE` or `--inline TEXT`, and what the supervisor adds for control."""
    parser = argparse.ArgumentParser(prog=PROGRAM, allow_abbrev=False)
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--config", type=Path)
    where.add_argument("--inline")
    parser.add_argument("--runtime-dir", type=Path)
    parser.add_argument("--generation", default="")
    # Workers are counting already, by the order of upstreams that the store has.
    parser.add_argument("--live", action="store_true")
    # What a running supervisor tells the proof of a newer program.
    parser.add_argument("--messages", type=int, default=0)
    parser.add_argument("--handover", type=int, default=0)
    return parser.parse_args(arguments)


def origin_options(given: argparse.Namespace) -> list[str]:
    """The part of the options that says where the configuration is."""
    if given.inline is not None:
        return ["--inline", given.inline]
    return ["--config", str(given.config)]


def read_source(given: argparse.Namespace) -> Source:
    """The text that the options name. Raises SettingsError when the file cannot be read."""
    if given.inline is not None:
        return Source(text=given.inline, file="options", base=os.getcwd(), path="")
    path = Path(given.config)
    absolute = Path(os.path.abspath(path))
    return Source(
        text=read_text(path),
        file=str(path),
        base=str(absolute.parent),
        path=str(absolute),
    )
