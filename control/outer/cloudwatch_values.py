"""Pure: what values and alarms of CloudWatch mean for a gate.

Only what is surely within the limits passes. No value, too few, one that is no number, an answer
that is not whole, or more than one series where one was meant, is inconclusive: CloudWatch
answers `Complete` and nothing for a metric that nobody writes, and for one that is misspelt.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from turnout.control.outer.seams import GateResult, GateVerdict


@dataclass(frozen=True, slots=True)
class Metric:
    """One series of CloudWatch, and what its values may be."""

    id: str
    """Of the query, within one call."""
    region: str | None
    """None: boto3's own."""
    namespace: str
    name: str
    dimensions: tuple[tuple[str, str], ...]
    stat: str
    unit: str = ""
    """For people, after `scale`."""
    at_most: float | None = None
    at_least: float | None = None
    scale: float = 1.0
    """What a value is multiplied by before it is compared and shown."""
    negative_fails: bool = False
    """A value below 0, such as -1, says that there is nothing to measure any more."""

    @property
    def place(self) -> str:
        """`AWS/RDS ReplicaLag (Maximum, DBInstanceIdentifier=shop-2) in eu-west-1`."""
        which = ", ".join([self.stat, *(f"{name}={value}" for name, value in self.dimensions)])
        where = f" in {self.region}" if self.region else ""
        return f"{self.namespace} {self.name} ({which}){where}"

    @property
    def limit(self) -> str:
        """`at most 5 s`, `at least 1 and at most 2 %`."""
        bounds = [
            f"{words} {bound:g}"
            for words, bound in (("at least", self.at_least), ("at most", self.at_most))
            if bound is not None
        ]
        return self._with_unit(" and ".join(bounds))

    def shown(self, value: float) -> str:
        return self._with_unit(f"{value:g}")

    def within(self, value: float) -> bool:
        return (self.at_most is None or value <= self.at_most) and (
            self.at_least is None or value >= self.at_least
        )

    def query(self, period_s: int) -> dict[str, Any]:
        """As GetMetricData takes it."""
        return {
            "Id": self.id,
            "MetricStat": {
                "Metric": {
                    "Namespace": self.namespace,
                    "MetricName": self.name,
                    "Dimensions": as_dimensions(self.dimensions),
                },
                "Period": period_s,
                "Stat": self.stat,
            },
        }

    def _with_unit(self, text: str) -> str:
        return f"{text} {self.unit}" if self.unit else text


def as_dimensions(dimensions: Sequence[tuple[str, str]]) -> list[dict[str, str]]:
    return [{"Name": name, "Value": value} for name, value in dimensions]


