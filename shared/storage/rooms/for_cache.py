"""Many rooms at once, as a synchrotron keeps them in memory: each statement reads all of the rooms.

All of it must come from one snapshot, so that the parts agree.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import asyncpg

from shared.core.heroes import ABSENT, MAX_HEROES, PRESENT, Member
from shared.core.identifiers import RoomId
from shared.storage.engine.pool import Source
from shared.storage.events.timeline import EVENT_COLUMNS, EVENT_JOINS, TimelineRow, timeline_row
from shared.storage.rooms.memberships import SummaryRecord
from shared.storage.rooms.state import KeyChange
from shared.storage.rooms.state_changes import HeldRow, StateChange
from shared.storage.user_data.receipts import ReceiptRecord

#: Uses rooms_room_id_key and events_room_nid_ordinal_key.
_ROOMS = """
    SELECT r.room_nid, r.room_id, r.room_version, coalesce(last.ordinal, 0) AS last_ordinal
    FROM rooms r LEFT JOIN LATERAL (
        SELECT ordinal FROM events WHERE room_nid = r.room_nid AND ordinal IS NOT NULL ORDER BY ordinal DESC LIMIT 1
    ) last ON true
    WHERE r.room_id = ANY($1::text[])
"""
#: Uses events_room_nid_ordinal_key: the latest live events of each room.
_TIMELINES = f"""
    SELECT {EVENT_COLUMNS}, e.room_nid FROM unnest($1::bigint[], $2::bigint[]) AS r(room_nid, last)
    CROSS JOIN LATERAL (
        SELECT event_nid FROM events
        WHERE room_nid = r.room_nid AND ordinal <= r.last AND status = 0 ORDER BY ordinal DESC LIMIT $3
    ) n JOIN events e ON e.room_nid = r.room_nid AND e.event_nid = n.event_nid {EVENT_JOINS}
    ORDER BY e.room_nid, e.ordinal
"""
#: Uses the primary keys of current_state and events. An event with the position of its key's last change is that
#: change. For others only the timeline tells since which ordinal they hold.
_HELD = f"""
    SELECT {EVENT_COLUMNS}, s.room_nid, s.type, s.state_key, CASE WHEN s.position = e.position THEN e.ordinal END
    FROM current_state s JOIN events e USING (room_nid, event_nid) {EVENT_JOINS}
"""
_STATES = f"{_HELD} WHERE s.room_nid = ANY($1) AND (s.type < 'm.room.member' OR s.type > 'm.room.member')"
_MEMBERS = f"{_HELD} WHERE s.room_nid = ANY($1) AND s.type = 'm.room.member'"
_SOME_MEMBERS = f"""
    SELECT {EVENT_COLUMNS}, s.room_nid, s.type, s.state_key, CASE WHEN s.position = e.position THEN e.ordinal END
    FROM unnest($1::bigint[], $2::text[]) AS k(room_nid, user_id)
    JOIN current_state s ON s.room_nid = k.room_nid AND s.type = 'm.room.member' AND s.state_key = k.user_id
    JOIN events e ON e.room_nid = s.room_nid AND e.event_nid = s.event_nid {EVENT_JOINS}
"""
#: Both use the primary key of state_changes; each room as it was before an ordinal.
_MEMBERS_BEFORE = f"""
    SELECT {EVENT_COLUMNS}, e.room_nid, 'm.room.member', s.state_key, s.ordinal
    FROM unnest($1::bigint[], $2::bigint[]) AS r(room_nid, before) CROSS JOIN LATERAL (
        SELECT DISTINCT ON (state_key) state_key, event_nid, ordinal FROM state_changes
        WHERE room_nid = r.room_nid AND type = 'm.room.member' AND ordinal < r.before
        ORDER BY state_key, ordinal DESC
    ) s JOIN events e ON e.room_nid = r.room_nid AND e.event_nid = s.event_nid {EVENT_JOINS}
