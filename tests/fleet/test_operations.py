"""Operation of a fleet: status, metrics, health, killed workers, stop and restart."""

import asyncio
import json
import os
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from urllib.parse import quote

import pytest

from deploy.command.processes.worker_process import WORKER_TYPES
from load.harness.clients import RequestFailed, User, register
from shared.core.slots import SLOT_KINDS, SLOTS
from tests.fix_fleet import ROOT, RunningFleet, StartFleet
from tests.fix_patience import Patience
from tests.fleet.observing import PROGRAMS, get, metrics, wait_for_process, workers

#: The slots of a killed worker are served again within this time.
_OUTAGE_LIMIT_S = 5.0
_STOP_LIMIT_S = 10.0
_SENDERS = 6
#: Slow enough that the messages of the longest outage fit into one timeline.
_PACE_S = 0.08


def test_status_reports_processes_slots_positions_and_lag(fleet: RunningFleet) -> None:
    status = fleet.status()
    processes = {each["name"]: each for each in status["processes"]}
    assert {each["type"] for each in processes.values()} == {*WORKER_TYPES, *PROGRAMS}
    for each in processes.values():
        assert each.keys() >= {"name", "type", "pid", "host", "address", "ready"}
        assert each["ready"], each
        os.kill(each["pid"], 0)  # raises where there is no such process
    for kind, worker_type in SLOT_KINDS.items():
        covered = [slot for part in status["slots"][kind] for slot in range(part["first"], part["last"] + 1)]
        assert covered == list(range(SLOTS)), kind
        assert {processes[part["owner"]]["type"] for part in status["slots"][kind]} == {worker_type}
    streams = {each["name"]: each for each in status["streams"]}
    assert "events" in streams
    for stream in streams.values():
        assert stream["position"] >= 0
        assert stream["lag"] >= 0
    writers = {each["name"] for each in streams["events"]["writers"]}
    assert writers >= {name for name, each in processes.items() if each["type"] == "event_persister"}
    assert status["database"].startswith("postgres")
    assert "password" not in status["database"]


def test_status_as_text_names_every_process(fleet: RunningFleet) -> None:
    words = [sys.executable, "-m", "deploy.command.main", "status", "--config", str(fleet.config)]
    text = subprocess.run(words, cwd=ROOT, check=True, capture_output=True, text=True, timeout=20).stdout
    for each in fleet.status()["processes"]:
        assert each["name"] in text
    for word in ("LAG", "SLOTS", "POSITION"):
        assert word in text
    plain = subprocess.run([*words, "--json"], cwd=ROOT, check=True, capture_output=True, text=True, timeout=20).stdout
    assert json.loads(plain).keys() == fleet.status().keys()


def test_metrics_parse_and_health_answers_on_every_process(fleet: RunningFleet) -> None:
    for each in workers(fleet.status()):
        names = {family.name for family in metrics(each)}
        assert {"skep_http_requests", "skep_loop_blocked_seconds"} <= names, (each["name"], sorted(names))
        assert get(each["address"], "/health/live")[0] == 200, each["name"]
        assert get(each["address"], "/health/ready")[0] == 200, each["name"]


@pytest.mark.parametrize(
    "path",
    [
        "/metrics",
        "/health/live",
        "/health/ready",
        "/_skep/rate_limit/take",
        "/%5Fskep/rate_limit/take",
        "/_matrix/../metrics",
        "/_matrix/client/..%2f..%2fmetrics",
        "//metrics",
        "/./metrics",
    ],
)
def test_internal_pages_are_not_reachable_from_outside(fleet: RunningFleet, path: str) -> None:
    unchecked = ssl.create_default_context()
    unchecked.check_hostname, unchecked.verify_mode = False, ssl.CERT_NONE
    for url in (fleet.client_url, fleet.federation_url):
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(url + path, context=unchecked, timeout=10)
        assert refused.value.code in (400, 404)
        assert b'"errcode"' in refused.value.read()


