"""The resolver against a real name server on loopback, and its rules by value."""

import asyncio
import socket
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import cast

import dns.asyncresolver
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset
import pytest

from turnout.config.model import Resolver as ResolverPolicy
from turnout.control.resolver import (
    Answer,
    Families,
    Lookup,
    Resolver,
    parse_hosts,
    settle,
    wait_s,
)

DEADLINE_S = 5.0
POLICY = ResolverPolicy(
    ttl_min_s=0.05, ttl_max_s=300.0, hosts_interval_s=0.05, timeout_s=0.4, failed_max_s=30.0,
    concurrency=16,
)  # fmt: skip


class NameServer(asyncio.DatagramProtocol):
    """A name server over UDP. `zone` maps (name, type) to addresses, or to a failure."""

    def __init__(self) -> None:
        self.zone: dict[tuple[str, str], list[str] | dns.rcode.Rcode | None] = {}
        self.ttl_s = 0
        self.asked: list[tuple[str, str]] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, peer: tuple[str | int, int]) -> None:
        query = dns.message.from_wire(data)
        question = query.question[0]
        key = (question.name.to_text(), dns.rdatatype.to_text(question.rdtype))
        self.asked.append(key)
        response = dns.message.make_response(query)
        response.flags |= dns.flags.RA
        exists = any(name == key[0] for name, _ in self.zone)
        found = self.zone.get(key, [])
        if found is None:
            return  # silence
        if isinstance(found, dns.rcode.Rcode):
            response.set_rcode(found)
        elif not exists:
            response.set_rcode(dns.rcode.NXDOMAIN)
        elif found:
            response.answer.append(
                dns.rrset.from_text(question.name, self.ttl_s, "IN", key[1], *found)
            )
        self.transport.sendto(response.to_wire(), peer)

    async def until_asked(self, times: int) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while len(self.asked) < times:
                await asyncio.sleep(0.01)

    def has(self, name: str, *v4: str, v6: tuple[str, ...] = ()) -> None:
        self.zone[name, "A"] = list(v4)
        self.zone[name, "AAAA"] = list(v6)


@pytest.fixture
async def server() -> AsyncIterator[NameServer]:
    loop = asyncio.get_running_loop()
    transport, server = await loop.create_datagram_endpoint(
        NameServer, local_addr=("127.0.0.1", 0), family=socket.AF_INET
    )
    yield server
    transport.close()


class Watched:
    """A resolver and what it called back with."""

    def __init__(self, server: NameServer, hosts: Path, policy: ResolverPolicy = POLICY) -> None:
        port = server.transport.get_extra_info("sockname")[1]

        def local_dns() -> dns.asyncresolver.Resolver:
            resolver = dns.asyncresolver.Resolver(configure=False)
            resolver.nameservers = ["127.0.0.1"]
            resolver.port = port
            resolver.search = [dns.name.from_text("cluster.example.")]
            return resolver

        self.changes: list[Mapping[str, tuple[str, ...]]] = []
        self.said: list[str] = []
        self._news = asyncio.Event()
        self.resolver = Resolver(
            policy,
            changed=self._changed,
            tell=self._tell,
            hosts_path=hosts,
            make_dns=local_dns,
        )

    def _changed(self, endpoints: Mapping[str, tuple[str, ...]]) -> None:
        self.changes.append(endpoints)
        self._news.set()

    def _tell(self, problem: str, remedy: str) -> None:
        assert remedy
        self.said.append(problem)
        self._news.set()

    async def until_changed(self, expected: Mapping[str, tuple[str, ...]]) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while not self.changes or self.changes[-1] != expected:
                self._news.clear()
                await self._news.wait()

    async def until_said(self, part: str) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while not any(part in said for said in self.said):
                self._news.clear()
                await self._news.wait()


@pytest.fixture
def hosts(tmp_path: Path) -> Path:
    path = tmp_path / "hosts"
    path.write_text("127.0.0.1 localhost\n")
    return path


@pytest.fixture
async def watched(server: NameServer, hosts: Path) -> AsyncIterator[Watched]:
    watched = Watched(server, hosts)
    yield watched
    await watched.resolver.close()


async def test_a_name_is_its_addresses_of_both_families_sorted(
    server: NameServer, watched: Watched
) -> None:
    server.has("app.", "10.0.0.10", "10.0.0.9", v6=("fd00::2",))
    watched.resolver.watch({"app.:9001"})
    await watched.until_changed(
        {"app.:9001": ("10.0.0.9:9001", "10.0.0.10:9001", "[fd00::2]:9001")}
    )
    assert watched.said == []


