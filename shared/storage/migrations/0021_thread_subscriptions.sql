-- Thread subscriptions (MSC4306). The stream `thread_subscriptions`: one row per user and thread. It is kept after the
-- user unsubscribes, since earlier mentions must not subscribe them again.

CREATE SEQUENCE stream_thread_subscriptions CACHE 1;

CREATE TABLE thread_subscriptions (
  user_id    text NOT NULL,
  room_nid   bigint NOT NULL,
  thread_id  text NOT NULL,              -- event id of the thread's root
  subscribed boolean NOT NULL,
  automatic  boolean NOT NULL,
  until      bigint NOT NULL DEFAULT 0,  -- ordinal of the room's last event when the user last unsubscribed
  writer     bigint NOT NULL,
  position   bigint NOT NULL,
  PRIMARY KEY (user_id, room_nid, thread_id)
);
CREATE INDEX thread_subscriptions_by_position ON thread_subscriptions (position);
CREATE INDEX thread_subscriptions_by_user ON thread_subscriptions (user_id, position);
CREATE INDEX thread_subscriptions_by_thread ON thread_subscriptions (room_nid, thread_id) WHERE subscribed;
CREATE INDEX thread_subscriptions_by_room ON thread_subscriptions (room_nid);
