"""The HTTP server of every process: an ASGI application on uvicorn's httptools protocol, on the reactor's loop.

For each request it finds the endpoint, authenticates, applies the rate limit, reads the body within its limits, makes
sure that this process owns the slot (or forwards the request), calls the handler, turns errors into Matrix errors, adds
CORS headers and counts.
"""

import asyncio
import hmac
import logging
import secrets
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from types import FrameType
from typing import Any, Protocol

from shared.config.sections import Limits
from shared.core.errors import UNRECOGNIZED_REQUEST, MatrixError, unrecognized
from shared.core.identifiers import ServerName
from shared.http.admission.bodies import BodyReader, ClientGone
from shared.http.admission.places import Places
from shared.http.admission.proxy_notice import UNKNOWN_PROXY, ProxyNotice
from shared.http.asgi import Receive, Send, send_response
from shared.http.endpoint import READS, Auth, Endpoint, RateLimit, Share
from shared.http.errors_to_json import RefusalLog, response_for
from shared.http.guests import check_guest
from shared.http.process_pages import ProcessPages
from shared.http.request import FORWARDED, Handler, Request, Requester, Response
from shared.http.routing import RouteTable, WrongMethod
from shared.metrics.http import HttpMetrics
from shared.runtime import tracing
from shared.runtime.context import request_id as request_id_var

logger = logging.getLogger(__name__)

#: The status counted for requests whose client disconnected first. Proxies use this number.
_NOT_ANSWERED = 499
#: The part of a path that an error message repeats, in characters.
_LONGEST_PATH = 300
#: A request that waited this long for its handler is authenticated again.
_WAITED_LONG_S = 0.3
#: The kinds of authentication that this server performs. An endpoint of any other kind is never served.
_CHECKED = frozenset({Auth.NONE, Auth.OPTIONAL, Auth.ACCESS_TOKEN, Auth.INTERNAL})


class Authenticator(Protocol):
    async def authenticate(self, token: str | None, request: Request) -> Requester:
        """Return the token's requester. Raises M_MISSING_TOKEN, M_UNKNOWN_TOKEN (401), ..."""
        ...


class ServerAuthenticator(Protocol):
    def check_header(self, request: Request) -> None:
        """Raise M_UNAUTHORIZED (401) for a request that cannot be rightly signed, before its body is read."""
        ...

    async def authenticate_server(self, request: Request) -> ServerName:
        """Return the server that signed the request. Raises M_UNAUTHORIZED (401)."""
        ...


class RateLimiter(Protocol):
    async def check(self, limit: RateLimit, requester: Requester | None, client_address: str) -> None:
        """Count one request. Raises M_LIMIT_EXCEEDED (429) with retry_after_ms."""
        ...


class SlotRouter(Protocol):
    async def route(self, request: Request) -> Response | None:
        """Return None if this process serves the request's slot, else the owner's answer."""
        ...

    def served(self, request: Request) -> None:
        """Release the slot of a request that was answered here."""
        ...


class Shares(Protocol):
    """The users' shares in scarce work."""

    def check_untaken(self, request: Request) -> None:
        """Raise M_LIMIT_EXCEEDED if the user's clients have not taken the large answers to earlier requests."""
        ...

    async def serve(self, handler: Handler, request: Request) -> Response:
        """Return the handler's response, within the user's share of its kind of work. Raises M_LIMIT_EXCEEDED."""
        ...

    def sending(self, request: Request, response: Response) -> AbstractContextManager[None]:
        """Count a large answer for as long as its client has not taken it."""
        ...


class SetAside(Protocol):
    """Requests of which processes died."""

    def check(self, request: Request) -> None:
        """Raise M_LIMIT_EXCEEDED if the request is set aside."""
        ...


