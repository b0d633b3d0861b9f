"""Kubernetes by value: what slices, Services and routes mean, and which patch moves them."""

import copy
from typing import Any

import pytest

from tests.outer.target_kubernetes import ROUTE, SERVICE, ref
from turnout.control.outer import kube_routes, kube_selectors
from turnout.control.outer.kube_routes import Meant
from turnout.control.outer.kube_slices import awaited, servers_in
from turnout.control.outer.seams import (
    FoundServer,
    NotExpressible,
    Progress,
    Reading,
    Refused,
    Verdict,
    Wanted,
)


def a_slice(
    *endpoints: dict[str, Any],
    name: str = "s1",
    ports: Any = ({"name": "http", "port": 8080, "protocol": "TCP"},),
    family: str = "IPv4",
) -> dict[str, Any]:
    return {
        "metadata": {"name": name},
        "addressType": family,
        "ports": None if ports is None else list(ports),
        "endpoints": list(endpoints),
    }


def endpoint(address: str, uid: str = "", /, **conditions: bool | None) -> dict[str, Any]:
    found: dict[str, Any] = {"addresses": [address], "conditions": conditions}
    return {**found, "targetRef": {"kind": "Pod", "uid": uid}} if uid else found


def addresses(*slices: dict[str, Any], port: str = "") -> list[str]:
    return [server.address for server in servers_in(slices, port).servers]


# ---------------------------------------------------------------- slices


@pytest.mark.parametrize(
    ("conditions", "ready", "draining"),
    [
        ({}, True, False),
        ({"ready": None, "serving": None, "terminating": None}, True, False),
        ({"ready": True}, True, False),
        ({"ready": False}, False, False),
        ({"ready": False, "serving": True, "terminating": True}, False, True),
        ({"ready": False, "serving": False, "terminating": True}, False, True),
        # publishNotReadyAddresses
        ({"ready": True, "serving": True, "terminating": True}, False, True),
    ],
)
def test_what_a_condition_leaves_out_has_a_meaning(
    conditions: dict[str, bool | None], ready: bool, draining: bool
) -> None:
    found = servers_in([a_slice(endpoint("10.0.0.1", **conditions))], "")
    assert found.servers == (FoundServer("10.0.0.1:8080", ready, draining),)
    assert found.complete


def test_no_conditions_at_all_is_ready() -> None:
    found = servers_in([a_slice({"addresses": ["10.0.0.1"]})], "")
    assert found.servers == (FoundServer("10.0.0.1:8080", ready=True),)


def test_all_slices_together_are_the_endpoints() -> None:
    first = a_slice(endpoint("10.0.0.1"), endpoint("10.0.0.2"), name="s1")
    second = a_slice(endpoint("10.0.0.2"), endpoint("10.0.0.3"), name="s2")
    assert addresses(first, second) == ["10.0.0.1:8080", "10.0.0.2:8080", "10.0.0.3:8080"]


@pytest.mark.parametrize("behind_first", [True, False])
def test_an_endpoint_that_moves_from_slice_to_slice_is_not_lost(behind_first: bool) -> None:
    behind = a_slice(endpoint("10.0.0.1", ready=False), name="a" if behind_first else "z")
    now = a_slice(endpoint("10.0.0.1", ready=True), name="m")
    assert servers_in([behind, now], "").servers == (FoundServer("10.0.0.1:8080", ready=True),)


def test_ipv6_is_bracketed_and_in_canonical_form() -> None:
    assert addresses(a_slice(endpoint("2001:DB8::0:7"), family="IPv6")) == ["[2001:db8::7]:8080"]


def test_a_pod_with_two_families_is_one_server() -> None:
    six = a_slice(endpoint("2001:db8::7", "p1"), name="a", family="IPv6")
    four = a_slice(endpoint("10.0.0.7", "p1"), name="b")
    assert addresses(six, four) == ["10.0.0.7:8080"]


def test_names_have_no_meaning() -> None:
    assert addresses(a_slice(endpoint("shop.example"), family="FQDN")) == []


PORTS = (
    {"name": "http", "port": 8080, "protocol": "TCP"},
    {"name": "admin", "port": 9090},
    {"name": "dns", "port": 53, "protocol": "UDP"},
)


@pytest.mark.parametrize(
    ("port", "expected"),
    [("http", ["10.0.0.1:8080"]), ("admin", ["10.0.0.1:9090"]), ("9090", ["10.0.0.1:9090"])],
)
def test_a_port_is_found_by_name_or_number(port: str, expected: list[str]) -> None:
    assert addresses(a_slice(endpoint("10.0.0.1"), ports=PORTS), port=port) == expected


