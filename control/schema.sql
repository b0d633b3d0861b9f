-- What Turnout remembers. One file, one writer thread; the compiler opens it too.
-- Times are seconds since 1970; weights are hundredths of a percent of the second upstream.
-- `revision` is the store's, of the transaction that wrote the row last.

CREATE TABLE meta (
    only             INTEGER PRIMARY KEY CHECK (only = 1),
    schema_version   INTEGER NOT NULL,
    revision         INTEGER NOT NULL,
    -- One counter over all services: raised in the transaction of the decision it belongs to.
    epoch            INTEGER NOT NULL,
    table_number     INTEGER NOT NULL,
    plan_number      INTEGER NOT NULL,
    last_id          TEXT    NOT NULL,
    -- The run that control saw last: another one after everything was stopped.
    run              TEXT    NOT NULL
) STRICT;

-- A service keeps its slot, and its upstreams their order, for the store's life.
CREATE TABLE services (
    slot             INTEGER PRIMARY KEY CHECK (slot >= 1),
    name             TEXT    NOT NULL UNIQUE,
    first            TEXT    NOT NULL,
    second           TEXT    NOT NULL,
    second_weight    INTEGER NOT NULL CHECK (second_weight BETWEEN 0 AND 10000),
    epoch            INTEGER NOT NULL,
    held             INTEGER NOT NULL CHECK (held IN (0, 1)),
    hold_until       REAL,
    -- What the API set instead of the file's servers: {"blue": ["10.0.0.7:9001"]}.
    servers          TEXT    NOT NULL,
    last_seen_at     REAL    NOT NULL,
    revision         INTEGER NOT NULL
) STRICT;

-- Servers that a source has found, the last known: ["10.0.0.7:9001"].
CREATE TABLE discovered (
    service          TEXT    NOT NULL,
    upstream         TEXT    NOT NULL,
    servers          TEXT    NOT NULL,
    PRIMARY KEY (service, upstream)
) STRICT;

CREATE TABLE switchovers (
    id               TEXT    PRIMARY KEY,
    service          TEXT    NOT NULL,
    state            TEXT    NOT NULL,
    final            INTEGER NOT NULL CHECK (final IN (0, 1)),
    weights_before   INTEGER NOT NULL,
    second_weight    INTEGER NOT NULL,
    document         TEXT    NOT NULL,
    in_flight        TEXT    NOT NULL,
    receipt          TEXT,
    revision         INTEGER NOT NULL
) STRICT;

-- One under way a service, whoever asks: the index refuses a second.
CREATE UNIQUE INDEX one_under_way ON switchovers (service) WHERE final = 0;
CREATE INDEX switchovers_by_service ON switchovers (service, id);

-- Which weights were decided for which step, and when they were carried out.
CREATE TABLE switchover_steps (
    switchover       TEXT    NOT NULL REFERENCES switchovers (id) ON DELETE CASCADE,
    step             INTEGER NOT NULL,
    command          TEXT    NOT NULL,
    epoch            INTEGER NOT NULL,
    decided_at       REAL    NOT NULL,
    done_at          REAL,
    outcome          TEXT    NOT NULL,
    PRIMARY KEY (switchover, step)
) STRICT;

-- How switchovers ended, counted for ever: /metrics must not fall when history is trimmed.
CREATE TABLE ended (
    service          TEXT    NOT NULL,
    state            TEXT    NOT NULL,
    count            INTEGER NOT NULL,
    PRIMARY KEY (service, state)
) STRICT;

-- The counters at the beginning of a switchover's window.
CREATE TABLE baselines (
    switchover       TEXT    PRIMARY KEY REFERENCES switchovers (id) ON DELETE CASCADE,
    document         TEXT    NOT NULL
) STRICT;

