"""A small client of the merged form, written from the MSC. It keeps its rooms from responses alone."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from shared.core.identifiers import RoomId
from tests.rigs.requests import Answer
from tests.rigs.synchrotron import Client

MERGED = "/_matrix/client/v4/sync"
DEPLOYED = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync"
EVERYTHING: Mapping[str, Any] = {"include": [{}]}


async def post(client: Client, path: str, body: Any, **query: Any) -> Answer:
    """Send a request to the client's synchrotron and return any response."""
    process = client.world.synchrotrons[client.synchrotron]
    token = f"{client.user_id}|{client.writes.device}"
    return await process.call("POST", path, query, token, orjson.dumps(body))


async def deployed(client: Client, pos: str | None = None, timeout: int = 0, **body: Any) -> Any:
    query = {"timeout": timeout, **({"pos": pos} if pos is not None else {})}
    answer = await post(client, DEPLOYED, body, **query)
    assert answer.status == 200, answer.body
    return answer.json


async def merged(client: Client, pos: str | None = None, timeout: int = 0, **body: Any) -> Any:
    answer = await post(client, MERGED, {**body, "timeout": timeout, **({"pos": pos} if pos is not None else {})})
    assert answer.status == 200, answer.body
    return answer.json


def merged_list(limit: int = 10, state: Mapping[str, Any] = EVERYTHING, **fields: Any) -> dict[str, Any]:
    return {"timeline_limit": limit, "required_state": state, **fields}


def deployed_list(limit: int = 10, state: Any = (("*", "*"),), **fields: Any) -> dict[str, Any]:
    return {"timeline_limit": limit, "required_state": state, **fields}


def bodies(room: Any) -> list[str]:
    return [event["content"].get("body", event["type"]) for event in room.get("timeline", ())]


def keys(room: Any) -> set[tuple[str, str]]:
    return {(event["type"], event["state_key"]) for event in room.get("required_state", ())}


@dataclass(slots=True)
class SeenRoom:
    """A room as the client shows it. timeline: event ids, oldest first, without a break since the last gap."""

    membership: str = ""
    timeline: list[str] = field(default_factory=list)
    state: dict[tuple[str, str], str] = field(default_factory=dict)
    name: str | None = None
    joined: int | None = None
    prev_batch: str | None = None
    bump_stamp: int = 0


@dataclass(slots=True)
class SlidingClient:
    """A client. body: the fields of its requests but `pos` and `timeout`.

    client: None if a subclass sends requests otherwise.
    doubled: events that came twice for no reason given.
    """

    client: Client | None
    body: dict[str, Any]
    pos: str | None = None
    rooms: dict[str, SeenRoom] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    doubled: list[str] = field(default_factory=list)

    async def sync(self, timeout: int = 0, **changes: Any) -> Any:
        """Make one request, apply the response and return it."""
        self.body |= changes
        answer = await self.ask(timeout)
        self.take_in(answer)
        return answer

    async def ask(self, timeout: int) -> Any:
        assert self.client is not None
        return await merged(self.client, self.pos, timeout, **self.body)

    def take_in(self, answer: Any) -> None:
        self.pos = answer["pos"]
        self.counts = {name: one["count"] for name, one in answer["lists"].items()}
        for room_id, told in answer["rooms"].items():
            self._take_room(room_id, told)

    def _take_room(self, room_id: RoomId, told: Any) -> None:
        if told.get("initial"):
            self.rooms[room_id] = SeenRoom()
        room = self.rooms[room_id]
        room.membership, room.bump_stamp = told["membership"], told["bump_stamp"]
        for event in told.get("required_state", ()):
            key = event["type"], event["state_key"]
            if "content" in event:
                room.state[key] = event["event_id"]
            else:
                room.state.pop(key, None)
        if "name" in told:
            room.name = told["name"]
        room.joined = told.get("joined_count", room.joined)
        self._take_timeline(room, told)

    def _take_timeline(self, room: SeenRoom, told: Any) -> None:
        events = [event["event_id"] for event in told.get("timeline", ())]
        if not events and not told.get("limited"):
            return
        if told.get("expanded_timeline"):
            known = set(room.timeline)
            assert events, told
            room.timeline = events + [one for one in room.timeline if one not in events] if not known else events
        elif told.get("limited"):
            room.timeline = events
        else:
            self.doubled += [event for event in events if event in room.timeline]
            room.timeline += events
        if told.get("limited") or told.get("initial") or told.get("expanded_timeline"):
            room.prev_batch = told["prev_batch"]