"""
_SOME_MEMBERS_BEFORE = f"""
    SELECT {EVENT_COLUMNS}, e.room_nid, 'm.room.member', s.state_key, s.ordinal
    FROM unnest($1::bigint[], $2::bigint[], $3::text[]) AS r(room_nid, before, user_id) CROSS JOIN LATERAL (
        SELECT state_key, event_nid, ordinal FROM state_changes
        WHERE room_nid = r.room_nid AND type = 'm.room.member' AND state_key = r.user_id AND ordinal < r.before
        ORDER BY ordinal DESC LIMIT 1
    ) s JOIN events e ON e.room_nid = r.room_nid AND e.event_nid = s.event_nid {EVENT_JOINS}
"""
#: Uses state_changes_by_ordinal.
_CHANGES = """
    SELECT r.room_nid, c.ordinal, c.type, c.state_key, c.event_nid, c.prev_nid
    FROM unnest($1::bigint[], $2::bigint[]) AS r(room_nid, first) CROSS JOIN LATERAL (
        SELECT ordinal, type, state_key, event_nid, prev_nid FROM state_changes
        WHERE room_nid = r.room_nid AND ordinal >= r.first ORDER BY ordinal DESC LIMIT $3
    ) c
"""
#: Uses the primary key of state_changes.
_HISTORIES = """
    SELECT c.room_nid, c.ordinal, e.json FROM state_changes c LEFT JOIN events e USING (room_nid, event_nid)
    WHERE c.room_nid = ANY($1) AND c.type = $2 AND c.state_key = '' ORDER BY c.room_nid, c.ordinal
"""
#: All use the primary key of memberships.
_COUNTS = """
    SELECT room_nid, count(*) FILTER (WHERE membership = 'join'), count(*) FILTER (WHERE membership = 'invite'),
           count(*)
    FROM memberships WHERE room_nid = ANY($1) GROUP BY room_nid
"""
_FIRST_MEMBERS = f"""
    SELECT r.room_nid, m.user_id, m.membership, m.ordinal FROM unnest($1::bigint[]) AS r(room_nid)
    CROSS JOIN LATERAL (
        SELECT user_id, membership, ordinal FROM memberships
        WHERE room_nid = r.room_nid AND membership = ANY($2::text[]) ORDER BY ordinal LIMIT {MAX_HEROES + 1}
    ) m
"""
#: Uses the primary key of receipts.
_RECEIPTS = """
    SELECT room_nid, user_id, kind, thread_id, event_id, ts_ms, writer, position FROM receipts
    WHERE room_nid = ANY($1) ORDER BY position
"""


@dataclass(slots=True, kw_only=True)
class RoomForCache:
    """A room for a synchrotron's cache.

    timeline: the latest events, ascending.
    state: the current state, without m.room.member.
    members: the m.room.member events of the current state that were added.
    changes: the changes of the state from `timeline` on, latest first.
    visibility: every value of m.room.history_visibility.
    people: the number of users who have or had a membership.
    receipts: by position.
    """

    room_nid: int
    room_id: RoomId
    room_version: str
    last_ordinal: int
    timeline: list[TimelineRow] = field(default_factory=list)
    state: list[HeldRow] = field(default_factory=list)
    members: list[HeldRow] = field(default_factory=list)
    changes: list[StateChange] = field(default_factory=list)
    visibility: list[KeyChange] = field(default_factory=list)
    summary: SummaryRecord = field(default_factory=lambda: SummaryRecord(0, 0, ()))
    people: int = 0
    receipts: list[ReceiptRecord] = field(default_factory=list)


async def get_rooms_for_cache(
    source: Source, room_ids: Iterable[RoomId], *, max_events: int, max_changes: int
) -> list[RoomForCache]:
    """Return those of the rooms that exist, without members.

    Each has at most its latest `max_events` live events, and `max_changes` changes from the first of these on.
    """
    rooms = {row[0]: RoomForCache(**row) for row in await source.fetch(_ROOMS, list(room_ids))}
    nids = list(rooms)
    if not nids:
        return []
    lasts = [room.last_ordinal for room in rooms.values()]
    for row in await source.fetch(_TIMELINES, nids, lasts, max_events):
        rooms[row["room_nid"]].timeline.append(timeline_row(row))
    await _add_state(source, rooms, _STATES)
    firsts = [room.timeline[0].ordinal if len(room.timeline) == max_events else 1 for room in rooms.values()]
    for nid, *change in await source.fetch(_CHANGES, nids, firsts, max_changes):
        rooms[nid].changes.append(StateChange(*change))
    for nid, ordinal, json in await source.fetch(_HISTORIES, nids, "m.room.history_visibility"):
        rooms[nid].visibility.append(KeyChange(ordinal, json))
    await _add_summaries(source, rooms)
    for nid, *receipt in await source.fetch(_RECEIPTS, nids):
        rooms[nid].receipts.append(ReceiptRecord(*receipt))
    return list(rooms.values())


async def add_all_members(source: Source, rooms: Sequence[RoomForCache]) -> None:
    """Add all m.room.member events of the rooms' current state."""
    by_nid = {room.room_nid: room for room in rooms}
    for row in await source.fetch(_MEMBERS, list(by_nid)):
        by_nid[row["room_nid"]].members.append(_held(tuple(row)))


