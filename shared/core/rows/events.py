"""The rows of the stream `events`."""

from typing import Final, TypeAlias

import msgspec

from shared.core.identifiers import EventId, RoomId, UserId

#: What an event had counted before a redaction took it back: (ordinal of the event, thread_id, groups, users).
#: groups: (group, notifies, highlights). users: (user id, notifies, highlights).
PushRedacted: TypeAlias = tuple[int, str, tuple[tuple[int, int, int], ...], tuple[tuple[str, int, int], ...]]

#: The `txn_device` of events that the server sends in a local user's name without a request of theirs: delayed events
#: (their `txn_id` is the delay id) and memberships after a profile change. The user has read nothing by them.
NO_DEVICE: Final = ""


class EventRow(msgspec.Struct, array_like=True, frozen=True, gc=False, kw_only=True):
    """One live timeline event with its JSON, so that a reader needs no query for a new message.

    A state event with status 0 is the current state of its key from here on, unless the row is `resolved`.
    Unread counts: architecture page, section 6.
    """

    position: int
    writer: int
    room_nid: int
    room_id: RoomId
    room_version: str
    event_nid: int
    event_id: EventId
    ordinal: int
    type: str
    state_key: str | None
    sender: UserId
    origin_server_ts: int
    #: 0 accepted, 1 soft-failed, 2 rejected.
    status: int
    #: The state event that this one replaced in the current state.
    replaces_nid: int | None
    redacted_by: int | None
    #: The transaction id goes into `unsigned`, for this device of the sender only. See `NO_DEVICE`.
    txn_device: str | None
    txn_id: str | None
    #: The PDU as canonical JSON.
    json: bytes
    #: The room's previous event, when another writer wrote it. A reader that lacks it must repair first (evidence 4).
    prior_writer: int | None = None
    prior_position: int | None = None
    #: The event that this redaction applies to.
    redacts_nid: int | None = None
    #: State resolution decided the new state. `state_changes` has the changes at this ordinal.
    resolved: bool = False
    #: Events before this one were missing when it arrived.
    gap: bool = False
    #: Memberships that a resolved row changed: (user id, membership, event_nid, sender of that event).
    members: tuple[tuple[UserId, str, int, UserId], ...] = ()
    #: The thread in which the event counts, "" for the main timeline.
    thread_id: str = ""
    #: The groups that the event notified, with their running totals in that thread after it:
    #: (group, notifies, highlights).
    push: tuple[tuple[int, int, int], ...] = ()
    #: What the event counts for single users on top of their group: (user id, notifies, highlights), each -1, 0 or 1.
    #: It stays when the event is redacted later.
    push_users: tuple[tuple[str, int, int], ...] = ()
    #: The group of each of these users from this event on: (user id, group).
    push_groups: tuple[tuple[str, int], ...] = ()
    #: What this redaction took back. The first redaction of an event takes back its counts.
    push_redacted: tuple[PushRedacted, ...] = ()
    #: The row names too many memberships to be sent: readers read it from Postgres. Never True there.
    is_unsent: bool = False
