"""The stream `device_lists` applied here: device list updates for all users who share a room with the changed user.

The changed user's rooms are read from Postgres, once per row and not once per response. Rows that arrive together
share a query. The change is committed by then, so users who share a room only later learn of it by the join.
"""

import asyncio
from collections import deque
from collections.abc import Sequence

from shared.core.errors import Unavailable
from shared.core.identifiers import UserId
from shared.core.rows import DeviceListRow
from shared.runtime.tasks import TaskGroup
from shared.storage.encryption.device_lists import get_joined_rooms_of
from shared.storage.engine.pool import Source
from workers.synchrotron.users.user_cache import UserCache
from workers.synchrotron.waiting.notifier import Notifier

_BATCH = 200  # users whose rooms one query reads
_RETRY_AFTER_S = 0.2
_LIMIT_S = 5.0


class DeviceListFeed:
    """The listener of the stream `device_lists`."""

    def __init__(self, users: UserCache, notifier: Notifier, reads: Source, tasks: TaskGroup) -> None:
        self._users = users
        self._notifier = notifier
        self._reads = reads
        self._tasks = tasks
        self._pending: deque[tuple[UserId, int]] = deque()  # (user, seq of the row)
        self._settling = False
        self._progress = asyncio.Event()

    def apply(self, rows: Sequence[DeviceListRow]) -> None:
        for row in rows:
            self._pending.append((row.user_id, self._users.next_seq()))
        if not self._settling:
            self._settling = True
            self._tasks.spawn(self._settle(), "device lists")

    async def settled(self) -> None:
        """Wait until every row received so far is applied to the users it affects. Raises Unavailable."""
        if not self._pending:
            return
        _, last = self._pending[-1]
        try:
            async with asyncio.timeout(_LIMIT_S):
                while self._pending and self._pending[0][1] <= last:
                    await self._progress.wait()
        except TimeoutError as error:
            raise Unavailable("The database is temporarily unavailable. Please try again") from error

    async def _settle(self) -> None:
        try:
            while self._pending:
                batch = [self._pending[index] for index in range(min(_BATCH, len(self._pending)))]
                try:
                    rooms = await get_joined_rooms_of(self._reads, {user_id for user_id, _ in batch})
                except Unavailable:
                    await asyncio.sleep(_RETRY_AFTER_S)
                    continue
                for user_id, seq in batch:
                    self._notifier.wake(self._users.apply_device_list(user_id, rooms[user_id], seq))
                    self._pending.popleft()
                progress, self._progress = self._progress, asyncio.Event()
                progress.set()
        finally:
            self._settling = False
