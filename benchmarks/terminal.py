"""What a person sees while it runs: a table for each workload."""

from rich import box
from rich.table import Table

from benchmarks.ratios import Judgement, Measure, Spread, judge, ratios_of, spread, values_of
from benchmarks.results import Results
from benchmarks.workloads import BARS, Workload

SHOWN = (
    (Measure.CPU_US, "CPU µs", "{:,.1f}"),
    (Measure.CPU_MIB_US, "CPU µs/MiB", "{:.0f}"),
    (Measure.CONTROL_US, "control", "{:.2f}"),
    (Measure.RATE_S, "per s", "{:,.0f}"),
    (Measure.P50_MS, "p50 ms", "{:.1f}"),
    (Measure.P99_MS, "p99 ms", "{:.1f}"),
    (Measure.P999_MS, "p99.9", "{:.1f}"),
    (Measure.RSS_MIB, "MiB", "{:.0f}"),
)


def table(workload: Workload, results: Results) -> Table:
    """Medians of what was measured, the ratio to the base with its spread, the bars."""
    rounds = results.rounds(workload.name)
    shown = Table(
        title=f"{workload.name}: {workload.says}",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    shown.add_column("", no_wrap=True)
    names = [each.name for each in workload.contestants]
    measures = [
        (measure, head, form)
        for measure, head, form in SHOWN
        if any(values_of(rounds, name, measure) for name in names)
    ]
    shown.add_column("ratio", justify="right", no_wrap=True)
    for _, head, _ in measures:
        shown.add_column(head, justify="right")
    for name in names:
        ratio = spread(ratios_of(rounds, name, workload.base, workload.compared))
        cells = [name, ratio_text(ratio)]
        for measure, _, form in measures:
            found = spread(values_of(rounds, name, measure))
            cells.append(form.format(found.median) if found else "")
        shown.add_row(*cells)
    bars = [bar for bar in BARS if bar.workload == workload.name]
    judgements = [judge(bar, rounds, results.separate_cores) for bar in bars]
    shown.caption = "\n".join(map(judgement_text, judgements))
    shown.caption_justify = "left"
    return shown


def ratio_text(found: Spread | None) -> str:
    if found is None:
        return ""
    if found.count == 1:
        return f"{found.median:.2f}"
    return f"{found.median:.2f} ({found.least:.2f}-{found.most:.2f})"


def judgement_text(judgement: Judgement) -> str:
    bar = judgement.bar
    value = "" if judgement.spread is None else f" {judgement.spread.median:.2f}"
    against = f" against {bar.base}" if bar.base else ""
    sign = "≥" if bar.at_least else "≤"
    aim = "" if bar.aim is None else f", aim {sign} {bar.aim:g}"
    why = f" ({judgement.why})" if judgement.why else ""
    return f"{bar.measure}{against}{value}, bar {sign} {bar.limit:g}{aim}: {judgement.verdict}{why}"
