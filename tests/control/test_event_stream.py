"""`GET /v1/events`: every change, in order, with its revision; a reader that left misses none."""

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientResponse

from tests.control.api_bench import ApiBench, served
from turnout.control.event_stream import Streams
from turnout.control.events import ControlProblem
from turnout.control.store import Database, Note

SHOP = "/v1/services/shop"


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[ApiBench]:
    async with served(tmp_path, "control: {event_streams: 2}\n") as made:
        yield made


async def read(stream: ClientResponse, count: int) -> list[tuple[int, str, dict[str, Any]]]:
    """The next events: (id, name, data)."""
    found: list[tuple[int, str, dict[str, Any]]] = []
    fields: dict[str, str] = {}
    async with asyncio.timeout(5):
        while len(found) < count:
            line = (await stream.content.readuntil(b"\n")).decode().rstrip("\n")
            if line:
                name, _, value = line.partition(": ")
                fields[name] = value
            elif "data" in fields:
                found.append((int(fields["id"]), fields["event"], json.loads(fields["data"])))
                fields = {}
    return found


async def opened(api: ApiBench, **headers: str) -> ClientResponse:
    stream = await api.raw("GET", "/v1/events", **headers)
    assert stream.status == 200
    assert stream.headers["Content-Type"] == "text/event-stream; charset=utf-8"
    async with asyncio.timeout(5):
        assert await stream.content.readuntil(b"\n\n") == b"retry: 1000\n\n"
    return stream


async def test_changes_come_in_order_with_their_revision(api: ApiBench) -> None:
    stream = await opened(api)
    await api.call("POST", f"{SHOP}/switchovers", {"to": "green"})
    events = await read(stream, 7)
    stream.close()
    assert [name for _, name, _ in events] == [
        "switchover.started", "switchover.preparing", "switchover.checking",
        "switchover.shifting", "service.weights_changed", "switchover.draining",
        "switchover.completed",
    ]  # fmt: skip
    ids = [id for id, _, _ in events]
    assert ids == list(range(ids[0], ids[0] + 7))
    revisions = [data["revision"] for _, _, data in events]
    assert revisions == sorted(revisions)
    assert events[4][2]["weights"] == {"blue": 0, "green": 100}
    assert {data["service"] for _, _, data in events} == {"shop"}
    assert events[2][2]["until"].endswith("Z")


async def test_a_reader_that_comes_back_goes_on_behind_what_it_saw(api: ApiBench) -> None:
    stream = await opened(api)
    await api.call("POST", f"{SHOP}/hold")
    ((seen, name, _),) = await read(stream, 1)
    assert name == "service.held"
    stream.close()
    await api.call("POST", f"{SHOP}/release")
    stream = await opened(api, Last_Event_ID=str(seen))
    ((id, name, _),) = await read(stream, 1)
    stream.close()
    assert (id, name) == (seen + 1, "service.released")


async def test_a_reader_without_an_id_gets_what_comes_from_now_on(api: ApiBench) -> None:
    await api.call("POST", f"{SHOP}/hold")
    stream = await opened(api)
    await api.call("POST", f"{SHOP}/release")
    ((_, name, _),) = await read(stream, 1)
    stream.close()
    assert name == "service.released"


async def test_one_reader_too_many_gets_503(api: ApiBench) -> None:
    streams = [await opened(api), await opened(api)]
    status, document, headers = await api.call("GET", "/v1/events")
    assert (status, document["type"]) == (503, "urn:turnout:problem:too-many-streams")
    assert "Retry-After" in headers
    for stream in streams:
        stream.close()


async def test_a_last_event_id_that_is_no_number_gets_400(api: ApiBench) -> None:
    status, document, _ = await api.call("GET", "/v1/events", Last_Event_ID="x")
    assert (status, document["type"]) == (400, "urn:turnout:problem:malformed-header")


async def test_a_silent_stream_is_kept_alive(tmp_path: Path) -> None:
    async with served(tmp_path, streams=Streams(keep_alive_s=0.01)) as api:
        stream = await opened(api)
        async with asyncio.timeout(5):
            assert await stream.content.readuntil(b"\n\n") == b": keep-alive\n\n"
        stream.close()


async def test_a_reader_that_takes_nothing_is_disconnected_and_counted(tmp_path: Path) -> None:
    streams = Streams(write_limit_s=0.2)
    async with served(tmp_path, streams=streams) as api:
        told = ControlProblem(problem="x" * 4000, next="")
        await api.bench.store(Database.note, Note(events=(told,) * 500), time.time())
        link = socket.socket()
        link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        link.connect(("127.0.0.1", api.http.server.port or 0))
        link.sendall(b"GET /v1/events HTTP/1.1\r\nHost: localhost\r\nLast-Event-ID: 0\r\n\r\n")
        async with asyncio.timeout(20):
            while not streams.slow:
                await asyncio.sleep(0.01)
        assert streams.open == 0
        link.close()
        text = await (await api.raw("GET", "/metrics")).text()
        assert "turnout_event_streams_too_slow_total 1.0" in text


async def test_readers_are_let_go_when_control_stops(tmp_path: Path) -> None:
    async with served(tmp_path) as api:
        stream = await opened(api)
        api.streams.close()
        async with asyncio.timeout(5):
            assert await stream.content.read() == b""
