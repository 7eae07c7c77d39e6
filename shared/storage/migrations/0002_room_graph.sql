-- Rooms whose events come from several servers: forks, events without a place in the live timeline, gaps in history.
--
-- Places. A live event has a dense `ordinal`, in order of arrival. This is a topological order too: no event arrives
-- before those that it names, or it leaves a gap. An event of history (fetched later) lies in the gap just before the
-- live event `anchor`, `back` steps from it: (anchor, 1) is the last one before it. So (ordinal, 0) or (anchor, -back)
-- orders all of a room's events for pagination. Soft-failed and rejected events and outliers have neither.

ALTER TABLE events
  ADD COLUMN anchor    bigint,    -- of history: the ordinal of the live event after its gap
  ADD COLUMN back      integer,   -- and the number of steps before it, from 1
  ADD COLUMN state_nid bigint,    -- snapshot of the state before it; NULL: the room's line before `ordinal`
  ADD COLUMN resolved  boolean,   -- true: it changed other keys than its own; see state_changes
  ADD COLUMN gap       boolean;   -- true: events before it were missing when it arrived
-- DESC: pages read the places in their order, in both directions.
CREATE UNIQUE INDEX events_of_history ON events (room_nid, anchor, back DESC) WHERE anchor IS NOT NULL;
CREATE INDEX events_by_snapshot ON events (room_nid, state_nid) WHERE state_nid IS NOT NULL;
CREATE INDEX events_by_time ON events (room_nid, origin_server_ts);

-- The room's *line* is its current state through time: `state_changes`, "before ordinal n" being all changes with a
-- lesser ordinal. An event that names all forward extremities has the line as its state; only the others need a
-- snapshot. A snapshot is its parent with some entries changed: `added` events replace those with the same (type, state
-- key), `removed` ones leave the state. The parent is another snapshot, or the line before `base`.
-- steps: the number of single steps from the root. A parent has its child's number without the lowest set bit, so a
-- walk to the root has at most as many rows as `steps` has bits (shared/core/state_snapshots.py).
CREATE TABLE state_snapshots (
  room_nid bigint NOT NULL,
  nid      bigint NOT NULL,       -- the number of the event that it was made for
  parent   bigint,
  base     bigint,
  steps    integer NOT NULL,
  added    bigint[] NOT NULL,
  removed  bigint[] NOT NULL,
  PRIMARY KEY (room_nid, nid),
  CHECK ((parent IS NULL) <> (base IS NULL))
);
CREATE INDEX state_snapshots_by_parent ON state_snapshots (room_nid, parent) WHERE parent IS NOT NULL;

-- Missing history: just before the live event `anchor`, or before the history that was fetched there.
CREATE TABLE gaps (
  room_nid bigint NOT NULL,
  anchor   bigint NOT NULL,
  missing  text[] NOT NULL,       -- ids of events that are named there and missing here
  PRIMARY KEY (room_nid, anchor)
);

-- Redactions that arrived before their events.
CREATE TABLE awaited_redactions (
  room_nid      bigint NOT NULL,
  event_id      text NOT NULL,    -- of the missing event
  redaction_nid bigint NOT NULL,
  PRIMARY KEY (room_nid, event_id, redaction_nid)
);

-- Erased users. Others see their events redacted, unless they had seen them before.
CREATE TABLE erased_users (
  user_id   text PRIMARY KEY,
  erased_ms bigint NOT NULL
);
