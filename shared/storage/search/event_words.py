"""The words of events: their index, which follows the stream `events`, and searches in rooms.

Words are those that PostgreSQL's parsers find, unchanged and stemmed in several languages: a word is found by each of
its forms in any of these. `russian` stems ASCII words as English.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from shared.core.events.event import event_from_storage
from shared.core.identifiers import UserId
from shared.core.room_versions import get_room_version
from shared.core.search.event_text import indexed_text, searchable_text
from shared.runtime.slices import Slices
from shared.storage.engine.pool import Connection, Database, Source
from shared.storage.fleet.background_steps import run_step, set_aside

LANGUAGES = ("simple", "russian", "german", "french", "spanish")
#: The index is searched for room numbers, as words, in at most so many rooms. With more it is slower than reading the
#: words of all rooms: 500 rooms among 1,000 with 200,000 messages took 2.4 s.
_FEW_ROOMS = 20
_SPAN = 2_000  # positions that one transaction reads
#: The bytes of events that one transaction indexes: some seconds per MB.
_SPAN_BYTES = 256 << 10

_POSITION = "SELECT position FROM search_progress"
_PROGRESS = "SELECT position FROM search_progress FOR UPDATE SKIP LOCKED"
_MOVE = "UPDATE search_progress SET position = $1"
#: Every position up to the sequence's that no live writer may still commit. The sequence is read first: a writer that
#: joins afterwards draws greater positions. Uses the primary keys of writers and heartbeats.
_SEQUENCE = "SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM stream_events"
_REACHED = """
    SELECT min(coalesce((h.positions ->> 'events')::bigint, w.start_position))
    FROM writers w LEFT JOIN heartbeats h USING (lease) WHERE w.stream = 'events' AND w.final_position IS NULL
"""
_INDEXED_TYPES = "('m.room.message', 'm.room.name', 'm.room.topic', 'm.room.redaction')"
#: Uses events_by_position. The events are read first, by themselves: PostgreSQL might otherwise read all events of each
#: room.
_NEW = f"""
    WITH e AS MATERIALIZED (
        SELECT room_nid, event_nid, event_id, json, redacts_nid, redacted_by, position FROM events
        WHERE position > $1 AND position <= $2 AND status = 0 AND type IN {_INDEXED_TYPES}
        ORDER BY position
    )
    SELECT r.room_version, e.room_nid, e.event_nid, e.event_id, e.json, e.redacts_nid, e.redacted_by IS NOT NULL
    FROM e JOIN rooms r USING (room_nid) ORDER BY e.position
"""
#: The position of the first event that exceeds $3 bytes, never of the first event. Uses events_by_position.
_TOO_MUCH = f"""
    SELECT min(position) FROM (
        SELECT position, sum(octet_length(json)) OVER (ORDER BY position) - octet_length(json) AS bytes_before
        FROM events
        WHERE position > $1 AND position <= $2 AND status = 0 AND type IN {_INDEXED_TYPES}
    ) AS e WHERE bytes_before >= $3
"""
#: The first event. Uses events_by_position.
_NEXT = f"""
    SELECT position, event_id FROM events
    WHERE position > $1 AND position <= $2 AND status = 0 AND type IN {_INDEXED_TYPES} ORDER BY position LIMIT 1
"""
#: Events of some rooms that are not in the index yet, which is a second or two behind: the latest, up to a number of
#: bytes. $1 rooms, $2 bytes. Uses events_by_position. All limits are far above the events of that time.
_NOT_INDEXED = """
    WITH e AS MATERIALIZED (
        SELECT room_nid, event_nid FROM events
        WHERE position > (SELECT position FROM search_progress) AND status = 0
          AND type IN ('m.room.message', 'm.room.name', 'm.room.topic')
        ORDER BY position DESC LIMIT 20000
    )
    SELECT room_version, room_nid, event_nid, event_id, json FROM (
        SELECT r.room_version, room_nid, event_nid, v.event_id, v.json,
               sum(octet_length(v.json)) OVER (ORDER BY v.position DESC) AS bytes
        FROM e JOIN rooms r USING (room_nid) JOIN events v USING (room_nid, event_nid)
        WHERE room_nid = ANY($1::bigint[]) AND v.redacted_by IS NULL ORDER BY v.position DESC LIMIT 5000
    ) AS latest WHERE bytes <= $2
