"""Pure: rounds of samples -> ratios and their spread; bars -> met, missed, or why not judged.

Samples of one round were taken one after the other on the same machine in the same minute, so
that only ratios within a round are formed, and their median is what counts: a machine that
slows down for a while slows both.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import median
from typing import Final


class Measure(StrEnum):
    """What is measured, with its unit last."""

    CPU_US = "cpu_us"
    """CPU time of the proxy's processes a request (a message, an event); control apart."""
    CONTROL_US = "control_us"
    """The same of Turnout's control process."""
    CPU_WITH_CONTROL_US = "cpu_with_control_us"
    CPU_MIB_US = "cpu_mib_us"
    """CPU time a MiB of bodies."""
    BUSY = "busy_cores"
    """CPU time of the proxy by the time that passed."""
    RATE_S = "rate_s"
    """Requests (messages, events) a second."""
    P50_MS = "p50_ms"
    P99_MS = "p99_ms"
    P999_MS = "p999_ms"
    MAX_MS = "max_ms"
    RSS_MIB = "rss_mib"
    """Resident memory of the proxy's processes, control apart."""
    PSS_MIB = "pss_mib"
    """The same, with pages that processes share divided among them."""
    REST_MIB = "rest_mib"
    """Resident memory of the workers that have served nothing yet."""
    REST_PSS_MIB = "rest_pss_mib"
    IDLE_KIB = "idle_kib"
    """Resident memory for each idle connection."""
    ABOVE_REST_MIB = "above_rest_mib"
    START_S = "start_s"
    """From exec to the first answer, with no state."""
    START_AGAIN_S = "start_again_s"
    """The same, with the state of a run before."""
    RATE_MIB_S = "rate_mib_s"
    SWITCHES = "switches"
    CALL_P50_MS = "call_p50_ms"
    CALL_P99_MS = "call_p99_ms"
    """Of the whole call that switches, until the old upstream has drained."""
    LOGGED = "logged"
    """Lines in the access log by requests: what it dropped is missing."""
    FSYNC_P50_MS = "fsync_p50_ms"
    FSYNC_P99_MS = "fsync_p99_ms"
    POLL_GAP_MS = "poll_gap_ms"
    """Longest time that the harness itself did not look: how coarse the figure is."""
    BALANCE = "balance"
    """CPU time of the busiest worker by that of the least busy one."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One contestant's turn in one round. With `faults` it is void and counts for nothing."""

    values: Mapping[str, float]
    faults: tuple[str, ...] = ()

    def value(self, measure: Measure) -> float | None:
        return None if self.faults else self.values.get(measure)


Round = Mapping[str, Sample]
"""Samples by contestant."""


@dataclass(frozen=True, slots=True)
class Spread:
    """Median, smallest and largest of some values."""

    median: float
    least: float
    most: float
    count: int


def spread(values: Sequence[float]) -> Spread | None:
    """None of no values."""
    if not values:
        return None
    return Spread(median(values), min(values), max(values), len(values))


def values_of(rounds: Sequence[Round], contestant: str, measure: Measure) -> list[float]:
    """The contestant's values, of the rounds in which it has one."""
    samples = (each[contestant] for each in rounds if contestant in each)
    return [found for sample in samples if (found := sample.value(measure)) is not None]


def ratios_of(rounds: Sequence[Round], contestant: str, base: str, measure: Measure) -> list[float]:
    """The contestant's value by the base's, for each round in which both have one."""
    found = []
    for each in rounds:
        if contestant in each and base in each:
            ours, theirs = each[contestant].value(measure), each[base].value(measure)
            if ours is not None and theirs:
                found.append(ours / theirs)
    return found


# ---------------------------------------------------------------- bars


class Separate(StrEnum):
    """What must have cores of its own before a bar says anything about the proxy."""

    NOTHING = "nothing"
    PROXY_LOAD_AND_ORIGIN = "proxy, load and origin"
    TWO_WORKERS_LOAD_AND_ORIGIN = "two workers, load and origin"


CORES_NEEDED: Final = {
    Separate.NOTHING: 1,
    Separate.PROXY_LOAD_AND_ORIGIN: 3,
    Separate.TWO_WORKERS_LOAD_AND_ORIGIN: 4,
}


@dataclass(frozen=True, slots=True)
class Bar:
    """What must be reached: a limit for a ratio, or for a value when there is no `base`."""

    workload: str
    measure: Measure
    limit: float
    aim: float | None = None
    contestant: str = "turnout"
    base: str | None = "haproxy"
    at_least: bool = False
    """The limit is the least that is good enough, not the most."""
    separate: Separate = Separate.NOTHING


class Verdict(StrEnum):
    AIM = "aim reached"
    MET = "met"
    MISSED = "missed"
    NOT_JUDGED = "not judged"
    NOT_MEASURED = "not measured"


@dataclass(frozen=True, slots=True)
class Judgement:
    bar: Bar
    verdict: Verdict
    spread: Spread | None
    why: str = ""
    """Of what was not judged or not measured."""


def judge(bar: Bar, rounds: Sequence[Round], cores: int) -> Judgement:
    """Hold what was measured on a machine of `cores` cores against a bar, by the median."""
    if bar.base is None:
        found = spread(values_of(rounds, bar.contestant, bar.measure))
    else:
        found = spread(ratios_of(rounds, bar.contestant, bar.base, bar.measure))
    if found is None:
        missing = "no round of it" if bar.base is None else f"no round with {bar.base}"
        return Judgement(bar, Verdict.NOT_MEASURED, None, missing)
    if cores < CORES_NEEDED[bar.separate]:
        return Judgement(bar, Verdict.NOT_JUDGED, found, f"{cores} cores")
    return Judgement(bar, _verdict(bar, found.median), found)


def _verdict(bar: Bar, value: float) -> Verdict:
    def good(limit: float) -> bool:
        return value >= limit if bar.at_least else value <= limit

    if bar.aim is not None and good(bar.aim):
        return Verdict.AIM
    return Verdict.MET if good(bar.limit) else Verdict.MISSED


def quantile(ordered: Sequence[float], share: float) -> float:
    """The smallest of the ordered values that at least `share` of them do not exceed.

    Raises ValueError when there are none.
    """
    if not ordered:
        raise ValueError("no quantile of no values")
    rank = -int(-share * len(ordered) // 1)  # rounded up
    return ordered[min(len(ordered), max(1, rank)) - 1]
