"""Publishing decisions: the transaction first, then the routing word, one at a time.

One lock over all services is held from the decision's transaction to the store of its word.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from turnout.control.ports import Workers
from turnout.control.rows import ServiceRow

T = TypeVar("T")


async def whole(work: Coroutine[Any, Any, T]) -> T:
    """Let the work end even when whoever waits for it is cancelled: no half-told decision."""
    return await asyncio.shield(asyncio.ensure_future(work))


class Words:
    """Publishes decisions: the transaction and its routing word, one decision at a time.

    Epochs reach the words in the order in which they were given out. Otherwise a worker that
    has seen a later epoch would seem to have acknowledged an earlier one whose word is not
    stored yet.
    """

    __slots__ = ("_lock", "_workers", "rows")

    def __init__(self, workers: Workers) -> None:
        self._workers = workers
        self._lock = asyncio.Lock()
        self.rows: dict[str, ServiceRow] = {}
        """Each service's row as it was last published: its weights and names are the store's
        still, its servers and its revision may not be."""

    async def publish(
        self,
        decide: Callable[[], Awaitable[ServiceRow]],
        record: Callable[[ServiceRow], Awaitable[None]] | None = None,
    ) -> ServiceRow:
        """Decide (a transaction that returns the service's row), store the word, record it."""
        return await whole(self._publish(decide, record))

    async def close(self) -> None:
        """Wait until what is being published is published."""
        async with self._lock:
            pass

    async def _publish(
        self,
        decide: Callable[[], Awaitable[ServiceRow]],
        record: Callable[[ServiceRow], Awaitable[None]] | None,
    ) -> ServiceRow:
        async with self._lock:
            row = await decide()
            self._workers.set_word(row.slot, row.held, row.second_weight, row.epoch)
            self.rows[row.name] = row
            if record is not None:
                await record(row)
        return row
