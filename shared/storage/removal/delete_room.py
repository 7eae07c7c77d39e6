"""Deletion of a room, online: it is marked first, then deleted by fenced statements of bounded size.

The mark removes the room's id: from then on no reader and no writer finds the room, under its id or an alias. A
rejected event without content takes its next ordinal. A process that has the room in memory and writes into it is
refused as if another process had written (`events_room_nid_ordinal_key`), drops its copy, and finds no room. Rows are
deleted table by table, the `rooms` row last and only if no other is left. Until then the ids of its events are still
taken, so the room cannot come back from other servers.

The caller makes local users leave first, and lets the room's owner drop it. Events without an ordinal (soft-failed,
outliers) are not refused, so the last step waits until they are deleted too. A crash at any time, or two callers at
once, do no harm: `rooms.deleted_id` marks the rooms to delete.
"""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass

from shared.core.errors import SkepError
from shared.core.identifiers import RoomId, UserId
from shared.storage.engine.fenced import FencedStatement, FencedWrite, fenced_statement
from shared.storage.engine.pool import Source
from shared.storage.engine.statements import parameters
from shared.storage.events.batch import REJECTED
from shared.storage.removal.purge import BATCH_ROWS
from shared.storage.removal.unused_snapshots import reclaim_all_of_room

#: Tables with rows of a room other than `rooms`, in the order in which they are emptied: first those that show the room
#: to its users, and events before the snapshots that they name. state_snapshots goes leaf by leaf
#: (`unused_snapshots.py`).
ROOM_TABLES = (
    "memberships",
    "room_aliases",
    "account_data",
    "receipts",
    "client_transactions",
    "forward_extremities",
    "current_state",
    "state_changes",
    "gaps",
    "awaited_redactions",
    "search_words",
    "user_directory_rooms",
    "delayed_events",
    "thread_subscriptions",
    "sticky_events",
    "push_counters",
    "push_exceptions",
    "push_members",
    "push_own",
    "push_redacted",
    "push_redacted_users",
    "events",
    "state_snapshots",
)
#: The event that takes the ordinal. Numbers of real events begin at 1; position 0 is before every stream's first one.
_MARK_NID = 0


@parameters
class MarkDeleted:
    """force: True to mark the room though local users are joined."""

    room_id: RoomId
    force: bool


@parameters
class RowsOfRoom:
    """rows: the most rows to delete."""

    room_nid: int
    rows: int


@parameters
class DeletedRoom:
    room_nid: int


#: Uses rooms_room_id_key, the primary key of memberships, events_room_nid_ordinal_key.
MARK_DELETED = fenced_statement(
    "delete_room_mark",
    MarkDeleted,
    {
        "room": """
            SELECT r.room_nid FROM fence, rooms r WHERE r.room_id = :room_id AND r.deleted_id IS NULL
            FOR UPDATE OF r""",
        "joined": """
            SELECT m.user_id FROM room JOIN memberships m USING (room_nid)
            WHERE m.is_local AND m.membership = 'join' LIMIT 1""",
        "marked": """
            UPDATE rooms r SET deleted_id = r.room_id, room_id = 'deleted:' || r.room_nid, is_public = false,
                purge_to = NULL
            FROM fence, room WHERE r.room_nid = room.room_nid AND (:force OR NOT EXISTS (SELECT FROM joined))
            RETURNING r.room_nid""",
        "mark": f"""
            INSERT INTO events (room_nid, event_nid, event_id, writer, position, ordinal, depth, type, sender,
                                origin_server_ts, status, prev_nids, auth_nids, json)
            SELECT m.room_nid, {_MARK_NID}, 'deleted:' || m.room_nid, 0, 0, coalesce((
                SELECT ordinal FROM events WHERE room_nid = m.room_nid AND ordinal IS NOT NULL
                ORDER BY ordinal DESC LIMIT 1), 0) + 1, 0, '', '', 0, {REJECTED}, '{{}}', '{{}}', ''
            FROM fence, marked m""",
    },
    "(SELECT room_nid FROM room) AS room_nid, (SELECT user_id FROM joined) AS joined,"
    " (SELECT count(*) FROM marked) AS marked",
)


def _delete_rows(table: str) -> FencedStatement[RowsOfRoom]:
    of_room = "t.room_id = (SELECT deleted_id FROM room)" if table == "account_data" else "t.room_nid = :room_nid"
    # Users whose rows are deleted here are counted again when they write next: see `user_data/usage.py`.
    deleted = {"uncounted": "DELETE FROM user_usage USING fence WHERE user_id = ANY(ARRAY(SELECT user_id FROM gone))"}
    but = f" AND t.event_nid <> {_MARK_NID}" if table == "events" else ""
    return fenced_statement(
        f"delete_room_{table}",
        RowsOfRoom,
        {
            "room": "SELECT r.deleted_id FROM rooms r WHERE r.room_nid = :room_nid AND r.deleted_id IS NOT NULL",
            "gone": f"""
                DELETE FROM {table} USING fence, room WHERE {table}.ctid = ANY(ARRAY(
                    SELECT t.ctid FROM {table} t WHERE {of_room}{but} LIMIT :rows FOR UPDATE SKIP LOCKED))
                RETURNING {"user_id" if table == "account_data" else "1"}""",
            **(deleted if table == "account_data" else {}),
        },
        "(SELECT count(*) FROM gone) AS deleted",
    )


