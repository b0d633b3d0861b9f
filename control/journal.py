"""What has happened, for those who listen: the log at once, readers of the stream in order.

Events are rows of the store, written with the change that they tell of; so a reader who was
away asks for what came after the last number that it has seen, and misses nothing.
"""

import asyncio
from collections.abc import AsyncIterator, Callable

from turnout.control.events import ControlProblem, Event
from turnout.control.store import Database, Note, Store, StoredEvent

Log = Callable[[Event], None]


class Journal:
    """Tells events to the log and wakes the readers of the stream."""

    __slots__ = ("_log", "_news", "_now", "_store")

    def __init__(self, store: Store, log: Log, now: Callable[[], float]) -> None:
        self._store = store
        self._log = log
        self._now = now
        self._news = asyncio.Event()

    async def note(self, note: Note) -> None:
        """Store and tell what goes with no other change. Raises StoreUnusable."""
        await self._store(Database.note, note, self._now())
        self.told(note)

    def told(self, note: Note) -> None:
        """Tell events that have just been stored with their change."""
        for event in note.events:
            self._log(event)
        if note.events:
            self._news.set()
            self._news = asyncio.Event()

    def problem(self, what: str, remedy: str, service: str = "") -> None:
        """Tell the log alone: what is wrong may be that the store cannot be written."""
        self._log(ControlProblem(service=service, problem=what, next=remedy))

    async def follow(self, after: int) -> AsyncIterator[StoredEvent]:
        """Every event with a number greater than `after`, those to come included."""
        while True:
            news = self._news  # taken before reading: what comes meanwhile sets this one
            for event in await self._store(Database.events_after, after):
                after = event.seq
                yield event
            if await self._store(Database.last_event) <= after:
                await news.wait()
