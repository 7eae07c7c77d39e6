"""A simulated PostgreSQL, with the transactions, row locks and snapshots that the protocol's statements need.

A statement travels to the server, runs there, and its answer travels back. The connection may break at any point; the
statement may still run, at once or later. A fenced write takes the KEY SHARE lock of its lease, takes positions some
time before it commits, and commits by itself. An unknown statement raises: each statement of production code needs a
simulation here first.
"""

import asyncio
import contextvars
from bisect import insort
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

import asyncpg
import orjson

from shared.storage.engine import lost_commits
from shared.storage.engine.fenced import FENCE, FencedStatement
from shared.storage.fleet import blocking_work, leases, slots
from tests.simulation.virtual_loop import HOST, Host, VirtualLoop

Records = list[dict[str, Any]]


@dataclass(frozen=True)
class Lease:
    process: str
    type: str
    address: str
    revoked: bool
    started_at: float


@dataclass(frozen=True)
class Beat:
    seen_at: float
    ready: bool
    draining: bool
    positions: str


@dataclass(frozen=True)
class Slot:
    owner: int | None
    epoch: int
    next_owner: int | None


@dataclass(frozen=True)
class Tables:
    """The committed rows. They are never changed in place, so that a snapshot is a reference."""

    lease_counter: int = 0
    slots_version: int = 0
    leases: Mapping[int, Lease] = field(default_factory=dict)
    heartbeats: Mapping[int, Beat] = field(default_factory=dict)
    writers: Mapping[tuple[int, str], tuple[int, int | None]] = field(default_factory=dict)
    slots: Mapping[tuple[str, int], Slot] = field(default_factory=dict)
    leader: int | None = None
    leader_epoch: int = 0
    rows: Mapping[str, Sequence[Any]] = field(default_factory=dict)


Change = Callable[[Tables], Tables]


class Write:
    """A simulated fenced statement.

    apply: called at the commit, with (database, lease, args, positions).
    takes: returns the stream and the number of positions to take before the commit.
    """

    def __init__(
        self,
        apply: Callable[["SimPostgres", int, tuple[Any, ...], list[int]], dict[str, Any]],
        takes: Callable[[tuple[Any, ...]], tuple[str, int]] | None = None,
    ) -> None:
        self.apply = apply
        self.takes = takes


