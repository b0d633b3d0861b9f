"""What the store keeps of what a switchover moves beyond the proxy, and of its gates.

A part of `database.Database`. Each move is written before its call and after it: see
`outer.moves`.
"""

import json
from collections.abc import Mapping
from typing import Any, Final

from turnout.control.ledger import Ledger
from turnout.control.outer import moves
from turnout.control.outer.moves import First, Move
from turnout.control.rows import Note

LEFT_MOVED_BEYOND: Final = (
    "EXISTS (SELECT 1 FROM outer_moves AS last WHERE last.switchover = switchovers.id"
    " AND last.step = (SELECT max(step) FROM outer_moves WHERE switchover = switchovers.id)"
    " AND json_extract(last.document, '$.calls') > 0"
    " AND NOT (json_extract(last.document, '$.restores')"
    " AND json_extract(last.document, '$.stage') IN ('in_sync', 'nothing')))"
)
"""Of a row of `switchovers`: its outer system was asked for something that was not taken back."""


class OuterLedger(Ledger):
    """Outer systems' part of an open store."""

    __slots__ = ()

    def keep_outer_first(self, id: str, first: First) -> None:
        """Keep what a switchover found first. That stays, whatever comes later."""
        document = {
            "second_weight": first.second_weight,
            "exact": first.exact,
            "settings": first.settings,
        }
        with self._transaction():
            self._run("INSERT OR IGNORE INTO outer_firsts VALUES (?, ?)", id, json.dumps(document))

    def outer_first(self, id: str) -> First | None:
        row = self._maybe("SELECT document FROM outer_firsts WHERE switchover = ?", id)
        return None if row is None else First(**json.loads(row[0]))

    def keep_outer_move(self, id: str, move: Move, at: float, note: Note) -> None:
        """Keep how far a step's move is, in place of how far it was."""
        with self._transaction():
            self._run(
                "INSERT OR REPLACE INTO outer_moves VALUES (?, ?, ?)",
                *(id, move.step, json.dumps(moves.to_document(move))),
            )
            self._note(note, at)

    def outer_moves(self, id: str) -> list[Move]:
        """A switchover's, in their order."""
        rows = self._all("SELECT document FROM outer_moves WHERE switchover = ? ORDER BY step", id)
        return [moves.from_document(json.loads(row[0])) for row in rows]

    def outer_last(self, service: str, but: str = "") -> Move | None:
        """The last move of a service's outer system, of any switchover other than `but`."""
        row = self._maybe(
            "SELECT outer_moves.document FROM outer_moves JOIN switchovers ON id = switchover"
            " WHERE service = ? AND id != ? ORDER BY switchover DESC, step DESC LIMIT 1",
            *(service, but),
        )
        return None if row is None else moves.from_document(json.loads(row[0]))

    def keep_outer_tail(self, id: str, document: Mapping[str, Any]) -> None:
        """Keep what became of the tail of a switchover."""
        with self._transaction():
            self._run("INSERT OR REPLACE INTO outer_tails VALUES (?, ?)", id, json.dumps(document))

    def outer_tail(self, id: str) -> dict[str, Any] | None:
        row = self._maybe("SELECT document FROM outer_tails WHERE switchover = ?", id)
        return None if row is None else json.loads(row[0])

    def keep_gate(self, id: str, step: int, name: str, document: Mapping[str, Any]) -> None:
        """Keep a gate's last answer at a step."""
        with self._transaction():
            self._run(
                "INSERT OR REPLACE INTO gate_results VALUES (?, ?, ?, ?)",
                *(id, step, name, json.dumps(document)),
            )

    def gate_results(self, id: str) -> list[dict[str, Any]]:
        """A switchover's, by steps and in the order of their names."""
        rows = self._all(
            "SELECT document FROM gate_results WHERE switchover = ? ORDER BY step, name", id
        )
        return [json.loads(row[0]) for row in rows]
