"""Every process's HTTP server: an ASGI application on uvicorn's httptools protocol, on the reactor's loop.

The order of things for one request: find the endpoint; read the body within its limit; authenticate; limit the rate;
make sure that this process owns the slot (or pass the request on); call the handler; turn errors into Matrix errors;
add CORS headers; count.
"""

import asyncio
import hmac
import logging
import secrets
import time
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from shared.core.errors import MatrixError, unrecognized
from shared.http.asgi import Receive, Send, send_response
from shared.http.endpoint import Auth, Endpoint, RateLimit
from shared.http.errors_to_json import response_for
from shared.http.guests import check_guest
from shared.http.process_pages import ProcessPages
from shared.http.request import FORWARDED, Handler, Request, Requester, Response
from shared.http.routing import RouteTable
from shared.metrics.http import HttpMetrics
from shared.runtime import tracing
from shared.runtime.context import request_id as request_id_var

logger = logging.getLogger(__name__)

#: Counted for requests whose client went away first; the number that proxies use for it.
_NOT_ANSWERED = 499
#: After so long before its handler's turn a request is authenticated again.
_WAITED_LONG_S = 0.3


class Authenticator(Protocol):
    async def authenticate(self, token: str | None, request: Request) -> Requester:
        """Return who holds the token. Raises M_MISSING_TOKEN, M_UNKNOWN_TOKEN (401), ..."""
        ...


class RateLimiter(Protocol):
    async def check(self, limit: RateLimit, requester: Requester | None, client_address: str) -> None:
        """Count one request. Raises M_LIMIT_EXCEEDED (429) with retry_after_ms."""
        ...


class SlotRouter(Protocol):
    async def route(self, request: Request) -> Response | None:
        """Return None when this process serves the request's slot, else the owner's answer."""
        ...

    def served(self, request: Request) -> None:
        """The request was answered here: its slot is held no longer."""
        ...


class Application:
    """The ASGI application of one process.

    endpoints: the whole fleet's, so that an unknown path (404) and a wrong method (405) are told apart everywhere;
    handlers: those that this process serves, by endpoint name; max_body_bytes: of requests whose endpoint names no
    other limit. Raises ValueError when a handler has no endpoint.
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
        max_body_bytes: int,
        metrics: HttpMetrics,
        pages: ProcessPages,
    ) -> None:
        names = {endpoint.name for endpoint in endpoints}
        if unknown := sorted(set(handlers) - names):
            raise ValueError(f"handlers without an endpoint: {', '.join(unknown)}")
        self._routes = RouteTable(endpoints)
        self._handlers = handlers
        self._authenticator = authenticator
        self._rate_limiter = rate_limiter
        self._slot_router = slot_router
        self._internal_secret = internal_secret.encode()
        self._max_body_bytes = max_body_bytes
        self._metrics = metrics
        self._pages = pages

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        headers: dict[bytes, bytes] = dict(scope["headers"])
        identifier = headers.get(b"x-request-id", b"").decode("latin-1")[:64] or secrets.token_hex(6)
        request_id_var.set(identifier)
        timer = self._metrics.start()
        name = "none"
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
                body = await _read_body(receive, headers, endpoint.body_limit_bytes or self._max_body_bytes)
                request = Request(
                    endpoint, method, path, scope["query_string"], match.params, headers, body,
                    _client_address(headers, scope), identifier,
                )  # fmt: skip
                with tracing.request_span(name, headers):
                    response = await self._serve(request, handler)
            except (asyncio.CancelledError, _ClientGone) as error:
                self._metrics.finish(timer, name, method, _NOT_ANSWERED)
                if isinstance(error, _ClientGone):
                    return
                raise
            except Exception as error:
                response = response_for(error)
        try:
            await send_response(send, response)
        except BaseException:
            # Half an answer is out: uvicorn breaks the connection, so that nobody takes it for a whole one.
            self._metrics.finish(timer, name, method, _NOT_ANSWERED)
            raise
        self._metrics.finish(timer, name, method, response.status)
        # The endpoint's name in place of the path: ids are nobody's business, and queries may hold tokens.
        logger.debug("%s %s answered with %d", method, name, response.status)

    async def _serve(self, request: Request, handler: Handler) -> Response:
        endpoint = request.endpoint
        began_s = time.monotonic()
        if endpoint.auth is Auth.INTERNAL:
            given = request.headers.get(b"authorization", b"")
            if not hmac.compare_digest(given, b"Bearer " + self._internal_secret):
                raise unrecognized()  # as if it were not there
        elif endpoint.auth in (Auth.ACCESS_TOKEN, Auth.OPTIONAL):
            token = access_token_of(request)
            if token is not None or endpoint.auth is Auth.ACCESS_TOKEN:
                request.requester = await self._authenticator.authenticate(token, request)
                if request.requester.is_guest:
                    check_guest(endpoint)
        if endpoint.rate_limit is not RateLimit.NONE and FORWARDED not in request.headers:
            await self._rate_limiter.check(endpoint.rate_limit, request.requester, request.client_address)
        elsewhere = await self._slot_router.route(request)
        if elsewhere is not None:
            return elsewhere
        try:
            if request.requester is not None and time.monotonic() - began_s > _WAITED_LONG_S:
                # The slot was on its way to us meanwhile: the token may have been ended.
                request.requester = await self._authenticator.authenticate(access_token_of(request), request)
            return await handler(request)
        finally:
            self._slot_router.served(request)


def access_token_of(request: Request) -> str | None:
    """Return the access token of the header, or of the query (deprecated in the spec, still used)."""
    header = request.headers.get(b"authorization")
    if header is not None:
        scheme, _, token = header.decode("latin-1").partition(" ")
        if scheme.lower() == "bearer" and token:
            return token.strip()
    return request.query_text("access_token")


class _ClientGone(Exception):
    """The client closed the connection before its request was whole."""


async def _read_body(receive: Receive, headers: Mapping[bytes, bytes], limit_bytes: int) -> bytes:
    declared = headers.get(b"content-length", b"0")
    if declared.isdigit() and int(declared) > limit_bytes:
        raise MatrixError("M_TOO_LARGE", f"The body may have {limit_bytes} bytes at most", 413)
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _ClientGone
        chunk: bytes = message.get("body", b"")
        size += len(chunk)
        if size > limit_bytes:
            raise MatrixError("M_TOO_LARGE", f"The body may have {limit_bytes} bytes at most", 413)
        chunks.append(chunk)
        if not message.get("more_body"):
            return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _client_address(headers: Mapping[bytes, bytes], scope: Mapping[str, Any]) -> str:
    # haproxy replaces what the outside sent, so the header is the truth behind it.
    forwarded = headers.get(b"x-forwarded-for")
    if forwarded:
        return forwarded.decode("latin-1").rpartition(",")[2].strip()
    client = scope.get("client")
    return client[0] if client else "unknown"
