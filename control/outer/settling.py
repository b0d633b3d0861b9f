"""What a system calls done, and all of it acts on a while later."""

import time
from collections.abc import Callable

from turnout.control.outer.seams import Change, Progress, Verdict


class Settling:
    """When a change that a system calls done may be called in sync: a while later.

    Counted from when it was first seen to be done by this process, for systems that do not say
    when all of their servers have it. So it begins anew after a start, which is longer than need
    be and never shorter.
    """

    __slots__ = ("_change", "_monotonic", "_settle_s", "_since_s")

    def __init__(self, settle_s: float, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._settle_s = settle_s
        self._monotonic = monotonic
        self._change: Change | None = None
        self._since_s = 0.0

    def done(self, change: Change, detail: str) -> Progress:
        """For a change that is done, in sync or still pending."""
        if change != self._change:
            self._change, self._since_s = change, self._monotonic()
        left_s = self._since_s + self._settle_s - self._monotonic()
        if left_s <= 0:
            return Progress(Verdict.IN_SYNC, detail)
        return Progress(Verdict.PENDING, f"{detail}; in sync in {left_s:.0f} s (settle)")
