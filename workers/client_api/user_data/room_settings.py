"""Copies a user's settings for a room (tags, push rules, direct chats) to the room that replaces it.

A background worker calls this once the user has joined the new room. Spec: client-server API, "Room Upgrades".
"""

from typing import Any

import orjson

from replication.calls.users import COPY_ROOM_SETTINGS, RoomSettings, SettingsCopied
from shared.core.identifiers import RoomId, UserId
from shared.core.rows import GLOBAL
from shared.storage.engine.pool import Database
from shared.storage.rooms.upgrades import is_successor
from workers.client_api.user_data.account_data_writer import AccountDataWriter
from workers.client_api.user_data.push_rules_writer import PushRulesWriter

_TAGS, _DIRECT = "m.tag", "m.direct"


class RoomSettingsCopy:
    def __init__(self, database: Database, writer: AccountDataWriter, rules: PushRulesWriter) -> None:
        self._database = database
        self._writer = writer
        self._rules = rules

    @COPY_ROOM_SETTINGS.handler
    async def copy_room_settings(self, user_id: UserId, rooms: RoomSettings) -> SettingsCopied:
        """Copy a user's settings to the room that replaced another one.

        Nothing changes unless the old room itself names the new one: anybody can create a room that claims to be a
        successor. Newer settings of the user stay. A rule that they have deleted since comes back when they join
        again.
        """
        old, new = RoomId(rooms.old_room_id), RoomId(rooms.new_room_id)
        if not await is_successor(self._database, old, new):
            return SettingsCopied(copied=False)
        tags = await self._writer.get(user_id, old, _TAGS)
        if tags is not None:
            await self._writer.change(user_id, new, _TAGS, lambda present: tags if present is None else None)
        await self._writer.change(user_id, GLOBAL, _DIRECT, lambda present: _with_room(present, old, new))
        await self._rules.copy_room_rules(user_id, old, new)
        return SettingsCopied(copied=True)


def _with_room(present: bytes | None, old: RoomId, new: RoomId) -> bytes | None:
    """Return m.direct with the new room after the old one; None if nothing has to change."""
    content: Any = orjson.loads(present) if present is not None else None
    if not isinstance(content, dict):
        return None
    changed = {
        user: [*rooms, new]
        for user, rooms in content.items()
        if isinstance(rooms, list) and old in rooms and new not in rooms
    }
    return orjson.dumps({**content, **changed}) if changed else None
