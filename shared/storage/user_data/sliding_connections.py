"""Connections of sliding sync: the two states of each that a client may still name, by compare-and-set.

No fence and no slot: whichever process answers a client writes, and only if nobody wrote since it read. The state that
an answer was made from stays beside the new one until the client shows the new one's number: it may never have got it.
"""

from dataclasses import dataclass

from shared.storage.engine.pool import Source

#: Uses the primary key.
_GET = """
    SELECT number, state, prior_number, prior_state FROM sliding_connections
    WHERE user_id = $1 AND device_id = $2 AND conn_id = $3
"""
#: $4 the number that the row has as far as the writer knows (0: there is none), $5 number and $6 state to write,
#: $7 number of the state that they were made from, $8 now. Of two writers one finds another number and writes nothing.
#: $9: connections that the device may have; those written longest ago go. Uses the primary key.
_PUT = """
    WITH others AS (
        SELECT conn_id FROM sliding_connections
        WHERE $4::bigint = 0 AND user_id = $1 AND device_id = $2 AND conn_id <> $3
        ORDER BY written_ms DESC OFFSET $9::bigint - 1
    ), gone AS (
        DELETE FROM sliding_connections c USING others o
        WHERE c.user_id = $1 AND c.device_id = $2 AND c.conn_id = o.conn_id
    )
    INSERT INTO sliding_connections AS c
        (user_id, device_id, conn_id, number, state, prior_number, prior_state, written_ms)
    VALUES ($1, $2, $3, $5, $6, 0, '', $8)
    ON CONFLICT (user_id, device_id, conn_id) DO UPDATE SET
        number = $5, state = $6, written_ms = $8,
        prior_number = CASE WHEN c.number = $7 THEN c.number WHEN c.prior_number = $7 THEN c.prior_number ELSE 0 END,
        prior_state = CASE WHEN c.number = $7 THEN c.state WHEN c.prior_number = $7 THEN c.prior_state ELSE '' END
    WHERE c.number = $4 RETURNING 1
"""


@dataclass(frozen=True, slots=True)
class StoredConnection:
    """prior_number 0: there is no prior state."""

    number: int
    state: bytes
    prior_number: int
    prior_state: bytes


async def get_connection(source: Source, user_id: str, device_id: str, conn_id: str) -> StoredConnection | None:
    row = await source.fetchrow(_GET, user_id, device_id, conn_id)
    return None if row is None else StoredConnection(*row)


async def put_connection(
    source: Source, user_id: str, device_id: str, conn_id: str, *, expected: int, number: int, state: bytes,
    made_from: int, now_ms: int, max_connections: int,
) -> bool:  # fmt: skip
    """Store the state under its number, beside that which it was made from; False: somebody else wrote meanwhile.

    expected: the row's number as read, 0 for no row; made_from: 0 for a connection that begins anew.
    """
    done = await source.fetchval(
        _PUT, user_id, device_id, conn_id, expected, number, state, made_from, now_ms, max_connections
    )
    return done is not None
