"""The store on a real file: transactions, revisions, history, and a process that is killed."""

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from turnout.config.model import WHOLE, OnFailure
from turnout.control.database import Database
from turnout.control.events import Held, WeightsChanged
from turnout.control.store import (
    Answer,
    Audit,
    Author,
    Note,
    ServiceNames,
    ServiceRow,
    StaleRevision,
    Store,
    StoreUnusable,
    UnderWay,
    UpstreamsSwapped,
)
from turnout.control.switchover import State, Switchover

AT = 1_700_000_000.0
SHOP = ServiceNames("shop", "blue", "green", 0)
NOTHING = Note()


def new(**changes: Any) -> Switchover:
    value = Switchover(
        id="",
        service="shop",
        first="blue",
        second="green",
        from_upstream="blue",
        to_upstream="green",
        strategy="atomic",
        weights_before=0,
        steps=(WHOLE,),
        pause_s=0.0,
        on_failure=OnFailure.ROLLBACK,
        check_s=5.0,
        requested_by="ci",
        reason="v42",
        created_at=AT,
    )
    return replace(value, **changes)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "turnout.db"


@pytest.fixture
def database(path: Path) -> Iterator[Database]:
    opened = Database(path)
    opened.ensure_services([SHOP], AT, live=False)
    yield opened
    opened.close()


def started(database: Database, **changes: Any) -> Switchover:
    return database.start_switchover(new(**changes), AT, lambda _: NOTHING)


def moved(database: Database, second_weight: int, state: State = State.COMPLETED) -> Switchover:
    """A switchover that has moved the weight there and has ended."""
    row = database.service("shop")
    assert row is not None
    value = started(database, weights_before=row.second_weight, steps=(second_weight,))
    database.decide_weight(value, 0, second_weight, AT, lambda _: NOTHING)
    ended = replace(value, state=state, phases=((state, AT + 1),))
    return database.save_switchover(ended, AT, NOTHING, lambda final: {"id": final.id})


# ---------------------------------------------------------------- services


def test_a_service_keeps_its_slot_for_the_stores_life(database: Database) -> None:
    other = ServiceNames("api", "a", "b", WHOLE)
    database.ensure_services([other], AT, live=True)
    database.ensure_services([other, SHOP], AT, live=True)
    assert [(row.name, row.slot, row.second_weight) for row in database.services()] == [
        ("shop", 1, 0),
        ("api", 2, WHOLE),
    ]


def test_the_files_initial_weight_counts_only_once(database: Database) -> None:
    moved(database, 2500)
    (row,) = database.ensure_services([replace(SHOP, initial_second_weight=WHOLE)], AT, live=False)
    assert row.second_weight == 2500


def test_swapped_upstreams_take_their_weights_along_but_not_under_running_workers(
    database: Database,
) -> None:
    moved(database, 2500)
    swapped = ServiceNames("shop", "green", "blue", 0)
    with pytest.raises(UpstreamsSwapped, match="keep blue first"):
        database.ensure_services([swapped], AT, live=True)
    (row,) = database.ensure_services([swapped], AT, live=False)
    assert row.weights.percentages() == {"green": 25, "blue": 75}


def test_upstreams_keep_their_names_while_a_switchover_is_under_way(database: Database) -> None:
    running = started(database)
    renamed = ServiceNames("shop", "blue", "canary", 0)
    with pytest.raises(UpstreamsSwapped, match=running.id):
        database.ensure_services([renamed], AT, live=False)


def test_servers_of_the_api_are_kept_and_given_back_to_the_file(database: Database) -> None:
    row = database.set_servers("shop", "green", ["10.0.0.7:9001"], AT, NOTHING)
    assert row.servers == {"green": ("10.0.0.7:9001",)}
    assert database.set_servers("shop", "green", None, AT, NOTHING).servers == {}


def test_a_write_on_an_old_revision_is_refused_and_leaves_no_trace(database: Database) -> None:
    row = database.service("shop")
    assert row is not None
    database.hold("shop", True, AT + 5, AT, NOTHING)
    before = database.service("shop")
    told = Note(Audit(Author("ci"), "service.release", "shop"))
    with pytest.raises(StaleRevision):
        database.hold("shop", False, None, AT, told, revision=row.revision)
    assert database.service("shop") == before
    assert database.audit() == []


