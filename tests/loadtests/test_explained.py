"""What a fault explains, and what it does not: by value, both ways."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest

from loadtests.checker import Fault
from loadtests.explained import Disturbance, judge
from loadtests.ledgers import Arrived, Change, Counters, Got, Ledgers, Sent, Served

BROKEN = Disturbance(
    "killed of blue-1", 100.0, 102.0, "blue", statuses=frozenset({502}), breaks=True
)
DIED = Disturbance("worker killed", 200.0, 201.0, workers=1)
Outcomes = dict[tuple[str, str, str], int]


def request(
    id: str = "r1",
    began_s: float = 100.5,
    kind: str = "GET kept",
    status: int = 200,
    upstream: str = "blue",
    error: str = "",
    at: Sequence[str] = ("blue-1",),
    counted: tuple[str, str, str] | None = ("blue", "answered_by_upstream", "200"),
) -> Ledgers:
    """One request of which all parties say the same: answered, and by whom it was received."""
    whose = [server.partition("-")[0] for server in at]
    received = zip(whose, at, strict=True)
    good = status == 200 and not error
    return Ledgers(
        sent=[Sent(id, kind, began_s, "b")],
        got=[Got(id, began_s + 0.5, status, upstream if good else "", "a" if good else "", error)],
        arrived=[Arrived(id, name, server, began_s + 0.1) for name, server in received],
        served=[Served(id, name, server, "b", "a", good) for name, server in zip(whose, at, strict=True)],
        changes=[Change("start", 0.0, 0.0, "blue")],
        receipts=[],
        counters=counters({counted: 1} if counted else {}),
    )  # fmt: skip


def counters(outcomes: Mapping[tuple[str, str, str], int], **more: int) -> Counters:
    durations = {
        upstream: count
        for (upstream, outcome, _), count in outcomes.items()
        if outcome == "answered_by_upstream"
    }
    return Counters(sum(outcomes.values()), dict(outcomes), 0, durations, **more)  # type: ignore[arg-type]


def bad_gateway(**more: object) -> Ledgers:
    values = {"status": 502, "at": (), "counted": ("blue", "answered_by_proxy", "502"), **more}
    return request(**values)  # type: ignore[arg-type]


def broken_off(**more: object) -> Ledgers:
    values = {"error": "amid a body", "counted": ("blue", "cut", ""), **more}
    return request(**values)  # type: ignore[arg-type]


def no_answer(**more: object) -> Ledgers:
    values = {
        "began_s": 200.1, "status": 0, "error": "closed", "counted": ("blue", "cut", ""), **more,
    }  # fmt: skip
    found = request(**values)  # type: ignore[arg-type]
    return replace(found, counters=replace(found.counters, restarts=1, died=1))


def faults(ledgers: Ledgers, *disturbances: Disturbance, named: Sequence[str] = ()) -> list[Fault]:
    return [found.fault for found in judge(ledgers, disturbances, named=named).findings]


# ---------------------------------------------------------------- a server's fault


def test_what_is_well_is_well() -> None:
    assert faults(request(), BROKEN) == []


def test_an_answer_of_the_proxy_is_explained_by_a_fault_that_leads_to_it() -> None:
    verdict = judge(bad_gateway(), [BROKEN])
    assert verdict.findings == []
    assert verdict.explained == {"answered 502": 1}


@pytest.mark.parametrize(
    "wrong",
    [
        bad_gateway(began_s=103.0),
        bad_gateway(began_s=98.0),
        bad_gateway(at=("green-1",)),
        bad_gateway(status=504, counted=("blue", "answered_by_proxy", "504")),
    ],
    ids=["after it", "before it", "elsewhere", "of another kind"],
)
def test_it_explains_nothing_else(wrong: Ledgers) -> None:
    assert Fault.LOST in faults(wrong, BROKEN)


def test_without_a_fault_nothing_is_explained() -> None:
    assert Fault.LOST in faults(bad_gateway())


def test_an_answer_may_break_off_only_where_answers_break() -> None:
    assert faults(broken_off(), BROKEN) == []
    assert Fault.LOST in faults(broken_off(), replace(BROKEN, breaks=False))


def test_who_ended_a_broken_tunnel_only_the_proxy_knows() -> None:
    for counted in (("blue", "cut", ""), ("blue", "answered_by_upstream", "101")):
        tunnel = broken_off(kind="WebSocket", status=101, counted=counted)
        found = replace(tunnel, counters=replace(tunnel.counters, durations={}))
        assert faults(found, BROKEN) == []
        # But no page's.
        page = broken_off(counted=("blue", "answered_by_upstream", "101"))
        assert Fault.COUNTERS in faults(page, BROKEN)


def test_a_server_never_explains_that_there_is_no_answer_at_all() -> None:
    assert Fault.LOST in faults(no_answer(began_s=100.5), BROKEN)


def test_what_is_explained_has_to_be_counted_as_what_it_is() -> None:
    for counted in (None, ("blue", "answered_by_upstream", "200"), ("blue", "cut", "")):
        assert Fault.COUNTERS in faults(bad_gateway(counted=counted), BROKEN)


def test_a_killed_server_may_not_have_written_down_what_it_sent() -> None:
    unwritten = replace(request(), served=[])
    assert faults(unwritten, BROKEN) == []
    assert faults(unwritten, replace(BROKEN, breaks=False)) == [Fault.WRONG_BODY]


# ---------------------------------------------------------------- twice


def again(kind: str = "GET kept", at: Sequence[str] = ("blue-1", "blue-2"), **more: int) -> Ledgers:
    found = request(kind=kind, at=at)
    return replace(found, counters=replace(found.counters, **more))  # type: ignore[arg-type]


def test_what_may_be_carried_out_twice_may_be_received_twice_of_a_broken_upstream() -> None:
    verdict = judge(again(retries=1), [BROKEN])
    assert verdict.findings == []
    assert verdict.doubled == 1


def test_a_post_is_never_received_twice() -> None:
    assert Fault.DOUBLED in faults(again("POST kept", retries=1), BROKEN)


def test_it_is_not_sent_again_to_the_other_upstream_nor_without_a_fault() -> None:
    assert Fault.DOUBLED in faults(again(at=("blue-1", "green-1"), retries=1), BROKEN)
    assert Fault.DOUBLED in faults(again(retries=1))


def test_each_time_has_to_be_counted_as_a_retry() -> None:
    assert faults(again(retries=0), BROKEN) == [Fault.COUNTERS]


# ---------------------------------------------------------------- a worker's


def test_what_a_killed_worker_held_is_explained_once_it_is_named() -> None:
    verdict = judge(no_answer(), [DIED], named=["r1"])
    assert verdict.findings == []
    assert verdict.explained == {"no answer": 1}


def held(count: int) -> Ledgers:
    """So many requests that a killed worker held, all counted as cut."""
    those = [no_answer(id=f"r{number}") for number in range(count)]
    found = those[0]
    return replace(
        found,
        sent=[line for one in those for line in one.sent],
        got=[line for one in those for line in one.got],
        arrived=[line for one in those for line in one.arrived],
        served=[line for one in those for line in one.served],
        counters=counters({("blue", "cut", ""): count}, restarts=1, died=count),
    )


def test_what_it_held_has_to_be_named() -> None:
    names = [f"r{number}" for number in range(5)]
    assert faults(held(5), DIED, named=names) == []
    assert faults(held(5), DIED, named=names[:2]) == [Fault.CUT]


def test_what_nobody_sent_is_not_named() -> None:
    assert faults(no_answer(), DIED, named=["r1", "r9"]) == [Fault.UNKNOWN]


def test_what_it_had_not_read_is_counted_by_nobody() -> None:
    unread = no_answer(at=(), counted=None)
    assert faults(unread, DIED) == []
    # But what had reached a server had been read.
    assert Fault.COUNTERS in faults(no_answer(counted=None), DIED, named=["r1"])


def test_without_a_death_no_answer_is_missing() -> None:
    assert Fault.LOST in faults(no_answer(), replace(DIED, workers=0), named=["r1"])


def test_each_death_is_counted() -> None:
    found = no_answer()
    twice = replace(found, counters=replace(found.counters, restarts=2))
    assert faults(twice, DIED, named=["r1"]) == [Fault.COUNTERS]
    assert faults(twice, replace(DIED, repeats=True), named=["r1"]) == []


# ---------------------------------------------------------------- switches


@pytest.mark.parametrize(
    ("asked_s", "expected"), [(101.0, []), (104.0, []), (120.0, [Fault.SWITCH])]
)
def test_a_switch_may_fail_while_something_is_broken(asked_s: float, expected: list[Fault]) -> None:
    change = Change("atomic switch to green", asked_s, asked_s + 1, "blue", error="refused")
    found = request()
    assert faults(replace(found, changes=[*found.changes, change]), BROKEN) == expected
