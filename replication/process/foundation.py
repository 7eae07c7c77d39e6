"""The foundation of every worker, and the result of its `compose.py`."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from prometheus_client import CollectorRegistry

from replication.bus.transport import Transport
from replication.calls.owner_calls import OwnerCalls
from replication.process.membership import Membership
from replication.slots.forwarder import SlotForwarder
from replication.slots.table import SlotTable
from replication.streams.announcer import Announcer
from replication.streams.fenced_writer import FencedWriter
from replication.streams.follower import Follower
from shared.config.sections import Config
from shared.http.client import HttpClient
from shared.http.endpoint import Endpoint, Pool
from shared.http.internal_calls import InternalClient
from shared.http.request import Handler
from shared.http.server import ServerAuthenticator
from shared.http.serving import handlers_of
from shared.metrics.shares import ShareMetrics
from shared.operations.authenticate import TokenAuthenticator
from shared.operations.rate_limits import FleetRateLimiter
from shared.runtime.clock import Clock
from shared.runtime.tasks import TaskGroup
from shared.storage.engine.pool import Connect, Database


@dataclass(slots=True, kw_only=True)
class Foundation:
    """The parts that a worker's `compose.py` builds on. It passes on single fields, never the whole."""

    config: Config
    endpoints: Sequence[Endpoint]
    pools: Mapping[str, Pool]
    name: str
    worker_type: str
    clock: Clock
    tasks: TaskGroup
    registry: CollectorRegistry
    share_metrics: ShareMetrics
    database: Database
    connect: Connect
    http_client: HttpClient
    internal_client: InternalClient
    calls: OwnerCalls
    transport: Transport
    membership: Membership
    lease: int
    writer: FencedWriter
    announcer: Announcer
    follower: Follower
    slots: SlotTable
    forwarder: SlotForwarder
    authenticator: TokenAuthenticator
    rate_limiter: FleetRateLimiter


@dataclass(slots=True, kw_only=True)
class Worker:
    """The result of a worker's `compose.py`.

    features: the objects whose methods serve endpoints (`shared/http/serving.py`).
    jobs: what runs until the process ends, by name. A job that fails is started again.
    start: runs once everything follows, before the jobs and before the worker is ready.
    drain: hands over and finishes the work under way, within the drain limit.
    close: frees what the process holds, at the end of each incarnation.
    server_authenticator: checks the requests of other servers, for a worker that serves any.
    """

    features: Sequence[object] = ()
    jobs: Mapping[str, Callable[[], Awaitable[None]]] = field(default_factory=dict)
    start: Callable[[], Awaitable[None]] | None = None
    drain: Callable[[], Awaitable[None]] | None = None
    close: Callable[[], Awaitable[None]] | None = None
    server_authenticator: ServerAuthenticator | None = None

    def handlers(self) -> dict[str, Handler]:
        """Return the handlers by endpoint name."""
        return handlers_of(*self.features)

    async def begin(self, tasks: TaskGroup) -> None:
        """Start the work of the process."""
        if self.start is not None:
            await self.start()
        for name, job in self.jobs.items():
            tasks.forever(job, name)


Compose: TypeAlias = Callable[[Foundation], Worker]
