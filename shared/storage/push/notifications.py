"""The events that notified a user, latest first, from what they counted when they arrived.

No event is evaluated again, and events that did not notify are not read: all queries step backwards in indices.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from shared.core.identifiers import RoomId, UserId
from shared.storage.engine.pool import Source

#: After every event of a room.
END: Final = 1 << 62
#: Uses memberships_by_user.
_JOINED = """
    SELECT m.room_nid, r.room_id FROM memberships m JOIN rooms r USING (room_nid)
    WHERE m.user_id = $1 AND m.membership = 'join'
"""
#: $1 rooms, $2 a position. A binary search in each room's timeline with events_room_nid_ordinal_key, since a room's
#: positions ascend with its ordinals.
_PLACES = """
    WITH RECURSIVE search(room_nid, low, high) AS (
        SELECT a.room_nid, 0::bigint, coalesce((
            SELECT e.ordinal FROM events e WHERE e.room_nid = a.room_nid AND e.ordinal IS NOT NULL
            ORDER BY e.ordinal DESC LIMIT 1
        ), 0)
        FROM unnest($1::bigint[]) AS a(room_nid)
        UNION ALL
        SELECT s.room_nid, CASE WHEN p.position < $2 THEN m.middle ELSE s.low END,
               CASE WHEN p.position < $2 THEN s.high ELSE m.middle - 1 END
        FROM search s
        CROSS JOIN LATERAL (SELECT (s.low + s.high + 1) / 2 AS middle) AS m
        CROSS JOIN LATERAL (
            SELECT e.position FROM events e WHERE e.room_nid = s.room_nid AND e.ordinal >= m.middle
            ORDER BY e.ordinal LIMIT 1
        ) AS p
        WHERE s.low < s.high
    )
    SELECT room_nid, low + 1 FROM search WHERE low = high
"""
#: $1 user; $2 rooms; $3 the ordinals before which to read; $4 the most events of each source. Uses the primary keys of
#: push_members, push_counters and push_exceptions, and push_counters_in_threads.
_COUNTED = """
    WITH asked AS MATERIALIZED (
        SELECT * FROM unnest($2::bigint[], $3::bigint[]) AS a(room_nid, before)
    ), spans AS MATERIALIZED (
        SELECT a.room_nid, g.group_id, g.first, least(g.next, a.before) AS before
        FROM asked a CROSS JOIN LATERAL (
            SELECT group_id, first, lead(first) OVER (ORDER BY first) AS next FROM (
                SELECT 0::bigint AS group_id, 0::bigint AS first
                UNION ALL
                SELECT group_id, from_ordinal FROM push_members WHERE room_nid = a.room_nid AND user_id = $1
            ) AS one
        ) AS g
        WHERE g.first < a.before
    )
    SELECT s.room_nid, 0 AS source, s.first, c.ordinal, 1 AS notifies, c.highlights - coalesce(p.highlights, 0)
    FROM spans s
    CROSS JOIN LATERAL (
        SELECT ordinal, highlights FROM push_counters
        WHERE room_nid = s.room_nid AND group_id = s.group_id AND thread_id = ''
          AND ordinal >= s.first AND ordinal < s.before
        ORDER BY ordinal DESC LIMIT $4
    ) AS c
    LEFT JOIN LATERAL (
        SELECT highlights FROM push_counters
        WHERE room_nid = s.room_nid AND group_id = s.group_id AND thread_id = '' AND ordinal < c.ordinal
        ORDER BY ordinal DESC LIMIT 1
    ) AS p ON true
    UNION ALL
    SELECT s.room_nid, 1, s.first, c.ordinal, 1, c.highlights - coalesce(p.highlights, 0)
    FROM spans s
    CROSS JOIN LATERAL (
        SELECT thread_id, ordinal, highlights FROM push_counters
        WHERE room_nid = s.room_nid AND group_id = s.group_id AND thread_id <> ''
          AND ordinal >= s.first AND ordinal < s.before
        ORDER BY ordinal DESC LIMIT $4
    ) AS c
    LEFT JOIN LATERAL (
        SELECT highlights FROM push_counters
        WHERE room_nid = s.room_nid AND group_id = s.group_id AND thread_id = c.thread_id AND ordinal < c.ordinal
        ORDER BY ordinal DESC LIMIT 1
    ) AS p ON true
    UNION ALL
    SELECT a.room_nid, 2, 0, c.ordinal, c.notifies, c.highlights
    FROM asked a CROSS JOIN LATERAL (
        SELECT ordinal, notifies, highlights FROM push_exceptions
        WHERE room_nid = a.room_nid AND user_id = $1 AND ordinal < a.before
        ORDER BY ordinal DESC LIMIT $4
    ) AS c
