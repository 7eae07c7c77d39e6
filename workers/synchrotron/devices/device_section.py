"""What an answer of /sync tells a device of devices: its messages, its keys' counts, whose devices changed.

In the usual case, nothing of it, nobody asks Postgres. Spec: client-server API, "Send-to-Device messaging" and
"End-to-End Encryption", "Extensions to /sync"; protocol notes, A6, B4, B6, B7.
"""

from dataclasses import dataclass
from typing import Any

import orjson

from replication.streams import DEVICE_LISTS, EVENTS, ONE_TIME_KEYS, TO_DEVICE
from shared.core.sync_tokens.vector import Vector
from shared.storage.encryption.device_keys import get_key_counts
from shared.storage.encryption.device_lists import get_device_list_news, get_users_sharing
from shared.storage.encryption.to_device import read_inbox
from shared.storage.engine.pool import Source
from workers.synchrotron.devices.device_lists import DeviceListFeed
from workers.synchrotron.sections.joined_section import Span
from workers.synchrotron.users.sync_user import SyncUser
from workers.synchrotron.users.user_rooms import UserRooms

MAX_MESSAGES = 100
#: Named also at zero: a client that has none left then makes new ones, whatever it takes a missing name for.
_ALWAYS_COUNTED = "signed_curve25519"


@dataclass(frozen=True, slots=True)
class DeviceSection:
    """parts: keys of the answer; inbox: how far the messages in it reach; empty: the client knows all of it."""

    parts: dict[str, Any]
    inbox: Vector
    empty: bool


class DeviceSections:
    """reads: counted; of the primary."""

    def __init__(self, users: UserRooms, lists: DeviceListFeed, reads: Source) -> None:
        self._users = users
        self._lists = lists
        self._reads = reads

    async def build(self, user: SyncUser, device_id: str | None, span: Span) -> DeviceSection:
        """Return the section; what the device acknowledges by its token is deleted. device_id: None has nothing."""
        messages: list[Any] = []
        inbox = span.now.vector(TO_DEVICE.name)
        counts: dict[str, int] = {}
        unused: list[str] = []
        keys_news = False
        if device_id is not None:
            since = None if span.since is None else span.since.vector(TO_DEVICE.name)
            messages, inbox = await self.messages(user, device_id, since, inbox, MAX_MESSAGES)
            counts, unused, keys_news = await self.keys(user, device_id, span)
        changed, left = await self.people(user, span)
        parts = {
            "to_device": {"events": messages},
            "device_lists": {"changed": changed, "left": left},
            "device_one_time_keys_count": counts,
            "device_unused_fallback_key_types": unused,
        }
        return DeviceSection(parts, inbox, not (messages or changed or left or keys_news))

    async def messages(
        self, user: SyncUser, device_id: str, since: Vector | None, now: Vector, limit: int
    ) -> tuple[list[Any], Vector]:
        """Return the messages between the vectors and how far they reach; what `since` acknowledges is deleted.

        Cut by vectors: the token of a shortened answer stands at the last message given, for every writer.
        """
        memory = user.devices.device(device_id)
        if memory.inbox_is_clear:
            return [], now
        seq = self._users.seq
        messages, any_left = await read_inbox(self._reads, user.user_id, device_id, since, now, limit)
        memory.inbox_clear = None if any_left else seq
        events = [
            {"sender": message.sender, "type": message.type, "content": orjson.Fragment(message.content)}
            for message in messages
        ]
        return events, now if len(messages) < limit else now.capped(messages[-1].position)

    async def keys(self, user: SyncUser, device_id: str, span: Span) -> tuple[dict[str, int], list[str], bool]:
        """Return the counts of one-time keys, the types of unused fallback keys, and whether that is news."""
        memory = user.devices.device(device_id)
        counts = memory.keys
        if counts is None:
            seq = self._users.seq
            counts = await get_key_counts(self._reads, user.user_id, device_id)
            if memory.keys_news <= seq:
                memory.keys = counts
        if span.since_seq is not None:
            news = memory.keys_news > span.since_seq
        else:
            news = span.is_new(ONE_TIME_KEYS.name, counts.writer, counts.position)
        return {_ALWAYS_COUNTED: 0, **counts.one_time}, counts.unused_fallback, news

    async def people(self, user: SyncUser, span: Span) -> tuple[list[str], list[str]]:
        """Return whose devices are to be asked for again, and with whom no room is shared any more."""
        if span.since is None:
            return [], []
        await self._lists.settled()
        devices = user.devices
        if span.since_seq is None or span.since_seq < devices.people_from:
            news = await get_device_list_news(
                self._reads, user.user_id, span.since.vector(EVENTS.name), span.since.vector(DEVICE_LISTS.name)
            )
            return sorted(news.changed), sorted(news.left)
        changed, gone = set(), set()
        for user_id, is_changed, is_gone in devices.people_since(span.since_seq):
            if is_changed:
                changed.add(user_id)
            if is_gone:
                gone.add(user_id)
        if gone:
            gone -= await get_users_sharing(self._reads, user.user_id, gone)
        return sorted(changed - gone), sorted(gone)
