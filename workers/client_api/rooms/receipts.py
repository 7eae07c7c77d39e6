"""Read receipts and the fully-read marker. Spec: client-server API, "Receipts", "Fully read markers"."""

from typing import Any

import msgspec
import orjson

from replication.streams import RECEIPTS
from replication.streams.announcer import Announcer
from replication.streams.fenced_writer import FencedWriter
from shared.core.errors import forbidden, invalid_param, not_found
from shared.core.identifiers import EventId, RoomId, UserId, check_event_id, check_room_id
from shared.core.rows import ReceiptRow
from shared.http.endpoint import RateLimit, RoutingKey
from shared.http.request import Request, Response, empty_response
from shared.http.serving import endpoint
from shared.rooms.room_view import get_visible_event, open_room
from shared.runtime.clock import Clock
from shared.storage.engine.pool import Database, transient_as_unavailable
from shared.storage.push.rules_in_rooms import get_event_threads
from shared.storage.user_data.receipts import SET_RECEIPT, ReceiptTarget, SetReceipt, get_receipt_target
from workers.client_api.people.present_users import PresentUsers
from workers.client_api.user_data.account_data import FULLY_READ
from workers.client_api.user_data.account_data_writer import AccountDataWriter

PUBLIC, PRIVATE = "m.read", "m.read.private"
MAIN_THREAD = "main"


class ReadMarkersBody(msgspec.Struct, rename={"fully_read": FULLY_READ, "read": PUBLIC, "private": PRIVATE}):
    fully_read: str | None = None
    read: str | None = None
    private: str | None = None


