-- Purge of a room's history, deletion of rooms, reclaiming of unused snapshots: see shared/storage/removal/purge.py,
-- removal/delete_room.py and removal/unused_snapshots.py. A purge is resumed from these columns alone.

ALTER TABLE rooms
  ADD COLUMN first_ordinal bigint NOT NULL DEFAULT 1,    -- the timeline begins here; earlier events are purged
  ADD COLUMN purge_to      bigint,                       -- of a purge under way: first_ordinal after it
  ADD COLUMN retired_at    timestamptz,                  -- the last time that events left the timeline
  ADD COLUMN spared        bigint[] NOT NULL DEFAULT '{}',  -- ordinals before first_ordinal that had to stay
  ADD COLUMN compacted_to  bigint NOT NULL DEFAULT 1,    -- the line before this has one change per key
  ADD COLUMN deleted_id    text UNIQUE;                  -- of a room that is being deleted: its id
CREATE INDEX rooms_to_purge ON rooms (room_nid) WHERE purge_to IS NOT NULL;

-- events.status 4, retired: purged from the timeline, and kept for the state, auth chains or as a redaction. The index
-- has those that can be deleted some day, which excludes all types of an auth chain.
CREATE INDEX events_retired ON events (room_nid, event_nid)
  WHERE status = 4 AND type NOT IN ('m.room.create', 'm.room.member', 'm.room.power_levels', 'm.room.join_rules',
                                    'm.room.third_party_invite');
-- Soft-failed and rejected messages have no place. A purge deletes them by their age.
CREATE INDEX events_aside ON events (room_nid, origin_server_ts) WHERE status IN (1, 2) AND state_key IS NULL;

-- Without a pending list: a persister that filled it up would have to empty it.
CREATE INDEX state_snapshots_by_event ON state_snapshots USING gin ((added || removed)) WITH (fastupdate = off);
CREATE INDEX state_snapshots_by_base ON state_snapshots (room_nid, base) WHERE base IS NOT NULL;
CREATE INDEX awaited_redactions_by_redaction ON awaited_redactions (room_nid, redaction_nid);
CREATE INDEX account_data_by_room ON account_data (room_id) WHERE room_id <> '';

-- A persister may name a snapshot that was just found unused: one of the two statements is refused. No row names a
-- snapshot yet, so there is nothing to validate.
ALTER TABLE events ADD CONSTRAINT events_state_nid_fkey
  FOREIGN KEY (room_nid, state_nid) REFERENCES state_snapshots (room_nid, nid) NOT VALID;
ALTER TABLE state_snapshots ADD CONSTRAINT state_snapshots_parent_fkey
  FOREIGN KEY (room_nid, parent) REFERENCES state_snapshots (room_nid, nid) NOT VALID;
