"""The text of haproxy.cfg: a few generic rules that interpret the maps' entry for a request. Pure.

Works with HAProxy 2.6 and 2.8. The endpoints are in the maps. The configuration itself depends only on the pools and on
the path fields that hold routing keys.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from deploy.haproxy.error_pages import CORS_HEADERS, error_pages
from deploy.haproxy.routes import fields_in_use
from deploy.haproxy.welcome_page import FILE_NAME as WELCOME_FILE
from shared.core.access_tokens import HINT_PATTERN
from shared.core.slots import SLOTS
from shared.http.admission.proxy_notice import UNKNOWN_PROXY
from shared.http.endpoint import Auth, Endpoint, Pool
from shared.http.framing import PROXIED
from workers.main.haproxy_layout import (
    SLOT_BACKENDS,
    pool_backend,
    server_arguments,
    slot_backend,
    slot_map,
    slot_pools,
)
from workers.main.haproxy_plan import ProxyServer

EXACT_MAP = "endpoints_exact.map"
PATTERN_MAP = "endpoints.map"
#: Path prefixes of the server-server API, and those that both listeners serve.
_FEDERATION_PATHS = ("/_matrix/federation/", "/_matrix/key/")
_COMMON_PATHS = ("/.well-known/matrix/",)
#: The probe of load balancers, on both listeners.
PROBE_PATH = "/health"
#: The worker types that must serve for a listener to be healthy.
_CLIENT_WORKERS = ("client_api", "synchrotron", "event_persister")
_FEDERATION_WORKERS = ("federation_reader",)
#: Every process serves these to the fleet. From outside they do not exist.
_INTERNAL_PATHS = ("/metrics", "/health", "/_skep")
#: Time limit for the first buffer of a request's body, as for its headers.
_BODY_S = 10
#: Above the longest answer. A former process has ended this long after a reload.
_OLD_PROCESS_ENDS_S = 120
#: Counters by address. An IPv6 address counts by its network of 64 bits, as in `shared/core/addresses.py`. Rates are
#: means of a period. A full table forgets the addresses that were idle longest.
_NETWORK = "ipmask(32,64)"
_CONNECTIONS_TABLE = "address_connections"
_REQUESTS_TABLE = "address_requests"
_BODIES_TABLE = "address_bodies"
_MOST_ADDRESSES = 100_000
_PERIOD_S = 10
#: Most trusted proxies one behind the other.
_MOST_PROXIES = 4
#: A body without a length that is shorter has arrived whole.
_WHOLE_BYTES = 8192
#: Methods that a worker's HTTP parser knows. It would refuse others as malformed HTTP, where 405 is right.
_METHODS = "GET HEAD POST PUT DELETE PATCH OPTIONS"


@dataclass(frozen=True, slots=True, kw_only=True)
class HaproxyInputs:
    """The choices of an installation.

    Addresses are "host:port" or "[ip6]:port". A pem file holds certificate and key.

    runtime_socket: the path of a UNIX socket (107 bytes at most), or "host:port" on loopback. It gives full control.
    metrics_bind: the address of haproxy's own metrics, at /metrics; "" for none.
    slot_backends: the number of owners for each kind of slot.
    threads: 0 leaves the choice to haproxy.
    max_body_bytes: the largest body of requests whose endpoint has no limit of its own.
    connect_timeout_ms: also the wait before a refused connection is tried again.
    client_timeout_s: the silence after which a client's connection is closed.
    connections_per_address, requests_per_address, requests_per_s_per_address, large_bodies_per_address: the most of one
        client address, or one IPv6 network of 64 bits; None: no limit.
    trusted_proxies: networks whose `X-Forwarded-For` names the client.
    proxy_protocol: True if the trusted proxies speak the PROXY protocol.
    log_target: such as "stdout format raw daemon" or "/dev/log daemon"; "" for no log of requests.
    """

    client_bind: tuple[str, ...] = ("127.0.0.1:8008",)
    client_tls_pem: str = ""
    federation_bind: tuple[str, ...] = ()
    federation_tls_pem: str = ""
    federation_on_client_port: bool = False
    runtime_socket: str = "haproxy.sock"
    metrics_bind: str = ""
    slot_backends: int = SLOT_BACKENDS
    threads: int = 0
    max_connections: int = 4000
    max_body_bytes: int = 1_048_576
    connect_timeout_ms: int = 500
    client_timeout_s: int = 90
    log_target: str = ""
    connections_per_address: int | None = 2000
    requests_per_address: int | None = 1000
    requests_per_s_per_address: int | None = 500
    large_bodies_per_address: int | None = 32
    trusted_proxies: tuple[str, ...] = ()
    proxy_protocol: bool = False


def render_haproxy_config(
    inputs: HaproxyInputs, endpoints: Sequence[Endpoint], pools: Sequence[Pool], running: Sequence[ProxyServer] = ()
) -> str:
    """Return haproxy.cfg, for a directory that also has the maps and the error pages.

    running: the servers of the haproxy that this one succeeds. It starts with them, and main corrects them.
    """
    fields = fields_in_use(endpoints, pools)
    from_outside = [endpoint for endpoint in endpoints if endpoint.auth is not Auth.INTERNAL]
    max_body_bytes = max(inputs.max_body_bytes, *(endpoint.body_limit_bytes or 0 for endpoint in from_outside))
    sections = [_global(inputs), _defaults(inputs), _errors()]
    federation = [*_FEDERATION_PATHS, *_COMMON_PATHS]
    sections.append(
        [
            "frontend client",
            *_binds(inputs.client_bind, inputs.client_tls_pem),
            *_http1_only(inputs.client_tls_pem),
            *_log(inputs),
            *_connection_limits(inputs),
            *_preflight(),
            *_probe(_CLIENT_WORKERS, pools),
            *_welcome(),
            *_hide(_INTERNAL_PATHS if inputs.federation_on_client_port else (*_INTERNAL_PATHS, *_FEDERATION_PATHS)),
            *_rules(inputs, _fallback_route("client_api", pools), fields, pools, max_body_bytes),
        ]
    )
    if inputs.federation_bind:
        sections.append(
            [
                "frontend federation",
                *_binds(inputs.federation_bind, inputs.federation_tls_pem),
                *_http1_only(inputs.federation_tls_pem),
                *_log(inputs),
                *_connection_limits(inputs),
                *_probe(_FEDERATION_WORKERS, pools),
                f"    http-request deny deny_status 404 unless {{ path_beg {' '.join(federation)} }}",
                *_rules(inputs, _fallback_route("federation_reader", pools), fields, pools, max_body_bytes),
            ]
        )
    if inputs.metrics_bind:
        sections.append(
            [
                "frontend metrics",
                f"    bind {inputs.metrics_bind}",
                "    http-request use-service prometheus-exporter if { path /metrics }",
                "    http-request deny deny_status 404",
            ]
        )
    sections += _tables(inputs)
    read_only = {pool.name for pool in pools} - {e.pool for e in endpoints if not (e.idempotent or e.method == "GET")}
    sections += [_backend(pool_backend(pool.name), pool, running, pool.name in read_only) for pool in pools]
    for kind, pool in sorted(slot_pools(tuple(pools)).items()):
        sections += [_backend(slot_backend(kind, n), pool, running) for n in range(1, inputs.slot_backends + 1)]
    header = "# Generated by `skep haproxy-config` from the declared endpoints: change those, not this file."
    return header + "\n" + "\n\n".join("\n".join(section) for section in sections) + "\n"


def _global(inputs: HaproxyInputs) -> list[str]:
    return [
        "global",
        "    # maps and error pages are in this directory, and are known by their bare names at run time",
        "    default-path config",
        f"    stats socket {quoted(inputs.runtime_socket)} mode 600 level admin expose-fd listeners",
        "    stats timeout 30s",
        "    # after a reload the old process closes each connection with an answer (see the frontends), so that no",
        "    # request is lost; hard-stop-after ends connections that never pause",
        "    close-spread-time infinite",
        f"    hard-stop-after {_OLD_PROCESS_ENDS_S}s",
        *([f"    log {inputs.log_target}"] if inputs.log_target else []),
        *([f"    nbthread {inputs.threads}"] if inputs.threads else []),
        f"    maxconn {inputs.max_connections}",
        "    # start with fewer connections if few file descriptors are allowed",
        "    no strict-limits",
        "    # a GET of HTTP/1.0 with a body gets a worker's answer, as one of HTTP/1.1 does",
        "    h1-accept-payload-with-any-method",
        "    # room for a long URL (ids of 255 bytes, percent-encoded) and the headers around it",
        "    tune.bufsize 32768",
        "    tune.maxrewrite 8192",
    ]


def _defaults(inputs: HaproxyInputs) -> list[str]:
    return [
        "defaults",
        "    mode http",
        "    errorfiles matrix",
        "    unique-id-format %[uuid()]",
        "    # A refused connection is always tried again; an empty answer only where the endpoint may be replayed.",
        "    # The tries outlast the checks that find a server down, and a burst for which its listener has no room.",
        "    retries 5",
        "    retry-on conn-failure empty-response 0rtt-rejected",
        "    option redispatch 1",
        f"    timeout connect {inputs.connect_timeout_ms}ms",
        f"    timeout client {inputs.client_timeout_s}s",
        "    timeout http-request 10s",
        "    timeout http-keep-alive 75s",
        "    option httpchk GET /health/ready",
        "    http-check expect status 200",
        "    timeout check 5s",
    ]


def _errors() -> list[str]:
    return [
        "http-errors matrix",
        *(f"    errorfile {status} errors/{status}.http" for status in error_pages()),
    ]


def _binds(addresses: Sequence[str], pem: str) -> Iterator[str]:
    tls = f" ssl crt {quoted(pem)} alpn h2,http/1.1" if pem else ""
    return (f"    bind {address}{tls}" for address in addresses)


def _http1_only(pem: str) -> list[str]:
    """Refuse HTTP/2 without TLS: no Matrix client needs it, and haproxy's HTTP/2 has been a way to smuggle requests."""
    return [] if pem else ["    option disable-h2-upgrade"]


