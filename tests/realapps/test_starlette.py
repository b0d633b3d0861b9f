"""A Starlette application under uvicorn through the product: WebSockets, event streams, files."""

import asyncio
import hashlib
import json
import time
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import httpx
import pytest
import websockets
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.realapps.compare import Answer, same
from tests.realapps.conftest import App

BIG = bytes(range(256)) * 8192  # 2 MiB
LIMIT_S = 20.0
GAP_S = 0.3

REQUESTS: tuple[tuple[str, str, Mapping[str, str], bytes], ...] = (
    *((method, "/echo?a=1&b=%20x", {"X-Test-One": "1"}, b"") for method in ("GET", "HEAD", "DELETE", "OPTIONS")),
    *((method, "/echo/a%2Fb/;c", {"Content-Type": "text/plain"}, b"a body") for method in ("POST", "PUT", "PATCH")),
    ("GET", "/echo", {"Cookie": "a=1; b=2", "X-Test-Many": "1, 2"}, b""),
    ("GET", "/echo", {"X-Test-Long": "v" * 7000}, b""),
    ("GET", "/echo", {"X-Test-Latin": "caf\xe9"}, b""),
    ("POST", "/echo", {"Content-Type": "application/octet-stream"}, BIG),
    ("GET", "/cookies", {}, b""),
    ("GET", "/file", {}, b""),
    ("HEAD", "/file", {}, b""),
    ("GET", "/file", {"Range": "bytes=0-9"}, b""),
    ("GET", "/file", {"Range": "bytes=-20"}, b""),
    ("GET", "/file", {"Range": "bytes=99999999-"}, b""),
    ("GET", "/nowhere", {}, b""),
    ("DELETE", "/file", {}, b""),
    ("GET", "/talk", {}, b""),
    ("GET", "/talk", {"Connection": "Upgrade", "Upgrade": "h2c"}, b""),
)  # fmt: skip


async def ask(
    client: httpx.AsyncClient, method: str, target: str, fields: Mapping[str, str], body: bytes
) -> Answer:
    client.cookies.clear()
    named = [(name.encode(), value.encode("latin-1")) for name, value in fields.items()]
    async with client.stream(method, target, headers=named, content=body or None) as response:
        content = b"".join([piece async for piece in response.aiter_raw()])
    raw = [
        (name.decode("latin-1"), value.decode("latin-1")) for name, value in response.headers.raw
    ]
    return Answer(response.status_code, response.reason_phrase, raw, content)


def client(address: str, app: App) -> httpx.AsyncClient:
    headers = {"Host": app.host}
    return httpx.AsyncClient(base_url=f"http://{address}", headers=headers, timeout=LIMIT_S)


def name(value: object) -> str:
    return value[:60] if isinstance(value, str) else ""


@pytest.mark.parametrize(("method", "target", "fields", "body"), REQUESTS, ids=name)
async def test_an_answer_is_the_direct_one(
    starlette: App, method: str, target: str, fields: Mapping[str, str], body: bytes
) -> None:
    answers = []
    for address in (starlette.direct, starlette.proxied):
        async with client(address, starlette) as one:
            answers.append(await ask(one, method, target, fields, body))
    same(*answers)


async def test_many_at_once_on_few_connections(starlette: App) -> None:
    """Each gets the answer to its own request."""
    limits = httpx.Limits(max_connections=8)
    url = f"http://{starlette.proxied}"
    async with httpx.AsyncClient(base_url=url, limits=limits, timeout=LIMIT_S) as one:
        bodies = [b"%d " % number * (number * 37) for number in range(200)]
        answers = await asyncio.gather(*(one.post("/echo", content=body) for body in bodies))
    said = [answer.json()["sha256"] for answer in answers]
    assert said == [hashlib.sha256(body).hexdigest() for body in bodies]


# ---------------------------------------------------------------- in time


async def test_each_event_comes_before_the_next_is_made(starlette: App) -> None:
    came: list[tuple[float, float]] = []
    async with (
        client(starlette.proxied, starlette) as one,
        one.stream("GET", f"/events?count=5&gap={GAP_S}") as response,
    ):
        assert response.headers["content-type"].startswith("text/event-stream")
        async for line in response.aiter_lines():
            if line.startswith("data: "):
                came.append((float(line.removeprefix("data: ")), time.monotonic()))
    assert len(came) == 5
    late = [here for (_, here), (made, _) in pairwise(came) if here >= made]
    assert not late, came


