"""Processes that the supervisor starts, watches by pidfd, and talks to.

Each lives in a session of its own, so that a terminal's Ctrl-C or hang-up reaches the
supervisor only, and survives the supervisor's death.
"""

import os
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from turnout.proxy.commands import EXIT_OTHER_GENERATION, Sockets, encode, frame

WORKER_MODULE: Final = "turnout.proxy.worker"
CONTROL_MODULE: Final = "turnout.control.app"
COMPILER_MODULE: Final = "turnout.control.compiler"
PROOF_MODULE: Final = "turnout.control.proof"
SUPERVISOR_MODULE: Final = "turnout.supervisor"

DESCRIPTORS_MAX: Final = 200
"""In one message; the kernel's SCM_MAX_FD is 253."""
_OURS: Final = (
    "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC",
)  # fmt: skip


def python(module: str, arguments: Sequence[str]) -> list[str]:
    """The command line of one of our modules. `-P`: no file of the user's working directory
    may shadow a module."""
    return [sys.executable, "-P", "-m", module, *arguments]


def environment() -> dict[str, str]:
    """The environment of children: without what systemd meant for the supervisor alone."""
    return {name: value for name, value in os.environ.items() if name not in _OURS}


class Child:
    """A process that is watched: started by us, or found alive (`adopt`)."""

    __slots__ = ("_process", "pid", "pidfd", "started_s")

    def __init__(self, pid: int, pidfd: int, started_s: float) -> None:
        self.pid = pid
        self.pidfd = pidfd
        """Readable once the process has ended."""
        self.started_s = started_s
        self._process: subprocess.Popen[bytes] | None = None

    @classmethod
    def start(
        cls,
        module: str,
        arguments: Sequence[str],
        now_s: float,
        pass_fds: Sequence[int] = (),
        *,
        stdout: int | None = None,
        stderr: int | None = None,
    ) -> "Child":
        """Start a module. Raises OSError when the system has no room for a process."""
        process = subprocess.Popen(
            python(module, arguments),
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            env=environment(),
            pass_fds=pass_fds,
            start_new_session=True,
        )
        try:
            pidfd = os.pidfd_open(process.pid)
        except OSError:
            process.kill()  # one that cannot be watched must not be
            process.wait()
            raise
        child = cls(process.pid, pidfd, now_s)
        child._process = process
        return child

    @classmethod
    def adopt(cls, pid: int, module: str, runtime_dir: Path, now_s: float) -> "Child | None":
        """Watch a process of an earlier supervisor, or None when `pid` is not (any more) one.

        Never touch a foreign process: the number may have been given to another since.
        """
        if pid <= 1:
            return None
        try:
            pidfd = os.pidfd_open(pid)
        except OSError:
            return None
        # Read after the pidfd was opened, and it is still alive then: so it is the same.
        if is_ours(pid, module, runtime_dir):
            with suppress(OSError):
                signal.pidfd_send_signal(pidfd, 0)
                return cls(pid, pidfd, now_s)
        os.close(pidfd)
        return None

    def signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, number)

    def reap(self) -> int | None:
        """Close the watch of an ended process; its exit status as `Popen.returncode` has it,
        None for one that was not our child."""
        try:
            if self._process is not None:
                return self._process.wait()
            # Started before an upgrade: our child still, as this is the same process.
            ended = os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED)
        except ChildProcessError:
            return None
        finally:
            os.close(self.pidfd)
        if ended is None:
            return None
        return ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status


def is_ours(pid: int, module: str, runtime_dir: Path) -> bool:
    """Whether `pid` runs `module` for this runtime directory."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return module.encode() in words and os.fsencode(runtime_dir) in words


def status_text(status: int | None) -> str:
    """An exit status for people."""
    if status is None:
        return "ended"
    if status < 0:
        try:
            return f"killed by {signal.Signals(-status).name}"
        except ValueError:
            return f"killed by signal {-status}"
    if status == EXIT_OTHER_GENERATION:
        return f"exit {status}: another version of turnout is installed"
    return f"exit {status}"


class Backoff:
    """How long to wait before the next start: not at all the first time, longer and longer
    while it dies soon after each start."""

    __slots__ = ("_soon",)

    LONG_ENOUGH_S: Final = 10.0
    FIRST_S: Final = 0.1
    LONGEST_S: Final = 5.0

    def __init__(self) -> None:
        self._soon = 0

    def delay_s(self, lived_s: float, status: int | None) -> float:
        if status == EXIT_OTHER_GENERATION:
            # It stays so until someone upgrades or puts the old program back.
            return 2 * self.LONGEST_S
        if lived_s >= self.LONG_ENOUGH_S:
            self._soon = 0
        self._soon += 1
        if self._soon == 1:
            return 0.0
        return min(self.FIRST_S * 2.0 ** min(self._soon - 2, 16), self.LONGEST_S)


class Link:
    """The supervisor's end of a worker's socket pair. Never blocks: what a stuck worker does
    not take is kept until it does."""

    __slots__ = ("_queue", "socket")

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self.socket = end
        self._queue: deque[tuple[bytes, list[int]]] = deque()

    def send(self, sockets: Sequence[tuple[dict[str, object], int]]) -> None:
        """Send the whole set of listening sockets, each as (what it is, descriptor).

        Raises OSError when there are no descriptors left, and then nothing is sent.
        """
        # Copies: the set may have changed again before a stuck worker takes them.
        copies: list[int] = []
        try:
            copies.extend(os.dup(descriptor) for _, descriptor in sockets)
        except OSError:
            for copy in copies:
                os.close(copy)
            raise
        for start in range(0, max(len(sockets), 1), DESCRIPTORS_MAX):
            end = start + DESCRIPTORS_MAX
            message = Sockets([entry for entry, _ in sockets[start:end]], more=end < len(sockets))
            self._queue.append((frame(encode(message)), copies[start:end]))
        self.flush()

    def flush(self) -> bool:
        """Send what the worker takes; whether anything is left for later."""
        while self._queue:
            data, descriptors = self._queue[0]
            try:
                sent = socket.send_fds(self.socket, [data], descriptors)
            except BlockingIOError:
                return True
            except OSError:
                # The worker is gone: its pidfd says so too, and its successor gets them anew.
                self._drop()
                return False
            for descriptor in descriptors:
                os.close(descriptor)
            if sent < len(data):
                self._queue[0] = (data[sent:], [])  # the descriptors went with the first byte
            else:
                self._queue.popleft()
        return False

    def _drop(self) -> None:
        for _, descriptors in self._queue:
            for descriptor in descriptors:
                os.close(descriptor)
        self._queue.clear()

    @property
    def waiting(self) -> bool:
        """Whether something is left to be sent."""
        return bool(self._queue)

    def close(self) -> None:
        self._drop()
        self.socket.close()
