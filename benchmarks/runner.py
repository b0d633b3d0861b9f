"""A run: workload by workload, in rounds in which each contestant has its turn."""

import contextlib
import datetime
import http.client
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from benchmarks import load
from benchmarks.machine import Pinning
from benchmarks.measure import cpu_us, memory
from benchmarks.origin import Origins
from benchmarks.peers import Installed, Running
from benchmarks.processes import HarnessError, Ports
from benchmarks.ratios import Measure, Round, Sample, values_of
from benchmarks.results import Measured, Results
from benchmarks.workloads import (
    FIXED_RATE,
    PLAIN,
    Contestant,
    Drive,
    Heads,
    Origin,
    Request,
    Workload,
)

MIB: Final = 1048576
SLOWEST_OF: Final = ("nginx", "haproxy", "turnout")


@dataclass(frozen=True, slots=True)
class Options:
    rounds: int
    seconds: int
    """Of each turn."""
    pinning: Pinning
    first_port: int


@dataclass(slots=True)
class Turn:
    """What a drive needs for one contestant's turn."""

    workload: Workload
    running: Running
    seconds: int
    cores: frozenset[int]
    """Of the load."""
    directory: Path


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
                running = self._started(contestant, workload)
                check(running, workload)
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
        ends = self.origins.nginx if workload.origin is Origin.NGINX else self.origins.app
        return Running(
            contestant, self.installed.programs[contestant.peer], ends,
            base=self.base, state=self.state, ports=self.ports,
            cores=pinning.everywhere if workload.every_core else pinning.proxy,
        )  # fmt: skip

    def _turn(self, workload: Workload, contestant: Contestant, results: Results) -> Sample:
        pinning = self.options.pinning
        turn = Turn(
            workload,
            self._running[contestant, workload.origin],
            self.options.seconds,
            pinning.everywhere if workload.every_core else pinning.load,
            self.base,
        )
        try:
            if workload.drive is Drive.FIXED_RATE:
                return fixed_rate(turn, half_of_slowest(results.rounds(PLAIN)))
            return DRIVES[workload.drive](turn)
        except HarnessError as error:
            return Sample({}, (str(error),))


# ---------------------------------------------------------------- before it is measured


def check(running: Running, workload: Workload) -> None:
    """Raises HarnessError unless the answer is right and what varies reaches the origin."""
    request = workload.request
    status, body = ask(running.port, request, request.path)
    if status != 200 or len(body) != request.answer_bytes:
        raise HarnessError(
            f"{running.contestant.name} answers {request.path} with {status} and {len(body)} "
            f"bytes, not 200 and {request.answer_bytes}"
        )
    if workload.origin is Origin.NGINX:
        for number in (1, 2):
            path = f"/echo/{number}?q={number}"
            _, body = ask(running.port, request, path, number)
            expected = f"{path}|session={number}|{number}"
            if body.decode(errors="replace") != expected:
                raise HarnessError(
                    f"{running.contestant.name} passed on {body[:200]!r}, not {expected!r}"
                )


def ask(port: int, request: Request, path: str, number: int = 0) -> tuple[int, bytes]:
    """One request by itself: status and body."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20.0)
    fields = {"Cookie": f"session={number}", "X-Trace": str(number)}
    if request.heads is Heads.BROWSER:
        fields |= load.BROWSER
    if request.hosts:
        fields["Host"] = f"h{number % request.hosts}.bench.example"
    body = b"x" * request.body_bytes or None
    try:
        connection.request(request.method, path, body, fields)
        answer = connection.getresponse()
        return answer.status, answer.read()
    except (OSError, http.client.HTTPException) as error:
        raise HarnessError(f"no answer to {path}: {error!r}") from error
    finally:
        connection.close()


# ---------------------------------------------------------------- drives


def saturate(turn: Turn) -> Sample:
    """wrk for some seconds; CPU time of the proxy by the requests that it answered."""
    proxy, control = turn.running.pids()
    cpu_before_us, control_before_us = cpu_us(proxy), cpu_us(control)
    wrk = load.Wrk(
        turn.workload.request, turn.running.port, connections=turn.workload.connections,
        seconds=turn.seconds, cores=turn.cores, directory=turn.directory,
    )  # fmt: skip
    loaded = wrk.result()
    spent_us = cpu_us(proxy) - cpu_before_us
    control_us = cpu_us(control) - control_before_us
    return Sample({**costs(turn, loaded, spent_us, control_us), **resident(proxy)}, loaded.faults)


def costs(turn: Turn, loaded: load.Loaded, spent_us: float, control_us: float) -> dict[str, float]:
    """What a request cost, and how many there were."""
    requests = max(1, loaded.requests)
    values = {
        Measure.CPU_US: spent_us / requests,
        Measure.RATE_S: loaded.requests / max(loaded.seconds, 1e-9),
        Measure.BUSY: spent_us / 1e6 / max(loaded.seconds, 1e-9),
        Measure.P50_MS: loaded.p50_ms,
        Measure.P99_MS: loaded.p99_ms,
        Measure.P999_MS: loaded.p999_ms,
    }
    if control_us:
        values[Measure.CONTROL_US] = control_us / requests
    if turn.workload.compared is Measure.CPU_MIB_US:
        # By the bytes, not by the requests: of large answers some are under way at the end.
        values[Measure.CPU_MIB_US] = spent_us / max(1.0, loaded.bytes_read / MIB)
    return {str(key): value for key, value in values.items()}


def resident(pids: Sequence[int]) -> dict[str, float]:
    found = memory(pids)
    return {str(Measure.RSS_MIB): found.rss_mib, str(Measure.PSS_MIB): found.pss_mib}


def half_of_slowest(rounds: Sequence[Round]) -> float:
    """Half the requests a second that the slowest reached at saturation.

    Raises HarnessError when that was not measured.
    """
    reached = [values_of(rounds, name, Measure.RATE_S) for name in SLOWEST_OF]
    rates = [min(each) for each in reached if each]
    if not rates:
        raise HarnessError(f"{FIXED_RATE} needs the rates of {PLAIN}: measure that too")
    return min(rates) / 2


def fixed_rate(turn: Turn, rate_s: float) -> Sample:
    """Latency at a rate that all of them can sustain."""
    proxy, control = turn.running.pids()
    cpu_before_us, control_before_us = cpu_us(proxy), cpu_us(control)
    paths = [f"/a/{number * 31 % 100_003}?q={number}" for number in range(1000)]
    loaded = load.h2load(
        paths, turn.running.port, connections=turn.workload.connections, rate_s=rate_s,
        seconds=max(2, turn.seconds), cores=turn.cores, directory=turn.directory,
    )  # fmt: skip
    spent_us = cpu_us(proxy) - cpu_before_us
    control_us = cpu_us(control) - control_before_us
    faults = list(loaded.faults)
    if loaded.requests < 0.9 * rate_s * loaded.seconds:
        faults.append(f"{loaded.requests / loaded.seconds:.0f} requests/s of {rate_s:.0f}")
    return Sample(costs(turn, loaded, spent_us, control_us), tuple(faults))


DRIVES: dict[Drive, Callable[[Turn], Sample]] = {Drive.SATURATE: saturate}
