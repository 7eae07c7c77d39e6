"""Writing account data: one row per (user, room, type) with the position of its last change, in stream `account_data`.

Only the owner of the user's slot writes; that no older write ever covers a newer one is seen to by the position.
"""

from dataclasses import dataclass

from shared.storage.escape import escape
from shared.storage.fenced import fenced_statement
from shared.storage.pool import Database

#: $2 user, $3 room id or '', $4 type (escaped), $5 JSON or NULL for a deletion, $6 position that the row must still
#: have: NULL for any, 0 for "there is none". Uses the primary key of account_data.
SET_ACCOUNT_DATA = fenced_statement(
    "set_account_data",
    {
        "stored": """
            INSERT INTO account_data AS t (user_id, room_id, type, json, writer, position)
            SELECT $2, $3, $4, $5, $1, nextval('stream_account_data') FROM fence
            ON CONFLICT (user_id, room_id, type) DO UPDATE
                SET json = excluded.json, writer = excluded.writer, position = excluded.position
                WHERE excluded.position > t.position AND ($6::bigint IS NULL OR t.position = $6)
            RETURNING position
        """
    },
    "(SELECT position FROM stored) AS position",
)
# Uses the primary key of account_data.
_GET = "SELECT json, position FROM account_data WHERE user_id = $1 AND room_id = $2 AND type = $3"


@dataclass(frozen=True, slots=True)
class AccountDataEntry:
    """json: None when it was deleted or never there; position: 0 when it was never there."""

    json: bytes | None
    position: int


async def get_account_data(database: Database, user_id: str, room_id: str, type_: str) -> AccountDataEntry:
    """room_id: "" for global account data."""
    row = await database.fetchrow(_GET, user_id, room_id, escape(type_))
    return AccountDataEntry(row["json"], row["position"]) if row is not None else AccountDataEntry(None, 0)
