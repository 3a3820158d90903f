-- The buffer's tables, version 4. Epochs stand everywhere by their ordinal; times are microseconds since 1970, UTC; `crc`
-- is the checksum of what identifies a row (`sums.rs`). How this changes from version to version: `migrate.rs`.

-- One row: whose buffer this is, on which machine and file it was last opened, how often, and the schema's version once
-- more: a flipped bit in the file's header must not pass for a later version.
CREATE TABLE state (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    gateway TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    opened INTEGER NOT NULL,
    version INTEGER NOT NULL DEFAULT 2,
    crc INTEGER
);

-- Each life of the buffer; the greatest ordinal is the current one. `books` holds its counters as JSON: those of
-- ingest are as of the last sealing, release or deletion, the newest batch has them newer.
CREATE TABLE epoch (
    ordinal INTEGER PRIMARY KEY,
    epoch TEXT NOT NULL UNIQUE,
    last_number INTEGER NOT NULL,
    last_digest TEXT,
    void TEXT NOT NULL,
    books TEXT NOT NULL,
    crc INTEGER
);

-- One row per commit. `crc` covers all the rest. Small columns come first: they then lie in the leaf page itself.
CREATE TABLE batch (
    id INTEGER PRIMARY KEY,
    epoch INTEGER NOT NULL,
    first_seq INTEGER NOT NULL,
    rows INTEGER NOT NULL,
    min_ts INTEGER NOT NULL,
    max_ts INTEGER NOT NULL,
    min_received INTEGER NOT NULL,
    committed_at INTEGER NOT NULL,
    crc INTEGER NOT NULL,
    head BLOB NOT NULL,
    memory BLOB NOT NULL,
    block BLOB NOT NULL
);

-- What became of a batch's rows; no row means that all of them wait. Apart from `batch`, so that a change of a bitmap
-- doesn't write the block again. `ended`: rows that are registered, shed, moved, or given up.
CREATE TABLE mark (
    batch INTEGER PRIMARY KEY,
    rows INTEGER NOT NULL,
    waiting INTEGER NOT NULL,
    ended INTEGER NOT NULL,
    crc INTEGER NOT NULL,
    sealed BLOB NOT NULL,
    shed BLOB NOT NULL,
    moved BLOB NOT NULL
);
CREATE INDEX mark_ended ON mark (batch) WHERE ended >= rows;

-- The dictionary. `seen_in`: the last epoch that has a reading of it; `sealed_in`: the last that told the lake of it.
CREATE TABLE series (
    key INTEGER PRIMARY KEY,
    namespace TEXT NOT NULL,
    source TEXT NOT NULL,
    device TEXT NOT NULL,
    metric TEXT NOT NULL,
    tags TEXT NOT NULL,
    unit TEXT,
    value_type TEXT NOT NULL,
    first_ts INTEGER NOT NULL,
    last_ts INTEGER NOT NULL,
    seen_in INTEGER NOT NULL,
    sealed_in INTEGER,
    crc INTEGER
);

-- Sealed segments until their receipt. `progress` is JSON; `state` is its name, for the index.
CREATE TABLE outbox (
    epoch INTEGER NOT NULL,
    number INTEGER NOT NULL,
    namespace TEXT NOT NULL,
    tbl TEXT NOT NULL,
    day TEXT NOT NULL,
    digest TEXT NOT NULL,
    size INTEGER NOT NULL,
    rows INTEGER NOT NULL,
    min_ts INTEGER NOT NULL,
    state TEXT NOT NULL,
    progress TEXT NOT NULL,
    attempts INTEGER NOT NULL,
    next_at INTEGER NOT NULL,
    crc INTEGER,
    PRIMARY KEY (epoch, number)
) WITHOUT ROWID;

-- Which rows of which batch a segment of `readings` holds.
CREATE TABLE segment_rows (
    epoch INTEGER NOT NULL,
    number INTEGER NOT NULL,
    batch INTEGER NOT NULL,
    rows BLOB NOT NULL,
    crc INTEGER,
    PRIMARY KEY (epoch, number, batch)
) WITHOUT ROWID;

-- What the window stage decided, per segment of `aggregates`, until no correction can ask for it.
CREATE TABLE decision (
    epoch INTEGER NOT NULL,
    number INTEGER NOT NULL,
    newest INTEGER NOT NULL,
    superseded INTEGER NOT NULL DEFAULT 0,
    decisions BLOB NOT NULL,
    PRIMARY KEY (epoch, number)
) WITHOUT ROWID;

-- Rejected messages, identical ones folded until they are sealed; gone with the receipt of their segment.
CREATE TABLE reject (
    id INTEGER PRIMARY KEY,
    namespace TEXT NOT NULL,
    source TEXT NOT NULL,
    reason TEXT NOT NULL,
    received_at INTEGER NOT NULL,
    topic TEXT NOT NULL,
    detail TEXT,
    size INTEGER NOT NULL,
    payload BLOB,
    hash INTEGER NOT NULL,
    occurrences INTEGER NOT NULL,
    sealed_epoch INTEGER,
    sealed_number INTEGER
);

-- Gaps; gone with the receipt of their segment.
CREATE TABLE gap (
    id TEXT PRIMARY KEY,
    namespace TEXT NOT NULL,
    from_ts INTEGER NOT NULL,
    to_ts INTEGER NOT NULL,
    cancels TEXT,
    source TEXT,
    device TEXT,
    metric TEXT,
    reason TEXT NOT NULL,
    readings INTEGER,
    bytes INTEGER,
    first_seq INTEGER,
    last_seq INTEGER,
    detail TEXT,
    recorded_at INTEGER NOT NULL,
    sealed_epoch INTEGER,
    sealed_number INTEGER
) WITHOUT ROWID;

-- Alerts; gone with the receipt of their segment.
CREATE TABLE alert (
    id TEXT PRIMARY KEY,
    namespace TEXT NOT NULL,
    ts INTEGER NOT NULL,
    device TEXT NOT NULL,
    metric TEXT NOT NULL,
    series TEXT NOT NULL,
    rule TEXT NOT NULL,
    severity TEXT NOT NULL,
    state TEXT NOT NULL,
    value REAL,
    expected REAL,
    sealed_epoch INTEGER,
    sealed_number INTEGER,
    score REAL
) WITHOUT ROWID;

-- Small facts that the stages keep over a restart.
CREATE TABLE setting (
    key TEXT PRIMARY KEY,
    value BLOB NOT NULL
) WITHOUT ROWID;
