"""Changes of the default push rules, and ignored users: one row per user, in the stream `push_rules`.

Only the owner of the user's slot writes. A change names the position of the row that it read, so that none is lost.
"""

from dataclasses import dataclass

import asyncpg

from shared.core.identifiers import RoomId, UserId
from shared.storage.engine.fenced import fenced_statement
from shared.storage.engine.pool import Source
from shared.storage.engine.statements import parameters
from shared.storage.user_data.usage import COUNT_STORED, account_data_parts


@parameters
class SetPushRules:
    """rules: JSON.

    everywhere: True if they say something about every room.
    rooms: those that they say something about by name.
    expected: the position that the row must still have. 0: no row.
    """

    user_id: UserId
    rules: bytes
    everywhere: bool
    rooms: list[RoomId]
    expected: int


@parameters
class SetIgnoredUsers:
    """json: the account data, None for a deletion. expected, max_bytes: as in SetAccountData."""

    user_id: UserId
    json: bytes | None
    ignored: list[UserId]
    expected: int | None
    max_bytes: int


#: Uses the primary key of push_rules.
SET_PUSH_RULES = fenced_statement(
    "set_push_rules",
    SetPushRules,
    {
        "stored": """
            INSERT INTO push_rules AS t (user_id, rules, everywhere, rooms, writer, position)
            SELECT :user_id, :rules, :everywhere, :rooms::text[], :lease, nextval('stream_push_rules') FROM fence
            ON CONFLICT (user_id) DO UPDATE
                SET rules = excluded.rules, everywhere = excluded.everywhere, rooms = excluded.rooms,
                    writer = excluded.writer, position = excluded.position
                WHERE excluded.position > t.position AND t.position = :expected::bigint
            RETURNING position, ignored
        """
    },
    "(SELECT position FROM stored) AS position, (SELECT ignored FROM stored) AS ignored",
)
#: Stores m.ignored_user_list as `SET_ACCOUNT_DATA` does, and its users in push_rules: both or neither.
#: Uses the primary keys of account_data, user_usage and push_rules.
SET_IGNORED_USERS = fenced_statement(
    "set_ignored_users",
    SetIgnoredUsers,
    {
        **account_data_parts("''", "'m.ignored_user_list'"),
        "stored": """
            INSERT INTO account_data AS t (user_id, room_id, type, json, writer, position)
            SELECT :user_id, '', 'm.ignored_user_list', :json, :lease, nextval('stream_account_data')
            FROM fence, fitting
            ON CONFLICT (user_id, room_id, type) DO UPDATE
                SET json = excluded.json, writer = excluded.writer, position = excluded.position
                WHERE excluded.position > t.position AND (:expected::bigint IS NULL OR t.position = :expected)
            RETURNING position
        """,
        "counted": COUNT_STORED,
        "ignored": """
            INSERT INTO push_rules AS t (user_id, ignored, writer, position)
            SELECT :user_id, :ignored::text[], :lease, nextval('stream_push_rules') FROM fence JOIN stored ON true
            ON CONFLICT (user_id) DO UPDATE
                SET ignored = excluded.ignored, writer = excluded.writer, position = excluded.position
                WHERE excluded.position > t.position
            RETURNING position, rules
        """,
    },
    "(SELECT position FROM stored) AS position, EXISTS (SELECT FROM fitting) AS fits, "
    "(SELECT position FROM ignored) AS rules_position, (SELECT rules FROM ignored) AS rules",
)
#: Uses the primary key of push_rules.
_GET = "SELECT user_id, rules, ignored, writer, position FROM push_rules WHERE user_id = $1"


@dataclass(frozen=True, slots=True)
class PushRulesRecord:
    """A user's changes. rules: JSON, b"" for none. position, writer: 0 if the user never changed anything."""

    rules: bytes = b""
    ignored: tuple[UserId, ...] = ()
    writer: int = 0
    position: int = 0


async def get_push_rules(source: Source, user_id: UserId) -> PushRulesRecord:
    """Return the user's changes."""
    rows = await source.fetch(_GET, user_id)
    return push_rules_record(rows[0]) if rows else PushRulesRecord()


def push_rules_record(row: asyncpg.Record) -> PushRulesRecord:
    """Return the record of a row with these columns."""
    return PushRulesRecord(row["rules"], tuple(row["ignored"]), row["writer"], row["position"])
