"""Access and refresh tokens. Only their SHA-256 is stored.

A token leaves in the same statement that writes its row of the stream `sessions`, which tells every process to forget
what it cached (`logout_device` and the like, below). Spec: client-server API, "Client Authentication".
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from shared.storage.pool import Database

# Uses the primary keys of access_tokens and users, and refresh_tokens_by_successor.
_GET_SESSION = """
    SELECT t.user_id, t.device_id, t.expires_ms, t.refresh_hash, u.kind, u.is_admin, u.deactivated,
           t.refresh_hash IS NOT NULL
           AND EXISTS (SELECT 1 FROM refresh_tokens r WHERE r.successor = t.refresh_hash) AS has_predecessor
    FROM access_tokens t JOIN users u USING (user_id) WHERE t.token_hash = $1
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


@dataclass(frozen=True, slots=True)
class Session:
    """What an access token stands for.

    expires_ms: None: never. refresh_hash: of the refresh token issued beside it. has_predecessor: the refresh token
    that this pair replaced is still valid, because neither of the pair was used yet.
    """

    user_id: str
    device_id: str | None
    expires_ms: int | None
    refresh_hash: bytes | None
    kind: str
    is_admin: bool
    deactivated: bool
    has_predecessor: bool


@dataclass(frozen=True, slots=True)
class LastSeen:
    user_id: str
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
