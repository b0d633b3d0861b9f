"""Servers: what is kept, what is sent again and where, and what is never sent twice."""

import asyncio
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
import pytest_asyncio

from tests.harness import Bench, Product, bench, settings
from tests.rawhttp import Answer, Client
from tests.upstreams import Exchange, Upstream
from turnout.proxy.scoreboard import (
    NOT_RETRIED_REASONS,
    RETRY_REASONS,
    S_NOT_RETRIED,
    S_RETRIES,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")
SLOT = 1


def counted(product: Product) -> dict[str, int]:
    """Retries and refusals to retry, by reason, over all workers."""
    words = product.scoreboard.service_counters(SLOT)
    found = {name: words[S_RETRIES + index] for index, name in enumerate(RETRY_REASONS)}
    for index, name in enumerate(NOT_RETRIED_REASONS):
        found[name] = words[S_NOT_RETRIED + index]
    return found


def gained(before: dict[str, int], after: dict[str, int]) -> dict[str, int]:
    return {name: after[name] - before[name] for name in after if after[name] != before[name]}


def closed_port() -> str:
    """An address that refuses connections (bound and not listening: nobody else gets it)."""
    held = socket.socket()
    held.bind(("127.0.0.1", 0))
    held_sockets.append(held)
    return f"127.0.0.1:{held.getsockname()[1]}"


held_sockets: list[socket.socket] = []


# ---------------------------------------------------------------- one server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def at() -> AsyncIterator[Bench]:
    top = {"pool": {"idle": 3, "idle_timeout": "1s"}}
    async with bench(control=False, workers=1, top=top, health="off") as found:
        yield found


async def test_kept_connections_are_used_again_latest_first(at: Bench) -> None:
    await asyncio.gather(*(at.get("/?delay=0.1") for _ in range(3)))
    opened = at.blue.connections
    last = (await at.get("/")).get("X-Connection")
    for _ in range(10):
        assert (await at.get("/")).get("X-Connection") == last
    assert at.blue.connections == opened


async def test_no_more_idle_connections_are_kept_than_allowed(at: Bench) -> None:
    answers = await asyncio.gather(*(at.get("/?delay=0.2") for _ in range(8)))
    assert [answer.status for answer in answers] == [200] * 8
    await at.blue.until(lambda: len(at.blue.open) <= 3)


async def test_idle_connections_are_closed_after_their_time(at: Bench) -> None:
    await at.get("/")
    assert at.blue.open
    await at.blue.until(lambda: not at.blue.open)


async def test_a_servers_keep_alive_timeout_is_respected(at: Bench) -> None:
    """It announces less than a second: the connection is not kept at all."""
    one = (await at.get("/?keep_alive=1")).get("X-Connection")
    assert (await at.get("/")).get("X-Connection") != one


async def test_a_connection_that_the_server_has_closed_is_not_used(at: Bench) -> None:
    for method in ("GET", "POST"):
        await at.get("/")
        for writer in list(at.blue.open.values()):
            writer.close()
        await at.blue.until(lambda: not at.blue.open)
        async with await at.client() as client:
            await client.ask("/after", method=method, body=b"x")
            (await client.answer(method)).must_be(200, "blue")


async def break_kept_connection(at: Bench, method: str, body: bytes = b"") -> Answer:
    """A request on a kept connection that the server closes on getting it, without a byte."""
    seen = 0

    async def race(exchange: Exchange) -> None:
        nonlocal seen
        seen += 1
        if seen == 1:
            exchange.keep = False
            exchange.writer.close()
        else:
            await exchange.read_body()
            await exchange.answer(b"second time")

    at.blue.script["/race"] = race
    at.blue.ledger.clear()
    await at.get("/warm")
    async with await at.client() as client:
        await client.ask("/race", method=method, body=body)
        return await client.answer(method)


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS"])
async def test_an_idempotent_request_goes_out_again_when_its_kept_connection_closes(
    at: Bench, method: str
) -> None:
    before = counted(at.product)
    answer = await break_kept_connection(at, method, b"x" if method == "PUT" else b"")
    answer.must_be(200, "blue")
    assert len(at.blue.find("/race")) == 2
    assert gained(before, counted(at.product)) == {"reused_connection_closed": 1}


@pytest.mark.parametrize("method", ["POST", "PATCH"])
async def test_a_request_that_is_not_idempotent_is_never_sent_twice(at: Bench, method: str) -> None:
    before = counted(at.product)
    answer = (await break_kept_connection(at, method, b"pay")).must_be(502)
    assert answer.get("Proxy-Status") == "turnout; error=connection_terminated"
    assert len(at.blue.find("/race")) == 1
    assert gained(before, counted(at.product)) == {"method_not_idempotent": 1}


async def test_a_body_that_is_too_long_to_keep_is_not_sent_again(at: Bench) -> None:
    before = counted(at.product)
    (await break_kept_connection(at, "PUT", bytes(200_000))).must_be(502)
    assert len(at.blue.find("/race")) == 1
    assert gained(before, counted(at.product)) == {"body_not_replayable": 1}


@pytest.mark.parametrize("how", ["fin", "reset"])
async def test_a_server_that_dies_of_a_request_is_not_asked_again(at: Bench, how: str) -> None:
    await at.blue.until(lambda: not at.blue.open)  # so that the connection is a fresh one
    before = counted(at.product)
    (await at.get(f"/kills/{how}?break=before&how={how}")).must_be(502)
    assert len(at.blue.find(f"/kills/{how}")) == 1
    assert gained(before, counted(at.product)) == {"attempts_exhausted": 1}


async def test_nothing_is_sent_again_once_an_answer_has_begun(at: Bench) -> None:
    async with await at.client() as client:
        await client.ask("/begun?size=5000&break=head")
        assert (await client.head()).status == 200
        data, _ = await client.rest()
        assert data == b""
    assert len(at.blue.find("/begun")) == 1


async def test_posts_on_kept_connections_do_not_meet_a_closing_server(at: Bench) -> None:
    """The keep-alive race: a server that closes each connection behind its second answer,
    without saying so. None of these requests may be sent again, so none may be lost."""
    at.blue.close_after = 2
    try:
        async with await at.client() as client:
            for number in range(200):
                await client.ask(f"/paid/{number}", method="POST", body=b"1")
                (await client.answer("POST")).must_be(200, "blue")
                # The end of a connection takes its way through the kernel: a moment.
                await at.blue.until(lambda: len(at.blue.open) <= 1)
    finally:
        at.blue.close_after = 0
    assert all(len(at.blue.find(f"/paid/{number}")) == 1 for number in range(200))


# ---------------------------------------------------------------- several servers


@dataclass(slots=True)
class Several:
    product: Product
    one: Upstream
    two: Upstream

    async def ask(self, method: str, target: str, body: bytes = b"") -> Answer:
        async with await Client.open(self.product.address) as client:
            await client.ask(target, method=method, body=body)
            return await client.answer(method)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def several() -> AsyncIterator[Several]:
    """An upstream of three servers, of which one refuses connections and nobody probes it."""
    async with Upstream("one") as one, Upstream("two", "[::1]:0") as two:
        servers = [closed_port(), one.address, two.address]
        product = Product(settings(servers, [], workers=1, health="off"))
        try:
            await product.start(control=False)
            yield Several(product, one, two)
        finally:
            await product.close()


@pytest.mark.parametrize("method", ["GET", "POST", "PUT"])
async def test_a_refused_connection_fails_over_to_another_server(
    several: Several, method: str
) -> None:
    """Whatever the method: nothing has been sent to the server that refused."""
    before = counted(several.product)
    body = b"" if method == "GET" else b"x"
    names = set()
    for number in range(60):
        answer = await several.ask(method, f"/{method}/{number}", body)
        assert answer.status == 200
        names.add(answer.upstream)
        received = several.one.find(f"/{method}/{number}") + several.two.find(f"/{method}/{number}")
        assert len(received) == 1
    assert names == {"one", "two"}
    if method == "GET":
        assert set(gained(before, counted(several.product))) == {"connect_failed"}


async def test_the_less_busy_of_two_servers_is_preferred(several: Several) -> None:
    several.one.ledger.clear()
    several.two.ledger.clear()
    held = [asyncio.ensure_future(several.ask("GET", "/held?delay=1.5")) for _ in range(20)]
    await asyncio.sleep(0)
    await several.product.until(
        lambda: len(several.one.find("/held")) + len(several.two.find("/held")) == 20, "them all"
    )
    # Two choices keep them nearly even: random ones would differ by 4 or 5 as a rule.
    assert abs(len(several.one.find("/held")) - len(several.two.find("/held"))) <= 4
    assert [(await one).status for one in held] == [200] * 20


# ---------------------------------------------------------------- places


async def test_servers_are_reached_over_unix_sockets_ipv6_and_names() -> None:
    product = Product({})
    path = f"unix:{product.base}/app.sock"
    async with (
        Upstream("unix", path),
        Upstream("v6", "[::1]:0") as v6,
        Upstream("named") as named,
    ):
        port = named.address.rpartition(":")[2]
        configuration = settings([path], [])
        services = {
            name: {
                "match": {"path_prefix": f"/{name}"},
                "upstreams": {"blue": {"servers": [server]}, "green": {"servers": []}},
                "health": "off",
            }
            for name, server in (
                ("unix", path), ("v6", v6.address), ("named", f"localhost:{port}"),
            )
        }  # fmt: skip
        configuration["services"] = services
        configuration["listeners"] = [
            {"bind": f"unix:{product.base}/front.sock"}, {"bind": "[::1]:0"},
        ]  # fmt: skip
        product.configuration.update(configuration)
        try:
            await product.start(control=False)
            for address in product.addresses().values():
                async with await Client.open(address) as client:
                    for name in services:
                        (await client.get(f"/{name}/x")).must_be(200, name)
                    (await client.get("/elsewhere")).must_be(404)
        finally:
            await product.close()


async def test_an_upstream_that_refuses_gets_the_client_502_and_an_empty_one_503() -> None:
    product = Product(settings([closed_port()], []))
    services = product.configuration["services"]
    services["shop"]["health"] = "off"
    services["empty"] = {
        "match": {"path_prefix": "/empty"},
        "initial": "blue",
        "upstreams": {"blue": {"servers": [closed_port()]}, "green": {"servers": []}},
        "try_out": {"token": "sesame"},
        "health": "off",
    }
    try:
        await product.start(control=False)
        async with await Client.open(product.address) as client:
            refused = (await client.get("/x")).must_be(502)
            assert refused.get("Proxy-Status") == "turnout; error=connection_refused"
            await client.ask("/empty/x", fields={"X-Turnout-Upstream": "green; token=sesame"})
            empty = (await client.answer()).must_be(503)
            assert empty.get("Retry-After") and not empty.closed
        assert counted(product)["no_other_server"] == 1
    finally:
        await product.close()
