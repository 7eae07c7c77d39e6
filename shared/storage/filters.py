"""Filters that clients store. Equal filters of a user share one id, since clients store theirs at every start."""

from shared.storage.pool import Database

# Uses the unique index on (user_id, hash) and the primary key. Two that are stored at once may want one id: then
# nothing is inserted for the second, and it asks again.
_STORE = """
    WITH known AS (SELECT filter_id FROM filters WHERE user_id = $1 AND hash = $2),
    made AS (INSERT INTO filters (user_id, filter_id, hash, json)
             SELECT $1, coalesce((SELECT max(filter_id) FROM filters WHERE user_id = $1), 0) + 1, $2, $3
             WHERE NOT EXISTS (SELECT 1 FROM known)
             ON CONFLICT DO NOTHING RETURNING filter_id)
    SELECT coalesce((SELECT filter_id FROM known), (SELECT filter_id FROM made))
"""


async def store_filter(database: Database, user_id: str, hash_: bytes, json: bytes) -> int:
    """Return the id of the user's filter with this content, new or not. hash_: SHA-256 of its canonical JSON."""
    while True:
        filter_id: int | None = await database.fetchval(_STORE, user_id, hash_, json)
        if filter_id is not None:
            return filter_id
