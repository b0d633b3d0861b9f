"""Pure: the seams to what steers traffic beyond the proxy, as values and protocols.

- `Router`: a system that holds weights of its own, such as DNS records, a load balancer's
  target groups or a platform's slots. It is moved within a switchover.
- `Discovery`: a source of an upstream's servers.
- `Gate`: a condition for a step.

What implements them is one file each beside this one, loaded by its kind (`loading`); none of
them knows the store, a switchover or another of its like. `docs/outer-layers.md` says how to
write one, and `tests/outer` what every one must do.

Weights are the service's `second_weight`, hundredths of a percent of its second upstream, as
everywhere; a router says what of it its system can express.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, Protocol

from turnout.config.weights import WHOLE

# ---------------------------------------------------------------- what may go wrong


class OuterError(Exception):
    """Something that an outer system did not do; the text says what, where and what to do."""


class NotDone(OuterError):
    """Certainly not carried out, for a passing reason: it may be tried again."""

    def __init__(self, text: str, retry_after_s: float = 0.0) -> None:
        self.retry_after_s = retry_after_s
        """As the system asked for; 0: it did not say."""
        super().__init__(text)


class Throttled(NotDone):
    """Too many calls, or an earlier change is still being carried out."""


class Denied(NotDone):
    """The credentials are missing, have expired or do not allow it. They may be renewed."""


class ReplyLost(OuterError):
    """It may have been carried out or not: no answer came, or one that does not tell."""


class Conflict(OuterError):
    """The system is not as it was read: somebody else changed it. Nothing was changed."""


class Refused(OuterError):
    """The system says that the call is wrong; the same again would be refused again."""


class NotExpressible(Refused):
    """The system cannot have such weights."""


class MissingExtra(OuterError):
    """The library that it needs is not installed; the text names the extra."""


# ---------------------------------------------------------------- routers


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a router's system can do."""

    atomic: bool
    """One call changes both sides at one instant."""
    weighted: bool
    """It can split; false: it switches whole, and steps in between leave it where it is."""
    exchange: bool
    """Its call swaps the two sides: made twice it undoes itself, so it is never repeated
    without reading."""
    conditional: bool
    """The system itself refuses a change of what is no longer as it was read (an etag, a
    fingerprint, a resource version). False: it is read again just before the call."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What a router's system has at one moment."""

    second_weight: int | None
    """None: it cannot be told, and `problems` says why."""
    version: str
    """Another one when anything of it has changed."""
    exact: Mapping[str, Any]
    """All that was read and that a change touches, as JSON takes it: what `Wanted.exact` takes
    to restore it."""
    settings: Mapping[str, Any]
    """What stands beside the weights and no change of weights touches, as JSON takes it: where
    it differs from one reading to the next, somebody else was there. Keys are shown."""
    problems: Sequence[str] = ()
    """Why it is not what the configuration says; a switchover is refused then."""
    warnings: Sequence[str] = ()
    """What should be another way, and hinders nothing."""
    ttl_s: float = 0.0
    """How long clients may go on by what they were told before; 0: not at all."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a router's system should have."""

    second_weight: int
    exact: Mapping[str, Any] | None = None
    """A reading's, to be restored as it was; None: the weight, and the rest as it is."""


@dataclass(frozen=True, slots=True)
class Change:
    """A change that a system has taken on, as it is stored until it is in sync."""

    id: str
    """The system's name for it; for people and their logs. Empty: it has none."""
    document: Mapping[str, Any] = field(default_factory=dict)
    """What `poll` needs beside, as JSON takes it."""


class Verdict(StrEnum):
    PENDING = "pending"
    IN_SYNC = "in_sync"
    """All of the system acts on it; what its clients remember is another matter (`Tail`)."""
    FAILED = "failed"
    """It was taken on and then not carried out."""
    UNKNOWN = "unknown"
    """It cannot be told any more."""


@dataclass(frozen=True, slots=True)
class Progress:
    verdict: Verdict
    detail: str = ""
    """In words, as the system has them."""


@dataclass(frozen=True, slots=True)
class Tail:
    """How long and how much clients may still come by the old way."""

    ttl_s: float
    """Since the change was in sync."""
    requests_per_min: float | None = None
    """What the system counts on the side that lost its weight; None: it counts nothing."""


