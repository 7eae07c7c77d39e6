-- Every state of a sliding sync connection that its client may still name in a `pos`.
-- The release before writes `sliding_connections`. Its clients get M_UNKNOWN_POS once when they change the release, and
-- sync from scratch. A later migration drops that table.
-- No stream and no fence: only the requester's own responses depend on a row, and rows are inserted and deleted only.
CREATE TABLE sliding_states (
  user_id   text NOT NULL,
  device_id text NOT NULL,           -- '' for a token without a device
  conn_id   text NOT NULL,
  number    bigint NOT NULL,         -- grows with each state of the connection
  state     bytea NOT NULL,
  PRIMARY KEY (user_id, device_id, conn_id, number)
);