"""
#: Uses events_room_nid_ordinal_key.
_PLACED = """
    SELECT e.room_nid, e.ordinal, e.position, e.event_nid, e.sender, e.redacted_by IS NOT NULL,
           coalesce(e.thread_id, '')
    FROM unnest($1::bigint[], $2::bigint[]) AS a(room_nid, ordinal) JOIN events e USING (room_nid, ordinal)
"""


@dataclass(slots=True)
class CountedEvents:
    """The events of a room that counted for a user.

    counted: ordinal -> (notifies, highlights), with all exceptions of the user.
    read_down_to: there may be more at this ordinal and below.
    """

    counted: dict[int, tuple[int, int]]
    read_down_to: int = 0


@dataclass(frozen=True, slots=True)
class PlacedEvent:
    """A live event. position: in the stream `events`. thread_id: of the thread that it counts in."""

    room_nid: int
    ordinal: int
    position: int
    event_nid: int
    sender: UserId
    is_redacted: bool
    thread_id: str


async def get_joined_room_ids(source: Source, user_id: UserId) -> dict[int, RoomId]:
    """Return the rooms that a user is joined to, by number."""
    return {row[0]: row[1] for row in await source.fetch(_JOINED, user_id)}


async def get_ordinals_from(source: Source, room_nids: Collection[int], position: int) -> dict[int, int]:
    """Return, by room, the ordinal from which on events have this position of the stream `events` or a later one."""
    rows = await source.fetch(_PLACES, list(room_nids), position)
    return {row[0]: row[1] for row in rows}


async def get_counted_events(
    source: Source, user_id: UserId, before: Mapping[int, int], limit: int
) -> dict[int, CountedEvents]:
    """Return the latest events that counted for a user in each room before an ordinal.

    Returns at least `limit` events of each room, own and redacted ones included, unless there are fewer.
    """
    rows = await source.fetch(_COUNTED, user_id, list(before), list(before.values()), limit)
    found: dict[int, CountedEvents] = {}
    sources: dict[tuple[int, int, int], list[int]] = {}
    for room_nid, kind, first, ordinal, notifies, highlights in rows:
        counted = found.setdefault(room_nid, CountedEvents({})).counted
        n, h = counted.get(ordinal, (0, 0))
        counted[ordinal] = (n + notifies, h + highlights)
        sources.setdefault((room_nid, kind, first), []).append(ordinal)
    for (room_nid, _, _), ordinals in sources.items():
        if len(ordinals) >= limit:
            found[room_nid].read_down_to = max(found[room_nid].read_down_to, min(ordinals))
    return found


async def get_placed_events(source: Source, places: Sequence[tuple[int, int]]) -> dict[tuple[int, int], PlacedEvent]:
    """Return the live events at these (room number, ordinal) pairs, by pair."""
    rows = await source.fetch(_PLACED, [nid for nid, _ in places], [ordinal for _, ordinal in places])
    events = (
        PlacedEvent(nid, ordinal, position, event_nid, sender, redacted, thread_id)
        for nid, ordinal, position, event_nid, sender, redacted, thread_id in rows
    )
    return {(event.room_nid, event.ordinal): event for event in events}
