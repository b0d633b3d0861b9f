"""Pure: what processes take up over time -> a curve for people, and whether it is flat.

A process that leaks takes up ever more; one that is only busy goes up and down. So both are asked:
whether the line through all points rises, and whether the lowest points do. What the first part of a
process's life takes up (caches, pools, the allocator's arenas) is not growth: it is left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import linear_regression
from typing import Final

from loadtests.inside import Use

WARM_FRACTION: Final = 0.3
"""Of a process's life, left out."""
POINTS_MIN: Final = 90
"""Of a process that lived shorter nothing is said."""
BARS: Final = "▁▂▃▄▅▆▇█"
MIB: Final = 1 << 20

RSS_GROWTH_BYTES: Final = 6 * MIB
"""From the warm part's beginning to the end, however long that is: what is not a leak shows less."""
RSS_GROWTH_FRACTION: Final = 0.1
DESCRIPTORS_GROWTH: Final = 12


@dataclass(slots=True)
class Curve:
    """One process, as it was sampled: seconds since the run's beginning, and what it took up."""

    role: str
    pid: int
    at_s: list[float] = field(default_factory=list)
    uses: list[Use] = field(default_factory=list)

    def add(self, at_s: float, use: Use) -> None:
        self.at_s.append(at_s)
        self.uses.append(use)


@dataclass(frozen=True, slots=True)
class Growth:
    """Of one quantity of one process, while it was warm."""

    first: float
    """The lowest in the first third."""
    last: float
    """The lowest in the last third."""
    per_hour: float
    """Of the line through all points."""
    by_line: float
    """What that makes in the time that was looked at."""

    def flat(self, allowed: float) -> bool:
        return self.last - self.first <= allowed or self.by_line <= allowed


def growth(at_s: Sequence[float], values: Sequence[float]) -> Growth | None:
    """None when there are too few points to say."""
    if len(values) < POINTS_MIN:
        return None
    warm = round(len(values) * WARM_FRACTION)
    at_s, values = at_s[warm:], values[warm:]
    third = len(values) // 3
    span_s = at_s[-1] - at_s[0]
    slope, _ = linear_regression(at_s, values)
    return Growth(min(values[:third]), min(values[-third:]), slope * 3600, slope * span_s)


def not_flat(curve: Curve) -> list[str]:
    """What grows, in words."""
    found = []
    rss = growth(curve.at_s, [float(use.rss_bytes) for use in curve.uses])
    if rss and not rss.flat(max(RSS_GROWTH_BYTES, RSS_GROWTH_FRACTION * rss.first)):
        found.append(
            f"{curve.role} ({curve.pid}): memory grew from {rss.first / MIB:.1f} to "
            f"{rss.last / MIB:.1f} MiB, {rss.per_hour / MIB:+.1f} MiB an hour"
        )
    descriptors = growth(curve.at_s, [float(use.descriptors) for use in curve.uses])
    if descriptors and not descriptors.flat(DESCRIPTORS_GROWTH):
        found.append(
            f"{curve.role} ({curve.pid}): descriptors grew from {descriptors.first:.0f} to "
            f"{descriptors.last:.0f}, {descriptors.per_hour:+.0f} an hour"
        )
    return found


def sparkline(values: Sequence[float], width: int = 14) -> str:
    """The values as bars, from 0 up, so that what is flat looks flat."""
    if not values:
        return ""
    groups = min(width, len(values))
    means = []
    for index in range(groups):
        part = values[index * len(values) // groups : (index + 1) * len(values) // groups]
        means.append(sum(part) / len(part))
    top = max(means) or 1.0
    return "".join(BARS[min(int(mean / top * len(BARS)), len(BARS) - 1)] for mean in means)
