"""The text of haproxy.cfg: a few generic rules that interpret what the maps say of a request. Pure.

Works with HAProxy 2.6 and 2.8. The endpoints are in the maps, not here: of them only the fields in which keys
stand, and the pools, show in the configuration.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from deploy.haproxy.error_pages import CORS_HEADERS, error_pages
from deploy.haproxy.routes import fields_in_use
from shared.core.access_tokens import HINT_PATTERN
from shared.core.slots import SLOTS
from shared.http.endpoint import Endpoint, Pool
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
#: What each listener passes on: path prefixes of the server-server API, and what both serve.
_FEDERATION_PATHS = ("/_matrix/federation/", "/_matrix/key/")
_COMMON_PATHS = ("/.well-known/matrix/",)
#: Every process serves these to the inside; from the outside they don't exist.
_INTERNAL_PATHS = ("/metrics", "/health", "/_skep")
#: Above the longest answer: after a reload the former process has ended.
_OLD_PROCESS_ENDS_S = 120
#: Methods that a worker's HTTP parser can read: it would call others no HTTP, where 405 is right.
_METHODS = "GET HEAD POST PUT DELETE PATCH OPTIONS"


@dataclass(frozen=True, slots=True)
class HaproxyInputs:
    """What an installation chooses. Addresses are "host:port" or "[ip6]:port"; pem files hold certificate and
    key.

    runtime_socket: path of a UNIX socket (107 bytes at most), or "host:port" on loopback; whoever reaches it
        can do anything with haproxy.
    metrics_bind: where haproxy's own metrics are served, at /metrics; "" for nowhere.
    slot_backends: processes told apart for each kind of slot. threads: 0 leaves the choice to haproxy.
    connect_timeout_ms: also the wait before a refused connection is tried again.
    client_timeout_s: silence after which a client's connection is closed.
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
    connect_timeout_ms: int = 250
    client_timeout_s: int = 90
    log_target: str = ""