def _log(inputs: HaproxyInputs) -> list[str]:
    """Log failed requests. %HP is the path without its query, so no token is ever logged."""
    if not inputs.log_target:
        return []
    return ["    log global", "    option dontlog-normal", '    log-format "%ci %HM %HP %ST %B %Tt ms %b/%s %ID"']


def _preflight() -> list[str]:
    """CORS pre-flight: "the server MUST NOT perform any logic" (client-server API, "Web browser clients")."""
    headers = "".join(f" hdr {name} {quoted(value)}" for name, value in CORS_HEADERS.items())
    return [f"    http-request return status 200 content-type application/json string {{}}{headers} if METH_OPTIONS"]


def _probe(workers: Sequence[str], pools: Sequence[Pool]) -> list[str]:
    """Answer `/health` for load balancers: 200 if each of these worker types has a process that serves, else 503."""
    asked = f"if {{ path {PROBE_PATH} }}"
    serving = " ".join(f"{{ nbsrv({pool_backend(pool.name)}) gt 0 }}" for pool in pools if pool.worker in workers)
    return [
        "    # the probe of load balancers",
        f"    http-request return status 200 content-type application/json string {{}} {asked} {serving}",
        f"    http-request deny deny_status 503 {asked}",
    ]


def _welcome() -> list[str]:
    """Serve a page at `/`, for people. It loads nothing, and browsers must not let it."""
    return [
        f'    http-request return status 200 content-type "text/html; charset=utf-8" file {WELCOME_FILE}'
        " hdr Content-Security-Policy \"default-src 'none'; style-src 'unsafe-inline'\""
        " if { path / } { method GET HEAD } { req.ver 1.0 1.1 2.0 }",
    ]


