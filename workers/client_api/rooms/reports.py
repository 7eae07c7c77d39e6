"""Reports of rooms, events and users, and the list of mutual rooms.

Spec: client-server API, "Reporting Content", "Mutual Rooms".
"""

import logging
import re
from dataclasses import replace

import msgspec

from shared.core.errors import invalid_param, not_found
from shared.core.identifiers import UserId, is_user_id
from shared.http.endpoint import CLIENT_V1, RateLimit
from shared.http.request import Request, Response, empty_response, json_response
from shared.http.serving import endpoint
from shared.runtime.clock import Clock
from shared.storage.engine.pool import Database
from shared.storage.rooms.reports import (
    Report,
    get_mutual_rooms,
    is_known_room,
    is_known_user,
    may_report_event,
    store_report,
)

logger = logging.getLogger(__name__)

_MAX_REASON_CHARS = 2_000  # the rest is cut off
_ROOMS_PER_PAGE = 100
_TOKEN = re.compile(r"m1-([0-9]{1,18})", re.ASCII)


class EventReportBody(msgspec.Struct):
    reason: str = ""


class ReportBody(msgspec.Struct):
    reason: str


class Reports:
    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    @endpoint(
        name="report_event",
        method="POST",
        path="/_matrix/client/{version}/rooms/{roomId}/report/{eventId}",
        pool="client",
        rate_limit=RateLimit.ACCOUNT,
        spec="client-server-api/#post_matrixclientv3roomsroomidreporteventid",
    )
    async def report_event(self, request: Request) -> Response:
        """POST /rooms/{roomId}/report/{eventId}, by members of the room. Raises M_NOT_FOUND, M_BAD_JSON."""
        reason = request.decode(EventReportBody, empty_ok=True).reason
        room_id, event_id, user_id = request.params["roomId"], request.params["eventId"], request.user.user_id
        if not await may_report_event(self._database, room_id, event_id, user_id):
            raise not_found("There is no such event, or you are not in its room")
        await self._store(
            Report(reporter=user_id, about_room=room_id, event_id=event_id, about_user=None, reason=reason)
        )
        return empty_response()

    @endpoint(
        name="report_room",
        method="POST",
        path="/_matrix/client/{version}/rooms/{roomId}/report",
        pool="client",
        rate_limit=RateLimit.ACCOUNT,
        spec="client-server-api/#post_matrixclientv3roomsroomidreport",
    )
    async def report_room(self, request: Request) -> Response:
        """POST /rooms/{roomId}/report, by everyone. An unknown room gets the same answer. Raises M_BAD_JSON."""
        reason, room_id = request.decode(ReportBody).reason, request.params["roomId"]
        if await is_known_room(self._database, room_id):
            reporter = request.user.user_id
            await self._store(
                Report(reporter=reporter, about_room=room_id, event_id=None, about_user=None, reason=reason)
            )
        return empty_response()

    @endpoint(
        name="report_user",
        method="POST",
        path="/_matrix/client/{version}/users/{userId}/report",
        pool="client",
        rate_limit=RateLimit.ACCOUNT,
        spec="client-server-api/#post_matrixclientv3usersuseridreport",
    )
    async def report_user(self, request: Request) -> Response:
        """POST /users/{userId}/report, by everyone. An unknown user gets the same answer. Raises M_BAD_JSON."""
        reason, about = request.decode(ReportBody).reason, request.params["userId"]
        if is_user_id(about) and await is_known_user(self._database, about):
            reporter = request.user.user_id
            await self._store(
                Report(reporter=reporter, about_room=None, event_id=None, about_user=about, reason=reason)
            )
        return empty_response()

    @endpoint(
        name="list_mutual_rooms",
        method="GET",
        path="/_matrix/client/{version}/mutual_rooms",
        versions=CLIENT_V1,
        pool="client",
        rate_limit=RateLimit.READ,
        idempotent=True,
        spec="client-server-api/#get_matrixclientv1mutual_rooms",
    )
    async def list_mutual_rooms(self, request: Request) -> Response:
        """GET /mutual_rooms. Raises M_MISSING_PARAM, M_INVALID_PARAM."""
        other, token = request.query_required("user_id"), request.query_text("from")
        if not is_user_id(other) or other == request.user.user_id:
            raise invalid_param("user_id must be the id of another user")
        match = None if token is None else _TOKEN.fullmatch(token)
        if token is not None and match is None:
            raise invalid_param("from must be a next_batch token of an earlier answer")
        rooms = await get_mutual_rooms(self._database, request.user.user_id, UserId(other))
        after = 0 if match is None else int(match[1])
        ahead = [(nid, room_id) for nid, room_id in rooms if nid > after]
        page = ahead[:_ROOMS_PER_PAGE]
        answer = {"joined": [room_id for _, room_id in page], "count": len(rooms)}
        if len(ahead) > len(page):
            answer["next_batch"] = f"m1-{page[-1][0]}"
        return json_response(answer)

    async def _store(self, report: Report) -> None:
        shortened = replace(report, reason=report.reason[:_MAX_REASON_CHARS])
        await store_report(self._database, shortened, self._clock.now_ms())
        logger.warning("A user reported a room, an event or a user: see the table `reports`")
