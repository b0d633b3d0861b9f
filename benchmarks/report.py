"""Pure: results -> the tables in docs/benchmarks.md, between its markers."""

from collections.abc import Callable, Iterable, Sequence
from typing import Final

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
from benchmarks.results import Results
from benchmarks.workloads import BARS, WORKLOADS, Drive, Workload

BEGIN: Final = "<!-- results:begin -->\n"
END: Final = "<!-- results:end -->"
PEERS_SHOWN: Final = (
    "turnout", "haproxy", "haproxy splice", "haproxy fields", "nginx", "envoy", "traefik", "caddy", "aiohttp",
)  # fmt: skip
NAMES: Final = {
    "turnout": "Turnout", "haproxy": "HAProxy", "haproxy splice": "HAProxy, splice",
    "haproxy fields": "HAProxy, same fields",
    "envoy": "Envoy", "traefik": "Traefik", "caddy": "Caddy",
}  # fmt: skip

SAID: Final = {
    Measure.CPU_US: "CPU µs",
    Measure.CPU_MIB_US: "CPU µs a MiB",
    Measure.CONTROL_US: "control µs",
    Measure.CPU_WITH_CONTROL_US: "CPU µs with control's",
    Measure.BUSY: "cores busy",
    Measure.RATE_S: "a second",
    Measure.RATE_MIB_S: "MiB a second",
    Measure.P50_MS: "p50, ms",
    Measure.P99_MS: "p99, ms",
    Measure.P999_MS: "p99.9, ms",
    Measure.MAX_MS: "longest, ms",
    Measure.CALL_P50_MS: "whole call p50, ms",
    Measure.CALL_P99_MS: "whole call p99, ms",
    Measure.FSYNC_P50_MS: "one commit p50, ms",
    Measure.FSYNC_P99_MS: "one commit p99, ms",
    Measure.POLL_GAP_MS: "looked away at most, ms",
    Measure.SWITCHES: "switches",
    Measure.LOGGED: "lines logged a request",
    Measure.RSS_MIB: "memory (RSS), MiB",
    Measure.PSS_MIB: "memory (PSS), MiB",
    Measure.REST_MIB: "memory at rest (RSS), MiB",
    Measure.REST_PSS_MIB: "memory at rest (PSS), MiB",
    Measure.IDLE_KIB: "an idle connection, KiB",
    Measure.ABOVE_REST_MIB: "above rest, MiB",
    Measure.START_S: "start, s",
    Measure.START_AGAIN_S: "start on existing state, s",
    Measure.BALANCE: "busiest worker by the other",
}
"""A measure in words, with its unit."""

VERDICTS: Final = {
    Verdict.AIM: "**aim reached**",
    Verdict.MET: "met",
    Verdict.MISSED: "**missed**",
    Verdict.NOT_JUDGED: "not judged",
    Verdict.NOT_MEASURED: "not measured",
}


def render(results: Results) -> str:
    """All tables, as Markdown."""
    parts = [
        facts(results),
        "### What must be reached",
        bars(results),
        "### CPU time a request",
        "Microseconds (of large bodies: a MiB), and in brackets the median of the ratios to "
        "HAProxy in the same round.",
        by_peer(results, _cpu_cell, _loaded()),
        "### Requests a second on one core",
        "The proxy's core is not always the limit: load and origin have to keep up.",
        by_peer(results, _rate_cell, _loaded()),
        "### Latency at a fixed rate",
        by_measure(results, "fixed-rate", (
            Measure.RATE_S, Measure.P50_MS, Measure.P99_MS, Measure.P999_MS, Measure.CPU_US)),
        "### Turnout against itself",
        against_itself(results),
        "### An atomic switch under load",
        by_measure(results, "switch-latency", (
            Measure.P50_MS, Measure.P99_MS, Measure.MAX_MS, Measure.CALL_P50_MS,
            Measure.CALL_P99_MS, Measure.FSYNC_P50_MS, Measure.FSYNC_P99_MS,
            Measure.POLL_GAP_MS, Measure.SWITCHES)),
        "### Memory and start",
        by_measure(results, "idle", (
            Measure.REST_MIB, Measure.REST_PSS_MIB, Measure.IDLE_KIB, Measure.RSS_MIB,
            Measure.BUSY)),
        by_measure(results, "slow-readers", (
            Measure.REST_MIB, Measure.ABOVE_REST_MIB, Measure.RATE_MIB_S, Measure.CPU_MIB_US)),
        by_measure(results, "start", (Measure.START_S, Measure.START_AGAIN_S)),
        void(results),
    ]  # fmt: skip
    return "\n\n".join(part for part in parts if part) + "\n"


