"""The picture beside the report, as SVG. matplotlib is imported here alone: it is of the
dependency group `bench`, and a run without it has no picture and says so."""

from pathlib import Path
from typing import Any, Final

from benchmarks.ratios import Bar, Measure, Spread, ratios_of, spread, values_of
from benchmarks.report import NAMES, PEERS_SHOWN
from benchmarks.results import Results
from benchmarks.workloads import BARS, PLAIN, WORKLOADS, Drive

INK: Final = "#1b1f24"
QUIET: Final = "#8a94a0"
OURS: Final = "#0b7a75"
OTHERS: Final = "#c3cad2"
BAR: Final = "#c0392b"


def draw(results: Results, path: Path) -> None:
    """Raises ImportError when matplotlib is not installed."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot

    # The same results give the same file.
    style = {"svg.hashsalt": "turnout", "font.size": 9, "axes.edgecolor": QUIET,
             "text.color": INK, "axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK}  # fmt: skip
    with mpl.rc_context(style):
        figure, (left, right) = pyplot.subplots(
            1, 2, figsize=(11, 5.2), layout="constrained", width_ratios=(1, 1.15)
        )
        _peers(left, results)
        _workloads(right, results)
        figure.savefig(path, metadata={"Date": None})
        pyplot.close(figure)


def _peers(axes: Any, results: Results) -> None:
    """CPU time a request of each proxy."""
    rounds = results.rounds(PLAIN)
    found = {
        peer: value
        for peer in PEERS_SHOWN
        if (value := spread(values_of(rounds, peer, Measure.CPU_US))) is not None
    }
    ordered = sorted(found, key=lambda peer: -found[peer].median)
    medians = [found[peer].median for peer in ordered]
    reach = _reach([found[peer] for peer in ordered])
    axes.barh(range(len(ordered)), medians, height=0.62, xerr=reach, ecolor=INK, capsize=2,
              color=[OURS if peer == "turnout" else OTHERS for peer in ordered],
              error_kw={"linewidth": 0.9})  # fmt: skip
    axes.set_yticks(range(len(ordered)), [NAMES.get(peer, peer) for peer in ordered])
    for at, peer in enumerate(ordered):
        axes.annotate(f"{found[peer].median:.1f}", (found[peer].most, at), xytext=(5, 0),
                      textcoords="offset points", va="center")  # fmt: skip
    axes.set_xlim(0, max((found[peer].most for peer in ordered), default=1) * 1.15)
    axes.set_title("CPU time a request, µs\n100 B, 64 keep-alive connections, one core",
                   loc="left", fontsize=10)  # fmt: skip
    _plain(axes)


def _workloads(axes: Any, results: Results) -> None:
    """Turnout's CPU time by HAProxy's, workload by workload."""
    found: dict[str, Spread] = {}
    limits: dict[str, Bar] = {}
    for workload in WORKLOADS:
        if workload.base != "haproxy" or workload.drive in (
            Drive.IDLE, Drive.SLOW_READERS, Drive.START,
        ):  # fmt: skip
            continue
        ratios = ratios_of(results.rounds(workload.name), "turnout", "haproxy", workload.compared)
        value = spread(ratios)
        if value is None:
            continue
        name = workload.name + (", p99" if workload.compared is Measure.P99_MS else "")
        found[name] = value
        for bar in BARS:
            if (bar.workload, bar.base, bar.measure) == (
                workload.name,
                "haproxy",
                workload.compared,
            ):
                limits[name] = bar
    names = list(reversed(found))
    values = [found[name] for name in names]
    axes.axvline(1.0, color=QUIET, linewidth=1)
    axes.errorbar([value.median for value in values], range(len(names)), xerr=_reach(values),
                  fmt="o", color=OURS, ecolor=OURS, capsize=2, markersize=5.5)  # fmt: skip
    for at, name in enumerate(names):
        if name in limits:
            axes.plot(limits[name].limit, at, marker="|", markersize=13, color=BAR,
                      markeredgewidth=1.8)  # fmt: skip
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.set_xlim(left=0)
    axes.set_title("Turnout by HAProxy, same round: CPU time (p99 where it says so)\n"
                   "left of 1 is better; the red mark is the bar", loc="left", fontsize=10)  # fmt: skip
    _plain(axes)


def _reach(values: list[Spread]) -> list[list[float]]:
    """How far the whiskers go, down and up."""
    return [
        [value.median - value.least for value in values],
        [value.most - value.median for value in values],
    ]


def _plain(axes: Any) -> None:
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color="#e6e9ec", linewidth=0.8)
    axes.set_axisbelow(True)
