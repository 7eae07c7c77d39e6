"""One incarnation of a worker process: database, lease, replication, slots and HTTP, in that order.

An incarnation ends with its lease and drops everything that it held. `lifecycle.py` then begins the next one. The
worker's own `compose.py` gets the foundation and returns the worker's features and jobs.
"""

import asyncio
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any, NamedTuple

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector

from replication.bus.transport import Transport
from replication.calls.owner_calls import OwnerCalls
from replication.process.draining import Draining
from replication.process.foundation import Compose, Foundation, Worker
from replication.process.loop_guard import LoopGuard
from replication.process.membership import Membership
from replication.process.set_aside import SetAside
from replication.slots.forwarder import SlotForwarder
from replication.slots.mover import SlotMover
from replication.slots.table import SlotTable
from replication.streams import SESSIONS, Stream, streams_written_by
from replication.streams.announcer import Announcer, Ticker
from replication.streams.checks import check_readers
from replication.streams.fenced_writer import FencedWriter, SeenPositions
from replication.streams.follower import Follower
from replication.streams.repeats import Repeater
from shared.config.addresses import database_dsn
from shared.config.sections import Config
from shared.config.sections import Replication as ReplicationConfig
from shared.core.errors import Unavailable
from shared.http.client import HttpClient
from shared.http.endpoint import Endpoint, Pool
from shared.http.gate import Gate
from shared.http.internal_calls import InternalClient
from shared.http.listener import HttpServer
from shared.http.process_pages import ProcessPages
from shared.http.server import Application
from shared.metrics.database import DatabaseMetrics
from shared.metrics.http import HttpMetrics
from shared.metrics.replication import LifeMetrics, LoopMetrics, ReplicationMetrics
from shared.metrics.shares import ShareMetrics
from shared.operations.authenticate import TokenAuthenticator
from shared.operations.rate_limits import FleetRateLimiter
from shared.operations.request_shares import RequestShares
from shared.operations.token_guesses import TokenGuesses
from shared.runtime.clock import Clock
from shared.runtime.side_loop import SideLoop
from shared.runtime.tasks import TaskGroup
from shared.storage.engine.lost_commits import LEASE
from shared.storage.engine.pool import SESSION_LIMITS, Connect, Database, connector

logger = logging.getLogger(__name__)

#: The part of the drain limit for handing over. The rest is for requests under way.
_HAND_OVER_SHARE = 0.7


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """The part of a process that outlives its incarnations.

    endpoints, pools: those of the whole fleet.
    reactor: Twisted's.
    address: the listener's address, as other processes reach it.
    ever_seen: the greatest positions by stream, and the greatest lease number, that any incarnation has seen.
    """

    worker_type: str
    name: str
    config: Config
    compose: Compose
    endpoints: Sequence[Endpoint]
    pools: Mapping[str, Pool]
    clock: Clock
    reactor: Any
    http_client: HttpClient
    gate: Gate
    server: HttpServer
    address: str
    ever_seen: dict[str, int] = field(default_factory=dict)


class Ended(NamedTuple):
    """The end of an incarnation.

    fenced: True if it lost its lease.
    served_s: the time for which it was ready.
    drained: True if an operator drained it.
    """

    fenced: bool
    served_s: float
    drained: bool = False


async def run_incarnation(process: Process, stop: asyncio.Event, rejoins: int) -> Ended:
    """Join the fleet and serve until `stop` is set or the lease is lost, and leave nothing behind.

    Raises CONNECTION_ERRORS, Unavailable and others when it cannot begin.
    """
    side = SideLoop(f"{process.name} heart")
    try:
        return await _run_beside(side, process, stop, rejoins)
    finally:
        await side.close()


