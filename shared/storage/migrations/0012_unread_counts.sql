-- Unread counts: what each live event counted. Architecture page, section 6; see shared/storage/push/counts.py.
--
-- A group is a number for the rules that several members share in a room. All rows are about live events: `ordinal` is
-- an event's ordinal in the timeline.

-- One row per event and group that it notifies: the running totals of that group in that thread, this event included.
-- thread_id: '' for the main timeline, otherwise the event id of the thread's root.
CREATE TABLE push_counters (
  room_nid   bigint NOT NULL,
  group_id   bigint NOT NULL,
  thread_id  text NOT NULL,
  ordinal    bigint NOT NULL,
  notifies   bigint NOT NULL,
  highlights bigint NOT NULL,
  PRIMARY KEY (room_nid, group_id, thread_id, ordinal)
);

-- What an event counts for one user beyond their group. The rows of a redacted event go to push_redacted_users.
CREATE TABLE push_exceptions (
  room_nid   bigint NOT NULL,
  user_id    text NOT NULL,
  ordinal    bigint NOT NULL,
  thread_id  text NOT NULL,
  notifies   smallint NOT NULL,  -- -1, 0 or 1: added to the group's
  highlights smallint NOT NULL,
  PRIMARY KEY (room_nid, user_id, ordinal)
);
CREATE INDEX push_exceptions_by_ordinal ON push_exceptions (room_nid, ordinal);

-- From this ordinal on the user is in this group. Before their first row they are in DEFAULT_GROUP.
CREATE TABLE push_members (
  room_nid     bigint NOT NULL,
  user_id      text NOT NULL,
  from_ordinal bigint NOT NULL,
  group_id     bigint NOT NULL,
  PRIMARY KEY (room_nid, user_id, from_ordinal)
);
CREATE INDEX push_members_by_ordinal ON push_members (room_nid, from_ordinal);

-- A local user's newest own event in each thread: they have read up to it. Updated in place (HOT).
CREATE TABLE push_own (
  room_nid  bigint NOT NULL,
  user_id   text NOT NULL,
  thread_id text NOT NULL,
  ordinal   bigint NOT NULL,
  PRIMARY KEY (room_nid, user_id, thread_id)
) WITH (fillfactor = 70);

-- What a redacted event had counted for each group that it notified. The running totals stay unchanged: this is
-- subtracted from the difference of two totals. ordinal: of the redacted event. by_ordinal: of the redaction.
CREATE TABLE push_redacted (
  room_nid   bigint NOT NULL,
  group_id   bigint NOT NULL,
  ordinal    bigint NOT NULL,
  thread_id  text NOT NULL,
  notifies   smallint NOT NULL,
  highlights smallint NOT NULL,
  by_ordinal bigint NOT NULL,
  PRIMARY KEY (room_nid, group_id, ordinal)
);
CREATE INDEX push_redacted_by_redaction ON push_redacted (room_nid, by_ordinal);

-- The exceptions that a redaction removed, for readers that missed it.
CREATE TABLE push_redacted_users (
  room_nid   bigint NOT NULL,
  ordinal    bigint NOT NULL,
  user_id    text NOT NULL,
  thread_id  text NOT NULL,
  notifies   smallint NOT NULL,
  highlights smallint NOT NULL,
  by_ordinal bigint NOT NULL,
  PRIMARY KEY (room_nid, ordinal, user_id)
);
CREATE INDEX push_redacted_users_by_redaction ON push_redacted_users (room_nid, by_ordinal);

-- thread_id: the thread in which a live event counts. NULL: the main timeline.
-- push_groups: the groups that it notified. NULL: none.
-- has_push_rows: push_exceptions, push_members or push_redacted have rows about it.
ALTER TABLE events
  ADD COLUMN thread_id     text,
  ADD COLUMN push_groups   bigint[],
  ADD COLUMN has_push_rows boolean;
