-- Sticky events (MSC4354) that have not expired: one row per event, for an hour at most.

CREATE TABLE sticky_events (
  room_nid  bigint NOT NULL,
  event_nid bigint NOT NULL,
  ordinal   bigint NOT NULL,
  writer    bigint NOT NULL,
  position  bigint NOT NULL,
  until_ms  bigint NOT NULL,
  PRIMARY KEY (room_nid, event_nid)
);
CREATE INDEX sticky_events_by_end ON sticky_events (until_ms);
