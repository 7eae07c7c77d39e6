-- Connections of sliding sync: what each client has been sent, in addition to the vectors in its `pos`.
-- No stream and no fence: only the requester's own responses depend on a row, and each write compares and sets
-- `number`.
CREATE TABLE sliding_connections (
  user_id      text NOT NULL,
  device_id    text NOT NULL,          -- '' for a token without a device
  conn_id      text NOT NULL,
  number       bigint NOT NULL,        -- of the state of the latest response; grows with each write
  state        bytea NOT NULL,
  prior_number bigint NOT NULL,        -- of the state that the answer was made from; 0: none
  prior_state  bytea NOT NULL,
  written_ms   bigint NOT NULL,
  PRIMARY KEY (user_id, device_id, conn_id)
) WITH (fillfactor = 70);
