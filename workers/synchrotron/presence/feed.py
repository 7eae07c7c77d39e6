"""The stream `presence` applied here, for the users who share a room with whoever changed.

A change costs what the user's own room list costs, whatever the sizes of the rooms: it is noted with that user, and
each response looks through the users with recent changes. It wakes a few users at most, those in the smallest rooms.
All others get it with their next response, at the latest at the end of their long poll. Changes are applied together
once a second. Spec: client-server API, "Presence".
"""

import asyncio
import sys
from collections.abc import Collection, Iterable, Sequence
from itertools import islice

from shared.core.errors import Unavailable
from shared.core.identifiers import RoomId, UserId
from shared.core.rows import EventRow, PresenceRow
from shared.rooms.timeline_event import MEMBER
from shared.runtime.clock import Clock
from shared.storage.encryption.device_lists import get_joined_rooms_of
from shared.storage.engine.pool import Source
from workers.synchrotron.presence.memory import PresenceMemory, row_size
from workers.synchrotron.users.user_cache import UserCache
from workers.synchrotron.waiting.notifier import Notifier

_INTERVAL_S = 1.0
_BATCH = 200  # users whose rooms one query reads
_MAX_PENDING_BYTES = 32 << 20  # of rows; later ones are dropped, and shown with the user's next change
_MAX_WOKEN = 50  # users woken by one change


class PresenceFeed:
    """The listener of the stream `presence`."""

    def __init__(
        self, memory: PresenceMemory, users: UserCache, notifier: Notifier, reads: Source, clock: Clock
    ) -> None:
        self._memory = memory
        self._users = users
        self._notifier = notifier
        self._reads = reads
        self._clock = clock

        self._pending: dict[UserId, PresenceRow] = {}
        self._pending_bytes = 0
        self._expired: set[UserId] = set()  # the pending users whose presence expired here, without a row
        self._has_pending = asyncio.Event()
        self._settling = asyncio.Lock()

    def apply(self, rows: Sequence[PresenceRow]) -> None:
        for row in rows:
            if row.user_id in self._pending:
                self._put(row)
                self._expired.discard(row.user_id)
            elif not self._memory.refresh(row) and self._pending_bytes < _MAX_PENDING_BYTES:
                self._put(row)
        if self._pending:
            self._has_pending.set()

    def withdraw(self, writer: int, position: int) -> None:
        """Note that a writer no longer vouches for its rows. See `Follower.follow`.

        Pending rows of the writer are still applied. A minute later they expire like its other rows.
        """
        self._memory.withdraw(writer, position, self._clock.now_ms())

    def apply_events(self, rows: Iterable[EventRow]) -> None:
        """Apply joins and leaves. Called after the rows are applied to the users."""
        if not self._memory:
            return
        for row in rows:
            if row.resolved:
                for user_id, membership, *_ in row.members:
                    self._memory.move(user_id, row.room_id, membership, self._users.seq)
            elif row.type == MEMBER and row.status == 0 and row.state_key is not None:
                membership = "join" if b'"membership":"join"' in row.json else "leave"
                self._memory.move(UserId(row.state_key), row.room_id, membership, self._users.seq)

    async def run(self) -> None:
        """Apply pending changes once a second. Runs until it is cancelled."""
        while True:
            try:
                async with asyncio.timeout(_INTERVAL_S):
                    await self._has_pending.wait()
            except TimeoutError:
                pass
            self._has_pending.clear()
            for row in self._memory.pop_expired(self._clock.now_ms()):
                if row.user_id not in self._pending:
                    self._put(row)
                    self._expired.add(row.user_id)
            if self._pending:
                await self.settle()
                await asyncio.sleep(_INTERVAL_S)

    async def settle(self) -> None:
        """Apply all pending changes and wake users. While the database is unavailable the changes stay pending."""
        if self._pending:
            async with self._settling:
                await self._settle()

    async def _settle(self) -> None:
        woken: set[UserId] = set()
        try:
            while self._pending:
                batch = list(islice(self._pending, _BATCH))
                rooms = {user_id: self._users.joined_rooms_of(user_id) for user_id in batch}
                unknown = {user_id for user_id, found in rooms.items() if found is None}
                read = await get_joined_rooms_of(self._reads, unknown) if unknown else {}
                for user_id in batch:
                    woken.update(self._change(user_id, read.get(user_id, rooms[user_id]) or ()))
                await asyncio.sleep(0)  # about 10 ms per batch: let other requests run
        except Unavailable:
            self._has_pending.set()
        self._notifier.wake(woken)

    def _put(self, row: PresenceRow) -> None:
        former = self._pending.get(row.user_id)
        self._pending_bytes += row_size(row) - (row_size(former) if former is not None else 0)
        self._pending[row.user_id] = row

    def _change(self, user_id: UserId, rooms: Iterable[RoomId]) -> Collection[UserId]:
        row = self._pending.pop(user_id)
        self._pending_bytes -= row_size(row)
        expired = user_id in self._expired
        self._expired.discard(user_id)
        with_readers = [RoomId(sys.intern(room_id)) for room_id in rooms if self._users.readers_in(room_id)]
        seq, woken = self._users.apply_presence(user_id, with_readers, _MAX_WOKEN)
        self._memory.change(row, seq, with_readers, expired=expired)
        return woken
