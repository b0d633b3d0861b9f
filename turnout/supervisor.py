"""The supervisor: opens the sockets, starts the others, replaces whichever dies.

`turnout run` becomes this process by execv. It is tiny on purpose: the standard library and
the contract modules alone, one thread. It parses neither requests nor YAML and makes no
decision, so that it has no reason to crash. What it has to know is in the plan, which a
short-lived child compiles (`turnout.control.compiler`).

In reading order: this file; `runtime` (the runtime directory and its shared files),
`listening` (the sockets), `crew` (the workers), `watchdog` and `control_watch` (whether they
hang), `control_process`, `children` and `short_lived` (processes), `supervisor_socket` (what
control asks), `adoption` (what a supervisor that was killed has left), `upgrade` and `handover`
(becoming a newer program), `notify` (systemd), `loop`.
"""

import json
import os
import secrets
import signal
import socket
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Final

from turnout import descriptors
from turnout.adoption import (
    ask_for_sockets,
    live_workers,
    one_set,
    open_scoreboards,
)
from turnout.control_process import ControlProcess, stop_control_of_before
from turnout.control_watch import ControlWatch
from turnout.crew import Crew
from turnout.handover import HandedSocket, Handover, handed_over
from turnout.listening import (
    ListenError,
    ListeningSocket,
    ListeningSockets,
    handed_over_by_systemd,
    refuse_if_in_use,
)
from turnout.loop import Loop, say
from turnout.notify import notify, ready, reloading, stopping, watchdog_interval_s
from turnout.proxy.commands import (
    EXIT_WRONG_CONFIGURATION,
    LISTENING_FILE,
    PLAN_FILE,
    WORKER_PREFIX,
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
from turnout.proxy.scoreboards import Scoreboards
from turnout.proxy.upgrading import PROOF_PREFIX, Proof, UpgradeState, read_state
from turnout.runtime import (
    RuntimeDirectory,
    RuntimeDirectoryError,
    SharedFiles,
    geometry,
    remove_directories,
)
from turnout.short_lived import NothingStarted, compile_plan
from turnout.supervisor_socket import Reply, SupervisorSocket
from turnout.upgrade import SIGNALS, Departure, Progress, Succession, forget_unfinished

READY_LIMIT_S: Final = 10.0
"""So long the line that says what is served waits for control; traffic does not wait."""
WORKERS_FIRST_S: Final = 1.0
"""So long control's first start waits for the workers to serve: it needs four times a worker's
time to import what it needs, which traffic would wait for where all cores are in use."""
RELOAD_LIMIT_S: Final = 10.0
"""After which a reload that changed nothing is over for systemd."""
STOP_MARGIN_S: Final = 2.0
"""Beyond the plan's shutdown time, before a worker that has not ended is killed."""
REFUSE_LIMIT_S: Final = 1.0
"""At a stop, for the workers to stop accepting; one that hangs is not waited for longer."""
REFUSE_POLL_S: Final = 0.005
POLL_S: Final = 0.01
READ_BYTES: Final = 65536


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until SIGTERM or SIGINT (0); 2 when the configuration is wrong or a port in use."""
    options = list(sys.argv[1:] if arguments is None else arguments)
    limit = descriptors.raise_limit()
    try:
        handed = handed_over(os.environ)
        supervisor = Supervisor(options, limit, handed)
    except (NothingStarted, RuntimeDirectoryError, ListenError, OSError, ValueError) as error:
        if str(error):
            print(f"turnout: {error}", file=sys.stderr, flush=True)
        return EXIT_WRONG_CONFIGURATION
    supervisor.run()
    return 0


class Supervisor:
    __slots__ = (
        "_boards", "_control", "_crew", "_departure", "_directory", "_generation", "_loop",
        "_no_room", "_options", "_plan", "_reload_waits", "_reloading", "_shared", "_signals",
        "_socket", "_sockets", "_stopping", "_succession",
    )  # fmt: skip

    def __init__(
        self, options: Sequence[str], descriptors_max: int, handed: Handover | None = None
    ) -> None:
        """Take the directory and the sockets; nothing is started yet. `descriptors_max` is what
        this process and its children may open, 0 is no limit; `handed` is what the program
        before has left, if this process was another one until now.

        Raises NothingStarted, RuntimeDirectoryError, ListenError or OSError.
        """
        self._options = list(options)
        self._generation = program_generation()
        self._loop = Loop()
        self._reloading = False
        self._reload_waits = False
        self._stopping = False
        self._no_room = ""
        """Why there is no scoreboard for the workers of the program that this has become."""
        self._departure: Departure | None = None
        self._succession: Succession | None = None
        self._control = ControlProcess(self._loop, self._control_arguments)
        if handed is None:
            self._begin(descriptors_max)
        else:
            self._signals = self._watch_signals()  # they were blocked until now
            self._go_on(handed)
        self._socket = SupervisorSocket(
            self._loop, self._directory, asked=self._asked, connected=self._control_connected
        )

    def _begin(self, descriptors_max: int) -> None:
        """A usual start, perhaps beside the workers of a supervisor that was killed."""
        plan = compile_plan(self._options)
        self._directory = RuntimeDirectory(Path(plan.runtime_dir))
        if self._directory.warning:
            say("runtime_dir.on_disk", warning=self._directory.warning)
        if stop_control_of_before(self._directory.path):
            # It may have decided something after we compiled and before it ended.
            plan = compile_plan(self._options)
        if plan.degraded:
            say("plan.degraded", reason=plan.degraded)
        few = descriptors.too_few(descriptors_max, plan.table, plan.workers, len(plan.binds))
        if few:
            say("descriptors.too_few", **few)
        refuse_if_in_use(plan.control_bind)
        self._plan = plan
        self._boards = open_scoreboards(self._directory.path)
        before = live_workers(self._boards, self._directory.path, time.monotonic())
        ask_for_sockets(self._boards, before, self._directory.path)
        opened = one_set(before)
        self._shared = SharedFiles(self._directory.path)
        self._sockets = ListeningSockets(
            handed_over_by_systemd(os.environ),
            # The ports of workers that are alive and do not answer are in use, by us.
            may_share=bool(before) and not opened,
            opened=opened,
        )
        unwanted = self._sockets.change(plan.binds, plan.workers)
        for address in self._sockets.handed_over_unused:
            say("socket.unused", address=address, next="add a listener with this bind")
        self._crew = Crew(
            self._loop, self._directory, self._boards, self._sockets, self._generation
        )
        self._crew.take_over(before)
        self._make_room(plan.workers, plan.service_capacity, plan.inflight_slots)
        if not before:
            self._boards.run = secrets.randbits(63)
        self._shared.begin(self._directory, plan, taken_over=bool(before))
        remove_directories(self._directory.path, PROOF_PREFIX)
        forget_unfinished(self._directory, read_state(self._directory.path))
        self._crew.send_sockets()
        for entry in unwanted:
            entry.close()
        self._signals = self._watch_signals()

    def _go_on(self, handed: Handover) -> None:
        """An upgrade: this process was the supervisor already, as an earlier program."""
        self._directory = RuntimeDirectory(Path(handed.runtime_dir), handed.lock)
        progress = Progress(self._directory, UpgradeState(**handed.upgrade))
        proof = Proof(**handed.proof)
        self._plan = decode_plan((self._directory.path / PLAN_FILE).read_bytes())
        self._boards = Scoreboards(self._directory.path)
        self._shared = SharedFiles(self._directory.path)
        self._sockets = ListeningSockets(
            [socket.socket(fileno=descriptor) for descriptor in handed.unused],
            may_share=False,
            opened=[
                ListeningSocket(
                    one.bind, one.owner, socket.socket(fileno=one.descriptor), one.inode
                )
                for one in handed.sockets
            ],
        )
        self._crew = Crew(
            self._loop, self._directory, self._boards, self._sockets, self._generation
        )
        self._crew.inherit(handed.workers)
        if handed.control is not None:
            self._control.inherit(handed.control)
        self._succession = Succession(
            self._loop,
            self._crew,
            self._control,
            progress,
            self._options,
            proof.workers,
            connected=lambda: self._socket.in_use,
            put_in_force=self._put_in_force,
            finish=self._upgrade_ended,
        )
        try:
            self._succession.new_scoreboard = self._make_room(
                proof.workers, proof.service_capacity, proof.inflight_slots
            )
        except OSError as error:  # a SharedMemoryError mostly; and the proof has found room
            self._no_room = str(error)

    def _make_room(self, workers: int, service_capacity: int, inflight_slots: int) -> bool:
        wanted = geometry(workers, service_capacity, inflight_slots)
        return self._boards.make_room(wanted, workers, secrets.randbits(63))

    # ------------------------------------------------------------ life

    def run(self) -> None:
        """Start everything, and serve until told to stop and everything has ended."""
        self._watchdog()
        ControlWatch(
            self._loop,
            self._directory.path,
            lambda: self._control.watched,
            lambda: self._plan.watchdog_s,
        )
        if self._succession is not None:
            self._write_down()
            self._succession.begin(self._plan.workers, self._plan.watchdog_s, self._no_room)
        else:
            self._write_down()
            self._crew.want(self._plan.workers, self._plan.watchdog_s)
            self._loop.after(WORKERS_FIRST_S, self._start_control)
            self._look_whether_serving(time.monotonic())
        while not self._stopping or self._crew.alive:
            self._loop.turn()
        # After the workers: it writes the last of their access log.
        self._control.stop()
        while self._control.alive:
            self._loop.turn()
        self._sockets.close()
        self._socket.close()
        for name in (LISTENING_FILE, PLAN_FILE):
            self._directory.remove(name)
        for path in self._directory.path.glob(f"{WORKER_PREFIX}*.sock"):
            path.unlink(missing_ok=True)
        remove_directories(self._directory.path, PROOF_PREFIX)

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

    def _start_control(self) -> None:
        if not self._stopping:
            self._control.start()

    def _say_when_ready(self, begun_s: float) -> None:
        late = time.monotonic() - begun_s > READY_LIMIT_S
        if self._stopping:
            return
        if not self._socket.in_use and not late:
            self._loop.after(POLL_S, lambda: self._say_when_ready(begun_s))
            return
        print(f"turnout: {self._what_is_served()}", file=sys.stderr, flush=True)
        ready(self._what_is_served())

    def _what_is_served(self) -> str:
        where = ", ".join(self._sockets.addresses().values())
        workers = f"{self._plan.workers} worker{'s' if self._plan.workers != 1 else ''}"
        control = f"on {self._plan.control_bind}" if self._socket.in_use else "is not up yet"
        return f"serving on {where} ({workers}), control {control}"

    def _watchdog(self) -> None:
        """Tell systemd that the loop turns."""
        interval_s = watchdog_interval_s(os.environ, os.getpid())
        if interval_s:
            notify("WATCHDOG=1")
            self._loop.after(interval_s, self._watchdog)

    def _watch_signals(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        theirs.setblocking(False)
        signal.set_wakeup_fd(theirs.detach(), warn_on_full_buffer=False)
        for number in SIGNALS:
            # What is to be done is done in the loop, from the wake-up byte.
            signal.signal(number, lambda *_: None)
        # After execve: what came meanwhile comes now.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        self._loop.watch(ours.fileno(), self._signalled)
        return ours

    def _signalled(self) -> None:
        with suppress(BlockingIOError):
            for number in self._signals.recv(READ_BYTES):
                if number == signal.SIGHUP:
                    self._reload()
                elif number == signal.SIGUSR2:
                    self._upgrade_by_signal()
                elif number in (signal.SIGTERM, signal.SIGINT):
                    self._stop()

    def _reload(self) -> None:
        """Control reads the configuration and asks for what changes here."""
        if not self._control.alive or not self._socket.in_use or self._replacing:
            # It would die of a signal that it has no handler for yet; or it is to be replaced.
            self._reload_waits = True
            reason = "an upgrade is under way" if self._replacing else "control is not up yet"
            say("reload.waits", reason=reason)
            return
        self._reloading = True
        reloading("reading the configuration")
        self._control.signal(signal.SIGHUP)
        self._loop.after(RELOAD_LIMIT_S, self._reloaded)

    def _reloaded(self) -> None:
        if self._reloading:
            self._reloading = False
            ready(self._what_is_served())

    def _stop(self) -> None:
        if self._stopping:
            self._crew.kill()
            self._control.kill()
            return
        self._stopping = True
        stopping()
        self._crew.stop()
        for part in (self._departure, self._succession):
            if part is not None:
                part.give_up("turnout was stopped")
        if self._plan.shutdown_s:  # 0 is no limit
            self._loop.after(self._plan.shutdown_s + STOP_MARGIN_S, self._crew.kill)
        self._refuse(time.monotonic() + REFUSE_LIMIT_S)

    def _refuse(self, deadline_s: float) -> None:
        """Refuse new connections once no worker accepts any more: who does would meet an error."""
        if self._crew.serving and time.monotonic() < deadline_s:
            self._loop.after(REFUSE_POLL_S, lambda: self._refuse(deadline_s))
        else:
            self._sockets.refuse()

    # ------------------------------------------------------------ control

    def _control_arguments(self) -> list[str]:
        return [
            *self._plan.control_argv,
            *("--runtime-dir", str(self._directory.path)),
            *("--generation", self._generation),
        ]

    def _control_connected(self) -> None:
        if self._reload_waits and not self._replacing:
            self._reload_waits = False
            self._reload()

    def _asked(self, message: Message, reply: Reply) -> None:
        if isinstance(message, ApplyPlan):
            reply(Answer(message.request, self._apply(message)))
        elif isinstance(message, ReplaceWorker):
            self._replace(message, reply)
        elif isinstance(message, Upgrade):
            reply(Answer(message.request, self._upgrade(message)))

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
        if self._replacing:
            return "an upgrade is under way: reload again when it has ended"
        refused = self._use(plan)
        if not refused:
            self._reloaded()
        return refused

    def _use(self, plan: Plan) -> str:
        if self._stopping:
            return "turnout is stopping"
        if plan.runtime_dir != self._plan.runtime_dir:
            return "runtime_dir changes with a restart only"
        if not self._crew.room_for(plan.workers):
            regions = self._boards.geometry.regions
            return (
                f"workers is {plan.workers}, and there is room for {regions}, those that are "
                f"still finishing included. `turnout upgrade`, or a restart, makes more"
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

    # ------------------------------------------------------------ upgrade

    @property
    def _replacing(self) -> bool:
        """Whether an upgrade is beyond its proof, which disturbs nobody."""
        return self._succession is not None and not self._succession.ended

    @property
    def _upgrading(self) -> bool:
        parts = (self._departure, self._succession)
        return any(part is not None and not part.ended for part in parts)

    def _upgrade(self, message: Upgrade) -> str:
        """Begin to become the program that is installed now; the error if that cannot be."""
        if self._stopping:
            return "turnout is stopping"
        if self._upgrading:
            return "an upgrade is under way already"
        progress = Progress.begin(self._directory, message)
        try:
            self._departure = Departure(
                self._loop,
                progress,
                self._options,
                str(self._directory.path),
                hand_over=self._hand_over,
                refused=self._stop_asked,
            )
        except OSError as error:
            progress.failed(f"the new program cannot be started: {error.strerror}")
        return ""

    def _upgrade_by_signal(self) -> None:
        """For when there is no control that could be asked: it died after the program changed."""
        refused = self._upgrade(Upgrade(request=0, who="SIGUSR2"))
        if refused:
            say("upgrade.refused", reason=refused)

    def _stop_asked(self) -> str:
        """Whether a signal came in the last moment: execve would forget it."""
        self._signalled()
        return "turnout was stopped" if self._stopping else ""

    def _hand_over(self, state: UpgradeState, proof: Proof) -> Handover:
        reloading(f"upgrading to {proof.version}")
        return Handover(
            lock=self._directory.lock,
            runtime_dir=str(self._directory.path),
            sockets=[
                HandedSocket(one.bind, one.owner, one.socket.fileno(), one.inode)
                for one in self._sockets.opened
            ],
            unused=[given.fileno() for given in self._sockets.unused],
            workers=self._crew.hand_over(),
            control=self._control.handed(),
            upgrade=asdict(state),
            proof=asdict(proof),
        )

    def _put_in_force(self, plan: Plan) -> str:
        """Serve by what the new program has read of configuration and store."""
        refused = self._use(plan)
        if refused:
            return refused
        # The options may have changed their meaning: control gets them as they were given.
        self._plan = plan
        self._write_down()
        if plan.degraded:
            return plan.degraded
        self._shared.begin(self._directory, plan, taken_over=True)
        return ""

    def _upgrade_ended(self) -> None:
        if self._stopping:
            return
        ready(self._what_is_served())
        if self._socket.in_use:
            self._control_connected()


if __name__ == "__main__":
    sys.exit(main())
