"""The cleanup job: it deletes expired rows in small batches."""

import asyncio
import logging
import random
from collections.abc import Mapping

from shared.config.sections import Accounts
from shared.core.errors import Unavailable
from shared.metrics.background import BackgroundMetrics
from shared.runtime.clock import Clock
from shared.storage.engine.pool import Database, NotWritten
from shared.storage.removal.expired_rows import delete_old_rows

logger = logging.getLogger(__name__)

_BATCH = 500
_PAUSE_S = 0.2  # between two batches of one table, for other statements
_EVERY_S = 60.0

_MINUTE_MS = 60_000
_DAY_MS = 86_400_000


class Cleanup:
    def __init__(self, database: Database, clock: Clock, accounts: Accounts, metrics: BackgroundMetrics) -> None:
        self._database = database
        self._clock = clock
        self._metrics = metrics
        self._batches: dict[str, int] = {}  # table -> rows at a time, where it is less than `_BATCH`
        self._keep_ms: Mapping[str, int] = {
            "uia_sessions": accounts.interactive_session_lifetime_s * 1000,
            "registration_nonces": 5 * _MINUTE_MS,
            "login_attempts": _DAY_MS,
            "login_addresses": 180 * _DAY_MS,
            "set_aside": 90 * _DAY_MS,
            "client_transactions": 2 * _DAY_MS,  # protocol notes, B1: at least 24 hours
            "session_changes": _DAY_MS,  # the retention of the stream `sessions`
            "to_device_transactions": 2 * _DAY_MS,  # as the other transactions
            "device_list_changes": 14 * _DAY_MS,  # the retention of the stream `device_lists`
            "one_time_key_changes": 2 * _DAY_MS,  # the retention of the stream `one_time_keys`
            "one_time_keys": 90 * _DAY_MS,  # claimed keys: later uploads under an old id are no retransmissions
            "sticky_events": _MINUTE_MS,
            "delayed_events": 7 * _DAY_MS,  # MSC4140, "Retention of finalised delayed events"
            "access_tokens": _DAY_MS,  # until then the answer to an expired token has `soft_logout`
        }

    async def run(self) -> None:
        """Clean up every minute. Runs until cancelled."""
        while True:
            # With jitter, several processes share the work.
            await asyncio.sleep(_EVERY_S * random.uniform(0.5, 1.5))  # noqa: S311
            await self.clean_once()

    async def clean_once(self) -> dict[str, int]:
        """Delete all expired rows. Return the number of deleted rows by table. A table that fails stops no other."""
        now_ms = self._clock.now_ms()
        return {job: await self._clean(job, now_ms - keep_ms) for job, keep_ms in self._keep_ms.items()}

    async def _clean(self, job: str, older_than_ms: int) -> int:
        """Delete expired rows of a table. A batch that is too large for the database is halved from the next one on."""
        total = 0
        while True:
            limit = self._batches.get(job, _BATCH)
            try:
                count = await delete_old_rows(self._database, job, older_than_ms, limit)
            except NotWritten as error:
                self._failed(job, error)
                self._batches[job] = max(1, limit // 2)
                return total
            except Unavailable:
                raise
            except Exception as error:
                self._failed(job, error)
                return total
            total += count
            if count < limit:
                self._batches.pop(job, None)
                return total
            await asyncio.sleep(_PAUSE_S)

    def _failed(self, job: str, error: Exception) -> None:
        logger.warning("Old rows of %s could not be deleted: %s: %s", job, type(error).__name__, error)
        self._metrics.failures.labels("cleanup").inc()
