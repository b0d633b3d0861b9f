"""Which upstream gets a request: hosts and paths, exact weights, hold and release, try-out."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.harness import Bench, Product, bench, settings, stopped
from tests.load import Load
from tests.rawhttp import Answer, Client
from tests.upstreams import Upstream

pytestmark = pytest.mark.asyncio(loop_scope="module")

TOKEN = "0123456789abcdef"


# ---------------------------------------------------------------- weights


async def order(at: Bench, requests: int) -> list[str | None]:
    """Who answered so many consecutive requests, in their order, over one connection."""
    async with await at.client() as client:
        found = []
        request = b"GET /w HTTP/1.1\r\nHost: a\r\n\r\n"
        for _ in range(requests // 100):
            client.writer.write(request * 100)
            found += [(await client.answer()).upstream for _ in range(100)]
        return found


@pytest.mark.parametrize("green", [12.34, 0.01, 50, 99.99])
async def test_weights_are_exact_over_10_000_requests_of_a_worker(one: Bench, green: float) -> None:
    await one.product.api.weights(round(100 - green, 2))
    found = await order(one, 10_000)
    assert Counter(found)["green"] == round(green * 100)
    # Evenly spread, not in blocks: any stretch has its share, give or take one.
    for start in range(0, 10_000, 500):
        share = Counter(found[start : start + 500])["green"]
        assert abs(share - 500 * green / 100) <= 1


@pytest.mark.parametrize("workers", [3])
async def test_weights_of_several_workers_are_within_one_request_each(workers: int) -> None:
    async with bench(workers=workers) as at:
        await at.product.api.weights(70)
        load = Load(lambda: at.product.address)
        async with load.running(6, 6):
            await load.more(3000)
        counts = Counter(sample.upstream for sample in load.samples)
        assert abs(counts["green"] - 0.3 * len(load.samples)) <= workers, counts


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def one() -> AsyncIterator[Bench]:
    async with bench(
        workers=1,
        hold={"requests": 5, "timeout": "1s"},
        try_out={"token": TOKEN},
    ) as found:
        yield found


@pytest_asyncio.fixture(loop_scope="module")
async def at(one: Bench) -> Bench:
    """All to blue, nothing held."""
    await one.product.api.settled()
    await one.product.api.weights(100)
    await one.product.api.settled()
    for upstream in (one.blue, one.green):
        upstream.ledger.clear()
    return one


# ---------------------------------------------------------------- hold and release


async def test_held_requests_wait_and_go_where_the_switch_has_gone(at: Bench) -> None:
    await at.product.api.act("hold")
    assert (await at.product.api.service())["held"] is True
    waiting = [asyncio.ensure_future(at.get(f"/held/{number}")) for number in range(4)]
    await in_flight(at, 4)
    assert not at.blue.ledger
    switching = asyncio.ensure_future(at.product.api.switch("green"))
    await asyncio.wait((switching,), timeout=0.5)
    assert not any(one.done() for one in waiting)
    await at.product.api.act("release")
    for one in waiting:
        (await one).must_be(200, "green")
    await switching
    assert not at.blue.ledger


async def in_flight(at: Bench, count: int) -> None:
    scoreboard = at.product.scoreboard
    region = at.product.region_of(at.product.workers()[0])
    await at.product.until(
        lambda: (
            scoreboard.service_in_flight(region, 1) == count
            or sum(entry.slot == 1 for entry in scoreboard.in_flight(region)) == count
        ),
        f"{count} requests to be held",
    )


async def test_one_too_many_is_not_held_but_answered(at: Bench) -> None:
    await at.product.api.act("hold")
    waiting = [asyncio.ensure_future(at.get("/held")) for _ in range(5)]
    await in_flight(at, 5)
    answer = (await at.get("/one-more")).must_be(503)
    assert answer.get("Retry-After")
    await at.product.api.act("release")
    assert [(await one).status for one in waiting] == [200] * 5


async def test_a_hold_that_nobody_ends_ends_by_itself(at: Bench) -> None:
    await at.product.api.act("hold")
    (await at.get("/held")).must_be(200, "blue")
    assert (await at.product.api.service())["held"] is False


async def test_who_is_held_too_long_is_answered_503_even_if_control_is_stuck(at: Bench) -> None:
    await at.product.api.act("hold")
    async with stopped(at.product.control_pid):
        answer = (await at.get("/held")).must_be(503)
        assert answer.get("Proxy-Status") == "turnout; error=destination_unavailable"
        assert answer.get("Retry-After")
    await at.product.control_ready()
    await at.product.api.act("release")
    (await at.get("/")).must_be(200, "blue")
    assert not at.blue.find("/held")


async def test_a_held_client_that_leaves_is_forgotten(at: Bench) -> None:
    await at.product.api.act("hold")
    client = await at.client()
    await client.ask("/leaves")
    await in_flight(at, 1)
    client.reset()
    await in_flight(at, 0)
    await at.product.api.act("release")
    (await at.get("/")).must_be(200, "blue")
    assert not at.blue.find("/leaves")


# ---------------------------------------------------------------- try-out


async def tried(at: Bench, value: str) -> Answer:
    async with await at.client() as client:
        await client.ask("/tried", fields={"X-Turnout-Upstream": value})
        return await client.answer()


async def test_who_knows_the_token_reaches_the_other_side_before_any_weight(at: Bench) -> None:
    (await tried(at, f"green; token={TOKEN}")).must_be(200, "green")
    (await tried(at, f"blue; token={TOKEN}")).must_be(200, "blue")
    (received,) = at.green.find("/tried")
    assert TOKEN.encode() not in received.head and not received.values("X-Turnout-Upstream")


@pytest.mark.parametrize(
    "value", ["green", "green; token=wrong", "green; token=", f"red; token={TOKEN}", TOKEN, ""]
)
async def test_everybody_else_is_routed_by_weight(at: Bench, value: str) -> None:
    (await tried(at, value)).must_be(200, "blue")
    assert not at.green.ledger
    (received,) = at.blue.find("/tried")
    assert TOKEN.encode() not in received.head, "a token is nobody's business"


# ---------------------------------------------------------------- hosts and paths

SERVICES = {
    "shop": {"hosts": ["shop.example", "*.shop.example"]},
    "cart": {"hosts": ["shop.example"], "path_prefix": "/cart"},
    "api": {"hosts": ["api.shop.example"]},
    "rest": {"path_prefix": "/rest"},
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def many() -> AsyncIterator[Product]:
    upstreams = {name: Upstream(name) for name in SERVICES}
    for upstream in upstreams.values():
        await upstream.start()
    configuration = settings([], [], workers=1)
    configuration["services"] = {
        name: {
            "match": match,
            "upstreams": {"a": {"servers": [upstreams[name].address]}, "b": {"servers": []}},
            "health": "off",
        }
        for name, match in SERVICES.items()
    }
    product = Product(configuration)
    try:
        await product.start(control=False)
        yield product
    finally:
        await product.close()
        for upstream in upstreams.values():
            await upstream.stop()


@pytest.mark.parametrize(
    ("host", "path", "service"),
    [
        ("shop.example", "/", "shop"),
        ("SHOP.Example:8080", "/x", "shop"),
        ("shop.example.", "/x", "shop"),
        ("www.shop.example", "/", "shop"),
        ("a.b.shop.example", "/", None),
        ("shop.example", "/cart", "cart"),
        ("shop.example", "/cart/7?x=/rest", "cart"),
        ("shop.example", "/carts", "shop"),
        ("www.shop.example", "/cart", "shop"),
        ("api.shop.example", "/cart", "api"),
        ("other.example", "/rest/x", "rest"),
        ("other.example", "/", None),
        ("127.0.0.1", "/rest", "rest"),
        ("[::1]:80", "/rest", "rest"),
        ("shop.example.evil.example", "/", None),
    ],
)
async def test_host_and_path_choose_the_service(
    many: Product, host: str, path: str, service: str | None
) -> None:
    async with await Client.open(many.address) as client:
        await client.ask(path, host=host)
        answer = await client.answer()
    answer.must_be(200 if service else 404, service)
