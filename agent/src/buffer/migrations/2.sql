-- Rows that a flipped bit would turn into other names, numbers or counters carry a checksum; NULL: not computed yet.
ALTER TABLE state ADD COLUMN version INTEGER NOT NULL DEFAULT 2;
ALTER TABLE state ADD COLUMN crc INTEGER;
ALTER TABLE epoch ADD COLUMN crc INTEGER;
ALTER TABLE series ADD COLUMN crc INTEGER;
ALTER TABLE outbox ADD COLUMN crc INTEGER;
ALTER TABLE segment_rows ADD COLUMN crc INTEGER;