@dataclass(frozen=True, slots=True)
class Window:
    """The whole periods that are looked at. Seconds since 1970; the end is exclusive."""

    start: int
    end: int
    period_s: int
    points: int
    """So many values are needed."""

    @property
    def periods(self) -> int:
        return max(0, (self.end - self.start) // self.period_s)

    @property
    def words(self) -> str:
        return f"from {_clock(self.start)} to {_clock(self.end)}"


def window(at: float, *, since: float | None, period_s: int, points: int, delay_s: float) -> Window:
    """The newest `points` periods that have ended `delay_s` ago, without those that began before
    `since`."""
    end = math.floor((at - delay_s) / period_s) * period_s
    start = end - points * period_s
    if since is not None:
        start = min(max(start, math.ceil(since / period_s) * period_s), end)
    return Window(start, end, period_s, points)


@dataclass(frozen=True, slots=True)
class Series:
    """What was answered for one query."""

    label: str
    status: str
    """`Complete`, `PartialData`, `InternalError`, `Forbidden`."""
    points: tuple[tuple[float, float | None], ...]
    """When the period began, and its value; None: it is no number at all."""
    messages: tuple[str, ...] = ()


def series_of(results: Sequence[Mapping[str, Any]]) -> dict[str, list[Series]]:
    """The series of all pages by their query's id. A later page goes on with an earlier one's."""
    found: dict[str, dict[str, Series]] = {}
    for result in results:
        by_label = found.setdefault(str(result.get("Id")), {})
        label = str(result.get("Label") or "")
        before = by_label.get(label)
        stamps, values = result.get("Timestamps") or (), result.get("Values") or ()
        points = tuple(
            (_seconds(stamp), _number(value)) for stamp, value in zip(stamps, values, strict=False)
        )
        if len(stamps) != len(values):
            points = (*points, (math.inf, None))
        messages = tuple(
            f"{message.get('Code')}: {message.get('Value')}"
            for message in result.get("Messages") or ()
        )
        by_label[label] = Series(
            label,
            # `PartialData` of all pages but the last means: there is another page.
            str(result.get("StatusCode")),
            (*(before.points if before else ()), *points),
            (*(before.messages if before else ()), *messages),
        )
    return {id_: list(by_label.values()) for id_, by_label in found.items()}


def _seconds(stamp: Any) -> float:
    return stamp.timestamp() if isinstance(stamp, datetime) else float(stamp)


def _number(value: Any) -> float | None:
    # boto3 gives what stood in the JSON: "NaN" and "Infinity" are texts there.
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def verdict_of(metric: Metric, series: Sequence[Series], window: Window) -> GateResult:
    """Pass when all of the window's values are within the limits; fail when the newest is not.

    An older one that is not, after which it was better, is inconclusive.
    """
    if len(series) > 1:
        labels = ", ".join(one.label for one in series)
        return _inconclusive(metric, f"{len(series)} series where one was meant: {labels}")
    if not series:
        return _inconclusive(metric, "CloudWatch answered nothing for it")
    [one] = series
    if one.status in ("Forbidden", "InternalError") or (
        one.status not in ("Complete", "PartialData")
    ):
        said = "; ".join((one.status, *one.messages))
        return GateResult(GateVerdict.ERROR, f"{metric.place}: {said}")
    values: dict[float, float | None] = {}
    for at, value in one.points:
        if value is None or at not in values or values[at] == value:
            values[at] = value
        else:
            return _inconclusive(metric, f"two values for {_clock(at)}: more than one series")
    inside = sorted(
        ((at, value) for at, value in values.items() if window.start <= at < window.end),
        reverse=True,
    )
    if math.inf in values:
        return _inconclusive(metric, "it was answered with more times than values, or fewer")
    return _judged(metric, inside, one.status, window)


def _judged(
    metric: Metric,
    newest_first: Sequence[tuple[float, float | None]],
    status: str,
    window: Window,
) -> GateResult:
    scaled: list[tuple[float, float]] = []
    for at, value in newest_first:
        if value is None or not math.isfinite(value):
            said = "no number" if value is None else f"{value:g}"
            if not scaled:
                return _inconclusive(metric, f"{said} at {_clock(at)}")
            continue
        if metric.negative_fails and value < 0:
            if not scaled:
                reason = f"{metric.place}: {value:g} at {_clock(at)}: nothing is replicated"
                return GateResult(GateVerdict.FAIL, reason, value)
            return _inconclusive(metric, f"{value:g} at {_clock(at)}: nothing was replicated")
        scaled.append((at, value * metric.scale))
    if not scaled:
        return _inconclusive(
            metric,
            f"no value {window.words}: nobody writes it, or its name, dimensions or region "
            f"are others",
        )
    at, newest = scaled[0]
    if not metric.within(newest):
        reason = f"{metric.place}: {metric.shown(newest)} at {_clock(at)}, not {metric.limit}"
        return GateResult(GateVerdict.FAIL, reason, newest)
    if status == "PartialData":
        return _inconclusive(metric, "CloudWatch gave a part of the values only", newest)
    if len(scaled) < len(newest_first):
        return _inconclusive(metric, f"no number among the values {window.words}", newest)
    for then, value in scaled:
        if not metric.within(value):
            text = (
                f"{metric.shown(newest)} at {_clock(at)}, but {metric.shown(value)} at "
                f"{_clock(then)}, not {metric.limit}"
            )
            return _inconclusive(metric, text, newest)
    if len(scaled) < window.points:
        text = f"{len(scaled)} of {window.points} values {window.words}"
        return _inconclusive(metric, text, newest)
    span = "" if len(scaled) == 1 else f", as all {len(scaled)} values {window.words}"
    reason = f"{metric.place}: {metric.shown(newest)} at {_clock(at)}, {metric.limit}{span}"
    return GateResult(GateVerdict.PASS, reason, newest)


def _inconclusive(metric: Metric, text: str, value: float | None = None) -> GateResult:
    return GateResult(GateVerdict.INCONCLUSIVE, f"{metric.place}: {text}", value)


def too_early(metric: Metric, window: Window) -> GateResult:
    """Not enough periods have passed since the weights were moved."""
    return _inconclusive(
        metric,
        f"{window.periods} of {window.points} periods of {window.period_s} s are over since the "
        f"weights were moved",
    )


_WORST_FIRST: Final = (
    GateVerdict.FAIL,
    GateVerdict.ERROR,
    GateVerdict.INCONCLUSIVE,
    GateVerdict.PASS,
)


def together(results: Sequence[GateResult]) -> GateResult:
    """One result of several, all of which must pass: the worst, with the reasons of all such."""
    worst = next(verdict for verdict in _WORST_FIRST if verdict in {one.verdict for one in results})
    such = [one for one in results if one.verdict is worst]
    return GateResult(worst, "; ".join(one.reason for one in such), such[0].value)


def _clock(at: float) -> str:
    return "?" if math.isinf(at) else f"{datetime.fromtimestamp(at, UTC):%H:%M:%SZ}"


# ---------------------------------------------------------------- alarms


def alarms_verdict(
    found: Sequence[Mapping[str, Any]], names: Sequence[str], place: str, early: str
) -> GateResult:
    """All of them `OK` passes. `early` says why it is too early for that; empty: it is not."""
    states = {str(alarm.get("AlarmName")): alarm for alarm in found}
    results = []
    for name in names:
        alarm = states.get(name)
        if alarm is None:
            reason = f"there is no alarm {name} ({place}), neither a metric alarm nor a composite"
            results.append(GateResult(GateVerdict.ERROR, reason))
            continue
        state = str(alarm.get("StateValue"))
        since = alarm.get("StateUpdatedTimestamp")
        said = f"alarm {name} ({place}) is {state}"
        if isinstance(since, datetime):
            said += f" since {since.astimezone(UTC):%Y-%m-%d %H:%M:%SZ}"
        if reason := " ".join(str(alarm.get("StateReason") or "").split()):
            said += f": {reason[:200]}"
        verdict = {"OK": GateVerdict.PASS, "ALARM": GateVerdict.FAIL}.get(
            state, GateVerdict.INCONCLUSIVE
        )
        if verdict is GateVerdict.PASS and alarm.get("EvaluationState"):
            said += f"; its evaluation: {alarm['EvaluationState']}"
            verdict = GateVerdict.INCONCLUSIVE
        elif verdict is GateVerdict.PASS and early:
            said += f"; {early}"
            verdict = GateVerdict.INCONCLUSIVE
        results.append(GateResult(verdict, said))
    return together(results)
