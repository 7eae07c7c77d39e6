"""Locks by key."""

import asyncio

import pytest

from shared.core.errors import Unavailable
from shared.runtime.keyed_locks import MAX_PER_KEY, KeyedLocks


async def test_tasks_of_a_key_go_one_after_another_and_others_at_once() -> None:
    locks, running, seen = KeyedLocks(), set[str](), list[str]()

    async def work(key: str, name: str) -> None:
        async with locks.hold(key):
            assert key not in running
            running.add(key)
            await asyncio.sleep(0)
            seen.append(name)
            running.discard(key)

    await asyncio.gather(*(work(key, f"{key}{n}") for n in range(3) for key in "ab"))
    assert [name for name in seen if name[0] == "a"] == ["a0", "a1", "a2"]
    assert seen[:2] == ["a0", "b0"]
    assert len(locks) == 0, "a key without users takes no memory"


async def test_tasks_that_wait_for_a_key_are_limited() -> None:
    locks, done = KeyedLocks(), asyncio.Event()

    async def wait() -> None:
        async with locks.hold("a"):
            await done.wait()

    tasks = [asyncio.create_task(wait()) for _ in range(MAX_PER_KEY)]
    await asyncio.sleep(0)
    with pytest.raises(Unavailable):
        async with locks.hold("a"):
            pass
    tasks[1].cancel()
    done.set()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert len(locks) == 0