@pytest.mark.parametrize("port", ["dns", "53", "metrics", "1234"])
def test_a_port_that_is_not_there_is_said(port: str) -> None:
    found = servers_in([a_slice(endpoint("10.0.0.1"), ports=PORTS)], port)
    assert found.servers == ()
    assert found.problems == (f"none of its 1 EndpointSlices has a port {port}",)


def test_of_several_ports_one_has_to_be_named() -> None:
    found = servers_in([a_slice(endpoint("10.0.0.1"), ports=PORTS)], "")
    assert (found.servers, found.complete) == ((), False)
    assert "several ports: http, admin. Set port to one of them" in found.problems[0]


def test_a_named_port_may_have_another_number_with_other_pods() -> None:
    old = a_slice(endpoint("10.0.0.1"), name="s1")
    new = a_slice(endpoint("10.0.0.2"), name="s2", ports=[{"name": "http", "port": 8081}])
    assert addresses(old, new, port="http") == ["10.0.0.1:8080", "10.0.0.2:8081"]


@pytest.mark.parametrize("ports", [None, [], [{"port": None}]])
def test_slices_without_a_port_need_a_number(ports: Any) -> None:
    slice = a_slice(endpoint("10.0.0.1"), ports=ports)
    assert addresses(slice, port="8080") == ["10.0.0.1:8080"]
    assert not servers_in([slice], "").complete


def test_a_slice_that_is_not_understood_makes_it_incomplete_and_hinders_no_other() -> None:
    broken = a_slice({"addresses": []}, name="s0")
    found = servers_in([broken, a_slice(endpoint("10.0.0.1"))], "")
    assert [server.address for server in found.servers] == ["10.0.0.1:8080"]
    assert not found.complete
    assert "EndpointSlice s0" in found.problems[0]


def pod(uid: str, *, ready: bool = True, deleted: bool = False) -> dict[str, Any]:
    metadata = {"uid": uid, **({"deletionTimestamp": "2026-11-26T08:00:00Z"} if deleted else {})}
    conditions = [{"type": "Ready", "status": "True" if ready else "False"}]
    return {"metadata": metadata, "status": {"conditions": conditions}}


@pytest.mark.parametrize(
    ("pods", "endpoints", "missing"),
    [
        ([pod("1"), pod("2")], ["1", "2"], ""),
        ([pod("1"), pod("2", ready=False)], ["1"], ""),
        ([pod("1"), pod("2", deleted=True)], ["1"], ""),
        ([pod("1"), pod("2")], ["1"], "1 of 2 ready pods are no endpoints yet"),
        ([pod("1")], ["1", "old"], "1 endpoints are of pods that the selector does not name"),
        ([pod("1")], [], "1 of 1 ready pods are no endpoints yet"),
        ([pod("1", ready=False)], [], "none of the 1 pods that the selector names is ready"),
        ([], [], "none of the 0 pods that the selector names is ready"),
    ],
)
def test_endpoints_are_right_when_they_are_the_selectors_ready_pods(
    pods: list[dict[str, Any]], endpoints: list[str], missing: str
) -> None:
    slices = [a_slice(*(endpoint("10.0.0.1", uid, ready=True) for uid in endpoints))]
    assert awaited(pods, slices) == missing


# ---------------------------------------------------------------- selectors

SIDES = ({"version": "blue"}, {"version": "green"})


def service(**selector: str) -> dict[str, Any]:
    metadata = {"uid": "u1", "resourceVersion": "5"}
    return {"metadata": metadata, "spec": {**SERVICE, "selector": selector}}


def selected(found: dict[str, Any]) -> Reading:
    return kube_selectors.reading(found, "shop", ("blue", "green"), SIDES)


@pytest.mark.parametrize(("version", "weight"), [("blue", 0), ("green", 10000)])
def test_a_selector_says_which_side_has_all(version: str, weight: int) -> None:
    assert selected(service(app="shop", version=version)).second_weight == weight


@pytest.mark.parametrize("selector", [{}, {"app": "shop"}, {"version": "purple"}])
def test_a_selector_of_neither_side_is_a_problem(selector: dict[str, str]) -> None:
    reading = selected(service(**selector))
    assert reading.second_weight is None
    assert "expected version=blue (blue) or version=green (green)" in reading.problems[0]


def test_only_the_keys_that_tell_the_sides_apart_are_patched() -> None:
    labels = kube_selectors.wanted_labels(Wanted(10000), SIDES)
    assert kube_selectors.patch(labels, "5") == {
        "metadata": {"resourceVersion": "5"},
        "spec": {"selector": {"version": "green"}},
    }


