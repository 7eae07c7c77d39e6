"""The users who sync here: loaded when they come, kept up by rows, found by the rooms that they are in."""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Set
from typing import TypeAlias

import orjson

from shared.core.errors import Unavailable
from shared.core.push_rules import RuleSwitches
from shared.core.rows import (
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
from shared.storage.rooms.memberships import RoomMembership, get_memberships_of_user
from shared.storage.user_data.account_data import AccountDataRecord, get_account_data_and_push_rules
from workers.synchrotron.users.sync_user import GLOBAL, SyncUser
from workers.synchrotron.users.user_devices import UserDevices

_Stored: TypeAlias = RoomMembership | AccountDataRecord | PushRulesRecord
_CATCH_UP_LIMIT_S = 5.0
_NOBODY: Set[str] = frozenset()

#: wait_for(stream name, vector, limit in s): whether everything behind the vector has been applied here.
WaitFor = Callable[[str, Vector, float], Awaitable[bool]]


class UserRooms:
    """reads: counted; wait_for: the follower's; budget_bytes: users who aren't waiting go first-used first."""

    def __init__(
        self, reads: Source, wait_for: WaitFor, budget_bytes: int, metrics: SyncMetrics, switches: RuleSwitches
    ) -> None:
        self._switches = switches
        self._reads = reads
        self._wait_for = wait_for
        self._budget = budget_bytes
        self._metrics = metrics
        self._users: OrderedDict[str, SyncUser] = OrderedDict()
        self._in_room: dict[str, set[str]] = {}
        self._loading: dict[str, asyncio.Task[SyncUser]] = {}
        self._in_use: dict[str, int] = {}
        self._bytes = 0
        #: Counts the rows applied in this process; see SyncUser.
        self.seq = 0

    def next_seq(self) -> int:
        """Count one more row; return its number."""
        self.seq += 1
        return self.seq

    # -- rows. Each returns the users concerned: they have news in the room.

    def apply_event(self, row: EventRow, before: str | None = None) -> Iterable[str]:
        """before: of an m.room.member event, the user's membership until now; None: not known here."""
        self.seq += 1
        concerned = self._in_room.get(row.room_id, _NOBODY)
        if row.resolved:
            # The row's own event is perhaps no state at all: what changed is named.
            changed = [one for one in row.members if one[0] in self._users]
            concerned = {*concerned, *(user_id for user_id, *_ in changed)}
            for user_id, membership, event_nid, sender in changed:
                self._apply_membership(self._users[user_id], row, membership, event_nid, sender)
            for user_id, membership, *_ in row.members:
                self._note_person(concerned, user_id, membership, None)
        elif row.type == MEMBER and row.status == 0 and row.state_key is not None:
            user = self._users.get(row.state_key)
            if user is not None or concerned:
                membership = orjson.loads(row.json).get("content", {}).get("membership")
                if not isinstance(membership, str):
                    membership = "leave"
                self._note_person(concerned, row.state_key, membership, before)
                if user is not None:
                    concerned = {*concerned, row.state_key}
                    self._apply_membership(user, row, membership, row.event_nid, row.sender)
        self._note(concerned, row.room_id)
        return concerned

    def apply_receipt(self, row: ReceiptRow) -> Iterable[str]:
        """News for everyone who is joined; the user's own also changes what is unread."""
        user = self._users.get(row.user_id)
        unread = user.unread.get(row.room_id) if user is not None else None
        if unread is not None:
            unread.note_receipt(receipt_thread(row.thread_id), row.ordinal)
        return self.apply_room_news(row.room_id)

    def apply_room_news(self, room_id: str) -> Iterable[str]:
        """A receipt, or somebody types: news for everyone who is joined."""
        self.seq += 1
        concerned = self._in_room.get(room_id, _NOBODY)
        self._note(concerned, room_id)
        return concerned

    def apply_account_data(self, row: AccountDataRow) -> Iterable[str]:
        self.seq += 1
        user = self._users.get(row.user_id)
        if user is None:
            return ()
        before = user.size_bytes
        user.set_account_data(AccountDataRecord(row.room_id, row.type, row.json, row.writer, row.position))
        self._bytes += user.size_bytes - before
        user.note_change(row.room_id, self.seq)
        return (row.user_id,)

    def apply_push_rules(self, row: PushRulesRow) -> Iterable[str]:
        self.seq += 1
        user = self._users.get(row.user_id)
        if user is None:
            return ()
        before = user.size_bytes
        news = user.set_push_rules(PushRulesRecord(row.rules, row.ignored, row.writer, row.position))
        self._bytes += user.size_bytes - before
        if not news:
            return ()
        user.note_change(GLOBAL, self.seq)
        return (row.user_id,)

    def apply_thread_subscription(self, row: ThreadSubscriptionRow) -> bool:
        """Return whether the user is here: then it is news for him."""
        self.seq += 1
        user = self._users.get(row.user_id)
        if user is None:
            return False
        user.subscriptions_changed = self.seq
        user.version += 1
        return True

    def apply_to_device(self, row: ToDeviceRow) -> bool:
        """Return whether the user is here: the device that the message is for has news, no other."""
        return self._device_news(row.user_id, UserDevices.note_message, row.device_id)

    def apply_one_time_keys(self, row: OneTimeKeyRow) -> bool:
        """As apply_to_device: what is left of the device's keys is counted anew."""
        return self._device_news(row.user_id, UserDevices.note_keys, row.device_id)

    def apply_device_list(self, user_id: str, room_ids: Iterable[str], seq: int) -> Iterable[str]:
        """Somebody's devices changed. room_ids: the rooms that he is in; seq: the number of the row that said so."""
        concerned = {user_id} if user_id in self._users else set()
        for room_id in room_ids:
            concerned.update(self._in_room.get(room_id, _NOBODY))
        for other in concerned:
            user = self._users[other]
            user.devices.note_changed(user_id, seq)
            user.version += 1
        return concerned

    def apply_presence(self, user_id: str, room_ids: Iterable[str], most: int) -> tuple[int, set[str]]:
        """Somebody is otherwise present than before. Return the number of that, and who has news of it at once:

        those who are with him in the smallest of the rooms, at most `most`. Not himself: he knows what he does.
        """
        self.seq += 1
        concerned = {user_id}
        for here in sorted((self._in_room.get(room_id, _NOBODY) for room_id in room_ids), key=len):
            if len(here) > most or len(together := concerned | here) > most:
                break
            concerned = together
        concerned.discard(user_id)
        for other in concerned:
            user = self._users[other]
            user.presence_news = self.seq
            user.version += 1
        return self.seq, concerned

    def joined_rooms_of(self, user_id: str) -> list[str] | None:
        """Return the rooms that a user is joined to; None for one who is not in memory."""
        user = self._users.get(user_id)
        if user is None or user_id in self._loading:
            return None
        return [one.room_id for one in user.memberships.values() if one.membership == "join"]

    def readers_in(self, room_id: str) -> Set[str]:
        """Return the users in memory who are joined to a room."""
        return self._in_room.get(room_id, _NOBODY)

    def _device_news(self, user_id: str, note: Callable[[UserDevices, str, int], None], device_id: str) -> bool:
        self.seq += 1
        user = self._users.get(user_id)
        if user is None:
            return False
        note(user.devices, device_id, self.seq)
        user.version += 1
        return True

    def _note_person(self, concerned: Iterable[str], user_id: str, membership: str, before: str | None) -> None:
        """Tell those in a room of who comes or goes: his devices begin, or cease, to be their business."""
        if membership == "join":
            if before == "join":
                return
            note = UserDevices.note_changed
        elif membership in ("leave", "ban") and before in ("join", None):
            note = UserDevices.note_gone
        else:
            return
        for other in concerned:
            if other != user_id:
                note(self._users[other].devices, user_id, self.seq)

    def _note(self, concerned: Iterable[str], room_id: str) -> None:
        for user_id in concerned:
            self._users[user_id].note_change(room_id, self.seq)

    def _apply_membership(self, user: SyncUser, row: EventRow, membership: str, event_nid: int, sender: str) -> None:
        before = user.size_bytes
        known = user.memberships.get(row.room_id)
        was = known.membership if known is not None else None
        if was != membership and "join" in (was, membership):
            user.devices.forget_people(self.seq)
        user.set_membership(
            RoomMembership(
                row.room_id, row.room_nid, row.room_version, membership, event_nid, sender, row.ordinal, row.writer,
                row.position,
                forgotten=known is not None and known.forgotten and membership in ("leave", "ban"),
            )
        )  # fmt: skip
        self._bytes += user.size_bytes - before
        self._index(user, row.room_id)

    def _index(self, user: SyncUser, room_id: str) -> None:
        if user.memberships[room_id].membership == "join":
            self._in_room.setdefault(room_id, set()).add(user.user_id)
        elif (here := self._in_room.get(room_id)) is not None:
            here.discard(user.user_id)
            if not here:
                del self._in_room[room_id]

    # -- users

    async def get(self, user_id: str) -> SyncUser:
        """Return the user; what is in it is covered by what this process has applied. Raises Unavailable."""
        if user_id in self._loading:
            return await asyncio.shield(self._loading[user_id])
        user = self._users.get(user_id)
        if user is not None:
            self._users.move_to_end(user_id)
            return user
        task = asyncio.get_running_loop().create_task(self._load(user_id))
        self._loading[user_id] = task
        return await asyncio.shield(task)

    async def _load(self, user_id: str) -> SyncUser:
        # In the table before the first query: rows that arrive meanwhile find it, and the later one stays.
        user = self._users[user_id] = SyncUser(user_id, self._switches)
        self._bytes += user.size_bytes
        loaded = False
        try:
            before = user.size_bytes
            memberships = await get_memberships_of_user(self._reads, user_id)
            account_data, rules = await get_account_data_and_push_rules(self._reads, user_id)
            for membership in memberships:
                user.set_membership(membership)
            for record in account_data:
                user.set_account_data(record)
            user.set_push_rules(rules)
            self._bytes += user.size_bytes - before
            for room_id in user.memberships:
                self._index(user, room_id)
            # Postgres may be ahead of us; an answer's token is what we have applied, so let that come first.
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
            raise Unavailable("This process is behind the database")

    def resized(self, user: SyncUser, difference: int) -> None:
        """Account for bytes that were put to a user's, or taken away."""
        user.size_bytes += difference
        if self._users.get(user.user_id) is user:
            self._bytes += difference

    def use(self, user_id: str) -> "_InUse":
        """Keep the user in memory while a request runs or waits: `with users.use(...)`."""
        return _InUse(self._in_use, user_id)

    def _shrink(self) -> None:
        if self._bytes <= self._budget:
            return
        for user_id in list(self._users):
            if self._bytes <= self._budget:
                return
            if user_id not in self._in_use and user_id not in self._loading:
                self._forget(user_id)

    def _forget(self, user_id: str) -> None:
        user = self._users.pop(user_id)
        self._bytes -= user.size_bytes
        for room_id in user.memberships:
            here = self._in_room.get(room_id)
            if here is not None:
                here.discard(user_id)
                if not here:
                    del self._in_room[room_id]


class _InUse:
    def __init__(self, table: dict[str, int], user_id: str) -> None:
        self._table = table
        self._user_id = user_id

    def __enter__(self) -> None:
        self._table[self._user_id] = self._table.get(self._user_id, 0) + 1

    def __exit__(self, *_: object) -> None:
        left = self._table[self._user_id] - 1
        if left:
            self._table[self._user_id] = left
        else:
            del self._table[self._user_id]
