"""The users who sync here: loaded on their first request, updated by rows, indexed by their joined rooms."""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Set
from dataclasses import replace
from typing import TypeAlias

import orjson

from shared.core.errors import Unavailable
from shared.core.identifiers import RoomId, UserId
from shared.core.push_rules import RuleSwitches
from shared.core.rows import (
    GLOBAL,
    AccountDataRow,
    EventRow,
    OneTimeKeyRow,
    PushRulesRow,
    ReceiptRow,
    ThreadSubscriptionRow,
    ToDeviceRow,
)
from shared.core.sync_tokens.vector import Vector
from shared.core.unread import receipt_thread
from shared.metrics.synchrotron import SyncMetrics
from shared.rooms.timeline_event import MEMBER
from shared.storage.engine.pool import Source
from shared.storage.push.rules import PushRulesRecord
from shared.storage.rooms.memberships import RoomMembership, get_forgotten_rooms, get_memberships_of_user
from shared.storage.user_data.account_data import AccountDataRecord, get_account_data_and_push_rules
from workers.synchrotron.users.sync_user import LEFT, SyncUser
from workers.synchrotron.users.user_devices import UserDevices

_Stored: TypeAlias = RoomMembership | AccountDataRecord | PushRulesRecord
_CATCH_UP_LIMIT_S = 5.0
_NOBODY: Set[UserId] = frozenset()

#: wait_for(stream name, vector, limit in s) returns True once everything up to the vector is applied here.
WaitFor = Callable[[str, Vector, float], Awaitable[bool]]