async def _run_beside(side: SideLoop, process: Process, stop: asyncio.Event, rejoins: int) -> Ended:
    config, clock = process.config, process.clock
    fenced = asyncio.Event()

    def on_fenced(why: str) -> None:
        logger.error("%s gives up its lease: %s", process.name, why)
        # Before anything else runs: no answer may come from void memory.
        process.gate.close()
        fenced.set()

    # This imports the reactor, so it must come after run_until_stopped installed one.
    from replication.bus.redis_transport import RedisTransport  # noqa: PLC0415

    tasks = TaskGroup()
    dsn = database_dsn(config.database)
    settings = () if config.database.pgbouncer else SESSION_LIMITS
    connect = connector(dsn, pgbouncer=config.database.pgbouncer, settings=settings)
    streams = streams_written_by(process.worker_type)
    membership = Membership(
        connect,
        config.replication,
        clock,
        name=process.name,
        worker_type=process.worker_type,
        address=process.address,
        version=version("skep"),
        streams=streams,
        heart=side,
    )
    lease = await membership.join(process.ever_seen)
    database = Database(connect, max_connections=config.database.connections)
    transport = RedisTransport(process.reactor, config.redis)
    seen = SeenPositions()
    writer_settings = (*settings, ("application_name", f"skep-writer-{lease}")) if settings else ()
    writer = FencedWriter(
        connector(dsn, pgbouncer=config.database.pgbouncer, settings=writer_settings), lease, seen, on_fenced
    )
    follower: Follower | None = None
    worker: Worker | None = None
    try:
        foundation = _foundation(
            process=process,
            tasks=tasks,
            database=database,
            connect=connect,
            transport=transport,
            membership=membership,
            writer=writer,
            seen=seen,
            rejoins=rejoins,
        )
        follower = foundation.follower
        worker = process.compose(foundation)
        check_readers(process.worker_type, foundation.follower.followed)
        application = _application(process, foundation, worker)
        await _follow(foundation, streams, on_fenced, side)
        await worker.begin(tasks)
        process.gate.open(application, lambda: membership.in_good_standing)
        membership.start_serving()
        ready_at = clock.monotonic_s()
        ready = "%s %s is ready at %s (lease %d, pid %d)"
        logger.info(ready, process.worker_type, process.name, process.address, lease, os.getpid())
        await _first_of(stop, fenced, membership.asked_to_leave)
        if not fenced.is_set():
            await _drain(process, foundation, worker, fenced)
        membership.ready = False
    finally:
        process.gate.close()
        _remember(process.ever_seen, lease, seen, follower)
        if fenced.is_set():
            # Answers of these connections are worthless now, and hanging ones would delay the next incarnation.
            database.drop_all()
        await tasks.close()
        if worker is not None and worker.close is not None:
            await worker.close()
        await membership.leave()
        await writer.close()
        await transport.close()
        await database.close()
    drained = membership.asked_to_leave.is_set() and not stop.is_set()
    return Ended(fenced.is_set(), clock.monotonic_s() - ready_at, drained)


def _remember(ever_seen: dict[str, int], lease: int, seen: SeenPositions, follower: Follower | None) -> None:
    """Keep the greatest numbers of an incarnation: the database may lose them (`lost_commits.py`)."""
    known = [] if follower is None else [vector.known for vector in follower.vectors().values()]
    for name, greatest in {**seen.greatest, LEASE: max(lease, *known, 0)}.items():
        ever_seen[name] = max(greatest, ever_seen.get(name, 0))


def _foundation(
    *,
    process: Process,
    tasks: TaskGroup,
    database: Database,
    connect: Connect,
    transport: Transport,
    membership: Membership,
    writer: FencedWriter,
    seen: SeenPositions,
    rejoins: int,
) -> Foundation:
    config, clock = process.config, process.clock
    # Each incarnation has its own registry, since compose.py declares the metrics again.
    registry = CollectorRegistry()
    for collector in (ProcessCollector, PlatformCollector, GCCollector):
        collector(registry=registry)
    LifeMetrics(registry, rejoins)
    DatabaseMetrics(registry, lambda: database.statements + writer.statements, lambda: database.use)
    follower = Follower(database, transport, seen, config.replication, clock, tasks, ReplicationMetrics(registry))
    slots = SlotTable(database, writer.lease)
    forwarder = SlotForwarder(slots, process.http_client, clock, process.pools)
    authenticator = TokenAuthenticator(
        database,
        clock,
        config.caches.users_bytes,
        TokenGuesses(config.rate_limits.unknown_token, clock),
        lambda: follower.read_now(SESSIONS),
    )
    follower.follow(SESSIONS, authenticator.apply_sessions)
    internal_client = InternalClient(process.http_client, config.secrets.internal_secret.reveal())
    return Foundation(
        config=config,
        endpoints=process.endpoints,
        pools=process.pools,
        name=process.name,
        worker_type=process.worker_type,
        clock=clock,
        tasks=tasks,
        registry=registry,
        share_metrics=ShareMetrics(registry),
        database=database,
        connect=connect,
        http_client=process.http_client,
        internal_client=internal_client,
        calls=OwnerCalls(slots, internal_client, clock),
        transport=transport,
        membership=membership,
        lease=writer.lease,
        writer=writer,
        announcer=Announcer(writer.lease, transport, seen),
        follower=follower,
        slots=slots,
        forwarder=forwarder,
        authenticator=authenticator,
        rate_limiter=FleetRateLimiter(config.rate_limits, clock, internal_client, slots),
    )


