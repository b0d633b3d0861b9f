"""The journal: the log is told at once, and a reader of the stream misses nothing."""

import asyncio
from pathlib import Path

from turnout.control.events import Event, Held, Released
from turnout.control.journal import Journal
from turnout.control.store import Note, Store

HELD = Held(service="shop", who="ci", until=None, reason="")
RELEASED = Released(service="shop", who="ci", reason="")


async def test_a_reader_gets_what_was_and_what_comes(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "turnout.db")
    told: list[Event] = []
    journal = Journal(store, told.append, lambda: 5.0)
    await journal.note(Note(events=(HELD,)))
    read: list[tuple[int, str]] = []

    async def reader(after: int) -> None:
        async for event in journal.follow(after):
            read.append((event.seq, event.name))

    reading = asyncio.create_task(reader(0))
    async with asyncio.timeout(5):
        while len(read) < 1:
            await asyncio.sleep(0.001)
        await journal.note(Note(events=(RELEASED, HELD)))
        while len(read) < 3:
            await asyncio.sleep(0.001)
    reading.cancel()
    assert read == [(1, "service.held"), (2, "service.released"), (3, "service.held")]
    assert told == [HELD, RELEASED, HELD]
    again = journal.follow(2)
    assert (await anext(again)).seq == 3
    store.close()


async def test_a_problem_goes_to_the_log_alone(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "turnout.db")
    told: list[Event] = []
    journal = Journal(store, told.append, lambda: 5.0)
    journal.problem("the disk is full", "make room", "shop")
    assert [event.NAME for event in told] == ["control.problem"]
    store.close()
