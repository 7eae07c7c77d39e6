"""Event persisters in memory. Tokens are user ids: these tests are not about who asks."""

import itertools
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import asyncpg
import orjson

from replication.streams import EVENTS, PUSH_RULES
from shared.config.sections import Config
from shared.core.identifiers import EventId, RoomId, UserId
from tests.rigs.requests import Answer, bearer
from tests.rigs.slots import MemorySlots
from tests.rigs.worker import SERVER, MemoryWorker, WorkerCode, make_config, run_worker
from workers.event_persister.compose import compose
from workers.event_persister.endpoints import ENDPOINTS, POOLS

_numbers = itertools.count(1)
#: Tests write push rules under the lease of a persister.
_CODE = WorkerCode(
    type="event_persister",
    compose=compose,
    endpoints=ENDPOINTS,
    pools=POOLS,
    streams={stream.name: stream.sequence for stream in (EVENTS, PUSH_RULES)},
)


class Persister(MemoryWorker):
    """A running event persister."""

    def user(self, name: str, device: str = "DEVICE") -> "User":
        return User(self, UserId(f"@{name}:{SERVER}"), device)

    async def content(self, room_id: RoomId, event_type: str, state_key: str = "") -> Any:
        """Return the content of the current state as it is stored; None where there is none."""
        rows = await self.sql(
            """SELECT e.json FROM current_state s
               JOIN events e USING (room_nid, event_nid) JOIN rooms r USING (room_nid)
               WHERE r.room_id = $1 AND s.type = $2 AND s.state_key = $3""",
            room_id, event_type, state_key,
        )  # fmt: skip
        return orjson.loads(rows[0]["json"])["content"] if rows else None

    async def timeline(self, room_id: RoomId) -> list[asyncpg.Record]:
        return await self.sql(
            "SELECT e.* FROM events e JOIN rooms r USING (room_nid) WHERE r.room_id = $1 ORDER BY ordinal",
            room_id,
        )


@dataclass(slots=True)
class User:
    persister: Persister
    user_id: UserId
    device: str
    _txn: int = field(default=0)

    async def call(self, method: str, path: str, body: Any = None, *, raw: bytes | None = None) -> Answer:
        """path: below /_matrix/client/v3 unless it begins with "/_"."""
        if not path.startswith("/_"):
            path = "/_matrix/client/v3" + path
        content = raw if raw is not None else (b"" if body is None else orjson.dumps(body))
        return await self.persister.raw(method, path, content, [bearer(f"{self.user_id}|{self.device}")])

    async def create_room(self, **body: Any) -> RoomId:
        answer = await self.call("POST", "/createRoom", body)
        assert answer.status == 200, answer.body
        room_id: RoomId = answer.json["room_id"]
        return room_id

    async def act(self, room_id: RoomId, action: str, body: Mapping[str, Any] | None = None) -> Answer:
        """POST /rooms/{roomId}/{action}"""
        return await self.call("POST", f"/rooms/{quote(room_id, safe='')}/{action}", body or {})

    async def send(self, room_id: RoomId, text: str, txn: str | None = None) -> Answer:
        content = {"msgtype": "m.text", "body": text}
        path = f"/rooms/{quote(room_id, safe='')}/send/m.room.message/{txn or f't{next(_numbers)}'}"
        return await self.call("PUT", path, content)

    async def put_state(
        self, room_id: RoomId, event_type: str, content: Mapping[str, Any], state_key: str = ""
    ) -> Answer:
        key = f"/{quote(state_key, safe='')}" if state_key else ""
        return await self.call("PUT", f"/rooms/{quote(room_id, safe='')}/state/{event_type}{key}", content)

    async def redact(self, room_id: RoomId, event_id: EventId, body: Any = None) -> Answer:
        room, event = quote(room_id, safe=""), quote(event_id, safe="")
        return await self.call("PUT", f"/rooms/{room}/redact/{event}/t{next(_numbers)}", body or {})


@asynccontextmanager
async def event_persister(
    dsn: str, *, takes: Callable[[int], bool] = lambda slot: True, config: Config | None = None
) -> AsyncIterator[Persister]:
    """takes: the slots of rooms that this one owns."""
    async with run_worker(
        dsn, _CODE, config=config or make_config(), slots=MemorySlots(takes), kind=Persister
    ) as persister:
        yield persister
