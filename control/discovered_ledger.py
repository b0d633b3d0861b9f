"""What the store keeps of servers that were found: the last known, for when nobody can say.

A part of `database.Database`. It has a table of its own, beside the servers that the API set: an
older program leaves it alone, and a file without `discover` does not see it.
"""

import json
from collections.abc import Collection, Sequence

from turnout.control.ledger import Ledger
from turnout.control.rows import Note


class DiscoveredLedger(Ledger):
    """Discovered servers' part of an open store."""

    __slots__ = ()

    def set_discovered(
        self, service: str, upstream: str, servers: Sequence[str] | None, at: float, note: Note
    ) -> None:
        """Keep the servers that were found for an upstream, in place of all others, also of what
        the API set before; None: nothing was found."""
        with self._transaction():
            self._run(
                "DELETE FROM discovered WHERE service = ? AND upstream = ?", service, upstream
            )
            if servers is not None:
                self._run(
                    "INSERT INTO discovered VALUES (?, ?, ?)",
                    *(service, upstream, json.dumps(list(servers))),
                )
            row = self._maybe("SELECT servers FROM services WHERE name = ?", service)
            kept = json.loads(row[0]) if row is not None else {}
            if servers is not None:
                kept.pop(upstream, None)
            self._run(
                "UPDATE services SET servers = ?, revision = ? WHERE name = ?",
                *(json.dumps(kept), self._next("revision"), service),
            )
            self._note(note, at)

    def forget_discovered(self, but: Collection[tuple[str, str]]) -> None:
        """Forget what was found for upstreams that are not discovered any more: it would be
        stale if they ever are again. `but` are (service, upstream) that are."""
        rows = self._all("SELECT service, upstream FROM discovered")
        gone = [(service, upstream) for service, upstream in rows if (service, upstream) not in but]
        if not gone:
            return
        with self._transaction():
            for service, upstream in gone:
                self._run(
                    "DELETE FROM discovered WHERE service = ? AND upstream = ?", service, upstream
                )
