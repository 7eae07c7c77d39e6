"""GET /initialSync and GET /rooms/{roomId}/initialSync: the endpoints from before /sync.

Clients use the latter for previews of rooms that the user is not in. Spec: client-server API, both endpoints.
"""

from collections.abc import AsyncGenerator, Sequence
from typing import Any

import orjson

from shared.core.filters import EventFilter, Filter, RoomFilter
from shared.core.filters.wildcard import type_patterns
from shared.core.identifiers import RoomId, UserId, check_room_id
from shared.core.presence import UNSET
from shared.http.endpoint import RateLimit, RoutingKey, Share
from shared.http.request import Request, Response, json_response
from shared.http.serving import endpoint
from shared.rooms.aggregations import shown_events
from shared.rooms.erased_events import strip_erased
from shared.rooms.history_page import HistoryPages
from shared.rooms.history_tokens import format_point
from shared.rooms.room_state import StateForms, state_forms, state_rows
from shared.rooms.room_view import open_room
from shared.rooms.shown_event import Reader, shown_event
from shared.runtime.clock import Clock
from shared.storage.engine.pool import Database
from shared.storage.events.timeline import TimelineRow
from shared.storage.rooms.aliases import get_published, is_published
from shared.storage.rooms.memberships import get_membership, get_memberships_of_user
from shared.storage.user_data.account_data import get_account_data_of_user
from shared.storage.user_data.receipts import get_receipts_of_room
from workers.synchrotron.classic.legacy_events import refuse_guest, with_room, with_user
from workers.synchrotron.classic.sync import Hold, SyncHandler
from workers.synchrotron.classic.sync_request import SyncRequest
from workers.synchrotron.presence.reports import PresenceReports
from workers.synchrotron.presence.section import PresenceSections
from workers.synchrotron.room_reads.history_points import point_of_token
from workers.synchrotron.room_reads.room_state import listed
from workers.synchrotron.sections.room_extras import receipt_events
from workers.synchrotron.sections.stripped_state import invite_events
from workers.synchrotron.waiting.sync_tokens import SyncTokens, format_sync_token

_DEFAULT_LIMIT = 10
_STATE = "state_after"
_RECEIPTS = EventFilter(types=type_patterns(("m.receipt",)))
_MEMBERSHIPS = frozenset({"invite", "join", "leave", "ban"})  # the schema has no knocks


