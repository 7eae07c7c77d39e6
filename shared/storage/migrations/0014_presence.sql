-- How users were present when it was last saved: what their owner (a client_api worker) begins with when it takes them
-- over, and what is told of those who are offline. Everything fresher is in memory and on the stream `presence`.
CREATE TABLE presence (
  user_id        text PRIMARY KEY,         -- escaped
  state          text NOT NULL,            -- online, unavailable, offline
  status_msg     text,                     -- escaped
  last_active_ms bigint NOT NULL,          -- 0: not known
  changed_ms     bigint NOT NULL           -- when it was so; only something later replaces it
);
