"""GET /rooms/{roomId}/timestamp_to_event: the event nearest to a time, in one direction.

Spec: client-server API, "Jump to Date".
"""

from shared.core.errors import missing_param, not_found
from shared.http.endpoint import RateLimit, RoutingKey
from shared.http.request import Request, Response, json_response
from shared.http.serving import endpoint
from shared.rooms.room_view import RoomView, load_branches, open_room
from shared.rooms.timeline_event import TimelineEvent
from shared.storage.engine.pool import Database
from shared.storage.events.timeline import get_events_near_time

_PAGE = 100
_MAX_PAGES = 10  # of events that the reader may not see, or that have the same time


class EventByTimestamp:
    """The handler of the endpoint."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @endpoint(
        name="get_event_by_timestamp",
        method="GET",
        path="/_matrix/client/v1/rooms/{roomId}/timestamp_to_event",
        pool="room_reads",
        routing_key=RoutingKey.ROOM,
        rate_limit=RateLimit.READ,
        idempotent=True,
        spec="client-server-api/#get_matrixclientv1roomsroomidtimestamp_to_event",
    )
    async def get_event_by_timestamp(self, request: Request) -> Response:
        """Raises M_NOT_FOUND, M_FORBIDDEN, M_MISSING_PARAM, M_INVALID_PARAM."""
        direction = request.query_choice("dir", ("b", "f"))
        for name in ("ts", "dir"):
            if request.query_text(name) is None:
                raise missing_param(f"Missing query parameter: {name}")
        time_ms = request.query_int("ts", 0)
        room = await open_room(self._database, request.params["roomId"], request.user.user_id)
        event = await self._nearest(room, time_ms, forward=direction == "f")
        if event is None:
            raise not_found(f"The room has no event in direction {direction!r} from timestamp {time_ms}")
        return json_response({"event_id": event.event_id, "origin_server_ts": event.origin_server_ts})

    async def _nearest(self, room: RoomView, time_ms: int, *, forward: bool) -> TimelineEvent | None:
        """Return the event nearest to a time, or at it, that the reader may see.

        Of several events with the same time, this is the first in the room's order when searching forward, the last
        when searching backward. So the client finds the others by paging on in the same direction.
        """
        nearest: TimelineEvent | None = None
        for page in range(_MAX_PAGES):
            rows = await get_events_near_time(
                self._database, room.room_nid, time_ms, forward=forward, limit=_PAGE, offset=page * _PAGE
            )
            await load_branches(self._database, room, rows)
            for event in map(room.event, rows):
                if nearest is not None and event.origin_server_ts != nearest.origin_server_ts:
                    return nearest
                closer = nearest is None or (event.point < nearest.point) == forward
                if closer and room.view.may_see(event):
                    nearest = event
            if len(rows) < _PAGE:
                break
        return nearest
