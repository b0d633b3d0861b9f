"""/metrics, read again and again: what is counted never goes down, whoever dies."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Final

import httpx
from prometheus_client.parser import text_string_to_metric_families

from loadtests.ledgers import Sample
from loadtests.stage import Stage

EVERY_S: Final = 0.1
RISING: Final = ("_total", "_count", "_bucket", "_sum")
OF_CONTROL: Final = frozenset({"turnout_api_calls_refused_total"})
"""Counted since control's start, as docs/operations.md says: it dies in the faults."""


def samples(text: str) -> Iterator[Sample]:
    """What a scrape says. Raises ValueError for what is not the text format."""
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            yield sample.name, sample.labels, sample.value


def went_down(before: Mapping[str, float], after: Mapping[str, float]) -> list[str]:
    """Series that are lower, or missing, in the later reading."""
    return [
        f"{name} went from {value:g} to {after.get(name)}"
        for name, value in before.items()
        if after.get(name, -1.0) < value
    ]


def rising(found: Iterator[Sample]) -> dict[str, float]:
    """The series that only rise, each by its name and labels."""
    return {
        f"{name}{sorted(labels.items())}": value
        for name, labels, value in found
        if name.endswith(RISING) and name not in OF_CONTROL
    }


class Watch:
    """What was found so far."""

    def __init__(self) -> None:
        self.backwards: list[str] = []
        self.scrapes = 0


@contextlib.asynccontextmanager
async def watched(stage: Stage, every_s: float = EVERY_S) -> AsyncIterator[Watch]:
    """Read the metrics again and again until left."""
    watch = Watch()

    async def read() -> None:
        before: dict[str, float] = {}
        while True:
            with contextlib.suppress(httpx.TransportError):
                after = rising(samples((await stage.api.get("/metrics")).text))
                watch.backwards += went_down(before, after)
                watch.scrapes += 1
                before = after
            await asyncio.sleep(every_s)

    task = asyncio.create_task(read())
    try:
        yield watch
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
