"""A database that lost its last commits: a promoted standby, or a backup, hands out positions that readers have passed.

PostgreSQL begins a new timeline with each promotion and each recovery to a point in time. A lease holds only on the
timeline on which it was granted. The fence compares them, so a process that wrote before writes nothing more and
rejoins the fleet, also behind a pooler. The first process to join on a new timeline raises the lease number and all
streams' sequences far above what can have been lost. Each process that joins reports the greatest numbers that it has
seen, and raises them above these too. So no writer number and no position that any process has seen is given again. The
timeline comes from the write-ahead log, since the control file lags behind a promotion. Architecture page, section 3,
"A database that lost its last commits"; evidence 8.

A plain crash begins no timeline. It loses nothing that was committed, unless commits do not wait for the disk: with
`synchronous_commit = off` no process joins.
"""

from collections.abc import Mapping

from shared.core.errors import SkepError
from shared.storage.engine.pool import Connection

#: The timeline of the primary that runs the statement: 8 hexadecimal digits. A standby raises an error.
TIMELINE = "left(pg_walfile_name(pg_current_wal_insert_lsn()), 8)"
#: The key of the greatest lease number in `ever_seen`.
LEASE = "lease"
#: The distance by which numbers are raised: above the leases, and the rows of one stream, that a standby can lack.
LEASES_RAISED_BY = 1_000_000
POSITIONS_RAISED_BY = 100_000_000

_NEW_TIMELINE = f"""
    UPDATE counters SET value = now.timeline FROM (SELECT ('x' || {TIMELINE})::bit(32)::bigint AS timeline) now
    WHERE name = 'timeline' AND value <> now.timeline RETURNING value
"""
_COMMIT_WAITS = "SELECT current_setting('synchronous_commit') <> 'off'"
_RAISE_LEASE = (
    "UPDATE counters SET value = greatest(value, $1::bigint) + $2 WHERE name = 'lease' AND (value < $1::bigint OR $3)"
)


class UnsafeCommits(SkepError):
    """The database reports commits before they are on disk."""


async def raise_above_lost_numbers(conn: Connection, streams: Mapping[str, str], ever_seen: Mapping[str, int]) -> bool:
    """Raise the lease number and the sequences so that no number is given again. Return True for a new timeline.

    conn: in the transaction that grants a lease.
    streams: stream -> its sequence, of every stream that has one.
    ever_seen: the greatest numbers that this process has seen since its start, by stream and by LEASE.
    Raises UnsafeCommits.
    """
    if not await conn.fetchval(_COMMIT_WAITS):
        raise UnsafeCommits(
            "synchronous_commit is off for this role or database: a crash would lose announced rows and give their"
            " positions again. Turn it on."
        )
    is_new = await conn.fetchval(_NEW_TIMELINE) is not None
    await conn.execute(_RAISE_LEASE, ever_seen.get(LEASE, 0), LEASES_RAISED_BY, is_new)
    for stream, sequence in streams.items():
        seen = ever_seen.get(stream, 0)
        if is_new or seen:
            raise_sequence = (
                f"SELECT setval('{sequence}', greatest(last_value, $1::bigint) + $2) FROM {sequence}"
                " WHERE last_value < $1::bigint OR $3"
            )
            await conn.execute(raise_sequence, seen, POSITIONS_RAISED_BY, is_new)
    return is_new
