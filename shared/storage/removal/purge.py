"""Purge of a room's history, online, by fenced statements of bounded size.

A purge goes up to an ordinal (exclusive), and never includes the latest `keep_events` events. Its steps:

1. *Retire*, from the earliest event on. Messages before the ordinal are deleted, including those of fetched history
   and the soft-failed and rejected ones of that time. Gaps there are closed. State events and redactions leave the
   timeline (status RETIRED): no page, context or single event shows them any more. Their counts become one total per
   group and thread (`purge_counts.py`).
2. *Compact* the line. Of each key's changes before the ordinal, only the last stays. The state before every remaining
   ordinal is unchanged.
3. *Sweep*. A retired state event is deleted once it is in no remaining state (the current one, the line, a snapshot).
   Events that can be in an auth chain (AUTH_TYPES) are never deleted, so all auth events of any event exist. A
   redaction stays as long as the event that it redacts, or while that event is awaited: no redacted content comes back.

Ordinals never change; the timeline begins at `rooms.first_ordinal`. Receipts and clients' transactions stay, since they
name events by id only. `prev_nids`, `replaces_nid` and `redacts_nid` of remaining events may name deleted events.

A purge never touches what a writer depends on: the latest event, the extremities, their states, all auth events and the
current state. A retired event has no place and no known state, so naming it as a previous event is like naming a
missing one. A writer that read it before must store its own event within `settle_s`, since steps 2 and 3 wait so long
after the last step 1. An event that names a reclaimed snapshot is refused (`events_state_nid_fkey`).

A crash at any time, or two callers at once, do no harm: the columns of `rooms` record the progress of each step.
"""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass

from shared.storage.engine.fenced import FencedStatement, FencedWrite
from shared.storage.engine.pool import Source
from shared.storage.engine.statements import Parameters
from shared.storage.removal.purge_counts import purge_push_batches
from shared.storage.removal.purge_statements import (
    COMPACT_LINE,
    DELETE_ASIDE,
    FINISH_PURGE,
    RETIRE_HISTORY,
    RETIRE_LIVE,
    START_PURGE,
    START_RETENTION,
    SWEEP_RETIRED,
    FinishPurge,
    PurgeRows,
    RoomWithRetention,
    SettledRows,
    StartPurge,
    StartRetention,
    SweepRetired,
)
from shared.storage.removal.unused_snapshots import reclaim_all_of_room

BATCH_ROWS = 500  # about 20 ms of row locks on events that only a redaction changes
KEEP_EVENTS = 100  # as many as readers keep of a room: a reader that is a little behind finds its rows
SETTLE_S = 600.0  # no event takes so long from the read of its previous events to its commit
_MAX_WALKS = 8  # longer chains of redactions of redactions are left to the next purge
_RETENTION_WINDOW = 10_000  # ordinals that one purge reads of a room; the rest is left to the next purge

#: $2: the time. $3: now. Uses events_room_nid_ordinal_key and events_by_time.
_ORDINAL_OF_TIME = """
    SELECT coalesce((
        SELECT min(ordinal) FROM (
            SELECT e.ordinal FROM events e
            WHERE e.room_nid = $1 AND e.ordinal >= r.first_ordinal AND e.origin_server_ts >= $2
              AND e.origin_server_ts <= $3
            ORDER BY e.ordinal LIMIT 1) AS first), (
        SELECT max(ordinal) + 1 FROM events WHERE room_nid = $1), 1)
    FROM rooms r WHERE r.room_nid = $1
"""
_UNDER_WAY = "SELECT room_nid FROM rooms WHERE purge_to IS NOT NULL AND room_nid > $1 ORDER BY room_nid LIMIT $2"
_PROGRESS = """
    SELECT r.first_ordinal, r.purge_to, last.ordinal FROM rooms r CROSS JOIN LATERAL (
        SELECT coalesce(max(ordinal), 0) AS ordinal FROM events WHERE room_nid = r.room_nid) AS last
    WHERE r.room_nid = $1
"""


@dataclass(frozen=True, slots=True)
class PurgeProgress:
    """The progress of a room's purge.

    first_ordinal: the first one of the timeline now.
    purge_to: the first one after the purge. None: no purge is under way.
    """

    first_ordinal: int
    purge_to: int | None
    last_ordinal: int


