-- Our standing in a room. 0: its state is ours. 1: outside, known by an invite or a knock alone. 2: joining, while another
-- server lets us in. 3: left, the last of our users is gone and the state that we have is old.
-- stripped_state: what the latest invite or knock tells of a room that is not ours, a JSON array.
-- The release before takes a room without events for one that is not here, which is right.
ALTER TABLE rooms ADD COLUMN standing smallint NOT NULL DEFAULT 0, ADD COLUMN stripped_state bytea;
