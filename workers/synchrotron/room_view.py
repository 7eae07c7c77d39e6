"""Opening a room for one user who reads it: what he is there, and how far his view reaches. From Postgres' truth.

These reads carry no token, so memory that follows the streams might not have what the user was just told; the
database has.
"""

from dataclasses import dataclass

from shared.core.errors import forbidden
from shared.core.room_versions import RoomVersion, get_room_version
from shared.storage.pool import Database
from shared.storage.read_memberships import get_membership
from shared.storage.read_state import get_key_history
from shared.storage.read_timeline import RoomRecord, TimelineRow, get_room
from workers.synchrotron.room_cache import history
from workers.synchrotron.timeline_event import HISTORY_VISIBILITY, MEMBER, TimelineEvent, event_from_row
from workers.synchrotron.viewpoint import History, Viewpoint


@dataclass(frozen=True, slots=True)
class RoomView:
    """A room as one user may read it.

    end: the ordinal of the last place that is his: the room's end, or where he left. is_member: joined now.
    follows: his view goes to the room's end, so that its current state is his state.
    """

    record: RoomRecord
    version: RoomVersion
    view: Viewpoint
    is_member: bool
    follows: bool
    end: int

    @property
    def room_nid(self) -> int:
        return self.record.room_nid

    @property
    def room_id(self) -> str:
        return self.record.room_id

    def event(self, row: TimelineRow) -> TimelineEvent:
        return event_from_row(self.version, row)


async def open_room(database: Database, room_id: str, user_id: str) -> RoomView:
    """Return the room for a member, for whoever was one, or for anybody while it is world readable.

    Raises M_FORBIDDEN for everyone else, and for rooms that do not exist or that the user forgot.
    """
    record = await get_room(database, room_id)
    if record is None:
        raise forbidden("You aren't a member of the room")
    membership = await get_membership(database, record.room_nid, user_id)
    visibility = history(await get_key_history(database, record.room_nid, HISTORY_VISIBILITY, ""), "history_visibility")
    memberships: History = ()
    if membership is not None:
        memberships = history(await get_key_history(database, record.room_nid, MEMBER, user_id), "membership")
    is_member = bool(memberships) and memberships[-1][1] == "join"
    world_readable = bool(visibility) and visibility[-1][1] == "world_readable"
    version = get_room_version(record.room_version)
    if is_member or world_readable:
        view = Viewpoint(
            user_id, visibility, memberships,
            joined_throughout_from=memberships[-1][0] if is_member else None,
        )  # fmt: skip
        return RoomView(record, version, view, is_member, True, record.last_ordinal)
    left_at = last_left(memberships)
    if left_at is None or membership is None or membership.forgotten:
        raise forbidden("You aren't a member of the room")
    view = Viewpoint(user_id, visibility, memberships, end=left_at)
    return RoomView(record, version, view, False, False, left_at)


def last_left(memberships: History) -> int | None:
    """PURE: return the ordinal at which the user's last time in the room ended; None when he never was joined."""
    left_at = None
    previous = ""
    for ordinal, membership in memberships:
        if previous == "join" and membership != "join":
            left_at = ordinal
        previous = membership
    return left_at
