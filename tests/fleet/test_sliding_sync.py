"""Classic and sliding sync on a fleet while messages are sent and both synchrotrons are killed in turn.

Three clients keep a correct room list and timelines: matrix-js-sdk with classic sync, its SlidingSync (the deployed
form), and a client of the merged form.
"""

import asyncio
import itertools
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.fix_fleet import RunningFleet
from tests.fleet.clients.js_client import JsClient, JsProcess
from tests.fleet.people import Person, register
from tests.fleet.raw_http import call
from tests.workers.synchrotron.sliding_client import MERGED, SlidingClient, merged_list

_PASSWORD = "correct horse battery"
_LIMIT_S = 30.0
_ROOMS = 5


@dataclass(slots=True)
class HttpSlidingClient(SlidingClient):
    """A client of the merged form for a fleet. failures: statuses other than 200; each request is retried."""

    person: Person | None = None
    failures: list[int] = field(default_factory=list)

    async def ask(self, timeout: int) -> Any:
        assert self.person is not None
        body = {**self.body, "timeout": timeout, **({"pos": self.pos} if self.pos is not None else {})}
        end = time.monotonic() + _LIMIT_S
        while True:
            try:
                token = self.person.token
                answer = await asyncio.to_thread(call, self.person.url, "POST", MERGED, token=token, body=body)
            except OSError:
                status = 0
            else:
                if answer.status == 200:
                    return answer.json()
                status = answer.status
            self.failures.append(status)
            assert status in (0, 502, 503, 504), answer
            assert time.monotonic() < end
            await asyncio.sleep(0.1)


@dataclass(slots=True)
class Talk:
    """A user who sends messages, reactions, room names and typing.

    sent: event ids of messages, by room
    names: the latest name of each room
    """

    person: Person
    rooms: list[str]
    sent: dict[str, list[str]] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    done: bool = False

    async def run(self) -> None:
        for number in itertools.count():
            if self.done:
                return
            room_id = self.rooms[number * 7 % len(self.rooms)]
            answer = await asyncio.to_thread(
                self.person.send, room_id, f"t{number}", {"msgtype": "m.text", "body": str(number)}
            )
            assert answer.status == 200, answer
            self.sent.setdefault(room_id, []).append(answer.json()["event_id"])
            if number % 7 == 3:
                relation = {"rel_type": "m.annotation", "event_id": self.sent[room_id][-1], "key": str(number)}
                content = {"m.relates_to": relation}
                answer = await asyncio.to_thread(self.person.send, room_id, f"r{number}", content, "m.reaction")
                assert answer.status == 200, answer
                path = f"/rooms/{quote(room_id, safe='')}/typing/{quote(self.person.user_id, safe='')}"
                await asyncio.to_thread(self.person.ask, "PUT", path, {"typing": True, "timeout": 2000})
            if number % 10 == 9:
                self.names[room_id] = f"name {number}"
                path = f"/rooms/{quote(room_id, safe='')}/state/m.room.name/"
                await asyncio.to_thread(self.person.ask, "PUT", path, {"name": self.names[room_id]})
            await asyncio.sleep(0.02)


def timeline_of(person: Person, room_id: str) -> list[str]:
    """Return the ids of all events in the room, oldest first, from /messages."""
    page = person.ask_again("GET", f"/rooms/{quote(room_id, safe='')}/messages?dir=f&limit=100")
    found = [event["event_id"] for event in page["chunk"]]
    while page["chunk"]:
        page = person.ask_again("GET", f"/rooms/{quote(room_id, safe='')}/messages?dir=f&limit=100&from={page['end']}")
        found += [event["event_id"] for event in page["chunk"]]
    return found


