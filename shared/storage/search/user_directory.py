"""The user directory: its job follows the stream `events` and local accounts, and searches find users by name.

Local users have the name of their profile, never one of a single room. Users of other servers have the name of a room
whose members everybody may find, or none.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson

from shared.core.events.event import event_from_storage
from shared.core.events.readers import avatar_url_of, display_name_of
from shared.core.identifiers import UserId
from shared.core.room_versions import get_room_version
from shared.core.search.directory_words import directory_words
from shared.storage.engine.pool import Connection, Database
from shared.storage.engine.statements import parameters, statement
from shared.storage.fleet.background_steps import run_step
from shared.storage.search.event_words import complete_up_to

_SPAN = 2_000  # positions that one transaction reads
_USERS = 500  # local users that one transaction reads
_JOINED_AT_A_TIME = 100  # member events that are in memory together: each may have 64 KB
#: Entries with the words that one search reads before it checks whether they may be found: some 30 us each.
_MAX_MATCHES = 5_000

_POSITION = "SELECT position FROM user_directory_progress"
_PROGRESS = "SELECT position FROM user_directory_progress FOR UPDATE SKIP LOCKED"
_LOCK_USERS_ABOVE = "SELECT users_above FROM user_directory_progress FOR UPDATE"
_ACCOUNTS_WAIT = """
    SELECT users_above IS NOT NULL OR EXISTS (SELECT FROM user_directory_queue) FROM user_directory_progress
"""
_MOVE = "UPDATE user_directory_progress SET position = $1"
_MOVE_USERS = "UPDATE user_directory_progress SET users_above = $1"
#: Uses the primary key of users.
_OLD_USERS = "SELECT user_id FROM users WHERE user_id > $1 ORDER BY user_id LIMIT $2"
_QUEUED = """
    DELETE FROM user_directory_queue
    WHERE number IN (SELECT number FROM user_directory_queue ORDER BY number LIMIT $1 FOR UPDATE SKIP LOCKED)
    RETURNING user_id
"""
#: Uses the primary keys of users and profiles.
_ACCOUNTS = """
    SELECT u.user_id, u.deactivated, n.value AS name, a.value AS avatar FROM users u
    LEFT JOIN profiles n ON n.user_id = u.user_id AND n.field = 'displayname'
    LEFT JOIN profiles a ON a.user_id = u.user_id AND a.field = 'avatar_url'
    WHERE u.user_id = ANY($1::text[])
"""
_STORE = """
    INSERT INTO user_directory (user_id, display_name, avatar_url, words)
    SELECT u.user_id, u.name, u.avatar, array_to_tsvector(string_to_array(u.words, ' '))
    FROM unnest($1::text[], $2::text[], $3::text[], $4::text[]) AS u(user_id, name, avatar, words)
    ON CONFLICT (user_id) DO UPDATE
    SET display_name = excluded.display_name, avatar_url = excluded.avatar_url, words = excluded.words
"""
#: For users of other servers whose name is visible to no local user. A row that exists already stays.
_STORE_NEW = _STORE.partition("ON CONFLICT")[0] + "ON CONFLICT (user_id) DO NOTHING"
_REMOVE = "DELETE FROM user_directory WHERE user_id = ANY($1::text[])"
#: Changes of the rooms' states. Uses events_by_position and state_changes_by_ordinal. The events are read first, by
#: themselves: PostgreSQL might otherwise read all events of each room.
_CHANGES = """
    WITH e AS MATERIALIZED (
        SELECT room_nid, ordinal FROM events WHERE position > $1 AND position <= $2 AND ordinal IS NOT NULL)
    SELECT s.room_nid, s.type, s.state_key, s.event_nid FROM e JOIN state_changes s USING (room_nid, ordinal)
    WHERE s.type IN ('m.room.join_rules', 'm.room.history_visibility', 'm.room.member')
"""
#: The first such change. $1, $2 as above.
_NEXT_CHANGE = """
    SELECT e.position, e.event_id FROM events e JOIN state_changes s USING (room_nid, ordinal)
    WHERE e.position > $1 AND e.position <= $2 AND e.ordinal IS NOT NULL
      AND s.type IN ('m.room.join_rules', 'm.room.history_visibility', 'm.room.member')
    ORDER BY e.position LIMIT 1