async def test_an_answer_comes_back_while_the_request_is_sent(starlette: App) -> None:
    """Each piece is sent only when the one before has been answered."""
    # By hand: httpx reads an answer only once its request is sent whole.
    reader, writer = await asyncio.open_connection(*starlette.proxied.split(":"))
    async with asyncio.timeout(LIMIT_S):
        writer.write(
            b"POST /stream-back/ HTTP/1.1\r\nHost: app.example\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
        for number in range(1, 6):
            writer.write(b"%x\r\n%b\r\n" % (number, b"x" * number))
            assert await reader.readuntil(b"\r\n") == b"2\r\n"
            assert await reader.readexactly(4) == b"%d\n\r\n" % number
        writer.write(b"0\r\n\r\n")
        assert await reader.readexactly(5) == b"0\r\n\r\n"
    writer.close()


# ---------------------------------------------------------------- WebSockets


def talk(address: str, path: str = "/talk", **options: Any) -> connect:
    return connect(
        f"ws://{address}{path}", max_size=1 << 24, proxy=None, open_timeout=LIMIT_S, **options
    )


async def said_back(link: ClientConnection, message: str | bytes) -> str | bytes:
    await link.send(message)
    async with asyncio.timeout(LIMIT_S):
        return await link.recv()


@pytest.mark.parametrize(
    "message",
    ["", "text ☃", b"", b"\x00\xff", "t" * 125, "t" * 126, b"b" * 65535, b"b" * 65536, BIG],
    ids=lambda message: f"{type(message).__name__} of {len(message)}",
)
@pytest.mark.parametrize("compression", ["deflate", None])
async def test_a_message_comes_back(
    starlette: App, message: str | bytes, compression: str | None
) -> None:
    for address in (starlette.direct, starlette.proxied):
        async with talk(address, compression=compression) as link:
            assert await said_back(link, message) == message


async def test_the_handshake_is_the_direct_one(starlette: App) -> None:
    answers = []
    for address in (starlette.direct, starlette.proxied):
        async with talk(
            address, subprotocols=["chat.v2", "chat.v1"], compression="deflate"
        ) as link:
            assert link.subprotocol == websockets.Subprotocol("chat.v2")
            response = link.response
            assert response is not None
            fields = [
                (name, value)
                for name, value in response.headers.raw_items()
                # The answer to a random key; and what is of each connection alone.
                if name.lower() not in ("sec-websocket-accept", "upgrade")
            ]
            assert response.headers["Upgrade"] == "websocket"
            answers.append(Answer(response.status_code, response.reason_phrase, fields, b""))
    same(*answers)


async def test_many_messages_in_order_both_ways_at_once(starlette: App) -> None:
    async with talk(starlette.proxied) as link:

        async def send() -> None:
            for number in range(500):
                await link.send(f"{number} " + "x" * (number % 50 * 100))

        sending = asyncio.ensure_future(send())
        async with asyncio.timeout(LIMIT_S):
            got = [str(await link.recv()).partition(" ")[0] for _ in range(500)]
            await sending
    assert got == [str(number) for number in range(500)]


async def test_a_message_in_fragments_and_pings(starlette: App) -> None:
    async with talk(starlette.proxied) as link, asyncio.timeout(LIMIT_S):
        await link.send(iter(["a", "b" * 70_000, "c"]))
        await (await link.ping(b"are you there"))
        assert await link.recv() == "a" + "b" * 70_000 + "c"


@pytest.mark.parametrize(("code", "reason"), [(1000, ""), (1001, "away"), (4321, "own ☃")])
async def test_the_servers_goodbye_arrives(starlette: App, code: int, reason: str) -> None:
    for address in (starlette.direct, starlette.proxied):
        async with talk(address) as link, asyncio.timeout(LIMIT_S):
            await link.send(f"close {code} {reason}")
            with pytest.raises(ConnectionClosed):
                await link.recv()
            assert (link.close_code, link.close_reason) == (code, reason)


@pytest.mark.parametrize(("code", "reason"), [(1000, "done"), (4000, "enough")])
async def test_the_clients_goodbye_arrives(starlette: App, code: int, reason: str) -> None:
    heard = []
    for address in (starlette.direct, starlette.proxied):
        name = f"{address} {code}"
        async with talk(address, f"/talk?name={name.replace(' ', '-')}") as link:
            assert await said_back(link, "hello") == "hello"
            await link.close(code, reason)
        heard.append(await goodbye(starlette, name.replace(" ", "-")))
    assert heard == [[code, reason], [code, reason]]


async def test_a_client_that_goes_without_a_word_is_noticed(starlette: App) -> None:
    heard = []
    for address in (starlette.direct, starlette.proxied):
        async with talk(address, f"/talk?name=silent-{address}") as link:
            assert await said_back(link, "hello") == "hello"
            link.transport.abort()
            heard.append(await goodbye(starlette, f"silent-{address}"))
    assert heard[0] == heard[1]


async def goodbye(app: App, name: str) -> list[object]:
    """How the server was told that a conversation had ended."""
    async with client(app.direct, app) as one, asyncio.timeout(LIMIT_S):
        while True:
            found = (await one.get("/closes", params={"name": name})).json()
            if found is not None:
                assert isinstance(found, list)
                return found
            await asyncio.sleep(0.02)


async def test_a_refused_handshake_is_the_direct_one(starlette: App) -> None:
    answers = []
    for address in (starlette.direct, starlette.proxied):
        with pytest.raises(InvalidStatus) as refused:
            async with talk(address, "/refuse"):
                pass
        response = refused.value.response
        fields = list(response.headers.raw_items())
        answers.append(
            Answer(
                response.status_code, response.reason_phrase, fields, bytes(response.body or b"")
            )
        )
    assert answers[0].status == 403
    same(*answers)


async def test_the_application_sees_the_clients_address_and_host(starlette: App) -> None:
    """What it repeats is what was sent, and nothing else."""
    async with client(starlette.proxied, starlette) as one:
        seen = json.loads((await one.get("/echo", headers={"X-Test-A": "1"})).content)
    assert seen["host"] == starlette.host
    assert ["x-test-a", "1"] in seen["fields"]
