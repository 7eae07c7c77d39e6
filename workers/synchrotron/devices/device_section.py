"""The device part of a sync response: to-device messages, key counts, and device list updates.

In the usual case there are none, and nothing reads Postgres. Spec: client-server API, "Send-to-Device messaging" and
"End-to-End Encryption", "Extensions to /sync"; protocol notes, A6, B4, B6, B7.
"""

from dataclasses import dataclass
from typing import Any

import orjson

from replication.streams import DEVICE_LISTS, EVENTS, ONE_TIME_KEYS, TO_DEVICE
from shared.core.identifiers import UserId
from shared.core.sync_tokens.vector import Vector
from shared.storage.encryption.device_keys import get_key_counts
from shared.storage.encryption.device_lists import get_device_list_news, get_users_sharing
from shared.storage.encryption.to_device import read_inbox
from shared.storage.engine.pool import Source
from workers.synchrotron.devices.device_lists import DeviceListFeed
from workers.synchrotron.sections.span import Span
from workers.synchrotron.users.sync_user import SyncUser
from workers.synchrotron.users.user_cache import UserCache

MAX_MESSAGES = 100


@dataclass(frozen=True, slots=True)
class DeviceSection:
    """The device part of a response."""

    #: The response's keys.
    fields: dict[str, Any]
    #: The vector up to which the messages reach.
    inbox: Vector
    #: True if the client knows all of it.
    empty: bool


class DeviceSections:
    """Builds device sections. `reads` are of the primary."""

    def __init__(self, users: UserCache, feed: DeviceListFeed, reads: Source) -> None:
        self._users = users
        self._feed = feed
        self._reads = reads

    async def build(self, user: SyncUser, device_id: str | None, span: Span) -> DeviceSection:
        """Return the section, and delete the messages that the device's token acknowledges.

        A session without a device has neither messages nor keys.
        """
        messages: list[Any] = []
        inbox = span.now.vector(TO_DEVICE.name)
        counts: dict[str, int] = {}
        unused: list[str] = []
        keys_changed = False
        if device_id is not None:
            since = None if span.since is None else span.since.vector(TO_DEVICE.name)
            messages, inbox = await self.messages(user, device_id, since, inbox, MAX_MESSAGES)
            counts, unused, keys_changed = await self.keys(user, device_id, span)
        changed, left = await self.device_lists(user, span)
        fields = {
            "to_device": {"events": messages},
            "device_lists": {"changed": changed, "left": left},
            "device_one_time_keys_count": counts,
            "device_unused_fallback_key_types": unused,
        }
        return DeviceSection(fields, inbox, not (messages or changed or left or keys_changed))

    async def messages(
        self, user: SyncUser, device_id: str, since: Vector | None, now: Vector, limit: int
    ) -> tuple[list[Any], Vector]:
        """Return the messages between two vectors, and how far they reach. Messages up to `since` are deleted.

        If there are more than `limit`, the vector reached is that of the last message returned, for every writer.
        """
        memory = user.devices.device(device_id)
        if memory.inbox_is_empty:
            return [], now
        seq = self._users.seq
        messages, any_left = await read_inbox(self._reads, user.user_id, device_id, since, now, limit)
        memory.inbox_empty_at = None if any_left else seq
        events = [
            {"sender": message.sender, "type": message.type, "content": orjson.Fragment(message.content)}
            for message in messages
        ]
        return events, now if len(messages) < limit else now.capped(messages[-1].position)

    async def keys(self, user: SyncUser, device_id: str, span: Span) -> tuple[dict[str, int], list[str], bool]:
        """Return the one-time key counts, the unused fallback key types, and True if they changed in the span."""
        memory = user.devices.device(device_id)
        counts = memory.keys
        if counts is None:
            seq = self._users.seq
            counts = await get_key_counts(self._reads, user.user_id, device_id)
            if memory.keys_changed <= seq:
                user.devices.set_keys(memory, counts)
        if span.since_seq is not None:
            changed = memory.keys_changed > span.since_seq
        else:
            changed = span.is_new(ONE_TIME_KEYS.name, counts.writer, counts.position)
        return counts.one_time, counts.unused_fallback, changed

    async def device_lists(self, user: SyncUser, span: Span) -> tuple[list[str], list[str]]:
        """Return the users whose device lists changed, and the users who no longer share a room."""
        if span.since is None:
            return [], []
        await self._feed.settled()
        devices = user.devices
        if span.since_seq is None or span.since_seq < devices.people_from:
            updates = await get_device_list_news(
                self._reads, user.user_id, span.since.vector(EVENTS.name), span.since.vector(DEVICE_LISTS.name)
            )
            return sorted(updates.changed), sorted(updates.left)
        changed, left = set[UserId](), set[UserId]()
        for user_id, has_changed, has_left in devices.people_since(span.since_seq):
            if has_changed:
                changed.add(user_id)
            if has_left:
                left.add(user_id)
        if left:
            left -= await get_users_sharing(self._reads, user.user_id, left)
        return sorted(changed - left), sorted(left)
