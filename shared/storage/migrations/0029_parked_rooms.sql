-- Rooms whose state cannot be resolved within the limits: what needs a resolution is refused until an operator lets it be
-- tried again. The release before tries again and again.
ALTER TABLE rooms ADD COLUMN parked_ms bigint, ADD COLUMN parked_reason text;
CREATE INDEX rooms_parked ON rooms (parked_ms) WHERE parked_ms IS NOT NULL;
