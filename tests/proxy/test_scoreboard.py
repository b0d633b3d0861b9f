"""The shared memory between the processes: its layout, a dead worker's end, racing readers."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from turnout.proxy import scoreboard as sb
from turnout.proxy.scoreboard import Geometry, RoutingWord, Scoreboard, SharedWords

SMALL = Geometry(regions=3, services=4, inflight=8)


@pytest.fixture
def board(tmp_path: Path) -> Scoreboard:
    return Scoreboard.create(tmp_path, SMALL, identity=42)


@given(st.booleans(), st.integers(0, 10_000), st.integers(0, sb.EPOCH_MASK))
def test_a_routing_word_holds_what_was_put_in(hold: bool, weight: int, epoch: int) -> None:
    packed = RoutingWord(hold, weight, epoch).pack()
    assert 0 <= packed < 1 << 64
    assert RoutingWord.unpack(packed) == RoutingWord(hold, weight, epoch)


@pytest.mark.parametrize(("weight", "epoch"), [(-1, 0), (10_001, 0), (0, -1), (0, 1 << 49)])
def test_a_routing_word_refuses_what_does_not_fit(weight: int, epoch: int) -> None:
    with pytest.raises(ValueError):
        RoutingWord(False, weight, epoch).pack()


def test_blocks_do_not_overlap() -> None:
    upstream = [sb.U_PICKED, *range(sb.U_ANSWERED, sb.U_OUTCOMES_END), sb.U_UNHEALTHY_PICKS]
    upstream += [sb.U_ATTEMPTS_FAILED, sb.U_LATENCY_SUM_US]
    upstream += range(sb.U_LATENCY, sb.U_LATENCY + sb.LATENCY_BUCKETS)
    assert len(upstream) == len(set(upstream)) and max(upstream) < sb.UPSTREAM_WORDS
    assert sb.S_ACCEPTED >= 2 * sb.UPSTREAM_WORDS
    assert sb.S_NOT_RETRIED + len(sb.NOT_RETRIED_REASONS) <= sb.SERVICE_WORDS


def test_a_scoreboard_is_opened_with_the_sizes_it_was_made_with(
    tmp_path: Path, board: Scoreboard
) -> None:
    again = Scoreboard.open(tmp_path)
    assert (again.geometry, again.identity) == (SMALL, 42)
    board.words[board.service(2, 4)] = 7
    assert again.words[again.service(2, 4)] == 7


def test_what_is_not_a_scoreboard_is_refused(tmp_path: Path) -> None:
    with pytest.raises(sb.SharedMemoryError, match="is turnout running"):
        Scoreboard.open(tmp_path)
    (tmp_path / sb.SCOREBOARD_FILE).write_bytes(b"x" * sb.FILE_HEADER_BYTES)
    with pytest.raises(sb.SharedMemoryError, match="not a scoreboard"):
        Scoreboard.open(tmp_path)


def test_a_file_that_is_too_short_is_refused_and_never_touched_beyond_its_end(
    tmp_path: Path,
) -> None:
    path = tmp_path / "words"
    path.write_bytes(bytes(64))
    with pytest.raises(sb.SharedMemoryError, match="shorter"):
        SharedWords(path, 128, create=False)


def test_a_slot_beyond_the_sizes_is_refused(board: Scoreboard) -> None:
    with pytest.raises(IndexError, match="service slot 5"):
        board.service(0, 5)


@pytest.mark.parametrize(
    ("status", "label"),
    [(200, "200"), (299, "2xx"), (404, "404"), (418, "4xx"), (599, "5xx"), (999, "other")],
)
def test_codes_are_counted_by_themselves_or_as_their_class(status: int, label: str) -> None:
    assert sb.CODE_LABELS[sb.CODE_INDEX[status]] == label


@pytest.mark.parametrize(
    ("duration_us", "bucket"), [(0, 0), (500, 0), (501, 1), (1000, 1), (10**9, 27)]
)
def test_latency_bounds_are_inclusive(duration_us: int, bucket: int) -> None:
    assert sb.latency_bucket(duration_us) == bucket


def accept(board: Scoreboard, region: int, upstream: int, index: int, path: bytes) -> None:
    """What a worker does when it accepts a request and picks an upstream."""
    offset = board.inflight_slot(region, index)
    start = (offset + 2) * sb.WORD
    board.memory.octets[start : start + sb.PATH_BYTES] = path.ljust(sb.PATH_BYTES, b"\0")
    board.words[offset + 1] = 1_000_000
    board.words[offset] = sb.pack_inflight(1, upstream, 0, sb.METHOD_INDEX[b"GET"])
    board.words[board.service(region, 1) + sb.S_ACCEPTED] += 1
    if upstream != sb.NO_UPSTREAM:
        board.words[board.upstream(region, 1, upstream) + sb.U_PICKED] += 1


def test_in_flight_is_what_was_picked_and_has_no_outcome(board: Scoreboard) -> None:
    accept(board, 0, 0, 0, b"/a")
    accept(board, 0, 1, 1, b"/b")
    accept(board, 1, 1, 0, b"/c")
    board.words[board.upstream(0, 1, 1) + sb.U_ANSWERED + sb.CODE_INDEX[200]] += 1
    assert board.upstream_in_flight(0, 1, 0) == 1
    assert board.upstream_in_flight(0, 1, 1) == 0
    assert board.service_in_flight(0, 1) == 1
    totals = board.service_counters(1)
    assert totals[sb.S_ACCEPTED] == 3
    assert totals[sb.UPSTREAM_WORDS + sb.U_PICKED] == 2


def test_what_a_dead_worker_held_is_cut_once_and_named(board: Scoreboard) -> None:
    accept(board, 0, 0, 0, b"/slow")
    accept(board, 0, 1, 1, b"/other")
    accept(board, 0, sb.NO_UPSTREAM, 2, b"/held")
    accept(board, 1, 0, 0, b"/alive")
    cut = board.settle(0)
    assert sorted((entry.path, entry.upstream) for entry in cut) == [
        ("/held", sb.NO_UPSTREAM),
        ("/other", 1),
        ("/slow", 0),
    ]
    died = sb.CUT_REASONS.index("worker_died")
    assert board.words[board.upstream(0, 1, 0) + sb.U_CUT + died] == 1
    assert board.words[board.service(0, 1) + sb.S_CUT + died] == 1
    assert board.service_in_flight(0, 1) == 0
    assert board.service_in_flight(1, 1) == 1
    assert board.state(0) is sb.WorkerState.DEAD
    assert board.settle(0) == []
    assert board.words[board.upstream(0, 1, 0) + sb.U_CUT + died] == 1


def test_the_counters_decide_where_names_are_missing_or_too_many(board: Scoreboard) -> None:
    accept(board, 0, 0, 0, b"/counted")
    # Died between the slot and the counter, and between the counter and the slot.
    board.words[board.inflight_slot(0, 5)] = sb.pack_inflight(1, 0, 0, 0)
    board.words[board.service(0, 1) + sb.S_ACCEPTED] += 1
    board.words[board.upstream(0, 1, 1) + sb.U_PICKED] += 1
    cut = board.settle(0)
    assert [(entry.path, entry.upstream) for entry in cut] == [("/counted", 0), ("?", 1)]


WRITER = """
import sys
from pathlib import Path
from turnout.proxy.scoreboard import SharedWords
words = SharedWords(Path(sys.argv[1]), 4096, create=False).words
A, B = 0x0123456789ABCDEF, 0xFEDCBA9876543210
print("ready", flush=True)
while not words[1]:
    for _ in range(1000):
        words[0] = A
        words[0] = B
"""


def test_a_racing_reader_sees_only_whole_words(tmp_path: Path) -> None:
    memory = SharedWords(tmp_path / "words", 4096, create=True)
    words = memory.words
    values = {0x0123456789ABCDEF, 0xFEDCBA9876543210}
    words[0] = next(iter(values))
    command = [sys.executable, "-c", WRITER, str(memory.path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
        try:
            assert writer.stdout is not None
            assert writer.stdout.readline() == b"ready\n"
            seen: set[int] = set()
            reads = 0
            ends = time.monotonic() + 1.0
            while time.monotonic() < ends:
                for _ in range(1000):
                    seen.add(words[0])
                reads += 1000
        finally:
            words[1] = 1
    assert seen <= values, f"torn values in {reads} reads"
    assert seen == values, "the writer was never seen writing"
