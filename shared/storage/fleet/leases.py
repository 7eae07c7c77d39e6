"""Leases, heartbeats, writers and duties: which process is alive, may write, leads. Architecture page, section 3.

Times are the database's. No process dies by them, since its clock may jump: others measure by their own clock how long
they see a heartbeat unchanged (`pulses.py`). A lease row is inserted once, revoked once and deleted once; what changes
every second is in `heartbeats`. A lease number is also the writer's number in every stream and is never used again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import asyncpg
import orjson

from shared.storage.engine.fenced import fenced_statement
from shared.storage.engine.lost_commits import TIMELINE, raise_above_lost_numbers
from shared.storage.engine.pool import Connection, Database
from shared.storage.engine.statements import parameters, statement


@parameters
class _InsertLease:
    lease: int
    process: str
    type: str
    host: str
    pid: int
    address: str
    version: str


# The counter row is updated by the inserting transaction, so numbers become visible in order: a reader of `writers`
# knows every writer up to the greatest that it sees.
_NEXT_LEASE = "UPDATE counters SET value = value + 1 WHERE name = 'lease' RETURNING value"
_INSERT_LEASE = statement(
    _InsertLease,
    """
    INSERT INTO leases (lease, process, type, host, pid, address, version)
    VALUES (:lease, :process, :type, :host, :pid, :address, :version)
    """,
)
_INSERT_HEARTBEAT = """
    INSERT INTO heartbeats (lease, seen_at, ready, positions) VALUES ($1, clock_timestamp(), false, '{}')
"""
_INSERT_WRITERS = """
    INSERT INTO writers (lease, stream, start_position)
    SELECT $1, stream, CASE WHEN sequence = '' THEN 0 ELSE coalesce(pg_sequence_last_value(sequence::regclass), 0) END
    FROM unnest($2::text[], $3::text[]) AS given (stream, sequence)
"""
# When a fleet starts, its processes wait here for each other. `idle_in_transaction_session_timeout` is shorter. It ends
# the transaction of a process that hangs.
_WAIT_FOR_OTHER_JOINS = "SET LOCAL lock_timeout = '20s'"
_OLDER_INCARNATIONS = "SELECT lease FROM leases WHERE process = $1 AND lease <> $2"
# An operator's drain takes effect with the first heartbeat of a process with that name.
_HEARTBEAT = f"""
    WITH alive AS (SELECT process FROM leases WHERE lease = $1 AND NOT revoked AND timeline = {TIMELINE}),
         asked AS (SELECT d.lease IS NOT NULL AS leaves FROM drains d JOIN alive USING (process)
                   WHERE d.lease IS NULL OR d.lease = $1),
         beat AS (UPDATE heartbeats SET seen_at = clock_timestamp(), ready = $2,
                         draining = $3 OR EXISTS (SELECT 1 FROM asked), positions = $4
                  FROM alive WHERE lease = $1)
    SELECT (SELECT count(*) FROM alive) AS alive, (SELECT leaves FROM asked) AS leaves,
           (SELECT value FROM counters WHERE name = 'slots_version') AS slots,
           EXISTS (SELECT 1 FROM blocking_work) AS blocking
"""
_REVOKE = "UPDATE leases SET revoked = true WHERE lease = $1"
_DELETE = "DELETE FROM leases WHERE lease = $1"
# The writer's connection carries its lease in its name (`replication/process/incarnation.py`).
_TERMINATE_HOLDERS = """
    SELECT pg_terminate_backend(a.pid)
    FROM pg_stat_activity a
    WHERE a.application_name = $1 AND a.pid <> pg_backend_pid()
"""
_PROCESSES = """
    SELECT l.lease, l.process, l.type, l.host, l.pid, l.address, l.version, l.revoked, h.ready, h.draining,
           h.positions, extract(epoch FROM h.seen_at)::float8 AS beat,
           extract(epoch FROM clock_timestamp() - h.seen_at)::float8 AS silent_s,
           extract(epoch FROM clock_timestamp() - l.started_at)::float8 AS age_s
    FROM leases l JOIN heartbeats h USING (lease) ORDER BY l.lease
"""
# A statement that writes under a lease holds its row (`engine/fenced.py`) until it ends.
_IS_WRITING = """
    WITH free AS MATERIALIZED (SELECT FROM leases WHERE lease = $1 FOR UPDATE SKIP LOCKED)
    SELECT EXISTS (SELECT FROM leases WHERE lease = $1) AND NOT EXISTS (SELECT FROM free) AS writes
