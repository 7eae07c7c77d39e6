"""A persister is killed or stopped at each stage of a write: acknowledged events are stored once, in order.

Architecture page, P2 and section 9: a killed worker's slots are unavailable for 5 s at most, no acknowledged event is
lost or stored twice, and a client that retries with its transaction id gets its answer.
"""

import asyncio
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from shared.runtime.fault_points import VARIABLE, arm, reach
from tests.fix_fleet import RunningFleet, run_fleet
from tests.fix_patience import Patience
from tests.fleet.people import Person, register
from tests.rigs.waiting import wait_until
from tests.room_checks import assert_fleet_rooms_agree

POINTS = ("built", "submitted", "before the statement", "after the statement", "committed", "announced")
_LIMIT_S = 25.0


@dataclass(slots=True)
class Sender:
    """A user who sends one event after another into a room and retries each until it is acknowledged."""

    person: Person
    room_id: str
    acknowledged: dict[str, str] = field(default_factory=dict)  # text -> event id, in the order of sending
    topic: str = ""
    longest_s: float = 0.0

    def talk(self, stop: threading.Event, name: str) -> None:
        number = 0
        while not stop.is_set():
            number += 1
            text = f"{name} {number}"
            if number % 5 == 0:
                self._until_answered("PUT", f"/rooms/{quote(self.room_id)}/state/m.room.topic/", {"topic": text})
                self.topic = text
            path = f"/rooms/{quote(self.room_id)}/send/m.room.message/{quote(text)}"
            self.acknowledged[text] = self._until_answered("PUT", path, {"msgtype": "m.text", "body": text})

    def _until_answered(self, method: str, path: str, body: Any) -> str:
        began = time.monotonic()
        while True:
            status = 0
            try:
                answer = self.person.call(method, path, body)
                status = answer.status
            except OSError:
                pass  # the connection was cut
            if status == 200:
                self.longest_s = max(self.longest_s, time.monotonic() - began)
                event_id: str = answer.json()["event_id"]
                return event_id
            assert status in (0, 502, 503, 504), answer
            assert time.monotonic() - began < _LIMIT_S, (status, path)
            time.sleep(0.1)


@pytest.fixture(scope="module")
def orders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("faults") / "orders"


@pytest.fixture(scope="module")
def breakable(orders: Path) -> Iterator[RunningFleet]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, str(orders))
        none = dict.fromkeys(("federation_reader", "federation_sender", "background", "media"), 0)
        yield from run_fleet(
            {
                "fleet": {"event_persister": 2, "synchrotron": 1, **none},
                "replication": {"heartbeat_s": 0.5, "dead_after_s": 1.5},
                "testing": {"fault_points": True},
            }
        )


@pytest.fixture(scope="module")
def senders(breakable: RunningFleet) -> list[Sender]:
    made = []
    for name in ("ann", "ben", "cleo", "dan"):
        person = register(breakable, name)
        end = time.monotonic() + _LIMIT_S
        while (answer := person.call("POST", "/createRoom", {"preset": "public_chat"})).status != 200:
            assert time.monotonic() < end, breakable.logs()
            time.sleep(0.1)
        made += [Sender(person, answer.json()["room_id"]), Sender(person, person.create_room())]
    return made


@contextmanager
def talking(senders: list[Sender], name: str) -> Iterator[None]:
    """Run all senders during the block, and wait until each room works again at its end."""
    stop = threading.Event()
    with ThreadPoolExecutor(len(senders)) as pool:
        talks = [pool.submit(sender.talk, stop, f"{name} {n}") for n, sender in enumerate(senders)]
        try:
            time.sleep(0.2)
            yield
            before = [len(sender.acknowledged) for sender in senders]
            wait_until(
                lambda: all(len(s.acknowledged) >= b + 3 for s, b in zip(senders, before, strict=True)),
                "a room did not recover",
            )
        finally:
            stop.set()
        for talk in talks:
            talk.result()


def _give(orders: Path, order: str) -> None:
    fresh = orders.with_suffix(".new")
    fresh.write_text(order)
    fresh.rename(orders)


