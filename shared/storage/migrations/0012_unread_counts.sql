-- Unread counts: what each live event counted, for whom. Architecture page, section 6; see shared/storage/push/counts.py.
--
-- A group is a number for the rules that several members share in a room. All of this is about live events only:
-- `ordinal` is an event's place in the timeline.

-- One row per event and group that it notifies: the running totals of that group in that thread, this event included.
-- thread_id: '' for the main timeline, else the event id of the thread's root, escaped.
CREATE TABLE push_counters (
  room_nid   bigint NOT NULL,
  group_id   bigint NOT NULL,
  thread_id  text NOT NULL,
  ordinal    bigint NOT NULL,
  notifies   bigint NOT NULL,
  highlights bigint NOT NULL,
  PRIMARY KEY (room_nid, group_id, thread_id, ordinal)
);

-- What an event counts for one user otherwise than for his group. A redacted event's rows go to push_redacted_users.
CREATE TABLE push_exceptions (
  room_nid   bigint NOT NULL,
  user_id    text NOT NULL,      -- escaped
  ordinal    bigint NOT NULL,
  thread_id  text NOT NULL,
  notifies   smallint NOT NULL,  -- -1, 0 or 1: added to his group's
  highlights smallint NOT NULL,
  PRIMARY KEY (room_nid, user_id, ordinal)
);
CREATE INDEX push_exceptions_by_ordinal ON push_exceptions (room_nid, ordinal);

-- From this ordinal on the user is in that group; before his first row he is in DEFAULT_GROUP.
CREATE TABLE push_members (
  room_nid     bigint NOT NULL,
  user_id      text NOT NULL,
  from_ordinal bigint NOT NULL,
  group_id     bigint NOT NULL,
  PRIMARY KEY (room_nid, user_id, from_ordinal)
);
CREATE INDEX push_members_by_ordinal ON push_members (room_nid, from_ordinal);

-- A local user's newest own event in each thread: he has read up to it. Updated in place (HOT).
CREATE TABLE push_own (
  room_nid  bigint NOT NULL,
  user_id   text NOT NULL,
  thread_id text NOT NULL,
  ordinal   bigint NOT NULL,
  PRIMARY KEY (room_nid, user_id, thread_id)
) WITH (fillfactor = 70);

-- What a redacted event had counted for each group that it notified (the running totals stay as they were): to be
-- taken off the difference of two totals. ordinal: of the redacted event; by_ordinal: of the redaction.
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

-- The exceptions that a redaction took away, for readers that missed it.
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

-- thread_id: the thread in which a live event counts, escaped; NULL: the main timeline. push_groups: the groups that it
-- notified; NULL: none. has_push_rows: there are rows of push_exceptions, push_members or push_redacted about it.
ALTER TABLE events
  ADD COLUMN thread_id     text,
  ADD COLUMN push_groups   bigint[],
  ADD COLUMN has_push_rows boolean;
