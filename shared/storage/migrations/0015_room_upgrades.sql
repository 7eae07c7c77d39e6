-- Upgrades of rooms, and settings to copy for their members. An upgrade is resumed from its row alone.

CREATE TABLE room_upgrades (
  old_room_id     text PRIMARY KEY,      -- a room's latest upgrade
  new_room_id     text NOT NULL UNIQUE,  -- follows from the create event, before the room exists
  new_version     text NOT NULL,
  upgrader        text NOT NULL,
  create_event_id text NOT NULL,
  create_event    bytea NOT NULL,        -- of the new room, signed
  ended           boolean NOT NULL DEFAULT false,
  created_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
  look_at         timestamptz NOT NULL,  -- when a job checks if the upgrade must be continued
  looks           integer NOT NULL DEFAULT 0
);
CREATE INDEX room_upgrades_open ON room_upgrades (look_at) WHERE NOT ended;

-- A local user joined a room that claims to be the successor of another: their tags and push rules of that one follow.
CREATE TABLE settings_to_copy (
  user_id     text NOT NULL,
  new_room_id text NOT NULL,
  old_room_id text NOT NULL,
  created_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
  look_at     timestamptz NOT NULL,
  looks       integer NOT NULL DEFAULT 0,
  PRIMARY KEY (user_id, new_room_id)
);
CREATE INDEX settings_to_copy_when ON settings_to_copy (look_at);
