"""Thread subscriptions (MSC4306): one row per user and thread, with the position of its last change.

Only the owner of the user's slot writes. An automatic subscription is refused if its cause was there before the user
unsubscribed. Ordinals decide this: the order in which this server got the room's events.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from shared.core.identifiers import RoomId, UserId
from shared.core.sync_tokens.vector import Vector
from shared.storage.engine.fenced import FencedWrite, fenced_statement
from shared.storage.engine.pool import Source
from shared.storage.engine.statements import parameters, statement
from shared.storage.engine.vectors import VectorParameter, is_covered, vector_parameter


@parameters
class ThreadOfUser:
    """A thread, and the user whose subscription it is."""

    user_id: UserId
    room_nid: int
    thread_id: str


@parameters
class Subscribe(ThreadOfUser):
    """cause: ordinal of the event that causes an automatic subscription. None: the user asks for it."""

    cause: int | None


_KEY = "user_id = :user_id AND room_nid = :room_nid AND thread_id = :thread_id"
#: A subscription that the user asked for never becomes an automatic one. Uses the primary key.
SUBSCRIBE = fenced_statement(
    "subscribe_to_thread",
    Subscribe,
    {
        "before": f"SELECT subscribed FROM thread_subscriptions WHERE {_KEY}",
        "stored": """
            INSERT INTO thread_subscriptions AS t
                (user_id, room_nid, thread_id, subscribed, automatic, writer, position)
            SELECT :user_id, :room_nid, :thread_id, true, :cause::bigint IS NOT NULL, :lease,
                   nextval('stream_thread_subscriptions') FROM fence
            ON CONFLICT (user_id, room_nid, thread_id) DO UPDATE
                SET subscribed = true, automatic = excluded.automatic, writer = excluded.writer,
                    position = excluded.position
                WHERE excluded.position > t.position AND CASE WHEN :cause::bigint IS NULL
                    THEN t.automatic OR NOT t.subscribed ELSE NOT t.subscribed AND t.until < :cause END
            RETURNING position
        """,
    },
    "(SELECT position FROM stored) AS position, (SELECT subscribed FROM before) AS was_subscribed",
)
#: Uses the primary key, events_room_nid_ordinal_key.
UNSUBSCRIBE = fenced_statement(
    "unsubscribe_from_thread",
    ThreadOfUser,
    {
        "stored": f"""
            UPDATE thread_subscriptions t
            SET subscribed = false, writer = :lease, position = nextval('stream_thread_subscriptions'),
                until = coalesce((SELECT e.ordinal FROM events e WHERE e.room_nid = :room_nid AND e.ordinal IS NOT NULL
                                  ORDER BY e.ordinal DESC LIMIT 1), 0)
            FROM fence WHERE {_KEY} AND t.subscribed RETURNING t.position
        """
    },
    "(SELECT position FROM stored) AS position",
)
#: $3 thread, $4 cause or NULL. An event of the thread that is not live counts as the oldest: ordinal 0.
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


@parameters
class _Changes:
    """Changes that `since` does not cover and `now` does.

    before: positions below this one only.
    limit: the most changes.
    """

    user_id: UserId
    before: int
    limit: int
    since: VectorParameter
    now: VectorParameter


#: Uses thread_subscriptions_by_user.
_CHANGES = statement(
    _Changes,
    f"""
    SELECT {_FIELDS} FROM thread_subscriptions t JOIN rooms r USING (room_nid)
    WHERE t.user_id = :user_id AND t.position < :before AND t.position > :since.base
      AND NOT {is_covered("t", "since")} AND {is_covered("t", "now")}
    ORDER BY t.position DESC LIMIT :limit
    """,
)
#: Uses thread_subscriptions_by_thread.
_SUBSCRIBERS = """
    SELECT user_id, position FROM thread_subscriptions WHERE room_nid = $1 AND thread_id = $2 AND subscribed
"""
END = 2**62
#: Covers everything, for reading up to the present.
PRESENT = Vector(END, END)


@dataclass(frozen=True, slots=True)
class Thread:
    """A thread that the user may see.

    cause: ordinal of the event that was named. None: it is not in the thread.
    automatic: True if the user's subscription is automatic. None: they have none.
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
    """Return a thread of a room that the user is in, None if there is no such thread. cause: event id."""
    rows = await source.fetch(_FIND, room_id, user_id, thread_id, cause)
    if not rows:
        return None
    [row] = rows
    return Thread(row["room_nid"], row["ordinal"] if row["in_thread"] else None, row["automatic"])


async def subscribe(
    write: FencedWrite, user_id: UserId, room_nid: int, thread_id: str, cause: int | None, streams: Collection[str]
) -> int | Literal["unchanged", "conflict"]:
    """Subscribe a user to a thread. Return the position of the change.

    cause: as in Subscribe.
    Returns "conflict" if the user unsubscribed after the cause was there.
    """
    record = Subscribe(user_id=user_id, room_nid=room_nid, thread_id=thread_id, cause=cause)
    row = await write(SUBSCRIBE, record, streams=tuple(streams))
    position: int | None = row["position"]
    if position is not None:
        return position
    return "unchanged" if row["was_subscribed"] else "conflict"


async def unsubscribe(
    write: FencedWrite, user_id: UserId, room_nid: int, thread_id: str, streams: Collection[str]
) -> int | None:
    """Unsubscribe a user from a thread. Return the position of the change, None if there was no subscription."""
    thread = ThreadOfUser(user_id=user_id, room_nid=room_nid, thread_id=thread_id)
    row = await write(UNSUBSCRIBE, thread, streams=tuple(streams))
    position: int | None = row["position"]
    return position


async def get_subscription_changes(
    source: Source, user_id: UserId, since: Vector, now: Vector, limit: int, before: int = END
) -> list[SubscriptionChange]:
    """Return the user's subscriptions that changed after `since` and below the position `before`, latest first."""
    record = _Changes(
        user_id=user_id, before=before, limit=limit, since=vector_parameter(since), now=vector_parameter(now)
    )
    return [SubscriptionChange(*row) for row in await source.fetch(*_CHANGES.bind(record))]


async def get_thread_subscribers(source: Source, room_nid: int, thread_id: str) -> list[tuple[UserId, int]]:
    """Return (user id, position) of the subscribers of a thread, also of those who have left the room."""
    return [tuple(row) for row in await source.fetch(_SUBSCRIBERS, room_nid, thread_id)]
