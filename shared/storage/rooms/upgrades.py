"""Upgrades of rooms under way, and the settings that follow users into the new rooms.

A row is written before anything else happens, and names the new room: every process that continues an upgrade, however
often, creates the same room. Spec: client-server API, "Room Upgrades".
"""

from collections.abc import Sequence
from dataclasses import dataclass

import orjson

from shared.core.identifiers import EventId, RoomId, UserId
from shared.core.room_summary import PERSONAL_TYPES
from shared.storage.engine.fenced import FencedWrite, fenced_statement
from shared.storage.engine.pool import Database
from shared.storage.engine.statements import column_names, parameters


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomUpgrade:
    """An upgrade of a room.

    create_event: the new room's, signed
    tombstone: the old room's, signed; None where its id could not be known before the new room's
    ended: True when everything is done
    """

    old_room_id: RoomId
    new_room_id: RoomId
    new_version: str
    upgrader: UserId
    create_event_id: EventId
    create_event: bytes
    tombstone_event_id: EventId | None
    tombstone: bytes | None
    ended: bool


@parameters
class ReplacedRoom:
    old_room_id: RoomId
    new_room_id: RoomId


@parameters
class EndUpgrade(ReplacedRoom):
    """upgrader: their settings follow them now."""

    upgrader: UserId


_COLUMNS = ", ".join(column_names(RoomUpgrade))
#: Uses the primary key, and room_upgrades_new_room_id_key.
_GET = f"SELECT {_COLUMNS} FROM room_upgrades WHERE old_room_id = $1"
_GET_BY_NEW = f"SELECT {_COLUMNS} FROM room_upgrades WHERE new_room_id = $1"

#: An upgrade that is under way stays. One that has ended is replaced.
BEGIN_UPGRADE = fenced_statement(
    "begin_room_upgrade",
    RoomUpgrade,
    {
        "begun": f"""
            INSERT INTO room_upgrades ({_COLUMNS}, look_at)
            SELECT :{", :".join(column_names(RoomUpgrade))}, clock_timestamp() + interval '10 seconds' FROM fence
            ON CONFLICT (old_room_id) DO UPDATE
            SET new_room_id = excluded.new_room_id, new_version = excluded.new_version, upgrader = excluded.upgrader,
                create_event_id = excluded.create_event_id, create_event = excluded.create_event,
                tombstone_event_id = excluded.tombstone_event_id, tombstone = excluded.tombstone,
                ended = excluded.ended, created_at = excluded.created_at, look_at = excluded.look_at, looks = 0
            WHERE room_upgrades.ended RETURNING 1
        """
    },
    "(SELECT count(*) FROM begun) AS begun",
)
#: May be repeated. Uses rooms_room_id_key, room_aliases_by_room.
MOVE_NAMES = fenced_statement(
    "move_names_of_room",
    ReplacedRoom,
    {
        "rooms_of": """
            SELECT old.room_nid AS old_nid, new.room_nid AS new_nid, old.is_public
            FROM fence, rooms old, rooms new WHERE old.room_id = :old_room_id AND new.room_id = :new_room_id
        """,
        "moved": """
            UPDATE room_aliases a SET room_nid = o.new_nid FROM fence, rooms_of o WHERE a.room_nid = o.old_nid
        """,
        "listed": """
            UPDATE rooms r SET is_public = r.room_nid = o.new_nid FROM fence, rooms_of o
            WHERE o.is_public AND r.room_nid IN (o.old_nid, o.new_nid)
        """,
    },
)
_OPEN = "old_room_id = :old_room_id AND new_room_id = :new_room_id AND NOT ended"
#: Uses the primary keys.
END_UPGRADE = fenced_statement(
    "end_room_upgrade",
    EndUpgrade,
    {
        "ended": f"UPDATE room_upgrades SET ended = true FROM fence WHERE {_OPEN} RETURNING 1",
        "settings": """
            INSERT INTO settings_to_copy (user_id, new_room_id, old_room_id, look_at)
            SELECT :upgrader, :new_room_id, :old_room_id, clock_timestamp() FROM fence, ended ON CONFLICT DO NOTHING
        """,
    },
)
#: For an upgrade that can never be finished.
DROP_UPGRADE = fenced_statement(
    "drop_room_upgrade", ReplacedRoom, {"gone": f"DELETE FROM room_upgrades USING fence WHERE {_OPEN}"}
)

