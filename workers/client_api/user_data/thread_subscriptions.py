"""Thread subscriptions (MSC4306, under its unstable names)."""

import msgspec

from replication.calls.applied_rows import RoomOwners
from replication.streams import THREAD_SUBSCRIPTIONS
from replication.streams.announcer import Announcer
from replication.streams.fenced_writer import FencedWriter
from shared.core.errors import MatrixError, bad_json, not_found, unrecognized
from shared.core.rows import ThreadSubscriptionRow
from shared.http.endpoint import RateLimit, RoutingKey
from shared.http.request import Request, Response, empty_response, json_response
from shared.http.serving import endpoint
from shared.storage.engine.pool import Database, transient_as_unavailable
from shared.storage.user_data.thread_subscriptions import Thread, find_thread, subscribe, unsubscribe

_NOT_IN_THREAD = "IO.ELEMENT.MSC4306.M_NOT_IN_THREAD"
_CONFLICT = "IO.ELEMENT.MSC4306.M_CONFLICTING_UNSUBSCRIPTION"
_STREAMS = (THREAD_SUBSCRIPTIONS.name,)


class SubscriptionBody(msgspec.Struct):
    automatic: str | bool | None = None


class ThreadSubscriptions:
    def __init__(
        self, database: Database, writer: FencedWriter, announcer: Announcer, room_owners: RoomOwners, *, enabled: bool
    ) -> None:
        """enabled: False: the endpoints are unknown."""
        self._database = database
        self._writer = writer
        self._announcer = announcer
        self._room_owners = room_owners
        self._enabled = enabled

    @endpoint(
        name="set_thread_subscription",
        method="PUT",
        path="/_matrix/client/unstable/io.element.msc4306/rooms/{roomId}/thread/{threadRootId}/subscription",
        pool="client",
        routing_key=RoutingKey.TOKEN_USER,
        rate_limit=RateLimit.READ,
        spec="MSC4306",
    )
    async def set_thread_subscription(self, request: Request) -> Response:
        """PUT /rooms/{roomId}/thread/{threadRootId}/subscription. Guests may subscribe, as no other user sees it.

        Raises M_NOT_FOUND, M_NOT_IN_THREAD (400), M_CONFLICTING_UNSUBSCRIPTION (409).
        """
        automatic = request.decode(SubscriptionBody, empty_ok=True).automatic
        if automatic is True:
            raise bad_json("automatic must name the event that caused the subscription")
        thread = await self._thread(request, automatic or None)
        if automatic and thread.cause is None:
            raise MatrixError(_NOT_IN_THREAD, "The event that `automatic` names is not in the thread", 400)
        cause = thread.cause if automatic else None
        user_id, thread_id = request.user.user_id, request.params["threadRootId"]
        with transient_as_unavailable():
            changed = await subscribe(self._writer.write, user_id, thread.room_nid, thread_id, cause, _STREAMS)
        if changed == "conflict":
            raise MatrixError(_CONFLICT, "You unsubscribed from the thread after that event", 409)
        if changed != "unchanged":
            await self._announce(request, thread, changed, subscribed=True, automatic=cause is not None)
        return empty_response()

    @endpoint(
        name="get_thread_subscription",
        method="GET",
        path="/_matrix/client/unstable/io.element.msc4306/rooms/{roomId}/thread/{threadRootId}/subscription",
        pool="client",
        routing_key=RoutingKey.TOKEN_USER,
        rate_limit=RateLimit.READ,
        idempotent=True,
        spec="MSC4306",
    )
    async def get_thread_subscription(self, request: Request) -> Response:
        """GET /rooms/{roomId}/thread/{threadRootId}/subscription. Raises M_NOT_FOUND."""
        thread = await self._thread(request)
        if thread.automatic is None:
            raise not_found("You are not subscribed to this thread")
        return json_response({"automatic": thread.automatic})

    @endpoint(
        name="delete_thread_subscription",
        method="DELETE",
        path="/_matrix/client/unstable/io.element.msc4306/rooms/{roomId}/thread/{threadRootId}/subscription",
        pool="client",
        routing_key=RoutingKey.TOKEN_USER,
        rate_limit=RateLimit.READ,
        spec="MSC4306",
    )
    async def delete_thread_subscription(self, request: Request) -> Response:
        """DELETE /rooms/{roomId}/thread/{threadRootId}/subscription. No subscription is no error.

        Raises M_NOT_FOUND.
        """
        thread = await self._thread(request)
        user_id, thread_id = request.user.user_id, request.params["threadRootId"]
        with transient_as_unavailable():
            position = await unsubscribe(self._writer.write, user_id, thread.room_nid, thread_id, _STREAMS)
        if position is not None:
            await self._announce(request, thread, position, subscribed=False, automatic=False)
        return empty_response()

    async def _thread(self, request: Request, cause: str | None = None) -> Thread:
        if not self._enabled:
            raise unrecognized()
        room_id, thread_id = request.params["roomId"], request.params["threadRootId"]
        thread = await find_thread(self._database, room_id, request.user.user_id, thread_id, cause)
        if thread is None:
            raise not_found("There is no such thread, or you are not in its room")
        return thread

    async def _announce(
        self, request: Request, thread: Thread, position: int, *, subscribed: bool, automatic: bool
    ) -> None:
        """Announce the row, and wait until the next message of the thread is judged with it."""
        row = ThreadSubscriptionRow(
            position=position,
            writer=self._writer.lease,
            user_id=request.user.user_id,
            room_nid=thread.room_nid,
            room_id=request.params["roomId"],
            thread_id=request.params["threadRootId"],
            subscribed=subscribed,
            automatic=automatic,
        )
        self._announcer.announce(THREAD_SUBSCRIPTIONS, [row])
        await self._room_owners.wait_until_applied(THREAD_SUBSCRIPTIONS, row.writer, position)