class LegacyInitialSync:
    """The handlers of both endpoints. `database` is the primary. A room has at most `max_events`."""

    def __init__(
        self,
        *,
        sync: SyncHandler,
        reports: PresenceReports,
        hold: Hold,
        database: Database,
        tokens: SyncTokens,
        pages: HistoryPages,
        presence: PresenceSections,
        clock: Clock,
        max_events: int,
    ) -> None:
        self._presence = presence
        self._sync = sync
        self._reports = reports
        self._hold = hold
        self._database = database
        self._tokens = tokens
        self._pages = pages
        self._clock = clock
        self._max_events = max_events

    @endpoint(
        name="get_initial_sync",
        method="GET",
        path="/_matrix/client/{version}/initialSync",
        api_v1=True,
        pool="sync",
        rate_limit=RateLimit.SYNC,
        share=Share.STATES,
        routing_key=RoutingKey.TOKEN_USER,
        idempotent=True,
        spec="client-server-api/#get_matrixclientv3initialsync",
    )
    async def get_initial_sync(self, request: Request) -> Response:
        """GET /initialSync, converted from an initial /sync. Raises M_INVALID_PARAM, M_GUEST_ACCESS_FORBIDDEN."""
        limit = request.query_int("limit", _DEFAULT_LIMIT, maximum=self._max_events)
        archived = request.query_bool("archived")
        refuse_guest(request)
        user = request.user
        room = RoomFilter(include_leave=archived, timeline=EventFilter(limit=limit), ephemeral=_RECEIPTS)
        wanted = SyncRequest(user_id=user.user_id, device_id=None, state_after=_STATE, filter=Filter(room=room))
        with self._reports.syncing(user.user_id, user.device_id, UNSET):
            async with self._hold(user):
                response = await self._sync.whole_response(wanted)
        body = orjson.loads(response.body)
        end, rooms = response.token, body["rooms"]
        reader = Reader.of(user, self._clock.now_ms())
        memberships = {one.room_id: one for one in await get_memberships_of_user(self._database, user.user_id)}
        invited = [one for one in memberships.values() if one.room_id in rooms["invite"] and one.membership == "invite"]
        invites = await invite_events(self._database, invited, reader)
        infos = [_room_info(room_id, section, "join", end) for room_id, section in rooms["join"].items()]
        infos += [
            {"room_id": room_id, "membership": "invite", "invite": invites[room_id]}
            for room_id in rooms["invite"]
            if room_id in invites
        ]
        for room_id, section in rooms["leave"].items():
            banned = room_id in memberships and memberships[room_id].membership == "ban"
            infos.append(_room_info(room_id, section, "ban" if banned else "leave", end))
        published = await get_published(self._database, [info["room_id"] for info in infos])
        for info in infos:
            info["visibility"] = "public" if info["room_id"] in published else "private"
        return json_response(
            {
                "end": end,
                "rooms": infos,
                "presence": with_user(body["presence"]["events"]),
                "receipts": [
                    event
                    for room_id, section in rooms["join"].items()
                    for event in with_room(section["ephemeral"]["events"], room_id)
                ],
                "account_data": body["account_data"]["events"],
            }
        )

    @endpoint(
        name="get_room_initial_sync",
        method="GET",
        path="/_matrix/client/{version}/rooms/{roomId}/initialSync",
        api_v1=True,
        pool="room_reads",
        share=Share.STATES,
        routing_key=RoutingKey.ROOM,
        rate_limit=RateLimit.READ,
        idempotent=True,
        spec="client-server-api/#get_matrixclientv3roomsroomidinitialsync",
    )
    async def get_room_initial_sync(self, request: Request) -> Response:
        """GET /rooms/{roomId}/initialSync. Raises M_FORBIDDEN for users who may not preview the room."""
        limit = request.query_int("limit", _DEFAULT_LIMIT, maximum=self._max_events)
        room_id, user_id = check_room_id(request.params["roomId"]), request.user.user_id
        room = await open_room(self._database, room_id, user_id)
        await self._tokens.reach_present(user_id)
        # The messages end at this token, even if the database has more: /events continues from there.
        end = format_sync_token(self._tokens.now())
        point = min(await point_of_token(self._database, self._tokens, room, end), room.end_point)
        page = await self._pages.back(room, point, limit, EventFilter())
        events = page.events[::-1]
        if page.erased:
            events = list(await strip_erased(self._database, room, events))
        reader = Reader.of(request.user, self._clock.now_ms())
        head: dict[str, Any] = {
            "room_id": room_id,
            "messages": {
                "start": format_point(*page.next_point),
                "end": end,
                "chunk": await shown_events(self._database, room, events, reader, parents=page.parents),
            },
            "visibility": "public" if await is_published(self._database, room_id) else "private",
            "account_data": await self._account_data(room_id, user_id),
            "receipts": [],
            "presence": [],
        }
        if room.is_member:
            receipts = await get_receipts_of_room(self._database, room.room_nid)
            shown = [one for one in receipts if one.kind == "m.read" or one.user_id == user_id]
            head["receipts"] = with_room(receipt_events(shown, room.ignored), room_id)
            head["presence"] = with_user(await self._presence.in_room(room.room_nid, room.ignored, reader.now_ms))
        membership = await get_membership(self._database, room.room_nid, user_id)
        if membership is not None and membership.membership in _MEMBERSHIPS:
            head["membership"] = membership.membership
        rows = await state_rows(self._database, room)
        return Response(self._with_state(head, await state_forms(self._database, room), rows, reader))

    @staticmethod
    def _with_state(
        head: dict[str, Any], forms: StateForms, rows: Sequence[TimelineRow], reader: Reader
    ) -> AsyncGenerator[bytes, None]:
        room = forms.room

        def encode(row: TimelineRow) -> bytes:
            event = forms.event(row)
            return orjson.dumps(shown_event(event, reader, room.view, room_id=room.room_id, in_state=True))

        return listed(orjson.dumps(head)[:-1] + b',"state":[', rows, encode, b"]}")

    async def _account_data(self, room_id: RoomId, user_id: UserId) -> list[Any]:
        return [
            {"type": record.type, "content": orjson.Fragment(record.json)}
            for record in await get_account_data_of_user(self._database, user_id)
            if record.room_id == room_id and record.json is not None
        ]


def _room_info(room_id: RoomId, section: dict[str, Any], membership: str, end: str) -> dict[str, Any]:
    """Return `RoomInfo`. section: of an initial /sync with the state after the timeline."""
    timeline = section["timeline"]
    return {
        "room_id": room_id,
        "membership": membership,
        "messages": {
            "start": timeline["prev_batch"],
            "end": end,
            "chunk": with_room(timeline["events"], room_id),
        },
        "state": with_room(section[_STATE]["events"], room_id),
        "account_data": section["account_data"]["events"],
    }
