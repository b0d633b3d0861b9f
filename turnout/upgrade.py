"""The supervisor becomes the program that is installed now, and nobody notices.

Before: `Departure` has the new program prove itself as a child, then execve keeps the process
id, the children and the descriptors. After: `Succession` starts new workers beside the old
ones, on the same sockets and the same routing words; control is replaced once they have started,
and the old ones leave once the new ones serve. Until then every failure leaves the old workers
serving, and says why.

The order is what keeps promise 3: control knows the workers of the scoreboards that there were
when it started. So the new workers accept nothing before the old control has ended, and no
switchover is watched by one that does not see all who serve.
"""

import os
import secrets
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from turnout.children import COMPILER_MODULE, PROOF_MODULE, SUPERVISOR_MODULE, python
from turnout.control_process import ControlProcess
from turnout.crew import Crew, Worker
from turnout.handover import Handover, handing_over
from turnout.loop import Loop, say
from turnout.proxy.commands import VERSION, Plan, ProtocolError, Upgrade, decode_plan
from turnout.proxy.upgrading import (
    HANDOVER_VERSION,
    PROOF_PREFIX,
    UPGRADE_FILE,
    Proof,
    Step,
    UpgradeState,
    decode_proof,
    encode,
)
from turnout.runtime import RuntimeDirectory, remove_directories
from turnout.short_lived import COMPILE_LIMIT_S, ShortLived

PROOF_LIMIT_S: Final = 60.0
START_LIMIT_S: Final = 30.0
"""For the new workers to load the table in force."""
SERVE_LIMIT_S: Final = 10.0
"""For them to accept, once they have the sockets."""
PROBATION_S: Final = 1.0
"""So long they have to serve before the old ones leave: what dies of its first requests does so
while those can still serve on."""
CONTROL_LIMIT_S: Final = 20.0
"""After which an upgrade whose control is not up is over all the same, and says so."""
POLL_S: Final = 0.01
SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2)
"""That the supervisor obeys."""


class Progress:
    """How far an upgrade has come, in its file, and on stderr when it ends."""

    __slots__ = ("_directory", "state")

    def __init__(self, directory: RuntimeDirectory, state: UpgradeState) -> None:
        self._directory = directory
        self.state = state

    @classmethod
    def begin(cls, directory: RuntimeDirectory, asked: Upgrade) -> "Progress":
        progress = cls(
            directory,
            UpgradeState(
                id=secrets.token_hex(4),
                step=Step.PROVING,
                from_version=asked.version,
                who=asked.who,
                began=time.time(),
            ),
        )
        say("upgrade.begun", who=asked.who, version=asked.version)
        progress._write()
        return progress

    def goes_on(self, step: str, to_version: str = "") -> None:
        self.state = replace(self.state, step=step, to_version=to_version or self.state.to_version)
        self._write()

    def failed(self, error: str) -> None:
        self.state = replace(self.state, step=Step.FAILED, error=error, ended=time.time())
        say("upgrade.failed", reason=error, next="the workers of before serve on")
        self._write()

    def done(self, remark: str, leaving: int) -> None:
        self.state = replace(self.state, step=Step.DONE, remark=remark, ended=time.time())
        facts = {"remark": remark} if remark else {}
        say("upgrade.done", version=self.state.to_version, finishing=leaving, **facts)
        self._write()

    def _write(self) -> None:
        try:
            self._directory.write(UPGRADE_FILE, encode(self.state))
        except OSError as error:
            say("upgrade.not_written", error=error.strerror, next="make room")


class Departure:
    """The old program's part: the proof, and execve."""

    __slots__ = ("_child", "_hand_over", "_options", "_refused", "ended", "progress")

    def __init__(
        self,
        loop: Loop,
        progress: Progress,
        options: Sequence[str],
        runtime_dir: str,
        *,
        hand_over: Callable[[UpgradeState, Proof], Handover],
        refused: Callable[[], str],
    ) -> None:
        """Start the proof. `hand_over` gives what the new program gets, `refused` why it must
        not be now. Raises OSError when the system has no room for the child."""
        self.progress = progress
        self.ended = False
        self._options = list(options)
        self._hand_over = hand_over
        self._refused = refused
        remove_directories(Path(runtime_dir), PROOF_PREFIX)
        arguments = [
            *self._options,
            *("--runtime-dir", runtime_dir),
            *("--messages", str(VERSION)),
            *("--handover", str(HANDOVER_VERSION)),
        ]
        self._child = ShortLived(loop, PROOF_MODULE, arguments, PROOF_LIMIT_S, self._proved)

    def give_up(self, why: str) -> None:
        """Nothing has changed yet."""
        if not self.ended:
            self.ended = True
            self._child.stop()
            self.progress.failed(why)

    def _proved(self, output: bytes, error: str) -> None:
        if error:
            self.give_up(f"the new program did not prove itself: {error}")
            return
        try:
            proof = decode_proof(output)
        except ValueError as fault:
            self.give_up(f"the new program did not prove itself: {fault}")
            return
        self.progress.goes_on(Step.STARTING, proof.version)
        handover = self._hand_over(self.progress.state, proof)
        # From here on a signal would end us, as execve forgets who handles it: it waits.
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            if why := self._refused():
                self.give_up(why)
                return
            sys.stdout.flush()
            sys.stderr.flush()
            with handing_over(handover, os.environ):
                command = python(SUPERVISOR_MODULE, self._options)
                os.execve(command[0], command, os.environ)
        except OSError as fault:
            self.give_up(f"the new program cannot be started: {fault}")
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


