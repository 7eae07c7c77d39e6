"""A database that lost its last commits: a promoted standby, or a backup, hands out again what readers have passed.

PostgreSQL begins a new timeline with each promotion and each recovery to a point in time. A lease holds on the timeline
on which it was granted and on no other: the fence compares, so whoever wrote before writes nothing more, and joins
anew, behind a pooler too. The first to join on a new timeline lifts the lease number and all streams' sequences far
above what can have been lost; each one that joins reports the greatest that it ever saw, and lifts them above that too.
So no number of a writer that anybody saw is given again, and no position. The write-ahead log is asked, for the control
file lags behind a promotion. Architecture page, section 3, "A database that lost its last commits"; evidence 8.

A plain crash begins no timeline. It loses nothing that was committed unless commits do not wait for the disk: with
`synchronous_commit = off` nobody joins.
"""

from collections.abc import Mapping

from shared.core.errors import SkepError
from shared.storage.engine.pool import Connection

#: Of the primary that runs the statement, 8 hexadecimal digits. A standby raises an error.
TIMELINE = "left(pg_walfile_name(pg_current_wal_insert_lsn()), 8)"
#: Under this name `ever_seen` holds the greatest lease number.
LEASE = "lease"
#: More than a standby can lack: leases, and rows of one stream.
LEASES_LIFT = 1_000_000
POSITIONS_LIFT = 100_000_000

_NEW_TIMELINE = f"""
    UPDATE counters SET value = now.timeline FROM (SELECT ('x' || {TIMELINE})::bit(32)::bigint AS timeline) now
    WHERE name = 'timeline' AND value <> now.timeline RETURNING value
"""
_COMMIT_WAITS = "SELECT current_setting('synchronous_commit') <> 'off'"
_LIFT_LEASE = (
    "UPDATE counters SET value = greatest(value, $1::bigint) + $2 WHERE name = 'lease' AND (value < $1::bigint OR $3)"
)


class UnsafeCommits(SkepError):
    """The database says "committed" before it is."""


async def lift_what_was_lost(conn: Connection, streams: Mapping[str, str], ever_seen: Mapping[str, int]) -> bool:
    """See to it that nothing is handed out again; return whether the timeline is a new one.

    conn: in the transaction that grants a lease. streams: every stream that has a sequence -> its name.
    ever_seen: by stream, and by LEASE, the greatest that this process saw since its start.
    Raises UnsafeCommits.
    """
    if not await conn.fetchval(_COMMIT_WAITS):
        raise UnsafeCommits("synchronous_commit is off for this role or database: after a crash, rows that were"
                            " announced would be gone and their positions given again")  # fmt: skip
    is_new = await conn.fetchval(_NEW_TIMELINE) is not None
    await conn.execute(_LIFT_LEASE, ever_seen.get(LEASE, 0), LEASES_LIFT, is_new)
    for stream, sequence in streams.items():
        seen = ever_seen.get(stream, 0)
        if is_new or seen:
            await conn.execute(
                f"SELECT setval('{sequence}', greatest(last_value, $1::bigint) + $2) FROM {sequence}"
                " WHERE last_value < $1::bigint OR $3",
                seen, POSITIONS_LIFT, is_new,
            )  # fmt: skip
    return is_new
