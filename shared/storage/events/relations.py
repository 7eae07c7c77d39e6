"""Reading what relates to an event: pages of it, the little that is needed to sum it up, and a room's threads.

Redacted events relate to nothing any more; rejected and soft-failed ones and outliers are in no timeline.
"""

import json
from collections.abc import Collection
from dataclasses import dataclass

import asyncpg

from shared.core.events.relation import REFERENCE, REPLACE, THREAD, Relation
from shared.core.history_point import HistoryPoint
from shared.core.identifiers import EventId, UserId
from shared.storage.engine.pool import Source
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


def _children(direction: str, beyond: str) -> str:
    """$3, $4: relationship and event type, NULL for any; $5, $6 a place; $7 another, at which to stop; $9 limit."""
    order = f"n.place {direction}, n.step {direction}"
    stop = ">=" if beyond == "<" else "<"
    return f"""
    SELECT {EVENT_COLUMNS} FROM (
        SELECT e.event_nid, coalesce(e.ordinal, e.anchor) AS place, -coalesce(e.back, 0) AS step FROM events e
        WHERE e.room_nid = $1 AND e.relates_to = $2 AND ($3::text IS NULL OR e.rel_type = $3)
          AND ($4::text IS NULL OR e.type = $4) AND {_HOLDS}
          AND {_PLACE} {beyond} ($5::bigint, $6::integer) AND {_PLACE} {stop} ($7::bigint, $8::integer)
        ORDER BY place {direction}, step {direction} LIMIT $9
    ) AS n JOIN events e ON e.room_nid = $1 AND e.event_nid = n.event_nid {EVENT_JOINS}
    ORDER BY {order}
"""


#: Both use events_by_relation: each looks at all that relates to the one event.
_CHILDREN_BEFORE = _children("DESC", "<")
_CHILDREN_FROM = _children("ASC", ">=")
#: Uses events_by_relation.
_LEVEL = f"""
    SELECT e.event_nid, e.event_id, coalesce(e.ordinal, e.anchor), -coalesce(e.back, 0) FROM events e
    WHERE e.room_nid = $1 AND e.relates_to = ANY($2::text[]) AND ($3::text IS NULL OR e.rel_type = $3)
      AND ($4::text IS NULL OR e.type = $4) AND {_HOLDS}
    LIMIT $5
"""
#: Uses events_by_relation, once per event asked about and type, from the latest on no further than the limit.
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
#: Uses events_in_threads, read from the place on no further than the limit, and events_by_relation for each reply that
#: it comes to: only a thread's last one stands for it. The root: events_by_id.
_THREADS = f"""
    SELECT {EVENT_COLUMNS}, n.place, n.step FROM (
        SELECT e.relates_to, coalesce(e.ordinal, e.anchor) AS place, -coalesce(e.back, 0) AS step FROM events e
        WHERE e.room_nid = $1 AND e.rel_type = '{THREAD}' AND {_HOLDS}
          AND coalesce(e.ordinal, e.anchor) <= $2 AND {_PLACE} < ($2::bigint, $3::integer)
          AND NOT EXISTS (
            SELECT FROM events l WHERE l.room_nid = $1 AND l.relates_to = e.relates_to AND l.rel_type = '{THREAD}'
              AND l.status = 0 AND l.redacted_by IS NULL
              AND coalesce(l.ordinal, l.anchor) >= coalesce(e.ordinal, e.anchor)
              AND (coalesce(l.ordinal, l.anchor), -coalesce(l.back, 0)) > {_PLACE}
              AND (coalesce(l.ordinal, l.anchor), -coalesce(l.back, 0)) < ($6::bigint, $7::integer))
          AND ($5::text IS NULL
            OR EXISTS (SELECT FROM events r WHERE r.event_id = e.relates_to AND r.room_nid = $1 AND r.sender = $5)
            OR EXISTS (SELECT FROM events o WHERE o.room_nid = $1 AND o.relates_to = e.relates_to
                         AND o.rel_type = '{THREAD}' AND o.sender = $5 AND o.status = 0 AND o.redacted_by IS NULL))
        ORDER BY coalesce(e.ordinal, e.anchor) DESC, step DESC LIMIT $4
    ) AS n LEFT JOIN events e ON e.event_id = n.relates_to AND e.room_nid = $1 AND e.status = 0
      AND coalesce(e.ordinal, e.anchor) IS NOT NULL {EVENT_JOINS}
    ORDER BY n.place DESC, n.step DESC
"""


