"""Everything that is stored of a room, for checks: events in pages, the rest at once."""

from collections.abc import AsyncIterator

from shared.core.identifiers import EventId, RoomId, UserId
from shared.core.room_check import EventColumns, LineRow, MembershipRow
from shared.core.state_snapshots import Snapshot
from shared.storage.engine.pool import Source

#: Rows of one page: 64 MiB of the greatest events.
_PAGE_EVENTS = 1000

#: Uses rooms_room_id_key.
_ROOM = "SELECT room_nid, room_version FROM rooms WHERE room_id = $1"
_COUNT = "SELECT count(*) FROM events WHERE room_nid = $1"
#: Uses rooms_room_id_key: a page of the rooms after one.
_ROOM_IDS = "SELECT room_id FROM rooms WHERE room_id > $1 ORDER BY room_id LIMIT $2"
_SAMPLE = "SELECT room_id FROM rooms ORDER BY random() LIMIT $1"
#: Uses the primary key. An event that a purge has kept only as state (status 4) has no place: it is like an outlier.
_EVENTS = """
    SELECT event_nid, event_id, writer, position, CASE WHEN status <> 4 THEN ordinal END AS ordinal, depth, type,
           state_key, sender, origin_server_ts, CASE WHEN status = 4 THEN 3 ELSE status END AS status, prev_nids,
           auth_nids, replaces_nid, redacted_by, redacts_nid, anchor, back, state_nid,
           coalesce(resolved, false) AS resolved, coalesce(gap, false) AS gap, json
    FROM events WHERE room_nid = $1 AND event_nid > $2 ORDER BY event_nid LIMIT $3
"""
#: All use the primary key of their table.
_LINE = "SELECT type, state_key, ordinal, event_nid, prev_nid, writer, position FROM state_changes WHERE room_nid = $1"
_CURRENT_STATE = "SELECT type, state_key, event_nid FROM current_state WHERE room_nid = $1"
_EXTREMITIES = "SELECT event_nids FROM forward_extremities WHERE room_nid = $1"
_MEMBERSHIPS = "SELECT user_id, membership, event_nid, sender, ordinal FROM memberships WHERE room_nid = $1"
_SNAPSHOTS = "SELECT nid, parent, base, steps, added, removed FROM state_snapshots WHERE room_nid = $1 ORDER BY nid"
_AWAITED = "SELECT event_id, redaction_nid FROM awaited_redactions WHERE room_nid = $1"
#: Uses client_transactions_by_room.
_TRANSACTIONS = "SELECT event_id FROM client_transactions WHERE room_nid = $1"


async def get_room_ids(source: Source, after: str, limit: int) -> list[RoomId]:
    """Return at most `limit` room ids in order, after the given one. after: "" for the first page."""
    return [row[0] for row in await source.fetch(_ROOM_IDS, after, limit)]


async def get_some_room_ids(source: Source, count: int) -> list[RoomId]:
    """Return the ids of `count` random rooms. Reads all rows of `rooms`."""
    return [row[0] for row in await source.fetch(_SAMPLE, count)]


async def get_room_to_check(source: Source, room_id: RoomId) -> tuple[int, str, int] | None:
    """Return (room number, room version, number of stored events), None if the room does not exist here."""
    row = await source.fetchrow(_ROOM, room_id)
    return None if row is None else (row[0], row[1], await source.fetchval(_COUNT, row[0]))


async def get_event_pages(source: Source, room_nid: int) -> AsyncIterator[list[EventColumns]]:
    """Yield all events of the room, whatever their status, by ascending number, in pages."""
    last = -(2**63)
    while rows := await source.fetch(_EVENTS, room_nid, last, _PAGE_EVENTS):
        last = rows[-1][0]
        yield [EventColumns(**row) for row in rows]


async def get_line(source: Source, room_nid: int) -> list[LineRow]:
    """Return all changes of the room's state, in no particular order."""
    return [LineRow(*row) for row in await source.fetch(_LINE, room_nid)]


async def get_state_numbers(source: Source, room_nid: int) -> dict[tuple[str, str], int]:
    """Return the current state: (type, state key) -> number of the event."""
    rows = await source.fetch(_CURRENT_STATE, room_nid)
    return {(kind, state_key): nid for kind, state_key, nid in rows}


async def get_extremities(source: Source, room_nid: int) -> list[int] | None:
    """Return the numbers of the forward extremities, None if there is no row."""
    nids = await source.fetchval(_EXTREMITIES, room_nid)
    return None if nids is None else list(nids)


async def get_membership_rows(source: Source, room_nid: int) -> dict[UserId, MembershipRow]:
    """Return user id -> the stored membership."""
    return {user_id: MembershipRow(*membership) for user_id, *membership in await source.fetch(_MEMBERSHIPS, room_nid)}


async def get_snapshots(source: Source, room_nid: int) -> list[Snapshot]:
    """Return all snapshots of the room, by number."""
    return [
        Snapshot(nid, parent, base, steps, tuple(added), tuple(removed))
        for nid, parent, base, steps, added, removed in await source.fetch(_SNAPSHOTS, room_nid)
    ]


async def get_all_awaited_redactions(source: Source, room_nid: int) -> list[tuple[EventId, int]]:
    """Return (id of a missing event, number of its redaction)."""
    return [(row[0], row[1]) for row in await source.fetch(_AWAITED, room_nid)]


async def get_transaction_answers(source: Source, room_nid: int) -> list[EventId]:
    """Return the event ids in the answers to clients' transactions."""
    return [row[0] for row in await source.fetch(_TRANSACTIONS, room_nid)]
