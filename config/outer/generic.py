"""Whatever is missing: a web service or a command of one's own that moves the weights."""

from typing import ClassVar, Literal

from turnout.config.knobs import needed
from turnout.config.outer.common import KIND, OuterSection


class Webhook(OuterSection):
    """A web service of one's own."""

    module: ClassVar[str] = "webhook"

    kind: Literal["webhook"] = needed(KIND)


class Command(OuterSection):
    """A program of one's own."""

    module: ClassVar[str] = "command"

    kind: Literal["command"] = needed(KIND)
