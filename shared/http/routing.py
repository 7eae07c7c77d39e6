"""Matching of requests to endpoints and slots, as haproxy does it too.

The raw path is matched as it came: split at "/", literals compared byte for byte, and then each parameter
percent-decoded once. So a room id with an encoded "/" stays one parameter, and "/%6detrics" is not "/metrics". haproxy
matches the same raw bytes by rules made from the same templates (deploy/haproxy). Pure: no I/O.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, TypedDict
from urllib.parse import unquote_to_bytes

from shared.core.access_tokens import slot_hint
from shared.core.errors import UNRECOGNIZED_REQUEST, MatrixError, invalid_param, unrecognized
from shared.core.identifiers import EventId, RoomAlias, RoomId, UserId
from shared.core.slots import slot_of
from shared.http.endpoint import Endpoint, RoutingKey, paths_of

_PARAMETER = re.compile(r"\{([A-Za-z][A-Za-z0-9_]*)(\??)\}")
#: The characters of a literal part: RFC 3986 unreserved characters and the harmless sub-delimiters.
_LITERAL = re.compile(r"[A-Za-z0-9._~!$&'()*+,;=:@-]*")
_BROKEN_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")


class PathShape(NamedTuple):
    """One form of a template on the wire.

    segments: the parts between the slashes, without the empty part before the first; None for a parameter of one or
        more bytes.
    names: (parameter name, its index in `segments`), with the index -1 if this shape leaves it out.
    """

    segments: tuple[bytes | None, ...]
    names: tuple[tuple[str, int], ...]


class PathParams(TypedDict, total=False):
    """The decoded path parameters of a request, by the names in the path templates. Ids are not validated yet."""

    roomId: RoomId
    eventId: EventId
    userId: UserId
    threadRootId: EventId
    roomAlias: RoomAlias
    roomIdOrAlias: str
    action: str
    delayId: str
    deviceId: str
    eventType: str
    fetchKey: str
    filterId: str
    keyId: str
    keyName: str
    kind: str
    name: str
    receiptType: str
    relType: str
    ruleId: str
    serverName: str
    stateKey: str
    tag: str
    txnId: str
    type: str


class Match(NamedTuple):
    """A request's endpoint and its decoded path parameters. Absent optional parameters are ""."""

    endpoint: Endpoint
    params: PathParams


class WrongMethod(MatrixError):
    """405: the path is known, but not with this method. allowed: its methods, for the `Allow` header."""

    def __init__(self, allowed: Iterable[str], message: str = UNRECOGNIZED_REQUEST) -> None:
        self.allowed = tuple(sorted(allowed))
        super().__init__("M_UNRECOGNIZED", message, 405)


def compile_path(template: str) -> tuple[PathShape, ...]:
    """Return the shapes of a template with its version filled in, the longest first.

    "{name?}" gives a shape with the parameter and one with an empty part; as the last part also one without it and its
    slash. Raises ValueError for a template that is malformed or names a parameter twice.
    """
    if not template.startswith("/"):
        raise ValueError(f"path {template!r} must begin with '/'")
    shapes: list[PathShape] = [PathShape((), ())]
    parts = template[1:].split("/")
    for index, part in enumerate(parts):
        parameter = _PARAMETER.fullmatch(part)
        if parameter is None:
            if not _LITERAL.fullmatch(part):
                raise ValueError(f"path {template!r}: part {part!r} is neither a plain literal nor a {{parameter}}")
            shapes = [PathShape((*s.segments, part.encode()), s.names) for s in shapes]
            continue
        name, optional = parameter.groups()
        if any(name == other for other, _ in shapes[0].names):
            raise ValueError(f"path {template!r} names the parameter {name!r} twice")
        widened = [PathShape((*s.segments, None), (*s.names, (name, len(s.segments)))) for s in shapes]
        if optional:
            widened += [PathShape((*s.segments, b""), (*s.names, (name, -1))) for s in shapes]
            if index == len(parts) - 1:
                widened += [PathShape(s.segments, (*s.names, (name, -1))) for s in shapes]
        shapes = widened
    return tuple(shapes)


class _Node:
    """A prefix of paths. routes: method -> the endpoint whose path ends here."""

    __slots__ = ("literals", "parameter", "routes")

    def __init__(self) -> None:
        self.literals: dict[bytes, _Node] = {}
        self.parameter: _Node | None = None
        self.routes: dict[str, tuple[Endpoint, tuple[tuple[str, int], ...]]] = {}


