"""New tables in the running product: servers by API, names, services that come and go."""

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from tests.harness import SERVICE, Api, Product, settings, until
from tests.upstreams import Upstream


@pytest.fixture
async def blue() -> AsyncIterator[Upstream]:
    async with Upstream("blue") as upstream:
        yield upstream


@pytest.fixture
async def other() -> AsyncIterator[Upstream]:
    async with Upstream("other") as upstream:
        yield upstream


@contextlib.asynccontextmanager
async def turnout(blue: Upstream, **configuration: Any) -> AsyncIterator[Product]:
    base = settings([blue.address], [], health="off")
    product = Product({**base, **configuration})
    try:
        yield await product.start()
    finally:
        await product.close()


async def answered_by(product: Product, upstream: Upstream, host: str = "shop") -> bool:
    before = len(upstream.ledger)
    async with httpx.AsyncClient(base_url=product.url, timeout=10.0) as client:
        assert (await client.get("/", headers={"Host": host})).status_code == 200
    return len(upstream.ledger) == before + 1


async def put_servers(product: Product, servers: list[str]) -> httpx.Response:
    path = f"/v1/services/{SERVICE}/upstreams/blue"
    return await product.api.http.put(path, json={"servers": servers})


async def reload(product: Product, **changes: Any) -> httpx.Response:
    product.write_config(changes)
    return await product.api.http.post("/v1/reload")


async def test_new_servers_are_served_at_once_and_those_that_go_finish(
    blue: Upstream, other: Upstream
) -> None:
    async with turnout(blue) as product:
        slow = asyncio.create_task(slowly(product))
        await until(lambda: blue.ledger, "the slow one")
        assert (await put_servers(product, [other.address])).status_code == 200
        # The call returns when nothing is under way to what went.
        assert slow.done()
        assert (await slow).status_code == 200
        assert await answered_by(product, other)
        # The choice is the store's: it outlives everything.
        product.kill_everything()
        await product.start()
        assert await answered_by(product, other)


async def test_a_file_that_leaves_an_upstream_with_traffic_without_a_server_changes_nothing(
    blue: Upstream, other: Upstream
) -> None:
    async with turnout(blue) as product:
        services = product.configuration["services"]
        shop = services[SERVICE]
        upstreams = {"blue": {"servers": [blue.address]}, "green": {"servers": [other.address]}}
        await reload(product, services={**services, SERVICE: {**shop, "upstreams": upstreams}})
        await product.api.switch("green")
        upstreams = {**upstreams, "green": {"servers": []}}
        refused = await reload(
            product, services={**services, SERVICE: {**shop, "upstreams": upstreams}}
        )
        assert refused.status_code == 422
        assert "shop.upstreams.green.servers is empty" in refused.json()["detail"]
        assert await answered_by(product, other)


async def slowly(product: Product) -> httpx.Response:
    async with httpx.AsyncClient(base_url=product.url, timeout=10.0) as client:
        return await client.get("/slow?delay=0.5")


async def test_what_is_under_way_to_a_server_that_comes_back_is_not_cut(
    blue: Upstream, other: Upstream
) -> None:
    async with turnout(blue) as product:
        shop = product.configuration["services"][SERVICE]
        await reload(product, services={SERVICE: {**shop, "drain": {"timeout": "1s"}}})
        async with httpx.AsyncClient(base_url=product.url, timeout=10.0) as client:
            slow = asyncio.create_task(client.get("/slow?delay=2.5"))
            await until(lambda: blue.ledger, "the slow one")
            going = asyncio.create_task(put_servers(product, [other.address]))
            await until(lambda: 'reason="servers of' in product.log(), "the table without it")
            assert (await put_servers(product, [blue.address])).status_code == 200
            assert (await going).status_code == 200
            # Well behind the deadline of its going.
            assert (await slow).status_code == 200


async def test_a_server_may_be_given_by_a_name_that_was_never_heard_of(
    blue: Upstream, other: Upstream
) -> None:
    async with turnout(blue) as product:
        name = f"localhost:{other.address.rpartition(':')[2]}"
        assert (await put_servers(product, [name])).status_code == 200
        assert await answered_by(product, other)


async def test_a_name_that_means_nothing_is_told_and_gets_no_traffic(blue: Upstream) -> None:
    async with turnout(blue, resolver={"timeout": "200ms"}) as product:
        answer = await put_servers(product, [blue.address, "nowhere.invalid:80"])
        assert answer.status_code == 200
        assert await answered_by(product, blue)
        await until(lambda: "nowhere.invalid cannot be resolved" in product.log(), "it said")


