"""The supervisor: opens the sockets, starts the others, replaces whichever dies.

`turnout run` becomes this process by execv. It is tiny on purpose: the standard library and
the contract modules alone, one thread. It parses neither requests nor YAML and makes no
decision, so that it has no reason to crash. What it has to know is in the plan, which a
short-lived child compiles (`turnout.control.compiler`).

In reading order: this file; `runtime` (the runtime directory and its shared files),
`listening` (the sockets), `crew` (the workers), `watchdog` (whether they hang), `children`
(processes), `supervisor_socket` (what control asks), `loop`.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

from turnout import descriptors
from turnout.children import (
    COMPILER_MODULE,
    CONTROL_MODULE,
    Backoff,
    Child,
    environment,
    python,
    status_text,
)
from turnout.crew import Crew, live_workers
from turnout.listening import (
    ListenError,
    ListeningSockets,
    handed_over_by_systemd,
    refuse_if_in_use,
)
from turnout.loop import Loop, say
from turnout.proxy.commands import (
    CONTROL_LOCK_FILE,
    EXIT_WRONG_CONFIGURATION,
    LISTENING_FILE,
    PLAN_FILE,
    Answer,
    ApplyPlan,
    Message,
    Plan,
    ProtocolError,
    ReplaceWorker,
    Upgrade,
    decode_plan,
    encode_plan,
    program_generation,
)
from turnout.runtime import RuntimeDirectory, RuntimeDirectoryError, SharedFiles
from turnout.supervisor_socket import Reply, SupervisorSocket

COMPILE_LIMIT_S: Final = 60.0
READY_LIMIT_S: Final = 10.0
"""So long the line that says what is served waits for control; traffic does not wait."""
WORKERS_FIRST_S: Final = 1.0
"""So long control's first start waits for the workers to serve: it needs four times a worker's
time to import what it needs, which traffic would wait for where all cores are in use."""
RELOAD_LIMIT_S: Final = 10.0
"""After which a reload that changed nothing is over for systemd."""
STOP_MARGIN_S: Final = 2.0
"""Beyond the plan's shutdown time, before a worker that has not ended is killed."""
CONTROL_STOP_S: Final = 5.0
POLL_S: Final = 0.01
READ_BYTES: Final = 65536


class NothingStarted(Exception):
    """The configuration is wrong; if the text is empty, what is wrong has been said."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until SIGTERM or SIGINT (0); 2 when the configuration is wrong or a port in use."""
    options = list(sys.argv[1:] if arguments is None else arguments)
    limit = descriptors.raise_limit()
    try:
        supervisor = Supervisor(options, limit)
    except (NothingStarted, RuntimeDirectoryError, ListenError, OSError) as error:
        if str(error):
            print(f"turnout: {error}", file=sys.stderr, flush=True)
        return EXIT_WRONG_CONFIGURATION
    supervisor.run()
    return 0


