"""Receipts of the rooms in scope. Spec: MSC3960.

Of a room that is new to the client: those for the events that it gets with it, and the user's own.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from shared.storage.user_data.receipts import ReceiptRecord
from workers.synchrotron.rooms.room_cache import RoomCache
from workers.synchrotron.sections.joined_section import RoomSections, receipt_events
from workers.synchrotron.sliding.extensions.extension import NOTHING, Asked, RoomInScope, Told


class Receipts:
    name = "receipts"
    per_room = True

    def __init__(self, rooms: RoomCache, sections: RoomSections) -> None:
        self._rooms = rooms
        self._sections = sections

    def check(self, parameters: Mapping[str, Any]) -> None:
        """It has no parameters of its own."""

    async def tell(self, asked: Asked, parameters: None) -> Told:
        rooms = {}
        for one in asked.rooms:
            room = await self._rooms.get(one.room_id) if one.membership.membership == "join" else None
            if room is None:
                continue
            user = asked.user
            fresh = await self._sections.fresh_receipts(room, user.user_id, asked.span, everything=not one.told)
            if one.initial:
                fresh = _of_what_is_shown(fresh, one, user.user_id)
            if events := receipt_events(fresh, user.ignored_users):
                rooms[one.room_id] = _joined(events)
        return Told({"rooms": rooms}, empty=False) if rooms else NOTHING


def _of_what_is_shown(receipts: Sequence[ReceiptRecord], room: RoomInScope, user_id: str) -> list[ReceiptRecord]:
    shown = {event.event_id for event in room.timeline}
    return [receipt for receipt in receipts if receipt.event_id in shown or receipt.user_id == user_id]


def _joined(events: list[Any]) -> Any:
    """Return one m.receipt: the answer has place for one per room.

    Where one user has receipts of several threads for one event, of which it can hold one, the unthreaded is kept.
    """
    whole: dict[str, Any] = {}
    for event in sorted(events, key=_is_unthreaded):
        for event_id, kinds in event["content"].items():
            for kind, users in kinds.items():
                whole.setdefault(event_id, {}).setdefault(kind, {}).update(users)
    return {"type": "m.receipt", "content": whole}


def _is_unthreaded(event: Any) -> bool:
    return not any(
        "thread_id" in told
        for kinds in event["content"].values()
        for users in kinds.values()
        for told in users.values()
    )
