"""A slow and simple reading of rooms from `events` and `state_changes`, to compare the synchrotron with.

It follows the text of the specification ("Room history visibility") and shares nothing with the code under test but
the stored events.
"""

from dataclasses import dataclass, field
from typing import Any

import orjson

from shared.storage.engine.pool import Database


@dataclass(slots=True)
class NaiveRoom:
    """A room's whole timeline in order, with the state before and after each event.

    once_left: keys that left the state at some time. The protocol cannot tell clients so.
    """

    events: list[dict[str, Any]] = field(default_factory=list)
    before: list[dict[tuple[str, str], dict[str, Any]]] = field(default_factory=list)
    after: list[dict[tuple[str, str], dict[str, Any]]] = field(default_factory=list)
    once_left: set[tuple[str, str]] = field(default_factory=set)

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
                # The event's own value counts, whether it became state or not.
                views.append(self.before[index] | {(event["type"], event["state_key"]): event})
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
        """SELECT r.room_id, e.ordinal, e.event_id, e.json FROM events e JOIN rooms r USING (room_nid)
           WHERE e.ordinal IS NOT NULL ORDER BY e.room_nid, e.ordinal"""
    )
    changes = await database.fetch(
        """SELECT r.room_id, c.ordinal, c.type, c.state_key, e.event_id, e.json
           FROM state_changes c JOIN rooms r USING (room_nid) LEFT JOIN events e USING (room_nid, event_nid)"""
    )
    by_place: dict[tuple[str, int], list[Any]] = {}
    for change in changes:
        by_place.setdefault((change["room_id"], change["ordinal"]), []).append(change)
    for room_id, ordinal, event_id, json in rows:
        room = rooms.setdefault(room_id, NaiveRoom())
        now = state.setdefault(room_id, {})
        room.events.append(orjson.loads(json) | {"event_id": event_id})
        room.before.append(dict(now))
        for change in by_place.get((room_id, ordinal), ()):
            key = (change["type"], change["state_key"])
            if change["event_id"] is None:
                del now[key]
                room.once_left.add(key)
            else:
                now[key] = orjson.loads(change["json"]) | {"event_id": change["event_id"]}
        room.after.append(dict(now))
    return rooms
