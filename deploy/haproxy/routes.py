"""Build the two maps by which haproxy classifies a request from the endpoints. Pure.

The key of both is method and raw path, "PUT/_matrix/client/v3/...". The exact map holds the paths without parameters
(one look-up in a tree). The pattern map has one regular expression a line, and the first match wins. The value is a
route, all that the rules in the configuration need: pool/slots/key/field/retry.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from shared.http.endpoint import Auth, Endpoint, Pool, RoutingKey, paths_of
from shared.http.endpoint_check import narrower_pairs
from shared.http.routing import compile_path

#: The names of the routing keys in the configuration's rules.
KEY_WORDS = {
    RoutingKey.NONE: "-",
    RoutingKey.ROOM: "room",
    RoutingKey.ROOM_OR_ALIAS: "alias",
    RoutingKey.USER: "user",
    RoutingKey.TOKEN_USER: "token",
    RoutingKey.ORIGIN: "origin",
    RoutingKey.MEDIA: "media",
}
#: Requests that make up most of the traffic: their expressions are tried first. A line that no endpoint has costs
#: nothing, a missing one some microseconds.
_HOT_ENDINGS = (
    "/send/{eventType}/{txnId}",
    "/_matrix/federation/v1/send/{txnId}",
    "/receipt/{receiptType}/{eventId}",
    "/typing/{userId}",
    "/messages",
    "/sendToDevice/{eventType}/{txnId}",
    "/members",
    "/state/{eventType}/{stateKey?}",
)
_PARAMETER = re.compile(r"\{[^}?]*(\??)\}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """The treatment of a class of requests.

    slots: the kind of slots whose owner gets the request; "" for none.
    key: the routing key, as in KEY_WORDS.
    field: the position of the key in the path, counted as haproxy's `field(n,/)` does: from 1, including the empty
        part before the first slash; 0 for a key that is not in the path.
    replay: True if the request may be sent again although it may have been received.
    """

    pool: str
    slots: str
    key: str
    field: int
    replay: bool

    def __str__(self) -> str:
        return "/".join((self.pool, self.slots or "-", self.key, str(self.field), "replay" if self.replay else "once"))


def exact_map(endpoints: Sequence[Endpoint], pools: Sequence[Pool]) -> str:
    """Return the map of the paths without parameters, sorted."""
    lines: list[str] = []
    for endpoint in _from_outside(endpoints):
        for template in paths_of(endpoint):
            if "{" not in template:
                route = _route(endpoint, template, pools)
                lines.append(f"{endpoint.method}{template} {route}")
    return "".join(f"{line}\n" for line in sorted(lines))


def pattern_map(endpoints: Sequence[Endpoint], pools: Sequence[Pool]) -> str:
    """Return the map of expressions for paths with parameters: hot ones first, narrower before wider ones."""
    reachable = list(_from_outside(endpoints))
    narrower = narrower_pairs(reachable)
    ordered: list[Endpoint] = []
    for endpoint in sorted(reachable, key=lambda e: (_heat(e), e.path, e.name)):
        wider = [at for at, other in enumerate(ordered) if (endpoint.name, other.name) in narrower]
        ordered.insert(min(wider, default=len(ordered)), endpoint)
    lines: list[str] = []
    for endpoint in ordered:
        lines += _pattern_lines(endpoint, pools)
    return "".join(f"{line}\n" for line in lines)


def fields_in_use(endpoints: Sequence[Endpoint], pools: Sequence[Pool]) -> list[int]:
    """Return the path fields that hold routing keys. Each needs a rule of the configuration."""
    fields = {_route(e, t, pools).field for e in _from_outside(endpoints) for t in paths_of(e)}
    return sorted(fields - {0})


def _from_outside(endpoints: Sequence[Endpoint]) -> Iterator[Endpoint]:
    return (endpoint for endpoint in endpoints if endpoint.auth is not Auth.INTERNAL)


def _heat(endpoint: Endpoint) -> int:
    for place, ending in enumerate(_HOT_ENDINGS):
        if endpoint.path.endswith(ending):
            return place
    return len(_HOT_ENDINGS)


def _route(endpoint: Endpoint, template: str, pools: Sequence[Pool]) -> Route:
    kind = next(pool.slot_kind for pool in pools if pool.name == endpoint.pool)
    key = endpoint.routing_key
    names = dict(compile_path(template)[0].names)
    place = names[key.value] + 2 if key.value in names else 0
    return Route(pool=endpoint.pool, slots=kind, key=KEY_WORDS[key], field=place, replay=endpoint.idempotent)


def _pattern_lines(endpoint: Endpoint, pools: Sequence[Pool]) -> Iterator[str]:
    """Yield a line per template and route. Versions share a line unless the key's field differs."""
    versions = (*endpoint.versions, "api/v1") if endpoint.api_v1 else endpoint.versions
    for template in (endpoint.path, *endpoint.aliases):
        by_route: dict[str, list[str]] = {}
        for version in versions if "{version}" in template else ("",):
            full = template.replace("{version}", version)
            if "{" in full:
                by_route.setdefault(str(_route(endpoint, full, pools)), []).append(version)
        for route, served in by_route.items():
            yield f"^{endpoint.method}{_expression(template, served)}$ {route}"


def _expression(template: str, versions: Sequence[str]) -> str:
    parts: list[str] = []
    segments = template[1:].split("/")
    for place, segment in enumerate(segments):
        parameter = _PARAMETER.fullmatch(segment)
        if segment == "{version}":
            parts.append("/" + _alternatives(versions))
        elif parameter is None:
            parts.append("/" + _literal(segment))
        elif not parameter[1]:
            parts.append("/[^/]+")
        else:
            parts.append("(?:/[^/]*)?" if place == len(segments) - 1 else "/[^/]*")
    return "".join(parts)


def _alternatives(words: Sequence[str]) -> str:
    return _literal(words[0]) if len(words) == 1 else f"(?:{'|'.join(map(_literal, words))})"


def _literal(text: str) -> str:
    """Escape the characters of a literal that have a meaning in PCRE."""
    return re.sub(r"([.$()*+])", r"\\\1", text)
