"""Pure: three ledgers -> what is wrong, one finding a request or a number.

A request is *lost* when its client got no whole and right answer of an upstream; *doubled*
when upstreams received it more than once; *misrouted* when another upstream answered than
received it, or when it went to an upstream that had no traffic then. When that was is known
only from what a client can know:

- from the moment at which the API has answered an atomic switch until the next change is
  asked for, one upstream has all traffic;
- once any client has an answer that was routed after an atomic switch, so has every request
  that begins later, even if the API has not answered yet (promise 2).
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from loadtests.ledgers import Arrived, Change, Got, Ledgers, Receipt, Sent, Served

RECEIPT_SLACK_S: Final = 0.25
"""A worker counts an answer a moment after the client may have read its end."""
LASTING: Final = ("events", "WebSocket")
"""Kinds whose length says nothing of the server: the histogram of durations leaves them out."""


class Fault(StrEnum):
    LOST = "lost"
    CUT = "cut"
    """A receipt names it as such. It has no id there; its client knows it as lost."""
    DOUBLED = "doubled"
    MISROUTED = "misrouted"
    WRONG_BODY = "wrong body"
    UNKNOWN = "unknown"
    """An upstream received what no client sent."""
    COUNTERS = "counters"
    RECEIPT = "receipt"
    SWITCH = "switch"
    PROCESS = "process"
    NOTHING_PROVED = "nothing proved"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong. `id` names the request or the switchover, if it is of one."""

    fault: Fault
    id: str
    what: str

    def __str__(self) -> str:
        return f"{self.fault}: {self.id}: {self.what}" if self.id else f"{self.fault}: {self.what}"


@dataclass(frozen=True, slots=True)
class Exchange:
    """All that is known of one request."""

    sent: Sent
    got: Got | None
    arrived: Sequence[Arrived]
    served: Sequence[Served]

    @property
    def answered_by(self) -> str:
        return self.got.upstream if self.got else ""


def check(ledgers: Ledgers, kinds: Sequence[str] = ()) -> list[Finding]:
    """Everything that is wrong. `kinds` of requests must be among them, or nothing is proved."""
    exchanges = exchanges_of(ledgers)
    return [
        *_answers(exchanges),
        *_doubled(exchanges),
        *unknown(ledgers),
        *routed_wrongly(exchanges, ledgers.changes),
        *_changes(ledgers.changes),
        *_counters(ledgers, exchanges),
        *(finding for receipt in ledgers.receipts for finding in _receipt(receipt, exchanges)),
        *proved(ledgers, kinds),
    ]


def routed_wrongly(exchanges: Sequence[Exchange], changes: Sequence[Change]) -> Iterator[Finding]:
    """Requests that went where no traffic was to go when they began."""
    yield from _settled(exchanges, changes)
    yield from _one_instant(exchanges, changes)


def exchanges_of(ledgers: Ledgers) -> list[Exchange]:
    got = {one.id: one for one in ledgers.got}
    arrived: dict[str, list[Arrived]] = {}
    for arrival in ledgers.arrived:
        arrived.setdefault(arrival.id, []).append(arrival)
    served: dict[str, list[Served]] = {}
    for end in ledgers.served:
        served.setdefault(end.id, []).append(end)
    return [
        Exchange(one, got.get(one.id), arrived.get(one.id, ()), served.get(one.id, ()))
        for one in ledgers.sent
    ]


# ---------------------------------------------------------------- request by request


def _answers(exchanges: Sequence[Exchange]) -> Iterator[Finding]:
    """Lost ones, wrong bodies, and answers of who did not receive the request."""
    for one in exchanges:
        id, kind, got = one.sent.id, one.sent.kind, one.got
        if got is None:
            yield Finding(Fault.LOST, id, f"{kind}: it was sent, and nothing is known of its end")
        elif got.error or got.status not in (101, 200):
            yield Finding(Fault.LOST, id, f"{kind}: status {got.status}, {got.error or 'no error'}")
        elif not got.upstream:
            yield Finding(Fault.LOST, id, f"{kind}: answered by no upstream, status {got.status}")
        else:
            yield from _whereabouts(one, got)
            yield from _bodies(one, got)


def _whereabouts(one: Exchange, got: Got) -> Iterator[Finding]:
    received = {arrival.upstream for arrival in one.arrived}
    if got.upstream not in received:
        where = " and ".join(sorted(received)) or "nobody"
        what = f"{one.sent.kind}: answered by {got.upstream}, received by {where}"
        yield Finding(Fault.MISROUTED, one.sent.id, what)


