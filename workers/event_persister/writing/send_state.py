"""PUT of room state. Spec: client-server API, "Sending events to a room", "Canonical alias"."""

from collections.abc import Mapping
from typing import Any

from shared.core.identifiers import EventId, UserId
from shared.http.endpoint import RateLimit, RoutingKey
from shared.http.request import Request, Requester, Response, json_response
from shared.http.serving import endpoint
from shared.storage.engine.pool import Database
from shared.storage.rooms.aliases import get_aliases_pointing_to
from workers.event_persister.members.guest_removal import GuestRemoval
from workers.event_persister.members.member_changes import MemberChanges
from workers.event_persister.members.member_draft import MEMBER, same_json
from workers.event_persister.room.drafts import Draft
from workers.event_persister.room.live_room import LiveRoom
from workers.event_persister.room.room_state import GUEST_ACCESS
from workers.event_persister.room_writer import RoomWriter
from workers.event_persister.writing.refusals import aliases_in, check_aliases, check_content, check_state
from workers.event_persister.writing.scheduling import DELAY, Scheduling


class StateHandlers:
    def __init__(
        self,
        writer: RoomWriter,
        scheduling: Scheduling,
        changes: MemberChanges,
        guests: GuestRemoval,
        database: Database,
    ) -> None:
        self._writer = writer
        self._scheduling = scheduling
        self._changes = changes
        self._database = database
        self._guests = guests

    # Not idempotent for the proxy: another user may set the state between two tries.
    @endpoint(
        name="set_state",
        method="PUT",
        path="/_matrix/client/{version}/rooms/{roomId}/state/{eventType}/{stateKey?}",
        api_v1=True,
        pool="rooms",
        routing_key=RoutingKey.ROOM,
        rate_limit=RateLimit.MESSAGE,
        spec="client-server-api/#put_matrixclientv3roomsroomidstateeventtypestatekey",
    )
    async def set_state(self, request: Request) -> Response:
        """PUT /rooms/{roomId}/state/{eventType}/{stateKey}, also without the key (then it is "").

        Content equal to that of the present event, from the same sender, changes nothing: its id is the answer, which
        makes a retransmission harmless.
        """
        if DELAY in request.query:
            return await self._scheduling.schedule_state(request)
        event_type, state_key = request.params["eventType"], request.params["stateKey"]
        content, sticky_ms = request.json_object(), self._scheduling.sticky_ms(request)

        async def put(room: LiveRoom) -> EventId:
            return await self.put(room, request.user, event_type, state_key, content, sticky_ms=sticky_ms)

        return json_response({"event_id": await self._writer.in_room(request.params["roomId"], put)})

    async def put(
        self,
        room: LiveRoom,
        user: Requester,
        event_type: str,
        state_key: str,
        content: Mapping[str, Any],
        *,
        key: bytes | None = None,
        shown_to: tuple[str | None, str] | None = None,
        sticky_ms: int | None = None,
    ) -> EventId:
        """Set the state and return its event's id.

        key: of a transaction. shown_to: device and transaction id. A sticky event is always a new one: sending it
        again is how it stays sticky.
        """
        if not (event_type == MEMBER and state_key == user.user_id):
            self._changes.check_member(room, user.user_id)
        check_content(event_type, content)
        check_state(room, user.user_id, event_type, content)
        if sticky_ms is None:
            unchanged = await self._unchanged(room, user.user_id, event_type, state_key, content)
            if unchanged is not None:
                return unchanged
        if event_type == MEMBER:
            content = await self._changes.prepare_member_state(room, user, UserId(state_key), content)
        elif event_type == "m.room.canonical_alias":
            await self._check_aliases(room, content)
        device, txn_id = shown_to or (None, None)
        draft = Draft(
            sender=user.user_id,
            type=event_type,
            state_key=state_key,
            content=content,
            device=device,
            txn_id=txn_id,
            sticky_ms=sticky_ms,
        )
        if event_type == GUEST_ACCESS[0]:
            return (await self._guests.around(room, lambda: self._writer.write(room, [draft], key)))[-1]
        return (await self._writer.write(room, [draft], key))[-1]

    async def _unchanged(
        self, room: LiveRoom, sender: UserId, event_type: str, state_key: str, content: Mapping[str, Any]
    ) -> EventId | None:
        entry = room.state.entry(event_type, state_key)
        if entry is None:
            return None
        event = await self._writer.state_event(room, entry)
        if event.sender != sender or not same_json(event.content, content):
            return None
        await self._writer.settled(room, entry)
        return entry.event_id

    async def _check_aliases(self, room: LiveRoom, content: Mapping[str, Any]) -> None:
        """Raise M_INVALID_PARAM for an ill-formed alias, M_BAD_ALIAS for one that does not point to this room.

        Only new aliases are checked: a client that changes one need not mend the others.
        """
        entry = room.state.entry("m.room.canonical_alias")
        present = (await self._writer.state_event(room, entry)).content if entry is not None else {}
        new = aliases_in(content) - aliases_in(present, lenient=True)
        check_aliases(new, await get_aliases_pointing_to(self._database, room.room_nid, new) if new else ())
