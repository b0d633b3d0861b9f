"""What servers and clients are told: forwarding, trust, hop-by-hop fields, names of requests."""

from collections.abc import AsyncIterator, Sequence

import pytest
import pytest_asyncio

from tests.harness import Bench, bench
from tests.rawhttp import Client
from tests.upstreams import Exchange, Received

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def distrustful() -> AsyncIterator[Bench]:
    async with bench(control=False, workers=1, health="off") as found:
        yield found


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def trusting() -> AsyncIterator[Bench]:
    top = {"trust_forwarded": ["127.0.0.0/8", "unix"]}
    async with bench(control=False, workers=1, health="off", top=top) as found:
        yield found


async def received(at: Bench, *fields: str) -> Received:
    """What the server got of a GET with these field lines."""
    at.blue.ledger.clear()
    async with await at.client() as client:
        lines = "".join(f"{field}\r\n" for field in fields)
        await client.send(f"GET /x HTTP/1.1\r\nHost: Shop.example:8080\r\n{lines}\r\n".encode())
        (await client.answer()).must_be(200, "blue")
    (one,) = at.blue.ledger
    return one


SPOOFED = (
    "X-Forwarded-For: 6.6.6.6",
    "X-Forwarded-Proto: https",
    "X-Forwarded-Host: bank.example",
    "X-Forwarded-Port: 443",
    "Forwarded: for=6.6.6.6;proto=https",
    "X-Request-Id: chosen-by-the-client",
)


async def test_a_client_that_is_not_trusted_cannot_say_where_it_comes_from(
    distrustful: Bench,
) -> None:
    one = await received(distrustful, *SPOOFED)
    assert one.values("X-Forwarded-For") == ["127.0.0.1"]
    assert one.values("X-Forwarded-Proto") == ["http"]
    assert one.values("X-Forwarded-Host") == ["Shop.example:8080"]
    assert one.values("X-Forwarded-Port") == []
    assert one.values("Forwarded") == []
    assert one.values("X-Request-Id") != ["chosen-by-the-client"]
    assert b"6.6.6.6" not in one.head


async def test_a_trusted_proxy_in_front_is_believed_and_added_to(trusting: Bench) -> None:
    one = await received(trusting, *SPOOFED)
    assert ", ".join(one.values("X-Forwarded-For")) == "6.6.6.6, 127.0.0.1"
    assert one.values("X-Forwarded-Proto") == ["https"]
    assert one.values("X-Forwarded-Host") == ["bank.example"]
    assert one.values("X-Forwarded-Port") == ["443"]
    assert one.values("Forwarded") and "6.6.6.6" in one.values("Forwarded")[0]
    assert one.values("X-Request-Id") == ["chosen-by-the-client"]


async def test_every_request_has_an_id_of_its_own_and_its_client_learns_it(
    distrustful: Bench,
) -> None:
    ids = set()
    for _ in range(20):
        distrustful.blue.ledger.clear()
        answer = await distrustful.get("/")
        (one,) = distrustful.blue.ledger
        assert one.values("X-Request-Id") == [answer.get("X-Request-Id")]
        ids.add(answer.get("X-Request-Id"))
    assert len(ids) == 20


@pytest.mark.parametrize(
    "field",
    [
        "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "tracestate: vendor=1",
        "Authorization: Bearer secret",
        "Cookie: a=b; c=d",
        "Accept-Encoding: gzip, br",
        "X-Odd_Name!: kept",
        "X-Empty:",
    ],
)
async def test_what_is_meant_for_the_server_is_passed_on_as_it_is(
    distrustful: Bench, field: str
) -> None:
    one = await received(distrustful, field)
    assert one.head.count(f"\r\n{field}\r\n".encode()) == 1


async def test_repeated_fields_keep_their_order(distrustful: Bench) -> None:
    one = await received(distrustful, "X-Many: 1", "X-Other: x", "X-Many: 2", "x-many: 3")
    assert one.values("X-Many") == ["1", "2", "3"]


