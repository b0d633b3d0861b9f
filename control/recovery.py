"""What to do at a start: the store and the routing words -> words to set, switchovers to go on.

Pure. The store is what was decided; the words are what the workers act on. A control process
that died between the two left a word behind its decision: it is set now. A switchover under
way goes on from its value; only when everything was stopped (the scoreboard is a new one) does
`after_restart` say whether to go back instead.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from turnout.config.model import AfterRestart, Service
from turnout.control.rows import ServiceRow
from turnout.control.state import State, Switchover
from turnout.proxy.scoreboard import RoutingWord


@dataclass(frozen=True, slots=True)
class SetWord:
    """The store has decided otherwise than the word says."""

    row: ServiceRow


@dataclass(frozen=True, slots=True)
class Resume:
    """Carry the switchover on from the step it had reached."""

    switchover: Switchover


@dataclass(frozen=True, slots=True)
class TurnBack:
    """Everything was stopped, and the service wants its switchover undone then."""

    switchover: Switchover
    reason: str


@dataclass(frozen=True, slots=True)
class Orphan:
    """Its service is no longer in the configuration, or it is of an older copy of the store: it
    can only fail."""

    switchover: Switchover
    reason: str


@dataclass(frozen=True, slots=True)
class Plan:
    words: tuple[SetWord, ...]
    """In the order of their epochs."""
    switchovers: tuple[Resume | TurnBack | Orphan, ...]
    epoch_least: int
    """No epoch up to this may be given out again: a word has it."""


def plan(
    services: Mapping[str, Service],
    rows: Iterable[ServiceRow],
    words: Mapping[int, RoutingWord],
    under_way: Iterable[Switchover],
    *,
    restarted: bool,
) -> Plan:
    """Decide what a start has to do.

    `services` by name, as configured; `words` by slot; `restarted`: everything was stopped,
    not the control process alone.
    """
    stale = [
        row
        for row in rows
        if row.name in services and row.slot in words and not _agree(row, words[row.slot])
    ]
    return Plan(
        words=tuple(SetWord(row) for row in sorted(stale, key=lambda row: row.epoch)),
        switchovers=tuple(
            _take_up(value, services.get(value.service), restarted) for value in under_way
        ),
        epoch_least=max((word.epoch for word in words.values()), default=0),
    )


def _agree(row: ServiceRow, word: RoutingWord) -> bool:
    return (row.held, row.second_weight, row.epoch) == (word.hold, word.second_weight, word.epoch)


def _take_up(
    value: Switchover, service: Service | None, restarted: bool
) -> Resume | TurnBack | Orphan:
    if value.overtaken:
        return Orphan(value, value.overtaken)
    if service is None:
        return Orphan(value, f"service {value.service} is no longer configured")
    if service.names != (value.first, value.second):
        names = " and ".join(service.names)
        return Orphan(value, f"the upstreams of {value.service} are now {names}")
    # One that is going back already goes on going back; one that has not begun, begins.
    back = restarted and service.switchover.after_restart is AfterRestart.ROLLBACK
    if back and value.state is not State.ROLLING_BACK:
        return TurnBack(value, "turnout was restarted; after_restart is rollback")
    return Resume(value)
