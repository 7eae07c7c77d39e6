"""Expired rows, deleted in small batches: no statement holds many locks, and two processes share the work.

$1 of each statement: delete rows that are older. $2: the most rows.
"""

from collections.abc import Mapping

from shared.storage.engine.pool import Database

#: Job -> its statement. Small tables are read whole.
STATEMENTS: Mapping[str, str] = {
    "uia_sessions": """
        DELETE FROM uia_sessions WHERE session_id IN (
            SELECT session_id FROM uia_sessions WHERE created_ms < $1 LIMIT $2 FOR UPDATE SKIP LOCKED)
    """,
    "registration_nonces": """
        DELETE FROM registration_nonces WHERE nonce IN (
            SELECT nonce FROM registration_nonces WHERE created_ms < $1 LIMIT $2 FOR UPDATE SKIP LOCKED)
    """,
    # A full bucket is the same as none. $1 is in milliseconds, as in the others.
    "login_attempts": """
        DELETE FROM login_attempts WHERE key IN (
            SELECT key FROM login_attempts WHERE refilled_at < to_timestamp($1::bigint / 1000.0)
            LIMIT $2 FOR UPDATE SKIP LOCKED)
    """,
    # A small table: jobs seldom leave anything out.
    "set_aside": """
        DELETE FROM set_aside WHERE (step, item) IN (
            SELECT step, item FROM set_aside WHERE at < to_timestamp($1::bigint / 1000.0)
            LIMIT $2 FOR UPDATE SKIP LOCKED)
    """,
    # Uses login_addresses_by_use.
    "login_addresses": """
        DELETE FROM login_addresses WHERE (user_id, address) IN (
            SELECT user_id, address FROM login_addresses WHERE used_ms < $1 LIMIT $2 FOR UPDATE SKIP LOCKED)
    """,
    # Uses client_transactions_by_age.
    "client_transactions": """
        DELETE FROM client_transactions WHERE (room_nid, key) IN (
            SELECT room_nid, key FROM client_transactions WHERE created_ms < $1
            ORDER BY created_ms LIMIT $2 FOR UPDATE SKIP LOCKED)
    """,
    # Positions grow with time, so the primary key finds the oldest rows first.
    "session_changes": """
        DELETE FROM session_changes WHERE position IN (
            SELECT position FROM (SELECT position, changed_ms FROM session_changes ORDER BY position LIMIT $2) AS oldest
            WHERE changed_ms < $1)
    """,
    # Uses to_device_transactions_by_age.
    "to_device_transactions": """
        DELETE FROM to_device_transactions WHERE (user_id, device_id, key) IN (
            SELECT user_id, device_id, key FROM to_device_transactions WHERE created_ms < $1
            ORDER BY created_ms LIMIT $2 FOR UPDATE SKIP LOCKED)
    """,
    # The newest row stays, since the oldest stored row tells which tokens are too old.
    "device_list_changes": """
        DELETE FROM device_list_changes WHERE position IN (
            SELECT position FROM (SELECT position, changed_ms FROM device_list_changes ORDER BY position LIMIT $2) AS o
            WHERE changed_ms < $1 AND position < (SELECT max(position) FROM device_list_changes))
    """,
    "one_time_key_changes": """
        DELETE FROM one_time_key_changes WHERE position IN (
            SELECT position FROM (SELECT position, changed_ms FROM one_time_key_changes ORDER BY position LIMIT $2) AS o
            WHERE changed_ms < $1)
    """,
    # Uses one_time_keys_claimed.
    "one_time_keys": """
        DELETE FROM one_time_keys WHERE (user_id, device_id, algorithm, key_id) IN (
            SELECT user_id, device_id, algorithm, key_id FROM one_time_keys WHERE claimed_ms < $1
            LIMIT $2 FOR UPDATE SKIP LOCKED)
    """,
    # Uses sticky_events_by_end.
    "sticky_events": """
        DELETE FROM sticky_events WHERE (room_nid, event_nid) IN (
            SELECT room_nid, event_nid FROM sticky_events WHERE until_ms < $1 LIMIT $2 FOR UPDATE SKIP LOCKED)
    """,
    # Uses delayed_events_by_age.
    "delayed_events": """
        DELETE FROM delayed_events WHERE delay_id IN (
            SELECT delay_id FROM delayed_events WHERE finalised_ms < $1 LIMIT $2 FOR UPDATE SKIP LOCKED)
    """,
    # Expired tokens that nothing can renew, since their refresh token is deleted or replaced. Uses
    # access_tokens_by_expiry.
    "access_tokens": """
        DELETE FROM access_tokens WHERE token_hash IN (
            SELECT a.token_hash FROM access_tokens a
            WHERE a.expires_ms < $1
              AND NOT EXISTS (SELECT 1 FROM refresh_tokens r
                              WHERE r.token_hash = a.refresh_hash AND r.successor IS NULL)
            LIMIT $2 FOR UPDATE SKIP LOCKED)
    """,
}


async def delete_old_rows(database: Database, job: str, older_than_ms: int, limit: int) -> int:
    """Delete one batch. Return the number of deleted rows. job: a key of STATEMENTS."""
    status = await database.execute(STATEMENTS[job], older_than_ms, limit)
    return int(status.rpartition(" ")[2])
