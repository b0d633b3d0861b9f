"""Calls of the API that were refused: all of them counted, those that would change something
written into the audit.

Anybody who reaches the API can be refused as often as he likes. So a refusal waits for no disk:
what came together within FLUSH_S is one transaction, the same call again one entry with a
number, and more kinds than KINDS_MAX one entry together. In the audit refusals have room of
their own (`state.keep.refusals`), so that no number of them pushes out what was done.
"""

import asyncio
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from turnout.control.store import Audit, Author, Database, Store, StoreUnusable

FLUSH_S: Final = 1.0
KINDS_MAX: Final = 64
DETAIL_MAX: Final = 300
NOBODY: Final = "?"
"""Who it was that brought no token of ours; no token can be named so."""
AUDITED: Final = frozenset((401, 403, 409, 412, 422))


class RefusedCalls:
    """Those of one process."""

    __slots__ = ("_more", "_now", "_pending", "_store", "counts")

    def __init__(self, store: Store, now: Callable[[], float]) -> None:
        """`now` gives seconds since 1970."""
        self._store = store
        self._now = now
        self._pending: dict[Audit, int] = {}
        """Entry -> how often, since the last flush."""
        self._more = 0
        self.counts: Counter[str] = Counter()
        """Name of the problem -> how many calls, since the start of the process."""

    def count(self, problem: str) -> None:
        self.counts[problem] += 1

    def note(self, author: Author, operation: str, service: str, problem: str, detail: str) -> None:
        """For the audit: a call that would have changed something."""
        entry = Audit(
            author,
            f"call.{operation}",
            service,
            detail if len(detail) <= DETAIL_MAX else f"{detail[: DETAIL_MAX - 1]}…",
            f"refused: {problem}",
        )
        if entry in self._pending or len(self._pending) < KINDS_MAX:
            self._pending[entry] = self._pending.get(entry, 0) + 1
        else:
            self._more += 1

    async def flush(self) -> None:
        """Write what has come. Raises StoreUnusable; it is kept for the next time then."""
        if not self._pending:
            return
        entries, more = list(self._pending.items()), self._more
        audits = [entry if times == 1 else _times(entry, times) for entry, times in entries]
        if more:
            author = Author(NOBODY)
            audits.append(Audit(author, "call", "", f"{more} more calls", "refused: several"))
        self._pending, self._more = {}, 0
        try:
            await self._store(Database.note_refused, audits, self._now())
        except BaseException:
            for entry, times in entries:
                self._pending[entry] = self._pending.get(entry, 0) + times
            self._more += more
            raise

    async def run(self) -> None:
        """Flush now and then, for ever."""
        while True:
            await asyncio.sleep(FLUSH_S)
            with suppress(StoreUnusable):  # said by whoever watches the store
                await self.flush()


def _times(entry: Audit, times: int) -> Audit:
    detail = f"{times} times: {entry.detail}"
    return Audit(entry.author, entry.action, entry.service, detail, entry.outcome)
