"""A client that keeps what /sync sends, by the rules of the specification, and checks it."""

import copy
from dataclasses import dataclass, field
from typing import Any

from shared.core.identifiers import RoomId
from tests.rigs.synchrotron import Client


@dataclass(slots=True)
class ModelRoom:
    timeline: list[str] = field(default_factory=list)
    state: dict[tuple[str, str], str] = field(default_factory=dict)


@dataclass(slots=True)
class ModelClient:
    """A client. It fills gaps at once by paging back from `prev_batch`.

    query: parameters of each sync.
    after_gap: events with missing events before them, which no timeline may cross.
    page_query: parameters of each page that fills a gap.
    """

    client: Client
    query: dict[str, Any]
    page_size: int
    after_gap: set[str] = field(default_factory=set)
    token: str | None = None
    rooms: dict[str, ModelRoom] = field(default_factory=dict)
    saved: tuple[str | None, dict[str, ModelRoom]] = (None, {})
    gaps: int = 0
    page_query: dict[str, Any] = field(default_factory=dict)

    def save(self) -> None:
        """Keep this point, as an application does that is closed and opened again."""
        self.saved = (self.token, copy.deepcopy(self.rooms))

    def go_back(self) -> None:
        self.token, self.rooms = self.saved[0], copy.deepcopy(self.saved[1])

    async def sync(self, **query: Any) -> bool:
        """Sync once. Return True if rooms had updates."""
        answer = await self.client.sync(self.token, **(self.query | query))
        for part in ("leave", "invite", "knock"):  # after a kick and another invitation only the invitation is sent
            for room_id, section in answer["rooms"][part].items():
                self._gone(part, room_id, section)
        for room_id, section in answer["rooms"]["join"].items():
            await self._take(room_id, section)
        self.token = answer["next_batch"]
        return any(answer["rooms"].values())

    def _gone(self, part: str, room_id: RoomId, section: Any) -> None:
        """Drop a room that the user is not in."""
        self.rooms.pop(room_id, None)

    async def _take(self, room_id: RoomId, section: Any) -> None:
        room = self.rooms.setdefault(room_id, ModelRoom())
        events = section["timeline"]["events"]
        ids = [event["event_id"] for event in events]
        filled: list[str] = []
        assert not self.after_gap & set(ids[1:]), "the timeline goes across a gap"
        assert section["timeline"]["limited"] or not self.after_gap & set(ids[:1]), "the gap is not told"
        if section["timeline"]["limited"]:
            self.gaps += 1
            filled = await self._fill(room_id, room, section["timeline"]["prev_batch"])
        new = [*filled, *ids]
        assert not set(new) & set(room.timeline), "an event came twice"
        assert len(set(new)) == len(new), "an event came twice in one answer"
        room.timeline += new
        if "state_after" in section:
            _apply(room, section["state_after"]["events"])
        else:
            _apply(room, section["state"]["events"])
            _apply(room, [event for event in events if "state_key" in event])

    async def _fill(self, room_id: RoomId, room: ModelRoom, token: str) -> list[str]:
        """Page back from the end of a gap to the known events."""
        known = set(room.timeline)
        found: list[str] = []
        place: str | None = token
        while place is not None:
            query = {**self.page_query, "from": place}
            page = await self.client.room(room_id, "messages", dir="b", limit=self.page_size, **query)
            assert page.status == 200, page.body
            for event in page.json["chunk"]:
                if event["event_id"] in known:
                    return found[::-1]
                found.append(event["event_id"])
            place = page.json.get("end")
        return found[::-1]


def _apply(room: ModelRoom, events: list[Any]) -> None:
    for event in events:
        room.state[(event["type"], event["state_key"])] = event["event_id"]
