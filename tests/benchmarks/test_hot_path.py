"""The hot path does not grow unnoticed: what it takes is counted, which no noise can move."""

import asyncio
import sys
from collections.abc import Iterator

import pytest
import uvloop

from benchmarks import hot_path
from benchmarks.hot_path import Transport, answer, bench, opcodes, parts, request

OPCODES_MAX = 1100 if sys.version_info[:2] == (3, 11) else 1300
"""Other versions compile the same to somewhat more or fewer."""
CALLS_MAX = 10
"""Of Python functions: both callbacks, `begin`, `end`, the two readers of heads, and two flushes,
which in a busy worker are shared by all that came in one turn."""


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(hot_path, "CALLS", 10)
    monkeypatch.setattr(hot_path, "REPEATS", 2)
    yield


def counted(fields: int) -> tuple[float, float]:
    async def count() -> tuple[float, float]:
        with bench() as found:
            return opcodes(found, fields)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(count())


def test_a_plain_exchange_takes_no_more_opcodes_and_calls_than_it_did() -> None:
    executed, calls = counted(0)
    assert 300 < executed <= OPCODES_MAX
    assert calls == CALLS_MAX


def test_twenty_more_fields_each_way_take_hardly_any_python() -> None:
    assert counted(20)[0] - counted(0)[0] <= 40


def test_the_parts_are_of_what_passes_through(quick: None) -> None:
    async def measure() -> None:
        with bench() as found:
            measured = parts(found, 3)
            assert all(us > 0 for name, us in measured.items() if not name.startswith("calls"))
            found.exchange(request(3), answer(3))
            down, up = found.down.transport, found.up.transport
            assert isinstance(down, Transport) and isinstance(up, Transport)
            assert up.written.startswith(b"GET /a/15500?q=500 HTTP/1.1\r\nHost: shop.example\r\n")
            assert b"\r\nX-Field-2: a value of usual length 2\r\n" in up.written
            assert b"\r\nX-Forwarded-For: 127.0.0.1\r\n" in up.written
            assert down.written.endswith(b"\r\n\r\n" + b"x" * 100)
            assert b"\r\nX-Request-Id: " in down.written and b"Connection" not in down.written

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(measure())
