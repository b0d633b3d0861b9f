"""Stores of earlier versions: what is added to them when they are opened.

`schema.sql` is what a new store is made by. Each step here brings an older one nearer to it,
all in one transaction. Steps only add: the version in `meta` says which programs can use a
store and rises only when an older one no longer could, so that an upgrade that is taken back
finds a store that it can open. How many steps a store has had is its `user_version`.
"""

from typing import Final

STEPS: Final[tuple[tuple[str, ...], ...]] = (
    # 1: refused calls stand in the audit too, with room of their own, and an entry can neither
    # be replaced by an INSERT (which is no DELETE to a trigger) nor be taken out of the middle.
    (
        "ALTER TABLE audit ADD COLUMN refused INTEGER NOT NULL DEFAULT 0 CHECK (refused IN (0, 1))",
        "CREATE INDEX audit_by_refused ON audit (refused, seq)",
        "DROP TRIGGER audit_is_not_deleted",
        "CREATE TRIGGER audit_is_not_deleted BEFORE DELETE ON audit"
        " WHEN NOT EXISTS (SELECT 1 FROM trimming WHERE table_name = 'audit')"
        " OR OLD.seq > (SELECT min(seq) FROM audit WHERE refused = OLD.refused)"
        " BEGIN SELECT RAISE(ABORT, 'the audit is append-only'); END",
        "CREATE TRIGGER audit_is_not_replaced BEFORE INSERT ON audit"
        " WHEN EXISTS (SELECT 1 FROM audit WHERE seq = NEW.seq)"
        " BEGIN SELECT RAISE(ABORT, 'the audit is append-only'); END",
    ),
    # 2: what a switchover moves beyond the proxy, and its gates.
    (
        "CREATE TABLE outer_firsts (switchover TEXT PRIMARY KEY REFERENCES switchovers (id)"
        " ON DELETE CASCADE, document TEXT NOT NULL) STRICT",
        "CREATE TABLE outer_moves (switchover TEXT NOT NULL REFERENCES switchovers (id)"
        " ON DELETE CASCADE, step INTEGER NOT NULL, document TEXT NOT NULL,"
        " PRIMARY KEY (switchover, step)) STRICT",
        "CREATE TABLE outer_tails (switchover TEXT PRIMARY KEY REFERENCES switchovers (id)"
        " ON DELETE CASCADE, document TEXT NOT NULL) STRICT",
        "CREATE TABLE gate_results (switchover TEXT NOT NULL REFERENCES switchovers (id)"
        " ON DELETE CASCADE, step INTEGER NOT NULL, name TEXT NOT NULL, document TEXT NOT NULL,"
        " PRIMARY KEY (switchover, step, name)) STRICT",
    ),
    # 3: servers that were found by a source.
    (
        "CREATE TABLE discovered (service TEXT NOT NULL, upstream TEXT NOT NULL,"
        " servers TEXT NOT NULL, PRIMARY KEY (service, upstream)) STRICT",
    ),
)
