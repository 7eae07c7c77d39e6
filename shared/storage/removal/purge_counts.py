"""The part of a purge that removes the counts of events. `purge.py` calls it after the events are deleted.

One total of each group and thread stays for all purged events, at ordinal 0. A user who had read none of them counts
from there, as if they had. Readers need not know of the purge.
"""

from collections.abc import AsyncIterator

from shared.storage.engine.fenced import FencedWrite, fenced_statement
from shared.storage.engine.statements import parameters
from shared.storage.removal.purge_statements import UNDER_WAY, PurgeRows


@parameters
class CompactCounters(PurgeRows):
    """group_id, thread_id, ordinal: rows after this one only."""

    group_id: int
    thread_id: str
    ordinal: int


_FIRST = (-(2**63), "", -1)  # before every row
#: The last row of a group and thread always stays and never changes its totals, so writers can add theirs meanwhile.
#: Uses the primary key.
COMPACT_COUNTERS = fenced_statement(
    "purge_push_counters",
    CompactCounters,
    {
        "page": f"""
            SELECT c.group_id, c.thread_id, c.ordinal, c.notifies, c.highlights, r.first_ordinal
            FROM ({UNDER_WAY}) AS r JOIN push_counters c ON c.room_nid = :room_nid
             AND (c.group_id, c.thread_id, c.ordinal) > (:group_id::bigint, :thread_id::text, :ordinal::bigint)
            ORDER BY c.group_id, c.thread_id, c.ordinal LIMIT :rows""",
        "due": "SELECT * FROM page WHERE ordinal > 0 AND ordinal < first_ordinal",
        "based": """
            INSERT INTO push_counters (room_nid, group_id, thread_id, ordinal, notifies, highlights)
            SELECT DISTINCT ON (d.group_id, d.thread_id) :room_nid::bigint, d.group_id, d.thread_id, 0, d.notifies,
                   d.highlights
            FROM fence, due d ORDER BY d.group_id, d.thread_id, d.ordinal DESC
            ON CONFLICT (room_nid, group_id, thread_id, ordinal) DO UPDATE
            SET notifies = excluded.notifies, highlights = excluded.highlights""",
        "gone": """
            DELETE FROM push_counters c USING fence, due d
            WHERE c.room_nid = :room_nid AND c.group_id = d.group_id AND c.thread_id = d.thread_id
              AND c.ordinal = d.ordinal RETURNING 1""",
    },
    "(SELECT count(*) FROM gone) AS deleted,"
    " (SELECT ROW(group_id, thread_id, ordinal) FROM page"
    " ORDER BY group_id DESC, thread_id DESC, ordinal DESC LIMIT 1) AS last",
)


def _delete_before(table: str, columns: str) -> str:
    return f"""
        DELETE FROM {table} t USING fence, room r
        WHERE t.room_nid = :room_nid AND ({columns}) IN (
            SELECT {columns.replace("t.", "x.")} FROM {table} x
            WHERE x.room_nid = :room_nid AND x.ordinal < r.first_ordinal LIMIT :rows)
        RETURNING 1"""


#: Uses push_exceptions_by_ordinal and the primary keys: a room has few redactions.
DELETE_PUSH_ROWS = fenced_statement(
    "purge_push_rows",
    PurgeRows,
    {
        "room": UNDER_WAY,
        "exceptions": _delete_before("push_exceptions", "t.user_id, t.ordinal"),
        "redacted": _delete_before("push_redacted", "t.group_id, t.ordinal"),
        "users": _delete_before("push_redacted_users", "t.ordinal, t.user_id"),
    },
    "(SELECT count(*) FROM exceptions) + (SELECT count(*) FROM redacted) + (SELECT count(*) FROM users) AS deleted",
)


async def purge_push_batches(write: FencedWrite, room_nid: int, rows: int) -> AsyncIterator[int]:
    """Remove the counts of purged events. Yield after each statement the number of deleted rows."""
    last: tuple[int, str, int] | None = _FIRST
    while last is not None:
        group_id, thread_id, ordinal = last
        record = CompactCounters(room_nid=room_nid, rows=rows, group_id=group_id, thread_id=thread_id, ordinal=ordinal)
        row = await write(COMPACT_COUNTERS, record)
        last = row["last"]
        yield row["deleted"]
    deleted = 1
    while deleted:
        deleted = (await write(DELETE_PUSH_ROWS, PurgeRows(room_nid=room_nid, rows=rows)))["deleted"]
        yield deleted