@pytest.mark.parametrize("point", POINTS)
async def test_no_acknowledged_event_is_lost_when_killed_at(
    breakable: RunningFleet, senders: list[Sender], orders: Path, point: str, patience: Patience
) -> None:
    pids = {name: each["pid"] for name, each in breakable.processes().items()}

    def changed() -> set[str]:
        return {name for name, pid in pids.items() if _pid(breakable, name) != pid}

    with talking(senders, point):
        _give(orders, f"{point} kill")
        wait_until(changed, "no persister was killed")
    assert len(changed()) == 1 and changed() < {"event_persister-1", "event_persister-2"}
    assert not orders.exists()  # noqa: ASYNC240
    assert max(sender.longest_s for sender in senders) < patience(8.0)
    await check_rooms_of(breakable, senders)


@pytest.mark.parametrize("point", ["before the statement", "after the statement"])
async def test_no_acknowledged_event_is_lost_when_stopped_at(
    breakable: RunningFleet, senders: list[Sender], orders: Path, point: str
) -> None:
    """The process is stopped in the middle of a write and continues there after its lease has expired."""
    pids = {_pid(breakable, name) for name in ("event_persister-1", "event_persister-2")}
    with talking(senders, f"stopped {point}"):
        _give(orders, f"{point} stop")
        wait_until(lambda: any(_stands_still(pid) for pid in pids), "no persister was stopped")
        [asleep] = [pid for pid in pids if pid is not None and _stands_still(pid)]
        await asyncio.sleep(3.0)
        os.kill(asleep, signal.SIGCONT)
    assert {_pid(breakable, name) for name in ("event_persister-1", "event_persister-2")} == pids
    wait_until(lambda: _rejoined(breakable), "the persister did not rejoin the fleet")
    await check_rooms_of(breakable, senders)


def _stands_still(pid: int | None) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def _rejoined(fleet: RunningFleet) -> bool:
    persisters = [each for each in fleet.status()["processes"] if each["type"] == "event_persister"]
    return len(persisters) == 2 and all(each["ready"] for each in persisters)


async def check_rooms_of(fleet: RunningFleet, senders: list[Sender]) -> None:
    """Check that acknowledged events are stored once, in their sender's order, and that the rooms are consistent."""
    for sender in senders:
        events = _timeline(sender)
        ids = [event["event_id"] for event in events]
        assert len(ids) == len(set(ids))
        sent = [(e["content"]["body"], e["event_id"]) for e in events if e["type"] == "m.room.message"]
        assert sent == list(sender.acknowledged.items())
        topics = [event["content"]["topic"] for event in events if event["type"] == "m.room.topic"]
        # PUT of state has no transaction id. A retry with the current content makes no second event.
        assert len(topics) == len(set(topics)) and topics[-1] == sender.topic
        state = sender.person.ask_again("GET", f"/rooms/{quote(sender.room_id)}/state")
        assert len({(event["type"], event["state_key"]) for event in state}) == len(state)
        latest = {(e["type"], e["state_key"]): e["event_id"] for e in events if "state_key" in e}
        assert {(e["type"], e["state_key"]): e["event_id"] for e in state} == latest
        synced = sender.person.ask_again("GET", "/sync?timeout=0&filter=" + quote('{"room":{"timeline":{"limit":5}}}'))
        tail = synced["rooms"]["join"][sender.room_id]["timeline"]["events"]
        assert [event["event_id"] for event in tail] == ids[-len(tail) :]
    await assert_fleet_rooms_agree(fleet)


def _timeline(sender: Sender) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = []
    place = ""
    while True:
        page = sender.person.ask_again("GET", f"/rooms/{quote(sender.room_id)}/messages?dir=f&limit=1000{place}")
        events += page["chunk"]
        if not page["chunk"]:
            return events
        place = f"&from={quote(page['end'])}"


def _pid(fleet: RunningFleet, name: str) -> int | None:
    pid: int | None = fleet.processes().get(name, {}).get("pid")
    return pid


def test_fault_points_need_both_setting_and_variable(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="belong together"):
        arm(False, {VARIABLE: str(tmp_path / "orders")})
    with pytest.raises(ValueError, match="belong together"):
        arm(True, {})
    # A refused start arms nothing: this process ignores the order.
    (tmp_path / "orders").write_text("built kill")
    reach("built")
    assert (tmp_path / "orders").exists()
