"""GET /rooms/{roomId}/messages, /context/{eventId} and /event/{eventId}.

Spec: client-server API, "Getting events for a room".
"""

from collections.abc import Sequence
from typing import Any

from shared.core.errors import MatrixError, invalid_param, missing_param, not_found
from shared.core.filters import EventFilter
from shared.http.request import Request, Response, json_response
from shared.runtime.clock import Clock
from shared.storage.pool import Database
from shared.storage.read_state import get_current_state_events, get_keys_before, get_state_before
from shared.storage.read_timeline import get_timeline_event
from workers.synchrotron.history_page import page_back, page_forward, parse_event_filter
from workers.synchrotron.place_of_token import place_of_token
from workers.synchrotron.place_token import format_place
from workers.synchrotron.room_view import RoomView, open_room
from workers.synchrotron.shown_event import Reader, matches, shown_event
from workers.synchrotron.timeline_event import MEMBER, TimelineEvent
from workers.synchrotron.tokens import Tokens

_DEFAULT_LIMIT = 10


class Messages:
    def __init__(self, database: Database, tokens: Tokens, clock: Clock, max_events: int) -> None:
        self._database = database
        self._tokens = tokens
        self._clock = clock
        self._max_events = max_events

    async def get_room_messages(self, request: Request) -> Response:
        """Raises M_FORBIDDEN, M_MISSING_PARAM, M_INVALID_PARAM, M_BAD_JSON."""
        direction = request.query_choice("dir", ("b", "f"))
        if direction is None:
            raise missing_param("Missing query parameter: dir")
        limit = request.query_int("limit", _DEFAULT_LIMIT, maximum=self._max_events)
        wanted = parse_event_filter(request.query_text("filter"))
        if wanted.limit is not None and request.query_text("limit") is None:
            limit = min(wanted.limit, self._max_events)
        room = await open_room(self._database, request.params["roomId"], request.user.user_id)
        start_text, stop = request.query_text("from"), await self._place(room, request.query_text("to"))
        start = await self._place(room, start_text)
        if direction == "b":
            start = room.end + 1 if start is None else start
            page = await page_back(self._database, room, start, limit, wanted, stop=stop or 1)
        else:
            start = 1 if start is None else start
            page = await page_forward(self._database, room, start, limit, wanted, stop=stop)
        reader = self._reader(request)
        answer: dict[str, Any] = {
            "start": start_text or format_place(start),
            "chunk": _shown(page.events, reader, room),
        }
        if page.more:
            answer["end"] = format_place(page.place)
        if wanted.lazy_load_members and page.events:
            members = await self._senders(room, page.events)
            answer["state"] = [
                shown_event(member, reader, room.view, room_id=room.room_id, in_state=True) for member in members
            ]
        return json_response(answer)

    async def get_event_context(self, request: Request) -> Response:
        """Raises M_NOT_FOUND for an event that isn't there or that the user may not see, M_FORBIDDEN."""
        limit = request.query_int("limit", _DEFAULT_LIMIT, maximum=self._max_events)
        wanted = parse_event_filter(request.query_text("filter"))
        room = await open_room(self._database, request.params["roomId"], request.user.user_id)
        event = await self._event(room, request.params["eventId"])
        before = await page_back(self._database, room, event.ordinal, limit - limit // 2, wanted)
        # What one side does not need, the other may have.
        left = limit - len(before.events)
        after = await page_forward(self._database, room, event.ordinal + 1, min(left, limit // 2), wanted)
        last = after.events[-1].ordinal if after.events else event.ordinal
        state = await self._state_after(room, last, [*before.events, event, *after.events], wanted)
        reader = self._reader(request)
        return json_response(
            {
                "start": format_place(before.place if before.events else event.ordinal),
                "end": format_place(last + 1),
                "event": shown_event(event, reader, room.view, room_id=room.room_id),
                "events_before": _shown(before.events, reader, room),
                "events_after": _shown(after.events, reader, room),
                "state": [
                    shown_event(each, reader, room.view, room_id=room.room_id, in_state=True)
                    for each in state
                    if matches(wanted, each, room.room_id)
                ],
            }
        )

    async def get_room_event(self, request: Request) -> Response:
        """Raises M_NOT_FOUND, whatever the reason why the event may not be read."""
        try:
            room = await open_room(self._database, request.params["roomId"], request.user.user_id)
        except MatrixError as error:
            raise not_found("There is no such event") from error
        event = await self._event(room, request.params["eventId"])
        return json_response(shown_event(event, self._reader(request), room.view, room_id=room.room_id))

    async def _event(self, room: RoomView, event_id: str) -> TimelineEvent:
        row = await get_timeline_event(self._database, room.room_nid, event_id)
        event = None if row is None else room.event(row)
        if event is None or not room.view.may_see(event):
            raise not_found("There is no such event")
        return event

    async def _place(self, room: RoomView, token: str | None) -> int | None:
        if token is None:
            return None
        if not token:
            raise invalid_param("The token is empty")
        return await place_of_token(self._database, self._tokens, room, token)

    async def _senders(self, room: RoomView, events: Sequence[TimelineEvent]) -> list[TimelineEvent]:
        """Return the member events of those who sent the events, as of the latest of them."""
        place = max(event.ordinal for event in events) + 1
        keys = [(MEMBER, sender) for sender in dict.fromkeys(event.sender for event in events)]
        rows = await get_keys_before(self._database, room.room_nid, place, keys)
        return [room.event(row) for row in rows]

    async def _state_after(
        self, room: RoomView, ordinal: int, events: Sequence[TimelineEvent], wanted: EventFilter
    ) -> list[TimelineEvent]:
        """Return the state after an event; with lazy loading only those members who sent what is shown."""
        if ordinal >= room.record.last_ordinal:
            members = not wanted.lazy_load_members
            rows = await get_current_state_events(self._database, room.room_nid, members=members)
        else:
            rows = await get_state_before(self._database, room.room_nid, ordinal + 1)
        state = [room.event(row) for row in rows]
        if wanted.lazy_load_members:
            state = [each for each in state if each.type != MEMBER] + await self._senders(room, events)
        return state

    def _reader(self, request: Request) -> Reader:
        return Reader(request.user.user_id, request.user.device_id, self._clock.now_ms())


def _shown(events: Sequence[TimelineEvent], reader: Reader, room: RoomView) -> list[Any]:
    return [shown_event(event, reader, room.view, room_id=room.room_id) for event in events]
