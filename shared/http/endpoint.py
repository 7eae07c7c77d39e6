"""Endpoints and pools as data: each is declared once, and everything that routes is made from the declarations.

From these records come every worker's dispatch table, the haproxy configuration and its maps, `skep endpoints`,
the metrics labels and the routing tests. Nothing here does I/O.
"""

from dataclasses import dataclass, field
from enum import Enum


class Auth(Enum):
    """Who may call an endpoint."""

    NONE = "none"
    OPTIONAL = "optional"  # a token is checked where one is sent
    ACCESS_TOKEN = "access token"  # noqa: S105 - a kind, not a secret
    INTERNAL = "internal"  # another process of this fleet, with the fleet's secret; haproxy lets none in
    SERVER = "server signature"  # X-Matrix (federation)


class RoutingKey(Enum):
    """What decides which process of the pool gets the request. Declared, never guessed from the path's look.

    The value names the path parameter where one is the key.
    """

    NONE = ""  # any process of the pool
    ROOM = "roomId"  # the slot of the decoded room id -> its owner
    ROOM_OR_ALIAS = "roomIdOrAlias"  # a room id as above; an alias: any process, which resolves and forwards
    USER = "userId"  # the slot of the user id in the path -> its owner
    TOKEN_USER = "token"  # noqa: S105 - the slot of whoever is asking: `user_id` in the query, else the token's hint
    ORIGIN = "origin"  # the sending server named in the X-Matrix header
    MEDIA = "mediaId"


class RateLimit(Enum):
    """Rate-limit classes; the numbers stand in the configuration."""

    NONE = "none"
    MESSAGE = "message"  # per user: events sent
    JOIN = "join"
    INVITE = "invite"
    ROOM_CREATION = "room_creation"
    REGISTRATION = "registration"  # per address
    LOGIN = "login"  # per address and per account
    ACCOUNT = "account"  # per user: profile, account data, passwords
    READ = "read"  # per user


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """Processes of one worker type that serve the same endpoints with the same limits.

    slot_kind: "rooms" or "users" where each slot has one owner; "" where any process may serve.
    """

    name: str
    worker: str
    slot_kind: str = ""
    connections_per_instance: int = 500
    queue_timeout_s: float = 5.0
    server_timeout_s: float = 60.0


#: Prefixes under which clients still call an endpoint, by the form of its template.
#: `/_matrix/client/v3/...` -> also r0, v1 and `unstable`; old `api/v1` where the endpoint says so.
CLIENT_V3 = ("v3", "r0", "v1", "unstable")
CLIENT_V1 = ("v1", "unstable")


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One operation.

    name: unique, snake case, verb first; also the handler's name in `compose.py` and the metrics label.
    methods: HTTP methods (OPTIONS is answered everywhere; HEAD is not offered).
    path: template such as "/_matrix/client/{version}/rooms/{roomId}/send/{eventType}/{txnId}". "{version}" stands for
        any of `versions`. A parameter matches one or more characters other than "/"; "{name?}" may be empty,
        and when it is the last part, may be absent with its slash.
    versions: what "{version}" may be; the first is the one that the spec writes.
    api_v1: also served under "/_matrix/client/api/v1/..." (bots and bridges of old).
    idempotent: haproxy may replay the request after a connection failed in the middle.
    body_limit_bytes: larger bodies get 413 M_TOO_LARGE before they are read whole; None: the configuration's
        `limits.max_body_bytes`.
    """

    name: str
    method: str
    path: str
    pool: str
    routing_key: RoutingKey = RoutingKey.NONE
    auth: Auth = Auth.ACCESS_TOKEN
    rate_limit: RateLimit = RateLimit.NONE
    idempotent: bool = False
    versions: tuple[str, ...] = CLIENT_V3
    api_v1: bool = False
    body_limit_bytes: int | None = None
    spec: str = ""
    aliases: tuple[str, ...] = field(default=())  # further whole path templates


def paths_of(endpoint: Endpoint) -> tuple[str, ...]:
    """Return every path template of the endpoint with its versions filled in, the spec's own first."""
    paths: list[str] = []
    for template in (endpoint.path, *endpoint.aliases):
        if "{version}" not in template:
            paths.append(template)
            continue
        paths.extend(template.replace("{version}", version) for version in endpoint.versions)
        if endpoint.api_v1:
            paths.append(template.replace("{version}", "api/v1"))
    return tuple(paths)
