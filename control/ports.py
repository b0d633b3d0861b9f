"""What the executor needs of the world, as protocols: workers, health, tables.

`workers.py`, `prober.py` and the table compiler carry them out; the executor's tests have an
in-memory one. A region is a worker's place in the scoreboard.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from turnout.control.evidence import Snapshot
from turnout.control.health import UpstreamHealth
from turnout.proxy.scoreboard import RoutingWord


@dataclass(frozen=True, slots=True)
class CutResult:
    """What the workers cut (receipt entries), and the regions that did not answer in time."""

    entries: tuple[Mapping[str, Any], ...] = ()
    silent: tuple[int, ...] = ()


class Workers(Protocol):
    """The data plane, seen from control."""

    @property
    def run(self) -> str:
        """Another one when everything was stopped in between."""
        ...

    @property
    def identity(self) -> str:
        """The scoreboard's; another one when counters began anew."""
        ...

    @property
    def prepared(self) -> bool:
        """Whether every worker has loaded the table in force, without asking any."""
        ...

    async def prepare(self, timeout_s: float) -> str:
        """Have every worker load the table in force; empty, or why one could not."""
        ...

    def word(self, slot: int) -> RoutingWord:
        """The routing word that is in force for the service in `slot`."""
        ...

    def set_word(self, slot: int, hold: bool, second_weight: int, epoch: int) -> None:
        """Store the service's word, then the newest epoch, then poke the workers.

        At once and without waiting. The caller keeps the order: epochs rise.
        """
        ...

    async def acknowledged(self, epoch: int, timeout_s: float) -> Sequence[int]:
        """Wait until every live worker has seen `epoch`; the regions that had not in time."""
        ...

    def in_flight(self, slot: int, upstream: int) -> Mapping[int, int]:
        """Region -> exchanges of the upstream (0, 1) under way; live regions with some only."""
        ...

    def in_flight_by_class(self, slot: int, upstream: int) -> Mapping[str, int]:
        """Exchanges of the upstream under way, by class name."""
        ...

    async def cut(
        self,
        slot: int,
        upstream: int,
        classes: Collection[int],
        reason: str,
        epoch: int,
        timeout_s: float,
    ) -> CutResult:
        """End what was picked before `epoch`, of these classes, in every worker."""
        ...

    async def close_idle(self, slot: int, upstream: int, timeout_s: float) -> Sequence[int]:
        """Close idle connections to the upstream; the regions that did not answer in time."""
        ...

    async def replace(self, region: int, reason: str) -> None:
        """Have the supervisor kill this worker and start another; it is settled on return."""
        ...

    def snapshot(self, slot: int) -> Snapshot:
        """The service's counters now."""
        ...


class Prober(Protocol):
    """Who knows how the upstreams are."""

    def upstream(self, service: str, upstream: str) -> UpstreamHealth:
        """Health of an upstream as it is known now."""
        ...


class Tables(Protocol):
    """Who compiles configuration and store into a table and puts it in force."""

    async def publish(self, reason: str) -> None:
        """Compile a new table, have every worker load it, put it in force, drain the servers
        that went. Raises refusals.TableRefused when it cannot be; the old one stays then."""
        ...
