"""What the executor needs of the world, as protocols: workers, health, tables, DNS tails.

`workers.py`, `prober.py`, the table compiler and `tail_watch.py` carry them out; the executor's tests have an
in-memory one. A region is a worker's place in the scoreboard.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from turnout.config.model import TailPolicy
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

    async def publish(self, reason: str, *, drained: bool = True) -> None:
        """Compile a new table, have every worker load it, put it in force, drain the servers
        that went; `drained` false: that is not waited for. Raises refusals.TableRefused when it
        cannot be; the old one stays then."""
        ...


@dataclass(frozen=True, slots=True)
class TailSummary:
    """What became of the tail of an upstream that lost its weight beyond the proxy."""

    upstream: str
    over: bool
    """False: it was not over within `TailPolicy.timeout_s`; the old side must not go yet."""
    reason: str
    """Why, in words and numbers."""
    seconds: float
    """Since the change was in sync."""
    requests: int | None
    """That came in by the upstream's listeners since it was in sync, or since control began to
    watch, if that is later; None: no listener is named, and nothing was counted."""
    networks: tuple[tuple[str, int], ...]
    """Those that most of them came from, the first the most."""


class Tails(Protocol):
    """Who counts what still comes in by an upstream's old address."""

    async def wait_over(
        self, service: str, upstream: str, passed_s: float, ttl_s: float, policy: TailPolicy
    ) -> TailSummary:
        """Wait until the tail of `upstream` is over or `policy.timeout_s` has passed.

        The change has been in sync for `passed_s` seconds already; `ttl_s` is how long clients
        may go on by what they were told before. What came in before this process began is not
        known: after a restart there must again have been few for as long as the policy says.
        May be cancelled at any time; keeps nothing.
        """
        ...
