"""Members of other servers for a room of ours, without those servers: their joins go straight to the room's owner."""

from urllib.parse import quote

import asyncpg
import orjson

from load.clients import Connection
from load.fleet import Target
from load.made_room import MadeRoom
from load.measure import listed_processes
from shared.config.load import load_config
from shared.core.events import parse_event
from shared.core.identifiers import RoomId, UserId
from shared.core.room_versions import get_room_version
from shared.core.slots import slot_of

_BATCH = 200
_SERVERS = 50


async def let_strangers_join(target: Target, room_id: RoomId, count: int) -> None:
    """Let so many users of other servers join a public room, as a federation reader would hand their joins on."""
    status = target.status()
    assert target.config is not None
    slot = slot_of(room_id)
    name = next(each["owner"] for each in status["slots"]["rooms"] if each["first"] <= slot <= each["last"])
    owner = next(each for each in listed_processes(status) if each.name == name)
    host, _, port = owner.address.rpartition(":")
    connection = Connection(host, int(port), load_config(target.config).secrets.internal_secret.reveal())
    room = await _begun(status["database"], room_id)
    path = f"/_skep/rooms/{quote(room_id, safe='')}/receive"
    for first in range(0, count, _BATCH):
        made = []
        for number in range(first, min(count, first + _BATCH)):
            user_id = UserId(f"@stranger{number}:b{number % _SERVERS}.example")
            content = {"membership": "join", "displayname": f"Stranger {number}"}
            made.append(room.make(user_id, "m.room.member", content, user_id, len(room.line) - 1))
            room.take(made[-1])
        await connection.request("POST", path, {"pdus": [{"pdu": orjson.Fragment(event.encoded)} for event in made]})
    connection.close()


async def _begun(dsn: str, room_id: RoomId) -> MadeRoom:
    database = await asyncpg.connect(dsn, timeout=5)
    try:
        rows = await database.fetch(
            "SELECT json, room_version FROM events JOIN rooms USING (room_nid) WHERE room_id = $1 ORDER BY ordinal",
            room_id,
        )
    finally:
        await database.close()
    version = get_room_version(rows[0]["room_version"])
    return MadeRoom(version, [parse_event(version, orjson.loads(row["json"])) for row in rows])
