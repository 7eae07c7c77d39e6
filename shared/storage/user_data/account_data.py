"""Account data, and the filters that clients store.

Account data: one row per (user, room, type) with the position of its last change, in stream `account_data`. Only the
owner of the user's slot writes. The position makes sure that an older write never replaces a newer one.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import orjson

from shared.core.identifiers import RoomId, UserId
from shared.storage.engine.fenced import fenced_statement
from shared.storage.engine.pool import Database, Source
from shared.storage.engine.statements import parameters
from shared.storage.push.rules import PushRulesRecord, push_rules_record
from shared.storage.user_data.usage import COUNT_STORED, ROW_BYTES, account_data_parts


@parameters
class SetAccountData:
    """room_id: "" for global account data.

    json: None for a deletion.
    expected: the position that the row must still have. None: any; 0: no row.
    max_bytes: the most that all account data of the user may take.
    """

    user_id: UserId
    room_id: RoomId
    type: str
    json: bytes | None
    expected: int | None
    max_bytes: int


#: Uses the primary keys of account_data and user_usage.
SET_ACCOUNT_DATA = fenced_statement(
    "set_account_data",
    SetAccountData,
    {
        **account_data_parts(":room_id", ":type"),
        "stored": """
            INSERT INTO account_data AS t (user_id, room_id, type, json, writer, position)
            SELECT :user_id, :room_id, :type, :json, :lease, nextval('stream_account_data') FROM fence, fitting
            ON CONFLICT (user_id, room_id, type) DO UPDATE
                SET json = excluded.json, writer = excluded.writer, position = excluded.position
                WHERE excluded.position > t.position AND (:expected::bigint IS NULL OR t.position = :expected)
            RETURNING position
        """,
        "counted": COUNT_STORED,
    },
    "(SELECT position FROM stored) AS position, EXISTS (SELECT FROM fitting) AS fits",
)
# Uses the primary key of account_data.
_GET = "SELECT json, position FROM account_data WHERE user_id = $1 AND room_id = $2 AND type = $3"
#: Uses the primary key of account_data.
_OF_USER = "SELECT room_id, type, json, writer, position FROM account_data WHERE user_id = $1"
#: The same, with the changed push rules in one more row without a room. Uses their primary key too.
_WITH_PUSH_RULES = """
    SELECT room_id, type, json, writer, position, NULL::bytea AS rules, NULL::text[] AS ignored
    FROM account_data WHERE user_id = $1
    UNION ALL SELECT NULL, NULL, NULL, writer, position, rules, ignored FROM push_rules WHERE user_id = $1
"""
#: Uses the primary key of filters.
_FILTER = "SELECT json FROM filters WHERE user_id = $1 AND filter_id = $2"

#: Uses the primary key of account_data. user: a parameter.
IGNORED_LIST = """
    SELECT json FROM account_data
    WHERE user_id = {user} AND room_id = '' AND type = 'm.ignored_user_list' AND json IS NOT NULL
"""
_IGNORED = IGNORED_LIST.format(user="$1")
# Uses the unique index on (user_id, hash) and the primary key. Two filters that are stored at once may take the same
# id: then nothing is inserted for the second one, which tries again. A filter has the running total of the user's
# bytes; if the last one has none, from before quotas, all are counted. $4: the most bytes.
_STORE_FILTER = f"""
    WITH known AS (SELECT filter_id FROM filters WHERE user_id = $1 AND hash = $2),
    last AS (SELECT filter_id, total_bytes FROM filters WHERE user_id = $1 ORDER BY filter_id DESC LIMIT 1),
    total AS (SELECT {ROW_BYTES} + octet_length($3::bytea) + coalesce(
                  (SELECT total_bytes FROM last),
                  (SELECT sum({ROW_BYTES} + octet_length(json)) FROM filters WHERE user_id = $1), 0)::bigint AS bytes),
    made AS (INSERT INTO filters (user_id, filter_id, hash, json, total_bytes)
             SELECT $1, coalesce((SELECT filter_id FROM last), 0) + 1, $2, $3, total.bytes FROM total
             WHERE NOT EXISTS (SELECT 1 FROM known) AND total.bytes <= $4
             ON CONFLICT DO NOTHING RETURNING filter_id)
    SELECT coalesce((SELECT filter_id FROM known), (SELECT filter_id FROM made)) AS filter_id, bytes <= $4 AS fits
    FROM total
"""


@dataclass(frozen=True, slots=True)
class AccountDataEntry:
    """An entry. json: None if it was deleted or never existed. position: 0 if it never existed."""

    json: bytes | None
    position: int


async def get_account_data(database: Database, user_id: UserId, room_id: RoomId, type_: str) -> AccountDataEntry:
    """Return an entry of account data. room_id: perhaps GLOBAL."""
    row = await database.fetchrow(_GET, user_id, room_id, type_)
    return AccountDataEntry(row["json"], row["position"]) if row is not None else AccountDataEntry(None, 0)


@dataclass(frozen=True, slots=True)
class AccountDataRecord:
    """A row of account data. room_id: perhaps GLOBAL. json: None if it was deleted."""

    room_id: RoomId
    type: str
    json: bytes | None
    writer: int
    position: int


async def get_account_data_of_user(source: Source, user_id: UserId) -> list[AccountDataRecord]:
    """Return all account data of the user, deletions too."""
    return [AccountDataRecord(*row) for row in await source.fetch(_OF_USER, user_id)]


async def get_account_data_and_push_rules(
    source: Source, user_id: UserId
) -> tuple[list[AccountDataRecord], PushRulesRecord]:
    """Return all account data of the user, deletions too, and the changed push rules."""
    records, rules = [], PushRulesRecord()
    for row in await source.fetch(_WITH_PUSH_RULES, user_id):
        if row["room_id"] is None:
            rules = push_rules_record(row)
        else:
            records.append(AccountDataRecord(*row[:5]))
    return records, rules


async def get_filter_json(source: Source, user_id: UserId, filter_id: int) -> bytes | None:
    """Return a filter that the user stored, as JSON; None if they have none with that number."""
    json: bytes | None = await source.fetchval(_FILTER, user_id, filter_id)
    return json


async def get_ignored_users(source: Source, user_id: UserId) -> frozenset[UserId]:
    """Return the users that a user ignores. Spec: client-server API, "Ignoring Users"."""
    json: bytes | None = await source.fetchval(_IGNORED, user_id)
    return frozenset() if json is None else frozenset(ignored_in(json))


def ignored_in(json: bytes) -> Collection[UserId]:
    """Return the users in the content of an m.ignored_user_list, whatever shape it has."""
    content: Any = orjson.loads(json)
    users = content.get("ignored_users") if isinstance(content, dict) else None
    return users if isinstance(users, dict) else ()


def blocks_invites(json: bytes | None) -> bool:
    """Return whether an m.invite_permission_config says that the user wants no invites, whatever shape it has."""
    content: Any = None if json is None else orjson.loads(json)
    return isinstance(content, dict) and content.get("default_action") == "block"


async def store_filter(database: Database, user_id: UserId, hash_: bytes, json: bytes, max_bytes: int) -> int | None:
    """Return the id of the user's filter with this content, new or not; None if the user may store no more.

    hash_: SHA-256 of its canonical JSON. max_bytes: the most that all filters of the user may take.
    """
    while True:
        [row] = await database.fetch(_STORE_FILTER, user_id, hash_, json, max_bytes)
        filter_id: int | None = row["filter_id"]
        if filter_id is not None or not row["fits"]:
            return filter_id
