"""The supervisor's loop: descriptors to watch, things to do later. One thread, no asyncio."""

import heapq
import json
import selectors
import sys
import time
from collections.abc import Callable


def say(event: str, **facts: object) -> None:
    """One event line on stderr: a fixed name, then fields."""
    told = "".join(f" {name}={_value(value)}" for name, value in facts.items())
    print(f"turnout: {event}{told}", file=sys.stderr, flush=True)


def _value(value: object) -> str:
    text = str(value)
    return json.dumps(text) if not text or " " in text or '"' in text else text


class Loop:
    __slots__ = ("_made", "_selector", "_timers")

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._made = 0

    def watch(self, descriptor: int, act: Callable[[], None]) -> None:
        """Call `act` whenever the descriptor is readable."""
        self._selector.register(descriptor, selectors.EVENT_READ, act)

    def unwatch(self, descriptor: int) -> None:
        self._selector.unregister(descriptor)

    def after(self, delay_s: float, act: Callable[[], None]) -> None:
        """Call `act` once, in the next turn at the earliest."""
        self._made += 1  # ties are broken by age: callables cannot be compared
        heapq.heappush(self._timers, (time.monotonic() + delay_s, self._made, act))

    def turn(self) -> None:
        """Wait for something to do, and do it."""
        timeout_s = max(0.0, self._timers[0][0] - time.monotonic()) if self._timers else None
        for key, _ in self._selector.select(timeout_s):
            # Something done in this turn may have ended the watch of a later descriptor.
            if key.fd in self._selector.get_map():
                key.data()
        now_s = time.monotonic()
        while self._timers and self._timers[0][0] <= now_s:
            heapq.heappop(self._timers)[2]()
