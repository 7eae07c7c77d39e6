"""Events: the one fenced statement that stores a batch of them with all that belongs to them, and reading them.

The statement comes in two forms made of the same parts: the usual messages need no part for state, memberships or
new rooms, and parts with nothing to do still cost their start.

Every part takes its rows from the fence; parts about state take them from `ev`, the events just inserted, so that a
position can never differ from its event's.
"""

import itertools
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import asyncpg

from shared.core.errors import SkepError
from shared.storage.escape import escape, unescape
from shared.storage.fenced import FencedStatement, fenced_statement
from shared.storage.pool import Connection, Database

ACCEPTED, SOFT_FAILED, REJECTED, OUTLIER = 0, 1, 2, 3  # events.status


def _unnest(first: int, *types: str) -> str:
    """unnest of one array parameter per column, from $first on."""
    return "unnest(" + ", ".join(f"${first + n}::{kind}[]" for n, kind in enumerate(types)) + ")"


#: $2 to $18, one array per column, in the batch's order; array columns travel as text, since they differ in length.
_EVENT_COLUMNS = (
    ("room_nid", "bigint"), ("event_nid", "bigint"), ("event_id", "text"), ("ordinal", "bigint"),
    ("depth", "bigint"), ("type", "text"), ("state_key", "text"), ("sender", "text"),
    ("origin_server_ts", "bigint"), ("prev_nids", "text"), ("auth_nids", "text"), ("replaces_nid", "bigint"),
    ("redacted_by", "bigint"), ("redacts_nid", "bigint"), ("txn_device", "text"), ("txn_id", "text"),
    ("json", "bytea"),
)  # fmt: skip
_NAMES = ", ".join(name for name, _ in _EVENT_COLUMNS)
_VALUES = ", ".join(
    f"u.{name}::bigint[]" if name in ("prev_nids", "auth_nids") else f"u.{name}" for name, _ in _EVENT_COLUMNS
)

#: Positions are drawn above the sort, so they ascend in the batch's order (a test looks at them).
_EVENTS = f"""
    INSERT INTO events (writer, position, {_NAMES})
    SELECT $1, nextval('stream_events'), {_VALUES}
    FROM (SELECT a.* FROM fence, {_unnest(2, *(kind for _, kind in _EVENT_COLUMNS))}
            WITH ORDINALITY AS a({_NAMES}, place)
          ORDER BY a.place) AS u
    RETURNING room_nid, event_nid, position, ordinal, type, state_key, sender, replaces_nid
"""
#: $19, $20: rooms and their extremities after the batch.
_EXTREMITIES = f"""
    INSERT INTO forward_extremities (room_nid, event_nids)
    SELECT u.room_nid, u.event_nids::bigint[] FROM fence, {_unnest(19, "bigint", "text")} AS u(room_nid, event_nids)
    ON CONFLICT (room_nid) DO UPDATE SET event_nids = excluded.event_nids
"""
#: $21 to $24.
_TRANSACTIONS = f"""
    INSERT INTO client_transactions (room_nid, key, event_id, created_ms)
    SELECT u.room_nid, u.key, u.event_id, u.created_ms
    FROM fence, {_unnest(21, "bigint", "bytea", "text", "bigint")} AS u(room_nid, key, event_id, created_ms)
"""
_STATE_CHANGES = """
    INSERT INTO state_changes (room_nid, type, state_key, ordinal, event_nid, prev_nid, writer, position)
    SELECT ev.room_nid, ev.type, ev.state_key, ev.ordinal, ev.event_nid, ev.replaces_nid, $1, ev.position
    FROM fence, ev WHERE ev.state_key IS NOT NULL
"""
#: A batch may set the same key twice: the last one is the state.
_CURRENT_STATE = """
    INSERT INTO current_state (room_nid, type, state_key, event_nid, writer, position)
    SELECT DISTINCT ON (ev.room_nid, ev.type, ev.state_key)
           ev.room_nid, ev.type, ev.state_key, ev.event_nid, $1, ev.position
    FROM fence, ev WHERE ev.state_key IS NOT NULL
    ORDER BY ev.room_nid, ev.type, ev.state_key, ev.position DESC
    ON CONFLICT (room_nid, type, state_key) DO UPDATE
    SET event_nid = excluded.event_nid, writer = excluded.writer, position = excluded.position
"""
#: $25 to $28. Whoever forgot a room does not get it back by being kicked or banned afterwards.
_MEMBERSHIPS = f"""
    INSERT INTO memberships
      (room_nid, user_id, membership, event_nid, sender, ordinal, writer, position, is_local, forgotten)
    SELECT DISTINCT ON (ev.room_nid, u.user_id)
           ev.room_nid, u.user_id, u.membership, ev.event_nid, ev.sender, ev.ordinal, $1, ev.position, u.is_local, false
    FROM fence, ev JOIN {_unnest(25, "bigint", "text", "text", "bool")} AS u(event_nid, user_id, membership, is_local)
      USING (event_nid)
    ORDER BY ev.room_nid, u.user_id, ev.position DESC
    ON CONFLICT (room_nid, user_id) DO UPDATE
    SET membership = excluded.membership, event_nid = excluded.event_nid, sender = excluded.sender,
        ordinal = excluded.ordinal, writer = excluded.writer, position = excluded.position,
        forgotten = memberships.forgotten AND excluded.membership IN ('leave', 'ban')
"""
#: $29 to $31: redacted events that were stored before (those of the same batch carry it from the start).
_REDACTED = f"""
    UPDATE events e SET redacted_by = u.redacted_by
    FROM fence, {_unnest(29, "bigint", "bigint", "bigint")} AS u(room_nid, event_nid, redacted_by)
    WHERE e.room_nid = u.room_nid AND e.event_nid = u.event_nid AND e.redacted_by IS NULL
"""
#: $32 to $37.
_ROOMS = f"""
    INSERT INTO rooms (room_nid, room_id, room_version, creator, is_public, created_ms)
    SELECT u.* FROM fence, {_unnest(32, "bigint", "text", "text", "text", "bool", "bigint")}
      AS u(room_nid, room_id, room_version, creator, is_public, created_ms)
"""
#: $38 to $41.
_ALIASES = f"""
    INSERT INTO room_aliases (alias, room_nid, creator, created_ms)
    SELECT u.* FROM fence, {_unnest(38, "text", "bigint", "text", "bigint")} AS u(alias, room_nid, creator, created_ms)
"""

