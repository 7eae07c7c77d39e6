-- Relations between events. Spec: client-server API, "Forming relationships between events".
--
-- An event is stored with the id of the event that it relates to, which may arrive later or never. A relation that does
-- not match the spec's schema does not count. `redacted_by` is in no index, so that a redaction stays a HOT update.

ALTER TABLE events
  ADD COLUMN relates_to text,     -- id of the event that it relates to
  ADD COLUMN rel_type   text;     -- NULL exactly where relates_to is
CREATE INDEX events_by_relation ON events (room_nid, relates_to, rel_type, (coalesce(ordinal, anchor)))
  WHERE relates_to IS NOT NULL;
-- A room's threads by their latest reply.
CREATE INDEX events_in_threads ON events (room_nid, (coalesce(ordinal, anchor)) DESC) WHERE rel_type = 'm.thread';