class SimPostgres:
    """The database of one simulated fleet.

    kinds: slot kind -> number of slots.
    streams: the streams that have rows.
    """

    def __init__(self, loop: VirtualLoop, random: Random, kinds: Mapping[str, int], streams: Sequence[str]) -> None:
        self.loop = loop
        self.random = random
        self.tables = Tables(
            slots={(kind, n): Slot(None, 0, None) for kind, count in kinds.items() for n in range(count)},
            rows=dict.fromkeys(streams, ()),
        )
        self.sequences = dict.fromkeys(streams, 0)
        self.down = False
        self.slow = 1.0  # factor of the time of each statement
        self.clock_is_ahead_s = 0.0
        self.breaks = 0.0  # probability that a connection breaks at a read
        self.connections: list[SimConnection] = []
        self.writes: dict[str, Write] = {}
        self.reads: dict[str, Callable[[Tables, tuple[Any, ...]], Records]] = {}
        self._holders: dict[int, list[object]] = {}  # lease -> statements with KEY SHARE
        self._locked: dict[object, SimTransaction] = {}
        self._waiting: dict[object, list[Callable[[], None]]] = {}
        _declare(self)

    def clock(self) -> float:
        """Return the time of the server's own clock, which may jump."""
        return self.loop.time() + self.clock_is_ahead_s

    def later(self, delay: float, callback: Callable[..., None], *args: Any) -> None:
        """Schedule work of the server. It belongs to the world, not to the process of the caller."""
        self.loop.call_later(delay, callback, *args, context=WORLD)

    def connector(self, host: Host, name: str = "skep") -> Callable[[], Any]:
        async def connect() -> SimConnection:
            await asyncio.sleep(0.001)
            if self.down:
                raise ConnectionRefusedError("the database is down")
            connection = SimConnection(self, host, name)
            self.connections.append(connection)
            return connection

        return connect

    def connections_of(self, host: Host) -> list["SimConnection"]:
        return [c for c in self.connections if c.host is host and not c.closed]

    def commit(self, change: Change) -> None:
        self.tables = change(self.tables)

    # -- fenced writes: lock, positions, commit

    def begin_write(self, statement: "_Statement") -> None:
        lease = statement.args[0]
        if statement.fenced:
            if lease in self._locked:  # another transaction deletes the row: check it again afterwards
                self._waiting.setdefault(lease, []).append(lambda: self.begin_write(statement))
                return
            row = self.tables.leases.get(lease)
            if row is None or row.revoked:
                statement.answer([{"fence": 0}], empty=True)
                return
        self._holders.setdefault(lease, []).append(statement)
        write = self.writes[statement.sql]
        if write.takes is None:
            self.later(self.random.uniform(0.0002, 0.002) * self.slow, self._end_write, statement, [])
            return
        stream, count = write.takes(statement.args)
        first = self.sequences[stream] + 1
        self.sequences[stream] += count
        chance = self.random.random()
        time = self.random.uniform(0.0005, 0.004) if chance < 0.7 else self.random.uniform(0.005, 0.3)
        positions = list(range(first, first + count))
        self.later(time * self.slow, self._end_write, statement, positions)

    def _end_write(self, statement: "_Statement", positions: list[int]) -> None:
        lease = statement.args[0]
        if statement in self._holders.get(lease, ()):
            self._holders[lease].remove(statement)
        if statement.ended:
            self._wake(lease)
            return
        write = self.writes[statement.sql]
        try:
            result = write.apply(self, lease, statement.args[1:], positions)
        except asyncpg.PostgresError as error:
            statement.fail(error)
        else:
            statement.answer([{"fence": 1, **result}])
        self._wake(lease)

    def end_backend(self, statement: "_Statement") -> None:
        """End a statement in the server. It commits nothing."""
        statement.ended = True
        holders = self._holders.get(statement.args[0] if statement.args else -1, [])
        if statement in holders:
            holders.remove(statement)
            self._wake(statement.args[0])

    # -- locks

    def lock(
        self, key: object, transaction: "SimTransaction", statement: "_Statement", then: Callable[[], None]
    ) -> None:
        """Give the lock of the row to the transaction once it is free. Fail the statement after 1 s."""
        if statement.ended or transaction.over:
            return
        taken = self._locked.get(key)
        if (taken is not None and taken is not transaction) or self._holders.get(key):  # type: ignore[call-overload]
            if statement.deadline == 0.0:
                statement.deadline = self.loop.time() + 1.0
                self.later(1.0, self._give_up, statement)
            self._waiting.setdefault(key, []).append(lambda: self.lock(key, transaction, statement, then))
            return
        statement.deadline = -1.0
        self._locked[key] = transaction
        then()

    def _give_up(self, statement: "_Statement") -> None:
        if statement.deadline > 0.0 and not statement.ended:
            statement.ended = True
            statement.fail(asyncpg.LockNotAvailableError("lock timeout"))

    def release(self, transaction: "SimTransaction") -> None:
        for key in [key for key, holder in self._locked.items() if holder is transaction]:
            del self._locked[key]
            self._wake(key)

    def _wake(self, key: object) -> None:
        for waiting in self._waiting.pop(key, []):
            waiting()


class SimTransaction:
    def __init__(self, snapshot: bool) -> None:
        self.is_snapshot = snapshot
        self.tables: Tables | None = None
        self.changes: list[Change] = []
        self.over = False


class _Statement:
    """One statement under way. ended: True if the server ended it; it then has no effect."""

    def __init__(self, connection: "SimConnection", sql: str, args: tuple[Any, ...]) -> None:
        self.connection = connection
        self.sql = sql
        self.args = args
        self.fenced = FENCE in sql
        self.future: asyncio.Future[Any] = connection.database.loop.create_future()
        self.ended = False
        self.deadline = 0.0

    def answer(self, records: Records, *, empty: bool = False) -> None:
        """Send the records back. empty: True for a fenced statement without a lease; its other columns are None."""
        self._reply(lambda: self.future.set_result(_EmptyRecord(records[0]) if empty else records))

    def fail(self, error: Exception) -> None:
        self._reply(lambda: self.future.set_exception(error))

    def _reply(self, settle: Callable[[], None]) -> None:
        def arrive() -> None:
            if not self.future.done():
                self.connection.under_way.discard(self)
                settle()

        if self.connection.closed:
            return
        database = self.connection.database
        delay = self.connection.delay() * database.slow
        database.later(delay, arrive)


