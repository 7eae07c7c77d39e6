-- Delayed events (MSC4140): events to send later, and for some days their outcome.
--
-- Times are the database's. An event is due at scheduled_ms + delay_ms. A restart changes only scheduled_ms, which is
-- in no index: the row is updated in place (HOT). The job reads check_ms, which is never later than that, and moves it
-- forward if the event was restarted meanwhile.
CREATE TABLE delayed_events (
  delay_id     text PRIMARY KEY,
  shard        smallint NOT NULL,          -- its duty: `duties`, "delayed_events/<shard>"
  user_id      text NOT NULL,
  room_nid     bigint NOT NULL,
  type         text NOT NULL,
  state_key    text,                       -- NULL: no state event
  content      bytea NOT NULL,             -- JSON, as the client wrote it
  sticky_ms    bigint,                     -- NULL: not sticky
  key          bytea,                      -- of the client's transaction that scheduled it
  delay_ms     bigint NOT NULL,
  scheduled_ms bigint NOT NULL,            -- or restarted
  check_ms     bigint NOT NULL,
  sending_ms   bigint,                     -- since when it is being sent: it cannot be restarted or cancelled then
  finalised_ms bigint,                     -- NULL: still scheduled
  event_id     text,                       -- of an event that was sent
  error        bytea,                      -- JSON, of an event that could not be sent; neither: it was cancelled
  UNIQUE (user_id, key)
) WITH (fillfactor = 70);
CREATE INDEX delayed_events_to_check ON delayed_events (shard, check_ms) WHERE finalised_ms IS NULL;
CREATE INDEX delayed_events_by_user ON delayed_events (user_id, finalised_ms);
CREATE INDEX delayed_events_by_state ON delayed_events (room_nid, type, state_key)
  WHERE finalised_ms IS NULL AND state_key IS NOT NULL;
CREATE INDEX delayed_events_by_room ON delayed_events (room_nid);
CREATE INDEX delayed_events_by_age ON delayed_events (finalised_ms) WHERE finalised_ms IS NOT NULL;

INSERT INTO duties (duty) SELECT 'delayed_events/' || shard FROM generate_series(0, 7) AS shard;