class Application:
    """The ASGI application of one process.

    endpoints: those of the whole fleet, so that every process distinguishes an unknown path (404) from a wrong method
        (405).
    handlers: of the endpoints that this process serves, by endpoint name.
    shares: the users' shares in scarce work; None: no limits.
    set_aside: the requests of which processes died; None: there are none.
    Raises ValueError if a handler has no endpoint, or if this server cannot authenticate the callers of its endpoint.
    """

    def __init__(
        self,
        endpoints: Sequence[Endpoint],
        handlers: Mapping[str, Handler],
        *,
        authenticator: Authenticator,
        rate_limiter: RateLimiter,
        slot_router: SlotRouter,
        internal_secret: str,
        limits: Limits,
        metrics: HttpMetrics,
        pages: ProcessPages,
        server_authenticator: ServerAuthenticator | None = None,
        shares: Shares | None = None,
        set_aside: SetAside | None = None,
    ) -> None:
        names = {endpoint.name for endpoint in endpoints}
        if unknown := sorted(set(handlers) - names):
            raise ValueError(f"handlers without an endpoint: {', '.join(unknown)}")
        self._checked = _CHECKED if server_authenticator is None else _CHECKED | {Auth.SERVER}
        unchecked = sorted(e.name for e in endpoints if e.name in handlers and e.auth not in self._checked)
        if unchecked:
            raise ValueError(f"endpoints whose callers cannot be authenticated: {', '.join(unchecked)}")
        self._routes = RouteTable(endpoints)
        self._handlers = handlers
        self._authenticator = authenticator
        self._server_authenticator = server_authenticator
        self._rate_limiter = rate_limiter
        self._slot_router = slot_router
        self._internal_secret = internal_secret.encode()
        self._bodies = BodyReader(limits, metrics)
        self._under_way = Places("requests", each=limits.requests_per_user, in_all=None, metrics=metrics)
        self._metrics = metrics
        self._pages = pages
        self._shares = shares
        self._set_aside = set_aside
        self._refusals = RefusalLog()
        self._proxies = ProxyNotice()

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        headers: dict[bytes, bytes] = dict(scope["headers"])
        identifier = headers.get(b"x-request-id", b"").decode("latin-1")[:64] or secrets.token_hex(6)
        request_id_var.set(identifier)
        timer = self._metrics.start()
        name = "none"
        request: Request | None = None
        response: Response
        method: str = scope["method"]
        if method == "OPTIONS":
            response = Response(b"{}")
        else:
            try:
                path: bytes = scope["raw_path"].partition(b"?")[0]
                if method == "GET" and (page := await self._pages.page(path)) is not None:
                    await send_response(send, page)
                    self._metrics.finish(timer, "process_page", method, page.status)
                    return
                match = self._routes.match(method, path)
                endpoint = match.endpoint
                name = endpoint.name
                handler = self._handlers.get(name)
                if handler is None:
                    raise unrecognized(f"This process does not serve {name}")
                self._bodies.refuse_oversized(endpoint, headers)
                request = Request(
                    endpoint=endpoint,
                    method=method,
                    path=path,
                    raw_query=scope["query_string"],
                    params=match.params,
                    headers=headers,
                    body=b"",
                    client_address=_client_address(headers, scope),
                    request_id=identifier,
                )
                if endpoint.share in READS and "state" in scope:
                    # A client that comes again and again must not leave one behind each time.
                    scope["state"]["connection"].reading = asyncio.current_task()
                with tracing.request_span(name, headers):
                    response = await self._serve(request, handler, receive)
            except (asyncio.CancelledError, ClientGone) as error:
                self._metrics.finish(timer, name, method, _NOT_ANSWERED)
                if request is not None:
                    self._leave(request)
                if isinstance(error, ClientGone):
                    return
                raise
            except Exception as error:
                refusal = _naming_the_request(error, method, scope)
                user_id = request.requester.user_id if request is not None and request.requester is not None else None
                self._refusals.note(refusal, method, name, user_id, _client_address(headers, scope))
                response = response_for(refusal)
        try:
            if self._shares is None or request is None:
                await send_response(send, response)
            else:
                with self._shares.sending(request, response):
                    await send_response(send, response)
        except BaseException:
            # Half an answer is sent. uvicorn breaks the connection, so that it is not taken for a whole one.
            self._metrics.finish(timer, name, method, _NOT_ANSWERED)
            raise
        finally:
            if request is not None:
                self._leave(request)
        self._metrics.finish(timer, name, method, response.status)
        # The endpoint's name instead of the path, since ids are private and queries may contain tokens.
        logger.debug("%s %s answered with %d", method, name, response.status)

    async def _serve(self, request: Request, handler: Handler, receive: Receive) -> Response:
        began_s = time.monotonic()
        await self._admit(request)
        # Only now, so that nobody without a token makes this process read anything large.
        request.body = await self._bodies.read(request, receive)
        self._bodies.hold(request)
        if request.endpoint.auth is Auth.SERVER and self._server_authenticator is not None:
            # The signature covers the body.
            request.origin = await self._server_authenticator.authenticate_server(request)
        if self._set_aside is not None:
            self._set_aside.check(request)
        elsewhere = await self._slot_router.route(request)
        if elsewhere is not None:
            return elsewhere
        try:
            if request.requester is not None and time.monotonic() - began_s > _WAITED_LONG_S:
                # The body was slow, or the slot was being moved to this process: the token may have been revoked.
                request.requester = await self._authenticator.authenticate(access_token_of(request), request)
            if request.endpoint.share is Share.NONE or self._shares is None:
                return await handler(request)
            return await self._shares.serve(handler, request)
        finally:
            self._slot_router.served(request)

    async def _admit(self, request: Request) -> None:
        """Authenticate a request, and count it."""
        endpoint = request.endpoint
        if endpoint.auth is Auth.INTERNAL:
            given = request.headers.get(b"authorization", b"")
            if not hmac.compare_digest(given, b"Bearer " + self._internal_secret):
                raise unrecognized()  # as if the endpoint did not exist
            return
        if UNKNOWN_PROXY in request.headers:
            self._proxies.note(request.client_address)
        if endpoint.auth not in self._checked:
            raise unrecognized()  # `__init__` refuses such handlers: this is the second lock
        if endpoint.auth is Auth.SERVER and self._server_authenticator is not None:
            self._server_authenticator.check_header(request)
        if endpoint.auth in (Auth.ACCESS_TOKEN, Auth.OPTIONAL):
            token = access_token_of(request)
            if token is not None or endpoint.auth is Auth.ACCESS_TOKEN:
                request.requester = await self._authenticator.authenticate(token, request)
                if request.requester.is_guest:
                    check_guest(endpoint)
        if endpoint.rate_limit is not RateLimit.NONE and FORWARDED not in request.headers:
            await self._rate_limiter.check(endpoint.rate_limit, request.requester, request.client_address)
        if self._shares is not None:
            self._shares.check_untaken(request)
        if request.requester is not None:
            self._under_way.take(request.requester.user_id)
            request.under_way = request.requester

    def _leave(self, request: Request) -> None:
        """Count the request no longer as one under way, nor its body."""
        self._bodies.release(request)
        requester, request.under_way = request.under_way, None
        if requester is not None:
            self._under_way.give_back(requester.user_id)


