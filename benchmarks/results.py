"""What a run found, as values and as the JSON that is kept beside the report."""

import json
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from benchmarks.ratios import Round, Sample

FORMAT: Final = 1


@dataclass(slots=True)
class Measured:
    """One workload's rounds."""

    at_utc: str
    seconds: float
    """Of each turn."""
    commit: str = ""
    command: str = ""
    rounds: list[dict[str, Sample]] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    """Why someone did not take part, by name; the workload's own name: all of it."""

    def faults(self) -> list[str]:
        """What made turns void."""
        return [
            f"{name}, round {number}: {fault}"
            for number, each in enumerate(self.rounds, 1)
            for name, sample in each.items()
            for fault in sample.faults
        ]


@dataclass(slots=True)
class Results:
    facts: dict[str, str]
    """The machine; see `machine.facts`."""
    versions: dict[str, str]
    commit: str
    command: str
    left_out: dict[str, str]
    separate_cores: int
    workloads: dict[str, Measured] = field(default_factory=dict)

    def rounds(self, workload: str) -> Sequence[Round]:
        found = self.workloads.get(workload)
        return found.rounds if found else ()

    def comparable(self, other: "Results", without: Collection[str] = ()) -> str:
        """ "" when figures of both may stand in one table; else what differs, `without` the
        versions of these, which do not take part."""
        ours, theirs = {**self.facts, **self.versions}, {**other.facts, **other.versions}
        differing = [
            key
            for key in sorted(ours | theirs)
            if ours.get(key) != theirs.get(key) and key not in without
        ]
        return ", ".join(
            f"{key} was {theirs.get(key, 'not there')} and is {ours.get(key, 'not there')}"
            for key in differing
        )


def encode(results: Results) -> str:
    document = {
        "format": FORMAT,
        "facts": results.facts,
        "versions": results.versions,
        "commit": results.commit,
        "command": results.command,
        "left_out": results.left_out,
        "separate_cores": results.separate_cores,
        "workloads": {
            name: {
                "at_utc": each.at_utc,
                "seconds": each.seconds,
                "commit": each.commit,
                "command": each.command,
                "left_out": each.left_out,
                "rounds": [
                    {contestant: _encode_sample(sample) for contestant, sample in one.items()}
                    for one in each.rounds
                ],
            }
            for name, each in results.workloads.items()
        },
    }
    return json.dumps(document, indent=1) + "\n"


def _encode_sample(sample: Sample) -> dict[str, Any]:
    values = {key: float(f"{value:.6g}") for key, value in sample.values.items()}
    return {**values, "faults": list(sample.faults)} if sample.faults else values


def decode(text: str) -> Results:
    """Raises ValueError for what is no results, or of another format."""
    document = json.loads(text)
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise ValueError(f"these are no results of format {FORMAT}")
    try:
        return _results(document)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{error!r} is missing or of another kind") from error


def _results(document: dict[str, Any]) -> Results:
    return Results(
        document["facts"],
        document["versions"],
        document["commit"],
        document["command"],
        document["left_out"],
        document["separate_cores"],
        {
            name: Measured(
                each["at_utc"],
                each["seconds"],
                each["commit"],
                each["command"],
                [
                    {contestant: _decode_sample(values) for contestant, values in one.items()}
                    for one in each["rounds"]
                ],
                each["left_out"],
            )
            for name, each in document["workloads"].items()
        },
    )


def _decode_sample(values: Mapping[str, Any]) -> Sample:
    faults = tuple(values.get("faults", ()))
    return Sample({key: value for key, value in values.items() if key != "faults"}, faults)


def read(path: Path) -> Results | None:
    """None when there is no such file. Raises ValueError as `decode` does."""
    try:
        return decode(path.read_text())
    except FileNotFoundError:
        return None


def write(path: Path, results: Results) -> None:
    """Whole or not at all: a run that is interrupted leaves what it had."""
    unfinished = path.with_name(f".{path.name}.new")
    unfinished.write_text(encode(results))
    os.replace(unfinished, path)