def render_haproxy_config(
    inputs: HaproxyInputs, endpoints: Sequence[Endpoint], pools: Sequence[Pool], running: Sequence[ProxyServer] = ()
) -> str:
    """Return haproxy.cfg, for a directory that has the maps and the error pages beside it.

    running: servers with which it begins, those of the haproxy that it takes over from; main corrects them.
    """
    fields = fields_in_use(endpoints, pools)
    sections = [_global(inputs), _defaults(inputs), _errors()]
    federation = [*_FEDERATION_PATHS, *_COMMON_PATHS]
    sections.append(
        [
            "frontend client",
            *_binds(inputs.client_bind, inputs.client_tls_pem),
            *_http1_only(inputs.client_tls_pem),
            *_log(inputs),
            *_preflight(),
            *_hide(_INTERNAL_PATHS if inputs.federation_on_client_port else (*_INTERNAL_PATHS, *_FEDERATION_PATHS)),
            *_rules(_fallback_route("client_api", pools), fields, pools),
        ]
    )
    if inputs.federation_bind:
        sections.append(
            [
                "frontend federation",
                *_binds(inputs.federation_bind, inputs.federation_tls_pem),
                *_http1_only(inputs.federation_tls_pem),
                *_log(inputs),
                f"    http-request deny deny_status 404 unless {{ path_beg {' '.join(federation)} }}",
                *_rules(_fallback_route("federation_reader", pools), fields, pools),
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
    read_only = {pool.name for pool in pools} - {
        e.pool for e in endpoints if not (e.idempotent or e.methods == ("GET",))
    }
    sections += [_backend(pool_backend(pool.name), pool, running, pool.name in read_only) for pool in pools]
    for kind, pool in sorted(slot_pools(tuple(pools)).items()):
        sections += [_backend(slot_backend(kind, n), pool, running) for n in range(1, inputs.slot_backends + 1)]
    header = "# Made by `skep haproxy-config` from the declared endpoints: change those, not this."
    return header + "\n" + "\n\n".join("\n".join(section) for section in sections) + "\n"


def _global(inputs: HaproxyInputs) -> list[str]:
    return [
        "global",
        "    # maps and error pages lie beside this file, and go by their bare names at run time",
        "    default-path config",
        f"    stats socket {quoted(inputs.runtime_socket)} mode 600 level admin expose-fd listeners",
        "    stats timeout 30s",
        "    # after a reload the old process ends connections with an answer (see the frontends), not under a request",
        "    # that is on its way; what is left then is a connection over which too much goes on",
        "    close-spread-time infinite",
        f"    hard-stop-after {_OLD_PROCESS_ENDS_S}s",
        *([f"    log {inputs.log_target}"] if inputs.log_target else []),
        *([f"    nbthread {inputs.threads}"] if inputs.threads else []),
        f"    maxconn {inputs.max_connections}",
        "    # with few file descriptors allowed: start all the same, with fewer connections",
        "    no strict-limits",
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
        "    retries 3",
        "    retry-on conn-failure empty-response 0rtt-rejected",
        "    option redispatch 1",
        f"    timeout connect {inputs.connect_timeout_ms}ms",
        f"    timeout client {inputs.client_timeout_s}s",
        "    timeout http-request 10s",
        "    timeout http-keep-alive 75s",
        "    # a body is waited for here, up to a buffer of it: a worker seldom sees a request before its body",
        "    option http-buffer-request",
        "    option httpchk GET /health/ready",
        "    http-check expect status 200",
        "    timeout check 2s",
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
    """Log what went wrong. %HP is the path without its query: no token is ever logged."""
    if not inputs.log_target:
        return []
    return ["    log global", "    option dontlog-normal", '    log-format "%ci %HM %HP %ST %B %Tt ms %b/%s %ID"']


def _preflight() -> list[str]:
    """CORS pre-flight: "the server MUST NOT perform any logic" (client-server API, "Web browser clients")."""
    headers = "".join(f" hdr {name} {quoted(value)}" for name, value in CORS_HEADERS.items())
    return [f"    http-request return status 200 content-type application/json string {{}}{headers} if METH_OPTIONS"]


def _hide(prefixes: Sequence[str]) -> list[str]:
    return [f"    http-request deny deny_status 404 if {{ path_beg {' '.join(prefixes)} }}"]


def _fallback_route(worker: str, pools: Sequence[Pool]) -> str:
    """Unknown paths and methods go to this worker, which answers M_UNRECOGNIZED: 404, or 405 with `Allow`."""
    for pool in pools:
        if pool.worker == worker:
            return f"{pool.name}/-/-/0/once"
    raise ValueError(f"no pool of {worker} is declared: there is nobody to answer for unknown paths")


def _rules(unknown: str, fields: Sequence[int], pools: Sequence[Pool]) -> list[str]:
    kinds = sorted(slot_pools(tuple(pools)))
    return [
        f"    http-request deny deny_status 405 unless {{ method {_METHODS} }}",
        "    # this process has been succeeded by another",
        "    http-after-response set-header connection close if { stopping }",
        "    # what only we may say; and whether a request is traced is decided by us",
        "    http-request del-header x-skep- -m beg",
        "    http-request del-header uber -m beg",
        "    http-request del-header jaeger- -m beg",
        f"    http-request set-header {PROXIED.decode()} 1",
        "    http-request set-header x-request-id %[unique-id]",
        "    http-request set-header x-forwarded-for %[src]",
        "    http-request set-header x-forwarded-proto http unless { ssl_fc }",
        "    http-request set-header x-forwarded-proto https if { ssl_fc }",
        "    # what the request is: pool/slots/key/field/retry",
        '    http-request set-var-fmt(txn.request) "%[method]%[path]"',
        f"    http-request set-var(txn.route) 'var(txn.request),map_str({EXACT_MAP})'",
        f"    http-request set-var(txn.route) 'var(txn.request),map_reg({PATTERN_MAP},{unknown})'"
        " unless { var(txn.route) -m found }",
        "    http-request set-var(txn.key) var(txn.route),field(3,/)",
        "    http-request disable-l7-retry unless { var(txn.route) -m end /replay }",
        "    # its key, decoded once; a broken escape decodes to nothing",
        *(
            f"    http-request set-var(txn.id) path,field({n},/),url_dec if {{ var(txn.route),field(4,/) -m str {n} }}"
            for n in fields
        ),
        "    # an alias is no slot key: any process resolves it, then forwards",
        "    http-request unset-var(txn.id) if { var(txn.key) -m str alias } { var(txn.id) -m beg \\# }",
        f"    http-request set-var(txn.slot) var(txn.id),crc32,mod({SLOTS})"
        " if { var(txn.key) -m str room alias user } { var(txn.id) -m len gt 0 }",
        *_token_rules(),
        *_affinity_rules(),
        "    # the owner of the slot; while there is none, or it is away, any process of the pool",
        *(
            f"    http-request set-var(txn.owner) 'var(txn.slot),map_str({slot_map(kind)})'"
            f" if {{ var(txn.slot) -m found }} {{ var(txn.route),field(2,/) -m str {kind} }}"
            for kind in kinds
        ),
        "    use_backend %[var(txn.owner)] if { var(txn.owner) -m found } { var(txn.owner),nbsrv gt 0 }",
        "    use_backend pool_%[var(txn.route),field(1,/)]",
    ]


def _token_rules() -> list[str]:
    """Who is asking, for endpoints keyed by that: `user_id`, else the token's own hint, else a hash of the
    token.
    """
    asked = "{ var(txn.key) -m str token }"
    without_slot = f"if {asked} !{{ var(txn.slot) -m found }}"
    bearer = "{ req.fhdr(authorization),word(1,' ') -m str -i bearer }"
    return [
        "    # who is asking",
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
    """What is hashed within a pool's backend. Parameters of X-Matrix come in any order, quoted or not."""
    origin = r"""req.fhdr(authorization),regsub(".*[ ,]origin=[^][A-Za-z0-9]?([][A-Za-z0-9.:_-]+).*","\1",i)"""
    return [
        "    # what keeps to one process of a pool without slots",
        "    http-request set-header x-skep-slot %[var(txn.slot)] if { var(txn.slot) -m found }",
        "    http-request set-var(txn.affinity) var(txn.slot) if { var(txn.slot) -m found }",
        "    http-request set-var(txn.affinity) var(txn.id) if { var(txn.key) -m str media }",
        f"    http-request set-var(txn.affinity) '{origin}' if {{ var(txn.key) -m str origin }}",
    ]


def _backend(name: str, pool: Pool, running: Sequence[ProxyServer], read_only: bool = False) -> list[str]:
    """A backend, empty but for running servers; without something to hash, requests go round its servers.

    read_only: nothing is lost when a request ends as soon as its client is gone, such as a long poll.
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
