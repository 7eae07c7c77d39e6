"""Endpoints and pools as data. Each is declared once, and all routing is made from the declarations.

These records give each worker's dispatch table, the haproxy configuration and its maps, `skep endpoints`, the metrics
labels and the routing tests. Nothing here does I/O.
"""

from dataclasses import dataclass, field
from enum import Enum

#: The largest body of a federation transaction: 50 PDUs of 64 KiB and 100 EDUs of 64 KiB, and what surrounds them.
#: Spec: server-server API, "Transactions", and "Size limits" of events.
MAX_TRANSACTION_BYTES = (50 + 100) * 65_536 + 65_536


class Auth(Enum):
    """The callers that an endpoint accepts."""

    NONE = "none"
    OPTIONAL = "optional"  # a token is checked if there is one
    ACCESS_TOKEN = "access token"  # noqa: S105 - a kind, not a secret
    INTERNAL = "internal"  # another process of this fleet, with the fleet's secret; haproxy blocks these endpoints
    SERVER = "server signature"  # X-Matrix (federation)


class RoutingKey(Enum):
    """The key that decides which process of the pool gets the request. It is declared, never guessed from the path.

    The value is the name of the path parameter, if the key is one.
    """

    NONE = ""  # any process of the pool
    ROOM = "roomId"  # the slot of the decoded room id -> its owner
    ROOM_OR_ALIAS = "roomIdOrAlias"  # a room id as above; for an alias any process, which resolves and forwards
    USER = "userId"  # the slot of the user id in the path -> its owner
    TOKEN_USER = "token"  # noqa: S105 - the slot of the requester: `user_id` in the query, else the token's hint
    FETCH = "fetchKey"  # the slot of fetches: a room id, or the name of the server that is asked
    ORIGIN = "origin"  # the sending server named in the X-Matrix header
    MEDIA = "mediaId"


class RateLimit(Enum):
    """The rate limit classes. Their limits are in the configuration.

    Requests without a token count per address in every class. NONE is for internal calls only.
    """

    NONE = "none"
    MESSAGE = "message"  # per user: events sent
    JOIN = "join"
    INVITE = "invite"
    ROOM_CREATION = "room_creation"
    REGISTRATION = "registration"  # per address
    LOGIN = "login"  # per address and per account
    ACCOUNT = "account"  # per user: profile, account data, passwords
    READ = "read"  # per user; requests without a token per address
    SYNC = "sync"  # per user, in each process by itself


class Share(Enum):
    """The kinds of scarce work. Each user gets a share of it. The numbers are in the configuration (`shares`)."""

    NONE = "none"
    POLLS = "polls"
    SEARCHES = "searches"
    HIERARCHIES = "hierarchies"
    HISTORY = "history"
    STATES = "states"
    KEYS = "keys"


#: The kinds whose requests write nothing that would have to be finished. They end when their client disconnects.
READS = frozenset({Share.POLLS, Share.SEARCHES, Share.HIERARCHIES, Share.HISTORY, Share.STATES})


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """Processes of one worker type that serve the same endpoints with the same limits.

    slot_kind: "rooms", "users" or "fetches" if each slot has one owner, "" if any process may serve.
    behind_proxies: False if only other processes of the fleet send requests to it.
    """

    name: str
    worker: str
    slot_kind: str = ""
    behind_proxies: bool = True
    connections_per_instance: int = 500
    queue_timeout_s: float = 5.0
    server_timeout_s: float = 60.0


#: The versions under which clients call an endpoint. `/_matrix/client/v3/...` is also called as r0, v1 and `unstable`,
#: and as `api/v1` if the endpoint says so.
CLIENT_V3 = ("v3", "r0", "v1", "unstable")
CLIENT_V1 = ("v1", "unstable")


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One operation of the API.

    name: unique, snake case, verb first; also the label in metrics.
    method: the HTTP method. OPTIONS is answered everywhere; HEAD is not offered.
    path: a template such as "/_matrix/client/{version}/rooms/{roomId}/send/{eventType}/{txnId}". "{version}" is any of
        `versions`. A parameter matches one or more characters other than "/". "{name?}" may be empty and, as the last
        part, may be missing with its slash.
    versions: the values of "{version}"; the first is the one in the spec.
    api_v1: True if also served under "/_matrix/client/api/v1/..." (for old bots and bridges).
    share: the kind of scarce work that a request needs a place for.
    idempotent: True if haproxy may replay the request after a connection failed half-way.
    body_limit_bytes: larger bodies get 413 M_TOO_LARGE before they are read whole. None: `limits.max_body_bytes` of
        the configuration.
    """

    name: str
    method: str
    path: str
    pool: str
    routing_key: RoutingKey = RoutingKey.NONE
    auth: Auth = Auth.ACCESS_TOKEN
    rate_limit: RateLimit = RateLimit.READ
    share: Share = Share.NONE
    idempotent: bool = False
    versions: tuple[str, ...] = CLIENT_V3
    api_v1: bool = False
    body_limit_bytes: int | None = None
    spec: str = ""
    aliases: tuple[str, ...] = field(default=())  # more complete path templates


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
