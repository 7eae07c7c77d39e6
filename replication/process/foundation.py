"""What every worker builds on, and what its `compose.py` returns."""

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
from shared.operations.authenticate import TokenAuthenticator
from shared.operations.rate_limits import FleetRateLimiter
from shared.runtime.clock import Clock
from shared.runtime.tasks import TaskGroup
from shared.storage.engine.pool import Connect, Database


@dataclass(slots=True, kw_only=True)
class Foundation:
    """Everything that a worker's compose.py may build on. Take the fields you need; hand on narrower things."""

    config: Config
    endpoints: Sequence[Endpoint]
    pools: Mapping[str, Pool]
    name: str
    worker_type: str
    clock: Clock
    tasks: TaskGroup
    registry: CollectorRegistry
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
    """What a worker's compose.py returns.

    handlers: by endpoint name; start: runs once everything follows and before the worker is ready;
    drain: hands over and finishes what is under way, within the drain limit.
    """

    handlers: Mapping[str, Handler]
    start: Callable[[], Awaitable[None]] | None = None
    drain: Callable[[], Awaitable[None]] | None = None
    ready: Callable[[], bool] = field(default=lambda: True)


Compose: TypeAlias = Callable[[Foundation], Worker]
