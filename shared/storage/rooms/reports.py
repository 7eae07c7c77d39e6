"""Reports of rooms, events and users to the operators, and which rooms two users share."""

from dataclasses import dataclass

from shared.core.identifiers import EventId, RoomId, UserId
from shared.storage.engine.pool import Database, Source

_STORE = """
    INSERT INTO reports (reporter, about_room, event_id, about_user, reason, created_ms)
    VALUES ($1, $2, $3, $4, $5, $6)
"""
#: Uses rooms_room_id_key, the primary key of memberships, events_by_id.
_MAY_REPORT = """
    SELECT EXISTS (
        SELECT FROM rooms r
        JOIN memberships m ON m.room_nid = r.room_nid AND m.user_id = $3 AND m.membership = 'join'
        JOIN events e ON e.room_nid = r.room_nid AND e.event_id = $2 AND e.status = 0
        WHERE r.room_id = $1)
"""
#: Uses rooms_room_id_key.
_IS_ROOM = "SELECT EXISTS (SELECT FROM rooms WHERE room_id = $1)"
#: Uses users_pkey and memberships_by_user.
_IS_USER = """
    SELECT EXISTS (SELECT FROM users WHERE user_id = $1) OR EXISTS (SELECT FROM memberships WHERE user_id = $1)
"""
#: Uses memberships_by_user and the primary key of memberships.
_MUTUAL = """
    SELECT r.room_nid, r.room_id FROM memberships a
    JOIN memberships b ON b.room_nid = a.room_nid AND b.user_id = $2 AND b.membership = 'join'
    JOIN rooms r ON r.room_nid = a.room_nid
    WHERE a.user_id = $1 AND a.membership = 'join' ORDER BY r.room_nid
"""


@dataclass(frozen=True, slots=True)
class Report:
    """A report. about_room: the room, or that of the event. event_id, about_user: None in other reports."""

    reporter: str
    about_room: str | None
    event_id: EventId | None
    about_user: str | None
    reason: str


async def store_report(database: Database, report: Report, now_ms: int) -> None:
    """Store a report."""
    await database.execute(
        _STORE, report.reporter, report.about_room, report.event_id, report.about_user, report.reason, now_ms
    )


async def may_report_event(source: Source, room_id: RoomId, event_id: EventId, user_id: UserId) -> bool:
    """Return True if both the event and the user are in the room."""
    return bool(await source.fetchval(_MAY_REPORT, room_id, event_id, user_id))


async def is_known_room(source: Source, room_id: RoomId) -> bool:
    return bool(await source.fetchval(_IS_ROOM, room_id))


async def is_known_user(source: Source, user_id: UserId) -> bool:
    return bool(await source.fetchval(_IS_USER, user_id))


async def get_mutual_rooms(source: Source, user_id: UserId, other: UserId) -> list[tuple[int, RoomId]]:
    """Return (number, id) of every room that both users are joined to, by number."""
    return [tuple(row) for row in await source.fetch(_MUTUAL, user_id, other)]
