"""GET /rooms/{roomId}/state, one event of it, /members and /joined_members.

Users who left see the state as of their leaving. Spec: client-server API, "Getting events for a room".
"""

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import Any

import orjson

from shared.core.errors import forbidden, not_found
from shared.core.events.event import event_from_storage
from shared.core.events.readers import avatar_url_of, display_name_of
from shared.core.identifiers import EventId
from shared.http.endpoint import RateLimit, RoutingKey, Share
from shared.http.request import Request, Response, json_response
from shared.http.serving import endpoint
from shared.rooms.room_state import joined_members, members_at, state_events, state_forms, state_rows
from shared.rooms.room_view import RoomView, open_room
from shared.rooms.shown_event import Reader, shown_event
from shared.rooms.timeline_event import TimelineEvent
from shared.runtime.clock import Clock
from shared.runtime.slices import Slices
from shared.storage.engine.pool import Database
from shared.storage.events.timeline import TimelineRow
from workers.synchrotron.room_reads.history_points import point_of_token
from workers.synchrotron.waiting.sync_tokens import SyncTokens

_MEMBERSHIPS = ("join", "invite", "knock", "leave", "ban")
_ROWS = 1000  # members read by one statement
_PIECE = 200  # events sent at a time


class RoomState:
    """The handlers of room state and members."""

    def __init__(self, database: Database, tokens: SyncTokens, clock: Clock) -> None:
        self._database = database
        self._tokens = tokens
        self._clock = clock

    @endpoint(
        name="get_room_state",
        method="GET",
        path="/_matrix/client/{version}/rooms/{roomId}/state",
        api_v1=True,
        pool="room_reads",
        share=Share.STATES,
        routing_key=RoutingKey.ROOM,
        rate_limit=RateLimit.READ,
        idempotent=True,
        spec="client-server-api/#get_matrixclientv3roomsroomidstate",
    )
    async def get_room_state(self, request: Request) -> Response:
        """GET /state. Raises M_FORBIDDEN."""
        room = await open_room(self._database, request.params["roomId"], request.user.user_id)
        rows = await state_rows(self._database, room)
        encode, forms = self._encode(request, room), await state_forms(self._database, room)
        return Response(listed(b"[", rows, lambda row: encode(forms.event(row)), b"]"))

    @endpoint(
        name="get_room_state_event",
        method="GET",
        path="/_matrix/client/{version}/rooms/{roomId}/state/{eventType}/{stateKey?}",
        api_v1=True,
        pool="room_reads",
        routing_key=RoutingKey.ROOM,
        rate_limit=RateLimit.READ,
        idempotent=True,
        spec="client-server-api/#get_matrixclientv3roomsroomidstateeventtypestatekey",
    )
    async def get_room_state_event(self, request: Request) -> Response:
        """GET /state/{eventType}/{stateKey}. Raises M_NOT_FOUND, M_FORBIDDEN."""
        form = request.query_choice("format", ("content", "event"), "content")
        room = await open_room(self._database, request.params["roomId"], request.user.user_id)
        key = (request.params["eventType"], request.params.get("stateKey", ""))
        events = await state_events(self._database, room, [key])
        if not events:
            raise not_found("The room has no state event of this type and state key")
        [event] = events
        if form == "event":
            reader = self._reader(request)
            return json_response(shown_event(event, reader, room.view, room_id=room.room_id, in_state=True))
        return json_response(event.content())

    @endpoint(
        name="get_room_members",
        method="GET",
        path="/_matrix/client/{version}/rooms/{roomId}/members",
        api_v1=True,
        pool="room_reads",
        share=Share.STATES,
        routing_key=RoutingKey.ROOM,
        rate_limit=RateLimit.READ,
        idempotent=True,
        spec="client-server-api/#get_matrixclientv3roomsroomidmembers",
    )
    async def get_room_members(self, request: Request) -> Response:
        """GET /members. Raises M_FORBIDDEN, M_INVALID_PARAM."""
        membership = request.query_choice("membership", _MEMBERSHIPS)
        not_membership = request.query_choice("not_membership", _MEMBERSHIPS)
        room = await open_room(self._database, request.params["roomId"], request.user.user_id)
        at = request.query_text("at")
        point = None if at is None else await point_of_token(self._database, self._tokens, room, at)
        end = room.end_point if point is None else min(point, room.end_point)
        pages = members_at(self._database, room, end, _ROWS)
        encode, forms = self._encode(request, room), await state_forms(self._database, room)

        def encode_wanted(row: TimelineRow) -> bytes | None:
            event = forms.event(row)
            # The two parameters together are a union: GET /rooms/{roomId}/members, not_membership.
            wanted = (
                (membership is None and not_membership is None)
                or (membership is not None and event.membership == membership)
                or (not_membership is not None and event.membership != not_membership)
            )
            return encode(event) if wanted else None

        first: Sequence[TimelineRow] = await anext(pages, [])  # an error here still becomes an error response
        return Response(listed_pages(b'{"chunk":[', _resumed(first, pages), encode_wanted, b"]}"))

    @endpoint(
        name="get_joined_members",
        method="GET",
        path="/_matrix/client/{version}/rooms/{roomId}/joined_members",
        api_v1=True,
        pool="room_reads",
        share=Share.STATES,
        routing_key=RoutingKey.ROOM,
        rate_limit=RateLimit.READ,
        idempotent=True,
        spec="client-server-api/#get_matrixclientv3roomsroomidjoined_members",
    )
    async def get_joined_members(self, request: Request) -> Response:
        """GET /joined_members. Raises M_FORBIDDEN for users who are not joined."""
        room = await open_room(self._database, request.params["roomId"], request.user.user_id)
        if not room.is_member:
            raise forbidden("You are not a member of this room")
        joined: dict[str, Any] = {}
        slices = Slices()
        for user_id, json in await joined_members(self._database, room):
            # Null where unset: deployed clients fail without the keys.
            joined[user_id] = dict.fromkeys(("display_name", "avatar_url"))
            if json is not None:
                member = event_from_storage(room.version, json, EventId("$"))
                joined[user_id] = {"display_name": display_name_of(member), "avatar_url": avatar_url_of(member)}
            await slices.rest()
        return json_response({"joined": joined})

    def _encode(self, request: Request, room: RoomView) -> Callable[[TimelineEvent], bytes]:
        reader = self._reader(request)

        def encode(event: TimelineEvent) -> bytes:
            return orjson.dumps(shown_event(event, reader, room.view, room_id=room.room_id, in_state=True))

        return encode

    def _reader(self, request: Request) -> Reader:
        return Reader.of(request.user, self._clock.now_ms())