#: Uses the primary keys of current_state and events.
_STATE = """
    SELECT s.type, s.state_key, e.json FROM current_state s
    JOIN events e USING (room_nid, event_nid) JOIN rooms r USING (room_nid)
    WHERE r.room_id = $1 AND s.type = ANY ($2::text[]) AND e.redacted_by IS NULL
      AND NOT (s.type = ANY ($4::text[]) AND EXISTS (SELECT FROM erased_users u WHERE u.user_id = e.sender))
    ORDER BY s.type, s.state_key LIMIT $3
"""
#: Uses rooms_room_id_key and the primary keys of current_state and events.
_CREATE = """
    SELECT r.room_version, e.event_id, e.json FROM rooms r
    JOIN current_state s USING (room_nid) JOIN events e USING (room_nid, event_nid)
    WHERE r.room_id = $1 AND s.type = 'm.room.create' AND s.state_key = ''
"""
#: Uses rooms_room_id_key and the primary keys of memberships, events and erased_users.
_BANS = """
    SELECT m.user_id, CASE WHEN e.redacted_by IS NULL AND u.user_id IS NULL THEN e.json END FROM rooms r
    JOIN memberships m USING (room_nid) JOIN events e USING (room_nid, event_nid)
    LEFT JOIN erased_users u ON u.user_id = e.sender
    WHERE r.room_id = $1 AND m.membership = 'ban' ORDER BY m.user_id LIMIT $2
"""
#: Uses room_aliases_by_room.
_ALIASES = "SELECT alias FROM room_aliases a JOIN rooms r USING (room_nid) WHERE r.room_id = $1 LIMIT 1000"
_REMEMBER = """
    INSERT INTO settings_to_copy (user_id, new_room_id, old_room_id, look_at)
    VALUES ($1, $2, $3, clock_timestamp() + interval '0.5 seconds')
    ON CONFLICT (user_id, new_room_id) DO UPDATE SET look_at = excluded.look_at, looks = 0
"""
#: Uses the primary keys of room_upgrades, current_state and events, and rooms_room_id_key.
_IS_SUCCESSOR = """
    SELECT EXISTS (SELECT FROM room_upgrades WHERE old_room_id = $1 AND new_room_id = $2), (
        SELECT e.json FROM rooms r JOIN current_state s USING (room_nid) JOIN events e USING (room_nid, event_nid)
        WHERE r.room_id = $1 AND s.type = 'm.room.tombstone' AND s.state_key = '' AND e.redacted_by IS NULL)
"""


@dataclass(frozen=True, slots=True)
class StateContent:
    """The part of a state event that another room can copy. content: as its sender wrote it."""

    type: str
    state_key: str
    content: dict[str, object]


async def get_room_upgrade(database: Database, old_room_id: RoomId) -> RoomUpgrade | None:
    """Return the latest upgrade of a room."""
    row = await database.fetchrow(_GET, old_room_id)
    return None if row is None else RoomUpgrade(**row)


async def get_upgrade_into(database: Database, new_room_id: RoomId) -> RoomUpgrade | None:
    """Return the upgrade that creates, or has created, this room."""
    row = await database.fetchrow(_GET_BY_NEW, new_room_id)
    return None if row is None else RoomUpgrade(**row)


async def begin_upgrade(write: FencedWrite, upgrade: RoomUpgrade) -> bool:
    """Store a new upgrade. Return False while another one of this room is under way."""
    row = await write(BEGIN_UPGRADE, upgrade)
    return bool(row["begun"])


async def move_names(write: FencedWrite, old_room_id: RoomId, new_room_id: RoomId) -> None:
    """Move all aliases of a room, and its place in the directory, to another room."""
    await write(MOVE_NAMES, ReplacedRoom(old_room_id=old_room_id, new_room_id=new_room_id))


async def end_upgrade(write: FencedWrite, upgrade: RoomUpgrade) -> None:
    """Mark an upgrade as finished."""
    record = EndUpgrade(old_room_id=upgrade.old_room_id, new_room_id=upgrade.new_room_id, upgrader=upgrade.upgrader)
    await write(END_UPGRADE, record)


async def drop_upgrade(write: FencedWrite, upgrade: RoomUpgrade) -> None:
    """Forget an upgrade that can never be finished."""
    await write(DROP_UPGRADE, ReplacedRoom(old_room_id=upgrade.old_room_id, new_room_id=upgrade.new_room_id))


async def get_state_contents(
    database: Database, room_id: RoomId, types: Sequence[str], limit: int
) -> list[StateContent]:
    """Return the current state of these types, at most `limit` events.

    Redacted events are left out, and the words of erased users: the copy would be another user's.
    """
    rows = await database.fetch(_STATE, room_id, list(types), limit, list(PERSONAL_TYPES))
    return [
        StateContent(kind, key, content)
        for kind, key, json in rows
        if isinstance(content := orjson.loads(json).get("content"), dict)
    ]


async def get_create_event(database: Database, room_id: RoomId) -> tuple[str, EventId, bytes] | None:
    """Return the room's version, the id of its create event, and that event; None if the room is unknown."""
    row = await database.fetchrow(_CREATE, room_id)
    return None if row is None else (row["room_version"], row["event_id"], row["json"])


async def get_bans(database: Database, room_id: RoomId, limit: int) -> dict[UserId, str | None]:
    """Return user id -> reason of at most `limit` users who are banned from a room.

    Reasons that were redacted, and those of erased users, are left out.
    """
    bans: dict[UserId, str | None] = {}
    for user_id, json in await database.fetch(_BANS, room_id, limit):
        reason = None if json is None else orjson.loads(json)["content"].get("reason")
        bans[user_id] = reason if isinstance(reason, str) else None
    return bans


async def get_local_aliases(database: Database, room_id: RoomId) -> set[str]:
    """Return the aliases of this server that point to a room."""
    return {row["alias"] for row in await database.fetch(_ALIASES, room_id)}


async def remember_settings(database: Database, user_id: UserId, old_room_id: RoomId, new_room_id: RoomId) -> None:
    """Note that a user joins, or is about to join, a room that claims to be the successor of another one."""
    await database.execute(_REMEMBER, user_id, new_room_id, old_room_id)


async def is_successor(database: Database, old_room_id: RoomId, new_room_id: RoomId) -> bool:
    """Return True if the old room itself names the new one. A new room alone could name any old room."""
    row = await database.fetchrow(_IS_SUCCESSOR, old_room_id, new_room_id)
    assert row is not None
    by_us, tombstone = row
    if by_us or tombstone is None:
        return bool(by_us)
    content = orjson.loads(tombstone).get("content")
    return isinstance(content, dict) and content.get("replacement_room") == new_room_id
