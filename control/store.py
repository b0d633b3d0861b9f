"""The control process's memory: `Database`, from the one thread that may touch it.

A commit waits for the disk, up to many milliseconds, and the event loop must not. So every
transaction runs in one thread of its own, in the order in which it was asked for:

    row = await store(Database.service, "shop")

A coroutine that is cancelled while it waits does not undo what the thread is doing: whoever
must know the outcome shields it (`asyncio.shield`).
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

from turnout.control.database import Database as Database
from turnout.control.ledger import DECIDED as DECIDED
from turnout.control.ledger import checkpoint
from turnout.control.rows import Answer as Answer
from turnout.control.rows import Audit as Audit
from turnout.control.rows import AuditEntry as AuditEntry
from turnout.control.rows import Author as Author
from turnout.control.rows import Decision as Decision
from turnout.control.rows import InForce as InForce
from turnout.control.rows import Key as Key
from turnout.control.rows import Note as Note
from turnout.control.rows import ServiceNames as ServiceNames
from turnout.control.rows import ServiceRow as ServiceRow
from turnout.control.rows import StaleRevision as StaleRevision
from turnout.control.rows import StepRow as StepRow
from turnout.control.rows import StoredEvent as StoredEvent
from turnout.control.rows import StoreUnusable as StoreUnusable
from turnout.control.rows import UnderWay as UnderWay
from turnout.control.rows import UpstreamHasWeight as UpstreamHasWeight
from turnout.control.rows import UpstreamsSwapped as UpstreamsSwapped

P = ParamSpec("P")
T = TypeVar("T")


class Store:
    """A store whose transactions can be awaited. One that cannot be opened refuses them all, and
    says why: control goes on with whatever needs none."""

    __slots__ = ("_database", "_thread", "path", "problem")

    def __init__(self, database: Database | None, path: Path, problem: str = "") -> None:
        self._database = database
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="store")
        self.path = path
        self.problem = problem
        """Why it is not open; empty when it is."""

    @classmethod
    def open(cls, path: Path) -> "Store":
        """Open the store, or make it. Blocks: call it before serving."""
        try:
            return cls(Database(path), path)
        except StoreUnusable as error:
            return cls(None, path, str(error))

    async def __call__(
        self, method: Callable[Concatenate[Database, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Carry out one method of Database in the store's thread, and return what it returns."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(
            self._thread, lambda: method(self._opened(), *args, **kwargs)
        )

    def _opened(self) -> Database:
        if self._database is None:
            raise StoreUnusable(self.problem)
        return self._database

    async def give_up(self, problem: str) -> None:
        """Close it, and refuse everything from now on."""

        def close() -> None:
            self.problem = problem
            if self._database is not None:
                self._database.close()
                self._database = None

        await asyncio.get_running_loop().run_in_executor(self._thread, close)

    @property
    def replaced(self) -> bool:
        """Whether its files are others than those that are open: moved, removed, restored."""
        return self._database is not None and self._database.replaced

    async def checkpoint(self) -> None:
        """Carry the write-ahead log over, beside what the store's thread does; now and then.

        Raises StoreUnusable.
        """
        self._opened()
        if not self.replaced:
            await asyncio.to_thread(checkpoint, self.path)

    def close(self) -> None:
        """Finish what is under way, and close the file."""
        self._thread.shutdown(wait=True)
        if self._database is not None:
            self._database.close()
