"""What is done to a proxy in its turn, and what is measured meanwhile. In each: look at CPU
time and memory, load, look again."""

import contextlib
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from benchmarks import load
from benchmarks.measure import cpu_us, memory
from benchmarks.origin import ROOT
from benchmarks.peers import Running, first_answer_s
from benchmarks.processes import HarnessError, place, start, tail, wait_until
from benchmarks.ratios import Measure, Round, Sample, values_of
from benchmarks.switching import Switcher, latencies
from benchmarks.workloads import (
    EVENT_STREAMS,
    FIXED_RATE,
    IDLE_CONNECTIONS,
    PLAIN,
    SLOW_READERS,
    Drive,
    Request,
    Variant,
    Workload,
)

MIB: Final = 1048576
SLOWEST_OF: Final = ("nginx", "haproxy", "turnout")
START_LIMIT_S: Final = 20.0
SLOW_READ_S: Final = 10
WARM_UP_S: Final = 1
DESCRIPTORS_KEPT: Final = 500
"""For what a proxy or the clients have open beside the idle connections."""


@dataclass(slots=True)
class Turn:
    """One contestant's turn."""

    workload: Workload
    running: Running
    """Started for the workload, or not yet, if `Workload.fresh` says so."""
    seconds: int
    cores: frozenset[int]
    """Of the load."""
    directory: Path
    rate_s: float
    """For a drive at a fixed rate."""
    small: bool
    """Only to see that it works."""


class Spent:
    """CPU time of a proxy from when this was made."""

    def __init__(self, running: Running) -> None:
        self.proxy, self.control = running.pids()
        self._proxy_us, self._control_us = cpu_us(self.proxy), cpu_us(self.control)
        self._workers_us = {pid: cpu_us([pid]) for pid in running.worker_pids()}
        self._began_s = time.monotonic()

    def measures(self, count: int, bytes_read: int = 0) -> dict[str, float]:
        """What one of `count` requests has cost, and each MiB of `bytes_read`."""
        proxy_us = cpu_us(self.proxy) - self._proxy_us
        control_us = cpu_us(self.control) - self._control_us
        count = max(1, count)
        values = {
            Measure.CPU_US: proxy_us / count,
            Measure.BUSY: proxy_us / 1e6 / max(1e-9, time.monotonic() - self._began_s),
        }
        if self.control:
            values[Measure.CONTROL_US] = control_us / count
            values[Measure.CPU_WITH_CONTROL_US] = (proxy_us + control_us) / count
        if bytes_read:
            # By the bytes, not by the requests: of large answers some are under way at the end.
            values[Measure.CPU_MIB_US] = proxy_us / (bytes_read / MIB)
        if len(self._workers_us) > 1:
            each_us = [cpu_us([pid]) - before for pid, before in self._workers_us.items()]
            values[Measure.BALANCE] = max(each_us) / max(1.0, min(each_us))
        return {str(key): value for key, value in values.items()}


def serving(running: Running) -> list[int]:
    """The processes whose memory is looked at: Turnout's workers, all of another proxy."""
    return running.worker_pids() or running.pids()[0]


def resident(pids: Sequence[int]) -> dict[str, float]:
    found = memory(pids)
    return {str(Measure.RSS_MIB): found.rss_mib, str(Measure.PSS_MIB): found.pss_mib}


# ---------------------------------------------------------------- wrk, h2load


def saturate(turn: Turn) -> Sample:
    """wrk for some seconds; CPU time of the proxy by the requests that it answered."""
    variant = turn.running.contestant.variant
    log = turn.running.site.directory / "access.log"
    lines_before = count_lines(log) if variant is Variant.LOG else 0
    switches = variant in (Variant.SWITCHING, Variant.SWITCHING_APART)
    switcher = Switcher(turn.running) if switches else None
    if variant is Variant.SWITCHING_APART:
        for pid in turn.running.pids()[1]:
            place(pid, turn.cores)
    spent = Spent(turn.running)
    with switcher or contextlib.nullcontext():
        loaded = wrk(turn, turn.workload.request, turn.seconds).result()
    faults = loaded.faults
    values: dict[str, float] = {}
    if variant is Variant.LOG:
        # Control writes the lines, and may be behind: what it does after the load counts too.
        wait_until(still(log), "the access log to be written", step_s=0.2)
        lines = count_lines(log) - lines_before
        values[Measure.LOGGED] = lines / max(1, loaded.requests)
    if switcher is not None:
        values[Measure.SWITCHES] = switcher.done
        faults += () if turn.small else switcher.faults(turn.seconds)
    large = turn.workload.compared is Measure.CPU_MIB_US
    values |= spent.measures(loaded.requests, _moved(turn, loaded) if large else 0)
    return Sample({**values, **speed(loaded), **resident(spent.proxy)}, faults)