async def listed(
    head: bytes, rows: Sequence[TimelineRow], encode: Callable[[TimelineRow], bytes | None], tail: bytes
) -> AsyncGenerator[bytes, None]:
    """Yield a JSON list in pieces. `encode` returns None to leave a row out. Other requests run between pieces."""

    async def page() -> AsyncGenerator[Sequence[TimelineRow], None]:
        yield rows

    async with aclosing(listed_pages(head, page(), encode, tail)) as pieces:
        async for piece in pieces:
            yield piece


async def listed_pages(
    head: bytes,
    pages: AsyncGenerator[Sequence[TimelineRow], None],
    encode: Callable[[TimelineRow], bytes | None],
    tail: bytes,
) -> AsyncGenerator[bytes, None]:
    """Yield a JSON list as `listed` does, from rows that are read page by page. One page is in memory at a time."""
    joint, slices = head, Slices()
    async with aclosing(pages):
        async for rows in pages:
            for first in range(0, len(rows), _PIECE):
                piece = []
                for row in rows[first : first + _PIECE]:
                    await slices.rest()
                    if (each := encode(row)) is not None:
                        piece.append(each)
                if piece:
                    yield joint + b",".join(piece)
                    joint = b","
    yield tail if joint == b"," else head + tail


async def _resumed(
    first: Sequence[TimelineRow], pages: AsyncGenerator[Sequence[TimelineRow], None]
) -> AsyncGenerator[Sequence[TimelineRow], None]:
    yield first
    async with aclosing(pages):
        async for page in pages:
            yield page
