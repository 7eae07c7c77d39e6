"""The endpoints of the event persister: all that write into a room, at the owner of the room's slot."""

from shared.http.endpoint import Endpoint, Pool, RateLimit, RoutingKey
from shared.http.serving import endpoints_of
from workers.event_persister.members.change_membership import MembershipHandlers
from workers.event_persister.members.guest_removal import GuestRemoval
from workers.event_persister.members.member_profile import MemberProfileHandler
from workers.event_persister.receiving.receive_events import ReceiveHandler
from workers.event_persister.upgrades.successor import UpgradeSuccessor
from workers.event_persister.upgrades.upgrade import Upgrades
from workers.event_persister.writing.delayed_sending import DelayedSending

POOLS = (Pool("rooms", worker="event_persister", slot_kind="rooms"),)

_ROOM = "/_matrix/client/{version}/rooms/{roomId}"


def _membership(name: str, action: str, section: str, rate_limit: RateLimit) -> Endpoint:
    return Endpoint(
        name, ("POST",), f"{_ROOM}/{action}", "rooms", RoutingKey.ROOM, rate_limit=rate_limit, api_v1=True,
        spec=f"client-server-api/#{section}",
    )  # fmt: skip


ENDPOINTS = (
    # Any persister makes rooms: it picks ids whose slot is its own.
    Endpoint(
        "create_room", ("POST",), "/_matrix/client/{version}/createRoom", "rooms",
        rate_limit=RateLimit.ROOM_CREATION, api_v1=True,
        spec="client-server-api/#post_matrixclientv3createroom",
    ),
    Endpoint(
        "send_event", ("PUT",), f"{_ROOM}/send/{{eventType}}/{{txnId}}", "rooms", RoutingKey.ROOM,
        rate_limit=RateLimit.MESSAGE, idempotent=True, api_v1=True,
        spec="client-server-api/#put_matrixclientv3roomsroomidsendeventtypetxnid",
    ),
    Endpoint(
        "send_event_without_transaction", ("POST",), f"{_ROOM}/send/{{eventType}}", "rooms", RoutingKey.ROOM,
        rate_limit=RateLimit.MESSAGE, api_v1=True, spec="deployed: bots written for the api/v1",
    ),
    Endpoint(
        "redact_event", ("PUT",), f"{_ROOM}/redact/{{eventId}}/{{txnId}}", "rooms", RoutingKey.ROOM,
        rate_limit=RateLimit.MESSAGE, idempotent=True, api_v1=True,
        spec="client-server-api/#put_matrixclientv3roomsroomidredacteventidtxnid",
    ),
    Endpoint(
        "schedule_delayed_event", ("PUT",), f"{_ROOM}/delayed_event/{{eventType}}/{{txnId}}", "rooms",
        RoutingKey.ROOM, rate_limit=RateLimit.MESSAGE, idempotent=True, versions=("v3",), spec="MSC4140",
        aliases=("/_matrix/client/unstable/org.matrix.msc4140/rooms/{roomId}/delayed_event/{eventType}/{txnId}",),
    ),
    # Not idempotent for the proxy: another user may set the state between two tries.
    Endpoint(
        "set_state", ("PUT",), f"{_ROOM}/state/{{eventType}}/{{stateKey?}}", "rooms", RoutingKey.ROOM,
        rate_limit=RateLimit.MESSAGE, api_v1=True,
        spec="client-server-api/#put_matrixclientv3roomsroomidstateeventtypestatekey",
    ),
    _membership("join_room", "join", "post_matrixclientv3roomsroomidjoin", RateLimit.JOIN),
    Endpoint(
        "join_room_by_id_or_alias", ("POST",), "/_matrix/client/{version}/join/{roomIdOrAlias}", "rooms",
        RoutingKey.ROOM_OR_ALIAS, rate_limit=RateLimit.JOIN, api_v1=True,
        spec="client-server-api/#post_matrixclientv3joinroomidoralias",
    ),
    Endpoint(
        "knock_room", ("POST",), "/_matrix/client/{version}/knock/{roomIdOrAlias}", "rooms",
        RoutingKey.ROOM_OR_ALIAS, rate_limit=RateLimit.JOIN,
        spec="client-server-api/#post_matrixclientv3knockroomidoralias",
    ),
    _membership("leave_room", "leave", "post_matrixclientv3roomsroomidleave", RateLimit.NONE),
    _membership("forget_room", "forget", "post_matrixclientv3roomsroomidforget", RateLimit.NONE),
    _membership("invite_user", "invite", "post_matrixclientv3roomsroomidinvite", RateLimit.INVITE),
    _membership("kick_user", "kick", "post_matrixclientv3roomsroomidkick", RateLimit.MESSAGE),
    _membership("ban_user", "ban", "post_matrixclientv3roomsroomidban", RateLimit.MESSAGE),
    _membership("unban_user", "unban", "post_matrixclientv3roomsroomidunban", RateLimit.MESSAGE),
    Endpoint(
        "upgrade_room", ("POST",), f"{_ROOM}/upgrade", "rooms", RoutingKey.ROOM, rate_limit=RateLimit.ROOM_CREATION,
        spec="client-server-api/#post_matrixclientv3roomsroomidupgrade",
    ),
    *endpoints_of(
        DelayedSending, Upgrades, UpgradeSuccessor, GuestRemoval, MembershipHandlers, ReceiveHandler,
        MemberProfileHandler,
    ),
)  # fmt: skip
