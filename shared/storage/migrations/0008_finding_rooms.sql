-- Finding rooms: the directory, and how many members a room has.

CREATE INDEX rooms_published ON rooms (room_nid) WHERE is_public;
-- Counting members reads nothing but this index.
CREATE INDEX memberships_joined ON memberships (room_nid, is_local) WHERE membership = 'join';
