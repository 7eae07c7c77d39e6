"""Saved presence, for users whom no process has in memory. Everything fresher is on the stream.

Rows are written without a fence: each has its time, and only a later one replaces it.
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
    """A user's presence to save.

    state: online, unavailable or offline.
    last_active_ms: 0 if unknown.
    changed_ms: the time of the change.
    """

    user_id: UserId
    state: str
    status_msg: str | None
    last_active_ms: int
    changed_ms: int


@dataclass(frozen=True, slots=True)
class SavedPresence:
    """The part of presence that outlasts the process that owns the user."""

    status_msg: str | None
    last_active_ms: int


async def get_presence(database: Database, user_ids: Collection[UserId]) -> dict[str, SavedPresence]:
    """Return saved presence by user. Users without any are left out."""
    rows = await database.fetch(_GET, list(user_ids))
    return {user_id: SavedPresence(status, last_active_ms) for user_id, status, last_active_ms in rows}


async def save_presence(database: Database, changed: Iterable[StoredPresence]) -> None:
    """Save the presence of users, at most once per user."""
    rows = [(one.user_id, one.state, one.status_msg, one.last_active_ms, one.changed_ms) for one in changed]
    if rows:
        await database.execute(_SAVE, *columns_of_rows(rows, 5))