class Router(Protocol):
    """A system that holds weights. One for each service; to be used in one event loop.

    Every call may raise OuterError, as its kind says, and must end within the timeout that it
    was made with. A call that is cancelled may have been carried out.
    """

    @property
    def capabilities(self) -> Capabilities: ...

    def expressible(self, second_weight: int) -> int | None:
        """The nearest weight that the system can have; None: only all or nothing.

        Never 0 or 10000 for what is neither: a share that is not nothing stays something.
        """
        ...

    async def read(self) -> Reading:
        """What it has now. What is not as configured is in `problems`, not raised."""
        ...

    def preview(self, wanted: Wanted, reading: Reading) -> Mapping[str, Any]:
        """The call that `set_weights` would make, as plain data, for people. Raises
        NotExpressible."""
        ...

    async def set_weights(self, wanted: Wanted, if_read: Reading) -> Change:
        """Bring it to what is wanted, in as few calls as it takes: one, if it can.

        Everything beside the weights stays as read. Raises Conflict, with the difference, when
        it is not `if_read.version` any more; NotExpressible.
        """
        ...

    async def confirm(self, wanted: Wanted, reading: Reading) -> Change:
        """What is wanted is there already, but who asked for it lost the reply: a change whose
        progress can be polled. Changes nothing."""
        ...

    async def poll(self, change: Change) -> Progress:
        """How far it is. Raises NotDone or ReplyLost when it could not be asked."""
        ...

    async def tail(self, old_upstream: int) -> Tail:
        """Once in sync: how long, and how much, clients still come to the upstream (0, 1) that
        lost its weight."""
        ...

    async def close(self) -> None: ...


def nearest_share(second_weight: int, parts: int) -> int:
    """The nearest weight of a system that counts in `parts` of the whole, such as 100.

    What is neither nothing nor everything stays so.
    """
    if second_weight in (0, WHOLE):
        return second_weight
    part = min(max(round(second_weight * parts / WHOLE), 1), parts - 1)
    return round(part * WHOLE / parts)


def differences(before: Any, after: Any, place: str = "") -> list[str]:
    """Where two JSON values differ, in words: `records.A shop-blue.TTL: 60, now 300`."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        found = []
        for key in sorted({*before, *after}):
            there = f"{place}.{key}" if place else str(key)
            if key not in after:
                found.append(f"{there}: {_short(before[key])}, now gone")
            elif key not in before:
                found.append(f"{there}: not there before, now {_short(after[key])}")
            else:
                found += differences(before[key], after[key], there)
        return found
    if before == after:
        return []
    return [f"{place}: {_short(before)}, now {_short(after)}"]


_SECRET_MIN: Final = 4
"""A shorter one is no secret, and may stand in any text by itself."""


def without(text: str, secrets: Iterable[str]) -> str:
    """A system's words, with what it says back of who calls hidden."""
    for secret in sorted(set(secrets), key=len, reverse=True):
        if len(secret) >= _SECRET_MIN:
            text = text.replace(secret, "(hidden)")
    return text


_SHOWN_MAX: Final = 120


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= _SHOWN_MAX else f"{text[:_SHOWN_MAX]}…"


# ---------------------------------------------------------------- discovery


@dataclass(frozen=True, slots=True)
class FoundServer:
    address: str
    """`10.0.0.7:9001`, `[2001:db8::7]:9001`."""
    ready: bool
    draining: bool = False
    """It is going: what it has in flight finishes, nothing new is sent."""


@dataclass(frozen=True, slots=True)
class FoundServers:
    """An upstream's servers at one moment."""

    servers: tuple[FoundServer, ...]
    revision: str
    """The source's own name for this moment."""
    complete: bool = True
    """False: some of it could not be read; such a snapshot takes no server away."""


class Discovery(Protocol):
    """A source of an upstream's servers.

    It need not defend itself: who follows it keeps the last known when a snapshot is empty, when
    the iterator raises (any OuterError; it is begun anew, after a pause) and when it ends.
    """

    def snapshots(self) -> AsyncIterator[FoundServers]:
        """The servers now, and again whenever they have changed."""
        ...

    async def close(self) -> None: ...


# ---------------------------------------------------------------- gates


class GateVerdict(StrEnum):
    PASS = "pass"
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"
    """It was asked and does not tell: no value, too few, too old, not a number."""
    ERROR = "error"
    """It could not be asked."""


@dataclass(frozen=True, slots=True)
class GateResult:
    verdict: GateVerdict
    reason: str
    """With the value, its unit, the limit and the place it came from."""
    value: float | None = None


@dataclass(frozen=True, slots=True)
class GateQuestion:
    """What a gate is asked for: may this weight rise?"""

    service: str
    upstream: str
    """The one that would gain."""
    switchover: str
    step: int
    since: float
    """When the weights were last moved, seconds since 1970: what is older says nothing of now."""
    at: float


class Gate(Protocol):
    """A condition for a step. Only `pass` goes on."""

    async def check(self, question: GateQuestion) -> GateResult:
        """Does not raise for what the system does: that is a verdict."""
        ...

    async def close(self) -> None: ...


# ---------------------------------------------------------------- what an implementation gets


@dataclass(frozen=True, slots=True)
class Context:
    """What a router, a discovery or a gate is made with, beside its own settings."""

    names: tuple[str, str]
    """Of the service's upstreams, first and second."""
    timeout_s: float
    """Of one call."""
    turn: Callable[[], Awaitable[None]]
    """To be awaited before each call: bounds the calls of one kind, of all services together."""
    tell: Callable[[str, str], None]
    """What is wrong, and what to do about it, for the log."""
