"""A slow and simple reading of rooms straight from the tables `events`, to hold the synchrotron against.

Written from the specification's text ("Room history visibility"); it shares nothing with the code under test but the
stored events.
"""

from dataclasses import dataclass, field
from typing import Any

import orjson

from shared.storage.pool import Database


@dataclass(slots=True)
class NaiveRoom:
    """events: all of the room, in order, with what the state was before and after each."""

    events: list[dict[str, Any]] = field(default_factory=list)
    before: list[dict[tuple[str, str], dict[str, Any]]] = field(default_factory=list)
    after: list[dict[tuple[str, str], dict[str, Any]]] = field(default_factory=list)

    def membership(self, state: dict[tuple[str, str], dict[str, Any]], user_id: str) -> str:
        event = state.get(("m.room.member", user_id))
        return event["content"]["membership"] if event else "leave"

    def visible(self, user_id: str) -> list[str]:
        """Return the ids of the events that the user may see, in order."""
        shown = []
        for index, event in enumerate(self.events):
            later = any(self.membership(state, user_id) == "join" for state in self.after[index:])
            joined_since = later or self.membership(self.before[index], user_id) == "join"
            views = [self.before[index]]
            if event["type"] == "m.room.history_visibility" or (
                event["type"] == "m.room.member" and event.get("state_key") == user_id
            ):
                views.append(self.after[index])
            if any(self._allows(view, user_id, joined_since) for view in views):
                shown.append(event["event_id"])
        return shown

    def _allows(self, state: Any, user_id: str, joined_since: bool) -> bool:
        setting = state.get(("m.room.history_visibility", ""))
        visibility = setting["content"]["history_visibility"] if setting else "shared"
        membership = self.membership(state, user_id)
        if visibility == "world_readable" or membership == "join":
            return True
        if visibility == "shared":
            return joined_since
        return visibility == "invited" and membership == "invite"

    def state_ids(self) -> dict[tuple[str, str], str]:
        return {key: event["event_id"] for key, event in self.after[-1].items()} if self.after else {}


async def read_naively(database: Database) -> dict[str, NaiveRoom]:
    rooms: dict[str, NaiveRoom] = {}
    state: dict[str, dict[tuple[str, str], dict[str, Any]]] = {}
    rows = await database.fetch(
        """SELECT r.room_id, e.event_id, e.json FROM events e JOIN rooms r USING (room_nid)
           ORDER BY e.room_nid, e.ordinal"""
    )
    for room_id, event_id, json in rows:
        room = rooms.setdefault(room_id, NaiveRoom())
        event = orjson.loads(json) | {"event_id": event_id}
        now = state.setdefault(room_id, {})
        room.events.append(event)
        room.before.append(dict(now))
        if "state_key" in event:
            now[(event["type"], event["state_key"])] = event
        room.after.append(dict(now))
    return rooms
