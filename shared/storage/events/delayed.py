"""Delayed events (MSC4140): one row each. A change is one statement that states what it expects.

A row is *claimed* (`sending_ms`) before its event is sent, and finalised afterwards. If a process claims a row and
dies, the job claims it again, with the same transaction of the room (`sending_key`), so it is never sent twice. Times
are the database's.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from shared.core.delayed_events import DelayedEvent, shard_of
from shared.core.identifiers import EventId, RoomId, UserId
from shared.storage.engine.fenced import FencedWrite, fenced_statement
from shared.storage.engine.pool import Database, Source
from shared.storage.engine.statements import NoParameters, parameters, statement

_NOW = "(extract(epoch FROM clock_timestamp()) * 1000)::bigint"
_KEPT_FINALISED = 1000  # of one user; MSC4140, "Retention of finalised delayed events"
#: The age of a client's `send` that was not finished: its caller gave up long ago.
_CLAIM_FOR_MS = 45_000
#: The time before the job retries a room that could not be reached, or an event that a dead process claimed. It grows
#: with the time since the first try: an event that brings its room's owner down must not do so every few seconds.
RETRY_AFTER_MS = 5_000
_LONGEST_RETRY_MS = 60_000


@parameters
class _Schedule:
    """A new delayed event. key: of its transaction. max_scheduled, max_bytes: the most that the user may have."""

    delay_id: str
    shard: int
    user_id: UserId
    room_id: RoomId
    type: str
    state_key: str | None
    content: bytes
    sticky_ms: int | None
    key: bytes | None
    delay_ms: int
    max_scheduled: int
    max_bytes: int


@parameters
class ClaimDue:
    """limit: the most events of each shard. retry_after_ms: when to try again what is claimed now."""

    limit: int
    retry_after_ms: int


#: Uses delayed_events_by_user, delayed_events_user_id_key_key.
_SCHEDULE = statement(
    _Schedule,
    f"""
    WITH now AS (SELECT {_NOW} AS ms),
    room AS (SELECT room_nid FROM rooms WHERE room_id = :room_id),
    waiting AS (
        SELECT count(*) AS number, coalesce(sum(octet_length(content)), 0) + octet_length(:content::bytea) AS bytes,
               min(scheduled_ms + delay_ms) AS first_ms
        FROM delayed_events WHERE user_id = :user_id AND finalised_ms IS NULL),
    known AS (SELECT delay_id FROM delayed_events WHERE user_id = :user_id AND key = :key),
    old AS (
        DELETE FROM delayed_events WHERE delay_id IN (
            SELECT delay_id FROM (
                SELECT delay_id, row_number() OVER latest AS place, sum(octet_length(content)) OVER latest AS bytes
                FROM delayed_events WHERE user_id = :user_id AND finalised_ms IS NOT NULL
                WINDOW latest AS (ORDER BY finalised_ms DESC ROWS UNBOUNDED PRECEDING)) AS finalised
            WHERE place > {_KEPT_FINALISED} OR bytes > :max_bytes::bigint LIMIT 100)),
    stored AS (
        INSERT INTO delayed_events (delay_id, shard, user_id, room_nid, type, state_key, content, sticky_ms, key,
                                    delay_ms, scheduled_ms, check_ms)
        SELECT :delay_id, :shard, :user_id, room.room_nid, :type, :state_key, :content, :sticky_ms, :key,
               :delay_ms, now.ms, now.ms + :delay_ms
        FROM now, room, waiting WHERE waiting.number < :max_scheduled AND waiting.bytes <= :max_bytes
          AND NOT EXISTS (SELECT FROM known)
        ON CONFLICT DO NOTHING RETURNING delay_id)
    SELECT (SELECT delay_id FROM stored) AS stored, (SELECT delay_id FROM known) AS known,
           EXISTS (SELECT FROM room) AS is_room,
           waiting.number < :max_scheduled AND waiting.bytes <= :max_bytes AS is_free,
           greatest(1, waiting.first_ms - now.ms) AS wait_ms
    FROM now, waiting
""",
)
_FIELDS = """d.delay_id, d.user_id, r.room_id, d.type, d.state_key, d.content, d.sticky_ms, d.delay_ms, d.scheduled_ms,
    d.sending_ms IS NOT NULL AS sending, d.finalised_ms, d.event_id, d.error"""
#: Uses the primary keys.
_GET = f"SELECT {_FIELDS} FROM delayed_events d JOIN rooms r USING (room_nid) WHERE d.delay_id = $1"
#: Uses delayed_events_by_user; at most as many as may be scheduled.
_LIST = f"""
    SELECT {_FIELDS} FROM delayed_events d JOIN rooms r USING (room_nid)
    WHERE d.user_id = $1 AND d.finalised_ms IS NULL ORDER BY d.scheduled_ms + d.delay_ms, d.delay_id
