"""The extension for sticky events of the rooms that the request matches. Proposals: MSC4480, MSC4354.

They have a token of their own.
"""

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec

from replication.streams import EVENTS
from shared.core.identifiers import RoomId
from shared.core.sync_tokens.stream_token import StreamToken
from shared.core.sync_tokens.vector import Vector
from shared.http.request import convert
from shared.rooms.viewpoint import Viewpoint
from shared.storage.events.sticky import StickyEvent
from workers.synchrotron.rooms.room_cache import RoomCache
from workers.synchrotron.rooms.sticky_rooms import StickyRooms
from workers.synchrotron.sections.sticky_section import StickySections
from workers.synchrotron.sliding.extensions.extension import NO_RESULT, ExtensionContext, ExtensionResult
from workers.synchrotron.waiting.sync_tokens import SyncTokens, format_sync_token

_MAX_EVENTS = 100
_START = Vector()


class _Parameters(msgspec.Struct):
    limit: Annotated[int, msgspec.Meta(ge=1, le=2**53)] = _MAX_EVENTS
    since: str | None = None


class StickyEvents:
    """The extension."""

    name = "org.matrix.msc4354.sticky_events"
    per_room = True

    def __init__(self, rooms: RoomCache, sticky: StickyRooms, sections: StickySections, tokens: SyncTokens) -> None:
        self._rooms = rooms
        self._sticky = sticky
        self._sections = sections
        self._tokens = tokens

    def check(self, parameters: Mapping[str, Any]) -> _Parameters:
        return convert(parameters, _Parameters)

    async def build(self, context: ExtensionContext, parameters: _Parameters) -> ExtensionResult:
        since, now = _START, context.span.now.vector(EVENTS.name)
        if parameters.since:
            since = (await self._tokens.reach(parameters.since)).vector(EVENTS.name)
        unsent, earlier = self._find(context, since, now)
        if not unsent and not earlier:
            return NO_RESULT
        unsent.sort(key=lambda one: one[1].position)
        limit = min(parameters.limit, _MAX_EVENTS)
        reached = now if len(unsent) <= limit else now.capped(unsent[limit - 1][1].position)
        rooms: dict[str, Any] = {}
        by_room: dict[RoomId, list[StickyEvent]] = {}
        for room_id, event in (*unsent[:limit], *earlier):
            by_room.setdefault(room_id, []).append(event)
        for room_id, sticky in by_room.items():
            if events := await self._encode(context, room_id, sticky):
                rooms[room_id] = {"events": events}
        body: dict[str, Any] = {"next_batch": format_sync_token(StreamToken({EVENTS.name: reached}))}
        return ExtensionResult(body | {"rooms": rooms} if rooms else body, empty=not rooms)

    def _find(
        self, context: ExtensionContext, since: Vector, now: Vector
    ) -> tuple[list[tuple[RoomId, StickyEvent]], list[tuple[RoomId, StickyEvent]]]:
        """Return the events after the token, and earlier events of rooms that the user joined after the token."""
        memberships, now_ms = context.user.memberships, context.reader.now_ms
        joined = [
            room_id
            for room_id in self._sticky.rooms(now_ms)
            if room_id in memberships and memberships[room_id].membership == "join"
        ]
        if not joined:
            return [], []
        matched = context.matched()
        unsent: list[tuple[RoomId, StickyEvent]] = []
        earlier: list[tuple[RoomId, StickyEvent]] = []
        for room_id in joined:
            if room_id not in matched:
                continue
            member = memberships[room_id]
            is_new = not since.covers(member.writer, member.position)
            for event in self._sticky.of(room_id, now_ms):
                if not now.covers(event.writer, event.position):
                    continue
                if not since.covers(event.writer, event.position):
                    unsent.append((room_id, event))
                elif is_new:
                    earlier.append((room_id, event))
        return unsent, earlier

    async def _encode(self, context: ExtensionContext, room_id: RoomId, events: list[StickyEvent]) -> list[Any]:
        room = await self._rooms.get(room_id)
        if room is None:
            return []
        shown = {event.event_nid for one in context.rooms if one.room_id == room_id for event in one.timeline}
        member = context.user.memberships[room_id]
        view = Viewpoint(context.user.user_id, room.visibility, (), joined_throughout_from=member.ordinal)
        wanted = [event for event in events if event.event_nid not in shown]
        return await self._sections.encode(room, context.user, view, context.reader, wanted)
