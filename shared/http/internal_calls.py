"""Calls between processes of one fleet. A declaration gives the endpoint, the client and the handler.

    SET_MEMBER_PROFILE = OwnerCall(
        name="set_member_profile",
        path="/_skep/rooms/{roomId}/member_profile",
        pool="rooms",
        takes=MemberProfileChange,
        returns=MemberProfileAnswer,
    )

    @SET_MEMBER_PROFILE.handler
    async def set_member_profile(self, room_id: RoomId, change: MemberProfileChange) -> MemberProfileAnswer: ...

    answer = await calls.ask(SET_MEMBER_PROFILE, room_id, change)

Calls carry the fleet's secret, and haproxy lets none in. An `OwnerCall` goes to the owner of a room or user
(`replication/calls/owner_calls.py` finds it). A `ProcessCall` goes to a given address.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar, cast
from urllib.parse import quote

import msgspec

from shared.core.errors import RemoteServerError, bad_json
from shared.http.client import HttpResponse
from shared.http.endpoint import Auth, Endpoint, RateLimit, RoutingKey
from shared.http.endpoint_check import SLOT_KIND_OF_KEY
from shared.http.request import FORWARDED, Handler, Request, Response
from shared.http.serving import declare
from shared.runtime import tracing
from shared.runtime.context import request_id

Takes = TypeVar("Takes")
Returns = TypeVar("Returns")
Key = TypeVar("Key", bound=str)  # RoomId or UserId


class Empty(msgspec.Struct, frozen=True):
    """A body or an answer without content."""


EMPTY = Empty()


@dataclass(frozen=True, kw_only=True)
class InternalCall(Generic[Takes, Returns]):
    """The part that both kinds of calls share.

    name: the endpoint's name, also its label in metrics.
    path: below /_skep/.
    pool: the pool of the worker that answers.
    takes: the type of the body.
    returns: the type of the answer.
    method: PUT for calls that may be repeated, POST for others.
    """

    name: str
    path: str
    pool: str
    takes: type[Takes]
    returns: type[Returns]
    method: str = "PUT"
    body_limit_bytes: int | None = None

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint(
            name=self.name,
            method=self.method,
            path=self.path,
            pool=self.pool,
            routing_key=self.routing_key,
            auth=Auth.INTERNAL,
            rate_limit=RateLimit.NONE,
            idempotent=self.method == "PUT",
            body_limit_bytes=self.body_limit_bytes,
        )

    @property
    def routing_key(self) -> RoutingKey:
        return RoutingKey.NONE

    def decode(self, body: bytes) -> Takes:
        """Return the body of a request. Raises M_BAD_JSON."""
        try:
            return msgspec.json.decode(body, type=self.takes)
        except msgspec.MsgspecError as error:
            raise bad_json(f"The body does not fit {self.name}: {error}") from error

    def answer_of(self, response: HttpResponse) -> Returns:
        """Return the answer. Raises RemoteServerError for an error status and for an answer of another form."""
        if response.status != 200:
            raise RemoteServerError(f"{self.name} was answered with {response.status}")
        try:
            return msgspec.json.decode(response.body, type=self.returns)
        except msgspec.MsgspecError as error:
            raise RemoteServerError(f"{self.name} got an answer of another form: {error}") from error


@dataclass(frozen=True, kw_only=True)
class OwnerCall(InternalCall[Takes, Returns]):
    """A call to the owner of a slot. The path holds `{roomId}`, `{userId}` or `{fetchKey}`."""

    @property
    def routing_key(self) -> RoutingKey:
        keys = (RoutingKey.ROOM, RoutingKey.FETCH, RoutingKey.USER)
        return next(key for key in keys if f"{{{key.value}}}" in self.path)

    @property
    def slot_kind(self) -> str:
        return SLOT_KIND_OF_KEY[self.routing_key]

    def path_for(self, key: str) -> str:
        """Return the path for a room id, a user id or the key of a fetch."""
        return self.path.replace("{" + self.routing_key.value + "}", quote(key, safe=""))

    def handler(
        self, method: Callable[[Any, Key, Takes], Awaitable[Returns]]
    ) -> Callable[[Any, Key, Takes], Awaitable[Returns]]:
        """Declare that this method of a feature answers the call: room id or user id, and body, to answer."""
        key = self.routing_key.value

        def adapt(bound: Callable[[Key, Takes], Awaitable[Returns]]) -> Handler:
            async def handle(request: Request) -> Response:
                answer = await bound(cast("dict[str, Key]", request.params)[key], self.decode(request.body))
                return Response(msgspec.json.encode(answer))

            return handle

        return declare(method, self.endpoint, adapt)


@dataclass(frozen=True, kw_only=True)
class ProcessCall(InternalCall[Takes, Returns]):
    """A call to one process, by its address."""

    def handler(self, method: Callable[[Any, Takes], Awaitable[Returns]]) -> Callable[[Any, Takes], Awaitable[Returns]]:
        """Declare that this method of a feature answers the call: body to answer."""

        def adapt(bound: Callable[[Takes], Awaitable[Returns]]) -> Handler:
            async def handle(request: Request) -> Response:
                return Response(msgspec.json.encode(await bound(self.decode(request.body))))

            return handle

        return declare(method, self.endpoint, adapt)


class Sender(Protocol):
    """The part of `HttpClient` used here."""

    async def request(
        self, method: bytes, url: bytes, headers: Mapping[bytes, bytes], body: bytes, *, timeout_s: float
    ) -> HttpResponse: ...


class InternalClient:
    """Sends calls to other processes. secret: the fleet's internal secret."""

    def __init__(self, client: Sender, secret: str) -> None:
        self._client = client
        self._authorization = b"Bearer " + secret.encode()

    async def ask(self, address: str, call: ProcessCall[Takes, Returns], body: Takes, *, timeout_s: float) -> Returns:
        """Make a call and return its answer. Raises RemoteServerError."""
        return call.answer_of(await self.send(address, call.method, call.path, msgspec.json.encode(body), timeout_s))

    async def send(self, address: str, method: str, path: str, body: bytes, timeout_s: float) -> HttpResponse:
        """Send one request. Raises RemoteServerError when no answer comes."""
        headers = {
            b"authorization": self._authorization,
            b"content-type": b"application/json",
            FORWARDED: b"1",  # the process answers, or says 421: it does not forward the call
            b"x-request-id": request_id.get().encode(),
            **{name.encode(): value.encode() for name, value in tracing.outgoing_headers().items()},
        }
        url = f"http://{address}{path}".encode()
        return await self._client.request(method.encode(), url, headers, body, timeout_s=timeout_s)
