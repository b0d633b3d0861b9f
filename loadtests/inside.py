"""What the product's processes are and do, as they can be seen from outside: shared memory, /proc."""

import contextlib
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from turnout.proxy.commands import CONTROL_LOCK_FILE, LISTENING_FILE
from turnout.proxy.scoreboard import (
    R_HEARTBEAT_US,
    R_PID,
    R_STATE,
    R_WORKER,
    Scoreboard,
    SharedMemoryError,
    WorkerState,
)

TICKS_US: Final = 400_000
"""A worker that serves has ticked since."""
PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Use:
    """What one process takes up."""

    rss_bytes: int
    descriptors: int


class Inside:
    """One product, by its runtime directory."""

    def __init__(self, runtime_dir: Path) -> None:
        self._runtime_dir = runtime_dir
        self._scoreboard: Scoreboard | None = None

    def close(self) -> None:
        if self._scoreboard is not None:
            self._scoreboard.memory.close()
            self._scoreboard = None

    def workers(self) -> dict[int, int]:
        """Number -> process id of the workers that serve and turn their loops."""
        return {
            number: pid
            for number, pid, state, heartbeat_us in self._regions()
            if state == WorkerState.SERVING
            and time.monotonic_ns() // 1000 - heartbeat_us < TICKS_US
            and Path(f"/proc/{pid}").exists()
        }

    def leaving(self) -> list[int]:
        """Process ids of workers that were told to leave and have not yet."""
        return [
            pid
            for _, pid, state, _ in self._regions()
            if state == WorkerState.DRAINING and Path(f"/proc/{pid}").exists()
        ]

    def alive(self, pid: int) -> bool:
        """Whether a worker with this process id is there, whatever it does."""
        return Path(f"/proc/{pid}").exists() and any(
            pid == known and state not in (WorkerState.FREE, WorkerState.DEAD)
            for _, known, state, _ in self._regions()
        )

    def _regions(self) -> list[tuple[int, int, int, int]]:
        """(Number, process id, state, heartbeat) of each region."""
        if self._scoreboard is None:
            try:
                self._scoreboard = Scoreboard.open(self._runtime_dir)
            except SharedMemoryError:
                return []
        board = self._scoreboard
        bases = map(board.region, range(board.geometry.regions))
        fields = (R_WORKER, R_PID, R_STATE, R_HEARTBEAT_US)
        found = [tuple(board.words[base + field] for field in fields) for base in bases]
        return [(number, pid, state, heartbeat) for number, pid, state, heartbeat in found]

    @property
    def supervisor(self) -> int:
        found: int = json.loads((self._runtime_dir / LISTENING_FILE).read_bytes())["pid"]
        return found

    @property
    def control(self) -> int:
        """0 when there is none now."""
        try:
            return int((self._runtime_dir / CONTROL_LOCK_FILE).read_text() or 0)
        except (FileNotFoundError, ValueError):
            return 0

    def processes(self) -> dict[str, int]:
        """Role -> process id: supervisor, control, worker 0, …"""
        found = {"supervisor": self.supervisor}
        if pid := self.control:
            found["control"] = pid
        return found | {f"worker {number}": pid for number, pid in sorted(self.workers().items())}


def use_of(pid: int) -> Use | None:
    """What a process takes up now; None when it has ended."""
    with contextlib.suppress(OSError):
        resident = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        return Use(resident * PAGE_BYTES, len(os.listdir(f"/proc/{pid}/fd")))
    return None
