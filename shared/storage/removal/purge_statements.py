"""The fenced statements of a purge. `purge.py` describes what they do together, and the reasons for their order.

None waits for a lock: locked rows are left for the next call. If `remaining` is true, the next call finds more to do.
"""

from collections.abc import Sequence
from typing import NamedTuple

from shared.storage.engine.fenced import fenced_statement
from shared.storage.engine.statements import parameters

RETIRED = 4  # events.status: purged from the timeline, kept for the state, auth chains or as a redaction
#: All types that `auth_types_for` selects: only these can be in an auth chain. The index events_retired has the same.
AUTH_TYPES = (
    "m.room.create",
    "m.room.member",
    "m.room.power_levels",
    "m.room.join_rules",
    "m.room.third_party_invite",
)

_AUTH_TYPES = ", ".join(f"'{kind}'" for kind in AUTH_TYPES)
UNDER_WAY = (
    "SELECT r.* FROM fence, rooms r WHERE r.room_nid = :room_nid AND r.purge_to IS NOT NULL AND r.deleted_id IS NULL"
)
_ROOM = UNDER_WAY + " FOR NO KEY UPDATE OF r SKIP LOCKED"
#: The last event was taken from the timeline at least `settle_s` seconds ago.
_SETTLED = UNDER_WAY + " AND r.retired_at < clock_timestamp() - make_interval(secs => :settle_s)"
#: Redactions and state events, which the sweep deletes later.
_STAYS = "(v.state_key IS NOT NULL OR v.type = 'm.room.redaction')"


@parameters
class StartPurge:
    """before_ordinal: the wanted end. keep_events: the number of latest events that stay."""

    room_nid: int
    before_ordinal: int
    keep_events: int


@parameters
class PurgeRows:
    """rows: about the most rows that one statement changes."""

    room_nid: int
    rows: int


@parameters
class SettledRows(PurgeRows):
    """settle_s: seconds since the last event was taken from the timeline."""

    settle_s: float


@parameters
class SweepRetired(SettledRows):
    """after_nid: events with a greater number only."""

    after_nid: int


@parameters
class FinishPurge:
    room_nid: int
    settle_s: float


class RoomWithRetention(NamedTuple):
    """before_ms: events before this time may go."""

    room_nid: int
    before_ms: int


@parameters
class StartRetention:
    """window: the most ordinals of a room that one call reads. keep_events: the number of latest events that stay."""

    rooms: Sequence[RoomWithRetention]
    now_ms: int
    window: int
    keep_events: int


#: Uses events_room_nid_ordinal_key.
START_PURGE = fenced_statement(
    "purge_start",
    StartPurge,
    {
        "bound": """
            SELECT r.first_ordinal,
                   least(:before_ordinal::bigint, last.ordinal + 1 - greatest(:keep_events::bigint, 1)) AS purge_to
            FROM rooms r CROSS JOIN LATERAL (
                SELECT ordinal FROM events WHERE room_nid = r.room_nid AND ordinal IS NOT NULL
                ORDER BY ordinal DESC LIMIT 1) AS last
            WHERE r.room_nid = :room_nid AND r.deleted_id IS NULL""",
        "started": """
            UPDATE rooms r SET purge_to = greatest(r.purge_to, b.purge_to) FROM fence, bound b
            WHERE r.room_nid = :room_nid AND b.purge_to > b.first_ordinal AND r.deleted_id IS NULL
            RETURNING r.purge_to""",
    },
    "(SELECT purge_to FROM started) AS purge_to",
)

