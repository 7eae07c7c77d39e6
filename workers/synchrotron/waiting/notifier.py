"""Requests that wait for news of a user; a row wakes those whom it concerns and nobody else."""

import asyncio
from collections.abc import Iterable

from shared.metrics.synchrotron import SyncMetrics
from workers.synchrotron.users.sync_user import SyncUser


class Notifier:
    def __init__(self, metrics: SyncMetrics) -> None:
        self._waiting: dict[str, dict[asyncio.Future[None], str | None]] = {}  # user -> request -> his device
        self._metrics = metrics
        self._closed = False

    def wake(self, user_ids: Iterable[str]) -> None:
        """Wake every request that waits for one of these users."""
        for user_id in user_ids:
            for waiter in self._waiting.get(user_id, ()):
                self._wake(waiter)

    def wake_device(self, user_id: str, device_id: str) -> None:
        """Wake every request of one device."""
        for waiter, device in self._waiting.get(user_id, {}).items():
            if device == device_id:
                self._wake(waiter)

    def _wake(self, waiter: "asyncio.Future[None]") -> None:
        if not waiter.done():
            waiter.set_result(None)
            self._metrics.wake_ups.inc()

    async def wait(self, user: SyncUser, seen_version: int, timeout_s: float, device_id: str | None = None) -> bool:
        """Wait until there is news of the user since `seen_version`; False when the time is over.

        seen_version: `user.version` from before the caller looked, so that nothing falls between looking and waiting.
        Once the process drains, nobody waits any more: True at once is never given twice for the same news.
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
        """Let every waiting request answer as it stands: the process drains."""
        self._closed = True
        for waiters in self._waiting.values():
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(None)
