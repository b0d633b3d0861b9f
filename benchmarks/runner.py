"""A run: workload by workload, in rounds in which each contestant has its turn."""

import contextlib
import datetime
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from benchmarks.drives import DRIVES, Turn, half_of_slowest
from benchmarks.machine import Pinning
from benchmarks.origin import Origins
from benchmarks.peers import Installed, Running
from benchmarks.processes import HarnessError, Ports
from benchmarks.ratios import Sample
from benchmarks.results import Measured, Results
from benchmarks.verify import check
from benchmarks.workloads import PLAIN, Contestant, Drive, Origin, Workload


@dataclass(frozen=True, slots=True)
class Options:
    rounds: int
    seconds: int
    """Of each turn."""
    pinning: Pinning
    first_port: int
    small: bool = False
    """Only to see that every part works."""


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

    def measure(
        self, workload: Workload, results: Results, done: Callable[[], None]
    ) -> Iterator[Measured]:
        """Measure it; yields what there is after each round. `done` is called after each turn."""
        rounds = min(max(self.options.rounds, workload.rounds_least), workload.rounds_most)
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        measured = Measured(now, self.options.seconds)
        contestants = self._prepare(workload, measured)
        for number in range(rounds):
            this: dict[str, Sample] = {}
            for contestant in contestants:
                sample = self._turn(workload, contestant, results)
                this[contestant.name] = sample
                for fault in sample.faults:
                    self.say(f"{workload.name}, {contestant.name}, round {number + 1}: {fault}")
                done()
            measured.rounds.append(this)
            yield measured

    def _prepare(self, workload: Workload, measured: Measured) -> list[Contestant]:
        """Start and check who takes part; end who does not and is not needed as it is."""
        taking_part = []
        for key in list(self._running):
            contestant, origin = key
            if origin is not workload.origin or contestant not in workload.contestants:
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
        pinning = self.options.pinning
        running = self._running.get((contestant, workload.origin))
        if running is None:  # a fresh one for each turn, which the drive starts
            running = self.new(contestant, workload)
        turn = Turn(
            workload, running, self.options.seconds,
            pinning.for_workers_load if workload.two_workers else pinning.load, self.base,
            half_of_slowest(results.rounds(PLAIN)), self.options.small,
        )  # fmt: skip
        try:
            return DRIVES[workload.drive](turn)
        except HarnessError as error:
            return Sample({}, (str(error),))
        finally:
            if workload.fresh:
                running.stop()
