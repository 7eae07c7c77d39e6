-- `sliding_states` took the place of this table in migration 23. Releases that need a schema before that cannot run beside
-- this one.
DROP TABLE sliding_connections;
