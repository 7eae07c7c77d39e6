"""POST /_skep/rooms/{roomId}/receive and PUT /_skep/rooms/{roomId}/given_state: events of other servers for a room."""

from replication.calls.received_events import (
    MAX_PDUS,
    MAX_STATES,
    GivenState,
    GivenStateAnswer,
    ReceiveAnswer,
    ReceiveRequest,
)
from replication.calls.rooms import GIVE_STATE, RECEIVE_EVENTS
from shared.core.errors import MatrixError, not_found
from shared.core.identifiers import RoomId
from workers.event_persister.members.guest_removal import GuestRemoval
from workers.event_persister.members.member_changes import guests_can_join
from workers.event_persister.receiving.deliveries import Deliveries
from workers.event_persister.receiving.delivery import Receiving
from workers.event_persister.receiving.given_states import GivenStates
from workers.event_persister.room.live_room import LiveRoom
from workers.event_persister.room_writer import RoomWriter


class _NoRoom(MatrixError):
    """The room does not exist here. The call's answer says so."""


def _no_room() -> _NoRoom:
    absent = not_found("This room is not known here")
    return _NoRoom(absent.errcode, absent.message, absent.status)


class ReceiveHandler:
    def __init__(
        self,
        *,
        writer: RoomWriter,
        receiving: Receiving,
        given_states: GivenStates,
        deliveries: Deliveries,
        guests: GuestRemoval,
    ) -> None:
        self._writer = writer
        self._guests = guests
        self._receiving = receiving
        self._given_states = given_states
        self._deliveries = deliveries

    @RECEIVE_EVENTS.handler
    async def receive_events(self, room_id: RoomId, request: ReceiveRequest) -> ReceiveAnswer:
        """Answer when all events are stored, or after the caller's time. The call may be repeated at any time."""
        if len(request.pdus) > MAX_PDUS:
            raise MatrixError("M_TOO_LARGE", f"At most {MAX_PDUS} events at once", 413)
        if len({pdu.state_before for pdu in request.pdus} - {None}) > MAX_STATES:
            raise MatrixError("M_TOO_LARGE", f"At most {MAX_STATES} states at once", 413)

        async def take_in(room: LiveRoom) -> ReceiveAnswer:
            admitted = guests_can_join(room)
            received = await self._receiving.receive(room, request.pdus)
            if admitted and not guests_can_join(room):
                await self._guests.begin(room)
            return ReceiveAnswer(received)

        async def work() -> ReceiveAnswer:
            try:
                return await self._writer.in_room(room_id, take_in, absent=_no_room())
            except _NoRoom:
                return ReceiveAnswer(has_room=False)

        return await self._deliveries.answer(room_id, request, work)

    @GIVE_STATE.handler
    async def give_state(self, room_id: RoomId, state: GivenState) -> GivenStateAnswer:
        """Store a state. The call may be repeated at any time."""

        async def store(room: LiveRoom) -> GivenStateAnswer:
            return await self._given_states.store(room, state.event_ids)

        try:
            return await self._writer.in_room(room_id, store, absent=_no_room())
        except _NoRoom:
            return GivenStateAnswer(has_room=False)