async def get_purge_progress(source: Source, room_nid: int) -> PurgeProgress | None:
    """Return the progress of the room's purge, None if there is no such room."""
    row = await source.fetchrow(_PROGRESS, room_nid)
    return None if row is None else PurgeProgress(*row)


async def get_ordinal_of_time(source: Source, room_nid: int, before_ms: int, now_ms: int) -> int:
    """Return the ordinal of the first event that is not older than a time. All events before it are older.

    Times in the future (after `now_ms`) are ignored. Reads as many rows as the purge will delete.
    """
    ordinal: int | None = await source.fetchval(_ORDINAL_OF_TIME, room_nid, before_ms, now_ms)
    return ordinal or 1


async def get_rooms_to_purge(source: Source, above: int, limit: int) -> list[int]:
    """Return rooms with a purge under way and a number above `above`, ascending."""
    return [row[0] for row in await source.fetch(_UNDER_WAY, above, limit)]


async def start_purge(
    write: FencedWrite, room_nid: int, before_ordinal: int, *, keep_events: int = KEEP_EVENTS
) -> int | None:
    """Begin to purge the events before an ordinal. Return the ordinal that the purge goes up to.

    keep_events: the number of latest events that stay, at least one.
    Returns None if there is nothing to purge, or no such room.
    """
    record = StartPurge(room_nid=room_nid, before_ordinal=before_ordinal, keep_events=keep_events)
    row = await write(START_PURGE, record)
    purge_to: int | None = row["purge_to"]
    return purge_to


async def start_retention(
    write: FencedWrite, before_ms: Mapping[int, int], now_ms: int, *, keep_events: int = KEEP_EVENTS
) -> list[int]:
    """Begin a purge in each of these rooms that has expired events. Return those rooms.

    before_ms: room -> events before this time may be purged. An event is purged if all events before it are older too.
        One call begins with at most 10,000 events of a room.

    Rooms with a purge under way are left out.
    """
    record = StartRetention(
        rooms=[RoomWithRetention(*item) for item in before_ms.items()],
        now_ms=now_ms,
        window=_RETENTION_WINDOW,
        keep_events=keep_events,
    )
    row = await write(START_RETENTION, record)
    return row["room_nids"] or []


async def purge_batches(
    write: FencedWrite, room_nid: int, *, rows: int = BATCH_ROWS, settle_s: float = SETTLE_S
) -> AsyncIterator[int]:
    """Continue the room's purge as far as possible now. Yield after each statement the number of deleted rows.

    The caller pauses between statements. At the end the purge is finished, or the rest must settle first: then
    `get_rooms_to_purge` still returns the room.
    """
    for statement in (RETIRE_HISTORY, DELETE_ASIDE, RETIRE_LIVE):
        async for deleted in _repeat(write, statement, PurgeRows(room_nid=room_nid, rows=rows)):
            yield deleted
    async for deleted in purge_push_batches(write, room_nid, rows):
        yield deleted
    # Only now are the snapshots of purged events unused, so that the line from their base on can be compacted.
    async for deleted in reclaim_all_of_room(write, room_nid, rows=rows):
        yield deleted
    settled = SettledRows(room_nid=room_nid, rows=rows, settle_s=settle_s)
    async for deleted in _repeat(write, COMPACT_LINE, settled):
        yield deleted
    async for deleted in _sweep(write, room_nid, rows, settle_s):
        yield deleted
    await write(FINISH_PURGE, FinishPurge(room_nid=room_nid, settle_s=settle_s))


async def _sweep(write: FencedWrite, room_nid: int, rows: int, settle_s: float) -> AsyncIterator[int]:
    """Delete retired events. A redaction is deleted after its event, so one walk can make work for another."""
    for _ in range(_MAX_WALKS):
        in_walk = 0
        last_nid: int | None = 0
        while last_nid is not None:
            record = SweepRetired(room_nid=room_nid, rows=rows, settle_s=settle_s, after_nid=last_nid)
            row = await write(SWEEP_RETIRED, record)
            last_nid = row["last_nid"]
            in_walk += row["deleted"]
            yield row["deleted"]
        if not in_walk:
            return


async def _repeat(write: FencedWrite, statement: FencedStatement[Parameters], record: Parameters) -> AsyncIterator[int]:
    remaining = True
    while remaining:
        row = await write(statement, record)
        remaining = row["remaining"]
        yield row["deleted"]
