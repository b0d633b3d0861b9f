"""`python -m benchmarks`: exit 0; 1 when something could not be measured (but a smoke run
without the tools is 0); 2 for wrong use; 130 on Ctrl-C. A missed bar changes no status."""

import os
import shlex
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks import machine, peers, plot, report, results, terminal, workloads
from benchmarks.processes import HarnessError, raise_descriptor_limit
from benchmarks.results import Results
from benchmarks.runner import Bench, Options
from benchmarks.workloads import Scope, Workload
from tests import under_test

EXIT_FAILED: Final = 1
EXIT_INTERRUPTED: Final = 130
DOCS: Final = machine.ROOT / "docs"
JSON_FILE: Final = DOCS / "benchmarks.json"
PAGE: Final = DOCS / "benchmarks.md"
PLOT: Final = DOCS / "benchmarks.svg"
WIDTH: Final = 130
"""Where there is no terminal."""

# Rounds and seconds of a turn, when they are not asked for.
EFFORT: Final = {Scope.FULL: (3, 3), Scope.QUICK: (3, 2), Scope.SMOKE: (1, 1)}


def _cores(text: str | None, fallback: frozenset[int]) -> frozenset[int]:
    """`0,2` or `0-3`. Raises BadParameter."""
    if text is None:
        return fallback
    found: set[int] = set()
    try:
        for part in text.split(","):
            first, _, last = part.partition("-")
            found |= set(range(int(first), int(last or first) + 1))
    except ValueError:
        found = set()
    if not found:
        raise typer.BadParameter(f"{text!r}; cores are written as 0 or 0,2 or 0-3")
    there = os.sched_getaffinity(0)
    if found - there:
        raise typer.BadParameter(f"{text!r}; there are cores {sorted(there)}")
    return frozenset(found)


def _pinning(proxy: str | None, load: str | None, origin: str | None) -> machine.Pinning:
    base = machine.default_pinning(frozenset(os.sched_getaffinity(0)))
    return machine.Pinning(
        _cores(proxy, base.proxy),
        _cores(load, base.load),
        _cores(origin or load, base.origin),
        base.spare if proxy is None and load is None else frozenset(),
    )


def write_report(console: Console, found: Results, page: Path, picture: Path) -> None:
    """The tables into the page, the picture beside it."""
    page.write_text(report.placed(page.read_text(), found))
    try:
        plot.draw(found, picture)
    except ImportError:
        console.print(f"{picture.name} is as it was: matplotlib is not installed (make bench)")


def interrupt(number: int, frame: FrameType | None) -> None:
    """End in order. Further signals do not disturb that: it is bounded in time, and what was
    started would go on for ever."""
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)
    raise KeyboardInterrupt


def _read(out: Path) -> Results | None:
    """What is kept there; None: nothing is. Raises BadParameter."""
    try:
        return results.read(out)
    except (ValueError, OSError) as error:
        raise typer.BadParameter(f"{out} cannot be read: {error}", param_hint="--out") from None


def _to_keep(
    console: Console, out: Path, names: tuple[str, ...], this: Results
) -> tuple[bool, Results | None]:
    """Whether a full run is kept in `out`, and what some workloads of it are merged into.
    Raises BadParameter where it could not be written."""
    if out.is_dir() or not os.access(out if out.exists() else out.parent, os.W_OK):
        raise typer.BadParameter(f"{out} cannot be written", param_hint="--out")
    before = _read(out)
    differs = "" if before is None or not names else this.comparable(before)
    if differs:
        console.print(
            f"nothing is kept: {out} is of another machine or other versions ({differs}). "
            "Measure everything, or keep these in a file of their own with --out",
            soft_wrap=True, style="yellow",
        )  # fmt: skip
        return False, None
    return True, before if names else None


def _made(perf: Path | None) -> None:
    """The directory of the profiles. Raises BadParameter."""
    if perf is not None:
        try:
            perf.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise typer.BadParameter(f"{perf}: {error.strerror}", param_hint="--perf") from None