def _moved(turn: Turn, loaded: load.Loaded) -> int:
    return loaded.requests * turn.workload.request.body_bytes or loaded.bytes_read


def wrk(turn: Turn, request: Request, seconds: int) -> load.Wrk:
    return load.Wrk(
        request, turn.running.port, connections=turn.workload.connections,
        seconds=seconds, cores=turn.cores, directory=turn.directory,
    )  # fmt: skip


def speed(loaded: load.Loaded) -> dict[str, float]:
    return {
        str(Measure.RATE_S): loaded.requests / max(loaded.seconds, 1e-9),
        str(Measure.P50_MS): loaded.p50_ms,
        str(Measure.P99_MS): loaded.p99_ms,
        str(Measure.P999_MS): loaded.p999_ms,
    }


def count_lines(path: Path) -> int:
    if not path.exists():
        return 0
    with path.open("rb") as file:
        return sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(1 << 20), b""))


def still(path: Path) -> Callable[[], bool]:
    """A condition: the file has not grown since it was asked last."""
    sizes = [-1]

    def condition() -> bool:
        sizes.append(path.stat().st_size if path.exists() else 0)
        return sizes[-1] == sizes[-2]

    return condition


def half_of_slowest(rounds: Sequence[Round]) -> float:
    """Half the requests a second that the slowest reached at saturation; 0 if not measured."""
    reached = [values_of(rounds, name, Measure.RATE_S) for name in SLOWEST_OF]
    return min((min(each) for each in reached if each), default=0.0) / 2


def fixed_rate(turn: Turn) -> Sample:
    """Latency at a rate that all of them can sustain."""
    if not turn.rate_s:
        raise HarnessError(f"{FIXED_RATE} needs the rates of {PLAIN}")
    spent = Spent(turn.running)
    loaded = load.h2load(
        [f"/a/{number * 31 % 100_003}?q={number}" for number in range(1000)],
        turn.running.port, connections=turn.workload.connections, rate_s=turn.rate_s,
        seconds=turn.seconds, cores=turn.cores, directory=turn.directory,
    )  # fmt: skip
    faults = loaded.faults
    if not turn.small and loaded.requests < 0.9 * turn.rate_s * loaded.seconds:
        faults += (f"{loaded.requests / loaded.seconds:.0f} requests/s of {turn.rate_s:.0f}",)
    return Sample(spent.measures(loaded.all_requests) | speed(loaded), faults)


# ---------------------------------------------------------------- own clients


