"""What could not be kept or is asked for wrongly is said before anything is measured."""

import subprocess
import sys
from pathlib import Path

import pytest


def refused(*words: str) -> str:
    """What is said of these arguments, which are refused at once."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", *words],
        check=False, capture_output=True, text=True, timeout=30,
    )  # fmt: skip
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return " ".join(done.stderr.replace("│", " ").split())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--only", "nothing"), "no workload nothing"),
        (("--proxy-cores", "1-0"), "cores are written as"),
        (("--proxy-cores", "4095"), "there are cores"),
        (("--quick", "--smoke"), "two things at once"),
        (("--report-only", "--out", "/nonexistent/x.json"), "there is no"),
    ],
)
def test_wrong_arguments_are_refused(words: tuple[str, ...], said: str) -> None:
    assert said in refused(*words)


def test_results_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    for text in ("{", "[]", '{"format": 0}', '{"format": 1}'):
        kept = tmp_path / "kept.json"
        kept.write_text(text)
        assert "cannot be read" in refused("--report-only", "--out", str(kept))
