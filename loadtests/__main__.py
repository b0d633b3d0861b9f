"""`python -m loadtests`: exit 0 when every request is accounted for, 1 when not, 130 on Ctrl-C."""

import asyncio
import json
import random
import signal
from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from rich.console import Console

from loadtests import view
from loadtests.runner import Options, StageError, run
from loadtests.schedule import Counts
from turnout.config.units import parse_duration

T = TypeVar("T")

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130


async def interruptible(running: Coroutine[Any, Any, T], console: Console) -> T:
    """Run it; the first SIGINT or SIGTERM ends it in order. Further ones do not disturb that: what
    it ends is bounded in time, and what it left would go on for ever."""
    task = asyncio.ensure_future(running)

    def interrupt() -> None:
        if not task.cancelling():
            console.print("interrupted: ending what was started …")
            task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, interrupt)
    return await task


def _extent(counts: Counts, seconds: float) -> str:
    if not counts:
        return f"{seconds:g} s"
    return (
        f"{counts.switches} switches, {counts.reloads} reloads, "
        f"{counts.control_kills} kills of control"
    )


def main(
    seconds: Annotated[float, typer.Option(help="So long it is switched.", min=1, max=3600)] = 15,
    users: Annotated[int, typer.Option(help="Clients at once.", min=1, max=1000)] = 20,
    workers: Annotated[int, typer.Option(help="Of the product.", min=1, max=64)] = 2,
    servers: Annotated[int, typer.Option(help="Of each upstream.", min=1, max=8)] = 2,
    switch_every: Annotated[str, typer.Option(help="From one change to the next.")] = "500ms",
    switches: Annotated[int, typer.Option(help="So many switches instead of --seconds.")] = 0,
    reloads: Annotated[int, typer.Option(help="So many reloads, each of another change.")] = 0,
    control_kills: Annotated[int, typer.Option(help="So many switches with control killed.")] = 0,
    seed: Annotated[int | None, typer.Option(help="Of the schedule; else by chance.")] = None,
    keep: Annotated[Path | None, typer.Option(help="A directory for ledgers and logs.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The result as JSON.")] = False,
) -> None:
    """Real traffic while it is switched; fails on one lost, doubled or misrouted request."""
    try:
        every_s = parse_duration(switch_every)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--switch-every") from None
    seed = random.randrange(1 << 32) if seed is None else seed
    counts = Counts(switches, reloads, control_kills)
    options = Options(seconds, users, workers, servers, every_s, seed, keep, counts)
    console = Console(stderr=as_json)
    console.print(
        f"{users} users, {workers} workers, 2 upstreams with {servers} servers each; "
        f"{_extent(counts, seconds)}, a change every {every_s:g} s, seed {seed}",
        highlight=False,
        soft_wrap=True,
    )
    try:
        ledgers, findings = asyncio.run(interruptible(run(options, console), console))
    except (asyncio.CancelledError, KeyboardInterrupt):
        console.print("interrupted: nothing is proved", style="red")
        raise typer.Exit(EXIT_INTERRUPTED) from None
    except StageError as error:
        console.print(str(error), style="red", markup=False, highlight=False)
        raise typer.Exit(EXIT_FAILED) from None
    view.show(console, ledgers, findings, seed)
    if as_json:
        print(json.dumps(view.summary(ledgers, findings, seed), indent=1))
    raise typer.Exit(EXIT_FAILED if findings else 0)


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(main)
    app()
