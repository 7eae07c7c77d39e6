"""One simulated process: production replication, slots, gate and leader on a simulated database and network."""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast

from prometheus_client import CollectorRegistry

from replication.process.draining import Draining
from replication.process.incarnation import Ended, join_replication
from replication.process.lifecycle import run_incarnations
from replication.process.membership import Membership
from replication.slots.forwarder import SlotForwarder
from replication.slots.table import SlotTable
from replication.streams.announcer import Announcer
from replication.streams.fenced_writer import FencedWriter, SeenPositions
from replication.streams.follower import Follower
from shared.config.sections import Fleet
from shared.config.sections import Replication as ReplicationConfig
from shared.core.errors import MatrixError, RemoteServerError, Unavailable
from shared.core.slots import SLOT_KINDS
from shared.http.asgi import Receive, Send, send_response
from shared.http.client import HttpResponse
from shared.http.endpoint import Auth, Endpoint, Pool, RoutingKey
from shared.http.gate import Gate
from shared.http.request import Request, Response
from shared.http.routing import PathParams
from shared.metrics.replication import ReplicationMetrics
from shared.runtime.tasks import TaskGroup
from shared.storage.engine.pool import Database
from tests.rigs.clock import MockClock
from tests.simulation.redis import SimTransport
from tests.simulation.roles import STREAMS, ActiveTyping, Owner, Reader
from tests.simulation.virtual_loop import Host
from workers.main.leader import Leader

if TYPE_CHECKING:
    from tests.simulation.world import World

CONFIG = ReplicationConfig()
_DRAIN_LIMIT_S = 5.0
METRICS = ReplicationMetrics(CollectorRegistry())
POOLS = {
    "rooms": Pool(name="rooms", worker="event_persister", slot_kind="rooms"),
    "users": Pool(name="users", worker="client_api", slot_kind="users"),
}
#: Idempotent: an event with a transaction id may be sent twice, and a read too.
ENDPOINTS = {
    "rooms": Endpoint(
        name="send",
        method="PUT",
        path="/rooms/{roomId}",
        pool="rooms",
        routing_key=RoutingKey.ROOM,
        auth=Auth.NONE,
        idempotent=True,
    ),
    "users": Endpoint(
        name="put",
        method="PUT",
        path="/users/{userId}",
        pool="users",
        routing_key=RoutingKey.USER,
        auth=Auth.NONE,
        idempotent=True,
    ),
}


def request_for(kind: str, key: str, method: str, body: bytes, headers: Mapping[bytes, bytes]) -> Request:
    endpoint = ENDPOINTS[kind]
    return Request(
        endpoint=endpoint,
        method=method,
        path=f"/{kind}/{key}".encode(),
        raw_query=b"",
        params=cast("PathParams", {endpoint.routing_key.value: key}),
        headers=headers,
        body=body,
        client_address="c",
        request_id="r",
    )


class SimHttpClient:
    """The part of `HttpClient` that the forwarder uses, between simulated processes."""

    def __init__(self, world: "World", from_host: Host | None) -> None:
        self._world = world
        self._from = from_host

    async def request(
        self, method: bytes, url: bytes, headers: Mapping[bytes, bytes], body: bytes = b"", *, timeout_s: float
    ) -> HttpResponse:
        address, kind, key = url.decode().removeprefix("http://").split("/")
        request = request_for(kind, key, method.decode(), body, headers)
        try:
            async with asyncio.timeout(timeout_s):
                return await self._world.call(address, request)
        except TimeoutError as error:
            raise RemoteServerError("timeout waiting for the answer") from error


class SimProxies:
    """The maps of haproxy, a hint: they follow some time after the leader saw a change."""

    def __init__(self, world: "World") -> None:
        self._world = world

    async def follow(self, processes: Any, slots: Any) -> None:
        self._world.set_map(processes, slots)


