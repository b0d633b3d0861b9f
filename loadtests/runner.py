"""One run: start everything, switch under load, let it end, hold the ledgers together."""

import asyncio
import contextlib
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx
from rich.console import Console
from rich.live import Live

from loadtests import ledgers, monotonic, schedule
from loadtests.checker import Fault, Finding, check
from loadtests.driver import Driver, Refused
from loadtests.ledgers import Arrived, Change, Counters, Got, Ledgers, Line, Sent, Served
from loadtests.schedule import EVERYTHING, Counts
from loadtests.stage import Stage, StageError, staged, tail
from loadtests.view import Progress, Tail

KINDS: Final = (
    "GET kept", "POST kept", "GET fresh", "POST fresh", "events", "events left", "WebSocket",
)  # fmt: skip
SETTLE_LIMIT_S: Final = 10.0
LINE_EVERY_S: Final = 1.0
CAMPAIGN_LIMIT_S: Final = 3600.0
PICTURE_EVERY_S: Final = 0.2


@dataclass(frozen=True, slots=True)
class Options:
    """What a run is to be. `seconds` is how long it is switched under load."""

    seconds: float
    users: int
    workers: int
    servers: int
    switch_every_s: float
    seed: int
    keep: Path | None = None
    """Where the ledgers and logs are copied to at the end."""
    counts: Counts = EVERYTHING
    """How much is done, instead of for how long."""


async def run(options: Options, console: Console) -> tuple[Ledgers, list[Finding]]:
    """Do it all. Raises StageError when it cannot even begin."""
    killing = bool(options.counts.control_kills)
    async with staged(
        workers=options.workers, servers=options.servers, restarts_at_once=killing
    ) as stage:
        driver = Driver(stage)
        try:
            await stage.start_load(options.users)
            await _switch(options, stage, driver, console)
            await stage.stop_load()
            counters = await settled(stage)
            faults: list[Finding] = []
            try:
                receipts = await driver.receipts()
            except Refused as error:
                receipts = []
                faults.append(Finding(Fault.RECEIPT, "", str(error)))
            await stage.stop()
            found = read_ledgers(stage, driver.changes, receipts, counters)
        except httpx.HTTPError as error:
            raise StageError(f"the API is gone: {error!r}\n{tail(stage.product_log)}") from error
        finally:
            if options.keep is not None:
                copy_ledgers(stage.directory, options.keep)
        findings = await asyncio.to_thread(check, found, KINDS if options.users >= 20 else ())
        faults += [Finding(Fault.PROCESS, "", fault) for fault in stage.faults]
        return found, [*findings, *faults]


async def _switch(options: Options, stage: Stage, driver: Driver, console: Console) -> None:
    counts = options.counts
    until_s = time.monotonic() + (CAMPAIGN_LIMIT_S if counts else options.seconds)
    steps = iter(schedule.campaign(options.seed, counts)) if counts else schedule.plan(options.seed)
    progress, ledger = Progress(), Tail(stage.client_ledger)
    live = Live(console=console, auto_refresh=False) if console.is_terminal else None

    async def paint() -> None:
        while True:
            progress.take(ledger.more())
            left_s = max(0.0, until_s - time.monotonic())
            if live is not None:
                live.update(progress.picture(driver.changes, driver.doing, left_s), refresh=True)
            else:
                line = progress.line(driver.changes, driver.doing, left_s)
                console.print(line, highlight=False, soft_wrap=True)
            await asyncio.sleep(LINE_EVERY_S if live is None else PICTURE_EVERY_S)

    with live or contextlib.nullcontext():
        painting = asyncio.create_task(paint())
        try:
            await driver.run(steps, options.switch_every_s, until_s)
        finally:
            painting.cancel()
            await asyncio.gather(painting, return_exceptions=True)


async def settled(stage: Stage) -> Counters:
    """The counters once nothing is in flight, or as they are when that does not come."""
    limit_s = time.monotonic() + SETTLE_LIMIT_S
    while True:
        counters = ledgers.counters(monotonic.samples((await stage.api.get("/metrics")).text))
        if not counters.in_flight or time.monotonic() > limit_s:
            return counters
        await asyncio.sleep(0.05)


def read_ledgers(
    stage: Stage,
    changes: Sequence[Change],
    receipts: Sequence[ledgers.Receipt],
    counters: Counters,
) -> Ledgers:
    """What all wrote down."""
    clients = _lines(stage.client_ledger)
    upstreams = [line for path in stage.upstream_ledgers for line in _lines(path)]
    return Ledgers(
        sent=ledgers.only(Sent, clients),
        got=ledgers.only(Got, clients),
        arrived=ledgers.only(Arrived, upstreams),
        served=ledgers.only(Served, upstreams),
        changes=changes,
        receipts=receipts,
        counters=counters,
    )


def _lines(path: Path) -> list[Line]:
    return Tail(path).more() if path.exists() else []


def copy_ledgers(directory: Path, to: Path) -> None:
    """Keep ledgers and logs."""
    to.mkdir(parents=True, exist_ok=True)
    for path in directory.iterdir():
        if path.suffix in (".jsonl", ".log", ".yaml"):
            shutil.copy(path, to / path.name)


__all__ = ["Options", "StageError", "run"]
