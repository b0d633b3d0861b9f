"""Beside pyproject.toml, which says everything else: the data plane can be compiled.

    TURNOUT_COMPILE=1 pip wheel --no-build-isolation --no-deps .

builds a wheel whose hot modules (`tool.turnout.compiled` in pyproject.toml) are C extensions,
made by mypyc from the same sources (docs/decisions/0017). Without the variable nothing here
does anything, and neither mypy nor a compiler is needed. `make compiled` does all of it.
"""

import importlib.util
import os
import shlex
import shutil
import sys
import sysconfig
import tomllib
from pathlib import Path

from setuptools import Extension, setup

HERE = Path(__file__).parent
VARIABLE = "TURNOUT_COMPILE"
BUILDS_MODULES = frozenset({"bdist_wheel", "build", "build_ext", "install"})
"""Commands that need what is compiled; the others (metadata, sdist) only read names."""
IN_PLACE = frozenset({"develop", "editable_wheel"})


def extensions(commands: list[str]) -> list[Extension]:
    """What is to be compiled for these commands of setuptools. Raises SystemExit with what to do
    when that was asked for and cannot be done."""
    asked = os.environ.get(VARIABLE, "0")
    if asked in ("", "0"):
        return []
    if asked != "1":
        raise SystemExit(f"{VARIABLE}={asked}: 1 compiles the data plane, 0 or nothing does not.")
    if IN_PLACE.intersection(commands) or "--inplace" in commands:
        raise SystemExit(
            f"{VARIABLE}=1 makes wheels only: compiled modules in a checkout would be imported "
            "instead of its sources, whatever those say by then. Use `make compiled`, or unset it."
        )
    if not BUILDS_MODULES.intersection(commands):
        return []
    if importlib.util.find_spec("mypyc") is None:
        raise SystemExit(
            f"{VARIABLE}=1 needs mypy, which {sys.executable} does not have. Install "
            "requirements-compile.lock there and build with --no-build-isolation; or unset it, "
            "for the same program in plain Python."
        )
    compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")[0]
    header = Path(sysconfig.get_path("include"), "Python.h")
    if shutil.which(compiler) is None or not header.exists():
        lacks = str(header) if shutil.which(compiler) else f"the compiler {compiler!r}"
        raise SystemExit(
            f"{VARIABLE}=1 needs a C compiler and Python's headers, and {lacks} is missing. On "
            "Debian and Ubuntu: apt install gcc python3-dev; or unset it, for the same program "
            "in plain Python."
        )
    from mypyc.build import mypycify

    known = tomllib.loads((HERE / "pyproject.toml").read_text())
    modules: list[str] = known["tool"]["turnout"]["compiled"]
    paths = [f"{module.replace('.', '/')}.py" for module in modules]
    found: list[Extension] = mypycify(paths, opt_level="3", debug_level="0", group_name="turnout")
    return found


setup(ext_modules=extensions(sys.argv[1:]))
