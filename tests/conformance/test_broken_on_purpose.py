"""The promise broken in the running product: each time the judge must find it.

Who judges could be wrong in a way that lets everything pass. So worker code is replaced as it
starts, by what a proxy might well do, and a case that is well otherwise has to fail. (A proxy
that believes the last of two lengths stands with the promise, `test_7_unambiguous.py`.)
"""

import pytest

from tests.conformance.case import Case
from tests.conformance.corpus.every import idle_cases, request_cases, response_cases
from tests.conformance.runner import Stand
from tests.conformance.test_connections import MUCH
from tests.harness import bench

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.product]

PASSES_BODIES_ON_UNSEEN = """
from turnout.proxy import downstream
class Unseen(downstream.ChunkedDecoder):
    def reencode(self, data):
        super().reencode(data)
        return data
downstream.ChunkedDecoder = Unseen
"""
KEEPS_HOSTS = """
from turnout.proxy import downstream
forward = downstream.forward_request

def doubled(head, *more):
    return forward(head, *more).replace(b"Host: a", b"Host: a\\r\\nHost: a", 1)

downstream.forward_request = doubled
"""
TAKES_WHAT_COMES_UNASKED = """
from turnout.proxy import upstream
received = upstream.UpstreamConnection.data_received

def patient(self, data):
    if self.exchange is None:
        self.buffer += data
    else:
        received(self, data)

upstream.UpstreamConnection.data_received = patient
"""
USES_IT_AGAIN = """
from turnout.proxy import upstream
heads = upstream.UpstreamConnection._heads

def forgetful(self, exchange, data):
    heads(self, exchange, data)
    self.keep = True
    if self.lost is False and self.exchange is None and not self.transport.is_closing():
        self.pool.forget(self)
        self.pool.idle.append(self)

upstream.UpstreamConnection._heads = forgetful
upstream.parse_response_of = upstream.parse_response

def trusting(*arguments):
    head = upstream.parse_response_of(*arguments)
    head.keep_alive = True
    return head

upstream.parse_response = trusting
"""
ENDS_CLEANLY = """
from turnout.proxy import downstream

def gently(self, *, reset):
    self.close_after = True
    self.transport.write(b"0\\r\\n\\r\\n")
    self._close_politely()

downstream.Downstream.break_off = gently
"""
CLOSES_AT_ONCE = """
from turnout.proxy import downstream

def hastily(self):
    self.transport.close()

downstream.Downstream._close_politely = hastily
"""
TELLS_NO_LENGTH = """
from turnout.proxy import replies
render = replies.render

def short(reply, **more):
    out, size = render(reply, **more)
    return out.replace(b"Content-Length: ", b"Content-Length: 1"), size

replies.render = short
"""

BREAKS: dict[str, tuple[str, str]] = {
    # what breaks it, a case of the corpus that must notice
    PASSES_BODIES_ON_UNSEEN: ("chunk extensions", "a name, which is dropped"),
    KEEPS_HOSTS: ("hop-by-hop", "TE: trailers, which is this hop's to say"),
    TAKES_WHAT_COMES_UNASKED: ("unasked bytes on an idle connection", "a whole answer"),
    USES_IT_AGAIN: ("HEAD, 204 and 304", "204 with a length and no body"),
    ENDS_CLEANLY: ("answers cut short", "closed behind a chunk, to HTTP/1.1"),
    TELLS_NO_LENGTH: ("Host", "none"),
}
ALL: list[Case] = [*request_cases(), *response_cases(), *idle_cases()]
CASES = {(case.family, case.name): case for case in ALL}


@pytest.mark.parametrize("source", BREAKS, ids=lambda source: BREAKS[source][0])
async def test_what_breaks_the_promise_is_found(source: str) -> None:
    faults = {"turnout.proxy.worker": source}
    async with bench(control=False, workers=1, health="off", faults=faults) as at:
        at.blue.record = True
        stand = Stand(at, limit_s=1.0)
        await stand.fence()
        with pytest.raises((AssertionError, TimeoutError)):
            await stand.run(CASES[BREAKS[source]])


async def test_a_refusal_that_a_reset_takes_away_is_found() -> None:
    faults = {"turnout.proxy.worker": CLOSES_AT_ONCE}
    async with bench(control=False, workers=1, health="off", faults=faults) as at:
        lost = 0
        for _ in range(10):
            async with await at.client(limit_s=5) as client:
                client.writer.write(b"GET /seen HTTP/1.1\r\n\r\n" + MUCH)
                _, ended = await client.rest()
                lost += ended == "reset"
    assert lost