def test_a_key_that_was_absent_is_taken_away_when_it_is_restored() -> None:
    exact = selected(service(app="shop")).exact
    labels = kube_selectors.wanted_labels(Wanted(0, exact), SIDES)
    assert kube_selectors.patch(labels, "5")["spec"] == {"selector": {"version": None}}


@pytest.mark.parametrize("weight", [1, 5000, 9999])
def test_a_selector_cannot_split(weight: int) -> None:
    with pytest.raises(NotExpressible):
        kube_selectors.wanted_labels(Wanted(weight), SIDES)


# ---------------------------------------------------------------- routes

MEANT = Meant("shop", "shop", ("blue", "green"), ("shop-blue", "shop-green"))


def route(*rules: list[dict[str, Any]], **spec: Any) -> dict[str, Any]:
    metadata = {"uid": "u1", "resourceVersion": "9", "generation": 3}
    made = [{"name": f"r{index}", "backendRefs": refs} for index, refs in enumerate(rules)]
    return {"metadata": metadata, "spec": {**ROUTE, "rules": made, **spec}}


def both(blue: int | None, green: int | None) -> list[dict[str, Any]]:
    return [ref("shop-blue", blue), ref("shop-green", green)]


@pytest.mark.parametrize(
    ("blue", "green", "weight"),
    [
        (100, 0, 0), (0, 100, 10000), (0, 1, 10000), (90, 10, 1000), (9, 1, 1000),
        (None, None, 5000), (None, 3, 7500), (1_000_000, 1, 1), (1, 1_000_000, 9999),
        (9999, 1, 1),
    ],
)  # fmt: skip
def test_weights_of_a_route_are_shares(blue: int, green: int, weight: int) -> None:
    assert kube_routes.reading(route(both(blue, green)), MEANT).second_weight == weight


@pytest.mark.parametrize(
    ("rules", "problem"),
    [
        ([both(0, 0)], "rule 0 has weights 0 and 0: it answers 500"),
        ([[ref("shop-blue", 1)]], "no rule of HTTPRoute shop names both"),
        ([], "no rule of HTTPRoute shop names both"),
        ([[*both(9, 1), ref("purple", 5)]], "rule 0 has a third backend with weight: purple (5)"),
        ([[*both(9, 1), ref("purple", None)]], "a third backend with weight: purple (1)"),
        ([both(9, 1), both(8, 2)], "its rules disagree: rule 0 9:1, rule 1 8:2"),
        ([[*both(9, 1), ref("shop-blue", 0)]], "rule 0 names a backend twice"),
    ],
)
def test_a_route_that_is_not_as_configured_is_refused(
    rules: list[list[dict[str, Any]]], problem: str
) -> None:
    reading = kube_routes.reading(route(*rules), MEANT)
    assert reading.second_weight is None
    assert any(problem in text for text in reading.problems), reading.problems


def test_a_third_backend_without_weight_hinders_nothing() -> None:
    reading = kube_routes.reading(route([*both(9, 1), ref("purple", 0)]), MEANT)
    assert (reading.second_weight, list(reading.problems)) == (1000, [])


def test_all_rules_with_both_move_together_and_others_are_left() -> None:
    found = route(both(9, 1), [ref("static", 1)], both(90, 10))
    reading = kube_routes.reading(found, MEANT)
    assert reading.second_weight == 1000
    wanted = kube_routes.wanted_weights(Wanted(2500), reading, MEANT.names)
    assert [one for one in kube_routes.patch(found, MEANT, wanted) if one["op"] == "add"] == [
        {"op": "add", "path": "/spec/rules/0/backendRefs/0/weight", "value": 75},
        {"op": "add", "path": "/spec/rules/0/backendRefs/1/weight", "value": 25},
        {"op": "add", "path": "/spec/rules/2/backendRefs/0/weight", "value": 75},
        {"op": "add", "path": "/spec/rules/2/backendRefs/1/weight", "value": 25},
    ]


@pytest.mark.parametrize("rule", ["r1", "1"])
def test_a_rule_is_meant_by_name_or_place(rule: str) -> None:
    meant = Meant("shop", "shop", MEANT.names, MEANT.backends, rule)
    reading = kube_routes.reading(route(both(9, 1), both(5, 5)), meant)
    assert (reading.second_weight, list(reading.exact["rules"])) == (5000, ["1"])
    assert "rule 0 sends to shop-blue too, and is not moved" in reading.warnings


