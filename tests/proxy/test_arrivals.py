"""What is told of where requests came from: by value."""

from collections.abc import Mapping

import pytest

from turnout.config.table import TableService, TableUpstream
from turnout.proxy.arrivals import OTHER, UNIX, Arrivals, network_of
from turnout.proxy.scoreboard import S_ENTERED


@pytest.mark.parametrize(
    ("peer", "network"),
    [
        ("192.0.2.77", "192.0.2.0/24"),
        ("10.0.0.1", "10.0.0.0/24"),
        ("::ffff:192.0.2.77", "192.0.2.0/24"),
        ("2001:db8:1:2:3::4", "2001:db8:1::/48"),
        ("fe80::1%eth0", "fe80::/48"),
        ("::1", "::/48"),
        ("", UNIX),
    ],
)
def test_a_client_is_of_a_network(peer: str, network: str) -> None:
    assert network_of(peer) == network


def service(*entries: tuple[str, ...], networks: int = 2) -> TableService:
    first, second = (TableUpstream(name, ()) for name in ("blue", "green"))
    blue, green = entries
    return TableService(
        "shop", 3, (), "/", (first, second), entries=(blue, green), entry_networks=networks
    )


NOW = 1e9


def told(arrivals: Arrivals) -> Mapping[int, Mapping[str, int]]:
    return {entry.upstream: entry.take(NOW) for entry in arrivals.untold(NOW)}


def test_networks_beyond_the_limit_are_told_together_and_each_message_begins_anew() -> None:
    arrivals = Arrivals()
    found = arrivals.of_service(service(("a", "b"), ("c",)), base=1000)
    assert {bind: entry.word for bind, entry in found.items()} == {
        "a": 1000 + S_ENTERED,
        "b": 1000 + S_ENTERED,
        "c": 1001 + S_ENTERED,
    }
    for network in ("one", "two", "three", "one", "four"):
        found["a"].note(network)
    found["b"].note("two")
    assert told(arrivals) == {0: {"one": 2, "two": 2, OTHER: 2}}
    assert told(arrivals) == {}
    found["a"].note("three")
    assert told(arrivals) == {0: {"three": 1}}


def test_what_is_not_told_yet_outlives_a_table() -> None:
    arrivals = Arrivals()
    arrivals.of_service(service(("a",), ()), base=1000)["a"].note("one")
    found = arrivals.of_service(service(("b",), (), networks=5), base=1000)
    found["b"].note("two")
    assert found["b"].networks_max == 5
    assert told(arrivals) == {0: {"one": 1, "two": 1}}
    assert arrivals.of_service(service((), ()), base=1000) == {}


def test_what_is_told_came_after_the_last_time_when_there_was_nothing() -> None:
    arrivals = Arrivals()
    entry = arrivals.of_service(service(("a",), ()), base=1000)["a"]
    assert arrivals.untold(NOW) == []
    entry.note("one")
    assert [found.since for found in arrivals.untold(NOW + 1)] == [NOW]
    # Nobody was there to be told: it still began then.
    entry.note("two")
    assert [found.since for found in arrivals.untold(NOW + 2)] == [NOW]
    assert entry.take(NOW + 2) == {"one": 1, "two": 1}
    entry.note("three")
    assert [found.since for found in arrivals.untold(NOW + 3)] == [NOW + 2]