_STATEMENTS: Mapping[str, FencedStatement[RowsOfRoom]] = {
    table: _delete_rows(table) for table in ROOM_TABLES if table != "state_snapshots"
}
_EMPTY = " AND ".join(
    f"NOT EXISTS (SELECT FROM {table} t WHERE "
    + ("t.room_id = r.deleted_id" if table == "account_data" else "t.room_nid = :room_nid")
    + (f" AND t.event_nid <> {_MARK_NID}" if table == "events" else "")
    + ")"
    for table in ROOM_TABLES
)
DELETE_ROOM_ROW = fenced_statement(
    "delete_room_row",
    DeletedRoom,
    {
        "empty": f"""
            SELECT r.room_nid FROM fence, rooms r WHERE r.room_nid = :room_nid AND r.deleted_id IS NOT NULL AND {_EMPTY}
            FOR UPDATE OF r""",
        "unmarked": f"""
            DELETE FROM events e USING fence, empty
            WHERE e.room_nid = empty.room_nid AND e.event_nid = {_MARK_NID}""",
        "gone": "DELETE FROM rooms r USING fence, empty WHERE r.room_nid = empty.room_nid RETURNING r.room_nid",
    },
    "(SELECT count(*) FROM gone) AS deleted",
)

#: The table is as small as the rooms being deleted: rooms_deleted_id_key without its NULLs.
_UNDER_WAY = """
    SELECT room_nid, deleted_id FROM rooms WHERE deleted_id IS NOT NULL ORDER BY deleted_id LIMIT $1
"""


#: Uses the primary keys of events and memberships.
_COUNT = """
    SELECT (SELECT count(*) FROM events WHERE room_nid = $1),
           (SELECT count(*) FROM memberships WHERE room_nid = $1 AND is_local AND membership = 'join')
"""


class RoomHasMembers(SkepError):
    """Users of this server are still joined.

    user_id: one of them.
    """

    def __init__(self, room_id: RoomId, user_id: UserId) -> None:
        super().__init__(f"Users of this server are still in {room_id}, such as {user_id}. Make them leave first.")
        self.user_id = user_id


@dataclass(frozen=True, slots=True)
class RoomBeingDeleted:
    room_nid: int
    room_id: RoomId


async def mark_room_deleted(write: FencedWrite, room_id: RoomId, *, force: bool = False) -> int | None:
    """Mark a room as deleted. Return its number, None if there is no such room any more.

    force: True to mark the room although local users are joined. They lose it without notice.
    Raises RoomHasMembers. Raises asyncpg's UniqueViolationError if the room was written at the same moment: try again.
    """
    row = await write(MARK_DELETED, MarkDeleted(room_id=room_id, force=force))
    if row["room_nid"] is not None and not row["marked"]:
        raise RoomHasMembers(room_id, row["joined"])
    room_nid: int | None = row["room_nid"]
    return room_nid


async def count_room(source: Source, room_nid: int) -> tuple[int, int]:
    """Return (number of events, number of joined local users) of the room. Reads all of them."""
    row = await source.fetchrow(_COUNT, room_nid)
    assert row is not None
    return row[0], row[1]


async def get_rooms_being_deleted(source: Source, limit: int) -> list[RoomBeingDeleted]:
    """Return rooms that are marked and not deleted yet."""
    return [RoomBeingDeleted(*row) for row in await source.fetch(_UNDER_WAY, limit)]


async def delete_room_batches(write: FencedWrite, room_nid: int, *, rows: int = BATCH_ROWS) -> AsyncIterator[int]:
    """Delete a marked room. Yield after each statement the number of deleted rows, so that the caller can pause.

    At the end the room is deleted, unless other transactions locked or wrote rows of it meanwhile. Then
    `get_rooms_being_deleted` still returns it. A room that is not marked is left alone.
    """
    for statement in _STATEMENTS.values():
        deleted = 1
        while deleted:
            deleted = (await write(statement, RowsOfRoom(room_nid=room_nid, rows=rows)))["deleted"]
            yield deleted
    async for deleted in reclaim_all_of_room(write, room_nid, rows=rows):
        yield deleted
    yield (await write(DELETE_ROOM_ROW, DeletedRoom(room_nid=room_nid)))["deleted"]
