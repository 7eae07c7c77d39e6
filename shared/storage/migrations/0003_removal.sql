-- Purge of a room's history, deletion of rooms, reclaiming of unused snapshots: see shared/storage/removal/purge.py,
-- removal/delete_room.py and removal/unused_snapshots.py. A purge is resumed from these columns alone.

ALTER TABLE rooms
  ADD COLUMN first_ordinal bigint NOT NULL DEFAULT 1,    -- the timeline begins here: what lay before was purged
  ADD COLUMN purge_to      bigint,                       -- a purge is under way: first_ordinal will be this
  ADD COLUMN retired_at    timestamptz,                  -- when events were last taken from the timeline
  ADD COLUMN spared        bigint[] NOT NULL DEFAULT '{}',  -- ordinals before first_ordinal that had to stay
  ADD COLUMN compacted_to  bigint NOT NULL DEFAULT 1,    -- before it the line has one change per key
  ADD COLUMN deleted_id    text UNIQUE;                  -- being deleted: its id; `room_id` is nobody's then
CREATE INDEX rooms_to_purge ON rooms (room_nid) WHERE purge_to IS NOT NULL;

-- events.status 4, retired: purged from the timeline, and kept for the state, auth chains or what it redacts. The
-- index holds those that may go one day: never what an auth chain can hold.
CREATE INDEX events_retired ON events (room_nid, event_nid)
  WHERE status = 4 AND type NOT IN ('m.room.create', 'm.room.member', 'm.room.power_levels', 'm.room.join_rules',
                                    'm.room.third_party_invite');
-- Soft-failed and rejected messages have no place; a purge takes them by their age.
CREATE INDEX events_aside ON events (room_nid, origin_server_ts) WHERE status IN (1, 2) AND state_key IS NULL;

-- Without a pending list: the persister that happened to fill it would have to empty it.
CREATE INDEX state_snapshots_by_event ON state_snapshots USING gin ((added || removed)) WITH (fastupdate = off);
CREATE INDEX state_snapshots_by_base ON state_snapshots (room_nid, base) WHERE base IS NOT NULL;
CREATE INDEX awaited_redactions_by_redaction ON awaited_redactions (room_nid, redaction_nid);
CREATE INDEX account_data_by_room ON account_data (room_id) WHERE room_id <> '';

-- A persister may name a snapshot that was just found to be unused: one of the two is refused. Nothing names one
-- yet, so there is nothing to validate.
ALTER TABLE events ADD CONSTRAINT events_state_nid_fkey
  FOREIGN KEY (room_nid, state_nid) REFERENCES state_snapshots (room_nid, nid) NOT VALID;
ALTER TABLE state_snapshots ADD CONSTRAINT state_snapshots_parent_fkey
  FOREIGN KEY (room_nid, parent) REFERENCES state_snapshots (room_nid, nid) NOT VALID;
