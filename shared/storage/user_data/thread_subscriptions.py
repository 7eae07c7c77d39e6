"""Thread subscriptions (MSC4306): one row per user and thread, with the position of its last change.

Only the owner of the user's slot writes. An automatic subscription is refused when its cause was there already when
the user unsubscribed: what is compared are ordinals, the order in which this server had the room's events.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from shared.core.identifiers import RoomId, UserId
from shared.core.sync_tokens.vector import Vector
from shared.storage.engine.fenced import FencedWrite, fenced_statement
from shared.storage.engine.pool import Source

_KEY = "user_id = $2 AND room_nid = $3 AND thread_id = $4"
#: $2 user, $3 room, $4 thread, $5 ordinal of the cause, NULL: the user himself wants it. A subscription that he made
#: himself stays so. Uses the primary key.
SUBSCRIBE = fenced_statement(
    "subscribe_to_thread",
    {
        "before": f"SELECT subscribed FROM thread_subscriptions WHERE {_KEY}",
        "stored": """
            INSERT INTO thread_subscriptions AS t
                (user_id, room_nid, thread_id, subscribed, automatic, writer, position)
            SELECT $2, $3, $4, true, $5::bigint IS NOT NULL, $1, nextval('stream_thread_subscriptions') FROM fence
            ON CONFLICT (user_id, room_nid, thread_id) DO UPDATE
                SET subscribed = true, automatic = excluded.automatic, writer = excluded.writer,
                    position = excluded.position
                WHERE excluded.position > t.position AND CASE WHEN $5::bigint IS NULL
                    THEN t.automatic OR NOT t.subscribed ELSE NOT t.subscribed AND t.until < $5 END
            RETURNING position
        """,
    },
    "(SELECT position FROM stored) AS position, (SELECT subscribed FROM before) AS was_subscribed",
)
#: Uses the primary key, events_room_nid_ordinal_key.
UNSUBSCRIBE = fenced_statement(
    "unsubscribe_from_thread",
    {
        "stored": f"""
            UPDATE thread_subscriptions t
            SET subscribed = false, writer = $1, position = nextval('stream_thread_subscriptions'),
                until = coalesce((SELECT e.ordinal FROM events e WHERE e.room_nid = $3 AND e.ordinal IS NOT NULL
                                  ORDER BY e.ordinal DESC LIMIT 1), 0)
            FROM fence WHERE {_KEY} AND t.subscribed RETURNING t.position
        """
    },
    "(SELECT position FROM stored) AS position",
)
#: $3 thread, $4 cause or NULL. A thread's event that isn't live is as old as all that came from elsewhere: ordinal 0.
#: Uses rooms_room_id_key, the primary keys of memberships and thread_subscriptions, events_by_id.
_FIND = """
    SELECT r.room_nid, c.event_id IS NOT NULL AS in_thread, coalesce(c.ordinal, 0) AS ordinal,
           CASE WHEN t.subscribed THEN t.automatic END AS automatic
    FROM rooms r
    JOIN memberships m ON m.room_nid = r.room_nid AND m.user_id = $2 AND m.membership = 'join'
    JOIN events e ON e.room_nid = r.room_nid AND e.event_id = $3 AND e.status = 0
    LEFT JOIN events c ON c.room_nid = r.room_nid AND c.event_id = $4 AND c.status = 0
        AND (c.thread_id = $3 OR c.relates_to = $3 AND c.rel_type = 'm.thread')
    LEFT JOIN thread_subscriptions t ON t.user_id = $2 AND t.room_nid = r.room_nid AND t.thread_id = $3
    WHERE r.room_id = $1
"""
_FIELDS = "r.room_id, t.thread_id, t.subscribed, t.automatic, t.writer, t.position"
#: $2: below this position, $3: at most so many. $4 to $7 a vector: what it covers is left out; $8 to $11: nothing
#: beyond this one. Uses thread_subscriptions_by_user.
_CHANGES = f"""
    SELECT {_FIELDS} FROM thread_subscriptions t JOIN rooms r USING (room_nid)
    WHERE t.user_id = $1 AND t.position < $2 AND t.position > $5
      AND NOT (t.writer <= $4 AND t.position <= coalesce(
        (SELECT a.position FROM unnest($6::bigint[], $7::bigint[]) AS a(writer, position) WHERE a.writer = t.writer),
        $5::bigint))
      AND t.writer <= $8 AND t.position <= coalesce(
        (SELECT a.position FROM unnest($10::bigint[], $11::bigint[]) AS a(writer, position) WHERE a.writer = t.writer),
        $9::bigint)
    ORDER BY t.position DESC LIMIT $3
"""
#: Uses thread_subscriptions_by_thread.
_SUBSCRIBERS = """
    SELECT user_id, position FROM thread_subscriptions WHERE room_nid = $1 AND thread_id = $2 AND subscribed
"""
END = 2**62
#: Covers everything: for reading up to the present.
PRESENT = Vector(END, END)


@dataclass(frozen=True, slots=True)
class Thread:
    """A thread that the user may see. cause: ordinal of the event that was named, None: it is not in the thread.

    automatic: of his subscription; None: he has none.
    """

    room_nid: int
    cause: int | None
    automatic: bool | None


@dataclass(frozen=True, slots=True)
class SubscriptionChange:
    room_id: RoomId
    thread_id: str
    subscribed: bool
    automatic: bool
    writer: int
    position: int


async def find_thread(
    source: Source, room_id: RoomId, user_id: UserId, thread_id: str, cause: str | None = None
) -> Thread | None:
    """Return a thread of a room that the user is in; None where there is none such. cause: event id."""
    rows = await source.fetch(_FIND, room_id, user_id, thread_id, cause)
    if not rows:
        return None
    [row] = rows
    return Thread(row["room_nid"], row["ordinal"] if row["in_thread"] else None, row["automatic"])


async def subscribe(
    write: FencedWrite, user_id: UserId, room_nid: int, thread_id: str, cause: int | None, streams: Collection[str]
) -> int | Literal["unchanged", "conflict"]:
    """Return the position of the change. cause: None: the user himself wants it.

    conflict: he unsubscribed after the cause was there.
    """
    row = await write(SUBSCRIBE, user_id, room_nid, thread_id, cause, streams=tuple(streams))
    position: int | None = row["position"]
    if position is not None:
        return position
    return "unchanged" if row["was_subscribed"] else "conflict"


async def unsubscribe(
    write: FencedWrite, user_id: UserId, room_nid: int, thread_id: str, streams: Collection[str]
) -> int | None:
    """Return the position of the change, None: there was no subscription."""
    row = await write(UNSUBSCRIBE, user_id, room_nid, thread_id, streams=tuple(streams))
    position: int | None = row["position"]
    return position


async def read_changes(
    source: Source, user_id: UserId, since: Vector, now: Vector, limit: int, before: int = END
) -> list[SubscriptionChange]:
    """Return those of the user's subscriptions that changed after `since` and before the position, the latest first."""
    rows = await source.fetch(_CHANGES, user_id, before, limit, *_columns(since), *_columns(now))
    return [SubscriptionChange(*row) for row in rows]


async def subscribers_of(source: Source, room_nid: int, thread_id: str) -> list[tuple[UserId, int]]:
    """Return (user id, position of that) of those who are subscribed to a thread, in its room or not any more."""
    return [tuple(row) for row in await source.fetch(_SUBSCRIBERS, room_nid, thread_id)]


def _columns(vector: Vector) -> tuple[int, int, list[int], list[int]]:
    return vector.known, vector.base, list(vector.above), list(vector.above.values())
