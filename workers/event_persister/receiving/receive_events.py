"""POST /_skep/rooms/{roomId}/receive: events of other servers for a room of ours."""

from replication.calls.received_events import MAX_PDUS, ReceiveAnswer, Received, ReceiveRequest
from replication.calls.rooms import RECEIVE_EVENTS
from shared.core.errors import MatrixError, not_found
from shared.core.identifiers import EventId, RoomId
from workers.event_persister.members.guest_removal import GuestRemoval
from workers.event_persister.members.member_changes import guests_can_join
from workers.event_persister.receiving.delivery import Receiving
from workers.event_persister.room.live_room import LiveRoom
from workers.event_persister.room_writer import RoomWriter


class ReceiveHandler:
    def __init__(self, writer: RoomWriter, receiving: Receiving, guests: GuestRemoval) -> None:
        self._writer = writer
        self._guests = guests
        self._receiving = receiving

    @RECEIVE_EVENTS.handler
    async def receive_events(self, room_id: RoomId, request: ReceiveRequest) -> ReceiveAnswer:
        """Answer when all events are stored. The call may be repeated at any time.

        Raises M_NOT_FOUND for an unknown room.
        """
        pdus = request.pdus
        if len(pdus) > MAX_PDUS:
            raise MatrixError("M_TOO_LARGE", f"At most {MAX_PDUS} events at once", 413)

        async def take_in(room: LiveRoom) -> dict[EventId, Received]:
            admitted = guests_can_join(room)
            received = await self._receiving.receive(room, pdus)
            if admitted and not guests_can_join(room):
                await self._guests.begin(room)
            return received

        absent = not_found("This room is not known here")
        return ReceiveAnswer(await self._writer.in_room(room_id, take_in, absent=absent))