class UserCache:
    """All users in memory. Users without a request under way are evicted least recently used first."""

    def __init__(
        self, reads: Source, wait_for: WaitFor, budget_bytes: int, metrics: SyncMetrics, switches: RuleSwitches
    ) -> None:
        self._switches = switches
        self._reads = reads
        self._wait_for = wait_for
        self._budget = budget_bytes
        self._metrics = metrics
        self._users: OrderedDict[UserId, SyncUser] = OrderedDict()
        self._in_room: dict[RoomId, set[UserId]] = {}
        self._loading: dict[UserId, asyncio.Task[SyncUser]] = {}
        self._pins: dict[UserId, int] = {}
        #: The sum of the users' sizes, as they were counted last.
        self.size_bytes = 0
        #: The number of rows applied in this process. See SyncUser.
        self.seq = 0

    def next_seq(self) -> int:
        """Count one more row and return its seq."""
        self.seq += 1
        return self.seq

    # -- rows. Each method returns the affected users, to be woken.

    def apply_event(self, row: EventRow, previous: str | None = None) -> Iterable[UserId]:
        """Apply a row of `events`. previous: for m.room.member, the membership before it; None if unknown here."""
        self.seq += 1
        affected = self._in_room.get(row.room_id, _NOBODY)
        if row.resolved:
            # The row's own event may not be in the state at all. `members` names what changed.
            changed = [one for one in row.members if one[0] in self._users]
            affected = {*affected, *(user_id for user_id, *_ in changed)}
            for user_id, membership, event_nid, sender in changed:
                self._apply_membership(self._users[user_id], row, membership, event_nid, sender)
            for user_id, membership, *_ in row.members:
                self._note_person(affected, user_id, membership, None)
        elif row.type == MEMBER and row.status == 0 and row.state_key is not None:
            user_id = UserId(row.state_key)
            user = self._users.get(user_id)
            if user is not None or affected:
                membership = orjson.loads(row.json).get("content", {}).get("membership")
                if not isinstance(membership, str):
                    membership = "leave"
                self._note_person(affected, user_id, membership, previous)
                if user is not None:
                    affected = {*affected, user_id}
                    self._apply_membership(user, row, membership, row.event_nid, row.sender)
        self._note(affected, row.room_id)
        return affected

    def apply_receipt(self, row: ReceiptRow) -> Iterable[UserId]:
        """Apply a receipt: an update for all joined users, and a read mark of the user's own."""
        user = self._users.get(row.user_id)
        unread = user.unread.get(row.room_id) if user is not None else None
        if user is not None and unread is not None:
            before_bytes = unread.size_bytes
            unread.note_receipt(receipt_thread(row.thread_id), row.ordinal)
            user.account(unread.size_bytes - before_bytes)
        return self.apply_ephemeral(row.room_id)

    def apply_ephemeral(self, room_id: RoomId) -> Iterable[UserId]:
        """Apply a receipt or typing notification: an update for all joined users."""
        self.seq += 1
        affected = self._in_room.get(room_id, _NOBODY)
        self._note(affected, room_id)
        return affected

    def apply_account_data(self, row: AccountDataRow) -> Iterable[UserId]:
        self.seq += 1
        user = self._users.get(row.user_id)
        if user is None:
            return ()
        user.set_account_data(AccountDataRecord(row.room_id, row.type, row.json, row.writer, row.position))
        self._count(user)
        self._shrink()
        user.note_change(row.room_id, self.seq)
        return (row.user_id,)

    def apply_push_rules(self, row: PushRulesRow) -> Iterable[UserId]:
        self.seq += 1
        user = self._users.get(row.user_id)
        if user is None:
            return ()
        changed = user.set_push_rules(PushRulesRecord(row.rules, row.ignored, row.writer, row.position))
        self._count(user)
        self._shrink()
        if not changed:
            return ()
        user.note_change(GLOBAL, self.seq)
        return (row.user_id,)

    def apply_thread_subscription(self, row: ThreadSubscriptionRow) -> bool:
        """Return True if the user is in memory and so has an update."""
        self.seq += 1
        user = self._users.get(row.user_id)
        if user is None:
            return False
        user.subscriptions_changed = self.seq
        user.version += 1
        return True

    def apply_to_device(self, row: ToDeviceRow) -> bool:
        """Return True if the user is in memory. Only the recipient device then has an update."""
        return self._apply_to_device(row.user_id, UserDevices.note_message, row.device_id)

    def apply_one_time_keys(self, row: OneTimeKeyRow) -> bool:
        """Return True if the user is in memory. The key counts of the device are then read again."""
        return self._apply_to_device(row.user_id, UserDevices.note_keys, row.device_id)

    def apply_device_list(self, user_id: UserId, room_ids: Iterable[RoomId], seq: int) -> Iterable[UserId]:
        """Apply a change of a user's devices, for all who share one of their rooms. seq: that of the row."""
        affected = {user_id} if user_id in self._users else set()
        for room_id in room_ids:
            affected.update(self._in_room.get(room_id, _NOBODY))
        for other in affected:
            user = self._users[other]
            user.devices.note_changed(user_id, seq)
            user.version += 1
        return affected

    def apply_presence(self, user_id: UserId, room_ids: Iterable[RoomId], max_woken: int) -> tuple[int, set[UserId]]:
        """Apply a presence change. Return its seq and the users to wake.

        Those are the members of the user's smallest rooms, at most `max_woken`. Users are not woken by their own
        presence.
        """
        self.seq += 1
        affected = {user_id}
        for here in sorted((self._in_room.get(room_id, _NOBODY) for room_id in room_ids), key=len):
            if len(here) > max_woken or len(together := affected | here) > max_woken:
                break
            affected = together
        affected.discard(user_id)
        for other in affected:
            user = self._users[other]
            user.presence_changed = self.seq
            user.version += 1
        return self.seq, affected

    def joined_rooms_of(self, user_id: UserId) -> list[RoomId] | None:
        """Return the joined rooms of a user; None for a user who is not in memory."""
        user = self._users.get(user_id)
        if user is None or user_id in self._loading:
            return None
        return [one.room_id for one in user.memberships.values() if one.membership == "join"]

    def readers_in(self, room_id: RoomId) -> Set[UserId]:
        """Return the users in memory who are joined to a room."""
        return self._in_room.get(room_id, _NOBODY)

    def _apply_to_device(self, user_id: UserId, note: Callable[[UserDevices, str, int], None], device_id: str) -> bool:
        self.seq += 1
        user = self._users.get(user_id)
        if user is None:
            return False
        note(user.devices, device_id, self.seq)
        user.version += 1
        return True

    def _note_person(self, affected: Iterable[UserId], user_id: UserId, membership: str, previous: str | None) -> None:
        """Note a join or leave with the room's members, who begin or stop to track that user's devices."""
        if membership == "join":
            if previous == "join":
                return
            note = UserDevices.note_changed
        elif membership in ("leave", "ban") and previous in ("join", None):
            note = UserDevices.note_left
        else:
            return
        for other in affected:
            if other != user_id:
                note(self._users[other].devices, user_id, self.seq)

    def _note(self, affected: Iterable[UserId], room_id: RoomId) -> None:
        for user_id in affected:
            self._users[user_id].note_change(room_id, self.seq)

    def _apply_membership(self, user: SyncUser, row: EventRow, membership: str, event_nid: int, sender: UserId) -> None:
        known = user.memberships.get(row.room_id)
        previous = known.membership if known is not None else None
        if previous != membership and "join" in (previous, membership):
            user.devices.forget_people(self.seq)
        if membership in LEFT and previous in LEFT:
            user.may_have_forgotten = True
        user.set_membership(
            RoomMembership(
                room_id=row.room_id,
                room_nid=row.room_nid,
                room_version=row.room_version,
                membership=membership,
                event_nid=event_nid,
                sender=sender,
                ordinal=row.ordinal,
                writer=row.writer,
                position=row.position,
                forgotten=known is not None and known.forgotten and membership in LEFT,
            )
        )
        self._count(user)
        self._index(user, row.room_id)

    def _index(self, user: SyncUser, room_id: RoomId) -> None:
        if user.memberships[room_id].membership == "join":
            self._in_room.setdefault(room_id, set()).add(user.user_id)
        elif (here := self._in_room.get(room_id)) is not None:
            here.discard(user.user_id)
            if not here:
                del self._in_room[room_id]

    # -- users

    async def learn_forgotten(self, user: SyncUser) -> None:
        """Read which of the left rooms the user forgot: one statement, if there are any left rooms."""
        user.may_have_forgotten = False
        if not any(one.membership in LEFT and not one.forgotten for one in user.memberships.values()):
            return
        forgotten = await get_forgotten_rooms(self._reads, user.user_id)
        for room_id, one in list(user.memberships.items()):
            if one.membership in LEFT and one.room_nid in forgotten and not one.forgotten:
                user.memberships[room_id] = replace(one, forgotten=True)

    async def get(self, user_id: UserId) -> SyncUser:
        """Return the user, with nothing beyond the rows that this process has applied. Raises Unavailable."""
        if user_id in self._loading:
            return await asyncio.shield(self._loading[user_id])
        user = self._users.get(user_id)
        if user is not None:
            self._users.move_to_end(user_id)
            self._count(user)  # what other rows changed since the last request
            return user
        task = asyncio.get_running_loop().create_task(self._load(user_id))
        self._loading[user_id] = task
        return await asyncio.shield(task)

    async def _load(self, user_id: UserId) -> SyncUser:
        # In the table before the first query: rows that arrive meanwhile update it, and the later value stays.
        user = self._users[user_id] = SyncUser(user_id, self._switches)
        loaded = False
        try:
            memberships = await get_memberships_of_user(self._reads, user_id)
            account_data, rules = await get_account_data_and_push_rules(self._reads, user_id)
            for membership in memberships:
                user.set_membership(membership)
            for record in account_data:
                user.set_account_data(record)
            user.set_push_rules(rules)
            self._count(user)
            for room_id in user.memberships:
                self._index(user, room_id)
            # Postgres may be ahead of this process. A response's token covers only what is applied here.
            await self._catch_up("events", memberships)
            await self._catch_up("account_data", account_data)
            await self._catch_up("push_rules", [rules] if rules.position else ())
            user.changes_from = self.seq
            loaded = True
        finally:
            del self._loading[user_id]
            if not loaded:
                self._forget(user_id)
        self._metrics.users.set(len(self._users))
        self._shrink()
        return user

    async def _catch_up(self, stream: str, rows: Iterable[_Stored]) -> None:
        greatest: dict[int, int] = {}
        for row in rows:
            greatest[row.writer] = max(row.position, greatest.get(row.writer, 0))
        if greatest and not await self._wait_for(stream, Vector(max(greatest), 0, greatest), _CATCH_UP_LIMIT_S):
            raise Unavailable("This process has not caught up with the database. Please try again")

    def account(self, user: SyncUser, difference_bytes: int) -> None:
        """Add to the size of a user, or subtract from it."""
        user.account(difference_bytes)
        if self._users.get(user.user_id) is user:
            self._count(user)

    def pinned(self, user_id: UserId) -> "_Pinned":
        """Keep the user in memory while a request runs or waits: `with users.pinned(...)`."""
        return _Pinned(self._pins, user_id)

    def _count(self, user: SyncUser) -> None:
        """Count a user of the cache as large as they are now."""
        before_bytes, user.counted_bytes = user.counted_bytes, user.size_bytes
        self.size_bytes += user.counted_bytes - before_bytes

    def _shrink(self) -> None:
        if self.size_bytes <= self._budget:
            return
        for user_id in list(self._users):
            if self.size_bytes <= self._budget:
                return
            if user_id not in self._pins and user_id not in self._loading:
                self._forget(user_id)

    def _forget(self, user_id: UserId) -> None:
        user = self._users.pop(user_id)
        self.size_bytes -= user.counted_bytes
        user.counted_bytes = 0
        for room_id in user.memberships:
            here = self._in_room.get(room_id)
            if here is not None:
                here.discard(user_id)
                if not here:
                    del self._in_room[room_id]


class _Pinned:
    def __init__(self, pins: dict[UserId, int], user_id: UserId) -> None:
        self._pins = pins
        self._user_id = user_id

    def __enter__(self) -> None:
        self._pins[self._user_id] = self._pins.get(self._user_id, 0) + 1

    def __exit__(self, *_: object) -> None:
        left = self._pins[self._user_id] - 1
        if left:
            self._pins[self._user_id] = left
        else:
            del self._pins[self._user_id]
