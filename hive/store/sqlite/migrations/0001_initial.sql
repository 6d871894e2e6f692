-- The first schema. Never edited after release: later changes are files of their own.

CREATE TABLE meta (
    key TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE batch (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    created_at_ms INTEGER NOT NULL,
    budget_usd REAL CHECK (budget_usd >= 0),
    reserved_usd REAL NOT NULL DEFAULT 0
) STRICT;

CREATE TABLE task (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    batch_id INTEGER NOT NULL REFERENCES batch (id),
    key TEXT,
    parent_id INTEGER REFERENCES task (id),
    role TEXT NOT NULL,
    priority INTEGER NOT NULL,
    spec TEXT NOT NULL, -- what was asked for, as JSON; never changes but for its priority, which stands beside it
    state TEXT NOT NULL CHECK (state IN (
        'blocked', 'queued', 'in_progress', 'waiting', 'needs_you', 'completed', 'failed', 'cancelled'
    )),
    phase TEXT NOT NULL CHECK (phase IN ('plan', 'apply', 'test', 'review', 'merge')),
    reason TEXT,
    attempt INTEGER NOT NULL DEFAULT 0 CHECK (attempt >= 0),
    round INTEGER NOT NULL DEFAULT 0 CHECK (round >= 0),
    held INTEGER NOT NULL DEFAULT 0 CHECK (held IN (0, 1)),
    parked INTEGER NOT NULL DEFAULT 0 CHECK (parked IN (0, 1)), -- waits for not_before_at_ms; a claim clears it when due
    not_before_at_ms INTEGER,
    cancel_requested INTEGER NOT NULL DEFAULT 0 CHECK (cancel_requested IN (0, 1)),
    session_id TEXT,
    branch TEXT,
    base_commit TEXT,
    head_commit TEXT,
    workspace TEXT,
    feedback TEXT NOT NULL DEFAULT '',
    failure_code TEXT,
    failure_message TEXT,
    failure_group TEXT,
    alike INTEGER NOT NULL DEFAULT 0,
    exit_code INTEGER,
    input_tokens INTEGER NOT NULL DEFAULT 0,
    output_tokens INTEGER NOT NULL DEFAULT 0,
    cache_read_tokens INTEGER NOT NULL DEFAULT 0,
    cache_creation_tokens INTEGER NOT NULL DEFAULT 0,
    cost_usd REAL NOT NULL DEFAULT 0,
    duration_s REAL NOT NULL DEFAULT 0,
    runs INTEGER NOT NULL DEFAULT 0,
    created_at_ms INTEGER NOT NULL,
    started_at_ms INTEGER,
    finished_at_ms INTEGER,
    UNIQUE (batch_id, key),
    CHECK ((state IN ('completed', 'failed', 'cancelled')) = (finished_at_ms IS NOT NULL)),
    CHECK (parked = 0 OR (state = 'queued' AND not_before_at_ms IS NOT NULL))
) STRICT;

CREATE INDEX task_startable ON task (role, priority DESC, id) WHERE state = 'queued' AND held = 0 AND parked = 0;
CREATE INDEX task_parked ON task (not_before_at_ms) WHERE parked = 1;
CREATE INDEX task_parent ON task (parent_id) WHERE parent_id IS NOT NULL;
CREATE INDEX task_finished ON task (finished_at_ms) WHERE finished_at_ms IS NOT NULL;

CREATE TABLE need (
    task_id INTEGER NOT NULL REFERENCES task (id) ON DELETE CASCADE,
    needs_id INTEGER NOT NULL REFERENCES task (id) ON DELETE CASCADE,
    PRIMARY KEY (task_id, needs_id)
) STRICT, WITHOUT ROWID;

CREATE INDEX need_by_need ON need (needs_id, task_id);

CREATE TABLE incarnation (
    name TEXT PRIMARY KEY,
    host TEXT NOT NULL,
    boot_id TEXT NOT NULL,
    lease_until_s REAL NOT NULL, -- the host's monotonic clock, in this boot
    renewed_at_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE run (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    task_id INTEGER NOT NULL REFERENCES task (id) ON DELETE CASCADE,
    phase TEXT NOT NULL CHECK (phase IN ('plan', 'apply', 'test', 'review', 'merge')),
    attempt INTEGER NOT NULL,
    round INTEGER NOT NULL,
    shard TEXT NOT NULL,
    host TEXT NOT NULL,
    opened_at_ms INTEGER NOT NULL,
    started_at_ms INTEGER,
    ended_at_ms INTEGER,
    pid INTEGER,
    pid_started INTEGER,
    boot_id TEXT,
    outcome TEXT,
    released INTEGER NOT NULL DEFAULT 0 CHECK (released IN (0, 1)),
    failure_code TEXT,
    failure_message TEXT,
    failure_group TEXT,
    exit_code INTEGER,
    session_id TEXT,
    input_tokens INTEGER NOT NULL DEFAULT 0,
    output_tokens INTEGER NOT NULL DEFAULT 0,
    cache_read_tokens INTEGER NOT NULL DEFAULT 0,
    cache_creation_tokens INTEGER NOT NULL DEFAULT 0,
    cost_usd REAL NOT NULL DEFAULT 0,
    duration_s REAL NOT NULL DEFAULT 0,
    reserved_usd REAL NOT NULL DEFAULT 0,
    CHECK ((ended_at_ms IS NULL) = (outcome IS NULL))
) STRICT;

CREATE UNIQUE INDEX run_one_open ON run (task_id) WHERE ended_at_ms IS NULL;
CREATE INDEX run_open ON run (shard) WHERE ended_at_ms IS NULL;
CREATE INDEX run_task ON run (task_id, id);

CREATE TABLE limit_signal (
    id INTEGER PRIMARY KEY,
    at_ms INTEGER NOT NULL,
    kind TEXT NOT NULL,
    host TEXT NOT NULL,
    until_at_ms INTEGER,
    detail TEXT NOT NULL
) STRICT;

CREATE TABLE steering (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    paused INTEGER NOT NULL DEFAULT 0 CHECK (paused IN (0, 1)),
    agents INTEGER CHECK (agents >= 1),
    stop TEXT NOT NULL DEFAULT 'no' CHECK (stop IN ('no', 'drain', 'now')),
    changes INTEGER NOT NULL DEFAULT 0
) STRICT;

INSERT INTO steering (id) VALUES (1);

CREATE TABLE event (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    at_ms INTEGER NOT NULL,
    kind TEXT NOT NULL,
    task_id INTEGER,
    run_id INTEGER,
    data TEXT NOT NULL
) STRICT;

CREATE INDEX event_task ON event (task_id, seq) WHERE task_id IS NOT NULL;

-- How many tasks stand where, so that no status ever counts a million rows.
CREATE TABLE counter (
    batch_id INTEGER NOT NULL REFERENCES batch (id),
    state TEXT NOT NULL,
    role TEXT NOT NULL,
    held INTEGER NOT NULL,
    parked INTEGER NOT NULL,
    n INTEGER NOT NULL CHECK (n >= 0),
    PRIMARY KEY (batch_id, state, role, held, parked)
) STRICT, WITHOUT ROWID;

CREATE TRIGGER task_counted_in AFTER INSERT ON task BEGIN
    INSERT INTO counter (batch_id, state, role, held, parked, n)
    VALUES (NEW.batch_id, NEW.state, NEW.role, NEW.held, NEW.parked, 1)
    ON CONFLICT DO UPDATE SET n = n + 1;
END;

CREATE TRIGGER task_counted_out AFTER DELETE ON task BEGIN
    UPDATE counter SET n = n - 1
    WHERE batch_id = OLD.batch_id AND state = OLD.state AND role = OLD.role
      AND held = OLD.held AND parked = OLD.parked;
END;

CREATE TRIGGER task_recounted AFTER UPDATE OF state, held, parked ON task
WHEN OLD.state <> NEW.state OR OLD.held <> NEW.held OR OLD.parked <> NEW.parked BEGIN
    UPDATE counter SET n = n - 1
    WHERE batch_id = OLD.batch_id AND state = OLD.state AND role = OLD.role
      AND held = OLD.held AND parked = OLD.parked;
    INSERT INTO counter (batch_id, state, role, held, parked, n)
    VALUES (NEW.batch_id, NEW.state, NEW.role, NEW.held, NEW.parked, 1)
    ON CONFLICT DO UPDATE SET n = n + 1;
END;
