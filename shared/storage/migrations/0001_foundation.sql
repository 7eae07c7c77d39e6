-- The tables of Skep's first schema. PostgreSQL 15 to 18, no extensions.
--
-- Conventions: rooms and events have short integer ids (`room_nid`, `event_nid`). Processes take them from blocks that
-- they reserve, so that a batch can name its own events before it is stored. `writer` is the lease number of the
-- writing process, `position` the row's position in the stream, taken inside the committing statement. All text is
-- stored escaped (`shared/storage/engine/text_codec.py`). Times `_ms` are Matrix timestamps. Distribution keys, if one
-- PostgreSQL is not enough: `room_nid` and `user_id`.

-- ---------------------------------------------------------------- processes, leases, slots

CREATE TABLE counters (
  name  text PRIMARY KEY,
  value bigint NOT NULL
);
INSERT INTO counters VALUES ('lease', 0), ('slots_version', 0);

-- Inserted once, revoked once and deleted once, and not updated otherwise: every write locks this row as its fence.
CREATE TABLE leases (
  lease      bigint PRIMARY KEY,
  process    text NOT NULL,              -- name, unique among live processes
  type       text NOT NULL,              -- worker type
  host       text NOT NULL,
  pid        integer NOT NULL,
  address    text NOT NULL,              -- host:port of its listener
  version    text NOT NULL,
  started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  revoked    boolean NOT NULL DEFAULT false
);

-- What changes every second, apart from the row that is the fence.
CREATE TABLE heartbeats (
  lease     bigint PRIMARY KEY,
  seen_at   timestamptz NOT NULL,
  ready     boolean NOT NULL,
  draining  boolean NOT NULL DEFAULT false,
  positions jsonb NOT NULL               -- stream -> "complete up to"
) WITH (fillfactor = 50);

-- One row per (incarnation, stream), kept forever: the positions where the writer started and, once fenced, ended.
CREATE TABLE writers (
  lease          bigint NOT NULL,
  stream         text NOT NULL,
  start_position bigint NOT NULL,
  final_position bigint,
  PRIMARY KEY (lease, stream)
);

CREATE TABLE slots (
  kind       text NOT NULL,
  slot       integer NOT NULL,
  owner      bigint,                      -- lease; NULL: no owner
  epoch      bigint NOT NULL DEFAULT 0,   -- grows with each change of owner
  next_owner bigint,
  PRIMARY KEY (kind, slot)
);
INSERT INTO slots (kind, slot)
  SELECT kind, slot FROM unnest(ARRAY['rooms', 'users', 'destinations']) AS kind, generate_series(0, 1023) AS slot;

-- Duties that exactly one process has, such as leading ('main') or a background job.
CREATE TABLE duties (
  duty   text PRIMARY KEY,
  holder bigint,
  epoch  bigint NOT NULL DEFAULT 0
);
INSERT INTO duties (duty) VALUES ('main');

-- ---------------------------------------------------------------- streams

CREATE SEQUENCE stream_events CACHE 1;
CREATE SEQUENCE stream_receipts CACHE 1;
CREATE SEQUENCE stream_account_data CACHE 1;
CREATE SEQUENCE stream_sessions CACHE 1;

-- Reserved by processes in blocks of 1000.
CREATE SEQUENCE room_nids INCREMENT BY 1000;
CREATE SEQUENCE event_nids INCREMENT BY 1000;

-- ---------------------------------------------------------------- rooms and events

CREATE TABLE rooms (
  room_nid     bigint PRIMARY KEY,
  room_id      text NOT NULL UNIQUE,
  room_version text NOT NULL,
  creator      text NOT NULL,
  is_public    boolean NOT NULL DEFAULT false,   -- listed in the room directory
  created_ms   bigint NOT NULL
);

