"""A room as one user may read it: their membership, and the part of the timeline that they may see.

It is read from Postgres. These requests carry no token, so caches that follow the streams may lack what the user has
been told already.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from shared.core.errors import forbidden, not_found
from shared.core.history_point import START, HistoryPoint, point_after
from shared.core.identifiers import EventId, RoomId, UserId
from shared.core.room_versions import RoomVersion, get_room_version
from shared.rooms.state_history import history, joined_by
from shared.rooms.timeline_event import HISTORY_VISIBILITY, MEMBER, TimelineEvent, event_from_row
from shared.rooms.viewpoint import BranchState, History, Viewpoint
from shared.storage.engine.pool import Database
from shared.storage.events.timeline import RoomRecord, TimelineRow, get_events_by_nid, get_timeline_event
from shared.storage.rooms.for_reader import get_room_for_reader
from shared.storage.rooms.snapshots import get_keys_at_snapshots
from shared.storage.rooms.state import KeyChange

#: The start of a room that has live events only.
_FIRST_LIVE = HistoryPoint(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomView:
    """A room as one user may read it."""

    record: RoomRecord
    version: RoomVersion
    view: Viewpoint
    is_member: bool  # True if the user is joined now
    follows: bool  # True if the view has no end, so that the current state is the user's state
    end: int  # the last ordinal in the view: the end of the room, or the point where the user left
    own_changes: Sequence[KeyChange]  # of the user's membership
    ignored: frozenset[UserId] = frozenset()  # users whose messages the user ignores

    @property
    def start_point(self) -> HistoryPoint:
        """The point before the first event that the room may have."""
        return _FIRST_LIVE if self.record.last_anchor is None else START

    @property
    def end_point(self) -> HistoryPoint:
        """The point after the last event in the view."""
        return point_after(HistoryPoint(self.end))

    @property
    def room_nid(self) -> int:
        return self.record.room_nid

    @property
    def room_id(self) -> RoomId:
        return self.record.room_id

    def event(self, row: TimelineRow) -> TimelineEvent:
        return event_from_row(self.version, row)

    def shows(self, event: TimelineEvent) -> bool:
        """Return True for events to list: those that the user may see, from senders that they do not ignore.

        Spec: client-server API, "Ignoring Users".
        """
        return not (event.sender in self.ignored and event.state_key is None) and self.view.may_see(event)

    def joined_by(self, ordinal: int, time_ms: int) -> bool:
        """Return True if the user joined at an ordinal or later, but not after that time."""
        return joined_by(self.version, self.own_changes, ordinal, time_ms)


async def open_room(database: Database, room_id: RoomId, user_id: UserId) -> RoomView:
    """Return the room for a member, a former member, or anybody while it is world-readable.

    Raises M_FORBIDDEN for everyone else, and for rooms that do not exist or that the user has forgotten.
    """
    found = await get_room_for_reader(database, room_id, user_id)
    if found is None:
        raise forbidden("You aren't a member of the room")
    record, ignored = found.record, found.ignored
    visibility = history(found.visibility, "history_visibility")
    own_changes = found.own_changes if found.membership is not None else ()
    memberships = history(own_changes, "membership")
    is_member = bool(memberships) and memberships[-1][1] == "join"
    world_readable = bool(visibility) and visibility[-1][1] == "world_readable"
    end: int | None = None
    if not (is_member or world_readable):
        end = last_left(memberships)
        if end is None or found.membership is None or found.forgotten:
            raise forbidden("You aren't a member of the room")
    return RoomView(
        record=record,
        version=get_room_version(record.room_version),
        view=Viewpoint(
            user_id,
            visibility,
            memberships,
            joined_throughout_from=memberships[-1][0] if is_member else None,
            end=end,
        ),
        is_member=is_member,
        follows=end is None,
        end=record.last_ordinal if end is None else end,
        own_changes=own_changes,
        ignored=ignored,
    )


async def get_visible_event(database: Database, room: RoomView, event_id: EventId) -> TimelineEvent:
    """Return one event of the room. Raises M_NOT_FOUND if the user may not see it, or if there is none."""
    row = await get_timeline_event(database, room.room_nid, event_id)
    if row is not None:
        await load_branches(database, room, [row])
    event = None if row is None else room.event(row)
    if event is None or not room.view.may_see(event):
        raise not_found("There is no such event")
    return event


class _WithState(Protocol):
    @property
    def state_nid(self) -> int | None: ...


async def load_branches(database: Database, room: RoomView, rows: Sequence[_WithState]) -> None:
    """Load the visibility and the user's membership before those of these events that have a state snapshot."""
    missing = {row.state_nid for row in rows if row.state_nid is not None} - room.view.branches.keys()
    if not missing:
        return
    visibility, own = (HISTORY_VISIBILITY, ""), (MEMBER, room.view.user_id)
    held = await get_keys_at_snapshots(database, room.room_nid, missing, [visibility, own])
    nids = {nid for keys in held.values() for nid in keys.values()}
    events = {row.event_nid: room.event(row) for row in await get_events_by_nid(database, room.room_nid, list(nids))}
    for snapshot, keys in held.items():
        setting, member = events.get(keys.get(visibility, 0)), events.get(keys.get(own, 0))
        room.view.branches[snapshot] = BranchState(
            None if setting is None else setting.visibility, None if member is None else member.membership
        )


def last_left(memberships: History) -> int | None:
    """Return the ordinal at which the user last left the room; None if they never were joined."""
    left_at = None
    previous = ""
    for ordinal, membership in memberships:
        if previous == "join" and membership != "join":
            left_at = ordinal
        previous = membership
    return left_at