class SimProcess:
    """One operating-system process, from start to end."""

    def __init__(self, world: "World", worker_type: str, name: str, address: str) -> None:
        self.world = world
        self.worker_type = worker_type
        self.name = name
        self.address = address
        self.host = Host(f"{name}@{address}")
        random = world.random
        # The clock is ahead by some time and drifts.
        ahead_s, rate = random.uniform(0.0, 1e5), random.uniform(0.99, 1.01)
        self.clock = MockClock(ahead_s + rate * world.loop.time(), lambda: rate * world.loop.time())
        self.gate = Gate()
        self.stop = asyncio.Event()
        self.lease = 0
        self.reader: Reader | None = None
        self.typing: ActiveTyping | None = None
        self.ready = False
        self.exit_code: int | None = None
        self.unanswered: dict[asyncio.Future[Any], None] = {}
        world.loop.create_task(self._main(), context=self.host.context.copy())

    @property
    def running(self) -> bool:
        return self.exit_code is None and not self.host.killed

    async def _main(self) -> None:
        try:
            self.exit_code = await run_incarnations(self._run_incarnation, self.stop, self._wait)
        except Exception as error:
            self.world.note(f"{self.host.name} failed to start: {error!r}")
            self.exit_code = 1
        self.fail_unanswered("ConnectionLost")
        self.world.supervise(self)

    async def _wait(self, delay_s: float) -> None:
        try:
            async with asyncio.timeout(delay_s):
                await self.stop.wait()
        except TimeoutError:
            pass

    def fail_unanswered(self, why: str) -> None:
        """Fail every request that waits for an answer from this process."""
        waiting, self.unanswered = self.unanswered, {}
        for future in waiting:
            if not future.done():
                future.set_exception(RemoteServerError(why))

    async def _run_incarnation(self, rejoins: int) -> Ended:
        """Run one incarnation, as `replication/process/incarnation.py` does."""
        world = self.world
        fenced = asyncio.Event()

        def on_fenced(why: str) -> None:
            world.note(f"{self.host.name} gives up lease {self.lease}: {why}")
            self.gate.close()
            fenced.set()

        tasks = TaskGroup()
        connect = world.database.connector(self.host)
        streams = tuple(stream for stream in STREAMS if self.worker_type in stream.writers)
        membership = Membership(
            connect,
            CONFIG,
            self.clock,
            name=self.name,
            worker_type=self.worker_type,
            address=self.address,
            version="0",
            streams=streams,
        )
        self.lease = lease = await membership.join()
        world.note(f"{self.host.name} has lease {lease}")
        database = Database(connect, max_connections=4)
        transport = SimTransport(world.redis, self.host)
        seen = SeenPositions()
        writer = FencedWriter(world.database.connector(self.host, f"skep-writer-{lease}"), lease, seen, on_fenced)
        follower = Follower(database, transport, seen, CONFIG, self.clock, tasks, METRICS)
        slots = SlotTable(database, lease)
        forwarder = SlotForwarder(slots, SimHttpClient(world, self.host), self.clock, POOLS)  # type: ignore[arg-type]
        announcer = Announcer(lease, transport, seen)
        ready_at = self.clock.monotonic_s()
        try:
            handle = await self._compose(
                tasks=tasks,
                database=database,
                connect=connect,
                writer=writer,
                announcer=announcer,
                follower=follower,
                slots=slots,
                membership=membership,
            )
            await join_replication(
                tasks=tasks,
                config=CONFIG,
                database=database,
                membership=membership,
                writer=writer,
                announcer=announcer,
                follower=follower,
                slots=slots,
                forwarder=forwarder,
                streams=streams,
                on_fenced=on_fenced,
            )
            if self.reader is not None:
                await self.reader.start()
            self.gate.open(_application(forwarder, handle), lambda: membership.in_good_standing)
            membership.ready = self.ready = True
            await _first_of(self.stop, fenced, membership.asked_to_leave)
            if not fenced.is_set():
                await self._drain(database, slots, membership, fenced)
            membership.ready = False
        finally:
            self.gate.close()
            self.reader, self.ready = None, False
            if fenced.is_set():
                database.drop_all()
            await tasks.close()
            await membership.leave()
            await writer.close()
            await transport.close()
            await database.close()
        return Ended(fenced.is_set(), self.clock.monotonic_s() - ready_at)

    async def _drain(self, database: Database, slots: SlotTable, membership: Membership, fenced: asyncio.Event) -> None:
        membership.start_draining()
        draining = Draining(
            database,
            slots,
            membership,
            CONFIG.dead_after_s,
            behind_proxies=any(pool.worker == self.worker_type for pool in POOLS.values()),
            last_request_s=lambda: self.gate.last_request_s,
        )
        with suppress(TimeoutError, Unavailable):
            async with asyncio.timeout(_DRAIN_LIMIT_S):
                await draining.hand_over(_DRAIN_LIMIT_S, fenced)

    async def _compose(
        self,
        *,
        tasks: TaskGroup,
        database: Database,
        connect: Any,
        writer: FencedWriter,
        announcer: Announcer,
        follower: Follower,
        slots: SlotTable,
        membership: Membership,
    ) -> Callable[[Request], Any] | None:
        world = self.world
        if self.worker_type == "main":
            leader = Leader(
                database=database,
                connect=connect,
                writer=writer,
                announcer=announcer,
                config=CONFIG,
                fleet=world.fleet,
                clock=self.clock,
                unbroken_since=lambda: membership.unbroken_since,
                proxies=SimProxies(world),  # type: ignore[arg-type]
            )
            tasks.forever(leader.run, "leader")
            return None
        if self.worker_type == "synchrotron":
            self.reader = Reader(self.host.name, database, follower, world.invariants)
            return None
        kind = next(kind for kind, worker_type in SLOT_KINDS.items() if worker_type == self.worker_type)
        owner = Owner(world.loop, kind, database, writer, announcer, slots, tasks)
        follower.follow(STREAMS[0] if kind == "rooms" else STREAMS[1], lambda rows: None)
        if kind == "users":
            typing = self.typing = ActiveTyping(world.random, announcer, writer.lease, lambda: world.faults_over)
            tasks.forever(typing.run, "typing")
        return owner.handle


def _application(forwarder: SlotForwarder, handle: Callable[[Request], Any] | None) -> Any:
    """Route, serve and release the slot, as `shared/http/server.py` does."""

    async def application(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        request: Request = scope["request"]
        try:
            response = await forwarder.route(request)
            if response is None:
                assert handle is not None
                try:
                    response = await handle(request)
                finally:
                    forwarder.served(request)
        except Unavailable as error:
            response = Response(str(error).encode(), 503)
        except MatrixError as error:
            response = Response(error.message.encode(), error.status)
        await send_response(send, response)

    return application


async def _first_of(*events: asyncio.Event) -> None:
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()


def fleet_of(**counts: int) -> Fleet:
    return Fleet(**counts)
