-- The directory of rooms, and the numbers of their members.

CREATE INDEX rooms_published ON rooms (room_nid) WHERE is_public;
-- Counting members reads only this index.
CREATE INDEX memberships_joined ON memberships (room_nid, is_local) WHERE membership = 'join';