class _EmptyRecord(dict[str, Any]):
    def __missing__(self, key: str) -> None:
        return None


class SimConnection:
    """The part of an asyncpg connection that production code uses."""

    def __init__(self, database: SimPostgres, host: Host, name: str) -> None:
        self.database = database
        self.host = host
        self.name = name
        self.closed = False
        self.transaction_now: SimTransaction | None = None
        self.under_way = _OrderedSet()

    def delay(self) -> float:
        return self.database.random.uniform(0.0001, 0.001)

    async def fetch(self, sql: str, *args: Any) -> Any:
        return await self._send(sql, args)

    async def fetchrow(self, sql: str, *args: Any, timeout: float | None = None) -> Any:
        async with asyncio.timeout(timeout):
            records = await self._send(sql, args)
        return records if isinstance(records, _EmptyRecord) else records[0] if records else None

    async def fetchval(self, sql: str, *args: Any) -> Any:
        records = await self._send(sql, args)
        return next(iter(records[0].values())) if records else None

    async def execute(self, sql: str, *args: Any) -> str:
        await self._send(sql, args)
        return ""

    @asynccontextmanager
    async def transaction(self, *, isolation: str = "", readonly: bool = False) -> Any:
        assert self.transaction_now is None, "no nested transactions"
        transaction = self.transaction_now = SimTransaction(isolation == "repeatable_read")
        try:
            yield
            if transaction.changes:
                await self._send("COMMIT", (transaction,))
        except BaseException:
            self._roll_back(transaction)
            raise
        self.transaction_now = None
        transaction.over = True

    async def close(self, timeout: float = 1.0) -> None:
        self.cut()

    def terminate(self) -> None:
        self.cut()

    def is_closed(self) -> bool:
        return self.closed

    def is_in_transaction(self) -> bool:
        return self.transaction_now is not None

    def cut(self) -> None:
        """Break the connection. The server may still run statements that it has received."""
        if self.closed:
            return
        self.closed = True
        self.database.connections.remove(self)
        if self.transaction_now is not None:
            self._roll_back(self.transaction_now)
        for statement in self.under_way:
            if not statement.future.done():
                statement.future.set_exception(asyncpg.ConnectionDoesNotExistError("the connection broke"))
        self.under_way.clear()

    def end(self) -> None:
        """End this backend in the server. The statements under way commit nothing."""
        for statement in self.under_way:
            self.database.end_backend(statement)
        self.cut()

    def _roll_back(self, transaction: SimTransaction) -> None:
        transaction.over = True
        transaction.changes.clear()
        self.transaction_now = None
        self.database.release(transaction)

    def _send(self, sql: str, args: tuple[Any, ...]) -> "asyncio.Future[Any]":
        if self.closed:
            raise asyncpg.InterfaceError("connection is closed")
        statement = _Statement(self, sql, args)
        if self.database.loop.closing:
            statement.future.set_exception(asyncpg.InterfaceError("the simulation ends"))
            return statement.future
        self.under_way.add(statement)
        delay = self.delay() * self.database.slow
        self.database.later(delay, self._arrive, statement)
        return statement.future

    def _arrive(self, statement: _Statement) -> None:
        database, transaction, sql = self.database, self.transaction_now, statement.sql
        if statement.ended:
            return
        if sql in database.writes:
            if not self.closed:
                database.begin_write(statement)
            elif not database.down and database.random.random() < 0.5:
                # The statement was in the socket of the server when the connection broke.
                database.later(database.random.uniform(0.0, 1.0), database.begin_write, statement)
            return
        if self.closed:
            return
        if sql in database.reads:
            if database.breaks and database.random.random() < database.breaks:
                self.cut()
                return
            if transaction is not None and transaction.is_snapshot:
                transaction.tables = transaction.tables or database.tables
                statement.answer(database.reads[sql](transaction.tables, statement.args))
            else:
                statement.answer(database.reads[sql](database.tables, statement.args))
            return
        _run_plain(database, transaction, statement)


