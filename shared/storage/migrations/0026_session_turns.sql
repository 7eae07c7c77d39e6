-- Statements that begin, renew and end sessions of one user take turns, and count them here. The release before does not
-- count: while both run, their statements may race as they did.
ALTER TABLE users ADD COLUMN session_turn bigint NOT NULL DEFAULT 0;

-- Open interactive sessions end with the password.
CREATE INDEX uia_sessions_by_user ON uia_sessions (user_id) WHERE user_id IS NOT NULL;

-- Addresses from which a user has logged in: each has its own limit of attempts, so that strangers who use up the
-- account's do not lock its user out.
CREATE TABLE login_addresses (
  user_id  text NOT NULL,
  address  text NOT NULL,                  -- an IPv4 address, or the /64 network of an IPv6 address
  used_ms  bigint NOT NULL,                -- of the latest log-in
  PRIMARY KEY (user_id, address)
);
CREATE INDEX login_addresses_by_use ON login_addresses (used_ms);