def _bodies(one: Exchange, got: Got) -> Iterator[Finding]:
    ends = [end for end in one.served if end.upstream == got.upstream]
    if not ends:
        if one.arrived:
            what = f"{one.sent.kind}: {got.upstream} answered, and did not see its end"
            yield Finding(Fault.LOST, one.sent.id, what)
        return
    end = ends[-1]
    if end.received != one.sent.body:
        what = (
            f"sent {one.sent.body or 'nothing'}, {end.server} received {end.received or 'nothing'}"
        )
        yield Finding(Fault.WRONG_BODY, one.sent.id, f"{one.sent.kind}, request: {what}")
    if got.left:
        return  # how much it had been sent by then nobody knows
    if not end.whole or end.body != got.body:
        sent = end.body if end.whole else "a part"
        what = f"{end.server} sent {sent or 'nothing'}, the client got {got.body or 'nothing'}"
        yield Finding(Fault.WRONG_BODY, one.sent.id, f"{one.sent.kind}, answer: {what}")


def _doubled(exchanges: Sequence[Exchange]) -> Iterator[Finding]:
    for one in exchanges:
        if len(one.arrived) > 1:
            servers = ", ".join(arrival.server for arrival in one.arrived)
            what = f"{one.sent.kind}: received {len(one.arrived)} times, by {servers}"
            yield Finding(Fault.DOUBLED, one.sent.id, what)


def unknown(ledgers: Ledgers) -> Iterator[Finding]:
    """Ids that were used twice, and requests that nobody sent."""
    for id, times in Counter(one.id for one in ledgers.sent).items():
        if times > 1:
            yield Finding(Fault.DOUBLED, id, f"clients used this id {times} times")
    known = {one.id for one in ledgers.sent}
    for arrival in ledgers.arrived:
        if arrival.id not in known:
            what = f"received by {arrival.server}, sent by nobody"
            yield Finding(Fault.UNKNOWN, arrival.id, what)


# ---------------------------------------------------------------- against the switching


def _settled(exchanges: Sequence[Exchange], changes: Sequence[Change]) -> Iterator[Finding]:
    """Requests at an upstream that had no traffic when they began and when they arrived."""
    for (change, until_s), those in zip(
        _with_next(changes), _by_change(exchanges, changes), strict=True
    ):
        if change.settled is None:
            continue
        for one in those:
            for arrival in one.arrived:
                if arrival.at_s < until_s and arrival.upstream != change.settled:
                    what = (
                        f"{one.sent.kind}: received by {arrival.server}; it began "
                        f"{one.sent.began_s - change.done_s:.4f} s after “{change.what}” was done, "
                        f"and nothing else was asked for yet"
                    )
                    yield Finding(Fault.MISROUTED, one.sent.id, what)


def _one_instant(exchanges: Sequence[Exchange], changes: Sequence[Change]) -> Iterator[Finding]:
    """Requests that were routed as before a switch of which somebody had seen the effect."""
    buckets = _by_change(exchanges, changes)
    for index, (change, until_s) in enumerate(_with_next(changes)):
        before = changes[index - 1]
        if not index or not change.flip or change.settled is None:
            continue
        if before.settled in (None, change.settled):
            continue
        early = buckets[index - 1]
        seen = [
            (one.got.ended_s, one.sent.id)
            for one in (*early, *buckets[index])
            if one.got is not None
            and one.answered_by == change.settled
            and one.got.ended_s < until_s
        ]
        if not seen:
            continue
        first_s, first = min(seen)
        for one in early:
            # What began after the API's answer as well is found by `_settled`.
            if not first_s < one.sent.began_s <= change.done_s:
                continue
            for arrival in one.arrived:
                if arrival.at_s < until_s and arrival.upstream != change.settled:
                    what = (
                        f"{one.sent.kind}: received by {arrival.server}; it began "
                        f"{one.sent.began_s - first_s:.4f} s after {first} had been answered by "
                        f"{change.settled} in “{change.what}”"
                    )
                    yield Finding(Fault.MISROUTED, one.sent.id, what)


def _by_change(exchanges: Sequence[Exchange], changes: Sequence[Change]) -> list[list[Exchange]]:
    """For each change what began after it was done, and before the next one was."""
    done_s = [change.done_s for change in changes]
    buckets: list[list[Exchange]] = [[] for _ in changes]
    for one in exchanges:
        index = bisect_left(done_s, one.sent.began_s) - 1
        if index >= 0:
            buckets[index].append(one)
    return buckets


def _with_next(changes: Sequence[Change]) -> Iterator[tuple[Change, float]]:
    """Each change, and when the next one was asked for."""
    for index, change in enumerate(changes):
        last = index + 1 == len(changes)
        yield change, float("inf") if last else changes[index + 1].asked_s


def changes_at_fault(changes: Sequence[Change]) -> Iterator[Change]:
    """Those that did not do what was asked for."""
    return (change for change in changes if change.error)


def _changes(changes: Sequence[Change]) -> Iterator[Finding]:
    for change in changes_at_fault(changes):
        yield Finding(Fault.SWITCH, change.what, change.error)


# ---------------------------------------------------------------- against the proxy's own count


