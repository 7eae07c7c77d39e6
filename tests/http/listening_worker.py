"""A worker's real HTTP server in a thread, with every declared endpoint. The handlers return the path and the query.

The authenticator, rate limiter and slot router are fakes. They refuse a request with the header `x-test-refusal: auth`,
`rate`, `limit` or `slot`. Each token belongs to a user of its own, whose name begins with it.
"""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import orjson
from prometheus_client import CollectorRegistry

from deploy.endpoint_table import all_endpoints
from shared.config.sections import Limits
from shared.core.errors import MatrixError, Unavailable
from shared.core.identifiers import ServerName, UserId
from shared.http.endpoint import RateLimit
from shared.http.gate import Gate
from shared.http.listener import HttpServer
from shared.http.process_pages import ProcessPages
from shared.http.request import Request, Requester, Response
from shared.http.server import Application
from shared.metrics.http import HttpMetrics
from workers.main.haproxy_plan import FleetWorker

MAX_BODY_BYTES = 200_000
SECRET = "the fleet's secret"
_LIMITS = Limits(max_body_bytes=MAX_BODY_BYTES)


class _Refusing:
    refuse_next = False

    async def authenticate(self, token: str | None, request: Request) -> Requester:
        if token is None or request.headers.get(b"x-test-refusal") == b"auth":
            raise MatrixError("M_UNKNOWN_TOKEN", "Unknown access token", 401)
        self.refuse_next = request.headers.get(b"x-test-refusal") == b"rate"
        return Requester(UserId(f"@{token}:hive.example"), "D", b"")

    async def check(self, limit: RateLimit, requester: Requester | None, client_address: str) -> None:
        """Refuse for `rate`, right after `authenticate`. `route` refuses for `limit`, after the body."""
        if self.refuse_next:
            self.refuse_next = False
            raise MatrixError("M_LIMIT_EXCEEDED", "Too many requests", 429, {"retry_after_ms": 10})

    async def route(self, request: Request) -> Response | None:
        match request.headers.get(b"x-test-refusal"):
            case b"limit":
                raise MatrixError("M_LIMIT_EXCEEDED", "Too many requests", 429, {"retry_after_ms": 10})
            case b"slot":
                raise Unavailable("Nobody serves the slot")
        return None

    def served(self, request: Request) -> None:
        """Count nothing."""


def application(limits: Limits = _LIMITS) -> Application:
    async def handle(request: Request) -> Response:
        return Response(orjson.dumps({"served": request.path.decode(), "query": request.raw_query.decode()}))

    refusing, registry, endpoints = _Refusing(), CollectorRegistry(), all_endpoints()
    return Application(
        endpoints,
        {endpoint.name: handle for endpoint in endpoints},
        authenticator=refusing,
        rate_limiter=refusing,
        slot_router=refusing,
        internal_secret=SECRET,
        limits=limits,
        metrics=HttpMetrics(registry),
        pages=ProcessPages(registry, ready=lambda: True, metrics=True),
        server_authenticator=_Unsigned(),
    )


class _Unsigned:
    """Takes every request for one that another server signed."""

    def check_header(self, request: Request) -> None:
        """Allow all."""

    async def authenticate_server(self, request: Request) -> ServerName:
        return ServerName("other.example")


class ListeningWorker:
    """The server behind its gate. `gate.close()` makes it refuse all requests.

    name, type, seen: the interface of EchoWorker in haproxy's rig
    """

    def __init__(self, gate: Gate, address: str, worker_type: str, limits: Limits) -> None:
        self.gate = gate
        self.limits = limits
        self.address = address
        self.name, self.type = f"{worker_type}1", worker_type

    def open(self) -> None:
        """Let requests through the gate."""
        self.gate.open(application(self.limits), lambda: True)

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])

    def seen(self, *, ready: bool = True) -> FleetWorker:
        return FleetWorker(self.name, self.type, self.address, ready)


@contextmanager
def listening_worker(worker_type: str = "client_api", limits: Limits = _LIMITS) -> Iterator[ListeningWorker]:
    """Serve on a port of 127.0.0.1 until the end of the block."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    def run(work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, loop).result(10)

    gate = Gate()
    server = HttpServer(gate, "127.0.0.1", 0)
    worker = ListeningWorker(gate, run(server.start()), worker_type, limits)
    worker.open()
    try:
        yield worker
    finally:
        run(server.drain(0.0))
        loop.call_soon_threadsafe(loop.stop)
        thread.join(5)
        loop.close()
