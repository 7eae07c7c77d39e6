-- Room upgrades name the tombstone in the new room's create event, so the tombstone is built and signed before.
-- The release before leaves both columns null, and sends a tombstone that it builds at the end.

ALTER TABLE room_upgrades ADD COLUMN tombstone_event_id text;
ALTER TABLE room_upgrades ADD COLUMN tombstone bytea;