async def test_only_a_change_is_called_back(server: NameServer, watched: Watched) -> None:
    server.has("app.", "10.0.0.9")
    watched.resolver.watch({"app.:9001"})
    await watched.until_changed({"app.:9001": ("10.0.0.9:9001",)})
    await server.until_asked(len(server.asked) + 8)  # TTL 0, so every `ttl_min`
    assert len(watched.changes) == 1
    server.has("app.", "10.0.0.11")
    await watched.until_changed({"app.:9001": ("10.0.0.11:9001",)})
    assert len(watched.changes) == 2


async def test_two_ports_of_one_name_are_one_lookup(server: NameServer, watched: Watched) -> None:
    server.ttl_s = 300
    server.has("app.", "10.0.0.9")
    watched.resolver.watch({"app.:9001", "app.:9002"})
    await watched.resolver.looked_up()
    assert watched.resolver.endpoints() == {
        "app.:9001": ("10.0.0.9:9001",),
        "app.:9002": ("10.0.0.9:9002",),
    }
    assert sorted(server.asked) == [("app.", "A"), ("app.", "AAAA")]


async def test_a_search_domain_is_tried(server: NameServer, watched: Watched) -> None:
    server.has("app.cluster.example.", "10.0.0.9")
    watched.resolver.watch({"app:9001"})
    await watched.until_changed({"app:9001": ("10.0.0.9:9001",)})


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (dns.rcode.SERVFAIL, "every name server refused or failed"),
        (dns.rcode.NXDOMAIN, "there is no such name"),
        ([], "it has no addresses"),
        (None, "no name server answered in 0.4 s"),
    ],
)
async def test_without_an_answer_the_last_addresses_stay_and_it_is_told_once(
    server: NameServer,
    watched: Watched,
    failure: list[str] | dns.rcode.Rcode | None,
    reason: str,
) -> None:
    server.has("app.", "10.0.0.9")
    watched.resolver.watch({"app.:9001"})
    await watched.until_changed({"app.:9001": ("10.0.0.9:9001",)})
    server.zone["app.", "A"] = server.zone["app.", "AAAA"] = failure
    await watched.until_said(reason)
    assert watched.resolver.endpoints() == {"app.:9001": ("10.0.0.9:9001",)}
    assert reason in watched.resolver.errors()["app.:9001"]
    asked = len(server.asked)
    await server.until_asked(asked + 6)  # it fails again, and is told no more
    server.has("app.", "10.0.0.9")
    await watched.until_said("is resolved again")
    assert len(watched.said) == 2
    assert len(watched.changes) == 1
    assert watched.resolver.errors() == {}


async def test_one_family_that_fails_does_not_take_the_other(
    server: NameServer, watched: Watched
) -> None:
    server.has("app.", "10.0.0.9", v6=("fd00::2",))
    watched.resolver.watch({"app.:9001"})
    await watched.until_changed({"app.:9001": ("10.0.0.9:9001", "[fd00::2]:9001")})
    server.zone["app.", "A"] = ["10.0.0.10"]
    server.zone["app.", "AAAA"] = dns.rcode.SERVFAIL
    await watched.until_changed({"app.:9001": ("10.0.0.10:9001", "[fd00::2]:9001")})


async def test_what_is_served_stands_until_the_first_answer(
    server: NameServer, watched: Watched
) -> None:
    server.zone["app.", "A"] = server.zone["app.", "AAAA"] = dns.rcode.SERVFAIL
    watched.resolver.watch({"app.:9001"}, known={"app.:9001": ["10.0.0.9:9001"]})
    await watched.resolver.looked_up()
    assert watched.resolver.endpoints() == {"app.:9001": ("10.0.0.9:9001",)}
    assert watched.changes == []


async def test_a_name_that_stays_watched_keeps_what_is_known(
    server: NameServer, watched: Watched
) -> None:
    server.ttl_s = 300
    server.has("app.", "10.0.0.9")
    server.has("new.", "10.0.0.20")
    watched.resolver.watch({"app.:9001"})
    await watched.resolver.looked_up()
    watched.resolver.watch({"app.:9001", "new.:9001"})
    assert watched.resolver.endpoints() == {"app.:9001": ("10.0.0.9:9001",)}
    await watched.until_changed({"app.:9001": ("10.0.0.9:9001",), "new.:9001": ("10.0.0.20:9001",)})
    assert server.asked.count(("app.", "A")) == 1
    watched.resolver.watch({"new.:9001"})
    assert watched.resolver.endpoints() == {"new.:9001": ("10.0.0.20:9001",)}


