"""The owner of a room, called as other workers of the fleet call it."""

from collections import Counter
from collections.abc import Sequence

import asyncpg
import orjson

from load.harness.clients import Connection
from load.harness.fleet import Target
from load.harness.generated_room import GeneratedRoom
from load.harness.measure import Process, listed_processes
from replication.calls.rooms import RECEIVE_EVENTS
from shared.config.load import load_config
from shared.core.events import Event, parse_event
from shared.core.identifiers import RoomId
from shared.core.room_versions import get_room_version
from shared.core.slots import slot_of


class RoomOwner:
    """The event persister that owns a room. It must run on this machine."""

    def __init__(self, target: Target, room_id: RoomId) -> None:
        status, slot = target.status(), slot_of(room_id)
        name = next(each["owner"] for each in status["slots"]["rooms"] if each["first"] <= slot <= each["last"])
        self.process: Process = next(each for each in listed_processes(status) if each.name == name)
        assert target.config is not None
        secret = load_config(target.config).secrets.internal_secret.reveal()
        host, _, port = self.process.address.rpartition(":")
        self._connection = Connection(host, int(port), secret)
        self._path = RECEIVE_EVENTS.path_for(room_id)

    async def receive(self, events: Sequence[Event]) -> Counter[str]:
        """Give events to the owner as a federation reader does. Return the number of each outcome.

        Raises RequestFailed.
        """
        body = {"pdus": [{"event_id": event.event_id, "pdu": orjson.Fragment(event.encoded)} for event in events]}
        answer = await self._connection.request(RECEIVE_EVENTS.method, self._path, body)
        return Counter(result["outcome"] for result in answer["results"].values())

    def close(self) -> None:
        self._connection.close()


async def read_room(dsn: str, room_id: RoomId) -> GeneratedRoom:
    """Return a stored room without branches, so that events can be generated for it."""
    database = await asyncpg.connect(dsn, timeout=5)
    try:
        rows = await database.fetch(
            "SELECT json, room_version FROM events JOIN rooms USING (room_nid) WHERE room_id = $1 ORDER BY ordinal",
            room_id,
        )
    finally:
        await database.close()
    version = get_room_version(rows[0]["room_version"])
    return GeneratedRoom(version, [parse_event(version, row["json"]) for row in rows])
