"""The command `turnout`: `run` with nothing but a file is started at once, the rest by `cli`.

`turnout run` becomes the supervisor. To read the command line with the library that words its
errors and its help takes longer than all that the supervisor does until it serves (0.1 s), and
a start is what a restart of the machine waits for. So the form that a unit file has, `run`
with at most `--config FILE`, is recognised here; whatever else is written, `cli` decides.
"""

import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from turnout.config.origin import find_file

_CONFIG = ("--config", "-c")


def main() -> None:
    """Run the command line; never returns."""
    arguments = sys.argv[1:]
    if is_plain_run(arguments):
        file = find_file(named_file(arguments), os.environ)
        if file is not None:
            become_supervisor(["--config", str(file)])
    from turnout.control.cli import main as command_line

    command_line()


def is_plain_run(arguments: Sequence[str]) -> bool:
    """Whether it is `run` with at most one `--config FILE`, written in full."""
    match arguments:
        case ["run"]:
            return True
        case ["run", given]:
            return given.startswith("--config=") and len(given) > len("--config=")
        case ["run", option, file]:
            return option in _CONFIG and bool(file) and not file.startswith("-")
    return False


def named_file(arguments: Sequence[str]) -> str | None:
    """The file that a plain run names, or None."""
    return arguments[-1].removeprefix("--config=") if len(arguments) > 1 else None


def become_supervisor(arguments: Sequence[str]) -> NoReturn:
    """Go on as the supervisor: a program of its own, without this one's modules, as it has to
    live long. Raises OSError."""
    os.execv(sys.executable, [sys.executable, "-P", "-m", "turnout.supervisor", *arguments])
