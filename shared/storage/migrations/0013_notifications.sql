-- GET /notifications: the events that notified a group in any thread of a room, latest first. For the main timeline the
-- primary key of push_counters has them. Rows of the previous release need no change.
CREATE INDEX push_counters_in_threads ON push_counters (room_nid, group_id, ordinal) WHERE thread_id <> '';