# ---------------------------------------------------------------- switchovers


def test_ids_are_short_sortable_and_unique_whatever_the_clock_does(database: Database) -> None:
    ids = []
    for at in (AT, AT, AT - 1000, AT + 1):
        value = database.start_switchover(new(), at, lambda _: NOTHING)
        database.save_switchover(replace(value, state=State.ABORTED), at, NOTHING)
        ids.append(value.id)
    assert ids == sorted(set(ids))
    assert {len(id) for id in ids} == {9}


def test_a_second_switchover_of_a_service_is_refused_by_the_store_too(
    database: Database,
) -> None:
    first = started(database)
    with pytest.raises(UnderWay) as refused:
        started(database)
    assert refused.value.id == first.id


def test_a_switchover_is_saved_once_for_each_revision(database: Database) -> None:
    value = started(database)
    later = database.save_switchover(replace(value, state=State.PREPARING), AT, NOTHING)
    with pytest.raises(StaleRevision):
        database.save_switchover(replace(value, state=State.ABORTED), AT, NOTHING)
    assert database.switchover(value.id) == later


def test_a_weight_that_is_decided_twice_for_a_step_is_one_decision(database: Database) -> None:
    value = started(database)

    def note(row: ServiceRow) -> Note:
        told = WeightsChanged(
            service="shop",
            weights=row.weights.percentages(),
            epoch=row.epoch,
            switchover=value.id,
        )
        return Note(events=(told,))

    first = database.decide_weight(value, 0, WHOLE, AT, note)
    again = database.decide_weight(value, 0, WHOLE, AT + 1, note)
    assert (first.again, again.again) == (False, True)
    assert first.service == again.service
    assert database.epoch() == first.service.epoch == 1
    assert [event.document["epoch"] for event in database.events_after(0)] == [1]
    database.step_done(value.id, 0, AT + 2, "acknowledged")
    database.step_done(value.id, 0, AT + 9, "a second time")
    (row,) = database.steps(value.id)
    assert (row.epoch, row.decided_at, row.done_at, row.outcome) == (1, AT, AT + 2, "acknowledged")


def test_a_hold_in_between_does_not_undo_a_decision(database: Database) -> None:
    value = started(database)
    database.decide_weight(value, 0, WHOLE, AT, lambda _: NOTHING)
    database.hold("shop", True, AT + 5, AT, NOTHING)
    again = database.decide_weight(value, 0, WHOLE, AT, lambda _: NOTHING)
    assert (again.service.held, again.service.epoch, again.service.second_weight) == (
        True,
        2,
        WHOLE,
    )


def test_no_weight_is_decided_for_a_value_that_has_moved_on(database: Database) -> None:
    value = started(database)
    database.save_switchover(replace(value, state=State.ABORTED), AT, NOTHING)
    with pytest.raises(StaleRevision):
        database.decide_weight(value, 0, WHOLE, AT, lambda _: NOTHING)
    row = database.service("shop")
    assert row is not None
    assert row.second_weight == 0


def test_the_receipt_comes_with_the_final_state_and_its_true_weight(database: Database) -> None:
    value = started(database, second_weight=WHOLE)
    ended = replace(value, state=State.FAILED)
    stored = database.save_switchover(
        ended, AT, NOTHING, lambda final: {"weight": final.second_weight}
    )
    assert stored.second_weight == 0
    assert database.receipt(value.id) == {"weight": 0} == database.last_receipt("shop")


def test_a_rollback_undoes_what_left_its_weights_moved(database: Database) -> None:
    moved(database, 3000)
    left = moved(database, 5000, State.FAILED)
    moved(database, 5000)  # moved nothing
    back = started(database, weights_before=5000)
    database.save_switchover(replace(back, state=State.ROLLED_BACK), AT, NOTHING)
    found = database.last_moved("shop")
    assert found is not None
    assert (found.id, found.weights_before) == (left.id, 3000)


