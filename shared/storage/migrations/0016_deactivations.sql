-- Accounts that were closed and are still to be cleared: rooms to leave, data to remove.
CREATE TABLE deactivations (
  user_id    text PRIMARY KEY,
  erase      boolean NOT NULL,
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  look_at    timestamptz NOT NULL,
  looks      integer NOT NULL DEFAULT 0
);
CREATE INDEX deactivations_when ON deactivations (look_at);

-- Whether a user has annotated an event so already.
CREATE INDEX events_of_annotations ON events (room_nid, relates_to, sender) WHERE rel_type = 'm.annotation';

-- Who was erased since somebody looked.
CREATE INDEX erased_users_by_time ON erased_users (erased_ms);

-- Rooms whose guests may have to leave. The row of a room that is deleted goes as soon as somebody looks.
CREATE TABLE guest_removals (
  of_room_id text PRIMARY KEY,
  number     bigint NOT NULL DEFAULT 0,
  look_at    timestamptz NOT NULL,
  looks      integer NOT NULL DEFAULT 0
);
CREATE INDEX guest_removals_when ON guest_removals (look_at);