"""
#: Uses the primary keys of rooms, current_state and events.
_RULES = """
    SELECT r.room_nid, r.room_version, e.event_id, e.json FROM rooms r
    JOIN current_state s ON s.room_nid = r.room_nid AND s.state_key = ''
         AND s.type IN ('m.room.join_rules', 'm.room.history_visibility')
    JOIN events e ON e.room_nid = s.room_nid AND e.event_nid = s.event_nid
    WHERE r.room_nid = ANY($1::bigint[]) AND r.deleted_id IS NULL
"""
_OPEN = "INSERT INTO user_directory_rooms SELECT * FROM unnest($1::bigint[]) ON CONFLICT DO NOTHING"
_CLOSE = "DELETE FROM user_directory_rooms WHERE room_nid = ANY($1::bigint[])"
#: Members of other servers, in the order of their joins. Uses the primary keys of rooms, events and
#: user_directory_rooms.
_JOINED = """
    SELECT r.room_version, u.state_key, e.event_id, e.json, d.room_nid IS NOT NULL AS is_open,
           e.redacted_by IS NOT NULL AS is_redacted
    FROM unnest($1::bigint[], $2::bigint[], $3::text[]) AS u(room_nid, event_nid, state_key)
    JOIN rooms r USING (room_nid) JOIN events e USING (room_nid, event_nid)
    LEFT JOIN user_directory_rooms d USING (room_nid)
"""
#: Users of other servers who had a member event redacted. $1, $2 as above, $3 our own server. Uses events_by_position
#: and the primary key of events.
_REDACTED = """
    WITH e AS MATERIALIZED (
        SELECT room_nid, redacts_nid FROM events
        WHERE position > $1 AND position <= $2 AND redacts_nid IS NOT NULL)
    SELECT DISTINCT t.state_key FROM e JOIN events t ON t.room_nid = e.room_nid AND t.event_nid = e.redacts_nid
    WHERE t.type = 'm.room.member' AND t.redacted_by IS NOT NULL AND NOT right(t.state_key, length($3)) = $3
"""
#: The latest joins of users to open rooms that were not redacted. Uses memberships_by_user and the primary keys of
#: user_directory_rooms, rooms and events.
_LATEST_JOINS = """
    SELECT u.user_id, j.room_version, j.event_id, j.json FROM unnest($1::text[]) AS u(user_id) LEFT JOIN LATERAL (
        SELECT r.room_version, e.event_id, e.json FROM memberships m
        JOIN user_directory_rooms o USING (room_nid) JOIN rooms r USING (room_nid)
        JOIN events e USING (room_nid, event_nid)
        WHERE m.user_id = u.user_id AND m.membership = 'join' AND e.redacted_by IS NULL
        ORDER BY e.position DESC LIMIT 1) AS j ON true
"""
#: As _STORE, for users who have an entry.
_RENAME = """
    UPDATE user_directory d
    SET display_name = u.name, avatar_url = u.avatar, words = array_to_tsvector(string_to_array(u.words, ' '))
    FROM unnest($1::text[], $2::text[], $3::text[], $4::text[]) AS u(user_id, name, avatar, words)
    WHERE d.user_id = u.user_id
"""
#: Rooms whose rules may have changed since the job last ran: it is a second or two behind. Uses events_by_position
#: and state_changes_by_ordinal.
_CHANGED_ROOMS = """
    WITH e AS MATERIALIZED (
        SELECT room_nid, ordinal FROM events
        WHERE position > (SELECT position FROM user_directory_progress) AND ordinal IS NOT NULL
          AND type IN ('m.room.join_rules', 'm.room.history_visibility')
        ORDER BY position DESC LIMIT 5000)
    SELECT DISTINCT room_nid FROM e
