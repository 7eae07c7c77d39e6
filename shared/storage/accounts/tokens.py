"""Access and refresh tokens. Only their SHA-256 is stored.

A fenced statement that deletes a valid token also writes a row of the stream `sessions`, so that every process drops it
from its cache. The statement's answer has the row's position.
Spec: client-server API, "Client Authentication".
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from shared.core.identifiers import UserId
from shared.storage.encryption.device_lists import CHANGE_PART
from shared.storage.engine.fenced import fenced_statement
from shared.storage.engine.pool import Database
from shared.storage.engine.statements import parameters, statement

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


class LastSeen(NamedTuple):
    """The last use of a device."""

    user_id: UserId
    device_id: str
    at_ms: int
    address: str


@parameters
class _SetLastSeen:
    seen: Sequence[LastSeen]


# Uses the primary key of devices. Older values never overwrite newer ones of another process.
_SET_LAST_SEEN = statement(
    _SetLastSeen,
    """
    UPDATE devices d SET last_seen_ms = u.at_ms, last_seen_ip = u.address
    FROM (SELECT * FROM :seen AS t(:seen.columns) ORDER BY user_id, device_id) AS u
    WHERE d.user_id = u.user_id AND d.device_id = u.device_id AND coalesce(d.last_seen_ms, 0) < u.at_ms
    """,
)

# Uses the primary key of refresh_tokens.
_GET_REFRESH = "SELECT user_id, device_id, created_ms FROM refresh_tokens WHERE token_hash = $1"


@parameters
class NewTokens:
    """The tokens of a session, by their hashes.

    device_id: whose tokens they are.
    expires_ms: when the access token ends. None: never.
    refresh_hash: None if there is no refresh token.
    """

    user_id: UserId
    device_id: str
    access_hash: bytes
    expires_ms: int | None
    refresh_hash: bytes | None
    now_ms: int


@parameters
class StartSession(NewTokens):
    """display_name: of a device that is new."""

    display_name: str | None


@parameters
class RefreshSession(NewTokens):
    """shown_hash: of the refresh token that the client showed."""

    shown_hash: bytes


@parameters
class EndDevices:
    user_id: UserId
    device_ids: list[str]
    now_ms: int


@parameters
class EndAllSessions:
    """The device and the access token that stay. None: none."""

    user_id: UserId
    kept_device: str | None
    kept_access: bytes | None
    now_ms: int


@parameters
class RenameDevice:
    user_id: UserId
    device_id: str
    display_name: str
    now_ms: int


@parameters
class EndToken:
    user_id: UserId
    access_hash: bytes
    now_ms: int


_CHANGE_COLUMNS = "INSERT INTO session_changes (writer, position, user_id, device_id, changed_ms)"
_NEXT = "nextval('stream_sessions')"
_INSERT_ACCESS = """
    INSERT INTO access_tokens (token_hash, user_id, device_id, expires_ms, refresh_hash, created_ms)
    SELECT :access_hash, :user_id, :device_id, :expires_ms, :refresh_hash, :now_ms FROM {source}
"""
_INSERT_REFRESH = """
    INSERT INTO refresh_tokens (token_hash, user_id, device_id, created_ms)
    SELECT :refresh_hash, :user_id, :device_id, :now_ms FROM {source} WHERE :refresh_hash::bytea IS NOT NULL