class _OrderedSet(dict[_Statement, None]):
    """A set in order of insertion, so that each run of a seed is the same."""

    def add(self, statement: _Statement) -> None:
        self[statement] = None

    def discard(self, statement: _Statement) -> None:
        self.pop(statement, None)


def _world() -> Any:
    context = contextvars.copy_context()
    context.run(HOST.set, None)
    return context


WORLD = _world()


# -- statements that are neither reads nor fenced writes


def _run_plain(database: SimPostgres, transaction: SimTransaction | None, statement: _Statement) -> None:
    sql, args, now = statement.sql, statement.args, database.clock()
    if sql == "COMMIT":
        (over,) = args
        for change in over.changes:
            database.commit(change)
        over.over = True
        database.release(over)
        statement.answer([])
        return
    if sql == leases._TERMINATE_HOLDERS:
        for connection in [c for c in database.connections if c.name == args[0]]:
            connection.end()
        statement.answer([])
        return
    if sql == leases._INSERT_WRITERS:
        assert transaction is not None
        lease, streams, sequences = args
        starts = [database.sequences[name.removeprefix("stream_")] if name else 0 for name in sequences]
        new = {(lease, stream): (start, None) for stream, start in zip(streams, starts, strict=True)}
        transaction.changes.append(lambda t: replace(t, writers={**t.writers, **new}))
        statement.answer([])
        return
    if sql == leases._IS_WRITING:
        (lease,) = args
        held = bool(database._holders.get(lease)) or lease in database._locked
        statement.answer([{"writes": lease in database.tables.leases and held}])
        return
    if sql in (leases._LIMIT_WAIT_FOR_HOLDERS, leases._WAIT_FOR_OTHER_JOINS):
        statement.answer([])
        return
    if sql == lost_commits._COMMIT_WAITS:
        statement.answer([{"waits": True}])
        return
    if sql in (lost_commits._NEW_TIMELINE, lost_commits._RAISE_LEASE) or sql.startswith("SELECT setval("):
        statement.answer([])  # this database never loses a commit
        return
    if sql == blocking_work._DEATHS:
        statement.answer([])  # the simulated time has no work that takes long
        return
    if sql == leases._HEARTBEAT:
        lease, ready, draining, positions = args
        row = database.tables.leases.get(lease)
        alive = row is not None and not row.revoked
        if alive:
            beat = Beat(now, ready, draining, positions)
            database.commit(lambda t: replace(t, heartbeats={**t.heartbeats, lease: beat}))
        version = database.tables.slots_version
        statement.answer([{"alive": int(alive), "leaves": None, "slots": version, "blocking": False}])
        return
    if sql == leases._NEXT_LEASE:
        assert transaction is not None

        def number() -> None:
            value = database.tables.lease_counter + 1
            transaction.changes.append(lambda t: replace(t, lease_counter=value))
            statement.answer([{"value": value}])

        database.lock("lease counter", transaction, statement, number)
        return
    change = _change_of(sql, args, now)
    if transaction is None:
        database.commit(change)
        statement.answer([])
        return

    def done() -> None:
        transaction.changes.append(change)
        statement.answer([])

    if sql == leases._DELETE:
        database.lock(args[0], transaction, statement, done)
    else:
        done()


