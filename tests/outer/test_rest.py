"""Answers that are more than they should be."""

import asyncio
import gzip
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from turnout.control.outer import rest
from turnout.control.outer.rest import Rest
from turnout.control.outer.seams import NotDone, OuterError, ReplyLost


async def turn() -> None:
    pass


@asynccontextmanager
async def answering(status: int, body: bytes) -> AsyncIterator[Rest]:
    """A server that answers every call with this body, compressed."""
    packed = gzip.compress(body)
    head = f"HTTP/1.1 {status} -\r\nContent-Encoding: gzip\r\nContent-Length: {len(packed)}\r\n\r\n"

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(head.encode() + packed)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    made = Rest(f"http://127.0.0.1:{port}", who="API", timeout_s=5, turn=turn)
    try:
        yield made
    finally:
        await made.close()
        server.close()


async def test_an_answer_is_read_as_what_it_is_unpacked() -> None:
    async with answering(200, b'{"a": "\xc3\xbc"}') as made:
        assert await made.document("GET", "/") == {"a": "ü"}


@pytest.mark.parametrize("status", [200, 503])
@pytest.mark.parametrize(("method", "raised"), [("GET", NotDone), ("PUT", ReplyLost)])
async def test_an_answer_that_unpacks_to_too_much_is_not_kept(
    monkeypatch: pytest.MonkeyPatch, status: int, method: str, raised: type[OuterError]
) -> None:
    monkeypatch.setattr(rest, "ANSWER_BYTES_MAX", 100_000)
    async with answering(status, bytes(10_000_000)) as made:
        with pytest.raises(raised, match="more than 100000 bytes"):
            await made.call(method, "/")


async def test_nor_is_that_of_a_call_that_is_answered_by_lines(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rest, "ANSWER_BYTES_MAX", 100_000)
    async with answering(503, bytes(10_000_000)) as made:
        with pytest.raises(NotDone, match="more than 100000 bytes"):
            async for _ in made.lines("/", silence_s=1):
                pass
