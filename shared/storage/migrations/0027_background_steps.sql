-- Jobs that follow the stream `events` or a queue in steps. failures: how often the present step has failed in a row; each
-- failure halves it. The release before neither writes nor reads these tables.
CREATE TABLE background_steps (
  step     text PRIMARY KEY,
  failures integer NOT NULL DEFAULT 0
);
INSERT INTO background_steps (step) VALUES ('search index'), ('user directory: accounts'), ('user directory: rooms');

-- Single items that a job left out, because each attempt at them fails.
CREATE TABLE set_aside (
  step   text NOT NULL,
  item   text NOT NULL,                    -- an event id or a user id
  reason text NOT NULL,
  at     timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (step, item)
);
