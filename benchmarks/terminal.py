"""What a person sees while it runs: a table for each workload, and how it stands to its bars."""

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from benchmarks.ratios import (
    Judgement,
    Measure,
    Spread,
    Verdict,
    judge,
    ratios_of,
    spread,
    values_of,
)
from benchmarks.report import SAID, number
from benchmarks.results import Results
from benchmarks.workloads import BARS, FIELDS, SPLICE, Workload

SHOWN = {
    Measure.CPU_US: "CPU µs",
    Measure.CPU_MIB_US: "µs/MiB",
    Measure.CONTROL_US: "control",
    Measure.RATE_S: "per s",
    Measure.P50_MS: "p50 ms",
    Measure.P99_MS: "p99 ms",
    Measure.P999_MS: "p99.9",
    Measure.MAX_MS: "longest",
    Measure.CALL_P99_MS: "call p99",
    Measure.FSYNC_P99_MS: "commit p99",
    Measure.RSS_MIB: "RSS MiB",
    Measure.REST_MIB: "at rest",
    Measure.IDLE_KIB: "KiB each",
    Measure.ABOVE_REST_MIB: "above rest",
    Measure.START_S: "start s",
    Measure.START_AGAIN_S: "again s",
    Measure.SWITCHES: "switches",
    Measure.BALANCE: "balance",
}
LEGEND = {
    FIELDS.name: "HAProxy that tells both sides what Turnout tells them of itself; no bar",
    SPLICE.name: "HAProxy with `option splice-response`",
}
STYLES = {
    Verdict.AIM: "bold green",
    Verdict.MET: "green",
    Verdict.MISSED: "red",
    Verdict.NOT_JUDGED: "dim",
    Verdict.NOT_MEASURED: "yellow",
}


def shown(
    workload: Workload, results: Results, before: Results | None, *, judged: bool
) -> RenderableType:
    """Medians, the ratio to the base with its spread, the bars if they are `judged`; beside them
    the ratio that was committed, if `before` has it."""
    rounds = results.rounds(workload.name)
    names = [each.name for each in workload.contestants if any(each.name in one for one in rounds)]
    if not names:
        return Text(f"{workload.name}: {workload.says}")
    measures = [key for key in SHOWN if any(values_of(rounds, name, key) for name in names)]
    table = Table(title=f"{workload.name}: {workload.says}", title_justify="left",
                  box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))  # fmt: skip
    table.add_column("", no_wrap=True)
    table.add_column(f"ratio of {SHOWN[workload.compared]}", justify="right")
    if before is not None:
        table.add_column("committed", justify="right")
    for measure in measures:
        table.add_column(SHOWN[measure], justify="right", no_wrap=True)
    for name in names:
        cells = [name, ratio_text(_ratio(results, workload, name))]
        if before is not None:
            found = _ratio(before, workload, name)
            cells.append("" if found is None else f"{found.median:.2f}")
        for measure in measures:
            value = spread(values_of(rounds, name, measure))
            cells.append(number(value.median) if value else "")
        table.add_row(*cells)
    taking_part = set(names)
    judgements = [
        judge(bar, rounds, results.separate_cores)
        for bar in BARS
        if judged
        and bar.workload == workload.name
        and (bar.base is None or bar.base in taking_part)
    ]
    texts = [Text("  " + judgement_text(each), STYLES[each.verdict]) for each in judgements]
    if workload.base in {each.name for each in workload.contestants} - taking_part:
        texts.append(Text(f"  no ratios: {workload.base} did not take part", "yellow"))
    texts += [Text(f"  {name}: {LEGEND[name]}", "dim") for name in names if name in LEGEND]
    return Group(table, *texts)


def _ratio(results: Results, workload: Workload, name: str) -> Spread | None:
    found = ratios_of(results.rounds(workload.name), name, workload.base, workload.compared)
    return spread(found)


def ratio_text(found: Spread | None) -> str:
    if found is None:
        return ""
    if found.count == 1:
        return f"{found.median:.2f}"
    return f"{found.median:.2f} ({found.least:.2f}-{found.most:.2f})"


def judgement_text(judgement: Judgement) -> str:
    bar = judgement.bar
    value = "" if judgement.spread is None else f" {number(judgement.spread.median)}"
    against = f" against {bar.base}" if bar.base else ""
    sign = "≥" if bar.at_least else "≤"
    aim = "" if bar.aim is None else f", aim {sign} {bar.aim:g}"
    why = f" ({judgement.why})" if judgement.why else ""
    verdict = f"{judgement.verdict}{why}"
    return f"{SAID[bar.measure]}{against}{value}; bar {sign} {bar.limit:g}{aim}: {verdict}"
