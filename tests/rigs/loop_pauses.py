"""The loop's longest steps, in CPU time of its thread. On a busy machine, what others take is no step of ours."""

import asyncio
import time

_EVERY_S = 0.002


class LoopPauses:
    """Measures while its block runs. all_s: what the loop's thread worked between two looks, longest first."""

    def __init__(self) -> None:
        self.all_s: list[float] = []

    async def __aenter__(self) -> "LoopPauses":
        self._task = asyncio.create_task(self._look())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        self.all_s.sort(reverse=True)

    async def _look(self) -> None:
        while True:
            worked_before = time.thread_time()
            await asyncio.sleep(_EVERY_S)
            self.all_s.append(time.thread_time() - worked_before)
