"""A store that was damaged, lost, replaced or restored from a copy: what it says, what it takes
over, and what it never makes anew."""

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from turnout.config.model import WHOLE
from turnout.control.database import Database
from turnout.control.ledger import COMMITTED_SUFFIX, DECIDED
from turnout.control.store import (
    Answer,
    Audit,
    Author,
    InForce,
    Key,
    Note,
    ServiceNames,
    Store,
    StoreUnusable,
)
from turnout.control.switchover import State, Switchover

AT = 1_700_000_000.0
SHOP = ServiceNames("shop", "blue", "green", 0)
NOTHING = Note()
THERE = InForce(1, "shop", "blue", "green", WHOLE, False, 57)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "turnout.db"


@pytest.fixture
def database(path: Path) -> Iterator[Database]:
    with closing(Database(path)) as opened:
        opened.ensure_services([SHOP], AT, live=False)
        yield opened


def under_way(database: Database) -> Switchover:
    from tests.control.test_store import new

    return database.start_switchover(new(), AT, lambda _: NOTHING)


# ---------------------------------------------------------------- never made anew


@pytest.mark.parametrize(
    ("left", "says"), [(None, "is not there"), (b"", "is empty")], ids=["gone", "empty"]
)
def test_where_there_was_a_store_none_is_made(path: Path, left: bytes | None, says: str) -> None:
    if left is not None:
        path.write_bytes(left)
    copy = Path(f"{path}{COMMITTED_SUFFIX}")
    copy.write_text("{}")
    with pytest.raises(StoreUnusable, match=f"turnout.db {says}.*move {copy.name} away"):
        Database(path)
    assert (path.read_bytes() if path.exists() else None) == left
    copy.unlink()
    Database(path).close()
    assert path.stat().st_size


def garbled(path: Path) -> None:
    path.write_bytes(b"no database " * 1000)


def without_header(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"\0" * 100)


