"""The control process, as the supervisor has it: started, signalled, started again.

It may die at any time without traffic noticing; so it is only started again, ever more slowly
while it dies soon after each start.
"""

import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from turnout.children import CONTROL_MODULE, Backoff, Child, status_text
from turnout.handover import HandedControl
from turnout.loop import Loop, say
from turnout.proxy.commands import CONTROL_LOCK_FILE

STOP_LIMIT_S: Final = 5.0
"""After which a control process that was told to end is killed."""


class ControlProcess:
    """The one control process, or none."""

    __slots__ = ("_arguments", "_backoff", "_child", "_loop", "_stopped")

    def __init__(self, loop: Loop, arguments: Callable[[], Sequence[str]]) -> None:
        """`arguments` gives those of the next start."""
        self._loop = loop
        self._arguments = arguments
        self._child: Child | None = None
        self._backoff = Backoff()
        self._stopped: list[Callable[[], None]] | None = None
        """Called when it has ended; while there is a list it is not started again."""

    @property
    def alive(self) -> bool:
        return self._child is not None

    @property
    def watched(self) -> Child | None:
        """The one that has to turn its loop; None while there is none, or it is ending."""
        return self._child if self._stopped is None else None

    def start(self) -> None:
        """Start it unless it is there, or was stopped; when that fails, try again later."""
        if self._child is not None or self._stopped is not None:
            return
        try:
            self._child = Child.start(CONTROL_MODULE, self._arguments(), time.monotonic())
        except OSError as error:
            delay_s = self._backoff.delay_s(0.0, None) or Backoff.FIRST_S
            say("control.not_started", error=error.strerror, again_in_s=delay_s)
            self._loop.after(delay_s, self.start)
            return
        self._loop.watch(self._child.pidfd, self._ended)

    def inherit(self, handed: HandedControl) -> None:
        """Go on with the one that the program before had started."""
        self._child = Child(handed.pid, handed.pidfd, handed.started_s)
        self._loop.watch(self._child.pidfd, self._ended)

    def handed(self) -> HandedControl | None:
        child = self._child
        if child is None:
            return None
        return HandedControl(child.pid, child.pidfd, child.started_s)

    def _ended(self) -> None:
        child = self._child
        assert child is not None, "its descriptor was watched"
        self._loop.unwatch(child.pidfd)
        status = child.reap()
        self._child = None
        if self._stopped is not None:
            for act in self._stopped:
                act()
            return
        delay_s = self._backoff.delay_s(time.monotonic() - child.started_s, status)
        say("control.died", pid=child.pid, status=status_text(status), again_in_s=delay_s)
        self._loop.after(delay_s, self.start)

    def stop(self, then: Callable[[], None] = lambda: None) -> None:
        """End it for good, or until `start_anew`; `then` is called once it has ended."""
        if self._stopped is None:
            self._stopped = []
        if self._child is None:
            self._loop.after(0.0, then)
            return
        self._stopped.append(then)
        child = self._child
        child.signal(signal.SIGTERM)
        self._loop.after(STOP_LIMIT_S, lambda: self._kill_if(child))

    def replace(self) -> None:
        """End the one that there is; its successor follows as after any end."""
        self._backoff = Backoff()
        child = self._child
        if child is None:
            self.start()
            return
        child.signal(signal.SIGTERM)
        self._loop.after(STOP_LIMIT_S, lambda: self._kill_if(child))

    def start_anew(self) -> None:
        """Start it after a `stop`."""
        self._stopped = None
        self._backoff = Backoff()
        self.start()

    def _kill_if(self, child: Child) -> None:
        if self._child is child:
            child.signal(signal.SIGKILL)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)

    def signal(self, number: signal.Signals) -> None:
        if self._child is not None:
            self._child.signal(number)


def stop_control_of_before(runtime_dir: Path) -> bool:
    """Stop the control process of a dead supervisor, if there is one; whether there was."""
    try:
        pid = int((runtime_dir / CONTROL_LOCK_FILE).read_text() or 0)
    except (FileNotFoundError, ValueError):
        return False
    child = Child.adopt(pid, CONTROL_MODULE, runtime_dir, time.monotonic())
    if child is None:
        return False
    ended = Loop()
    gone: list[bool] = []
    ended.watch(child.pidfd, lambda: gone.append(True))
    ended.after(STOP_LIMIT_S, lambda: child.signal(signal.SIGKILL))
    child.signal(signal.SIGTERM)
    while not gone:
        ended.turn()
    child.reap()
    return True
