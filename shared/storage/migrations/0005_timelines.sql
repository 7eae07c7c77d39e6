-- A standby that was promoted may lack the last commits: see shared/storage/engine/lost_commits.py.

-- The timeline on which a lease was granted: on any other one it is void, without anybody having to end it.
ALTER TABLE leases ADD COLUMN timeline text NOT NULL DEFAULT left(pg_walfile_name(pg_current_wal_insert_lsn()), 8);

-- The timeline for which the sequences were last lifted.
INSERT INTO counters
SELECT 'timeline', ('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::bit(32)::bigint;
