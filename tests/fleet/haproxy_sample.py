"""A small table of endpoints with every routing key, every kind of path, and paths that nearly meet."""

from shared.http.endpoint import Auth, Endpoint, Pool, RoutingKey

POOLS = (
    Pool("client", worker="client_api", slot_kind="users", queue_timeout_s=1.0, server_timeout_s=5.0),
    Pool("room_write", worker="event_persister", slot_kind="rooms", queue_timeout_s=1.0, server_timeout_s=5.0),
    Pool("sync", worker="synchrotron", queue_timeout_s=1.0, server_timeout_s=1.0),
    Pool("room_read", worker="synchrotron", queue_timeout_s=1.0, server_timeout_s=5.0),
    Pool("federation", worker="federation_reader", queue_timeout_s=1.0, server_timeout_s=5.0),
    Pool("media", worker="media", queue_timeout_s=1.0, server_timeout_s=5.0),
)

_CLIENT = "/_matrix/client/{version}"
ENDPOINTS = (
    Endpoint("get_versions", ("GET",), "/_matrix/client/versions", "client", auth=Auth.OPTIONAL, idempotent=True),
    Endpoint("get_sync", ("GET",), f"{_CLIENT}/sync", "sync", RoutingKey.TOKEN_USER, idempotent=True),
    Endpoint("create_room", ("POST",), f"{_CLIENT}/createRoom", "room_write"),
    Endpoint(
        "send_event", ("PUT",), f"{_CLIENT}/rooms/{{roomId}}/send/{{eventType}}/{{txnId}}", "room_write",
        RoutingKey.ROOM, idempotent=True, api_v1=True,
    ),
    Endpoint(
        "set_state", ("PUT",), f"{_CLIENT}/rooms/{{roomId}}/state/{{eventType}}/{{stateKey?}}", "room_write",
        RoutingKey.ROOM, api_v1=True,
    ),
    Endpoint(
        "get_state", ("GET",), f"{_CLIENT}/rooms/{{roomId}}/state/{{eventType}}/{{stateKey?}}", "room_read",
        RoutingKey.ROOM, idempotent=True,
    ),
    Endpoint("get_messages", ("GET",), f"{_CLIENT}/rooms/{{roomId}}/messages", "room_read", RoutingKey.ROOM),
    Endpoint(
        "join_room", ("POST",), f"{_CLIENT}/join/{{roomIdOrAlias}}", "room_write", RoutingKey.ROOM_OR_ALIAS,
        api_v1=True,
    ),
    Endpoint("get_profile_field", ("GET",), f"{_CLIENT}/profile/{{userId}}/{{keyName}}", "client", RoutingKey.USER),
    Endpoint(
        "set_displayname", ("PUT",), f"{_CLIENT}/profile/{{userId}}/displayname", "client", RoutingKey.USER,
        idempotent=True,
    ),
    Endpoint("get_avatar", ("GET",), f"{_CLIENT}/profile/{{userId}}/avatar_url", "client"),
    Endpoint("get_devices", ("GET",), f"{_CLIENT}/devices", "client", RoutingKey.TOKEN_USER, idempotent=True),
    Endpoint("delete_device", ("DELETE",), f"{_CLIENT}/devices/{{deviceId}}", "client", RoutingKey.TOKEN_USER),
    Endpoint(
        "download", ("GET",), "/_matrix/client/v1/media/download/{serverName}/{mediaId}/{fileName?}", "media",
        RoutingKey.MEDIA, idempotent=True,
    ),
    Endpoint(
        "federation_send", ("PUT",), "/_matrix/federation/v1/send/{txnId}", "federation", RoutingKey.ORIGIN,
        Auth.SERVER, idempotent=True,
    ),
    Endpoint(
        "make_join", ("GET",), "/_matrix/federation/v1/make_join/{roomId}/{userId}", "federation", RoutingKey.ROOM,
        Auth.SERVER, idempotent=True,
    ),
    Endpoint("get_server_keys", ("GET",), "/_matrix/key/v2/server", "federation", auth=Auth.NONE, idempotent=True),
    Endpoint("get_well_known", ("GET",), "/.well-known/matrix/client", "client", auth=Auth.NONE, idempotent=True),
    Endpoint("persist", ("POST",), "/_skep/v1/persist", "room_write", auth=Auth.INTERNAL),
)  # fmt: skip