"""
_MAX_NOT_INDEXED_BYTES = 256 << 10  # up to a second of PostgreSQL's time for each search
_VECTOR = " || ".join(
    f"to_tsvector('{language}', u.{'words' if language == 'simple' else 'spaced'})" for language in LANGUAGES
)
_TEXTS = """
    unnest($1::bigint[], $2::bigint[], $3::smallint[], $4::text[], $5::text[])
    AS u(room_nid, event_nid, key, words, spaced)
"""
_STORE = f"""
    INSERT INTO search_words (room_nid, event_nid, key, words)
    SELECT u.room_nid, u.event_nid, u.key, array_to_tsvector(ARRAY[' ' || u.room_nid]) || {_VECTOR}
    FROM {_TEXTS}
    ON CONFLICT (room_nid, event_nid) DO UPDATE SET words = excluded.words
"""
_FORGET = """
    DELETE FROM search_words s USING unnest($1::bigint[], $2::bigint[]) AS u(room_nid, event_nid)
    WHERE s.room_nid = u.room_nid AND s.event_nid = u.event_nid
"""
#: Uses the primary key of current_state.
_ENCRYPTED = """
    SELECT room_nid FROM current_state
    WHERE room_nid = ANY($1::bigint[]) AND type = 'm.room.encryption' AND state_key = ''
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """An event with the words, without its content. ordinal, back, state_nid: as in TimelineRow."""

    room_nid: int
    event_nid: int
    rank: float
    type: str
    state_key: str | None
    sender: UserId
    ordinal: int
    back: int
    state_nid: int | None
    origin_server_ts: int
    membership: str | None = None
    visibility: str | None = None


