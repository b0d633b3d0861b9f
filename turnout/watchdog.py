"""Pure: does a worker still turn its loop?

Each worker stores the time of its last tick, some twenty times a second. Whether that still
changes is judged by what the supervisor has seen itself, not by comparing clocks: when the
machine was suspended, or the supervisor stopped (and perhaps everything with it), the time of
the last tick is old, and nothing is wrong.
"""

from dataclasses import dataclass
from typing import Final

LOOK_MAX_S: Final = 1.0
START_LIMIT_S: Final = 60.0
"""A worker that is just starting has imports to do, on a machine that may be busy with all the
others' starts: it is given at least so long for its first tick."""


@dataclass(frozen=True, slots=True)
class Pulse:
    """A worker's sign of life at the last look."""

    heartbeat_us: int
    still_s: float = 0.0
    """For so long it has not changed while somebody was looking."""


def look_every_s(limit_s: float) -> float:
    """How often to look, to find a worker that hangs for `limit_s` not much later."""
    return min(limit_s / 4, LOOK_MAX_S) or LOOK_MAX_S


def felt(before: Pulse, heartbeat_us: int, since_look_s: float, every_s: float) -> Pulse:
    """The pulse at this look, `since_look_s` after the one before.

    Of a look that comes late only twice the usual time (`every_s`) counts: whoever looks may
    have slept, and the worker too.
    """
    if heartbeat_us != before.heartbeat_us:
        return Pulse(heartbeat_us)
    return Pulse(heartbeat_us, before.still_s + min(since_look_s, 2 * every_s))


def hung(pulse: Pulse, limit_s: float, *, starting: bool) -> bool:
    """Whether a worker with this pulse is to be replaced. A limit of 0 is none."""
    if not limit_s:
        return False
    return pulse.still_s >= (max(limit_s, START_LIMIT_S) if starting else limit_s)