-- One row per event. `ordinal` is dense per room over live timeline events: two owners cannot both write number 17.
CREATE TABLE events (
  room_nid         bigint NOT NULL,
  event_nid        bigint NOT NULL,
  event_id         text NOT NULL,
  writer           bigint NOT NULL,
  position         bigint NOT NULL,
  ordinal          bigint,                  -- NULL: outlier or backfilled
  depth            bigint NOT NULL,
  type             text NOT NULL,
  state_key        text,                    -- NULL: not a state event
  sender           text NOT NULL,
  origin_server_ts bigint NOT NULL,
  status           smallint NOT NULL DEFAULT 0,  -- 0 accepted, 1 soft-failed, 2 rejected, 3 outlier
  prev_nids        bigint[] NOT NULL,
  auth_nids        bigint[] NOT NULL,
  replaces_nid     bigint,                  -- the state event that this one replaced in the current state
  redacted_by      bigint,                  -- event_nid of the redaction that applies to it
  redacts_nid      bigint,                  -- event_nid of the event that this redaction applies to
  txn_device       text,                    -- sending device and its transaction id: shown to that device only
  txn_id           text,
  json             bytea NOT NULL,          -- the PDU, canonical JSON, as signed
  PRIMARY KEY (room_nid, event_nid),
  UNIQUE (room_nid, ordinal)
);
CREATE UNIQUE INDEX events_by_id ON events (event_id);
CREATE INDEX events_by_position ON events (position);

-- The forward extremities: one row per room, updated in place (HOT) by every batch.
CREATE TABLE forward_extremities (
  room_nid   bigint PRIMARY KEY,
  event_nids bigint[] NOT NULL
) WITH (fillfactor = 50);

-- The current state; `position` and `writer` are those of its last change.
CREATE TABLE current_state (
  room_nid  bigint NOT NULL,
  type      text NOT NULL,
  state_key text NOT NULL,
  event_nid bigint NOT NULL,
  writer    bigint NOT NULL,
  position  bigint NOT NULL,
  PRIMARY KEY (room_nid, type, state_key)
);

-- Every change of the current state, in the room's order: for the state at any live event, and for sync.
CREATE TABLE state_changes (
  room_nid      bigint NOT NULL,
  type          text NOT NULL,
  state_key     text NOT NULL,
  ordinal       bigint NOT NULL,          -- of the event at which the change took effect
  event_nid     bigint,                   -- NULL: the key left the state
  prev_nid      bigint,
  writer        bigint NOT NULL,
  position      bigint NOT NULL,
  PRIMARY KEY (room_nid, type, state_key, ordinal)
);
CREATE INDEX state_changes_by_ordinal ON state_changes (room_nid, ordinal);

-- The current m.room.member state: one row per user who was ever seen in the room, with an index by user.
CREATE TABLE memberships (
  room_nid   bigint NOT NULL,
  user_id    text NOT NULL,
  membership text NOT NULL,
  event_nid  bigint NOT NULL,
  sender     text NOT NULL,
  ordinal    bigint NOT NULL,
  writer     bigint NOT NULL,
  position   bigint NOT NULL,
  is_local   boolean NOT NULL,
  forgotten  boolean NOT NULL DEFAULT false,
  PRIMARY KEY (room_nid, user_id)
);
CREATE INDEX memberships_by_user ON memberships (user_id, membership);

CREATE TABLE room_aliases (
  alias      text PRIMARY KEY,
  room_nid   bigint NOT NULL,
  creator    text NOT NULL,
  created_ms bigint NOT NULL
);
CREATE INDEX room_aliases_by_room ON room_aliases (room_nid);

-- A client's retry gets the first answer again. key: hash of user, device, method and decoded path.
CREATE TABLE client_transactions (
  room_nid   bigint NOT NULL,
  key        bytea NOT NULL,
  event_id   text NOT NULL,
  created_ms bigint NOT NULL,
  PRIMARY KEY (room_nid, key)
);
-- To load a room's last hour, and to delete rows older than a day, of all rooms.
CREATE INDEX client_transactions_by_room ON client_transactions (room_nid, created_ms);
CREATE INDEX client_transactions_by_age ON client_transactions USING brin (created_ms);

-- ---------------------------------------------------------------- accounts

CREATE TABLE users (
  user_id       text PRIMARY KEY,
  password_hash text,                      -- NULL: cannot log in with a password
  kind          text NOT NULL DEFAULT 'user',   -- user, guest, support, bot
  is_admin      boolean NOT NULL DEFAULT false,
  deactivated   boolean NOT NULL DEFAULT false,
  created_ms    bigint NOT NULL
);

CREATE TABLE profiles (
  user_id text NOT NULL,
  field   text NOT NULL,                   -- displayname, avatar_url, or any profile key
  value   bytea NOT NULL,                  -- JSON
  PRIMARY KEY (user_id, field)
);

