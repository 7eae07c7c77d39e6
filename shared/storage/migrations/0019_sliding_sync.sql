-- Connections of sliding sync: what each client has been sent, beside the vectors in its `pos`.
-- No stream and no fence: only the requester's own answers come from a row, and each write compares and sets `number`.
CREATE TABLE sliding_connections (
  user_id      text NOT NULL,
  device_id    text NOT NULL,          -- '' for a token without a device
  conn_id      text NOT NULL,          -- escaped
  number       bigint NOT NULL,        -- of the state of the latest answer; grows with each write
  state        bytea NOT NULL,
  prior_number bigint NOT NULL,        -- of the state which that answer was made from; 0: none
  prior_state  bytea NOT NULL,
  written_ms   bigint NOT NULL,
  PRIMARY KEY (user_id, device_id, conn_id)
) WITH (fillfactor = 70);