"""
_OPEN = "delay_id = $1 AND ($2::text IS NULL OR user_id = $2) AND finalised_ms IS NULL AND sending_ms IS NULL"
#: $1 delay id, $2 its user, or NULL for any user. Use the primary key.
_RESTART = f"UPDATE delayed_events SET scheduled_ms = {_NOW} WHERE {_OPEN}"
_CANCEL = f"UPDATE delayed_events SET finalised_ms = {_NOW} WHERE {_OPEN}"
_CLAIM = f"""
    UPDATE delayed_events SET sending_ms = {_NOW}, check_ms = {_NOW} + {_CLAIM_FOR_MS} WHERE {_OPEN}
    RETURNING sending_ms
"""
#: $2: the time of the claim.
_UNCLAIM = """
    UPDATE delayed_events SET sending_ms = NULL, check_ms = scheduled_ms + delay_ms
    WHERE delay_id = $1 AND sending_ms = $2 AND finalised_ms IS NULL
"""
#: $2 the event's id, or $3 the error. An event that was sent replaces an earlier error.
_FINALISE = f"""
    UPDATE delayed_events SET finalised_ms = {_NOW}, event_id = $2::text, error = $3
    WHERE delay_id = $1 AND event_id IS NULL AND (finalised_ms IS NULL OR $2::text IS NOT NULL)
"""

_PREFIX = "delayed_events/"
_SHARDS = f"duties WHERE holder = :lease AND duty ^@ '{_PREFIX}'"
_MINE = f"SELECT substr(duty, {len(_PREFIX) + 1})::smallint AS shard FROM {_SHARDS}"
#: Each live process of the job gets its share of the shards: one with more gives some up, one with fewer takes free
#: ones.
BALANCE_SHARDS = fenced_statement(
    "balance_shards_of_delayed_events",
    NoParameters,
    {
        "share": f"""
            SELECT ceil(count(*)::numeric / (SELECT greatest(1, count(*)) FROM leases
                                             WHERE type = 'background' AND NOT revoked))::bigint AS size
            FROM duties WHERE duty ^@ '{_PREFIX}'""",
        "mine": f"SELECT duty FROM {_SHARDS} ORDER BY duty",
        "taken": f"""
            UPDATE duties SET holder = :lease, epoch = epoch + 1 FROM fence WHERE duty IN (
                SELECT duty FROM duties WHERE holder IS NULL AND duty ^@ '{_PREFIX}'
                LIMIT greatest(0, (SELECT size FROM share) - (SELECT count(*) FROM mine)) FOR UPDATE SKIP LOCKED)""",
        "left_over": """
            UPDATE duties SET holder = NULL, epoch = epoch + 1 FROM fence
            WHERE duty IN (SELECT duty FROM mine OFFSET (SELECT size FROM share))""",
    },
)
#: Uses delayed_events_to_check and primary keys.
CLAIM_DUE = fenced_statement(
    "claim_due_delayed_events",
    ClaimDue,
    {
        "now": f"SELECT {_NOW} AS ms FROM fence",
        "looked_at": f"""
            SELECT due.* FROM fence, now, ({_MINE}) AS mine, LATERAL (
                SELECT delay_id, sending_ms, sending_ms IS NOT NULL OR scheduled_ms + delay_ms <= now.ms AS is_due
                FROM delayed_events WHERE shard = mine.shard AND finalised_ms IS NULL AND check_ms <= now.ms
                ORDER BY check_ms LIMIT :limit FOR UPDATE SKIP LOCKED) AS due""",
        "moved": f"""
            UPDATE delayed_events d
            SET check_ms = CASE
                    WHEN NOT l.is_due THEN d.scheduled_ms + d.delay_ms
                    ELSE now.ms + greatest(:retry_after_ms,
                                           least({_LONGEST_RETRY_MS}, (now.ms - coalesce(l.sending_ms, now.ms)) / 2))
                END,
                sending_ms = CASE WHEN l.is_due THEN coalesce(d.sending_ms, now.ms) END
            FROM fence, now, looked_at l WHERE d.delay_id = l.delay_id
            RETURNING d.*, l.is_due, l.sending_ms AS before_ms""",
        "due": """
            SELECT m.*, r.room_id, now.ms - coalesce(m.before_ms, now.ms) AS tried_for_ms
            FROM now, moved m JOIN rooms r USING (room_nid) WHERE m.is_due""",
    },
    """(SELECT count(*) FROM looked_at) AS looked_at,
       ARRAY(SELECT ROW(delay_id, user_id, room_id, type, state_key, content, sticky_ms, delay_ms, scheduled_ms,
                        before_ms IS NOT NULL, tried_for_ms)
             FROM due ORDER BY scheduled_ms + delay_ms, delay_id) AS due""",
)


@dataclass(frozen=True, slots=True)
class Scheduled:
    """The outcome of scheduling an event.

    delay_id: None if it was not scheduled.
    is_room: False if there is no such room.
    wait_ms: the time until the user's next event is due, for a user who has as many as they may.
    """

    delay_id: str | None
    is_room: bool
    wait_ms: int


@dataclass(frozen=True, slots=True)
class DueEvent:
    """A claimed event. was_tried: True if it was claimed before. tried_for_ms: the time since the first claim."""

    event: DelayedEvent
    was_tried: bool
    tried_for_ms: int


async def schedule_delayed_event(
    database: Database, event: DelayedEvent, key: bytes | None, *, max_scheduled: int, max_bytes: int
) -> Scheduled:
    """Store a new delayed event. If its transaction is known, return the id of that one.

    max_scheduled, max_bytes: the most scheduled events of the user, and the most bytes of their contents.
    """
    record = _Schedule(
        delay_id=event.delay_id,
        shard=shard_of(event.delay_id),
        user_id=event.user_id,
        room_id=event.room_id,
        type=event.type,
        state_key=event.state_key,
        content=event.content,
        sticky_ms=event.sticky_ms,
        key=key,
        delay_ms=event.delay_ms,
        max_scheduled=max_scheduled,
        max_bytes=max_bytes,
    )
    for attempt in (1, 2):  # another process may store the same transaction meanwhile
        [row] = await database.fetch(*_SCHEDULE.bind(record))
        delay_id = row["known"] or row["stored"]
        if delay_id is not None or not row["is_room"] or not row["is_free"] or attempt == 2:
            break
    return Scheduled(delay_id, row["is_room"], row["wait_ms"] or 1)


async def get_delayed_event(source: Source, delay_id: str) -> DelayedEvent | None:
    """Return a delayed event, whatever its status."""
    row = await source.fetchrow(_GET, delay_id)
    return None if row is None else _event(tuple(row))


async def list_scheduled_events(source: Source, user_id: UserId) -> list[DelayedEvent]:
    """Return the user's scheduled events in the order in which they are due."""
    return [_event(tuple(row)) for row in await source.fetch(_LIST, user_id)]


