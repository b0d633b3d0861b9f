"""All kinds of routers, for the suite that every one of them passes."""

from typing import Final

from tests.outer.target import Target

TARGETS: Final[tuple[type[Target], ...]] = ()
