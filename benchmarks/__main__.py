"""`python -m benchmarks`: exit 0, 1 when something could not be measured, 130 on Ctrl-C."""

import os
import shlex
import signal
import sys
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks import machine, peers, results, terminal, workloads
from benchmarks.processes import HarnessError, raise_descriptor_limit
from benchmarks.runner import Bench, Options

EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2
EXIT_INTERRUPTED: Final = 130
JSON_FILE: Final = machine.ROOT / "docs" / "benchmarks.json"


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
        raise typer.BadParameter(f"{text!r}; cores are written as 0 or 0,2 or 0-3") from None
    return frozenset(found)


def main(
    only: Annotated[list[str] | None, typer.Option(help="A workload; may be repeated.")] = None,
    rounds: Annotated[int, typer.Option(help="In which each has its turn.", min=1, max=50)] = 3,
    seconds: Annotated[int, typer.Option(help="Of each turn.", min=1, max=60)] = 3,
    quick: Annotated[bool, typer.Option(help="Turnout against HAProxy, main workloads.")] = False,
    proxy_cores: Annotated[str | None, typer.Option(help="0 or 0,2 or 0-3.")] = None,
    load_cores: Annotated[str | None, typer.Option()] = None,
    origin_cores: Annotated[str | None, typer.Option()] = None,
    first_port: Annotated[int, typer.Option(min=1024, max=60_000)] = 19_300,
    out: Annotated[Path, typer.Option(help="Where raw results are kept.")] = JSON_FILE,
) -> None:
    """Turnout beside other proxies, in turns, on this machine."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=110)
    base = machine.default_pinning(frozenset(range(os.cpu_count() or 1)))
    pinning = machine.Pinning(
        _cores(proxy_cores, base.proxy),
        _cores(load_cores, base.load),
        _cores(origin_cores or load_cores, base.origin),
        base.spare if proxy_cores is None and load_cores is None else frozenset(),
    )
    try:
        chosen = workloads.chosen(tuple(only or ()), quick=quick)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--only") from None
    found = peers.installed()
    raise_descriptor_limit()
    os.sched_setaffinity(0, pinning.load)  # this process too keeps off the proxy's core
    this = results.Results(
        machine.facts(pinning),
        {**found.versions, **machine.tool_versions()},
        machine.commit(),
        shlex.join(["python", "-m", "benchmarks", *sys.argv[1:]]),
        dict(found.left_out),
        pinning.separate,
    )
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    options = Options(rounds, seconds, pinning, first_port)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
               TimeElapsedColumn())  # fmt: skip
    try:
        with Progress(*columns, console=console) as progress:
            task = progress.add_task("")
            with Bench(options, found, progress.console.print) as bench:
                for workload in chosen:
                    turns = len(workload.contestants) * max(rounds, workload.rounds_least)
                    progress.update(task, description=workload.name, total=turns, completed=0)
                    for measured in bench.measure(workload, this, lambda: progress.advance(task)):
                        this.workloads[workload.name] = measured
                    progress.console.print(terminal.table(workload, this))
                    if not quick:
                        results.write(out, this)
    except KeyboardInterrupt:
        console.print("interrupted")
        raise typer.Exit(EXIT_INTERRUPTED) from None
    except HarnessError as error:
        console.print(str(error), style="red", markup=False)
        raise typer.Exit(EXIT_FAILED) from None


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(main)
    app()
