"""Unused state snapshots, deleted in small batches.

A snapshot is used while an event's `state_nid` or another snapshot's `parent` names it. A persister may be about to
store an event that shares a snapshot which nothing stored names any more. Foreign keys decide between the two: what
is stored first wins. The persister's statement is refused (`events_state_nid_fkey`, `state_snapshots_parent_fkey`): it
must read the room again, as after any sign that its copy is old. The reclaimer's is refused: the batch is left out.
Neither waits: a snapshot that is being named right now is locked, and passed over.
"""

from collections.abc import AsyncIterator
from typing import NamedTuple

import asyncpg

from shared.storage.engine.fenced import FencedWrite, fenced_statement
from shared.storage.engine.statements import parameters


@parameters
class Reclaim:
    """A page of a walk through the snapshots.

    room_nid, nid: snapshots after this one only.
    last_room_nid: rooms up to this one.
    rows: so many snapshots are looked at.
    deletes: True to delete the unused ones.
    """

    room_nid: int
    nid: int
    last_room_nid: int
    rows: int
    deletes: bool


#: Uses the primary key of state_snapshots, events_by_snapshot, state_snapshots_by_parent; OFFSET 0 keeps them from
#: becoming joins with whole tables.
RECLAIM = fenced_statement(
    "reclaim_snapshots",
    Reclaim,
    {
        "page": """
            SELECT s.room_nid, s.nid FROM fence, state_snapshots s
            WHERE (s.room_nid, s.nid) > (:room_nid, :nid) AND s.room_nid <= :last_room_nid
            ORDER BY s.room_nid, s.nid LIMIT :rows""",
        "last": "SELECT room_nid, nid FROM page ORDER BY room_nid DESC, nid DESC LIMIT 1",
        "unused": """
            SELECT s.ctid FROM fence, state_snapshots s
            WHERE :deletes AND (s.room_nid, s.nid) > (:room_nid, :nid)
              AND (s.room_nid, s.nid) <= ((SELECT room_nid FROM last), (SELECT nid FROM last))
              AND NOT EXISTS (SELECT FROM events e WHERE e.room_nid = s.room_nid AND e.state_nid = s.nid OFFSET 0)
              AND NOT EXISTS (SELECT FROM state_snapshots c WHERE c.room_nid = s.room_nid AND c.parent = s.nid OFFSET 0)
            FOR UPDATE OF s SKIP LOCKED""",
        "gone": """
            DELETE FROM state_snapshots s USING fence WHERE s.ctid = ANY(ARRAY(SELECT u.ctid FROM unused u))
            RETURNING s.nid""",
    },
    "(SELECT count(*) FROM gone) AS deleted, (SELECT room_nid FROM last) AS room_nid, (SELECT nid FROM last) AS nid",
)
_LAST_ROOM = (1 << 63) - 1


class Place(NamedTuple):
    """After which snapshot a walk goes on. room_nid, nid: as in the table."""

    room_nid: int
    nid: int


class Reclaimed(NamedTuple):
    """deleted: snapshots that went; place: where to go on, None: this was the end of the walk."""

    deleted: int
    place: Place | None


async def reclaim_snapshots(write: FencedWrite, after: Place | None = None, *, rows: int = 500) -> Reclaimed:
    """Look at the next `rows` snapshots of all rooms and delete the unused ones.

    A parent is unused only once its children went: walk again until a whole walk deletes nothing.
    """
    return await _reclaim(write, after or Place(-1, -1), _LAST_ROOM, rows)


async def reclaim_all_of_room(write: FencedWrite, room_nid: int, *, rows: int = 500) -> AsyncIterator[int]:
    """Delete one room's unused snapshots, from the leaves on. Yields after each statement how many went."""
    deleted = 1
    while deleted:
        deleted = 0
        place: Place | None = Place(room_nid, -1)
        while place is not None:
            count, place = await _reclaim(write, place, room_nid, rows)
            deleted += count
            yield count


async def _reclaim(write: FencedWrite, after: Place, last_room: int, rows: int) -> Reclaimed:
    deletes = True
    while True:
        try:
            page = Reclaim(room_nid=after.room_nid, nid=after.nid, last_room_nid=last_room, rows=rows, deletes=deletes)
            row = await write(RECLAIM, page)
        except asyncpg.ForeignKeyViolationError:
            # One was named between our look and its deletion: half as many next, and that one alone is passed over.
            deletes = rows > 1
            rows = max(1, rows // 2)
            continue
        place = None if row["room_nid"] is None else Place(row["room_nid"], row["nid"])
        return Reclaimed(row["deleted"], place)