class Succession:
    """The new program's part: new workers, new control; then the old ones leave."""

    __slots__ = (
        "_connected", "_control", "_control_replaced", "_crew", "_deadline_s", "_finish",
        "_go_back", "_loop", "_options", "_put_in_force", "_remark", "_watchdog_s", "ended",
        "new_scoreboard", "progress", "workers",
    )  # fmt: skip

    def __init__(
        self,
        loop: Loop,
        crew: Crew,
        control: ControlProcess,
        progress: Progress,
        options: Sequence[str],
        workers: int,
        *,
        connected: Callable[[], bool],
        put_in_force: Callable[[Plan], str],
        finish: Callable[[], None],
    ) -> None:
        """`connected` is whether control is, `put_in_force` uses a new plan and gives the error
        if it cannot be; `finish` is called at the end, whichever it is."""
        self._loop = loop
        self._crew = crew
        self._control = control
        self._connected = connected
        self._put_in_force = put_in_force
        self._finish = finish
        self._options = list(options)
        self._remark = ""
        self._deadline_s = 0.0
        self._control_replaced = False
        self._go_back = 0
        self._watchdog_s = 0.0
        self.progress = progress
        self.workers = workers
        self.ended = False
        self.new_scoreboard = False
        """Whether one was made, which the control of before does not know."""

    def begin(self, workers_before: int, watchdog_s: float, error: str) -> None:
        """Start the new workers; they accept nothing yet. `error`: why they cannot be."""
        self._go_back, self._watchdog_s = workers_before, watchdog_s
        if error:
            self.give_up(error)
            return
        self._crew.died = self._died
        self._crew.hold_back()
        self._crew.want(self.workers, watchdog_s)
        self._wait(START_LIMIT_S)
        self._look_whether_started()

    def give_up(self, why: str) -> None:
        """The old workers serve on, the new ones leave."""
        if self.ended:
            return
        self._end()
        self._crew.go_back(self._go_back, self._watchdog_s)
        if self.new_scoreboard and not self._control_replaced:
            # Whoever is started from now on counts in one that this control does not read.
            self._control.replace()
        else:
            # It was stopped; or it was waiting for its next start when the program changed.
            self._control.start_anew()
        self.progress.failed(why)
        self._finish()

    def _end(self) -> None:
        self.ended = True
        self._crew.died = None

    def _wait(self, limit_s: float) -> None:
        self._deadline_s = time.monotonic() + limit_s

    @property
    def _late(self) -> bool:
        return time.monotonic() > self._deadline_s

    def _died(self, worker: Worker, status: str) -> None:
        # Not from within the crew's own account of that death.
        why = (
            f"a worker of the new program died ({status}): worker {worker.number}, process "
            f"{worker.child.pid}; the log has its last words"
        )
        self._loop.after(0.0, lambda: self.give_up(why))

    def _look_whether_started(self) -> None:
        if self.ended:
            return
        if self._crew.started >= self.workers:
            self._control_replaced = True
            self.progress.goes_on(Step.REPLACING)
            self._control.stop(self._control_is_gone)
        elif self._late:
            self.give_up(
                f"{self.workers - self._crew.started} of {self.workers} workers of the new "
                f"program had not started within {START_LIMIT_S:g} s"
            )
        else:
            self._loop.after(POLL_S, self._look_whether_started)

    def _control_is_gone(self) -> None:
        if self.ended:
            return
        self._crew.give_sockets()
        self._wait(SERVE_LIMIT_S)
        self._look_whether_serving()

    def _look_whether_serving(self) -> None:
        if self.ended:
            return
        if self._crew.serving >= self.workers:
            self._compile()
        elif self._late:
            self.give_up(
                f"{self.workers - self._crew.serving} of {self.workers} workers of the new "
                f"program did not accept connections within {SERVE_LIMIT_S:g} s"
            )
        else:
            self._loop.after(POLL_S, self._look_whether_serving)

    def _compile(self) -> None:
        """Let the new program read configuration and store, now that nobody else decides."""
        arguments = [*self._options, "--live"]
        try:
            ShortLived(self._loop, COMPILER_MODULE, arguments, COMPILE_LIMIT_S, self._compiled)
        except OSError as error:
            self._compiled(b"", str(error.strerror))
        self._loop.after(PROBATION_S, self._look_whether_done)

    def _compiled(self, output: bytes, error: str) -> None:
        if self.ended:
            return
        if not error:
            try:
                error = self._put_in_force(decode_plan(output))
            except ProtocolError as fault:
                error = str(fault)
        if error:
            self._remark = f"the configuration of before stays in force: {error}"
        self._control.start_anew()
        self._control_replaced = False
        self._wait(CONTROL_LIMIT_S)

    def _look_whether_done(self) -> None:
        """They have served for a while, and control is up: the old workers may go."""
        if self.ended:
            return
        # Not before there is a plan: control is started with it, and by nobody else.
        wait = self._control_replaced or not (self._connected() or self._late)
        if not wait and not self._crew.turning:
            # One that hangs is killed by the watchdog, if there is one; its death ends this.
            if self._late:
                self.give_up("a worker of the new program does not turn its loop any more")
                return
            wait = True
        if wait:
            self._loop.after(POLL_S, self._look_whether_done)
            return
        if not self._connected():
            self._remark += " control is not up yet; the log says why"
        self._end()
        self._crew.let_go_of_before()
        self.progress.done(self._remark.strip(), self._crew.leaving)
        self._finish()


def forget_unfinished(directory: RuntimeDirectory, state: UpgradeState | None) -> None:
    """An upgrade whose supervisor was killed is over: it failed."""
    if state is not None and state.under_way:
        Progress(directory, state).failed("the supervisor ended meanwhile")
