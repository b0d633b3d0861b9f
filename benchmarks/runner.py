"""A run: workload by workload, in rounds in which each contestant has its turn."""

import contextlib
import datetime
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from benchmarks.drives import DRIVES, Turn, half_of_slowest, wrk
from benchmarks.machine import Pinning, missing_tools
from benchmarks.origin import Origins
from benchmarks.peers import Installed, Running
from benchmarks.processes import HarnessError, Ports
from benchmarks.profiling import profile, profilers
from benchmarks.ratios import Sample
from benchmarks.results import Measured, Results
from benchmarks.verify import check
from benchmarks.workloads import PLAIN, TURNOUT, Contestant, Drive, Origin, Workload

TOOLS_OF: Final = {
    Drive.SATURATE: ("wrk",),
    Drive.FIXED_RATE: ("h2load",),
    Drive.IDLE: ("wrk",),
    Drive.SWITCH_LATENCY: ("wrk",),
}
"""What makes the load; the other drives have clients of our own."""


@dataclass(frozen=True, slots=True)
class Options:
    rounds: int
    seconds: int
    """Of each turn."""
    pinning: Pinning
    first_port: int
    small: bool = False
    """Only to see that every part works."""

    def rounds_of(self, workload: Workload) -> int:
        if self.small:
            return self.rounds
        return min(max(self.rounds, workload.rounds_least), workload.rounds_most)


class Bench:
    """Origins and proxies of a run; a context manager that ends them all."""

    def __init__(self, options: Options, installed: Installed, say: Callable[[str], None]) -> None:
        self.options = options
        self.installed = installed
        self.say = say
        self.ports = Ports(options.first_port)
        self._ends = contextlib.ExitStack()
        self._running: dict[tuple[Contestant, Origin], Running] = {}

    def __enter__(self) -> Self:
        shm = Path("/dev/shm")
        base = shm if shm.is_dir() else None
        self.base = Path(
            self._ends.enter_context(tempfile.TemporaryDirectory(prefix="turnout-bench-", dir=base))
        )
        # On a disk, as a person's would be: a switch waits for it.
        self.state = Path(
            self._ends.enter_context(tempfile.TemporaryDirectory(prefix="turnout-bench-"))
        )
        self.origins = Origins(self.base / "origin", self.ports, self.options.pinning.origin)
        self._ends.callback(self.origins.stop)
        self._ends.callback(self._stop_all)
        try:
            self.origins.start()
        except BaseException:
            self._ends.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ends.close()

    def _stop_all(self) -> None:
        for running in self._running.values():
            running.stop()
        self._running.clear()

    # ------------------------------------------------------------ one workload

    def measure(self, workload: Workload, results: Results, done: Callable[[], None]) -> Measured:
        """Measure it, beside the `results` of those before. `done` is called after each turn."""
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        measured = Measured(now, self.options.seconds, results.commit, results.command)
        contestants = self._prepare(workload, measured)
        for number in range(self.options.rounds_of(workload) if contestants else 0):
            this: dict[str, Sample] = {}
            for contestant in contestants:
                sample = self._turn(workload, contestant, results)
                this[contestant.name] = sample
                for fault in sample.faults:
                    self.say(f"{workload.name}, {contestant.name}, round {number + 1}: {fault}")
                done()
            measured.rounds.append(this)
        return measured

    def _prepare(self, workload: Workload, measured: Measured) -> list[Contestant]:
        """Start and check who takes part; end who does not and is not needed as it is."""
        missing = missing_tools(TOOLS_OF.get(workload.drive, ()))
        if missing:
            measured.left_out[workload.name] = f"not installed: {', '.join(missing)}"
            return []
        taking_part = []
        for key in list(self._running):
            contestant, origin = key
            kept = origin is workload.origin and contestant in workload.contestants
            if workload.fresh or not kept:
                self._running.pop(key).stop()
        for contestant in workload.contestants:
            if contestant.peer not in self.installed.programs:
                measured.left_out[contestant.name] = self.installed.left_out[contestant.peer]
                continue
            try:
                if not workload.fresh:
                    check(self._started(contestant, workload), workload)
            except HarnessError as error:
                measured.left_out[contestant.name] = str(error)
                self.say(f"{workload.name}: {contestant.name} is left out: {error}")
                continue
            taking_part.append(contestant)
        return taking_part

    def _started(self, contestant: Contestant, workload: Workload) -> Running:
        key = (contestant, workload.origin)
        if key not in self._running:
            running = self.new(contestant, workload)
            self._running[key] = running
            running.start()
        return self._running[key]

    def new(self, contestant: Contestant, workload: Workload) -> Running:
        """Not started yet."""
        pinning = self.options.pinning
        cores = pinning.proxy
        if workload.two_workers:
            cores = pinning.for_workers
        elif workload.drive is Drive.START:
            cores = pinning.everywhere  # nobody starts it on one core
        ends = self.origins.nginx if workload.origin is Origin.NGINX else self.origins.app
        return Running(
            contestant, self.installed.programs[contestant.peer], ends,
            base=self.base, state=self.state, ports=self.ports,
            cores=cores,
        )  # fmt: skip

    def _turn(self, workload: Workload, contestant: Contestant, results: Results) -> Sample:
        if workload.fresh:  # the drive starts it
            running = self.new(contestant, workload)
        else:
            running = self._running[contestant, workload.origin]
        rate_s = half_of_slowest(results.rounds(PLAIN))
        before = running.worker_pids() if running.is_running else None
        try:
            sample = DRIVES[workload.drive](self._turn_of(workload, running, rate_s))
            if before is not None and running.worker_pids() != before:
                return Sample({}, ("a worker was replaced", *sample.faults))
            return sample
        except HarnessError as error:
            return Sample({}, (str(error),))
        finally:
            if workload.fresh:
                running.stop()

    def _turn_of(self, workload: Workload, running: Running, rate_s: float = 0.0) -> Turn:
        pinning = self.options.pinning
        cores = pinning.for_workers_load if workload.two_workers else pinning.load
        seconds = self.options.seconds
        return Turn(workload, running, seconds, cores, self.base, rate_s, self.options.small)

    # ------------------------------------------------------------ profiles

    def profile(self, workload: Workload, directory: Path) -> list[Path]:
        """One more turn, which does not count, for each profiler: the files that were made.

        Of the last worker of Turnout as it comes; none for a workload that wrk does not make.
        """
        running = self._running.get((TURNOUT, workload.origin))
        if workload.drive is not Drive.SATURATE or running is None:
            return []
        directory.mkdir(parents=True, exist_ok=True)
        made = []
        for name in profilers():
            turn = self._turn_of(workload, running)
            load = wrk(turn, workload.request, turn.seconds + 2)
            try:
                pid = running.worker_pids()[-1]
                made.append(profile(name, pid, turn.seconds, directory, workload.name))
            finally:
                load.kill()
        return made
