"""Requests that wait while a service is held: bounded in number and in time.

A held request has been accepted and has no upstream yet; it chooses when it is let go, so it
goes where the routing word points then.
"""

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from turnout.proxy.exchange import Exchange


class Held:
    """The held requests of one service in one worker, first come, first let go."""

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        self._waiting: deque[Exchange] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, exchange: "Exchange") -> None:
        self._waiting.append(exchange)

    def remove(self, exchange: "Exchange") -> None:
        """The client went away, or the wait was too long."""
        if exchange in self._waiting:
            self._waiting.remove(exchange)

    def release_all(self) -> None:
        """Let each choose again. One that has to be held again goes to the end of a new queue."""
        waiting, self._waiting = self._waiting, deque()
        for exchange in waiting:
            exchange.pick()


def share(requests: int, workers: int) -> int:
    """How many of the service's `requests` one of `workers` may hold, rounded up."""
    return -(-requests // max(1, workers))
