"""GET /rooms/{roomId}/relations/{eventId}[/{relType}[/{eventType}]] and GET /rooms/{roomId}/threads.

Spec: client-server API, "Relationships API", "Querying threads in a room".
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeAlias

from shared.core.errors import MatrixError, not_found
from shared.core.events.relation import THREAD
from shared.core.history_point import HistoryPoint, point_after
from shared.core.identifiers import EventId
from shared.http.endpoint import CLIENT_V1, RateLimit, RoutingKey, Share
from shared.http.request import Request, Response, json_response
from shared.http.serving import endpoint
from shared.rooms.aggregations import StoredChildEvents, bundle, shown_events
from shared.rooms.erased_events import strip_erased
from shared.rooms.history_tokens import format_point, parse_point
from shared.rooms.room_view import RoomView, get_visible_event, load_branches, open_room
from shared.rooms.shown_event import Reader, shown_event
from shared.rooms.timeline_event import TimelineEvent
from shared.runtime.clock import Clock
from shared.storage.engine.pool import Database
from shared.storage.events.relations import RelationFilter, get_children, get_relating, get_thread_roots
from shared.storage.events.timeline import TimelineRow, get_events_by_nid
from workers.synchrotron.room_reads.history_points import optional_point
from workers.synchrotron.waiting.sync_tokens import SyncTokens

_DEFAULT_LIMIT = 20
_MAX_PAGES = 5  # read for one response; then the client pages on
_DEPTH = 3  # the least that the spec allows
_MAX_RECURSED = 5_000  # events on all levels; the rest of a larger tree is left out
#: (point to begin at, limit) -> rows in the direction of reading.
_ReadPage: TypeAlias = Callable[[HistoryPoint, int], Awaitable[list[TimelineRow]]]


class Relations:
    """The handlers of relations and threads."""

    def __init__(self, database: Database, tokens: SyncTokens, clock: Clock, max_events: int) -> None:
        self._database = database
        self._tokens = tokens
        self._clock = clock
        self._max_events = max_events

    @endpoint(
        name="get_relations",
        method="GET",
        path="/_matrix/client/{version}/rooms/{roomId}/relations/{eventId}",
        versions=CLIENT_V1,
        pool="room_reads",
        share=Share.HISTORY,
        routing_key=RoutingKey.ROOM,
        rate_limit=RateLimit.READ,
        idempotent=True,
        spec="client-server-api/#get_matrixclientv1roomsroomidrelationseventid",
    )
    @endpoint(
        name="get_relations_by_type",
        method="GET",
        path="/_matrix/client/{version}/rooms/{roomId}/relations/{eventId}/{relType}",
        versions=CLIENT_V1,
        pool="room_reads",
        share=Share.HISTORY,
        routing_key=RoutingKey.ROOM,
        rate_limit=RateLimit.READ,
        idempotent=True,
        spec="client-server-api/#get_matrixclientv1roomsroomidrelationseventidreltype",
    )
    @endpoint(
        name="get_relations_by_types",
        method="GET",
        path="/_matrix/client/{version}/rooms/{roomId}/relations/{eventId}/{relType}/{eventType}",
        versions=CLIENT_V1,
        pool="room_reads",
        share=Share.HISTORY,
        routing_key=RoutingKey.ROOM,
        rate_limit=RateLimit.READ,
        idempotent=True,
        spec="client-server-api/#get_matrixclientv1roomsroomidrelationseventidreltypeeventtype",
    )
    async def get_relations(self, request: Request) -> Response:
        """All three forms of relations. Raises M_NOT_FOUND if the parent cannot be read, M_INVALID_PARAM."""
        forward = request.query_choice("dir", ("b", "f"), "b") == "f"
        limit = request.query_int("limit", _DEFAULT_LIMIT, minimum=1, maximum=self._max_events)
        recurse = request.query_bool("recurse") or request.query_bool("org.matrix.msc3981.recurse")
        wanted = RelationFilter(request.params.get("relType"), request.params.get("eventType"))
        try:
            room = await open_room(self._database, request.params["roomId"], request.user.user_id)
        except MatrixError as error:
            raise not_found("The event does not exist, or you may not see it") from error
        parent = await get_visible_event(self._database, room, request.params["eventId"])
        start_text = request.query_text("from")
        start = await optional_point(self._database, self._tokens, room, start_text)
        stop = await optional_point(self._database, self._tokens, room, request.query_text("to"))
        if forward:
            start, stop = start or room.start_point, min(stop or room.end_point, room.end_point)
        else:
            start, stop = min(start or room.end_point, room.end_point), stop or room.start_point
        if recurse:
            read_page = await self._all_levels(room, parent.event_id, wanted, stop, forward=forward)
        else:
            read_page = self._one_level(room, parent.event_id, wanted, stop, forward=forward)
        found, next_point = await self._visible(room, start, limit, read_page, forward=forward)
        shown = await strip_erased(self._database, room, found)
        body: dict[str, Any] = {"chunk": await shown_events(self._database, room, shown, self._reader(request))}
        if next_point is not None:
            body["next_batch"] = format_point(*next_point)
        if start_text is not None:
            body["prev_batch"] = start_text
        if recurse:
            body["recursion_depth"] = _DEPTH
        return json_response(body)

    @endpoint(
        name="get_threads",
        method="GET",
        path="/_matrix/client/{version}/rooms/{roomId}/threads",
        versions=CLIENT_V1,
        pool="room_reads",
        share=Share.HISTORY,
        routing_key=RoutingKey.ROOM,
        rate_limit=RateLimit.READ,
        idempotent=True,
        spec="client-server-api/#get_matrixclientv1roomsroomidthreads",
    )
    async def get_threads(self, request: Request) -> Response:
        """GET /threads. Raises M_FORBIDDEN, M_INVALID_PARAM."""
        include = request.query_choice("include", ("all", "participated"), "all")
        limit = request.query_int("limit", _DEFAULT_LIMIT, minimum=1, maximum=self._max_events)
        room = await open_room(self._database, request.params["roomId"], request.user.user_id)
        text = request.query_text("from")
        point = room.end_point if text is None else min(parse_point(text), room.end_point)
        participant = request.user.user_id if include == "participated" else None
        reader = self._reader(request)
        chunk: list[Any] = []
        more = True
        for _ in range(_MAX_PAGES):
            size = limit - len(chunk)
            rows = await get_thread_roots(self._database, room.room_nid, point, room.end_point, size, participant)
            chunk += await self._shown_roots(room, [row for _, row in rows if row is not None], reader)
            point = rows[-1][0] if rows else point
            more = len(rows) == size
            if not more or len(chunk) >= limit:
                break
        body: dict[str, Any] = {"chunk": chunk}
        if more:
            body["next_batch"] = format_point(*point)
        return json_response(body)

    def _one_level(
        self, room: RoomView, event_id: EventId, wanted: RelationFilter, stop: HistoryPoint, *, forward: bool
    ) -> _ReadPage:
        async def read(start: HistoryPoint, limit: int) -> list[TimelineRow]:
            return await get_children(
                self._database,
                room.room_nid,
                event_id,
                wanted,
                start=start,
                stop=stop,
                limit=limit,
                forward=forward,
            )

        return read

    async def _all_levels(
        self, room: RoomView, event_id: EventId, wanted: RelationFilter, stop: HistoryPoint, *, forward: bool
    ) -> _ReadPage:
        """Find the points of all direct and indirect relations. Their rows are read page by page."""
        points: dict[int, HistoryPoint] = {}
        level = {event_id}
        for _ in range(_DEPTH):
            left = _MAX_RECURSED - len(points)
            if not level or left <= 0:
                break
            found = await get_relating(self._database, room.room_nid, level, wanted, left)
            fresh = [one for one in found if one[1] not in points]
            points.update((nid, point) for point, nid, _ in fresh)
            level = {found_id for _, _, found_id in fresh}
        ordered = sorted((point, nid) for nid, point in points.items())

        async def read(start: HistoryPoint, limit: int) -> list[TimelineRow]:
            if forward:
                nids = [nid for point, nid in ordered if start <= point < stop][:limit]
            else:
                nids = [nid for point, nid in reversed(ordered) if stop <= point < start][:limit]
            rows = {row.event_nid: row for row in await get_events_by_nid(self._database, room.room_nid, nids)}
            return [rows[nid] for nid in nids if nid in rows]

        return read

    async def _visible(
        self, room: RoomView, point: HistoryPoint, limit: int, read_page: _ReadPage, *, forward: bool
    ) -> tuple[list[TimelineEvent], HistoryPoint | None]:
        """Return at most `limit` events that the reader may see, and the point to page on from, None at the end."""
        found: list[TimelineEvent] = []
        for _ in range(_MAX_PAGES):
            size = limit - len(found)
            rows = await read_page(point, size)
            await load_branches(self._database, room, rows)
            found += [event for event in map(room.event, rows) if room.shows(event)]
            if len(rows) < size:
                return found, None
            point = point_after(rows[-1].point) if forward else rows[-1].point
            if len(found) >= limit:
                break
        return found, point

    async def _shown_roots(self, room: RoomView, rows: Sequence[TimelineRow], reader: Reader) -> list[Any]:
        """Return the roots that the reader may see, of threads with a reply that the reader may see."""
        await load_branches(self._database, room, rows)
        roots = [root for root in map(room.event, rows) if room.view.may_see(root)]
        roots = list(await strip_erased(self._database, room, roots))
        bundles = await bundle(roots, StoredChildEvents(self._database, room), reader)
        shown = []
        for root in roots:
            relations = bundles.get(root.event_nid, {})
            if THREAD not in relations:
                continue
            if root.sender in room.ignored:  # as a client shows it that aggregates by itself
                root.strip(room.version)
                relations = {THREAD: relations[THREAD]}
            shown.append(shown_event(root, reader, room.view, room_id=room.room_id, relations=relations))
        return shown

    def _reader(self, request: Request) -> Reader:
        return Reader.of(request.user, self._clock.now_ms())
