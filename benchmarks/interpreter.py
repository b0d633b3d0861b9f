"""How the interpreter that runs this was built: `python -I benchmarks/interpreter.py`.

An interpreter built with a profile (PGO) is ahead of one that was not by some percent, and the
one that comes first on PATH is often not. `make` asks each candidate and takes the first that is.
Standard library only: candidates have nothing else.

Exit status: 0 built with a profile; 10 not; 11 new enough, but cannot make a venv; another: too
old, or no interpreter.
"""

import importlib.util
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import Final

OLDEST: Final = (3, 11)
OPTIMISED, PLAIN, NO_VENV, TOO_OLD = 0, 10, 11, 12


@dataclass(frozen=True)
class Build:
    """How an interpreter was built."""

    optimised: bool
    how: str
    """What tells."""


def build_of(configure: str, prefix: str, packaged: bool) -> Build:
    """Whether an interpreter was built with a profile, by what it says of its build.

    `configure` is sysconfig's CONFIG_ARGS, `prefix` where it is installed, `packaged` whether
    packages of Debian, or a distribution made from it, are installed there. Those build with a
    profile by their own rules, which CONFIG_ARGS does not show. (PGO_PROF_USE_FLAG does not
    tell: it is the compiler's flag, filled in whether or not it was used.)
    """
    if "--enable-optimizations" in configure:
        return Build(True, "configured with --enable-optimizations")
    if packaged and prefix == "/usr":
        return Build(True, "the distribution's own build")
    return Build(False, "configured without --enable-optimizations")


def this_build() -> Build:
    configure = str(sysconfig.get_config_var("CONFIG_ARGS") or "")
    return build_of(configure, sys.base_prefix, Path("/var/lib/dpkg/status").exists())


def status() -> int:
    if sys.version_info < OLDEST:
        return TOO_OLD
    if not all(map(importlib.util.find_spec, ("ensurepip", "venv"))):
        return NO_VENV
    return OPTIMISED if this_build().optimised else PLAIN


if __name__ == "__main__":
    sys.exit(status())
