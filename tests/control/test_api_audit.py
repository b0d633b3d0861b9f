"""What the audit says: of what was done and of what was refused, and that nothing takes it back."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import pytest

from tests.control.api_bench import READ, TOKENS, WRITE, ApiBench, served
from turnout.control import ledger
from turnout.control.database import Database
from turnout.control.migrations import STEPS
from turnout.control.refused_calls import KINDS_MAX, RefusedCalls
from turnout.control.rows import Audit, Author, Note, StoreUnusable
from turnout.control.store import Store

SHOP: Final = "/v1/services/shop"
CI: Final = Author("ci", "10.0.0.9", "v42")


@pytest.fixture
async def guarded(tmp_path: Path) -> AsyncIterator[ApiBench]:
    async with served(tmp_path, TOKENS) as made:
        yield made


async def audit(api: ApiBench) -> list[dict[str, Any]]:
    await api.context.refused.flush()
    items: list[dict[str, Any]] = (await api.call("GET", "/v1/audit", **WRITE))[1]["items"]
    return items


# ---------------------------------------------------------------- what was refused


async def test_a_refused_call_stands_in_the_audit_with_who_and_why(guarded: ApiBench) -> None:
    hold = f"{SHOP}/hold"
    await guarded.call("POST", hold)
    await guarded.call("POST", hold, Authorization="Bearer wrong-wrong-wrong-wrong")
    await guarded.call("POST", hold, **READ)
    await guarded.call("POST", hold, Origin="https://evil.example", **WRITE)
    await guarded.call("POST", hold, If_Match='"0"', Idempotency_Key="k", **WRITE)
    await guarded.call("POST", f"{SHOP}/rollback", **WRITE)
    found = [
        (entry["who"], entry["address"], entry["action"], entry["service"], entry["outcome"])
        for entry in reversed(await audit(guarded))
    ]
    assert found == [
        ("?", "127.0.0.1", "call.hold", "shop", "refused: token-needed"),
        ("?", "127.0.0.1", "call.hold", "shop", "refused: token-needed"),
        ("dashboard", "127.0.0.1", "call.hold", "shop", "refused: scope-too-small"),
        ("?", "127.0.0.1", "call.hold", "shop", "refused: foreign-origin"),
        ("ci", "127.0.0.1", "call.hold", "shop", "refused: stale-revision"),
        ("ci", "127.0.0.1", "call.rollback", "shop", "refused: nothing-to-roll-back"),
    ]


async def test_what_only_looks_and_what_is_a_slip_is_counted_but_not_audited(
    guarded: ApiBench,
) -> None:
    await guarded.call("GET", SHOP)
    await guarded.call("POST", "/v1/nothing", **WRITE)
    await guarded.call("POST", f"{SHOP}/hold", {"reasom": "x"}, **WRITE)
    await guarded.call("POST", "/v1/services/shoe/hold", **WRITE)
    assert await audit(guarded) == []
    counts = guarded.context.refused.counts
    assert counts == {
        "token-needed": 1, "not-found": 1, "malformed-body": 1, "unknown-service": 1,
    }  # fmt: skip
    text = await (await guarded.raw("GET", "/metrics", **WRITE)).text()
    assert 'turnout_api_calls_refused_total{problem="malformed-body"} 1.0' in text


async def test_the_same_refusal_again_and_again_is_one_entry(guarded: ApiBench) -> None:
    for _ in range(7):
        await guarded.call("POST", f"{SHOP}/hold", **READ)
    (entry,) = await audit(guarded)
    assert entry["detail"].startswith("7 times: the token dashboard may read")


async def test_a_flood_of_refusals_is_a_few_entries(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "turnout.db")
    refused = RefusedCalls(store, lambda: 1.0)
    for number in range(1000):
        refused.note(CI, "hold", f"s{number}", "stale-revision", "x" * 1000)
    await refused.flush()
    entries = await store(Database.audit)
    assert len(entries) == KINDS_MAX + 1
    assert entries[0].detail == f"{1000 - KINDS_MAX} more calls"
    assert max(len(entry.detail) for entry in entries) == 300
    await refused.flush()
    assert len(await store(Database.audit)) == KINDS_MAX + 1
    store.close()


async def test_what_cannot_be_written_is_written_later(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "turnout.db")
    refused = RefusedCalls(store, lambda: 1.0)
    refused.note(CI, "hold", "shop", "stale-revision", "x")
    with closing(sqlite3.connect(tmp_path / "turnout.db", isolation_level=None)) as other:
        other.execute("ALTER TABLE audit RENAME TO hidden")
        with pytest.raises(StoreUnusable):
            await refused.flush()
        other.execute("ALTER TABLE hidden RENAME TO audit")
    await refused.flush()
    assert [entry.outcome for entry in await store(Database.audit)] == ["refused: stale-revision"]
    store.close()


async def test_a_refused_force_says_why_it_needs_a_reason(guarded: ApiBench) -> None:
    calls: tuple[tuple[str, dict[str, Any]], ...] = (
        (f"{SHOP}/switchovers", {"to": "green"}),
        (f"{SHOP}/rollback", {}),
    )
    for path, asked in calls:
        for reason in ({}, {"reason": ""}, {"reason": " \t"}):
            answer = await guarded.call("POST", path, {**asked, "force": True, **reason}, **WRITE)
            assert answer[0] == 400
            assert "force needs a reason" in str(answer[1]["errors"])
    body = {"weights": {"blue": 50, "green": 50}, "force": True}
    assert (await guarded.call("PUT", f"{SHOP}/weights", body, **WRITE))[0] == 400
    forced = {"to": "green", "force": True, "reason": "it is the probe that is wrong"}
    assert (await guarded.call("POST", f"{SHOP}/switchovers", forced, **WRITE))[0] == 202


# ---------------------------------------------------------------- nothing takes it back


def done(database: Database, number: int) -> None:
    database.note(Note(Audit(CI, f"done {number}", "shop")), number)


def refuse(database: Database, number: int) -> None:
    database.note_refused([Audit(CI, f"refused {number}", "shop", outcome="refused: x")], number)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "turnout.db"


@pytest.fixture
def database(path: Path) -> Iterator[Database]:
    with closing(Database(path)) as opened:
        for number in range(4):
            done(opened, number)
            refuse(opened, number)
        yield opened


def actions(database: Database) -> list[str]:
    return [entry.action for entry in reversed(database.audit())]


ALL: Final = [f"{what} {number}" for number in range(4) for what in ("done", "refused")]
NEW: Final = "(at, who, address, action, service, detail, reason, outcome, revision)"


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit SET who = 'somebody else'",
        "UPDATE audit SET refused = 1 - refused",
        "UPDATE OR REPLACE audit SET seq = 2 WHERE seq = 1",
        "DELETE FROM audit",
        "DELETE FROM audit WHERE seq = 1",
        f"INSERT OR REPLACE INTO audit (seq, {NEW[1:]} VALUES (1, 1, '', '', '', '', '', '', '', 1)",
        f"REPLACE INTO audit (seq, {NEW[1:]} VALUES (8, 1, '', '', '', '', '', '', '', 1)",
        f"INSERT INTO audit (seq, {NEW[1:]} VALUES (3, 1, '', '', '', '', '', '', '', 1)"
        " ON CONFLICT DO UPDATE SET who = 'x'",
    ],
)
def test_an_entry_is_neither_changed_nor_replaced_nor_taken_away(
    path: Path, database: Database, statement: str
) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            other.execute(statement)
        # Also for who trims: only the oldest of its kind may go.
        other.execute("BEGIN")
        other.execute("INSERT INTO trimming VALUES ('audit')")
        if not statement.startswith("DELETE"):
            with pytest.raises(sqlite3.IntegrityError, match="append-only"):
                other.execute(statement)
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            other.execute("DELETE FROM audit WHERE seq IN (5, 6)")
        other.execute("ROLLBACK")
    assert actions(database) == ALL


def test_refusals_have_room_of_their_own(database: Database) -> None:
    for number in range(4, 50):
        refuse(database, number)
    database.trim(switchovers_kept=10, audit_kept=3, refusals_kept=2, events_kept=10)
    assert actions(database) == ["done 1", "done 2", "done 3", "refused 48", "refused 49"]
    done(database, 50)
    database.trim(switchovers_kept=10, audit_kept=100, refusals_kept=100, events_kept=10)
    assert actions(database)[-1] == "done 50"
    assert database.audit()[0].seq == 55, "a number is never given out again"


# ---------------------------------------------------------------- stores of before

VERSION_1: Final = """
CREATE TABLE audit (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, at REAL NOT NULL, who TEXT NOT NULL,
    address TEXT NOT NULL, action TEXT NOT NULL, service TEXT NOT NULL, detail TEXT NOT NULL,
    reason TEXT NOT NULL, outcome TEXT NOT NULL, revision INTEGER NOT NULL
) STRICT;
CREATE TRIGGER audit_is_not_changed BEFORE UPDATE ON audit
BEGIN SELECT RAISE(ABORT, 'the audit is append-only'); END;
CREATE TRIGGER audit_is_not_deleted BEFORE DELETE ON audit
WHEN NOT EXISTS (SELECT 1 FROM trimming WHERE table_name = 'audit')
BEGIN SELECT RAISE(ABORT, 'the audit is append-only'); END;
"""
"""The tables and triggers that later steps change, as the first version made them."""


def make_version_1(path: Path) -> None:
    """A store as the first version left it, with two entries in its audit."""
    Database(path).close()
    with closing(sqlite3.connect(path)) as old:
        later = (
            "audit",
            "outer_moves",
            "outer_firsts",
            "outer_tails",
            "gate_results",
            "discovered",
        )
        old.executescript("".join(f"DROP TABLE {name};" for name in later) + VERSION_1)
        for number in (1, 2):
            old.execute(
                f"INSERT INTO audit {NEW} VALUES (?, 'ci', '', ?, 'shop', '', '', 'done', 1)",
                (number, f"old {number}"),
            )
        old.execute("PRAGMA user_version = 0")
        old.commit()


def layout(path: Path) -> list[tuple[str, str, str]]:
    """Every table, its columns as SQLite has them, every index and trigger, without blanks."""
    with closing(sqlite3.connect(path)) as link:
        rows = link.execute("SELECT type, name, sql FROM sqlite_master WHERE sql NOT NULL")
        found = []
        for kind, name, sql in rows.fetchall():
            if kind == "table":
                columns = link.execute(f"PRAGMA table_info({name})").fetchall()
                found.append((kind, name, str(columns)))
            else:
                found.append((kind, name, " ".join(sql.split()).rstrip(";")))
        return sorted(found)


def test_a_store_of_the_first_version_becomes_as_a_new_one(path: Path, tmp_path: Path) -> None:
    make_version_1(path)
    with closing(Database(path)) as database:
        assert actions(database) == ["old 1", "old 2"]
        refuse(database, 3)
        done(database, 4)
        database.trim(switchovers_kept=10, audit_kept=2, refusals_kept=1, events_kept=10)
        assert actions(database) == ["old 2", "refused 3", "done 4"]
    Database(tmp_path / "new.db").close()
    assert layout(path) == layout(tmp_path / "new.db")


def test_the_version_before_can_still_open_it(path: Path) -> None:
    """An upgrade that is taken back finds a store that the old program takes."""
    make_version_1(path)
    Database(path).close()
    with closing(sqlite3.connect(path, isolation_level=None)) as old:
        assert old.execute("SELECT schema_version FROM meta").fetchone() == (1,)
        assert old.execute("PRAGMA user_version").fetchone() == (len(STEPS),)
        # As the first version writes and trims.
        old.execute(f"INSERT INTO audit {NEW} VALUES (9, 'ci', '', 'x', '', '', '', 'done', 1)")
        old.execute("BEGIN")
        old.execute("INSERT INTO trimming VALUES ('audit')")
        old.execute("DELETE FROM audit WHERE seq <= (SELECT max(seq) FROM audit) - 1")
        old.execute("DELETE FROM trimming")
        old.execute("COMMIT")
    with closing(Database(path)) as database:
        assert actions(database) == ["x"]


def test_a_step_that_fails_leaves_the_store_as_it_was(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_version_1(path)
    before = layout(path)
    monkeypatch.setattr(ledger, "STEPS", (STEPS[0], ("CREATE TABLE nonsense",)))
    with pytest.raises(StoreUnusable):
        Database(path)
    assert layout(path) == before
    monkeypatch.undo()
    Database(path).close()


async def test_two_processes_that_open_an_old_store_at_once_do_it_once(path: Path) -> None:
    make_version_1(path)
    opened = await asyncio.gather(*(asyncio.to_thread(Database, path) for _ in range(8)))
    for database in opened:
        assert actions(database) == ["old 1", "old 2"]
        database.close()
