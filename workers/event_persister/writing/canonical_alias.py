"""Removal of a deleted alias from the canonical and alternative aliases of its room. client_api calls this."""

from replication.calls.rooms import REMOVE_CANONICAL_ALIAS, AliasRemoved, AliasToRemove
from shared.core.errors import AuthRuleViolation, not_found
from shared.core.identifiers import EventId, RoomId
from shared.core.rows import NO_DEVICE
from workers.event_persister.room.drafts import Draft
from workers.event_persister.room.live_room import LiveRoom
from workers.event_persister.room_writer import RoomWriter

_TYPE = "m.room.canonical_alias"


class CanonicalAliasRemoval:
    def __init__(self, writer: RoomWriter) -> None:
        self._writer = writer

    @REMOVE_CANONICAL_ALIAS.handler
    async def remove_canonical_alias(self, room_id: RoomId, removed: AliasToRemove) -> AliasRemoved:
        """Send m.room.canonical_alias without the alias in the user's name, where the user may.

        Raises M_NOT_FOUND for an unknown room.
        """

        async def remove(room: LiveRoom) -> EventId | None:
            entry = room.state.entry(_TYPE)
            if entry is None:
                return None
            present = (await self._writer.state_event(room, entry)).content
            content = dict(present)
            if content.get("alias") == removed.alias:
                del content["alias"]
            others = content.get("alt_aliases")
            if isinstance(others, list) and removed.alias in others:
                content["alt_aliases"] = [alias for alias in others if alias != removed.alias]
            if content == present:
                return None
            draft = Draft(sender=removed.user_id, type=_TYPE, state_key="", content=content, device=NO_DEVICE)
            try:
                return (await self._writer.write(room, [draft]))[-1]
            except AuthRuleViolation:
                return None

        absent = not_found("This room is not known here")
        return AliasRemoved(await self._writer.in_room(room_id, remove, absent=absent))
