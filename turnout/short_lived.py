"""Processes that live for a moment: they are asked, and answer on their standard output.

What they print goes into memory (memfd_create(2)) and is read once they have ended: so nothing
has to be read meanwhile, and none can fill a pipe.
"""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from typing import Final

from turnout.children import COMPILER_MODULE, Child, environment, python, status_text
from turnout.loop import Loop
from turnout.proxy.commands import EXIT_WRONG_CONFIGURATION, Plan, ProtocolError, decode_plan

COMPILE_LIMIT_S: Final = 60.0
SAID_MAX: Final = 4000
"""Characters of what one said that are kept: its end."""


class NothingStarted(Exception):
    """The configuration is wrong; if the text is empty, what is wrong has been said."""


def compile_plan(options: Sequence[str]) -> Plan:
    """Let the compiler read configuration and store; it says itself what is wrong there.

    Waits for it. Raises NothingStarted when there is no plan.
    """
    try:
        done = subprocess.run(
            python(COMPILER_MODULE, options),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            env=environment(),
            timeout=COMPILE_LIMIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise NothingStarted(
            f"reading the configuration took longer than {COMPILE_LIMIT_S:.0f} s"
        ) from error
    if done.returncode == EXIT_WRONG_CONFIGURATION:
        raise NothingStarted
    try:
        return decode_plan(done.stdout)
    except ProtocolError as error:
        raise NothingStarted(f"no plan was compiled ({status_text(done.returncode)})") from error


class ShortLived:
    """One such process, while the loop turns on."""

    __slots__ = ("_child", "_done", "_errors", "_late", "_limit_s", "_loop", "_output")

    def __init__(
        self,
        loop: Loop,
        module: str,
        arguments: Sequence[str],
        limit_s: float,
        done: Callable[[bytes, str], None],
    ) -> None:
        """Start it. `done` gets its output and nothing, or nothing and why it failed.

        Raises OSError when the system has no room for it.
        """
        self._loop = loop
        self._done = done
        self._limit_s = limit_s
        self._late = False
        self._output = os.memfd_create("turnout-output")
        try:
            self._errors = os.memfd_create("turnout-errors")
        except OSError:
            os.close(self._output)
            raise
        try:
            self._child: Child | None = Child.start(
                module, arguments, time.monotonic(), stdout=self._output, stderr=self._errors
            )
        except OSError:
            self._close()
            raise
        loop.watch(self._child.pidfd, self._ended)
        loop.after(limit_s, self._too_late)

    def stop(self) -> None:
        """End it; `done` is not called any more."""
        self._done = lambda output, error: None
        if self._child is not None:
            self._child.signal(signal.SIGKILL)

    def _too_late(self) -> None:
        if self._child is not None:
            self._late = True
            self._child.signal(signal.SIGKILL)

    def _ended(self) -> None:
        child = self._child
        assert child is not None, "its descriptor was watched"
        self._child = None
        self._loop.unwatch(child.pidfd)
        status = child.reap()
        output, said = _content(self._output), _content(self._errors)
        self._close()
        if status == 0:
            self._done(output, "")
            return
        text = said.decode(errors="replace").strip()[-SAID_MAX:]
        what = f"it took longer than {self._limit_s:g} s" if self._late else status_text(status)
        self._done(b"", text if text and not self._late else f"{what} {text}".strip())

    def _close(self) -> None:
        os.close(self._output)
        os.close(self._errors)


def _content(descriptor: int) -> bytes:
    return os.pread(descriptor, os.fstat(descriptor).st_size, 0)
