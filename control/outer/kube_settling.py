"""Pure: since when each change has been as it should be.

A cluster says when its API is right; its nodes and proxies learn of it a little later, and do not
say so. After a crash the time begins anew: too long is better than too short.
"""


class Settling:
    """Changes that are right, until they have been for long enough."""

    __slots__ = ("_right_since_s", "_settle_s")

    def __init__(self, settle_s: float) -> None:
        self._settle_s = settle_s
        self._right_since_s: dict[str, float] = {}

    def left_s(self, change: str, now_s: float) -> float:
        """It is right: how long it has still to stay so; 0: it has settled, and is forgotten."""
        left_s = self._right_since_s.setdefault(change, now_s) + self._settle_s - now_s
        if left_s <= 0:
            self.wrong(change)
            return 0.0
        return left_s

    def wrong(self, change: str) -> None:
        """It is not right, or not any more."""
        self._right_since_s.pop(change, None)
