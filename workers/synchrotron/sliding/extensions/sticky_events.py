"""Sticky events of the rooms that the client is interested in. They have a token of their own. MSC4480, MSC4354."""

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec

from replication.streams import EVENTS
from shared.core.sync_tokens.stream_token import StreamToken
from shared.core.sync_tokens.vector import Vector
from shared.http.request import convert
from shared.rooms.viewpoint import Viewpoint
from shared.storage.events.sticky import StickyEvent
from workers.synchrotron.rooms.room_cache import RoomCache
from workers.synchrotron.rooms.sticky_rooms import StickyRooms
from workers.synchrotron.sections.sticky_section import StickySections
from workers.synchrotron.sliding.extensions.extension import NOTHING, Asked, Told
from workers.synchrotron.waiting.sync_tokens import Tokens, format_sync_token

_MOST = 100
_START = Vector()


class _Parameters(msgspec.Struct):
    limit: Annotated[int, msgspec.Meta(ge=1, le=2**53)] = _MOST
    since: str | None = None


class StickyEvents:
    name = "org.matrix.msc4354.sticky_events"
    per_room = True

    def __init__(self, rooms: RoomCache, sticky: StickyRooms, sections: StickySections, tokens: Tokens) -> None:
        self._rooms = rooms
        self._sticky = sticky
        self._sections = sections
        self._tokens = tokens

    def check(self, parameters: Mapping[str, Any]) -> _Parameters:
        return convert(parameters, _Parameters)

    async def tell(self, asked: Asked, parameters: _Parameters) -> Told:
        since, now = _START, asked.span.now.vector(EVENTS.name)
        if parameters.since:
            since = (await self._tokens.reach(parameters.since)).vector(EVENTS.name)
        fresh, others = self._fresh(asked, since, now)
        if not fresh and not others:
            return NOTHING
        fresh.sort(key=lambda one: one[1].position)
        limit = min(parameters.limit, _MOST)
        reached = now if len(fresh) <= limit else now.capped(fresh[limit - 1][1].position)
        rooms: dict[str, Any] = {}
        by_room: dict[str, list[StickyEvent]] = {}
        for room_id, event in (*fresh[:limit], *others):
            by_room.setdefault(room_id, []).append(event)
        for room_id, events in by_room.items():
            if told := await self._show(asked, room_id, events):
                rooms[room_id] = {"events": told}
        body: dict[str, Any] = {"next_batch": format_sync_token(StreamToken({EVENTS.name: reached}))}
        return Told(body | {"rooms": rooms} if rooms else body, empty=not rooms)

    def _fresh(
        self, asked: Asked, since: Vector, now: Vector
    ) -> tuple[list[tuple[str, StickyEvent]], list[tuple[str, StickyEvent]]]:
        """Return what was not told yet, and what was there already in rooms into which the user has come since."""
        memberships, now_ms = asked.user.memberships, asked.reader.now_ms
        joined = [
            room_id
            for room_id in self._sticky.rooms(now_ms)
            if room_id in memberships and memberships[room_id].membership == "join"
        ]
        if not joined:
            return [], []
        matched = asked.matched()
        fresh: list[tuple[str, StickyEvent]] = []
        others: list[tuple[str, StickyEvent]] = []
        for room_id in joined:
            if room_id not in matched:
                continue
            member = memberships[room_id]
            is_new = not since.covers(member.writer, member.position)
            for event in self._sticky.of(room_id, now_ms):
                if not now.covers(event.writer, event.position):
                    continue
                if not since.covers(event.writer, event.position):
                    fresh.append((room_id, event))
                elif is_new:
                    others.append((room_id, event))
        return fresh, others

    async def _show(self, asked: Asked, room_id: str, events: list[StickyEvent]) -> list[Any]:
        room = await self._rooms.get(room_id)
        if room is None:
            return []
        shown = {event.event_nid for one in asked.rooms if one.room_id == room_id for event in one.timeline}
        member = asked.user.memberships[room_id]
        view = Viewpoint(asked.user.user_id, room.visibility, (), joined_throughout_from=member.ordinal)
        wanted = [event for event in events if event.event_nid not in shown]
        return await self._sections.show(room, asked.user, view, asked.reader, wanted)
