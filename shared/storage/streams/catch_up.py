"""Missed rows of each stream, from Postgres, to repair a gap.

Each query returns the rows of *all* writers above a position, in position order, in bounded pages: what one snapshot
shows is closed under "happened before", one writer's rows alone are not (evidence 4). So all pages of one repair must
come from one snapshot, since a row that commits between two pages may lie below the end of the first one.
$1: rows above this position. $2: the most rows. The columns are the fields of the stream's row in `shared/core/rows/`.
"""

from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any

import asyncpg

from shared.storage.engine.pool import Connection, Source

#: Uses events_by_position; for `members` state_changes_by_ordinal and the primary key of memberships. A membership that
#: has changed again is left to the later row. For what an event counted, it uses the primary keys of push_counters and
#: push_redacted_users, and the indices by ordinal and by redaction of the other push tables.
EVENTS = """
    SELECT e.position, e.writer, r.room_nid, r.room_id, r.room_version, e.event_nid, e.event_id, e.ordinal,
           e.type, e.state_key, e.sender, e.origin_server_ts, e.status, e.replaces_nid, e.redacted_by,
           e.redacts_nid, e.txn_device, e.txn_id, e.json,
           p.writer AS prior_writer, p.position AS prior_position,
           coalesce(e.resolved, false) AS resolved, coalesce(e.gap, false) AS gap,
           ARRAY(
               SELECT ROW(m.user_id, m.membership, m.event_nid, m.sender)
               FROM state_changes c
               JOIN memberships m ON m.room_nid = c.room_nid AND m.user_id = c.state_key AND m.ordinal = c.ordinal
               WHERE e.resolved AND c.room_nid = e.room_nid AND c.ordinal = e.ordinal AND c.type = 'm.room.member'
           ) AS members,
           coalesce(e.thread_id, '') AS thread_id,
           ARRAY(
               SELECT ROW(c.group_id, c.notifies, c.highlights)
               FROM push_counters c
               WHERE e.push_groups IS NOT NULL AND c.room_nid = e.room_nid AND c.group_id = ANY(e.push_groups)
                 AND c.thread_id = coalesce(e.thread_id, '') AND c.ordinal = e.ordinal
           ) AS push,
           ARRAY(
               SELECT ROW(x.user_id, x.notifies, x.highlights) FROM push_exceptions x
               WHERE e.has_push_rows AND x.room_nid = e.room_nid AND x.ordinal = e.ordinal
               UNION ALL
               SELECT ROW(x.user_id, x.notifies, x.highlights) FROM push_redacted_users x
               WHERE e.has_push_rows AND x.room_nid = e.room_nid AND x.ordinal = e.ordinal
           ) AS push_users,
           ARRAY(
               SELECT ROW(m.user_id, m.group_id) FROM push_members m
               WHERE e.has_push_rows AND m.room_nid = e.room_nid AND m.from_ordinal = e.ordinal
           ) AS push_groups,
           ARRAY(
               SELECT ROW(x.ordinal, x.thread_id, x.group_id, NULL::text, x.notifies, x.highlights) FROM push_redacted x
               WHERE e.has_push_rows AND x.room_nid = e.room_nid AND x.by_ordinal = e.ordinal
               UNION ALL
               SELECT ROW(x.ordinal, x.thread_id, NULL::bigint, x.user_id, x.notifies, x.highlights)
               FROM push_redacted_users x
               WHERE e.has_push_rows AND x.room_nid = e.room_nid AND x.by_ordinal = e.ordinal
           ) AS push_redacted
    FROM events e
    JOIN rooms r USING (room_nid)
    LEFT JOIN events p ON p.room_nid = e.room_nid AND p.ordinal = e.ordinal - 1 AND p.writer <> e.writer
    WHERE e.position > $1 AND e.ordinal IS NOT NULL
    ORDER BY e.position LIMIT $2
"""

#: Uses receipts_by_position.
RECEIPTS = """
    SELECT c.position, c.writer, c.room_nid, r.room_id, c.user_id, c.kind, c.thread_id, c.event_id, c.ordinal,
           c.ts_ms
    FROM receipts c JOIN rooms r USING (room_nid)
    WHERE c.position > $1 ORDER BY c.position LIMIT $2
"""

