"""What a user has set for a room holds for the room that it was upgraded to: tags, push rules, direct chats.

A background worker asks for it once he has joined the new room. Spec: client-server API, "Room Upgrades".
"""

from typing import Any, Protocol

import orjson

from replication.calls import RoomSettings
from shared.http.request import Request, Response, empty_response
from shared.storage.engine.pool import Database
from shared.storage.rooms.upgrades import is_successor
from workers.client_api.user_data.account_data_writer import AccountDataWriter

_TAGS, _DIRECT = "m.tag", "m.direct"


class RoomRules(Protocol):
    """Copies push rules."""

    async def copy_room_rules(self, user_id: str, old_room_id: str, new_room_id: str) -> None:
        """Let the rules about one room stand for another one too. Again is no matter."""
        ...


class RoomSettingsCopy:
    def __init__(self, database: Database, writer: AccountDataWriter, rules: RoomRules) -> None:
        self._database = database
        self._writer = writer
        self._rules = rules

    async def copy_room_settings(self, request: Request) -> Response:
        """PUT /_skep/users/{userId}/room_settings: `RoomSettings` in. Nothing happens where the old room knows nothing
        of the new one: anybody can make a room that claims to be a successor. What the user has set since stays; a
        rule that he deleted since comes back when he joins again.
        """
        user_id, rooms = request.params["userId"], request.decode(RoomSettings)
        old, new = rooms.old_room_id, rooms.new_room_id
        if not await is_successor(self._database, old, new):
            return empty_response()
        tags = await self._writer.get(user_id, old, _TAGS)
        if tags is not None:
            await self._writer.change(user_id, new, _TAGS, lambda present: tags if present is None else None)
        await self._writer.change(user_id, "", _DIRECT, lambda present: _with_room(present, old, new))
        await self._rules.copy_room_rules(user_id, old, new)
        return empty_response()


def _with_room(present: bytes | None, old: str, new: str) -> bytes | None:
    """Return m.direct with the new room beside the old one; None when nothing has to change."""
    content: Any = orjson.loads(present) if present is not None else None
    if not isinstance(content, dict):
        return None
    changed = {
        user: [*rooms, new]
        for user, rooms in content.items()
        if isinstance(rooms, list) and old in rooms and new not in rooms
    }
    return orjson.dumps({**content, **changed}) if changed else None
