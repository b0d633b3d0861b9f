"""One running Turnout for the whole corpus."""

from collections.abc import AsyncIterator

import pytest_asyncio

from tests.conformance.runner import Stand
from tests.harness import bench


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def stand() -> AsyncIterator[Stand]:
    """A worker of its own kind: alone, so that the next client gets the connection that a case
    has used."""
    async with bench(control=False, workers=1, health="off", top=TOP) as at:
        at.blue.record = True
        stand = Stand(at)
        yield stand


TOP = {"timeouts": {"header": "3s", "body_idle": "3s", "first_byte": "3s"}}
