"""What the synchrotron serves: /sync by user, and the reading of rooms by room."""

from shared.http.endpoint import CLIENT_V1, Auth, Endpoint, Pool, RateLimit, RoutingKey

POOLS: tuple[Pool, ...] = (
    # A long poll holds its connection: many at a time, and longer than the longest timeout.
    Pool("sync", worker="synchrotron", connections_per_instance=10_000, server_timeout_s=90.0),
    Pool("room_reads", worker="synchrotron", connections_per_instance=1_000, server_timeout_s=60.0),
)

_CS = "client-server-api/"


def _room_read(name: str, path: str, spec: str, *, api_v1: bool = True) -> Endpoint:
    return Endpoint(
        name, ("GET",), f"/_matrix/client/{{version}}/rooms/{{roomId}}/{path}", pool="room_reads",
        routing_key=RoutingKey.ROOM, auth=Auth.ACCESS_TOKEN, rate_limit=RateLimit.READ, idempotent=True,
        api_v1=api_v1, spec=_CS + spec,
    )  # fmt: skip


def _room_v1(name: str, path: str, spec: str) -> Endpoint:
    return Endpoint(
        name, ("GET",), f"/_matrix/client/{{version}}/rooms/{{roomId}}/{path}", pool="room_reads",
        routing_key=RoutingKey.ROOM, auth=Auth.ACCESS_TOKEN, rate_limit=RateLimit.READ, idempotent=True,
        versions=CLIENT_V1, spec=_CS + "#get_matrixclientv1" + spec,
    )  # fmt: skip


ENDPOINTS: tuple[Endpoint, ...] = (
    Endpoint(
        "get_sync", ("GET",), "/_matrix/client/{version}/sync", pool="sync", routing_key=RoutingKey.TOKEN_USER,
        auth=Auth.ACCESS_TOKEN, idempotent=True, spec=_CS + "#get_matrixclientv3sync",
    ),
    Endpoint(
        "sync_merged", ("POST",), "/_matrix/client/v4/sync", pool="sync", routing_key=RoutingKey.TOKEN_USER,
        auth=Auth.ACCESS_TOKEN, idempotent=True, spec="MSC4186",
    ),
    Endpoint(  # the draft of MSC4186 that clients of 2024 to 2026 speak
        "sync_deployed", ("POST",), "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync", pool="sync",
        routing_key=RoutingKey.TOKEN_USER, auth=Auth.ACCESS_TOKEN, idempotent=True, spec="MSC4186",
    ),
    # From before /sync, and for looking into rooms.
    Endpoint(
        "get_events", ("GET",), "/_matrix/client/{version}/events", pool="sync", routing_key=RoutingKey.TOKEN_USER,
        auth=Auth.ACCESS_TOKEN, idempotent=True, api_v1=True, spec=_CS + "#get_matrixclientv3events",
    ),
    Endpoint(
        "get_initial_sync", ("GET",), "/_matrix/client/{version}/initialSync", pool="sync",
        routing_key=RoutingKey.TOKEN_USER, auth=Auth.ACCESS_TOKEN, idempotent=True, api_v1=True,
        spec=_CS + "#get_matrixclientv3initialsync",
    ),
    _room_read("get_room_initial_sync", "initialSync", "#get_matrixclientv3roomsroomidinitialsync"),
    _room_read("get_room_messages", "messages", "#get_matrixclientv3roomsroomidmessages"),
    _room_read("get_event_context", "context/{eventId}", "#get_matrixclientv3roomsroomidcontexteventid"),
    _room_read("get_room_event", "event/{eventId}", "#get_matrixclientv3roomsroomideventeventid"),
    Endpoint(
        "get_event_by_id", ("GET",), "/_matrix/client/{version}/events/{eventId}", pool="room_reads",
        auth=Auth.ACCESS_TOKEN, rate_limit=RateLimit.READ, idempotent=True, api_v1=True,
        spec=_CS + "#get_matrixclientv3eventseventid",
    ),
    _room_read("get_room_state", "state", "#get_matrixclientv3roomsroomidstate"),
    _room_read(
        "get_room_state_event", "state/{eventType}/{stateKey?}", "#get_matrixclientv3roomsroomidstateeventtypestatekey"
    ),
    _room_read("get_room_members", "members", "#get_matrixclientv3roomsroomidmembers"),
    _room_read("get_joined_members", "joined_members", "#get_matrixclientv3roomsroomidjoined_members"),
    Endpoint(
        "get_event_by_timestamp", ("GET",), "/_matrix/client/v1/rooms/{roomId}/timestamp_to_event", pool="room_reads",
        routing_key=RoutingKey.ROOM, auth=Auth.ACCESS_TOKEN, rate_limit=RateLimit.READ, idempotent=True,
        spec=_CS + "#get_matrixclientv1roomsroomidtimestamp_to_event",
    ),
    _room_v1("get_relations", "relations/{eventId}", "roomsroomidrelationseventid"),
    _room_v1("get_relations_by_type", "relations/{eventId}/{relType}", "roomsroomidrelationseventidreltype"),
    _room_v1(
        "get_relations_by_types", "relations/{eventId}/{relType}/{eventType}",
        "roomsroomidrelationseventidreltypeeventtype",
    ),
    Endpoint(
        "list_thread_subscriptions", ("GET",), "/_matrix/client/unstable/io.element.msc4308/thread_subscriptions",
        pool="room_reads", rate_limit=RateLimit.READ, idempotent=True, spec="MSC4308",
    ),
    _room_v1("get_threads", "threads", "roomsroomidthreads"),
    _room_v1("get_hierarchy", "hierarchy", "roomsroomidhierarchy"),
    Endpoint(
        "get_room_summary", ("GET",), "/_matrix/client/{version}/room_summary/{roomIdOrAlias}", pool="room_reads",
        auth=Auth.OPTIONAL, rate_limit=RateLimit.READ, idempotent=True, versions=CLIENT_V1,
        spec=_CS + "#get_matrixclientv1room_summaryroomidoralias",
        aliases=(  # before v1.15
            "/_matrix/client/unstable/im.nheko.summary/summary/{roomIdOrAlias}",
            "/_matrix/client/unstable/im.nheko.summary/rooms/{roomIdOrAlias}/summary",
        ),
    ),
    Endpoint(
        "get_public_rooms", ("GET",), "/_matrix/client/{version}/publicRooms", pool="room_reads",
        auth=Auth.OPTIONAL, rate_limit=RateLimit.READ, idempotent=True, api_v1=True,
        spec=_CS + "#get_matrixclientv3publicrooms",
    ),
    Endpoint(
        "query_public_rooms", ("POST",), "/_matrix/client/{version}/publicRooms", pool="room_reads",
        auth=Auth.ACCESS_TOKEN, rate_limit=RateLimit.READ, api_v1=True,
        spec=_CS + "#post_matrixclientv3publicrooms",
    ),
    Endpoint(
        "get_notifications", ("GET",), "/_matrix/client/{version}/notifications", pool="room_reads",
        auth=Auth.ACCESS_TOKEN, rate_limit=RateLimit.READ, idempotent=True,
        spec=_CS + "#get_matrixclientv3notifications",
    ),
    Endpoint(
        "search", ("POST",), "/_matrix/client/{version}/search", pool="room_reads", auth=Auth.ACCESS_TOKEN,
        rate_limit=RateLimit.READ, api_v1=True, spec=_CS + "#post_matrixclientv3search",
    ),
)  # fmt: skip
