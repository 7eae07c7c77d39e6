"""Reads of a room's state for one user. They alone read it for answers to clients: they know about erased senders.

The cached rooms of /sync have `workers/synchrotron/sections/erased_senders.py`. What non-members see of a room is in
`room_facts.py`.
"""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from shared.core.history_point import HistoryPoint
from shared.core.identifiers import UserId
from shared.rooms.erased_events import erased_in, strip_erased, strip_state
from shared.rooms.room_view import RoomView
from shared.rooms.timeline_event import MEMBER, TimelineEvent
from shared.storage.engine.pool import Database
from shared.storage.events.timeline import TimelineRow, get_events_by_nid, get_events_from
from shared.storage.rooms.snapshots import get_keys_at_snapshots, get_state_at_event, get_state_at_snapshot
from shared.storage.rooms.state import (
    get_current_keys,
    get_current_state_events,
    get_joined_members,
    get_keys_before,
    get_member_pages,
    get_state_before,
)


@dataclass(frozen=True, slots=True)
class StateForms:
    """The forms in which the user gets the state's events. erased: user id -> time of erasure (ms)."""

    room: RoomView
    erased: Mapping[UserId, int]

    def event(self, row: TimelineRow) -> TimelineEvent:
        """Return the event of a row, stripped if the user may see it in redacted form only."""
        return strip_state(self.room, self.erased, self.room.event(row))


async def state_forms(database: Database, room: RoomView) -> StateForms:
    """Return the forms of state events at this moment."""
    return StateForms(room, await erased_in(database, room))


async def state_rows(database: Database, room: RoomView, *, members: bool = True) -> Sequence[TimelineRow]:
    """Return the room's state as the user may see it: the current one, or that at the end of their view.

    The rows become events with `StateForms.event`, a few at a time. members: False to leave m.room.member out.
    """
    if room.follows:
        return await get_current_state_events(database, room.room_nid, members=members)
    return await get_state_before(database, room.room_nid, room.end + 1, members=members)


async def state_events(
    database: Database, room: RoomView, keys: Sequence[tuple[str, str]], *, before: int | None = None
) -> list[TimelineEvent]:
    """Return the events of these (type, state key) pairs, as the user gets them.

    before: in the state before this ordinal. None: in the state as `state_rows` has it.
    """
    if before is None and room.follows:
        rows = await get_current_keys(database, room.room_nid, keys)
    else:
        rows = await get_keys_before(database, room.room_nid, room.end + 1 if before is None else before, keys)
    return list(await strip_erased(database, room, [room.event(row) for row in rows]))


async def senders_members(
    database: Database, room: RoomView, events: Sequence[TimelineEvent]
) -> Sequence[TimelineEvent]:
    """Return the member events of the senders of some events, as of the latest of the events."""
    return await strip_erased(database, room, await _senders(database, room, events))


async def state_after(
    database: Database, room: RoomView, last: TimelineEvent, events: Sequence[TimelineEvent], *, lazy: bool
) -> Sequence[TimelineEvent]:
    """Return the state after an event. lazy: its members are the senders of `events` only."""
    if last.state_nid is None and not last.back and last.ordinal >= room.record.last_ordinal:
        rows = await get_current_state_events(database, room.room_nid, members=not lazy)
    else:
        rows = await get_state_at_event(database, room.room_nid, last.ordinal, last.state_nid)
    state = {event.key: event for event in map(room.event, rows)}
    if last.key is not None:
        state[last.key] = last
    found = list(state.values())
    if lazy:
        found = [each for each in found if each.type != MEMBER] + await _senders(database, room, events)
    return await strip_erased(database, room, found)


async def members_at(
    database: Database, room: RoomView, point: HistoryPoint, size: int
) -> AsyncGenerator[Sequence[TimelineRow], None]:
    """Yield the member events of the state at a point. An event of fetched history has a state of its own."""
    if point.step and not point.starts_gap:
        found = await get_events_from(database, room.room_nid, point, 1)
        if found and found[0].point == point and found[0].state_nid is not None:
            state = await get_state_at_snapshot(database, room.room_nid, found[0].state_nid)
            yield [row for row in state if room.event(row).type == MEMBER]
            return
    async with aclosing(get_member_pages(database, room.room_nid, point.ordinal, size)) as pages:
        async for page in pages:
            yield page


async def joined_members(database: Database, room: RoomView) -> Sequence[tuple[UserId, bytes | None]]:
    """Return (user id, PDU of the member event) of all users who are joined now.

    None: the user has no profile here, since they were erased or the event was redacted.
    """
    members = await get_joined_members(database, room.room_nid)
    erased = await erased_in(database, room)
    return [(UserId(user_id), None if user_id in erased else json) for user_id, json in members]


async def _senders(database: Database, room: RoomView, events: Sequence[TimelineEvent]) -> list[TimelineEvent]:
    latest = max(events, key=lambda event: event.point)
    keys = [(MEMBER, sender) for sender in dict.fromkeys(event.sender for event in events)]
    # The room's line has a member event of nearly every sender. On a branch, the snapshot has the right ones.
    rows = await get_keys_before(database, room.room_nid, latest.ordinal + 1, keys)
    members = {event.key: event for event in map(room.event, rows)}
    if latest.state_nid is not None:
        held = await get_keys_at_snapshots(database, room.room_nid, [latest.state_nid], keys)
        rows = await get_events_by_nid(database, room.room_nid, list(held[latest.state_nid].values()))
        members |= {event.key: event for event in map(room.event, rows)}
        if latest.key in members:
            members[latest.key] = latest
    return list(members.values())
