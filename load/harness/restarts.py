"""Restart workers, so that their next answers come from the database."""

import asyncio
import os
import signal
import time

from load.harness.fleet import Target

_LIMIT_S = 60.0
_REST_S = 1.5  # start-up work of a process continues for a moment after it is ready


async def restart(target: Target, worker_type: str) -> None:
    """Kill the fleet's workers of a type, and wait until their supervisor has replaced them. Raises TimeoutError."""
    old = _pids(target, worker_type)
    for pid in old:
        os.kill(pid, signal.SIGKILL)
    end_s = time.monotonic() + _LIMIT_S
    while True:
        await asyncio.sleep(0.3)
        new = await asyncio.to_thread(_pids, target, worker_type)
        if len(new) == len(old) and not new & old:
            await asyncio.sleep(_REST_S)
            return
        if time.monotonic() > end_s:
            raise TimeoutError(f"{worker_type} did not restart")


def _pids(target: Target, worker_type: str) -> set[int]:
    listed = target.status()["processes"]
    return {each["pid"] for each in listed if each["type"] == worker_type and each.get("ready")}
