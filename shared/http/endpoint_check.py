"""Checks of the declared endpoints and pools, before anything is made from them. Pure: no I/O."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from itertools import combinations, product
from typing import TypeAlias

from shared.core.slots import SLOT_KINDS
from shared.http.endpoint import MAX_TRANSACTION_BYTES, Auth, Endpoint, Pool, RateLimit, RoutingKey, paths_of
from shared.http.routing import PathShape, compile_path

#: The prefix of calls between processes of one fleet. haproxy blocks it.
INTERNAL_PREFIX = "/_skep/"
_METHODS = {"GET", "POST", "PUT", "DELETE", "PATCH"}
_NAME = re.compile(r"[a-z][a-z0-9_]*")

#: The kind of slot that a routing key gives. Other keys give none.
SLOT_KIND_OF_KEY = {
    RoutingKey.ROOM: "rooms",
    RoutingKey.ROOM_OR_ALIAS: "rooms",
    RoutingKey.USER: "users",
    RoutingKey.TOKEN_USER: "users",
    RoutingKey.FETCH: "fetches",
}
_KEYS_IN_PATH = {RoutingKey.ROOM, RoutingKey.ROOM_OR_ALIAS, RoutingKey.USER, RoutingKey.FETCH, RoutingKey.MEDIA}

_Shaped: TypeAlias = tuple[Endpoint, PathShape]


def check_endpoints(endpoints: Sequence[Endpoint], pools: Sequence[Pool]) -> None:
    """Raise ValueError naming all mistakes, one per line: in a pool, in an endpoint, or between two endpoints.

    If one endpoint has a literal part where another has a parameter, the literal wins. Two templates must not match the
    same path unless one of them is narrower.
    """
    mistakes = [*_pool_mistakes(pools)]
    names = Counter(endpoint.name for endpoint in endpoints)
    mistakes += [f"endpoint {name}: declared {count} times" for name, count in names.items() if count > 1]
    pool_by_name = {pool.name: pool for pool in pools}
    for endpoint in endpoints:
        mistakes += [f"endpoint {endpoint.name}: {text}" for text in _own_mistakes(endpoint, pool_by_name)]
    if not mistakes:  # only valid paths have shapes
        mistakes += _overlaps(endpoints)
    if mistakes:
        raise ValueError("\n".join(mistakes))


def _pool_mistakes(pools: Sequence[Pool]) -> Iterator[str]:
    for name, count in Counter(pool.name for pool in pools).items():
        if count > 1:
            yield f"pool {name}: declared {count} times"
        if not _NAME.fullmatch(name):
            yield f"pool {name!r}: a name is lower-case letters, digits and '_'"
    for pool in pools:
        if pool.slot_kind and SLOT_KINDS.get(pool.slot_kind) != pool.worker:
            yield f"pool {pool.name}: slots {pool.slot_kind!r} are not owned by {pool.worker}"


def _own_mistakes(endpoint: Endpoint, pools: dict[str, Pool]) -> Iterator[str]:
    key, pool = endpoint.routing_key, pools.get(endpoint.pool)
    if not _NAME.fullmatch(endpoint.name):
        yield "a name is lower-case letters, digits and '_'"
    if endpoint.method not in _METHODS:
        yield f"method {endpoint.method} must be one of {', '.join(sorted(_METHODS))}"
    if endpoint.rate_limit is RateLimit.NONE and endpoint.auth is not Auth.INTERNAL:
        yield "every endpoint but an internal one needs a rate limit"
    if endpoint.auth in (Auth.NONE, Auth.OPTIONAL) and endpoint.body_limit_bytes is not None:
        yield "an endpoint that needs no token has no body limit of its own: strangers may send little"
    if pool is None:
        yield f"pool {endpoint.pool!r} is not declared"
    elif pool.slot_kind and SLOT_KIND_OF_KEY.get(key, pool.slot_kind) != pool.slot_kind:
        yield f"routing key {key.name} has no slot of pool {pool.name}'s kind, {pool.slot_kind}"
    if pool is not None and not pool.behind_proxies and endpoint.auth is not Auth.INTERNAL:
        yield f"pool {pool.name} gets no requests from outside, so auth must be INTERNAL"
    if key is RoutingKey.ORIGIN and endpoint.auth is not Auth.SERVER:
        yield "routing key ORIGIN is read from a server's signature, so auth must be SERVER"
    is_transaction = key is RoutingKey.ORIGIN and endpoint.method == "PUT"
    if is_transaction and (endpoint.body_limit_bytes or 0) < MAX_TRANSACTION_BYTES:
        yield f"a server's transaction may have {MAX_TRANSACTION_BYTES} bytes, so body_limit_bytes must allow that"
    if key is RoutingKey.TOKEN_USER and endpoint.auth not in (Auth.ACCESS_TOKEN, Auth.OPTIONAL):
        yield "routing key TOKEN_USER is read from an access token, so auth must be ACCESS_TOKEN or OPTIONAL"
    templates = paths_of(endpoint)
    if len(set(templates)) < len(templates):
        yield "a path is given twice"
    for template in templates:
        if (endpoint.auth is Auth.INTERNAL) != template.startswith(INTERNAL_PREFIX):
            yield f"{template}: INTERNAL endpoints, and only these, lie below {INTERNAL_PREFIX}"
        try:
            shapes = compile_path(template)
        except ValueError as error:
            yield str(error)
            continue
        if key in _KEYS_IN_PATH and min(dict(shape.names).get(key.value, -1) for shape in shapes) < 0:
            yield f"{template}: the routing key's parameter {{{key.value}}} is missing, or optional"


def narrower_pairs(endpoints: Sequence[Endpoint]) -> set[tuple[str, str]]:
    """Return (narrower, wider) names: the second would match every request of the first, if it were tried first.

    Code that tries endpoints one after another must try the narrower one first.
    """
    pairs: set[tuple[str, str]] = set()
    for one, other, relation, _, _ in _meetings(endpoints):
        if relation != "overlap":
            pairs.add((one.name, other.name) if relation == "narrower" else (other.name, one.name))
    return pairs


def _overlaps(endpoints: Sequence[Endpoint]) -> Iterator[str]:
    """Yield a line for each two endpoints that match the same request although neither is narrower."""
    found: set[tuple[str, str]] = set()
    for one, other, relation, shape, other_shape in _meetings(endpoints):
        if relation == "overlap" and (one.name, other.name) not in found:
            found.add((one.name, other.name))
            yield f"endpoints {one.name}, {other.name} overlap: {_text(shape)}, {_text(other_shape)}"


def _meetings(
    endpoints: Sequence[Endpoint],
) -> Iterator[tuple[Endpoint, Endpoint, str, PathShape, PathShape]]:
    """Yield two endpoints, the relation of the first to the second, and the shapes in which both match a request."""
    for one, other, shape, other_shape in _neighbours(endpoints):
        if one.method != other.method:
            continue
        pairs = list(zip(shape.segments, other_shape.segments, strict=True))
        if any(None not in pair and pair[0] != pair[1] for pair in pairs):
            continue  # different literals
        if any(b"" in pair and None in pair for pair in pairs):
            continue  # a parameter is never empty
        wider = any(a is None and b is not None for a, b in pairs)
        narrower = any(b is None and a is not None for a, b in pairs)
        relation = "overlap" if wider == narrower else "wider" if wider else "narrower"
        yield one, other, relation, shape, other_shape


def _neighbours(endpoints: Sequence[Endpoint]) -> Iterator[tuple[Endpoint, Endpoint, PathShape, PathShape]]:
    """Yield the pairs worth comparing: of equal length, with the same first four parts if these are literal.

    Four parts reach beyond "/_matrix/client/v3/rooms", which keeps the number of pairs small.
    """
    groups: dict[tuple[int, tuple[bytes | None, ...]], list[_Shaped]] = defaultdict(list)
    early_parameter: dict[int, list[_Shaped]] = defaultdict(list)
    for endpoint in endpoints:
        for template in paths_of(endpoint):
            for shape in compile_path(template):
                length, head = len(shape.segments), shape.segments[:4]
                if None in head:
                    early_parameter[length].append((endpoint, shape))
                else:
                    groups[length, head].append((endpoint, shape))
    pairs = [pair for early in early_parameter.values() for pair in combinations(early, 2)]
    for (length, _), members in groups.items():
        pairs += combinations(members, 2)
        pairs += product(members, early_parameter.get(length, []))
    for (one, shape), (other, other_shape) in pairs:
        if one is not other:
            yield one, other, shape, other_shape


def _text(shape: PathShape) -> str:
    return "/" + "/".join("{}" if segment is None else segment.decode() for segment in shape.segments)
