-- Reports of users to the operators. A report outlives its subject.
CREATE TABLE reports (
  report     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  reporter   text NOT NULL,
  about_room text,                         -- the room, or that of the event
  event_id   text,
  about_user text,
  reason     text NOT NULL,
  created_ms bigint NOT NULL
);
