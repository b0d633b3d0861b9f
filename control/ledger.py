"""The store's file: opening it, transactions, revisions and epochs, history.

`database.Database` adds services and switchovers. Every write is one transaction that raises
the store's revision; WAL and `synchronous=FULL`: what has returned survives loss of power.
"""

import json
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from turnout.control.migrations import STEPS
from turnout.control.rows import (
    Answer,
    Audit,
    AuditEntry,
    Note,
    StoredEvent,
    StoreUnusable,
)

SCHEMA: Final = Path(__file__).with_name("schema.sql")
SCHEMA_VERSION: Final = 1
BUSY_TIMEOUT_S: Final = 5.0
LOG_PAGES_MAX: Final = 8192
"""Pages (4 KiB) of the write-ahead log at which a commit carries them over by itself, and waits
for that; `checkpoint`, beside the commits, comes before."""
BUSY_AGAIN_S: Final = 0.2
"""After a lock that was waited for in vain: whoever asks next is not to wait as long."""
COMMITTED_SUFFIX: Final = ".committed.json"
"""Of the copy of the routing beside the store: where there is one, there was a store."""
DECIDED: Final = 0
"""In place of an answer's status: the call's decision is made, and the body names its switchover."""
_ID_DIGITS: Final = 9
"""Base-32 digits of an id: milliseconds since 1970, enough until the year 3084."""
_ALPHABET: Final = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's: no i, l, o, u