async def test_the_hosts_file_comes_first_and_is_read_again(
    server: NameServer, hosts: Path, watched: Watched
) -> None:
    server.has("app.", "10.0.0.9")
    hosts.write_text("10.1.1.1 app\n")
    watched.resolver.watch({"app.:9001"})
    await watched.until_changed({"app.:9001": ("10.1.1.1:9001",)})
    hosts.with_name("new").write_text("10.1.1.2 app APP.example\n")
    hosts.with_name("new").rename(hosts)
    await watched.until_changed({"app.:9001": ("10.1.1.2:9001",)})
    assert server.asked == []


async def test_localhost_is_never_asked_for(
    server: NameServer, hosts: Path, watched: Watched
) -> None:
    hosts.unlink()
    watched.resolver.watch({"localhost:9001"})
    await watched.until_changed({"localhost:9001": ("127.0.0.1:9001",)})
    assert server.asked == []


async def test_a_loop_that_breaks_is_told_and_begins_anew(
    server: NameServer, hosts: Path, watched: Watched
) -> None:
    hosts.unlink()
    hosts.mkdir()  # what reading it raises, nobody has foreseen
    watched.resolver.watch({"app.:9001"})
    await watched.until_said("resolving app. ended with IsADirectoryError")
    hosts.rmdir()
    server.has("app.", "10.0.0.9")
    await watched.until_changed({"app.:9001": ("10.0.0.9:9001",)})


# ---------------------------------------------------------------- by value

V4, V6 = ("10.0.0.9",), ("fd00::2",)
BEFORE = Families(V4, V6)
LOST = Answer(None, error="lost")
NONE = Answer((), 60.0, "none")


@pytest.mark.parametrize(
    ("v4", "v6", "after"),
    [
        (Answer(("10.0.0.1",), 5.0), Answer((), 60.0), Lookup(Families(("10.0.0.1",)), "", 5.0)),
        (Answer(("10.0.0.1",), 5.0), LOST, Lookup(Families(("10.0.0.1",), V6), "lost", 5.0)),
        (LOST, LOST, Lookup(BEFORE, "lost")),
        (NONE, NONE, Lookup(BEFORE, "none", 60.0)),
        (NONE, LOST, Lookup(Families((), V6), "lost", 60.0)),
        (Answer((), 60.0), Answer((), 60.0), Lookup(BEFORE, "it has no addresses", 60.0)),
    ],
)
def test_answers_are_joined_with_what_was_known(v4: Answer, v6: Answer, after: Lookup) -> None:
    assert settle(BEFORE, v4, v6) == after


async def test_no_more_names_are_looked_up_at_once_than_allowed(
    server: NameServer, hosts: Path
) -> None:
    names = [f"silent{number}." for number in range(6)]
    for name in names:
        server.zone[name, "A"] = server.zone[name, "AAAA"] = None
    watched = Watched(server, hosts, replace(POLICY, timeout_s=30.0, concurrency=2))
    watched.resolver.watch({f"{name}:9001" for name in names})
    await server.until_asked(4)  # both families of two names
    await asyncio.sleep(0.2)
    assert len(server.asked) == 4 and len({name for name, _ in server.asked}) == 2
    await watched.resolver.close()


@pytest.mark.parametrize(
    ("ttl_s", "failures", "expected"),
    [
        (None, 0, 5.0),
        (60.0, 0, 60.0),
        (0.0, 0, 1.0),
        (86400.0, 0, 300.0),
        (60.0, 1, 1.0),
        (None, 2, 2.0),
        (None, 4, 8.0),
        (None, 1000, 30.0),
    ],
)
def test_when_a_name_is_asked_for_again(
    ttl_s: float | None, failures: int, expected: float
) -> None:
    policy = replace(POLICY, ttl_min_s=1.0, hosts_interval_s=5.0)
    assert wait_s(Lookup(ttl_s=ttl_s), failures, policy) == expected


def test_the_hosts_file_as_people_write_it() -> None:
    text = (
        "127.0.0.1\tlocalhost # the machine\n::1 localhost ip6-localhost\n\n# 10.0.0.1 off\n"
        "fe80::1%eth0 zone\nnonsense line\n10.0.0.2 App.Example. app\n10.0.0.1 app\n"
    )
    assert parse_hosts(text) == {
        "localhost": Families(("127.0.0.1",), ("::1",)),
        "ip6-localhost": Families((), ("::1",)),
        "app.example": Families(("10.0.0.2",)),
        "app": Families(("10.0.0.1", "10.0.0.2")),
    }
