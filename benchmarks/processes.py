"""Processes of a run: pinned at their start, told apart by who started them, ended by id."""

import contextlib
import os
import resource
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

LOG_TAIL: Final = 2000
STOP_LIMIT_S: Final = 15.0


class HarnessError(Exception):
    """Something of the harness or of a proxy did not do as it should; the text says which."""


def raise_descriptor_limit() -> int:
    """Use what the system allows this user, for the processes that are started too."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def start(
    command: Sequence[str | Path],
    *,
    cores: frozenset[int],
    log: Path,
    environment: Mapping[str, str] | None = None,
    stdin: int = subprocess.DEVNULL,
    stdout: int | None = None,
) -> subprocess.Popen[bytes]:
    """Start a process that runs on `cores` only, in a session of its own.

    What it says goes to `log`, its standard output only without `stdout`.
    """
    before = os.sched_getaffinity(0)
    with log.open("ab") as file:
        # A child inherits the affinity of the thread that starts it: nothing runs in between
        # fork and exec, which other threads of this process could disturb.
        os.sched_setaffinity(0, cores)
        try:
            return subprocess.Popen(
                [os.fspath(word) for word in command],
                stdin=stdin, stdout=file if stdout is None else stdout, stderr=file,
                env={**os.environ, **(environment or {})}, cwd="/", start_new_session=True,
            )  # fmt: skip
        finally:
            os.sched_setaffinity(0, before)


def stop(process: subprocess.Popen[bytes]) -> None:
    """End it and all that it has started: SIGTERM, then SIGKILL for what is still there."""
    family = descendants(process.pid) if process.poll() is None else []
    if process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_LIMIT_S)
    # What is left of them would otherwise go on beside what is measured next.
    left = [pid for pid in family if pid != process.pid and is_there(pid)]
    for pid in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    if process.poll() is None:
        process.kill()
        process.wait()
    wait_until(lambda: not any(map(is_there, left)), "processes that were killed to be gone")
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()


def is_there(pid: int) -> bool:
    """Whether the process runs: one that has ended and is only not yet reaped does not."""
    try:
        stat = (Path("/proc") / str(pid) / "stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def descendants(pid: int) -> list[int]:
    """The process and all that it has started and that are there, itself first."""
    found = [pid]
    with contextlib.suppress(OSError):
        for task in (Path("/proc") / str(pid) / "task").iterdir():
            for child in (task / "children").read_text().split():
                found += descendants(int(child))
    return found


def place(pid: int, cores: frozenset[int]) -> None:
    """Move a process with all its threads to these cores."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(task.name), cores)


def running_module(pids: Sequence[int], module: bytes) -> list[int]:
    """Those of the processes that were started as `python -m module`."""
    found = []
    for pid in pids:
        with contextlib.suppress(OSError):  # it has ended
            if module in (Path("/proc") / str(pid) / "cmdline").read_bytes().split(b"\0"):
                found.append(pid)
    return found


class Ports:
    """Free ports of 127.0.0.1, upwards from a first one; each is given once."""

    def __init__(self, first: int) -> None:
        self._next = first

    def take(self) -> int:
        while True:
            port = self._next
            self._next += 1
            if port > 65_535:
                raise HarnessError("no free port is left")
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                with contextlib.suppress(OSError):
                    probe.bind(("127.0.0.1", port))
                    return port


def wait_until(
    condition: Callable[[], bool], what: str, limit_s: float = 20.0, step_s: float = 0.02
) -> None:
    """Raises HarnessError naming what did not come."""
    deadline_s = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > deadline_s:
            raise HarnessError(f"waited {limit_s:g} s for: {what}")
        time.sleep(step_s)


def tail(log: Path) -> str:
    """The end of what a process said."""
    return log.read_text(errors="replace")[-LOG_TAIL:] if log.exists() else ""