def request_in(frame: FrameType | None) -> Request | None:
    """Return the request that a thread serves, from its innermost frame. None for other work."""
    while frame is not None:
        if frame.f_code is Application.__call__.__code__:
            request: Request | None = frame.f_locals.get("request")
            return request
        frame = frame.f_back
    return None


def _naming_the_request(error: Exception, method: str, scope: Mapping[str, Any]) -> Exception:
    """Return the error, or for an unrecognized request one whose message names the method and the path."""
    if not isinstance(error, MatrixError) or error.errcode != "M_UNRECOGNIZED" or error.message != UNRECOGNIZED_REQUEST:
        return error
    path = scope["raw_path"].partition(b"?")[0].decode("utf-8", "replace")[:_LONGEST_PATH]
    if not isinstance(error, WrongMethod):
        return unrecognized(f"{method} {path} is not available on this server", error.status)
    allowed = ", ".join(error.allowed)
    return WrongMethod(error.allowed, f"{method} {path} is not available on this server, but {allowed} is")


def access_token_of(request: Request) -> str | None:
    """Return the access token from the header, or from the query (deprecated in the spec, still used)."""
    header = request.headers.get(b"authorization")
    if header is not None:
        scheme, _, token = header.decode("latin-1").partition(" ")
        if scheme.lower() == "bearer" and token:
            return token.strip()
    return request.query_text("access_token")


def _client_address(headers: Mapping[bytes, bytes], scope: Mapping[str, Any]) -> str:
    # haproxy replaces this header of the client's, so it can be trusted behind haproxy.
    forwarded = headers.get(b"x-forwarded-for")
    if forwarded:
        return forwarded.decode("latin-1").rpartition(",")[2].strip()
    client = scope.get("client")
    return client[0] if client else "unknown"