CREATE TABLE devices (
  user_id      text NOT NULL,
  device_id    text NOT NULL,
  display_name text,
  last_seen_ms bigint,
  last_seen_ip text,
  created_ms   bigint NOT NULL,
  PRIMARY KEY (user_id, device_id)
);

-- One row per valid access token. Only hashes are stored.
CREATE TABLE access_tokens (
  token_hash   bytea PRIMARY KEY,          -- SHA-256
  user_id      text NOT NULL,
  device_id    text,                       -- NULL: a token without a device (registration by an admin tool)
  expires_ms   bigint,                     -- NULL: never
  refresh_hash bytea,                      -- the refresh token that was issued with this access token
  created_ms   bigint NOT NULL
);
CREATE INDEX access_tokens_by_user ON access_tokens (user_id, device_id);
CREATE INDEX access_tokens_by_expiry ON access_tokens (expires_ms) WHERE expires_ms IS NOT NULL;

-- A refresh token ends at the first *use* of its successor (of the new access or refresh token).
CREATE TABLE refresh_tokens (
  token_hash bytea PRIMARY KEY,
  user_id    text NOT NULL,
  device_id  text NOT NULL,
  successor  bytea,                        -- hash of the refresh token that replaced it
  created_ms bigint NOT NULL
);
CREATE INDEX refresh_tokens_by_user ON refresh_tokens (user_id, device_id);
CREATE INDEX refresh_tokens_by_successor ON refresh_tokens (successor) WHERE successor IS NOT NULL;

-- The stream `sessions`: tokens that other processes must drop from their caches.
CREATE TABLE session_changes (
  writer     bigint NOT NULL,
  position   bigint PRIMARY KEY,
  user_id    text NOT NULL,
  device_id  text,                         -- NULL: all of the user's devices
  changed_ms bigint NOT NULL
);

-- User-interactive authentication. Any worker can continue a session.
CREATE TABLE uia_sessions (
  session_id text PRIMARY KEY,
  user_id    text,
  operation  text NOT NULL,                -- method and path; a session is for one operation only
  request    bytea NOT NULL,               -- the first request's body without `auth`
  completed  jsonb NOT NULL DEFAULT '{}',  -- stage -> result
  created_ms bigint NOT NULL
);

CREATE TABLE registration_tokens (
  token           text PRIMARY KEY,
  uses_allowed    integer,                 -- NULL: without limit
  pending         integer NOT NULL DEFAULT 0,
  completed       integer NOT NULL DEFAULT 0,
  expires_ms      bigint
);

CREATE TABLE registration_nonces (
  nonce      text PRIMARY KEY,
  created_ms bigint NOT NULL
);

CREATE TABLE login_attempts (
  key          text PRIMARY KEY,           -- "account:@u:s" or "address:1.2.3.4"
  tokens       double precision NOT NULL,  -- token bucket, over the whole fleet
  allowed      boolean NOT NULL,           -- whether the last attempt was
  refilled_at  timestamptz NOT NULL
);

CREATE TABLE filters (
  user_id   text NOT NULL,
  filter_id bigint NOT NULL,
  hash      bytea NOT NULL,
  json      bytea NOT NULL,
  PRIMARY KEY (user_id, filter_id),
  UNIQUE (user_id, hash)
);

-- ---------------------------------------------------------------- user-keyed streams

-- room_id '' is global account data. Deletions stay as rows with json NULL.
CREATE TABLE account_data (
  user_id  text NOT NULL,
  room_id  text NOT NULL,
  type     text NOT NULL,
  json     bytea,
  writer   bigint NOT NULL,
  position bigint NOT NULL,
  PRIMARY KEY (user_id, room_id, type)
);
CREATE INDEX account_data_by_position ON account_data (position);

-- thread_id '' is an unthreaded receipt. kind: m.read, m.read.private
CREATE TABLE receipts (
  room_nid   bigint NOT NULL,
  user_id    text NOT NULL,
  kind       text NOT NULL,
  thread_id  text NOT NULL,
  event_id   text NOT NULL,
  ordinal    bigint NOT NULL,              -- of the event, or of the live event before it
  ts_ms      bigint NOT NULL,
  writer     bigint NOT NULL,
  position   bigint NOT NULL,
  PRIMARY KEY (room_nid, user_id, kind, thread_id)
);
CREATE INDEX receipts_by_position ON receipts (position);