class SearchIndexStep:
    """The next span of the stream: its words enter the index."""

    name = "search index"
    size = _SPAN

    async def has_work(self, conn: Connection) -> bool:
        position: int = await conn.fetchval(_POSITION)
        return await complete_up_to(conn) > position

    async def work(self, conn: Connection, limit: int) -> bool:
        position: int | None = await conn.fetchval(_PROGRESS)
        if position is None:
            return False
        complete = await complete_up_to(conn)
        until = min(complete, position + limit)
        too_much: int | None = await conn.fetchval(_TOO_MUCH, position, until, _SPAN_BYTES * limit // _SPAN)
        if too_much is not None:
            until = too_much - 1
        texts, gone = [], []
        for version, room_nid, nid, event_id, json, redacts, redacted in await conn.fetch(_NEW, position, until):
            if redacts is not None:
                gone.append((room_nid, redacts))
            try:
                event = event_from_storage(get_room_version(version), json, event_id)
                found = None if redacted else searchable_text(event.type, event.state_key, event.content)
                if found is not None:
                    texts.append((room_nid, nid, found.key, *indexed_text(found.text)))
            except Exception as error:
                await set_aside(conn, self.name, event_id, f"{type(error).__name__}: {error}")
        if texts:
            await conn.execute(_STORE, *map(list, zip(*texts, strict=True)))
        if gone:
            await conn.execute(_FORGET, *map(list, zip(*gone, strict=True)))
        await conn.execute(_MOVE, until)
        return until < complete

    async def skip(self, conn: Connection) -> str | None:
        position: int = await conn.fetchval(_PROGRESS)
        complete = await complete_up_to(conn)
        row = await conn.fetchrow(_NEXT, position, complete)
        await conn.execute(_MOVE, complete if row is None else row["position"])
        return None if row is None else str(row["event_id"])


async def index_events(database: Database) -> bool:
    """Index the next events. Return True if there may be more. False also while another process does this."""
    return await run_step(database, SearchIndexStep())


async def complete_up_to(conn: Connection) -> int:
    """Return the position of `events` up to which no writer will commit anything."""
    end: int = await conn.fetchval(_SEQUENCE)
    reached: int | None = await conn.fetchval(_REACHED)
    return end if reached is None else min(end, reached)


async def get_encrypted_rooms(source: Source, room_nids: Collection[int]) -> set[int]:
    """Return those of the rooms that are end-to-end encrypted."""
    return {row[0] for row in await source.fetch(_ENCRYPTED, list(room_nids))}


async def search_words(
    source: Source, room_nids: Collection[int], words: Sequence[str], keys: Collection[int], limit: int, *, recent: bool
) -> list[Hit]:
    """Return at most `limit` events of the rooms that have all of the words, the best or the latest first.

    Every committed event is found, also before it is in the index. Uses search_words_by_word.

    words: of `split_words`; a few, since each makes the statement longer.
    """
    if not room_nids or not words:
        return []
    # First the events that are not in the index: they may enter it before it is searched.
    hits = await _search_not_indexed(source, room_nids, words, keys)
    few = len(room_nids) <= _FEW_ROOMS
    rooms = " | ".join(f"' {nid}'" for nid in room_nids) if few else list(room_nids)
    rows = await source.fetch(_search(len(words), recent=recent, few=few), rooms, list(keys), limit, *words)
    if not hits:
        return [Hit(**row) for row in rows]
    found = {(hit.room_nid, hit.event_nid): hit for hit in (*hits, *(Hit(**row) for row in rows))}
    return sorted(found.values(), key=_latest if recent else _best, reverse=True)[:limit]


def _latest(hit: Hit) -> tuple[int, int]:
    return hit.origin_server_ts, hit.event_nid


def _best(hit: Hit) -> tuple[float, int, int]:
    return hit.rank, hit.origin_server_ts, hit.event_nid


async def _search_not_indexed(
    source: Source, room_nids: Collection[int], words: Sequence[str], keys: Collection[int]
) -> list[Hit]:
    texts, slices = [], Slices()
    rows = await source.fetch(_NOT_INDEXED, list(room_nids), _MAX_NOT_INDEXED_BYTES)
    for version, room_nid, nid, event_id, json in rows:
        await slices.rest()
        event = event_from_storage(get_room_version(version), json, event_id)
        found = searchable_text(event.type, event.state_key, event.content)
        if found is not None and found.key in keys:
            texts.append((room_nid, nid, found.key, *indexed_text(found.text)))
    if not texts:
        return []
    columns = map(list, zip(*texts, strict=True))
    return [Hit(**row) for row in await source.fetch(_search_texts(len(words)), *columns, *words)]


_HIT = """
    e.room_nid, e.event_nid, ts_rank(s.words, q.terms)::float8 AS rank, e.type, e.state_key, e.sender,
    coalesce(e.ordinal, e.anchor) AS ordinal, coalesce(e.back, 0) AS back, e.state_nid, e.origin_server_ts
"""
_FOUND = """
    numnode(q.terms) > 0 AND e.status = 0 AND e.redacted_by IS NULL AND coalesce(e.ordinal, e.anchor) IS NOT NULL
"""


def _search(count: int, *, recent: bool, few: bool) -> str:
    inside = "($1::tsquery && q.terms)" if few else "q.terms AND s.room_nid = ANY($1::bigint[])"
    order = "e.origin_server_ts DESC" if recent else "rank DESC, e.origin_server_ts DESC"
    return f"""
        SELECT {_HIT}
        FROM (SELECT {_terms(4, count)} AS terms) AS q, search_words s JOIN events e USING (room_nid, event_nid)
        WHERE s.words @@ {inside} AND s.key = ANY($2::smallint[]) AND {_FOUND}
        ORDER BY {order}, e.event_nid DESC LIMIT $3
    """


def _search_texts(count: int) -> str:
    """Return the search in given texts: $1 rooms, $2 events, $3 keys, $4 and $5 texts, as in IndexedText."""
    return f"""
        SELECT {_HIT}
        FROM (SELECT {_terms(6, count)} AS terms) AS q, (
            SELECT u.room_nid, u.event_nid, {_VECTOR} AS words
            FROM {_TEXTS}
        ) AS s JOIN events e USING (room_nid, event_nid)
        WHERE s.words @@ q.terms AND {_FOUND}
    """


def _terms(first: int, count: int) -> str:
    """Return the query for words in the parameters from $first on: each word in any of the languages."""
    return " && ".join(
        "(" + " || ".join(f"plainto_tsquery('{language}', ${number})" for language in LANGUAGES) + ")"
        for number in range(first, first + count)
    )
