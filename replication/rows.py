"""The rows of each stream, as they travel in frames and come out of the catch-up queries: the same fields both ways.

Fields are only ever added, at the end and with a default: readers ignore what they do not know.
"""

from typing import TypeAlias

import msgspec

#: (ordinal, thread_id, what it had counted for groups, for users)
PushRedacted: TypeAlias = tuple[int, str, tuple[tuple[int, int, int], ...], tuple[tuple[str, int, int], ...]]


class EventRow(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One live timeline event, with its JSON, so that a new message costs a reader no query.

    status: 0 accepted, 1 soft-failed, 2 rejected. replaces_nid: the state event that it replaced in the current
    state; a state event with status 0 *is* the current state of its key from here on, unless it is `resolved`.
    txn_device, txn_id: shown in `unsigned` to that device of the sender only. json: the PDU, canonical.
    prior_writer, prior_position: the room's preceding event, when another writer wrote it; a reader that has not seen
    that one must repair first (evidence 4). redacts_nid: the event that this redaction applies to.
    resolved: it changed the state otherwise than by becoming the state of its key (state resolution decided): what
    changed is in `state_changes` at its ordinal. gap: when it came, events before it were missing.
    members: of a resolved row, the memberships that changed: (user id, membership, event_nid, sender of that event).

    What it counts (architecture page, section 6): thread_id: the thread in which it does, "" the main timeline.
    push: the groups that it notified, with their running totals in that thread after it: (group, notifies,
    highlights); push_users: what it counts for single users beside their group: (user id, notifies, highlights), each
    -1, 0 or 1, also of an event that was redacted since; push_groups: (user id, group) in which users are from this
    event on; push_redacted: what this redaction took back: (ordinal, thread_id, ((group, notifies, highlights), ...),
    ((user id, notifies, highlights), ...)), all of it as that event had counted it. An event that several redactions
    name is taken back by the first.
    """

    position: int
    writer: int
    room_nid: int
    room_id: str
    room_version: str
    event_nid: int
    event_id: str
    ordinal: int
    type: str
    state_key: str | None
    sender: str
    origin_server_ts: int
    status: int
    replaces_nid: int | None
    redacted_by: int | None
    txn_device: str | None
    txn_id: str | None
    json: bytes
    prior_writer: int | None = None
    prior_position: int | None = None
    redacts_nid: int | None = None
    resolved: bool = False
    gap: bool = False
    members: tuple[tuple[str, str, int, str], ...] = ()
    thread_id: str = ""
    push: tuple[tuple[int, int, int], ...] = ()
    push_users: tuple[tuple[str, int, int], ...] = ()
    push_groups: tuple[tuple[str, int], ...] = ()
    push_redacted: tuple[PushRedacted, ...] = ()


class ReceiptRow(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """kind: m.read or m.read.private; thread_id "" for an unthreaded receipt."""

    position: int
    writer: int
    room_nid: int
    room_id: str
    user_id: str
    kind: str
    thread_id: str
    event_id: str
    ordinal: int
    ts_ms: int


class AccountDataRow(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """room_id "" is global; json None: deleted."""

    position: int
    writer: int
    user_id: str
    room_id: str
    type: str
    json: bytes | None


class PushRulesRow(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What the user now has. rules: his changes of the default push rules, `shared/core/push_rules/changes.py`;
    ignored: the users of his m.ignored_user_list.
    """

    position: int
    writer: int
    user_id: str
    rules: bytes = b""
    ignored: tuple[str, ...] = ()


class SessionRow(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What was known of this device's tokens (device_id None: all of the user's) must be asked again."""

    position: int
    writer: int
    user_id: str
    device_id: str | None


class ToDeviceRow(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A message is in this device's inbox. prior_writer, prior_position: the message that its sending device sent
    before this one, when another writer wrote it: a reader that has not seen that one must repair first.
    """

    position: int
    writer: int
    user_id: str
    device_id: str
    prior_writer: int | None = None
    prior_position: int | None = None


class DeviceListRow(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """The user's devices, or their identity keys, are others than before."""

    position: int
    writer: int
    user_id: str


class OneTimeKeyRow(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One-time or fallback keys of this device were uploaded or claimed."""

    position: int
    writer: int
    user_id: str
    device_id: str


class ThreadSubscriptionRow(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """How a user's subscription to a thread stands. thread_id: event id of its root."""

    position: int
    writer: int
    user_id: str
    room_nid: int
    room_id: str
    thread_id: str
    subscribed: bool
    automatic: bool


class TypingRow(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """until_ms: when the user stops typing unless told otherwise; 0: has stopped."""

    position: int
    writer: int
    room_id: str
    user_id: str
    until_ms: int


class PresenceRow(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """How one user is present, whole. state: online, unavailable, offline; last_active_ms: 0 where it isn't known."""

    position: int
    writer: int
    user_id: str
    state: str
    last_active_ms: int
    currently_active: bool = False
    status_msg: str | None = None
