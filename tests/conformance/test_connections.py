"""What is about a connection's whole life, not about one message: how it ends behind a refusal,
and a server that speaks first."""

import asyncio

import pytest

from tests.conformance.answers import read_answers
from tests.conformance.case import RequestCase, Sent
from tests.conformance.corpus.every import request_cases
from tests.conformance.corpus.responses import POISON
from tests.conformance.runner import Stand, must_be_ours
from turnout.proxy.scoreboard import C_REFUSED, REFUSED_REASONS

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.product]

MUCH = b"x" * 4_000_000
"""More than both sockets hold: most of it is unread when the refusal is written."""


def _one_of_each() -> list[RequestCase]:
    """A refused case of each kind of answer, whose head goes no further."""
    found: dict[tuple[int, bool], RequestCase] = {}
    for case in request_cases():
        if case.status and not case.sent:
            found.setdefault((case.status, case.broken), case)
    return list(found.values())


@pytest.mark.parametrize("case", _one_of_each(), ids=lambda case: f"{case.status} {case.name}")
async def test_a_refusal_is_read_by_a_client_that_is_still_sending(
    stand: Stand, case: RequestCase
) -> None:
    async with await stand.at.client(limit_s=10) as client:

        async def send() -> None:
            await client.send(case.data + MUCH)
            client.half_close()

        sending = asyncio.ensure_future(send())
        raw, ended = await client.rest()
        # It reads to the end: all was taken, and none of it made the connection a reset one.
        await sending
    (answer,) = read_answers(raw, ["GET"], ended)
    assert (answer.status, ended) == (case.status, "closed")
    must_be_ours(answer, "http_request_error")
    await stand.fence()


async def test_every_refusal_is_counted_once(stand: Stand) -> None:
    """The refused requests of the corpus are the refusals that the scoreboard has counted."""
    words = stand.at.product.scoreboard.words
    base = stand.at.product.scoreboard.region(0)
    before = sum(words[base + C_REFUSED + index] for index in range(len(REFUSED_REASONS)))
    refused = [case for case in request_cases() if case.status and not case.broken][::25]
    for case in refused:
        async with await stand.at.client(limit_s=3) as client:
            await client.send(case.data)
            await client.rest()
    after = sum(words[base + C_REFUSED + index] for index in range(len(REFUSED_REASONS)))
    assert after - before == len(refused)


async def test_what_a_server_says_before_it_is_asked_is_nobody_elses(stand: Stand) -> None:
    """A server that answers a connection, not a request. The first client may be told that, as
    it cannot be known when it was said; behind its answer the connection is not used again."""
    marks = stand.marks()
    server = stand.server
    for writer in list(server.open.values()):
        writer.close()
    await server.until(lambda: not server.open)
    server.greeting = POISON
    try:
        async with await stand.at.client(limit_s=3) as client:
            await client.send(b"GET /seen HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            raw, ended = await client.rest()
    finally:
        server.greeting = b""
    (answer,) = read_answers(raw, ["GET"], ended)
    assert answer.status in (200, 502)
    await server.until(lambda: not server.open)
    await stand.fence()
    # What comes before the request is written ends the connection: then it is not sent at all.
    sent = any(b" /seen " in bytes(raw[marks.get(n, 0) :]) for n, raw in server.raw.items())
    assert sent or answer.status == 502
    seen = [Sent(method="GET")] if sent else []
    await stand.judge(marks, [*seen, Sent("/fence", "GET")], again=1)


async def test_a_request_of_http_1_0_without_a_host_gets_ours(stand: Stand) -> None:
    marks = stand.marks()
    async with await stand.at.client(limit_s=3) as client:
        await client.send(b"GET /seen HTTP/1.0\r\n\r\n")
        raw, ended = await client.rest()
    (answer,) = read_answers(raw, ["GET"], ended)
    assert answer.status == 200
    own = stand.at.product.address
    await stand.judge(marks, [Sent(method="GET", host=own)])
