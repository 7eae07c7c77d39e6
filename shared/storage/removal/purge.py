"""Purge of a room's history, online: one fenced statement of bounded size after another.

A purge goes up to an ordinal (exclusive), never past the latest `keep_events` events. What goes, and when:

1. *Retire*, from the earliest event on. Messages before the ordinal are deleted, those of fetched history and the
   soft-failed and rejected ones of that time too; gaps there are closed. State events and redactions only leave the
   timeline (status RETIRED): no page, context or single event shows them any more. What they counted becomes one
   total per group and thread (`purge_counts.py`).
2. *Compact* the line: of each key's changes before the ordinal one stays, the last. The state before every ordinal
   that remains is what it was.
3. *Sweep*: a retired state event is deleted once it is in no state that remains (the current one, the line, a
   snapshot). What an auth chain can hold (AUTH_TYPES) stays for good: so what any event cites is always there. A
   redaction stays for as long as what it redacts, or while that is awaited: nothing that was redacted comes back.

Ordinals never change; the timeline begins at `rooms.first_ordinal`. Receipts and clients' transactions stay: they
are places and answers, and name events by id only. `prev_nids`, `replaces_nid` and `redacts_nid` of events that remain
may name what is gone.

What a writer may count on: the latest event, the extremities, their states, all auth events and the current state
are never touched. A retired event has no place and no known state: to name it as a predecessor is like naming one
that is not here. Whoever had read it before must have stored its own event within `settle_s` of that, since 2 and 3
wait so long after the last 1; an event that names a reclaimed snapshot is refused (`events_state_nid_fkey`).

A crash at any time, or two callers at once, do no harm: the columns of `rooms` say how far each part has come.
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

BATCH_ROWS = 500  # about 20 ms of row locks on events that nobody but a redaction changes
KEEP_EVENTS = 100  # as many as readers keep of a room: who is behind a little finds its rows
SETTLE_S = 600.0  # no event takes so long from reading what it is built upon to being stored
_MAX_WALKS = 8  # longer chains, of redactions of redactions, go on with the next purge
_RETENTION_WINDOW = 10_000  # ordinals looked at for one room: more go with the next purge

#: $2: before this time. Of the first events with a greater time, and a window beyond, nothing is asked.
#: Uses events_room_nid_ordinal_key and events_by_time.
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
    """first_ordinal: where the timeline begins now; purge_to: where it will begin, None: no purge is under way."""

    first_ordinal: int
    purge_to: int | None
    last_ordinal: int


async def get_purge_progress(source: Source, room_nid: int) -> PurgeProgress | None:
    """Return how far the room's purge has come; None when there is no such room."""
    row = await source.fetchrow(_PROGRESS, room_nid)
    return None if row is None else PurgeProgress(*row)


async def get_ordinal_of_time(source: Source, room_nid: int, before_ms: int, now_ms: int) -> int:
    """Return the ordinal of the first event that isn't older than a time: all before it are.

    Times in the future (after `now_ms`) say nothing. Reads as much as the purge will delete.
    """
    ordinal: int | None = await source.fetchval(_ORDINAL_OF_TIME, room_nid, before_ms, now_ms)
    return ordinal or 1


async def get_rooms_to_purge(source: Source, above: int, limit: int) -> list[int]:
    """Return rooms with a purge under way, ascending, with greater numbers than `above`."""
    return [row[0] for row in await source.fetch(_UNDER_WAY, above, limit)]


async def start_purge(
    write: FencedWrite, room_nid: int, before_ordinal: int, *, keep_events: int = KEEP_EVENTS
) -> int | None:
    """Begin to purge what lies before an ordinal; return the ordinal that it will be.

    keep_events: so many of the latest events stay, at least one. None: there is nothing to purge, or no such room.
    """
    record = StartPurge(room_nid=room_nid, before_ordinal=before_ordinal, keep_events=keep_events)
    row = await write(START_PURGE, record)
    purge_to: int | None = row["purge_to"]
    return purge_to


async def start_retention(
    write: FencedWrite, before_ms: Mapping[int, int], now_ms: int, *, keep_events: int = KEEP_EVENTS
) -> list[int]:
    """Begin a purge in each of these rooms that has expired events; return those rooms.

    before_ms: room -> what is older may go. An event goes when it and all before it are older; one call begins with at
    most 10,000 of a room. A room with a purge under way is left out.
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
    """Go on with the room's purge, as far as it can go now. Yields after each statement how many rows it deleted.

    The caller decides how long to pause between them. At the end the purge is finished, or what is left must settle
    first: then `get_rooms_to_purge` still names the room.
    """
    for statement in (RETIRE_HISTORY, DELETE_ASIDE, RETIRE_LIVE):
        async for deleted in _repeat(write, statement, PurgeRows(room_nid=room_nid, rows=rows)):
            yield deleted
    async for deleted in purge_push_batches(write, room_nid, rows):
        yield deleted
    # Only now are the snapshots of what went unused, and no reason any more to keep the line from their base on.
    async for deleted in reclaim_all_of_room(write, room_nid, rows=rows):
        yield deleted
    settled = SettledRows(room_nid=room_nid, rows=rows, settle_s=settle_s)
    async for deleted in _repeat(write, COMPACT_LINE, settled):
        yield deleted
    async for deleted in _sweep(write, room_nid, rows, settle_s):
        yield deleted
    await write(FINISH_PURGE, FinishPurge(room_nid=room_nid, settle_s=settle_s))


async def _sweep(write: FencedWrite, room_nid: int, rows: int, settle_s: float) -> AsyncIterator[int]:
    """A redaction can go after what it redacts, so one walk may make work for another."""
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
