"""Events that relate to an event: pages of them, what aggregations need of them, and a room's threads.

Redacted events have no relations any more. Rejected and soft-failed events and outliers are in no timeline.
"""

import json
from collections.abc import Collection
from dataclasses import dataclass

import asyncpg

from shared.core.events.relation import REFERENCE, REPLACE, THREAD, Relation
from shared.core.history_point import HistoryPoint
from shared.core.identifiers import EventId, UserId
from shared.storage.engine.pool import Source
from shared.storage.engine.statements import Statement, parameters, statement
from shared.storage.events.timeline import EVENT_COLUMNS, EVENT_JOINS, TimelineRow, timeline_row

_HOLDS = "status = 0 AND redacted_by IS NULL AND coalesce(ordinal, anchor) IS NOT NULL"
_PLACE = "(coalesce(e.ordinal, e.anchor), -coalesce(e.back, 0))"
_MAX_ANNOTATIONS = 1000  # of one user on one event
#: Uses events_of_annotations.
_ANNOTATION_KEYS = """
    SELECT json FROM events
    WHERE room_nid = $1 AND relates_to = $2 AND sender = $3 AND rel_type = 'm.annotation' AND type = $4
      AND status = 0 AND redacted_by IS NULL LIMIT $5
"""


@parameters
class _Children:
    """The events that relate to an event, between two points. rel_type, event_type: None: any."""

    room_nid: int
    event_id: EventId
    rel_type: str | None
    event_type: str | None
    start_ordinal: int
    start_step: int
    stop_ordinal: int
    stop_step: int
    limit: int


def _children(direction: str, beyond: str) -> Statement[_Children]:
    order = f"n.place {direction}, n.step {direction}"
    stop = ">=" if beyond == "<" else "<"
    return statement(
        _Children,
        f"""
    SELECT {EVENT_COLUMNS} FROM (
        SELECT e.event_nid, coalesce(e.ordinal, e.anchor) AS place, -coalesce(e.back, 0) AS step FROM events e
        WHERE e.room_nid = :room_nid AND e.relates_to = :event_id
          AND (:rel_type::text IS NULL OR e.rel_type = :rel_type)
          AND (:event_type::text IS NULL OR e.type = :event_type) AND {_HOLDS}
          AND {_PLACE} {beyond} (:start_ordinal::bigint, :start_step::integer)
          AND {_PLACE} {stop} (:stop_ordinal::bigint, :stop_step::integer)
        ORDER BY place {direction}, step {direction} LIMIT :limit
    ) AS n JOIN events e ON e.room_nid = :room_nid AND e.event_nid = n.event_nid {EVENT_JOINS}
    ORDER BY {order}
        """,
    )


#: Both use events_by_relation, and read everything that relates to the event.
_CHILDREN_BEFORE = _children("DESC", "<")
_CHILDREN_FROM = _children("ASC", ">=")
#: Uses events_by_relation.
_LEVEL = f"""
    SELECT e.event_nid, e.event_id, coalesce(e.ordinal, e.anchor), -coalesce(e.back, 0) FROM events e
    WHERE e.room_nid = $1 AND e.relates_to = ANY($2::text[]) AND ($3::text IS NULL OR e.rel_type = $3)
      AND ($4::text IS NULL OR e.type = $4) AND {_HOLDS}
    LIMIT $5
"""
#: Uses events_by_relation, once per event and type, from the latest event no further than the limit.
_RELATED = f"""
    SELECT c.* FROM unnest($2::text[]) AS p(event_id)
    CROSS JOIN unnest(ARRAY['{REPLACE}', '{THREAD}', '{REFERENCE}']) AS t(rel_type) CROSS JOIN LATERAL (
        SELECT e.relates_to, e.rel_type, e.event_nid, e.event_id, e.type, e.state_key, e.sender, e.origin_server_ts,
               coalesce(e.ordinal, e.anchor) AS ordinal, coalesce(e.back, 0) AS back, e.state_nid
        FROM events e
        WHERE e.room_nid = $1 AND e.relates_to = p.event_id AND e.rel_type = t.rel_type AND {_HOLDS}
        ORDER BY coalesce(e.ordinal, e.anchor) DESC, e.back LIMIT $3
    ) AS c
"""
#: Uses events_by_relation.
_THREAD_SIZE = f"""
    SELECT count(*), coalesce(bool_or(e.sender = $4), false) FROM events e
    WHERE e.room_nid = $1 AND e.relates_to = $2 AND e.rel_type = '{THREAD}' AND {_HOLDS}
      AND NOT e.sender = ANY($3::text[])
"""


@parameters
class _Threads:
    """Threads whose latest reply before the end is before a point. participant: None: of all users."""

    room_nid: int
    ordinal: int
    step: int
    end_ordinal: int
    end_step: int
    limit: int
    participant: UserId | None


