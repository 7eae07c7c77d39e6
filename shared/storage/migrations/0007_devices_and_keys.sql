-- End-to-end keys of devices, messages from device to device, and the streams that tell of them.

CREATE SEQUENCE stream_to_device CACHE 1;
CREATE SEQUENCE stream_device_lists CACHE 1;
CREATE SEQUENCE stream_one_time_keys CACHE 1;

CREATE TABLE device_keys (
  user_id   text NOT NULL,
  device_id text NOT NULL,
  json      bytea NOT NULL,            -- as uploaded, without `unsigned`
  PRIMARY KEY (user_id, device_id)
);

-- A claimed key stays for a while, without its content: its id must not come back with another one.
CREATE TABLE one_time_keys (
  user_id    text NOT NULL,
  device_id  text NOT NULL,
  algorithm  text NOT NULL,            -- escaped
  key_id     text NOT NULL,            -- escaped
  uploaded   bigint NOT NULL,          -- position of its upload in the stream: keys are claimed in this order
  hash       bytea NOT NULL,           -- SHA-256 of its canonical JSON
  json       bytea,                    -- NULL: claimed
  claimed_ms bigint,
  PRIMARY KEY (user_id, device_id, algorithm, key_id)
);
CREATE INDEX one_time_keys_to_claim ON one_time_keys (user_id, device_id, algorithm, uploaded)
  WHERE claimed_ms IS NULL;
CREATE INDEX one_time_keys_claimed ON one_time_keys (claimed_ms) WHERE claimed_ms IS NOT NULL;

CREATE TABLE fallback_keys (
  user_id   text NOT NULL,
  device_id text NOT NULL,
  algorithm text NOT NULL,             -- escaped
  key_id    text NOT NULL,             -- escaped
  json      bytea NOT NULL,
  used      boolean NOT NULL DEFAULT false,
  PRIMARY KEY (user_id, device_id, algorithm)
);

-- The stream `one_time_keys`: of this device keys were uploaded or claimed; how many there are is counted then.
CREATE TABLE one_time_key_changes (
  writer     bigint NOT NULL,
  position   bigint PRIMARY KEY,
  user_id    text NOT NULL,
  device_id  text NOT NULL,
  changed_ms bigint NOT NULL
);
CREATE INDEX one_time_key_changes_by_device ON one_time_key_changes (user_id, device_id, position);

-- The stream `device_lists`: this user's devices, or their keys, changed.
CREATE TABLE device_list_changes (
  writer     bigint NOT NULL,
  position   bigint PRIMARY KEY,
  user_id    text NOT NULL,
  changed_ms bigint NOT NULL
);
CREATE INDEX device_list_changes_by_user ON device_list_changes (user_id, position);

-- The stream `to_device`: one row per device that a message is for, until that device has acknowledged it.
CREATE TABLE to_device_messages (
  user_id   text NOT NULL,
  device_id text NOT NULL,
  writer    bigint NOT NULL,
  position  bigint NOT NULL,
  sender    text NOT NULL,
  type      text NOT NULL,             -- escaped
  content   bytea NOT NULL,            -- JSON
  PRIMARY KEY (user_id, device_id, position)
);
CREATE INDEX to_device_messages_by_position ON to_device_messages (position);

-- What a device sent, so that a retransmission sends nothing, and the next message can name the one before it.
CREATE TABLE to_device_transactions (
  user_id    text NOT NULL,
  device_id  text NOT NULL,            -- '': a token without a device
  key        bytea NOT NULL,
  writer     bigint NOT NULL,
  position   bigint,                   -- of its last message; NULL: it had none for this server
  created_ms bigint NOT NULL,
  PRIMARY KEY (user_id, device_id, key)
);
CREATE INDEX to_device_transactions_by_device ON to_device_transactions (user_id, device_id, position)
  WHERE position IS NOT NULL;
-- Where a writer ended: its messages may be gone by then.
CREATE INDEX to_device_transactions_by_position ON to_device_transactions (position) WHERE position IS NOT NULL;
CREATE INDEX to_device_transactions_by_age ON to_device_transactions USING brin (created_ms);

-- Whose membership changed since a token: who newly shares a room, and who shares none any more.
CREATE INDEX memberships_by_position ON memberships (room_nid, position);
