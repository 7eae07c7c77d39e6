"""Reading account data, and a user's stored filters."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import orjson

from shared.storage.escape import escape, unescape
from shared.storage.push_rules import PushRulesRecord, push_rules_record
from shared.storage.read_source import Source

#: Uses the primary key of account_data.
_OF_USER = "SELECT room_id, type, json, writer, position FROM account_data WHERE user_id = $1"
#: The same, and in one more row, without a room, what he changed of the push rules. Uses their primary key too.
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


@dataclass(frozen=True, slots=True)
class AccountDataRecord:
    """room_id "": global; json None: deleted."""

    room_id: str
    type: str
    json: bytes | None
    writer: int
    position: int


async def get_account_data_of_user(source: Source, user_id: str) -> list[AccountDataRecord]:
    """Return all account data of the user, deletions too."""
    return [
        AccountDataRecord(room_id, unescape(kind), json, writer, position)
        for room_id, kind, json, writer, position in await source.fetch(_OF_USER, escape(user_id))
    ]


async def get_account_data_and_push_rules(
    source: Source, user_id: str
) -> tuple[list[AccountDataRecord], PushRulesRecord]:
    """Return all account data of the user, deletions too, and what he changed of the push rules."""
    records, rules = [], PushRulesRecord()
    for row in await source.fetch(_WITH_PUSH_RULES, escape(user_id)):
        if row["room_id"] is None:
            rules = push_rules_record(row)
        else:
            kind, json = unescape(row["type"]), row["json"]
            records.append(AccountDataRecord(row["room_id"], kind, json, row["writer"], row["position"]))
    return records, rules


async def get_filter_json(source: Source, user_id: str, filter_id: int) -> bytes | None:
    """Return a filter that the user stored, as JSON; None when he has none of that number."""
    json: bytes | None = await source.fetchval(_FILTER, escape(user_id), filter_id)
    return json


async def get_ignored_users(source: Source, user_id: str) -> frozenset[str]:
    """Return whom the user ignores. Spec: client-server API, "Ignoring Users"."""
    json: bytes | None = await source.fetchval(_IGNORED, escape(user_id))
    return frozenset() if json is None else frozenset(ignored_in(json))


def ignored_in(json: bytes) -> Iterable[str]:
    """Return the users in the content of an m.ignored_user_list, whatever shape it has."""
    content: Any = orjson.loads(json)
    users = content.get("ignored_users") if isinstance(content, dict) else None
    return users if isinstance(users, dict) else ()


def blocks_invites(json: bytes | None) -> bool:
    """Return whether an m.invite_permission_config says that the user wants no invites, whatever shape it has."""
    content: Any = None if json is None else orjson.loads(json)
    return isinstance(content, dict) and content.get("default_action") == "block"
