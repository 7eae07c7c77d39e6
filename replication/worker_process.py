"""What every worker process has, made once and in order: database, lease, replication, slots, HTTP.

A worker's own `compose.py` gets this foundation and returns what it serves; nothing else constructs objects.
"""

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import TypeAlias

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector

from replication.driver import Announcer, Follower, Ticker
from replication.fenced_writer import FencedWriter, SeenPositions
from replication.membership import Membership
from replication.slot_moves import SlotMover
from replication.slot_table import SlotForwarder, SlotTable
from replication.streams import SESSIONS, check_registry, streams_written_by
from replication.transport import Transport
from shared.config.addresses import database_dsn
from shared.config.sections import Config
from shared.core.errors import Unavailable
from shared.http.client import HttpClient
from shared.http.endpoint import Endpoint, Pool
from shared.http.errors_to_json import response_for
from shared.http.process_pages import ProcessPages
from shared.http.server import Application, Handler, HttpServer, send_response
from shared.metrics.database import StatementMetrics
from shared.metrics.http import HttpMetrics
from shared.metrics.replication import LoopMetrics, ReplicationMetrics
from shared.operations.authenticate import TokenAuthenticator
from shared.operations.rate_limits import FleetRateLimiter
from shared.runtime import tracing
from shared.runtime.clock import Clock, SystemClock
from shared.runtime.tasks import TaskGroup
from shared.storage.pool import SESSION_LIMITS, Connect, Database, connector

logger = logging.getLogger(__name__)


@dataclass(slots=True)
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


@dataclass(slots=True)
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


async def run_worker(
    worker_type: str,
    name: str,
    config: Config,
    compose: Compose,
    endpoints: Sequence[Endpoint],
    pools: Mapping[str, Pool],
    stop: asyncio.Event,
    *,
    listen_port: int | None = None,
) -> int:
    """Run one worker process until `stop` is set or its lease is lost; return the exit code.

    endpoints, pools: the whole fleet's. listen_port: overrides the configuration's.
    """
    check_registry()
    if config.tracing.enabled:
        where = config.tracing
        tracing.start_tracing(f"skep-{worker_type}", name, where.agent_host, where.agent_port, where.sample_rate)
    clock = SystemClock()
    tasks = TaskGroup()
    registry = CollectorRegistry()
    for collector in (ProcessCollector, PlatformCollector, GCCollector):
        collector(registry=registry)
    fenced = asyncio.Event()

    def on_fenced(why: str) -> None:
        logger.error("%s gives up its lease: %s", name, why)
        fenced.set()

    dsn = database_dsn(config.database)
    settings = () if config.database.pgbouncer else SESSION_LIMITS
    connect = connector(dsn, pgbouncer=config.database.pgbouncer, settings=settings)
    database = Database(connect, max_connections=config.database.connections)
    # Both import the reactor: only now, after run_until_stopped installed it.
    from twisted.internet import reactor  # noqa: PLC0415

    from replication.redis_transport import RedisTransport  # noqa: PLC0415

    http_client = HttpClient(reactor)
    transport = RedisTransport(reactor, config.redis)
    server_holder: list[Application] = []

    # The listener comes first: its port is part of what we register.
    async def app(scope, receive, send):  # type: ignore[no-untyped-def]
        if not server_holder:
            await send_response(send, response_for(Unavailable("This process is still starting")))
            return
        await server_holder[0](scope, receive, send)

    port = config.workers.listen_port if listen_port is None else listen_port
    server = HttpServer(app, config.workers.listen_host, port)
    address = await server.start()
    if config.workers.advertise_host is not None:
        address = f"{config.workers.advertise_host}:{address.rpartition(':')[2]}"

    streams = streams_written_by(worker_type)
    membership = Membership(
        connect, config.replication, clock,
        name=name, worker_type=worker_type, address=address, version=version("skep"), streams=streams,
    )  # fmt: skip
    lease = await membership.join()
    seen = SeenPositions()
    writer_settings = (*settings, ("application_name", f"skep-writer-{lease}")) if settings else ()
    writer = FencedWriter(
        connector(dsn, pgbouncer=config.database.pgbouncer, settings=writer_settings), lease, seen, on_fenced
    )
    announcer = Announcer(lease, transport, seen)
    StatementMetrics(registry, lambda: database.statements + writer.statements)
    follower = Follower(database, transport, seen, config.replication, clock, tasks, ReplicationMetrics(registry))
    slots = SlotTable(database, lease)
    forwarder = SlotForwarder(slots, http_client, clock, pools)
    authenticator = TokenAuthenticator(database, clock, config.caches.users_bytes, lambda: membership.in_good_standing)
    follower.follow(SESSIONS, authenticator.apply_sessions)
    rate_limiter = FleetRateLimiter(
        config.rate_limits, clock, http_client, slots, config.secrets.internal_secret.reveal()
    )
    foundation = Foundation(
        config, endpoints, pools, name, worker_type, clock, tasks, registry, database, connect,
        http_client, transport, membership, lease, writer, announcer, follower, slots, forwarder,
        authenticator, rate_limiter,
    )  # fmt: skip
    worker = compose(foundation)
    pages = ProcessPages(
        registry, ready=lambda: membership.ready and membership.in_good_standing and worker.ready(),
        metrics=config.metrics.enabled,
    )  # fmt: skip
    server_holder.append(
        Application(
            endpoints, worker.handlers, authenticator=authenticator, rate_limiter=rate_limiter,
            slot_router=forwarder, internal_secret=config.secrets.internal_secret.reveal(),
            max_body_bytes=config.limits.max_body_bytes, metrics=HttpMetrics(registry), pages=pages,
        )
    )  # fmt: skip

    mover = SlotMover(slots, forwarder, writer, announcer, config.replication.move_limit_s)

    async def follow_slots() -> None:
        await slots.refresh()
        await mover.give_away()

    def read_slots() -> None:
        tasks.spawn(follow_slots(), "follow the slots")

    follower.on_notice("slots", read_slots)
    ticker = Ticker(announcer, writer, streams, config.replication.tick_s)
    try:
        await follower.start()
        await slots.refresh()
        tasks.forever(ticker.run, "replication: ticks")
        tasks.forever(authenticator.run, "store when devices were last seen")
        tasks.forever(lambda: membership.run(lambda: ticker.positions, read_slots, on_fenced), "heartbeat")
        loop_metrics = LoopMetrics(registry)
        tasks.forever(lambda: _watch_loop(loop_metrics), "loop watch")
        if worker.start is not None:
            await worker.start()
        membership.ready = True
        logger.info("%s %s is ready at %s (lease %d, pid %d)", worker_type, name, address, lease, os.getpid())
        await _first_of(stop, fenced)
    finally:
        membership.ready = False
        membership.draining = True
        if not fenced.is_set():
            try:
                async with asyncio.timeout(config.workers.drain_limit_s):
                    if worker.drain is not None:
                        await worker.drain()
                    await server.drain(config.workers.drain_limit_s)
            except TimeoutError:
                logger.warning("%s did not finish within its drain limit", name)
        await tasks.close()
        await membership.leave()
        await writer.close()
        await transport.close()
        await database.close()
    return 1 if fenced.is_set() else 0


async def _first_of(*events: asyncio.Event) -> None:
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()


async def _watch_loop(metrics: LoopMetrics) -> None:
    """Measure how long something kept the loop from waking us: the promise is 50 ms at most."""
    interval_s = 0.1
    while True:
        before = time.monotonic()
        await asyncio.sleep(interval_s)
        metrics.blocked.observe(max(0.0, time.monotonic() - before - interval_s))
