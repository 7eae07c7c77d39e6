"""Requests that wait for updates of a user. A row wakes only the requests of the users it affects."""

import asyncio
from collections.abc import Iterable

from shared.core.identifiers import UserId
from shared.metrics.synchrotron import SyncMetrics
from workers.synchrotron.users.sync_user import SyncUser


class Notifier:
    """The waiting requests of all users."""

    def __init__(self, metrics: SyncMetrics) -> None:
        self._waiting: dict[str, dict[asyncio.Future[None], str | None]] = {}  # user -> request -> device
        self._metrics = metrics
        self._closed = False

    def wake(self, user_ids: Iterable[UserId]) -> None:
        """Wake every waiting request of these users."""
        for user_id in user_ids:
            for waiter in self._waiting.get(user_id, ()):
                self._wake(waiter)

    def wake_device(self, user_id: UserId, device_id: str) -> None:
        """Wake every waiting request of one device."""
        for waiter, device in self._waiting.get(user_id, {}).items():
            if device == device_id:
                self._wake(waiter)

    def _wake(self, waiter: "asyncio.Future[None]") -> None:
        if not waiter.done():
            waiter.set_result(None)
            self._metrics.wake_ups.inc()

    async def wait(self, user: SyncUser, seen_version: int, timeout_s: float, device_id: str | None = None) -> bool:
        """Return True as soon as the user has updates after `seen_version`, False at the timeout.

        `seen_version` is `user.version` from before the caller built its response, so that no update is lost between
        building and waiting. While the process drains, this returns at once.
        """
        if user.version != seen_version:
            return True
        if self._closed or timeout_s <= 0:
            return False
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiters = self._waiting.setdefault(user.user_id, {})
        waiters[waiter] = device_id
        self._metrics.waiting.inc()
        try:
            async with asyncio.timeout(timeout_s):
                await waiter
            return user.version != seen_version
        except TimeoutError:
            return False
        finally:
            self._metrics.waiting.dec()
            waiters.pop(waiter, None)
            if not waiters:
                self._waiting.pop(user.user_id, None)

    def close(self) -> None:
        """Let every waiting request respond now, since the process drains."""
        self._closed = True
        for waiters in self._waiting.values():
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(None)
