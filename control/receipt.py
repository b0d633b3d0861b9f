"""The receipt of a switchover: counted facts between two snapshots of the counters.

Pure. Its sums agree by construction: what ended and what is in flight come out of the same
snapshot, and `accepted` counts what was in flight when the window began. `verify` holds a
receipt against that, so that a stored one can be checked by anybody.

The window begins at the first weight that was set; for a switchover that never set one it is
empty. When the counters began anew in between (a reboot, an upgrade) it begins there, and the
receipt says so.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Final

from turnout.config.weights import Weights
from turnout.control.events import utc
from turnout.control.evidence import Evidence, Snapshot, difference, evidence, outcomes, zero
from turnout.control.state import Switchover
from turnout.proxy import scoreboard as board

_OUTCOMES: Final = ("answered_by_upstream", "answered_by_proxy", "client_aborted", "cut")


def build(
    switchover: Switchover,
    before: Snapshot | None,
    after: Snapshot,
    in_flight_at_flip: Mapping[str, int],
    cut: Sequence[Mapping[str, Any]],
    *,
    outer: Mapping[str, Any] | None = None,
    gates: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """The receipt as it is stored and shown.

    `before` is None when no weight was ever set; `in_flight_at_flip` by class, of the upstream
    that the last weight was taken from; `cut` the named exchanges of the window; `outer` what was
    moved beyond the proxy, and `gates` what was asked before.
    """
    restarted = before is not None and before.identity != after.identity
    if before is None:
        start = after
    elif restarted:
        start = zero(after.identity, before.at)
    else:
        start = before
    counted = difference(start, after)
    seconds = max(0.0, after.at - start.at)
    names = (switchover.first, switchover.second)
    weights = [
        Weights(*names, weight).percentages()
        for weight in (switchover.weights_before, switchover.second_weight)
    ]
    return {
        "switchover": switchover.id,
        "service": switchover.service,
        "from": switchover.from_upstream,
        "to": switchover.to_upstream,
        "strategy": switchover.strategy,
        "state": switchover.state.value,
        "outcome": switchover.outcome,
        "requested_by": switchover.requested_by,
        "forced_by": switchover.forced_by,
        "reason": switchover.reason,
        "started_at": utc(switchover.created_at),
        "finished_at": utc(switchover.entered_at),
        "weights_before": weights[0],
        "weights_after": weights[1],
        "phases": phases(switchover),
        "window": {"started_at": utc(start.at), "counters_restarted": restarted},
        "in_flight_at_flip": {name: in_flight_at_flip.get(name, 0) for name in board.CLASS_NAMES},
        "requests": {
            "accepted": start.in_flight + counted[board.S_ACCEPTED],
            **outcomes(counted),
            "in_flight": after.in_flight,
        },
        "refused": after.refused - start.refused,
        "retries": _named(counted, board.S_RETRIES, board.RETRY_REASONS),
        "not_retried": _named(counted, board.S_NOT_RETRIED, board.NOT_RETRIED_REASONS),
        "cut": [dict(entry) for entry in cut],
        "upstreams": {
            name: _upstream(evidence(counted, index, seconds)) for index, name in enumerate(names)
        },
        "outer": None if outer is None else dict(outer),
        "gates": [dict(result) for result in gates],
    }


def phases(switchover: Switchover) -> list[dict[str, Any]]:
    """How long each state lasted, in order; the final one has no length, and is left out."""
    entered = (("pending", switchover.created_at), *switchover.phases)
    return [
        {"name": str(name), "seconds": round(max(0.0, until - since), 3)}
        for (name, since), (_, until) in pairwise(entered)
    ]


def verify(receipt: Mapping[str, Any]) -> list[str]:
    """What does not agree in a receipt, in words; empty when all of it does."""
    wrong: list[str] = []
    requests: Mapping[str, int] = receipt["requests"]
    total = sum(requests[name] for name in (*_OUTCOMES, "in_flight"))
    if requests["accepted"] != total:
        wrong.append(f"accepted is {requests['accepted']}, its parts sum to {total}")
    wrong += [f"{name} is {count}" for name, count in requests.items() if count < 0]
    if receipt["refused"] < 0:
        wrong.append(f"refused is {receipt['refused']}")
    if not receipt["window"]["counters_restarted"] and len(receipt["cut"]) > requests["cut"]:
        wrong.append(f"{len(receipt['cut'])} exchanges are named as cut, {requests['cut']} counted")
    ended = sum(requests[name] for name in _OUTCOMES)
    sent = sum(upstream["requests"] for upstream in receipt["upstreams"].values())
    if sent > ended:
        wrong.append(f"the upstreams ended {sent} requests, the service {ended}")
    for name, upstream in receipt["upstreams"].items():
        if not 0 <= upstream["errors"] <= upstream["requests"]:
            wrong.append(f"{name}: {upstream['errors']} errors of {upstream['requests']} requests")
    return wrong


def _named(counted: Sequence[int], offset: int, names: Sequence[str]) -> dict[str, int]:
    """Counters by name; those that counted nothing are left out."""
    counts = ((name, counted[offset + index]) for index, name in enumerate(names))
    return {name: count for name, count in counts if count}


def _upstream(found: Evidence) -> dict[str, Any]:
    return {
        "requests": found.requests,
        "errors": found.errors,
        "p50_ms": found.p50_ms,
        "p99_ms": found.p99_ms,
    }
