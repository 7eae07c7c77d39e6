"""Stream rows applied here: update the memory of rooms and users, then wake the waiting requests of those users."""

import asyncio
from collections.abc import Iterable, Sequence

from shared.core.identifiers import RoomId, UserId
from shared.core.rows import (
    AccountDataRow,
    EventRow,
    OneTimeKeyRow,
    PushRulesRow,
    ReceiptRow,
    ThreadSubscriptionRow,
    ToDeviceRow,
    TypingRow,
)
from shared.rooms.timeline_event import MEMBER
from shared.runtime.clock import Clock
from workers.synchrotron.rooms.room_cache import RoomCache
from workers.synchrotron.rooms.typing_rooms import TypingRooms
from workers.synchrotron.users.user_cache import UserCache
from workers.synchrotron.waiting.notifier import Notifier

_TYPING_CHECK_S = 0.25  # a typing notification may last this much longer than its timeout
_FORGET_TYPING_AFTER = 1_000_000  # rows; a token older than this many rows gets a full response anyway


class Feed:
    """The follower's listener for every stream but `device_lists` and `presence`."""

    def __init__(
        self, rooms: RoomCache, users: UserCache, typing: TypingRooms, notifier: Notifier, clock: Clock
    ) -> None:
        self._rooms = rooms
        self._users = users
        self._typing = typing
        self._notifier = notifier
        self._clock = clock

    def apply_events(self, rows: Sequence[EventRow]) -> None:
        affected: set[UserId] = set()
        for row in rows:
            previous = None
            if row.type == MEMBER and row.state_key is not None:
                previous = self._rooms.membership_in_memory(row.room_id, UserId(row.state_key))
            self._rooms.apply_event(row)
            affected.update(self._users.apply_event(row, previous))
            if row.resolved:
                for user_id, membership, _, _ in row.members:
                    if membership != "join":
                        self._typing.left(row.room_id, user_id, self._users.seq)
            elif row.type == MEMBER and row.state_key is not None and b'"membership":"join"' not in row.json:
                self._typing.left(row.room_id, UserId(row.state_key), self._users.seq)
        self._notifier.wake(affected)

    def apply_receipts(self, rows: Sequence[ReceiptRow]) -> None:
        affected: set[UserId] = set()
        for row in rows:
            self._rooms.apply_receipt(row)
            affected.update(self._users.apply_receipt(row))
        self._notifier.wake(affected)

    def apply_account_data(self, rows: Sequence[AccountDataRow]) -> None:
        affected: set[UserId] = set()
        for row in rows:
            affected.update(self._users.apply_account_data(row))
        self._notifier.wake(affected)

    def apply_push_rules(self, rows: Sequence[PushRulesRow]) -> None:
        affected: set[UserId] = set()
        for row in rows:
            affected.update(self._users.apply_push_rules(row))
        self._notifier.wake(affected)

    def apply_thread_subscriptions(self, rows: Sequence[ThreadSubscriptionRow]) -> None:
        self._notifier.wake([row.user_id for row in rows if self._users.apply_thread_subscription(row)])

    def apply_to_device(self, rows: Sequence[ToDeviceRow]) -> None:
        for row in rows:
            if self._users.apply_to_device(row):
                self._notifier.wake_device(row.user_id, row.device_id)

    def apply_one_time_keys(self, rows: Sequence[OneTimeKeyRow]) -> None:
        for row in rows:
            if self._users.apply_one_time_keys(row):
                self._notifier.wake_device(row.user_id, row.device_id)

    def apply_typing(self, rows: Sequence[TypingRow]) -> None:
        now_ms = self._clock.now_ms()
        changed = [row.room_id for row in rows if self._typing.apply(row, now_ms, self._users.seq + 1)]
        self._typing_changed(changed)

    def withdraw_typing(self, writer: int, position: int) -> None:
        """Drop the rows of a writer that is gone, or that no longer vouches for them. See `Follower.follow`."""
        self._typing_changed(self._typing.withdraw(writer, position, self._users.seq + 1))

    async def end_typing(self) -> None:
        """Remove expired typing notifications every quarter of a second. Runs until it is cancelled."""
        while True:
            await asyncio.sleep(_TYPING_CHECK_S)
            end_ms = self._typing.next_end_ms()
            now_ms = self._clock.now_ms()
            if end_ms is not None and end_ms <= now_ms:
                self._typing_changed(self._typing.expire(now_ms, self._users.seq + 1))
            self._typing.forget(self._users.seq - _FORGET_TYPING_AFTER)

    def _typing_changed(self, room_ids: Iterable[RoomId]) -> None:
        affected: set[UserId] = set()
        for room_id in room_ids:
            affected.update(self._users.apply_ephemeral(room_id))
        self._notifier.wake(affected)