def test_a_service_revision_covers_its_switchover(database: Database) -> None:
    before = database.service("shop")
    value = started(database)
    after = database.service("shop")
    assert before is not None
    assert after is not None
    assert (after.revision > before.revision, after.revision) == (True, value.revision)
    with pytest.raises(StaleRevision):
        database.require_revision("shop", before.revision)


def test_the_first_baseline_stays(database: Database) -> None:
    value = started(database)
    database.keep_baseline(value.id, {"n": 1})
    database.keep_baseline(value.id, {"n": 2})
    assert database.baseline(value.id) == {"n": 1}


def test_cut_exchanges_belong_to_what_is_under_way(database: Database) -> None:
    database.keep_casualties("shop", [{"path": "/before"}], AT, NOTHING)
    value = started(database)
    database.keep_casualties("shop", [{"path": "/slow"}, {"path": "/ws"}], AT, NOTHING)
    assert database.casualties(value.id) == [{"path": "/slow"}, {"path": "/ws"}]


# ---------------------------------------------------------------- history


def test_the_audit_is_only_ever_added_to(path: Path, database: Database) -> None:
    entry = Audit(Author("ci", "10.0.0.1", "v42"), "service.hold", "shop")
    database.note(Note(entry, (Held(service="shop", who="ci", until=None, reason=""),)), AT)
    (kept,) = database.audit()
    assert (kept.who, kept.address, kept.action, kept.reason) == (
        "ci",
        "10.0.0.1",
        "service.hold",
        "v42",
    )
    other = sqlite3.connect(path)
    for statement in ("UPDATE audit SET who = 'me'", "DELETE FROM audit"):
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            other.execute(statement)
    other.close()


def test_trimming_keeps_the_newest_what_runs_and_what_a_rollback_needs(
    database: Database,
) -> None:
    needed = moved(database, 3000)
    for _ in range(4):
        moved(database, 3000)
    running = started(database, weights_before=3000)
    for number in range(5):
        database.note(Note(Audit(Author(f"ci {number}"), "x", "shop")), AT)
    database.trim(switchovers_kept=2, audit_kept=3, refusals_kept=2, events_kept=1)
    kept = [value.id for value in database.switchovers("shop")]
    assert (kept[0], kept[-1], len(kept)) == (running.id, needed.id, 3)
    assert [entry.who for entry in database.audit()] == ["ci 4", "ci 3", "ci 2"]
    assert database.ended() == {("shop", "completed"): 5}


def test_events_have_a_number_and_a_revision(database: Database) -> None:
    held = Held(service="shop", who="ci", until=AT, reason="")
    database.note(Note(events=(held, held)), AT)
    first, second = database.events_after(0)
    assert (first.name, second.seq - first.seq) == ("service.held", 1)
    assert first.revision == second.revision
    assert database.events_after(first.seq) == [second]
    assert database.last_event() == second.seq


def test_the_first_answer_to_a_key_stays_until_it_is_old(database: Database) -> None:
    first = Answer("digest", 202, {"Location": "/v1/switchovers/1"}, "{}")
    database.keep_answer("k", first, AT, kept_s=60)
    database.keep_answer("k", replace(first, status=500), AT + 1, kept_s=60)
    assert database.answer("k") == first
    database.keep_answer("other", first, AT + 100, kept_s=60)
    assert database.answer("k") is None


def test_numbers_are_given_out_once(database: Database) -> None:
    assert [database.next_table_number() for _ in range(3)] == [1, 2, 3]
    assert [database.next_plan_number() for _ in range(2)] == [1, 2]
    database.raise_epoch(41)
    database.raise_epoch(7)
    assert database.hold("shop", True, None, AT, NOTHING).epoch == 42


# ---------------------------------------------------------------- the file


def test_a_store_that_could_not_be_written_is_tried_again_when_it_is_asked_how_it_is(
    database: Database,
) -> None:
    database.check()
    database._connection.execute("PRAGMA query_only = 1")
    database.check()  # nothing was written yet: it is not known
    with pytest.raises(StoreUnusable, match="readonly"):
        database.set_last_run("other")
    for _ in range(2):
        with pytest.raises(StoreUnusable, match="readonly"):
            database.check()
    database._connection.execute("PRAGMA query_only = 0")
    database.check()
    database.check()