class Receipts:
    def __init__(
        self,
        database: Database,
        writer: FencedWriter,
        announcer: Announcer,
        account_data: AccountDataWriter,
        present_users: PresentUsers,
        clock: Clock,
    ) -> None:
        self._database = database
        self._writer = writer
        self._announcer = announcer
        self._account_data = account_data
        self._present_users = present_users
        self._clock = clock

    # Receipts go to the owner of the user and not of the room: protocol notes, B2.
    @endpoint(
        name="send_receipt",
        method="POST",
        path="/_matrix/client/{version}/rooms/{roomId}/receipt/{receiptType}/{eventId}",
        pool="client",
        routing_key=RoutingKey.TOKEN_USER,
        rate_limit=RateLimit.READ,
        spec="client-server-api/#post_matrixclientv3roomsroomidreceiptreceipttypeeventid",
    )
    async def send_receipt(self, request: Request) -> Response:
        """POST /rooms/{roomId}/receipt/{receiptType}/{eventId}.

        Raises M_FORBIDDEN for users who are not in the room, M_NOT_FOUND for an event that the user cannot see, and
        M_INVALID_PARAM for an unknown type or a wrong `thread_id`.
        """
        kind = request.params["receiptType"]
        if kind not in (PUBLIC, PRIVATE, FULLY_READ):
            raise invalid_param(f"The receipt type must be one of: {PUBLIC}, {PRIVATE}, {FULLY_READ}")
        thread_id = _thread_id(request.json_object(empty_ok=True), kind)
        user_id, room_id = request.user.user_id, check_room_id(request.params["roomId"])
        target = await self._target(room_id, user_id, request.params["eventId"])
        if thread_id:
            await self._check_thread(target, thread_id)
        await self._set(user_id, room_id, kind, thread_id, target)
        self._present_users.note_activity(request.user)
        return empty_response()

    @endpoint(
        name="set_read_markers",
        method="POST",
        path="/_matrix/client/{version}/rooms/{roomId}/read_markers",
        pool="client",
        routing_key=RoutingKey.TOKEN_USER,
        rate_limit=RateLimit.READ,
        spec="client-server-api/#post_matrixclientv3roomsroomidread_markers",
    )
    async def set_read_markers(self, request: Request) -> Response:
        """POST /rooms/{roomId}/read_markers. All markers are set, or none if one of the events is not found."""
        body = request.decode(ReadMarkersBody)
        user_id, room_id = request.user.user_id, check_room_id(request.params["roomId"])
        wanted = ((FULLY_READ, body.fully_read), (PUBLIC, body.read), (PRIVATE, body.private))
        targets = [
            (kind, await self._target(room_id, user_id, EventId(event))) for kind, event in wanted if event is not None
        ]
        for kind, target in targets:
            await self._set(user_id, room_id, kind, "", target)
        self._present_users.note_activity(request.user)
        return empty_response()

    async def _target(self, room_id: RoomId, user_id: UserId, event_id: EventId) -> ReceiptTarget:
        target = await get_receipt_target(self._database, room_id, user_id, check_event_id(event_id))
        if target is None or target.membership != "join":
            raise forbidden("You are not in this room")
        if target.event_id is None:
            raise not_found("There is no such event in this room")
        assert target.membership_ordinal is not None
        if target.place <= target.membership_ordinal:  # events after the latest membership event are visible
            await get_visible_event(self._database, await open_room(self._database, room_id, user_id), target.event_id)
        return target

    async def _set(self, user_id: UserId, room_id: RoomId, kind: str, thread_id: str, target: ReceiptTarget) -> None:
        assert target.event_id is not None
        if kind == FULLY_READ:
            await self._set_fully_read(user_id, room_id, target.event_id, target.ordinal)
            return
        now_ms = self._clock.now_ms()
        with transient_as_unavailable():
            record = SetReceipt(
                room_nid=target.room_nid,
                user_id=user_id,
                kind=kind,
                thread_id=thread_id,
                event_id=target.event_id,
                ordinal=target.ordinal,
                ts_ms=now_ms,
            )
            row = await self._writer.write(SET_RECEIPT, record, streams=(RECEIPTS.name,))
        if row["position"] is None:
            return  # not ahead of the present receipt, so nothing changed
        receipt = ReceiptRow(
            position=row["position"],
            writer=self._writer.lease,
            room_nid=target.room_nid,
            room_id=room_id,
            user_id=user_id,
            kind=kind,
            thread_id=thread_id,
            event_id=target.event_id,
            ordinal=target.ordinal,
            ts_ms=now_ms,
        )
        self._announcer.announce(RECEIPTS, [receipt])

    async def _set_fully_read(self, user_id: UserId, room_id: RoomId, event_id: EventId, ordinal: int) -> None:
        """Set the marker. It only moves forward, because each device of the user sends its own."""
        async with self._account_data.lock(user_id):
            present = await self._present_marker(user_id, room_id)
            if present is not None and present.ordinal >= ordinal:
                return
            await self._account_data.set(user_id, room_id, FULLY_READ, orjson.dumps({"event_id": event_id}))

    async def _present_marker(self, user_id: UserId, room_id: RoomId) -> ReceiptTarget | None:
        json = await self._account_data.get(user_id, room_id, FULLY_READ)
        event_id = orjson.loads(json).get("event_id") if json is not None else None
        if not isinstance(event_id, str) or "\x00" in event_id:
            return None
        target = await get_receipt_target(self._database, room_id, user_id, EventId(event_id))
        return target if target is not None and target.event_id is not None else None

    async def _check_thread(self, target: ReceiptTarget, thread_id: str) -> None:
        """Raise M_INVALID_PARAM unless the event is in the thread. A thread's root is in its thread and in "main"."""
        event_id = target.event_id
        if event_id is None or event_id == thread_id:
            return
        threads = await get_event_threads(self._database, target.room_nid, [event_id])
        if threads.get(event_id, MAIN_THREAD) != thread_id:
            raise invalid_param("The event is not in the thread that thread_id names")


def _thread_id(body: dict[str, Any], kind: str) -> str:
    """Return the thread that the body names; "" if it names none."""
    if "thread_id" not in body:
        return ""
    thread_id = body["thread_id"]
    if not isinstance(thread_id, str) or not thread_id:
        raise invalid_param("thread_id must be a non-empty string")
    if kind == FULLY_READ:
        raise invalid_param("m.fully_read takes no thread_id")
    return thread_id if thread_id == MAIN_THREAD else check_event_id(thread_id)