async def kill_in_turn(fleet: RunningFleet, talk: Talk, pause_s: float) -> None:
    for name in ("synchrotron-1", "synchrotron-2"):
        await asyncio.sleep(pause_s)
        before = fleet.processes()[name]["pid"]
        fleet.kill(name)
        end = time.monotonic() + _LIMIT_S
        while fleet.processes().get(name, {}).get("pid") in (None, before):  # the supervisor starts another
            assert time.monotonic() < end
            await asyncio.sleep(0.1)
        await asyncio.sleep(pause_s)
    talk.done = True


async def conversation(fleet: RunningFleet, js_clients: Path, log: Path, pause_s: float) -> None:
    bob = register(fleet, f"bob{pause_s:.0f}".replace(".", ""))
    async with JsProcess.running(js_clients, log) as process:
        alice = JsClient(process, fleet.client_url, f"alice{pause_s:.0f}")
        await alice.register(_PASSWORD)
        dora = JsClient(process, fleet.client_url, f"dora{pause_s:.0f}")
        await dora.register(_PASSWORD)
        carol = HttpSlidingClient(None, {"lists": {"all": merged_list(50)}}, person=register(fleet, f"c{pause_s:.0f}"))
        assert carol.person is not None
        rooms = [bob.create_room(name=f"room {number}") for number in range(_ROOMS)]
        for room_id in rooms:
            await alice.join(room_id)
            await dora.join(room_id)
            carol.person.ask("POST", f"/rooms/{quote(room_id, safe='')}/join", {})
        state = [["*", "*"]]
        lists = {"all": {"ranges": [[0, 1]], "timeline_limit": 50, "required_state": state, "filters": {}}}
        await alice.start_sliding(lists, {"timeline_limit": 50, "required_state": state})
        await alice.set_ranges("all", [[0, 1], [2, 9]])
        await dora.start(50)
        talk = Talk(bob, rooms)
        talking = asyncio.create_task(talk.run())

        async def listen() -> None:
            while not (talk.done and talking.done()):
                await carol.sync(500)
            while (await carol.sync())["rooms"]:
                pass

        listening = asyncio.create_task(listen())
        await kill_in_turn(fleet, talk, pause_s)
        await asyncio.gather(talking, listening)
        for room_id, events in talk.sent.items():
            for each in (alice, dora):
                await each.wait_event(room_id, events[-1], _LIMIT_S)
        truth = {room_id: timeline_of(bob, room_id) for room_id in rooms}
        assert not carol.doubled and sum(map(len, talk.sent.values())) > 20
        latest = sorted(rooms, key=lambda room_id: -carol.rooms[room_id].bump_stamp)
        for room_id in rooms:
            mine = carol.rooms[room_id]
            assert mine.timeline == truth[room_id][-len(mine.timeline) :]
            assert len(mine.timeline) >= len(talk.sent[room_id])
            assert mine.name == talk.names.get(room_id, mine.name)
        for each in (alice, dora):
            view = await each.view(rooms)
            assert not view.faults
            for room_id in rooms:
                seen = view.rooms[room_id]
                assert seen is not None
                assert [event.event_id for event in seen.events] == truth[room_id]
                assert seen.name == talk.names.get(room_id, seen.name)
        shown = await alice.room_list()
        assert [room["room_id"] for room in shown] == latest
        assert {room["room_id"]: room["name"] for room in shown} == {room: carol.rooms[room].name for room in rooms}
        assert {room["room_id"]: room["count"] for room in shown} == {
            room_id: len(events) for room_id, events in talk.sent.items()
        }
        for each in (alice, dora):
            await each.stop()


async def test_clients_keep_correct_lists_and_timelines_through_kills(
    restless_fleet: RunningFleet, js_clients: Path, tmp_path: Path
) -> None:
    await conversation(restless_fleet, js_clients, tmp_path / "node.log", 1.0)


@pytest.mark.soak
async def test_clients_keep_correct_lists_and_timelines_for_minutes(
    restless_fleet: RunningFleet, js_clients: Path, tmp_path: Path
) -> None:
    await conversation(restless_fleet, js_clients, tmp_path / "node.log", 150.0)
