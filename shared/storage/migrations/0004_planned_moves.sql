-- Planned moves that an operator asks for.

-- Processes that shall have no slots. Of the incarnation `lease`, which then ends; without one, of whoever carries
-- the name, who goes on running without slots until the row is deleted.
CREATE TABLE drains (
  process  text PRIMARY KEY,
  lease    bigint,
  asked_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- An operator placed this slot: evening the load leaves it where it is, and counts it for nobody.
ALTER TABLE slots ADD COLUMN pinned boolean NOT NULL DEFAULT false;
