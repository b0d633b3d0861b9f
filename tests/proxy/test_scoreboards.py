"""Several scoreboards read as one: other layouts by name, sums carried over, dead ones settled."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.programs import OTHER_LAYOUT
from turnout.proxy import scoreboard as sb
from turnout.proxy import scoreboards
from turnout.proxy.scoreboard import Geometry, Scoreboard, SharedMemoryError, WorkerState
from turnout.proxy.scoreboards import Foreign, Scoreboards, description, named, unnamed

ROOT = Path(__file__).resolve().parent.parent.parent
SIZES = Geometry(regions=3, services=4, inflight=8)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> tuple[ModuleType, ModuleType]:
    """`scoreboard` and `scoreboards` as a program of another layout has them."""
    directory = tmp_path_factory.mktemp("other")
    made = []
    for name in ("scoreboard", "scoreboards"):
        source = (ROOT / "proxy" / f"{name}.py").read_text()
        for old, new in OTHER_LAYOUT.get(f"proxy/{name}.py", ()):
            assert old in source
            source = source.replace(old, new)
        source = source.replace("turnout.proxy.scoreboard import", "other_scoreboard import")
        source = source.replace("from turnout.proxy import scoreboard", "import other_scoreboard")
        path = directory / f"other_{name}.py"
        path.write_text(source)
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None and spec.loader is not None
        module = sys.modules[path.stem] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        made.append(module)
    return made[0], made[1]


def counting(board: Scoreboard, region: int, slot: int = 1) -> None:
    """A worker that has answered 3 of 5 requests, holds one of each upstream, and refused 2."""
    words = board.words
    base = board.region(region)
    words[base + sb.R_STATE] = WorkerState.SERVING
    words[base + sb.R_WORKER] = region
    words[base + sb.R_PID] = 1000 + region
    words[base + sb.R_DEATHS] = 2
    words[base + sb.C_REFUSED + 1] = 2
    service = board.service(region, slot)
    words[service + sb.S_ACCEPTED] = 5
    for upstream, picked, answered in ((0, 3, 2), (1, 2, 1)):
        at = board.upstream(region, slot, upstream)
        words[at + sb.U_PICKED] = picked
        words[at + sb.U_ANSWERED + sb.CODE_INDEX[200]] = answered
        words[at + sb.U_LATENCY + 3] = answered
    sb.write_inflight(
        board.memory.octets,
        board.inflight_slot(region, 0) * sb.WORD,
        sb.pack_inflight(slot, 0, 0, 0),
        77,
        b"/held",
    )


def test_a_first_one_is_made_and_kept_while_it_has_room(tmp_path: Path) -> None:
    boards = Scoreboards(tmp_path, must_exist=False)
    assert boards.make_room(SIZES, 2, 42) is True
    assert (boards.identity, boards.numbers) == (42, [0, 1, 2])
    assert boards.make_room(SIZES, 2, 43) is False
    counting(boards.newest, 0)
    counting(boards.newest, 1)
    # One region is free, and two workers are to be started.
    assert boards.make_room(SIZES, 2, 43) is True
    assert boards.identity == 42
    assert boards.numbers == [4, 5, 6, 0, 1, 2]
    again = Scoreboards(tmp_path)
    assert again.numbers == boards.numbers
    assert again.live_regions() == [0, 1]
    assert again.service_counters(1)[sb.S_ACCEPTED] == 10
    assert again.field(1, sb.R_PID) == 1001


def test_without_a_file_there_is_nothing_to_read(tmp_path: Path) -> None:
    with pytest.raises(SharedMemoryError, match="is turnout running"):
        Scoreboards(tmp_path)


def test_what_the_dead_counted_is_carried_over_and_their_file_goes(tmp_path: Path) -> None:
    boards = Scoreboards(tmp_path, must_exist=False)
    boards.make_room(SIZES, 1, 42)
    for region in (0, 1):
        counting(boards.newest, region)
    boards.run = 99
    before = (boards.service_counters(1), boards.worker_counters(), boards.restarts())
    bigger = Geometry(regions=9, services=8, inflight=8)
    assert boards.make_room(bigger, 3, 0) is True
    assert (boards.service_counters(1), boards.worker_counters(), boards.restarts()) == before
    for region in (0, 1):
        assert len(boards.settle(region)) == 2
    sums = boards.service_counters(1)
    assert boards.make_room(Geometry(regions=12, services=8, inflight=8), 3, 0) is True
    assert [board.first for board in boards.boards] == [14]
    assert boards.service_counters(1) == sums
    assert boards.restarts() == before[2]
    assert (boards.identity, boards.run) == (42, 99)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scoreboard"]
    assert Scoreboards(tmp_path).service_counters(1) == sums


def test_one_of_another_layout_is_read_by_its_names(
    tmp_path: Path, other: tuple[ModuleType, ModuleType]
) -> None:
    """Theirs is made by the changed program itself, and read by ours."""
    theirs, their_boards = other
    made = their_boards.Scoreboards(tmp_path, must_exist=False)
    made.make_room(theirs.Geometry(regions=3, services=4, inflight=8), 2, 42)
    board = made.newest
    base, at = board.region(1), board.upstream(1, 1, 0)
    board.words[base + theirs.R_STATE] = WorkerState.SERVING
    board.words[base + theirs.R_PID] = 4711
    board.words[base + theirs.R_EPOCH_SEEN] = 12
    board.words[base + theirs.R_DEATHS] = 2
    board.words[board.service(1, 1) + theirs.S_ACCEPTED] = 9
    board.words[at + theirs.U_PICKED] = 9
    for status, count in ((200, 4), (299, 1), (404, 2)):
        board.words[at + theirs.U_ANSWERED + theirs.CODE_INDEX[status]] += count
    board.words[base + theirs.C_REFUSED + theirs.REFUSED_REASONS.index("quite_new")] = 5
    theirs.write_inflight(
        board.memory.octets,
        board.inflight_slot(1, 2) * 8,
        theirs.pack_inflight(1, 0, 3, 2),
        8,
        b"/x",
    )

    ours = Scoreboards(tmp_path)
    assert isinstance(ours.boards[0], Foreign)
    assert ours.live_regions() == [1]
    assert ours.field(1, sb.R_PID) == 4711
    assert ours.field(1, sb.R_EPOCH_SEEN) == 12
    assert ours.restarts() == 2
    assert ours.upstream_in_flight(1, 1, 0) == ours.service_in_flight(1, 1) == 2
    block = ours.service_counters(1)
    assert block[sb.U_ANSWERED + sb.CODE_INDEX[200]] == 4
    assert block[sb.U_ANSWERED + sb.CODE_INDEX[404]] == 2
    # A code that we do not count by itself is not lost.
    assert block[sb.U_ANSWERED + sb.CODE_LABELS.index("other")] == 1
    refused = sb.C_REFUSED - sb.REGION_HEADER_WORDS + sb.REFUSED_REASONS.index("other")
    assert ours.worker_counters()[refused] == 5
    [held] = ours.in_flight(1)
    assert (held.slot, held.kind, held.method, held.path) == (1, 3, "POST", "/x")

    # Its workers are settled in their own layout, and then it is carried over into ours.
    assert [entry.path for entry in ours.settle(1)] == ["/x", "?"]
    assert ours.settle(1) == []
    assert made.state(1) is theirs.WorkerState.DEAD
    died = theirs.CUT_REASONS.index("worker_died")
    assert board.words[at + theirs.U_CUT + died] == 2
    before = ours.service_counters(1), ours.worker_counters()
    assert ours.make_room(SIZES, 2, 0) is True
    assert (ours.service_counters(1), ours.worker_counters()) == before
    assert ours.newest.first == 4 and ours.identity == 42
    # And theirs reads ours.
    again = their_boards.Scoreboards(tmp_path)
    assert again.service_counters(1)[theirs.S_ACCEPTED] == 9


def test_counters_have_names_that_outlive_their_places(
    other: tuple[ModuleType, ModuleType],
) -> None:
    theirs, their_boards = other
    block = list(range(1000, 1000 + sb.SERVICE_WORDS))
    used = named(block)
    assert used["accepted"] == 1000 + sb.S_ACCEPTED
    assert used["1/cut.worker_died"] == (
        1000 + sb.UPSTREAM_WORDS + sb.U_CUT + sb.CUT_REASONS.index("worker_died")
    )
    assert named(unnamed(used)) == used
    elsewhere = their_boards.unnamed(used)
    assert elsewhere[theirs.S_ACCEPTED] == 1000 + sb.S_ACCEPTED
    assert their_boards.named(elsewhere) == used
    assert sum(unnamed({"0/answered.299": 3, "0/answered.200": 4})) == 7
    assert unnamed({"nothing known": 3}) == (0,) * sb.SERVICE_WORDS


def test_every_counter_has_a_name() -> None:
    offsets = {*scoreboards._UPSTREAM.values()}
    assert offsets == set(range(sb.U_LATENCY + sb.LATENCY_BUCKETS))
    service = {*scoreboards._SERVICE.values()}
    assert service == set(range(sb.S_ACCEPTED, sb.S_ENTERED + 2))
    # What is open at each listener is for the siblings alone.
    headers = {value for name, value in vars(sb).items() if name.startswith("R_")}
    headers.discard(sb.R_LISTENERS)
    assert {*scoreboards._REGION.values()} == headers
    worker = {
        value - sb.REGION_HEADER_WORDS
        for name, value in vars(sb).items()
        if name.startswith("C_") and isinstance(value, int)
    }
    assert worker <= {*scoreboards._WORKER.values()}


def test_a_description_fits_its_place_and_a_file_without_one_is_refused(tmp_path: Path) -> None:
    assert len(description(Geometry(192, 65_000, 65_000))) < sb.FILE_HEADER_BYTES - 512
    said = json.loads(description(SIZES))
    assert said["region_words"] == SIZES.region_words
    made = Scoreboard.create(tmp_path, SIZES, 1, description=b"{}")
    assert made.numbers == range(3)
    with pytest.raises(SharedMemoryError, match="does not say what is in it"):
        Scoreboards(tmp_path)


def test_one_that_a_live_worker_counts_in_is_never_given_up(tmp_path: Path) -> None:
    boards = Scoreboards(tmp_path, must_exist=False)
    for number in range(sb.BEFORE_MAX):
        boards.make_room(Geometry(1, 1, 1 + number), 1, 42)
        counting(boards.newest, boards.newest.first)
    regions, files = boards.numbers, sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(SharedMemoryError, match="still finishing"):
        boards.make_room(Geometry(1, 1, 999), 1, 42)
    assert boards.numbers == regions
    assert sorted(path.name for path in tmp_path.iterdir()) == files
    boards.settle(boards.boards[-1].first)
    boards.make_room(Geometry(1, 1, 999), 1, 42)
    assert set(regions[:-1]) <= set(boards.numbers)