"""


def _delete_what_devices_have(which: str) -> dict[str, str]:
    """Return the parts that delete keys, messages and connections of the devices that the part `ended` deletes.

    which: a condition on `device_id`.
    """
    deletion = "DELETE FROM {table} USING fence WHERE user_id = :user_id AND " + which
    return {
        "identity": deletion.format(table="device_keys"),
        "one_time": deletion.format(table="one_time_keys"),
        "fallback": deletion.format(table="fallback_keys"),
        "inbox": deletion.format(table="to_device_messages"),
        "sent": deletion.format(table="to_device_transactions"),
        "sliding": deletion.format(table="sliding_states"),
        "list_change": CHANGE_PART.format(source="ended"),
    }


_OF_DEVICE = "user_id = :user_id AND device_id = :device_id"
#: The device may have had a session: its earlier tokens end. Uses access_tokens_by_user, refresh_tokens_by_user.
START_SESSION = fenced_statement(
    "start_session",
    StartSession,
    {
        "device": """
            INSERT INTO devices (user_id, device_id, display_name, created_ms)
            SELECT :user_id, :device_id, :display_name, :now_ms FROM fence
            ON CONFLICT (user_id, device_id) DO NOTHING RETURNING 1
        """,
        "list_change": CHANGE_PART.format(source="device"),
        # They were sent to an earlier device of this name at the moment when it went.
        "strays": f"DELETE FROM to_device_messages USING fence WHERE {_OF_DEVICE} AND EXISTS (SELECT FROM device)",
        "ended": f"DELETE FROM access_tokens USING fence WHERE {_OF_DEVICE} RETURNING 1",
        "ended_refresh": f"DELETE FROM refresh_tokens USING fence WHERE {_OF_DEVICE}",
        "change": f"""
            {_CHANGE_COLUMNS}
            SELECT :lease, {_NEXT}, :user_id, :device_id, :now_ms FROM fence WHERE EXISTS (SELECT 1 FROM ended)
            RETURNING position
        """,
        "access": _INSERT_ACCESS.format(source="fence"),
        "refresh": _INSERT_REFRESH.format(source="fence"),
    },
    "(SELECT position FROM change) AS position, (SELECT position FROM list_change) AS list_position",
)

_OF_DEVICES = "user_id = :user_id AND device_id = ANY (:device_ids::text[])"
#: The devices go with their tokens, their keys and the messages for them.
END_DEVICES = fenced_statement(
    "end_devices",
    EndDevices,
    {
        "ended": f"DELETE FROM devices USING fence WHERE {_OF_DEVICES} RETURNING 1",
        "access": f"DELETE FROM access_tokens USING fence WHERE {_OF_DEVICES}",
        "refresh": f"DELETE FROM refresh_tokens USING fence WHERE {_OF_DEVICES}",
        "change": f"""
            {_CHANGE_COLUMNS}
            SELECT :lease, {_NEXT}, :user_id, d, :now_ms FROM fence, unnest(:device_ids::text[]) AS d
            RETURNING position, device_id
        """,
        **_delete_what_devices_have("device_id = ANY (:device_ids::text[])"),
    },
    """(SELECT array_agg(position ORDER BY position) FROM change) AS positions,
       (SELECT array_agg(device_id ORDER BY position) FROM change) AS devices,
       (SELECT position FROM list_change) AS list_position""",
)

_OTHER_DEVICES = "user_id = :user_id AND device_id IS DISTINCT FROM :kept_device"
#: As END_DEVICES, for all devices but one.
END_ALL_SESSIONS = fenced_statement(
    "end_all_sessions",
    EndAllSessions,
    {
        "ended": f"DELETE FROM devices USING fence WHERE {_OTHER_DEVICES} RETURNING 1",
        "access": """
            DELETE FROM access_tokens USING fence
            WHERE user_id = :user_id AND token_hash IS DISTINCT FROM :kept_access
              AND (device_id IS DISTINCT FROM :kept_device OR device_id IS NULL)
        """,
        "refresh": f"DELETE FROM refresh_tokens USING fence WHERE {_OTHER_DEVICES}",
        "change": f"""
            {_CHANGE_COLUMNS}
            SELECT :lease, {_NEXT}, :user_id, NULL, :now_ms FROM fence RETURNING position
        """,
        **_delete_what_devices_have("device_id IS DISTINCT FROM :kept_device"),
    },
    "(SELECT position FROM change) AS position, (SELECT position FROM list_change) AS list_position",
)

#: Others see the name beside the device's keys. Uses the primary key of devices.
RENAME_DEVICE = fenced_statement(
    "rename_device",
    RenameDevice,
    {
        "device": f"SELECT 1 FROM fence, devices WHERE {_OF_DEVICE}",
        "renamed": f"""
            UPDATE devices SET display_name = :display_name FROM fence
            WHERE {_OF_DEVICE} AND display_name IS DISTINCT FROM :display_name RETURNING 1
        """,
        "list_change": CHANGE_PART.format(source="renamed"),
    },
    "(SELECT count(*) FROM device) AS found, (SELECT position FROM list_change) AS list_position",
)

#: For a token without a device.
END_TOKEN = fenced_statement(
    "end_token",
    EndToken,
    {
        "access": "DELETE FROM access_tokens USING fence WHERE token_hash = :access_hash AND user_id = :user_id",
        "change": f"""
            {_CHANGE_COLUMNS}
            SELECT :lease, {_NEXT}, :user_id, NULL, :now_ms FROM fence RETURNING position
        """,
    },
    "(SELECT position FROM change) AS position",
)

#: If the token that was shown is a successor, its predecessor ends now. If it has an unused successor already, because
#: the client missed that answer, that pair ends: there is never more than one.
REFRESH_SESSION = fenced_statement(
    "refresh_session",
    RefreshSession,
    {
        "shown": """
            SELECT r.token_hash, r.successor FROM fence, refresh_tokens r
            WHERE r.token_hash = :shown_hash AND r.user_id = :user_id AND r.device_id = :device_id FOR UPDATE OF r
        """,
        "before": "DELETE FROM refresh_tokens r USING fence, shown s WHERE r.successor = s.token_hash",
        "missed": "DELETE FROM refresh_tokens r USING fence, shown s WHERE r.token_hash = s.successor",
        "missed_access": """
            DELETE FROM access_tokens a USING fence, shown s
            WHERE a.user_id = :user_id AND a.device_id = :device_id AND a.refresh_hash = s.successor RETURNING 1
        """,
        "linked": """
            UPDATE refresh_tokens r SET successor = :refresh_hash FROM fence, shown s WHERE r.token_hash = s.token_hash
        """,
        "access": _INSERT_ACCESS.format(source="fence, shown"),
        "refresh": _INSERT_REFRESH.format(source="fence, shown"),
        "change": f"""
            {_CHANGE_COLUMNS}
            SELECT :lease, {_NEXT}, :user_id, :device_id, :now_ms FROM fence
            WHERE EXISTS (SELECT 1 FROM missed_access) RETURNING position
        """,
    },
    "(SELECT count(*) FROM shown) AS refreshed, (SELECT position FROM change) AS position",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """The user and device of an access token."""

    user_id: UserId
    device_id: str | None
    device_created_ms: int | None  # None: without a device
    expires_ms: int | None  # None: never
    refresh_hash: bytes | None  # of the refresh token that was issued with it
    kind: str
    is_admin: bool
    deactivated: bool
    #: True if the refresh token that this pair replaced is still valid, because neither of the pair was used yet.
    has_predecessor: bool


@dataclass(frozen=True, slots=True)
class StoredRefreshToken:
    """A refresh token. created_ms: when it was issued."""

    user_id: UserId
    device_id: str
    created_ms: int


def hash_token(token: str) -> bytes:
    """Return the SHA-256 under which a token is stored. Lone surrogates hash too (such a token is unknown)."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


async def get_session(database: Database, token_hash: bytes) -> Session | None:
    """Return the session of an access token, expired or not; None if there is no such token."""
    row = await database.fetchrow(_GET_SESSION, token_hash)
    return Session(**row) if row is not None else None


async def get_refresh_token(database: Database, token_hash: bytes) -> StoredRefreshToken | None:
    row = await database.fetchrow(_GET_REFRESH, token_hash)
    return StoredRefreshToken(**row) if row is not None else None


async def end_predecessors(database: Database, refresh_hash: bytes) -> None:
    """Revoke the refresh tokens that this one replaced, since one of the new pair was used."""
    await database.execute(_END_PREDECESSORS, refresh_hash)


async def set_last_seen(database: Database, seen: Sequence[LastSeen]) -> None:
    """Store the last uses of devices, many at once."""
    await database.execute(*_SET_LAST_SEEN.bind(_SetLastSeen(seen=seen)))
