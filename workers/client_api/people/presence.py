"""Presence at its owner: who sets and asks for it, and the synchrotrons' reports of who syncs.

Spec: client-server API, "Presence".
"""

import msgspec

from replication.calls.presence import REPORT_PRESENCE, PresenceAnswer, PresenceReport
from shared.core.errors import Unavailable, forbidden, invalid_param, not_found
from shared.core.identifiers import check_user_id
from shared.core.presence import OFFLINE, STATES, UNSET, VisiblePresence
from shared.http.request import Handler, Request, Response, empty_response, json_response
from shared.runtime.clock import Clock
from shared.storage.encryption.device_lists import get_users_sharing
from shared.storage.engine.pool import Database
from shared.storage.user_data.presence import get_presence
from workers.client_api.people.presence_people import PresencePeople
from workers.client_api.user_data.account_data import own_user_id

MAX_STATUS_CHARS = 512


class StatusBody(msgspec.Struct):
    """status_msg: absent: as it was; null or "": none any more."""

    presence: str
    status_msg: str | msgspec.UnsetType | None = msgspec.UNSET


class Presence:
    """enabled: false: PUT changes nothing, and nobody's presence is known."""

    def __init__(self, people: PresencePeople, database: Database, clock: Clock, *, enabled: bool) -> None:
        self._people = people
        self._database = database
        self._clock = clock
        self._enabled = enabled

    async def set_presence(self, request: Request) -> Response:
        """PUT /presence/{userId}/status.

        Raises M_FORBIDDEN for another user, M_INVALID_PARAM for an unknown state or a status message that is too long.
        """
        user_id = own_user_id(request)
        body = request.decode(StatusBody)
        if body.presence not in STATES:
            raise invalid_param(f"presence must be one of: {', '.join(STATES)}")
        if isinstance(body.status_msg, str) and len(body.status_msg) > MAX_STATUS_CHARS:
            raise invalid_param(f"A status message has {MAX_STATUS_CHARS} characters at most")
        if not self._enabled:
            return empty_response()
        await self._people.bring([user_id])
        person = self._people.get(user_id)
        if person is None:
            raise Unavailable("Too many people are present at the same time")
        person.note_put(request.user.device_id or "", body.presence, self._clock.now_ms())
        said = person.status_msg if body.status_msg is msgspec.UNSET else body.status_msg or None
        is_new, person.status_msg = said != person.status_msg, said
        self._people.changed([user_id])
        if is_new:
            # What somebody wrote, and was told that we have it, is not lost with this process.
            await self._people.save_now(user_id)
        return empty_response()

    async def get_presence(self, request: Request) -> Response:
        """GET /presence/{userId}/status. Raises M_FORBIDDEN where no room is shared, M_NOT_FOUND without presence."""
        user_id, reader = check_user_id(request.params["userId"]), request.user.user_id
        if user_id != reader and not await get_users_sharing(self._database, reader, {user_id}):
            raise forbidden("You are not allowed to see their presence")
        if not self._enabled:
            raise not_found("This server keeps no presence")
        now_ms = self._clock.now_ms()
        person = self._people.get(user_id)
        if person is not None:
            return json_response(_content(person.visible(now_ms), now_ms))
        saved = (await get_presence(self._database, [user_id])).get(user_id)
        status, last_active_ms = (saved.status_msg, saved.last_active_ms) if saved is not None else (None, 0)
        return json_response(_content(VisiblePresence(OFFLINE, False, status, last_active_ms), now_ms))

    @REPORT_PRESENCE.handler
    async def report_presence(self, report: PresenceReport) -> PresenceAnswer:
        """Take in the syncing devices of a synchrotron. Return the users that another process owns."""
        now_ms = self._clock.now_ms()
        if self._enabled:
            # Who hides from the start has nothing to be kept.
            told = [one for one in report.devices if one.told != OFFLINE or one.user_id in self._people]
            await self._people.bring({one.user_id for one in told if self._people.owns(one.user_id)})
            changed: dict[str, None] = {}
            for one in told:
                person = self._people.get(one.user_id)
                if person is not None and self._people.owns(one.user_id) and one.told in (UNSET, *STATES):
                    active_ms = 0 if one.active_ago_ms is None else now_ms - one.active_ago_ms
                    person.note_sync(one.device_id, one.told, now_ms - one.seen_ago_ms, active_ms)
                    changed[one.user_id] = None
            self._people.changed(changed)
        return PresenceAnswer(sorted({one.user_id for one in report.devices if not self._people.owns(one.user_id)}))

    def counting(self, handler: Handler) -> Handler:
        """Return a handler of the user's owner whose requests count as activity (typing, receipts)."""

        async def handle(request: Request) -> Response:
            response = await handler(request)
            user = request.user
            person = self._people.get(user.user_id)
            if person is not None and person.note_activity(user.device_id or "", self._clock.now_ms()):
                self._people.changed([user.user_id])
            return response

        return handle


def _content(shown: VisiblePresence, now_ms: int) -> dict[str, object]:
    content: dict[str, object] = {"presence": shown.state}
    if shown.last_active_ms:
        content["last_active_ago"] = max(0, now_ms - shown.last_active_ms)
    if shown.state != OFFLINE:
        content["currently_active"] = shown.currently_active
    if shown.status_msg is not None:
        content["status_msg"] = shown.status_msg
    return content
