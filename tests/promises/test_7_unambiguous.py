"""Promise 7: no message is forwarded that two parsers could read in two ways.

All of it is `tests/conformance/`: a corpus of requests and answers, sent over real sockets, and
judged by the bytes that came out of the other end. Here is some of each of its families, and the
promise broken on purpose.
"""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.conformance.corpus.every import REQUESTS, RESPONSES, request_cases
from tests.conformance.corpus.family import Family
from tests.conformance.runner import Stand
from tests.harness import bench

pytestmark = pytest.mark.asyncio(loop_scope="module")

SOME = 10
"""One of so many cases of a family, its first one always."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stand() -> AsyncIterator[Stand]:
    async with bench(control=False, workers=1, health="off") as at:
        at.blue.record = True
        yield Stand(at)


@pytest.mark.parametrize("family", (*REQUESTS, *RESPONSES), ids=lambda family: family.name)
async def test_a_message_has_one_reading_or_is_not_passed_on(stand: Stand, family: Family) -> None:
    for case in family.cases[::SOME]:
        await stand.run(case)


async def test_a_proxy_that_passes_on_what_it_gets_is_found_out() -> None:
    """The promise broken on purpose: heads are passed on as they come, bodies ended by guess."""
    (case,) = [
        case
        for case in request_cases()
        if (case.family, case.name) == ("Content-Length", "two that differ")
    ]
    async with bench(control=False, health="off", workers=1, faults={
        "turnout.proxy.worker": TAKES_THE_LAST_LENGTH
    }) as at:  # fmt: skip
        at.blue.record = True
        with pytest.raises(AssertionError):
            await Stand(at, limit_s=1.0).run_request(case)
        assert at.blue.find("/seen")


TAKES_THE_LAST_LENGTH = """
import re
from turnout.proxy import downstream, head
parse = head.parse_request

def lenient(data, *rest, **more):
    lengths = re.findall(rb"Content-Length: [0-9]+\\r\\n", data)
    for length in lengths[:-1]:
        data = data.replace(length, b"", 1)
    return parse(data, *rest, **more)

downstream.parse_request = lenient
"""
