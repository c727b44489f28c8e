CREATE TABLE users (
  id TEXT PRIMARY KEY,
  name TEXT NOT NULL UNIQUE,
  role TEXT NOT NULL CHECK (role IN ('admin', 'analyst', 'tenant')),
  tenants TEXT NOT NULL,       -- JSON, of the role tenant
  disabled BOOLEAN NOT NULL,
  demo BOOLEAN NOT NULL,       -- entered without a password where the portal is for trying out
  password TEXT NOT NULL,      -- a PHC string; empty: not set up
  secret TEXT NOT NULL,        -- of one-time codes, in base 32; empty: not set up
  step BIGINT NOT NULL,        -- the time step of the last code that was taken (RFC 6238, section 5.2)
  epoch BIGINT NOT NULL,       -- sessions and tokens of an earlier one have ended
  created_at BIGINT NOT NULL,
  changed_at BIGINT NOT NULL
);

-- In place of a code, each once.
CREATE TABLE recovery_codes (
  user_id TEXT NOT NULL REFERENCES users (id),
  hash TEXT NOT NULL,
  used_at BIGINT,
  PRIMARY KEY (user_id, hash)
);

-- What sets up a user by a link, once.
CREATE TABLE links (
  hash TEXT PRIMARY KEY,
  user_id TEXT REFERENCES users (id), -- NULL: makes the first admin
  secret TEXT NOT NULL,        -- of one-time codes, that the user is to have
  expires_at BIGINT NOT NULL
);

CREATE TABLE sessions (
  hash TEXT PRIMARY KEY,
  user_id TEXT NOT NULL,       -- empty: nobody has logged in
  data TEXT NOT NULL,
  created_at BIGINT NOT NULL,
  seen_at BIGINT NOT NULL,
  expires_at BIGINT NOT NULL,
  ended BOOLEAN NOT NULL       -- kept until it expires, so that a request on its way does not bring it back
);
CREATE INDEX sessions_user_id ON sessions (user_id);
CREATE INDEX sessions_expires_at ON sessions (expires_at);

-- Bearer tokens of programs.
CREATE TABLE tokens (
  hash TEXT PRIMARY KEY,
  user_id TEXT NOT NULL REFERENCES users (id),
  epoch BIGINT NOT NULL,
  created_at BIGINT NOT NULL,
  expires_at BIGINT NOT NULL
);

-- Browsers from which a user has logged in: what strangers try does not delay them.
CREATE TABLE devices (
  hash TEXT PRIMARY KEY,
  user_id TEXT NOT NULL REFERENCES users (id),
  expires_at BIGINT NOT NULL
);

-- Failed log-ins by account, address or device.
CREATE TABLE attempts (
  name TEXT PRIMARY KEY,
  failures BIGINT NOT NULL,
  open_at BIGINT NOT NULL,     -- before it, no further one is looked at
  refused BOOLEAN NOT NULL,    -- one came before that
  changed_at BIGINT NOT NULL
);
CREATE INDEX attempts_changed_at ON attempts (changed_at);
