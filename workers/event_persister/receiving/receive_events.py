"""POST /_skep/rooms/{roomId}/receive: events of other servers for a room of ours."""

import msgspec

from shared.core.errors import MatrixError, bad_json, not_found
from shared.http.request import Request, Response, json_response
from workers.event_persister.members.guest_removal import GuestRemoval
from workers.event_persister.members.member_changes import guests_can_join
from workers.event_persister.receiving.delivery import Receiving
from workers.event_persister.receiving.messages import MAX_PDUS, ReceiveAnswer, Received, ReceiveRequest
from workers.event_persister.room.live_room import LiveRoom
from workers.event_persister.room_writer import RoomWriter


class ReceiveHandler:
    def __init__(self, writer: RoomWriter, receiving: Receiving, guests: GuestRemoval) -> None:
        self._writer = writer
        self._guests = guests
        self._receiving = receiving

    async def receive_events(self, request: Request) -> Response:
        """`ReceiveRequest` in, `ReceiveAnswer` out, when all of it is stored. It may be asked again at any time.

        M_NOT_FOUND for a room that we do not have.
        """
        try:
            # Not `request.decode`: the PDUs stay as they were written, with integers of any size.
            pdus = msgspec.json.decode(request.body, type=ReceiveRequest).pdus
        except msgspec.MsgspecError as error:
            raise bad_json(str(error)) from error
        if len(pdus) > MAX_PDUS:
            raise MatrixError("M_TOO_LARGE", f"At most {MAX_PDUS} events at once", 413)

        async def take_in(room: LiveRoom) -> dict[str, Received]:
            admitted = guests_can_join(room)
            received = await self._receiving.receive(room, pdus)
            if admitted and not guests_can_join(room):
                await self._guests.begin(room)
            return received

        absent = not_found("This room is not known here")
        results = await self._writer.in_room(request.params["roomId"], take_in, absent=absent)
        return json_response(msgspec.to_builtins(ReceiveAnswer(results)))
