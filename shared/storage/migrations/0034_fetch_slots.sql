-- Questions to other servers about a room, or about what a server has, have one owner each.
INSERT INTO slots (kind, slot) SELECT 'fetches', slot FROM generate_series(0, 1023) AS slot;
