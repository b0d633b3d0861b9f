"""Too few descriptors: accepting pauses before they run out, and goes on when there are some."""

import asyncio
import contextlib
import os
import resource
from collections import Counter
from collections.abc import Iterator
from typing import Final

import pytest

from tests.harness import Bench, Product, bench
from tests.rawhttp import Answer, Client
from turnout.proxy.scoreboard import (
    C_ACCEPT_PAUSES,
    C_CONNECTS_WITHOUT_DESCRIPTOR,
    R_ACCEPT_PAUSED,
    R_CONNECTIONS,
    U_ATTEMPTS_FAILED,
)

pytestmark = pytest.mark.asyncio

FEW: Final = 120
TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")


def word(product: Product, worker: int, index: int) -> int:
    board = product.scoreboard
    return board.words[board.region(product.region_of(product.workers()[worker])) + index]


def cpu_s(pid: int) -> float:
    with open(f"/proc/{pid}/stat") as stat:
        fields = stat.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


def open_now(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


@contextlib.contextmanager
def none_for(pid: int) -> Iterator[None]:
    """A process may open no descriptor meanwhile."""
    taken = {int(name) for name in os.listdir(f"/proc/{pid}/fd")}
    descriptors = min(set(range(len(taken) + 1)) - taken)
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (descriptors, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


def accepts_from(pid: int) -> int:
    """How many listening sockets a worker accepts from: it has several copies of each."""
    copies = Counter[str]()
    for name in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            copies[os.readlink(f"/proc/{pid}/fd/{name}")] += 1
    return sum(link.startswith("socket:") and count > 2 for link, count in copies.items())


async def served(at: Bench, client: Client) -> None:
    (await client.get("/")).must_be(200, "blue")


async def and_go(asked: "asyncio.Future[Answer]", client: Client) -> Answer:
    """Wait for the answer, and close."""
    answer = await asked
    client.close()
    return answer


async def test_accepting_pauses_without_a_spin_and_nobody_is_lost() -> None:
    """libuv would close what is queued. Each of those that are in gets a server connection."""
    clients: list[Client] = []
    async with bench(control=False, workers=1, descriptors=FEW, health="off") as at:
        pid = at.product.workers()[0]
        assert f"descriptors.too_few limit={FEW} needed=20070 connections=10000" in at.product.log()
        try:
            clients += [await at.client(limit_s=30.0) for _ in range(100)]
            await at.product.until(lambda: word(at.product, 0, R_ACCEPT_PAUSED), "a pause")
            inside = word(at.product, 0, R_CONNECTIONS)
            assert 20 <= inside <= 60
            # All at once, so that each needs a connection of its own to the server.
            asked = [asyncio.ensure_future(one.get("/any?delay=0.6")) for one in clients]
            await at.blue.until(lambda: len(at.blue.ledger) == inside, 10.0)
            assert open_now(pid) <= FEW
            used_s = cpu_s(pid)
            done, _ = await asyncio.wait(asked, timeout=0.5)
            assert not done and cpu_s(pid) - used_s < 0.25
            assert word(at.product, 0, R_CONNECTIONS) == inside
            # Whoever has his answer goes; then it is the turn of those who waited.
            answers = await asyncio.gather(*map(and_go, asked, clients))
            assert [answer.status for answer in answers] == [200] * 100
        finally:
            for client in clients:
                client.close()
        await at.product.until(lambda: not word(at.product, 0, R_ACCEPT_PAUSED), "the end of it")
        assert word(at.product, 0, C_ACCEPT_PAUSES) >= 1
        assert word(at.product, 0, C_CONNECTS_WITHOUT_DESCRIPTOR) == 0
        assert at.product.log().count("worker.accept_paused worker=0 ") == 1
        (await at.get("/")).must_be(200, "blue")


async def test_a_sibling_with_descriptors_takes_the_connections_of_one_without() -> None:
    clients: list[Client] = []
    async with bench(control=False, workers=2, health="off") as at:
        pid, sibling = at.product.workers()[0], at.product.workers()[1]
        try:
            with none_for(pid):
                await at.product.until(lambda: word(at.product, 0, R_ACCEPT_PAUSED), "a pause")
                await at.product.until(lambda: accepts_from(sibling) == 2, "its sibling")
                held = word(at.product, 0, R_CONNECTIONS)
                for _ in range(20):
                    clients.append(await at.client())
                    await served(at, clients[-1])
                assert word(at.product, 0, R_CONNECTIONS) == held
                assert not word(at.product, 1, R_ACCEPT_PAUSED)
            # Recovered: the first has some again.
            await at.product.until(lambda: not word(at.product, 0, R_ACCEPT_PAUSED), "its return")
            while word(at.product, 0, R_CONNECTIONS) == held:
                assert len(clients) < 200, "the first worker never accepts again"
                clients.append(await at.client())
                await served(at, clients[-1])
        finally:
            for client in clients:
                client.close()


async def test_a_request_that_finds_no_descriptor_gets_503_and_its_server_no_blame() -> None:
    async with bench(control=True, workers=1) as at:
        pid = at.product.workers()[0]
        async with await at.client() as first, await at.client() as second:
            await served(at, first)
            asked = asyncio.ensure_future(first.get("/busy?delay=1"))
            await at.blue.received("/busy")
            used_s = cpu_s(pid)
            with none_for(pid):
                for _ in range(5):
                    answer = (await second.get("/none")).must_be(503)
                    assert answer.get("Proxy-Status") == "turnout; error=connection_limit_reached"
                    assert answer.body == b"There is no room for another connection.\n"
            assert cpu_s(pid) - used_s < 0.5
            assert word(at.product, 0, C_CONNECTS_WITHOUT_DESCRIPTOR) == 5
            await served(at, second)
            (await asked).must_be(200, "blue")
        assert not at.blue.find("/none")
        assert at.product.scoreboard.service_counters(1)[U_ATTEMPTS_FAILED] == 0
        await at.product.api.healthy("blue")
        metrics = await at.product.api.metrics()
        assert metrics.sum("turnout_connects_without_descriptor_total") == 5
        assert metrics.sum("turnout_accept_paused") == 0
        await at.product.until(lambda: not word(at.product, 0, R_ACCEPT_PAUSED), "accepting")
        (await at.get("/")).must_be(200, "blue")
