"""Long work on the loop lets other requests run."""

import asyncio
from typing import Any

import orjson
import pytest

from shared.core.room_versions import get_room_version
from shared.rooms import decoding
from shared.rooms.decoding import events_from_rows
from shared.runtime.slices import Slices


async def _turns_of_others_during(work: Any) -> int:
    turns, done = 0, False

    async def others() -> None:
        nonlocal turns
        while not done:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(others())
    await asyncio.sleep(0)
    before = turns
    await work
    done = True
    await task
    return turns - before


async def test_slice_that_is_over_lets_others_run() -> None:
    async def work(slice_s: float) -> None:
        slices = Slices(slice_s)
        for _ in range(100):
            await slices.rest()

    assert await _turns_of_others_during(work(0.0)) >= 100
    assert await _turns_of_others_during(work(60.0)) <= 1


async def test_others_run_while_hostile_events_are_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has twenty thousand empty arrays and takes milliseconds."""
    version = get_room_version("10")
    pdu = {
        "type": "m.room.message",
        "sender": "@a:x",
        "room_id": "!r:x",
        "content": {"a": [[]] * 20_000},
        "origin_server_ts": 1,
        "depth": 1,
        "hashes": {},
        "signatures": {},
        "auth_events": [],
        "prev_events": [],
    }
    json = orjson.dumps(pdu)
    decoded: list[bytes] = []

    def decode(_: Any, row: bytes) -> Any:
        return decoded.append(orjson.dumps(orjson.loads(row)))

    monkeypatch.setattr(decoding, "event_from_row", decode)
    turns = await _turns_of_others_during(events_from_rows(version, [json] * 60))  # type: ignore[list-item]
    assert len(decoded) == 60
    assert turns > 3


async def test_many_long_requests_run_one_slice_in_a_turn_of_the_loop() -> None:
    """Else a short request would wait for a slice of each of them, in each of its steps."""
    slices_in_turn: list[int] = []
    ran, done = 0, False

    async def long_work() -> None:
        nonlocal ran
        slices = Slices(0.0)
        for _ in range(20):
            await slices.rest()
            ran += 1

    async def turns() -> None:
        nonlocal ran
        while not done:
            ran = 0
            await asyncio.sleep(0)
            slices_in_turn.append(ran)

    counting = asyncio.create_task(turns())
    await asyncio.gather(*(long_work() for _ in range(16)))
    done = True
    await counting
    assert max(slices_in_turn) == 1
    assert sum(slices_in_turn) >= 16 * 20 - 1


async def test_cancelled_long_request_leaves_the_lane_to_others() -> None:
    async def long_work() -> None:
        slices = Slices(0.0)
        while True:
            await slices.rest()

    tasks = [asyncio.create_task(long_work()) for _ in range(3)]
    await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    await Slices(0.0).rest()