_RESULT = "(SELECT array_agg(event_nid) FROM ev) AS event_nids, (SELECT array_agg(position) FROM ev) AS positions"
_MESSAGE_PARTS = {"ev": _EVENTS, "extremities": _EXTREMITIES, "transactions": _TRANSACTIONS}

COMMIT_MESSAGES = fenced_statement("commit_messages", _MESSAGE_PARTS, _RESULT)
COMMIT_EVENTS = fenced_statement(
    "commit_events",
    {
        **_MESSAGE_PARTS,
        "changes": _STATE_CHANGES,
        "state": _CURRENT_STATE,
        "members": _MEMBERSHIPS,
        "redacted": _REDACTED,
        "new_rooms": _ROOMS,
        "aliases": _ALIASES,
    },
    _RESULT,
)

#: Uses events_by_id.
_BY_ID = """
    SELECT event_nid, event_id, type, state_key, sender, redacted_by, json FROM events
    WHERE event_id = $2 AND room_nid = $1 AND status = 0
"""
#: Uses the primary key.
_BY_NIDS = """
    SELECT event_nid, event_id, type, state_key, sender, redacted_by, json FROM events
    WHERE room_nid = $1 AND event_nid = ANY($2::bigint[])
"""


@dataclass(frozen=True, slots=True)
class EventToStore:
    """One live timeline event. Text is as in the event (escaped here); json: the PDU, canonical."""

    room_nid: int
    event_nid: int
    event_id: str
    ordinal: int
    depth: int
    type: str
    state_key: str | None
    sender: str
    origin_server_ts: int
    prev_nids: Sequence[int]
    auth_nids: Sequence[int]
    replaces_nid: int | None
    redacted_by: int | None
    redacts_nid: int | None
    txn_device: str | None
    txn_id: str | None
    json: bytes


@dataclass(slots=True)
class EventBatch:
    """What one statement stores. Order of `events`: that of their positions, ordinals of a room ascending.

    extremities: room -> events that nothing follows after the batch; transactions: (room, key, event id, ms);
    memberships: (event, user, membership, is local); redacted: (room, redacted event, its redaction);
    rooms: (room, room id, version, creator, public, ms); aliases: (alias, room, creator, ms).
    """

    events: list[EventToStore] = field(default_factory=list)
    extremities: dict[int, Sequence[int]] = field(default_factory=dict)
    transactions: list[tuple[int, bytes, str, int]] = field(default_factory=list)
    memberships: list[tuple[int, str, str, bool]] = field(default_factory=list)
    redacted: list[tuple[int, int, int]] = field(default_factory=list)
    rooms: list[tuple[int, str, str, str, bool, int]] = field(default_factory=list)
    aliases: list[tuple[str, int, str, int]] = field(default_factory=list)