"""
_WAITING = (
    f"SELECT DISTINCT user_id FROM (SELECT user_id FROM user_directory_queue ORDER BY number DESC LIMIT {_USERS}) q"
)


class _Entry(NamedTuple):
    user_id: UserId
    display_name: str | None
    avatar_url: str | None
    words: str


@parameters
class _Search:
    """A search of the directory.

    prefixes: the beginnings of words that must all be found, as a tsquery.
    whole: the same as whole words.
    id_prefix: the beginning of the user id. None: any.
    all_users: True if the reader may find all local users.
    entries: those that the job has not stored yet.
    opened, closed: rooms that opened and closed since the job last ran.
    """

    reader: UserId
    prefixes: str
    whole: str
    id_prefix: str | None
    all_users: bool
    limit: int
    entries: Sequence[_Entry]
    opened: list[int]
    closed: list[int]


#: The reader is found as others find them: in open rooms. Uses user_directory_by_word, memberships_by_user, and the
#: primary keys of memberships, user_directory_rooms and users.
_SEARCH = statement(
    _Search,
    f"""
    SELECT d.user_id, d.display_name, d.avatar_url FROM (
        SELECT * FROM (
            SELECT u.user_id, u.display_name, u.avatar_url, array_to_tsvector(string_to_array(u.words, ' ')) AS words
            FROM :entries AS u(:entries.columns)
            UNION ALL
            SELECT user_id, display_name, avatar_url, words FROM user_directory
            WHERE words @@ :prefixes::tsquery AND user_id <> ALL(:entries.user_id)
        ) AS e
        WHERE words @@ :prefixes::tsquery AND (:id_prefix::text IS NULL OR starts_with(lower(user_id), :id_prefix))
        LIMIT {_MAX_MATCHES}) AS d
    WHERE NOT EXISTS (SELECT FROM users u WHERE u.user_id = d.user_id AND u.deactivated)
      AND ((:all_users AND d.user_id <> :reader AND EXISTS (SELECT FROM users u WHERE u.user_id = d.user_id))
           OR EXISTS (
               SELECT FROM memberships m WHERE m.user_id = d.user_id AND m.membership = 'join'
               AND (m.room_nid = ANY(:opened::bigint[])
                    OR (EXISTS (SELECT FROM user_directory_rooms o WHERE o.room_nid = m.room_nid)
                        AND m.room_nid <> ALL(:closed::bigint[]))
                    OR (d.user_id <> :reader AND EXISTS (
                            SELECT FROM memberships mine WHERE mine.room_nid = m.room_nid AND mine.user_id = :reader
                            AND mine.membership = 'join')))))
    ORDER BY d.words @@ :whole::tsquery DESC, (d.display_name IS NULL AND d.avatar_url IS NULL), d.user_id LIMIT :limit
    """,
)
#: True if more entries have the words than a search reads. Uses user_directory_by_word.
_IS_CUT = f"""
    SELECT count(*) > {_MAX_MATCHES} FROM (
        SELECT FROM user_directory WHERE words @@ $1::tsquery LIMIT {_MAX_MATCHES + 1}) AS m
"""
#: As _SEARCH, among members of the reader's rooms only. Uses memberships_by_user and the primary keys of memberships,
#: user_directory and users.
_SEARCH_NEAR = """
    SELECT d.user_id, d.display_name, d.avatar_url FROM (
        SELECT DISTINCT m.user_id FROM memberships mine CROSS JOIN LATERAL (
            SELECT user_id FROM memberships WHERE room_nid = mine.room_nid AND membership = 'join' LIMIT 500) AS m
        WHERE mine.user_id = $1 AND mine.membership = 'join' LIMIT 10000) AS n
    JOIN user_directory d USING (user_id)
    WHERE d.words @@ $2::tsquery AND d.user_id <> $1 AND ($4::text IS NULL OR starts_with(lower(d.user_id), $4))
      AND NOT EXISTS (SELECT FROM users u WHERE u.user_id = d.user_id AND u.deactivated)
    ORDER BY d.words @@ $3::tsquery DESC, (d.display_name IS NULL AND d.avatar_url IS NULL), d.user_id LIMIT $5