def test_a_rule_that_is_meant_and_lacks_one_is_a_problem() -> None:
    meant = Meant("shop", "shop", MEANT.names, MEANT.backends, "r0")
    reading = kube_routes.reading(route([ref("shop-blue", 1)]), meant)
    assert "rule r0 does not name both" in reading.problems[0]


@pytest.mark.parametrize(
    "other",
    [{"namespace": "elsewhere"}, {"kind": "ServiceImport"}, {"group": "example.net"}],
)
def test_a_backend_of_that_name_that_is_something_else_is_not_meant(other: dict[str, str]) -> None:
    found = route([{**ref("shop-blue", 9), **other}, ref("shop-green", 1)])
    assert "names both" in kube_routes.reading(found, MEANT).problems[0]


@pytest.mark.parametrize(
    ("weight", "written"),
    [(0, (100, 0)), (10000, (0, 100)), (100, (99, 1)), (1250, (8750, 1250)), (1, (9999, 1))],
)
def test_weights_are_written_as_people_write_them(weight: int, written: tuple[int, int]) -> None:
    assert kube_routes.weights_of(weight) == written
    assert kube_routes.share(written) == weight


def test_a_patch_holds_on_what_was_read_alone() -> None:
    found = route(both(100, None))
    reading = kube_routes.reading(found, MEANT)
    wanted = kube_routes.wanted_weights(Wanted(10000), reading, MEANT.names)
    assert kube_routes.patch(found, MEANT, wanted)[:2] == [
        {"op": "test", "path": "/metadata/uid", "value": "u1"},
        {"op": "test", "path": "/metadata/resourceVersion", "value": "9"},
    ]


def test_nothing_and_nothing_is_never_written() -> None:
    reading = kube_routes.reading(route(both(1, 1)), MEANT)
    exact = {"rules": {"0": {"blue": 0, "green": 0}}}
    with pytest.raises(Refused, match="500"):
        kube_routes.wanted_weights(Wanted(0, exact), reading, MEANT.names)


# ---------------------------------------------------------------- acceptance


def said(
    generation: int = 3, parent: dict[str, Any] | None = None, **statuses: str
) -> dict[str, Any]:
    conditions = [
        {"type": kind, "status": status, "reason": "R", "observedGeneration": generation}
        for kind, status in {"Accepted": "True", "ResolvedRefs": "True", **statuses}.items()
    ]
    return {"parentRef": parent or {"name": "edge"}, "conditions": conditions}


NOW = {"0": {"blue": 9, "green": 1}}


def progress(*parents: dict[str, Any], **spec: Any) -> Progress:
    found = {**route(both(9, 1), **spec), "status": {"parents": list(parents)}}
    return kube_routes.progress(found, MEANT, NOW)


@pytest.mark.parametrize(
    ("parents", "verdict"),
    [
        ([said()], Verdict.IN_SYNC),
        ([said(parent={"name": "edge", "namespace": "shop", "kind": "Gateway"})], Verdict.IN_SYNC),
        ([], Verdict.PENDING),
        ([said(2)], Verdict.PENDING),
        ([said(2, ResolvedRefs="False")], Verdict.PENDING),
        ([said(Accepted="Unknown")], Verdict.PENDING),
        ([said(parent={"name": "another"})], Verdict.PENDING),
        ([said(Accepted="False")], Verdict.FAILED),
        ([said(ResolvedRefs="False")], Verdict.FAILED),
        ([said(), said(2)], Verdict.PENDING),
    ],
)
def test_a_route_is_in_sync_when_its_gateways_say_so_of_what_it_is(
    parents: list[dict[str, Any]], verdict: Verdict
) -> None:
    assert progress(*parents).verdict is verdict


def test_every_parent_has_to_say_so() -> None:
    two = [{"name": "edge"}, {"name": "inner"}]
    assert progress(said(), parentRefs=two).verdict is Verdict.PENDING
    inner = said(parent={"name": "inner"})
    assert progress(said(), inner, parentRefs=two).verdict is Verdict.IN_SYNC


def test_a_condition_that_is_not_said_at_all_is_waited_for() -> None:
    one = copy.deepcopy(said())
    one["conditions"].pop()
    assert progress(one).verdict is Verdict.PENDING


def test_weights_of_somebody_else_are_a_failure() -> None:
    found = {**route(both(5, 5)), "status": {"parents": [said()]}}
    moved = kube_routes.progress(found, MEANT, NOW)
    assert moved.verdict is Verdict.FAILED
    assert "0.blue: 9, now 5" in moved.detail
