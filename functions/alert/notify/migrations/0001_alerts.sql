-- What a rule says of a room by now.
CREATE TABLE alert_rooms (
  id TEXT PRIMARY KEY,         -- hash of the rule and the key
  severity BIGINT NOT NULL,    -- of the last level
  at BIGINT NOT NULL,          -- since when, by event time
  -- Of changes at one instant the one with the greater turn is the last: a fall has its
  -- severity below zero, a rise above.
  turn BIGINT NOT NULL
);

-- Episodes: of each room and address at most one is open.
CREATE TABLE alerts (
  id TEXT PRIMARY KEY,         -- hash of the room, the address and when it was opened
  room TEXT NOT NULL REFERENCES alert_rooms (id),
  tenant TEXT NOT NULL,
  address TEXT NOT NULL,       -- hash of the channel and who is told: addresses may be secrets
  severity BIGINT NOT NULL,    -- the highest that there was
  label TEXT NOT NULL,         -- of it
  opened_at BIGINT NOT NULL,   -- event time
  cleared_at BIGINT            -- event time; NULL: it is open
);
CREATE UNIQUE INDEX alerts_open ON alerts (room, address) WHERE cleared_at IS NULL;

-- What is to be told, and what was.
CREATE TABLE alert_deliveries (
  id TEXT PRIMARY KEY,         -- webhook-id and Message-ID: the same however often it is sent
  seq BIGINT NOT NULL,         -- within its alert, of which each waits for those before it
  alert TEXT NOT NULL REFERENCES alerts (id),
  event TEXT NOT NULL,         -- hash of source and id of the event that it comes of
  kind TEXT NOT NULL,          -- alert.opened, at another level too, or alert.cleared
  severity BIGINT NOT NULL,    -- for quiet hours
  message TEXT NOT NULL,       -- JSON: what is said
  state TEXT NOT NULL CHECK (state IN ('pending', 'sent', 'failed', 'dropped')),
  cause TEXT NOT NULL,         -- why it is not sent
  attempts BIGINT NOT NULL,
  due_at BIGINT NOT NULL,      -- since when it may be sent: when it came, or quiet hours were over
  next_at BIGINT NOT NULL,     -- when it is tried next
  leased_until BIGINT NOT NULL, -- a process is at it
  lease TEXT NOT NULL,
  created_at BIGINT NOT NULL,
  changed_at BIGINT NOT NULL,
  UNIQUE (alert, seq)
);
CREATE INDEX alert_deliveries_due ON alert_deliveries (state, next_at);
CREATE INDEX alert_deliveries_event ON alert_deliveries (event);
