-- Users whose display name or picture changed and whose member events may still show the previous one. The owner of the
-- user updates their rooms at once; a background worker does so if that process dies. `number` tells if the profile
-- changed again meanwhile. The release before neither writes nor reads the table.
CREATE TABLE profile_changes (
  user_id    text PRIMARY KEY,
  number     bigint NOT NULL DEFAULT 0,
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  look_at    timestamptz NOT NULL,
  looks      integer NOT NULL DEFAULT 0
);
CREATE INDEX profile_changes_when ON profile_changes (look_at);
