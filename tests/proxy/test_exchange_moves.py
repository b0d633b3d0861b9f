"""An exchange only makes the moves of its table: held over real requests in a real worker."""

import asyncio

import pytest

from tests.harness import bench

CHECKED = """
from turnout.proxy.exchange import MOVES, Exchange, State
slot = Exchange.__dict__["state"]
moves = dict(MOVES)
{broken}
def get(self):
    return slot.__get__(self)
def put(self, new):
    try:
        old = slot.__get__(self)
    except AttributeError:
        old = State.ENDED
    if new not in moves[old]:
        raise AssertionError(f"no move from {{old!r}} to {{new!r}}")
    slot.__set__(self, new)
Exchange.state = property(get, put)
"""


async def requests(broken: str) -> None:
    """Answered, held, without a server, broken off by the client: in one worker."""
    faults = {"turnout.proxy.worker": CHECKED.format(broken=broken)}
    async with bench(workers=1, faults=faults) as at:
        async with asyncio.timeout(15):
            for path in ("/a", "/b?status=500"):
                await at.get(path)
            async with await at.client() as leaves:
                await leaves.ask("/hangs?hang=1")
                await at.blue.received("/hangs")
            await at.get("/c")


async def test_only_moves_of_the_table_are_made() -> None:
    await requests("")


async def test_a_move_that_is_not_in_the_table_is_found_out() -> None:
    with pytest.raises((AssertionError, TimeoutError)):
        await requests("moves[State.ASKED] = set()")
