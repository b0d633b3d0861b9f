"""Does control still turn its loop? One that hangs is killed; its end is as any other.

Traffic does not need control, but a switchover under way does, and so do probes, and whoever
calls the API. Control touches the file that it locks, once a second, from its event loop; a
control that is killed at any moment goes on where it was, so that nothing is lost by it.
"""

import signal
import time
from collections.abc import Callable
from pathlib import Path

from turnout.children import Child
from turnout.loop import Loop, say
from turnout.proxy.commands import CONTROL_LOCK_FILE
from turnout.watchdog import Pulse, felt, hung, look_every_s


class ControlWatch:
    """Looks now and then, for ever."""

    __slots__ = (
        "_begun", "_child", "_limit_s", "_looked_s", "_loop", "_path", "_pulse", "_told", "_watched",
    )  # fmt: skip

    def __init__(
        self,
        loop: Loop,
        runtime_dir: Path,
        child: Callable[[], Child | None],
        limit_s: Callable[[], float],
    ) -> None:
        """`child` gives the control process of now, `limit_s` how long it may stand still (0: for
        ever)."""
        self._loop = loop
        self._path = runtime_dir / CONTROL_LOCK_FILE
        self._child = child
        self._limit_s = limit_s
        self._looked_s = time.monotonic()
        self._watched: Child | None = None
        self._pulse = Pulse(0)
        self._begun = False
        """Whether the one that is watched has ever touched its file."""
        self._told = False
        self._look()

    def _look(self) -> None:
        limit_s, every_s = self._limit_s(), look_every_s(self._limit_s())
        since_s = time.monotonic() - self._looked_s
        self._looked_s += since_s
        child, touched = self._child(), self._touched()
        if child is not self._watched:
            self._watched, self._pulse = child, Pulse(touched)
            self._begun = self._told = False
        elif child is not None:
            self._begun |= touched != self._pulse.heartbeat_us
            self._pulse = felt(self._pulse, touched, since_s, every_s)
            if not self._told and hung(self._pulse, limit_s, starting=not self._begun):
                self._told = True
                reason = f"its loop did not turn for {self._pulse.still_s:.1f} s"
                say("control.hung", pid=child.pid, reason=reason)
                child.signal(signal.SIGKILL)
        self._loop.after(every_s, self._look)

    def _touched(self) -> int:
        """Compared with itself alone: it may be of any clock."""
        try:
            return self._path.stat().st_mtime_ns
        except OSError:
            return 0