#: Uses events_of_history and the primary key of gaps.
RETIRE_HISTORY = fenced_statement(
    "purge_history",
    PurgeRows,
    {
        "room": UNDER_WAY,
        "victims": """
            SELECT e.event_nid, e.type, e.state_key FROM fence, room r JOIN events e
              ON e.room_nid = :room_nid AND e.anchor IS NOT NULL AND e.anchor <= r.purge_to
            ORDER BY e.anchor, e.back DESC LIMIT :rows FOR UPDATE OF e SKIP LOCKED""",
        "kept": f"""
            UPDATE events e SET status = {RETIRED}, anchor = NULL, back = NULL, state_nid = NULL, gap = NULL
            FROM fence, victims v WHERE e.room_nid = :room_nid AND e.event_nid = v.event_nid AND {_STAYS}
            RETURNING e.event_nid""",
        "gone": f"""
            DELETE FROM events e USING fence, victims v
            WHERE e.room_nid = :room_nid AND e.event_nid = v.event_nid AND NOT {_STAYS} RETURNING e.event_nid""",
        "closed": """
            DELETE FROM gaps g USING fence
            WHERE g.room_nid = :room_nid AND g.anchor IN (
                SELECT o.anchor FROM room r JOIN gaps o ON o.room_nid = :room_nid AND o.anchor <= r.purge_to
                ORDER BY o.anchor LIMIT :rows FOR UPDATE OF o SKIP LOCKED)
            RETURNING g.anchor""",
    },
    "(SELECT count(*) FROM gone) AS deleted,"
    " (SELECT count(*) FROM kept) + (SELECT count(*) FROM closed) + (SELECT count(*) FROM gone) > 0 AS remaining",
)

#: Deletes events that are older than the least time of the next events, so that one forged time cannot delete too many.
#: Uses events_room_nid_ordinal_key and events_aside.
DELETE_ASIDE = fenced_statement(
    "purge_aside",
    PurgeRows,
    {
        "before": f"""
            SELECT min(e.origin_server_ts) AS ms FROM ({UNDER_WAY}) AS r
            JOIN events e ON e.room_nid = :room_nid AND e.ordinal >= r.purge_to AND e.ordinal < r.purge_to + 10""",
        "victims": """
            SELECT e.event_nid FROM fence, before b JOIN events e
              ON e.room_nid = :room_nid AND e.status IN (1, 2) AND e.state_key IS NULL AND e.origin_server_ts < b.ms
            WHERE e.ordinal IS NULL AND e.anchor IS NULL LIMIT :rows FOR UPDATE OF e SKIP LOCKED""",
        "gone": """
            DELETE FROM events e USING fence, victims v WHERE e.room_nid = :room_nid AND e.event_nid = v.event_nid
            RETURNING e.event_nid""",
    },
    "(SELECT count(*) FROM gone) AS deleted, (SELECT count(*) FROM gone) >= :rows::bigint AS remaining",
)

#: Uses events_room_nid_ordinal_key. It stops before the first row that is locked. A forward extremity is spared, since
#: the next event will be built on it; a later call purges it after that.
RETIRE_LIVE = fenced_statement(
    "purge_live",
    PurgeRows,
    {
        "room": _ROOM,
        "bound": "SELECT r.first_ordinal, least(r.purge_to, r.first_ordinal + :rows::bigint) AS until FROM room r",
        "picked": """
            SELECT e.event_nid, e.ordinal, e.type, e.state_key, e.status FROM fence, bound b JOIN events e
              ON e.room_nid = :room_nid AND e.ordinal >= b.first_ordinal AND e.ordinal < b.until
            FOR UPDATE OF e SKIP LOCKED""",
        "reached": """
            SELECT coalesce(min(e.ordinal), min(b.until)) AS ordinal FROM bound b LEFT JOIN events e
              ON e.room_nid = :room_nid AND e.ordinal >= b.first_ordinal AND e.ordinal < b.until
              AND e.ordinal NOT IN (SELECT ordinal FROM picked)""",
        "again": """
            SELECT e.event_nid, e.ordinal, e.type, e.state_key, e.status FROM fence, room r JOIN events e
              ON e.room_nid = :room_nid AND e.ordinal = ANY(r.spared) FOR UPDATE OF e SKIP LOCKED""",
        "heads": "SELECT unnest(x.event_nids) AS event_nid FROM forward_extremities x WHERE x.room_nid = :room_nid",
        "due": """
            SELECT p.* FROM picked p, reached WHERE p.ordinal < reached.ordinal UNION ALL SELECT * FROM again""",
        "victims": "SELECT * FROM due WHERE event_nid NOT IN (SELECT event_nid FROM heads)",
        "kept": f"""
            UPDATE events e SET status = {RETIRED}, state_nid = NULL, gap = NULL
            FROM fence, victims v WHERE e.room_nid = :room_nid AND e.event_nid = v.event_nid AND {_STAYS}
              AND v.status <> {RETIRED}""",
        "gone": f"""
            DELETE FROM events e USING fence, victims v
            WHERE e.room_nid = :room_nid AND e.event_nid = v.event_nid AND NOT {_STAYS} RETURNING e.event_nid""",
        "moved": """
            UPDATE rooms r SET first_ordinal = reached.ordinal, retired_at = clock_timestamp(),
                spared = ARRAY(SELECT s.ordinal FROM (
                    SELECT ordinal FROM due WHERE event_nid IN (SELECT event_nid FROM heads)
                    UNION SELECT old.ordinal FROM room, unnest(room.spared) AS old(ordinal)
                          WHERE old.ordinal NOT IN (SELECT ordinal FROM again)
                            AND EXISTS (SELECT FROM events e WHERE e.room_nid = :room_nid AND e.ordinal = old.ordinal)
                ) AS s ORDER BY s.ordinal)
            FROM fence, room, reached WHERE r.room_nid = room.room_nid
              AND (reached.ordinal > room.first_ordinal OR EXISTS (SELECT FROM again, victims
                                                                  WHERE again.event_nid = victims.event_nid))
            RETURNING r.first_ordinal < r.purge_to AS remaining""",
    },
    "(SELECT count(*) FROM gone) AS deleted, coalesce((SELECT remaining FROM moved), false) AS remaining",
)

