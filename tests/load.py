"""Requests that keep going through a product while it is switched, and what becomes of each.

`Load` runs clients of both kinds in the test's loop: some keep their connection, some open one
for each request. Every request has an id of its own. What a request's `Sample` says is enough
for the checkers below, which are pure: they are shown traces that break a promise, too.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field

from tests.rawhttp import Client, Malformed, at_work
from tests.upstreams import ID_FIELD, Upstream


@dataclass(frozen=True, slots=True)
class Sample:
    """One request. `began` and `ended` are places in one order of all events of a test."""

    id: str
    began: int
    ended: int
    upstream: str | None
    """Who answered; None: Turnout itself, or nobody."""
    status: int
    """0: there was no whole answer."""
    error: str = ""


class Clock:
    """Numbers events in the order in which they happen in one loop."""

    def __init__(self) -> None:
        self.now = 0

    def tick(self) -> int:
        self.now += 1
        return self.now


@dataclass(slots=True)
class Load:
    """Clients at work. `address` is asked for anew for each connection."""

    address: Callable[[], str]
    clock: Clock = field(default_factory=Clock)
    samples: list[Sample] = field(default_factory=list)
    pause_s: float = 0.002
    """Between two requests of one client: what is loaded has to have room to work, too."""
    target: Callable[[int], str] = lambda number: "/load"
    method: str = "GET"
    name: str = "load"
    _count: int = 0
    _stopping: bool = False

    @contextlib.asynccontextmanager
    async def running(self, kept: int, fresh: int) -> AsyncIterator["Load"]:
        """`kept` clients that keep their connection, `fresh` ones that do not, until left;
        then each finishes the request that it has under way."""
        clients = [self._client(keep=place < kept) for place in range(kept + fresh)]
        async with at_work(clients):
            yield self
            self._stopping = True

    async def more(self, count: int, limit_s: float = 20.0) -> None:
        """Wait until so many more requests have ended."""
        wanted = len(self.samples) + count
        async with asyncio.timeout(limit_s):
            while len(self.samples) < wanted:
                await asyncio.sleep(0.002)

    async def _client(self, *, keep: bool) -> None:
        client: Client | None = None
        while not self._stopping:
            self._count += 1
            number = self._count
            id = f"{self.name}-{number}"
            began = self.clock.tick()
            upstream, status, error = None, 0, ""
            try:
                if client is None:
                    client = await Client.open(self.address(), limit_s=30.0)
                await client.ask(
                    self.target(number),
                    method=self.method,
                    fields={ID_FIELD: id},
                    body=b"x" * 100 if self.method == "POST" else b"",
                )
                answer = await client.answer(self.method)
                upstream, status = answer.upstream, answer.status
                if upstream is not None and answer.get(ID_FIELD) != id:
                    error = f"answered with the answer to {answer.get(ID_FIELD)}"
                if answer.closed or not keep:
                    client.close()
                    client = None
            except (OSError, Malformed) as fault:  # TimeoutError is an OSError
                error = f"{type(fault).__name__}: {fault}"
                if client is not None:
                    client.close()
                client = None
                await asyncio.sleep(0.01)
            self.samples.append(Sample(id, began, self.clock.tick(), upstream, status, error))
            if self.pause_s:
                await asyncio.sleep(self.pause_s)
        if client is not None:
            client.close()


# ---------------------------------------------------------------- checkers


def failures(samples: Sequence[Sample]) -> list[Sample]:
    """Requests that got no whole 200 of an upstream."""
    return [one for one in samples if one.error or one.status != 200 or one.upstream is None]


def must_not_fail(samples: Sequence[Sample], at_least: int = 100) -> None:
    """Every request was answered; and there were enough for that to mean something."""
    failed = failures(samples)
    assert not failed, f"{len(failed)} of {len(samples)} failed, such as {failed[:5]}"
    assert len(samples) >= at_least, f"only {len(samples)} requests"


def misplaced(samples: Sequence[Sample], upstreams: Sequence[Upstream]) -> list[str]:
    """Requests that were lost, doubled, or answered by another upstream than the ledgers say."""
    received: dict[str, list[str]] = {}
    for upstream in upstreams:
        for entry in upstream.ledger:
            if entry.id:
                received.setdefault(entry.id, []).append(upstream.name)
    found = []
    for sample in samples:
        at = received.pop(sample.id, [])
        wanted = [sample.upstream] if sample.upstream else []
        if at != wanted and not sample.error:
            found.append(f"{sample.id}: answered by {sample.upstream}, received by {at}")
    found += [f"{id}: received by {at}, sent by nobody" for id, at in received.items()]
    return found


@dataclass(frozen=True, slots=True)
class Switch:
    """A switch to `to`: asked for at `asked`, answered at `done`."""

    to: str
    asked: int
    done: int


def backwards(samples: Sequence[Sample], switches: Sequence[Switch]) -> list[str]:
    """Requests that were routed as before a switch that somebody had seen the effect of.

    For each switch: the first answer of the new upstream to a request that began after the
    switch before it was over was routed after this switch. No request that begins after that
    answer has ended, and ends before the next switch is asked for, may be answered by the
    other upstream.
    """
    found = []
    for index, switch in enumerate(switches):
        since = switches[index - 1].done if index else 0
        until = switches[index + 1].asked if index + 1 < len(switches) else 1 << 62
        seen = [
            one
            for one in samples
            if one.upstream == switch.to and since <= one.began and one.ended <= until
        ]
        if not seen:
            continue
        first = min(seen, key=lambda one: one.ended)
        found += [
            f"{one.id} began at {one.began} and was answered by {one.upstream}, after {first.id} "
            f"had been answered by {switch.to} at {first.ended}"
            for one in samples
            if one.began > first.ended
            and one.ended < until
            and one.upstream not in (None, switch.to)
        ]
    return found


def proven(samples: Sequence[Sample], switches: Sequence[Switch]) -> Counter[str]:
    """How much `backwards` had to look at: switches of which an answer was seen before the API
    said that they were done (`seen_early`), and requests begun in that time (`begun_early`)."""
    counts: Counter[str] = Counter()
    for index, switch in enumerate(switches):
        since = switches[index - 1].done if index else 0
        seen = [
            one.ended
            for one in samples
            if one.upstream == switch.to and since <= one.began and one.ended <= switch.done
        ]
        if seen:
            counts["seen_early"] += 1
            first = min(seen)
            counts["begun_early"] += sum(first < one.began < switch.done for one in samples)
    return counts
