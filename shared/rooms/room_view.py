"""Opening a room for one user who reads it: what he is there, and how far his view reaches. From Postgres' truth.

These reads carry no token, so memory that follows the streams might not have what the user was just told; the
database has.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from shared.core.errors import forbidden, not_found
from shared.core.history_point import START, HistoryPoint, point_after
from shared.core.room_versions import RoomVersion, get_room_version
from shared.rooms.state_history import history, joined_by
from shared.rooms.timeline_event import HISTORY_VISIBILITY, MEMBER, TimelineEvent, event_from_row
from shared.rooms.viewpoint import BranchState, History, Viewpoint
from shared.storage.engine.pool import Database
from shared.storage.events.timeline import RoomRecord, TimelineRow, get_events_by_nid, get_timeline_event
from shared.storage.rooms.for_reader import get_room_for_reader
from shared.storage.rooms.snapshots import get_keys_at_snapshots
from shared.storage.rooms.state import KeyChange

#: Before everything in a room all of which is live.
_FIRST_LIVE = HistoryPoint(1)


@dataclass(frozen=True, slots=True)
class RoomView:
    """A room as one user may read it.

    end: the ordinal of the last place that is his: the room's end, or where he left. is_member: joined now.
    follows: his view goes to the room's end, so that its current state is his state. own_changes: of his membership.
    ignored: whose messages he does not want.
    """

    record: RoomRecord
    version: RoomVersion
    view: Viewpoint
    is_member: bool
    follows: bool
    end: int
    own_changes: Sequence[KeyChange]
    ignored: frozenset[str] = frozenset()

    @property
    def start_place(self) -> HistoryPoint:
        """Before everything that there may be."""
        return _FIRST_LIVE if self.record.last_anchor is None else START

    @property
    def end_place(self) -> HistoryPoint:
        """Behind everything that is his."""
        return point_after(HistoryPoint(self.end))

    @property
    def room_nid(self) -> int:
        return self.record.room_nid

    @property
    def room_id(self) -> str:
        return self.record.room_id

    def event(self, row: TimelineRow) -> TimelineEvent:
        return event_from_row(self.version, row)

    def shows(self, event: TimelineEvent) -> bool:
        """Return whether he may and wants to see the event among others. Spec: "Ignoring Users"."""
        return not (event.sender in self.ignored and event.state_key is None) and self.view.may_see(event)

    def joined_by(self, ordinal: int, time_ms: int) -> bool:
        """Return whether he joined at an ordinal or later, and not after that time."""
        return joined_by(self.version, self.own_changes, ordinal, time_ms)


async def open_room(database: Database, room_id: str, user_id: str) -> RoomView:
    """Return the room for a member, for whoever was one, or for anybody while it is world readable.

    Raises M_FORBIDDEN for everyone else, and for rooms that do not exist or that the user forgot.
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
    version = get_room_version(record.room_version)
    if is_member or world_readable:
        view = Viewpoint(
            user_id, visibility, memberships,
            joined_throughout_from=memberships[-1][0] if is_member else None,
        )  # fmt: skip
        return RoomView(record, version, view, is_member, True, record.last_ordinal, own_changes, ignored)
    left_at = last_left(memberships)
    if left_at is None or found.membership is None or found.forgotten:
        raise forbidden("You aren't a member of the room")
    view = Viewpoint(user_id, visibility, memberships, end=left_at)
    return RoomView(record, version, view, False, False, left_at, own_changes, ignored)


async def get_visible_event(database: Database, room: RoomView, event_id: str) -> TimelineEvent:
    """Return one event of the room. Raises M_NOT_FOUND for one that isn't there or that the user may not see."""
    row = await get_timeline_event(database, room.room_nid, event_id)
    if row is not None:
        await load_branches(database, room, [row])
    event = None if row is None else room.event(row)
    if event is None or not room.view.may_see(event):
        raise not_found("There is no such event")
    return event


class _OfState(Protocol):
    @property
    def state_nid(self) -> int | None: ...


async def load_branches(database: Database, room: RoomView, rows: Sequence[_OfState]) -> None:
    """Look up what decides in the states before those of these events that have states of their own."""
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
    """PURE: return the ordinal at which the user's last time in the room ended; None when he never was joined."""
    left_at = None
    previous = ""
    for ordinal, membership in memberships:
        if previous == "join" and membership != "join":
            left_at = ordinal
        previous = membership
    return left_at
