"""Which Turnout is tested: that of this checkout, or one that is installed elsewhere.

With `TURNOUT_UNDER_TEST=/path/to/python` the product's processes are started by that interpreter
and without the checkout on their path (`make test-compiled`). What runs inside the tests is the
checkout's all the same: the scripted servers, and readers of what the processes share.
"""

import functools
import os
import subprocess
import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
VARIABLE: Final = "TURNOUT_UNDER_TEST"
_CHOSEN: Final = os.environ.get(VARIABLE, "")
IS_CHECKOUT: Final = not _CHOSEN
# Not resolved: a link of a virtual environment names the environment.
PYTHON: Final = os.path.abspath(_CHOSEN) if _CHOSEN else sys.executable
"""Starts the product."""

_ORIGIN: Final = "import importlib.util, sys; print(importlib.util.find_spec(sys.argv[1]).origin)"


def python_path(*before: Path | str) -> str:
    """PYTHONPATH of the product's processes: `before`, and the checkout if it is what is tested."""
    paths = map(str, (*before, ROOT) if IS_CHECKOUT else before)
    return os.pathsep.join(path for path in paths if path)


@functools.cache
def origin(module: str) -> Path:
    """The file that a module of what is tested comes from. Raises CalledProcessError without one."""
    done = subprocess.run(
        [PYTHON, "-P", "-c", _ORIGIN, module], env={**os.environ, "PYTHONPATH": python_path()},
        cwd="/", capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    return Path(done.stdout.strip())


def is_compiled() -> bool:
    """Whether what is tested is the compiled build."""
    return not IS_CHECKOUT and origin("turnout.proxy.fast_path").suffix == ".so"
