"""Who types in the rooms in scope. Spec: MSC4508, MSC3961."""

from collections.abc import Mapping
from typing import Any

from workers.synchrotron.rooms.typing_rooms import TypingRooms
from workers.synchrotron.sections.joined_section import typing_event
from workers.synchrotron.sliding.extensions.extension import NOTHING, Asked, Told


class Typing:
    name = "typing"
    per_room = True

    def __init__(self, typing: TypingRooms) -> None:
        self._typing = typing

    def check(self, parameters: Mapping[str, Any]) -> None:
        """It has no parameters of its own."""

    async def tell(self, asked: Asked, parameters: None) -> Told:
        rooms = {}
        since_seq = asked.span.since_seq
        for room in asked.rooms:
            typing = self._typing.get(room.room_id)
            if typing is None or room.membership.membership != "join":
                continue
            if room.initial:
                news = bool(typing.until_ms)
            else:
                # Without a number the client may have been told anything, by another process.
                news = not room.told or since_seq is None or typing.seq > since_seq
            if news:
                rooms[room.room_id] = typing_event(typing)
        return Told({"rooms": rooms}, empty=False) if rooms else NOTHING
