-- The keys of other servers. A key stays after its server is gone: old events are verified with it.
CREATE TABLE server_keys (
  server          text NOT NULL,
  key_id          text NOT NULL,           -- such as "ed25519:a_abc"
  verify_key      bytea NOT NULL,          -- 32 bytes
  valid_until_ms  bigint,                  -- of a key in use, at most seven days after it was fetched
  expired_ms      bigint,                  -- of an old key
  signed          bytea NOT NULL,          -- the answer that it is from, as its server signed it, for those who ask us
  fetched_ms      bigint NOT NULL,
  PRIMARY KEY (server, key_id)
);

-- Servers whose keys could not be had. The row goes when they are.
CREATE TABLE server_key_failures (
  server       text PRIMARY KEY,
  failures     integer NOT NULL,           -- in a row
  failed_ms    bigint NOT NULL,            -- of the latest
  retry_at_ms  bigint NOT NULL
);