def test_a_store_of_a_newer_program_is_left_alone(path: Path) -> None:
    Database(path).close()
    other = sqlite3.connect(path)
    other.execute("UPDATE meta SET schema_version = 99")
    other.commit()
    other.close()
    with pytest.raises(StoreUnusable, match="newer turnout"):
        Database(path)


@pytest.mark.parametrize("content", [b"not a database, just text that is long enough" * 30])
def test_a_file_that_is_no_database_says_what_to_do(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(StoreUnusable, match=r"turnout\.db: .* restore a copy"):
        Database(path)
    assert path.read_bytes() == content


def test_a_damaged_store_is_found_when_it_is_opened(path: Path) -> None:
    database = Database(path)
    database.ensure_services([SHOP], AT, live=False)
    for number in range(200):
        database.note(Note(Audit(Author("ci"), "x" * 100, "shop", str(number))), AT)
    database.close()
    whole = bytearray(path.read_bytes())
    for page in range(2, len(whole) // 4096):
        whole[page * 4096 : page * 4096 + 200] = b"\xff" * 200
    path.write_bytes(whole)
    with pytest.raises(StoreUnusable, match="restore a copy"):
        Database(path)


def test_a_directory_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreUnusable, match=r"nowhere.*state\.path"):
        Database(tmp_path / "nowhere" / "turnout.db")


def test_a_reader_sees_what_a_writer_commits(path: Path, database: Database) -> None:
    reader = Database(path, read_only=True)
    moved(database, 2500)
    (row,) = reader.services()
    assert row.second_weight == 2500
    with pytest.raises(StoreUnusable, match="writable"):
        reader.next_table_number()
    reader.close()


def test_a_read_only_store_is_not_made(path: Path) -> None:
    with pytest.raises(StoreUnusable):
        Database(path, read_only=True)
    assert not path.exists()


def test_every_commit_waits_for_the_disk(database: Database) -> None:
    connection = database._connection  # what promise 4 rests on
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert connection.execute("PRAGMA synchronous").fetchone() == (2,)


WRITER = """
import sys
from pathlib import Path
from turnout.control.database import Database
from turnout.control.rows import Note, ServiceNames, Audit, Author

database = Database(Path(sys.argv[1]))
database.ensure_services([ServiceNames("shop", "blue", "green", 0)], 0.0, live=False)
number = 0
while True:
    number += 1
    row = database.hold("shop", bool(number % 2), None, 0.0,
                        Note(Audit(Author("w"), "hold", "shop", str(number))))
    print(row.epoch, flush=True)
"""


@pytest.mark.parametrize("after", [1, 7, 40])
def test_what_was_acknowledged_survives_kill_9_and_nothing_is_half_done(
    path: Path, after: int
) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert writer.stdout is not None
    acknowledged = [int(writer.stdout.readline()) for _ in range(after)]
    os.kill(writer.pid, signal.SIGKILL)
    acknowledged += [int(line) for line in writer.stdout.read().split()]
    writer.stdout.close()
    assert writer.wait(10) == -signal.SIGKILL
    database = Database(path)
    (row,) = database.services()
    entries = database.audit(limit=100_000)
    # One more may have been committed and not been told any more; never one less.
    assert acknowledged[-1] <= row.epoch <= acknowledged[-1] + 1
    assert row.epoch == len(entries) == int(entries[0].detail) == database.epoch()
    assert row.held is bool(row.epoch % 2)
    database.close()


async def test_the_loop_runs_on_while_the_store_waits(path: Path) -> None:
    store = Store.open(path)
    await store(Database.ensure_services, [SHOP], AT, live=False)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    writing = asyncio.ensure_future(store(Database.hold, "shop", True, None, AT, NOTHING))
    for _ in range(20):
        await asyncio.sleep(0.001)
    assert not writing.done()
    other.execute("ROLLBACK")
    assert (await asyncio.wait_for(writing, 5)).held
    other.close()
    store.close()
