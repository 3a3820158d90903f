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
    sealed_number INTEGER
) WITHOUT ROWID;
