"""The extensions for data beside the timelines of rooms: account data, receipts and typing."""

from collections.abc import Mapping, Sequence
from typing import Any

from shared.core.filters import EventFilter
from shared.core.identifiers import UserId
from shared.storage.user_data.receipts import ReceiptRecord
from workers.synchrotron.rooms.room_cache import RoomCache
from workers.synchrotron.rooms.typing_rooms import TypingRooms
from workers.synchrotron.sections.account_data import account_data_events, global_account_data
from workers.synchrotron.sections.room_extras import new_receipts, receipt_events, typing_event
from workers.synchrotron.sliding.extensions.extension import (
    NO_RESULT,
    ExtensionContext,
    ExtensionResult,
    RoomInScope,
)

_EVERYTHING = EventFilter()


class AccountData:
    """Account data, global and of the rooms in scope. Spec: MSC3959."""

    name = "account_data"
    per_room = True

    def check(self, parameters: Mapping[str, Any]) -> None:
        """Accept any parameters, since it has none of its own."""

    async def build(self, context: ExtensionContext, parameters: None) -> ExtensionResult:
        body: dict[str, Any] = {}
        if events := global_account_data(context.user, context.span, _EVERYTHING):
            body["global"] = events
        rooms = {}
        for room in context.rooms:
            if events := account_data_events(
                context.user, room.room_id, context.span, _EVERYTHING, everything=not room.was_sent
            ):
                rooms[room.room_id] = events
        if rooms:
            body["rooms"] = rooms
        return ExtensionResult(body, empty=False) if body else NO_RESULT


class Receipts:
    """Receipts of the rooms in scope. Spec: MSC3960.

    Of a room that is new to the client: the receipts for the events that it gets, and the user's own.
    """

    name = "receipts"
    per_room = True

    def __init__(self, rooms: RoomCache) -> None:
        self._rooms = rooms

    def check(self, parameters: Mapping[str, Any]) -> None:
        """Accept any parameters, since it has none of its own."""

    async def build(self, context: ExtensionContext, parameters: None) -> ExtensionResult:
        rooms = {}
        user = context.user
        for one in context.rooms:
            room = await self._rooms.get(one.room_id) if one.membership.membership == "join" else None
            if room is None:
                continue
            receipts = new_receipts(room, user.user_id, context.span, everything=not one.was_sent)
            if one.initial:
                receipts = _of_shown_events(receipts, one, user.user_id)
            if events := receipt_events(receipts, user.ignored_users):
                rooms[one.room_id] = _merged(events)
        return ExtensionResult({"rooms": rooms}, empty=False) if rooms else NO_RESULT


def _of_shown_events(receipts: Sequence[ReceiptRecord], room: RoomInScope, user_id: UserId) -> list[ReceiptRecord]:
    shown = {event.event_id for event in room.timeline}
    return [receipt for receipt in receipts if receipt.event_id in shown or receipt.user_id == user_id]


def _merged(events: list[Any]) -> Any:
    """Merge m.receipt events into one, since the response has one per room.

    It can hold one receipt of a user for an event. Of several threads' receipts the unthreaded one is kept.
    """
    content: dict[str, Any] = {}
    for event in sorted(events, key=_is_unthreaded):
        for event_id, kinds in event["content"].items():
            for kind, users in kinds.items():
                content.setdefault(event_id, {}).setdefault(kind, {}).update(users)
    return {"type": "m.receipt", "content": content}


def _is_unthreaded(event: Any) -> bool:
    return not any(
        "thread_id" in data
        for kinds in event["content"].values()
        for users in kinds.values()
        for data in users.values()
    )


class Typing:
    """The typing users of the rooms in scope. Spec: MSC4508, MSC3961."""

    name = "typing"
    per_room = True

    def __init__(self, typing: TypingRooms) -> None:
        self._typing = typing

    def check(self, parameters: Mapping[str, Any]) -> None:
        """Accept any parameters, since it has none of its own."""

    async def build(self, context: ExtensionContext, parameters: None) -> ExtensionResult:
        rooms = {}
        since_seq = context.span.since_seq
        for room in context.rooms:
            typing = self._typing.get(room.room_id)
            if typing is None or room.membership.membership != "join":
                continue
            if room.initial:
                changed = bool(typing.until_ms)
            else:
                # Without a seq, another process may have sent the client any typing users.
                changed = not room.was_sent or since_seq is None or typing.seq > since_seq
            if changed:
                rooms[room.room_id] = typing_event(typing)
        return ExtensionResult({"rooms": rooms}, empty=False) if rooms else NO_RESULT