def _hide(prefixes: Sequence[str]) -> list[str]:
    return [f"    http-request deny deny_status 404 if {{ path_beg {' '.join(prefixes)} }}"]


def _fallback_route(worker: str, pools: Sequence[Pool]) -> str:
    """Unknown paths and methods go to this worker, which answers M_UNRECOGNIZED: 404, or 405 with `Allow`."""
    for pool in pools:
        if pool.worker == worker:
            return f"{pool.name}/-/-/0/once"
    raise ValueError(f"no pool of {worker} is declared, which would answer for unknown paths")


def _rules(
    inputs: HaproxyInputs, unknown: str, fields: Sequence[int], pools: Sequence[Pool], max_body_bytes: int
) -> list[str]:
    kinds = sorted(slot_pools(tuple(pools)))
    return [
        *_client_address(inputs),
        *_request_limits(inputs),
        f"    http-request deny deny_status 405 unless {{ method {_METHODS} }}",
        "    # hdr_val has 32 bits",
        f"    http-request deny deny_status 413 if {{ req.hdr_val(content-length) gt {max_body_bytes} }}"
        " || { req.hdr(content-length) -m len gt 9 }",
        "    # wait for the body, up to a buffer of it: a worker seldom sees a request before its body",
        f"    http-request wait-for-body time {_BODY_S}s",
        *_large_body_limit(inputs),
        "    # another process has succeeded this one",
        "    http-after-response set-header connection close if { stopping }",
        "    # headers of the fleet's own, and of tracing: clients must not set them",
        "    http-request del-header x-skep- -m beg",
        "    http-request del-header uber -m beg",
        "    http-request del-header jaeger- -m beg",
        f"    http-request set-header {PROXIED.decode()} 1",
        *_unknown_proxy(inputs),
        "    http-request set-header x-request-id %[unique-id]",
        "    http-request set-header x-forwarded-for %[var(txn.address)]",
        *_forwarded_scheme(inputs),
        "    # the route of the request: pool/slots/key/field/retry",
        '    http-request set-var-fmt(txn.request) "%[method]%[path]"',
        f"    http-request set-var(txn.route) 'var(txn.request),map_str({EXACT_MAP})'",
        f"    http-request set-var(txn.route) 'var(txn.request),map_reg({PATTERN_MAP},{unknown})'"
        " unless { var(txn.route) -m found }",
        "    http-request set-var(txn.key) var(txn.route),field(3,/)",
        "    http-request disable-l7-retry unless { var(txn.route) -m end /replay }",
        "    # the routing key, decoded once; a broken escape decodes to nothing",
        *(
            f"    http-request set-var(txn.id) path,field({n},/),url_dec if {{ var(txn.route),field(4,/) -m str {n} }}"
            for n in fields
        ),
        "    # an alias has no slot: any process resolves it and forwards the request",
        "    http-request unset-var(txn.id) if { var(txn.key) -m str alias } { var(txn.id) -m beg \\# }",
        f"    http-request set-var(txn.slot) var(txn.id),crc32,mod({SLOTS})"
        " if { var(txn.key) -m str room alias user } { var(txn.id) -m len gt 0 }",
        *_token_rules(),
        *_affinity_rules(),
        "    # the owner of the slot, or any process of the pool while there is no owner or it is down",
        *(
            f"    http-request set-var(txn.owner) 'var(txn.slot),map_str({slot_map(kind)})'"
            f" if {{ var(txn.slot) -m found }} {{ var(txn.route),field(2,/) -m str {kind} }}"
            for kind in kinds
        ),
        "    use_backend %[var(txn.owner)] if { var(txn.owner) -m found } { var(txn.owner),nbsrv gt 0 }",
        "    use_backend pool_%[var(txn.route),field(1,/)]",
    ]


