"""What the store holds, as values; and what can go wrong with it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from turnout.config.weights import Weights

if TYPE_CHECKING:
    from turnout.control.events import Event


class StoreUnusable(Exception):
    """The store cannot be read or written; the text says which file, why and what to do."""


class StaleRevision(Exception):
    """The row has been written since the revision that the caller decided on."""

    def __init__(self, what: str, expected: int, found: int) -> None:
        self.expected = expected
        self.found = found
        super().__init__(f"{what} has revision {found}, not {expected}: read it again")


class UnderWay(Exception):
    """The service has a switchover under way already."""

    def __init__(self, service: str, id: str) -> None:
        self.service = service
        self.id = id
        super().__init__(f"switchover {id} of {service} is under way")


class UpstreamHasWeight(Exception):
    """Traffic goes to the upstream: it cannot be left without a server."""


class UpstreamsSwapped(Exception):
    """The file names a service's upstreams in another order than running workers count them."""


@dataclass(frozen=True, slots=True)
class Key:
    """The idempotency key of a call, and a digest of all that the call asks for."""

    name: str
    digest: str


@dataclass(frozen=True, slots=True)
class Author:
    """Who asked for something, from where, and why."""

    who: str
    address: str = ""
    reason: str = ""
    key: Key | None = None
    """Kept with the decision, in its transaction: the same call decides nothing twice."""


@dataclass(frozen=True, slots=True)
class Audit:
    """An entry of the audit as it is written."""

    author: Author
    action: str
    service: str
    detail: str = ""
    outcome: str = "done"


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """An entry of the audit as it is read."""

    seq: int
    at: float
    who: str
    address: str
    action: str
    service: str
    detail: str
    reason: str
    outcome: str
    revision: int


@dataclass(frozen=True, slots=True)
class Note:
    """What is written beside a change: for the audit, and for those who listen."""

    audit: Audit | None = None
    events: "tuple[Event, ...]" = ()


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """An event as the stream gives it; `seq` is its id."""

    seq: int
    at: float
    name: str
    service: str
    document: Mapping[str, Any]
    revision: int


@dataclass(frozen=True, slots=True)
class ServiceNames:
    """A service as the configuration has it, as far as the store cares."""

    name: str
    first: str
    second: str
    initial_second_weight: int


@dataclass(frozen=True, slots=True)
class ServiceRow:
    """What is decided about a service; its routing word is made of it."""

    slot: int
    name: str
    first: str
    second: str
    second_weight: int
    epoch: int
    held: bool
    hold_until: float | None
    servers: Mapping[str, tuple[str, ...]]
    """Upstream's name -> servers that the API set; absent: the file's."""
    revision: int
    discovered: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Upstream's name -> servers that its source has found; they count while it has one."""

    @property
    def weights(self) -> Weights:
        return Weights(self.first, self.second, self.second_weight)


@dataclass(frozen=True, slots=True)
class InForce:
    """A service as workers act on it: where it is counted, and its routing word."""

    slot: int
    name: str
    first: str
    second: str
    second_weight: int
    held: bool
    epoch: int


@dataclass(frozen=True, slots=True)
class Decision:
    """The weight decided for a switchover's step, as the service's row has it now."""

    service: ServiceRow
    again: bool
    """It had been decided before: the step is being carried out a second time."""


@dataclass(frozen=True, slots=True)
class StepRow:
    step: int
    command: str
    epoch: int
    decided_at: float
    done_at: float | None
    outcome: str


@dataclass(frozen=True, slots=True)
class Answer:
    """The first answer to a call with an idempotency key; `digest` tells the call's body."""

    digest: str
    status: int
    headers: Mapping[str, str]
    body: str
