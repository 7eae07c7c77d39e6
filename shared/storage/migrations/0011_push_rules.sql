-- Changes of the default push rules, and ignored users, with which persisters evaluate events.

CREATE SEQUENCE stream_push_rules CACHE 1;

-- One row per user who changed anything.
-- rules: JSON (shared/core/push_rules/changes.py), empty for none.
-- everywhere: the rules say something about every room. rooms: those that they say something about by name.
-- ignored: the users of the m.ignored_user_list.
CREATE TABLE push_rules (
  user_id    text PRIMARY KEY,
  rules      bytea NOT NULL DEFAULT '',
  ignored    text[] NOT NULL DEFAULT '{}',
  everywhere boolean NOT NULL DEFAULT false,
  rooms      text[] NOT NULL DEFAULT '{}',
  writer     bigint NOT NULL,
  position   bigint NOT NULL
);
CREATE INDEX push_rules_by_position ON push_rules (position);

-- Lists that were stored before. A list with an escape that text cannot hold is left until its user stores it again.
INSERT INTO push_rules (user_id, ignored, writer, position)
SELECT a.user_id, ignored.users, a.writer, nextval('stream_push_rules')
FROM account_data a
CROSS JOIN LATERAL (SELECT convert_from(a.json, 'UTF8') AS text) AS content
CROSS JOIN LATERAL (
  SELECT CASE
    WHEN content.text ~* '\\u(0000|d[89a-f])' THEN NULL
    WHEN json_typeof(content.text::json -> 'ignored_users') = 'object'
      THEN ARRAY(SELECT DISTINCT json_object_keys(content.text::json -> 'ignored_users'))
  END AS users
) AS ignored
WHERE a.room_id = '' AND a.type = 'm.ignored_user_list' AND a.json IS NOT NULL AND ignored.users <> '{}';