def _connection_limits(inputs: HaproxyInputs) -> Iterator[str]:
    """Limit the connections of each address, except those of trusted proxies, which bring many clients."""
    if inputs.proxy_protocol and inputs.trusted_proxies:
        yield f"    tcp-request connection expect-proxy layer4 if {{ {_from_trusted_proxy(inputs)} }}"
    limits = {
        "sc0_conn_cur": inputs.connections_per_address,
        "sc0_conn_rate": _in_period(inputs.requests_per_s_per_address),
    }
    if any(limit is not None for limit in limits.values()):
        yield "    # the connections of one address"
        unless = f" unless {{ {_from_trusted_proxy(inputs)} }}" if inputs.trusted_proxies else ""
        yield f"    tcp-request session track-sc0 src,{_NETWORK} table {_CONNECTIONS_TABLE}{unless}"
        for counter, limit in limits.items():
            if limit is not None:
                yield f"    tcp-request session reject if {{ {counter} gt {limit} }}"


def _client_address(inputs: HaproxyInputs) -> Iterator[str]:
    """Find the client's address: that of the connection, or what trusted proxies say, the nearest proxy first."""
    yield "    # the client's address"
    yield "    http-request set-var(txn.address) src"
    if inputs.trusted_proxies:
        trusted = f"{{ var(txn.address) -m ip {' '.join(inputs.trusted_proxies)} }}"
        for hop in range(1, _MOST_PROXIES + 1):
            said = f"req.hdr_ip(x-forwarded-for,-{hop})"
            yield f"    http-request set-var(txn.address) {said} if {trusted} {{ {said} -m found }}"


