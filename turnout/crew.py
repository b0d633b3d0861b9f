"""The workers: started, watched, settled when they die, replaced.

What a dead worker had in flight becomes `cut` in the counters, once, before its region is
used again, and the names are written to a file that control picks up. So nothing a killed
worker held is lost silently, even if control is away.
"""

import signal
import socket
import time
from collections.abc import Callable, Sequence
from typing import Final

from turnout.adoption import Found
from turnout.children import WORKER_MODULE, Backoff, Child, Link, status_text
from turnout.handover import NONE, HandedWorker
from turnout.listening import ListeningSockets
from turnout.loop import Loop, say
from turnout.proxy.commands import DIED_PREFIX, Died, encode
from turnout.proxy.scoreboard import (
    R_EPOCH_SEEN,
    R_HEARTBEAT_US,
    R_PID,
    R_STARTED_US,
    R_STATE,
    R_TABLE_IN_FORCE,
    R_TABLE_LOADED,
    R_WORKER,
    WorkerState,
)
from turnout.proxy.scoreboards import Scoreboards
from turnout.runtime import RuntimeDirectory
from turnout.watchdog import Pulse, felt, hung, look_every_s

FRESH_US: Final = 500_000
"""So old the last sign of life of a worker may be that turns its loop: it gives twenty a second."""
RETRY_SEND_S: Final = 0.02


class Worker:
    """A worker's process, its region and its number."""

    __slots__ = (
        "before", "child", "hung", "link", "number", "pulse", "region", "removed", "when_settled",
    )  # fmt: skip

    def __init__(self, number: int, region: int, child: Child, link: Link | None) -> None:
        self.number = number
        self.region = region
        self.child = child
        self.link = link
        """None for a worker of an earlier supervisor that does not take sockets from us."""
        self.before = False
        """Of an earlier program, or it did not answer us: it serves until others do."""
        self.removed = False
        """Told to leave: nobody follows it."""
        self.pulse = Pulse(0)
        self.hung = ""
        """Why it was killed: it did not turn its loop any more."""
        self.when_settled: list[Callable[[], None]] = []
        """For those who asked for its replacement."""