def _change_of(sql: str, args: tuple[Any, ...], now: float) -> Change:
    lease = args[0] if args else 0
    match sql:
        case leases._INSERT_LEASE.sql:
            _, process, type_, _host, _pid, address, _version = args
            new = Lease(process, type_, address, False, now)
            return lambda t: replace(t, leases={**t.leases, lease: new})
        case leases._INSERT_HEARTBEAT:
            return lambda t: replace(t, heartbeats={**t.heartbeats, lease: Beat(now, False, False, "{}")})
        case leases._REVOKE:
            return lambda t: replace(
                t, leases={n: replace(row, revoked=row.revoked or n == lease) for n, row in t.leases.items()}
            )
        case leases._DELETE:
            return lambda t: replace(t, leases={n: row for n, row in t.leases.items() if n != lease})
        case leases._END_WRITER:
            return lambda t: replace(
                t, writers={k: (s, s if k[0] == lease and f is None else f) for k, (s, f) in t.writers.items()}
            )
        case leases._FREE_SLOTS:
            return lambda t: replace(
                t,
                slots={
                    k: replace(s, owner=None, epoch=s.epoch + 1) if s.owner == lease else s for k, s in t.slots.items()
                },
            )
        case leases._FREE_MOVES:
            return lambda t: replace(
                t, slots={k: replace(s, next_owner=None) if s.next_owner == lease else s for k, s in t.slots.items()}
            )
        case leases._FREE_DUTIES:
            return lambda t: replace(t, leader=None, leader_epoch=t.leader_epoch + 1) if t.leader == lease else t
        case leases._NEW_SLOTS_VERSION:
            return lambda t: replace(t, slots_version=t.slots_version + 1)
        case leases._END_DRAIN:
            return lambda t: t  # there is no operator
        case leases._DELETE_HEARTBEAT:
            return lambda t: replace(t, heartbeats={n: beat for n, beat in t.heartbeats.items() if n != lease})
    if sql in leases._STORE_FINAL_POSITION.values():
        stream = args[1]

        def final(t: Tables) -> Tables:
            if (lease, stream) not in t.writers:
                return t
            start = t.writers[lease, stream][0]
            last = max((row.position for row in t.rows.get(stream, ()) if row.writer == lease), default=start)
            return replace(t, writers={**t.writers, (lease, stream): (start, max(start, last))})

        return final
    raise AssertionError(f"the simulated PostgreSQL does not know: {sql}")


# -- reads and fenced writes of the protocol itself


def _declare(database: SimPostgres) -> None:
    def processes(t: Tables, args: tuple[Any, ...]) -> Records:
        now = database.clock()
        return [
            {
                "lease": n,
                "process": row.process,
                "type": row.type,
                "host": "h",
                "pid": 1,
                "address": row.address,
                "version": "0",
                "revoked": row.revoked,
                "ready": t.heartbeats[n].ready,
                "draining": t.heartbeats[n].draining,
                "positions": t.heartbeats[n].positions,
                "beat": t.heartbeats[n].seen_at,
                "silent_s": now - t.heartbeats[n].seen_at,
                "age_s": now - row.started_at,
            }
            for n, row in sorted(t.leases.items())
            if n in t.heartbeats
        ]

    def writers(t: Tables, args: tuple[Any, ...]) -> Records:
        above, named = args
        return [
            {
                "writer": n,
                "stream": stream,
                "start_position": start,
                "final_position": final,
                "reached": orjson.loads(t.heartbeats[n].positions).get(stream) if n in t.heartbeats else None,
            }
            for (n, stream), (start, final) in t.writers.items()
            if n > above or final is None or n in named
        ]

    database.reads.update(
        {
            leases._PROCESSES: processes,
            leases._WRITERS: writers,
            leases._KNOWN: lambda t, args: [{"known": max((n for n, _ in t.writers), default=0)}],
            leases._DUTY_HOLDER: lambda t, args: [{"holder": t.leader}],
            leases._OLDER_INCARNATIONS: lambda t, args: [
                {"lease": n} for n, row in t.leases.items() if row.process == args[0] and n != args[1]
            ],
            slots._VERSION: lambda t, args: [{"value": t.slots_version}],
            slots._ADDRESSES: lambda t, args: [
                {"lease": n, "address": row.address} for n, row in t.leases.items() if not row.revoked
            ],
            slots._SLOTS: lambda t, args: [
                {
                    "kind": kind,
                    "slot": n,
                    "owner": s.owner,
                    "epoch": s.epoch,
                    "next_owner": s.next_owner,
                    "pinned": False,
                    "v": t.slots_version,
                }
                for (kind, n), s in t.slots.items()
            ],
        }
    )
    declare(database, leases.TAKE_DUTY, Write(_take_duty))
    for statement, apply in (
        (slots.ASSIGN_SLOTS, _assign),
        (slots.NAME_NEXT_OWNERS, _name),
        (slots.WITHDRAW_NEXT_OWNERS, _withdraw),
        (slots.GIVE_SLOTS_AWAY, _give_away),
    ):
        declare(database, statement, Write(_by_conditions(statement, apply)))


