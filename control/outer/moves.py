"""Pure: one move of an outer system, and what is to be done next for it.

A crash, a lost reply or somebody else may come between any two calls. So a move is stored
before its call (`intended`) and after it (`taken_on`), and what to do is always decided from
what was stored and what is read: never from what was meant to have happened.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Final

from turnout.config.weights import Weights
from turnout.control.outer.seams import Change, Reading, Wanted, differences


class Stage(StrEnum):
    INTENDED = "intended"
    """It is being asked for, or will be: whether it was is not known."""
    TAKEN_ON = "taken_on"
    """The system has taken it on, and is not in sync yet."""
    IN_SYNC = "in_sync"
    NOTHING = "nothing"
    """It was so already."""
    LEFT = "left"
    """The system cannot have such weights; it stays where it is until a step that it can."""
    FAILED = "failed"
    """The system took it on and did not carry it out, or never took it on."""
    UNKNOWN = "unknown"
    """Whether it is in sync was not known by the deadline."""


SETTLED: Final = frozenset({Stage.IN_SYNC, Stage.NOTHING, Stage.LEFT})
"""Nothing more is to be done for it."""


@dataclass(frozen=True, slots=True)
class Move:
    """One step's move of an outer system, as it is stored. Times are seconds since 1970."""

    step: int
    wanted: int
    """The service's second_weight that the step wants."""
    becomes: int
    """The nearest that the system can have."""
    was: int
    """What it had before."""
    restores: bool
    """What was there at first, exactly."""
    stage: Stage
    asked_at: float
    """When it was first asked for."""
    calls: int = 0
    """How often a call that may change something was made."""
    change: Change | None = None
    taken_on_at: float | None = None
    in_sync_at: float | None = None
    ended_at: float | None = None
    """When it was given up."""
    detail: str = ""

    @property
    def settled(self) -> bool:
        return self.stage in SETTLED


def to_document(move: Move) -> dict[str, Any]:
    """The move as JSON takes it; `from_document` is the inverse."""
    change = move.change
    return {
        "step": move.step,
        "wanted": move.wanted,
        "becomes": move.becomes,
        "was": move.was,
        "restores": move.restores,
        "stage": move.stage.value,
        "asked_at": move.asked_at,
        "calls": move.calls,
        "change": None if change is None else {"id": change.id, "document": dict(change.document)},
        "taken_on_at": move.taken_on_at,
        "in_sync_at": move.in_sync_at,
        "ended_at": move.ended_at,
        "detail": move.detail,
    }


def from_document(document: Mapping[str, Any]) -> Move:
    """Raises KeyError, TypeError or ValueError for what `to_document` did not write."""
    change = document["change"]
    return Move(
        **{
            **document,
            "stage": Stage(document["stage"]),
            "change": None if change is None else Change(change["id"], change["document"]),
        }
    )


@dataclass(frozen=True, slots=True)
class First:
    """What the system had when the switchover first looked: what going back restores."""

    second_weight: int
    exact: Mapping[str, Any]
    settings: Mapping[str, Any]


# ---------------------------------------------------------------- what to do


@dataclass(frozen=True, slots=True)
class Call:
    """Ask the system for it."""


@dataclass(frozen=True, slots=True)
class Confirm:
    """It is there already, by a call whose reply was lost: have a change to poll."""


@dataclass(frozen=True, slots=True)
class Done:
    """It was so already."""


@dataclass(frozen=True, slots=True)
class Stop:
    """It must not be asked for: the system is not what it was."""

    reason: str


Next = Call | Confirm | Done | Stop


def decide(
    move: Move,
    reading: Reading,
    first: First,
    goal: First,
    others: Sequence[Move],
    names: tuple[str, str],
    *,
    exchange: bool,
    left: Move | None = None,
) -> Next:
    """What to do for a move that is `intended`, as the system is now.

    `goal` is what a move that restores brings back: `first`, or what another switchover found.
    `others` are the switchover's other moves; `exchange`: the call swaps, and made twice undoes
    itself; `left` is the last move of the switchover before, if that failed or nobody knows how it
    ended: it may still arrive, whatever is read.
    """
    if reading.problems:
        return Stop("; ".join(reading.problems))
    assert reading.second_weight is not None, "without a problem there is a weight"
    if changed := differences(first.settings, reading.settings):
        return Stop("somebody else has changed it: " + "; ".join(changed))
    unsettled = any(not other.settled for other in others)
    if _is_there(move, reading, goal):
        if move.calls:
            return Confirm()
        if exchange:
            # A swap that was asked for before may still arrive, and another one would undo it: it is
            # seen whether this lasts.
            under_way = {Stage.INTENDED, Stage.TAKEN_ON}
            return Confirm() if any(other.stage in under_way for other in others) else Done()
        # An earlier call may still arrive, or what is read is only what was asked for: asking for
        # the same once more makes this the last one.
        if unsettled:
            return Call()
        if left is not None and left.stage is Stage.UNKNOWN and left.becomes == move.becomes:
            return Confirm()
        return Call() if left is not None else Done()
    known = known_weights(move, first, others)
    if reading.second_weight not in known:
        expected = " or ".join(str(Weights(*names, weight)) for weight in sorted(known))
        found = Weights(*names, reading.second_weight)
        return Stop(f"somebody else has moved it: expected {expected}, found {found}")
    return Call()


def _is_there(move: Move, reading: Reading, goal: First) -> bool:
    if move.restores:
        return reading.exact == goal.exact
    return reading.second_weight == move.becomes


def known_weights(move: Move, first: First, others: Sequence[Move]) -> Collection[int]:
    """What the system may have by what this switchover asked of it, if nobody else was there."""
    known = {move.was}
    if move.restores:
        known |= {first.second_weight, *(other.becomes for other in others)}
    if move.calls:
        known.add(move.becomes)
    return known


def last_known(first: First, others: Sequence[Move]) -> int:
    """The weight that the system has by the moves before: it moved last to that."""
    moved = [
        other for other in others if other.stage in (Stage.IN_SYNC, Stage.NOTHING) or other.calls
    ]
    return moved[-1].becomes if moved else first.second_weight


def wanted(move: Move, goal: First) -> Wanted:
    return Wanted(move.becomes, goal.exact if move.restores else None)


def failed(move: Move, stage: Stage, detail: str, at: float) -> Move:
    return replace(move, stage=stage, detail=detail, ended_at=at)


# ---------------------------------------------------------------- what is told of it


def shown(
    kind: str,
    order: str,
    first: First | None,
    moves: Sequence[Move],
    names: tuple[str, str],
    utc: Any,
) -> dict[str, Any]:
    """The outer part of a receipt, or of a switchover under way; `utc` writes a time."""

    def shares(second_weight: int) -> dict[str, float]:
        return Weights(*names, second_weight).percentages()

    def at(seconds: float | None) -> str | None:
        return None if seconds is None else str(utc(seconds))

    return {
        "kind": kind,
        "order": order,
        "weights_before": None if first is None else shares(first.second_weight),
        "moves": [
            {
                "step": move.step + 1,
                "wanted": shares(move.wanted),
                "weights": shares(move.becomes),
                "restores": move.restores,
                "stage": move.stage.value,
                "change": move.change.id if move.change is not None else None,
                "calls": move.calls,
                "asked_at": at(move.asked_at),
                "taken_on_at": at(move.taken_on_at),
                "in_sync_at": at(move.in_sync_at),
                "seconds": None
                if move.in_sync_at is None
                else round(max(0.0, move.in_sync_at - move.asked_at), 3),
                "detail": move.detail,
            }
            for move in moves
        ],
    }
