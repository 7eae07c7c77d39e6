-- Closed accounts that are still to be cleared: rooms to leave, data to delete.
CREATE TABLE deactivations (
  user_id    text PRIMARY KEY,
  erase      boolean NOT NULL,
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  look_at    timestamptz NOT NULL,
  looks      integer NOT NULL DEFAULT 0
);
CREATE INDEX deactivations_when ON deactivations (look_at);

-- To check if a user has annotated an event the same way before.
CREATE INDEX events_of_annotations ON events (room_nid, relates_to, sender) WHERE rel_type = 'm.annotation';

-- For the users that were erased since a time.
CREATE INDEX erased_users_by_time ON erased_users (erased_ms);

-- Rooms that guests may have to leave. The row of a deleted room is deleted at the next look.
CREATE TABLE guest_removals (
  of_room_id text PRIMARY KEY,
  number     bigint NOT NULL DEFAULT 0,
  look_at    timestamptz NOT NULL,
  looks      integer NOT NULL DEFAULT 0
);
CREATE INDEX guest_removals_when ON guest_removals (look_at);