def placed(page: str, results: Results) -> str:
    """The page with the tables between its markers. Raises ValueError without markers."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page lacks {BEGIN.strip()} or {END}")
    return f"{before}{BEGIN}\n{render(results)}\n{END}{after}"


# ---------------------------------------------------------------- parts


def facts(results: Results) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in results.versions.items())
    times = sorted(each.at_utc for each in results.workloads.values())
    rows = [*results.facts.items(), ("versions", versions)]
    # Several, when workloads were measured again by themselves.
    commits = dict.fromkeys(each.commit for each in results.workloads.values() if each.commit)
    if commits:
        rows.append(("commit", ", ".join(commits)))
    if times:
        rows.append(
            ("measured", times[0] if times[0] == times[-1] else f"{times[0]} to {times[-1]}")
        )
    commands = dict.fromkeys(each.command for each in results.workloads.values())
    rows.append(("command", ", ".join(f"`{command}`" for command in commands)))
    rows += [(f"{_name(name)} left out", why) for name, why in results.left_out.items()]
    return table(("", ""), rows)


def bars(results: Results) -> str:
    rows = []
    for bar in BARS:
        found = judge(bar, results.rounds(bar.workload), results.separate_cores)
        rows.append(bar_row(found))
    return table(("workload", "measure", "against", "found", "bar", "aim", ""), rows)


def bar_row(found: Judgement) -> tuple[str, ...]:
    bar = found.bar
    sign = "≥" if bar.at_least else "≤"
    verdict = VERDICTS[found.verdict] + (f" ({found.why})" if found.why else "")
    base = "" if bar.base is None else _name(bar.base)
    return (
        f"`{bar.workload}`",
        SAID[bar.measure],
        base,
        spread_text(found.spread),
        f"{sign} {bar.limit:g}",
        "" if bar.aim is None else f"{sign} {bar.aim:g}",
        verdict,
    )


def spread_text(found: Spread | None) -> str:
    """Median, and the smallest and largest of several."""
    if found is None:
        return ""
    if found.count == 1:
        return number(found.median)
    return f"{number(found.median)} ({number(found.least)} to {number(found.most)})"


def number(value: float) -> str:
    """Three digits that mean something, and thousands with a comma."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _loaded() -> list[Workload]:
    """The workloads in which proxies are side by side."""
    drives = (Drive.SATURATE, Drive.WEBSOCKET, Drive.EVENT_STREAMS)
    return [each for each in WORKLOADS if each.drive in drives and each.base == "haproxy"]


def by_peer(
    results: Results,
    cell: Callable[[Results, Workload, str], str],
    workloads: Iterable[Workload],
) -> str:
    """A row for each workload, a column for each proxy that took part in one of them."""
    rows = [
        [workload.says, *(cell(results, workload, peer) for peer in PEERS_SHOWN)]
        for workload in workloads
        if results.rounds(workload.name)
    ]
    kept = [0, *(i for i in range(1, len(PEERS_SHOWN) + 1) if any(row[i] for row in rows))]
    head = ("", *map(_name, PEERS_SHOWN))
    return table([head[i] for i in kept], [[row[i] for i in kept] for row in rows])


def _cpu_cell(results: Results, workload: Workload, peer: str) -> str:
    rounds = results.rounds(workload.name)
    value = spread(values_of(rounds, peer, workload.compared))
    ratio = spread(ratios_of(rounds, peer, workload.base, workload.compared))
    if value is None:
        return ""
    if ratio is None or peer == workload.base:
        return number(value.median)
    return f"{number(value.median)} ({ratio.median:.2f})"


def _rate_cell(results: Results, workload: Workload, peer: str) -> str:
    found = spread(values_of(results.rounds(workload.name), peer, Measure.RATE_S))
    return "" if found is None else number(found.median)


def by_measure(results: Results, workload: str, measures: Sequence[Measure]) -> str:
    """A row for each contestant, a column for each measure that there is."""
    rounds = results.rounds(workload)
    [found] = [each for each in WORKLOADS if each.name == workload]
    rows = []
    for contestant in found.contestants:
        spreads = [spread(values_of(rounds, contestant.name, measure)) for measure in measures]
        if any(spreads):
            rows.append([_name(contestant.name), *map(spread_text, spreads)])
    if not rows:
        return ""
    return table([found.says, *(SAID[measure] for measure in measures)], rows)


def _name(contestant: str) -> str:
    peer, _, variant = contestant.partition(" ")
    return NAMES.get(contestant) or f"{NAMES.get(peer, peer)}, {variant}".rstrip(", ")


def against_itself(results: Results) -> str:
    rows = []
    measures = (Measure.CPU_US, Measure.CPU_WITH_CONTROL_US, Measure.RATE_S, Measure.P99_MS)
    for workload in WORKLOADS:
        if {each.peer for each in workload.contestants} != {workload.base.split()[0]}:
            continue
        rounds = results.rounds(workload.name)
        for other in (each.name for each in workload.contestants if each.name != workload.base):
            says = workload.says
            if len(workload.contestants) > 2:
                says += f" ({_name(other)})"
            for measure in measures:
                ratio = spread(ratios_of(rounds, other, workload.base, measure))
                both = (workload.base, other)
                values = [spread(values_of(rounds, name, measure)) for name in both]
                if ratio is not None and all(values):
                    cells = [number(each.median) for each in values if each is not None]
                    rows.append([says, SAID[measure], *cells, spread_text(ratio)])
            for measure in (Measure.BALANCE, Measure.LOGGED, Measure.SWITCHES):
                value = spread(values_of(rounds, other, measure))
                if value is not None:
                    rows.append([says, SAID[measure], "", number(value.median), ""])
    return table(["", "measure", "without", "with", "ratio"], rows) if rows else ""


def void(results: Results) -> str:
    """What does not count, and who did not take part; nothing when there is nothing to say."""
    lines = []
    for name, measured in results.workloads.items():
        lines += [f"- `{name}`: {fault}: void" for fault in measured.faults()]
        lines += [
            f"- `{name}`: {who} left out: {one_line(why)}"
            for who, why in measured.left_out.items()
            if who.split()[0] not in results.left_out
        ]
    return "### What does not count\n\n" + "\n".join(lines) if lines else ""


def one_line(text: str) -> str:
    return " ".join(text.split())[:300]


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in lines
    )
