"""What a worker does while it is loaded: perf or py-spy, where they are installed."""

import shutil
from pathlib import Path
from typing import Final

from benchmarks.processes import start

LIMIT_S: Final = 20.0


def profilers() -> list[str]:
    """Those that are there."""
    return [name for name in ("perf", "py-spy") if shutil.which(name)]


def profile(name: str, pid: int, seconds: int, directory: Path, label: str) -> Path:
    """Look at a process for some seconds while someone else loads it; returns the file made."""
    log = directory / f"{label}.{name}.log"
    if name == "perf":
        path = directory / f"{label}.perf.data"
        words = ["perf", "record", "-g", "-F", "999", "-p", str(pid), "-o", str(path),
                 "--", "sleep", str(seconds)]  # fmt: skip
    else:
        path = directory / f"{label}.svg"
        words = ["py-spy", "record", "--native", "-p", str(pid), "-o", str(path),
                 "-d", str(seconds), "-r", "500"]  # fmt: skip
    process = start(words, cores=frozenset(range(_cores())), log=log)
    process.wait(seconds + LIMIT_S)
    return path


def _cores() -> int:
    import os

    return os.cpu_count() or 1