def garbled_pages(path: Path) -> None:
    with path.open("r+b") as file:
        for page in range(1, path.stat().st_size // 4096):
            file.seek(4096 * page)
            file.write(b"\xff" * 4096)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def of_a_newer_program(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE meta SET schema_version = 999")
        connection.commit()


@pytest.mark.parametrize("damage", [garbled, without_header, garbled_pages, cut])
def test_each_damage_names_the_file_and_what_to_do(
    path: Path, damage: Callable[[Path], None]
) -> None:
    Database(path).close()
    damage(path)
    with pytest.raises(StoreUnusable, match=f"{path}.*restore a copy in its place"):
        Database(path)


def test_garbage_for_a_write_ahead_log_is_not_read(path: Path) -> None:
    """What was in the log is lost then: `adopt` finds that out."""
    Database(path).close()
    Path(f"{path}-wal").write_bytes(b"\xff" * 100_000)
    with closing(Database(path)) as database:
        assert database.ensure_services([SHOP], AT, live=False)[0].second_weight == 0


# ---------------------------------------------------------------- while it is open


def gone(path: Path) -> None:
    path.unlink()


def replaced(path: Path) -> None:
    copy = path.with_suffix(".copy")
    copy.write_bytes(path.read_bytes())
    copy.rename(path)


def without_log(path: Path) -> None:
    Path(f"{path}-wal").unlink()


@pytest.mark.parametrize("change", [gone, replaced, without_log])
def test_nothing_is_written_to_a_file_that_has_lost_its_name(
    path: Path, database: Database, change: Callable[[Path], None]
) -> None:
    assert not database.replaced
    change(path)
    assert database.replaced
    with pytest.raises(StoreUnusable, match="moved, removed or replaced"):
        database.hold("shop", True, None, AT, NOTHING)
    with pytest.raises(StoreUnusable, match="moved, removed or replaced"):
        database.check()


async def test_a_store_that_cannot_be_opened_says_so_to_everybody(path: Path) -> None:
    garbled(path)
    store = Store.open(path)
    assert "not a database" in store.problem
    for _ in range(2):
        with pytest.raises(StoreUnusable, match="not a database"):
            await store(Database.services)
    with pytest.raises(StoreUnusable):
        await store.checkpoint()
    store.close()


async def test_a_store_that_is_given_up_stays_so(path: Path) -> None:
    store = Store.open(path)
    await store(Database.ensure_services, [SHOP], AT, live=False)
    await store.give_up("it is of other workers")
    with pytest.raises(StoreUnusable, match="other workers"):
        await store(Database.services)
    assert not store.replaced
    store.close()


# ---------------------------------------------------------------- what is in force wins


def test_an_older_copy_takes_over_what_is_in_force(database: Database) -> None:
    value = under_way(database)
    (row,) = database.adopt([THERE], 17, AT)
    assert (row.second_weight, row.epoch, row.held) == (WHOLE, 57, False)
    kept = database.switchover(value.id)
    assert kept is not None
    assert kept.overtaken == "the store is older than what is in force"
    assert (kept.revision, kept.state) == (value.revision, State.PENDING)
    (entry,) = database.audit()
    assert (entry.action, entry.who, entry.detail) == (
        "store.adopt", "turnout", "blue=0 green=100",
    )  # fmt: skip
    # No number is given out a second time.
    assert database.hold("shop", True, None, AT, NOTHING).epoch == 58
    assert database.next_table_number() == 18


def test_a_store_that_is_up_to_date_or_ahead_takes_nothing_over(database: Database) -> None:
    database.adopt([THERE], 1, AT)
    assert database.adopt([THERE], 1, AT) == []
    database.hold("shop", False, None, AT, NOTHING)
    ahead = database.services()
    assert database.adopt([THERE], 1, AT) == []
    assert database.services() == ahead


def test_a_new_store_takes_the_slots_of_the_workers(path: Path) -> None:
    there = [replace(THERE, slot=2), InForce(1, "api", "a", "b", 2500, False, 0)]
    with closing(Database(path)) as database:
        assert database.misfit(there) == ""
        database.adopt(there, 3, AT)
        found = {row.name: (row.slot, row.second_weight) for row in database.services()}
        assert found == {"shop": (2, WHOLE), "api": (1, 2500)}
        assert database.misfit(there) == ""


@pytest.mark.parametrize(
    "there",
    [
        replace(THERE, slot=2),
        replace(THERE, name="api"),
        replace(THERE, first="green", second="blue"),
    ],
    ids=["another slot", "another service there", "the other way round"],
)
def test_a_store_of_other_workers_is_not_used(database: Database, there: InForce) -> None:
    problem = database.misfit([there])
    assert str(database.path) in problem
    assert "restart turnout" in problem


# ---------------------------------------------------------------- a decision and its key


def test_a_key_is_kept_with_its_decision_or_not_at_all(database: Database) -> None:
    author = Author("ci", key=Key("ci:42", "digest"))
    held = Note(Audit(author, "service.hold", "shop"))
    with pytest.raises(StoreUnusable):
        database._connection.execute("PRAGMA query_only = 1")
        database.hold("shop", True, None, AT, held)
    database._connection.execute("PRAGMA query_only = 0")
    assert database.answer("ci:42") is None
    database.hold("shop", True, None, AT, held)
    assert database.answer("ci:42") == Answer("digest", DECIDED, {}, "")
    answer = Answer("digest", 200, {}, "{}")
    database.keep_answer("ci:42", answer, AT, kept_s=60)
    assert database.answer("ci:42") == answer


def test_a_key_of_a_switchover_names_it(database: Database) -> None:
    from tests.control.test_store import new

    entry = Audit(Author("ci", key=Key("ci:43", "digest")), "switchover.start", "shop")
    value = database.start_switchover(new(), AT, lambda _: Note(entry))
    found = database.answer("ci:43")
    assert found is not None
    assert (found.status, found.body) == (DECIDED, value.id)


def test_keys_of_a_time_to_come_are_kept_from_now_on(database: Database) -> None:
    answer = Answer("digest", 200, {}, "{}")
    database.keep_answer("early", answer, AT + 1_000_000, kept_s=60)
    database.keep_answer("now", answer, AT, kept_s=60)
    assert database.answer("early") == answer
    database.keep_answer("later", answer, AT + 61, kept_s=60)
    assert database.answer("early") is None
