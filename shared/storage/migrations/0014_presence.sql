-- Saved presence. The owner of a user (a client_api worker) starts with it, and offline users are shown with it.
-- Everything fresher is in memory and on the stream `presence`.
CREATE TABLE presence (
  user_id        text PRIMARY KEY,
  state          text NOT NULL,            -- online, unavailable, offline
  status_msg     text,
  last_active_ms bigint NOT NULL,          -- 0: unknown
  changed_ms     bigint NOT NULL           -- the time of the change; only a later one replaces it
);
