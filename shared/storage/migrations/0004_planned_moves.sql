-- Planned moves that an operator asks for.

-- Processes that are to have no slots. With a lease: that incarnation, which then ends. Without one: any process with
-- the name, which runs on without slots until the row is deleted.
CREATE TABLE drains (
  process  text PRIMARY KEY,
  lease    bigint,
  asked_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- An operator placed this slot. Rebalancing leaves it where it is, and does not count it.
ALTER TABLE slots ADD COLUMN pinned boolean NOT NULL DEFAULT false;
