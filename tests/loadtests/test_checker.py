"""What the load test would say of a product that lost, doubled or misrouted a request."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest

from loadtests.checker import Fault, check
from loadtests.ledgers import Arrived, Change, Counters, Got, Ledgers, Receipt, Sent, Served

GET = "GET kept"

CHANGES = (
    Change("start", 0.0, 0.0, "blue"),
    Change("atomic switch to green", 10.0, 12.0, "green", flip=True),
    Change("weights by hand", 20.0, 21.0, None),
    Change("atomic switch to blue", 30.0, 31.0, "blue", flip=True),
)


def request(
    id: str,
    began_s: float,
    upstream: str,
    *,
    ended_s: float = 0.0,
    kind: str = GET,
    body: str = "b0",
) -> Ledgers:
    """One request as all three parties saw it, when all is well."""
    ended_s = ended_s or began_s + 0.5
    return ledgers(
        sent=[Sent(id, kind, began_s, body)],
        got=[Got(id, ended_s, 200, upstream, f"answer {id}")],
        arrived=[Arrived(id, upstream, f"{upstream}-1", began_s + 0.1)],
        served=[Served(id, upstream, f"{upstream}-1", body, f"answer {id}", True)],
        counters=counted({(upstream, "answered_by_upstream", "200"): 1}),
    )


def ledgers(
    *,
    sent: Sequence[Sent] = (),
    got: Sequence[Got] = (),
    arrived: Sequence[Arrived] = (),
    served: Sequence[Served] = (),
    changes: Sequence[Change] = CHANGES,
    receipts: Sequence[Receipt] = (),
    counters: Counters | None = None,
) -> Ledgers:
    return Ledgers(sent, got, arrived, served, changes, receipts, counters or counted({}))


def counted(
    outcomes: Mapping[tuple[str, str, str], int],
    *,
    accepted: int | None = None,
    in_flight: int = 0,
    durations: Mapping[str, int] | None = None,
    troubles: Mapping[str, int] | None = None,
) -> Counters:
    if durations is None:
        durations = {
            upstream: count for (upstream, outcome, _), count in outcomes.items()
            if outcome == "answered_by_upstream"
        }  # fmt: skip
    if accepted is None:
        accepted = sum(outcomes.values()) + in_flight
    return Counters(accepted, outcomes, in_flight, durations, troubles or {})


def together(*those: Ledgers, receipts: Sequence[Receipt] = ()) -> Ledgers:
    """Several requests in one run."""
    outcomes: dict[tuple[str, str, str], int] = {}
    for one in those:
        for key, count in one.counters.outcomes.items():
            outcomes[key] = outcomes.get(key, 0) + count
    return ledgers(
        sent=[line for one in those for line in one.sent],
        got=[line for one in those for line in one.got],
        arrived=[line for one in those for line in one.arrived],
        served=[line for one in those for line in one.served],
        receipts=receipts,
        counters=counted(summed(outcomes), durations=durations(outcomes)),
    )


def summed(outcomes: Mapping[tuple[str, str, str], int]) -> dict[tuple[str, str, str], int]:
    return {key: count for key, count in outcomes.items() if count}


def durations(outcomes: Mapping[tuple[str, str, str], int]) -> dict[str, int]:
    found: dict[str, int] = {}
    for (upstream, outcome, _), count in outcomes.items():
        if outcome == "answered_by_upstream":
            found[upstream] = found.get(upstream, 0) + count
    return found


BEFORE, AFTER, MIXED = (
    request("r1", 5.0, "blue"),
    request("r2", 13.0, "green"),
    request("r3", 22.0, "blue"),
)
GOOD = together(BEFORE, AFTER, MIXED)


def only_finding(ledgers: Ledgers, fault: Fault, id: str) -> str:
    """What is said of this request; fails if anything else is found to be of this fault."""
    found = [one for one in check(ledgers) if one.fault is fault]
    assert [one.id for one in found] == [id], check(ledgers)
    return found[0].what


def test_nothing_is_found_where_all_is_well() -> None:
    assert check(GOOD, [GET]) == []


# ---------------------------------------------------------------- request by request


def test_a_request_of_which_nothing_came_is_lost() -> None:
    lost = replace(GOOD, got=[one for one in GOOD.got if one.id != "r2"])
    assert "nothing is known of its end" in only_finding(lost, Fault.LOST, "r2")


@pytest.mark.parametrize(
    ("got", "said"),
    [
        (Got("r2", 13.5, 503), "status 503"),
        (Got("r2", 13.5, 200), "answered by no upstream"),
        (Got("r2", 13.5, 0, error="ConnectionResetError: reset"), "ConnectionResetError"),
        (Got("r2", 13.5, 200, "green", "answer r2", "event 3 is wrong"), "event 3 is wrong"),
    ],
    ids=["an error", "by the proxy", "a reset", "amid the answer"],
)
def test_a_request_without_a_right_answer_is_lost(got: Got, said: str) -> None:
    lost = replace(GOOD, got=[got if one.id == "r2" else one for one in GOOD.got])
    assert said in only_finding(lost, Fault.LOST, "r2")


def test_an_answer_that_its_server_never_finished_is_found() -> None:
    ends = [one for one in GOOD.served if one.id != "r2"]
    assert "did not see its end" in only_finding(replace(GOOD, served=ends), Fault.LOST, "r2")


def test_a_request_that_arrived_twice_is_doubled() -> None:
    again = Arrived("r1", "blue", "blue-2", 5.2)
    doubled = replace(GOOD, arrived=[*GOOD.arrived, again])
    assert "received 2 times, by blue-1, blue-2" in only_finding(doubled, Fault.DOUBLED, "r1")


def test_an_id_that_was_used_twice_is_found() -> None:
    again = replace(GOOD, sent=[*GOOD.sent, Sent("r1", GET, 5.0, "b0")])
    assert Fault.DOUBLED in {one.fault for one in check(again)}


def test_a_request_that_nobody_sent_is_found() -> None:
    strange = replace(GOOD, arrived=[*GOOD.arrived, Arrived("r9", "blue", "blue-1", 1.0)])
    assert "sent by nobody" in only_finding(strange, Fault.UNKNOWN, "r9")


def test_an_answer_of_who_did_not_receive_the_request_is_misrouted() -> None:
    swapped = [replace(one, upstream="green") if one.id == "r3" else one for one in GOOD.got]
    what = only_finding(replace(GOOD, got=swapped), Fault.MISROUTED, "r3")
    assert "answered by green, received by blue" in what


def test_an_answer_to_what_arrived_nowhere_is_misrouted() -> None:
    nowhere = replace(
        GOOD,
        arrived=[one for one in GOOD.arrived if one.id != "r3"],
        served=[one for one in GOOD.served if one.id != "r3"],
    )
    assert "received by nobody" in only_finding(nowhere, Fault.MISROUTED, "r3")


def test_a_body_that_changed_on_its_way_up_is_found() -> None:
    other = [replace(one, received="b1") if one.id == "r1" else one for one in GOOD.served]
    what = only_finding(replace(GOOD, served=other), Fault.WRONG_BODY, "r1")
    assert what == "GET kept, request: sent b0, blue-1 received b1"


@pytest.mark.parametrize("got", ["answer r2", ""], ids=["another's", "nothing"])
def test_a_body_that_changed_on_its_way_down_is_found(got: str) -> None:
    other = [replace(one, body=got) if one.id == "r1" else one for one in GOOD.got]
    what = only_finding(replace(GOOD, got=other), Fault.WRONG_BODY, "r1")
    assert "blue-1 sent answer r1" in what


def test_a_client_that_leaves_on_purpose_is_no_loss() -> None:
    left = ledgers(
        sent=[Sent("e1", "events left", 1.0)],
        got=[Got("e1", 1.5, 200, "blue", "a part", left=True)],
        arrived=[Arrived("e1", "blue", "blue-1", 1.1)],
        served=[Served("e1", "blue", "blue-1", "", "a bit more", False)],
        counters=counted({("blue", "client_aborted", ""): 1}),
    )
    assert [one for one in check(left) if one.fault is not Fault.NOTHING_PROVED] == []


# ---------------------------------------------------------------- against the switching


def test_a_request_for_who_had_no_traffic_anymore_is_misrouted() -> None:
    late = together(GOOD, request("r4", 12.5, "blue"))
    what = only_finding(late, Fault.MISROUTED, "r4")
    assert "0.5000 s after “atomic switch to green” was done" in what


def test_a_request_for_who_had_no_traffic_yet_is_misrouted() -> None:
    early = together(GOOD, request("r4", 8.0, "green"))
    assert "after “start” was done" in only_finding(early, Fault.MISROUTED, "r4")


@pytest.mark.parametrize(
    "one",
    [
        request("r4", 11.0, "blue"),  # while the switch was under way
        request("r4", 9.0, "blue", ended_s=15.0),  # began before it
        request("r4", 19.95, "blue"),  # the next change was asked for before it arrived
        request("r4", 25.0, "green"),  # both had traffic
    ],
    ids=["under way", "slow", "next", "mixed"],
)
def test_what_may_have_been_routed_either_way_is_let_be(one: Ledgers) -> None:
    assert check(together(BEFORE, MIXED, one, request("r5", 40.0, "blue"), AFTER)) == []


def test_a_request_routed_as_before_what_somebody_has_seen_is_misrouted() -> None:
    seen = request("new", 10.2, "green", ended_s=10.4)
    late = together(GOOD, seen, request("late", 10.5, "blue"))
    what = only_finding(late, Fault.MISROUTED, "late")
    assert "after new had been answered by green" in what


def test_a_request_that_overlaps_the_first_of_the_new_is_let_be() -> None:
    seen = request("new", 10.2, "green", ended_s=10.6)
    assert check(together(GOOD, seen, request("overlaps", 10.5, "blue"))) == []


def test_a_stepped_switch_has_no_instant() -> None:
    stepped = [CHANGES[0], replace(CHANGES[1], flip=False), *CHANGES[2:]]
    seen = request("new", 10.2, "green", ended_s=10.4)
    mixed = replace(together(GOOD, seen, request("late", 10.5, "blue")), changes=stepped)
    assert check(mixed) == []


def test_a_switch_that_the_api_did_not_do_is_found() -> None:
    failed = [*CHANGES, Change("rollback", 50.0, 51.0, "blue", error="409 under way")]
    assert only_finding(replace(GOOD, changes=failed), Fault.SWITCH, "rollback") == "409 under way"


# ---------------------------------------------------------------- against the proxy's own count


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"accepted": 4}, "requests accepted: the proxy counts 4, it was 3"),
        ({"in_flight": 1}, "in flight at the end: the proxy counts 1, it was 0"),
        (
            {"outcomes": {("blue", "answered_by_upstream", "200"): 3}},
            "requests answered_by_upstream 200 of green: the proxy counts 0, it was 1",
        ),
        ({"outcomes": {("", "cut", ""): 1}}, "requests cut of no upstream: the proxy counts 1, it was 0"),
        ({"durations": {"blue": 2}}, "durations of green: the proxy counts 0, it was 1"),
        ({"troubles": {"turnout_requests_cut_total{}": 2}}, "turnout_requests_cut_total{} is 2"),
    ],
    ids=["accepted", "in flight", "another upstream", "cut", "durations", "trouble"],
)  # fmt: skip
def test_counters_that_differ_from_what_was_are_found(change: dict[str, object], said: str) -> None:
    found = check(replace(GOOD, counters=replace(GOOD.counters, **change)))  # type: ignore[arg-type]
    assert {one.fault for one in found} == {Fault.COUNTERS}
    assert said in [one.what for one in found]


RECEIPT = Receipt(
    id="s1",
    state="completed",
    accepted=4,
    outcomes={"answered_by_upstream": 2, "answered_by_proxy": 0, "client_aborted": 1, "cut": 0},
    in_flight=1,
    cut=[],
    upstreams={"blue": 1, "green": 1},
    started_s=4.0,
    ended_s=14.0,
    known_s=14.1,
)


def test_a_receipt_that_agrees_is_let_be() -> None:
    assert check(replace(GOOD, receipts=[RECEIPT])) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"accepted": 5}, "5 accepted, its parts sum to 4"),
        ({"in_flight": -1, "accepted": 2}, "counts below zero"),
        ({"cut": ["GET /page (drain_deadline)"]}, "0 cut, 1 of them named"),
        ({"upstreams": {"blue": 1, "green": 0}}, "2 requests ended, 1 by its upstreams"),
        ({"upstreams": {"blue": 2, "green": 0}}, "2 requests of blue; clients know of 1 to 1"),
        ({"started_s": 6.0, "accepted": 4}, "1 requests of blue; clients know of 0 to 0"),
    ],
    ids=["sum", "negative", "cut", "upstreams", "too many", "too few"],
)
def test_a_receipt_that_does_not_agree_is_found(change: dict[str, object], said: str) -> None:
    receipt = replace(RECEIPT, **change)  # type: ignore[arg-type]
    found = [one for one in check(replace(GOOD, receipts=[receipt])) if one.fault is Fault.RECEIPT]
    assert {one.id for one in found} == {"s1"}
    assert any(said in one.what for one in found), found


def test_what_a_receipt_names_as_cut_is_found() -> None:
    outcomes = {**RECEIPT.outcomes, "cut": 1}
    receipt = replace(RECEIPT, accepted=5, outcomes=outcomes, cut=["GET /page (worker_died)"])
    what = only_finding(replace(GOOD, receipts=[receipt]), Fault.CUT, "s1")
    assert what == "GET /page (worker_died)"


# ---------------------------------------------------------------- was there anything to see


def test_a_run_in_which_nothing_happened_proves_nothing() -> None:
    said = [
        one.what
        for one in check(ledgers(changes=CHANGES[:1]), [GET])
        if one.fault is Fault.NOTHING_PROVED
    ]
    assert said == [
        "no request of the kind GET kept was sent",
        "no atomic switch was done",
        "blue answered nothing",
        "green answered nothing",
    ]
