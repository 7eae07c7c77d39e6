"""Access and refresh tokens. Only their SHA-256 is stored.

A token in force leaves in the fenced statement that also writes a row of the stream `sessions`, which tells every
process to forget what it cached; the statement's answer holds the row's position.
Spec: client-server API, "Client Authentication".
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from shared.core.identifiers import UserId
from shared.storage.encryption.device_lists import CHANGE_PART
from shared.storage.engine.fenced import fenced_statement
from shared.storage.engine.pool import Database

# Uses the primary keys of access_tokens, users and devices, and refresh_tokens_by_successor.
_GET_SESSION = """
    SELECT t.user_id, t.device_id, d.created_ms AS device_created_ms, t.expires_ms, t.refresh_hash, u.kind, u.is_admin,
           u.deactivated,
           t.refresh_hash IS NOT NULL
           AND EXISTS (SELECT 1 FROM refresh_tokens r WHERE r.successor = t.refresh_hash) AS has_predecessor
    FROM access_tokens t JOIN users u USING (user_id) LEFT JOIN devices d USING (user_id, device_id)
    WHERE t.token_hash = $1
"""
# Uses refresh_tokens_by_successor.
_END_PREDECESSORS = "DELETE FROM refresh_tokens WHERE successor = $1"
# Uses the primary key of devices. Older values never overwrite newer ones of another process.
_SET_LAST_SEEN = """
    UPDATE devices d SET last_seen_ms = u.ms, last_seen_ip = u.ip
    FROM (SELECT * FROM unnest($1::text[], $2::text[], $3::bigint[], $4::text[]) AS t(user_id, device_id, ms, ip)
          ORDER BY user_id, device_id) AS u
    WHERE d.user_id = u.user_id AND d.device_id = u.device_id AND coalesce(d.last_seen_ms, 0) < u.ms
"""

# Uses the primary key of refresh_tokens.
_GET_REFRESH = "SELECT user_id, device_id, created_ms FROM refresh_tokens WHERE token_hash = $1"

_CHANGE_COLUMNS = "INSERT INTO session_changes (writer, position, user_id, device_id, changed_ms)"
_INSERT_ACCESS = """
    INSERT INTO access_tokens (token_hash, user_id, device_id, expires_ms, refresh_hash, created_ms)
    SELECT $5, $2, $3, $6, $7, $8 FROM {source}
"""
_INSERT_REFRESH = """
    INSERT INTO refresh_tokens (token_hash, user_id, device_id, created_ms)
    SELECT $7, $2, $3, $8 FROM {source} WHERE $7::bytea IS NOT NULL