def measure(
    console: Console, chosen: tuple[Workload, ...], options: Options, found: peers.Installed,
    this: Results, before: Results | None, keep: Callable[[], None], perf: Path | None,
) -> bool:  # fmt: skip
    """Measure all of them; `keep` is called after each. Whether nothing went wrong."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
               TimeElapsedColumn())  # fmt: skip
    whole = True
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        total = sum(len(each.contestants) * options.rounds_of(each) for each in chosen)
        task = progress.add_task("", total=total)
        say = progress.console.print
        with Bench(options, found, lambda text: say(text, markup=False, soft_wrap=True)) as bench:
            for workload in chosen:
                progress.update(task, description=workload.name)
                measured = bench.measure(workload, this, lambda: progress.advance(task))
                this.workloads[workload.name] = measured
                say(terminal.shown(workload, this, before, judged=not options.small))
                whole = whole and not measured.faults()
                if workload.name in measured.left_out:
                    say(f"  left out: {measured.left_out[workload.name]}")
                    whole = whole and options.small
                elif not measured.rounds:
                    whole = False
                keep()
                if perf is not None:
                    for path in bench.profile(workload, perf):
                        say(f"  profile: {path}", soft_wrap=True)
    return whole


def main(
    only: Annotated[list[str] | None, typer.Option(help="A workload; may be repeated.")] = None,
    rounds: Annotated[int | None, typer.Option(help="In which each has its turn.", min=1)] = None,
    seconds: Annotated[int | None, typer.Option(help="Of each turn.", min=1, max=60)] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Turnout against HAProxy alone, the main workloads, and the last committed result; keeps nothing.")] = False,
    smoke: Annotated[bool, typer.Option("--smoke", help="Only whether the harness works: one short, small round of most parts; keeps nothing.")] = False,
    report_only: Annotated[bool, typer.Option("--report-only", help="Page and picture from the kept results.")] = False,
    perf: Annotated[Path | None, typer.Option(help="A directory: profiles of a worker under each load.")] = None,
    proxy_cores: Annotated[str | None, typer.Option(help="0 or 0,2 or 0-3.")] = None,
    load_cores: Annotated[str | None, typer.Option(help="The same, for wrk, h2load and the clients.")] = None,
    origin_cores: Annotated[str | None, typer.Option(help="The same, for what answers behind the proxies; as --load-cores when left out.")] = None,
    first_port: Annotated[int, typer.Option(help="Free ports are taken from here on.", min=1024, max=60_000)] = 19_300,
    out: Annotated[Path, typer.Option(help="Raw results; the report is written with the default only.")] = JSON_FILE,
) -> None:  # fmt: skip
    """Turnout beside other proxies, in turns, on this machine."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH)
    if quick and smoke:
        raise typer.BadParameter("with --quick means two things at once", param_hint="--smoke")
    if not os.access(under_test.PYTHON, os.X_OK):
        console.print(f"{under_test.VARIABLE}: there is no {under_test.PYTHON} (make compiled)")
        raise typer.Exit(2)
    if report_only:
        kept = _read(out)
        if kept is None:
            raise typer.BadParameter(f"there is no {out}", param_hint="--out")
        write_report(console, kept, PAGE, PLOT)
        return
    scope = Scope.SMOKE if smoke else Scope.QUICK if quick else Scope.FULL
    names = tuple(only or ())
    try:
        chosen = workloads.chosen(names, scope)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--only") from None
    pinning = _pinning(proxy_cores, load_cores, origin_cores)
    found = peers.installed()
    this = Results(
        machine.facts(pinning),
        {**found.versions, **machine.tool_versions()},
        machine.commit(),
        shlex.join(["python", "-m", "benchmarks", *sys.argv[1:]]),
        dict(found.left_out),
        pinning.separate,
    )
    missing = machine.missing_tools(("nginx", "wrk"))
    if missing:
        console.print(
            f"nothing is measured: not installed: {', '.join(missing)} (make bench-tools)"
        )
        raise typer.Exit(0 if smoke else EXIT_FAILED)
    _made(perf)
    is_kept = False
    if scope is Scope.FULL:
        is_kept, kept = _to_keep(console, out, names, this)
        if kept is not None:
            this.workloads |= kept.workloads
    if pinning.separate == 1:
        console.print("the proxy shares its core with the load: what is measured is both",
                      style="yellow")  # fmt: skip
    for name, why in found.left_out.items():
        console.print(f"{name} is left out: {why}", soft_wrap=True)
    raise_descriptor_limit()
    os.sched_setaffinity(0, pinning.load)  # this process too keeps off the proxy's core
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)
    options = Options(
        rounds or EFFORT[scope][0], seconds or EFFORT[scope][1], pinning, first_port,
        small=scope is Scope.SMOKE,
    )  # fmt: skip
    before = _read(JSON_FILE) if scope is Scope.QUICK else None
    others = set(peers.PEERS) - {"turnout", "haproxy"}  # are not measured
    if before is not None and (differs := this.comparable(before, others)):
        console.print(f"the committed result is of something else: {differs}", soft_wrap=True)

    def keep() -> None:
        if is_kept:
            results.write(out, this)

    try:
        whole = measure(console, chosen, options, found, this, before, keep, perf)
    except KeyboardInterrupt:
        console.print("interrupted")
        raise typer.Exit(EXIT_INTERRUPTED) from None
    except HarnessError as error:
        console.print(str(error), style="red", markup=False)
        raise typer.Exit(EXIT_FAILED) from None
    if is_kept and out == JSON_FILE:
        write_report(console, this, PAGE, PLOT)
    elif is_kept:
        console.print(f"kept in {out}", soft_wrap=True)
    raise typer.Exit(0 if whole else EXIT_FAILED)


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(main)
    app()
