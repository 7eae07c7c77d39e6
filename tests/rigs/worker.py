"""One worker of any type in memory: real PostgreSQL, its ASGI application without a port, a bus and slots in memory."""

import asyncio
import dataclasses
import itertools
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

import asyncpg
import orjson
from prometheus_client import CollectorRegistry

from replication.calls.owner_calls import OwnerCalls
from replication.process.foundation import Compose, Foundation, Worker
from replication.streams.announcer import Announcer
from replication.streams.fenced_writer import FencedWriter, SeenPositions
from replication.streams.follower import Follower
from shared.config.kinds import Secret
from shared.config.sections import Config, Limits, RateLimits, Secrets, Signing
from shared.core.identifiers import UserId
from shared.http.endpoint import Endpoint, Pool
from shared.http.internal_calls import InternalClient
from shared.http.process_pages import ProcessPages
from shared.http.request import Request, Requester
from shared.http.server import Application
from shared.metrics.http import HttpMetrics
from shared.metrics.replication import ReplicationMetrics
from shared.metrics.shares import ShareMetrics
from shared.runtime.tasks import TaskGroup
from shared.storage.engine.pool import Database, connector
from shared.storage.fleet.leases import insert_lease
from tests.rigs.bus import MemoryBus
from tests.rigs.clock import MockClock
from tests.rigs.requests import SECRET, Answer, ask, bearer
from tests.rigs.slots import MemoryHttp, MemoryRouter, MemorySlots

SERVER = "example.org"
#: No rate limits.
NO_LIMITS = RateLimits(**dict.fromkeys(each.name for each in dataclasses.fields(RateLimits)))
_numbers = itertools.count(1)


def make_config(**sections: Any) -> Config:
    """Return a configuration without rate limits. sections: replace any of its parts."""
    given: dict[str, Any] = {
        "signing": Signing(key=Secret("ed25519 a_1 " + "A" * 43)),
        "secrets": Secrets(internal_secret=Secret(SECRET)),
        "rate_limits": NO_LIMITS,
    }
    return Config(server_name=SERVER, public_base_url="https://matrix.example.org/", **(given | sections))


class UserIdTokens:
    """An authenticator that takes "user id|device id" for a token. guests: user ids of guests."""

    def __init__(self) -> None:
        self.guests: set[str] = set()
        self.logged_in_ms: dict[tuple[str, str], int] = {}  # when devices that were logged in again began

    async def authenticate(self, token: str | None, request: Request) -> Requester:
        assert token is not None
        user_id, _, device = token.partition("|")
        device = device or "DEVICE"
        return Requester(
            UserId(user_id),
            device,
            token.encode(),
            is_guest=user_id in self.guests,
            device_created_ms=self.logged_in_ms.get((user_id, device), 0),
        )

    def hold(self, requester: Requester) -> nullcontext[None]:
        """Nobody logs out."""
        return nullcontext()


class _NoLimiter:
    async def check(self, *args: Any) -> None:
        return None


@dataclass(kw_only=True)
class WorkerCode:
    """The parts of a worker type that run in memory.

    streams: those that it writes, with the sequences of their positions; none means that it has no lease.
    follows: True if it follows streams.
    """

    type: str
    compose: Compose
    endpoints: Sequence[Endpoint]
    pools: Sequence[Pool]
    streams: Mapping[str, str] = dataclasses.field(default_factory=dict)
    follows: bool = True


@dataclass(slots=True, kw_only=True)
class MemoryWorker:
    """A running worker."""

    application: Application
    foundation: Foundation
    worker: Worker
    bus: MemoryBus
    clock: MockClock
    tokens: UserIdTokens
    slots: MemorySlots
    router: MemoryRouter

    async def raw(self, method: str, path: str, body: bytes, headers: Sequence[tuple[bytes, bytes]] = ()) -> Answer:
        return await ask(self.application, method, path, body, headers=headers)

    async def internal(self, method: str, path: str, body: Any) -> Answer:
        """Send a request as another process of the fleet does."""
        return await self.raw(method, path, orjson.dumps(body), [bearer(SECRET)])

    async def sql(self, statement: str, *args: Any) -> list[asyncpg.Record]:
        return await self.foundation.database.fetch(statement, *args)

    def metric(self, name: str) -> float:
        return self.foundation.registry.get_sample_value(name) or 0.0

    async def start(self) -> None:
        """Begin the worker's own work, if `run_worker` was told to leave that to the test."""
        await self.worker.begin(self.foundation.tasks)

    async def drain(self) -> None:
        if self.worker.drain is not None:
            await self.worker.drain()


