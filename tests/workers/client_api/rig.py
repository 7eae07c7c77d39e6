"""One client_api worker in memory: real PostgreSQL, its ASGI application without a port, a bus that keeps messages."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import asyncpg
import orjson
from prometheus_client import CollectorRegistry

from replication.calls.owner_calls import OwnerCalls
from replication.process.foundation import Foundation
from replication.streams import streams_written_by
from replication.streams.announcer import Announcer
from replication.streams.fenced_writer import FencedWriter, SeenPositions
from shared.config.kinds import Secret
from shared.config.sections import Config, RateLimits, Registration, Secrets, Signing
from shared.core.errors import RemoteServerError
from shared.http.internal_calls import InternalClient
from shared.http.process_pages import ProcessPages
from shared.http.request import Request, Response
from shared.http.server import Application
from shared.metrics.http import HttpMetrics
from shared.operations.authenticate import TokenAuthenticator
from shared.operations.rate_limits import FleetRateLimiter
from shared.runtime.tasks import TaskGroup
from shared.storage.engine.pool import Database, connector
from shared.storage.fleet.leases import insert_lease
from workers.client_api.compose import compose
from workers.client_api.endpoints import ENDPOINTS, POOLS

SERVER = "example.org"
INTERNAL_SECRET = "internal secret for tests"
SHARED_SECRET = "registration secret"

NO_LIMITS = RateLimits(**dict.fromkeys(each.name for each in dataclasses.fields(RateLimits)))


def make_config(**sections: Any) -> Config:
    """An open server without rate limits; sections: replace any of its parts."""
    given: dict[str, Any] = {
        "signing": Signing(key=Secret("ed25519 a_1 " + "A" * 43)),
        "secrets": Secrets(internal_secret=Secret(INTERNAL_SECRET), registration_shared_secret=Secret(SHARED_SECRET)),
        "registration": Registration(enabled=True, require_token=False, allow_guests=True),
        "rate_limits": NO_LIMITS,
    }
    return Config(server_name=SERVER, public_base_url="https://matrix.example.org/", **(given | sections))


class FakeClock:
    """Real wall time plus what a test adds to it."""

    def __init__(self) -> None:
        self.added_s = 0.0
        self._start_ms = 1_790_000_000_000
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()

    def now_ms(self) -> int:
        return self._start_ms + int((self._loop.time() - self._began + self.added_s) * 1000)

    def monotonic_s(self) -> float:
        return self._loop.time() - self._began + self.added_s


class KeptMessages:
    """The message bus: what was published."""

    connected = True

    def __init__(self) -> None:
        self.published: list[tuple[str, bytes]] = []

    def publish(self, channel: str, message: bytes) -> None:
        self.published.append((channel, message))

    def subscribe(self, channels: Sequence[str], on_message: Any, on_up: Callable[[], None]) -> None:
        """Nobody else writes in these tests."""

    async def close(self) -> None:
        """Nothing is open."""


class AllSlots:
    """A slot table in which this process owns everything."""

    def owns(self, kind: str, slot: int) -> bool:
        return True

    def address(self, kind: str, slot: int) -> str | None:
        return None

    def owned(self, kind: str) -> set[int]:
        return set(range(1024))

    def on_change(self, listener: Any) -> None:
        """Nothing changes."""


class Here:
    """A slot router that passes nothing on."""

    async def route(self, request: Request) -> Response | None:
        return None

    def served(self, request: Request) -> None:
        """Nobody counts them here."""


@dataclass(slots=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)

    @property
    def errcode(self) -> str:
        code: str = self.json.get("errcode", "")
        return code


@dataclass(slots=True)
class Worker:
    application: Application
    foundation: Foundation
    clock: FakeClock
    bus: KeptMessages
    start: Callable[[], Awaitable[None]] | None = None  # what runs by itself; a test starts it

    async def call(
        self, method: str, path: str, body: Any = None, *, token: str | None = None, raw: bytes | None = None,
        address: str = "192.0.2.1", query: str = "", headers: Sequence[tuple[bytes, bytes]] = (),
    ) -> Answer:  # fmt: skip
        """Send one request. path: below /_matrix/client/v3 unless it begins with "/_" or "/."."""
        if not path.startswith(("/_", "/.")):
            path = "/_matrix/client/v3" + path
        content = raw if raw is not None else (b"" if body is None else orjson.dumps(body))
        sent: list[dict[str, Any]] = []
        all_headers = [(b"x-forwarded-for", address.encode()), *headers]
        if token is not None:
            all_headers.append((b"authorization", b"Bearer " + token.encode()))
        scope = {
            "type": "http", "method": method, "raw_path": path.encode(), "query_string": query.encode(),
            "headers": all_headers, "client": ("127.0.0.1", 1),
        }  # fmt: skip
        pending = [{"type": "http.request", "body": content, "more_body": False}]

        async def receive() -> dict[str, Any]:
            return pending.pop(0) if pending else {"type": "http.disconnect"}

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        await self.application(scope, receive, send)
        answer_headers = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
        return Answer(sent[0]["status"], answer_headers, b"".join(m.get("body", b"") for m in sent[1:]))

    async def register(self, name: str, password: str = "correct horse", **more: Any) -> "User":
        body = {"username": name, "password": password, "auth": {"type": "m.login.dummy"}, **more}
        answer = await self.call("POST", "/register", body)
        assert answer.status == 200, answer.body
        return User(self, answer.json["user_id"], answer.json["access_token"], answer.json["device_id"])

    async def sql(self, statement: str, *args: Any) -> list[asyncpg.Record]:
        return await self.foundation.database.fetch(statement, *args)


@dataclass(slots=True)
class User:
    worker: Worker
    user_id: str
    token: str
    device_id: str
    quoted: str = field(init=False)

    def __post_init__(self) -> None:
        self.quoted = quote(self.user_id, safe="")

    async def call(self, method: str, path: str, body: Any = None, **more: Any) -> Answer:
        return await self.worker.call(method, path, body, token=self.token, **more)


class NoHttp:
    """An HTTP client that reaches nobody."""

    async def request(self, *args: Any, **kwargs: Any) -> Any:
        raise RemoteServerError("ConnectionRefusedError")


@asynccontextmanager
async def client_api(dsn: str, config: Config | None = None, name: str = "client_api-1") -> AsyncIterator[Worker]:
    config = config or make_config()
    clock, tasks, bus, registry = FakeClock(), TaskGroup(), KeptMessages(), CollectorRegistry()
    connect = connector(dsn, pgbouncer=False)
    database = Database(connect, max_connections=4)
    async with database.connection() as conn:
        sequences = {s.name: s.sequence if s.catch_up else "" for s in streams_written_by("client_api")}
        lease = await insert_lease(
            conn, process=name, type_="client_api", host="h", pid=1, address="127.0.0.1:1", version="0",
            sequences=sequences,
        )  # fmt: skip
    seen = SeenPositions()
    writer = FencedWriter(connect, lease, seen, lambda why: None)
    announcer = Announcer(lease, bus, seen)
    slots: Any = AllSlots()
    client: Any = NoHttp()
    nothing: Any = None
    authenticator = TokenAuthenticator(database, clock, 1 << 20, lambda: asyncio.sleep(0))
    internal_client = InternalClient(client, INTERNAL_SECRET)
    limiter = FleetRateLimiter(config.rate_limits, clock, internal_client, slots)
    pools = {pool.name: pool for pool in POOLS}
    foundation = Foundation(
        config=config, endpoints=ENDPOINTS, pools=pools, name=name, worker_type="client_api", clock=clock,
        tasks=tasks, registry=registry, database=database, connect=connect, http_client=client,
        internal_client=internal_client, calls=OwnerCalls(slots, internal_client, clock), transport=bus,
        membership=nothing, lease=lease, writer=writer, announcer=announcer, follower=nothing, slots=slots,
        forwarder=nothing, authenticator=authenticator, rate_limiter=limiter,
    )  # fmt: skip
    worker = compose(foundation)
    application = Application(
        ENDPOINTS, worker.handlers(), authenticator=authenticator, rate_limiter=limiter, slot_router=Here(),
        internal_secret=INTERNAL_SECRET, max_body_bytes=1 << 20, metrics=HttpMetrics(registry),
        pages=ProcessPages(registry, ready=lambda: True, metrics=False),
    )  # fmt: skip
    try:
        yield Worker(application, foundation, clock, bus, lambda: worker.begin(tasks))
    finally:
        if worker.drain is not None:
            await worker.drain()
        await tasks.close()
        await writer.close()
        await database.close()
