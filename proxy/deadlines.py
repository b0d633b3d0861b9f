"""All timeouts of a worker: one deadline a connection, looked at in bulk.

Arming a timer for each request costs more than the request's own parsing, so nothing is
armed: whoever waits writes the moment into `deadline_s`, and a sweep a few times a second
finds those that have passed. A timeout is therefore late by up to `SWEEP_S`, never early.
"""

from collections.abc import Iterable
from typing import Final, Protocol, TypeVar

SWEEP_S: Final = 0.25
REST_S: Final = 1.0
"""A connection that has been quiet for so long gives up what only a request needs: its next one
makes that anew, for about what a request costs while many thousands wait for theirs."""


class Waiting(Protocol):
    deadline_s: float
    """By the worker's clock; 0 is never."""


AnyWaiting = TypeVar("AnyWaiting", bound=Waiting)


class Resting(Protocol):
    @property
    def exchange(self) -> object | None: ...

    ready: bool
    """Nothing under way and nothing buffered."""
    quiet_since_s: float


AnyResting = TypeVar("AnyResting", bound=Resting)


def late(waiting: Iterable[AnyWaiting], now_s: float) -> list[AnyWaiting]:
    """Return those whose deadline has passed."""
    return [one for one in waiting if 0.0 < one.deadline_s <= now_s]


def at_rest(connections: Iterable[AnyResting], now_s: float) -> list[AnyResting]:
    """Return those that have been quiet for `REST_S` and still hold what a request needs."""
    since_s = now_s - REST_S
    return [
        one
        for one in connections
        if one.exchange is not None and one.ready and one.quiet_since_s <= since_s
    ]