@dataclass(slots=True)
class _Talker:
    """A client that sends one message after another and retries those that failed."""

    user: User
    room: str
    acknowledged: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    longest_s: float = 0.0

    async def talk(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            began_s = asyncio.get_running_loop().time()
            self.acknowledged.append(await self.say(len(self.acknowledged)))
            self.longest_s = max(self.longest_s, asyncio.get_running_loop().time() - began_s)
            await asyncio.sleep(_PACE_S)

    async def say(self, number: int) -> str:
        """Send message number n with its own transaction id until it is acknowledged; return the event id."""
        path = f"/_matrix/client/v3/rooms/{quote(self.room)}/send/m.room.message/n{number}"
        body = b'{"msgtype":"m.text","body":"%d"}' % number
        while True:
            try:
                status, answer = await self.user.connection.raw_request("PUT", path, body)
            except OSError as error:
                status, answer = 0, str(error).encode()
            if status == 200:
                return answer.decode().split('"')[3]
            assert status in (0, 502, 503, 504), f"{status} {answer.decode()}"  # the statuses after which clients retry
            self.failures.append(f"{status} {answer[:200].decode()}")
            await asyncio.sleep(0.1)

    async def history(self) -> list[str]:
        """Return the ids of the room's messages, oldest first."""
        found: list[str] = []
        start = ""
        while True:
            path = f"/_matrix/client/v3/rooms/{quote(self.room)}/messages?dir=f&limit=100{start}"
            page = await self.user.request("GET", path)
            found += [event["event_id"] for event in page["chunk"] if event["type"] == "m.room.message"]
            if "end" not in page or not page["chunk"]:
                return found
            start = f"&from={quote(page['end'])}"


@dataclass(slots=True)
class _Listener:
    """A client that long-polls /sync in the same room and retries after failures."""

    user: User
    since: str = ""
    seen: list[str] = field(default_factory=list)

    async def listen(self) -> None:
        while True:
            try:
                path = f"/_matrix/client/v3/sync?timeout=5000&filter={_FILTER}{self.since}"
                answer = await self.user.request("GET", path)
            except Exception:  # a worker that was killed under the request
                await asyncio.sleep(0.1)
                continue
            self.since = f"&since={quote(answer['next_batch'])}"
            for room in answer.get("rooms", {}).get("join", {}).values():
                self.seen += [e["event_id"] for e in room["timeline"]["events"] if e["type"] == "m.room.message"]


_FILTER = quote('{"room":{"timeline":{"limit":100}}}')


async def test_no_acknowledged_message_is_lost_when_workers_are_killed(
    start_fleet: StartFleet, patience: Patience
) -> None:
    fleet = start_fleet(fleet={"event_persister": 2, "synchrotron": 2})
    await _kill_one_after_another(fleet, patience)


async def _kill_one_after_another(fleet: RunningFleet, patience: Patience) -> None:
    talkers = await asyncio.gather(*(_talker(fleet, f"talker-{number}") for number in range(_SENDERS)))
    listeners = [_Listener(each.user.on_another_connection()) for each in talkers]
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        listening = [group.create_task(each.listen()) for each in listeners]
        talking = [group.create_task(each.talk(stop)) for each in talkers]
        for victim in ("event_persister-1", "synchrotron-1", "client_api-1", "event_persister-2"):
            await asyncio.sleep(1)
            old = fleet.processes()[victim]["pid"]
            fleet.kill(victim)
            await wait_for_process(fleet, partial(_is_new, victim, old))
            await _register_again(fleet, f"after-{victim}", patience(_OUTAGE_LIMIT_S))
        await asyncio.sleep(1)
        stop.set()
        await asyncio.wait(talking)  # each may still wait for the answer to its last message
        await _until_all_seen(talkers, listeners)
        for task in listening:
            task.cancel()
    for talker, listener in zip(talkers, listeners, strict=True):
        assert await talker.history() == talker.acknowledged, talker.failures
        assert listener.seen == talker.acknowledged
        assert talker.longest_s < patience(_OUTAGE_LIMIT_S), talker.failures


async def _register_again(fleet: RunningFleet, name: str, limit_s: float) -> None:
    """Register a user within the outage limit. A client retries after 503."""
    end_s = asyncio.get_running_loop().time() + limit_s
    while True:
        try:
            assert (await register(*_address(fleet), name)).user_id
            return
        except RequestFailed as error:
            if error.status != 503 or asyncio.get_running_loop().time() > end_s:
                raise
        await asyncio.sleep(0.1)


def _is_new(name: str, old_pid: int, process: dict[str, Any]) -> bool:
    return bool(process["name"] == name and process["ready"] and process["pid"] != old_pid)


async def _until_all_seen(talkers: list[_Talker], listeners: list[_Listener]) -> None:
    for _ in range(100):
        if all(len(one.seen) >= len(other.acknowledged) for one, other in zip(listeners, talkers, strict=True)):
            return  # the comparison shows events that were delivered twice
        await asyncio.sleep(0.1)


async def _talker(fleet: RunningFleet, name: str) -> _Talker:
    user = await register(*_address(fleet), name)
    room = await user.request("POST", "/_matrix/client/v3/createRoom", {"preset": "public_chat"})
    return _Talker(user, room["room_id"])


def _address(fleet: RunningFleet) -> tuple[str, int]:
    host, _, port = fleet.client_url.removeprefix("http://").partition(":")
    return host, int(port)


async def test_ctrl_c_stops_the_fleet_and_a_restart_keeps_its_data(start_fleet: StartFleet) -> None:
    fleet = start_fleet(fleet={"event_persister": 1})
    talker, first = await _say_something(fleet)
    pids = [each["pid"] for each in fleet.status()["processes"]]
    assert fleet.stop() < _STOP_LIMIT_S
    assert [pid for pid in pids if _is_alive(pid)] == []
    fleet.start_again()
    await _go_on(talker, first)


async def _say_something(fleet: RunningFleet) -> tuple[_Talker, str]:
    talker = await _talker(fleet, "early")
    event = await talker.say(0)
    talker.user.connection.close()
    return talker, event


async def _go_on(talker: _Talker, first: str) -> None:
    """Check that token, room and transaction id are still known, and that a new message follows the old one."""
    assert await talker.say(0) == first
    second = await talker.say(1)
    assert second != first
    assert await talker.history() == [first, second]
    answer = await talker.user.request("GET", "/_matrix/client/v3/sync")
    timeline = answer["rooms"]["join"][talker.room]["timeline"]["events"]
    assert [event["event_id"] for event in timeline][-2:] == [first, second]


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
