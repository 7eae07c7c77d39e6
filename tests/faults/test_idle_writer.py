"""P6: a writer that is idle for any time delays no messages."""

import asyncio

import pytest

from shared.core.slots import slot_of
from tests.faults.traffic import Listener, ObservedFleet, Record, Sender, Traffic, new_room, new_users, now, p99

_ROOMS = 4
#: Allows for chance in the slowest of some hundred deliveries on a busy machine.
_NOISE_S = 0.05
_PACE_S = 0.5


@pytest.mark.parametrize("idle_s", [6.0, pytest.param(600.0, marks=pytest.mark.soak)])
async def test_idle_writer_delays_no_messages(
    observed: ObservedFleet, idle_s: float, capsys: pytest.CaptureFixture[str]
) -> None:
    """All messages go through one persister. The others, and all writers of other streams, are idle."""
    await observed.until_complete()
    members = list(await new_users(observed.fleet, f"idle{idle_s:.0f}", 3))
    record = Record()
    rows = await observed.fetch("SELECT slot, process FROM slots JOIN leases ON lease = owner WHERE kind = 'rooms'")
    owners = {row["slot"]: row["process"] for row in rows}
    rooms: list[str] = []
    while len(rooms) < _ROOMS:
        room = await new_room(record, members[0], ())
        if owners[slot_of(room)] == "event_persister-1":
            rooms.append(room)
            for other in members[1:]:
                await record.ask(other, "join", "POST", f"/join/{room}", {})
    senders = [Sender(user, rooms, record, _PACE_S) for user in members]
    listeners = [Listener(user.on_another_connection(), record, 20) for user in members]
    traffic = Traffic(record, senders, listeners, [])
    async with traffic.running():
        await asyncio.sleep(1.0)
        began_s = now()
        await asyncio.sleep(idle_s)
        ended_s = now()
        await asyncio.sleep(0.5)
    await traffic.check()
    assert record.failures == []
    share_s = (ended_s - began_s) / 3
    first = traffic.delays(began_s, began_s + share_s, rooms)
    last = traffic.delays(ended_s - share_s, ended_s, rooms)
    with capsys.disabled():
        print()
        for name, values in (("the first third", first), ("the last third", last)):
            print(
                f"{name:16} {len(values):5} deliveries, p50 {1000 * sorted(values)[len(values) // 2]:6.1f} ms,"
                f" p99 {1000 * p99(values):6.1f} ms, longest {1000 * max(values):6.1f} ms"
            )
    assert p99(last) < 1.2 * p99(first) + _NOISE_S
