"""Pure: ledgers of a run in which things were broken on purpose -> what no fault explains.

`checker` allows nothing. Here a request may end badly if a fault was under way with it, at the
place where it was, and in a way in which that fault can show; and then the proxy must have
counted it as exactly that. So what is explained is still accounted for, one by one:

- a fault of an upstream's server explains answers of the proxy's own (each with the statuses that
  it may lead to) and answers that broke off, which the proxy has to have counted as cut; never
  that a client gets no answer at all;
- a worker that was killed explains broken connections of what it held. What it had read is cut,
  by name; what still waited in the kernel nobody can have read, and nobody counted.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from loadtests.checker import (
    LASTING,
    Exchange,
    Fault,
    Finding,
    changes_at_fault,
    exchanges_of,
    proved,
    routed_wrongly,
    unknown,
)
from loadtests.ledgers import Change, Got, Ledgers

GRACE_S: Final = 0.25
"""A fault's end is written down a moment before or after it is over for everybody."""
HEALTHY_AGAIN_S: Final = 5.0
"""So long after a fault a server may still be held unhealthy, and a switch to it be refused."""


def in_one_turn(killed: int) -> int:
    """Of what a worker answers in one turn of its loop, death may come between the answer and its
    being counted: so many requests may be counted otherwise than they ended. It is rare (none in
    200 kills), so a long run is not allowed one for each of them."""
    return min(killed, 1 + killed // 50)


@dataclass(frozen=True, slots=True)
class Disturbance:
    """A fault that was under way from `began_s` to `ended_s`, and what it explains."""

    name: str
    began_s: float
    ended_s: float
    upstream: str = ""
    """Whose servers have it; empty: it is a worker's."""
    statuses: frozenset[int] = frozenset()
    """Of the proxy's own answers."""
    breaks: bool = False
    """Answers may break off."""
    workers: int = 0
    """So many workers were killed."""
    repeats: bool = False
    """Their successors died, too, who knows how often, before they had anything."""

    def at(self, began_s: float, ended_s: float) -> bool:
        """Whether it was under way at any time between the two."""
        return began_s <= self.ended_s + GRACE_S and ended_s >= self.began_s


@dataclass(slots=True)
class Verdict:
    """What was found, and how much of what happened is explained."""

    findings: list[Finding] = field(default_factory=list)
    explained: Counter[str] = field(default_factory=Counter)
    """Way in which a request ended badly -> how many did, each of them explained."""
    requests: int = 0
    doubled: int = 0
    """Sent again by the proxy, as it may, and received twice."""


def judge(
    ledgers: Ledgers,
    disturbances: Sequence[Disturbance],
    *,
    named: Iterable[str] = (),
    kinds: Sequence[str] = (),
) -> Verdict:
    """Everything that no fault explains. `named` are the ids of what the proxy named as cut;
    requests of all `kinds`, if any, must be there."""
    exchanges = exchanges_of(ledgers)
    verdict = Verdict(requests=len(exchanges))
    found = verdict.findings
    for one in exchanges:
        found += _ended(one, disturbances, verdict)
        found += _received(one, disturbances, verdict)
    found += unknown(ledgers)
    found += routed_wrongly(exchanges, ledgers.changes)
    found += _changes(ledgers.changes, disturbances)
    found += _counted(ledgers, exchanges, disturbances, verdict)
    found += _named(exchanges, set(named), disturbances)
    if kinds:
        found += proved(ledgers, kinds)
    return verdict


# ---------------------------------------------------------------- request by request


def _ended(
    one: Exchange, disturbances: Sequence[Disturbance], verdict: Verdict
) -> Iterator[Finding]:
    id, kind, got = one.sent.id, one.sent.kind, one.got
    if got is None:
        yield Finding(Fault.LOST, id, f"{kind}: it was sent, and nothing is known of its end")
    elif _good(got):
        yield from _right(one, got, disturbances)
    elif any(_explains(fault, one, got) for fault in disturbances):
        verdict.explained[_way(got)] += 1
    else:
        at = ", ".join(arrival.server for arrival in one.arrived) or "nobody"
        what = (
            f"{kind}: {_way(got)} {got.error or 'no error'}; received by {at}; no fault explains it"
        )
        yield Finding(Fault.LOST, id, what)


def _good(got: Got) -> bool:
    return got.status in (101, 200) and not got.error and bool(got.upstream)


def _way(got: Got) -> str:
    if not got.status:
        return "no answer"
    return "broken off" if got.error else f"answered {got.status}"


def _right(one: Exchange, got: Got, disturbances: Sequence[Disturbance]) -> Iterator[Finding]:
    """An answer that is whole must be the one that its server sent, to what the client sent."""
    kind = one.sent.kind
    ends = [end for end in one.served if end.upstream == got.upstream]
    if not ends and any(
        fault.breaks and fault.upstream == got.upstream and fault.at(one.sent.began_s, got.ended_s)
        for fault in disturbances
    ):
        return  # the server was killed before it had written down what it sent
    if not any(arrival.upstream == got.upstream for arrival in one.arrived):
        yield Finding(Fault.MISROUTED, one.sent.id, f"{kind}: answered by {got.upstream}")
    elif not got.left and not any(
        end.whole and end.received == one.sent.body and end.body == got.body for end in ends
    ):
        what = f"{kind}: sent {one.sent.body}, got {got.body}; its servers say {ends}"
        yield Finding(Fault.WRONG_BODY, one.sent.id, what)


def _explains(fault: Disturbance, one: Exchange, got: Got) -> bool:
    if not fault.at(one.sent.began_s, got.ended_s):
        return False
    if not fault.upstream:
        return bool(fault.workers) and (not got.status or bool(got.error))
    if any(arrival.upstream != fault.upstream for arrival in one.arrived):
        return False
    if got.error:
        return fault.breaks and bool(got.status) and bool(one.arrived)
    return got.status in fault.statuses


def _received(
    one: Exchange, disturbances: Sequence[Disturbance], verdict: Verdict
) -> Iterator[Finding]:
    """Received twice is only what may be carried out twice, where it failed once."""
    if len(one.arrived) < 2:
        return
    ended_s = one.got.ended_s if one.got else float("inf")
    broken = any(
        fault.upstream == one.arrived[0].upstream and fault.at(one.sent.began_s, ended_s)
        for fault in disturbances
    )
    where = {arrival.upstream for arrival in one.arrived}
    if one.sent.idempotent and broken and len(where) == 1:
        verdict.doubled += len(one.arrived) - 1
        return
    servers = ", ".join(arrival.server for arrival in one.arrived)
    what = f"{one.sent.kind}: received {len(one.arrived)} times, by {servers}"
    yield Finding(Fault.DOUBLED, one.sent.id, what)


def _changes(changes: Sequence[Change], disturbances: Sequence[Disturbance]) -> Iterator[Finding]:
    """A switch may fail while something is broken; not otherwise."""
    for change in changes_at_fault(changes):
        asked_s = change.asked_s - HEALTHY_AGAIN_S
        if not any(fault.at(asked_s, change.done_s) for fault in disturbances):
            yield Finding(Fault.SWITCH, change.what, change.error)


# ---------------------------------------------------------------- against the proxy's own count


def _counted(
    ledgers: Ledgers,
    exchanges: Sequence[Exchange],
    disturbances: Sequence[Disturbance],
    verdict: Verdict,
) -> Iterator[Finding]:
    counters = ledgers.counters
    killed = sum(fault.workers for fault in disturbances)
    slack = in_one_turn(killed)

    def compare(what: str, counted: int, known: int, slack: int = 0) -> Iterator[Finding]:
        if abs(counted - known) > slack:
            yield Finding(Fault.COUNTERS, "", f"{what}: the proxy counts {counted}, it was {known}")

    unread = len(exchanges) - counters.accepted
    at_most = sum(1 for one in exchanges if _never_read(one))
    if not 0 <= unread <= at_most or (unread and not killed):
        what = (
            f"{counters.accepted} requests accepted, {len(exchanges)} sent, {at_most} maybe unread"
        )
        yield Finding(Fault.COUNTERS, "", what)
    yield from compare("in flight at the end", counters.in_flight, 0)
    yield from compare("sum of outcomes", sum(counters.outcomes.values()), counters.accepted)
    counted = Counter[tuple[str, str, str]]()
    for (upstream, outcome, code), number in counters.outcomes.items():
        # Whose an answer of the proxy's own was, the client does not know.
        counted[upstream if outcome == "answered_by_upstream" else "", outcome, code] += number
    known = Counter(_outcome(one) for one in exchanges)
    known["", "cut", ""] -= unread
    # Who ended a broken tunnel, its client cannot say: it may be a closed one for the proxy.
    tunnels = sum(1 for one in exchanges if one.got and one.got.status == 101 and one.got.error)
    for key in sorted({*known, *counted}):
        either = key[1] in ("cut", "client_aborted") or key[2] == "101"
        more = slack + (tunnels if either else 0)
        yield from compare(f"requests {' '.join(key)}", counted[key], known[key], more)
    answered = Counter(
        one.got.upstream
        for one in exchanges
        if one.got and _good(one.got) and not one.got.left and one.sent.kind not in LASTING
    )
    for upstream, number in counters.durations.items():
        yield from compare(f"durations of {upstream}", number, answered[upstream], slack)
    repeats = any(fault.repeats for fault in disturbances)
    if counters.restarts < killed or (counters.restarts > killed and not repeats):
        yield from compare("restarts of workers", counters.restarts, killed)
    if verdict.doubled > counters.retries:
        what = f"{verdict.doubled} requests received again, {counters.retries} retries counted"
        yield Finding(Fault.COUNTERS, "", what)
    for name, number in counters.mistakes.items():
        yield Finding(Fault.COUNTERS, "", f"{name} is {number}")


def _never_read(one: Exchange) -> bool:
    """A lost request of which no upstream knows: the worker may have died before it read it."""
    return one.got is not None and not one.got.status and not one.arrived


def _outcome(one: Exchange) -> tuple[str, str, str]:
    got = one.got
    if got is None or not got.status or got.error:
        return ("", "cut", "")
    if got.left and got.upstream:
        return ("", "client_aborted", "")
    if got.upstream:
        return (got.upstream, "answered_by_upstream", str(got.status))
    return ("", "answered_by_proxy", str(got.status))


def _named(
    exchanges: Sequence[Exchange], named: set[str], disturbances: Sequence[Disturbance]
) -> Iterator[Finding]:
    """What a killed worker held is named, and nothing else."""
    killed = sum(fault.workers for fault in disturbances)
    if not killed:
        return
    by_id = {one.sent.id: one for one in exchanges}
    lost = {one.sent.id for one in exchanges if one.got and not one.got.status and one.arrived}
    silent = sorted(lost - named)
    if len(silent) > in_one_turn(killed):
        what = f"{len(silent)} of {len(lost)} requests that killed workers held, not named"
        yield Finding(Fault.CUT, silent[0], what)
    for id in sorted(named):
        one = by_id.get(id)
        if one is None:
            yield Finding(Fault.UNKNOWN, id, "named as cut, sent by nobody")
    well = [id for id in named if id in by_id and (got := by_id[id].got) is not None and _good(got)]
    if len(well) > in_one_turn(killed):
        yield Finding(Fault.CUT, well[0], f"{len(well)} requests named as cut, and answered")
