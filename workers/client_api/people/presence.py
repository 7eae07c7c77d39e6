"""The presence API, and the reports of synchrotrons on the users who sync. The owner of the user's slot serves them.

Spec: client-server API, "Presence".
"""

import msgspec

from replication.calls.presence import REPORT_PRESENCE, PresenceAnswer, PresenceReport
from shared.core.errors import Unavailable, forbidden, invalid_param, not_found
from shared.core.identifiers import UserId, check_user_id
from shared.core.presence import OFFLINE, STATES, UNSET, VisiblePresence
from shared.http.endpoint import RateLimit, RoutingKey
from shared.http.request import Request, Response, empty_response, json_response
from shared.http.serving import endpoint
from shared.runtime.clock import Clock
from shared.storage.encryption.device_lists import get_users_sharing
from shared.storage.engine.pool import Database
from shared.storage.user_data.presence import get_presence
from workers.client_api.people.present_users import PresentUsers
from workers.client_api.user_data.account_data import own_user_id

MAX_STATUS_CHARS = 512


class StatusBody(msgspec.Struct):
    presence: str
    #: Absent: keep the status message. null or "": remove it.
    status_msg: str | msgspec.UnsetType | None = msgspec.UNSET


class Presence:
    def __init__(self, users: PresentUsers, database: Database, clock: Clock, *, enabled: bool) -> None:
        """enabled: False: PUT changes nothing, and GET finds no presence."""
        self._users = users
        self._database = database
        self._clock = clock
        self._enabled = enabled

    @endpoint(
        name="set_presence",
        method="PUT",
        path="/_matrix/client/{version}/presence/{userId}/status",
        api_v1=True,
        pool="client",
        routing_key=RoutingKey.USER,
        rate_limit=RateLimit.READ,
        spec="client-server-api/#put_matrixclientv3presenceuseridstatus",
    )
    async def set_presence(self, request: Request) -> Response:
        """PUT /presence/{userId}/status.

        Raises M_FORBIDDEN for another user, M_INVALID_PARAM for an unknown state or a long status message.
        """
        user_id = own_user_id(request)
        body = request.decode(StatusBody)
        if body.presence not in STATES:
            raise invalid_param(f"presence must be one of: {', '.join(STATES)}")
        if isinstance(body.status_msg, str) and len(body.status_msg) > MAX_STATUS_CHARS:
            raise invalid_param(f"status_msg must have at most {MAX_STATUS_CHARS} characters")
        if not self._enabled:
            return empty_response()
        await self._users.load([user_id])
        user = self._users.get(user_id)
        if user is None:
            raise Unavailable("Too many users are present on this process")
        user.note_put(request.user.device_id or "", body.presence, self._clock.now_ms())
        status = user.status_msg if body.status_msg is msgspec.UNSET else body.status_msg or None
        is_new, user.status_msg = status != user.status_msg, status
        self._users.announce_changes([user_id])
        if is_new:
            # The message must outlive this process once the request is answered.
            await self._users.save_now(user_id)
        return empty_response()

    # At the owner of the user, whose memory is fresher than what it saves.
    @endpoint(
        name="get_presence",
        method="GET",
        path="/_matrix/client/{version}/presence/{userId}/status",
        api_v1=True,
        pool="client",
        routing_key=RoutingKey.USER,
        rate_limit=RateLimit.READ,
        idempotent=True,
        spec="client-server-api/#get_matrixclientv3presenceuseridstatus",
    )
    async def get_presence(self, request: Request) -> Response:
        """GET /presence/{userId}/status. Raises M_FORBIDDEN if no room is shared, M_NOT_FOUND without presence."""
        user_id, reader = check_user_id(request.params["userId"]), request.user.user_id
        if user_id != reader and not await get_users_sharing(self._database, reader, {user_id}):
            raise forbidden("You share no room with this user")
        if not self._enabled:
            raise not_found("Presence is disabled on this server")
        now_ms = self._clock.now_ms()
        user = self._users.get(user_id)
        if user is not None:
            return json_response(_content(user.visible(now_ms), now_ms))
        saved = (await get_presence(self._database, [user_id])).get(user_id)
        status, last_active_ms = (saved.status_msg, saved.last_active_ms) if saved is not None else (None, 0)
        return json_response(_content(VisiblePresence(OFFLINE, False, status, last_active_ms), now_ms))

    @REPORT_PRESENCE.handler
    async def report_presence(self, report: PresenceReport) -> PresenceAnswer:
        """Note the devices that sync on a synchrotron. Return the users that another process owns."""
        now_ms = self._clock.now_ms()
        if self._enabled:
            # A device that syncs as offline from the start needs no entry.
            devices = [
                device for device in report.devices if device.set_presence != OFFLINE or device.user_id in self._users
            ]
            await self._users.load({device.user_id for device in devices if self._users.owns(device.user_id)})
            changed: dict[UserId, None] = {}
            for device in devices:
                user = self._users.get(device.user_id)
                if user is not None and self._users.owns(device.user_id) and device.set_presence in (UNSET, *STATES):
                    active_ms = 0 if device.active_ago_ms is None else now_ms - device.active_ago_ms
                    user.note_sync(device.device_id, device.set_presence, now_ms - device.seen_ago_ms, active_ms)
                    changed[device.user_id] = None
            self._users.announce_changes(changed)
        return PresenceAnswer(sorted({one.user_id for one in report.devices if not self._users.owns(one.user_id)}))


def _content(shown: VisiblePresence, now_ms: int) -> dict[str, object]:
    content: dict[str, object] = {"presence": shown.state}
    if shown.last_active_ms:
        content["last_active_ago"] = max(0, now_ms - shown.last_active_ms)
    if shown.state != OFFLINE:
        content["currently_active"] = shown.currently_active
    if shown.status_msg is not None:
        content["status_msg"] = shown.status_msg
    return content