@pytest.mark.parametrize(
    ("fields", "gone"),
    [
        (("Connection: X-Mine", "X-Mine: 1"), ("X-Mine", "Connection")),
        (("Connection: close, x-a", "Connection: X-B", "X-A: 1", "X-B: 2"), ("X-A", "X-B")),
        (("Keep-Alive: timeout=5",), ("Keep-Alive",)),
        (("Proxy-Connection: keep-alive",), ("Proxy-Connection",)),
        (("TE: gzip",), ("TE",)),
        (("Upgrade: h2c", "Connection: Upgrade"), ("Upgrade",)),
    ],
)
async def test_what_is_meant_for_this_hop_goes_no_further(
    distrustful: Bench, fields: Sequence[str], gone: Sequence[str]
) -> None:
    one = await received(distrustful, *fields)
    assert {name: one.values(name) for name in gone} == {name: [] for name in gone}


@pytest.mark.parametrize("name", ["Host", "Content-Length", "X-Forwarded-For", "Authorization"])
async def test_connection_cannot_name_away_what_others_rely_on(
    distrustful: Bench, name: str
) -> None:
    """A field that somebody behind us decides by must not vanish because a client says so."""
    async with await distrustful.client() as client:
        distrustful.blue.ledger.clear()
        await client.send(
            f"POST /x HTTP/1.1\r\nHost: a\r\nAuthorization: x\r\nContent-Length: 2\r\n"
            f"Connection: {name}\r\n\r\nok".encode()
        )
        answer = await client.answer("POST")
        if answer.status == 400:
            assert not distrustful.blue.ledger
            return
        answer.must_be(200, "blue")
    (one,) = distrustful.blue.ledger
    assert one.values("Host") == ["a"] and one.body_bytes == 2
    assert one.values("X-Forwarded-For") == ["127.0.0.1"]


async def test_the_host_is_kept_and_via_is_added(distrustful: Bench) -> None:
    one = await received(distrustful, "Via: 1.0 other")
    assert one.values("Host") == ["Shop.example:8080"]
    assert ", ".join(one.values("Via")) == "1.0 other, 1.1 turnout"


async def test_answers_lose_this_hops_fields_and_gain_via(distrustful: Bench) -> None:
    async def answer(exchange: Exchange) -> None:
        await exchange.answer(
            b"ok",
            fields=(
                "Connection: X-Mine", "X-Mine: 1", "Keep-Alive: timeout=60", "Set-Cookie: a=1",
                "Set-Cookie: b=2", "Via: 1.1 app", "Server: scripted",
            ),
        )  # fmt: skip

    distrustful.blue.script["/hop"] = answer
    found = await distrustful.get("/hop")
    assert not found.all("X-Mine") and not found.all("Keep-Alive")
    assert found.all("Set-Cookie") == ["a=1", "b=2"]
    assert ", ".join(found.all("Via")) == "1.1 app, 1.1 turnout"
    assert found.get("Server") == "scripted"


async def test_a_date_is_added_only_where_there_is_none(distrustful: Bench) -> None:
    async def dated(exchange: Exchange) -> None:
        await exchange.answer(b"ok", fields=("Date: Tue, 15 Nov 1994 08:12:31 GMT",))

    distrustful.blue.script["/dated"] = dated
    assert (await distrustful.get("/dated")).get("Date") == "Tue, 15 Nov 1994 08:12:31 GMT"
    assert (await distrustful.get("/")).get("Date")


async def test_answers_of_our_own_say_nothing_of_the_request(distrustful: Bench) -> None:
    async with await Client.open(distrustful.product.address) as client:
        await client.send(b"GET /<script> HTTP/1.1\r\nHost: a\r\nX: \0<script>\r\n\r\n")
        answer = (await client.answer()).must_be(400)
        assert b"script" not in answer.head + answer.body
        assert answer.get("Content-Type") == "text/plain; charset=utf-8"
        assert answer.get("Cache-Control") == "no-store"
