-- The requests that block a process's event loop now, and those of which a process died: their leases are gone. The
-- release before neither writes nor reads the table.
CREATE TABLE blocking_work (
  lease       bigint PRIMARY KEY,
  endpoint    text NOT NULL,
  user_id     text NOT NULL,
  fingerprint bytea NOT NULL,
  noted_at    timestamptz NOT NULL DEFAULT clock_timestamp()
);
