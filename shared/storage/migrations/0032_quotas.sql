-- What users store, counted for the quotas. Nothing is rewritten here: a user without a row in `user_usage`, or whose
-- latest row has no running total, is counted from all their rows when they write next.
-- The release before counts nothing. What it writes while both run, after a user was counted, is left out of the total of
-- account data; filters and messages are counted again by the next row of this release.
CREATE TABLE user_usage (
  user_id            text PRIMARY KEY,
  account_data_bytes bigint NOT NULL
);
-- The bytes of the user's filters up to this one.
ALTER TABLE filters ADD COLUMN total_bytes bigint;
-- A running total of the device's messages: that of the last message, less that before the first one, is in the inbox.
ALTER TABLE to_device_messages ADD COLUMN inbox_bytes bigint;
-- For the number of a user's aliases.
CREATE INDEX room_aliases_by_creator ON room_aliases (creator);
