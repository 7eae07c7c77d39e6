-- End-to-end keys of devices, messages from device to device, and their streams.

CREATE SEQUENCE stream_to_device CACHE 1;
CREATE SEQUENCE stream_device_lists CACHE 1;
CREATE SEQUENCE stream_one_time_keys CACHE 1;

CREATE TABLE device_keys (
  user_id   text NOT NULL,
  device_id text NOT NULL,
  json      bytea NOT NULL,            -- as uploaded, without `unsigned`
  PRIMARY KEY (user_id, device_id)
);

-- A claimed key stays for a while without its content, so that its id is not used for another key.
CREATE TABLE one_time_keys (
  user_id    text NOT NULL,
  device_id  text NOT NULL,
  algorithm  text NOT NULL,
  key_id     text NOT NULL,
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
  algorithm text NOT NULL,
  key_id    text NOT NULL,
  json      bytea NOT NULL,
  used      boolean NOT NULL DEFAULT false,
  PRIMARY KEY (user_id, device_id, algorithm)
);

-- The stream `one_time_keys`: keys of this device were uploaded or claimed. Readers then count them.
CREATE TABLE one_time_key_changes (
  writer     bigint NOT NULL,
  position   bigint PRIMARY KEY,
  user_id    text NOT NULL,
  device_id  text NOT NULL,
  changed_ms bigint NOT NULL
);
CREATE INDEX one_time_key_changes_by_device ON one_time_key_changes (user_id, device_id, position);

-- The stream `device_lists`: the devices of this user, or their keys, changed.
CREATE TABLE device_list_changes (
  writer     bigint NOT NULL,
  position   bigint PRIMARY KEY,
  user_id    text NOT NULL,
  changed_ms bigint NOT NULL
);
CREATE INDEX device_list_changes_by_user ON device_list_changes (user_id, position);

-- The stream `to_device`: one row per recipient device, until the device has acknowledged the message.
CREATE TABLE to_device_messages (
  user_id   text NOT NULL,
  device_id text NOT NULL,
  writer    bigint NOT NULL,
  position  bigint NOT NULL,
  sender    text NOT NULL,
  type      text NOT NULL,
  content   bytea NOT NULL,            -- JSON
  PRIMARY KEY (user_id, device_id, position)
);
CREATE INDEX to_device_messages_by_position ON to_device_messages (position);

-- A device's transactions, so that a retry sends nothing, and the next message can name the previous one.
CREATE TABLE to_device_transactions (
  user_id    text NOT NULL,
  device_id  text NOT NULL,            -- '': a token without a device
  key        bytea NOT NULL,
  writer     bigint NOT NULL,
  position   bigint,                   -- of its last message; NULL: it had no message for this server
  created_ms bigint NOT NULL,
  PRIMARY KEY (user_id, device_id, key)
);
CREATE INDEX to_device_transactions_by_device ON to_device_transactions (user_id, device_id, position)
  WHERE position IS NOT NULL;
-- For a writer's final position, since its messages may be deleted by then.
CREATE INDEX to_device_transactions_by_position ON to_device_transactions (position) WHERE position IS NOT NULL;
CREATE INDEX to_device_transactions_by_age ON to_device_transactions USING brin (created_ms);

-- For memberships that changed since a token: users who share a room now, or none any more.
CREATE INDEX memberships_by_position ON memberships (room_nid, position);