class RouteTable:
    """The dispatch table of a worker, made once from its endpoints. A literal part takes precedence over a parameter.

    It is a tree by path segments. Finding a route costs one dictionary look-up per segment, for any number of routes.
    """

    def __init__(self, endpoints: Iterable[Endpoint]) -> None:
        self._root = _Node()
        for endpoint in endpoints:
            for template in paths_of(endpoint):
                for shape in compile_path(template):
                    self._add(endpoint, shape)

    def match(self, method: str | bytes, raw_path: bytes) -> Match:
        """Return the endpoint and the decoded parameters of a request.

        raw_path: percent-encoded, without the query.
        Raises MatrixError: M_UNRECOGNIZED 404 for an unknown path, `WrongMethod` 405 for a known one, M_INVALID_PARAM
        400 for a broken escape or invalid UTF-8.
        """
        endpoint, params = self.locate(method, raw_path)
        decoded: Any = {name: decode_parameter(name, raw) for name, raw in params.items()}
        return Match(endpoint, decoded)

    def locate(self, method: str | bytes, raw_path: bytes) -> tuple[Endpoint, dict[str, bytes]]:
        """Return the endpoint and the raw parameters. Raises the errors of `match` except M_INVALID_PARAM."""
        verb = method if isinstance(method, str) else method.decode("latin-1")
        segments = raw_path.split(b"/")
        if segments[0]:  # "*" or an authority, which is no path
            raise unrecognized()
        count = len(segments)
        allowed: set[str] = set()
        other_ways: list[tuple[_Node, int]] = []  # parameters to try instead of a literal that was taken
        node: _Node | None = self._root
        depth = 1
        while True:
            while node is not None and depth < count:
                segment = segments[depth]
                literal = node.literals.get(segment)
                depth += 1
                if literal is None:
                    node = node.parameter if segment else None
                else:
                    if segment and node.parameter is not None:
                        other_ways.append((node.parameter, depth))
                    node = literal
            if node is not None:
                route = node.routes.get(verb)
                if route is not None:
                    endpoint, names = route
                    return endpoint, {name: segments[at + 1] if at >= 0 else b"" for name, at in names}
                allowed.update(node.routes)
            if not other_ways:
                raise WrongMethod(allowed) if allowed else unrecognized()
            node, depth = other_ways.pop()

    def _add(self, endpoint: Endpoint, shape: PathShape) -> None:
        node = self._root
        for segment in shape.segments:
            if segment is None:
                node.parameter = node.parameter or _Node()
                node = node.parameter
            else:
                node = node.literals.setdefault(segment, _Node())
        known = node.routes.setdefault(endpoint.method, (endpoint, shape.names))[0]
        if known.name != endpoint.name:
            raise ValueError(f"{endpoint.name} and {known.name} both serve {endpoint.method} {endpoint.path}")


def decode_parameter(name: str, raw: bytes) -> str:
    """Return one path parameter, percent-decoded once. Raises M_INVALID_PARAM for a broken escape or invalid UTF-8."""
    try:
        if b"%" not in raw:
            return raw.decode()
        if _BROKEN_ESCAPE.search(raw):
            raise invalid_param(f"{name} in the path has a broken percent-escape")
        return unquote_to_bytes(raw).decode()
    except UnicodeDecodeError:
        raise invalid_param(f"{name} in the path is not valid UTF-8") from None


def routing_slot(
    endpoint: Endpoint,
    params: Mapping[str, str] | Mapping[str, bytes],
    query: bytes,
    authorization: bytes | None,
) -> int | None:
    """Return the slot that haproxy computes for a request, or None if any process may serve it.

    params: path parameters, decoded as text (`match`) or raw as bytes (`locate`).
    query: raw, without "?".
    authorization: the `Authorization` header as sent (the last one if there are several).

    The slot is a room's for ROOM and ROOM_OR_ALIAS, a user's for USER and TOKEN_USER. A key that can't be decoded has
    no slot. A slot from a token is confirmed only when the token has been looked up.
    """
    key = endpoint.routing_key
    if key is RoutingKey.TOKEN_USER:
        return _slot_of_asking_user(query, authorization)
    if key not in (RoutingKey.ROOM, RoutingKey.ROOM_OR_ALIAS, RoutingKey.USER):
        return None
    value = params[key.value]
    decoded = value.encode() if isinstance(value, str) else _decode(value)
    if not decoded or (key is RoutingKey.ROOM_OR_ALIAS and decoded.startswith(b"#")):
        return None
    return slot_of(decoded)


def _slot_of_asking_user(query: bytes, authorization: bytes | None) -> int | None:
    user_id = _query_value(query, b"user_id")  # an application service's acting user
    if user_id:
        return slot_of(user_id)
    token = _bearer_token(authorization) or _query_value(query, b"access_token")
    if not token:
        return None
    hint = slot_hint(token)
    return slot_of(token) if hint is None else hint


def _bearer_token(authorization: bytes | None) -> bytes | None:
    """Return the token of "Bearer TOKEN": in any case, with any number of spaces (RFC 7235, section 2.1)."""
    words = [word for word in (authorization or b"").split(b" ") if word]
    return words[1] if len(words) > 1 and words[0].lower() == b"bearer" else None


def _query_value(query: bytes, name: bytes) -> bytes | None:
    """Return the first value of a query parameter, as haproxy's `url_param`: raw names, separated by "&", ";", "?"."""
    for part in re.split(rb"[&;?]", query):
        if part.startswith(name + b"="):
            return _decode(part[len(name) + 1 :].replace(b"+", b" "))
    return None


def _decode(raw: bytes) -> bytes | None:
    """Return the percent-decoded bytes, or None for a broken escape, like haproxy's `url_dec`."""
    return None if _BROKEN_ESCAPE.search(raw) else unquote_to_bytes(raw)
