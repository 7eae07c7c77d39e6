"""The calls to owners of rooms. All but `RECEIVE_EVENTS` may be repeated at any time."""

import msgspec

from replication.calls.received_events import GivenState, GivenStateAnswer, ReceiveAnswer, ReceiveRequest
from shared.core.identifiers import EventId, UserId
from shared.http.internal_calls import Empty, OwnerCall


class MemberProfileChange(msgspec.Struct, frozen=True):
    """A user whose profile changed. The owner reads the stored profile, so the order of changes does not matter."""

    user_id: UserId


class MemberProfileAnswer(msgspec.Struct, frozen=True):
    """event_id: the new membership event, None if nothing had to change."""

    event_id: EventId | None = None


#: Bring the stored profile of a user into their membership of a room.
SET_MEMBER_PROFILE = OwnerCall(
    name="set_member_profile",
    path="/_skep/rooms/{roomId}/member_profile",
    pool="rooms",
    takes=MemberProfileChange,
    returns=MemberProfileAnswer,
)


class AliasToRemove(msgspec.Struct, frozen=True):
    """An alias that a user deletes."""

    user_id: UserId
    alias: str


class AliasRemoved(msgspec.Struct, frozen=True):
    """event_id: the new m.room.canonical_alias, None if it did not name the alias or the user may not set it."""

    event_id: EventId | None = None


#: Remove an alias from the canonical and alternative aliases of a room.
REMOVE_CANONICAL_ALIAS = OwnerCall(
    name="remove_canonical_alias",
    path="/_skep/rooms/{roomId}/canonical_alias",
    pool="rooms",
    takes=AliasToRemove,
    returns=AliasRemoved,
)


class DelayedEventToSend(msgspec.Struct, frozen=True, kw_only=True):
    """A delayed event that is due, or that its sender wants to send now."""

    delay_id: str
    sender: UserId
    type: str
    state_key: str | None
    #: The JSON.
    content: msgspec.Raw
    sticky_ms: int | None = None
    #: A former call may have sent it. The answer is then that event.
    again: bool = False


class DelayedEventAnswer(msgspec.Struct, frozen=True):
    """The event id, or why the event cannot be sent now: the status and the standard error response."""

    event_id: EventId | None = None
    status: int = 200
    error: msgspec.Raw = msgspec.Raw(b"{}")


#: Send a delayed event, once however often the call is repeated.
SEND_DELAYED_EVENT = OwnerCall(
    name="send_delayed_event",
    path="/_skep/rooms/{roomId}/delayed_event",
    pool="rooms",
    takes=DelayedEventToSend,
    returns=DelayedEventAnswer,
)


class SuccessorAnswer(msgspec.Struct, frozen=True):
    """refused: why the new room of an upgrade can never be made, None if it is complete."""

    refused: str | None = None


#: Complete the new room of an upgrade.
COMPLETE_SUCCESSOR = OwnerCall(
    name="complete_successor",
    path="/_skep/rooms/{roomId}/successor",
    pool="rooms",
    takes=Empty,
    returns=SuccessorAnswer,
)

#: Continue the upgrade of a room, if one is under way.
RESUME_UPGRADE = OwnerCall(
    name="resume_upgrade", path="/_skep/rooms/{roomId}/upgrade", pool="rooms", takes=Empty, returns=Empty
)

#: Remove the guests of a room that no longer admits guests.
REMOVE_GUESTS = OwnerCall(
    name="remove_guests", path="/_skep/rooms/{roomId}/guests", pool="rooms", takes=Empty, returns=Empty
)


class MemberLeaving(msgspec.Struct, frozen=True):
    """A user of ours whose account was closed. They leave, reject an invite or take back a knock."""

    user_id: UserId


#: Let the user of a closed account leave a room.
LEAVE_CLOSED_ACCOUNT = OwnerCall(
    name="leave_closed_account",
    path="/_skep/rooms/{roomId}/leave",
    pool="rooms",
    takes=MemberLeaving,
    returns=Empty,
)

#: Store a whole state that another server names, once, for the events that follow it. The body holds the ids of the
#: state of a room with some hundred thousand members.
GIVE_STATE = OwnerCall(
    name="give_state",
    path="/_skep/rooms/{roomId}/given_state",
    pool="rooms",
    takes=GivenState,
    returns=GivenStateAnswer,
    body_limit_bytes=32 << 20,
)

#: Store events of other servers. The body holds 200 events of 64 KiB each.
RECEIVE_EVENTS = OwnerCall(
    name="receive_events",
    path="/_skep/rooms/{roomId}/receive",
    pool="rooms",
    takes=ReceiveRequest,
    returns=ReceiveAnswer,
    method="POST",
    body_limit_bytes=32 << 20,
)
