"""Pacing of work in batches, so that it leaves time for other work."""

import asyncio
from collections.abc import AsyncIterator
from typing import TypeVar

from shared.runtime.clock import Clock

T = TypeVar("T")
_LONGEST_PAUSE_S = 1.0


async def paced(batches: AsyncIterator[T], clock: Clock) -> AsyncIterator[T]:
    """Yield the batches. After each one, sleep for as long as it took, so that half of the time is free."""
    started = clock.monotonic_s()
    async for batch in batches:
        took_s = clock.monotonic_s() - started
        yield batch
        await asyncio.sleep(min(took_s, _LONGEST_PAUSE_S))
        started = clock.monotonic_s()