"""
_LIMIT_WAIT_FOR_HOLDERS = "SET LOCAL lock_timeout = '1s'"
_END_WRITER = "UPDATE writers SET final_position = start_position WHERE lease = $1 AND final_position IS NULL"
_FREE_SLOTS = "UPDATE slots SET owner = NULL, epoch = epoch + 1 WHERE owner = $1"
_FREE_MOVES = "UPDATE slots SET next_owner = NULL WHERE next_owner = $1"
_FREE_DUTIES = "UPDATE duties SET holder = NULL, epoch = epoch + 1 WHERE holder = $1"
_NEW_SLOTS_VERSION = "UPDATE counters SET value = value + 1 WHERE name = 'slots_version'"
_END_DRAIN = "DELETE FROM drains WHERE lease = $1"
_DELETE_HEARTBEAT = "DELETE FROM heartbeats WHERE lease = $1"
_WRITERS = """
    SELECT w.lease AS writer, w.stream, w.start_position, w.final_position,
           (h.positions ->> w.stream)::bigint AS reached
    FROM writers w LEFT JOIN heartbeats h USING (lease)
    WHERE w.lease > $1 OR w.final_position IS NULL OR w.lease = ANY ($2::bigint[])
"""
_KNOWN = "SELECT coalesce(max(lease), 0) FROM writers"

#: The greatest position that a writer stored, per stream: its final position once it is fenced.
FINAL_POSITIONS = {
    "events": "SELECT max(position) FROM events WHERE writer = $1 AND position > start_position",
    "receipts": "SELECT max(position) FROM receipts WHERE writer = $1 AND position > start_position",
    "account_data": "SELECT max(position) FROM account_data WHERE writer = $1 AND position > start_position",
    "thread_subscriptions": """
        SELECT max(position) FROM thread_subscriptions WHERE writer = $1 AND position > start_position
    """,
    "push_rules": "SELECT max(position) FROM push_rules WHERE writer = $1 AND position > start_position",
    "sessions": "SELECT max(position) FROM session_changes WHERE writer = $1 AND position > start_position",
    # Messages are deleted once they are acknowledged, and their transactions with the sending device.
    "to_device": """
        SELECT max(position) FROM (
            SELECT position FROM to_device_messages WHERE writer = $1 AND position > start_position
            UNION ALL
            SELECT position FROM to_device_transactions WHERE writer = $1 AND position > start_position
        ) AS p
    """,
    "device_lists": "SELECT max(position) FROM device_list_changes WHERE writer = $1 AND position > start_position",
    "one_time_keys": "SELECT max(position) FROM one_time_key_changes WHERE writer = $1 AND position > start_position",
}
_STORE_FINAL_POSITION = {
    stream: "UPDATE writers SET final_position = greatest(start_position, coalesce(("
    + query
    + "), 0)) WHERE lease = $1 AND stream = $2"
    for stream, query in FINAL_POSITIONS.items()
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessRow:
    """A process with a lease.

    positions: stream -> complete up to.
    beat: a number that changes with each heartbeat.
    silent_s: since its last heartbeat, by the database's clock, which may jump: only to show, or to guess.
    """

    lease: int
    process: str
    type: str
    host: str
    pid: int
    address: str
    version: str
    revoked: bool
    ready: bool
    draining: bool
    positions: Mapping[str, int]
    beat: float
    silent_s: float
    age_s: float


@dataclass(frozen=True, slots=True)
class WriterRow:
    """A writer of a stream. reached: "complete up to" of its last heartbeat. None: it has had none."""

    writer: int
    stream: str
    start: int
    final: int | None
    reached: int | None


async def insert_lease(
    conn: Connection,
    *,
    process: str,
    type_: str,
    host: str,
    pid: int,
    address: str,
    version: str,
    sequences: Mapping[str, str],
    ever_seen: Mapping[str, int] | None = None,
) -> int:
    """Register a new incarnation of a process. Return its lease number.

    sequences: stream -> sequence of each stream that it may write. Its start is the sequence's last value now.
    ever_seen: see `lost_commits.raise_above_lost_numbers`, whose error this raises.
    """
    async with conn.transaction():
        await conn.execute(_WAIT_FOR_OTHER_JOINS)
        streams = {stream: f"stream_{stream}" for stream in FINAL_POSITIONS}
        await raise_above_lost_numbers(conn, streams, ever_seen or {})
        lease: int = await conn.fetchval(_NEXT_LEASE)
        record = _InsertLease(
            lease=lease, process=process, type=type_, host=host, pid=pid, address=address, version=version
        )
        await conn.execute(*_INSERT_LEASE.bind(record))
        await conn.execute(_INSERT_HEARTBEAT, lease)
        # A writer with no stream still needs a row, so that `known` grows with every lease.
        written = sequences or {"": ""}
        await conn.execute(_INSERT_WRITERS, lease, list(written), list(written.values()))
    return lease


async def get_older_incarnations(conn: Connection, process: str, lease: int) -> list[int]:
    """Return the leases of dead (or hanging) processes with the same name."""
    return [row["lease"] for row in await conn.fetch(_OLDER_INCARNATIONS, process, lease)]


@dataclass(frozen=True, slots=True)
class HeartbeatAnswer:
    """The state of a process's lease and of the slots, as its heartbeat read it.

    alive: True if the lease still holds.
    slots_version: the version of the slot table.
    leaves: True if an operator drains the process and it must end, False if it must run on without slots. None: no
        operator drains it.
    blocking: True if a request blocks a process, or ended one (`blocking_work.py`).
    """

    alive: bool
    slots_version: int
    leaves: bool | None
    blocking: bool


async def record_heartbeat(
    conn: Connection, lease: int, *, ready: bool, draining: bool, positions: Mapping[str, int]
) -> HeartbeatAnswer:
    """Record a heartbeat."""
    row = await conn.fetchrow(_HEARTBEAT, lease, ready, draining, orjson.dumps(dict(positions)).decode())
    assert row is not None
    return HeartbeatAnswer(bool(row["alive"]), row["slots"], row["leaves"], row["blocking"])


async def fence(conn: Connection, lease: int) -> None:
    """End a lease. No write under it commits afterwards. Harmless if the lease has ended already.

    1. Revoke it and commit: this never waits, and no statement that starts later can write.
    2. Delete it: this waits for the statements that began before. After 1 s, end what blocks it.
    3. In the same transaction, store the final positions.
    """
    await conn.execute(_REVOKE, lease)
    for attempt in range(5):
        try:
            async with conn.transaction():
                await conn.execute(_LIMIT_WAIT_FOR_HOLDERS)
                await conn.execute(_DELETE, lease)
                await conn.execute(_END_WRITER, lease)
                for stream, statement in _STORE_FINAL_POSITION.items():
                    await conn.execute(statement, lease, stream)
                await conn.execute(_FREE_SLOTS, lease)
                await conn.execute(_FREE_MOVES, lease)
                await conn.execute(_FREE_DUTIES, lease)
                await conn.execute(_NEW_SLOTS_VERSION)
                await conn.execute(_END_DRAIN, lease)
                await conn.execute(_DELETE_HEARTBEAT, lease)
            return
        except asyncpg.LockNotAvailableError:
            if attempt == 4:
                raise
            # A statement of the fenced process still holds the row after its second.
            await conn.execute(_TERMINATE_HOLDERS, f"skep-writer-{lease}")


async def fence_process(conn: Connection, process: str) -> list[int]:
    """Fence every lease of the process with this name, and return them. For a supervisor that saw its child exit."""
    ended = await get_older_incarnations(conn, process, 0)
    for lease in ended:
        await fence(conn, lease)
    return ended


async def is_writing(conn: Connection, lease: int) -> bool:
    """Return True if a statement under this lease is running now. Never waits."""
    writes: bool = await conn.fetchval(_IS_WRITING, lease)
    return writes


async def get_processes(database: Database) -> list[ProcessRow]:
    """Return all processes with a lease."""
    return [
        ProcessRow(**{**dict(row), "positions": orjson.loads(row["positions"])})
        for row in await database.fetch(_PROCESSES)
    ]


async def get_writers(conn: Connection, above: int, named: Sequence[int]) -> tuple[int, list[WriterRow]]:
    """Return (known, writers): the writers above `above`, those that are alive, and those in `named`.

    conn: inside a snapshot (repeatable read), which shows every writer up to `known`.
    known: the greatest lease number.
    """
    known: int = await conn.fetchval(_KNOWN)
    rows = await conn.fetch(_WRITERS, above, list(named))
    return known, [
        WriterRow(r["writer"], r["stream"], r["start_position"], r["final_position"], r["reached"]) for r in rows
    ]


@parameters
class TakeDuty:
    duty: str


TAKE_DUTY = fenced_statement(
    "take_duty",
    TakeDuty,
    {
        "taken": """UPDATE duties SET holder = :lease, epoch = epoch + 1 FROM fence
                    WHERE duty = :duty AND holder IS NULL RETURNING epoch"""
    },
    "(SELECT epoch FROM taken) AS epoch",
)

_DUTY_HOLDER = "SELECT holder FROM duties WHERE duty = $1"


async def get_duty_holder(database: Database, duty: str) -> int | None:
    """Return the lease that holds a duty, if any does."""
    holder: int | None = await database.fetchval(_DUTY_HOLDER, duty)
    return holder