"""


def _what_devices_have(which: str, now: str) -> dict[str, str]:
    """The parts by which keys and messages of devices go with them: the rows of the part `ended`.

    which: a condition on $2 and `device_id`.
    """
    deletion = "DELETE FROM {table} USING fence WHERE user_id = $2 AND " + which
    return {
        "identity": deletion.format(table="device_keys"),
        "one_time": deletion.format(table="one_time_keys"),
        "fallback": deletion.format(table="fallback_keys"),
        "inbox": deletion.format(table="to_device_messages"),
        "sent": deletion.format(table="to_device_transactions"),
        "sliding": deletion.format(table="sliding_states"),
        "list_change": CHANGE_PART.format(user="$2", now=now, source="ended"),
    }


#: A new session of a device that may have had one: its former tokens end.
#: $2 user, $3 device, $4 display name, $5 access hash, $6 expires_ms, $7 refresh hash, $8 now.
#: Uses access_tokens_by_user, refresh_tokens_by_user.
START_SESSION = fenced_statement(
    "start_session",
    {
        "device": """
            INSERT INTO devices (user_id, device_id, display_name, created_ms)
            SELECT $2, $3, $4, $8 FROM fence ON CONFLICT (user_id, device_id) DO NOTHING RETURNING 1
        """,
        "list_change": CHANGE_PART.format(user="$2", now="$8", source="device"),
        # Sent to a former device of this name at the moment when it went.
        "strays": """
            DELETE FROM to_device_messages USING fence
            WHERE user_id = $2 AND device_id = $3 AND EXISTS (SELECT FROM device)
        """,
        "ended": "DELETE FROM access_tokens USING fence WHERE user_id = $2 AND device_id = $3 RETURNING 1",
        "ended_refresh": "DELETE FROM refresh_tokens USING fence WHERE user_id = $2 AND device_id = $3",
        "change": f"""
            {_CHANGE_COLUMNS}
            SELECT $1, nextval('stream_sessions'), $2, $3, $8 FROM fence WHERE EXISTS (SELECT 1 FROM ended)
            RETURNING position
        """,
        "access": _INSERT_ACCESS.format(source="fence"),
        "refresh": _INSERT_REFRESH.format(source="fence"),
    },
    "(SELECT position FROM change) AS position, (SELECT position FROM list_change) AS list_position",
)

#: $2 user, $3 devices, $4 now: the devices go with their tokens, their keys and the messages for them.
END_DEVICES = fenced_statement(
    "end_devices",
    {
        "ended": "DELETE FROM devices USING fence WHERE user_id = $2 AND device_id = ANY ($3::text[]) RETURNING 1",
        "access": "DELETE FROM access_tokens USING fence WHERE user_id = $2 AND device_id = ANY ($3::text[])",
        "refresh": "DELETE FROM refresh_tokens USING fence WHERE user_id = $2 AND device_id = ANY ($3::text[])",
        "change": f"""
            {_CHANGE_COLUMNS}
            SELECT $1, nextval('stream_sessions'), $2, d, $4 FROM fence, unnest($3::text[]) AS d
            RETURNING position, device_id
        """,
        **_what_devices_have("device_id = ANY ($3::text[])", "$4"),
    },
    """(SELECT array_agg(position ORDER BY position) FROM change) AS positions,
       (SELECT array_agg(device_id ORDER BY position) FROM change) AS devices,
       (SELECT position FROM list_change) AS list_position""",
)

#: $2 user, $3 the device that stays (NULL: none), $4 the access token that stays, $5 now. As END_DEVICES.
END_ALL_SESSIONS = fenced_statement(
    "end_all_sessions",
    {
        "ended": "DELETE FROM devices USING fence WHERE user_id = $2 AND device_id IS DISTINCT FROM $3 RETURNING 1",
        "access": """
            DELETE FROM access_tokens USING fence
            WHERE user_id = $2 AND token_hash IS DISTINCT FROM $4
              AND (device_id IS DISTINCT FROM $3 OR device_id IS NULL)
        """,
        "refresh": "DELETE FROM refresh_tokens USING fence WHERE user_id = $2 AND device_id IS DISTINCT FROM $3",
        "change": f"""
            {_CHANGE_COLUMNS}
            SELECT $1, nextval('stream_sessions'), $2, NULL, $5 FROM fence RETURNING position
        """,
        **_what_devices_have("device_id IS DISTINCT FROM $3", "$5"),
    },
    "(SELECT position FROM change) AS position, (SELECT position FROM list_change) AS list_position",
)

#: $2 user, $3 device, $4 its new display name, $5 now. Others see the name beside the device's keys. Uses the primary
#: key of devices.
RENAME_DEVICE = fenced_statement(
    "rename_device",
    {
        "device": "SELECT 1 FROM fence, devices WHERE user_id = $2 AND device_id = $3",
        "renamed": """
            UPDATE devices SET display_name = $4 FROM fence
            WHERE user_id = $2 AND device_id = $3 AND display_name IS DISTINCT FROM $4 RETURNING 1
        """,
        "list_change": CHANGE_PART.format(user="$2", now="$5", source="renamed"),
    },
    "(SELECT count(*) FROM device) AS found, (SELECT position FROM list_change) AS list_position",
)

#: $2 user, $3 access token, $4 now: for a token without a device.
END_TOKEN = fenced_statement(
    "end_token",
    {
        "access": "DELETE FROM access_tokens USING fence WHERE token_hash = $3 AND user_id = $2",
        "change": f"""
            {_CHANGE_COLUMNS}
            SELECT $1, nextval('stream_sessions'), $2, NULL, $4 FROM fence RETURNING position
        """,
    },
    "(SELECT position FROM change) AS position",
)

#: $2 user, $3 device, $4 the refresh token shown, $5 access hash, $6 expires_ms, $7 refresh hash, $8 now.
#: The token shown was a successor: its predecessor ends now. It had an unused successor already (the client missed that
#: answer): that pair ends, so that there is never more than one.
REFRESH_SESSION = fenced_statement(
    "refresh_session",
    {
        "shown": """
            SELECT r.token_hash, r.successor FROM fence, refresh_tokens r
            WHERE r.token_hash = $4 AND r.user_id = $2 AND r.device_id = $3 FOR UPDATE OF r
        """,
        "before": "DELETE FROM refresh_tokens r USING fence, shown s WHERE r.successor = s.token_hash",
        "missed": "DELETE FROM refresh_tokens r USING fence, shown s WHERE r.token_hash = s.successor",
        "missed_access": """
            DELETE FROM access_tokens a USING fence, shown s
            WHERE a.user_id = $2 AND a.device_id = $3 AND a.refresh_hash = s.successor RETURNING 1
        """,
        "linked": """
            UPDATE refresh_tokens r SET successor = $7 FROM fence, shown s WHERE r.token_hash = s.token_hash
        """,
        "access": _INSERT_ACCESS.format(source="fence, shown"),
        "refresh": _INSERT_REFRESH.format(source="fence, shown"),
        "change": f"""
            {_CHANGE_COLUMNS}
            SELECT $1, nextval('stream_sessions'), $2, $3, $8 FROM fence WHERE EXISTS (SELECT 1 FROM missed_access)
            RETURNING position
        """,
    },
    "(SELECT count(*) FROM shown) AS refreshed, (SELECT position FROM change) AS position",
)


@dataclass(frozen=True, slots=True)
class Session:
    """The user and device of an access token."""

    user_id: UserId
    device_id: str | None
    device_created_ms: int | None  # None without a device
    expires_ms: int | None  # None: never
    refresh_hash: bytes | None  # of the refresh token that was issued with it
    kind: str
    is_admin: bool
    deactivated: bool
    #: True if the refresh token that this pair replaced is still valid, because neither of the pair was used yet.
    has_predecessor: bool


@dataclass(frozen=True, slots=True)
class RefreshSession:
    """What a refresh token stands for. created_ms: when it was issued."""

    user_id: UserId
    device_id: str
    created_ms: int


@dataclass(frozen=True, slots=True)
class LastSeen:
    user_id: UserId
    device_id: str
    at_ms: int
    address: str


def hash_token(token: str) -> bytes:
    """Return the SHA-256 under which a token is stored. Lone surrogates hash too (such a token is unknown)."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


async def get_session(database: Database, token_hash: bytes) -> Session | None:
    """Return whose access token this is, expired or not; None when there is no such token."""
    row = await database.fetchrow(_GET_SESSION, token_hash)
    return Session(**row) if row is not None else None


async def get_refresh_session(database: Database, token_hash: bytes) -> RefreshSession | None:
    row = await database.fetchrow(_GET_REFRESH, token_hash)
    return RefreshSession(**row) if row is not None else None


async def end_predecessors(database: Database, refresh_hash: bytes) -> None:
    """Revoke the refresh tokens that this one replaced: one of the new pair was used."""
    await database.execute(_END_PREDECESSORS, refresh_hash)


async def set_last_seen(database: Database, seen: Sequence[LastSeen]) -> None:
    """Store when and from where devices were last used, many at once."""
    await database.execute(
        _SET_LAST_SEEN,
        [s.user_id for s in seen],
        [s.device_id for s in seen],
        [s.at_ms for s in seen],
        [s.address for s in seen],
    )
