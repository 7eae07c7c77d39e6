"""Unused state snapshots, deleted in small batches.

A snapshot is used while an event's `state_nid` or another snapshot's `parent` names it. A persister may be about to
store an event that shares a snapshot that no stored row names any more. Foreign keys decide between the two: the
statement that commits first wins. If the persister's is refused (`events_state_nid_fkey`,
`state_snapshots_parent_fkey`), it reads the room again, as after any sign that its copy is old. If the deletion is
refused, the batch is left out. Neither waits: a snapshot that is being named now is locked, and skipped.
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
    rows: the number of snapshots to read.
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


class SnapshotKey(NamedTuple):
    """The snapshot after which a walk continues."""

    room_nid: int
    nid: int


class Reclaimed(NamedTuple):
    """A step of a walk. deleted: the number of deleted snapshots. last: the last one read. None: the walk has ended."""

    deleted: int
    last: SnapshotKey | None


async def reclaim_snapshots(write: FencedWrite, after: SnapshotKey | None = None, *, rows: int = 500) -> Reclaimed:
    """Read the next `rows` snapshots of all rooms and delete the unused ones.

    A parent is unused only once its children are deleted: walk again until a whole walk deletes nothing.
    """
    return await _reclaim(write, after or SnapshotKey(-1, -1), _LAST_ROOM, rows)


async def reclaim_all_of_room(write: FencedWrite, room_nid: int, *, rows: int = 500) -> AsyncIterator[int]:
    """Delete a room's unused snapshots, leaves first. Yield after each statement the number of deleted snapshots."""
    deleted = 1
    while deleted:
        deleted = 0
        last: SnapshotKey | None = SnapshotKey(room_nid, -1)
        while last is not None:
            count, last = await _reclaim(write, last, room_nid, rows)
            deleted += count
            yield count


async def _reclaim(write: FencedWrite, after: SnapshotKey, last_room: int, rows: int) -> Reclaimed:
    deletes = True
    while True:
        try:
            page = Reclaim(room_nid=after.room_nid, nid=after.nid, last_room_nid=last_room, rows=rows, deletes=deletes)
            row = await write(RECLAIM, page)
        except asyncpg.ForeignKeyViolationError:
            # A snapshot was named between the read and the deletion. Try half as many; a single one is skipped.
            deletes = rows > 1
            rows = max(1, rows // 2)
            continue
        last = None if row["room_nid"] is None else SnapshotKey(row["room_nid"], row["nid"])
        return Reclaimed(row["deleted"], last)