#: Uses state_changes_by_ordinal, the primary key of state_changes, state_snapshots_by_base.
COMPACT_LINE = fenced_statement(
    "purge_compact",
    SettledRows,
    {
        "room": _SETTLED + " FOR NO KEY UPDATE OF r SKIP LOCKED",
        "needed": """
            SELECT r.compacted_to, least(r.first_ordinal, (SELECT min(s.ordinal) FROM unnest(r.spared) AS s(ordinal)),
                (SELECT min(base) FROM state_snapshots WHERE room_nid = :room_nid AND base IS NOT NULL)) AS ordinal
            FROM room r""",
        "bound": """
            SELECT n.compacted_to, greatest(n.compacted_to, least(n.ordinal, n.compacted_to + :rows::bigint)) AS until,
                   n.ordinal FROM needed n""",
        "superseded": """
            SELECT former.type, former.state_key, former.ordinal FROM bound b
            JOIN state_changes c ON c.room_nid = :room_nid AND c.ordinal >= b.compacted_to AND c.ordinal < b.until
            CROSS JOIN LATERAL (
                SELECT f.type, f.state_key, f.ordinal FROM state_changes f
                WHERE f.room_nid = :room_nid AND f.type = c.type AND f.state_key = c.state_key AND f.ordinal < c.ordinal
                ORDER BY f.ordinal DESC LIMIT 1) AS former
            LIMIT :rows * 4""",
        "gone": """
            DELETE FROM state_changes c USING fence, superseded s
            WHERE c.room_nid = :room_nid AND c.type = s.type AND c.state_key = s.state_key AND c.ordinal = s.ordinal
            RETURNING c.ordinal""",
        "moved": """
            UPDATE rooms r SET compacted_to = b.until FROM fence, bound b
            WHERE r.room_nid = :room_nid AND (SELECT count(*) FROM superseded) < :rows * 4 RETURNING r.compacted_to""",
    },
    "(SELECT count(*) FROM gone) AS deleted,"
    " coalesce((SELECT coalesce(m.compacted_to, b.compacted_to) < b.ordinal FROM bound b LEFT JOIN moved m ON true),"
    " false) AS remaining",
)

