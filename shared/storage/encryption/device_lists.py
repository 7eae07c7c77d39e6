"""Changes of device lists, and the users who share rooms. Stream `device_lists`: any process with a lease may write.

Spec: client-server API, "End-to-End Encryption", "Extensions to /sync"; protocol notes, B7.
"""

from collections.abc import Collection
from dataclasses import dataclass

from shared.core.identifiers import RoomId, UserId
from shared.core.sync_tokens.vector import Vector
from shared.storage.engine.pool import Source

#: A part of a fenced statement that writes into the stream if `source` has rows. The statement has the parameters
#: `user_id` and `now_ms`.
CHANGE_PART = """
    INSERT INTO device_list_changes (writer, position, user_id, changed_ms)
    SELECT :lease, nextval('stream_device_lists'), :user_id, :now_ms FROM fence WHERE EXISTS (SELECT FROM {source})
    RETURNING position
"""

#: Uses memberships_by_user, memberships_by_position, device_list_changes_by_user and its primary key. $1 the reader,
#: $2 and $3: the least positions of the token in `events` and `device_lists`. A row's (writer, position) makes it
#: news. Kinds:
#:   l: the user's devices changed
#:   j: the user joined, or sent another join
#:   i: the reader joined a room that the user is in
#:   g: the user left
#:   o: the reader left a room that the user is or was in
_NEWS = """
    WITH mine AS (SELECT room_nid, membership, writer, position FROM memberships WHERE user_id = $1),
         joined AS (SELECT * FROM mine WHERE membership = 'join'),
         lists AS (SELECT writer, position, user_id FROM device_list_changes WHERE position > $3)
    SELECT 'l' AS kind, l.user_id, l.writer, l.position FROM lists l
    WHERE l.user_id = $1
       OR EXISTS (SELECT FROM memberships m JOIN joined USING (room_nid)
                  WHERE m.user_id = l.user_id AND m.membership = 'join')
    UNION ALL
    SELECT CASE m.membership WHEN 'join' THEN 'j' ELSE 'g' END, m.user_id, m.writer, m.position
    FROM joined JOIN memberships m USING (room_nid)
    WHERE m.position > $2 AND m.user_id <> $1 AND m.membership <> 'invite' AND m.membership <> 'knock'
    UNION ALL
    SELECT CASE mine.membership WHEN 'join' THEN 'i' ELSE 'o' END, m.user_id, mine.writer, mine.position
    FROM mine JOIN memberships m USING (room_nid)
    WHERE mine.position > $2 AND mine.membership <> 'invite' AND mine.membership <> 'knock'
      AND m.user_id <> $1 AND (m.membership = 'join' OR (mine.membership <> 'join' AND m.position > $2))
"""
#: Uses memberships_by_user.
_SHARING = """
    SELECT DISTINCT m.user_id FROM memberships mine JOIN memberships m USING (room_nid)
    WHERE mine.user_id = $1 AND mine.membership = 'join' AND m.membership = 'join' AND m.user_id = ANY($2::text[])
"""
#: Uses memberships_by_user and the primary key of memberships.
_ALL_SHARING = """
    SELECT DISTINCT m.user_id FROM memberships mine JOIN memberships m USING (room_nid)
    WHERE mine.user_id = $1 AND mine.membership = 'join' AND m.membership = 'join'
"""
#: Uses memberships_by_user.
_ROOMS = """
    SELECT m.user_id, r.room_id FROM memberships m JOIN rooms r USING (room_nid)
    WHERE m.user_id = ANY($1::text[]) AND m.membership = 'join'
"""
#: Uses the primary key of device_list_changes.
_FIRST = "SELECT min(position) FROM device_list_changes"


@dataclass(frozen=True, slots=True)
class DeviceListNews:
    """changed: users whose devices must be queried again. left: users who share no room with the reader any more."""

    changed: frozenset[UserId]
    left: frozenset[UserId]


async def get_device_list_news(source: Source, user_id: UserId, events: Vector, lists: Vector) -> DeviceListNews:
    """Return the news that a token does not cover. events, lists: its vectors of `events` and `device_lists`.

    Users who joined, or changed their profile, are in `changed` even if they shared a room before: the protocol allows
    it. A token from before the oldest row that is kept gets all users who share a room.
    """
    first = await source.fetchval(_FIRST)
    rows = await source.fetch(_NEWS, user_id, events.base, lists.base)
    changed: set[UserId] = set()
    gone: set[UserId] = set()
    for kind, stored, writer, position in rows:
        if not (lists if kind == "l" else events).covers(writer, position):
            (gone if kind in "go" else changed).add(stored)
    if first is not None and lists.base < first - 1:
        changed |= {row[0] for row in await source.fetch(_ALL_SHARING, user_id)}
        changed.add(user_id)
    gone -= changed
    if gone:
        gone -= await get_users_sharing(source, user_id, gone)
    return DeviceListNews(frozenset(changed), frozenset(gone))


async def get_users_sharing(source: Source, user_id: UserId, others: Collection[UserId]) -> set[UserId]:
    """Return those of the others who are joined to a room that the user is joined to."""
    rows = await source.fetch(_SHARING, user_id, list(others))
    return {row[0] for row in rows}


async def get_joined_rooms_of(source: Source, user_ids: Collection[UserId]) -> dict[UserId, set[RoomId]]:
    """Return user id -> ids of the rooms that the user is joined to."""
    rooms: dict[UserId, set[RoomId]] = {user_id: set() for user_id in user_ids}
    for stored, room_id in await source.fetch(_ROOMS, list(user_ids)):
        rooms[stored].add(room_id)
    return rooms
