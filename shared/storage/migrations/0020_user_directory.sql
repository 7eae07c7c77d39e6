-- The user directory. A search decides by memberships which users the searcher may find, so that joining and leaving a
-- room cost nothing here.
CREATE TABLE user_directory (
  user_id      text PRIMARY KEY,
  display_name text,
  avatar_url   text,
  words        tsvector NOT NULL           -- of the localpart and the name: shared/core/search/directory_words.py
);
CREATE INDEX user_directory_by_word ON user_directory USING gin (words);

-- Rooms whose members everybody may find: join rule `public`, or history visibility `world_readable`.
CREATE TABLE user_directory_rooms (
  room_nid bigint PRIMARY KEY REFERENCES rooms (room_nid) ON DELETE CASCADE
);

-- Local users whose entry must be updated. Rows are only inserted, so that no writer waits for the job, which deletes
-- them.
CREATE TABLE user_directory_queue (
  number  bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  user_id text NOT NULL
);
CREATE FUNCTION queue_user_for_directory() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF TG_OP = 'DELETE' THEN
    INSERT INTO user_directory_queue (user_id) VALUES (OLD.user_id);
  ELSE
    INSERT INTO user_directory_queue (user_id) VALUES (NEW.user_id);
  END IF;
  RETURN NULL;
END $$;
CREATE TRIGGER user_directory_profiles AFTER INSERT OR UPDATE OR DELETE ON profiles
  FOR EACH ROW EXECUTE FUNCTION queue_user_for_directory();
CREATE TRIGGER user_directory_users AFTER INSERT OR UPDATE OF deactivated ON users
  FOR EACH ROW EXECUTE FUNCTION queue_user_for_directory();

-- The progress of the job. A process that does the job locks the row. position: of the stream `events`. users_above:
-- the last of the local users from before this table, in the order of their ids. NULL: all are done.
CREATE TABLE user_directory_progress (
  position    bigint NOT NULL,
  users_above text
);
INSERT INTO user_directory_progress VALUES (0, '');
