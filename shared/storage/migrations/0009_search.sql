-- The words of m.room.message, m.room.name and m.room.topic, never of encrypted events. A background job fills the
-- table, so that sending costs nothing more. Each row also has its room as a word (it begins with a space, so no text
-- has it): the index finds the words of some rooms without reading all others.
CREATE TABLE search_words (
  room_nid  bigint NOT NULL,
  event_nid bigint NOT NULL,
  key       smallint NOT NULL,      -- 0 content.body, 1 content.name, 2 content.topic
  words     tsvector NOT NULL,
  PRIMARY KEY (room_nid, event_nid),
  FOREIGN KEY (room_nid, event_nid) REFERENCES events (room_nid, event_nid) ON DELETE CASCADE
);
CREATE INDEX search_words_by_word ON search_words USING gin (words);

-- The position of the stream `events` that the job has reached. A process that does the job locks the row.
CREATE TABLE search_progress (
  position bigint NOT NULL
);
INSERT INTO search_progress VALUES (0);