def _request_limits(inputs: HaproxyInputs) -> Iterator[str]:
    limits = {
        "sc1_conn_cur": inputs.requests_per_address,
        "sc1_http_req_rate": _in_period(inputs.requests_per_s_per_address),
    }
    if any(limit is not None for limit in limits.values()):
        yield "    # the requests of one address"
        yield f"    http-request track-sc1 var(txn.address),{_NETWORK} table {_REQUESTS_TABLE}"
        for counter, limit in limits.items():
            if limit is not None:
                yield f"    http-request deny deny_status 429 if {{ {counter} gt {limit} }}"


def _large_body_limit(inputs: HaproxyInputs) -> Iterator[str]:
    """Limit the bodies that have not arrived whole by now: a worker will wait for the rest."""
    if inputs.large_bodies_per_address is None:
        return
    track = f"    http-request track-sc2 var(txn.address),{_NETWORK} table {_BODIES_TABLE} if"
    yield "    # the bodies of one address that have not arrived whole"
    yield "    http-request set-var(txn.arrived) req.body_len"
    yield f"{track} {{ req.body_size,sub(txn.arrived) gt 0 }}"
    yield f"{track} !{{ req.hdr(content-length) -m found }} {{ req.body_len gt {_WHOLE_BYTES} }}"
    yield f"    http-request deny deny_status 429 if {{ sc2_conn_cur gt {inputs.large_bodies_per_address} }}"


def _unknown_proxy(inputs: HaproxyInputs) -> Iterator[str]:
    """Mark requests that name another client, from an address that is no trusted proxy. Workers log them."""
    unless = f" !{{ {_from_trusted_proxy(inputs)} }}" if inputs.trusted_proxies else ""
    if inputs.proxy_protocol:
        unless += " !{ fc_rcvd_proxy }"
    for header in ("x-forwarded-for", "forwarded", "x-real-ip"):
        yield (f"    http-request set-header {UNKNOWN_PROXY.decode()} 1 if {{ req.hdr({header}) -m found }}{unless}")


def _forwarded_scheme(inputs: HaproxyInputs) -> Iterator[str]:
    keep = ""
    if inputs.trusted_proxies:
        keep = f" !{{ {_from_trusted_proxy(inputs)} }}"
    yield f"    http-request set-header x-forwarded-proto http if !{{ ssl_fc }}{keep}"
    yield f"    http-request set-header x-forwarded-proto https if {{ ssl_fc }}{keep}"


def _from_trusted_proxy(inputs: HaproxyInputs) -> str:
    return f"src {' '.join(inputs.trusted_proxies)}"


