"""Upgrades, as control sees them: it asks the supervisor, and reads how far that has come.

Control is replaced in the course of it. So nothing is kept here: the state is in a file of the
runtime directory, which the control before and after read alike.
"""

import asyncio
from collections.abc import Callable
from typing import Any

from turnout.control.events import utc
from turnout.control.journal import Journal
from turnout.control.problems import Problem
from turnout.control.shared import SharedState
from turnout.control.store import Audit, Author, Note
from turnout.control.supervision import NO_SUPERVISOR, Supervision
from turnout.control.versions import version
from turnout.proxy.commands import program_generation
from turnout.proxy.scoreboard import WorkerState
from turnout.proxy.upgrading import UpgradeState, read_state


class Upgrades:
    """Begins one, and says what became of the last."""

    __slots__ = ("_generation", "_journal", "_shared", "_supervision", "_version")

    def __init__(self, shared: SharedState, supervision: Supervision, journal: Journal) -> None:
        self._shared = shared
        self._supervision = supervision
        self._journal = journal
        self._version = version()
        self._generation = program_generation()

    async def begin(self, author: Author) -> dict[str, Any]:
        """Raises Problem when it cannot be begun; how it ends is in the file."""
        # The supervisor knows best: without room it cannot have written how the last one ended.
        found = self._read()
        error = await self._supervision.upgrade(author.who, self._version)
        outcome = f"refused: {error}" if error else "begun"
        audit = Audit(author, "upgrade", "", detail=self._version, outcome=outcome)
        await self._journal.note(Note(audit))
        if error and found is not None and found.under_way:
            raise Problem("upgrade-under-way", f"it was begun by {found.who or 'somebody'}")
        if error:
            raise Problem("no-supervisor" if error == NO_SUPERVISOR else "upgrade-not-begun", error)
        return await self.shown()

    async def shown(self) -> dict[str, Any]:
        changed = await asyncio.to_thread(self.program_changed)
        return _shown(
            self._read(), self._version, changed=changed, finishing=len(self._finishing())
        )

    def program_changed(self) -> bool:
        """Whether children that are started now would be of another program: they refuse."""
        try:
            return program_generation() != self._generation
        except OSError:
            return True  # half installed, or gone

    def _read(self) -> UpgradeState | None:
        return read_state(self._shared.runtime_dir)

    def _finishing(self) -> list[int]:
        boards = self._shared.boards
        return [
            region
            for region in boards.live_regions()
            if boards.state(region) is WorkerState.DRAINING
        ]


def _shown(
    found: UpgradeState | None, running: str, *, changed: bool, finishing: int
) -> dict[str, Any]:
    def when(seconds: Callable[[UpgradeState], float | None]) -> str | None:
        at = None if found is None else seconds(found)
        return None if at is None else utc(at)

    return {
        "id": found.id if found else None,
        "step": found.step if found else None,
        "under_way": found is not None and found.under_way,
        "from_version": found.from_version if found else None,
        "to_version": (found.to_version if found else "") or None,
        "requested_by": found.who if found else None,
        "started_at": when(lambda state: state.began),
        "finished_at": when(lambda state: state.ended),
        "error": (found.error if found else "") or None,
        "remark": (found.remark if found else "") or None,
        "finishing": finishing,
        "program_changed": changed,
        "version": running,
    }