class Ledger:
    """An open store. Not for two threads at once; two processes are fine."""

    __slots__ = ("_busy", "_connection", "_files", "_write_failed", "path")

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        """Open it; make it first if there is none, unless `read_only`.

        Raises StoreUnusable: not readable, not a database, damaged, of a newer program.
        """
        self.path = path
        self._write_failed = False
        self._busy = False
        self._files: tuple[tuple[int, int], ...] = ()
        """What the store's files were when it was opened: device and inode."""
        if not read_only and (lost := lost_store(path)):
            raise StoreUnusable(lost)
        try:
            self._connection = _connect(path, read_only)
        except sqlite3.Error as error:
            raise unusable(path, error) from error
        try:
            self._check(read_only)
        except BaseException:
            self._connection.close()
            raise

    def close(self) -> None:
        self._connection.close()

    def check(self) -> None:
        """Raise StoreUnusable when it cannot be read; or written, if the last write failed.

        Only then another one is tried: whoever asks how we are must not wait for the disk.
        """
        self._require_files()
        self.epoch()
        if self._write_failed:
            self.check_writing()

    def check_writing(self) -> None:
        """Raise StoreUnusable when it cannot be written."""
        with self._transaction():
            self._run("UPDATE meta SET revision = revision")

    @property
    def replaced(self) -> bool:
        """Whether its files are others than those that are open: moved, removed, restored."""
        return bool(self._files) and _files(self.path) != self._files

    def _require_files(self) -> None:
        """What is written to a file that has no name any more is lost when we end."""
        if self.replaced:
            raise StoreUnusable(
                f"{self.path} was moved, removed or replaced while it was open: control begins"
                " anew with what is there; what is being served does not change until then"
            )

    def _check(self, read_only: bool) -> None:
        version = self._version()
        if version is None and not read_only:
            self._create()
            version = self._version()
        if version is None:
            raise StoreUnusable(f"{self.path} is empty; start turnout once to have it made")
        if version > SCHEMA_VERSION:
            raise StoreUnusable(
                f"{self.path} was written by a newer turnout (schema {version}, this one knows"
                f" {SCHEMA_VERSION}): start that version, or restore a copy of before"
            )
        if not read_only:
            problem = self._first("PRAGMA quick_check(1)")[0]
            if problem != "ok":
                raise StoreUnusable(f"{self.path} is damaged ({problem}): {_REMEDY}")
            self._migrate()

    def _create(self) -> None:
        with self._transaction():
            if self._version() is None:  # again, inside: another process may have been faster
                for statement in _statements(SCHEMA.read_text(encoding="utf-8")):
                    self._run(statement)
                self._run("INSERT INTO meta VALUES (1, ?, 0, 0, 0, 0, '', '')", SCHEMA_VERSION)
                self._run(f"PRAGMA user_version = {len(STEPS)}")

    def _migrate(self) -> None:
        """Add what stores of earlier versions lack; see `migrations`."""
        if self._first("PRAGMA user_version")[0] >= len(STEPS):
            return
        with self._transaction():
            # Again, inside: another process may have been faster.
            for step in STEPS[self._first("PRAGMA user_version")[0] :]:
                for statement in step:
                    self._run(statement)
            self._run(f"PRAGMA user_version = {len(STEPS)}")

    def _version(self) -> int | None:
        if not self._first("SELECT count(*) FROM sqlite_master WHERE name = 'meta'")[0]:
            return None
        row = self._all("SELECT schema_version FROM meta")
        return row[0][0] if row else None

    # ------------------------------------------------------------ history

    def note(self, note: Note, at: float) -> None:
        """Write events and audit that go with no other change."""
        with self._transaction():
            self._next("revision")
            self._note(note, at)

    def note_refused(self, entries: Sequence[Audit], at: float) -> None:
        """Write calls that were refused into the audit; nothing else has changed by them."""
        with self._transaction():
            revision: int = self._first("SELECT revision FROM meta")[0]
            for entry in entries:
                self._enter(entry, at, revision, refused=True)

    def events_after(self, seq: int, limit: int = 1000) -> list[StoredEvent]:
        """Events with a greater number than `seq`, the oldest first."""
        rows = self._all(
            "SELECT seq, at, name, service, document, revision FROM events WHERE seq > ?"
            " ORDER BY seq LIMIT ?",
            seq,
            limit,
        )
        return [
            StoredEvent(seq, at, name, service, json.loads(document), revision)
            for seq, at, name, service, document, revision in rows
        ]

    def last_event(self) -> int:
        """The newest event's number; 0 when there is none."""
        last: int = self._first("SELECT coalesce(max(seq), 0) FROM events")[0]
        return last

    def audit(self, limit: int = 100, before: int = 0, service: str = "") -> list[AuditEntry]:
        """The newest first; `before` an entry's number, for the next page."""
        rows = self._all(
            "SELECT seq, at, who, address, action, service, detail, reason, outcome, revision"
            " FROM audit WHERE (? = 0 OR seq < ?) AND (? = '' OR service = ?)"
            " ORDER BY seq DESC LIMIT ?",
            *(before, before, service, service, limit),
        )
        return [AuditEntry(*row) for row in rows]

    # ------------------------------------------------------------ calls that come twice

    def answer(self, key: str) -> Answer | None:
        """The answer that was kept for this idempotency key, if there is one."""
        row = self._maybe(
            "SELECT digest, status, headers, body FROM idempotency_keys WHERE key = ?", key
        )
        return None if row is None else Answer(row[0], row[1], json.loads(row[2]), row[3])

    def keep_answer(self, key: str, answer: Answer, at: float, kept_s: float) -> None:
        """Keep the first answer to a key for `kept_s`, and forget those that are older.

        What is of a time to come, as the clock was set back, is kept from now on.
        """
        with self._transaction():
            self._run("DELETE FROM idempotency_keys WHERE at < ?", at - kept_s)
            self._run("UPDATE idempotency_keys SET at = ? WHERE at > ?", at, at)
            self._run(
                "INSERT INTO idempotency_keys VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (key) DO UPDATE"
                " SET status = excluded.status, headers = excluded.headers, body = excluded.body"
                " WHERE status = ?",
                *(key, answer.digest, at, answer.status),
                json.dumps(dict(answer.headers)),
                answer.body,
                DECIDED,
            )

    # ------------------------------------------------------------ counters

    def epoch(self) -> int:
        """The newest epoch that was given out."""
        newest: int = self._first("SELECT epoch FROM meta")[0]
        return newest

    def raise_epoch(self, least: int) -> None:
        """Give out no epoch up to `least` again: the routing words have shown it."""
        with self._transaction():
            self._run("UPDATE meta SET epoch = max(epoch, ?)", least)

    def next_table_number(self) -> int:
        """A number that no table had before."""
        with self._transaction():
            return self._next("table_number")

    def next_plan_number(self) -> int:
        """A number that no plan had before."""
        with self._transaction():
            return self._next("plan_number")

    def last_run(self) -> str:
        """The run (from one full stop to the next) that control saw last; at first empty."""
        run: str = self._first("SELECT run FROM meta")[0]
        return run

    def set_last_run(self, run: str) -> None:
        with self._transaction():
            self._run("UPDATE meta SET run = ?", run)

    # ------------------------------------------------------------ for the subclass

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """All of it or nothing. Immediate: two processes queue here, never half-way."""
        self._require_files()
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            yield
            self._connection.execute("COMMIT")
        except BaseException as error:
            if self._connection.in_transaction:
                with suppress(sqlite3.Error):  # what it cannot undo now is undone at the next start
                    self._connection.execute("ROLLBACK")
            if isinstance(error, (sqlite3.Error, StoreUnusable)):
                self._write_failed = True
            if isinstance(error, sqlite3.Error):
                self._wait_for_lock(not _is_busy(error))
                raise unusable(self.path, error) from error
            raise
        if self._write_failed:
            self._write_failed = False
            self._wait_for_lock(True)
        if not self._files:
            self._files = _files(self.path)

    def _wait_for_lock(self, long: bool) -> None:
        """Wait for a lock as long as ever, or shortly: many calls may wait in our thread."""
        if long == self._busy:
            self._busy = not long
            limit_s = BUSY_TIMEOUT_S if long else BUSY_AGAIN_S
            self._connection.execute(f"PRAGMA busy_timeout = {limit_s * 1000:.0f}")

    def _run(self, statement: str, *values: object) -> None:
        self._connection.execute(statement, values)

    def _all(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        try:
            return self._connection.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            raise unusable(self.path, error) from error

    def _maybe(self, statement: str, *values: object) -> tuple[Any, ...] | None:
        rows = self._all(statement, *values)
        return rows[0] if rows else None

    def _first(self, statement: str, *values: object) -> tuple[Any, ...]:
        return self._all(statement, *values)[0]

    def _next(self, counter: str) -> int:
        """Raise a counter of `meta` by one: `revision`, `epoch`, `table_number`, …"""
        self._run(f"UPDATE meta SET {counter} = {counter} + 1")
        raised: int = self._first(f"SELECT {counter} FROM meta")[0]
        return raised

    def _next_id(self, at: float) -> str:
        """Short, sortable, unique in this store, also when the clock was set back."""
        last: str = self._first("SELECT last_id FROM meta")[0]
        number = int(at * 1000)
        if last:
            number = max(number, _number(last) + 1)
        id = "".join(_ALPHABET[(number >> (5 * place)) & 31] for place in range(_ID_DIGITS))[::-1]
        self._run("UPDATE meta SET last_id = ?", id)
        return id

    def _note(self, note: Note, at: float, subject: str = "") -> None:
        """Write what goes with a change of `subject`, a switchover, or of a service."""
        revision: int = self._first("SELECT revision FROM meta")[0]
        if note.events:
            # Here, as the compiler tells nothing, and the classes of all events take 13 ms.
            from turnout.control import events
        for event in note.events:
            self._run(
                "INSERT INTO events (at, name, service, document, revision) VALUES (?, ?, ?, ?, ?)",
                *(at, event.NAME, event.service),
                json.dumps(events.to_document(event)),
                revision,
            )
        if note.audit is not None:
            self._enter(note.audit, at, revision, refused=False)
            key = note.audit.author.key
            if key is not None:
                # Its answer is not made yet; if it never is, the decision is known all the same.
                self._run(
                    "INSERT OR IGNORE INTO idempotency_keys VALUES (?, ?, ?, ?, '{}', ?)",
                    *(key.name, key.digest, at, DECIDED, subject),
                )

    def _enter(self, entry: Audit, at: float, revision: int, *, refused: bool) -> None:
        self._run(
            "INSERT INTO audit (at, who, address, action, service, detail, reason, outcome,"
            " revision, refused) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            *(at, entry.author.who, entry.author.address, entry.action, entry.service),
            *(entry.detail, entry.author.reason, entry.outcome, revision, int(refused)),
        )


_REMEDY: Final = (
    "restore a copy in its place (docs/operations.md, Backup), or move it and its"
    f" *{COMMITTED_SUFFIX} away to begin anew; what is being served does not change until then"
)


def lost_store(path: Path) -> str:
    """Why a store that was there once must not be made anew; empty when nothing speaks against
    it. An empty one would have every service's first weights, whatever was decided since."""
    copy = Path(f"{path}{COMMITTED_SUFFIX}")
    try:
        if path.stat().st_size:
            return ""
        what = "is empty"
    except FileNotFoundError:
        what = "is not there"
    except OSError:
        return ""  # opening it says why
    if not copy.exists():
        return ""
    return (
        f"{path} {what}, and {copy.name} beside it is of one that was: restore a copy in its place,"
        f" or move {copy.name} away too to begin anew; what is being served does not change"
    )


def _files(path: Path) -> tuple[tuple[int, int], ...]:
    """Device and inode of the store and of what SQLite keeps beside it; zeros: not there."""
    found = []
    for suffix in ("", "-wal", "-shm"):
        try:
            file = os.stat(f"{path}{suffix}")
            found.append((file.st_dev, file.st_ino))
        except OSError:
            found.append((0, 0))
    return tuple(found)


def _is_busy(error: sqlite3.Error) -> bool:
    return str(getattr(error, "sqlite_errorname", "")).startswith("SQLITE_BUSY")


def unusable(path: Path, error: sqlite3.Error) -> StoreUnusable:
    """Say in the operator's words what is the matter with the store, and what to do."""
    name = getattr(error, "sqlite_errorname", "")
    if name.startswith(("SQLITE_CANTOPEN", "SQLITE_READONLY", "SQLITE_PERM")):
        remedy = f"make {path.parent} writable for this user, or set state.path"
    elif name.startswith("SQLITE_BUSY"):
        remedy = f"another process keeps it locked; find it (fuser -v {path}) and end it"
    elif name.startswith(("SQLITE_FULL", "SQLITE_IOERR")):
        remedy = "look at the disk: is it full or failing?"
    else:
        remedy = _REMEDY
    return StoreUnusable(f"{path}: {error}: {remedy}")


def checkpoint(path: Path) -> None:
    """Carry the write-ahead log over into the store's file, in any thread: writers go on.

    In a commit this would take tens of milliseconds, which a switch might wait for. Raises
    StoreUnusable.
    """
    try:
        with closing(_connect(path, read_only=False)) as connection:
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    except sqlite3.Error as error:
        raise unusable(path, error) from error


def _connect(path: Path, read_only: bool) -> sqlite3.Connection:
    mode = "ro" if read_only else "rwc"
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode={mode}",
        uri=True,
        timeout=BUSY_TIMEOUT_S,
        isolation_level=None,
        check_same_thread=False,  # the store's one thread uses it; another one opens it
    )
    try:
        if not read_only:
            connection.execute("PRAGMA journal_mode = WAL").fetchone()
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute(f"PRAGMA wal_autocheckpoint = {LOG_PAGES_MAX}")
        connection.execute("PRAGMA foreign_keys = ON")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _statements(script: str) -> Iterator[str]:
    """The script's statements one by one: `executescript` would commit half-way."""
    statement = ""
    for text in script.splitlines(keepends=True):
        statement += text
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def _number(id: str) -> int:
    number = 0
    for digit in id:
        number = number * 32 + _ALPHABET.index(digit)
    return number
