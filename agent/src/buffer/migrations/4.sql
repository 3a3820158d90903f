-- How far a value was from what was expected.
ALTER TABLE alert ADD COLUMN score REAL;