#: Uses events_in_threads, from the point no further than the limit, and events_by_relation for each reply, since only a
#: thread's last reply counts. The root: events_by_id.
_THREADS = statement(
    _Threads,
    f"""
    SELECT {EVENT_COLUMNS}, n.place, n.step FROM (
        SELECT e.relates_to, coalesce(e.ordinal, e.anchor) AS place, -coalesce(e.back, 0) AS step FROM events e
        WHERE e.room_nid = :room_nid AND e.rel_type = '{THREAD}' AND {_HOLDS}
          AND coalesce(e.ordinal, e.anchor) <= :ordinal AND {_PLACE} < (:ordinal::bigint, :step::integer)
          AND NOT EXISTS (
            SELECT FROM events l
            WHERE l.room_nid = :room_nid AND l.relates_to = e.relates_to AND l.rel_type = '{THREAD}'
              AND l.status = 0 AND l.redacted_by IS NULL
              AND coalesce(l.ordinal, l.anchor) >= coalesce(e.ordinal, e.anchor)
              AND (coalesce(l.ordinal, l.anchor), -coalesce(l.back, 0)) > {_PLACE}
              AND (coalesce(l.ordinal, l.anchor), -coalesce(l.back, 0)) < (:end_ordinal::bigint, :end_step::integer))
          AND (:participant::text IS NULL
            OR EXISTS (SELECT FROM events r
                       WHERE r.event_id = e.relates_to AND r.room_nid = :room_nid AND r.sender = :participant)
            OR EXISTS (SELECT FROM events o WHERE o.room_nid = :room_nid AND o.relates_to = e.relates_to
                         AND o.rel_type = '{THREAD}' AND o.sender = :participant AND o.status = 0
                         AND o.redacted_by IS NULL))
        ORDER BY coalesce(e.ordinal, e.anchor) DESC, step DESC LIMIT :limit
    ) AS n LEFT JOIN events e ON e.event_id = n.relates_to AND e.room_nid = :room_nid AND e.status = 0
      AND coalesce(e.ordinal, e.anchor) IS NOT NULL {EVENT_JOINS}
    ORDER BY n.place DESC, n.step DESC
    """,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RelatedRow:
    """An event that relates to another, without its content: enough to count it and to decide who may see it.

    ordinal, back, state_nid: as in TimelineRow.
    """

    relation: Relation
    event_nid: int
    event_id: EventId
    type: str
    state_key: str | None
    sender: UserId
    origin_server_ts: int
    ordinal: int
    back: int
    state_nid: int | None
    membership: str | None = None
    visibility: str | None = None


@dataclass(frozen=True, slots=True)
class RelationFilter:
    """The relations to read. None: any."""

    rel_type: str | None = None
    event_type: str | None = None


async def get_children(
    source: Source,
    room_nid: int,
    event_id: EventId,
    wanted: RelationFilter,
    *,
    start: HistoryPoint,
    stop: HistoryPoint,
    limit: int,
    forward: bool,
) -> list[TimelineRow]:
    """Return at most `limit` events that relate to an event, from `start` to `stop`.

    forward: True for earliest first, up to `stop`. False for latest first, back to `stop`.
    """
    record = _Children(
        room_nid=room_nid,
        event_id=event_id,
        rel_type=wanted.rel_type,
        event_type=wanted.event_type,
        start_ordinal=start.ordinal,
        start_step=start.step,
        stop_ordinal=stop.ordinal,
        stop_step=stop.step,
        limit=limit,
    )
    children = _CHILDREN_FROM if forward else _CHILDREN_BEFORE
    return [timeline_row(row) for row in await source.fetch(*children.bind(record))]


async def get_relating(
    source: Source, room_nid: int, event_ids: Collection[EventId], wanted: RelationFilter, limit: int
) -> list[tuple[HistoryPoint, int, EventId]]:
    """Return (point, number, id) of at most `limit` events that relate to any of these, in no particular order."""
    rows = await source.fetch(_LEVEL, room_nid, list(event_ids), wanted.rel_type, wanted.event_type, limit)
    return [(HistoryPoint(ordinal, step), nid, event_id) for nid, event_id, ordinal, step in rows]


async def get_related(
    source: Source, room_nid: int, event_ids: Collection[EventId], limit: int
) -> dict[EventId, list[RelatedRow]]:
    """Return, by event, the latest edits, replies in threads and references."""
    related: dict[EventId, list[RelatedRow]] = {}
    for row in await source.fetch(_RELATED, room_nid, list(event_ids), limit):
        one = _related(row)
        related.setdefault(one.relation.event_id, []).append(one)
    return related


async def get_thread_size(
    source: Source, room_nid: int, event_id: EventId, user_id: UserId, ignored: Collection[str]
) -> tuple[int, bool]:
    """Return (number of replies in the thread, any of the user's). Replies of ignored users are not counted."""
    row = await source.fetchrow(_THREAD_SIZE, room_nid, event_id, list(ignored), user_id)
    assert row is not None
    return row[0], row[1]


async def get_thread_roots(
    source: Source, room_nid: int, point: HistoryPoint, end: HistoryPoint, limit: int, participant: UserId | None
) -> list[tuple[HistoryPoint, TimelineRow | None]]:
    """Return at most `limit` threads whose latest reply before `end` is before `point`, latest first.

    Each is the reply's point and the thread's root, None if the root is in no timeline.
    participant: only threads with a root or a reply of this user. None: all.
    """
    record = _Threads(
        room_nid=room_nid,
        ordinal=point.ordinal,
        step=point.step,
        end_ordinal=end.ordinal,
        end_step=end.step,
        limit=limit,
        participant=participant,
    )
    rows = await source.fetch(*_THREADS.bind(record))
    return [
        (HistoryPoint(row["place"], row["step"]), None if row["event_nid"] is None else timeline_row(row))
        for row in rows
    ]


def _related(row: asyncpg.Record) -> RelatedRow:
    columns = dict(row)
    relation = Relation(columns.pop("rel_type"), columns.pop("relates_to"))
    return RelatedRow(relation=relation, **columns)


async def get_annotation_keys(
    source: Source, room_nid: int, event_id: EventId, sender: UserId, event_type: str
) -> set[str]:
    """Return the keys of a user's annotations of an event, of one event type. Redacted annotations do not count."""
    rows = await source.fetch(_ANNOTATION_KEYS, room_nid, event_id, sender, event_type, _MAX_ANNOTATIONS)
    # Not orjson: rooms of old versions have integers beyond 64 bits.
    keys = (json.loads(row["json"])["content"]["m.relates_to"].get("key") for row in rows)
    return {key for key in keys if isinstance(key, str)}
