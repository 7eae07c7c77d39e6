-- A standby that was promoted may lack the last commits: see shared/storage/engine/lost_commits.py.

-- The timeline on which a lease was granted. The lease is void on any other one, without being revoked.
ALTER TABLE leases ADD COLUMN timeline text NOT NULL DEFAULT left(pg_walfile_name(pg_current_wal_insert_lsn()), 8);

-- The timeline for which the sequences were last raised.
INSERT INTO counters
SELECT 'timeline', ('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::bit(32)::bigint;