Kind = TypeVar("Kind", bound=MemoryWorker)


@asynccontextmanager
async def run_worker(
    dsn: str,
    code: WorkerCode,
    *,
    kind: type[Kind],
    config: Config,
    name: str | None = None,
    bus: MemoryBus | None = None,
    slots: MemorySlots | None = None,
    connections: int = 4,
    surroundings: Callable[[Foundation], Mapping[str, Any]] = lambda foundation: {},
    starts: bool = True,
) -> AsyncIterator[Kind]:
    """Run one worker.

    kind: the class that is returned.
    slots: by default it owns all.
    surroundings: fields of the foundation that replace those in memory.
    starts: False if the test calls `start`.
    """
    bus = bus or MemoryBus()
    clock = MockClock(time.time(), asyncio.get_running_loop().time)
    tasks, registry, seen = TaskGroup(), CollectorRegistry(), SeenPositions()
    name = name or f"{code.type}-{next(_numbers)}"
    connect = connector(dsn, pgbouncer=False)
    slots, tokens, limiter = slots or MemorySlots(), UserIdTokens(), _NoLimiter()
    router = MemoryRouter(slots)
    http = MemoryHttp(router)
    internal_client = InternalClient(http, SECRET)
    fields: dict[str, Any] = dict.fromkeys(each.name for each in dataclasses.fields(Foundation))
    async with AsyncExitStack() as stack:
        database = Database(connect, max_connections=connections)
        stack.push_async_callback(database.close)
        if code.streams:
            lease = await join_fleet(database, name, code.type, code.streams)
            writer = FencedWriter(connect, lease, seen, lambda why: None)
            stack.push_async_callback(writer.close)
            fields |= {"lease": lease, "writer": writer, "announcer": Announcer(lease, bus, seen)}
        stack.push_async_callback(tasks.close)
        if code.follows:
            metrics = ReplicationMetrics(registry)
            fields["follower"] = Follower(database, bus, seen, config.replication, clock, tasks, metrics)
        fields |= {
            "config": config,
            "endpoints": code.endpoints,
            "pools": {pool.name: pool for pool in code.pools},
            "name": name,
            "worker_type": code.type,
            "clock": clock,
            "tasks": tasks,
            "registry": registry,
            "share_metrics": ShareMetrics(registry),
            "database": database,
            "connect": connect,
            "transport": bus,
            "slots": slots,
            "forwarder": router,
            "http_client": http,
            "internal_client": internal_client,
            "calls": OwnerCalls(slots, internal_client, clock),  # type: ignore[arg-type]
            "authenticator": tokens,
            "rate_limiter": limiter,
        }
        foundation = Foundation(**fields)
        for field, value in surroundings(foundation).items():
            setattr(foundation, field, value)
        worker = code.compose(foundation)
        application = Application(
            code.endpoints,
            worker.handlers(),
            authenticator=foundation.authenticator,
            rate_limiter=foundation.rate_limiter,
            slot_router=router,
            internal_secret=SECRET,
            limits=Limits(),
            metrics=HttpMetrics(registry),
            pages=ProcessPages(registry, ready=lambda: True, metrics=False),
            server_authenticator=worker.server_authenticator,
        )
        if worker.close is not None:
            stack.push_async_callback(worker.close)
        running = kind(
            application=application,
            foundation=foundation,
            worker=worker,
            bus=bus,
            clock=clock,
            tokens=tokens,
            slots=slots,
            router=router,
        )
        http.here = running
        if code.follows:
            await foundation.follower.start()
        if starts:
            await running.start()
        stack.push_async_callback(running.drain)
        yield running


async def join_fleet(database: Database, process: str, worker_type: str, streams: Mapping[str, str]) -> int:
    """Return a new lease. streams: those that its holder writes, with their sequences."""
    async with database.connection() as conn:
        return await insert_lease(
            conn,
            process=process,
            type_=worker_type,
            host="h",
            pid=1,
            address="127.0.0.1:1",
            version="0",
            sequences=streams,
        )
