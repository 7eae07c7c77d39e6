"""Access and refresh tokens. Only their SHA-256 is stored. `session_statements.py` makes and deletes them.

Spec: client-server API, "Client Authentication".
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from shared.core.identifiers import UserId
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
