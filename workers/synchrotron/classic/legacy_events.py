"""GET /events: the event stream from before /sync, and previews of rooms that the user is not in.

Both forms use the tokens of /sync. The general form converts responses of /sync.
Spec: client-server API, GET /events.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import orjson

from replication.streams import EVENTS
from shared.core.errors import MatrixError
from shared.core.filters import EventFilter, Filter, RoomFilter
from shared.core.history_point import HistoryPoint
from shared.core.identifiers import RoomId, UserId, check_room_id
from shared.core.presence import UNSET
from shared.core.sync_tokens.stream_token import StreamToken
from shared.http.endpoint import RateLimit, RoutingKey, Share
from shared.http.request import Request, Response, json_response
from shared.http.serving import endpoint
from shared.rooms.aggregations import shown_events
from shared.rooms.erased_events import strip_erased
from shared.rooms.history_page import HistoryPages, Page
from shared.rooms.history_tokens import format_point
from shared.rooms.room_view import RoomView, open_room
from shared.rooms.shown_event import Reader
from shared.rooms.timeline_event import MEMBER
from shared.runtime.clock import Clock
from shared.storage.engine.pool import Database
from shared.storage.events.timeline import get_positions
from shared.storage.rooms.memberships import get_memberships_of_user
from workers.synchrotron.classic.sync import Hold, SyncHandler
from workers.synchrotron.classic.sync_request import SyncRequest
from workers.synchrotron.presence.reports import PresenceReports
from workers.synchrotron.room_reads.history_points import point_of_token
from workers.synchrotron.sections.stripped_state import invite_events
from workers.synchrotron.waiting.room_watchers import RoomWatchers
from workers.synchrotron.waiting.sync_tokens import SyncTokens, format_sync_token

_DEFAULT_TIMEOUT_MS = 10_000
_MAX_SYNCS = 100  # responses of /sync without anything for this client, before it gets an empty one


class LegacyEvents:
    """The handler of GET /events. A response has at most `max_events` of each room."""

    def __init__(
        self,
        *,
        sync: SyncHandler,
        previews: "RoomPreviews",
        tokens: SyncTokens,
        reports: PresenceReports,
        hold: Hold,
        database: Database,
        clock: Clock,
        max_timeout_ms: int,
        max_events: int,
    ) -> None:
        self._sync = sync
        self._previews = previews
        self._tokens = tokens
        self._reports = reports
        self._hold = hold
        self._database = database
        self._clock = clock
        self._max_timeout_ms = max_timeout_ms
        self._max_events = max_events

    @endpoint(
        name="get_events",
        method="GET",
        path="/_matrix/client/{version}/events",
        api_v1=True,
        pool="sync",
        rate_limit=RateLimit.SYNC,
        share=Share.POLLS,
        routing_key=RoutingKey.TOKEN_USER,
        idempotent=True,
        spec="client-server-api/#get_matrixclientv3events",
    )
    async def get_events(self, request: Request) -> Response:
        """Raises M_INVALID_PARAM, M_FORBIDDEN, and M_GUEST_ACCESS_FORBIDDEN for guests without `room_id`."""
        timeout_ms = request.query_int("timeout", _DEFAULT_TIMEOUT_MS, maximum=self._max_timeout_ms)
        deadline = self._clock.monotonic_s() + timeout_ms / 1000
        room_id, since = request.query_text("room_id"), request.query_text("from") or None
        user = request.user
        limit = request.query_int("limit", self._max_events, minimum=1, maximum=self._max_events)
        is_limited = request.query_text("limit") is not None
        if room_id is not None:
            async with self._hold(user):
                return json_response(await self._previews.wait(request, check_room_id(room_id), since, deadline, limit))
        refuse_guest(request)
        with self._reports.syncing(user.user_id, user.device_id, UNSET):
            async with self._hold(user):
                return json_response(await self._wait(user.user_id, since, deadline, limit if is_limited else None))

    async def _wait(self, user_id: UserId, since: str | None, deadline: float, limit: int | None) -> dict[str, Any]:
        """limit: None for everything that /sync has, up to `max_events` of each room's timeline."""
        if since is None:
            await self._tokens.reach_present(user_id)
            since = format_sync_token(self._tokens.now())
        # Without a device, so that no to-device message counts as delivered.
        filter = Filter(room=RoomFilter(timeline=EventFilter(limit=self._max_events)))
        wanted = SyncRequest(user_id=user_id, device_id=None, since=since, filter=filter)
        chunk: list[Any] = []
        end = since
        for _ in range(_MAX_SYNCS):
            left_s = deadline - self._clock.monotonic_s()
            response = await self._sync.whole_response(replace(wanted, since=end, timeout_s=max(0.0, left_s)))
            body = orjson.loads(response.body)
            rooms = body["rooms"]
            events = [*_events_of(rooms, user_id), *await self._invites(user_id, rooms["invite"].keys())]
            others = [
                *_data_of(rooms),
                *with_user(body["presence"]["events"]),
                *body["account_data"]["events"],
            ]
            if limit is not None and len(events) > limit:
                events, end = await self._cut(events, end, response.token, limit)
            else:
                end = response.token
            chunk = [*events, *others]
            if chunk or left_s <= 0:
                break
        return {"start": since, "end": end, "chunk": chunk}

    async def _cut(self, events: list[Any], since: str, now: str, limit: int) -> tuple[list[Any], str]:
        """Return the first `limit` events between two tokens, and the token after them."""
        positions = await get_positions(self._database, [event["event_id"] for event in events])
        ordered = sorted(events, key=lambda event: positions[event["event_id"]])
        # Not before `since`, which may be further for some writers: then a few more events are in the chunk.
        since_position = (await self._tokens.parse(since)).vector(EVENTS.name).greatest
        last = max(positions[ordered[limit - 1]["event_id"]], since_position)
        token = await self._tokens.parse(now)
        cut = StreamToken({**token.vectors, EVENTS.name: token.vector(EVENTS.name).capped(last)})
        return [event for event in ordered if positions[event["event_id"]] <= last], format_sync_token(cut)

    async def _invites(self, user_id: UserId, room_ids: Collection[RoomId]) -> list[Any]:
        if not room_ids:
            return []
        invited = [one for one in await get_memberships_of_user(self._database, user_id) if one.room_id in room_ids]
        reader = Reader(user_id, None, self._clock.now_ms())
        events = await invite_events(self._database, invited, reader)
        return [orjson.loads(event) for event in map(orjson.dumps, events.values())]


