"""The workers: started, watched, settled when they die, replaced.

What a dead worker had in flight becomes `cut` in the counters, once, before its region is
used again, and the names are written to a file that control picks up. So nothing a killed
worker held is lost silently, even if control is away.
"""

import signal
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from turnout.children import WORKER_MODULE, Backoff, Child, Link, status_text
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
    Scoreboard,
    SharedMemoryError,
    WorkerState,
)
from turnout.runtime import RuntimeDirectory
from turnout.watchdog import Pulse, felt, hung, look_every_s

RETRY_SEND_S: Final = 0.02


class Worker:
    """A worker's process, its region and its number."""

    __slots__ = ("child", "hung", "link", "number", "pulse", "region", "removed", "when_settled")

    def __init__(self, number: int, region: int, child: Child, link: Link | None) -> None:
        self.number = number
        self.region = region
        self.child = child
        self.link = link
        """None for a worker of an earlier supervisor, which only has to leave."""
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
        "_backoff", "_directory", "_generation", "_looked_s", "_loop", "_scoreboard", "_sockets",
        "_stopping", "_wanted", "_watchdog_s", "_workers",
    )  # fmt: skip

    def __init__(
        self,
        loop: Loop,
        directory: RuntimeDirectory,
        scoreboard: Scoreboard,
        sockets: ListeningSockets,
        generation: str,
    ) -> None:
        self._loop = loop
        self._directory = directory
        self._scoreboard = scoreboard
        self._sockets = sockets
        self._generation = generation
        self._workers: dict[int, Worker] = {}
        self._backoff: dict[int, Backoff] = {}
        self._wanted = 0
        self._stopping = False
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
        return sum(
            not worker.removed and self._scoreboard.state(region) is WorkerState.SERVING
            for region, worker in self._workers.items()
        )

    def room_for(self, wanted: int) -> bool:
        """Whether the scoreboard has regions for `wanted` workers beside those that leave."""
        leaving = sum(worker.removed for worker in self._workers.values())
        return wanted + leaving <= self._scoreboard.geometry.regions

    def want(self, wanted: int, watchdog_s: float) -> None:
        """From now on there are `wanted` workers: start what is missing, then let the rest go.
        One that does not turn its loop for `watchdog_s` seconds is replaced (0: never)."""
        self._wanted, self._watchdog_s = wanted, watchdog_s
        for number in range(wanted):
            self._start(number)
        for worker in list(self._workers.values()):
            if worker.number >= wanted and not worker.removed:
                self._let_go(worker)

    def _let_go(self, worker: Worker) -> None:
        worker.removed = True
        worker.child.signal(signal.SIGTERM)

    # ------------------------------------------------------------ an earlier supervisor's

    def take_over(self, before: Sequence[tuple[int, Child]]) -> None:
        """Watch the workers of an earlier supervisor, and settle those that died unwatched."""
        words = self._scoreboard.words
        for region, child in before:
            number = words[self._scoreboard.region(region) + R_WORKER]
            worker = Worker(number, region, child, None)
            worker.removed = True
            self._watch(worker)
        for region in self._scoreboard.live_regions():
            if region not in self._workers:
                base = self._scoreboard.region(region)
                self._settle(words[base + R_WORKER], region, words[base + R_PID], "ended", True)

    def let_go_of_before(self) -> None:
        """They finish what they have and leave. To be called once ours serve."""
        theirs = [worker for worker in self._workers.values() if worker.link is None]
        for worker in theirs:
            worker.child.signal(signal.SIGTERM)
        if theirs:
            say("workers.taken_over", workers=len(theirs), next="they finish what they have")

    # ------------------------------------------------------------ start

    def _start(self, number: int) -> None:
        """Start worker `number` unless it is there; when that fails, try again later."""
        if self._stopping or number >= self._wanted or self._has(number):
            return
        region = next(
            region
            for region in range(self._scoreboard.geometry.regions)
            if region not in self._workers
        )
        self._claim(region, number)
        try:
            child, ours = self._spawn(number, region)
        except OSError as error:
            self._scoreboard.settle(region)
            delay_s = self._backoff_of(number).delay_s(0.0, None) or Backoff.FIRST_S
            say("worker.not_started", worker=number, error=error.strerror, again_in_s=delay_s)
            self._loop.after(delay_s, lambda: self._start(number))
            return
        self._scoreboard.words[self._scoreboard.region(region) + R_PID] = child.pid
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
        return any(
            worker.number == number and not worker.removed for worker in self._workers.values()
        )

    def _claim(self, region: int, number: int) -> None:
        """Make the region the worker's before it lives, so that nobody takes its predecessor's
        signs of life for its own."""
        words, base = self._scoreboard.words, self._scoreboard.region(region)
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
            base = self._scoreboard.region(worker.region)
            heartbeat_us = self._scoreboard.words[base + R_HEARTBEAT_US]
            worker.pulse = felt(worker.pulse, heartbeat_us, since_s, every_s)
            starting = self._scoreboard.state(worker.region) is WorkerState.STARTING
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
        expected = (worker.removed or self._stopping) and status in (0, None)
        told = worker.hung or status_text(status)
        self._settle(worker.number, worker.region, worker.child.pid, told, expected)
        for act in worker.when_settled:
            act()
        if worker.removed or self._stopping:
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
        cut = self._scoreboard.settle(region)
        if expected and not cut:
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


def live_workers(runtime_dir: Path, now_s: float) -> list[tuple[int, Child]]:
    """(region, process) of each worker that an earlier supervisor left behind alive."""
    try:
        scoreboard = Scoreboard.open(runtime_dir)
    except SharedMemoryError:
        return []
    found = []
    for region in scoreboard.live_regions():
        pid = scoreboard.words[scoreboard.region(region) + R_PID]
        child = Child.adopt(pid, WORKER_MODULE, runtime_dir, now_s)
        if child is not None:
            found.append((region, child))
    scoreboard.memory.close()
    return found
