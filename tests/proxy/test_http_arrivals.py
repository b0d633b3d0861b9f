"""Requests are counted by the listener that they came in by, for each service, exactly."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from tests.harness import Bench, bench, settings
from tests.outer.tails import outer
from tests.proxy.test_http_fast_path import NO_GENERAL_WAY
from tests.rawhttp import Client
from turnout.proxy.scoreboard import S_ACCEPTED, S_ENTERED

OLD, NEW, OTHER = "127.0.0.1:0", "127.0.0.2:0", "127.0.0.3:0"
LISTENERS = {"blue": [OLD], "green": [NEW]}
BINDS = {"listeners": [{"bind": bind} for bind in (OLD, NEW, OTHER)]}


@asynccontextmanager
async def two_ways_in(
    listeners: Mapping[str, Sequence[str]] = LISTENERS, **more: Any
) -> AsyncIterator[Bench]:
    top = {**BINDS, **more.pop("top", {})}
    async with bench(top=top, outer=outer(listeners), **more) as found:
        yield found


def entered(at: Bench, slot: int = 1) -> tuple[int, int]:
    """Requests that came in by the listeners of blue, and of green."""
    counters = at.product.boards.service_counters(slot)
    return counters[S_ENTERED], counters[S_ENTERED + 1]


async def through(at: Bench, bind: str) -> Client:
    return await Client.open(at.product.addresses()[bind])


async def test_each_way_in_has_a_count_of_its_own_by_whatever_path_a_request_goes() -> None:
    async with (
        two_ways_in() as at,
        await through(at, OLD) as old,
        await through(at, NEW) as new,
        await through(at, OTHER) as other,
    ):
        for _ in range(5):  # the first has no connection to spare, the others are plain
            (await old.get()).must_be(200, "blue")
        (await new.get()).must_be(200, "blue")
        assert entered(at) == (5, 1)
        await old.ask("/posted", method="POST", body=b"abc")
        (await old.answer()).must_be(200, "blue")
        await old.ask("/head", method="HEAD")
        (await old.answer("HEAD")).must_be(200, "blue")
        assert entered(at) == (7, 1)
        await old.send(b"GET /pipelined HTTP/1.1\r\nHost: test.example\r\n\r\n" * 9)
        for _ in range(9):
            (await old.answer()).must_be(200, "blue")
        assert entered(at) == (16, 1)
        for _ in range(3):  # this one leads to no upstream's address
            (await other.get()).must_be(200, "blue")
        assert entered(at) == (16, 1)
        assert at.product.boards.service_counters(1)[S_ACCEPTED] == 20


async def test_a_counted_connection_takes_the_fast_path_too() -> None:
    async with (
        two_ways_in(
            control=False, workers=1, health="off", faults={"turnout.proxy.worker": NO_GENERAL_WAY}
        ) as at,
        await through(at, OLD) as old,
    ):
        (await old.get("/warm")).must_be(200, "blue")
        for _ in range(20):
            (await old.get()).must_be(200, "blue")
        await old.ask("/posted", method="POST", body=b"abc")
        (await old.answer()).must_be(200, "blue")
        assert entered(at) == (22, 0)


async def test_a_held_request_is_counted_once_and_one_of_no_service_never() -> None:
    async with (
        two_ways_in(match={"hosts": ["test.example"]}) as at,
        await through(at, OLD) as old,
    ):
        (await old.get()).must_be(200, "blue")
        await at.product.api.act("hold")
        await old.ask()
        await at.product.until(lambda: entered(at) == (2, 0), "the held request to be counted")
        await at.product.api.act("release")
        (await old.answer()).must_be(200, "blue")
        await old.ask(host="nobody.example")
        (await old.answer()).must_be(404)
        assert entered(at) == (2, 0)


async def test_two_services_at_one_address_are_told_apart() -> None:
    services = {
        name: {
            **settings([], [])["services"]["shop"],
            "outer": {**outer({"blue": [bind]}), "url": f"http://127.0.0.1:9/{name}"},
            "upstreams": {
                "blue": {"servers": ["127.0.0.1:1"]},
                "green": {"servers": []},
            },
            "match": {"hosts": [f"{name}.example"]},
            "health": "off",
        }
        for name, bind in (("one", OLD), ("two", OLD), ("three", NEW))
    }
    async with (
        bench(control=False, top={**BINDS, "services": services}, match={"hosts": ["a.b"]}) as at,
        await through(at, OLD) as old,
    ):
        table = {name: slot for slot, name in enumerate(("shop", "one", "two", "three"), start=1)}
        for host in ("one.example", "two.example", "two.example", "three.example"):
            await old.ask(host=host)
            (await old.answer()).must_be(502)
        counted = {name: entered(at, slot) for name, slot in table.items()}
        assert counted == {"shop": (0, 0), "one": (1, 0), "two": (2, 0), "three": (0, 0)}


async def test_a_reload_that_names_a_listener_counts_over_connections_that_are_open() -> None:
    async with two_ways_in({}) as at, await through(at, OLD) as old, await through(at, NEW) as new:
        for _ in range(3):
            (await old.get()).must_be(200, "blue")
            (await new.get()).must_be(200, "blue")
        assert entered(at) == (0, 0)
        await reload(at, LISTENERS)
        for _ in range(3):
            (await old.get()).must_be(200, "blue")
        (await new.get()).must_be(200, "blue")
        assert entered(at) == (3, 1)
        await reload(at, {"blue": [NEW]})
        for _ in range(3):
            (await old.get()).must_be(200, "blue")
            (await new.get()).must_be(200, "blue")
        assert entered(at) == (6, 1)


async def reload(at: Bench, listeners: Mapping[str, Sequence[str]]) -> None:
    services = at.product.configuration["services"]
    services["shop"]["outer"] = outer(listeners)
    at.product.write_config()
    await at.product.api.call("POST", "/v1/reload")


async def test_counts_outlive_the_workers_that_made_them() -> None:
    async with two_ways_in(control=False, health="off") as at:
        for number in range(3):
            async with await through(at, OLD) as old:
                for _ in range(4):
                    (await old.get()).must_be(200, "blue")
            assert entered(at) == (4 * number + 4, 0)
            before = at.product.workers()
            for pid in before.values():
                os.kill(pid, signal.SIGKILL)
            await at.product.until(
                lambda before=before: (
                    len(now := at.product.workers()) == 2  # type: ignore[misc]
                    and not set(now.values()) & set(before.values())
                ),
                "both workers to be replaced",
            )
            assert entered(at) == (4 * number + 4, 0)


async def test_many_clients_are_counted_to_the_last_one_whichever_upstream_they_are_sent_to() -> (
    None
):
    async with two_ways_in(control=False, health="off", initial="green") as at:

        async def client(bind: str, count: int) -> None:
            async with await through(at, bind) as one:
                for number in range(count):
                    method = "POST" if number % 3 == 0 else "GET"
                    await one.ask(method=method, body=b"x" * (number % 3 == 0))
                    (await one.answer()).must_be(200, "green")

        await asyncio.gather(
            *(client(OLD, 50) for _ in range(8)), *(client(NEW, 30) for _ in range(4))
        )
        assert entered(at) == (400, 120)
