"""Presence as it was last saved: of users whom no process has in memory. Everything fresher is on the stream.

Saved without a fence: a row says when it was so, and only something later replaces it, whoever writes it.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from shared.core.identifiers import UserId
from shared.storage.engine.arrays import columns_of_rows
from shared.storage.engine.pool import Database

#: Uses the primary key of presence.
_GET = "SELECT user_id, status_msg, last_active_ms FROM presence WHERE user_id = ANY($1::text[])"
#: Two writers that save the same users take the rows in the same order.
_SAVE = """
    INSERT INTO presence (user_id, state, status_msg, last_active_ms, changed_ms)
    SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::bigint[]) AS u(user_id) ORDER BY user_id
    ON CONFLICT (user_id) DO UPDATE
    SET state = excluded.state, status_msg = excluded.status_msg, changed_ms = excluded.changed_ms,
        last_active_ms = greatest(presence.last_active_ms, excluded.last_active_ms)
    WHERE presence.changed_ms <= excluded.changed_ms
"""


@dataclass(frozen=True, slots=True)
class StoredPresence:
    """state: online, unavailable, offline; last_active_ms: 0 where it isn't known; changed_ms: when it was so."""

    user_id: UserId
    state: str
    status_msg: str | None
    last_active_ms: int
    changed_ms: int


@dataclass(frozen=True, slots=True)
class SavedPresence:
    """What outlasts a user's owner."""

    status_msg: str | None
    last_active_ms: int


async def get_presence(database: Database, user_ids: Collection[UserId]) -> dict[str, SavedPresence]:
    """Return what is saved, by user; users of whom nothing is are left out."""
    rows = await database.fetch(_GET, list(user_ids))
    return {user_id: SavedPresence(status, last_active_ms) for user_id, status, last_active_ms in rows}


async def save_presence(database: Database, changed: Iterable[StoredPresence]) -> None:
    """Save how users are; at most one of each user."""
    rows = [(one.user_id, one.state, one.status_msg, one.last_active_ms, one.changed_ms) for one in changed]
    if rows:
        await database.execute(_SAVE, *columns_of_rows(rows, 5))