def compile_plan(options: Sequence[str]) -> Plan:
    """Let the compiler read configuration and store; it says itself what is wrong there.

    Raises NothingStarted when there is no plan.
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


class Supervisor:
    __slots__ = (
        "_control", "_control_backoff", "_crew", "_directory", "_generation", "_loop", "_plan",
        "_reload_waits", "_reloading", "_shared", "_signals", "_socket", "_sockets", "_stopping",
    )  # fmt: skip

    def __init__(self, options: Sequence[str], descriptors_max: int) -> None:
        """Compile the plan, take the directory, open the sockets; nothing is started yet.
        `descriptors_max` is what this process and its children may open; 0 is no limit.

        Raises NothingStarted, RuntimeDirectoryError, ListenError or OSError.
        """
        plan = compile_plan(options)
        self._directory = RuntimeDirectory(Path(plan.runtime_dir))
        if self._directory.warning:
            say("runtime_dir.on_disk", warning=self._directory.warning)
        if _stop_control_of_before(self._directory.path):
            # It may have decided something after we compiled and before it ended.
            plan = compile_plan(options)
        if plan.degraded:
            say("plan.degraded", reason=plan.degraded)
        few = descriptors.too_few(descriptors_max, plan.table, plan.workers, len(plan.binds))
        if few:
            say("descriptors.too_few", **few)
        refuse_if_in_use(plan.control_bind)
        self._plan = plan
        before = live_workers(self._directory.path, time.monotonic())
        self._shared = SharedFiles(self._directory.path, plan, taken_over=bool(before))
        # The ports of workers that are still alive are in use, by us.
        self._sockets = ListeningSockets(handed_over_by_systemd(os.environ), may_share=bool(before))
        self._sockets.change(plan.binds, plan.workers)
        for address in self._sockets.handed_over_unused:
            say("socket.unused", address=address, next="add a listener with this bind")
        self._shared.begin(self._directory, plan, taken_over=bool(before))

        self._loop = Loop()
        self._generation = program_generation()
        self._crew = Crew(
            self._loop, self._directory, self._shared.scoreboard, self._sockets, self._generation
        )
        self._crew.take_over(before)
        self._control: Child | None = None
        self._control_backoff = Backoff()
        self._reloading = False
        self._reload_waits = False
        self._stopping = False
        self._signals = self._watch_signals()
        self._socket = SupervisorSocket(
            self._loop, self._directory, asked=self._asked, connected=self._control_connected
        )

    # ------------------------------------------------------------ life

    def run(self) -> None:
        """Start everything, and serve until told to stop and everything has ended."""
        self._write_down()
        self._crew.want(self._plan.workers, self._plan.watchdog_s)
        self._loop.after(WORKERS_FIRST_S, self._start_control)
        self._look_whether_serving(time.monotonic())
        while not self._stopping or self._crew.alive:
            self._loop.turn()
        # After the workers: it writes the last of their access log.
        self._stop_control()
        while self._control is not None:
            self._loop.turn()
        self._sockets.close()
        self._socket.close()
        for name in (LISTENING_FILE, PLAN_FILE):
            self._directory.remove(name)

    def _look_whether_serving(self, begun_s: float) -> None:
        """As soon as our workers serve, those of before may go, and control may take its time."""
        if self._stopping:
            return
        if self._crew.serving < self._plan.workers:
            self._loop.after(POLL_S, lambda: self._look_whether_serving(begun_s))
            return
        self._crew.let_go_of_before()
        self._start_control()
        self._say_when_ready(begun_s)

    def _say_when_ready(self, begun_s: float) -> None:
        late = time.monotonic() - begun_s > READY_LIMIT_S
        if self._stopping:
            return
        if not self._socket.in_use and not late:
            self._loop.after(POLL_S, lambda: self._say_when_ready(begun_s))
            return
        where = ", ".join(self._sockets.addresses().values())
        workers = f"{self._plan.workers} worker{'s' if self._plan.workers != 1 else ''}"
        control = f"on {self._plan.control_bind}" if self._socket.in_use else "is not up yet"
        print(f"turnout: serving on {where} ({workers}), control {control}", file=sys.stderr)
        sys.stderr.flush()
        _notify("READY=1")

    def _watch_signals(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        theirs.setblocking(False)
        signal.set_wakeup_fd(theirs.detach(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            # What is to be done is done in the loop, from the wake-up byte.
            signal.signal(number, lambda *_: None)
        self._loop.watch(ours.fileno(), self._signalled)
        return ours

    def _signalled(self) -> None:
        for number in self._signals.recv(READ_BYTES):
            if number == signal.SIGHUP:
                self._reload()
            elif number in (signal.SIGTERM, signal.SIGINT):
                self._stop()

    def _reload(self) -> None:
        """Control reads the configuration and asks for what changes here."""
        if self._control is None or not self._socket.in_use:
            # It would die of a signal that it has no handler for yet.
            self._reload_waits = True
            say("reload.waits", reason="control is not up yet")
            return
        self._reloading = True
        _notify(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")
        self._control.signal(signal.SIGHUP)
        self._loop.after(RELOAD_LIMIT_S, self._reloaded)

    def _reloaded(self) -> None:
        if self._reloading:
            self._reloading = False
            _notify("READY=1")

    def _stop(self) -> None:
        if self._stopping:
            self._crew.kill()
            if self._control is not None:
                self._control.signal(signal.SIGKILL)
            return
        self._stopping = True
        _notify("STOPPING=1")
        self._crew.stop()
        if self._plan.shutdown_s:  # 0 is no limit
            self._loop.after(self._plan.shutdown_s + STOP_MARGIN_S, self._crew.kill)

    # ------------------------------------------------------------ control

    def _start_control(self) -> None:
        if self._stopping or self._control is not None:
            return
        arguments = [
            *self._plan.control_argv,
            *("--runtime-dir", str(self._directory.path)),
            *("--generation", self._generation),
        ]
        try:
            self._control = Child.start(CONTROL_MODULE, arguments, time.monotonic())
        except OSError as error:
            delay_s = self._control_backoff.delay_s(0.0, None) or Backoff.FIRST_S
            say("control.not_started", error=error.strerror, again_in_s=delay_s)
            self._loop.after(delay_s, self._start_control)
            return
        self._loop.watch(self._control.pidfd, self._control_ended)

    def _control_ended(self) -> None:
        child = self._control
        assert child is not None, "its descriptor was watched"
        self._loop.unwatch(child.pidfd)
        status = child.reap()
        self._control = None
        if self._stopping:
            return
        delay_s = self._control_backoff.delay_s(time.monotonic() - child.started_s, status)
        say("control.died", pid=child.pid, status=status_text(status), again_in_s=delay_s)
        self._loop.after(delay_s, self._start_control)

    def _stop_control(self) -> None:
        if self._control is not None:
            self._control.signal(signal.SIGTERM)
            self._loop.after(CONTROL_STOP_S, self._kill_control)

    def _kill_control(self) -> None:
        if self._control is not None:
            self._control.signal(signal.SIGKILL)

    def _control_connected(self) -> None:
        if self._reload_waits:
            self._reload_waits = False
            self._reload()

    def _asked(self, message: Message, reply: Reply) -> None:
        if isinstance(message, ApplyPlan):
            reply(Answer(message.request, self._apply(message)))
        elif isinstance(message, ReplaceWorker):
            self._replace(message, reply)
        elif isinstance(message, Upgrade):
            reply(Answer(message.request, "not in this version"))

    def _replace(self, message: ReplaceWorker, reply: Reply) -> None:
        done = Answer(message.request)
        if not self._crew.replace(message.region, lambda: reply(done)):
            reply(Answer(message.request, f"region {message.region} has no worker"))
        else:
            say("worker.replaced", region=message.region, reason=message.reason)

    def _apply(self, message: ApplyPlan) -> str:
        """Use a new plan's binds and workers; the error, if it cannot be, and then nothing is
        changed."""
        try:
            plan = decode_plan(json.dumps(message.plan).encode())
        except ProtocolError as error:
            return str(error)
        if self._stopping:
            return "turnout is stopping"
        if plan.runtime_dir != self._plan.runtime_dir:
            return "runtime_dir changes with a restart only"
        if not self._crew.room_for(plan.workers):
            regions = self._shared.scoreboard.geometry.regions
            return (
                f"workers is {plan.workers}, and there is room for {regions}, those that are "
                f"still finishing included. Restart Turnout for more"
            )
        try:
            unwanted = self._sockets.change(plan.binds, plan.workers)
        except ListenError as error:
            return str(error)
        # What the supervisor took from the first plan stays until a restart.
        self._plan = replace(plan, control_argv=self._plan.control_argv)
        self._crew.send_sockets()
        for entry in unwanted:
            entry.close()
        self._crew.want(plan.workers, plan.watchdog_s)
        self._write_down()
        self._reloaded()
        return ""

    def _write_down(self) -> None:
        """The plan in force, for control's next start, and where is listened: a port of 0 was
        chosen by the system."""
        document = {"listeners": self._sockets.addresses(), "pid": os.getpid()}
        try:
            self._directory.write(PLAN_FILE, encode_plan(self._plan))
            self._directory.write(LISTENING_FILE, json.dumps(document).encode())
        except OSError as error:
            say("plan.not_written", error=error.strerror, next="make room, then reload")


def _stop_control_of_before(runtime_dir: Path) -> bool:
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
    ended.after(CONTROL_STOP_S, lambda: child.signal(signal.SIGKILL))
    child.signal(signal.SIGTERM)
    while not gone:
        ended.turn()
    child.reap()
    return True


def _notify(state: str) -> None:
    """Tell systemd, if it wants to know. Source: sd_notify(3)."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address:
        if address.startswith("@"):
            address = "\0" + address[1:]
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notifier, suppress(OSError):
            notifier.sendto(state.encode(), address)


if __name__ == "__main__":
    sys.exit(main())