class FencedWrite(Protocol):
    """`FencedWriter.write`: runs one fenced statement. Raises Fenced when the lease, or the answer, was lost."""

    def __call__(
        self, statement: FencedStatement, *args: Any, streams: Sequence[str] = ()
    ) -> Awaitable[asyncpg.Record]: ...


class StatementRefused(SkepError):
    """PostgreSQL refused the statement: nothing was written. One event of the batch may be the cause.

    constraint: the violated constraint's name, "" for other reasons; passing: a lock or a time limit, so the same
    statement may succeed later.
    """

    def __init__(self, constraint: str, passing: bool, message: str) -> None:
        super().__init__(message)
        self.constraint = constraint
        self.passing = passing


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """An event as stored; redacted_by: the redaction that applies to it."""

    event_nid: int
    event_id: str
    type: str
    state_key: str | None
    sender: str
    redacted_by: int | None
    json: bytes


async def commit_events(write: FencedWrite, batch: EventBatch) -> list[int]:
    """Store the batch; return the events' positions, in their order, ascending.

    Raises StatementRefused (nothing was written), Fenced (the lease is lost, or the outcome unknown).
    """
    events = batch.events
    args: list[Any] = [
        [e.room_nid for e in events],
        [e.event_nid for e in events],
        [e.event_id for e in events],
        [e.ordinal for e in events],
        [e.depth for e in events],
        [escape(e.type) for e in events],
        [None if e.state_key is None else escape(e.state_key) for e in events],
        [escape(e.sender) for e in events],
        [e.origin_server_ts for e in events],
        [_array(e.prev_nids) for e in events],
        [_array(e.auth_nids) for e in events],
        [e.replaces_nid for e in events],
        [e.redacted_by for e in events],
        [e.redacts_nid for e in events],
        [e.txn_device for e in events],
        [None if e.txn_id is None else escape(e.txn_id) for e in events],
        [e.json for e in events],
        list(batch.extremities),
        [_array(nids) for nids in batch.extremities.values()],
        *_columns(batch.transactions, 4),
    ]
    statement = COMMIT_MESSAGES
    if batch.rooms or batch.redacted or any(event.state_key is not None for event in events):
        statement = COMMIT_EVENTS
        memberships = [(nid, escape(user_id), value, local) for nid, user_id, value, local in batch.memberships]
        rooms = [(nid, room_id, version, escape(by), *rest) for nid, room_id, version, by, *rest in batch.rooms]
        aliases = [(alias, nid, escape(by), ms) for alias, nid, by, ms in batch.aliases]
        args += [
            *_columns(memberships, 4),
            *_columns(batch.redacted, 3),
            *_columns(rooms, 6),
            *_columns(aliases, 4),
        ]
    try:
        row = await write(statement, *args, streams=("events",))
    except asyncpg.PostgresError as error:
        passing = isinstance(
            error,
            asyncpg.LockNotAvailableError | asyncpg.QueryCanceledError | asyncpg.DeadlockDetectedError,
        )
        constraint = getattr(error, "constraint_name", None) or ""
        raise StatementRefused(constraint, passing, f"{type(error).__name__} {constraint}") from error
    positions: list[int] = row["positions"]
    # Readers take this writer's positions as the order of its events: anything else would reorder rooms for good.
    assert row["event_nids"] == args[1], "events were stored in another order"
    assert all(a < b for a, b in itertools.pairwise(positions)), "positions do not ascend"
    return positions


async def get_event_by_id(database: Database, room_nid: int, event_id: str) -> StoredEvent | None:
    """Return an accepted event of the room."""
    if "\x00" in event_id:
        return None  # no id holds it, and PostgreSQL would refuse the parameter
    row = await database.fetchrow(_BY_ID, room_nid, event_id)
    return None if row is None else _stored(row)


async def get_events(source: Database | Connection, room_nid: int, event_nids: Sequence[int]) -> list[StoredEvent]:
    """Return the room's events with these ids, in no particular order; unknown ones are left out."""
    return [_stored(row) for row in await source.fetch(_BY_NIDS, room_nid, list(event_nids))]


def _stored(row: asyncpg.Record) -> StoredEvent:
    nid, event_id, kind, state_key, sender, redacted_by, json = row
    return StoredEvent(
        nid, event_id, unescape(kind), None if state_key is None else unescape(state_key), unescape(sender),
        redacted_by, json,
    )  # fmt: skip


def _array(numbers: Sequence[int]) -> str:
    return "{" + ",".join(map(str, numbers)) + "}"


def _columns(rows: Sequence[Sequence[Any]], count: int) -> list[list[Any]]:
    """Turn rows into one list per column."""
    return [list(column) for column in zip(*rows, strict=True)] if rows else [[] for _ in range(count)]
