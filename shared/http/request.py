"""Requests and responses, as handlers get and return them.

Bodies and queries are parsed into typed values here, once. Wrong input raises the spec's errors.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias, TypeVar
from urllib.parse import unquote

import msgspec
import orjson

from shared.core.canonical_json import check_structure, decode_json
from shared.core.errors import MatrixError, bad_json, invalid_param, missing_param
from shared.core.identifiers import ServerName, UserId
from shared.http.endpoint import Auth, Endpoint
from shared.http.routing import PathParams

T = TypeVar("T")

#: The header of a request that another worker forwarded. The process answers, or says 421; it does not forward again.
FORWARDED = b"x-skep-forwarded"

MAX_QUERY_FIELDS = 200
_MAX_COMPLAINT_CHARS = 200


@dataclass(frozen=True, slots=True)
class Requester:
    """The authenticated sender of a request.

    user_id: the acting user.
    device_id: None for tokens without a device.
    token_hash: the SHA-256 of the access token.
    device_created_ms: the time of the log-in that began the device. After a log-out, a log-in with the same device id
        begins another device.
    """

    user_id: UserId
    device_id: str | None
    token_hash: bytes
    is_guest: bool = False
    is_admin: bool = False
    device_created_ms: int = 0


def parse_query(raw: bytes) -> dict[str, list[str]]:
    """Return the values of each parameter of a query string. Raises ValueError.

    The result is that of `urllib.parse.parse_qs`, which takes three times as long if little is percent-encoded.
    """
    fields = raw.decode("ascii").split("&")
    if len(fields) > MAX_QUERY_FIELDS:
        raise ValueError("too many parameters")
    query: dict[str, list[str]] = {}
    for name_and_value in fields:
        if name_and_value:
            name, _, value = name_and_value.partition("=")
            query.setdefault(_decoded(name), []).append(_decoded(value))
    return query


def _decoded(text: str) -> str:
    if "+" in text:
        text = text.replace("+", " ")
    return unquote(text, errors="strict") if "%" in text else text


@dataclass(slots=True, kw_only=True)
class Request:
    """One HTTP request, matched to its endpoint.

    path: the raw path without the query.
    params: path parameters, percent-decoded once.
    headers: lower-case names, with the last value of each.
    body: whole, within the endpoint's limit. Empty until the request was authenticated.
    client_address: as the proxy saw it.
    origin: the server that signed the request, for endpoints of other servers.
    held_slot: (kind, slot) that stays with this process until the request is answered.
    held_body_bytes: what the body counts until then (`admission/bodies.py`).
    under_way: the user for whom the request counts as one under way.
    """

    endpoint: Endpoint
    method: str
    path: bytes
    raw_query: bytes
    params: PathParams
    headers: Mapping[bytes, bytes]
    body: bytes
    client_address: str
    request_id: str
    requester: Requester | None = None
    origin: ServerName | None = None
    held_slot: tuple[str, int] | None = None
    held_body_bytes: int = 0
    under_way: Requester | None = None
    _query: dict[str, list[str]] | None = field(default=None, repr=False)

    @property
    def user(self) -> Requester:
        """The authenticated requester, for endpoints that require a token."""
        assert self.requester is not None, f"{self.endpoint.name} does not authenticate"
        return self.requester

    @property
    def query(self) -> dict[str, list[str]]:
        if self._query is None:
            try:
                self._query = parse_query(self.raw_query)
            except ValueError as error:
                raise invalid_param("The query string is malformed") from error
        return self._query

    def query_text(self, name: str, default: str | None = None) -> str | None:
        values = self.query.get(name)
        return values[0] if values else default

    def query_required(self, name: str) -> str:
        value = self.query_text(name)
        if value is None:
            raise missing_param(f"Missing query parameter: {name}")
        return value

    def query_int(self, name: str, default: int, *, minimum: int = 0, maximum: int | None = None) -> int:
        """Return a whole number. It is lowered to `maximum`; below `minimum` it is an error."""
        text = self.query_text(name)
        if text is None:
            return default
        digits = text[1:] if text[:1] == "-" else text
        if not (digits.isascii() and digits.isdigit() and len(digits) <= 18):
            raise invalid_param(f"Query parameter {name} must be a whole number")
        number = int(text)
        if number < minimum:
            raise invalid_param(f"Query parameter {name} must be at least {minimum}")
        return number if maximum is None else min(number, maximum)

    def query_bool(self, name: str, default: bool = False) -> bool:
        text = self.query_text(name)
        if text is None:
            return default
        if text not in ("true", "false"):
            raise invalid_param(f"Query parameter {name} must be true or false")
        return text == "true"

    def query_choice(self, name: str, choices: tuple[str, ...], default: str | None = None) -> str | None:
        text = self.query_text(name)
        if text is None:
            return default
        if text not in choices:
            raise invalid_param(f"Query parameter {name} must be one of: {', '.join(choices)}")
        return text

    def json_object(self, *, empty_ok: bool = False) -> dict[str, Any]:
        """Return the body as a JSON object. empty_ok: an absent body is `{}`.

        Raises M_NOT_JSON, M_BAD_JSON, M_TOO_LARGE.
        """
        if empty_ok and not self.body:
            return {}
        if self.endpoint.auth is not Auth.INTERNAL:
            check_structure(self.body)
        value = decode_json(self.body)
        if not isinstance(value, dict):
            raise bad_json("The body must be a JSON object")
        return value

    def decode(self, type_: type[T], *, empty_ok: bool = False) -> T:
        """Return the body as a typed value (a msgspec Struct). Raises M_NOT_JSON, M_BAD_JSON naming the field."""
        return convert(self.json_object(empty_ok=empty_ok), type_)


def convert(value: Any, type_: type[T]) -> T:
    """Return a decoded JSON value as a value of the type. Raises M_BAD_JSON naming the mistake."""
    try:
        return msgspec.convert(value, type_)
    except msgspec.ValidationError as error:
        # msgspec quotes a value that is not one of a Literal's, however long it is.
        raise bad_json(str(error)[:_MAX_COMPLAINT_CHARS]) from error


class Pieces(Protocol):
    """The pieces of a long answer. aclose: called in the end, even if not all pieces were sent."""

    def __aiter__(self) -> AsyncIterator[bytes]: ...
    async def aclose(self) -> None: ...


Headers = tuple[tuple[bytes, bytes], ...]


@dataclass(slots=True)
class Response:
    """A response. body: encoded, or its pieces. A failure between pieces breaks the connection."""

    body: bytes | Pieces
    status: int = 200
    headers: Headers = ()
    content_type: bytes = b"application/json"


Handler: TypeAlias = Callable[[Request], Awaitable[Response]]


def json_response(value: Any, status: int = 200, headers: Headers = ()) -> Response:
    """Return a JSON response. orjson.Fragment values are inserted as they are."""
    return Response(orjson.dumps(value), status, headers)


EMPTY = b"{}"


def empty_response() -> Response:
    return Response(EMPTY)


def error_body(error: MatrixError) -> bytes:
    return orjson.dumps({"errcode": error.errcode, "error": error.message, **error.extra})
