"""GET /rooms/{roomId}/messages, /context/{eventId} and /event/{eventId}.

Spec: client-server API, "Getting events for a room".
"""

from typing import Any

from shared.core.errors import MatrixError, missing_param, not_found
from shared.core.history_point import START, point_after
from shared.core.identifiers import RoomId
from shared.http.endpoint import RateLimit, RoutingKey, Share
from shared.http.request import Request, Response, json_response
from shared.http.serving import endpoint
from shared.rooms.aggregations import shown_events
from shared.rooms.erased_events import strip_erased
from shared.rooms.history_page import HistoryPages, parse_event_filter
from shared.rooms.history_tokens import format_point
from shared.rooms.room_state import senders_members, state_after
from shared.rooms.room_view import get_visible_event, open_room
from shared.rooms.shown_event import Reader, matches, shown_event
from shared.runtime.clock import Clock
from shared.storage.engine.pool import Database
from shared.storage.events.timeline import get_room_of_event
from workers.synchrotron.room_reads.history_points import optional_point
from workers.synchrotron.waiting.sync_tokens import SyncTokens

_DEFAULT_LIMIT = 10


class Messages:
    """The handlers of pages of history, and of single events."""

    def __init__(
        self, database: Database, tokens: SyncTokens, pages: HistoryPages, clock: Clock, max_events: int
    ) -> None:
        self._database = database
        self._pages = pages
        self._tokens = tokens
        self._clock = clock
        self._max_events = max_events

    @endpoint(
        name="get_room_messages",
        method="GET",
        path="/_matrix/client/{version}/rooms/{roomId}/messages",
        api_v1=True,
        pool="room_reads",
        share=Share.HISTORY,
        routing_key=RoutingKey.ROOM,
        rate_limit=RateLimit.READ,
        idempotent=True,
        spec="client-server-api/#get_matrixclientv3roomsroomidmessages",
    )
    async def get_room_messages(self, request: Request) -> Response:
        """GET /messages. Raises M_FORBIDDEN, M_MISSING_PARAM, M_INVALID_PARAM, M_BAD_JSON."""
        direction = request.query_choice("dir", ("b", "f"))
        if direction is None:
            raise missing_param("Missing query parameter: dir")
        limit = request.query_int("limit", _DEFAULT_LIMIT, maximum=self._max_events)
        wanted = parse_event_filter(request.query_text("filter"))
        if wanted.limit is not None and request.query_text("limit") is None:
            limit = min(wanted.limit, self._max_events)
        room = await open_room(self._database, request.params["roomId"], request.user.user_id)
        start_text = request.query_text("from")
        stop = await optional_point(self._database, self._tokens, room, request.query_text("to"))
        start = await optional_point(self._database, self._tokens, room, start_text)
        if direction == "b":
            start = room.end_point if start is None else start
            page = await self._pages.back(room, start, limit, wanted, stop=stop or START)
        else:
            start = room.start_point if start is None else start
            page = await self._pages.forward(room, start, limit, wanted, stop=stop)
        events = await strip_erased(self._database, room, page.events) if page.erased else page.events
        reader = self._reader(request)
        body: dict[str, Any] = {
            "start": start_text or format_point(*start),
            "chunk": await shown_events(self._database, room, events, reader, parents=page.parents),
        }
        # Not where the room begins or the reader's view ends. At `to`, or at the live end, a client may continue later.
        if direction == "b":
            more = page.next_point > room.start_point
        else:
            more = room.follows or page.next_point < room.end_point
        if page.more or more:
            body["end"] = format_point(*page.next_point)
        if wanted.lazy_load_members and page.events:
            members = await senders_members(self._database, room, page.events)
            body["state"] = [
                shown_event(member, reader, room.view, room_id=room.room_id, in_state=True) for member in members
            ]
        return json_response(body)

    @endpoint(
        name="get_event_context",
        method="GET",
        path="/_matrix/client/{version}/rooms/{roomId}/context/{eventId}",
        api_v1=True,
        pool="room_reads",
        share=Share.HISTORY,
        routing_key=RoutingKey.ROOM,
        rate_limit=RateLimit.READ,
        idempotent=True,
        spec="client-server-api/#get_matrixclientv3roomsroomidcontexteventid",
    )
    async def get_event_context(self, request: Request) -> Response:
        """GET /context. Raises M_NOT_FOUND for an event that the user may not see, M_FORBIDDEN."""
        limit = request.query_int("limit", _DEFAULT_LIMIT, maximum=self._max_events)
        wanted = parse_event_filter(request.query_text("filter"))
        room = await open_room(self._database, request.params["roomId"], request.user.user_id)
        event = await get_visible_event(self._database, room, request.params["eventId"])
        before = await self._pages.back(room, event.point, limit - limit // 2, wanted)
        # One side may have what the other leaves of the limit.
        left = limit - len(before.events)
        after = await self._pages.forward(room, point_after(event.point), min(left, limit // 2), wanted)
        last = after.events[-1] if after.events else event
        shown = [*before.events, event, *after.events]
        state = await state_after(self._database, room, last, shown, lazy=wanted.lazy_load_members)
        shown = list(await strip_erased(self._database, room, shown))
        reader = self._reader(request)
        encoded = await shown_events(self._database, room, shown, reader)
        return json_response(
            {
                "start": format_point(*(before.next_point if before.events else event.point)),
                "end": format_point(*point_after(last.point)),
                "event": encoded[len(before.events)],
                "events_before": encoded[: len(before.events)],
                "events_after": encoded[len(before.events) + 1 :],
                "state": [
                    shown_event(each, reader, room.view, room_id=room.room_id, in_state=True)
                    for each in state
                    if matches(wanted, each, room.room_id)
                ],
            }
        )

    @endpoint(
        name="get_room_event",
        method="GET",
        path="/_matrix/client/{version}/rooms/{roomId}/event/{eventId}",
        api_v1=True,
        pool="room_reads",
        routing_key=RoutingKey.ROOM,
        rate_limit=RateLimit.READ,
        idempotent=True,
        spec="client-server-api/#get_matrixclientv3roomsroomideventeventid",
    )
    async def get_room_event(self, request: Request) -> Response:
        """GET /event. Raises M_NOT_FOUND for any event that cannot be read."""
        return await self._one_event(request, request.params["roomId"])

    @endpoint(
        name="get_event_by_id",
        method="GET",
        path="/_matrix/client/{version}/events/{eventId}",
        api_v1=True,
        pool="room_reads",
        rate_limit=RateLimit.READ,
        idempotent=True,
        spec="client-server-api/#get_matrixclientv3eventseventid",
    )
    async def get_event_by_id(self, request: Request) -> Response:
        """GET /events/{eventId}, without a room. Raises as get_room_event does."""
        room_id = await get_room_of_event(self._database, request.params["eventId"])
        if room_id is None:
            raise not_found("The event does not exist, or you may not see it")
        return await self._one_event(request, room_id)

    async def _one_event(self, request: Request, room_id: RoomId) -> Response:
        try:
            room = await open_room(self._database, room_id, request.user.user_id)
        except MatrixError as error:
            raise not_found("The event does not exist, or you may not see it") from error
        event = await get_visible_event(self._database, room, request.params["eventId"])
        events = await strip_erased(self._database, room, [event])
        return json_response((await shown_events(self._database, room, events, self._reader(request)))[0])

    def _reader(self, request: Request) -> Reader:
        return Reader.of(request.user, self._clock.now_ms())
