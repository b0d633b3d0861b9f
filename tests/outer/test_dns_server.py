"""The DNS server and the clients that the tail is proved with: they do as real ones do."""

import time
from collections import Counter

import dns.asyncquery
import dns.message
import dns.rcode

from tests.fakes.dns import DnsServer, Entry
from tests.harness import until
from tests.outer.caching_client import CachingClient, Manner
from tests.upstreams import Upstream

BLUE, GREEN = "127.0.0.1", "127.0.0.2"
NAME = "www.shop.example"


def weighted(blue: int, green: int, ttl: int = 1) -> list[Entry]:
    return [
        Entry(NAME, "A", (BLUE,), ttl, blue, "shop-blue"),
        Entry(NAME, "A", (GREEN,), ttl, green, "shop-green"),
    ]


async def ask(server: DnsServer, name: str, kind: str = "A") -> dns.message.Message:
    query = dns.message.make_query(name, kind)
    return await dns.asyncquery.udp(query, "127.0.0.1", timeout=5, port=server.port)


async def test_it_answers_by_the_weights_of_this_moment() -> None:
    zone = weighted(3, 1)
    async with DnsServer(lambda: zone) as server:

        async def spread() -> Counter[str]:
            replies = [await ask(server, "WWW.Shop.Example.") for _ in range(200)]
            assert all(reply.answer[0].ttl == 1 for reply in replies)
            return Counter(reply.answer[0][0].to_text() for reply in replies)

        found = await spread()
        assert set(found) == {BLUE, GREEN}
        assert 120 <= found[BLUE] <= 180
        zone = weighted(0, 255)
        assert await spread() == {GREEN: 200}
        zone = weighted(0, 0)
        assert 70 <= (await spread())[BLUE] <= 130
        assert Counter(one.set_identifier for one in server.journal).total() == 600


async def test_it_follows_an_alias_and_knows_what_it_does_not_have() -> None:
    zone = [
        Entry("shop.example.", "A", ttl=None, alias="blue.shop.example."),
        Entry("blue.shop.example.", "A", (BLUE,), ttl=300),
    ]
    async with DnsServer(lambda: zone) as server:
        [found] = (await ask(server, "shop.example")).answer
        assert (found.ttl, found[0].to_text()) == (60, BLUE)
        nothing = await ask(server, "shop.example", "AAAA")
        assert (nothing.rcode(), nothing.answer) == (dns.rcode.NOERROR, [])
        assert (await ask(server, "other.example")).rcode() == dns.rcode.NXDOMAIN


async def test_each_client_goes_on_by_what_it_was_told_in_its_own_manner() -> None:
    zone = weighted(1, 0)
    async with (
        Upstream("blue") as blue,
        Upstream("green", address=f"{GREEN}:{blue.address.rpartition(':')[2]}") as green,
        DnsServer(lambda: zone) as server,
    ):
        at = ("127.0.0.1", server.port), NAME, int(green.address.rpartition(":")[2])
        by_ttl, pinned, keeps = (CachingClient(*at, manner) for manner in Manner)
        clients = (by_ttl, pinned, keeps)
        for client in clients:
            await client.get()
        told_s = time.monotonic()
        zone = weighted(0, 1)
        for client in clients:
            assert (await client.get()).upstream == "blue"
        await until(lambda: time.monotonic() > told_s + 1, "the time to live to pass", step_s=0.05)
        assert [(await client.get()).upstream for client in clients] == ["green", "blue", "blue"]
        keeps.close()
        pinned.close()
        assert [(await client.get()).upstream for client in clients] == ["green", "blue", "green"]
        assert Counter(len(client.by(GREEN)) for client in clients) == {2: 1, 0: 1, 1: 1}
        for client in clients:
            client.close()