@dataclass(frozen=True, slots=True)
class RelatedRow:
    """An event that relates to another, without its content: what is needed to count it and to judge who may see it.

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
class Wanted:
    """Which relations: None for any."""

    rel_type: str | None = None
    event_type: str | None = None

    @property
    def parameters(self) -> tuple[str | None, str | None]:
        return self.rel_type, self.event_type


async def get_children(
    source: Source, room_nid: int, event_id: EventId, wanted: Wanted, start: HistoryPoint, stop: HistoryPoint,
    limit: int, *, forward: bool,
) -> list[TimelineRow]:  # fmt: skip
    """Return at most `limit` events that relate to one, from a place on (forward: up to `stop`, else back to it)."""
    sql = _CHILDREN_FROM if forward else _CHILDREN_BEFORE
    rows = await source.fetch(sql, room_nid, event_id, *wanted.parameters, *start, *stop, limit)
    return [timeline_row(row) for row in rows]


async def get_relating(
    source: Source, room_nid: int, event_ids: Collection[EventId], wanted: Wanted, limit: int
) -> list[tuple[HistoryPoint, int, EventId]]:
    """Return (place, number, id) of at most `limit` events that relate to any of these, in no order."""
    rows = await source.fetch(_LEVEL, room_nid, list(event_ids), *wanted.parameters, limit)
    return [(HistoryPoint(ordinal, step), nid, event_id) for nid, event_id, ordinal, step in rows]


async def get_related(
    source: Source, room_nid: int, event_ids: Collection[EventId], limit: int
) -> dict[EventId, list[RelatedRow]]:
    """Return the edits, replies in threads and references of each event that has any: the latest of each type."""
    related: dict[EventId, list[RelatedRow]] = {}
    for row in await source.fetch(_RELATED, room_nid, list(event_ids), limit):
        one = _related(row)
        related.setdefault(one.relation.event_id, []).append(one)
    return related


async def get_thread_size(
    source: Source, room_nid: int, event_id: EventId, user_id: UserId, ignored: Collection[str]
) -> tuple[int, bool]:
    """Return how many replies the thread has without those of the ignored users, and whether one is the user's."""
    row = await source.fetchrow(_THREAD_SIZE, room_nid, event_id, list(ignored), user_id)
    assert row is not None
    return row[0], row[1]


async def get_thread_roots(
    source: Source, room_nid: int, place: HistoryPoint, end: HistoryPoint, limit: int, participant: str | None
) -> list[tuple[HistoryPoint, TimelineRow | None]]:
    """Return at most `limit` threads whose latest reply before `end` lies before a place, latest first.

    Each with that reply's place, and its root; None where that is in no timeline. participant: only threads whose
    root, or any reply, is his.
    """
    rows = await source.fetch(_THREADS, room_nid, *place, limit, participant, *end)
    return [
        (HistoryPoint(row["place"], row["step"]), None if row["event_nid"] is None else timeline_row(row))
        for row in rows
    ]


def _related(row: asyncpg.Record) -> RelatedRow:
    relates_to, rel_type, *others = row
    return RelatedRow(Relation(rel_type, relates_to), *others)


async def get_annotation_keys(
    source: Source, room_nid: int, event_id: EventId, sender: UserId, event_type: str
) -> set[str]:
    """Return the keys of a user's annotations of an event, of one event type; redacted ones count no more."""
    rows = await source.fetch(_ANNOTATION_KEYS, room_nid, event_id, sender, event_type, _MAX_ANNOTATIONS)
    # Not orjson: rooms of old versions have integers beyond 64 bits.
    keys = (json.loads(row["json"])["content"]["m.relates_to"].get("key") for row in rows)
    return {key for key in keys if isinstance(key, str)}