"""


@dataclass(frozen=True, slots=True)
class FoundUser:
    user_id: UserId
    display_name: str | None
    avatar_url: str | None


class AccountsStep:
    """Local users whose entries changed, and those from before the directory."""

    name = "user directory: accounts"
    size = _USERS

    async def has_work(self, conn: Connection) -> bool:
        waits: bool = await conn.fetchval(_ACCOUNTS_WAIT)
        return waits

    async def work(self, conn: Connection, limit: int) -> bool:
        users_above = await conn.fetchval(_LOCK_USERS_ABOVE)
        rows = await conn.fetch(_QUEUED, limit)
        await _store_accounts(conn, sorted({row[0] for row in rows}))
        if users_above is not None and len(rows) < limit:
            users = [row[0] for row in await conn.fetch(_OLD_USERS, users_above, limit)]
            await _store_accounts(conn, users)
            await conn.execute(_MOVE_USERS, users[-1] if users else None)
        return len(rows) == limit or users_above is not None

    async def skip(self, conn: Connection) -> str | None:
        users_above = await conn.fetchval(_LOCK_USERS_ABOVE)
        queued = await conn.fetchval(_QUEUED, 1)
        if queued is not None or users_above is None:
            return None if queued is None else str(queued)
        user_id = await conn.fetchval(_OLD_USERS, users_above, 1)
        await conn.execute(_MOVE_USERS, user_id)
        return None if user_id is None else str(user_id)


class RoomsStep:
    """The next span of the stream: rooms that opened or closed, and members of other servers."""

    name = "user directory: rooms"
    size = _SPAN

    def __init__(self, server_name: str) -> None:
        self._own_server = f":{server_name}"

    async def has_work(self, conn: Connection) -> bool:
        position: int = await conn.fetchval(_POSITION)
        return await complete_up_to(conn) > position

    async def work(self, conn: Connection, limit: int) -> bool:
        position: int | None = await conn.fetchval(_PROGRESS)
        if position is None:
            return False
        complete = await complete_up_to(conn)
        until = min(complete, position + limit)
        await _store_rooms(conn, position, until, self._own_server)
        await conn.execute(_MOVE, until)
        return until < complete

    async def skip(self, conn: Connection) -> str | None:
        position: int = await conn.fetchval(_PROGRESS)
        complete = await complete_up_to(conn)
        row = await conn.fetchrow(_NEXT_CHANGE, position, complete)
        await conn.execute(_MOVE, complete if row is None else row["position"])
        return None if row is None else str(row["event_id"])


async def fill_directory(database: Database, server_name: str) -> bool:
    """Store some changes. Return True if there may be more. False also while another process does this."""
    accounts = await run_step(database, AccountsStep())
    return await run_step(database, RoomsStep(server_name)) or accounts


async def search_directory(
    database: Database, reader: UserId, words: Sequence[str], id_prefix: str | None, limit: int, *, all_users: bool
) -> list[FoundUser]:
    """Return at most `limit` users that have a word with each of these beginnings and that the reader may find.

    Every committed change counts, also before the job has stored it. Users with the whole words come first.

    words: of `term_words`; not empty.
    all_users: True if the reader may find every local user.
    """
    prefixes = " & ".join(f"'{word}':*" for word in words)
    whole = " & ".join(f"'{word}'" for word in words)
    entries, opened, closed = await _not_filled(database)
    record = _Search(
        reader=reader,
        prefixes=prefixes,
        whole=whole,
        id_prefix=id_prefix,
        all_users=all_users,
        limit=limit,
        entries=entries,
        opened=list(opened),
        closed=list(closed),
    )
    rows = list(await database.fetch(*_SEARCH.bind(record)))
    if len(rows) < limit and await database.fetchval(_IS_CUT, prefixes):
        # Not all entries with these words were read. Those of users in the reader's rooms must be.
        known = {row["user_id"] for row in rows}
        near = await database.fetch(_SEARCH_NEAR, reader, prefixes, whole, id_prefix, limit)
        rows += [row for row in near if row["user_id"] not in known][: limit - len(rows)]
    return [FoundUser(*row) for row in rows]


async def _not_filled(database: Database) -> tuple[list[_Entry], set[int], set[int]]:
    """Return what the job has not stored yet: entries of local users, rooms that opened, rooms that closed."""
    async with database.snapshot() as conn:
        waiting = [row[0] for row in await conn.fetch(_WAITING)]
        entries = [
            _entry(user_id, _text(name), _text(avatar))
            for user_id, deactivated, name, avatar in (await conn.fetch(_ACCOUNTS, waiting) if waiting else ())
            if not deactivated
        ]
        changed = {row[0] for row in await conn.fetch(_CHANGED_ROOMS)}
        opened = {nid for nid, content in await _rules(conn, changed) if _opens(content)} if changed else set()
        return entries, opened, changed - opened


async def _store_accounts(conn: Connection, user_ids: Sequence[UserId]) -> None:
    if not user_ids:
        return
    entries, gone = [], []
    for user_id, deactivated, name, avatar in await conn.fetch(_ACCOUNTS, list(user_ids)):
        if deactivated:
            gone.append(user_id)
        else:
            entries.append(_entry(user_id, _text(name), _text(avatar)))
    await _store(conn, _STORE, entries)
    if gone:
        await conn.execute(_REMOVE, gone)


async def _store_rooms(conn: Connection, above: int, until: int, own_server: str) -> None:
    rooms: set[int] = set()
    joined: list[tuple[int, int, str]] = []
    for room_nid, kind, state_key, event_nid in await conn.fetch(_CHANGES, above, until):
        if kind != "m.room.member":
            rooms.add(room_nid)
        elif event_nid is not None and not state_key.endswith(own_server):
            joined.append((room_nid, event_nid, state_key))
    if rooms:
        is_open = {room_nid for room_nid, event in await _rules(conn, rooms) if _opens(event)}
        await conn.execute(_OPEN, sorted(is_open))
        await conn.execute(_CLOSE, sorted(rooms - is_open))
    known, new = {}, {}
    for start in range(0, len(joined), _JOINED_AT_A_TIME):
        some = joined[start : start + _JOINED_AT_A_TIME]
        for version, state_key, event_id, json, open_room, redacted in await conn.fetch(
            _JOINED, *map(list, zip(*some, strict=True))
        ):
            event = event_from_storage(get_room_version(version), json, event_id)
            if event.content.get("membership") == "join":
                if open_room and redacted:
                    known[state_key] = _entry(state_key, None, None)
                elif open_room:
                    known[state_key] = _entry(state_key, display_name_of(event), avatar_url_of(event))
                else:
                    new[state_key] = _entry(state_key, None, None)
    await _store(conn, _STORE, known.values())
    await _store(conn, _STORE_NEW, new.values())
    await _forget_redacted(conn, above, until, own_server)


async def _forget_redacted(conn: Connection, above: int, until: int, own_server: str) -> None:
    """Take back names and avatars that were redacted: the entry is that of another room, or has neither."""
    users = [row[0] for row in await conn.fetch(_REDACTED, above, until, own_server)]
    for start in range(0, len(users), _JOINED_AT_A_TIME):
        entries = []
        for user_id, version, event_id, json in await conn.fetch(
            _LATEST_JOINS, users[start : start + _JOINED_AT_A_TIME]
        ):
            name, avatar = None, None
            if json is not None:
                event = event_from_storage(get_room_version(version), json, event_id)
                name, avatar = display_name_of(event), avatar_url_of(event)
            entries.append(_entry(user_id, name, avatar))
        await _store(conn, _RENAME, entries)


async def _rules(conn: Connection, rooms: Iterable[int]) -> list[tuple[int, Mapping[str, Any]]]:
    rows = await conn.fetch(_RULES, sorted(rooms))
    return [
        (room_nid, event_from_storage(get_room_version(version), json, event_id).content)
        for room_nid, version, event_id, json in rows
    ]


def _opens(content: Mapping[str, Any]) -> bool:
    return content.get("join_rule") == "public" or content.get("history_visibility") == "world_readable"


async def _store(conn: Connection, statement: str, entries: Iterable[_Entry]) -> None:
    rows = sorted(entries)  # by user: two processes that store the same users cannot deadlock
    if rows:
        await conn.execute(statement, *map(list, zip(*rows, strict=True)))


def _entry(user_id: UserId, name: str | None, avatar: str | None) -> _Entry:
    return _Entry(user_id, name, avatar, " ".join(directory_words(user_id, name)))


def _text(value: bytes | None) -> str | None:
    text = None if value is None else orjson.loads(value)
    return text if isinstance(text, str) and text else None