class Crowd:
    """A process of `clients`, with its connections open."""

    def __init__(self, turn: Turn, kind: str, size: int) -> None:
        self._log = turn.directory / f"{kind}.log"
        self._size = size
        command = [sys.executable, "-m", "benchmarks.clients", kind, str(turn.running.port)]
        self._process = start(
            [*command, str(size)], cores=turn.cores, log=self._log,
            environment={"PYTHONPATH": str(ROOT)}, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    def __enter__(self) -> Self:
        if self._said() != "ready":
            self._end()
            raise HarnessError(f"{self._size} clients did not come up: {tail(self._log)}")
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def _end(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def _said(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().decode().strip()

    def _say(self, word: bytes) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(word + b"\n")
        self._process.stdin.flush()

    def begin(self) -> None:
        self._say(b"begin")

    def end(self) -> dict[str, Any]:
        """What it has counted since `begin`."""
        self._say(b"end")
        said = self._said()
        if not said:
            raise HarnessError(f"the clients ended: {tail(self._log)}")
        found: dict[str, Any] = json.loads(said)
        return found


def _lost(found: dict[str, Any]) -> tuple[str, ...]:
    return (f"{found['lost']} connections were lost",) if found["lost"] else ()


def websocket(turn: Turn) -> Sample:
    """Echoes of small messages; a message is there and back."""
    with Crowd(turn, "websocket", turn.workload.connections) as crowd:
        spent = Spent(turn.running)
        crowd.begin()
        began_s = time.monotonic()
        time.sleep(turn.seconds)
        found = crowd.end()
        took_s = time.monotonic() - began_s
        values = spent.measures(found["counted"])
    values |= {str(key): found[key] for key in (Measure.P50_MS, Measure.P99_MS, Measure.P999_MS)}
    values[Measure.RATE_S] = found["counted"] / took_s
    return Sample({**values, **resident(spent.proxy)}, _lost(found))


def event_streams(turn: Turn) -> Sample:
    """Many streams, few events on each: the events are counted, the rate is the origin's."""
    with Crowd(turn, "events", 100 if turn.small else EVENT_STREAMS) as crowd:
        time.sleep(0.5)  # what waited while they were opened
        spent = Spent(turn.running)
        crowd.begin()
        began_s = time.monotonic()
        time.sleep(turn.seconds)
        found = crowd.end()
        took_s = time.monotonic() - began_s
        values = spent.measures(found["counted"])
        values |= resident(spent.proxy)
    values[Measure.RATE_S] = found["counted"] / took_s
    return Sample(values, _lost(found))


def idle(turn: Turn) -> Sample:
    """Memory at rest, and for each of many idle connections that have made one request."""
    running = turn.running
    running.start()
    rest = memory(serving(running))
    wrk(turn, Request(), WARM_UP_S).result()
    # What a first load leaves (code, buffers, server connections) is not of the connections.
    warm = memory(serving(running))
    size = min(500 if turn.small else IDLE_CONNECTIONS, _idle_at_most())
    with Crowd(turn, "idle", size) as crowd:
        crowd.begin()
        time.sleep(1.0)
        full = memory(serving(running))
        spent = Spent(running)
        time.sleep(turn.seconds)
        values = {**spent.measures(1), **resident(serving(running))}
        found = crowd.end()
    busy = values[Measure.BUSY]
    kept = {
        Measure.REST_MIB: rest.rss_mib,
        Measure.REST_PSS_MIB: rest.pss_mib,
        Measure.IDLE_KIB: (full.rss_bytes - warm.rss_bytes) / size / 1024,
        Measure.RSS_MIB: full.rss_mib,
        Measure.PSS_MIB: full.pss_mib,
        Measure.BUSY: busy,
    }
    return Sample({str(key): value for key, value in kept.items()}, _lost(found))


def _idle_at_most() -> int:
    """So many connections have descriptors here, and at a proxy that keeps one more for each of
    them, to a server."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    ours = soft if soft != resource.RLIM_INFINITY else IDLE_CONNECTIONS
    theirs = hard // 2 if hard != resource.RLIM_INFINITY else IDLE_CONNECTIONS
    return min(ours, theirs) - DESCRIPTORS_KEPT


def slow_readers(turn: Turn) -> Sample:
    """Memory while large answers are read far more slowly than they could be sent."""
    running = turn.running
    running.start()
    rest = memory(serving(running))
    seconds = turn.seconds if turn.small else max(turn.seconds, SLOW_READ_S)
    most = rest
    with Crowd(turn, "slow", SLOW_READERS) as crowd:
        spent = Spent(running)
        crowd.begin()
        end_s = time.monotonic() + seconds
        while time.monotonic() < end_s:
            time.sleep(0.2)
            most = max(most, memory(serving(running)), key=lambda each: each.rss_bytes)
        found = crowd.end()
        values = spent.measures(1, found["bytes"])
    kept = {
        str(Measure.REST_MIB): rest.rss_mib,
        str(Measure.ABOVE_REST_MIB): most.rss_mib - rest.rss_mib,
        str(Measure.RSS_MIB): most.rss_mib,
        str(Measure.CPU_MIB_US): values[Measure.CPU_MIB_US],
        str(Measure.RATE_MIB_S): found["bytes"] / MIB / seconds,
    }
    return Sample(kept, _lost(found))


# ---------------------------------------------------------------- start, switch


def start_up(turn: Turn) -> Sample:
    """From exec to the first answer, with no state and with the state of a run before."""
    took_s = []
    for _ in ("fresh", "again"):
        began_s = time.monotonic()
        turn.running.start(wait=False)
        took_s.append(first_answer_s(turn.running.port, began_s, START_LIMIT_S))
        turn.running.wait_ready()
        turn.running.stop()
    return Sample({str(Measure.START_S): took_s[0], str(Measure.START_AGAIN_S): took_s[1]})


def switch_latency(turn: Turn) -> Sample:
    """From the API call to the last worker's acknowledgement, under a load that saturates."""
    load_s = 120
    running = wrk(turn, turn.workload.request, load_s)
    try:
        time.sleep(0.5)
        values = latencies(turn.running, 10 if turn.small else turn.workload.switches)
        running.interrupt()
        loaded = running.result()
    finally:
        running.kill()
    return Sample({**values, str(Measure.RATE_S): speed(loaded)[Measure.RATE_S]}, loaded.faults)


DRIVES: Final[dict[Drive, Callable[[Turn], Sample]]] = {
    Drive.SATURATE: saturate,
    Drive.FIXED_RATE: fixed_rate,
    Drive.WEBSOCKET: websocket,
    Drive.EVENT_STREAMS: event_streams,
    Drive.IDLE: idle,
    Drive.SLOW_READERS: slow_readers,
    Drive.START: start_up,
    Drive.SWITCH_LATENCY: switch_latency,
}
