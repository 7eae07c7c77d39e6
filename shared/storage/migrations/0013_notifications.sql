-- GET /notifications: the events that notified a group in any thread of a room, the latest first. Of the main timeline
-- the primary key of push_counters tells them. What the previous release writes is fine as it is.
CREATE INDEX push_counters_in_threads ON push_counters (room_nid, group_id, ordinal) WHERE thread_id <> '';
