-- Relations between events. Spec: client-server API, "Forming relationships between events".
--
-- What an event relates to stands with it, by event id: the other one may come later, or never. A relation that does
-- not match the spec's schema is none. No index holds `redacted_by`, so that a redaction stays a HOT update.

ALTER TABLE events
  ADD COLUMN relates_to text,     -- id of the event that it relates to, escaped
  ADD COLUMN rel_type   text;     -- escaped; NULL exactly where relates_to is
CREATE INDEX events_by_relation ON events (room_nid, relates_to, rel_type, (coalesce(ordinal, anchor)))
  WHERE relates_to IS NOT NULL;
-- A room's threads, by their latest reply.
CREATE INDEX events_in_threads ON events (room_nid, (coalesce(ordinal, anchor)) DESC) WHERE rel_type = 'm.thread';
