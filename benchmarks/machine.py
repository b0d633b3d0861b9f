"""What a figure depends on: machine, kernel, interpreter and its build, versions."""

import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Final

from benchmarks.interpreter import this_build
from tests import under_test

ROOT: Final = Path(__file__).resolve().parent.parent
DATA_PLANE: Final = "Turnout's data plane"
INTERPRETED: Final = "interpreted"
TOOLS: Final = {"wrk": ("wrk", "-v"), "h2load": ("h2load", "--version")}


@dataclass(frozen=True, slots=True)
class Pinning:
    """Which cores each has. On two cores load and origin share one."""

    proxy: frozenset[int]
    load: frozenset[int]
    origin: frozenset[int]
    spare: frozenset[int] = frozenset()
    """For a second worker."""

    @property
    def for_workers(self) -> frozenset[int]:
        """Of two workers: everywhere, when there is no core for the second one."""
        return self.proxy | self.spare if self.spare else self.everywhere

    @property
    def for_workers_load(self) -> frozenset[int]:
        return self.load if self.spare else self.everywhere

    @property
    def everywhere(self) -> frozenset[int]:
        return self.proxy | self.load | self.origin

    @property
    def separate(self) -> int:
        """So many cores at least as nobody shares with another: as a bar asks for them."""
        if self.proxy & (self.load | self.origin):
            return 1
        if self.load & self.origin:
            return len(self.proxy) + 1
        return len(self.everywhere | self.spare)

    def says(self) -> str:
        def of(cores: frozenset[int]) -> str:
            return ", ".join(map(str, sorted(cores)))

        if self.load == self.origin:
            return f"proxy on core {of(self.proxy)}, load and origin on core {of(self.load)}"
        return (
            f"proxy on core {of(self.proxy)}, load on {of(self.load)}, origin on {of(self.origin)}"
        )


def default_pinning(cores: frozenset[int]) -> Pinning:
    """One core for the proxy, one for the load, a third for the origin where there is one."""
    ordered = sorted(cores)
    proxy, load = frozenset(ordered[:1]), frozenset(ordered[1:2] or ordered[:1])
    return Pinning(proxy, load, frozenset(ordered[2:3]) or load, frozenset(ordered[3:4]))


def facts(pinning: Pinning) -> dict[str, str]:
    """What has to be the same for two runs to be comparable."""
    build = this_build()
    return {
        "processor": _processor(),
        "cores": str(os.cpu_count()),
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
        "system": f"{platform.system()} {platform.release()}",
        "pinning": pinning.says(),
        "interpreter": f"{platform.python_implementation()} {platform.python_version()}, "
        + ("optimised" if build.optimised else "not optimised")
        + f" ({build.how})",
        DATA_PLANE: "compiled by mypyc" if under_test.is_compiled() else INTERPRETED,
    }


def _processor() -> str:
    text = Path("/proc/cpuinfo").read_text()
    found = re.search(r"^model name\s*: (.+)$", text, re.MULTILINE)
    return found[1] if found else platform.machine()


def missing_tools(names: Iterable[str]) -> list[str]:
    """Those programs that are not installed."""
    path = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin"))
    return [name for name in names if shutil.which(name, path=path) is None]


def tool_versions() -> dict[str, str]:
    """Of the programs that make the load, and of what the workers run on."""
    found = {}
    for name, (program, word) in TOOLS.items():
        if shutil.which(program):
            done = subprocess.run([program, word], check=False, capture_output=True, timeout=20)
            match = re.search(r"\d+\.\d+(\.\d+)?", (done.stdout + done.stderr).decode())
            found[name] = match[0] if match else "unknown"
    return found | {name: version(name) for name in ("uvloop", "httptools")}


def commit() -> str:
    """The checkout's commit, with a + when something was changed since; "" where git is not."""
    try:
        words = ["git", "-C", str(ROOT), "describe", "--always", "--dirty=+", "--abbrev=10"]
        return subprocess.run(words, capture_output=True, check=True).stdout.decode().strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