#: Uses events_retired, the primary keys of events,
#: current_state and state_changes, state_snapshots_by_event, awaited_redactions_by_redaction.
SWEEP_RETIRED = fenced_statement(
    "purge_sweep",
    SweepRetired,
    {
        "room": _SETTLED,
        "page": f"""
            SELECT e.event_nid, e.type, e.state_key, e.redacts_nid FROM fence, room r JOIN events e
              ON e.room_nid = :room_nid AND e.status = {RETIRED} AND e.type NOT IN ({_AUTH_TYPES})
              AND e.event_nid > :after_nid
            ORDER BY e.event_nid LIMIT :rows FOR UPDATE OF e SKIP LOCKED""",
        "keys": "SELECT DISTINCT type, state_key FROM page WHERE state_key IS NOT NULL",
        "needed": """
            SELECT s.event_nid FROM keys k JOIN current_state s
              ON s.room_nid = :room_nid AND s.type = k.type AND s.state_key = k.state_key
            UNION SELECT n.nid FROM room r, keys k JOIN state_changes c
              ON c.room_nid = :room_nid AND c.type = k.type AND c.state_key = k.state_key,
              LATERAL (VALUES (c.event_nid), (CASE WHEN c.ordinal >= r.compacted_to THEN c.prev_nid END)) AS n(nid)
              WHERE n.nid IS NOT NULL
            UNION SELECT unnest(x.event_nids) FROM forward_extremities x WHERE x.room_nid = :room_nid""",
        "gone": """
            DELETE FROM events e USING fence, page p
            WHERE e.room_nid = :room_nid AND e.event_nid = p.event_nid
              AND p.event_nid NOT IN (SELECT event_nid FROM needed)
              AND NOT EXISTS (SELECT FROM state_snapshots s
                              WHERE s.room_nid = :room_nid AND (s.added || s.removed) @> ARRAY[p.event_nid])
              AND NOT EXISTS (SELECT FROM events t WHERE t.room_nid = :room_nid AND t.event_nid = p.redacts_nid)
              AND NOT EXISTS (SELECT FROM awaited_redactions a
                              WHERE a.room_nid = :room_nid AND a.redaction_nid = p.event_nid)
            RETURNING e.event_nid""",
    },
    "(SELECT count(*) FROM gone) AS deleted, (SELECT max(event_nid) FROM page) AS last_nid",
)

FINISH_PURGE = fenced_statement(
    "purge_finish",
    FinishPurge,
    {
        "finished": """
            UPDATE rooms r SET purge_to = NULL FROM fence
            WHERE r.room_nid = :room_nid AND r.first_ordinal >= r.purge_to
              AND coalesce(r.retired_at, '-infinity') < clock_timestamp() - make_interval(secs => :settle_s)
            RETURNING r.room_nid"""
    },
    "(SELECT count(*) FROM finished) AS finished",
)

#: Times in the future are ignored: otherwise one forged event would keep a room's history forever.
#: Uses events_room_nid_ordinal_key.
START_RETENTION = fenced_statement(
    "purge_retention",
    StartRetention,
    {
        "bound": """
            SELECT r.room_nid, r.first_ordinal, least(
                coalesce((
                    SELECT e.ordinal FROM events e
                    WHERE e.room_nid = r.room_nid AND e.ordinal >= r.first_ordinal
                      AND e.ordinal < r.first_ordinal + :window::bigint
                      AND e.origin_server_ts >= w.before_ms AND e.origin_server_ts <= :now_ms
                    ORDER BY e.ordinal LIMIT 1), r.first_ordinal + :window::bigint),
                last.ordinal + 1 - greatest(:keep_events::bigint, 1)) AS purge_to
            FROM :rooms AS w(:rooms.columns) JOIN rooms r USING (room_nid)
            CROSS JOIN LATERAL (
                SELECT ordinal FROM events WHERE room_nid = r.room_nid AND ordinal IS NOT NULL
                ORDER BY ordinal DESC LIMIT 1) AS last
            WHERE r.deleted_id IS NULL AND r.purge_to IS NULL""",
        "free": """
            SELECT r.room_nid FROM fence, :rooms AS w(:rooms.columns) JOIN rooms r USING (room_nid)
            FOR NO KEY UPDATE OF r SKIP LOCKED""",
        "started": """
            UPDATE rooms r SET purge_to = b.purge_to FROM fence, bound b JOIN free USING (room_nid)
            WHERE r.room_nid = b.room_nid AND b.purge_to > b.first_ordinal AND r.purge_to IS NULL
              AND r.deleted_id IS NULL RETURNING r.room_nid""",
    },
    "(SELECT array_agg(room_nid) FROM started) AS room_nids",
)