async def test_a_server_whose_name_does_not_resolve_is_shown_with_the_reason(
    blue: Upstream,
) -> None:
    async with turnout(blue, resolver={"timeout": "200ms"}) as product:
        for _ in range(2):  # as it is told at once, and by a control process that came later
            known = (await product.api.http.get(f"/v1/services/{SERVICE}")).json()
            if not known["upstreams"]["green"]["servers"]:
                path = f"/v1/services/{SERVICE}/upstreams/green"
                body = {"servers": ["nowhere.invalid:80"]}
                known = (await product.api.http.put(path, json=body)).json()
            green = known["upstreams"]["green"]
            [server] = green["servers"]
            assert (server["address"], server["endpoint"]) == ("nowhere.invalid:80", "")
            assert (server["healthy"], server["last_probe"]) == (False, None)
            assert server["reason"].startswith("name does not resolve: ")
            assert (green["healthy"], green["health"]) == (False, "unhealthy")
            assert green["reason"].startswith(
                "0 of 1 servers of green healthy, 1 needed:"
                " nowhere.invalid:80 name does not resolve: "
            )
            refused = await product.api.http.post(
                f"/v1/services/{SERVICE}/switchovers", json={"to": "green"}
            )
            assert refused.status_code == 422
            assert "name does not resolve" in refused.json()["detail"]
            pid = product.control_pid
            os.kill(pid, signal.SIGKILL)
            await product.control_replaced(pid)


async def test_a_reload_brings_a_service_with_its_initial_weights_and_takes_it_away(
    blue: Upstream, other: Upstream
) -> None:
    async with turnout(blue) as product:
        services = product.configuration["services"]
        added = {
            "match": {"hosts": ["new.example"]},
            "initial": "second",
            "upstreams": {"first": {"servers": []}, "second": {"servers": [other.address]}},
            "health": "off",
        }
        answer = await reload(product, services={**services, "new": added})
        assert answer.json()["changed"] is True
        assert await answered_by(product, other, "new.example")
        assert await answered_by(product, blue)
        await reload(product, services=services)
        assert await answered_by(product, blue, "new.example")
        assert [
            entry["name"] for entry in (await product.api.http.get("/v1/services")).json()["items"]
        ] == [SERVICE]


async def test_a_reload_refuses_upstreams_that_changed_places(blue: Upstream) -> None:
    async with turnout(blue) as product:
        service = product.configuration["services"][SERVICE]
        swapped = dict(reversed(list(service["upstreams"].items())))
        answer = await reload(
            product, services={SERVICE: {**service, "initial": "blue", "upstreams": swapped}}
        )
        assert answer.status_code == 422
        assert "changed places" in answer.json()["detail"]
        assert await answered_by(product, blue)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.mark.parametrize("bind", ["0.0.0.0:{port}", "unix:{base}/api.sock"])
async def test_a_reload_does_not_take_the_tokens_from_an_address_that_others_reach(
    blue: Upstream, bind: str
) -> None:
    """A file that is right by itself: it has a bind that needs no tokens, and none."""
    product = Product(settings([blue.address], [], health="off"))
    address = bind.format(port=free_port(), base=product.base)
    tokens = [{"name": "ops", "scope": "write", "token": "s3cret-s3cret-s3cret"}]
    product.write_config({"control": {"bind": address, "tokens": tokens}})
    try:
        await product.start(control=False)
        api = Api(address.replace("0.0.0.0", "127.0.0.1"), token="s3cret-s3cret-s3cret")
        anybody = Api(address.replace("0.0.0.0", "127.0.0.1"))
        await until(lambda: "control.started" in product.log(), "control")
        product.write_config({"control": {"bind": "127.0.0.1:9180", "tokens": []}})
        answer = await api.http.post("/v1/reload")
        assert answer.status_code == 422
        assert f"control.bind stays {address} until a restart" in answer.json()["detail"]
        assert (await anybody.http.get("/v1/services")).status_code == 401
        # With tokens, others too, it may be reloaded.
        product.write_config({"control": {"bind": address, "tokens": [{**tokens[0], "name": "x"}]}})
        assert (await api.http.post("/v1/reload")).status_code == 200
        await api.close()
        await anybody.close()
    finally:
        await product.close()


async def test_what_needs_a_restart_is_named_and_the_rest_is_applied(blue: Upstream) -> None:
    async with turnout(blue) as product:
        limits = {**product.configuration["limits"], "in_flight_named": 2048, "headers": 10}
        answer = await reload(product, limits=limits)
        assert answer.json()["needs_restart"] == ["limits.in_flight_named"]
        fields = {f"x-{number}": "1" for number in range(20)}
        async with httpx.AsyncClient(base_url=product.url) as client:
            assert (await client.get("/", headers=fields)).status_code == 431
        # A control process that is started again goes on with just that.
        before = product.control_pid
        os.kill(before, signal.SIGKILL)
        await until(lambda: product.control_pid not in (0, before), "control", 20.0)
        await product.control_ready()
        answer = await reload(product)
        assert answer.json()["changed"] is False
        assert answer.json()["needs_restart"] == ["limits.in_flight_named"]
