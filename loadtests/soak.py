"""Real traffic for a long time, with a random fault and a random switch every few seconds.

    python -m loadtests.soak [--minutes 20] [--seed N] [--users 20] [--workers 2] [--json]

At the end three ledgers are held against each other, request by request (`explained`), what is
counted must never have gone down (`monotonic`), and no process may have grown (`curves`).
"""

import asyncio
import contextlib
import json
import random
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Final

import httpx
import typer
from rich.console import Console
from rich.live import Live
from rich.table import Table

from loadtests import faults, ledgers, monotonic, schedule, view
from loadtests.__main__ import EXIT_FAILED, EXIT_INTERRUPTED, interruptible
from loadtests.checker import Fault, Finding
from loadtests.curves import MIB, Curve, growth, not_flat, sparkline
from loadtests.driver import Driver
from loadtests.explained import Disturbance, Verdict, judge
from loadtests.inside import use_of
from loadtests.ledgers import UPSTREAMS, Ledgers
from loadtests.runner import KINDS, copy_ledgers, read_ledgers, settled
from loadtests.stage import SERVICE, Stage, StageError, staged, tail
from loadtests.view import Progress, Tail

SAMPLE_EVERY_S: Final = 1.0
LINE_EVERY_S: Final = 5.0
PICTURE_EVERY_S: Final = 0.25
HEALTHY_LIMIT_S: Final = 60.0
NAMED_LIMIT_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Options:
    seconds: float
    users: int
    workers: int
    fault_every_s: float
    switch_every_s: float
    seed: int
    keep: Path | None = None


@dataclass(slots=True)
class Soak:
    """What came of it."""

    ledgers: Ledgers
    verdict: Verdict
    disturbances: list[Disturbance]
    curves: list[Curve]
    scrapes: int
    findings: list[Finding] = field(default_factory=list)


async def run(options: Options, console: Console) -> Soak:
    """Do it all. Raises StageError when it cannot even begin."""
    async with staged(workers=options.workers, servers=2, **faults.options()) as stage:
        # One that lives as long as the run: a worker that leaks would not be seen otherwise.
        stage.spared = {0}
        driver, done, curves = Driver(stage), faults.Done(), dict[int, Curve]()
        try:
            await stage.start_load(options.users)
            until_s = time.monotonic() + options.seconds
            async with (
                monotonic.watched(stage, SAMPLE_EVERY_S) as watch,
                _sampled(stage, curves),
                _shown(stage, driver, done, curves, console, until_s),
            ):
                steps = schedule.plan(options.seed)
                async with asyncio.TaskGroup() as group:
                    group.create_task(driver.run(steps, options.switch_every_s, until_s))
                    group.create_task(_break(stage, done, options, until_s))
            await _healthy(stage)
            await stage.stop_load()
            counters = await settled(stage)
            named = await _named(stage, counters)
            await stage.stop()
            found = read_ledgers(stage, driver.changes, [], counters)
        except httpx.HTTPError as error:
            raise StageError(f"the API is gone: {error!r}\n{tail(stage.product_log)}") from error
        finally:
            if options.keep is not None:
                copy_ledgers(stage.directory, options.keep)
    kinds = KINDS if options.users >= 20 and options.seconds >= 10 else ()
    verdict = await asyncio.to_thread(judge, found, done.disturbances, named=named, kinds=kinds)
    soak = Soak(found, verdict, done.disturbances, list(curves.values()), watch.scrapes)
    soak.findings = [
        *verdict.findings,
        *(Finding(Fault.PROCESS, "", fault) for fault in stage.faults),
        *(Finding(Fault.COUNTERS, "", text) for text in watch.backwards),
        *(Finding(Fault.PROCESS, "", text) for curve in soak.curves for text in not_flat(curve)),
    ]
    return soak


# ---------------------------------------------------------------- what is broken


async def _break(stage: Stage, done: faults.Done, options: Options, until_s: float) -> None:
    """One fault after the other, each for a while, with everything whole in between."""
    dice = random.Random(options.seed)
    known = (*faults.OF_UPSTREAM, *faults.OF_WORKER, *faults.OF_CONTROL)
    order: list[faults.Fault] = []
    while True:
        # Each in its turn, in ever another order: a short run has each kind, too.
        if not order:
            order = dice.sample(known, len(known))
        fault = order.pop()
        pause_s = dice.uniform(0.5, 1.5) * options.fault_every_s
        broken_s = dice.uniform(0.3, 2.5)
        upstream, whole = dice.choice(UPSTREAMS), dice.random() < 0.5
        if time.monotonic() + pause_s + broken_s > until_s:
            return
        await asyncio.sleep(pause_s)
        if fault.of_worker or not fault.of_server:
            upstream, servers = "", []
        else:
            servers = stage.servers(upstream)[: None if whole else 1]
        async with done.broken(fault, stage, upstream, servers):
            await asyncio.sleep(broken_s)
        await _healthy(stage)