class Crew:
    """All workers that are alive, by region."""

    __slots__ = (
        "_backoff", "_boards", "_directory", "_generation", "_held_back", "_looked_s", "_loop",
        "_sockets", "_stopping", "_wanted", "_watchdog_s", "_workers", "died",
    )  # fmt: skip

    def __init__(
        self,
        loop: Loop,
        directory: RuntimeDirectory,
        boards: Scoreboards,
        sockets: ListeningSockets,
        generation: str,
    ) -> None:
        self._loop = loop
        self._directory = directory
        self._boards = boards
        self._sockets = sockets
        self._generation = generation
        self._workers: dict[int, Worker] = {}
        self._backoff: dict[int, Backoff] = {}
        self._wanted = 0
        self._stopping = False
        self._held_back = False
        """Workers that are started now get no sockets yet."""
        self.died: Callable[[Worker, str], None] | None = None
        """Told of each unexpected death of a worker that is not of before."""
        self._watchdog_s = 0.0
        self._looked_s = time.monotonic()
        self._look()

    # ------------------------------------------------------------ how many

    @property
    def alive(self) -> int:
        return len(self._workers)

    @property
    def serving(self) -> int:
        """Wanted workers that accept connections."""
        return sum(self._boards.state(one.region) is WorkerState.SERVING for one in self._ours())

    @property
    def started(self) -> int:
        """Wanted workers that have loaded the table in force, whether they accept yet or not."""
        return sum(self._boards.field(one.region, R_TABLE_IN_FORCE) > 0 for one in self._ours())

    @property
    def turning(self) -> bool:
        """Whether all wanted workers have just turned their loops."""
        now_us = time.monotonic_ns() // 1000
        ours = self._ours()
        return len(ours) >= self._wanted and all(
            now_us - self._boards.field(one.region, R_HEARTBEAT_US) < FRESH_US for one in ours
        )

    def _ours(self) -> list[Worker]:
        return [one for one in self._workers.values() if not (one.removed or one.before)]

    @property
    def leaving(self) -> int:
        """Workers that finish what they have."""
        return sum(one.removed for one in self._workers.values())

    def room_for(self, wanted: int) -> bool:
        """Whether the scoreboard has regions for `wanted` workers beside those that leave."""
        if not self._boards.is_own:
            return wanted <= len(self._ours())
        newest = self._boards.newest.numbers
        ours = {one.region for one in self._ours()}
        taken = sum(region in newest and region not in ours for region in self._workers)
        return wanted + taken <= len(newest)

    def want(self, wanted: int, watchdog_s: float) -> None:
        """From now on there are `wanted` workers: start what is missing, then let the rest go.
        One that does not turn its loop for `watchdog_s` seconds is replaced (0: never)."""
        self._wanted, self._watchdog_s = wanted, watchdog_s
        for number in range(wanted):
            self._start(number)
        for worker in list(self._workers.values()):
            if worker.number >= wanted and not (worker.removed or worker.before):
                self._let_go(worker)

    def _let_go(self, worker: Worker) -> None:
        worker.removed = True
        worker.child.signal(signal.SIGTERM)

    # ------------------------------------------------------------ those of before

    def take_over(self, found: Sequence[Found]) -> None:
        """Watch the workers of an earlier supervisor, and settle those that died unwatched.

        Those that have answered and are of our generation are ours from now on.
        """
        for one in sorted(found, key=lambda one: -one.region):
            number = self._boards.field(one.region, R_WORKER)
            link = Link(one.link) if one.link is not None else None
            worker = Worker(number, one.region, one.child, link)
            leaving = self._boards.state(one.region) is WorkerState.DRAINING
            same = one.hello is not None and one.hello.generation == self._generation
            worker.removed = leaving
            worker.before = not leaving and (not same or self._has(number))
            self._watch(worker)
        for region in self._boards.live_regions():
            if region not in self._workers:
                number = self._boards.field(region, R_WORKER)
                pid = self._boards.field(region, R_PID)
                self._settle(number, region, pid, "ended", True)
        if adopted := len(self._ours()):
            say("workers.adopted", workers=adopted)

    def inherit(self, handed: Sequence[HandedWorker]) -> None:
        """Watch the workers that this process started as an earlier program."""
        for one in handed:
            child = Child(one.pid, one.pidfd, one.started_s)
            link = Link(socket.socket(fileno=one.link)) if one.link != NONE else None
            worker = Worker(one.number, one.region, child, link)
            worker.removed = one.removed
            worker.before = not one.removed
            self._watch(worker)

    def hand_over(self) -> list[HandedWorker]:
        """All workers, as the program that this process becomes is told of them."""
        return [
            HandedWorker(
                number=one.number,
                region=one.region,
                pid=one.child.pid,
                pidfd=one.child.pidfd,
                started_s=one.child.started_s,
                # A message that was sent in part cannot be finished by another program.
                link=NONE if one.link is None or one.link.waiting else one.link.socket.fileno(),
                removed=one.removed,
            )
            for one in self._workers.values()
        ]

    def let_go_of_before(self) -> None:
        """They finish what they have and leave. To be called once ours serve."""
        theirs = [one for one in self._workers.values() if one.before and not one.removed]
        for worker in theirs:
            self._let_go(worker)
        if theirs:
            say("workers.taken_over", workers=len(theirs), next="they finish what they have")

    def hold_back(self) -> None:
        """Workers that are started from now on accept nothing, until `give_sockets`."""
        self._held_back = True

    def give_sockets(self) -> None:
        self._held_back = False
        self.send_sockets()

    def go_back(self, wanted: int, watchdog_s: float) -> None:
        """Those of before are the workers again, ours leave: they did not do."""
        for worker in self._ours():
            self._let_go(worker)
            if self._held_back:  # it has accepted nothing
                worker.child.signal(signal.SIGKILL)
        for worker in self._workers.values():
            worker.before = False
        self._held_back = False
        self.want(wanted, watchdog_s)
        self.send_sockets()

    # ------------------------------------------------------------ start

    def _start(self, number: int) -> None:
        """Start worker `number` unless it is there; when that fails, try again later."""
        if self._stopping or number >= self._wanted or self._has(number):
            return
        if not self._boards.is_own:  # an upgrade had no room for one
            say("worker.not_started", worker=number, error="it has no scoreboard", next="upgrade")
            self._loop.after(Backoff.LONGEST_S, lambda: self._start(number))
            return
        region = next(
            region for region in self._boards.newest.numbers if region not in self._workers
        )
        self._claim(region, number)
        try:
            child, ours = self._spawn(number, region)
        except OSError as error:
            self._boards.settle(region)
            delay_s = self._backoff_of(number).delay_s(0.0, None) or Backoff.FIRST_S
            say("worker.not_started", worker=number, error=error.strerror, again_in_s=delay_s)
            self._loop.after(delay_s, lambda: self._start(number))
            return
        newest = self._boards.newest
        newest.words[newest.region(region) + R_PID] = child.pid
        worker = Worker(number, region, child, Link(ours))
        self._watch(worker)
        self._send_sockets(worker)

    def _spawn(self, number: int, region: int) -> tuple[Child, socket.socket]:
        """Start the process; it, and our end of its link. Raises OSError."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        options = {
            "--runtime-dir": self._directory.path,
            "--worker": number,
            "--region": region,
            "--link": theirs.fileno(),
            "--generation": self._generation,
        }
        arguments = [str(part) for option in options.items() for part in option]
        try:
            child = Child.start(WORKER_MODULE, arguments, time.monotonic(), (theirs.fileno(),))
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        return child, ours

    def _has(self, number: int) -> bool:
        return any(worker.number == number for worker in self._ours())

    def _claim(self, region: int, number: int) -> None:
        """Make the region the worker's before it lives, so that nobody takes its predecessor's
        signs of life for its own."""
        newest = self._boards.newest
        words, base = newest.words, newest.region(region)
        now_us = time.monotonic_ns() // 1000
        for field, value in (
            (R_PID, 0),
            (R_WORKER, number),
            (R_STARTED_US, now_us),
            (R_HEARTBEAT_US, now_us),
            (R_EPOCH_SEEN, 0),
            (R_TABLE_LOADED, 0),
            (R_TABLE_IN_FORCE, 0),
            (R_STATE, WorkerState.STARTING),
        ):
            words[base + field] = value

    def _backoff_of(self, number: int) -> Backoff:
        return self._backoff.setdefault(number, Backoff())

    def _watch(self, worker: Worker) -> None:
        self._workers[worker.region] = worker
        self._loop.watch(worker.child.pidfd, lambda: self._ended(worker))

    # ------------------------------------------------------------ sockets

    def send_sockets(self) -> None:
        """Tell all workers the whole set of listening sockets."""
        for worker in self._workers.values():
            self._send_sockets(worker)

    def _send_sockets(self, worker: Worker) -> None:
        if worker.link is None or self._workers.get(worker.region) is not worker:
            return
        if self._held_back and not worker.before:
            return
        try:
            worker.link.send(self._sockets.records())
        except OSError as error:
            say("sockets.not_sent", worker=worker.number, error=error.strerror)
            self._loop.after(Backoff.FIRST_S, lambda: self._send_sockets(worker))
            return
        self._flush(worker)

    def _flush(self, worker: Worker) -> None:
        """What a stuck worker does not take now is tried again until it does, or ends."""
        alive = self._workers.get(worker.region) is worker
        if alive and worker.link is not None and worker.link.flush():
            self._loop.after(RETRY_SEND_S, lambda: self._flush(worker))

    # ------------------------------------------------------------ death

    def _look(self) -> None:
        """Look at the workers' signs of life, now and then for ever; kill whoever hangs."""
        limit_s, every_s = self._watchdog_s, look_every_s(self._watchdog_s)
        since_s = time.monotonic() - self._looked_s
        self._looked_s += since_s
        for worker in self._workers.values():
            heartbeat_us = self._boards.field(worker.region, R_HEARTBEAT_US)
            worker.pulse = felt(worker.pulse, heartbeat_us, since_s, every_s)
            starting = self._boards.state(worker.region) is WorkerState.STARTING
            if not worker.hung and hung(worker.pulse, limit_s, starting=starting):
                worker.hung = f"hung: its loop did not turn for {worker.pulse.still_s:.1f} s"
                say("worker.hung", worker=worker.number, pid=worker.child.pid, reason=worker.hung)
                worker.child.signal(signal.SIGKILL)
        self._loop.after(every_s, self._look)

    def replace(self, region: int, when_settled: Callable[[], None]) -> bool:
        """Kill the worker of a region; its successor follows at once. False: there is none."""
        worker = self._workers.get(region)
        if worker is None:
            return False
        worker.when_settled.append(when_settled)
        worker.child.signal(signal.SIGKILL)
        return True

    def _ended(self, worker: Worker) -> None:
        """Settle its region, name what it held, and start its successor."""
        self._loop.unwatch(worker.child.pidfd)
        status = worker.child.reap()
        if worker.link is not None:
            worker.link.close()
        del self._workers[worker.region]
        leaves = worker.removed or self._stopping
        # By SIGTERM: it had not yet begun to heed it, so it had nothing.
        expected = leaves and status in (0, None, -signal.SIGTERM)
        told = worker.hung or status_text(status)
        self._settle(worker.number, worker.region, worker.child.pid, told, expected)
        for act in worker.when_settled:
            act()
        if not (leaves or worker.before) and self.died is not None:
            self.died(worker, told)
        if worker.removed or worker.before or self._stopping:
            return
        lived_s = time.monotonic() - worker.child.started_s
        # One that was killed by request has not failed to start.
        asked = bool(worker.when_settled)
        delay_s = 0.0 if asked else self._backoff_of(worker.number).delay_s(lived_s, status)
        if delay_s:
            say("worker.waits", worker=worker.number, seconds=delay_s, next="siblings serve on")
        self._loop.after(delay_s, lambda: self._start(worker.number))

    def _settle(self, number: int, region: int, pid: int, status: str, expected: bool) -> None:
        """Count what a dead worker held as cut; write the names down for control."""
        cut = self._boards.settle(region)
        if not expected:
            self._boards.count_death(region)
        elif not cut:
            return
        now_us = time.monotonic_ns() // 1000
        names = [
            {**entry.as_cut(now_us, "worker_died"), "slot": entry.slot, "upstream": entry.upstream}
            for entry in cut
        ]
        say("worker.died", worker=number, pid=pid, status=status, cut=len(cut))
        died = Died(number, region, pid, time.time(), status, names)
        try:
            self._directory.write(f"{DIED_PREFIX}{time.time_ns()}-{number}.json", encode(died))
        except OSError as error:
            # The counters are settled all the same; only the names are lost.
            say("worker.names_lost", worker=number, error=error.strerror)

    def stop(self) -> None:
        """All workers finish what they have, and leave; nobody is started any more."""
        self._stopping = True
        for worker in self._workers.values():
            worker.child.signal(signal.SIGTERM)

    def kill(self) -> None:
        """All at once, now."""
        self._stopping = True
        for worker in self._workers.values():
            worker.child.signal(signal.SIGKILL)
