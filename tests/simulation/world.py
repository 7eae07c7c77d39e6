"""A simulated fleet and its faults. One seed determines the whole run."""

import asyncio
import contextvars
import gc
import logging
import random as global_random
import zlib
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any, TypeVar

from shared.core.errors import RemoteServerError
from shared.http.client import HttpResponse
from shared.http.request import Request
from shared.storage.fleet.leases import fence_process
from tests.simulation import roles
from tests.simulation.clients import Sender, SyncingClient
from tests.simulation.invariants import Invariants
from tests.simulation.keys import SLOTS
from tests.simulation.postgres import WORLD, SimPostgres, Tables, Write, declare, insert_rows
from tests.simulation.processes import SimProcess, fleet_of
from tests.simulation.redis import SimRedis
from tests.simulation.roles import ACCOUNT_DATA, EVENTS, READ_KEY, STORED, Row
from tests.simulation.virtual_loop import HOST, VirtualLoop
from workers.main.proxies import routing_of

T = TypeVar("T")
_FAULTS_FROM_S, _FAULTS_UNTIL_S = 0.8, 5.0
#: After the last fault, the fleet must own all slots and every reader must have all rows within this time.
SETTLED_WITHIN_S = 12.0


@dataclass
class World:
    """The fleet, its database, Redis, clients and faults.

    seed: determines the whole run.
    trace: readable lines are appended to it.
    calm: True if no process dies and the database works. Then no request may fail at its first attempt.
    """

    seed: int
    trace: list[str] | None = None
    random: Random = field(init=False)

    def __post_init__(self) -> None:
        self.random = Random(self.seed)
        self.loop = VirtualLoop()
        self.database = SimPostgres(self.loop, self.random, SLOTS, [stream.name for stream in STORED])
        self.invariants = Invariants(self.loop, self.database)
        self.redis = SimRedis(self.loop, self.random, self.invariants.on_publish)
        self.processes: list[SimProcess] = []
        self.listening: dict[str, SimProcess] = {}
        self.map: dict[tuple[str, int], str] = {}
        self.faults_over = False
        self.archive: list[Row] = []  # with the overwritten rows of state streams
        self.calm = self.random.random() < 0.2
        self._ports = 0
        self._declare_rows()

    # -- running

    def run(self) -> str:
        """Run to the end. Return the failure, "" if there is none."""
        state = global_random.getstate()
        gc.disable()
        global_random.seed(self.seed)
        logging.disable(logging.NOTSET if self.trace is not None else logging.CRITICAL)
        handler = _Notes(self)
        if self.trace is not None:
            logging.getLogger().addHandler(handler)
            logging.getLogger().setLevel(logging.INFO)
        before = asyncio._get_running_loop()
        asyncio._set_running_loop(self.loop)
        try:
            contextvars.copy_context().run(self._begin)
            self.loop.run_until(_FAULTS_UNTIL_S)
            self._settle()
        finally:
            failure = self.invariants.failure
            try:
                self.loop.close()
            finally:
                asyncio._set_running_loop(before)
            logging.getLogger().removeHandler(handler)
            logging.getLogger().setLevel(logging.WARNING)
            logging.disable(logging.NOTSET)
            global_random.setstate(state)
            gc.enable()
        return failure

    def note(self, text: str) -> None:
        if self.trace is not None:
            self.trace.append(f"{self.loop.time():8.3f} {text}")

    def digest(self) -> int:
        """Return a checksum of the final tables and the number of steps, the same for each run of one seed."""
        rows = [row for stream in STORED for row in self.database.tables.rows[stream.name]]
        return zlib.crc32(repr((rows, self.loop.steps, self.database.tables.slots)).encode())

    def _begin(self) -> None:
        random = self.random
        counts = {
            "main": random.choice([1, 2, 2]),
            "event_persister": 2,
            "client_api": random.choice([1, 1, 2]),
            "synchrotron": 2,
        }
        self.fleet = fleet_of(**counts, federation_reader=0, federation_sender=0)
        for worker_type, count in counts.items():
            for number in range(1, count + 1):
                self.start(worker_type, f"{worker_type}-{number}")
        self.redis.loss = random.choice([0.0, 0.0, 0.05, 0.2])
        self.redis.duplicated = random.choice([0.0, 0.05])
        self.redis.late = random.choice([0.0, 0.0, 0.1])
        self.senders = [Sender(self, number) for number in range(3)]
        self.clients = [SyncingClient(self, number) for number in range(2)]
        for run in (*(each.run for each in self.senders), *(each.run for each in self.clients)):
            self._spawn(run())
        self.database.breaks = 0.0 if self.calm else random.choice([0.0, 0.002, 0.01])
        self._plan_faults()

    def _spawn(self, coroutine: Any) -> Any:
        return self.loop.create_task(coroutine, context=WORLD.copy())

    def _settle(self) -> None:
        """End all faults, and fail if the fleet does not recover in time."""
        self.faults_over = True
        self.redis.loss = self.redis.duplicated = self.redis.late = 0.0
        self.redis.start()
        self.database.down, self.database.slow, self.database.breaks = False, 1.0, 0.0
        for process in self.processes:
            self.resume(process)
        self.note("no more faults")
        end = _FAULTS_UNTIL_S + SETTLED_WITHIN_S
        while not self.invariants.failure:
            wrong = self._unsettled()
            if not wrong:
                break
            if self.loop.time() >= end:
                self.invariants.fail(f"after {SETTLED_WITHIN_S} s without faults: {wrong}")
                break
            self.loop.run_until(self.loop.time() + 0.25)

    def _unsettled(self) -> str:
        """Return a description of the state that the fleet has not recovered yet, "" if it has recovered."""
        tables = self.database.tables
        owners = {slot.owner for slot in tables.slots.values()}
        alive = {p.lease: p for p in self.processes if p.running and p.lease in tables.leases}
        if any(owner not in alive for owner in owners):
            return f"slots belong to {owners}, alive are {sorted(alive)}"
        if tables.leader not in alive:
            return f"the leader is {tables.leader}, alive are {sorted(alive)}"
        if any(slot.next_owner is not None for slot in tables.slots.values()):
            return "a move is under way"
        if unanswered := [sender.unanswered for sender in self.senders if sender.unanswered]:
            return f"requests {unanswered} are not acknowledged"
        valid = {
            (lease, key): value
            for lease, p in alive.items()
            if p.typing is not None
            for key, value in p.typing.values.items()
        }
        readers = [p.reader for p in alive.values() if p.worker_type == "synchrotron"]
        for reader in readers:
            if reader is None or not reader.started:
                return "a reader has not started"
            reader.check_vectors()
            if wrong := reader.missing() or reader.wrong_ephemeral(valid):
                return wrong
        return next((behind for client in self.clients if (behind := client.behind())), "")

    def all_owned(self) -> bool:
        return len(self.map) == sum(SLOTS.values())

    # -- processes

    def start(self, worker_type: str, name: str) -> SimProcess | None:
        if self.loop.closing:
            return None
        self._ports += 1
        process = SimProcess(self, worker_type, name, f"h:{self._ports}")
        self.processes.append(process)
        self.listening[process.address] = process
        self.note(f"{process.host.name} starts")
        return process

    def kill(self, process: SimProcess, *, again_after_s: float, supervised: bool) -> None:
        """Kill a process as SIGKILL does. Its supervisor then starts it again, and may end its lease first."""
        self.note(f"{process.host.name} is killed")
        self.loop.kill(process.host)
        for connection in self.database.connections_of(process.host):
            connection.closed = True
            self.database.connections.remove(connection)
            if connection.transaction_now is not None:
                connection._roll_back(connection.transaction_now)
        for transport in [t for t in self.redis.transports if t.host is process.host]:
            transport.disconnect()
            self.redis.transports.remove(transport)
        process.fail_unanswered("ConnectionLost")
        if supervised:
            self._spawn(self._fence(process.name))
        self.loop.call_later(again_after_s, self.start, process.worker_type, process.name, context=WORLD)

    def supervise(self, process: SimProcess) -> None:
        """Start a process that ended again, as its supervisor does."""
        delay = self.random.uniform(0.3, 2.0)
        self.loop.call_later(delay, self.start, process.worker_type, process.name, context=WORLD)

    async def _fence(self, name: str) -> None:
        try:
            connection = await self.database.connector(HOST.get())()  # type: ignore[arg-type]
            await fence_process(connection, name)
        except Exception as error:
            self.note(f"the supervisor could not end the lease of {name}: {error!r}")

    def resume(self, process: SimProcess) -> None:
        if process.host.stopped:
            self.note(f"{process.host.name} resumes")
            self.loop.resume(process.host)

    def set_map(self, processes: Any, slots: Any) -> None:
        routing = routing_of(processes, slots)
        addresses = {worker.name: worker.address for worker in routing.workers}

        def align() -> None:
            self.map = {
                (kind, slot): addresses[name]
                for kind, owners in routing.owners.items()
                for slot, name in owners.items()
                if name in addresses
            }

        self.loop.call_later(self.random.uniform(0.001, 0.1), align, context=WORLD)

    # -- HTTP

    async def call(self, address: str, request: Request) -> HttpResponse:
        """Send a request to the process at this address, and wait for the answer."""
        await asyncio.sleep(self.random.uniform(0.0003, 0.003))
        process = self.listening.get(address)
        if process is None or not process.running:
            raise RemoteServerError("ConnectionRefusedError")
        return await self.ask(process, lambda: _serve(process, request))

    async def ask(self, process: SimProcess, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run work in a process and return its result.

        Raise the error of the work, or RemoteServerError if the process dies.
        """
        answer: asyncio.Future[T] = self.loop.create_future()

        async def run() -> None:
            try:
                result = await work()
            except Exception as error:
                if not answer.done():
                    answer.set_exception(error)
            else:
                if not answer.done():
                    answer.set_result(result)

        process.unanswered[answer] = None
        self.loop.create_task(run(), context=process.host.context.copy())
        try:
            return await answer
        finally:
            process.unanswered.pop(answer, None)

    # -- faults

    def _plan_faults(self) -> None:
        random = self.random
        faults = (
            [self._redis_restarts, self._database_clock_jumps, self._joins, self._joins, self._leaves]
            if self.calm
            else [
                self._dies,
                self._dies,
                self._pauses,
                self._pauses,
                self._loses_connections,
                self._loses_connections,
                self._redis_restarts,
                self._database_restarts,
                self._database_slows_down,
                self._database_clock_jumps,
                self._joins,
                self._joins,
                self._leaves,
                self._is_fenced,
                self._is_fenced,
            ]
        )
        for _ in range(random.randint(1, 5)):
            at = random.uniform(_FAULTS_FROM_S, _FAULTS_UNTIL_S - 0.5)
            self.loop.call_at(at, random.choice(faults), context=WORLD)

    def _victim(self) -> SimProcess | None:
        running = [p for p in self.processes if p.running and not p.stop.is_set()]
        return self.random.choice(running) if running else None

    def _dies(self) -> None:
        if (victim := self._victim()) is not None:
            supervised = self.random.random() < 0.5
            self.kill(victim, again_after_s=self.random.uniform(0.1, 4.0), supervised=supervised)

    def _is_fenced(self) -> None:
        """End the lease of a live process, as an operator or another process may do."""
        if (victim := self._victim()) is not None:
            self.note(f"the lease of {victim.host.name} is ended")
            self._spawn(self._fence(victim.name))

    def _pauses(self) -> None:
        victim = self._victim()
        if victim is not None and not victim.host.stopped:
            self.note(f"{victim.host.name} is paused")
            victim.host.stopped = True
            self.loop.call_later(self.random.choice([0.3, 1.5, 3.2, 4.5]), self.resume, victim, context=WORLD)

    def _loses_connections(self) -> None:
        if (victim := self._victim()) is not None:
            self.note(f"{victim.host.name} loses its connections to the database")
            for connection in self.database.connections_of(victim.host):
                connection.cut()

    def _redis_restarts(self) -> None:
        self.note("Redis stops")
        self.redis.stop()
        self.loop.call_later(self.random.choice([0.05, 0.5, 2.5]), self.redis.start, context=WORLD)

    def _database_restarts(self) -> None:
        self.note("the database stops")
        self.database.down = True
        for connection in list(self.database.connections):
            connection.end()
        self.loop.call_later(self.random.choice([0.1, 1.0, 3.5]), self._database_starts, context=WORLD)

    def _database_starts(self) -> None:
        self.database.down = False

    def _database_slows_down(self) -> None:
        self.note("the database is slow")
        self.database.slow = 30.0
        self.loop.call_later(self.random.uniform(0.2, 1.5), self._database_is_fast_again, context=WORLD)

    def _database_is_fast_again(self) -> None:
        self.database.slow = 1.0

    def _database_clock_jumps(self) -> None:
        """Move the clock by which heartbeats are dated: no process may be called silent for that."""
        hours = self.random.choice([-1, 1])
        self.note(f"the database's clock jumps by {hours} h")
        self.database.clock_is_ahead_s += hours * 3600.0

    def _joins(self) -> None:
        worker_type = self.random.choice(["event_persister", "event_persister", "client_api", "synchrotron"])
        if len(self.processes) < 12:
            self.start(worker_type, f"{worker_type}-x{len(self.processes)}")

    def _leaves(self) -> None:
        victim = self._victim()
        if victim is None or victim.host.stopped:
            return
        others = [
            p
            for p in self.processes
            if p is not victim and p.worker_type == victim.worker_type and p.ready and not p.stop.is_set()
        ]
        if others or not self.calm:
            self.note(f"{victim.host.name} is asked to stop")
            victim.stop.set()

    # -- the statements of the roles

    def _declare_rows(self) -> None:
        def above(stream: str) -> Any:
            def read(t: Tables, args: tuple[Any, ...]) -> list[dict[str, Any]]:
                found = [row for row in t.rows[stream] if row.position > args[0]][: args[1]]
                return [{name: getattr(row, name) for name in Row.__struct_fields__} for row in found]

            return read

        def of_key(t: Tables, args: tuple[Any, ...]) -> list[dict[str, Any]]:
            return [
                {"ordinal": row.ordinal, "txn": row.txn, "writer": row.writer, "position": row.position}
                for row in self.archive
                if row.key == args[1]
            ]

        def write(kind: str, stream: str) -> Write:
            def apply(database: SimPostgres, lease: int, args: Any, positions: list[int]) -> dict[str, Any]:
                (items,) = args
                self.invariants.before_rows(lease, kind, stream, positions, items)
                rows = [Row(position, lease, *item) for position, item in zip(positions, items, strict=True)]
                self.archive.extend(rows)
                if stream == ACCOUNT_DATA.name:
                    keys = {row.key for row in rows}
                    database.commit(lambda t: _without(t, stream, keys))
                    rows = list({row.key: row for row in rows}.values())
                insert_rows(database, stream, rows)
                return {"positions": positions}

            return Write(apply, lambda args: (stream, len(args[1])))

        self.database.reads.update(
            {EVENTS.catch_up: above(EVENTS.name), ACCOUNT_DATA.catch_up: above(ACCOUNT_DATA.name), READ_KEY: of_key}
        )
        declare(self.database, roles.WRITE_EVENTS, write("rooms", EVENTS.name))
        declare(self.database, roles.WRITE_ACCOUNT_DATA, write("users", ACCOUNT_DATA.name))


def _without(t: Tables, stream: str, keys: set[str]) -> Tables:
    """Remove the older rows of these keys: a state stream has one row per key."""
    return replace(t, rows={**t.rows, stream: tuple(row for row in t.rows[stream] if row.key not in keys)})


async def _serve(process: SimProcess, request: Request) -> HttpResponse:
    status, body = 500, b""

    async def send(message: dict[str, Any]) -> None:
        nonlocal status, body
        if message["type"] == "http.response.start":
            status = message["status"]
        else:
            body += message.get("body", b"")

    async def receive() -> dict[str, Any]:
        raise AssertionError("the body has been read")

    await process.gate({"type": "http", "raw_path": request.path, "request": request}, receive, send)
    return HttpResponse(status, {}, body)


class _Notes(logging.Handler):
    """Append the log lines of production code to the trace."""

    def __init__(self, world: World) -> None:
        super().__init__(logging.INFO)
        self._world = world

    def emit(self, record: logging.LogRecord) -> None:
        host = HOST.get()
        self._world.note(f"{host.name if host else 'world'}: {record.getMessage()}")
