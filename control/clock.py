"""Time that nobody sets: the machine's uptime, read as seconds since 1970.

What a switchover waits for is kept in the store as seconds since 1970, so that it survives
control and the machine. But the wall clock jumps: an operator or NTP sets it, and a deadline
that was an hour away has passed, or is a day away. So each switchover has a `Scale` of its own:
how far the wall clock was ahead of the machine's uptime when it began. Its times are of that
scale, whatever the wall clock does, in this control process and in the next one. Only a reboot
makes the uptime begin anew; then the wall clock is all there is.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from turnout.control.state import Scale

_BOOT: Final = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class Clock:
    """What time it is, in three ways."""

    wall: Callable[[], float]
    """Seconds since 1970, as people read them; may jump."""
    uptime: Callable[[], float] = time.monotonic
    """Seconds that never jump, the same for all processes since one boot."""
    boot: str = ""
    """Which boot; empty when nobody knows."""


def now_on(scale: Scale, clock: Clock) -> float:
    """What time it is on a scale that never jumps."""
    return clock.uptime() + scale.ahead_s


def scale_of(clock: Clock, kept: Scale | None = None) -> Scale:
    """The kept scale while its boot lasts; else a new one, that begins with the wall clock."""
    if kept is not None and kept.boot and kept.boot == clock.boot:
        return kept
    return Scale(clock.boot, clock.wall() - clock.uptime())


def boot_id() -> str:
    """Another one after each boot of the machine; empty where the system does not say."""
    try:
        return _BOOT.read_text().strip()
    except OSError:
        return ""
