"""The rows of the streams `account_data`, `push_rules`, `sessions`, `receipts` and `thread_subscriptions`."""

from typing import Final

import msgspec

from shared.core.identifiers import EventId, RoomId, UserId

#: Stands for the room in global account data.
GLOBAL: Final = RoomId("")


class AccountDataRow(msgspec.Struct, array_like=True, frozen=True, gc=False, kw_only=True):
    """The current content of one type of account data."""

    position: int
    writer: int
    user_id: UserId
    #: Perhaps GLOBAL.
    room_id: RoomId
    type: str
    #: None: deleted.
    json: bytes | None


class PushRulesRow(msgspec.Struct, array_like=True, frozen=True, gc=False, kw_only=True):
    """The current push rules and ignore list of a user."""

    position: int
    writer: int
    user_id: UserId
    #: Changes to the default push rules, in the form of `shared/core/push_rules/changes.py`.
    rules: bytes = b""
    #: The users in m.ignored_user_list.
    ignored: tuple[UserId, ...] = ()


class SessionRow(msgspec.Struct, array_like=True, frozen=True, gc=False, kw_only=True):
    """A change of access tokens: caches drop the tokens of this device and look them up again."""

    position: int
    writer: int
    user_id: UserId
    #: None: all devices of the user.
    device_id: str | None


class ReceiptRow(msgspec.Struct, array_like=True, frozen=True, gc=False, kw_only=True):
    """The latest receipt of one kind of a user in a room or thread."""

    position: int
    writer: int
    room_nid: int
    room_id: RoomId
    user_id: UserId
    #: m.read or m.read.private.
    kind: str
    #: "" for an unthreaded receipt.
    thread_id: str
    event_id: EventId
    ordinal: int
    ts_ms: int


class ThreadSubscriptionRow(msgspec.Struct, array_like=True, frozen=True, gc=False, kw_only=True):
    """The current subscription of a user to a thread."""

    position: int
    writer: int
    user_id: UserId
    room_nid: int
    room_id: RoomId
    #: The event id of the thread's root.
    thread_id: str
    subscribed: bool
    automatic: bool