async def _healthy(stage: Stage) -> None:
    """Wait until every server is held healthy again. Raises StageError."""
    limit_s = time.monotonic() + HEALTHY_LIMIT_S
    while time.monotonic() < limit_s:
        with contextlib.suppress(httpx.TransportError):
            answer = await stage.api.get(f"/v1/services/{SERVICE}")
            if answer.is_success:
                upstreams = answer.json()["upstreams"].values()
                if all(one["healthy"] for upstream in upstreams for one in upstream["servers"]):
                    return
        await asyncio.sleep(0.05)
    raise StageError(f"the servers did not become healthy again:\n{tail(stage.product_log)}")


async def _named(stage: Stage, counters: ledgers.Counters) -> list[str]:
    """The ids of what killed workers held, as the log names them; it takes a moment."""
    limit_s = time.monotonic() + NAMED_LIMIT_S
    while True:
        named = faults.named_as_cut(stage)
        if len(named) >= counters.died or time.monotonic() > limit_s:
            return named
        await asyncio.sleep(0.2)


# ---------------------------------------------------------------- what is watched


@contextlib.asynccontextmanager
async def _sampled(stage: Stage, curves: dict[int, Curve]) -> AsyncIterator[None]:
    """See how much the product's processes take up, until left."""
    began_s = time.monotonic()

    async def sample() -> None:
        while True:
            for role, pid in stage.inside.processes().items():
                use = use_of(pid)
                if use is not None:
                    curve = curves.setdefault(pid, Curve(role, pid))
                    curve.add(time.monotonic() - began_s, use)
            await asyncio.sleep(SAMPLE_EVERY_S)

    async with _during(sample()):
        yield


@contextlib.asynccontextmanager
async def _shown(
    stage: Stage,
    driver: Driver,
    done: faults.Done,
    curves: dict[int, Curve],
    console: Console,
    until_s: float,
) -> AsyncIterator[None]:
    """A live picture on a terminal, else a line now and then."""
    progress, ledger = Progress(), Tail(stage.client_ledger)
    live = Live(console=console, auto_refresh=False) if console.is_terminal else None

    async def paint() -> None:
        while True:
            progress.take(ledger.more())
            left_s = max(0.0, until_s - time.monotonic())
            broken = f"broken: {done.doing}" if done.doing else "all is whole"
            doing = f"{len(done.disturbances)} faults  {broken}  {driver.doing}"
            if live is not None:
                grid = Table.grid()
                grid.add_row(progress.picture(driver.changes, doing, left_s))
                grid.add_row(_table(_alive(curves)))
                live.update(grid, refresh=True)
            else:
                line = progress.line(driver.changes, doing, left_s)
                console.print(line, highlight=False, soft_wrap=True)
            await asyncio.sleep(LINE_EVERY_S if live is None else PICTURE_EVERY_S)

    with live or contextlib.nullcontext():
        async with _during(paint()):
            yield


@contextlib.asynccontextmanager
async def _during(work: Any) -> AsyncIterator[None]:
    task = asyncio.create_task(work)
    try:
        yield
        if task.done():
            task.result()  # it never ends by itself
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


# ---------------------------------------------------------------- what is said


def _alive(curves: dict[int, Curve]) -> list[Curve]:
    """Of each role the process that was sampled last."""
    latest = {curve.role: curve for curve in sorted(curves.values(), key=lambda one: one.at_s[-1])}
    return [latest[role] for role in sorted(latest, key=_rank)]


def _rank(role: str) -> tuple[int, str]:
    order = ("supervisor", "control")
    return (order.index(role) if role in order else len(order), role)


