-- The words of what can be searched: m.room.message, m.room.name, m.room.topic; never of encrypted events. Filled by a
-- background job, so that sending costs nothing more. Each row also has its room as a word (it begins with a space, so
-- no text has it): the index then finds the words of some rooms without looking at all others.
CREATE TABLE search_words (
  room_nid  bigint NOT NULL,
  event_nid bigint NOT NULL,
  key       smallint NOT NULL,      -- 0 content.body, 1 content.name, 2 content.topic
  words     tsvector NOT NULL,
  PRIMARY KEY (room_nid, event_nid),
  FOREIGN KEY (room_nid, event_nid) REFERENCES events (room_nid, event_nid) ON DELETE CASCADE
);
CREATE INDEX search_words_by_word ON search_words USING gin (words);

-- Up to which position of the stream `events` the job has come; whoever works holds the row.
CREATE TABLE search_progress (
  position bigint NOT NULL
);
INSERT INTO search_progress VALUES (0);