def _counters(ledgers: Ledgers, exchanges: Sequence[Exchange]) -> Iterator[Finding]:
    counters = ledgers.counters

    def compare(what: str, counted: int, known: int) -> Iterator[Finding]:
        if counted != known:
            yield Finding(Fault.COUNTERS, "", f"{what}: the proxy counts {counted}, it was {known}")

    yield from compare("requests accepted", counters.accepted, len(exchanges))
    yield from compare("in flight at the end", counters.in_flight, 0)
    ended = sum(counters.outcomes.values())
    yield from compare("sum of outcomes", ended + counters.in_flight, counters.accepted)
    known = Counter(_outcome(one) for one in exchanges)
    for key in sorted({*known, *counters.outcomes}):
        upstream, outcome, code = key
        what = " ".join(("requests", outcome, code, "of", upstream or "no upstream")).replace(
            "  ", " "
        )
        yield from compare(what, counters.outcomes.get(key, 0), known[key])
    answered = Counter(
        one.answered_by
        for one in exchanges
        if _outcome(one)[1] == "answered_by_upstream" and one.sent.kind not in LASTING
    )
    for upstream in sorted({*answered, *counters.durations}):
        counted = counters.durations.get(upstream, 0)
        yield from compare(f"durations of {upstream}", counted, answered[upstream])
    for name, count in counters.troubles.items():
        yield Finding(Fault.COUNTERS, "", f"{name} is {count}")


def _outcome(one: Exchange) -> tuple[str, str, str]:
    """How the proxy has to have counted it, by what client and upstreams know."""
    got = one.got
    upstream = one.arrived[-1].upstream if one.arrived else ""
    if got is None or not got.status or got.error:
        return (upstream, "cut", "")
    if got.left:
        return (upstream, "client_aborted", "")
    if got.upstream:
        return (got.upstream, "answered_by_upstream", str(got.status))
    return (upstream, "answered_by_proxy", str(got.status))


def _receipt(receipt: Receipt, exchanges: Sequence[Exchange]) -> Iterator[Finding]:
    """Its sums, its list of what was cut, and that it counts neither too much nor too little."""

    def wrong(what: str) -> Finding:
        return Finding(Fault.RECEIPT, receipt.id, what)

    total = sum(receipt.outcomes.values()) + receipt.in_flight
    if receipt.accepted != total:
        yield wrong(f"{receipt.accepted} accepted, its parts sum to {total}")
    negative = {name: count for name, count in receipt.outcomes.items() if count < 0}
    if negative or receipt.in_flight < 0:
        yield wrong(f"counts below zero: {negative or receipt.in_flight}")
    if len(receipt.cut) != receipt.outcomes["cut"]:
        yield wrong(f"{receipt.outcomes['cut']} cut, {len(receipt.cut)} of them named")
    for name in receipt.cut:
        yield Finding(Fault.CUT, receipt.id, name)
    by_upstream = sum(receipt.upstreams.values())
    ended = total - receipt.in_flight - receipt.outcomes["client_aborted"]
    if by_upstream != ended:
        yield wrong(f"{ended} requests ended, {by_upstream} by its upstreams")
    for upstream, counted in receipt.upstreams.items():
        least, most = _within(receipt, upstream, exchanges)
        if not least <= counted <= most:
            yield wrong(f"{counted} requests of {upstream}; clients know of {least} to {most}")


def _within(receipt: Receipt, upstream: str, exchanges: Sequence[Exchange]) -> tuple[int, int]:
    """(Least, most) requests of an upstream that ended while the receipt counted."""
    least = most = 0
    for one in exchanges:
        got = one.got
        began_s, ended_s = one.sent.began_s, got.ended_s if got else float("inf")
        if ended_s < receipt.started_s - RECEIPT_SLACK_S or began_s > receipt.known_s:
            continue
        if any(arrival.upstream == upstream for arrival in one.arrived):
            most += not (got and got.left)
        if got and got.upstream == upstream and not (got.left or got.error):
            least += began_s >= receipt.started_s and ended_s <= receipt.ended_s - RECEIPT_SLACK_S
    return least, most


# ---------------------------------------------------------------- was there anything to see


def proved(ledgers: Ledgers, kinds: Sequence[str]) -> Iterator[Finding]:
    """Whether there was anything to find."""
    sent: Mapping[str, int] = Counter(one.kind for one in ledgers.sent)
    for kind in kinds:
        if not sent.get(kind):
            yield Finding(Fault.NOTHING_PROVED, "", f"no request of the kind {kind} was sent")
    flips = [change for change in ledgers.changes if change.flip]
    if not flips:
        yield Finding(Fault.NOTHING_PROVED, "", "no atomic switch was done")
    for upstream in ("blue", "green"):
        if not any(one.upstream == upstream for one in ledgers.got):
            yield Finding(Fault.NOTHING_PROVED, "", f"{upstream} answered nothing")