-- What an outer system (DNS, a load balancer) had when a switchover first looked: what going back
-- restores; how far each step's move of it is, written before its call and after it; and who came
-- by the old way afterwards.
CREATE TABLE outer_firsts (
    switchover       TEXT    PRIMARY KEY REFERENCES switchovers (id) ON DELETE CASCADE,
    document         TEXT    NOT NULL
) STRICT;

CREATE TABLE outer_moves (
    switchover       TEXT    NOT NULL REFERENCES switchovers (id) ON DELETE CASCADE,
    step             INTEGER NOT NULL,
    document         TEXT    NOT NULL,
    PRIMARY KEY (switchover, step)
) STRICT;

CREATE TABLE outer_tails (
    switchover       TEXT    PRIMARY KEY REFERENCES switchovers (id) ON DELETE CASCADE,
    document         TEXT    NOT NULL
) STRICT;

-- The last answer of each gate at each step.
CREATE TABLE gate_results (
    switchover       TEXT    NOT NULL REFERENCES switchovers (id) ON DELETE CASCADE,
    step             INTEGER NOT NULL,
    name             TEXT    NOT NULL,
    document         TEXT    NOT NULL,
    PRIMARY KEY (switchover, step, name)
) STRICT;

-- Exchanges that were cut, by name.
CREATE TABLE casualties (
    seq              INTEGER PRIMARY KEY AUTOINCREMENT,
    at               REAL    NOT NULL,
    service          TEXT    NOT NULL,
    switchover       TEXT,
    document         TEXT    NOT NULL
) STRICT;
CREATE INDEX casualties_by_service ON casualties (service, at);

-- What is told outside, in order; `seq` is the id of the event stream.
CREATE TABLE events (
    seq              INTEGER PRIMARY KEY AUTOINCREMENT,
    at               REAL    NOT NULL,
    name             TEXT    NOT NULL,
    service          TEXT    NOT NULL,
    document         TEXT    NOT NULL,
    revision         INTEGER NOT NULL
) STRICT;

CREATE TABLE audit (
    seq              INTEGER PRIMARY KEY AUTOINCREMENT,
    at               REAL    NOT NULL,
    who              TEXT    NOT NULL,
    address          TEXT    NOT NULL,
    action           TEXT    NOT NULL,
    service          TEXT    NOT NULL,
    detail           TEXT    NOT NULL,
    reason           TEXT    NOT NULL,
    outcome          TEXT    NOT NULL,
    revision         INTEGER NOT NULL,
    refused          INTEGER NOT NULL DEFAULT 0 CHECK (refused IN (0, 1))
) STRICT;
CREATE INDEX audit_by_refused ON audit (refused, seq);

-- The audit is only ever added to. The oldest entries go by `trimming`, which one transaction
-- sets: of what was done and of what was refused, each in its order.
CREATE TABLE trimming (table_name TEXT PRIMARY KEY) STRICT;
CREATE TRIGGER audit_is_not_changed BEFORE UPDATE ON audit
BEGIN SELECT RAISE(ABORT, 'the audit is append-only'); END;
CREATE TRIGGER audit_is_not_deleted BEFORE DELETE ON audit
WHEN NOT EXISTS (SELECT 1 FROM trimming WHERE table_name = 'audit')
  OR OLD.seq > (SELECT min(seq) FROM audit WHERE refused = OLD.refused)
BEGIN SELECT RAISE(ABORT, 'the audit is append-only'); END;
CREATE TRIGGER audit_is_not_replaced BEFORE INSERT ON audit
WHEN EXISTS (SELECT 1 FROM audit WHERE seq = NEW.seq)
BEGIN SELECT RAISE(ABORT, 'the audit is append-only'); END;

CREATE TABLE idempotency_keys (
    key              TEXT    PRIMARY KEY,
    digest           TEXT    NOT NULL,
    at               REAL    NOT NULL,
    status           INTEGER NOT NULL,
    headers          TEXT    NOT NULL,
    body             TEXT    NOT NULL
) STRICT;