#: Uses account_data_by_position.
ACCOUNT_DATA = """
    SELECT position, writer, user_id, room_id, type, json
    FROM account_data WHERE position > $1 ORDER BY position LIMIT $2
"""

#: Uses push_rules_by_position.
PUSH_RULES = """
    SELECT position, writer, user_id, rules, ignored
    FROM push_rules WHERE position > $1 ORDER BY position LIMIT $2
"""

#: Uses the primary key of session_changes.
SESSIONS = """
    SELECT position, writer, user_id, device_id
    FROM session_changes WHERE position > $1 ORDER BY position LIMIT $2
"""

#: Uses to_device_messages_by_position.
TO_DEVICE = """
    SELECT position, writer, user_id, device_id
    FROM to_device_messages WHERE position > $1 ORDER BY position LIMIT $2
"""

#: Uses the primary key of device_list_changes.
DEVICE_LISTS = """
    SELECT position, writer, user_id
    FROM device_list_changes WHERE position > $1 ORDER BY position LIMIT $2
"""

#: Uses the primary key of one_time_key_changes.
ONE_TIME_KEYS = """
    SELECT position, writer, user_id, device_id
    FROM one_time_key_changes WHERE position > $1 ORDER BY position LIMIT $2
"""


#: Uses thread_subscriptions_by_position.
THREAD_SUBSCRIPTIONS = """
    SELECT t.position, t.writer, t.user_id, t.room_nid, r.room_id, t.thread_id, t.subscribed, t.automatic
    FROM thread_subscriptions t JOIN rooms r USING (room_nid)
    WHERE t.position > $1 ORDER BY t.position LIMIT $2
"""

#: The first page of a repair has few rows, since each may have a megabyte. A page with little in it is followed by a
#: larger one, and one with much in it by a smaller one.
_FIRST_ROWS = 16
_GROWTH = 4
_PAGE_BYTES = 4 << 20
_ENTRY_BYTES = 100  # an entry of a list: an ignored user, a member

#: Columns that hold rows.
_ROWS = ("members", "push", "push_users", "push_groups")


async def first_page(source: Source, query: str, above: int, size: int) -> list[dict[str, Any]]:
    """Return the first page of `pages`, in one statement."""
    return [_plain(record) for record in await source.fetch(query, above, size)]


async def pages(snapshot: Connection, query: str, above: int, size: int) -> AsyncIterator[list[dict[str, Any]]]:
    """Yield the rows above a position as columns by name, in pages of `size` rows at most.

    snapshot: a connection in a repeatable-read transaction (`Database.snapshot`).
    """
    rows = min(size, _FIRST_ROWS)
    while True:
        page = await first_page(snapshot, query, above, rows)
        if page:
            yield page
        if len(page) < rows:
            return
        above = page[-1]["position"]
        fitting = _PAGE_BYTES * rows // max(1, sum(map(_bytes_of, page)))
        rows = max(1, min(size, rows * _GROWTH, fitting))


def _bytes_of(row: dict[str, Any]) -> int:
    values = row.values()
    json = sum(len(value) for value in values if isinstance(value, bytes))
    return json + _ENTRY_BYTES * sum(len(value) for value in values if isinstance(value, tuple))


def _plain(record: asyncpg.Record) -> dict[str, Any]:
    row = dict(record)
    for name in _ROWS:
        if records := row.get(name):
            row[name] = tuple(map(tuple, records))
    if ignored := row.get("ignored"):
        row["ignored"] = tuple(ignored)
    if redacted := row.get("push_redacted"):
        row["push_redacted"] = _redacted(redacted)
    return row


def _redacted(records: Iterable[Sequence[Any]]) -> tuple[Any, ...]:
    """Return what a redaction took back: one entry per event. Usually there is one."""
    events: dict[tuple[int, str], tuple[list[Any], list[Any]]] = {}
    for ordinal, thread_id, group, user, notifies, highlights in records:
        groups, users = events.setdefault((ordinal, thread_id), ([], []))
        if group is not None:
            groups.append((group, notifies, highlights))
        else:
            users.append((user, notifies, highlights))
    return tuple((*event, tuple(groups), tuple(users)) for event, (groups, users) in events.items())