async def restart_delayed_event(database: Database, delay_id: str, user_id: UserId | None) -> bool:
    """Restart the delay. Return False if the event is not scheduled any more.

    user_id: whose event it must be. None: any user's.
    """
    return await _changed(database, _RESTART, delay_id, user_id)


async def cancel_delayed_event(database: Database, delay_id: str, user_id: UserId | None) -> bool:
    """Cancel the event. Return False if it is not scheduled any more. user_id: as for `restart_delayed_event`."""
    return await _changed(database, _CANCEL, delay_id, user_id)


async def claim_delayed_event(database: Database, delay_id: str, user_id: UserId | None) -> int | None:
    """Claim the event to send it. Return the mark of the claim, None if the event is not scheduled or claimed already.

    user_id: as for `restart_delayed_event`.
    """
    claimed: int | None = await database.fetchval(_CLAIM, delay_id, user_id)
    return claimed


async def give_up_claim(database: Database, delay_id: str, mark: int) -> None:
    """Give a claim up. The event was not sent and stays scheduled."""
    await database.execute(_UNCLAIM, delay_id, mark)


async def finalise_delayed_event(
    database: Database, delay_id: str, event_id: EventId | None, error: bytes | None
) -> None:
    """Note that the event was sent, or why it never can be. error: JSON."""
    await database.execute(_FINALISE, delay_id, event_id, error)


async def claim_due_events(write: FencedWrite, limit: int) -> tuple[list[DueEvent], int]:
    """Claim the events that are due in the shards that this lease holds. Return (events by time, number of rows read).

    limit: of each shard. Events that are claimed and not finalised are due again after RETRY_AFTER_MS.
    """
    row = await write(CLAIM_DUE, ClaimDue(limit=limit, retry_after_ms=RETRY_AFTER_MS))
    due = [DueEvent(replace(_event(tuple(record)[:9]), sending=True), record[9], record[10]) for record in row["due"]]
    return due, row["looked_at"]


async def balance_shards(write: FencedWrite) -> None:
    """Take free shards, or give some up, so that every live process of the job has as many."""
    await write(BALANCE_SHARDS, NoParameters())


async def _changed(database: Database, sql: str, delay_id: str, user_id: UserId | None) -> bool:
    status = await database.execute(sql, delay_id, user_id)
    return status.endswith(" 1")


def _event(row: Sequence[Any]) -> DelayedEvent:
    """Return the event in a row of _FIELDS, or of only those that never change."""
    delay_id, user_id, room_id, event_type, state_key, content, sticky_ms, delay_ms, scheduled_ms, *status = row
    sending, finalised_ms, event_id, error = status or (False, None, None, None)
    return DelayedEvent(
        delay_id=delay_id,
        user_id=user_id,
        room_id=room_id,
        type=event_type,
        state_key=state_key,
        content=content,
        sticky_ms=sticky_ms,
        delay_ms=delay_ms,
        scheduled_ms=scheduled_ms,
        sending=sending,
        finalised_ms=finalised_ms,
        event_id=event_id,
        error=error,
    )
