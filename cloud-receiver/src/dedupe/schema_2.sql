-- From version 1 to version 2.

ALTER TABLE epochs ADD COLUMN left_out TEXT NOT NULL DEFAULT '[]';
ALTER TABLE epochs ADD COLUMN granted TEXT NOT NULL DEFAULT '[]';

CREATE TABLE own_gaps (
  id          TEXT PRIMARY KEY,
  namespace   TEXT NOT NULL,
  day         INTEGER NOT NULL,
  document    TEXT NOT NULL,
  state       TEXT NOT NULL DEFAULT 'waiting' CHECK (state IN ('waiting', 'batched', 'registered')),
  batch       INTEGER
) STRICT, WITHOUT ROWID;
CREATE INDEX own_gaps_waiting ON own_gaps (namespace, state);