def declare(database: SimPostgres, statement: FencedStatement[Any], write: Write) -> None:
    database.writes[statement.sql] = write


def _by_conditions(statement: FencedStatement[Any], apply: Any) -> Any:
    """Pass the text to `apply`, which applies only the conditions in it. So a patched text has an effect."""
    return lambda database, lease, args, positions: apply(database, lease, args, statement.sql)


def _take_duty(database: SimPostgres, lease: int, args: tuple[Any, ...], positions: list[int]) -> dict[str, Any]:
    if database.tables.leader is not None:
        return {"epoch": None}
    database.commit(lambda t: replace(t, leader=lease, leader_epoch=t.leader_epoch + 1))
    return {"epoch": database.tables.leader_epoch}


def _alive(t: Tables, lease: int | None) -> bool:
    return lease is not None and lease in t.leases and not t.leases[lease].revoked


def _leads(database: SimPostgres, lease: int, sql: str) -> bool:
    return database.tables.leader == lease or slots._LEADER not in sql


def _set_slots(database: SimPostgres, new: Mapping[tuple[str, int], Slot]) -> None:
    if new:
        database.commit(lambda t: replace(t, slots={**t.slots, **new}, slots_version=t.slots_version + 1))


def _pairs(kind: str, *arrays: Sequence[int]) -> Iterator[tuple[tuple[str, int], int]]:
    for slot, value in zip(*arrays, strict=True):
        yield (kind, slot), value


def _assign(database: SimPostgres, lease: int, args: Any, sql: str) -> dict[str, Any]:
    t = database.tables
    leads = _leads(database, lease, sql)
    new = {
        key: Slot(owner, t.slots[key].epoch + 1, None)
        for key, owner in _pairs(*args)
        if leads and _alive(t, owner) and (t.slots[key].owner is None or "s.owner IS NULL" not in sql)
    }
    _set_slots(database, new)
    return {"leads": int(leads), "given": len(new)}


def _name(database: SimPostgres, lease: int, args: Any, sql: str) -> dict[str, Any]:
    t = database.tables
    new = {
        key: replace(t.slots[key], next_owner=next_owner)
        for key, next_owner in _pairs(*args)
        if _leads(database, lease, sql) and t.slots[key].owner not in (None, next_owner) and _alive(t, next_owner)
    }
    _set_slots(database, new)
    return {"named": len(new)}


def _withdraw(database: SimPostgres, lease: int, args: Any, sql: str) -> dict[str, Any]:
    kind, chosen = args
    t = database.tables
    if _leads(database, lease, sql):
        taken = [(kind, n) for n in chosen if t.slots[kind, n].next_owner is not None]
        _set_slots(database, {key: replace(t.slots[key], next_owner=None) for key in taken})
    return {}


def _give_away(database: SimPostgres, lease: int, args: Any, sql: str) -> dict[str, Any]:
    t = database.tables
    new = {}
    for key, epoch in _pairs(*args):
        slot = t.slots[key]
        if slot.owner != lease or (slot.epoch != epoch and "s.epoch = u.epoch" in sql):
            continue
        if _alive(t, slot.next_owner) or "l.lease = s.next_owner" not in sql:
            new[key] = Slot(slot.next_owner, slot.epoch + 1, None)
    _set_slots(database, new)
    return {"given": [n for _, n in new] or None}


def insert_rows(database: SimPostgres, stream: str, rows: Sequence[Any]) -> None:
    """Insert rows into a stream, in position order."""

    def change(t: Tables) -> Tables:
        there = list(t.rows[stream])
        for row in rows:
            insort(there, row, key=lambda r: r.position)
        return replace(t, rows={**t.rows, stream: tuple(there)})

    database.commit(change)