def _table(curves: list[Curve]) -> Table:
    """Memory and descriptors of each process, as curves."""
    table = Table(box=None, pad_edge=False)
    table.add_column("PROCESS", no_wrap=True)
    for name in ("LIVED", "MIB", "AN HOUR"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("MEMORY", no_wrap=True)
    for name in ("FDS", "AN HOUR"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("DESCRIPTORS", no_wrap=True)
    for curve in curves:
        rss = [use.rss_bytes / MIB for use in curve.uses]
        descriptors = [float(use.descriptors) for use in curve.uses]
        row = [curve.role, f"{curve.at_s[-1] - curve.at_s[0]:.0f} s"]
        for values, unit in ((rss, ".1f"), (descriptors, ".0f")):
            grown = growth(curve.at_s, values)
            per_hour = f"{grown.per_hour:+{unit}}" if grown else ""
            row += [f"{values[-1]:{unit}}", per_hour, sparkline(values)]
        table.add_row(*row, style="red" if not_flat(curve) else "")
    return table


def summary(soak: Soak, seed: int) -> dict[str, Any]:
    """The result as data."""
    found = view.summary(soak.ledgers, soak.findings, seed)
    found["explained"] = dict(soak.verdict.explained)
    found["sent_again"] = soak.verdict.doubled
    found["broken"] = dict(Counter(fault.name for fault in soak.disturbances))
    found["workers_killed"] = sum(fault.workers for fault in soak.disturbances)
    found["died"] = soak.ledgers.counters.died
    found["scrapes"] = soak.scrapes
    found["processes"] = [
        {
            "role": curve.role, "pid": curve.pid, "seconds": round(curve.at_s[-1] - curve.at_s[0]),
            "rss_bytes": [use.rss_bytes for use in curve.uses],
            "descriptors": [use.descriptors for use in curve.uses],
            "flat": not not_flat(curve),
        }
        for curve in soak.curves
    ]  # fmt: skip
    return found


def show(console: Console, soak: Soak, seed: int) -> None:
    """The tables, and what was found."""
    console.print(_table(_longest(soak.curves)))
    kinds = Counter(fault.name.partition(" of ")[0] for fault in soak.disturbances)
    broken = ", ".join(f"{count} {name}" for name, count in sorted(kinds.items()))
    ways = ", ".join(f"{count} {way}" for way, count in sorted(soak.verdict.explained.items()))
    lines = (
        f"broken:    {len(soak.disturbances)}: {broken}",
        f"explained: {ways or 'nothing'}; {soak.verdict.doubled} sent again by the proxy; "
        f"{soak.ledgers.counters.died} cut as a worker died",
        f"metrics:   read {soak.scrapes} times",
    )
    for line in lines:
        console.print(line, soft_wrap=True, highlight=False)
    explained = replace(soak.ledgers, receipts=[])
    view.show(console, explained, soak.findings, seed)


def _longest(curves: list[Curve]) -> list[Curve]:
    """Of each role the process that lived longest, and all that grew."""
    longest: dict[str, Curve] = {}
    for curve in curves:
        if curve.role not in longest or len(curve.uses) > len(longest[curve.role].uses):
            longest[curve.role] = curve
    chosen = {curve.pid: curve for curve in longest.values()}
    chosen |= {curve.pid: curve for curve in curves if not_flat(curve)}
    return sorted(chosen.values(), key=lambda curve: (_rank(curve.role), curve.pid))


def main(
    minutes: Annotated[float, typer.Option(help="So long.", min=0.05, max=10_000)] = 20,
    seed: Annotated[int | None, typer.Option(help="Of all chance; else a new one.")] = None,
    users: Annotated[int, typer.Option(help="Clients at once.", min=1, max=1000)] = 20,
    workers: Annotated[int, typer.Option(help="Of the product.", min=2, max=64)] = 2,
    fault_every: Annotated[float, typer.Option(help="Seconds between two.", min=0.1)] = 4,
    switch_every: Annotated[float, typer.Option(help="Seconds between two.", min=0.1)] = 3,
    keep: Annotated[Path | None, typer.Option(help="A directory for ledgers and logs.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The result as JSON.")] = False,
) -> None:
    """Traffic, faults and switches for a long time; fails on whatever does not agree."""
    seed = random.randrange(1 << 32) if seed is None else seed
    options = Options(60 * minutes, users, workers, fault_every, switch_every, seed, keep)
    console = Console(stderr=as_json)
    console.print(
        f"{users} users, {workers} workers, 2 upstreams with 2 servers each; {minutes:g} min, "
        f"a fault every {fault_every:g} s, a change every {switch_every:g} s, seed {seed}",
        highlight=False,
        soft_wrap=True,
    )
    try:
        soak = asyncio.run(interruptible(run(options, console), console))
    except (asyncio.CancelledError, KeyboardInterrupt):
        console.print("interrupted: nothing is proved", style="red")
        raise typer.Exit(EXIT_INTERRUPTED) from None
    except StageError as error:
        console.print(str(error), style="red", markup=False, highlight=False)
        raise typer.Exit(EXIT_FAILED) from None
    show(console, soak, seed)
    if as_json:
        print(json.dumps(summary(soak, seed), indent=1))
    raise typer.Exit(EXIT_FAILED if soak.findings else 0)


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(main)
    app()
