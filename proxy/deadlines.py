"""All timeouts of a worker: one deadline a connection, looked at in bulk.

Arming a timer for each request costs more than the request's own parsing, so nothing is
armed: whoever waits writes the moment into `deadline_s`, and a sweep a few times a second
finds those that have passed. A timeout is therefore late by up to `SWEEP_S`, never early.
"""

from collections.abc import Iterable
from typing import Final, Protocol, TypeVar

SWEEP_S: Final = 0.25


class Waiting(Protocol):
    deadline_s: float
    """By the worker's clock; 0 is never."""


AnyWaiting = TypeVar("AnyWaiting", bound=Waiting)


def late(waiting: Iterable[AnyWaiting], now_s: float) -> list[AnyWaiting]:
    """Return those whose deadline has passed."""
    return [one for one in waiting if 0.0 < one.deadline_s <= now_s]
