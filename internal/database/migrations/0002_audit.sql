CREATE TABLE audit (
  seq BIGINT PRIMARY KEY,      -- 1, 2, 3, …
  at BIGINT NOT NULL,
  who TEXT NOT NULL,
  origin TEXT NOT NULL,
  action TEXT NOT NULL,
  object TEXT NOT NULL,
  detail TEXT NOT NULL,
  previous TEXT NOT NULL,      -- hash of the entry before
  hash TEXT NOT NULL           -- of all of this row
);

-- The last entry. Who appends holds this row, so that there is one chain.
CREATE TABLE audit_head (
  id BIGINT PRIMARY KEY CHECK (id = 1),
  seq BIGINT NOT NULL,
  hash TEXT NOT NULL
);
INSERT INTO audit_head (id, seq, hash) VALUES (1, 0, '');