class RoomPreviews:
    """One room's events, for any user who may see them. Spec: GET /events with `room_id`; "Room Previews"."""

    def __init__(
        self,
        *,
        database: Database,
        tokens: SyncTokens,
        pages: HistoryPages,
        watchers: RoomWatchers,
        clock: Clock,
    ) -> None:
        self._database = database
        self._tokens = tokens
        self._pages = pages
        self._watchers = watchers
        self._clock = clock

    async def wait(
        self, request: Request, room_id: RoomId, since: str | None, deadline: float, limit: int
    ) -> dict[str, Any]:
        """Return the first `limit` events after a token as soon as there are any.

        Raises M_FORBIDDEN, M_INVALID_PARAM.
        """
        user = request.user
        start = since
        with self._watchers.watch(room_id) as watch:
            while True:
                watch.reset()
                room = await open_room(self._database, room_id, user.user_id)
                now = format_sync_token(self._tokens.now())
                start = start or now
                page = await self._page(room, start, now, limit)
                left_s = deadline - self._clock.monotonic_s()
                if page.events or page.more or not await watch.wait(left_s):
                    break
        events = await strip_erased(self._database, room, page.events) if page.erased else page.events
        reader = Reader.of(user, self._clock.now_ms())
        return {
            "start": start,
            "end": format_point(*page.next_point) if page.more else now,
            "chunk": await shown_events(self._database, room, events, reader, parents=page.parents),
        }

    async def _page(self, room: RoomView, start: str, now: str, limit: int) -> Page:
        point = await point_of_token(self._database, self._tokens, room, start)
        stop: HistoryPoint = await point_of_token(self._database, self._tokens, room, now)
        return await self._pages.forward(room, point, limit, EventFilter(), stop=stop)


def refuse_guest(request: Request) -> None:
    """Raise M_GUEST_ACCESS_FORBIDDEN for guests. Spec: client-server API, "Guest Access", Client behaviour."""
    if request.user.is_guest:
        raise MatrixError("M_GUEST_ACCESS_FORBIDDEN", "Guests may not use this endpoint", 403)


def with_room(events: Iterable[dict[str, Any]], room_id: RoomId) -> list[dict[str, Any]]:
    """Add `room_id` to events of /sync."""
    return [{**event, "room_id": room_id} for event in events]


def with_user(presence: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Add `content.user_id` to m.presence events of /sync: clients from before /sync look for it there."""
    return [{**event, "content": {**event["content"], "user_id": event["sender"]}} for event in presence]


def _data_of(rooms: Mapping[str, Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield the ephemeral events and the account data of joined rooms, with their room ids."""
    for room_id, section in rooms["join"].items():
        yield from with_room(section["ephemeral"]["events"], RoomId(room_id))
        yield from with_room(section["account_data"]["events"], RoomId(room_id))


def _events_of(rooms: Mapping[str, Mapping[str, Any]], user_id: UserId) -> Iterator[dict[str, Any]]:
    """Yield the events of a response of /sync, each room's in order.

    State changes before a limited timeline come first. A room that the user just joined begins with their join.
    """
    for kind in ("join", "leave"):
        for room_id, section in rooms[kind].items():
            timeline = section["timeline"]["events"]
            joined = _index_of_join(timeline, user_id)
            events = [*section["state"]["events"], *timeline] if joined is None else timeline[joined:]
            yield from with_room(events, RoomId(room_id))


def _index_of_join(timeline: list[dict[str, Any]], user_id: UserId) -> int | None:
    for index in range(len(timeline) - 1, -1, -1):
        event = timeline[index]
        if event["type"] == MEMBER and event.get("state_key") == user_id:
            before = event["unsigned"].get("prev_content", {}).get("membership")
            if event["content"].get("membership") == "join" and before != "join":
                return index
    return None
