"""Which service, and which of its upstreams: by value, and the promise of exact shares."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from turnout.config.table import TableServer, TableService, TableUpstream
from turnout.proxy.routing import NO_SERVICE, Router, choose, first_phase, tried_out
from turnout.proxy.scoreboard import WEIGHT_UNIT, RoutingWord


def service(
    name: str, hosts: tuple[str, ...] = (), prefix: str = "/", token: str = ""
) -> TableService:
    first, second = (
        TableUpstream(colour, (TableServer("127.0.0.1:1", "127.0.0.1:1", 1),))
        for colour in ("blue", "green")
    )
    return TableService(name, 1, hosts, prefix, (first, second), try_out_token=token)


SERVICES = (
    service("default"),
    service("shop", ("shop.example", "*.shop.example")),
    service("shop-api", ("shop.example",), "/api"),
    service("shop-api-v2", ("shop.example",), "/api/v2"),
    service("wild", ("*.example",)),
    service("static", (), "/static/"),
    service("only-path", ("path.example",), "/app"),
)
ROUTER = Router(SERVICES)


@pytest.mark.parametrize(
    ("host", "path", "name"),
    [
        (b"shop.example", b"/", "shop"),
        (b"shop.example", b"/api", "shop-api"),
        (b"shop.example", b"/api/", "shop-api"),
        (b"shop.example", b"/apis", "shop"),
        (b"shop.example", b"/api/v2/x/y", "shop-api-v2"),
        (b"shop.example", b"/api/v20", "shop-api"),
        (b"a.shop.example", b"/api", "shop"),
        (b"a.b.shop.example", b"/", "default"),
        (b"other.example", b"/", "wild"),
        (b"example", b"/", "default"),
        (b"", b"/", "default"),
        (b"", b"*", "default"),
        (b"elsewhere", b"/static/a.css", "static"),
        (b"elsewhere", b"/static", "static"),
        (b"elsewhere", b"/statics", "default"),
        (b"path.example", b"/app/x", "only-path"),
        (b"path.example", b"/", "wild"),
    ],
)
def test_the_longest_host_then_the_longest_prefix_wins(host: bytes, path: bytes, name: str) -> None:
    assert SERVICES[ROUTER.find(host, path)].name == name


def test_a_request_that_no_service_matches_has_none() -> None:
    router = Router((service("shop", ("shop.example",), "/shop"),))
    assert router.find(b"shop.example", b"/other") == NO_SERVICE
    assert router.find(b"other.example", b"/shop") == NO_SERVICE
    assert Router(()).find(b"a", b"/") == NO_SERVICE


@settings(max_examples=20)
@given(
    weight=st.integers(0, WEIGHT_UNIT),
    phase=st.integers(0, WEIGHT_UNIT - 1),
    before=st.integers(0, 300),
)
def test_any_ten_thousand_requests_are_shared_exactly(weight: int, phase: int, before: int) -> None:
    word = RoutingWord(False, weight, 7).pack()
    for _ in range(before):
        _, phase = choose(word, phase)
    second = 0
    for _ in range(WEIGHT_UNIT):
        upstream, phase = choose(word, phase)
        second += upstream
    assert second == weight


@settings(max_examples=30)
@given(
    weight=st.integers(1, WEIGHT_UNIT - 1),
    workers=st.integers(1, 16),
    turns=st.lists(st.integers(0, 15), min_size=1000, max_size=1200),
)
def test_over_n_workers_any_thousand_requests_are_within_n_of_exact(
    weight: int, workers: int, turns: list[int]
) -> None:
    word = RoutingWord(False, weight, 1).pack()
    phases = [first_phase(worker) for worker in range(workers)]
    second = 0
    for turn in turns:
        worker = turn % workers
        upstream, phases[worker] = choose(word, phases[worker])
        second += upstream
    assert abs(second - len(turns) * weight / WEIGHT_UNIT) <= workers


@pytest.mark.parametrize("weight", [100, 2500, 3333, 9900])
def test_a_share_is_spread_evenly_and_not_in_blocks(weight: int) -> None:
    word = RoutingWord(False, weight, 1).pack()
    phase = 0
    chosen: list[int] = []
    for _ in range(WEIGHT_UNIT):
        upstream, phase = choose(word, phase)
        chosen.append(upstream)
    at = [position for position, upstream in enumerate(chosen) if upstream]
    gaps = {after - before for before, after in pairwise(at)}
    assert max(gaps) - min(gaps) <= 1


def test_all_or_nothing_needs_no_counting() -> None:
    nothing, everything = (RoutingWord(False, weight, 1).pack() for weight in (0, WEIGHT_UNIT))
    assert choose(nothing, 9_999) == (0, 9_999)
    assert choose(everything, 0) == (1, 0)


def test_workers_begin_at_different_phases() -> None:
    assert len({first_phase(worker) for worker in range(64)}) == 64


@pytest.mark.parametrize(
    ("value", "upstream"),
    [
        (b"green; token=secret", 1),
        (b"blue;token=secret", 0),
        (b'green; token="secret"', 1),
        (b"green; Token=secret; x=y", 1),
        (b"green; token=wrong", -1),
        (b"green; token=", -1),
        (b"green", -1),
        (b"red; token=secret", -1),
        (b"", -1),
    ],
)
def test_a_try_out_needs_its_token_and_an_upstream_that_exists(value: bytes, upstream: int) -> None:
    assert tried_out(service("shop", token="secret"), value) == upstream


def test_without_a_configured_token_the_name_is_enough() -> None:
    assert tried_out(service("shop"), b"green") == 1
    assert tried_out(service("shop"), b"green; token=anything") == -1