async def add_members(source: Source, wanted: Sequence[tuple[RoomForCache, str]]) -> None:
    """Add the m.room.member events of these users, each in a room, from the current state."""
    by_nid = {room.room_nid: room for room, _ in wanted}
    nids, users = [room.room_nid for room, _ in wanted], [user_id for _, user_id in wanted]
    for row in await source.fetch(_SOME_MEMBERS, nids, users):
        by_nid[row["room_nid"]].members.append(_held(tuple(row)))


async def get_members_before_ordinals(source: Source, places: Mapping[int, int]) -> dict[int, list[HeldRow]]:
    """Return the m.room.member events of rooms, by room number, each room in its state before an ordinal."""
    rows = await source.fetch(_MEMBERS_BEFORE, list(places), list(places.values()))
    return _by_room(places, rows)


async def get_some_members_before_ordinals(
    source: Source, wanted: Sequence[tuple[int, int, str]]
) -> dict[int, list[HeldRow]]:
    """Return the m.room.member events of users, by room number. wanted: (room number, ordinal, user).

    Each is the user's event in the room's state before the ordinal.
    """
    users = [user_id for *_, user_id in wanted]
    nids, places = [nid for nid, *_ in wanted], [place for _, place, _ in wanted]
    return _by_room(nids, await source.fetch(_SOME_MEMBERS_BEFORE, nids, places, users))


def _by_room(nids: Iterable[int], rows: Iterable[asyncpg.Record]) -> dict[int, list[HeldRow]]:
    found: dict[int, list[HeldRow]] = {nid: [] for nid in nids}
    for row in rows:
        found[row["room_nid"]].append(_held(tuple(row)))
    return found


async def _add_state(source: Source, rooms: Mapping[int, RoomForCache], sql: str) -> None:
    for row in await source.fetch(sql, list(rooms)):
        rooms[row["room_nid"]].state.append(_held(tuple(row)))


async def _add_summaries(source: Source, rooms: Mapping[int, RoomForCache]) -> None:
    """Add the rooms' summaries. Spec: client-server API, GET /sync, RoomSummary."""
    first: dict[int, list[Member]] = {nid: [] for nid in rooms}
    counts: dict[int, tuple[int, int]] = {}
    for nid, joined, invited, people in await source.fetch(_COUNTS, list(rooms)):
        counts[nid], rooms[nid].people = (joined, invited), people
    for nid, *member in await source.fetch(_FIRST_MEMBERS, list(rooms), PRESENT):
        first[nid].append(Member(*member))
    alone = [nid for nid in rooms if sum(counts.get(nid, (0, 0))) <= 1]  # perhaps the reader
    if alone:
        for nid, *member in await source.fetch(_FIRST_MEMBERS, alone, ABSENT):
            first[nid].append(Member(*member))
    for nid, room in rooms.items():
        room.summary = SummaryRecord(*counts.get(nid, (0, 0)), tuple(first[nid]))


def _held(values: tuple[object, ...]) -> HeldRow:
    """Return what a key holds. values: EVENT_COLUMNS, then room number, type, state key and `since`."""
    columns = len(TimelineRow._fields)
    _, kind, key, since = values[columns : columns + 4]
    assert isinstance(kind, str) and isinstance(key, str) and (since is None or isinstance(since, int))
    return HeldRow(kind, key, since, TimelineRow._make(values[:columns]))
