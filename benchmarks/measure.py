"""What processes cost: CPU time in microseconds and resident memory, from /proc."""

import contextlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_FIELD: Final = re.compile(r"^(Rss|Pss): +(\d+) kB", re.MULTILINE)


def cpu_us(pids: Iterable[int]) -> float:
    """CPU time that all threads of the processes have had, in microseconds.

    From `schedstat`, which counts nanoseconds; `stat` has ticks of 10 ms. A thread that has
    ended is not in it: proxies keep theirs.
    """
    total_ns = 0
    for pid in pids:
        for task in Path("/proc").glob(f"{pid}/task/*"):
            with contextlib.suppress(OSError):  # it ended meanwhile
                total_ns += int((task / "schedstat").read_text().split()[0])
    return total_ns / 1e3


@dataclass(frozen=True, slots=True)
class Memory:
    rss_bytes: int
    pss_bytes: int
    """With pages that several processes share divided among them."""

    @property
    def rss_mib(self) -> float:
        return self.rss_bytes / 1048576

    @property
    def pss_mib(self) -> float:
        return self.pss_bytes / 1048576


def memory(pids: Iterable[int]) -> Memory:
    """Resident memory of the processes together; one that has ended has none."""
    sums = {"Rss": 0, "Pss": 0}
    for pid in pids:
        try:
            text = (Path("/proc") / str(pid) / "smaps_rollup").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        for name, kib in _FIELD.findall(text):
            sums[name] += int(kib) * 1024
    return Memory(sums["Rss"], sums["Pss"])