def _in_period(per_s: int | None) -> int | None:
    return None if per_s is None else per_s * _PERIOD_S


def _tables(inputs: HaproxyInputs) -> Iterator[list[str]]:
    """Yield the tables of addresses: backends without servers."""
    period = f"{_PERIOD_S}s"
    counters = {
        _CONNECTIONS_TABLE: f"conn_cur,conn_rate({period})",
        _REQUESTS_TABLE: f"conn_cur,http_req_rate({period})",
        _BODIES_TABLE: "conn_cur",
    }
    for name, stored in counters.items():
        yield [f"backend {name}", f"    stick-table type ipv6 size {_MOST_ADDRESSES} expire 60s store {stored}"]


def _token_rules() -> list[str]:
    """Find the user's slot for endpoints keyed by it: from `user_id`, the token's hint, or a hash of the token."""
    asked = "{ var(txn.key) -m str token }"
    without_slot = f"if {asked} !{{ var(txn.slot) -m found }}"
    bearer = "{ req.fhdr(authorization),word(1,' ') -m str -i bearer }"
    return [
        "    # the user who sent the request",
        f"    http-request set-var(txn.user) url_param(user_id),url_dec(1) if {asked}",
        f"    http-request set-var(txn.slot) var(txn.user),crc32,mod({SLOTS})"
        f" if {asked} {{ var(txn.user) -m len gt 0 }}",
        f"    http-request set-var(txn.token) req.fhdr(authorization),word(2,' ') {without_slot} {bearer}",
        f"    http-request set-var(txn.token) url_param(access_token),url_dec(1) {without_slot}"
        " !{ var(txn.token) -m len gt 0 }",
        f"    http-request set-var(txn.slot) var(txn.token),bytes(4,3),hex2i {without_slot}"
        f" {{ var(txn.token) -m reg ^{HINT_PATTERN} }}",
        f"    http-request set-var(txn.slot) var(txn.token),crc32,mod({SLOTS}) {without_slot}"
        " { var(txn.token) -m len gt 0 }",
    ]


def _affinity_rules() -> list[str]:
    """Set the value that is hashed within a pool's backend. Parameters of X-Matrix come in any order, quoted or not."""
    origin = r"""req.fhdr(authorization),regsub(".*[ ,]origin=[^][A-Za-z0-9]?([][A-Za-z0-9.:_-]+).*","\1",i)"""
    return [
        "    # requests with the same value go to one process of a pool without slots",
        "    http-request set-header x-skep-slot %[var(txn.slot)] if { var(txn.slot) -m found }",
        "    http-request set-var(txn.affinity) var(txn.slot) if { var(txn.slot) -m found }",
        "    http-request set-var(txn.affinity) var(txn.id) if { var(txn.key) -m str media }",
        f"    http-request set-var(txn.affinity) '{origin}' if {{ var(txn.key) -m str origin }}",
    ]


def _backend(name: str, pool: Pool, running: Sequence[ProxyServer], read_only: bool = False) -> list[str]:
    """Return a backend, empty except for running servers. Requests without a value to hash take turns.

    read_only: True if nothing is lost when a request ends as soon as its client is gone, such as a long poll.
    """
    return [
        f"backend {name}",
        "    balance hash var(txn.affinity)",
        "    hash-type consistent sdbm avalanche",
        f"    timeout server {_milliseconds(pool.server_timeout_s)}",
        f"    timeout queue {_milliseconds(pool.queue_timeout_s)}",
        *(["    option abortonclose"] if read_only else []),
        *(
            f"    server {server.name} {server.address} {server_arguments(server.name, pool)}"
            for server in running
            if server.backend == name and not server.admin_state
        ),
    ]


def _milliseconds(seconds: float) -> str:
    return f"{round(seconds * 1000)}ms"


def quoted(text: str) -> str:
    """Quote a word for the configuration: paths may have spaces. Raises ValueError for control characters."""
    if any(ord(character) < 32 for character in text):
        raise ValueError(f"{text!r} has control characters")
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("$", "\\$") + '"'
