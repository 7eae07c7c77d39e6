"""Events with their auth chains, in pages, for state resolution."""

from collections.abc import Sequence
from dataclasses import dataclass

from shared.core.identifiers import EventId
from shared.storage.engine.pool import Source
from shared.storage.events.batch import REJECTED

#: Uses events_by_id, then the primary key for each step of the chain. `chain` is evaluated only as far as the page
#: needs rows, those of $2 first. A row after $4 bytes of JSON has none, except the first one.
_PAGE = f"""
    WITH RECURSIVE wanted AS (
        SELECT e.event_nid, min(w.place) AS place
        FROM unnest($2::text[]) WITH ORDINALITY AS w(event_id, place) JOIN events e USING (event_id)
        WHERE e.room_nid = $1 GROUP BY e.event_nid
    ), chain(event_nid) AS (
        SELECT event_nid FROM wanted
        UNION
        SELECT cited.event_nid FROM chain
        JOIN events e ON e.room_nid = $1 AND e.event_nid = chain.event_nid,
        unnest(e.auth_nids) AS cited(event_nid)
    ), page AS (
        SELECT event_nid FROM chain LIMIT $3
    ), sized AS (
        SELECT e.event_nid,
               sum(octet_length(e.json)) OVER (ORDER BY w.place NULLS LAST, e.event_nid DESC) - octet_length(e.json)
                 AS bytes_before
        FROM page JOIN events e ON e.room_nid = $1 AND e.event_nid = page.event_nid
        LEFT JOIN wanted w ON w.event_nid = page.event_nid
    )
    SELECT e.event_id, e.status = {REJECTED} AS rejected, e.redacted_by IS NOT NULL AS redacted,
           CASE WHEN s.bytes_before < $4 THEN e.json END AS json
    FROM sized s JOIN events e ON e.room_nid = $1 AND e.event_nid = s.event_nid
"""


@dataclass(frozen=True, slots=True)
class ChainEvent:
    """An event as stored.

    rejected: True if it was rejected on receipt.
    redacted: True if only its redacted form counts.
    json: the PDU as signed. None: it is beyond the page's bytes.
    """

    event_id: EventId
    rejected: bool
    redacted: bool
    json: bytes | None


async def get_auth_chain_page(
    source: Source, room_nid: int, event_ids: Sequence[EventId], *, max_events: int, max_bytes: int
) -> list[ChainEvent]:
    """Return the room's events with these ids, and as many events of their auth chains as the page holds.

    max_events: at least the number of ids. Nearer events precede those further up the chains.
    max_bytes: of JSON. The first event with one of these ids always has its JSON, then as many others as fit, in the
        given order.

    Every id of an event of the room gets a row. An id without one is missing.
    """
    rows = await source.fetch(_PAGE, room_nid, list(event_ids), max(max_events, len(event_ids)), max_bytes)
    return [ChainEvent(*row) for row in rows]


#: Uses the primary key, twice for each event. `chain` is evaluated only as far as the page needs rows, those of $2
#: first.
_EDGES = """
    WITH RECURSIVE chain(event_nid) AS (
        SELECT unnest($2::bigint[])
        UNION
        SELECT cited.event_nid FROM chain
        JOIN events e ON e.room_nid = $1 AND e.event_nid = chain.event_nid,
        unnest(e.auth_nids) AS cited(event_nid)
    ), page AS (
        SELECT event_nid FROM chain LIMIT $3
    )
    SELECT e.event_nid, e.auth_nids FROM page JOIN events e ON e.room_nid = $1 AND e.event_nid = page.event_nid
"""
#: Uses the primary key.
_IDS = "SELECT event_nid, event_id FROM events WHERE room_nid = $1 AND event_nid = ANY($2::bigint[])"


async def get_auth_edges(
    source: Source, room_nid: int, event_nids: Sequence[int], *, max_events: int
) -> list[tuple[int, list[int]]]:
    """Return the numbers of the auth events of these events, and of as many events of their chains as the page holds.

    max_events: at least the number of events. Nearer events precede those further up the chains.
    """
    rows = await source.fetch(_EDGES, room_nid, list(event_nids), max(max_events, len(event_nids)))
    return [(nid, auth_nids) for nid, auth_nids in rows]


async def get_event_ids(source: Source, room_nid: int, event_nids: Sequence[int]) -> dict[int, EventId]:
    """Return number -> event id, for the room's events with these numbers."""
    return {nid: EventId(event_id) for nid, event_id in await source.fetch(_IDS, room_nid, list(event_nids))}
