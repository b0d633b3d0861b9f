"""Clients that move too few bytes: a body that trickles in, an answer that is hardly taken.

`timeouts.body_idle` ends who moves nothing at all. Who moves one byte before each of its ends
would hold a connection, a server's connection and a buffer for ever; so all that wait for their
client are looked at now and then, and those that were waited for at the last look already must
have moved something worth the name since.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a wait for a client has come."""

    fault: str
    """What it is if it does not go on: a name of PEER_FAULTS."""
    exchange_us: int
    """When its exchange began: another one is another wait."""
    moved_bytes: int


class Watched(Protocol):
    def progress(self) -> Progress | None: ...


AnyWatched = TypeVar("AnyWatched", bound=Watched)


def look(
    connections: Iterable[AnyWatched], before: Mapping[AnyWatched, Progress], bytes_min: int
) -> tuple[dict[AnyWatched, Progress], list[tuple[AnyWatched, str]]]:
    """Return what is to be `before` at the next look, and who was too slow since the last one,
    with its fault: moved fewer than `bytes_min`."""
    waits: dict[AnyWatched, Progress] = {}
    slow: list[tuple[AnyWatched, str]] = []
    for connection in connections:
        now = connection.progress()
        if now is None:
            continue
        then = before.get(connection)
        if then is not None and too_slow(then, now, bytes_min):
            slow.append((connection, now.fault))
        else:
            waits[connection] = now
    return waits, slow


def too_slow(then: Progress, now: Progress, bytes_min: int) -> bool:
    """Is it the same wait still, with fewer than `bytes_min` moved?"""
    return (
        then.fault == now.fault
        and then.exchange_us == now.exchange_us
        and now.moved_bytes - then.moved_bytes < bytes_min
    )
