"""What killed workers held: names that the supervisor wrote down, taken into the store.

The counters of a dead worker are settled by the supervisor at once, with or without control;
the names wait in files of the runtime directory until control has stored them.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import time
from typing import Any, Final

from turnout.control import describe
from turnout.control.events import WorkerDied
from turnout.control.journal import Journal
from turnout.control.store import Database, Note, Store
from turnout.proxy.commands import DIED_PREFIX, Died, ProtocolError, decode

REASON: Final = "worker_died"
LOOK_INTERVAL_S: Final = 0.5


class Casualties:
    """Takes in the files, each once, and keeps the names of whatever else was cut."""

    __slots__ = ("_journal", "_lock", "_runtime_dir", "_store", "_tell")

    def __init__(
        self, runtime_dir: Path, store: Store, journal: Journal, tell: Callable[[str, str], None]
    ) -> None:
        self._runtime_dir = runtime_dir
        self._store = store
        self._journal = journal
        self._tell = tell
        self._lock = asyncio.Lock()

    async def run(self) -> None:
        """Look for new files until cancelled."""
        while True:
            await self.collect()
            await asyncio.sleep(LOOK_INTERVAL_S)

    async def collect(self) -> None:
        """Store what the files there are name, and remove them."""
        async with self._lock:
            for path in sorted(self._runtime_dir.glob(f"{DIED_PREFIX}*.json")):
                try:
                    died = decode(path.read_bytes())
                except (OSError, ProtocolError) as error:
                    self._tell(f"{path} cannot be read: {error}", "remove the file")
                    path.rename(path.with_suffix(".unreadable"))
                    continue
                if isinstance(died, Died):
                    await self._take(died)
                path.unlink(missing_ok=True)

    async def _take(self, died: Died) -> None:
        told = WorkerDied(region=died.region, pid=died.pid, status=died.status, cut=len(died.cut))
        await self._journal.note(Note(events=(told,)))
        services = {row.slot: row for row in await self._store(Database.services)}
        held: dict[tuple[str, str], list[Mapping[str, Any]]] = defaultdict(list)
        for entry in died.cut:
            row = services.get(entry["slot"])
            if row is None:
                continue  # of a request that no service matched
            upstreams = (row.first, row.second, "")
            known = {key: value for key, value in entry.items() if key not in ("slot", "upstream")}
            held[row.name, upstreams[entry["upstream"]]].append(known)
        for (service, upstream), entries in held.items():
            await self.keep(service, upstream, entries, REASON, died.at_unix)

    async def keep(
        self,
        service: str,
        upstream: str,
        entries: Sequence[Mapping[str, Any]],
        reason: str,
        at: float | None = None,
    ) -> None:
        """Store the names of what was cut, and tell how many there were."""
        running = await self._store(Database.under_way, service)
        id = running.id if running is not None else ""
        told = describe.cut(service, upstream, entries, reason, id)
        note = Note(events=told)
        await self._store(Database.keep_casualties, service, entries, at or time(), note)
        self._journal.told(note)
