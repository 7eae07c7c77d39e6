"""The states of sliding sync connections that clients may still name.

Without fence and slot: any process that serves a client inserts states. A state stays until the client has named a
later one. A client that aborts a request and repeats it has several states made from one: it received the response of
one of them, and only the client knows which.
"""

from shared.core.identifiers import UserId
from shared.storage.engine.pool import Source
from shared.storage.engine.statements import parameters, statement

#: States of a connection beside the one that the client named last, and their size. Only requests that overlap make
#: more than one. Beyond the limits the oldest are deleted.
MAX_STATES = 16
MAX_BYTES = 4 << 20

#: Uses the primary key.
_GET = "SELECT state FROM sliding_states WHERE user_id = $1 AND device_id = $2 AND conn_id = $3 AND number = $4"


@parameters
class _Put:
    """A new state. made_from: number of the state that it was made from. max_connections: of the device."""

    user_id: UserId
    device_id: str
    conn_id: str
    made_from: int
    state: bytes
    now_ms: int
    max_connections: int


#: Returns nothing if another statement took the number meanwhile. Uses the primary key.
_PUT = statement(
    _Put,
    f"""
    WITH own AS (
        SELECT number, row_number() OVER latest AS place, sum(octet_length(state)) OVER latest AS bytes
        FROM sliding_states
        WHERE user_id = :user_id AND device_id = :device_id AND conn_id = :conn_id AND number > :made_from
        WINDOW latest AS (ORDER BY number DESC)
    ), last AS (
        SELECT greatest(:made_from::bigint, max(number)) AS number FROM own
    ), deleted AS (
        DELETE FROM sliding_states
        WHERE user_id = :user_id AND device_id = :device_id AND conn_id = :conn_id AND (number < :made_from
           OR number IN (SELECT number FROM own WHERE place >= {MAX_STATES} OR bytes > {MAX_BYTES}))
    ), others AS (
        SELECT conn_id FROM sliding_states
        WHERE :made_from::bigint = 0 AND NOT EXISTS (SELECT FROM own)
          AND user_id = :user_id AND device_id = :device_id AND conn_id <> :conn_id
        GROUP BY conn_id ORDER BY max(number) DESC OFFSET :max_connections::bigint - 1
    ), forgotten AS (
        DELETE FROM sliding_states s USING others o
        WHERE s.user_id = :user_id AND s.device_id = :device_id AND s.conn_id = o.conn_id
    )
    INSERT INTO sliding_states (user_id, device_id, conn_id, number, state)
    SELECT :user_id, :device_id, :conn_id, greatest(number + 1, :now_ms), :state FROM last
    ON CONFLICT DO NOTHING RETURNING number
    """,
)


async def get_sliding_state(source: Source, user_id: UserId, device_id: str, conn_id: str, number: int) -> bytes | None:
    """Return a state, None if it does not exist any more."""
    state: bytes | None = await source.fetchval(_GET, user_id, device_id, conn_id, number)
    return state


async def put_sliding_state(
    source: Source,
    user_id: UserId,
    device_id: str,
    conn_id: str,
    state: bytes,
    *,
    made_from: int,
    now_ms: int,
    max_connections: int,
) -> int | None:
    """Store a state and return its number, None if another statement took the number meanwhile.

    The states before `made_from`, which the client has named, are deleted. made_from: 0 for a new connection, of which
    a device may have `max_connections`. Those written longest ago are deleted. Numbers are never used again: they are
    at least `now_ms`.
    """
    record = _Put(
        user_id=user_id,
        device_id=device_id,
        conn_id=conn_id,
        made_from=made_from,
        state=state,
        now_ms=now_ms,
        max_connections=max_connections,
    )
    number: int | None = await source.fetchval(*_PUT.bind(record))
    return number
