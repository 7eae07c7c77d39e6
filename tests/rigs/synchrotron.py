"""A fleet in memory: synchrotrons that follow event persisters, over a bus that can hold messages back.

async with fleet(dsn, synchrotrons=2) as world:
    alice = world.user("alice")
    room_id = await alice.writes.create_room()
    answer = await alice.sync()
"""

import asyncio
import itertools
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import orjson

from replication.streams import ACCOUNT_DATA, EVENTS, PUSH_RULES, RECEIPTS, TYPING
from replication.streams.announcer import Announcer
from replication.streams.fenced_writer import FencedWriter, SeenPositions
from shared.config.sections import Caches
from shared.core.identifiers import EventId, RoomId, UserId
from shared.core.rows import AccountDataRow, PushRulesRow, ReceiptRow, TypingRow
from shared.core.sync_tokens.vector import Vector
from shared.storage.engine.pool import Database, connector
from shared.storage.push.rules import get_push_rules
from tests.rigs.bus import MemoryBus
from tests.rigs.persister import Persister, User, event_persister
from tests.rigs.requests import Answer, ask, bearer, query_of
from tests.rigs.slots import MemorySlots
from tests.rigs.worker import MemoryWorker, WorkerCode, join_fleet, make_config, run_worker
from workers.synchrotron.compose import compose
from workers.synchrotron.endpoints import ENDPOINTS, POOLS

_numbers = itertools.count(1)
_CODE = WorkerCode(type="synchrotron", compose=compose, endpoints=ENDPOINTS, pools=POOLS)


class Synchrotron(MemoryWorker):
    """A running synchrotron."""

    async def get(self, path: str, query: Mapping[str, Any], token: str) -> Answer:
        return await self.call("GET", path, query, token)

    async def call(self, method: str, path: str, query: Mapping[str, Any], token: str, body: bytes = b"") -> Answer:
        return await ask(self.application, method, path, body, query=query_of(query), headers=[bearer(token)])


@dataclass(slots=True)
class World:
    persisters: Sequence[Persister]
    synchrotrons: Sequence[Synchrotron]
    bus: MemoryBus
    database: Database
    announcer: Announcer
    writer: FencedWriter

    def user(self, name: str, device: str = "DEVICE") -> "Client":
        return Client(self, self.persisters[0].user(name, device))

    async def settle(self) -> None:
        """Wait until every synchrotron has applied all events that are stored."""
        rows = await self.database.fetch("SELECT writer, max(position) AS last FROM events GROUP BY writer")
        positions = {row["writer"]: row["last"] for row in rows}
        for process in self.synchrotrons:
            wanted = Vector(max(positions, default=0), 0, positions)
            assert await process.foundation.follower.wait_for(EVENTS, wanted, 10.0)

    async def set_receipt(
        self, room_id: RoomId, user_id: UserId, event_id: EventId, kind: str = "m.read", thread_id: str = ""
    ) -> None:
        row = await self.database.fetchrow(
            """
            INSERT INTO receipts
            SELECT e.room_nid, $3, $4, $5, e.event_id, e.ordinal, 1000, $6, nextval('stream_receipts')
            FROM events e JOIN rooms r USING (room_nid) WHERE r.room_id = $1 AND e.event_id = $2
            ON CONFLICT (room_nid, user_id, kind, thread_id) DO UPDATE
            SET event_id = excluded.event_id, ordinal = excluded.ordinal, position = excluded.position,
                writer = excluded.writer
            RETURNING position, room_nid, ordinal
            """,
            room_id, event_id, user_id, kind, thread_id, self.announcer.lease,
        )  # fmt: skip
        assert row is not None
        self.announcer.announce(
            RECEIPTS,
            [
                ReceiptRow(
                    position=row["position"],
                    writer=self.announcer.lease,
                    room_nid=row["room_nid"],
                    room_id=room_id,
                    user_id=user_id,
                    kind=kind,
                    thread_id=thread_id,
                    event_id=event_id,
                    ordinal=row["ordinal"],
                    ts_ms=1000,
                )
            ],
        )

    async def set_account_data(self, user_id: UserId, room_id: RoomId, event_type: str, content: Any) -> None:
        json = None if content is None else orjson.dumps(content)
        position = await self.database.fetchval(
            """
            INSERT INTO account_data VALUES ($1, $2, $3, $4, $5, nextval('stream_account_data'))
            ON CONFLICT (user_id, room_id, type) DO UPDATE
            SET json = excluded.json, position = excluded.position, writer = excluded.writer
            RETURNING position
            """,
            user_id, room_id, event_type, json, self.announcer.lease,
        )  # fmt: skip
        row = AccountDataRow(
            position=position, writer=self.announcer.lease, user_id=user_id, room_id=room_id, type=event_type, json=json
        )
        self.announcer.announce(ACCOUNT_DATA, [row])
        if (room_id, event_type) == ("", "m.ignored_user_list"):
            stored = await get_push_rules(self.database, user_id)
            await self.set_push_rules(user_id, stored.rules, list((content or {}).get("ignored_users", {})))
            for persister in self.persisters:
                await persister.foundation.follower.read_now(PUSH_RULES)

    async def set_push_rules(self, user_id: UserId, rules: bytes, ignored: Sequence[UserId] = ()) -> None:
        position = await self.database.fetchval(
            """
            INSERT INTO push_rules VALUES ($1, $2, $3, true, '{}', $4, nextval('stream_push_rules'))
            ON CONFLICT (user_id) DO UPDATE
            SET rules = excluded.rules, ignored = excluded.ignored, writer = excluded.writer,
                position = excluded.position
            RETURNING position
            """,
            user_id, rules, list(ignored), self.announcer.lease,
        )  # fmt: skip
        row = PushRulesRow(
            position=position, writer=self.announcer.lease, user_id=user_id, rules=rules, ignored=tuple(ignored)
        )
        self.announcer.announce(PUSH_RULES, [row])

    def set_typing(self, room_id: RoomId, user_id: UserId, until_ms: int) -> None:
        position = self.announcer.next_ephemeral_position(TYPING)
        self.announcer.announce(
            TYPING,
            [
                TypingRow(
                    position=position, writer=self.announcer.lease, room_id=room_id, user_id=user_id, until_ms=until_ms
                )
            ],
        )


