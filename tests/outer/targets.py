"""All kinds of routers, for the suite that every one of them passes.

Whatever `target_KIND.py` beside this file defines is one of them.
"""

import importlib
import inspect
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tests.outer.target import Target


def _found() -> Iterator[type[Target]]:
    for path in sorted(Path(__file__).parent.glob("target_*.py")):
        module = importlib.import_module(f"tests.outer.{path.stem}")
        for value in vars(module).values():
            mine = getattr(value, "__module__", "") == module.__name__
            if not (mine and isinstance(value, type) and issubclass(value, Target)):
                continue
            if not inspect.isabstract(value):
                yield value


TARGETS: Final[tuple[type[Target], ...]] = tuple(_found())

EACH_KIND: Final[tuple[type[Target], ...]] = (
    TARGETS
    if os.environ.get("TURNOUT_FAULTS") == "all"
    else tuple({kind.kind: kind for kind in reversed(TARGETS)}.values())
)
"""One of each kind, for what takes longer; all of them with TURNOUT_FAULTS=all."""
