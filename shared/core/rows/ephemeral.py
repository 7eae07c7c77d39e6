"""The rows of the streams `typing` and `presence`."""

import msgspec

from shared.core.identifiers import RoomId, UserId


class TypingRow(msgspec.Struct, array_like=True, frozen=True, gc=False, kw_only=True):
    """The typing state of a user in a room."""

    position: int
    writer: int
    room_id: RoomId
    user_id: UserId
    #: The time at which typing ends without a further row. 0: the user stopped.
    until_ms: int


class PresenceRow(msgspec.Struct, array_like=True, frozen=True, gc=False, kw_only=True):
    """The whole presence of a user, with the part of their profile that goes into m.presence events."""

    position: int
    writer: int
    user_id: UserId
    #: online, unavailable or offline.
    state: str
    #: 0 if unknown.
    last_active_ms: int
    currently_active: bool = False
    status_msg: str | None = None
    displayname: str | None = None
    avatar_url: str | None = None