def _application(process: Process, foundation: Foundation, worker: Worker) -> Application:
    """Return the process's HTTP application. Raises ValueError when an endpoint of our pools has no handler."""
    config, membership, handlers = process.config, foundation.membership, worker.handlers()
    ours = [each.name for each in process.endpoints if process.pools[each.pool].worker == process.worker_type]
    if missing := sorted(set(ours) - handlers.keys()):
        raise ValueError(f"endpoints without a handler: {', '.join(missing)}")
    shares = RequestShares(config.shares)
    for kind, places in shares.by_kind.items():
        foundation.share_metrics.show(kind.value, places)
    return Application(
        process.endpoints,
        handlers,
        authenticator=foundation.authenticator,
        rate_limiter=foundation.rate_limiter,
        slot_router=foundation.forwarder,
        internal_secret=config.secrets.internal_secret.reveal(),
        limits=config.limits,
        metrics=HttpMetrics(foundation.registry),
        pages=ProcessPages(
            foundation.registry,
            ready=lambda: membership.ready and membership.in_good_standing,
            metrics=config.metrics.enabled,
        ),
        shares=shares,
        set_aside=SetAside(lambda: membership.deaths, foundation.registry),
        server_authenticator=worker.server_authenticator,
    )


async def _follow(
    foundation: Foundation, streams: Sequence[Stream], on_fenced: Callable[[str], None], side: SideLoop
) -> None:
    """Join replication and start the jobs that every worker type has."""
    tasks = foundation.tasks
    await join_replication(
        tasks=tasks,
        config=foundation.config.replication,
        database=foundation.database,
        membership=foundation.membership,
        writer=foundation.writer,
        announcer=foundation.announcer,
        follower=foundation.follower,
        slots=foundation.slots,
        forwarder=foundation.forwarder,
        streams=streams,
        on_fenced=on_fenced,
    )
    tasks.forever(foundation.authenticator.run, "store last seen devices")
    tasks.forever(foundation.authenticator.watch, "read log-outs")
    loop_metrics = LoopMetrics(foundation.registry)
    tasks.forever(lambda: _watch_loop(loop_metrics), "loop watch")
    guard = LoopGuard(side, foundation.membership, loop_metrics, foundation.config.replication.stuck_after_s)
    tasks.forever(guard.run, "loop guard")


async def join_replication(
    *,
    tasks: TaskGroup,
    config: ReplicationConfig,
    database: Database,
    membership: Membership,
    writer: FencedWriter,
    announcer: Announcer,
    follower: Follower,
    slots: SlotTable,
    forwarder: SlotForwarder,
    streams: Sequence[Stream],
    on_fenced: Callable[[str], None],
) -> None:
    """Follow the streams and read the slots. From then on tick, send heartbeats, and give slots away when asked.

    streams: the streams that this process may write. The simulator starts its processes with this function too.
    """
    mover = SlotMover(slots, forwarder, writer, announcer, config.move_limit_s)

    async def follow_slots() -> None:
        await slots.refresh()
        await mover.give_away()

    def read_slots() -> None:
        tasks.spawn(follow_slots(), "follow the slots")

    def drop_connections() -> None:
        database.drop_all()
        writer.drop_idle()

    follower.on_notice("slots", read_slots)
    if repeater := Repeater(announcer, streams):
        follower.on_repeat_request(announcer.lease, repeater.requested)
    ticker = Ticker(announcer, writer, streams, config.tick_s)
    await follower.start()
    await slots.refresh()
    tasks.forever(ticker.run, "replication: ticks")
    tasks.forever(
        lambda: membership.run(lambda: ticker.positions, read_slots, on_fenced, drop_connections), "heartbeat"
    )


async def _drain(process: Process, foundation: Foundation, worker: Worker, fenced: asyncio.Event) -> None:
    """Hand over our slots, then finish requests under way, both within the drain limit."""
    limit_s = process.config.workers.drain_limit_s
    membership = foundation.membership
    membership.start_draining()
    draining = Draining(
        foundation.database,
        foundation.slots,
        membership,
        process.config.replication.dead_after_s,
        behind_proxies=any(pool.worker == process.worker_type for pool in process.pools.values()),
        last_request_s=lambda: process.gate.last_request_s,
    )
    try:
        async with asyncio.timeout(limit_s):
            await draining.hand_over(limit_s * _HAND_OVER_SHARE, fenced)
            membership.ready = False
            if worker.drain is not None:
                await worker.drain()
            await process.server.drain(limit_s)
    except TimeoutError:
        logger.warning("%s did not finish within its drain limit", process.name)
    except Unavailable as error:
        logger.warning("%s could not hand over everything: %s", process.name, error)


async def _first_of(*events: asyncio.Event) -> None:
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()


async def _watch_loop(metrics: LoopMetrics) -> None:
    """Measure how long the loop is blocked. The promise is 50 ms at most."""
    interval_s = 0.1
    while True:
        before = time.monotonic()
        await asyncio.sleep(interval_s)
        metrics.blocked.observe(max(0.0, time.monotonic() - before - interval_s))