@dataclass(slots=True)
class Client:
    """One device. synchrotron: which process serves it."""

    world: World
    writes: User
    synchrotron: int = 0
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def user_id(self) -> UserId:
        return self.writes.user_id

    async def get(self, path: str, **query: Any) -> Answer:
        process = self.world.synchrotrons[self.synchrotron]
        token = f"{self.user_id}|{self.writes.device}"
        return await process.get("/_matrix/client/v3" + path, query, token)

    async def post(self, path: str, body: Any, **query: Any) -> Answer:
        """body: None for none."""
        process = self.world.synchrotrons[self.synchrotron]
        token = f"{self.user_id}|{self.writes.device}"
        encoded = b"" if body is None else orjson.dumps(body)
        return await process.call("POST", "/_matrix/client/v3" + path, query, token, encoded)

    async def sync(self, since: str | None = None, **query: Any) -> Any:
        """GET /sync; the answer's JSON. filter: a dict."""
        if since is not None:
            query["since"] = since
        answer = await self.get("/sync", **query)
        assert answer.status == 200, answer.body
        return answer.json

    async def room(self, room_id: RoomId, path: str, **query: Any) -> Answer:
        return await self.get(f"/rooms/{quote(room_id, safe='')}/{path}", **query)


@asynccontextmanager
async def fleet(
    dsn: str, *, synchrotrons: int = 1, persisters: int = 1, rooms_bytes: int = 1 << 26
) -> AsyncIterator[World]:
    """persisters: rooms are dealt out among them by slot."""
    async with AsyncExitStack() as stack:
        bus = MemoryBus()
        made = []
        for number in range(persisters):
            persister = await stack.enter_async_context(
                event_persister(dsn, takes=lambda slot, number=number: slot % persisters == number)  # type: ignore[misc]
            )
            persister.bus.publish = bus.publish  # type: ignore[method-assign]
            made.append(persister)
        for persister in made:
            persister.router.other = next((other for other in made if other is not persister), None)
        connect = connector(dsn, pgbouncer=False)
        database = Database(connect, max_connections=4)
        stack.push_async_callback(database.close)
        stored = (RECEIPTS, ACCOUNT_DATA, PUSH_RULES)
        sequences = {stream.name: stream.sequence for stream in stored} | {TYPING.name: ""}
        lease = await join_fleet(database, f"client_api-{next(_numbers)}", "client_api", sequences)
        writer = FencedWriter(connect, lease, SeenPositions(), lambda why: None)
        announcer = Announcer(lease, bus, SeenPositions())
        readers = [await stack.enter_async_context(_synchrotron(dsn, bus, rooms_bytes)) for _ in range(synchrotrons)]
        yield World(made, readers, bus, database, announcer, writer)


@asynccontextmanager
async def _synchrotron(dsn: str, bus: MemoryBus, rooms_bytes: int) -> AsyncIterator[Synchrotron]:
    config = make_config(caches=Caches(rooms_bytes=rooms_bytes))
    slots = MemorySlots(reachable=False)
    async with run_worker(
        dsn, _CODE, kind=Synchrotron, config=config, name="synchrotron", bus=bus, slots=slots, connections=6
    ) as running:
        yield running


async def soon(task: "asyncio.Task[Any]") -> None:
    """Let a task run until it waits for something that only the test can bring."""
    for _ in range(50):
        await asyncio.sleep(0.002)
        if task.done():
            return
