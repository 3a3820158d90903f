-- The ledger. Times are microseconds since 1970 (UTC); ranges are JSON, [[first,last],…].

CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;

-- One row for each object as a listing showed it. An object that is written again gets another etag and another row.
CREATE TABLE segments (
  id              INTEGER PRIMARY KEY,
  key             TEXT NOT NULL,
  etag            TEXT NOT NULL,
  size            INTEGER NOT NULL,
  modified        INTEGER NOT NULL,
  state           TEXT NOT NULL CHECK (state IN ('seen', 'checked', 'batched', 'registered', 'quarantined')),
  -- From the key; null if it is none of a segment.
  gateway         TEXT,
  epoch           TEXT,
  number          INTEGER,
  namespace       TEXT,
  tbl             TEXT,
  -- From the bytes.
  digest          TEXT,
  rows            INTEGER,
  previous_number INTEGER,
  previous_digest TEXT,
  -- From registration or refusal.
  batch           INTEGER,
  snapshot        INTEGER,
  how             TEXT,
  reason          TEXT,
  detail          TEXT,
  copied          INTEGER NOT NULL DEFAULT 0,
  seen_at         INTEGER NOT NULL,
  checked_at      INTEGER,
  settled_at      INTEGER
) STRICT;
CREATE UNIQUE INDEX one_row_per_writing ON segments (key, etag);
-- The heart of "each once": of one id, one object at most is on its way into a table.
CREATE UNIQUE INDEX one_per_number ON segments (gateway, epoch, number)
  WHERE state IN ('checked', 'batched', 'registered');
CREATE INDEX by_number ON segments (gateway, epoch, number);
CREATE INDEX waiting ON segments (namespace, tbl, checked_at) WHERE state = 'checked';
CREATE INDEX in_batch ON segments (namespace, tbl, batch) WHERE batch IS NOT NULL;
CREATE INDEX to_copy ON segments (id) WHERE state = 'quarantined' AND copied = 0;

-- Registered, refused and void numbers of one epoch. Rows of `segments` may go one day, these stay.
CREATE TABLE epochs (
  gateway         TEXT NOT NULL,
  epoch           TEXT NOT NULL,
  registered      TEXT NOT NULL DEFAULT '[]',
  refused         TEXT NOT NULL DEFAULT '[]',
  void            TEXT NOT NULL DEFAULT '[]',
  outstanding     TEXT NOT NULL DEFAULT '[]',
  newest          INTEGER NOT NULL DEFAULT 0,
  newest_at       INTEGER,
  highest         INTEGER,
  highest_digest  TEXT,
  closed_last     INTEGER,
  -- Of the registered ones, those that are left out of the tables for good: nothing registers them again.
  left_out        TEXT NOT NULL DEFAULT '[]',
  -- What receipts of another ledger call registered. Receipts never take it back; it keeps nothing from being registered.
  granted         TEXT NOT NULL DEFAULT '[]',
  PRIMARY KEY (gateway, epoch)
) STRICT, WITHOUT ROWID;

CREATE TABLE gateways (
  gateway          TEXT PRIMARY KEY,
  receipt_revision INTEGER NOT NULL DEFAULT 0,
  receipt_due      INTEGER NOT NULL DEFAULT 0,
  receipt_etag     TEXT,
  receipt_at       INTEGER,
  last_seen        INTEGER,
  short_status     TEXT,
  counters         TEXT,
  status           TEXT,
  status_etag      TEXT
) STRICT, WITHOUT ROWID;

-- One row a table: the last settled batch, and why it stands still if it does.
CREATE TABLE tables (
  namespace   TEXT NOT NULL,
  tbl         TEXT NOT NULL,
  uuid        TEXT,
  batch       INTEGER NOT NULL DEFAULT 0,
  snapshot    INTEGER,
  rows        INTEGER NOT NULL DEFAULT 0,
  files       INTEGER NOT NULL DEFAULT 0,
  settled_at  INTEGER,
  stopped     TEXT,
  PRIMARY KEY (namespace, tbl)
) STRICT, WITHOUT ROWID;

-- Batches 1, 2, 3 … of each table. At most one isn't settled: n + 1 is formed when n is.
CREATE TABLE batches (
  namespace   TEXT NOT NULL,
  tbl         TEXT NOT NULL,
  n           INTEGER NOT NULL,
  state       TEXT NOT NULL CHECK (state IN ('formed', 'settled')),
  formed_at   INTEGER NOT NULL,
  settled_at  INTEGER,
  snapshot    INTEGER,
  uuid        TEXT,
  PRIMARY KEY (namespace, tbl, n)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX one_open_batch ON batches (namespace, tbl) WHERE state = 'formed';

-- Rows of `gaps` that the receiver itself writes. Their names say what they are about, so that each is written once.
CREATE TABLE own_gaps (
  id          TEXT PRIMARY KEY,
  namespace   TEXT NOT NULL,
  day         INTEGER NOT NULL,
  document    TEXT NOT NULL,
  state       TEXT NOT NULL DEFAULT 'waiting' CHECK (state IN ('waiting', 'batched', 'registered')),
  batch       INTEGER
) STRICT, WITHOUT ROWID;
CREATE INDEX own_gaps_waiting ON own_gaps (namespace, state);
