"""Reads for the evaluation of push rules by persisters: users' rules and groups, and the threads of events."""

from collections.abc import Collection
from dataclasses import dataclass

import asyncpg

from shared.core.identifiers import EventId, RoomId, UserId
from shared.storage.engine.pool import Source

_RULES = "SELECT p.user_id, p.rules, p.ignored, p.position, false AS is_large FROM push_rules p"
#: A user's rules may be needed in each of their rooms. Large ones are read once.
_IS_LARGE = "pg_column_size(p.rules) + pg_column_size(p.ignored) > 8192"
#: $1 room_nid, $2 its id. Uses the primary keys of memberships and push_rules.
_OF_ROOM = f"""
    SELECT p.user_id, CASE WHEN {_IS_LARGE} THEN '' ELSE p.rules END,
           CASE WHEN {_IS_LARGE} THEN '{{}}' ELSE p.ignored END, p.position, {_IS_LARGE}
    FROM push_rules p
    JOIN memberships m ON m.room_nid = $1 AND m.user_id = p.user_id AND m.is_local AND m.membership = 'join'
    WHERE p.everywhere OR $2 = ANY(p.rooms) OR p.ignored <> '{{}}'
"""
#: $1 room_nid. Uses the primary keys of memberships and push_rules.
_OF_ALL_IN_ROOM = """
    SELECT m.user_id, coalesce(p.rules, ''), coalesce(p.ignored, '{}'), coalesce(p.position, 0), false
    FROM memberships m LEFT JOIN push_rules p USING (user_id)
    WHERE m.room_nid = $1 AND m.is_local AND m.membership = 'join'
"""
#: Uses the primary key of push_rules.
_OF_USERS = f"{_RULES} WHERE p.user_id = ANY($1::text[])"
#: Uses the primary key of push_members.
_GROUPS = """
    SELECT DISTINCT ON (user_id) user_id, group_id FROM push_members
    WHERE room_nid = $1 ORDER BY user_id, from_ordinal DESC
"""
#: $2 event ids, $3 the most events to read for each. Live events are stored with their thread; for others it follows
#: from their relations. Uses events_by_id.
_THREADS = """
    WITH RECURSIVE chain(first, looked_at, thread_id, relates_to) AS (
        SELECT e.event_id, 1, coalesce(e.thread_id, CASE WHEN e.rel_type = 'm.thread' THEN e.relates_to END),
               e.relates_to
        FROM events e WHERE e.room_nid = $1 AND e.event_id = ANY($2::text[])
        UNION ALL
        SELECT c.first, c.looked_at + 1,
               coalesce(e.thread_id, CASE WHEN e.rel_type = 'm.thread' THEN e.relates_to END), e.relates_to
        FROM chain c JOIN events e ON e.room_nid = $1 AND e.event_id = c.relates_to
        WHERE c.thread_id IS NULL AND c.looked_at < $3
    )
    SELECT first, thread_id FROM chain WHERE thread_id IS NOT NULL
"""
#: Spec: client-server API, "Threaded read receipts": at least three hops.
_HOPS = 3


@dataclass(frozen=True, slots=True)
class PushRulesOfUser:
    """A user's rules.

    rules: JSON, b"" for none.
    position: 0 if the user never changed anything.
    is_large: True if the rules and the ignored users are left out. `get_rules_of_users` returns them.
    """

    user_id: UserId
    rules: bytes = b""
    ignored: tuple[UserId, ...] = ()
    position: int = 0
    is_large: bool = False


async def get_rules_of_room(source: Source, room_nid: int, room_id: RoomId) -> list[PushRulesOfUser]:
    """Return the rules of a room's joined local members that may differ from the default ones in it."""
    return [_rules(row) for row in await source.fetch(_OF_ROOM, room_nid, room_id)]


async def get_rules_of_all_in_room(source: Source, room_nid: int) -> list[PushRulesOfUser]:
    """Return the rules of all joined local members of a room."""
    return [_rules(row) for row in await source.fetch(_OF_ALL_IN_ROOM, room_nid)]


async def get_rules_of_users(source: Source, user_ids: Collection[UserId]) -> list[PushRulesOfUser]:
    """Return the rules of those of the users who have changed any."""
    return [_rules(row) for row in await source.fetch(_OF_USERS, list(user_ids))]


async def get_push_groups(source: Source, room_nid: int) -> dict[UserId, int]:
    """Return user id -> the group that the room's events put them in last. Others are in DEFAULT_GROUP."""
    return dict(map(tuple, await source.fetch(_GROUPS, room_nid)))


async def get_event_threads(source: Source, room_nid: int, event_ids: Collection[EventId]) -> dict[EventId, str]:
    """Return event id -> root of its thread. Events of the main timeline and unknown ones are left out.

    Follows at most three relations, including the event's own.
    """
    rows = await source.fetch(_THREADS, room_nid, list(event_ids), _HOPS)
    return dict(map(tuple, rows))


def _rules(row: asyncpg.Record) -> PushRulesOfUser:
    user_id, rules, ignored, position, is_large = row
    return PushRulesOfUser(user_id, rules, tuple(ignored), position, is_large)
