"""`turnout run` as a unit file has it is started at once; whatever else is written, `cli` reads."""

import os
import subprocess
import sys

import pytest

from tests.harness import ROOT
from turnout.control.entry import is_plain_run, named_file


@pytest.mark.parametrize(
    ("arguments", "file"),
    [
        (["run"], None),
        (["run", "-c", "a.yaml"], "a.yaml"),
        (["run", "--config", "/etc/turnout.yaml"], "/etc/turnout.yaml"),
        (["run", "--config=a.yaml"], "a.yaml"),
    ],
)
def test_a_run_with_at_most_a_file_is_plain(arguments: list[str], file: str | None) -> None:
    assert is_plain_run(arguments)
    assert named_file(arguments) == file


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["check"],
        ["run", "--help"],
        ["run", "-c"],
        ["run", "--config="],
        ["run", "-c", ""],
        ["run", "-c", "--help"],
        ["run", "-ca.yaml"],
        ["run", "-c", "a.yaml", "-c", "b.yaml"],
        ["run", "--listen", ":8080"],
        ["status", "-c", "a.yaml"],
    ],
)
def test_anything_else_is_for_the_command_line_to_read(arguments: list[str]) -> None:
    assert not is_plain_run(arguments)


def test_a_plain_run_without_a_file_is_refused_in_the_command_lines_words() -> None:
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-P", "-m", "turnout", "run"],
        cwd="/", env=environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "there is no ./turnout.yaml" in done.stderr
